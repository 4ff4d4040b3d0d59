"""Rows that are trained on in a second, beside the Trainer of transformers and a loop in plain PyTorch.

    python benchmarks/training.py [--steps 20] [--repeats 5] [--threads 2]

All begin with the same weights and take the same steps on the same rows: forward, backward, clipping, AdamW,
schedule. worldfast makes its rows as it goes, the others find theirs tokenised, the plain loop also padded. An
error is the largest difference of any step's loss from the plain loop's in float64. The limit is the steps'
matrix products, of real tokens alone; worldfast needs fewer, since it shares what rows begin with and its
last layer computes scored tokens alone. Peers in bfloat16 on a processor without its instructions are left out
where they would take minutes. --quick traces what torch.compile sees but does not compile it.
"""

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from attention import rotate, rotation
from harness import CORES, Contestant, Unit, arguments, emulated, multiplying, run, said, threads
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import worldfast as wf
from worldfast.models import TransformerSpec
from worldfast.models.huggingface import LONGEST, huggingface_config
from worldfast.models.transformer import Block, Weights, views
from worldfast.rows import Rows
from worldfast.training.step import Lockstep, Tally
from worldfast.worlds import cities
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.tokens import PAD

ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
IGNORED = -100  # a label of transformers


# ---- worldfast ----


class Together:
    """Runs in an ensemble: the loop of worldfast.training.train without its files. A call begins anew."""

    def __init__(self, runs: list[wf.Run], steps: int, threads: int):
        self.steps = steps
        first = runs[0]
        self.ensemble = first.model.build(first.shape, len(runs), threads=threads, matmul_dtype=first.matmul_dtype)
        self.lockstep = Lockstep(self.ensemble, runs)
        for member, of_member in enumerate(runs):
            self.ensemble.initialise(member, of_member.seed)
        self.start = self.ensemble.parameters.clone()

    def __call__(self) -> np.ndarray:
        """The losses [M, steps]."""
        self.ensemble.parameters.copy_(self.start)
        self.lockstep.moments.zero_()
        for member in range(self.ensemble.members):
            self.lockstep.resume(member, Tally(0, 0.0, 0, False))
        return np.transpose([self._step() for _ in range(self.steps)])

    def _step(self) -> list[float]:
        members = range(self.ensemble.members)
        for member in members:
            self.lockstep.clear(member)
        self.lockstep.step(members)
        return [self.lockstep.read(member).loss for member in members]


# ---- plain PyTorch ----


class Padded(NamedTuple):
    """Rows of one model, padded to the longest. `scored` are positions in the flattened rectangle."""

    tokens: Tensor  # int64 [R, T]
    scored: Tensor  # int64 [K]
    targets: Tensor  # int64 [K]


def padded(rows: Rows) -> Padded:
    lengths = rows.row_start.diff()  # [R]
    tokens = pad_sequence(rows.inputs.long().split(lengths.tolist()), batch_first=True, padding_value=PAD)
    real = torch.arange(tokens.shape[1]) < lengths[:, None]  # [R, T]
    scored = real.flatten().nonzero()[rows.scored, 0]
    for counted in (scored, rows.targets):
        torch._dynamo.mark_dynamic(counted, 0)  # compiled once for any K
    return Padded(tokens, scored, rows.targets)


def plain_loss(spec: TransformerSpec, w: Weights, tokens: Tensor, scored: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy of a Qwen2; causal attention lets no real token see the padding behind it."""

    def norm(x, weight):
        return F.rms_norm(x, weight.shape, weight, spec.norm_eps)

    x = F.embedding(tokens, w.embed)  # [R, T, D]
    for block in w.blocks:
        qkv = F.linear(norm(x, block.input_norm), block.qkv, block.qkv_bias)
        q, k, v = qkv.unflatten(-1, (3, spec.heads, -1)).permute(2, 0, 3, 1, 4)  # [R, heads, T, D / heads]
        turn = rotation(torch.arange(tokens.shape[1], device=tokens.device), q.shape[-1], q.dtype, spec.rope_base)
        mixed = F.scaled_dot_product_attention(rotate(q, *turn), rotate(k, *turn), v, is_causal=True)
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), block.output)
        gate, up = F.linear(norm(x, block.mlp_norm), block.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, block.down)
    final = norm(x.flatten(0, 1)[scored], w.norm)  # [K, D]
    return F.cross_entropy(F.linear(final, w.head), targets)


class Plain:
    """One run in a loop of plain PyTorch. A call begins anew.

    start      the first weights
    dtype      of the weights
    matmul_dtype   torch.bfloat16: with autocast
    """

    def __init__(
        self,
        run: wf.Run,
        start: Weights,
        batches: list[Padded],
        loss=plain_loss,
        dtype=torch.float32,
        matmul_dtype=torch.float32,
    ):
        self.run, self.start, self.batches, self.loss = run, start, batches, loss
        self.dtype, self.matmul_dtype = dtype, matmul_dtype

    def __call__(self) -> np.ndarray:
        """The losses [1, steps]."""

        def copy(x):
            return x.to(self.dtype, copy=True).requires_grad_()

        blocks = tuple(Block(*map(copy, block)) for block in self.start.blocks)
        weights = Weights(copy(self.start.embed), blocks, copy(self.start.norm), copy(self.start.head))
        parameters = list(weights.each())
        adamw, schedule = optimizer(self.run, parameters)
        losses = []
        for batch in self.batches:
            place = batch.tokens.device.type
            with torch.autocast(place, torch.bfloat16, enabled=self.matmul_dtype == torch.bfloat16):
                loss = self.loss(self.run.model, weights, *batch)
            adamw.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.run.clip)
            adamw.step()
            schedule.step()
            losses.append(loss.item())
        return np.array([losses])


def optimizer(run: wf.Run, parameters):
    """AdamW and the schedule of a run."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim == 2], "weight_decay": run.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, run.learning_rate, run.betas, run.eps, fused=True)
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: run.learning_rate_at(step) / run.learning_rate)


# ---- transformers ----


def qwen2(spec: TransformerSpec, vocabulary: int):
    """A Qwen2ForCausalLM of this shape. ModuleNotFoundError where transformers is not installed."""
    import transformers

    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**huggingface_config(spec, vocabulary, LONGEST)))


def with_trainer(run: wf.Run, start: dict[str, Tensor], steps: int, folder: Path, matmul_dtype: torch.dtype):
    """One run by the Trainer of transformers: a callable that begins anew and returns the losses [1, steps]."""
    import transformers

    model = qwen2(run.model, len(start["model.embed_tokens.weight"]))
    options = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=run.batch,
        max_steps=steps,
        max_grad_norm=run.clip,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    stream, dataset = run.stream(), []
    for packed in (stream.pack(*run.rows_at(step)) for step in range(steps)):
        rows = np.split(packed.tokens.astype(np.int64), packed.row_start[1:-1])
        dataset += [{"input_ids": torch.from_numpy(row)} for row in rows]

    def collate(rows):
        rows = [row["input_ids"] for row in rows]
        labels = pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        mask = (labels != IGNORED).long()
        labels[:, 0] = IGNORED  # predicted by nothing, but the mean would count it
        tokens = pad_sequence(rows, batch_first=True, padding_value=PAD)
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args, **kwargs):
            # not by the option bf16: accelerate has one precision a process
            with torch.autocast("cpu", torch.bfloat16, enabled=matmul_dtype == torch.bfloat16):
                loss = super().compute_loss(*args, **kwargs)
            losses.append(loss.item())
            return loss

    losses = []

    def train():
        losses.clear()
        model.load_state_dict(start)
        optimizers = optimizer(run, model.parameters())
        trainer = InOrder(model, options, collate, train_dataset=dataset, optimizers=optimizers)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return np.array([losses])

    return train


# ---- the cases ----


def rows_of(run: wf.Run, steps: int) -> list[Rows]:
    """The rows of a run's first steps."""
    stream = run.stream()
    return [stream.batch(*run.rows_at(step)) for step in range(steps)]


def trainer_is_installed() -> bool:
    """False, which is said, where it is not."""
    missing = [name for name in ("transformers", "accelerate") if not importlib.util.find_spec(name)]
    for name in missing:
        print(f"{name} is not installed, the Trainer left out: pip install '.[peers]'")
    return not missing


def operations(spec: TransformerSpec, batches: list[Rows], outputs: int) -> int:
    """Additions and multiplications in the products of forward (2 for each pair of numbers) and backward (4)."""
    D, products = spec.hidden, 0
    for rows in batches:
        lengths = rows.row_start.diff().long()
        seen = int((lengths * (lengths + 1) // 2).sum())  # pairs of query and key
        block = len(rows.inputs) * (4 * D * D + 3 * D * spec.intermediate) + 2 * D * seen
        products += spec.layers * block + len(rows.scored) * D * outputs
    return 6 * products


def contestants(runs: list[wf.Run], steps: int, threads: int, folder: Path, compiled) -> list[Contestant]:
    """Those of a case. The plain loop and the Trainer take the first run, for all of them one after another.

    compiled   `plain_loss` after torch.compile
    """
    together = Together(runs, steps, threads)
    first = runs[0]
    starts = [views(first.model.shapes(first.shape), member) for member in together.start]
    huggingface = together.ensemble.to_huggingface(0)
    batches = [rows_of(run, steps) for run in runs]
    rectangles = [list(map(padded, of_run)) for of_run in batches]
    in_turn = zip(runs, starts, rectangles, strict=True)
    with said("the reference, plain PyTorch, float64"):
        exact = np.concatenate([Plain(*one, dtype=torch.float64)() for one in in_turn])  # [M, steps]
    total = sum(operations(first.model, of_run, together.ensemble.shape.outputs) for of_run in batches)

    def error(losses):
        return np.abs(losses - exact[: len(losses)]).max()

    single = multiplying(total, torch.float32)
    limits = {dtype: (single,) for dtype in ALLOWED}
    if not emulated(torch.bfloat16):
        limits[torch.bfloat16] = (multiplying(total, torch.bfloat16),)
    halves = [replace(run, matmul_dtype="bfloat16") for run in runs]
    ours = {torch.float32: together, torch.bfloat16: Together(halves, steps, threads)}
    found = [
        Contestant(f"worldfast, {name_of(dtype)}", train, error, ALLOWED[dtype], limits=limits[dtype])
        for dtype, train in ours.items()
    ]
    for dtype, allowed in ALLOWED.items():
        others = {
            "plain PyTorch": Plain(first, starts[0], rectangles[0], matmul_dtype=dtype),
            "plain PyTorch, torch.compile": Plain(first, starts[0], rectangles[0], compiled, matmul_dtype=dtype),
        }
        if len(runs) == 1 and trainer_is_installed():
            others["transformers Trainer"] = with_trainer(first, huggingface, steps, folder, dtype)
        # Products that are emulated take so long that all else does not matter: the same for all of these.
        step = Plain(first, starts[0], rectangles[0][:1], matmul_dtype=dtype) if emulated(dtype) else None
        for name, train in others.items():
            name += f", {name_of(dtype)}"
            found.append(Contestant(name, train, error, allowed, len(runs), limits[dtype], step, steps))
    return found


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main():
    parser = arguments(__doc__, repeats=5, threads=[CORES])
    parser.add_argument("--steps", type=int, default=20, help="steps of a measurement")
    options = parser.parse_args()
    demo = cities.demo().runs[2]
    cases = {
        "paper shape": [wf.Run(Dataset(tuple(wf.TASKS)))],
        "eight demo-shaped models": [replace(demo, seed=seed) for seed in range(8)],
    }
    steps = 3 if options.quick else options.steps
    compiled = torch.compile(plain_loss, backend="eager" if options.quick else "inductor")
    for count in options.threads:
        for name, runs in cases.items():
            if options.quick:
                shape = dict(layers=1, hidden=64, heads=2, intermediate=128)
                runs = [replace(run, batch=8, model=replace(run.model, **shape)) for run in runs]
            case = f"{name}, batches of {runs[0].batch}, {steps} steps, {count} threads"
            rows = steps * sum(run.batch for run in runs)
            unit = Unit("rows/s", lambda seconds, rows=rows: rows / seconds)
            with threads(count), tempfile.TemporaryDirectory() as folder:
                found = contestants(runs, steps, count, Path(folder), compiled)
                run("training", case, found, options, unit)


if __name__ == "__main__":
    main()

"""Training on a GPU: the CPU's steps, the same bits twice and after an interruption, then how fast, and why
not faster.

Agreement is with worldfast's CPU ensemble in float32, whose tests hold it to float64: weights after 20 steps,
by how far they moved. Then 1, 8 and 32 models of the paper's shape in bfloat16, and their answers; the limits are
the products of real tokens at the rate of a large product, and the bytes that the kernels must move at the rate of
a large copy.
"""

import time

import gpu_device
import numpy as np
import torch
from evaluation import LONGEST, generate, huggingface
from gpu_part import require
from harness import Contestant, Unit, copying, multiplying, run_on_device
from training import Padded, Plain, operations, padded, plain_loss, rows_of

import worldfast as wf
from worldfast.doctor import examine
from worldfast.models import GpuTransformer, TransformerSpec
from worldfast.models.buffer import buffer_size
from worldfast.models.transformer import views
from worldfast.training.gpu_step import GpuLockstep
from worldfast.training.step import Lockstep
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.tokens import EOS

GPU = gpu_device.DEVICE
DEVICE = GPU.place
PUBLISHED_STEPS = 328_128  # of a model of seven tasks: 42 million rows
STEPS = 20  # of an agreement
READ_ALLOWED = 1e-4  # of the size of what is read or learned in float32 on the CPU
# how far weights may be from those of the CPU in float32, and a member's from its own alone: of how far they
# moved
ALLOWED = {"float32": (1e-3, 1e-3), "bfloat16": (0.15, 0.1)}


# ---- agreement ----


def lockstep_of(runs, device):
    """The runs' first weights, and what trains them."""
    first = runs[0]
    if device == "cpu":
        ensemble = first.model.build(first.shape, len(runs), matmul_dtype=first.matmul_dtype)
        lockstep = Lockstep(ensemble, runs)
    else:
        place = "cpu" if DEVICE == "cpu" else device
        ensemble = GpuTransformer(first.model, first.shape, len(runs), device=place, matmul_dtype=first.matmul_dtype)
        lockstep = GpuLockstep(ensemble, runs)
    for member, run in enumerate(runs):
        lockstep.ensemble.initialise(member, run.seed)
    return lockstep


def take(lockstep, steps):
    """The weights [M, P] after so many more steps, on the CPU, and the members' tallies."""
    members = range(len(lockstep.runs))
    for _ in range(steps):
        lockstep.step(list(members))
    tallies = [lockstep.read(m) for m in members]
    return lockstep.ensemble.parameters.cpu().clone(), tallies


def verify_training(runs, steps=STEPS):
    """Faults found; the errors of weights by how far they moved: beside the CPU, and of the first run
    alone."""
    matmul_dtype = runs[0].matmul_dtype
    start = lockstep_of(runs, "cpu").ensemble.parameters.clone()
    plain = [wf.Run.from_json(run.to_json() | {"matmul_dtype": "float32"}) for run in runs]
    expected, tallies = take(lockstep_of(plain, "cpu"), steps)
    found, ours = take(lockstep_of(runs, DEVICE + ":0"), steps)
    again, _ = take(lockstep_of(runs, DEVICE + ":0"), steps)
    alone, _ = take(lockstep_of(runs[:1], DEVICE + ":0"), steps)
    before = lockstep_of(runs, DEVICE + ":0")
    take(before, steps // 2)
    after = lockstep_of(runs, DEVICE + ":0")
    for m in range(len(runs)):
        for name, tensor in after.tensors(m).items():
            tensor.copy_(before.tensors(m)[name])
        after.resume(m, before.read(m))
    resumed, _ = take(after, steps - steps // 2)
    moved = (expected - start).norm(dim=1)
    beside = float(((found - expected).norm(dim=1) / moved).max())
    apart = float((alone[0] - found[0]).norm() / moved[0])
    faults = []
    for what, value, allowed in zip(("the CPU", "itself alone"), (beside, apart), ALLOWED[matmul_dtype]):
        if not value <= allowed:
            faults.append(f"weights differ from those of {what} by {value:.1e} of how far they moved")
    for mine, right in zip(ours, tallies):
        if not abs(mine.loss - right.loss) <= (1e-4 if matmul_dtype == "float32" else 2e-2) * right.loss:
            faults.append(f"a loss of {mine.loss / steps:.4f}, on the CPU {right.loss / steps:.4f}")
        if mine.step != steps:
            faults.append(f"{mine.step} steps were taken, {steps} asked for")
    if not torch.equal(found, again):
        faults.append("two runs differ")
    if not torch.equal(found, resumed):
        faults.append("going on from a checkpoint differs")
    return faults, beside, apart


def far(found, expected):
    """Relative distance of numbers from those of the CPU."""
    return float((found.cpu() - expected).norm() / expected.norm())


def verify_reading(run):
    """Raise an AssertionError where outputs, states of a layer, a loss or gradients in float32 are not the CPU's."""
    [rows] = rows_of(run, 1)
    cpu, gpu = (lockstep_of([run], device).ensemble for device in ("cpu", DEVICE + ":0"))
    layers = range(run.model.layers + 1)
    pairs = {"outputs": (gpu.outputs(rows, 0), cpu.outputs(rows, 0))}
    for layer, *both in zip(layers, gpu.states(rows, 0, layers), cpu.states(rows, 0, layers), strict=True):
        pairs[f"states of layer {layer}"] = both
    pairs["the loss"] = gpu.learn([rows], [0]), cpu.learn([rows], [0])
    pairs["gradients"] = gpu.gradients[0], cpu.gradients[0]
    errors = {what: far(*both) for what, both in pairs.items()}
    print(f"reading and learning: at most {max(errors.values()):.1e} from the CPU's", flush=True)
    require([f"{what}: {error:.1e} from the CPU's" for what, error in errors.items() if not error <= READ_ALLOWED])


def verify_installation():
    """AssertionError with what `worldfast doctor` finds wrong; all of its lines are printed."""
    lines = list(examine())
    print("\n".join(lines), flush=True)
    wrong = [line for line in lines if line.startswith("DISAGREES")]
    if not GPU.dry and not any(line.startswith("kernels on cuda") for line in lines):
        wrong += [line for line in lines if line.startswith("cuda: ")]
    require(wrong)


TINY = dict(hidden=16, layers=1, heads=2, intermediate=24)


def tiny_cases():
    """The same, of a size that an interpreter gets through."""
    yield (
        "tiny, bfloat16",
        [
            wf.Run(
                Dataset("distance", rows=4), model=TransformerSpec(**TINY), matmul_dtype="bfloat16", batch=2, warmup=0
            )
        ],
    )


def cases():
    """Runs that are verified, by name: the fused kernels and the general ones."""
    all_tasks = tuple(wf.TASKS)
    other = dict(data=Dataset(("inside",), loss="answer"), seed=7, batch=96)
    for matmul_dtype in ALLOWED:
        run = wf.Run(Dataset(all_tasks), seed=1, matmul_dtype=matmul_dtype, warmup=5)
        yield f"paper shape, {matmul_dtype}", [run, wf.Run(**other, matmul_dtype=matmul_dtype, warmup=5)]
    wide = TransformerSpec(hidden=256, layers=2, heads=8, intermediate=1024)
    yield (
        "256 wide, bfloat16",
        [wf.Run(Dataset(all_tasks), seed=s, model=wide, matmul_dtype="bfloat16", warmup=5) for s in (1, 2)],
    )
    demo = dict(model=TransformerSpec(hidden=64, layers=2, heads=8, intermediate=256, outputs=98))
    demo |= dict(data=Dataset(all_tasks, vocabulary="entity", loss="answer"), matmul_dtype="bfloat16", warmup=5)
    yield "demo shape, bfloat16", [wf.Run(seed=s, **demo) for s in (1, 2)]


# ---- speed ----


def bytes_moved(spec, tokens, outputs, parameters, members):
    """Least bytes that a step of the fused kernels moves: see worldfast.kernels.fused, attention, loss,
    optimizer."""
    D, F = spec.hidden, spec.intermediate
    of_token = spec.layers * (102 * D + 12 * F) + 20 * D + 14 * outputs
    return tokens * of_token + members * parameters * 42


def runs_of(members, tiny):
    if tiny:
        some = dict(data=Dataset("distance", rows=64), model=TransformerSpec(**TINY), batch=4)
        return [wf.Run(**some, seed=seed, matmul_dtype="bfloat16") for seed in range(members)]
    return [wf.Run(Dataset(tuple(wf.TASKS)), seed=seed, matmul_dtype="bfloat16") for seed in range(members)]


def limits_of(runs, lockstep, steps):
    """Operations of products of real tokens, and bytes of the kernels, of so many steps."""
    spec, outputs, members = runs[0].model, lockstep.ensemble.shape.outputs, len(runs)
    batches = [rows_of(run, 8) for run in runs[:4]]
    total = sum(operations(spec, of_run, outputs) for of_run in batches) / 8 / len(batches)
    tokens = np.mean([len(rows.inputs) for of_run in batches for rows in of_run])
    P = buffer_size(spec.shapes(runs[0].shape).each())
    moved = bytes_moved(spec, tokens * members, outputs, P, members)
    return multiplying(total * members * steps, torch.bfloat16, DEVICE), copying(moved * steps, DEVICE)


def case_of(runs, steps):
    spec = runs[0].model
    shape = "the paper's shape" if spec == TransformerSpec() else f"{spec.layers} layers of {spec.hidden}"
    return f"{len(runs)} models of {shape}, batches of {runs[0].batch}, {steps} steps"


def time_training(part, members, steps):
    """Steps a second of so many models, its limits, a profile."""
    runs = runs_of(members, part.dry)
    begun = time.perf_counter()
    lockstep = lockstep_of(runs, DEVICE + ":0")
    take(lockstep, steps)
    print(
        f"\n{members} models: {steps} steps, what is compiled and recorded among them: "
        f"{time.perf_counter() - begun:.0f} s",
        flush=True,
    )

    def run():
        for _ in range(steps):
            lockstep.step(list(range(members)))

    unit = Unit("steps/s", lambda seconds: steps / seconds)
    contestant = Contestant("worldfast, bfloat16", run, limits=limits_of(runs, lockstep, steps))
    first, *_ = run_on_device("training", case_of(runs, steps), [contestant], part.out, unit, repeats=5)
    assert not any(lockstep.read(m).diverged for m in range(members)), "a model diverged"
    each = PUBLISHED_STEPS / first.median / members
    if not part.dry:
        print(f"{each:.1f} s a model for 42 million rows; at most {GPU.peak_memory() / 2**30:.1f} GiB")
    profile(run, part.out / f"training-profile-{members}.txt", steps)


class Moved(Plain):
    """The plain loop with weights and rows on the device."""

    def __init__(self, run, start, batches, loss, **precision):
        start = type(start)(
            *(
                tuple(type(block)(*(x.to(DEVICE) for x in block)) for block in part)
                if isinstance(part, tuple)
                else part.to(DEVICE)
                for part in start
            )
        )
        super().__init__(run, start, [Padded(*(x.to(DEVICE) for x in batch)) for batch in batches], loss, **precision)


def time_beside(part, members, steps):
    """Losses and times of plain PyTorch, one model after the other, beside ours of the same steps."""
    runs = runs_of(members, part.dry)
    lockstep = lockstep_of(runs, DEVICE + ":0")
    start = views(runs[0].model.shapes(runs[0].shape), lockstep.ensemble.parameters[0].cpu().clone())
    rectangles = [padded(rows) for rows in rows_of(runs[0], steps)]
    exact = Moved(runs[0], start, rectangles, plain_loss, matmul_dtype=torch.float32)()
    limits = limits_of(runs, lockstep, steps)

    def ours():
        for m in range(members):
            lockstep.clear(m)
        for _ in range(steps):
            lockstep.step(list(range(members)))

    take(lockstep, steps)
    found = [Contestant("worldfast, bfloat16", ours, limits=limits)]
    for name, loss in (
        ("plain PyTorch", plain_loss),
        ("plain PyTorch, torch.compile", plain_loss if part.dry else torch.compile(plain_loss, dynamic=True)),
    ):
        plain = Moved(runs[0], start, rectangles, loss, matmul_dtype=torch.bfloat16)
        apart = lambda losses: np.abs(losses - exact).max()  # noqa: E731
        found.append(Contestant(f"{name}, bfloat16, one after another", plain, apart, 2e-2, members, limits))
    unit = Unit("steps/s", lambda seconds: steps / seconds)
    run_on_device("training", case_of(runs, steps) + ", beside peers", found, part.out, unit, repeats=3)


def profile(run, path, steps):
    """Report the device's time by kernel: all of it to a file, the largest to the screen."""
    kernels = GPU.kernels(run)
    lines = [f"{'us/step':>10}{'calls/step':>12}  kernel"]
    for name, (count, spent) in sorted(kernels.items(), key=lambda item: -item[1][1]):
        lines.append(f"{spent / steps:10.1f}{count / steps:12.1f}  {name}")
    path.write_text("\n".join(lines))
    print("\n".join(line[:110] for line in lines[:16]), flush=True)


# ---- answers ----


class Answering:
    """Models that have learned a little, and two of the fourteen test sets: of the shortest and the longest rows."""

    def __init__(self, part, members=32, rows=10_000, steps=300):
        if part.dry:
            members, rows, steps = 1, 2, 1
        runs = runs_of(members, part.dry)
        lockstep = lockstep_of(runs, DEVICE + ":0")
        with GPU.results_unread():
            take(lockstep, steps)
        self.ensemble, self.rows = lockstep.ensemble, rows
        world = wf.World.cities().with_atlantis(n=100, seed=42)
        tasks = ("distance",) if part.dry else ("distance", "inside")
        self.sets = [wf.sample(world, task, rows, split="test") for task in tasks]
        self.prompts = [[(batch.tokens, batch.answer_start)] * members for batch in self.sets]

    @property
    def case(self):
        return f"answers to 14 sets of {self.rows:,} prompts, {self.ensemble.members} models"

    def contestant(self):
        ensemble, spec = self.ensemble, self.ensemble.spec
        tokens = sum(int(batch.answer_start.sum()) for batch in self.sets)
        tokens += len(self.sets) * self.rows * (LONGEST - 1)
        products = 2 * (spec.parameters(ensemble.shape) - ensemble.shape.inputs * spec.hidden) * tokens

        def run():
            for one in self.prompts:
                ensemble.answer(one, LONGEST, end=EOS)

        limits = (multiplying(7 * products * ensemble.members, torch.bfloat16, DEVICE),)
        return Contestant("worldfast, bfloat16", run, times=7, limits=limits)

    def compare_with_cpu(self, checked=200, longest=LONGEST):
        ensemble, part = self.ensemble, slice(0, checked)
        plain = ensemble.spec.build(ensemble.shape)
        plain.parameters.copy_(ensemble.parameters[:1].cpu())
        for (tokens, length), *_ in self.prompts:
            [ours] = ensemble.answer([(tokens[part], length[part])], longest, [0], end=EOS)
            [theirs] = plain.answer([(tokens[part], length[part])], longest, end=EOS)
            agree = np.mean([np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)])
            print(f"answers that are those of float32 on the CPU: {agree:.1%}", flush=True)
            assert agree >= 0.7, f"{agree:.1%} of the answers are the CPU's"  # digits not learned yet are close

    def time(self, out):
        seconds = Unit("s", lambda seconds: seconds)
        run_on_device("evaluation", self.case, [self.contestant()], out, seconds, repeats=1)

    def time_beside(self, out, sample=512):
        """Beside transformers' generate, which answers a sample of one model's prompts."""
        model = huggingface(self.ensemble)
        if model is None:
            return
        model, sample = model.to(DEVICE), min(sample, self.rows)
        model = model.half() if GPU.dry else model.bfloat16()

        def theirs():
            for batch in self.sets:
                generate(model, batch, sample, sample)

        ours = self.contestant()
        times = 7 * self.ensemble.members * self.rows / sample
        peer = Contestant(f"transformers generate, {sample} rows at a time", theirs, times=times, limits=ours.limits)
        seconds = Unit("s", lambda seconds: seconds)
        run_on_device("evaluation", f"{self.case}, beside peers", [ours, peer], out, seconds, repeats=1)


# ---- the parts ----


def verify_case(name, runs, steps):
    """AssertionError where there are faults."""
    begun = time.perf_counter()
    faults, beside, apart = verify_training(runs, steps)
    print(
        f"{name}: weights {beside:.1e} from the CPU's, {apart:.1e} from those alone, of how far they moved; "
        f"{time.perf_counter() - begun:.0f} s",
        flush=True,
    )
    require(faults)


def sizes(part):
    """(models, steps) that are timed."""
    return ((1, 2), (2, 2)) if part.dry else ((1, 256), (8, 128), (32, 64))


def training(part):
    """Faults, then times of ours alone."""
    part.agrees("worldfast doctor", verify_installation)
    for name, runs in tiny_cases() if part.dry else cases():
        if (shape := name.removesuffix(", bfloat16")) != name:  # of each shape once
            run = wf.Run.from_json(runs[0].to_json() | {"matmul_dtype": "float32"})
            part.agrees(f"reading and learning, {shape}", verify_reading, run)
        part.agrees(name, verify_case, name, runs, 2 if part.dry else STEPS)
    with GPU.results_unread():
        for members, steps in sizes(part):
            part.case(f"times of {members} models", time_training, part, members, steps)


def answering(part):
    """Compare with the CPU's answers, then time ours alone."""
    models = part.anew("models that have learned a little", Answering, part)
    if models:
        part.case("answers of the CPU", models.compare_with_cpu, *((1, 2) if part.dry else ()))
        with GPU.results_unread():
            part.case("times of answers", models.time, part.out)


def training_peers(part):
    """Times beside plain PyTorch's and transformers'."""
    with GPU.results_unread():
        for members, steps in sizes(part):
            part.case(f"training peers of {members} models", time_beside, part, members, min(steps, 32))
        models = part.anew("models for peers that answer", Answering, part)
        if models:
            part.case("peers that answer", models.time_beside, part.out)

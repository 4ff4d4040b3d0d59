"""Greedy answers to the fourteen test sets of one model of the paper's shape, beside transformers' generate.

    python benchmarks/evaluation.py [--rows 10000] [--sample 512] [--batch 64 256 1024] [--threads 2]

Sets are seven tasks, each on rows without Atlantis and on rows with it. The model has learned for some hundred
steps, enough to answer in the form that is asked for and not yet right. The peer answers a sample of each set,
sorted by length so that little is padded, at several batch sizes, in float32 and in bfloat16. An error is the
share of answers that are not those of float64. The limit is the products of the tokens that differ. A peer in
bfloat16 on a processor without its instructions is left out where it would take minutes.
"""

import copy
import tempfile

import numpy as np
import torch
from harness import CORES, Contestant, Unit, arguments, emulated, multiplying, run, said, threads
from training import qwen2

import worldfast as wf
from worldfast.capture import Capture
from worldfast.models.decoding import share
from worldfast.training import load
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.evaluate import decode
from worldfast.worlds.cities.tokens import EOS, PAD

SECONDS = Unit("s", lambda seconds: seconds)
LONGEST = 8  # tokens of an answer, with its <eos>
ALLOWED = {"float32": 0.005, "bfloat16": 0.5}  # digits that are not learned yet are decided narrowly
CHECKED = 64  # rows of each set that are compared
PART = 8  # rows of one set, from which the time of all is estimated


def test_sets(rows):
    world = wf.World.cities().with_atlantis(n=100, seed=42)
    standard, atlantis = {"among": "region != 'Atlantis'"}, {"must_include": "region == 'Atlantis'"}
    return [
        wf.sample(world, task, rows, split="test", **cities) for task in wf.TASKS for cities in (standard, atlantis)
    ]


def trained(spec, steps, threads):
    """An ensemble of one that has learned all tasks for so many steps."""
    run = wf.Run(
        Dataset(tuple(wf.TASKS), rows=max(1, steps * 128 // 7)),
        model=spec,
        learning_rate=0.001,
        matmul_dtype="bfloat16",
        checkpoints=1,
        capture=Capture(layers=()),
    )
    with tempfile.TemporaryDirectory() as out:
        [folder] = wf.train(run, out, threads=threads)
        return load(folder)[1]


def huggingface(ensemble):
    """The ensemble's first member for transformers; None, which is said, where that is missing."""
    try:
        model = qwen2(ensemble.spec, ensemble.shape.inputs).eval()
    except ModuleNotFoundError:
        print("transformers is not installed and left out: pip install '.[test]'")
        return None
    model.load_state_dict(ensemble.to_huggingface(0))
    return model


@torch.no_grad()
def generate(model, batch, rows, size):
    """Answers to the first `rows` rows, `size` at a time."""
    length, answers = batch.answer_start[:rows], [None] * rows
    for part in np.array_split(np.argsort(length), -(-rows // size)):
        longest = length[part].max()
        prompts = np.full((len(part), longest), PAD)
        for prompt, row in zip(prompts, part):
            prompt[longest - length[row] :] = batch.tokens[row, : length[row]]
        prompts = torch.from_numpy(prompts).to(model.device)
        found = model.generate(prompts, attention_mask=(prompts != PAD).long(), max_new_tokens=LONGEST, do_sample=False)
        for row, tokens in zip(part, found[:, longest:].tolist()):
            answers[row] = tokens[: tokens.index(EOS)] if EOS in tokens else tokens
    return answers


def main():
    parser = arguments(__doc__, repeats=3, threads=[CORES])
    parser.add_argument("--rows", type=int, default=10_000, help="of each test set")
    parser.add_argument("--sample", type=int, default=512, help="rows of each that the peer answers")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 1024], help="the peer's batch sizes")
    parser.add_argument("--steps", type=int, default=600, help="that the model learns first")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.sample, options.batch, options.steps = 10, 5, [5], 3
    rows, sample, checked = options.rows, min(options.sample, options.rows), min(CHECKED, options.sample)
    sets, spec = test_sets(rows), wf.TransformerSpec(layers=6)
    if options.quick:
        sets, spec = sets[-4:], wf.TransformerSpec(layers=1, hidden=64, heads=2, intermediate=128)

    def contestants(count):
        ensemble = trained(spec, options.steps, count)
        model = huggingface(ensemble)
        if model is not None:
            with said("the reference, transformers generate, float64"):
                expected = [generate(model.double(), batch, checked, checked) for batch in sets]
            models = {"float32": model.float(), "bfloat16": copy.deepcopy(model).bfloat16()}
        nodes = sum(
            len(part.tokens) for batch in sets for part in share(batch.tokens, batch.answer_start, ensemble._tile)
        )
        behind_embedding = spec.parameters(ensemble.shape) - ensemble.shape.inputs * spec.hidden
        operations = 2 * behind_embedding * (nodes + len(sets) * rows * (LONGEST - 1))

        def error(found):
            pairs = [pair for of_set in zip(found, expected) for pair in zip(*of_set)]
            return np.mean([list(answer) != exact for answer, exact in pairs])

        def ours(matmul_dtype):
            return [decode(ensemble, 0, batch, LONGEST, matmul_dtype) for batch in sets]

        def theirs(matmul_dtype, size):
            return [generate(models[matmul_dtype], batch, sample, size) for batch in sets]

        single = multiplying(operations, torch.float32)
        half = single if emulated(torch.bfloat16) else multiplying(operations, torch.bfloat16)
        limits = {"float32": (single,), "bfloat16": (half,)}
        check = None if model is None else error
        found = [
            Contestant(
                f"worldfast, {matmul_dtype}",
                lambda matmul_dtype=matmul_dtype: ours(matmul_dtype),
                check,
                allowed,
                limits=limits[matmul_dtype],
            )
            for matmul_dtype, allowed in ALLOWED.items()
        ]
        if model is not None:
            few = min(PART, sample)
            for matmul_dtype, allowed in ALLOWED.items():
                slow = emulated(getattr(torch, matmul_dtype))
                part = (lambda model=models[matmul_dtype]: generate(model, sets[0], few, few)) if slow else None
                found += [
                    Contestant(
                        f"transformers generate, {matmul_dtype}, {size} rows at a time",
                        lambda matmul_dtype=matmul_dtype, size=size: theirs(matmul_dtype, size),
                        check,
                        allowed,
                        rows / sample,
                        limits[matmul_dtype],
                        part,
                        len(sets) * sample / few,
                    )
                    for size in options.batch
                ]
        return found

    for count in options.threads:
        with threads(count):
            case = f"{len(sets)} test sets of {rows} rows, {spec.layers} layers of {spec.hidden}, {count} threads"
            run("evaluation", case, contestants(count), options, SECONDS)


if __name__ == "__main__":
    main()

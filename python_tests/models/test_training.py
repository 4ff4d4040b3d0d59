"""Training takes any family: a run of a recurrent network in cities' characters, and vectors with yes-no answers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models.check import family_of

import worldfast as wf
from worldfast.checkpoint import newest
from worldfast.models.plain import PlainTransformer
from worldfast.models.recurrent import RecurrentSpec
from worldfast.rows import Rows, Shape, Stream
from worldfast.run import Capture
from worldfast.training.step import Lockstep
from worldfast.worlds.cities import Dataset

VECTORS = Shape(3, 2, vectors=True, loss="binary_cross_entropy")
SPECS = {
    "rnn": RecurrentSpec("rnn", hidden=16, nonlinearity="relu"),
    "lstm": RecurrentSpec("lstm", hidden=16),
    "transformer": wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32),
}


class Sides:
    """Rows of 2 to 5 noisy looks at a point: on which side of two lines is it? Row i is a function of (seed, i)."""

    shape, rows, longest = VECTORS, 4000, 5

    def __init__(self, seed):
        self.seed = seed

    def batch(self, start, n):
        looks, answers = [], []
        for i in range(start, start + n):
            random = np.random.Generator(np.random.Philox(key=self.seed, counter=i))
            point = random.normal(size=3)
            looks.append((point + 0.2 * random.normal(size=(random.integers(2, 6), 3))).astype(np.float32))
            answers.append(point[:2] > point[1:])
        ends = np.cumsum([len(x) for x in looks])
        arrays = np.concatenate(looks), np.concatenate([[0], ends]), ends - 1, np.array(answers, dtype=np.float32)
        return Rows(*map(torch.from_numpy, arrays))


def run_of(spec, seed):
    """What the trainer asks of a run."""
    return SimpleNamespace(
        model=spec,
        seed=seed,
        name=f"s{seed}",
        matmul_dtype="float32",
        stream=lambda: Sides(seed),
        rows_at=lambda step: (32 * step, 32),
        learning_rate_at=lambda step: 1e-2,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        eps=1e-8,
        clip=1.0,
    )


def stepped(spec, seeds, steps):
    lockstep = Lockstep(spec.build(VECTORS, len(seeds), threads=2), [run_of(spec, seed) for seed in seeds])
    for member, seed in enumerate(seeds):
        lockstep.ensemble.initialise(member, seed)
    for _ in range(steps):
        lockstep.step(range(len(seeds)))
    return lockstep


@pytest.mark.parametrize("name", SPECS)
def test_vectors_and_yes_no_answers(name):
    """Members learn, each with the bits that it has alone, and go on from copies of their tensors."""
    assert isinstance(Sides(0), Stream)
    spec = SPECS[name]
    together = stepped(spec, (5, 6), 80)
    test = Sides(99).batch(0, 500)
    for member, seed in enumerate((5, 6)):
        right = (together.ensemble.outputs(test, member) > 0) == (test.targets > 0)
        assert right.float().mean() > 0.85
        tensors = {key: x.clone() for key, x in together.tensors(member).items()}
        if member == 0:
            alone = stepped(spec, (seed,), 80)
            assert all(torch.equal(x, tensors[key]) for key, x in alone.tensors(0).items())
        other = stepped(spec, (1, seed), 0)
        for key, x in other.tensors(1).items():
            x.copy_(tensors[key])
        other.resume(1, together.read(member))
        other.step([1])
        together.step([member])
        assert all(torch.equal(x, other.tensors(1)[key]) for key, x in together.tensors(member).items())


def city_run(spec, **options):
    return wf.Run(
        Dataset(("distance", "inside"), rows=96),
        batch=32,
        model=spec,
        checkpoints=2,
        warmup=0,
        learning_rate=1e-2,
        validation=4,
        capture=Capture(layers=(0, 1), readout={"among": "city_id < 40"}),
        **options,
    )


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_a_run_of_cities(name, tmp_path, monkeypatch):
    """It trains, is captured and validated, and a stopped one ends with the bits of one that was not."""
    runs = [city_run(SPECS[name], seed=seed) for seed in (1, 2)]
    folders = wf.train(runs, tmp_path / "whole", device="cpu", progress=False)
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] and any("distance" in str(line) for line in lines)
    found = wf.Activations(folders[0])
    assert list(found.layers) == [0, 1] and np.isfinite(found[found.steps[-1], 1]).all()

    def stop(self, members, step=Lockstep.step):
        if self.read(0).step == 4:
            raise KeyboardInterrupt
        step(self, members)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Lockstep, "step", stop)
        wf.train(runs, tmp_path / "stopped", device="cpu", progress=False)
    again = wf.train(runs, tmp_path / "stopped", device="cpu", progress=False)
    for run, one, other in zip(runs, folders, again):
        a, b = (newest(folder / "checkpoint", run.id) for folder in (one, other))
        assert a.step == b.step == run.steps
        assert all(torch.equal(x, b.tensors[key]) for key, x in a.tensors.items())


def test_the_first_line_says_that_models_are_in_pytorch(tmp_path, capsys):
    spec = replace(SPECS["transformer"], engine="plain")
    wf.train(replace(city_run(spec), validation=0), tmp_path, device="cpu")
    assert "models in PyTorch" in capsys.readouterr().err


@pytest.mark.parametrize("name", SPECS)
def test_memory_is_bounded_from_above(name):
    """What autograd keeps for the backward pass is below the bound, and not far below."""
    shape = Shape(40, 30)
    spec = SPECS[name]
    spec = replace(spec, engine="plain") if name == "transformer" else spec
    ensemble, rows = spec.build(shape), family_of(spec, shape).rows((20,) * 60, scored=2)
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ensemble.learn([rows], [0])
    bound = spec.cpu_bytes(shape, 1200, 1, "float32", 20)
    assert bound.shared / 8 < sum(kept.values()) < bound.shared
    assert bound.member >= 2 * 4 * spec.parameters(shape)
    assert not spec.on_gpu(shape, 20) and isinstance(ensemble, PlainTransformer) == (name == "transformer")

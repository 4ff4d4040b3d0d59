"""Training takes any family: a run of a recurrent network in cities' characters, and vectors with yes-no answers."""

import importlib
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast.capture import Capture
from worldfast.checkpoint import newest
from worldfast.dataset import Dataset, Readout, Score
from worldfast.errors import DeviceError
from worldfast.models.check import family_of
from worldfast.models.plain import PlainTransformer
from worldfast.models.recurrent import RecurrentSpec
from worldfast.rows import Rows, Shape, Stream
from worldfast.training import load
from worldfast.training.step import Lockstep
from worldfast.worlds import cities

VECTORS = Shape(3, 2, vectors=True, loss="binary_cross_entropy")
SPECS = {
    "rnn": RecurrentSpec("rnn", hidden=16, nonlinearity="relu"),
    "lstm": RecurrentSpec("lstm", hidden=16),
    "transformer": wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32),
}


def rows_of(points, looks):
    """Looks at each point; after the last one the answers."""
    ends = np.cumsum([len(x) for x in looks])
    answers = (points[:, :2] > points[:, 1:]).astype(np.float32)
    arrays = np.concatenate(looks).astype(np.float32), np.concatenate([[0], ends]), ends - 1, answers
    return Rows(*map(torch.from_numpy, arrays))


class Looks:
    """Rows of 2 to 5 noisy looks at a point: on which side of two lines is it? Row i is a function of (key, i)."""

    shape, rows, longest = VECTORS, 2560, 5

    def __init__(self, *key):
        self.key = key

    def batch(self, start, n):
        drawn = [np.random.Generator(np.random.Philox(key=self.key, counter=i)) for i in range(start, start + n)]
        points = np.array([random.normal(size=3) for random in drawn])
        return rows_of(
            points, [p + 0.2 * random.normal(size=(random.integers(2, 6), 3)) for p, random in zip(points, drawn)]
        )


@dataclass(frozen=True)
class Sides(Dataset):
    """Points of space as a world: what is read is where they are."""

    things: int = 30
    label = "sides"

    def stream(self, seed, split="train"):
        return Looks(seed, ("train", "validation", "test").index(split))

    def readout(self):
        points = np.random.default_rng(0).normal(size=(self.things, 3))
        groups, things = {"first": points[:, 0] > 0}, np.arange(self.things, dtype=np.int32)
        return Readout(rows_of(points, points[:, None]), things, points, ("x", "y", "z"), groups, {})

    def score(self, ensemble, member, n, *, seed, split="validation"):
        rows = self.stream(seed, split).batch(0, n)
        right = (ensemble.outputs(rows, member) > 0) == (rows.targets > 0)
        return {"sides": Score(float(right.float().mean()), 0.5, n, 0)}


def resumed(runs, folder, monkeypatch, at):
    """Folders of runs that were stopped after so many steps and went on."""

    def stop(self, members, step=Lockstep.step):
        if self.read(0).step == at:
            raise KeyboardInterrupt
        step(self, members)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Lockstep, "step", stop)
        wf.train(runs, folder, device="cpu", progress=False)
    assert not any(folder.glob("*/done"))
    return wf.train(runs, folder, device="cpu", progress=False)


def require_same_end(runs, folders, others):
    for run, one, other in zip(runs, folders, others, strict=True):
        a, b = (newest(folder / "checkpoint", run.id) for folder in (one, other))
        assert a.step == b.step == run.steps
        assert all(torch.equal(x, b.tensors[key]) for key, x in a.tensors.items())


@pytest.mark.parametrize("name", SPECS)
def test_vectors_and_yes_no_answers(name, tmp_path, monkeypatch):
    """Members learn, each with the bits that it has alone, go on from checkpoints, are captured, and open again."""
    options = dict(model=SPECS[name], batch=32, warmup=0, learning_rate=1e-2, checkpoints=2, validation=100)
    runs = [wf.Run(Sides(), seed=seed, capture=Capture(layers=(0, 1)), **options) for seed in (5, 6)]
    folders = wf.train(runs, tmp_path / "whole", device="cpu", progress=False)
    test = Sides().stream(99, "test").batch(0, 500)
    for run, folder in zip(runs, folders):
        read, ensemble = load(folder)
        assert read == run and isinstance(run.stream(), Stream)
        assert ((ensemble.outputs(test, 0) > 0) == (test.targets > 0)).float().mean() > 0.85
        found = wf.Activations(folder)
        assert (found.steps, found.columns, len(found.things)) == ([0, 40, 80], ("x", "y", "z"), 30)
        [expected] = ensemble.states(run.readout().rows, 0, [1])
        assert torch.equal(torch.from_numpy(found[80, 1]), expected)
        assert not np.array_equal(found[0, 1], found[80, 1])
        assert np.array_equal(wf.represent(folder, layers=[1])[1], found[80, 1])
    require_same_end(runs[1:], folders[1:], wf.train(runs[1:], tmp_path / "alone", device="cpu", progress=False))
    require_same_end(runs, folders, resumed(runs, tmp_path / "stopped", monkeypatch, 60))
    with pytest.raises(TypeError, match=r"run: 'pt-sides-s5' is a \w+ that reads vectors; exported can be a Transf"):
        wf.export_huggingface(folders[0], tmp_path / "open")
    assert not (tmp_path / "open").exists()


def city_run(spec, **options):
    return wf.Run(
        cities.Dataset(("distance", "inside"), rows=96),
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

    require_same_end(runs, folders, resumed(runs, tmp_path / "stopped", monkeypatch, 4))
    assert load(folders[0])[0] == runs[0]
    with pytest.raises(TypeError, match="is a RecurrentSpec that reads tokens; exported can be a TransformerSpec"):
        wf.export_huggingface(folders[0], tmp_path / "open")


def test_the_first_line_says_that_models_are_in_pytorch(tmp_path, capsys):
    spec = replace(SPECS["transformer"], engine="plain")
    wf.train(replace(city_run(spec), validation=0), tmp_path, device="cpu")
    assert "models in PyTorch" in capsys.readouterr().err


@pytest.mark.parametrize("name", SPECS)
def test_memory_is_bounded_from_above(name):
    """What autograd keeps for the backward pass is below the bound, and not far below."""
    shape = Shape(40, 30)
    spec = SPECS[name]
    spec = replace(spec, engine="plain") if hasattr(spec, "engine") else spec
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


def test_auto_leaves_models_in_pytorch_on_the_cpu(tmp_path, monkeypatch, capsys):
    """As if there were a GPU: auto says that it is not used, and a GPU that is named is an error."""
    training = importlib.import_module("worldfast.training.train")
    monkeypatch.setattr(training, "require_cuda", lambda device: torch.device("cuda:0"))
    run = replace(city_run(SPECS["rnn"]), validation=0)
    [folder] = wf.train(run, tmp_path)
    assert (
        folder / "done"
    ).exists() and f"on the CPU: {run.name!r} has no kernels for a GPU" in capsys.readouterr().err
    with pytest.raises(DeviceError, match="it trains on the CPU"):
        wf.train(run, tmp_path / "named", device="cuda", progress=False)

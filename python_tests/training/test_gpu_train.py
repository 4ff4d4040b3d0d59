"""worldfast.training.train on a GPU, whose place the CPU takes where there is none: the files, resume and divergence
of the CPU's."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from tiny import TINY

import worldfast as wf
from worldfast import checkpoint
from worldfast.capture import Capture
from worldfast.errors import DeviceError
from worldfast.models import GpuTransformer
from worldfast.training import memory
from worldfast.training.step import MOMENTS
from worldfast.worlds.cities import Dataset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
APPROXIMATE = 4 if DEVICE == "cuda" else 1  # a GPU's exp2, quotient and root err 2^-22 of their result, IEEE's 2^-24
BASE = wf.Run(
    Dataset(("distance",), rows=6),
    seed=1,
    batch=2,
    model=TINY,
    warmup=1,
    learning_rate=0.01,
    checkpoints=2,
    capture=Capture(readout={"among": "city_id < 20"}),
)
RUNS = [BASE, replace(BASE, data=replace(BASE.data, tasks=("compass",), rows=4), seed=2, name="")]  # 3 and 2 steps


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """The CPU in a GPU's place."""
    if DEVICE == "cuda":
        return
    module = importlib.import_module("worldfast.training.train")
    monkeypatch.setattr(module, "require_cuda", lambda device: "cuda:0")
    monkeypatch.setattr(
        "worldfast.models.GpuTransformer",
        lambda *shape, device, matmul_dtype: GpuTransformer(*shape, device="cpu", matmul_dtype=matmul_dtype),
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a device in the CPU's place")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 8 << 30))


def last(folder, run):
    return checkpoint.newest(folder / "checkpoint", run.id)


def train(runs, out, **options):
    return wf.train(runs, out, progress=False, **{"device": "cuda"} | options)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    return wf.train(RUNS, tmp_path_factory.mktemp("cpu"), device="cpu", progress=False)


def test_files_are_those_of_the_cpu(tmp_path, on_cpu, capsys):
    """The same steps, and within rounding the same losses, weights, moments and activations."""
    folders = wf.train(RUNS, tmp_path, device="cuda")
    assert "training pt-distance-s1, pt-compass-s2 on " in capsys.readouterr().err
    for run, ours, theirs in zip(RUNS, folders, on_cpu):
        assert json.loads((ours / "done").read_text())["status"] == "finished"
        lines = [[json.loads(line) for line in open(at / "metrics.jsonl")] for at in (ours, theirs)]
        assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
        for a, b in zip(*lines):
            assert a["loss"] == pytest.approx(b["loss"], rel=APPROXIMATE * 1e-6) and a["rows"] == b["rows"]
        a, b = (last(at, run) for at in (ours, theirs))
        assert a.step == b.step == run.steps
        for name in ("parameters", *MOMENTS):
            error = (a.tensors[name] - b.tensors[name]).norm() / b.tensors[name].norm()
            assert error < APPROXIMATE * 1e-5, name
        a, b = wf.Activations(ours), wf.Activations(theirs)
        assert list(a.steps) == list(b.steps) == list(run.checkpoint_steps)
        for step in a.steps:
            np.testing.assert_allclose(a[step, 1], b[step, 1], rtol=1e-4, atol=1e-5)


def test_interrupted_and_gone_on_with_the_same_bits(tmp_path):
    whole = train(RUNS, tmp_path / "whole")

    def stop(run, line):
        if run is RUNS[0] and line["step"] == 2:
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        train(RUNS, tmp_path / "parts", log=stop)
    begun = [at / "checkpoint" for at in (tmp_path / "parts").iterdir()]
    assert len(begun) == 2 and all(list(at.iterdir()) for at in begun)
    parts = train(RUNS, tmp_path / "parts")
    for run, a, b in zip(RUNS, whole, parts):
        a, b = last(a, run), last(b, run)
        assert a.step == b.step
        for name, tensor in a.tensors.items():
            assert torch.equal(tensor, b.tensors[name]), name


def test_a_run_that_diverges_is_marked(tmp_path):
    wild = replace(BASE, learning_rate=1e30, seed=3, name="wild", warmup=0)
    folders = train([wild, RUNS[1]], tmp_path)
    done = [json.loads((at / "done").read_text()) for at in folders]
    assert [(one["status"], one["step"]) for one in done] == [("diverged", 1), ("finished", 2)]
    line = json.loads(open(folders[0] / "metrics.jsonl").readlines()[-1])
    assert line["diverged"] and line["loss"] is None and line["step"] == 2


def test_waves(tmp_path, capsys):
    """Where one member fits at a time; the plan says what a member needs."""
    need = memory.need(BASE, "cuda:0", 1)
    assert need.member > 100_000 and need.shared > memory.GPU_EXTRA
    wf.train(RUNS, tmp_path, device="cuda", memory=sum(need) + need.member // 2)
    said = capsys.readouterr().err
    assert "1 of 2 fit in" in said and "wave 2 of 2" in said
    with pytest.raises(MemoryError, match="'pt-distance-s7' alone needs"):
        train(replace(BASE, seed=7, name=""), tmp_path, memory=need.shared)


def test_auto_takes_a_gpu_and_an_unknown_device_is_named(tmp_path, capsys):
    wf.train(RUNS[1], tmp_path, device="auto")
    assert torch.cuda.get_device_name() in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown device 'cudda': did you mean 'cuda'"):
        train(BASE, tmp_path, device="cudda")


@pytest.mark.parametrize("torch_cuda", ["13.0", None])
def test_auto_says_why_a_gpu_is_not_used(tmp_path, capsys, monkeypatch, torch_cuda):
    """Once; and nothing where nobody expects one, as with a torch for CPUs alone."""

    def missing(device):
        raise DeviceError(device, "the driver is too old")

    module = importlib.import_module("worldfast.training.train")
    monkeypatch.setattr(module, "require_cuda", missing)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    wf.train(replace(RUNS[1], seed=5, name=""), tmp_path, device="auto")
    said = capsys.readouterr().err
    assert said.count("on the CPU: the driver is too old") == (torch_cuda is not None)
    assert "training pt-compass-s5 on the CPU" in said
    with pytest.raises(RuntimeError, match="device 'cuda': the driver is too old; use device='cpu'"):
        train(BASE, tmp_path)


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_two_processes_on_one_device(tmp_path, monkeypatch):
    """The other one holds memory before: the plan says so. It takes some later: what was saved stays."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 29, 8 << 30))
        with pytest.raises(MemoryError, match="460.8 MiB .512.0 MiB of the 8.0 GiB of cuda:0 are free, others"):
            train(BASE, tmp_path / "before")
    module = importlib.import_module("worldfast.training.train")
    step = module.GpuLockstep.step

    def taken(self, members):
        if self._asked[0] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, members)

    with monkeypatch.context() as patch:
        patch.setattr(module.GpuLockstep, "step", taken)
        with pytest.raises(MemoryError, match="cuda:0 ran out of it, 8.0 GiB of 8.0 GiB are free.*goes on"):
            train(BASE, tmp_path / "later")
    [folder] = (tmp_path / "later").iterdir()
    assert last(folder, BASE).step == 2
    assert train(BASE, tmp_path / "later") == [folder] and last(folder, BASE).step == BASE.steps

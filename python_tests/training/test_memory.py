"""Memory: what is planned holds, waves change nothing, and what cannot fit is said before anything starts."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from tiny import TINY

import worldfast as wf
from worldfast import checkpoint
from worldfast.capture import Capture
from worldfast.training import memory, train
from worldfast.training.memory import Need, Plan
from worldfast.worlds.cities import Dataset

RUN = wf.Run(
    Dataset("distance", rows=48),
    batch=16,
    learning_rate=0.01,
    warmup=0,
    checkpoints=1,
    capture=Capture(layers=(0,), readout={"among": "index < 9"}),
    model=TINY,
)
RUNS = [replace(RUN, seed=seed, data=replace(RUN.data, rows=16 * seed), name="") for seed in (2, 4, 1, 3, 5)]

MEASURED = """
import sys
from pathlib import Path
import worldfast as wf
from worldfast.training import memory
from worldfast.worlds.cities import Dataset

def kib(what):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1])

def runs(n, **options):
    capture = wf.Capture(layers=(1, 2), readout={"among": "index < 1000"})  # all would take most of the time
    data = Dataset(("angle", "inside"), rows=options.pop("rows", 32))
    spec = dict(batch=32, checkpoints=1, capture=capture) | options
    return [wf.Run(data, seed=seed, **spec) for seed in range(n)]

n, out = int(sys.argv[1]), Path(sys.argv[2])
wf.train(runs(1, rows=1), out / "first", threads=2, progress=False)  # imports, threads, worlds
Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
model = wf.TransformerSpec(hidden=384, layers=2, heads=8, intermediate=1024)
wf.train(runs(n, model=model), out / str(n), threads=2, progress=False)
need = memory.need(runs(1, model=model)[0], "cpu", 2)
print(kib("VmHWM") - before, need.member >> 10, need.shared >> 10)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peak of resident memory to read")
def test_the_plan_holds(tmp_path):
    """Peaks of processes that train 1 and 5 members of 3 million parameters: never more than planned, and a
    member at least half of what is.
    """

    def measured(n):
        command = [sys.executable, "-c", MEASURED, str(n), str(tmp_path)]
        return map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    (one, member, shared), (five, _, _) = measured(1), measured(5)
    assert one < member + shared and five < 5 * member + shared
    assert 0.5 * member < (five - one) / 4 < member


def left(folder):
    """The bytes of a run's activations and of the tensors in its checkpoints."""
    kept = [checkpoint.read(path, folder.name[-12:]) for path in sorted((folder / "checkpoint").iterdir())]
    segments = {path.name: path.read_bytes() for path in (folder / "activations").iterdir()}
    return segments, [(x.step, {name: t.numpy().tobytes() for name, t in x.tensors.items()}) for x in kept]


def test_waves_change_nothing(tmp_path):
    together = train(RUNS, tmp_path / "together", progress=False)
    need = memory.need(RUNS[4], "cpu", 2)
    for fit in (1, 2):
        out = tmp_path / str(fit)
        folders = train(RUNS, out, threads=2, memory=need.shared + fit * need.member, progress=False)
        assert [folder.name for folder in folders] == [run.folder_name for run in RUNS]
        assert [left(folder) for folder in folders] == [left(folder) for folder in together]


def test_what_is_said_of_waves(tmp_path, capfd):
    """Once, what fits; then who trains: the longest first, so that the short ones do not wait for a long
    one.
    """
    need = memory.need(RUNS[4], "cpu", 2)
    train(RUNS, tmp_path, threads=2, memory=need.shared + 2 * need.member)
    lines = capfd.readouterr().err.splitlines()
    said = [line for line in lines if "wave" in line or line.startswith("training")]
    assert said == [
        f"2 of 5 fit in {memory.size_text(need.shared + 2 * need.member)} "
        f"({memory.size_text(need.member)} each, {memory.size_text(need.shared)} shared): 3 waves",
        "training pt-distance-s5 on the CPU, threads: 2",
        "wave 2 of 3",
        "training pt-distance-s4, pt-distance-s3 on the CPU, threads: 2",
        "wave 3 of 3",
        "training pt-distance-s2, pt-distance-s1 on the CPU, threads: 2",
    ]


def test_one_that_does_not_fit(tmp_path):
    """Said before the small ones, which would fit, have begun."""
    big = replace(RUN, model=wf.TransformerSpec(hidden=1024, layers=24, heads=16, intermediate=4096))
    need = memory.need(big, "cpu", 2)
    message = f"memory: 'pt-distance-s42' alone needs {memory.size_text(sum(need))} (402,977,792 parameters, "
    message += "batch 16), but there are 2.0 GiB"
    with pytest.raises(MemoryError, match=re.escape(message)):
        train([RUN, big], tmp_path, threads=2, memory="2GiB", progress=False)
    assert not any(tmp_path.iterdir())


def test_slices_are_few_and_of_about_one_size():
    for members, fit, sizes in ((20, 8, [6, 7, 7]), (16, 8, [8, 8]), (3, 8, [3]), (5, 1, [1] * 5)):
        plan = Plan(Need(1, 1), 10, members, min(fit, members))
        parts = [range(members)[part] for part in plan.slices()]
        assert [len(part) for part in parts] == sizes
        assert [i for part in parts for i in part] == list(range(members))
    plan = Plan(Need(5 << 28, 3 << 10), round(10.2 * 2**30), 20, 8)
    assert str(plan) == "8 of 20 fit in 10.2 GiB (1.2 GiB each, 3.0 KiB shared): 3 waves"
    assert str(Plan(Need(7, 1), 3 << 20, 8, 8)) == "8 of 8 fit in 3.0 MiB (7 bytes each, 1 byte shared)"


@pytest.mark.parametrize(
    "asked,size", [(5, 5), ("5", 5), ("8GiB", 8 << 30), ("1.5 mib", 3 << 19), ("2K", None), ("-1", None)]
)
def test_limits(asked, size):
    if size is None:
        with pytest.raises(
            ValueError, match=f"memory: expected bytes or a text such as '8GiB' .B, KiB, .*got '{asked}'"
        ):
            memory.limit_of(asked, "cpu")
    else:
        assert memory.limit_of(asked, "cpu") == size
    with pytest.raises(TypeError, match="memory: expected bytes.*got 2.5"):
        memory.limit_of(2.5, "cpu")


def test_what_is_available_is_less_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.limit_of(None, "cpu") < memory.available("cpu") <= total


def test_control_groups(tmp_path):
    """The tightest of the groups that a process is in; page cache that can go counts as free."""
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/elsewhere\n0::/outer/inner\n")
    root = tmp_path / "root"
    for name, limit, used, cache in (("outer", "1000", 400, 100), ("outer/inner", "max", 50, 0)):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    assert list(memory._left_in_cgroups(root, own)) == [700]
    assert list(memory._left_in_cgroups(root, tmp_path / "nowhere")) == []


def test_a_system_that_counts_nothing(monkeypatch):
    def missing(path, **_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory.Path, "read_text", missing)
    monkeypatch.setattr(memory, "_left_in_cgroups", lambda *_: [])
    assert memory.available("cpu") == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

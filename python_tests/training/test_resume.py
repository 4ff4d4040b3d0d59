"""Going on: killed at any moment, interrupted, out of space, locked; the same bytes as if nothing had happened."""

import errno
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import time
from dataclasses import replace

import pytest
from stand_ins import PassingOn

from worldfast import checkpoint, files
from worldfast.capture import Capture
from worldfast.errors import DamagedError
from worldfast.models import TransformerSpec
from worldfast.reading import segment
from worldfast.reading.segment import segment_path
from worldfast.run import Run
from worldfast.training import member, metrics, train
from worldfast.worlds.cities import Dataset

WIDE = Run(
    # 5,175 tokens: a save takes as long as a few steps
    Dataset("distance", rows=640, vocabulary="entity", loss="answer"),
    seed=7,
    batch=16,
    learning_rate=0.003,
    warmup=5,
    model=TransformerSpec(hidden=16, layers=2, heads=2, intermediate=24),
    checkpoints=10,
    capture=Capture(layers=(0, 2), readout={"among": "index < 50"}),
)
RUNS = [
    WIDE,
    replace(WIDE, data=replace(WIDE.data, tasks=("angle", "inside"), rows=200), name="", seed=8, validation=2),
]
KILLS = 10  # in saves, and as many elsewhere
FORKS = multiprocessing.get_context("forkserver")  # what a process imports is there when it begins
FORKS.set_forkserver_preload(["worldfast.training.train"])


def left(folder):
    """All that a run left, byte for byte but for clock times and what follows from how long they are written."""
    run = json.loads((folder / "spec.json").read_text())["id"]
    kept = [checkpoint.read(path, run) for path in sorted((folder / "checkpoint").iterdir())]
    done = json.loads((folder / "done").read_text())
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "spec": (folder / "spec.json").read_bytes(),
        "metrics": re.sub(r'"seconds": [^,]+, ', "", (folder / "metrics.jsonl").read_text()),
        "activations": {path.name: path.read_bytes() for path in (folder / "activations").iterdir()},
        "tensors": [(x.step, {name: t.numpy().tobytes() for name, t in x.tensors.items()}) for x in kept],
        "state": [(x.state["rows"], x.state["pending"]) for x in kept],
        "done": (done["status"], done["step"]),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What RUNS leave, uninterrupted, and the seconds that training takes."""
    began = time.monotonic()
    folders = train(RUNS, tmp_path_factory.mktemp("whole"), progress=False)
    seconds = time.monotonic() - began
    return [left(folder) for folder in folders], seconds


def start(out):
    """A process that trains RUNS, when it has begun to, or has found that it need not."""
    child = FORKS.Process(target=train, args=(RUNS, out), kwargs={"progress": False})
    child.start()
    locks = [out / run.folder_name / "lock" for run in RUNS]
    while child.is_alive() and not any(lock.exists() and f"process {child.pid} " in lock.read_text() for lock in locks):
        time.sleep(0.001)
    return child


def until_a_save(child, out, number):
    """Returns while file `number` that the process saves is half written, or when the process has ended."""
    folders = [out / run.folder_name / part for run in RUNS for part in ("", "checkpoint", "activations")]
    seen = set()
    while len(seen) < number and child.is_alive():
        for folder in folders:
            if folder.exists():
                seen.update(name for name in os.listdir(folder) if name.endswith(files.PARTIAL))


def test_killed_at_many_moments(whole, tmp_path):
    """kill -9, half of the times with a file half written: in the end all is what an uninterrupted run leaves."""
    expected, seconds = whole
    chance, deadline = random.Random(0), time.monotonic() + 300
    in_saves = elsewhere = finished = 0
    while min(in_saves, elsewhere) < KILLS:
        assert time.monotonic() < deadline, f"{in_saves} kills in saves, {elsewhere} elsewhere"
        out = tmp_path / str(finished)
        child = start(out)
        if in_saves < elsewhere:
            until_a_save(child, out, chance.randint(1, 12))
        else:
            time.sleep(chance.uniform(0, seconds / 2))
        child.kill()
        child.join()
        if child.exitcode == 0:
            assert [left(out / run.folder_name) for run in RUNS] == expected
            finished += 1
            continue
        assert child.exitcode == -signal.SIGKILL
        if any(out.rglob(f".*{files.PARTIAL}")):
            in_saves += 1
        else:
            elsewhere += 1
    out = tmp_path / str(finished)
    assert [left(folder) for folder in train(RUNS, out, progress=False)] == expected


WHOLE = {"spec.json": 2, "activations/": 22, "checkpoint/": 22, "done": 2}  # in a path; saves of them all
MOMENTS = ("half written", "before it is renamed", "renamed")
SAVES = [(part, count, moment) for part, count in WHOLE.items() for moment in MOMENTS]
SAVES.append(("metrics.jsonl", 76, "half written"))  # lines: it grows in place


def train_and_die(out, part, number, moment):
    """Trains RUNS in a process that kills itself in the save of a file of this kind, the `number`-th."""
    real_replace, saves = os.replace, itertools.count(1)

    def now(path, here):
        return here == moment and part in os.path.relpath(path, out) and next(saves) == number

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    class Opened(PassingOn):
        """A file, in the first write to which the process may die."""

        def __init__(self, path, mode, **how):
            super().__init__(open(path, mode, **how))
            self.path, self.written = path, False

        def write(self, content):
            if not self.written and now(self.path, "half written"):
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                die()
            self.written = True
            return self.file.write(content)

    def replace_(source, target):
        if now(target, "before it is renamed"):
            die()
        real_replace(source, target)
        if now(target, "renamed"):
            die()

    files.open = metrics.open = Opened
    os.replace = replace_
    train(RUNS, out, progress=False)


@pytest.mark.filterwarnings("error:checkpoint .* is damaged")
@pytest.mark.parametrize("part,count,moment", SAVES)
def test_killed_in_every_kind_of_save(whole, tmp_path, part, count, moment):
    number = count if moment == "renamed" else random.Random(f"{part} {moment}").randint(1, count)
    child = FORKS.Process(target=train_and_die, args=(tmp_path, part, number, moment))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [left(folder) for folder in train(RUNS, tmp_path, progress=False)] == whole[0]


def test_a_run_is_trained_by_one_process(whole, tmp_path):
    """Who comes second is told who is first, and changes nothing; a dead process holds nothing."""
    child = start(tmp_path)
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(0.1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(BlockingIOError, match=f"in use by process {child.pid} on .*{WIDE.name}.*/lock"):
        train(RUNS, tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    child.kill()
    child.join()

    def again(run, line):
        with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on"):
            train(run, tmp_path, progress=False)

    assert [left(folder) for folder in train(RUNS, tmp_path, progress=False, log=again)] == whole[0]


def test_an_interrupt_leaves_no_checkpoint_ahead_of_its_activations(tmp_path, monkeypatch):
    """Ctrl-C while a segment is slow to be written: the checkpoint comes after it."""
    real_write, real_save = segment.write_whole, checkpoint.save

    def slow(path, *content):
        time.sleep(0.3)
        return real_write(path, *content)

    def save(folder, here, *rest):
        for step in WIDE.checkpoint_steps:
            assert step >= here.step or segment_path(folder.parent, step).exists()
        saved.append(here.step)
        return real_save(folder, here, *rest)

    def interrupt(run, line):
        if line["step"] == WIDE.checkpoint_steps[1] + 1:
            os.kill(os.getpid(), signal.SIGINT)

    saved = []
    monkeypatch.setattr(segment, "write_whole", slow)
    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt, match="stopped and saved"):
        train(WIDE, tmp_path, progress=False, log=interrupt)
    assert saved[:2] == list(WIDE.checkpoint_steps[:2]) and saved[2] not in WIDE.checkpoint_steps


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(whole, tmp_path, damage):
    folders = train(RUNS, tmp_path, progress=False)
    newest = max((folders[0] / "checkpoint").iterdir())
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    for folder in folders:
        (folder / "done").unlink()
    steps = []
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged: .*the one before it"):
        train(RUNS, tmp_path, progress=False, log=lambda run, line: steps.append(line["step"]))
    assert [left(folder) for folder in folders] == whole[0]
    assert steps == list(range(WIDE.checkpoint_steps[-2] + 1, WIDE.steps + 1))


def test_training_never_begins_anew_where_no_checkpoint_is_whole(whole, tmp_path):
    """It is an error that says what to do, and nothing there is touched; without the damaged ones it begins anew."""
    folders = train(RUNS, tmp_path, progress=False)
    for path in (folders[0] / "checkpoint").iterdir():
        path.write_bytes(b"")
    for folder in folders:
        (folder / "done").unlink()
    before = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*") if path.name != "lock"}
    with (
        pytest.warns(UserWarning, match="damaged.*; the one before it, step-"),
        pytest.raises(DamagedError, match="none before it is left. Put a whole one back, or remove .* to begin again"),
    ):
        train(RUNS, tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folders[0].rglob("*") if path.name != "lock"} == before
    for path in (folders[0] / "checkpoint").iterdir():
        path.unlink()
    train(RUNS, tmp_path, progress=False)
    assert [left(folder) for folder in folders] == whole[0]


def test_no_space_for_a_line_of_metrics(whole, tmp_path, monkeypatch):
    """The error names the file, and when there is space again, training goes on from the last checkpoint."""

    def full(path, mode, **how):
        file = open(path, mode, **how)
        os.dup2(os.open("/dev/full", os.O_RDWR), file.fileno())
        return file

    def fill(run, line):
        if run == RUNS[0] and line["step"] == 15:
            monkeypatch.setattr(metrics, "open", full, raising=False)
            monkeypatch.setattr(metrics.Lines, "_require_own", lambda self, file: None)

    with pytest.raises(OSError, match="No space left on device: a line is lost.*metrics.jsonl") as caught:
        train(RUNS, tmp_path, progress=False, log=fill)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [left(folder) for folder in train(RUNS, tmp_path, progress=False)] == whole[0]


def test_a_line_of_metrics_spans_a_checkpoint(tmp_path, monkeypatch):
    """A line of 40 steps that have 20 is the mean over two: the first half of one is in step 25's checkpoint."""
    monkeypatch.setattr(member, "METRIC_LINES", 20)
    run = replace(WIDE, checkpoints=8)

    def stop(run, line):
        if line["step"] == 28:
            raise InterruptedError

    (folder,) = train(run, tmp_path / "whole", progress=False)
    with pytest.raises(InterruptedError):
        train(run, tmp_path / "stopped", progress=False, log=stop)
    (again,) = train(run, tmp_path / "stopped", progress=False)
    assert left(again) == left(folder) and left(folder)["metrics"].count("\n") == 20


def test_metrics_that_are_gone_are_missed(tmp_path):
    (folder,) = train(WIDE, tmp_path, progress=False)
    (folder / "done").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"metrics.jsonl has [\d,]+ bytes, but had [\d,]+ at the checkpoint"):
        train(WIDE, tmp_path, progress=False)

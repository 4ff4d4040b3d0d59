"""Lines of metrics: where they go besides metrics.jsonl, once each, and what is said where they cannot."""

import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny import TINY

from worldfast.capture import Capture
from worldfast.errors import UnsafeError
from worldfast.run import Run
from worldfast.training import train
from worldfast.worlds.cities import Dataset

BASE = Run(
    Dataset("distance", rows=320),
    batch=16,
    learning_rate=0.003,
    warmup=5,
    checkpoints=4,
    capture=Capture(layers=()),
    model=TINY,
)
WILD = replace(BASE, data=replace(BASE.data, tasks=("angle",)), name="", learning_rate=1e30, warmup=0)  # diverges
NUMBERS = ["rows", "loss", "diverged", "seconds", "learning_rate"]  # of a line, where it has them


class Stop(Exception):
    pass


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_clock(lines):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_callable_gets_each_runs_lines(tmp_path):
    got = {BASE: [], WILD: []}
    folders = train(list(got), tmp_path, progress=False, log=lambda run, line: got[run].append(line))
    assert list(got.values()) == [lines(folder) for folder in folders]
    assert len(got[BASE]) == BASE.steps and got[WILD][-1]["diverged"] is True


def test_a_callable_that_fails_stops_training_and_lines_come_again(tmp_path):
    """A line is in the file before it is sent. Going on from step 10 sends those behind it again, the same."""
    got = []

    def log(run, line):
        got.append(line)
        if len(got) == 13:
            raise Stop

    with pytest.raises(Stop):
        train(BASE, tmp_path, progress=False, log=log)
    assert lines(tmp_path / BASE.folder_name) == got
    (folder,) = train(BASE, tmp_path, progress=False, log=log)
    assert [line["step"] for line in got] == [*range(1, 14), *range(11, 21)]
    assert without_clock(got[10:13]) == without_clock(got[13:16])
    assert lines(folder) == got[:10] + got[13:]


class Tracker:
    """Stands for the three libraries: notes what opens it, what it is sent and how often it is closed."""

    def __init__(self):
        self.opened, self.sent, self.closed = [], [], 0

    @contextmanager
    def SummaryWriter(self, log_dir, purge_step):
        self.opened.append((log_dir, purge_step))
        yield SimpleNamespace(add_scalar=lambda name, value, step: self.log({name: value}, step))
        self.finish()

    def init(self, **options):
        self.opened.append(options)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.finish()

    def log(self, values, step):
        self.sent += [(step, name, value) for name, value in values.items()]

    def finish(self):
        self.closed += 1


@pytest.mark.parametrize("log", ["tensorboard", "wandb", "trackio"])
def test_trackers_get_every_number(tmp_path, monkeypatch, log):
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if log == "tensorboard" else log, tracker)
    folder, wild = train([BASE, WILD], tmp_path, progress=False, log=log)
    sent = [
        (line["step"], name, line[name])
        for step in range(BASE.steps)
        for line in [*lines(folder)[step : step + 1], *lines(wild)[step : step + 1]]
        for name in NUMBERS
        if line.get(name) is not None
    ]
    assert tracker.sent == sent
    assert tracker.closed == 2
    if log == "tensorboard":
        assert tracker.opened == [(folder / "tensorboard", 1), (wild / "tensorboard", 1)]
    else:
        key, values = ("id", (BASE.id, WILD.id)) if log == "wandb" else ("name", (folder.name, wild.name))
        assert tuple(options[key] for options in tracker.opened) == values
        for options, run in zip(tracker.opened, (BASE, WILD)):
            assert (options["project"], options["resume"]) == ("worldfast", "allow")
            assert Run.from_json(options["config"]) == run


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_a_tracker_writes_nothing_elsewhere(tmp_path, monkeypatch, log):
    """They write to a folder of their own in the run's, which may be a stranger's."""
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if log == "tensorboard" else log, tracker)
    folder = tmp_path / "runs" / BASE.folder_name
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / log).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeError, match=f"{log}' is a link"):
        train(BASE, tmp_path / "runs", progress=False, log=log)
    assert tracker.opened == []


def test_tensorboard_is_purged_of_steps_that_are_taken_again(tmp_path, monkeypatch):
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tracker)

    def stop(run, line):
        if line["step"] == 13:
            raise Stop

    with pytest.raises(Stop):
        train(BASE, tmp_path, progress=False, log=stop)
    (folder,) = train(BASE, tmp_path, progress=False, log="tensorboard")
    assert tracker.opened == [(folder / "tensorboard", 11)]


@pytest.mark.parametrize(
    "log,error,message",
    [
        ("trakio", ValueError, "unknown log 'trakio': did you mean 'trackio'"),
        (3, TypeError, "log: expected a callable, a name or None, got 3"),
        ("wandb", ModuleNotFoundError, "log='wandb' needs wandb, which is not installed: pip install wandb"),
        ("tensorboard", ModuleNotFoundError, "log='tensorboard' needs tensorboard, .*: pip install tensorboard"),
    ],
)
def test_bad_logs(tmp_path, monkeypatch, log, error, message):
    """Said before anything is made."""
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(error, match=message):
        train(BASE, tmp_path / "runs", progress=False, log=log)
    assert not (tmp_path / "runs").exists()

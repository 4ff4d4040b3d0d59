"""Runs and jobs of test_cluster.py, which workers and calls of other processes import too."""

import json
import os
from dataclasses import replace
from pathlib import Path

import worldfast as wf
from worldfast.capture import Capture
from worldfast.training import cluster
from worldfast.training.jobs import Job
from worldfast.worlds.cities import Dataset

STEPS = 1000
RUN = wf.Run(
    Dataset("distance", rows=16 * STEPS, loss="answer", vocabulary="entity"),
    batch=16,
    learning_rate=1e-3,
    checkpoints=20,
    model=wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16, outputs=98),
    capture=Capture(layers=(1,), readout={"among": "index < 20"}),
)
GIB = 1 << 30


def run(seed=0, steps=STEPS, start=None, **other):
    return replace(RUN, seed=seed, data=replace(RUN.data, rows=16 * steps), start=start, name="", **other)


def pair():
    """A run long enough to be stopped on a busy machine before it is done, and a fine-tune of it."""
    base = run(1, steps=4 * STEPS)
    return [base, run(2, steps=100, start=base)]


def mark(path, *_):
    Path(path).touch()


def marked(path, *_):
    return Path(path).exists()


def job(tmp_path, name, needs="", **other):
    return Job(name, mark, (tmp_path / name,), marked, tuple(needs), (name,), **other)


def train_and_note(runs, out, *rest):
    """`train_ensemble`, and a line for each try: who, on which node, from which steps."""
    import ray

    steps = [sorted((out / one.folder_name / "checkpoint").glob("step-*")) for one in runs]
    node = ray.get_runtime_context().get_node_id()
    note = {"runs": [one.folder_name for one in runs], "from": [path[-1].name if path else "" for path in steps]}
    with open(out / "tries", "a") as file:
        file.write(json.dumps(note | {"pid": os.getpid(), "node": node}) + "\n")
    cluster.train_ensemble(runs, out, *rest)


def fail(path, kind):
    raise {"value": ValueError, "os": OSError, "held": BlockingIOError}[kind]("two\nlines")


def never(*_):
    return False


def read_back(folder, out):
    out.write_text(str(len(wf.Activations(folder).readout.things)))


def seen(folder, out):
    return out.exists()

"""Checks that every family of models must pass: of what it computes, and of what training makes of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldfast import checkpoint
from worldfast.capture import Capture
from worldfast.dataset import Dataset, Readout, Score
from worldfast.folder import load
from worldfast.models import FAMILY_CHECKS, Ensemble, TransformerSpec, family_of, import_huggingface
from worldfast.rows import SPLITS, Rows, Shape, require_split
from worldfast.run import Run
from worldfast.training.export import export_huggingface
from worldfast.training.train import train

LENGTH = 6


def check_family(spec: Any, shape: Shape, exact: Callable[[], Ensemble] | None = None) -> None:
    """Check a family of models: members, first weights, gradients, losses, what it learns, states, bad rows,
    training that goes on from a checkpoint, export.

    Parameters
    ----------
    spec : spec of models
        Frozen spec with `layers`, `hidden`, `parameters`, `cpu_bytes`, `on_gpu` and `build`; a small one, so that the
        checks take seconds.
    shape : Shape
        Shape of the rows that it is checked on.
    exact : callable, optional
        Builds the reference: an ensemble of one member in float64 whose parameters stand as the family's do. None: the
        class that the spec builds, or its engine "plain" if it has engines, given `dtype=torch.float64`.

    Raises
    ------
    ValueError
        One sentence a line says what does not hold.

    Examples
    --------
    >>> from worldfast.training import check_family
    >>> from worldfast.rows import Shape
    >>> check_family(wf.RecurrentSpec(hidden=8), Shape(inputs=5, outputs=3))
    """
    family, found = family_of(spec, shape, exact), []
    for check in CHECKS:
        try:
            check(family)
        except Exception as error:  # a family may raise anything; the other checks still say what they find
            kind = "" if type(error) is ValueError else f"it raises {type(error).__name__}: "
            found.append(f"{check.__name__.replace('_', ' ')}: {kind}{error}")
    if found:
        raise ValueError(f"{type(spec).__name__} does not pass:\n" + "\n".join(found))


# ---- rows to train on ----


@dataclass(frozen=True)
class DrawnRows:
    """Random rows of a shape, each scored at its last input."""

    shape: Shape
    classes: int
    key: tuple[int, int]
    rows: int
    longest = LENGTH

    def batch(self, start: int, n: int) -> Rows:
        drawn = [
            np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, i, 0])) for i in range(start, start + n)
        ]
        if self.shape.vectors:
            inputs = [random.standard_normal((LENGTH, self.shape.inputs), np.float32) for random in drawn]
        else:
            inputs = [random.integers(self.shape.inputs, size=LENGTH, dtype=np.int32) for random in drawn]
        if self.shape.loss == "cross_entropy":
            targets = np.array([random.integers(self.classes) for random in drawn])
        else:
            targets = np.array([random.integers(2, size=self.classes) for random in drawn], np.float32)
        ends = LENGTH * np.arange(n + 1)
        return Rows(*map(torch.from_numpy, (np.concatenate(inputs), ends, ends[1:] - 1, targets)))


@dataclass(frozen=True)
class Drawn(Dataset):
    """Random rows of a shape, of whose outputs the first `classes` are learned."""

    inputs: int
    outputs: int
    vectors: bool
    loss: str
    classes: int
    rows: int = 40
    label = "drawn"

    @property
    def shape(self) -> Shape:
        return Shape(self.inputs, self.outputs, self.vectors, self.loss)

    def stream(self, seed: int, split: str = "train") -> DrawnRows:
        return DrawnRows(self.shape, self.classes, (seed, SPLITS.index(require_split(split))), self.rows)

    def readout(self) -> Readout:
        rows = self.stream(0, "test").batch(0, 2)
        return Readout(rows, np.arange(2, dtype=np.int32), np.zeros((2, 0)), (), {}, {})

    def score(self, ensemble, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        return {}


@contextmanager
def trained(family) -> Iterator[tuple[list[Run], list[Path]]]:
    """Yield two runs, trained together for ten steps, and their folders, with checkpoints of the steps 5 and 10."""
    data = Drawn(*family.shape, classes=family.outputs)
    none = Capture(layers=())
    runs = [
        Run(data, seed, model=family.spec, batch=8, epochs=2, learning_rate=1e-2, warmup=2, checkpoints=2, capture=none)
        for seed in (0, 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        yield runs, train(runs, folder, device="cpu", progress=False)


# ---- what training makes of it ----


def training_goes_on_from_a_checkpoint(family):
    """Weights and moments of the optimizer, read from a file after half of the steps, end as those of a run that did
    not stop.
    """
    with trained(family) as (runs, folders):
        ended = [_newest(run, folder) for run, folder in zip(runs, folders)]
        for folder in folders:
            (folder / "done").unlink()
            checkpoint.paths(folder / "checkpoint")[-1].unlink()
        halves = [_newest(run, folder) for run, folder in zip(runs, folders)]
        train(runs, folders[0].parent, device="cpu", progress=False)
        for run, folder, half, whole in zip(runs, folders, halves, ended):
            again = _newest(run, folder)
            if (half.step, again.step) != (run.steps // 2, run.steps):
                raise ValueError(f"expected steps {run.steps // 2} and {run.steps}, got {half.step} and {again.step}")
            for name, tensor in whole.tensors.items():
                if torch.equal(tensor, half.tensors[name]):
                    raise ValueError(f"expected {name} that change after step {half.step}")
                if not torch.equal(tensor, again.tensors[name]):
                    raise ValueError(f"expected the same bits of {name} where training stopped at step {half.step}")


def _newest(run: Run, folder: Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest(folder / "checkpoint", run.id)
    if found is None:
        raise ValueError("expected a checkpoint, found none")
    return found


def an_export_is_the_same_model(family):
    """A family without an export for Hugging Face refuses it by name."""
    spec, shape = family.spec, family.shape
    has_one = isinstance(spec, TransformerSpec) and not shape.vectors and spec.rope_base is not None
    with trained(family) as (_, folders):
        try:
            opened = export_huggingface(folders[1], folders[1] / "open")
        except (TypeError, ValueError) as error:
            if has_one or not str(error).startswith("run: "):
                raise
            return
        if not has_one:
            raise ValueError("expected an error that says that there is no export")
        ours, theirs = load(folders[1])[1], import_huggingface(opened)
    kept, read = (one.to_huggingface(0) for one in (ours, theirs))
    for name, tensor in kept.items():
        if not torch.equal(tensor, read[name][: len(tensor)]) or read[name][len(tensor) :].any():
            raise ValueError(f"expected the same bits of {name} in an export")
    rows = family.rows(targets=False)
    expected, found = ours.outputs(rows, 0), theirs.outputs(rows, 0)[:, : family.outputs]
    if not torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max())):
        raise ValueError("expected the outputs of the model that was exported")


CHECKS = (*FAMILY_CHECKS, training_goes_on_from_a_checkpoint, an_export_is_the_same_model)

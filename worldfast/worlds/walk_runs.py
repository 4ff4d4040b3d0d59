"""Runs on walks, in which each row is new."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from worldfast.capture import Capture
from worldfast.errors import positive, whole
from worldfast.models import TransformerSpec
from worldfast.run import Run

__all__ = ["model", "scaled"]


def model(
    data: Any, seed: int, steps: int, checkpoints: int, *, hidden: int = 64, batch: int, layers: int = 2, **fields
) -> Run:
    """Return a run on walks: a transformer, a constant learning rate, log-spaced checkpoints.

    Parameters
    ----------
    data : Dataset
        Its rows are set to those of `steps` batches, so that each is new.
    seed, steps, checkpoints : int
    hidden, layers : int
        Width and depth of the transformer; of no account where `model` is given.
    batch : int
        Rows of a batch.
    **fields
        Further fields of the run, and others of those that it has here: `model` may be of any kind.
    """
    hidden, batch, layers = (whole(*one, 1) for one in (("hidden", hidden), ("batch", batch), ("layers", layers)))
    steps = whole("steps", steps, 1)
    spec = fields.pop("model", None)
    if spec is None:
        spec = TransformerSpec(hidden=hidden, layers=layers, heads=4, intermediate=4 * hidden)
    given = {
        "name": f"{data.label}-s{seed}",
        "model": spec,
        "epochs": 1,
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "clip": 1.0,
        "warmup": 0,
        "schedule": "constant",
        "checkpoints": checkpoints,
        "checkpoint_spacing": "log",
        "keep": "all",
        "capture": Capture(layers=tuple(range(1, getattr(spec, "layers", layers) + 1))),
    }
    return Run(replace(data, rows=steps * batch), seed=seed, batch=batch, **given | fields)


def scaled(number: int, scale: float) -> int:
    """Return a number of steps by a factor, of which there are at least 10."""
    return max(10, round(number * positive("scale", scale)))

"""Weights that a run starts from: another run's last ones below the same `out`, or an open checkpoint's."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from worldfast.models import import_huggingface
from worldfast.run import OpenCheckpoint, Run, require_same_shape
from worldfast.training import checkpoint

__all__ = ["diverged", "outcome", "require", "weights"]


def require(run: Run, out: Path, first: Collection[str]) -> None:
    """Raises what keeps a run from starting where it should; `first` are the ids of runs that train before
    it.

    FileNotFoundError where its start has not been trained below `out`, or its folder is not there; ValueError
    where the start diverged, is of another shape or vocabulary, or has changed.
    """
    start = run.start
    if isinstance(start, OpenCheckpoint):
        _opened(run)
    elif isinstance(start, Run):
        _require_same_vocabulary(repr(start.name), start.vocabulary_size, run)
        if start.id not in first:
            folder = _folder(start, out)
            if folder is None:
                raise FileNotFoundError(
                    f"start: {start.name!r} ({start.id}), from which {run.name!r} starts, is not trained "
                    f"below '{out}': train it first, or in the same call"
                )
            if diverged(start, out):
                raise ValueError(f"start: {start.name!r}, from which {run.name!r} starts, diverged: {folder}")


def diverged(start: Run | OpenCheckpoint | None, out: Path) -> bool:
    """Whether a start is a run that has ended without its last weights."""
    folder = _folder(start, out) if isinstance(start, Run) else None
    return folder is not None and outcome(folder)["status"] != "finished"


def weights(run: Run, out: Path) -> Tensor:
    """The parameters that a run with a start begins with, float32 [P]. Damaged where a file of the start's
    is.
    """
    if isinstance(run.start, OpenCheckpoint):
        return _opened(run)
    folder = _folder(run.start, out)
    found = checkpoint.of_step(folder / "checkpoint", outcome(folder)["step"], run.start.id)
    return found.tensors["parameters"]


def _opened(run: Run) -> Tensor:
    """The weights of an open checkpoint, when it is what the run says and fits."""
    start = run.start
    now = start.sha256_now()
    if now != start.sha256:
        raise ValueError(f"start: {start.folder}/model.safetensors has changed: SHA-256 {now}, expected {start.sha256}")
    ensemble = import_huggingface(start.folder)
    require_same_shape(f"'{start.folder}'", ensemble.spec, run.model)
    _require_same_vocabulary(f"'{start.folder}'", ensemble.shape.inputs, run)
    return ensemble.parameters[0]


def _require_same_vocabulary(start: str, size: int, run: Run) -> None:
    if size != run.vocabulary_size:
        raise ValueError(
            f"start: {start} has a vocabulary of {size:,} tokens, {run.name!r} one of "
            f"{run.vocabulary_size:,}: with entities, both need a world of as many cities"
        )


def _folder(start: Run, out: Path) -> Path | None:
    """Where a run has ended below `out`, whatever it was called there."""
    return next((folder for folder in sorted(out.glob(f"*-{start.id}")) if outcome(folder)), None)


def outcome(folder: Path) -> dict | None:
    """How a run ended, by its folder: status ("finished" or "diverged"), step, seconds. None where it has not."""
    done = folder / "done"
    return json.loads(done.read_text()) if done.exists() else None

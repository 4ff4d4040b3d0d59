"""Weights that a run starts from: the last ones of another run below the same `out`, or those of an open checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from worldfast.display import count
from worldfast.folder import saved
from worldfast.models import import_huggingface
from worldfast.outcome import done, ended_folder
from worldfast.run import OpenCheckpoint, Run, require_same_shape


def require(run: Run, out: Path, first: Collection[str]) -> None:
    """Check that a run can start from its base.

    Parameters
    ----------
    run : Run
    out : Path
        Folder of the runs.
    first : collection of str
        Ids of runs that train before it.

    Raises
    ------
    FileNotFoundError
        The base run is not trained below `out`, or the open checkpoint's folder does not exist.
    ValueError
        The base diverged, has another shape or vocabulary, or has changed.
    """
    start = run.start
    if isinstance(start, OpenCheckpoint):
        _opened(run)
    elif isinstance(start, Run):
        _require_same_inputs(repr(start.name), start.shape.inputs, run)
        if start.id not in first:
            folder = _base(run, start, out)
            if done(folder)["status"] == "diverged":
                raise ValueError(f"start: {start.name!r}, from which {run.name!r} starts, diverged: {folder}")


def weights(run: Run, out: Path) -> Tensor:
    """Return the parameters that a run with a start begins with, float32 [P].

    Raises
    ------
    FileNotFoundError, DamagedError, MismatchError, UnsafeError, OSError
        As from `worldfast.folder.saved`: the base run's last checkpoint is missing, damaged ...
    """
    if isinstance(run.start, OpenCheckpoint):
        return _opened(run)
    _, found = saved(_base(run, run.start, out))
    return found.tensors["parameters"]


def _base(run: Run, start: Run, out: Path) -> Path:
    """Return the folder of the run that a run starts from; raises a FileNotFoundError if it has not ended there."""
    folder = ended_folder(start, out)
    if folder is None:
        raise FileNotFoundError(
            f"start: {start.name!r} ({start.id}), from which {run.name!r} starts, is not trained "
            f"below '{out}': train it first, or in the same call"
        )
    return folder


def _opened(run: Run) -> Tensor:
    """Return the weights of an open checkpoint, after checking that it is the one that the run names and fits it."""
    start = run.start
    now = start.sha256_now()
    if now != start.sha256:
        raise ValueError(f"start: {start.folder}/model.safetensors has changed: SHA-256 {now}, expected {start.sha256}")
    ensemble = import_huggingface(start.folder)
    require_same_shape(f"'{start.folder}'", ensemble.spec, run.model)
    _require_same_inputs(f"'{start.folder}'", ensemble.shape.inputs, run)
    return ensemble.parameters[0]


def _require_same_inputs(start: str, theirs: int, run: Run) -> None:
    ours = run.shape.inputs
    if ours != theirs and run.shape.vectors:
        raise ValueError(f"start: {start} reads vectors of {count(theirs, 'number')}, {run.name!r} of {ours:,}")
    if ours != theirs:
        raise ValueError(
            f"start: {start} has a vocabulary of {count(theirs, 'token')}, {run.name!r} one of {ours:,}: where "
            "entities are tokens, both need a world of as many"
        )

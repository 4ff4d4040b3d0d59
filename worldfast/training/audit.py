"""Check of a run's folder, file by file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from worldfast import checkpoint, files
from worldfast.errors import MismatchError, UnsafeError
from worldfast.folder import done, load, metrics, require_kept, spec_of
from worldfast.locks import locked
from worldfast.reading import Activations, segment_path
from worldfast.run import Run

__all__ = ["Checked", "audit", "checked"]


class Checked(NamedTuple):
    """State of one file of a run.

    Attributes
    ----------
    path : Path
    state : str
        "whole"; "absent" and need not be there; "missing", "damaged", "mistaken" (of another run, step or model),
        "unsafe" (a link, a FIFO ...), "unreadable" (no permission, no descriptor ...); of the folder itself: "held".
    why : str
        The error, "" if there is none.
    """

    path: Path
    state: str
    why: str = ""

    @property
    def fine(self) -> bool:
        return self.state in ("whole", "absent")


def audit(folder: str | os.PathLike) -> Iterator[Checked]:
    """Check every file that a run's folder has or should have, without changing one.

    Parameters
    ----------
    folder : path
        Folder of the run.

    Yields
    ------
    Checked
        spec.json, done, metrics.jsonl, each checkpoint, weights that were kept, the model as `worldfast.training.load`
        gives it, each segment of activations. While a process trains the run its files change, and the folder itself
        comes first, as "held".
    """
    folder = Path(folder)
    if locked(folder):
        yield Checked(folder, "held", "a process trains the run")
    spec = checked(folder / "spec.json", lambda: spec_of(folder))
    yield spec
    ending = checked(folder / "done", lambda: done(folder))
    yield ending if (folder / "done").exists() or not ending.fine else Checked(folder / "done", "absent")
    if not spec.fine:
        return
    run = spec_of(folder)
    yield checked(folder / "metrics.jsonl", lambda: metrics(folder))
    there = folder / "checkpoint"
    whole = checked(there, lambda: files.require_folder(there))
    for path in checkpoint.paths(there) if whole.fine else ():
        yield checked(path, lambda path=path: checkpoint.read(path, run.id))
    yield from _kept(folder, run, ended_as_written=ending.fine)
    yield checked(there, lambda: load(folder))
    if not ending.fine:
        return
    activations = Activations(folder)
    for step in activations.steps:
        yield checked(segment_path(folder, step), lambda step=step: activations.require_whole(step))


def _kept(folder: Path, run: Run, ended_as_written: bool) -> Iterator[Checked]:
    """Yield the state of weights that a run kept, and of those that it should have."""
    there = folder / "weights"
    if not there.exists() and not run.kept_steps:
        return
    whole = checked(there, lambda: files.require_folder(there))
    if not whole.fine:
        yield whole
        return
    for path in checkpoint.paths(there):
        yield checked(path, lambda path=path: checkpoint.read(path, run.id, checkpoint.WEIGHTS))
    lacking = checked(there, lambda: require_kept(folder, run))
    if ended_as_written and not lacking.fine:
        yield lacking._replace(state="missing")


def checked(path: Path, read: Callable[[], object]) -> Checked:
    """Return the state of a file that `read` reads, by the error that it raises."""
    try:
        read()
    except UnsafeError as error:
        return Checked(path, "unsafe", str(error))
    except MismatchError as error:
        return Checked(path, "mistaken", str(error))
    except FileNotFoundError as error:
        return Checked(path, "missing", str(error))
    except OSError as error:
        return Checked(path, "unreadable", str(error))
    except ValueError as error:
        return Checked(path, "damaged", str(error))
    return Checked(path, "whole")

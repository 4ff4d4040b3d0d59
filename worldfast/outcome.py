"""State of a run's training, and its ending: `done` in its folder, which is written last (worldfast.folder)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worldfast import files
from worldfast.display import count
from worldfast.errors import DamagedError, MismatchError
from worldfast.run import Run

__all__ = ["RunOutcome", "done", "ended_folder", "ending_of", "outcome"]

DONE = {"run": str, "status": str, "step": int, "seconds": (int, float), "metrics": dict}


class RunOutcome(NamedTuple):
    """The state of a run's training, in the words that tables, pages and `worldfast study status` use too.

    Attributes
    ----------
    status : str
        "finished" or "diverged" once the run has ended; "open" if it can begin or go on; "waiting" if the run that it
        starts from has not ended; "barred" if that run diverged or is itself barred.
    step : int
        Optimizer steps taken, 0 before the run has ended.
    seconds : float
        Training time, NaN before the run has ended.
    """

    status: str
    step: int = 0
    seconds: float = math.nan

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "diverged")

    @property
    def settled(self) -> bool:
        """True if nothing is left to train: the run has ended, or can never begin."""
        return self.ended or self.status == "barred"

    @property
    def following(self) -> RunOutcome:
        """State of a run that starts from this one and has not ended."""
        return RunOutcome("open" if self.finished else "barred" if self.settled else "waiting")

    @staticmethod
    def of(ending: Mapping[str, Any]) -> RunOutcome:
        """State of a run that has ended, by its last record."""
        return RunOutcome(ending["status"], ending["step"], ending["seconds"])


def outcome(run: Run, out: Path) -> RunOutcome:
    """State of a run's training, and with it which runs wait for which others.

    Parameters
    ----------
    run : Run
    out : Path
        Folder that holds the folders of runs. The start of `run` may stand there under any name.
    """
    if ending := done(out / run.folder_name, run.id):
        return RunOutcome.of(ending)
    if not isinstance(run.start, Run):
        return RunOutcome("open")
    folder = ended_folder(run.start, out)
    base = RunOutcome.of(done(folder, run.start.id)) if folder else outcome(run.start, out)
    return base.following


def done(folder: Path, run: str | None = None) -> dict[str, Any] | None:
    """Return a run's last record, or None before it has ended.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    run : str, optional
        Id of the run that it is thought to be.

    Raises
    ------
    DamagedError
        It is not what was written.
    MismatchError
        It is another run's.
    UnsafeError, OSError
        It is no regular file, or cannot be read.
    """
    path = folder / "done"
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{error}. Put it back, or remove it: the run's last checkpoint then ends it anew") from None
    for name, kind in DONE.items():
        if not isinstance(content.get(name), kind):
            raise DamagedError(f"'{path}' was not written by this version of worldfast: no {name} of a run is in it")
    if content["status"] not in ("finished", "diverged"):
        raise DamagedError(
            f"'{path}' was not written by this version of worldfast: {content['status']!r:.100} is no end"
        )
    if run is not None and content["run"] != run:
        raise MismatchError(f"'{path}' belongs to run {content['run']}, expected {run}")
    return content


def ending_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """Return the last record of a run, as `done` does, after comparing its step with those of the run."""
    ending = done(folder, run.id)
    if ending and ending["status"] == "finished" and ending["step"] != run.steps:
        steps = count(run.steps, "step")
        raise MismatchError(f"'{folder / 'done'}' is of step {ending['step']}, but its run has {steps}")
    return ending


def ended_folder(run: Run, out: Path) -> Path | None:
    """Folder below `out` in which a run has ended, whatever its name was then; None if there is none."""
    named = (folder for folder in files.entries(out) if folder.name.endswith(f"-{run.id}"))
    return next((folder for folder in named if done(folder, run.id)), None)

"""Folder of a run: its spec, its checkpoints, and its model as an ensemble of one."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import torch

from worldfast import checkpoint
from worldfast.errors import MismatchError
from worldfast.models import Ensemble, require_cuda
from worldfast.run import Run

__all__ = ["RunOutcome", "done", "ended_folder", "load", "opened", "outcome", "require_same", "saved", "spec_of"]


class RunOutcome(NamedTuple):
    """The state of a run's training.

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


def outcome(run: Run, out: Path) -> RunOutcome:
    """State of a run's training, and with it which runs wait for which others.

    Parameters
    ----------
    run : Run
    out : Path
        Folder that holds the folders of runs. The start of `run` may stand there under any name.
    """
    if ending := done(out / run.folder_name):
        return RunOutcome(**ending)
    if not isinstance(run.start, Run):
        return RunOutcome("open")
    folder = ended_folder(run.start, out)
    base = RunOutcome(**done(folder)) if folder else outcome(run.start, out)
    return RunOutcome("open" if base.finished else "barred" if base.settled else "waiting")


def done(folder: Path) -> dict | None:
    """Last record of a run by its folder: status ("finished" or "diverged"), step and seconds; None before it ended."""
    path = folder / "done"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def ended_folder(run: Run, out: Path) -> Path | None:
    """Folder below `out` in which a run has ended, whatever its name was then; None if there is none."""
    return next((folder for folder in sorted(out.glob(f"*-{run.id}")) if done(folder)), None)


def load(folder: str | os.PathLike, device="cpu") -> tuple[Run, Ensemble]:
    """Load a run and its newest model from the run's folder.

    Parameters
    ----------
    folder : path
        Folder of the run.
    device : str or torch.device
        Device of the ensemble.

    Returns
    -------
    run : Run
    ensemble : Ensemble
        Ensemble of one.

    Raises
    ------
    FileNotFoundError
        The folder is not a run's, or has no checkpoint.
    DeviceError
        The device cannot be used.

    Examples
    --------
    >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32)
    >>> data = cities.Dataset("distance", rows=64)
    >>> run = wf.Run(data, model=spec, batch=32, checkpoints=1, capture=wf.Capture(layers=()))
    >>> [folder] = wf.train(run, "runs", device="cpu", progress=False)
    >>> same, ensemble = worldfast.training.load(folder)
    >>> same == run, ensemble.members
    (True, 1)
    """
    run, found = saved(folder)
    device = "cpu" if torch.device(device).type == "cpu" else require_cuda(device)
    ensemble = run.model.build(run.shape, device=device, matmul_dtype=run.matmul_dtype)
    ensemble.parameters[0].copy_(found.tensors["parameters"])
    return run, ensemble


def opened(model: str | os.PathLike | tuple[Run, Ensemble], name: str = "model") -> tuple[Run, Ensemble]:
    """Return a run and an ensemble whose member 0 is its model.

    Parameters
    ----------
    model : path or (Run, Ensemble)
        Folder of the run, which is loaded (see `load`), or the pair itself.
    name : str
        Name of the argument, for the error.

    Raises
    ------
    TypeError
        `model` is neither.
    FileNotFoundError
        The folder is not a run's, or has no checkpoint.
    """
    if isinstance(model, (str, os.PathLike)):
        return load(model)
    match model:
        case (Run(), Ensemble()):
            return model
    raise TypeError(f"{name}: expected a run's folder or (run, ensemble), got {model!r:.100}")


def saved(folder: str | os.PathLike, step: int | None = None) -> tuple[Run, checkpoint.Checkpoint]:
    """Return a run and its checkpoint, from the run's folder.

    Parameters
    ----------
    folder : path
        Folder of the run.
    step : int, optional
        Step of the checkpoint; None means the newest.

    Raises
    ------
    FileNotFoundError
        The folder is not a run's, or has no such checkpoint.
    """
    folder, run = Path(folder), spec_of(folder)
    if step is not None:
        return run, checkpoint.of_step(folder / "checkpoint", step, run.id)
    found = checkpoint.newest(folder / "checkpoint", run.id)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    return run, found


def require_same(folder: Path, run: Run) -> None:
    """Raise a MismatchError if a folder is another run's, or the run's world is no longer the one of its folder or id."""
    path = folder / "spec.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, now in (("id", run.id), ("world_sha256", run.data.digest)):
            if before.get(name) != now:
                raise MismatchError(
                    f"{path}: {name} is {before.get(name)}, but that of this run is {now}: put its world back as it "
                    "was, or make the run anew, which is then another one"
                )
    run.require_same_world()


def spec_of(folder: str | os.PathLike) -> Run:
    """Return the run to which a folder belongs.

    Raises
    ------
    FileNotFoundError
        The folder is not a run's.
    ValueError
        Another version of worldfast wrote the spec, and it means something else here.
    MismatchError
        The world of the run has changed.
    """
    spec = Path(folder) / "spec.json"
    if not spec.exists():
        raise FileNotFoundError(f"{folder} is not a run's folder: it has no spec.json")
    content = json.loads(spec.read_text(encoding="utf-8"))
    written = f"{spec} was written by worldfast {content.get('origin', {}).get('worldfast', 'of unknown version')}"
    try:
        run = Run.from_json(content["run"])
    except MismatchError as error:
        raise MismatchError(f"{spec}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{written}, this one cannot read it: {error}") from None
    if run.id != content["id"]:
        raise ValueError(f"{written} as run {content['id']}; here the same spec is {run.id}: train it again")
    return run

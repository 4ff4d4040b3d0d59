"""The folder of a run, opened: its spec, its checkpoints, and its model as an ensemble of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from worldfast.models import Ensemble, require_cuda
from worldfast.run import Run
from worldfast.training import checkpoint

__all__ = ["load", "opened", "saved", "spec_of"]


def load(folder: str | os.PathLike, device="cpu") -> tuple[Run, Ensemble]:
    """A run and its newest model, as an ensemble of one, from the run's folder.

    FileNotFoundError where the folder is no run's or has no checkpoint.
    """
    run, found = saved(folder)
    device = "cpu" if torch.device(device).type == "cpu" else require_cuda(device)
    ensemble = run.model.build(run.shape, device=device, matmul_dtype=run.matmul_dtype)
    ensemble.parameters[0].copy_(found.tensors["parameters"])
    return run, ensemble


def opened(model: str | os.PathLike | tuple[Run, Ensemble], name: str = "model") -> tuple[Run, Ensemble]:
    """A run and an ensemble whose member 0 is its model, given as such or as the run's folder (see `load`).

    TypeError naming the argument where it is neither.
    """
    if isinstance(model, (str, os.PathLike)):
        return load(model)
    match model:
        case (Run(), Ensemble()):
            return model
    raise TypeError(f"{name}: expected a run's folder or (run, ensemble), got {model!r:.100}")


def saved(folder: str | os.PathLike, step: int | None = None) -> tuple[Run, checkpoint.Checkpoint]:
    """A run and its checkpoint at a step (None: the newest), from the run's folder.

    FileNotFoundError where the folder is no run's or has no such checkpoint.
    """
    folder, run = Path(folder), spec_of(folder)
    if step is not None:
        return run, checkpoint.of_step(folder / "checkpoint", step, run.id)
    found = checkpoint.newest(folder / "checkpoint", run.id)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    return run, found


def spec_of(folder: str | os.PathLike) -> Run:
    """The run whose folder this is.

    FileNotFoundError where it is no run's; ValueError where a version of worldfast wrote it whose specs say something
    else.
    """
    spec = Path(folder) / "spec.json"
    if not spec.exists():
        raise FileNotFoundError(f"{folder} is not a run's folder: it has no spec.json")
    content = json.loads(spec.read_text())
    written = f"{spec} was written by worldfast {content.get('origin', {}).get('worldfast', 'of unknown version')}"
    try:
        run = Run.from_json(content["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{written}, this one cannot read it: {error}") from None
    if run.id != content["id"]:
        raise ValueError(f"{written} as run {content['id']}; here the same spec is {run.id}: train it again")
    return run

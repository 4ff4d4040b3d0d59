"""Folder of a run as everything reads it: its spec, how it ended, its model and its metrics, each checked.

A run that has ended is read at its last step or not at all, never at an older one under the same id; an open one at its
newest checkpoint. These files are JSON with a checksum (worldfast.files.write_json)::

    spec.json    id, run (the spec), world_sha256, steps, checkpoint_steps, captured, origin
    done         run (the id), status ("finished" or "diverged"), step, seconds, and metrics: bytes and crc32 of
                 metrics.jsonl. Every checkpoint says the same of metrics.jsonl as it was then
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worldfast import checkpoint, files
from worldfast.display import count, first_of
from worldfast.errors import CodeError, DamagedError, MismatchError, TaskError, VersionError, whole
from worldfast.models import Ensemble, require_cuda
from worldfast.outcome import done, ending_of
from worldfast.run import Run

__all__ = [
    "load",
    "metrics",
    "named_id",
    "opened",
    "prefix",
    "read_spec",
    "require_kept",
    "require_same",
    "saved",
    "spec_content",
    "spec_of",
    "steps_of",
]


SPEC = {
    "id": str,
    "run": dict,
    "world_sha256": str,
    "steps": int,
    "checkpoint_steps": list,
    "captured": dict,
    "origin": dict,
}
ID_IN_NAME = re.compile(r".*-([0-9a-f]{12})", re.DOTALL)


def load(folder: str | os.PathLike, device="cpu", step: int | None = None) -> tuple[Run, Ensemble]:
    """Load a run and its model from the run's folder: the last one, or of an open run the newest.

    Parameters
    ----------
    folder : path
        Folder of the run.
    device : str or torch.device
        Device of the ensemble.
    step : int, optional
        Step of an earlier model: one of the last two checkpoints, or one that the run kept (`Run.keep`).

    Returns
    -------
    run : Run
    ensemble : Ensemble
        Ensemble of one.

    Raises
    ------
    TypeError, ValueError
        `step` is not a step.
    FileNotFoundError
        The folder is not a run's, its last checkpoint is missing, or there is none of `step`.
    DamagedError, MismatchError, UnsafeError, OSError
        As from `saved`.
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
    run, found = saved(folder, step)
    device = "cpu" if torch.device(device).type == "cpu" else require_cuda(device)
    ensemble = run.model.build(run.shape, device=device, matmul_dtype=run.matmul_dtype)
    ensemble.parameters[0].copy_(found.parameters(ensemble.parameters.shape[1], folder))
    return run, ensemble


def opened(
    model: str | os.PathLike | tuple[Run, Ensemble], name: str = "model", step: int | None = None
) -> tuple[Run, Ensemble]:
    """Return a run and an ensemble whose member 0 is its model.

    Parameters
    ----------
    model : path or (Run, Ensemble)
        Folder of the run, which is loaded (see `load`), or the pair itself.
    name : str
        Name of the argument, for the error.
    step : int, optional
        Step of the model, as for `load`.

    Raises
    ------
    TypeError
        `model` is neither.
    ValueError
        A step of a pair, whose weights are those that it has.
    FileNotFoundError
        The folder is not a run's, or has no such checkpoint.
    """
    if isinstance(model, (str, os.PathLike)):
        return load(model, step=step)
    if step is not None:
        raise ValueError(f"step: {step!r} of a run's folder; (run, ensemble) has the weights of one step already")
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
        Step of the checkpoint, or of weights that the run kept, which have no moments. None means the last one of a run
        that has ended, and otherwise the newest.

    Raises
    ------
    TypeError, ValueError
        `step` is not a step.
    FileNotFoundError
        The folder is not a run's, or has no such checkpoint.
    DamagedError
        A file is not what was written. A run that has ended is not read at an older step in its place.
    MismatchError
        A file is of another run, step or model.
    UnsafeError
        A file is a link, a FIFO ...
    OSError
        A file cannot be read.
    """
    folder, run = Path(folder), spec_of(folder)
    there = folder / "checkpoint"
    if step is not None:
        done(folder, run.id)
        return run, checkpoint.of_step(there, whole("step", step, 0), run.id, folder / "weights")
    if ending := ending_of(folder, run):
        advice = (
            f"{folder} has ended at step {ending['step']}: put its checkpoint back, or remove it and train it again"
        )
        try:
            return run, checkpoint.of_step(there, ending["step"], run.id)
        except (FileNotFoundError, DamagedError) as error:
            raise type(error)(f"{error}. {advice}") from None
    found = checkpoint.newest(there, run.id)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    return run, found


def require_same(folder: Path, run: Run) -> None:
    """Raise a MismatchError if a folder is another run's, or the run's world is no longer that of its folder or id."""
    path = folder / "spec.json"
    try:
        before = files.read_json(path)
    except FileNotFoundError:
        before = None
    if before is not None:
        for name, now in (("id", run.id), ("world_sha256", run.data.digest)):
            if before.get(name) != now:
                raise MismatchError(
                    f"{path}: {name} is {before.get(name)}, but that of this run is {now}: put its world back as it "
                    "was, or make the run anew, which is then another one"
                )
    run.require_same_world()


def steps_of(folder: str | os.PathLike) -> list[int]:
    """Return the steps at which a run's model can be loaded: its last checkpoints, and weights that it kept."""
    folder = Path(folder)
    return sorted({*checkpoint.steps(folder / "checkpoint"), *checkpoint.steps(folder / "weights")})


def require_kept(folder: Path, run: Run) -> None:
    """Raise a ValueError if a run has passed steps whose weights it is asked to keep, and they are not there."""
    if not run.kept_steps:
        return
    ending = done(folder, run.id)
    reached = ending["step"] if ending else max(checkpoint.steps(folder / "checkpoint"), default=-1)
    there = checkpoint.steps(folder / "weights")
    missing = [f"{step:,}" for step in run.kept_steps if step <= reached and step not in there]
    if missing:
        raise ValueError(
            f"keep: '{folder}' is at step {reached:,} of {run.steps:,} and has not kept the weights of step "
            f"{first_of(missing)}; kept: {first_of([f'{step:,}' for step in there]) or 'none'}. Remove the folder to "
            "train it again with all of them, or ask for none before this step"
        )


def named_id(folder: str | os.PathLike) -> str | None:
    """Return the id of a run in which the name of a folder ends, or None: a folder may be renamed."""
    found = ID_IN_NAME.fullmatch(Path(os.path.abspath(folder)).name)
    return found[1] if found else None


def spec_content(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what spec.json in a run's folder says; the spec itself, and the world that it names, are not looked at.

    Raises
    ------
    FileNotFoundError
        The folder is not a run's.
    DamagedError
        It is not what was written.
    VersionError
        An earlier version of worldfast wrote it, without a checksum.
    MismatchError
        It is of another run than the one in whose id the name of the folder ends.
    UnsafeError, OSError
        As from `worldfast.files.read_whole`.
    """
    path = Path(folder) / "spec.json"
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise _no_spec(path) from None
    _require_fields(path, content)
    _require_own_name(path, content)
    return content


def _require_fields(path: Path, content: Mapping[str, Any]) -> None:
    """Raise an error if a spec.json lacks what each has: whoever computes a checksum may have left it out."""
    lacking = next((name for name, kind in SPEC.items() if not isinstance(content.get(name), kind)), None)
    if lacking is None:
        numbers = {"checkpoint_steps": content["checkpoint_steps"], "captured": content["captured"].get("layers")}
        whole_ones = {name: isinstance(one, list) and all(type(n) is int for n in one) for name, one in numbers.items()}
        lacking = next((name for name, fine in whole_ones.items() if not fine), None)
    if lacking is None:
        return
    version, why = files.version_of(content), f"no {lacking} of a run is in it"
    if version not in (None, files.this_version()):
        raise VersionError(f"'{path}' was written by worldfast {version}, {why}: {files.advice_on(version)}")
    raise DamagedError(f"'{path}' was not written by this version of worldfast: {why}")


def _require_own_name(path: Path, content: Mapping[str, Any]) -> None:
    """Raise a MismatchError if the name of a spec's folder ends in the id of another run."""
    named = named_id(path.parent)
    if named not in (None, content.get("id")):
        raise MismatchError(
            f"'{path}' is of run {content.get('id')}, but the name of its folder ends in {named}, another's id: put "
            "that run's files back, or give the folder the name of the run that is in it"
        )


def spec_of(folder: str | os.PathLike) -> Run:
    """Return the run to which a folder belongs; raises as `read_spec` does."""
    return read_spec(folder)[0]


def read_spec(folder: str | os.PathLike) -> tuple[Run, dict[str, Any]]:
    """Return the run to which a folder belongs, and all that its spec.json says.

    Raises
    ------
    FileNotFoundError
        The folder is not a run's.
    DamagedError
        The spec is not what was written.
    VersionError
        Another version of worldfast wrote it, and it means something else here.
    CodeError
        The class or task that the spec names is not defined in this process, or is another here.
    ValueError
        The spec is of this version, and has fields that it does not have.
    MismatchError
        The world of the run has changed, or the spec is another run's than the name of the folder says.
    """
    path = Path(folder) / "spec.json"
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise _no_spec(path) from None
    version = files.version_of(content) or "of unknown version"
    same = version == files.origin("cpu")["worldfast"]
    written = f"{path} was written by worldfast {'of this version' if same else version}"
    try:
        run = Run.from_json(content["run"])
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if same:
            kind = CodeError if isinstance(error, CodeError | TaskError) else ValueError
            raise kind(f"{written}, which cannot read it: {error}") from None
        raise VersionError(f"{written}; this one cannot read it ({error}): {files.advice_on(version)}") from None
    if run.id != content.get("id"):
        why = ", as the code or the world that it names has changed" if same else ""
        other = f"{written} as run {content.get('id')}; here the same spec is {run.id}{why}: train it again"
        raise (MismatchError if same else VersionError)(other)
    _require_fields(path, content)
    _require_own_name(path, content)
    return run, content


def _no_spec(path: Path) -> FileNotFoundError:
    advice = ""
    if (path.parent / "config.json").exists():
        advice = "; it is a model of Hugging Face, which worldfast.import_huggingface opens"
    elif any((path.parent / name).exists() for name in ("checkpoint", "done", "metrics.jsonl")):
        advice = "; a run was trained there: put it back, or call train with that run again, which writes it anew"
    return FileNotFoundError(f"{path.parent} is not a run's folder: it has no {path.name}{advice}")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl: all of a run that has ended, otherwise those up to its checkpoint.

    Raises
    ------
    FileNotFoundError, DamagedError
        The file is missing, or not what was written.
    MismatchError, UnsafeError, OSError
        As from `saved`.
    """
    run = spec_content(folder)["id"]
    if ending := done(folder, run):
        record, when = ending["metrics"], "when the run ended"
    else:
        found = checkpoint.newest(folder / "checkpoint", run)
        if found is None:
            return []
        record, when = found.state.get("metrics", {}), "at its newest checkpoint"
    return [json.loads(line) for line in prefix(folder / "metrics.jsonl", record, when).splitlines()]


def prefix(path: Path, record: Mapping[str, int], when: str) -> bytearray:
    """Return the first bytes of a file that only grows, checked.

    Parameters
    ----------
    path : Path
    record : mapping
        bytes: how many there were; crc32: their checksum.
    when : str
        Moment of the record, for the error.

    Raises
    ------
    FileNotFoundError, DamagedError
        The file is missing, or its beginning is not what was recorded.
    UnsafeError, OSError
        It is no regular file, or cannot be read.
    """
    advice = "put it back as it was, or remove the checkpoints and `done` to begin again"
    if not (isinstance(record, Mapping) and all(isinstance(record.get(name), int) for name in ("bytes", "crc32"))):
        raise DamagedError(f"{path}: nothing says how long it was {when}: another version of worldfast was here")
    try:
        content = files.read_whole(path)
    except FileNotFoundError:
        had = count(record["bytes"], "byte")
        raise FileNotFoundError(f"{path} is missing, but had {had} {when}: {advice}") from None
    if len(content) < record["bytes"]:
        raise DamagedError(f"{path} has {count(len(content), 'byte')}, but had {record['bytes']:,} {when}: {advice}")
    del content[record["bytes"] :]
    if files.checksum(content) != record["crc32"]:
        raise DamagedError(f"{path} is damaged: its checksum is not the one {when}: {advice}")
    return content

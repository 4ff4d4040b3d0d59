"""Checkpoints: one checksummed safetensors file for a member and a step; the last two are kept.

checkpoint/step-00001234.safetensors holds `parameters`, `exp_avg` and `exp_avg_sq`, float32 [P] in the order of
`worldfast.models.transformer.Weights`. Its metadata has a JSON object under "worldfast": `step` (optimizer steps
taken), `run` (the content hash of the run), `state` (everything else the trainer resumes from), `origin`, and `crc32`
over all of that and the tensors. The position in the data follows from the step, since a dataset is a function.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from worldfast.errors import DamagedError, MismatchError
from worldfast.files import checksum, write_whole

__all__ = ["Checkpoint", "newest", "of_step", "read", "remove_others", "save"]

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """State from which a run resumes.

    Attributes
    ----------
    step : int
        Optimizer steps taken.
    tensors : dict of str to Tensor
        Parameters and moments by name.
    state : dict
        Further values, which JSON keeps.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict


def save(folder: Path, checkpoint: Checkpoint, run: str, origin: dict) -> Path:
    """Write a checkpoint and remove all but the last two.

    Parameters
    ----------
    folder : Path
        Folder of the run's checkpoints.
    checkpoint : Checkpoint
    run : str
        Content hash of the run.
    origin : dict
        Version, commit and machine that write it.

    Returns
    -------
    Path
        File of the checkpoint.

    Raises
    ------
    OSError
        The file cannot be written; earlier checkpoints remain.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {"step": checkpoint.step, "run": run, "state": checkpoint.state, "origin": origin}
    header["crc32"] = _checksum(header, tensors)
    path = _path(folder, checkpoint.step)
    write_whole(path, *_contents(tensors, {"worldfast": json.dumps(header)}))
    remove_others(folder, checkpoint.step)
    return path


def remove_others(folder: Path, step: int) -> None:
    """Keep the checkpoint of a step and the one before it; newer ones are damaged and were skipped."""
    there = _files(folder)
    kept = [file for file in there if file <= _path(folder, step)][-KEPT:]
    for file in there:
        if file not in kept:
            file.unlink()


def newest(folder: Path, run: str) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there is none.

    Each damaged file that is skipped gives a warning, which says what is used instead.

    Parameters
    ----------
    folder : Path
        Folder of the run's checkpoints.
    run : str
        Content hash of the run.

    Raises
    ------
    MismatchError
        A checkpoint belongs to another run.
    """
    there = _files(folder)[::-1]
    for path, before in zip(there, [*there[1:], None]):
        try:
            return read(path, run)
        except DamagedError as error:
            instead = f"the one before it, {before.name}, is used" if before else "none before it is left"
            warnings.warn(f"{error}; {instead}", stacklevel=2)
    return None


def of_step(folder: Path, step: int, run: str) -> Checkpoint:
    """Return the checkpoint of a step.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint of this step.
    DamagedError, MismatchError
        As from `read`.
    """
    path, there = _path(folder, step), _files(folder)
    if path not in there:
        stems = ", ".join(file.stem for file in there) or "none"
        raise FileNotFoundError(f"{folder} has no checkpoint of step {step}; there: {stems}")
    return read(path, run)


def read(path: Path, run: str) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises
    ------
    DamagedError
        The content is not what was written.
    MismatchError
        The checkpoint belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["worldfast"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header.pop("crc32") != _checksum(header, tensors):
            raise ValueError("its checksum does not fit its content")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"checkpoint {path} is damaged: {error}") from None
    if header["run"] != run:
        raise MismatchError(f"checkpoint {path} belongs to run {header['run']}, expected {run}")
    return Checkpoint(header["step"], tensors, header["state"])


def _contents(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> list[bytes | memoryview]:
    """Return the parts of a file of float32 tensors: the bytes of safetensors.torch.save, which copies the tensors
    twice (10 GB for a model of 400 million parameters).
    """
    tensors = dict(sorted(tensors.items()))
    header, end = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(tensor.numpy().data for tensor in tensors.values())]


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))


def _checksum(header: dict, tensors: dict[str, torch.Tensor]) -> int:
    parts = [json.dumps(header, sort_keys=True).encode()]
    for name, tensor in sorted(tensors.items()):
        parts += [f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), tensor.numpy()]
    return checksum(*parts)

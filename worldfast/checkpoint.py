"""Checkpoints: one whole, checksummed safetensors file for a member and a step; the last two are kept.

checkpoint/step-00001234.safetensors holds `parameters`, `exp_avg` and `exp_avg_sq`, float32 [P] in the order
of `worldfast.models.transformer.Weights`, and in its metadata under "worldfast" a JSON object: `step` (optimizer
steps taken), `run` (the content hash of the run), `state` (what else the trainer goes on from), `origin`, and
`crc32` over all of that and the tensors. The position in the data is the step, since a dataset is a
function.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from worldfast.files import checksum, write_whole

__all__ = ["Checkpoint", "Damaged", "newest", "of_step", "read", "remove_others", "save"]

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from: optimizer steps taken, tensors by name, and a state that JSON keeps."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict


class Damaged(ValueError):
    """A file is not what was written."""


def save(folder: Path, checkpoint: Checkpoint, run: str, origin: dict) -> Path:
    """Writes a checkpoint of the run with this hash and removes all but the last two. OSError where it
    cannot; those that were there then still are."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {"step": checkpoint.step, "run": run, "state": checkpoint.state, "origin": origin}
    header["crc32"] = _checksum(header, tensors)
    path = _path(folder, checkpoint.step)
    write_whole(path, *_contents(tensors, {"worldfast": json.dumps(header)}))
    remove_others(folder, checkpoint.step)
    return path


def remove_others(folder: Path, step: int) -> None:
    """Keeps the checkpoint of a step and the one before it. Newer ones are damaged and were passed over."""
    there = _files(folder)
    kept = [file for file in there if file <= _path(folder, step)][-KEPT:]
    for file in there:
        if file not in kept:
            file.unlink()


def newest(folder: Path, run: str) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none. Warns of each damaged file that it
    passes over, and says what is used instead.

    ValueError where a checkpoint belongs to another run.
    """
    there = _files(folder)[::-1]
    for path, before in zip(there, [*there[1:], None]):
        try:
            return read(path, run)
        except Damaged as error:
            instead = f"the one before it, {before.name}, is used" if before else "none before it is left"
            warnings.warn(f"{error}; {instead}", stacklevel=2)
    return None


def of_step(folder: Path, step: int, run: str) -> Checkpoint:
    """The checkpoint of a step. FileNotFoundError where there is none, else what `read` raises."""
    path, there = _path(folder, step), _files(folder)
    if path not in there:
        stems = ", ".join(file.stem for file in there) or "none"
        raise FileNotFoundError(f"{folder} has no checkpoint of step {step}; there: {stems}")
    return read(path, run)


def read(path: Path, run: str) -> Checkpoint:
    """The checkpoint in a file. Damaged where it is not what was written, ValueError where it is of another
    run."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["worldfast"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header.pop("crc32") != _checksum(header, tensors):
            raise ValueError("its checksum does not fit its content")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"checkpoint {path} is damaged: {error}") from None
    if header["run"] != run:
        raise ValueError(f"checkpoint {path} belongs to run {header['run']}, expected {run}")
    return Checkpoint(header["step"], tensors, header["state"])


def _contents(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> list[bytes | memoryview]:
    """A file of float32 tensors in parts: the bytes that safetensors.torch.save would give, which copies the
    tensors twice, 10 GB of a model of 400 million parameters.
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

"""Checkpoints: one checksummed safetensors file for a member and a step; the last two are kept.

weights/step-00001234.safetensors, of a run that keeps more (`Run.keep`), is the same without the moments: the model at
a step, from which nothing resumes.

checkpoint/step-00001234.safetensors holds `parameters`, `exp_avg` and `exp_avg_sq`, float32 [P] in the order of
`worldfast.models.transformer.Weights`. Its metadata has a JSON object under "worldfast": `step` (optimizer steps
taken), `run` (the content hash of the run), `state` (everything else the trainer resumes from), `origin`, and `crc32`
over all of that and the tensors. The position in the data follows from the step, since a dataset is a function.

A file is read by its bytes, not by its path, which the safetensors library takes as UTF-8 only. Whatever it says of
itself is compared with what was asked for: the step with its name, the run, and the number of parameters.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worldfast.display import first_of
from worldfast.errors import DamagedError, MismatchError, nearest_steps
from worldfast.files import checksum, entries, read_whole, require_folder, write_whole

KEPT = 2
NAME = re.compile(r"step-(-[0-9]{7,}|[0-9]{8,})\.safetensors")  # of a file; others are nobody's, and stay as they are
NAMES = ("exp_avg", "exp_avg_sq", "parameters")
WEIGHTS = ("parameters",)  # of a file in weights/


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

    def require_size(self, size: int, folder: str | os.PathLike) -> None:
        """Raise a MismatchError that names the run's folder if a model with `size` numbers did not make this."""
        for name, tensor in sorted(self.tensors.items()):
            if tensor.shape != (size,):
                shape = f"{list(tensor.shape)}, expected [{size}]"
                raise MismatchError(f"{folder}: checkpoint {name} has shape {shape}, at step {self.step}")

    def parameters(self, size: int, folder: str | os.PathLike) -> torch.Tensor:
        """Return the model, float32 [size]; raises as `require_size`."""
        self.require_size(size, folder)
        return self.tensors["parameters"]


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
    path = _write(folder, checkpoint, run, origin)
    remove_others(folder, checkpoint.step)
    return path


def save_weights(folder: Path, checkpoint: Checkpoint, run: str, origin: dict) -> Path:
    """Write the parameters of a checkpoint alone; parameters as for `save`, whose error it raises."""
    weights = {name: checkpoint.tensors[name] for name in WEIGHTS}
    return _write(folder, replace(checkpoint, tensors=weights), run, origin)


def _write(folder: Path, checkpoint: Checkpoint, run: str, origin: dict) -> Path:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {"step": checkpoint.step, "run": run, "state": checkpoint.state, "origin": origin}
    header["crc32"] = _checksum(header, tensors)
    path = path_of(folder, checkpoint.step)
    write_whole(path, *contents(tensors, {"worldfast": json.dumps(header)}))
    return path


def remove_others(folder: Path, step: int) -> None:
    """Keep the checkpoint of a step and the one before it; newer ones are damaged and were skipped."""
    there = paths(folder)
    kept = [file for file in there if file <= path_of(folder, step)][-KEPT:]
    for file in there:
        if file not in kept:
            file.unlink()


def newest(folder: Path, run: str) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there is no file of one.

    Each damaged file that is skipped gives a warning, which says what is used instead.

    Parameters
    ----------
    folder : Path
        Folder of the run's checkpoints.
    run : str
        Content hash of the run.

    Raises
    ------
    DamagedError
        There are files, and none is whole.
    MismatchError, UnsafeError, OSError
        As from `read`: a file that cannot be opened may well be whole.
    """
    there = paths(folder)[::-1]
    for path, before in zip(there, [*there[1:], None]):
        try:
            return read(path, run)
        except DamagedError as error:
            if before is None:
                raise DamagedError(
                    f"{error}; none before it is left. Put a whole one back, or remove {folder} to begin again"
                ) from None
            warnings.warn(f"{error}; the one before it, {before.name}, is used", stacklevel=2)
    return None


def of_step(folder: Path, step: int, run: str, weights: Path | None = None) -> Checkpoint:
    """Return the checkpoint of a step.

    Parameters
    ----------
    folder : Path
        Folder of the run's checkpoints.
    step : int
    run : str
        Content hash of the run.
    weights : Path, optional
        Folder of weights that the run kept: those of steps without a checkpoint are read there.

    Raises
    ------
    FileNotFoundError
        Nothing of this step is there; the message names the nearest steps that are.
    DamagedError, MismatchError, UnsafeError, OSError
        As from `read`.
    """
    places = {folder: NAMES} if weights is None else {folder: NAMES, weights: WEIGHTS}
    for place, names in places.items():
        if path_of(place, step) in paths(place):
            return read(path_of(place, step), run, names)
    known = sorted({one for place in places for one in steps(place)})
    there = [path_of(folder, one).stem for one in known]
    raise FileNotFoundError(
        f"{path_of(folder, step)} is missing, and there is no checkpoint of step {step}; there: "
        f"{first_of(there, 4) or 'none'}; {nearest_steps(step, known)}. A run with keep='all' keeps the weights of each"
        " checkpoint"
    )


def read(path: Path, run: str | None, names: Sequence[str] = NAMES) -> Checkpoint:
    """Return the checkpoint in a file.

    Parameters
    ----------
    path : Path
    run : str or None
        Content hash of the run; None if nobody knows it.
    names : sequence of str
        Tensors that the file holds, sorted: NAMES of a checkpoint, WEIGHTS of weights that were kept.

    Raises
    ------
    DamagedError
        The content is not what was written.
    MismatchError
        The checkpoint belongs to another run, is of another step than its name says, or of another model.
    UnsafeError
        The path is a link, a FIFO ...
    OSError
        The file cannot be opened or read.
    """
    content = read_whole(path)
    try:
        header, tensors = _parsed(content)
        if header.pop("crc32") != _checksum(header, tensors):
            raise DamagedError("its checksum does not fit its content")
        found, its_run = Checkpoint(header["step"], tensors, header["state"]), header["run"]
        if not (isinstance(found.step, int) and isinstance(found.state, dict)):
            raise DamagedError("no step and state of a run are in it")
    except DamagedError as error:
        raise DamagedError(f"checkpoint {path} is damaged: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        expected = "the length, the JSON header and the float32 tensors of a safetensors file of a run"
        raise DamagedError(f"checkpoint {path} is damaged: expected {expected}") from None
    if run not in (None, its_run):
        raise MismatchError(f"checkpoint {path} belongs to run {its_run}, expected {run}")
    if path.name != path_of(path.parent, found.step).name:
        raise MismatchError(f"checkpoint {path} is of step {found.step}, which its name is not: another's copy?")
    if tuple(sorted(tensors)) != tuple(names):
        raise MismatchError(f"checkpoint {path} holds {', '.join(sorted(tensors))}, expected {', '.join(names)}")
    return found


def _parsed(content: bytearray) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return what `contents` made a file of; the tensors share the memory of `content`."""
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length].decode("utf-8"))
    header = json.loads(entries.pop("__metadata__")["worldfast"])
    tensors, end = {}, 0
    for name in sorted(entries):
        entry, begin = entries[name], end
        end = begin + 4 * math.prod(entry["shape"])
        if entry["dtype"] != "F32" or entry["data_offsets"] != [begin, end] or 8 + length + end > len(content):
            raise DamagedError(f"the place of {name:.100} in it is not where it was written")
        there = torch.frombuffer(content, dtype=torch.float32, count=(end - begin) // 4, offset=8 + length + begin)
        tensors[name] = there.view(entry["shape"])
    if 8 + length + end != len(content):
        raise DamagedError(f"it has {len(content):,} bytes, of which {8 + length + end:,} were written")
    return header, tensors


def contents(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> list[bytes | memoryview]:
    """Return the parts of a safetensors file of contiguous float32 tensors and texts, the same whenever it is made.

    safetensors.torch.save copies the tensors twice (10 GB for a model of 400 million parameters), and writes several
    texts in an order that differs from call to call.
    """
    tensors = dict(sorted(tensors.items()))
    header, end = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(tensor.numpy().data for tensor in tensors.values())]


def path_of(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint of a step."""
    return folder / f"step-{step:08d}.safetensors"


def paths(folder: Path) -> list[Path]:
    """Return the files of a run's checkpoints, by step; raises an UnsafeError if their folder is a link, a file ..."""
    require_folder(folder)
    return [path for path in entries(folder) if NAME.fullmatch(path.name)]


def steps(folder: Path) -> list[int]:
    """Return the steps of the files in a folder of checkpoints, ascending."""
    return sorted(int(path.stem[5:]) for path in paths(folder))


def _checksum(header: dict, tensors: dict[str, torch.Tensor]) -> int:
    parts = [json.dumps(header, sort_keys=True).encode()]
    for name, tensor in sorted(tensors.items()):
        parts += [f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), tensor.numpy()]
    return checksum(*parts)

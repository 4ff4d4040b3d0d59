"""Weights in a folder as transformers saves them: model.safetensors, the same in shards, or pytorch_model.bin.

A folder is someone else's: no code in it runs (a .bin is a pickle, of which torch.load takes tensors only), a shard is
a file of the folder, and sizes are compared with bytes before memory is taken. Links are followed, since the cache of
Hugging Face consists of them.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldfast import files
from worldfast.errors import DamagedError, UnsafeError

# in the order in which transformers looks for them
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
LARGEST_INDEX = 1 << 26  # bytes
OTHERS = {
    ".gguf": "which llama.cpp reads",
    ".h5": "of TensorFlow",
    ".msgpack": "of Flax",
    ".onnx": "of ONNX",
    ".pt": "of torch, under a name of their own",
    ".pth": "of torch, under a name of their own",
}


def require_files(folder: Path) -> None:
    """Raise a FileNotFoundError that names what is there, and what to do, if config.json or weights are missing."""
    wanted = None
    if not (folder / "config.json").is_file():
        wanted, advice = "config.json", "a folder that save_pretrained of transformers wrote has one"
        if (folder / "spec.json").is_file():
            advice = "it is a run's folder, of which export_huggingface writes one"
    elif not any((folder / name).is_file() for name in FILES):
        wanted, advice = f"{FILES[0]}, {', '.join(FILES[1:-1])} or {FILES[-1]}", _advice(folder)
    if wanted:
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        shown = ", ".join(map(repr, there[:12])) + (" ..." if len(there) > 12 else "") if there else "nothing"
        raise FileNotFoundError(f"{folder} is no open checkpoint: it has no {wanted}; there: {shown}; {advice}")


def _advice(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if any(name.startswith("adapter_") for name in names):
        return "an adapter has no weights of its own: merge it into its model (merge_and_unload) and save that"
    for name in names:
        if what := OTHERS.get(Path(name).suffix):
            return f"{name!r} has weights {what}: open them with transformers and write them with save_pretrained"
    return "save the model again with save_pretrained, which writes them"


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any] | None]:
    """Read the weights of a folder that has some.

    Returns
    -------
    path : Path
        File that was read, or the index of those that were, for errors.
    tensors : dict of str to Tensor
        Weights by name, dense, on the CPU, each with bytes of its own.
    stated : dict or None
        Statement of `worldfast.training.export_huggingface` about them; None of files that others wrote.

    Raises
    ------
    FileNotFoundError
        A shard is missing.
    DamagedError
        A file cannot be read, or is not what the index says.
    UnsafeError
        A shard lies outside the folder, a .bin holds more than tensors, or sizes are claimed that no bytes are there
        for.
    """
    path = next(folder / name for name in FILES if (folder / name).is_file())
    if path.suffix == ".json":
        return path, _read_shards(path), None
    tensors, metadata = _read(path)
    try:
        stated = json.loads(metadata.get("worldfast", "null"))
    except (ValueError, RecursionError):
        stated = ()
    if stated is None or isinstance(stated, dict) and isinstance(stated.get("config", {}), dict):
        return path, tensors, stated
    raise DamagedError(f"{path} is damaged: its metadata are not those of an export: copy it again")


# ---- shards ----


def _read_shards(index: Path) -> dict[str, Tensor]:
    shards, total = _shards(index)
    for shard in shards:
        if not shard.is_file():
            raise FileNotFoundError(f"{index} names {shard.name!r}, which is not there: copy it too")
    held = sum(shard.stat().st_size for shard in shards)
    if total > held:
        raise UnsafeError(f"{index} claims {total:,} bytes of weights, but its files have {held:,}")
    tensors: dict[str, Tensor] = {}
    for shard, names in shards.items():
        found, _ = _read(shard)
        if missing := sorted(names - found.keys()):
            raise DamagedError(f"{index} says that {missing[0]!r} is in {shard.name!r}, where it is not")
        if twice := sorted(found.keys() & tensors.keys()):
            raise DamagedError(f"{shard}: {twice[0]!r} is in another shard too")
        tensors |= found
    return tensors


def _shards(index: Path) -> tuple[dict[Path, set[str]], int]:
    """Names of the weights in each file that an index names, and the bytes that it claims for all."""
    raw = files.read_whole(index, LARGEST_INDEX, files.followed)
    try:
        content = json.loads(raw)
        named = dict(content["weight_map"])
        total = (content.get("metadata") or {}).get("total_size", 0)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        expected = "a JSON object whose `weight_map` names the file of each weight"
        raise DamagedError(f"{index} is damaged: expected {expected}: copy it again") from error
    if not named or not all(isinstance(name, str) for name in named.values()) or not isinstance(total, int | float):
        raise DamagedError(f"{index} is damaged: it names no files of weights, or claims no number of bytes")
    shards: dict[Path, set[str]] = {}
    for name, file in named.items():
        if file in ("", ".", "..") or set(file) & {"/", "\\", "\0"}:
            raise UnsafeError(f"{index} names {file!r:.100}, which may lie outside its folder: nothing was read")
        if Path(file).suffix not in (".safetensors", ".bin"):
            raise DamagedError(f"{index} names {file!r:.100}, expected *.safetensors or *.bin")
        shards.setdefault(index.parent / file, set()).add(name)
    return shards, int(total)


# ---- files ----


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a file of weights."""
    tensors, metadata = (_read_bin(path), {}) if path.suffix == ".bin" else _read_safetensors(path)
    for name, tensor in tensors.items():
        _require_dense(path, name, tensor)
    return tensors, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    with files.naming(path, "it cannot be read"), open(path, "rb", opener=files.followed) as file:
        content = file.read()
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")  # of the header, whose metadata the library reads from files alone
        return tensors, json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        expected = "the JSON header of a safetensors file and all tensors that it names"
        raise DamagedError(f"{path} is damaged: expected {expected}: copy it again") from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    """Tensors that torch.save wrote: a zip of plain bytes, and a pickle of which nothing but tensors is built."""
    with files.naming(path, "it cannot be read"), open(path, "rb", opener=files.followed) as file:
        try:
            with zipfile.ZipFile(file) as parts:
                packed = [part.filename for part in parts.infolist() if part.file_size > part.compress_size]
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DamagedError(
                f"{path} is damaged, or of a torch before 1.6, which wrote no zip: open it with transformers and save "
                "it again"
            ) from error
        if packed:
            raise UnsafeError(
                f"{path}: {packed[0]!r:.100} is compressed, which torch.save does not do: nothing was read"
            )
        file.seek(0)
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UnsafeError(
                f"{path} holds more than tensors, which could run code: nothing was built of it. If you trust whoever "
                "wrote it, open it with transformers and write it with save_pretrained"
            ) from error
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of any kind: what a damaged pickle says is its own
            raise DamagedError(f"{path} is damaged: torch finds no weights in it: copy it again") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} holds a {type(found).__name__}, expected weights by name")
    return found


def _require_dense(path: Path, name: object, tensor: object) -> None:
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not (isinstance(name, str) and dense and isinstance(tensor, Tensor) and tensor.is_floating_point()):
        raise DamagedError(f"{path}: {name!r:.100} is no dense tensor of floating point numbers on a CPU")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UnsafeError(f"{path}: {name!r:.100} claims {tensor.numel():,} numbers, which are not in the file")

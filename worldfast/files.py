"""Atomic file writes, folder locks, checksums, and the recorded origin of each file."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["checksum", "digest", "folder", "lock", "naming", "origin", "remove_partial", "sync_folder", "write_whole"]

PARTIAL = ".partial"  # suffix of a file that is being written


def write_whole(path: Path, *content: bytes | memoryview) -> Path:
    """Write the parts of `content`, one after the other, to a file, atomically.

    The parts are written beside `path`, synced, and renamed into place: a reader sees the old file or the new one,
    never a partial one.

    Parameters
    ----------
    path : Path
        File to write.
    *content : bytes or memoryview
        Its parts.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OSError
        No space, no permission ...; the message names the path, and no partial file remains.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    with naming(path, "nothing was written"):
        try:
            with open(partial, "wb") as file:
                for part in content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


@contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Convert an OSError inside the block into one that names `path` and the consequence `what`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {what}", str(path)) from None


def sync_folder(path: Path) -> None:
    """Wait until the names of a folder's files are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_table(path: Path, table) -> Path:
    """Write a pandas DataFrame as CSV, atomically, with NaN as "nan", so an empty string stays one.

    Raises
    ------
    OSError
        As in `write_whole`.
    """
    return write_whole(path, table.to_csv(index=False, na_rep="nan").encode())


def remove_partial(path: Path) -> None:
    """Remove partial files that killed processes left in a folder and below it."""
    for partial in path.rglob(f".*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def folder(path: str | os.PathLike, argument: str) -> Path:
    """Return the folder at `path`, creating it and its parents if needed.

    Parameters
    ----------
    path : path
    argument : str
        Name of the argument in messages.

    Raises
    ------
    FileExistsError
        The path, or a folder above it, is a file.
    OSError
        The folder cannot be made: no permission, no space ...
    """
    path = Path(path)
    for above in (path, *path.parents):
        if above.exists() and not above.is_dir():
            raise FileExistsError(f"{argument}: '{path}' should be a folder, but '{above}' is a file")
    with naming(path, f"{argument}: the folder cannot be made"):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder exclusively: no other process, and no other call in this one, can hold it too.

    The operating system releases the lock when the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        The folder is held; the message names the holder.
    """
    path = folder / "lock"
    with open(path, "a+") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)  # it may only be held by a check, see `locked`
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            message = f"in use by {file.read()}: wait for it, or stop it"
            raise BlockingIOError(errno.EWOULDBLOCK, message, str(path)) from None
        with naming(path, "the folder cannot be held"):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def locked(folder: Path) -> bool:
    """Return True if a process holds a folder. The check takes a shared lock for a moment."""
    path = folder / "lock"
    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def checksum(*parts: bytes | np.ndarray) -> int:
    """Return the CRC-32 of the bytes of contiguous parts, one after the other, to detect damage.

    Detects every flipped bit, every burst of up to 32 bits, and other damage except once in 4 billion. Takes a third of
    the time of SHA-256, which also withstands tampering: for an identity use `digest`.
    """
    found = 0
    for part in parts:
        found = zlib.crc32(part.data if isinstance(part, np.ndarray) else part, found)
    return found


def digest(value) -> str:
    """Return the SHA-256, in hexadecimal, of an array, number or text: the same on every machine.

    Shape and values count; integers, and floats, count alike in any width and byte order.

    Raises
    ------
    TypeError
        Values are neither numbers nor texts, or some are masked.
    """
    array = np.asarray(value)
    if isinstance(value, np.ma.MaskedArray) or array.dtype.kind not in "biufU":
        raise TypeError(f"expected numbers or texts, got {type(value).__name__} of {array.dtype}")
    if array.dtype.kind == "U":
        kind, content = "text", json.dumps(array.tolist()).encode()
    elif array.dtype.kind == "f":
        kind, content = "float", array.astype("<f8").tobytes()
    else:
        kind, content = "integer", array.astype("<u8" if array.dtype.kind == "u" else "<i8").tobytes()
    return hashlib.sha256(f"{kind}{list(array.shape)}".encode() + content).hexdigest()


def origin(device: str) -> dict[str, str]:
    """Return the origin of a result: version and commit of worldfast ("" outside a checkout), and the device."""
    from worldfast import __version__

    return {"worldfast": __version__, "commit": _commit(), "device": f"{device}: {processor(device)}"}


@functools.cache
def _commit() -> str:
    here = Path(__file__).parents[1]
    if not (here / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def processor(device: str) -> str:
    """Return the name of the GPU, for a CUDA device, or else of the CPU with its number of threads."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} threads"

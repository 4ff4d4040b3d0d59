"""Files that are whole or not there, and what each of them says of its origin."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
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

PARTIAL = ".partial"  # the ending of a file that is being written


def write_whole(path: Path, *content: bytes | memoryview) -> Path:
    """Writes the parts of `content` one behind the other beside `path`, syncs, and renames into it: a reader
    sees the old file or the new one, never a part.

    Raises OSError naming the path (no space, no permission ...) and leaves nothing behind.
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
    """An OSError inside becomes one that names `path` and says `what` comes of it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {what}", str(path)) from None


def sync_folder(path: Path) -> None:
    """Returns when the names of the files in a folder are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_table(path: Path, table) -> Path:
    """Writes a pandas DataFrame as CSV, whole or not at all, NaN as "nan": an empty text stays one. Errors as for
    `write_whole`.
    """
    return write_whole(path, table.to_csv(index=False, na_rep="nan").encode())


def remove_partial(path: Path) -> None:
    """Removes what a killed process left half written in a folder and those below it."""
    for partial in path.rglob(f".*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def folder(path: str | os.PathLike, argument: str) -> Path:
    """The folder at `path`, made with its parents where it is not there.

    FileExistsError naming the argument where a file stands there, or where a folder above should be; OSError
    naming it where the folder cannot be made (no permission, no space ...).
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
    """Holds a folder for one user at a time: another process, or another call in this one, cannot hold it too.

    BlockingIOError naming the holder. The system lets go of what a process held when it dies, however it dies.
    """
    path = folder / "lock"
    with open(path, "a+") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)  # it may only have been looked at, see `locked`
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
    """Whether somebody holds a folder. Looking takes it for a moment, together with others who look."""
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
    """CRC-32 of the bytes of contiguous parts, one after the other: is this what was written?

    It finds every flipped bit, every burst of up to 32, and other damage but once in 4 billion. A
    third of the time of SHA-256, which also withstands people: for an identity use `digest`.
    """
    found = 0
    for part in parts:
        found = zlib.crc32(part.data if isinstance(part, np.ndarray) else part, found)
    return found


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays' bytes, one after the other: which one is this?"""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def origin(device: str) -> dict[str, str]:
    """Where a result comes from: the version and commit of worldfast ("" outside a checkout), and the
    device."""
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
    """The name of the GPU that is named, or else of the processor, with its threads."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} threads"

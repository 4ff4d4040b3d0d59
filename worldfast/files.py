"""Files: written whole or not at all, read only where they are regular files, with checksums and their origin."""

from __future__ import annotations

import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import platform
import stat
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from worldfast.display import count
from worldfast.errors import DamagedError, UnsafeError, VersionError, as_path

PARTIAL = ".partial"  # suffix of a file that is being written
LARGEST_JSON = 1 << 28  # bytes


# ---- writing ----


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
        No space, no permission ...; the message names the path, and no partial file remains. Or the file was written
        and renamed, but the folder cannot be synced: the message names the folder.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    with naming(path, "nothing was written"):
        try:
            with _begin(partial) as file:
                for part in content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)  # outside: what fails here has been written
    return path


def _begin(partial: Path) -> BinaryIO:
    """Return a new file, held by a lock while it is written, so that `remove_partial` knows whose writer is dead."""
    while True:
        partial.unlink(missing_ok=True)  # of a dead process that had the same number
        file = open(partial, "xb")
        with suppress(OSError):  # no locks on this file system: then nothing is removed either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # removed between the two calls


def remove_partial(path: Path, name: str | None = None) -> None:
    """Remove partial files that killed processes left in a folder and below it, or those of one file in the folder;
    those being written now stay.
    """
    left = path.rglob(f".*{PARTIAL}") if name is None else path.glob(f".{glob.escape(name)}.*{PARTIAL}")
    for partial in left:
        with suppress(OSError, UnsafeError), open(partial, "r+b", opener=regular) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


@contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Convert an OSError or MemoryError inside the block into an OSError naming `path` and the consequence `what`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}: {what}", str(path)) from None
    except MemoryError:
        raise OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)}: {what}", str(path)) from None


def sync_folder(path: Path) -> None:
    """Wait until the names of a folder's files are on disk; raises an OSError that names the folder if they are not."""
    with naming(path, "the names of its files may be lost"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def text_bytes(text: str) -> bytes:
    """Return a text in UTF-8; what no character stands for, as in a path that is not UTF-8, becomes an escape."""
    return text.encode("utf-8", "backslashreplace")


def table_bytes(table: Any) -> bytes:
    """Return a pandas DataFrame as CSV, with NaN as "nan", so an empty string stays one."""
    return text_bytes(table.to_csv(index=False, na_rep="nan"))


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON object and, under "crc32", the checksum by which `read_json` knows it again, atomically.

    Raises
    ------
    OSError
        As in `write_whole`.
    """
    return write_whole(path, json.dumps({**content, "crc32": _seal(content)}, indent=1).encode())


# ---- reading ----


def regular(path: str | os.PathLike, flags: int) -> int:
    """Open a file that is none but a regular one, for ``open(path, mode, opener=regular)``.

    Returns
    -------
    int
        Descriptor of the file, as from `os.open`.

    Raises
    ------
    UnsafeError
        It is a link, which may lead out of its folder, or a folder, a FIFO or a device, which may hang.
    OSError
        It cannot be opened.
    """
    with suppress(FileNotFoundError):
        _require_kind(path, os.lstat(path))
    # a link that was put there after the look above is not followed, and a FIFO does not wait
    return _open(path, flags | os.O_NOFOLLOW)


KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def _require_kind(path: str | os.PathLike, found: os.stat_result, kind: int = stat.S_IFREG) -> None:
    if (came := stat.S_IFMT(found.st_mode)) != kind:
        what = f"'{path}' is {KINDS.get(came, 'a device')}, expected {KINDS[kind]}"
        raise UnsafeError(f"{what}: nothing was read or written through it")


def followed(path: str | os.PathLike, flags: int) -> int:
    """Open a file of the user's own, as `regular` does: links are followed, but a FIFO is not waited for."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return _open(path, flags)


def _open(path: str | os.PathLike, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _require_kind(path, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_whole(path: str | os.PathLike, most: int | None = None, opener: Callable = regular) -> bytearray:
    """Return the bytes of a file, whatever bytes its path has.

    Parameters
    ----------
    path : path
    most : int, optional
        Bytes that such a file can have.
    opener : callable
        `regular`, or `followed` for a file of the user's own.

    Raises
    ------
    UnsafeError
        It is no regular file (see `regular`), or has more than `most` bytes.
    OSError
        It is not there, or cannot be read: no permission, no descriptor, no memory ...; the message names the path.
    """
    with naming(Path(path), "it cannot be read"), open(path, "rb", opener=opener) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UnsafeError(f"'{path}' has {count(size, 'byte')}, such a file at most {most:,}")
        content = bytearray(size)
        del content[file.readinto(content) :]  # it was cut meanwhile
        return content


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Return the object that `write_json` wrote, without its checksum.

    Raises
    ------
    DamagedError
        The content is not what was written; the message names the file.
    VersionError
        It has no checksum, and says that another version of worldfast wrote it.
    UnsafeError, OSError
        As from `read_whole`.
    """
    content, whole = parse_json(path)
    if whole is None:
        version = version_of(content)
        if version not in (None, this_version()):
            raise VersionError(f"'{path}' was written by worldfast {version}: {advice_on(version)}")
        raise DamagedError(f"'{path}' has no checksum: it is damaged, or of an earlier version of worldfast")
    if not whole:
        raise DamagedError(f"'{path}' is damaged: its checksum does not fit its content")
    return content


def version_of(content: Mapping[str, Any]) -> str | None:
    """Return the version of worldfast that wrote a JSON object, by its own word; None if it does not say."""
    of = content.get("origin")
    version = of.get("worldfast") if isinstance(of, Mapping) else None
    return version if isinstance(version, str) else None


def advice_on(version: str) -> str:
    """Return what to do with what a version of worldfast wrote that this one cannot read."""
    return f"make it again with this version, {this_version()}, or read it with {version}"


def this_version() -> str:
    from worldfast import __version__  # imports this module

    return __version__


def parse_json(path: str | os.PathLike) -> tuple[dict[str, Any], bool | None]:
    """Return the JSON object in a file, and its checksum's word: whole, or not, or None without one.

    Raises
    ------
    DamagedError
        The file holds no JSON object.
    UnsafeError, OSError
        As from `read_whole`.
    """
    content = json_object(path, read_whole(path, LARGEST_JSON))
    written = content.pop("crc32", None)
    return content, None if written is None else written == _seal(content)


def json_object(path: str | os.PathLike, raw: bytes | bytearray) -> dict[str, Any]:
    """Return the JSON object that the bytes of a file are; raises a DamagedError that names it if they are none."""
    try:
        content = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        begins = bytes(raw[:20]).decode("utf-8", "replace")
        raise DamagedError(
            f"'{path}' is damaged: expected a JSON object in UTF-8, which its {len(raw):,} bytes are not; "
            f"they begin with {begins!r}"
        )
    return content


def _seal(content: Mapping[str, Any]) -> int:
    return checksum(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode())


# ---- folders ----


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
    path = as_path(argument, path)
    for above in (path, *path.parents):
        if above.exists() and not above.is_dir():
            raise FileExistsError(f"{argument}: '{path}' should be a folder, but '{above}' is a file")
    with naming(path, f"{argument}: the folder cannot be made"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def inner_folder(path: Path) -> Path:
    """Return a folder inside a run's or a study's, creating it if needed.

    Raises
    ------
    UnsafeError
        It is a link, which may lead out of the folder that it is in, or a file.
    OSError
        It cannot be made.
    """
    with naming(path, "the folder cannot be made"), suppress(FileExistsError):
        path.mkdir()
    require_folder(path)
    return path


def there(path: str | os.PathLike) -> bool:
    """Return True if anything is at a path: a file, a folder, a link, wherever that leads.

    `Path.exists` takes some errors for absence, and from Python 3.14 on any: what cannot be looked at would be made
    anew, in the place of what is there.

    Raises
    ------
    OSError
        Nobody knows: no permission for the folder that it is in, a broken disk ...; the message names the path.
    """
    return _state(path, os.lstat, "whether it is there cannot be told") is not None


def is_folder(path: str | os.PathLike) -> bool:
    """Return True if a folder, or a link to one, is at a path; raises an OSError as `there` does."""
    state = _state(path, os.stat, "whether it is a folder cannot be told")
    return state is not None and stat.S_ISDIR(state.st_mode)


def _state(path: str | os.PathLike, look: Callable[..., os.stat_result], unknown: str) -> os.stat_result | None:
    """Return what os.stat or os.lstat says of a path; None where nothing is. Another error says what is `unknown`."""
    with naming(Path(path), unknown):
        try:
            return look(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def entries(path: Path) -> list[Path]:
    """Return what lies in a folder, by name; nothing of one that is not there.

    `Path.glob` takes a folder that cannot be read for an empty one, in which everything would begin anew.

    Raises
    ------
    OSError
        It cannot be read: no permission, no descriptor ...; the message names it.
    """
    with naming(path, "what is in it cannot be listed"):
        try:
            return sorted(path / name for name in os.listdir(path))
        except FileNotFoundError:
            return []


def require_folder(path: Path) -> None:
    """Raise an UnsafeError if what is at a path inside a run's folder is no folder but a link, a file ..."""
    with suppress(FileNotFoundError):
        _require_kind(path, os.lstat(path), stat.S_IFDIR)


# ---- identities ----


def checksum(*parts: bytes | bytearray | np.ndarray, begin: int = 0) -> int:
    """Return the CRC-32 of the bytes of contiguous parts, one after the other, to detect damage.

    `begin` is the checksum of what stands before them.

    Detects every flipped bit, every burst of up to 32 bits, and other damage except once in 4 billion. Takes a third of
    the time of SHA-256, which also withstands tampering: for an identity use `digest`.
    """
    found = begin
    for part in parts:
        found = zlib.crc32(part.data if isinstance(part, np.ndarray) else part, found)
    return found


def digest(value: Any) -> str:
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
    return {"worldfast": this_version(), "commit": _commit(), "device": f"{device}: {processor(device)}"}


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
            encoding="utf-8",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def processor(device: str) -> str:
    """Return the name of the GPU, for a CUDA device, or else of the CPU with its number of threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} threads"

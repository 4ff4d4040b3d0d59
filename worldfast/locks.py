"""Locks on folders that stand side by side: one open file for a process, however many folders it holds.

::

    .holder-<32 hexadecimal digits>   held by the process that made it, with flock, until it ends
    <folder>/lock                     a line that names the process, and one that names its .holder file

A folder is held if the file that its `lock` names is. The operating system lets go of that file when the process ends,
however it ends. A `lock` is read and written under a flock of its own that lasts a moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from worldfast.errors import UnsafeError
from worldfast.files import naming, regular

HOLDER = re.compile(r"\.holder-[0-9a-f]{32}")
MOMENT = 5.0  # seconds for which another process may read or write a `lock`


class Holder:
    """Process as a holder of folders below `above`, until it is closed or ends.

    Parameters
    ----------
    above : Path
        Folder of the folders.

    Raises
    ------
    OSError
        The file system has no room, no permission, no locks ...
    """

    def __init__(self, above: Path):
        self._owner = os.getpid()
        sweep(above)
        while not self._begin(above):
            pass  # another process swept it away before it was held
        self._text = f"process {os.getpid()} on {platform.node()}\n{self._path.name}\n"
        _HOLDERS.add(self)

    def _begin(self, above: Path) -> bool:
        """Make the holder's file and hold it; returns True if it is there then."""
        self._path = above / f".holder-{secrets.token_hex(16)}"
        with naming(self._path, "folders cannot be held"):
            self._file = open(self._path, "xb")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)  # it waits for the moment of a sweep only
            except BaseException:
                self.close()
                raise
            if _is_at(self._path, self._file):
                return True
            self._file.close()
            return False

    def hold(self, folder: Path) -> None:
        """Hold a folder: no other process, and no other holder in this one, can hold it too.

        Raises
        ------
        BlockingIOError
            The folder is held; the message names the holder.
        UnsafeError
            Its `lock` is no regular file.
        """
        path = folder / "lock"
        with naming(path, "the folder cannot be held"), _moment(path, "a+") as file:
            process, holder = _named(file)
            taken = holder != self._path.name and _lives(folder.parent, holder)
            if not taken:
                self._write(file)
        if taken:
            raise BlockingIOError(errno.EWOULDBLOCK, f"in use by {process}: wait for it, or stop it", str(path))

    def check(self, folder: Path) -> None:
        """Check before each write that the folder is still held; a `lock` that somebody removed is made again.

        Raises
        ------
        BlockingIOError
            Somebody removed the `lock`, and another process has held the folder since; or this process is a fork.
        """
        path = folder / "lock"
        with naming(path, "nothing more is written there"), _moment(path, "a+") as file:
            process, holder = _named(file)
            taken = self._file.closed or holder not in ("", self._path.name)
            if not (taken or holder):
                self._write(file)
        if taken:
            message = f"taken by {process}, nothing more is written there: the same call goes on once that has ended"
            raise BlockingIOError(errno.EWOULDBLOCK, message, str(path))

    def _write(self, file: TextIO) -> None:
        file.seek(0)
        file.truncate()
        file.write(self._text)
        file.flush()

    def close(self) -> None:
        """Let go of all folders."""
        if os.getpid() == self._owner:
            self._path.unlink(missing_ok=True)
        self._file.close()


_HOLDERS: weakref.WeakSet[Holder] = weakref.WeakSet()


def _forked() -> None:
    """Close what a fork inherited: its copy of the file would hold the folders after their owner has ended."""
    for holder in _HOLDERS:
        holder._file.close()


os.register_at_fork(after_in_child=_forked)


@contextmanager
def lock(above: Path, folders: Iterable[Path]) -> Iterator[Holder]:
    """Hold folders that stand in `above`, exclusively; raises as `Holder.hold`."""
    holder = Holder(above)
    try:
        for folder in folders:
            holder.hold(folder)
        yield holder
    finally:
        holder.close()


def locked(folder: Path) -> bool:
    """Return True if a process holds a folder."""
    try:
        with _moment(folder / "lock", "r") as file:
            _, holder = _named(file)
    except FileNotFoundError:
        return False
    return _lives(folder.parent, holder)


@contextmanager
def _moment(path: Path, mode: str) -> Iterator[TextIO]:
    """Open a `lock` and hold it for a moment; it is the one at the path, whatever was removed meanwhile."""
    until = time.monotonic() + MOMENT
    while True:
        with open(path, mode, encoding="utf-8", errors="replace", opener=regular) as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if mode == "r" else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
            else:
                if _is_at(path, file):
                    yield file
                    return
        time.sleep(0.005)


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _named(file: TextIO) -> tuple[str, str]:
    """Return the process that a `lock` names, and its holder's file, "" if there is none."""
    file.seek(0)
    process, _, holder = file.read(4096).partition("\n")
    return process, holder.strip() if HOLDER.fullmatch(holder.strip()) else ""


def sweep(above: Path) -> None:
    """Remove files of holders whose processes have ended, also those that no `lock` names yet."""
    for path in above.glob(".holder-*"):
        with suppress(OSError, UnsafeError):
            _lives(above, path.name if HOLDER.fullmatch(path.name) else "")


def _lives(above: Path, holder: str) -> bool:
    """Return True if a holder's process lives; the file of one that does not is removed."""
    if not holder:
        return False
    path = above / holder
    try:
        with open(path, "rb", opener=regular) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False

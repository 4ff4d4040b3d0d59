"""Log of long work: the logger "worldfast", which has no handler until the caller or the command line gives it one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from worldfast import files

LOG = logging.getLogger("worldfast")
LINE = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")


def tell(text: str, shown: bool = True) -> None:
    """Log a line about the progress of long work, and print it if it is to be shown and the log does not do so.

    Parameters
    ----------
    text : str
    shown : bool
        Print it on standard error, unless a handler of the logger writes there.
    """
    LOG.info(text)
    if shown and not _is_on_stderr():
        print(text, file=sys.stderr, flush=True)


def _is_on_stderr() -> bool:
    if not LOG.isEnabledFor(logging.INFO):
        return False
    handlers = LOG.handlers + (logging.getLogger().handlers if LOG.propagate else [])
    return any(getattr(one, "stream", None) is sys.stderr and one.level <= logging.INFO for one in handlers)


@contextmanager
def logged_to(target: Path | TextIO) -> Iterator[None]:
    """Log, with times, to a stream, or to the end of a file, whose folder is created if needed.

    Raises
    ------
    UnsafeError
        The file, or the folder that it is in, is a link, a FIFO ...
    OSError
        The file cannot be written.
    """
    stream = _appended(target) if isinstance(target, Path) else target
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LINE)
    level = LOG.level
    LOG.addHandler(handler)
    if not LOG.isEnabledFor(logging.INFO):
        LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.setLevel(level)
        LOG.removeHandler(handler)
        handler.close()
        if stream is not target:
            stream.close()


def _appended(path: Path) -> TextIO:
    """Open a file of a run's or a study's folder, which may be a stranger's, to write at its end."""
    files.folder(path.parent.parent, "out")
    files.inner_folder(path.parent)
    with files.naming(path, "it cannot be opened"):
        return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=files.regular)

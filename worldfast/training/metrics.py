"""Metrics of a run: always lines of JSON in its folder, and on request a tracker or a callable."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from worldfast.display import count
from worldfast.errors import DamagedError, one_of, typed
from worldfast.files import checksum, inner_folder, naming, regular, require_folder, sync_folder
from worldfast.folder import prefix
from worldfast.run import Run

PROJECT = "worldfast"

Log = Callable[[dict], None]
Opener = Callable[[Run, Path, int], AbstractContextManager[Log]]


class Lines:
    """File of JSON lines that only grows, except that resuming from a checkpoint cuts it back to that moment.

    Its length and checksum are kept here, and with them in checkpoints: a file that somebody else removed, replaced or
    wrote to is an error at the next line, never made anew.
    """

    def __init__(self, path: Path):
        self.path = path
        self._size = self._crc32 = 0

    @property
    def record(self) -> dict[str, int]:
        """Length in bytes and checksum of the file, as `worldfast.folder.prefix` checks them."""
        return {"bytes": self._size, "crc32": self._crc32}

    def begin(self) -> None:
        """Begin with an empty file."""
        with naming(self.path, "it cannot be opened"), open(self.path, "wb", opener=regular):
            pass
        self._size = self._crc32 = 0
        sync_folder(self.path.parent)

    def cut(self, record: Mapping[str, int]) -> None:
        """Drop everything after a record's bytes.

        Raises
        ------
        FileNotFoundError, DamagedError
            The file is missing, shorter, or does not begin with them.
        """
        prefix(self.path, record, "at the checkpoint to go on from")
        with naming(self.path, "it cannot be opened"), open(self.path, "r+b", opener=regular) as file:
            file.truncate(record["bytes"])
        self._size, self._crc32 = record["bytes"], record["crc32"]
        sync_folder(self.path.parent)

    def append(self, line: dict) -> None:
        """Append a line; raises an OSError naming the file if it cannot be written."""
        content = (json.dumps(line) + "\n").encode()
        with naming(self.path, "a line is lost"), open(self.path, "r+b", opener=regular) as file:
            self._require_own(file)
            file.write(content)
        self._size, self._crc32 = self._size + len(content), checksum(content, begin=self._crc32)

    def sync(self) -> dict[str, int]:
        """Return the record of the file, once all of it is on disk."""
        with naming(self.path, "lines are lost"), open(self.path, "r+b", opener=regular) as file:
            self._require_own(file)
            os.fsync(file.fileno())
        return self.record

    def _require_own(self, file: BinaryIO) -> None:
        """Go to the file's end, which is where it was left."""
        if (size := file.seek(0, os.SEEK_END)) != self._size:
            has = count(size, "byte")
            raise DamagedError(f"{self.path} has {has}, but this process left {self._size:,}: who changed it?")


def opener(log: Callable[[Run, dict], None] | str | None) -> Opener:
    """Return the function that opens the log of a run at a step.

    Parameters
    ----------
    log : callable, str or None
        As for `worldfast.training.train`.

    Raises
    ------
    ModuleNotFoundError
        The tracker is not installed.
    TypeError, ValueError
        `log` is not a callable, the name of a tracker or None.
    """
    if log is None:
        return lambda run, folder, step: nullcontext(lambda line: None)
    if callable(log):
        return lambda run, folder, step: nullcontext(partial(log, run))
    module, tracker = TRACKERS[one_of("log", typed("log", log, str, "a callable, a name or None"), TRACKERS)]
    try:
        return partial(tracker, importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"log={log!r} needs {error.name}, which is not installed: pip install {log}", name=error.name
        ) from None


def _scalars(line: dict) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "step" and value is not None}


@contextmanager
def _tensorboard(module: ModuleType, run: Run, folder: Path, step: int) -> Iterator[Log]:
    """Write events below <folder>/tensorboard, and purge those of steps that are repeated."""
    with module.SummaryWriter(inner_folder(folder / "tensorboard"), purge_step=step + 1) as writer:

        def log(line):
            for name, value in _scalars(line).items():
                writer.add_scalar(name, value, line["step"])

        yield log


@contextmanager
def _wandb(module: ModuleType, run: Run, folder: Path, step: int) -> Iterator[Log]:
    """Log to one wandb run for each of ours, found again by its hash; it ignores steps that it has. With
    WANDB_MODE=offline in the environment it stays below <folder>/wandb, for `wandb sync`.
    """
    require_folder(folder / "wandb")
    with module.init(
        project=PROJECT, id=run.id, name=run.name, config=run.to_json(), dir=folder, resume="allow", reinit="create_new"
    ) as tracked:
        yield lambda line: tracked.log(_scalars(line), step=line["step"])


@contextmanager
def _trackio(module: ModuleType, run: Run, folder: Path, step: int) -> Iterator[Log]:
    """Log to one trackio run for each of ours, found again by its name and hash."""
    tracked = module.init(project=PROJECT, name=run.folder_name, config=run.to_json(), resume="allow")
    try:
        yield lambda line: tracked.log(_scalars(line), step=line["step"])
    finally:
        tracked.finish()


TRACKERS = {
    "tensorboard": ("torch.utils.tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
}

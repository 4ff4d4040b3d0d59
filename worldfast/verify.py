"""Check of whatever training and studies wrote below a folder, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from worldfast import files
from worldfast.errors import as_path
from worldfast.studies import audit_study, audit_tables
from worldfast.training import OF_A_RUN, Checked, audit, tried


def verify(folder: str | os.PathLike) -> Iterator[Checked]:
    """Check every file of a run, a study, or a folder of them, without changing one.

    Parameters
    ----------
    folder : path
        Folder of a run, of a study, of many runs or studies, or one with runs/, tables/ and studies/.

    Yields
    ------
    Checked
        As from `worldfast.training.audit`, `worldfast.studies.audit_study` and `audit_tables`.

    Raises
    ------
    FileNotFoundError
        It is not there, or holds nothing of the kind.
    """
    folder = as_path("folder", folder)
    if not files.is_folder(folder):
        raise FileNotFoundError(f"folder: '{folder}' is no folder")
    found = False
    for one in _checks(folder):
        found = True
        yield one
    if not found:
        raise FileNotFoundError(f"folder: '{folder}' holds no run, no study, and no folder of them")


def _checks(folder: Path, deeper: int = 2) -> Iterator[Checked]:
    """Check a folder, and those in it: two levels, as runs lie in <out>/runs, so that no link leads in a circle."""
    if os.path.lexists(folder / "study.json") or folder.parent.name == "studies":
        yield from audit_study(folder)
    elif any(os.path.lexists(folder / name) for name in OF_A_RUN):
        yield from audit(folder)
    elif deeper:
        yield from audit_tables(folder)  # of tables/, which holds nothing else
        state, paths = tried(folder, files.entries, folder)
        if not state.fine:
            yield state
        for below in (path for path in paths or () if path.name != "tables"):
            read = files.require_folder if below.name == "studies" else files.is_folder
            state, is_folder = tried(below, read, below)
            if not state.fine:
                yield state
            elif is_folder is not False:
                yield from _checks(below, deeper - 1)

"""Check of a study's folder and of its cached tables, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldfast import files
from worldfast.errors import DamagedError, MismatchError, UnsafeError, file_name
from worldfast.studies.analyses import read_kept, read_known
from worldfast.training import Checked, checked, listed, others, tried

STUDY = {"name": str, "runs": list, "tables": dict | None}  # what study.json holds, and each of its runs
RUN = {"name": str, "folder": str, "start": str, "steps": int, "rows": int}


def audit_study(folder: str | os.PathLike) -> Iterator[Checked]:
    """Check every file that a study's folder should have, without changing one.

    Parameters
    ----------
    folder : path
        <out>/studies/<name>.

    Yields
    ------
    Checked
        study.json, and each table whose digest it has: none before the study has ended; then what else lies there.
        Figures and the page are drawn from the tables, and are not checked.
    """
    folder = Path(folder)
    for place in (folder, folder / "figures"):
        if not (there := checked(place, files.require_folder, place)).fine:
            yield there
    state, spec = tried(folder / "study.json", read_study, folder)
    yield state
    tables = spec and spec["tables"] or {}
    for name, sha256 in tables.items():
        yield checked(folder / name, read_known, folder / name, sha256)
    there = [] if tables else tried(folder, files.entries, folder)[1] or []  # if it cannot be listed, `others` says so
    unknown = {path.name for path in there if path.suffix == ".csv"}  # perhaps its tables
    yield from others(folder, {"study.json", "figures", "report.html", *tables, *unknown})


def audit_tables(out: str | os.PathLike) -> Iterator[Checked]:
    """Check every cached table below a folder: <out>/tables/<kind>-<id>.csv, each with the .json beside it."""
    there = Path(out) / "tables"
    whole, paths = tried(there, listed, there)
    if not whole.fine:
        yield whole
        return
    found = [path for path in paths if "-" in path.stem and path.suffix in (".csv", ".json")]
    for path in sorted({path.with_suffix(".csv") for path in found}):
        yield checked(path, read_kept, path)
    yield from others(there, {path.name for path in found})


def read_study(folder: Path) -> dict[str, Any]:
    """Return what study.json in a study's folder says.

    Raises
    ------
    FileNotFoundError
        The folder is not a study's.
    DamagedError, UnsafeError, OSError
        It is not what was written, or cannot be read.
    MismatchError
        It is of a study of another name than its folder, or of tables that none of those beside it is: another study's,
        of the same name.
    """
    path = folder / "study.json"
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not a study's folder: it has no study.json") from None
    if not (_holds(content, STUDY) and all(isinstance(run, dict) and _holds(run, RUN) for run in content["runs"])):
        raise DamagedError(f"'{path}' was not written by this version of worldfast: it is no list of a study's runs")
    if (named := Path(os.path.abspath(folder)).name) != content["name"]:
        raise MismatchError(
            f"'{path}' is of the study {content['name']!r}, expected {named!r}, as its folder is called"
        )
    tables = content["tables"] or {}
    for name in tables:
        file_name(f"{path}: name of a table", name)
    there = [name for name in tables if (folder / name).exists()]
    if there and not any(_is_known(folder / name, tables[name]) for name in there):
        raise MismatchError(
            f"'{path}' is of other tables than {', '.join(there[:4])} beside it: it is another study's of that name. "
            "Put it back, or run the study again"
        )
    return content


def _holds(content: Mapping[str, Any], kinds: Mapping[str, Any]) -> bool:
    return all(isinstance(content.get(name), kind) for name, kind in kinds.items())


def _is_known(path: Path, sha256: str) -> bool:
    try:
        read_known(path, sha256)
    except (DamagedError, UnsafeError):
        return False
    return True

"""Check of a study's folder and of its cached tables, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from worldfast import files
from worldfast.errors import file_name
from worldfast.studies.analyses import read_kept, read_known
from worldfast.training import Checked, checked

__all__ = ["audit_study", "audit_tables"]


def audit_study(folder: str | os.PathLike) -> Iterator[Checked]:
    """Check every file that a study's folder should have, without changing one.

    Parameters
    ----------
    folder : path
        <out>/studies/<name>.

    Yields
    ------
    Checked
        study.json, and each table whose digest it has: none before the study has ended. Figures and the page are drawn
        from the tables, and are not checked.
    """
    folder = Path(folder)
    spec = checked(folder / "study.json", lambda: _study(folder))
    yield spec
    if spec.fine:
        for name, sha256 in (_study(folder)["tables"] or {}).items():
            yield checked(folder / name, lambda name=name, sha256=sha256: read_known(folder / name, sha256))


def audit_tables(out: str | os.PathLike) -> Iterator[Checked]:
    """Check every cached table below a folder: <out>/tables/<kind>-<id>.csv, each with the .json beside it."""
    there = Path(out) / "tables"
    for path in sorted({path.with_suffix(".csv") for path in there.glob("*-*.*") if path.suffix in (".csv", ".json")}):
        yield checked(path, lambda path=path: read_kept(path))


def _study(folder: Path) -> dict:
    content = files.read_json(folder / "study.json")
    for name in content["tables"] or {}:
        file_name(f"{folder / 'study.json'}: name of a table", name)
    return content

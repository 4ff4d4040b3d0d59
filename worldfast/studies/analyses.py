"""Analyses of trained runs, and their tables, each of which is made once.

    <out>/tables/<kind>-<id>.csv     the table
                 <kind>-<id>.json    what it is of, and its origin; written before the table

A table's id is the hash of its kind, its options, the ids of its runs, and the code that makes its numbers
(worldfast.studies.sources), so that whatever is edited makes what depends on it again and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldfast import files
from worldfast.reading import Activations
from worldfast.run import Run
from worldfast.studies.sources import Code, code_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Analysis", "Table", "Trained", "compute", "each", "made", "make", "tables_of"]


class Trained:
    """A run that has ended, in its folder."""

    def __init__(self, run: Run, out: Path):
        self.run, self.name, self.folder = run, run.name, out / "runs" / run.folder_name

    @cached_property
    def activations(self) -> Activations:
        return Activations(self.folder)

    @cached_property
    def things(self) -> np.ndarray:
        """Indices of the entities whose activations were captured, int32 [n]."""
        return self.activations.things


def each(study, finished: Sequence[Run]) -> Iterable[tuple[Run, ...]]:
    """Groups of an analysis of single runs: every run that finished, alone."""
    return [(run,) for run in finished]


def no_options(study) -> dict:
    return {}


@dataclass(frozen=True)
class Analysis:
    """A kind of table that a study makes of its runs.

    Attributes
    ----------
    kind : str
        Name of the table. Tables of one kind are put end to end. The page is made of the kinds "probes", "films",
        "pca" and "cka_shown", as the analyses of worldfast.worlds.cities have them.
    make : callable
        (list of Trained, ``**options``) -> DataFrame. A function at the top level of a file: the code that it needs is
        part of the table's identity.
    runs_of : callable
        (study, runs of it that finished) -> groups of runs; a table for each. By default each run alone.
    options : callable
        study -> keyword arguments of `make`, values that JSON keeps or that have a method `to_json`. By default none.
    """

    kind: str
    make: Callable[..., DataFrame]
    runs_of: Callable[..., Iterable[Sequence[Run]]] = each
    options: Callable[..., Mapping] = no_options


@dataclass(frozen=True)
class Table:
    """One table of a study: an analysis of some runs with some options, and the code that makes it."""

    kind: str
    make: Callable[..., DataFrame]
    runs: tuple[Run, ...]
    options: Mapping
    code: Code

    @cached_property
    def id(self) -> str:
        content = [self.kind, [run.id for run in self.runs], dict(self.options), self.code.digest]
        return hashlib.sha256(_as_json(content, sort_keys=True)).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.id}"

    def path(self, out: Path) -> Path:
        return out / "tables" / f"{self.name}.csv"


def _as_json(content, **how) -> bytes:
    return json.dumps(content, default=lambda value: value.to_json(), **how).encode()


def tables_of(study, finished: Sequence[Run]) -> list[Table]:
    """Tables of a study, made or not.

    Parameters
    ----------
    study : Study
    finished : sequence of Run
        Its runs that finished; all others are left out.
    """
    return [
        Table(one.kind, one.make, tuple(runs), options, code)
        for one in study.analyses
        for options, code in [(one.options(study), code_of(one.make))]
        for runs in one.runs_of(study, finished)
    ]


def compute(table: Table, out: Path) -> DataFrame:
    """A table as it stands below `out`, or made and written there. Its runs have finished there.

    Raises what the analysis raises, which names what does not fit; then nothing is written.
    """
    import pandas as pd

    if not made(table, out):
        make(table, out)
    return pd.read_csv(table.path(out), keep_default_na=False, na_values=["nan"])


def made(table: Table, out: Path) -> bool:
    return table.path(out).exists()


def make(table: Table, out: Path) -> None:
    """Makes a table and writes it below `out`. Raises as `compute` does."""
    path = table.path(out)
    content = table.make([Trained(run, out) for run in table.runs], **table.options)
    about = {
        "kind": table.kind,
        "runs": [run.id for run in table.runs],
        "options": dict(table.options),
        "code": table.code._asdict(),
        "origin": files.origin("cpu"),
    }
    files.folder(path.parent, "out")
    files.write_whole(path.with_suffix(".json"), _as_json(about, indent=1))
    files.write_table(path, content)

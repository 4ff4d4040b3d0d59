"""Analyses of trained runs, and their tables, each of which is computed once.

    <out>/tables/<kind>-<id>.csv     the table
                 <kind>-<id>.json    its runs, options, origin and SHA-256; written before the table

A table's id is the hash of its kind, its options, the ids of its runs, and the code that computes its numbers
(worldfast.studies.sources), so an edit recomputes exactly the tables that depend on it.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from worldfast import files
from worldfast import frames as pd
from worldfast.classes import Named
from worldfast.errors import OF_CONTENT, DamagedError, MismatchError, file_name
from worldfast.folder import require_same
from worldfast.models import AttentionSpec, Ensemble
from worldfast.reading import Activations
from worldfast.run import Run
from worldfast.studies.sources import Code, code_of
from worldfast.training import load

__all__ = [
    "Analysis",
    "Some",
    "Table",
    "Trained",
    "compute",
    "each",
    "layer_of",
    "made",
    "make",
    "models_of",
    "read_kept",
    "read_known",
    "read_table",
    "scored",
    "shown",
    "tables_of",
    "with_heads",
]


class Trained:
    """A run that has ended, in its folder.

    Parameters
    ----------
    run : Run
    out : Path
        Folder that holds runs/.

    Raises
    ------
    MismatchError
        The run's world has changed since.
    """

    def __init__(self, run: Run, out: Path):
        self.run, self.name, self.folder = run, run.name, out / "runs" / run.folder_name
        require_same(self.folder, run)

    @cached_property
    def activations(self) -> Activations:
        """The run's activations."""
        return Activations(self.folder)

    @cached_property
    def things(self) -> np.ndarray:
        """Indices of the entities whose activations were captured, int32 [n]."""
        return self.activations.things

    @cached_property
    def entities(self) -> np.ndarray:
        """Identities of those entities in any world, str [n]."""
        return self.activations.entities

    def where(self, step: int) -> dict[str, str | int]:
        """Return run, step and rows seen by then: how the line of a table about a checkpoint begins."""
        return {"run": self.name, "step": step, "rows": self.run.rows_at(step)[0]}


class Some:
    """Activations of some of the things, at some of the steps."""

    def __init__(self, activations, things=slice(None), steps: Sequence[int] | None = None):
        self.activations, self.things = activations, things
        self.steps, self.layers = activations.steps if steps is None else steps, activations.layers

    @property
    def entities(self):
        return self.activations.entities[self.things]

    def __getitem__(self, key):
        return self.activations[key][self.things]


def models_of(one: Trained) -> Iterator[tuple[int, Ensemble]]:
    """Yield (step, model as member 0) of every checkpoint whose weights a run kept, or of the last one."""
    for step in one.run.kept_steps or (one.run.steps,):
        yield step, load(one.folder, step=step)[1]


def each(study, finished: Sequence[Run]) -> Iterable[tuple[Run, ...]]:
    """Return the groups of an analysis of single runs: each finished run alone."""
    return [(run,) for run in finished]


def scored(study, finished: Sequence[Run]) -> Iterable[tuple[Run, ...]]:
    """Return each finished run alone, if the study asks for test rows."""
    return each(study, finished) if study.test_rows else []


def shown(study, finished: Sequence[Run]) -> Iterable[tuple[Run, ...]]:
    """Return each run that the page shows alone."""
    return [(run,) for run in study.shown_of(finished)]


def with_heads(study, finished: Sequence[Run]) -> Iterable[tuple[Run, ...]]:
    """Return each finished run alone whose model has heads of attention."""
    return [(run,) for run in finished if isinstance(run.model, AttentionSpec)]


def layer_of(study) -> dict:
    """Return the study's layer as an option."""
    return {"layer": study.layer}


def no_options(study) -> dict:
    """Return no keyword arguments: the default of `Analysis.options`."""
    return {}


@dataclass(frozen=True)
class Analysis(Named):
    """A kind of table that a study computes from its runs.

    Attributes
    ----------
    kind : str
        Name of the table. Tables of one kind are concatenated. The page uses the kinds "probes", "films", "pca", "cka"
        and "cka_shown", as the default analyses make them; columns of "probes" that begin with "null " are R2 of the
        same probe without a model, and are drawn beside the models'.
    make : callable
        (list of Trained, ``**options``) -> DataFrame. A function at the top level of a file: the code it needs is part
        of the table's identity.
    runs_of : callable
        (study, its finished runs) -> groups of runs, with a table for each. By default, each run alone.
    options : callable
        study -> keyword arguments of `make`, values that JSON keeps or that have a method `to_json`. By default, none.
    """

    kind: str
    make: Callable[..., pd.DataFrame]
    runs_of: Callable[..., Iterable[Sequence[Run]]] = each
    options: Callable[..., Mapping] = no_options

    def __post_init__(self):
        file_name("kind", self.kind)


@dataclass(frozen=True)
class Table:
    """One table of a study: an analysis of some runs with some options, and the code that computes it.

    Attributes
    ----------
    kind, make, options
        As in `Analysis`, with the options' values.
    runs : tuple of Run
    code : Code
        Code that computes the numbers.
    """

    kind: str
    make: Callable[..., pd.DataFrame]
    runs: tuple[Run, ...]
    options: Mapping
    code: Code

    @cached_property
    def id(self) -> str:
        """Hash of everything that decides the table's numbers, 12 hexadecimal digits."""
        content = [self.kind, [run.id for run in self.runs], dict(self.options), self.code.digest]
        return hashlib.sha256(_as_json(content, sort_keys=True)).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Name of the table's files, without suffix."""
        return f"{self.kind}-{self.id}"

    def path(self, out: Path) -> Path:
        """Return the table's file below `out`."""
        return out / "tables" / f"{self.name}.csv"


def _as_json(content, **how) -> bytes:
    return json.dumps(content, default=lambda value: value.to_json(), **how).encode()


def tables_of(study, finished: Sequence[Run]) -> list[Table]:
    """Return the tables of a study, computed or not.

    Parameters
    ----------
    study : Study
    finished : sequence of Run
        Its finished runs; all others are left out.

    Returns
    -------
    list of Table
    """
    return [
        Table(one.kind, one.make, tuple(runs), options, code)
        for one in study.analyses
        for options, code in [(one.options(study), code_of(one.make))]
        for runs in one.runs_of(study, finished)
    ]


def read_table(table: Table, out: Path) -> bytes:
    """Return the CSV of a table, as it was written.

    Raises
    ------
    FileNotFoundError
        It has not been made, or what says how is missing.
    DamagedError, MismatchError
        It is not what was written, or is another table.
    UnsafeError, OSError
        As from `worldfast.files.read_whole`.
    """
    return read_kept(table.path(out))


def read_kept(path: Path) -> bytes:
    """Return the CSV of the table at a path, as it was written. Raises as `read_table` does."""
    files.require_folder(path.parent)
    about = files.read_json(path.with_suffix(".json"))
    name = f"{about.get('kind')}-{about.get('id')}"
    if name != path.stem:
        raise MismatchError(f"'{path.with_suffix('.json')}' is of table {name}, expected {path.stem}")
    return read_known(path, about.get("sha256"))


def read_known(path: Path, sha256: str | None) -> bytes:
    """Return the bytes of a file; raises a DamagedError if they do not have this SHA-256."""
    content = bytes(files.read_whole(path))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"'{path}' is damaged: its SHA-256 is not the one that was written")
    return content


def compute(table: Table, out: Path) -> pd.DataFrame:
    """Return a table from its file below `out`, computing and writing it first if needed.

    Parameters
    ----------
    table : Table
        Its runs have finished below `out`.
    out : Path
        Folder that holds runs/ and tables/.

    Returns
    -------
    DataFrame

    Raises
    ------
    Exception
        Any error of the analysis; nothing is then written.
    """
    content = _found(table, out)
    if content is None:
        make(table, out)
        content = read_table(table, out)
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=["nan"])


def made(table: Table, out: Path) -> bool:
    """Return True if the table's file is below `out` as it was written; a warning names one that is not."""
    return _found(table, out) is not None


def _found(table: Table, out: Path) -> bytes | None:
    try:
        return read_table(table, out)
    except FileNotFoundError:
        return None
    except OF_CONTENT as error:
        warnings.warn(f"{error}; the table is made again", stacklevel=3)
        return None


def make(table: Table, out: Path) -> None:
    """Compute a table and write it below `out`. Raises as `compute` does."""
    path = table.path(out)
    content = files.table_bytes(table.make([Trained(run, out) for run in table.runs], **table.options))
    about = {
        "id": table.id,
        "kind": table.kind,
        "runs": [run.id for run in table.runs],
        "options": dict(table.options),
        "code": table.code._asdict(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "origin": files.origin("cpu"),
    }
    files.inner_folder(files.folder(out, "out") / path.parent.name)
    files.write_json(path.with_suffix(".json"), json.loads(_as_json(about)))
    files.write_whole(path, content)

"""What figures ask of a study's tables: that they hold the columns and runs, and their means over pairs of runs.

A figure that a study has no runs for raises LacksRuns, a ValueError that names what is missing. The table "runs" has a
row for each run; its column "group" names what the run was taught of beside its world, such as a region that only
fine-tunes see, and is "" for all other runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldfast.analysis.tables import need_columns
from worldfast.analysis.trends import as_matrix, task_matrix
from worldfast.report.colours import Tasks


class LacksRuns(ValueError):
    """A study does not hold what a figure draws."""


def need(table, name: str, columns: str):
    """`table`, which is the study's table `name`, if it has these columns (words) and a row.

    ValueError: a missing column. LacksRuns: no row.
    """
    need_columns(table, f"table {name!r}", columns.split())
    if not len(table):
        raise LacksRuns(f"table {name!r} has no rows")
    return table


def chosen(table, what: str, **wanted):
    """The rows of `table` whose columns have these values (None: any). LacksRuns names `what` is not there."""
    rows = np.ones(len(table), dtype=bool)
    for column, value in wanted.items():
        if value is not None:
            same = np.isclose(table[column], value) if isinstance(value, float) else table[column] == value
            rows &= np.asarray(same)
    if not rows.any():
        values = ", ".join(f"{column} {value}" for column, value in wanted.items() if value is not None)
        raise LacksRuns(f"the study has no {what}" + (f" with {values}" if values else ""))
    return table[rows]


def layer_of(table, name: str, layer: int | None) -> int:
    """`layer`, or for None the last but one of the table's layers (the only one, where there is one).

    For the published layers 3, 4, 5, 6 that is 5, as published. LacksRuns: a layer that the table lacks.
    """
    layers = sorted(table["layer"].unique().tolist())
    if layer is None:
        return layers[-2:][0]
    if layer not in layers:
        raise LacksRuns(f"table {name!r} has no layer {layer}: it has {', '.join(map(str, layers))}")
    return layer


def group_names(runs) -> list[str]:
    """Names of the groups that runs were taught: ["Atlantis"]."""
    return [name for name in dict.fromkeys(runs.get("group", ())) if name]


def groups(runs) -> str:
    """Those names in words: "Atlantis", "Atlantis and Arm C"."""
    return " and ".join(group_names(runs)) or "what was taught"


def pretrained(runs, n_tasks: int | None = None):
    """The pretrained runs of a width that most of them have, on `n_tasks` tasks each. LacksRuns: none."""
    need(runs, "runs", "run kind tasks n_tasks seed width learned")
    found = chosen(runs, "pretrained runs", kind="pt")
    found = found[found["width"] == found["width"].mode().iloc[0]]
    if n_tasks is None:
        return found
    return chosen(found, f"pretrained runs on {Tasks(runs['tasks']).count(n_tasks)}", n_tasks=n_tasks)


@dataclass(frozen=True)
class Cells:
    """A matrix whose cells are means over seeds, or over pairs of runs.

    tasks           those of the study, which say what sets are called
    rows, columns   sets of tasks, as in the tables ("distance+angle")
    mean, error     float64 [R, C]; NaN where there is no mean, or no standard error of it
    marked          bool [R, C], or None: cells whose task was trained on
    left_out        runs that did not learn and are in no mean
    failed          sets of tasks of which no run learned: their cells are of those runs
    """

    tasks: Tasks
    rows: list[str]
    columns: list[str]
    mean: np.ndarray
    error: np.ndarray
    marked: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def labels(self, names: Sequence[str], short: bool = False) -> list[str]:
        """Rows or columns in words: "distance + angle", "crossing*" where no run learned."""
        return [self.tasks.label(name, short) + ("*" if name in self.failed else "") for name in names]

    def diagonal(self, same: bool) -> np.ndarray:
        """Means of a square matrix's diagonal, or of each pair above it, without sets that failed and empty cells."""
        keep = [i for i, row in enumerate(self.rows) if row not in self.failed]
        kept = self.mean[np.ix_(keep, keep)]
        values = np.diag(kept) if same else kept[np.triu_indices(len(keep), 1)]
        return values[np.isfinite(values)]

    def frame(self):
        """The means as a DataFrame, as the functions of `worldfast.analysis` take them."""
        import pandas as pd

        return pd.DataFrame(self.mean, index=self.rows, columns=self.columns)


def pairs(table, runs, value: str, n_tasks: int, layer: int | None = None, **kept) -> Cells:
    """Means of a pairwise table over runs, task set by task set, with `analysis.trends.task_matrix`: [S, S].

    value    the column to average
    layer    as for `layer_of`
    kept     values of the table's other columns, such as kernel="rbf"

    Runs that did not learn are left out, unless none of their set did. LacksRuns: no pair of pretrained runs
    on so many tasks is in the table.
    """
    tasks = Tasks(runs["tasks"])
    table = chosen(table, f"pairs in table of {value}s", layer=layer_of(table, value, layer), **kept)
    group = pretrained(runs, n_tasks)
    able = group.groupby("tasks")["learned"].transform("any")
    keep = group[group["learned"] | ~able]
    table = table[table["run"].isin(keep["run"]) & table["other"].isin(keep["run"])]
    if not len(table):
        raise LacksRuns(f"the study compares no pretrained runs on {tasks.count(n_tasks)} with each other")
    cells = task_matrix(table[["run", "other", value]], keep, value=value, failed=True)
    mean = as_matrix(cells)
    sets = [name for name in dict.fromkeys(group["tasks"]) if name in mean.index]
    error = as_matrix(cells, "standard_error")
    return Cells(
        tasks=tasks,
        rows=sets,
        columns=sets,
        mean=mean.loc[sets, sets].to_numpy(),
        error=error.loc[sets, sets].to_numpy(dtype=float),
        left_out=tuple(group["run"][~group["run"].isin(keep["run"])]),
        failed=tuple(dict.fromkeys(group["tasks"][~able])),
    )

"""Selections of a study's tables for figures: checks of columns and runs, and means over pairs of runs.

A figure without the runs it needs raises LacksRuns, a ValueError that names what is missing. The table "runs" has a row
per run; its column "group" names what a run was taught besides its world, such as one that only fine-tunes see,
and is "" for all other runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import as_matrix, need_columns, task_matrix
from worldfast.report.colours import Tasks


class LacksRuns(ValueError):
    """Error of a figure whose data the study does not hold."""


def need(table, name: str, columns: str):
    """Return the study's table `name` if it has a row and these columns (words separated by spaces).

    Raises
    ------
    ValueError
        A missing column.
    LacksRuns
        The table has no rows.
    """
    need_columns(table, f"table {name!r}", columns.split())
    if not len(table):
        raise LacksRuns(f"table {name!r} has no rows")
    return table


def chosen(table, what: str, **wanted):
    """Return the rows of a table with these column values.

    Parameters
    ----------
    table : DataFrame
    what : str
        Name of the rows in messages.
    **wanted
        Column values; None for any.

    Raises
    ------
    LacksRuns
        No such row.
    """
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
    """Return `layer`, or by default the last but one of the table's layers, or its only one.

    For the published layers 3, 4, 5, 6 the default is 5, as published.

    Raises
    ------
    LacksRuns
        The table lacks the layer.
    """
    layers = sorted(table["layer"].unique().tolist())
    if layer is None:
        return layers[-2:][0]
    if layer not in layers:
        raise LacksRuns(f"table {name!r} has no layer {layer}: it has {', '.join(map(str, layers))}")
    return layer


def group_names(runs) -> list[str]:
    """Return the names of the groups that runs were taught: ["Arm C"]."""
    return [name for name in dict.fromkeys(runs.get("group", ())) if name]


def groups(runs) -> str:
    """Return the names of the groups in words: "Arm B", "Arm B and Arm C"."""
    return " and ".join(group_names(runs)) or "what was taught"


def pretrained(runs, n_tasks: int | None = None):
    """Return the pretrained runs of the most common width, on `n_tasks` tasks each; by default, on any number.

    Raises
    ------
    LacksRuns
        There are none.
    """
    need(runs, "runs", "run kind tasks n_tasks seed width learned")
    found = runs[runs["kind"] == "pt"]
    if not len(found):
        raise LacksRuns("the study has no pretrained runs")
    found = found[found["width"] == found["width"].mode().iloc[0]]
    if n_tasks is None:
        return found
    found = found[found["n_tasks"] == n_tasks]
    if not len(found):
        raise LacksRuns(f"the study has no pretrained runs on {Tasks(runs['tasks']).count(n_tasks)}")
    return found


@dataclass(frozen=True)
class Cells:
    """A matrix of means over seeds, or over pairs of runs.

    Attributes
    ----------
    tasks : Tasks
        Tasks of the study, which label the sets.
    rows, columns : list of str
        Sets of tasks, as in the tables ("distance+angle").
    mean, error : ndarray
        float64 [R, C], means and their standard errors; NaN if there is none.
    marked : ndarray, optional
        bool [R, C], cells whose task was trained on.
    left_out : tuple of str
        Runs that did not learn and are in no mean.
    failed : tuple of str
        Sets of tasks of which no run learned; their cells are of those runs.
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
        """Return labels of rows or columns: "distance + angle", "crossing*" if no run learned."""
        return [self.tasks.label(name, short) + ("*" if name in self.failed else "") for name in names]

    def diagonal(self, same: bool) -> np.ndarray:
        """Return the diagonal's means if `same`, else those above it, without failed sets and empty cells."""
        keep = [i for i, row in enumerate(self.rows) if row not in self.failed]
        kept = self.mean[np.ix_(keep, keep)]
        values = np.diag(kept) if same else kept[np.triu_indices(len(keep), 1)]
        return values[np.isfinite(values)]

    def frame(self):
        """Return the means as a DataFrame, as the functions of `worldfast.analysis` expect them."""
        return pd.DataFrame(self.mean, index=self.rows, columns=self.columns)


def pairs(table, runs, value: str, n_tasks: int, layer: int | None = None, **kept) -> Cells:
    """Return means of a table of pairs over runs, by sets of tasks, using `analysis.trends.task_matrix`.

    Runs that did not learn are left out, unless none of their set did.

    Parameters
    ----------
    table, runs : DataFrame
        A table of pairs, and the study's table "runs".
    value : str
        Column to average.
    n_tasks : int
        Number of tasks per set.
    layer : int, optional
        As in `layer_of`.
    **kept
        Values of the table's other columns, such as kernel="rbf".

    Returns
    -------
    Cells
        [S, S], for S sets of tasks.

    Raises
    ------
    LacksRuns
        The table has no pair of pretrained runs on this many tasks.
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

"""Convergence of representations: similarity of models trained on the same or on other tasks, by number of tasks.

Computed from a table of pairs (of `cka_table`, `procrustes_table` or `mutual_knn_table`) and a table of runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldfast import frames as pd
from worldfast.analysis.scale import lengths, magnitude, mean
from worldfast.analysis.stats import jackknife_error
from worldfast.analysis.tables import need_columns
from worldfast.errors import one_of

__all__ = ["CROSS_TASK", "DISJOINT_TASKS", "SAME_TASK", "as_matrix", "task_matrix", "trends"]

SAME_TASK, CROSS_TASK, DISJOINT_TASKS = "same task", "cross task", "disjoint tasks"
KEPT = {"kernel": "linear", "debiased": False, "components": 0, "step_share": 1.0}  # default rows of a cka table


def task_matrix(
    pairs: pd.DataFrame, runs: pd.DataFrame, *, value: str = "value", failed: bool = False, **kept: Any
) -> pd.DataFrame:
    """Return the seed-averaged matrix over sets of tasks, by layer and number of tasks, with standard errors.

    Cells on the diagonal use pairs of different runs (seeds) only. Pairs are taken among runs with the same number of
    tasks. The standard error is a jackknife over runs, because pairs share them: each run is left out of each of the
    two sets in turn (Arvesen, Annals of Mathematical Statistics 1969). It is NaN if a set has too few runs: 2 are
    needed in a cell off the diagonal, 3 on it.

    Parameters
    ----------
    pairs : DataFrame
        Columns run, other and `value`; each unordered pair once. If it has the columns kernel, debiased, components or
        step_share, the rows kept are the plain linear ones of whole representations at the last checkpoint.
    runs : DataFrame
        Columns run, tasks, n_tasks, and optionally learned.
    value : str
        Column to average.
    failed : bool
        Keep runs that failed to learn. By default they are left out, and named in .attrs["left_out"].
    **kept
        Other rows of `pairs` to keep: kernel="rbf", debiased=True, components=3, step_share=0.5.

    Returns
    -------
    DataFrame
        Columns layer (if `pairs` has it), n_tasks, tasks, other, mean, standard_error, pairs (number averaged), n
        (runs), unit; each unordered pair of sets once, including the diagonal.

    Raises
    ------
    ValueError
        A missing or unknown column, a pair listed twice or of a run with itself, a run not in `runs`, or no pair left.
    """
    chosen, left_out = _chosen(pairs, runs, value, failed, kept)
    rows = []
    layered = "layer" in chosen.columns
    by = ["layer", "n_tasks"] if layered else ["n_tasks"]
    order = {tasks: i for i, tasks in enumerate(dict.fromkeys(runs["tasks"]))}
    for key, group in chosen.groupby(by, sort=True):
        of_pairs = group[value].to_numpy(dtype=float), group["run"].to_numpy(), group["other"].to_numpy()
        for (a, b), cell in group.groupby(["tasks_a", "tasks_b"], sort=False).indices.items():
            values, runs_a, runs_b = (column[cell] for column in of_pairs)
            if a == b:
                error, n = _left_out_in_turn(values, [(runs_a, runs_b)]), len({*runs_a, *runs_b})
            else:
                error, n = _left_out_in_turn(values, [(runs_a,), (runs_b,)]), len({*runs_a}) + len({*runs_b})
            rows.append((*key, a, b, mean(values), error, len(values), n, "run, left out in turn"))
    columns = [*by, "tasks", "other", "mean", "standard_error", "pairs", "n", "unit"]
    table = pd.DataFrame(rows, columns=columns)
    names = ("tasks", "other")
    table = table.sort_values([*by, *names], key=lambda c: c.map(order) if c.name in names else c, ignore_index=True)
    table.attrs["left_out"] = left_out
    return table


def trends(
    pairs: pd.DataFrame, runs: pd.DataFrame, *, value: str = "value", failed: bool = False, **kept: Any
) -> pd.DataFrame:
    """Return mean similarities of sets of tasks that are the same, different, and disjoint, by number of tasks.

    The cells of `task_matrix` are averaged with equal weight: "same task" is its diagonal, "cross task" the rest, and
    "disjoint tasks" the cells of the rest whose two sets share no task. The standard error is a jackknife over sets of
    tasks, because cells share them: each set is left out in turn with its row and column. For the diagonal that is
    s / sqrt(n), with s over n - 1. If there is only one set (all seven tasks), it is over the runs of that set.

    Parameters
    ----------
    pairs, runs, value, failed, **kept
        As in `task_matrix`.

    Returns
    -------
    DataFrame
        Columns what, layer (if `pairs` has it), n_tasks, mean, standard_error, n, unit; n counts the units left out in
        turn, which `unit` names. The standard error is NaN if leaving one out leaves no cell. Runs that failed to learn
        are named in .attrs["left_out"].

    Raises
    ------
    ValueError
        As in `task_matrix`.
    """
    table = task_matrix(pairs, runs, value=value, failed=failed, **kept)
    by = [column for column in ("layer", "n_tasks") if column in table.columns]
    rows = []
    for key, cells in table.groupby(by, sort=True):
        a, b = cells["tasks"].to_numpy(), cells["other"].to_numpy()
        apart = np.array([not {*x.split("+")} & {*y.split("+")} for x, y in zip(a, b, strict=True)], dtype=bool)
        for what, mask in ((SAME_TASK, a == b), (CROSS_TASK, a != b), (DISJOINT_TASKS, apart)):
            if not mask.any():
                continue
            means = cells["mean"].to_numpy()[mask]
            sets = {*a[mask], *b[mask]}
            if len(sets) == 1:
                alone = cells[mask].iloc[0]
                found = float(alone["standard_error"]), int(alone["n"]), "run"
            else:
                found = _left_out_in_turn(means, [(a[mask], b[mask])]), len(sets), "set of tasks"
            rows.append((what, *key, mean(means), *found))
    found = pd.DataFrame(rows, columns=["what", *by, "mean", "standard_error", "n", "unit"])
    found.attrs["left_out"] = table.attrs["left_out"]
    return found


def as_matrix(table: pd.DataFrame, value: str = "mean") -> pd.DataFrame:
    """Return a column of `task_matrix`, of one layer and one number of tasks, as a symmetric matrix.

    Parameters
    ----------
    table : DataFrame
        Rows of a `task_matrix`.
    value : str
        Column to show.

    Returns
    -------
    DataFrame
        Sets of tasks by sets of tasks, NaN if there is no cell.

    Raises
    ------
    ValueError
        A pair of sets occurs twice, as when several layers are mixed.
    """
    need_columns(table, "table", ("tasks", "other", value))
    if table.duplicated(["tasks", "other"]).any():
        raise ValueError("table: a pair of sets of tasks occurs twice; choose one layer and one n_tasks first")
    names = list(dict.fromkeys([*table["tasks"], *table["other"]]))
    half = table.pivot(index="tasks", columns="other", values=value).reindex(index=names, columns=names)
    return half.combine_first(half.T).reindex(index=names, columns=names).rename_axis(index=None, columns=None)


def _chosen(
    pairs: pd.DataFrame, runs: pd.DataFrame, value: str, failed: bool, kept: Mapping[str, Any]
) -> tuple[pd.DataFrame, list[str]]:
    """Select the pairs asked for, of runs with the same number of tasks, with each pair's sets in a fixed order.

    Returns
    -------
    DataFrame
        Pairs, with the columns tasks_a, tasks_b and n_tasks added.
    list of str
        Runs left out because they failed to learn.
    """
    need_columns(pairs, "pairs", ("run", "other", value))
    need_columns(runs, "runs", ("run", "tasks", "n_tasks"))
    for column in kept:
        one_of("column to choose by", column, KEPT)
        need_columns(pairs, "pairs", (column,))
    for column, default in KEPT.items():
        if column in pairs.columns:
            wanted = kept.get(column, default)
            same = np.isclose(pairs[column], wanted) if column == "step_share" else pairs[column] == wanted
            if not same.any():
                raise ValueError(f"pairs: none has {column} {wanted!r}, only {sorted(pairs[column].unique())}")
            pairs = pairs[same]
    if (pairs["run"] == pairs["other"]).any():
        raise ValueError("pairs: holds pairs of a run with itself, expected different runs")
    known = runs.drop_duplicates("run").set_index("run")
    for column in ("run", "other"):
        strangers = set(pairs[column]) - set(known.index)
        if strangers:
            raise ValueError(f"pairs: {min(strangers)!r} is not among the runs")
    left_out = []
    if "learned" in known.columns and not failed:
        compared = {*pairs["run"], *pairs["other"]}
        left_out = [run for run, learned in known["learned"].items() if run in compared and not learned]
        pairs = pairs[~pairs["run"].isin(left_out) & ~pairs["other"].isin(left_out)]
    order = {tasks: i for i, tasks in enumerate(dict.fromkeys(runs["tasks"]))}
    a, b = pairs["run"].map(known["tasks"]), pairs["other"].map(known["tasks"])
    swap = (a.map(order) > b.map(order)).to_numpy(dtype=bool)
    table = pairs.assign(
        tasks_a=np.where(swap, b, a),
        tasks_b=np.where(swap, a, b),
        run=np.where(swap, pairs["other"], pairs["run"]),
        other=np.where(swap, pairs["run"], pairs["other"]),
        n_tasks=pairs["run"].map(known["n_tasks"]),
    )
    table = table[(table["n_tasks"] == pairs["other"].map(known["n_tasks"])).to_numpy(dtype=bool)]
    if table.empty:
        raise ValueError("pairs: none is left between runs that learned and have the same number of tasks")
    keys = [column for column in ("layer", "run", "other") if column in table.columns]
    if table.duplicated(keys).any():
        run, other = table.loc[table.duplicated(keys), ["run", "other"]].iloc[0]
        raise ValueError(f"pairs: {run} and {other} occur twice; each unordered pair is expected once")
    return table, left_out


def _left_out_in_turn(values: np.ndarray, samples: Sequence[tuple[np.ndarray, ...]]) -> float:
    """Return the jackknife standard error of a mean over pairs, leaving out each unit of each sample with all its
    pairs.

    Parameters
    ----------
    values : array [n]
        Values of the pairs.
    samples : list of tuple of array [n]
        For each sample, the columns that name its units; a unit's pairs are those in which one of the columns holds it.
    """
    size = magnitude(values)
    values = values / size
    values = values - values.mean()  # sums that lack a unit are differences of sums
    errors = []
    for columns in samples:
        units = np.unique(np.concatenate(columns), return_inverse=True)[1].reshape(len(columns), len(values))
        once = np.ones_like(units, dtype=bool)
        once[1:] = units[1:] != units[:1]  # of a pair that one unit holds twice
        sums = np.bincount(units[once], np.broadcast_to(values, units.shape)[once])
        with np.errstate(divide="ignore", invalid="ignore"):  # no pair is left: no error
            errors.append(jackknife_error((values.sum() - sums) / (len(values) - np.bincount(units[once]))))
    return float(lengths(np.array([errors]))[0]) * size

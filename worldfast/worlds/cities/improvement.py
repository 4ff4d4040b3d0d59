"""Success of fine-tuning at working new cities into a model: improvement, what two teachers promise and give.

Every function takes and gives the tables of a study, and works on anyone's that have the columns.
Source: the evaluation of arXiv 2602.00533.
"""

from __future__ import annotations

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import need_columns
from worldfast.arrays import numbers
from worldfast.errors import one_of

__all__ = [
    "CEILING",
    "deviation",
    "deviation_summary",
    "improvement",
    "normalised_improvement",
    "seed_averaged",
    "summary",
]

CEILING = 1.5  # normalised improvement is clipped to 0 and this
KINDS = ("error", "accuracy")


def normalised_improvement(value, base_group, base_standard, kind: str = "error", clip: bool = True):
    """Return how far a fine-tune has moved from the base model's score on the taught group to its standard score.

    Source: arXiv 2602.00533, normalised improvement.

    Parameters
    ----------
    value : float or array
        Score of the fine-tune on rows that include the taught group.
    base_group : float or array
        Score of its base model on such rows.
    base_standard : float or array
        Score of its base model on rows without the group.
    kind : {"error", "accuracy"}
        ln(base_group / value) / ln(base_group / base_standard), or (value - base_group) / (base_standard - base_group).
    clip : bool
        Clip to [0, 1.5].

    Returns
    -------
    ndarray
        float64 of their common shape: 0 is no better than the base on the group, 1 as good as the base elsewhere. NaN
        if the base is no worse on the group than elsewhere, so that there is nothing to improve, or a base's error is
        0.

    Raises
    ------
    ValueError
        An error is negative, or the kind is unknown.
    """
    one_of("kind", kind, KINDS)
    given = {"value": value, "base_group": base_group, "base_standard": base_standard}
    v, group, standard = np.broadcast_arrays(*(numbers(x, name, None).array(False) for name, x in given.items()))
    if kind == "accuracy":
        defined, gone, way = standard > group, v - group, standard - group
    else:
        for name, errors in (("value", v), ("base_group", group), ("base_standard", standard)):
            if (errors < 0).any():
                raise ValueError(f"{name}: an error cannot be negative, got {errors[errors < 0].flat[0]:g}")
        defined = (group > standard) & (standard > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            gone, way = np.log(group / v), np.log(group / standard)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(defined, gone / way, np.nan)
    share = np.clip(share, 0, CEILING) if clip else share
    return share if share.ndim else float(share)


def improvement(evaluation: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the normalised improvement of every fine-tune on every task on which it was evaluated, relative to its
    base model.

    Parameters
    ----------
    evaluation : DataFrame
        Columns run, task, group ("standard", or the taught one, such as "Atlantis"), metric, value.
    runs : DataFrame
        Columns run, kind, tasks, seed, base; and group, the taught one, if there are several: one row for each.

    Returns
    -------
    DataFrame
        Columns run, tasks, seed, task, group, metric, value, base_group, base_standard, improvement (clipped to [0,
        1.5]), and trained (True if the task is among those fine-tuned on).

    Raises
    ------
    ValueError
        A column is missing, nothing was fine-tuned, a base lacks a value, or a value occurs twice.
    """
    need_columns(evaluation, "evaluation", ("run", "task", "group", "metric", "value"))
    need_columns(runs, "runs", ("run", "kind", "tasks", "seed", "base"))
    tuned = runs.loc[runs["kind"] == "ft", ["run", "tasks", "seed", "base", *(["group"] if "group" in runs else [])]]
    if tuned.empty:
        raise ValueError("runs: none is a fine-tune (kind 'ft')")
    keys = ["run", "task", "group"]
    if evaluation.duplicated(keys).any():
        run, task, group = evaluation.loc[evaluation.duplicated(keys), keys].iloc[0]
        raise ValueError(f"evaluation: {run} has two values for {task}, {group}")
    late = evaluation["group"] != "standard"
    if late.all() or not late.any():
        found = sorted(evaluation["group"].unique())
        raise ValueError(f"evaluation: expected the group 'standard' and what fine-tunes were taught, only has {found}")
    standard, taught = evaluation[~late], evaluation[late]
    base = taught.merge(standard[["run", "task", "value"]], on=["run", "task"], suffixes=("_group", "_standard"))
    names = {"run": "base", "value_group": "base_group", "value_standard": "base_standard"}
    base = base.rename(columns=names)[["base", "task", "group", "base_group", "base_standard"]]
    columns = ["run", "task", "group", "metric", "value"]
    table = tuned.merge(taught[columns], on=["run", "group"] if "group" in tuned else "run")
    table = table.merge(base, on=["base", "task", "group"], how="left")
    missing = table[table[["base_group", "base_standard"]].isna().any(axis=1)]
    if len(missing):
        row = missing.iloc[0]
        started = f"{row['run']} started from {row['base']!r}"
        raise ValueError(f"evaluation: {started}, which lacks a value for {row['task']}, standard or {row['group']}")
    if table.empty:
        raise ValueError("evaluation: holds no value of any of the fine-tunes in runs on what it was taught")
    table["improvement"] = _improvements(table, table["value"], clip=True)
    table["trained"] = _among(table["tasks"], table["task"])
    bases = ["base_group", "base_standard"]
    return table[["run", "tasks", "seed", "task", "group", "metric", "value", *bases, "improvement", "trained"]]


def deviation(improvement: pd.DataFrame, runs: pd.DataFrame, clip: bool = False) -> pd.DataFrame:
    """Compare fine-tunes on several tasks with the better of their teachers.

    A teacher is the fine-tune on one of the tasks, from the same base, taught the same group. The expected value on an
    evaluated task is the best raw value of the teachers there (the least error, the largest accuracy), normalised.
    Source: arXiv 2602.00533, "best teacher".

    Parameters
    ----------
    improvement : DataFrame
        From `improvement`; without a column group all were taught the same.
    runs : DataFrame
        Columns run, base.
    clip : bool
        Clip actual and expected values.

    Returns
    -------
    DataFrame
        Columns run, tasks, seed, task, actual, expected, deviation (actual - expected), trained, and distance (True if
        distance is among the tasks). Runs that lack a teacher are left out and named in .attrs["left_out"].

    Raises
    ------
    ValueError
        A column is missing, or no run has all its teachers.
    """
    need = ("run", "tasks", "seed", "task", "metric", "value", "base_group", "base_standard", "trained")
    need_columns(improvement, "improvement", need)
    need_columns(runs, "runs", ("run", "base"))
    table = improvement.merge(runs[["run", "base"]], on="run")
    table = table if "group" in table else table.assign(group="")
    one = table[~table["tasks"].str.contains("+", regex=False)]
    keys = ["base", "group", "tasks", "task"]
    if one.duplicated(keys).any():
        twice = one.loc[one.duplicated(keys)].iloc[0]
        raise ValueError(f"improvement: two fine-tunes of {twice['base']!r} on {twice['tasks']}: which is the teacher?")
    teachers = {(row.base, row.group, row.tasks, row.task): row.value for row in one.itertuples()}
    several = table[table["tasks"].str.contains("+", regex=False)]
    best, left_out = [], []
    for row in several.itertuples():
        values = [teachers.get((row.base, row.group, task, row.task)) for task in row.tasks.split("+")]
        if any(value is None for value in values):
            left_out.append(row.run)
            best.append(np.nan)
        else:
            best.append(max(values) if row.metric == "accuracy" else min(values))
    several = several.assign(best=best)
    several = several[~several["run"].isin(left_out)].reset_index(drop=True)
    if several.empty:
        without = f"; without all of their teachers: {', '.join(dict.fromkeys(left_out))}" if left_out else ""
        raise ValueError(f"improvement: no fine-tune on several tasks whose teachers are there{without}")
    several["actual"] = _improvements(several, several["value"], clip)
    several["expected"] = _improvements(several, several["best"], clip)
    several["deviation"] = several["actual"] - several["expected"]
    several["distance"] = _among(several["tasks"], ["distance"] * len(several))
    columns = ["run", "tasks", "seed", "task", "actual", "expected", "deviation", "trained", "distance"]
    found = several[columns]
    found.attrs["left_out"] = list(dict.fromkeys(left_out))
    return found


def seed_averaged(table: pd.DataFrame, value: str = "improvement", statistic: str = "mean") -> pd.DataFrame:
    """Average a column over seeds, as a matrix: rows are the tasks fine-tuned on, columns the tasks evaluated, in the
    order of the table.

    Parameters
    ----------
    table : DataFrame
        Columns tasks, task and the value: an `improvement` or a `deviation` table.
    value : str
        Name of the column.
    statistic : {"mean", "standard_error", "n"}
        The standard error is over n - 1, NaN for one seed; n is the number of seeds. NaN values are left out of all
        three.
    """
    need_columns(table, "table", ("tasks", "task", value))
    of = {"mean": "mean", "standard_error": "sem", "n": "count"}
    cells = (
        table.groupby(["tasks", "task"], sort=False)[value].agg(of[one_of("statistic", statistic, of)]).unstack("task")
    )
    return cells.loc[list(dict.fromkeys(table["tasks"])), list(dict.fromkeys(table["task"]))]


def summary(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return the trained and the transfer average of a seed-averaged matrix, as published.

    Parameters
    ----------
    matrix : DataFrame
        Rows named by the tasks fine-tuned on ("distance+angle"), columns by the task evaluated: from `seed_averaged`,
        or a matrix of `worldfast.worlds.cities.published`.

    Returns
    -------
    DataFrame
        Rows "trained" (the column's task is among the row's) and "transfer", columns what, mean, standard_deviation, n,
        unit. The standard deviation describes these n cells (over n, as published); cells share models, so it does not
        measure the variation of the mean over seeds. NaN cells are left out of n.
    """
    trained = np.array([[task in tasks.split("+") for task in matrix.columns] for tasks in matrix.index], dtype=bool)
    return _described(matrix, {"trained": trained, "transfer": ~trained})


def deviation_summary(matrix: pd.DataFrame, task: str = "distance") -> pd.DataFrame:
    """Return the mean deviation of fine-tunes with a task among theirs, and of those without, over all evaluated tasks.

    Parameters
    ----------
    matrix : DataFrame
        As for `summary`, of deviations.
    task : str
        Task that divides the fine-tunes.

    Returns
    -------
    DataFrame
        As from `summary`, with rows "with distance" and "without distance".
    """
    has = np.array([task in tasks.split("+") for tasks in matrix.index], dtype=bool)
    has = np.broadcast_to(has[:, None], matrix.shape)
    return _described(matrix, {f"with {task}": has, f"without {task}": ~has})


def _described(matrix, masks):
    values, rows = matrix.to_numpy(dtype=float), []
    for what, mask in masks.items():
        cells = values[mask & np.isfinite(values)]
        mean, spread = (float(cells.mean()), float(cells.std())) if len(cells) else (np.nan, np.nan)
        rows.append((what, mean, spread, len(cells), "cell of the seed-averaged matrix"))
    return pd.DataFrame(rows, columns=["what", "mean", "standard_deviation", "n", "unit"])


def _improvements(table, values, clip):
    """normalised_improvement of a column, each row by its metric."""
    parts = table["base_group"], table["base_standard"]
    errors = normalised_improvement(np.where(table["metric"] == "accuracy", 1.0, values), *parts, "error", clip)
    return np.where(table["metric"] == "accuracy", normalised_improvement(values, *parts, "accuracy", clip), errors)


def _among(tasks, task):
    return [one in several.split("+") for several, one in zip(tasks, task, strict=True)]

"""Prediction of fine-tuning by the agreement of tasks' gradients before it.

Each pair of tasks counts once; p is from a Mantel test, because pairs share tasks. Nothing is fitted: there is one
number for a pair from the pretrained models, and one from their fine-tunes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import need_columns
from worldfast.worlds.cities.transfer import likeness_against_transfer

__all__ = ["of_pairs", "prediction", "square"]


def square(table: pd.DataFrame, value: str = "cosine") -> pd.DataFrame:
    """Return the symmetric matrix of tasks of an `agreement` table, averaged over its models.

    Parameters
    ----------
    table : DataFrame
        Columns task, other and the value.
    value : str
        Name of the column.
    """
    need_columns(table, "agreement", ("task", "other", value))
    means = table.groupby(["task", "other"], sort=False)[value].mean()
    names = list(dict.fromkeys([*table.task, *table.other]))
    return _symmetric(names, {pair: float(mean) for pair, mean in means.items()})


def of_pairs(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return the symmetric matrix of a column over fine-tunes on two tasks, averaged over seeds and evaluated tasks.

    Parameters
    ----------
    table : DataFrame
        Columns tasks ("angle+perimeter") and the value: a `deviation` table, for example.
    value : str
        Name of the column.

    Returns
    -------
    DataFrame
        Named by tasks; the diagonal is NaN.
    """
    need_columns(table, "table", ("tasks", value))
    pairs = table[table.tasks.str.count(r"\+") == 1]
    means = pairs.groupby("tasks", sort=False)[value].mean()
    names = list(dict.fromkeys(task for tasks in means.index for task in tasks.split("+")))
    return _symmetric(names, {tuple(tasks.split("+")): float(mean) for tasks, mean in means.items()})


def _symmetric(names: list[str], values: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    found = pd.DataFrame(np.nan, index=names, columns=names)
    for (a, b), value in values.items():
        found.loc[a, b] = found.loc[b, a] = value
    return found


def prediction(agreement: pd.DataFrame, targets: Mapping[str, pd.DataFrame], apart: str = "distance") -> pd.DataFrame:
    """Correlate agreement with effects of fine-tuning, over unordered pairs, with and without one task.

    Parameters
    ----------
    agreement : DataFrame
        Square, symmetric, named by tasks: from `square`.
    targets : mapping of str to DataFrame
        Predicted effects by name; rows and columns are named by tasks, and the two directions of a pair are averaged.
    apart : str
        Task that every second row leaves out.

    Returns
    -------
    DataFrame
        Column predicted and those of `likeness_against_transfer`: what, r, r2, p, n, unit, test.
    """
    parts = []
    for name, target in targets.items():
        found = likeness_against_transfer(agreement, target, without=(), apart=apart)
        found.insert(0, "predicted", name)
        parts.append(found)
    return pd.concat(parts, ignore_index=True)

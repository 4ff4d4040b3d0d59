"""Correlation of the likeness of two tasks' representations with transfer in fine-tuning.

The published correlation treats the 30 ordered pairs of 6 tasks as independent points, although likeness is symmetric:
15 values occur twice in it, and pairs share tasks. Here each unordered pair counts once, with the mean improvement of
its two directions, and the test permutes tasks. Source: arXiv 2602.00533, CKA against generalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import mantel
from worldfast.display import count

__all__ = ["likeness_against_transfer", "transfer_points"]


def transfer_points(likeness: pd.DataFrame, improvement: pd.DataFrame, without: Sequence[str] = ()) -> pd.DataFrame:
    """Return each unordered pair of tasks once.

    Only tasks that both tables have are used.

    Parameters
    ----------
    likeness : DataFrame
        Square, symmetric, named by tasks: the CKA of one-task models (`as_matrix` of a `task_matrix`).
    improvement : DataFrame
        Rows are tasks fine-tuned on, columns tasks evaluated (`seed_averaged`); the two directions of a pair are
        averaged.
    without : sequence of str
        Tasks to leave out, such as one that is not learned alone.

    Returns
    -------
    DataFrame
        Columns task, other, likeness, improvement, and distance (True if distance is one of the two).

    Raises
    ------
    ValueError
        Fewer than 2 tasks are shared, or likeness is not square.
    """
    tasks = _tasks(likeness, improvement, without, 2)
    rows = [
        (
            a,
            b,
            float(likeness.loc[a, b]),
            float(improvement.loc[a, b] + improvement.loc[b, a]) / 2,
            "distance" in (a, b),
        )
        for a, b in combinations(tasks, 2)
    ]
    return pd.DataFrame(rows, columns=["task", "other", "likeness", "improvement", "distance"])


def likeness_against_transfer(
    likeness: pd.DataFrame,
    improvement: pd.DataFrame,
    without: Sequence[str] = ("crossing",),
    apart: str = "distance",
    permutations: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate likeness and transfer over unordered pairs, with and without one task.

    Parameters
    ----------
    likeness, improvement, without
        As for `transfer_points`.
    apart : str
        Task that the second row leaves out.
    permutations, seed : int
        As for `mantel`.

    Returns
    -------
    DataFrame
        Columns what ("all tasks", "without distance"), r, r2, p, n, unit, test. p is from Mantel's permutations of
        tasks. A row that cannot be computed (fewer than 4 tasks, or a pair without a value) has NaN, and its test gives
        the reason.
    """
    rows = []
    for what, left_out in (("all tasks", ()), (f"without {apart}", (apart,))):
        tasks = _tasks(likeness, improvement, (*without, *left_out), 0)
        A = likeness.loc[tasks, tasks].to_numpy(dtype=float)
        B = improvement.loc[tasks, tasks].to_numpy(dtype=float)
        n = len(tasks) * (len(tasks) - 1) // 2
        try:
            found = mantel(A, (B + B.T) / 2, permutations=permutations, seed=seed, names=("likeness", "improvement"))
            rows.append((what, found.r, found.r2, found.p, found.n, "unordered pair of tasks", found.test))
        except ValueError as error:
            rows.append((what, np.nan, np.nan, np.nan, n, "unordered pair of tasks", f"none: {error}"))
    return pd.DataFrame(rows, columns=["what", "r", "r2", "p", "n", "unit", "test"])


def _tasks(likeness, improvement, without, least):
    if list(likeness.index) != list(likeness.columns):
        raise ValueError("likeness: expected a square table whose rows and columns have the same names")
    known = [task for task in likeness.index if task in improvement.index and task in improvement.columns]
    tasks = [task for task in known if task not in without]
    if len(tasks) < least:
        raise ValueError(f"expected at least {count(least, 'task')} that likeness and improvement share, got {tasks}")
    return tasks

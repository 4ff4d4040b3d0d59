"""Effects of fine-tuning, task by task: improvement on what was taught, and deviation of two tasks from one."""

from __future__ import annotations

import numpy as np

from worldfast.display import count
from worldfast.report import CKA_STOPS, DIVERGING_STOPS, INK, Tasks
from worldfast.report.figures import Cells, LacksRuns, groups, need, note, sheet
from worldfast.worlds.cities.figures.catalogue import figure, taught
from worldfast.worlds.cities.improvement import deviation_summary, seed_averaged, summary

WITH, WITHOUT = "#0072b2", "#b0571b"  # sets of tasks with distance among them, and without


@figure("improvement", "tuning", "improvement runs", taught)
def improvement(table, runs, n_tasks: int = 1):
    """Draw the normalised improvement of fine-tunes (rows) on every task (columns), averaged over seeds; trained
    cells are framed.

    0 is no better on the taught group than before, 1 as good as on the rest of the world.

    Parameters
    ----------
    table : DataFrame
        The study's table "improvement".
    runs : DataFrame
        Its table "runs", or the part to draw.
    n_tasks : int
        Draw fine-tunes on this many tasks.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        There is no such fine-tune.
    ValueError
        A column is missing.
    """
    need(table, "improvement", "run tasks seed task improvement trained")
    table = table[table["run"].isin(runs["run"])]
    tasks = Tasks(runs["tasks"]).count(n_tasks)
    cells = over_seeds(table, "improvement", n_tasks)
    group = groups(runs[runs["run"].isin(table["run"])])
    found = summary(cells.frame()).set_index("what")
    parts = [
        f"{row['mean']:.2f} ± {row['standard_deviation']:.2f} where {words} (n = {count(row['n'], 'cell')})"
        for row, words in ((found.loc["trained"], "trained"), (found.loc["transfer"], "not"))
    ]
    return _effect(cells, f"Normalised improvement on {group}: fine-tunes on {tasks}"), (
        f"Fine-tunes on {tasks}: normalised improvement on {group} is {' and '.join(parts)}; ± is the standard "
        f"deviation over cells, {seeds(table)}."
    )


@figure("deviation", "tuning", "deviation")
def deviation(table):
    """Draw two-task fine-tunes minus the better of their one-task teachers, task by task, averaged over seeds.

    Parameters
    ----------
    table : DataFrame
        The study's table "deviation". Fine-tunes with distance come first; trained cells are framed.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        There is no row.
    ValueError
        A column is missing.
    """
    need(table, "deviation", "run tasks seed task deviation trained distance")
    cells = over_seeds(table, "deviation")
    title = "Normalised improvement less the better one-task teacher's"
    drawing = _effect(cells, title, DIVERGING_STOPS, low=-0.6, high=0.6, signed=True)
    far = sum(apart(cells.rows))
    if 0 < far < len(cells.rows):
        drawing.axes[0].axhline(far - 0.5, color=INK, linewidth=1.6, zorder=3)
    parts = [
        f"{mean:+.3f} {what} (n = {count(n, 'cell')})".replace("-", "−")
        for what, mean, n in deviation_summary(cells.frame())[["what", "mean", "n"]].itertuples(index=False)
        if n
    ]
    return drawing, (
        "Fine-tunes on two tasks against the better of their two one-task teachers: mean deviation of normalised "
        f"improvement, not clipped, {', '.join(parts)}, {seeds(table)}."
    )


def over_seeds(table, value: str, n_tasks: int | None = None) -> Cells:
    """Means over seeds, `improvement.seed_averaged`, of fine-tunes on x evaluated on y, trained ones marked.

    Rows: fewer tasks first, and sets with distance before others, each in the table's order, as columns are.
    LacksRuns: no fine-tune on so many tasks (None: any).
    """
    tasks = Tasks([*table["tasks"], *table["task"]])
    if n_tasks is not None:
        table = table[table["tasks"].str.count(r"\+") + 1 == n_tasks]
    if not len(table):
        raise LacksRuns("the study has no fine-tunes" + (f" on {tasks.count(n_tasks)}" if n_tasks else ""))
    mean, error = seed_averaged(table, value), seed_averaged(table, value, "standard_error")
    rows = sorted(mean.index, key=lambda tasks: (tasks.count("+"), not apart([tasks])[0]))
    columns = list(mean.columns)
    marked = np.array([[task in name.split("+") for task in columns] for name in rows])
    errors = error.loc[rows, columns].to_numpy(dtype=float)
    return Cells(tasks, rows, columns, mean.loc[rows, columns].to_numpy(), errors, marked)


def apart(sets) -> np.ndarray:
    """bool [n], sets of tasks with distance among them, which models keep apart from what they know already."""
    return np.array(["distance" in tasks.split("+") for tasks in sets], dtype=bool)


def seeds(table) -> str:
    """Number of seeds that a table's means are over, in words."""
    count = table["seed"].nunique()
    return f"which are means over {count} seeds" if count > 1 else "of one seed"


def _effect(cells: Cells, title: str, stops=CKA_STOPS, low=0.0, high=1.0, signed=False):
    drawing = sheet(cells, title, stops, low, high, signed)
    axes = drawing.axes[0]
    axes.set_ylabel("fine-tuned on")
    axes.set_xlabel("evaluated on", labelpad=8)
    axes.xaxis.set_label_position("bottom")
    note(drawing, "framed: trained on")
    return drawing

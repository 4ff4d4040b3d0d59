"""Activation patching: depth and positions at which a model's answers take over another model's knowledge."""

from __future__ import annotations

from itertools import cycle

import numpy as np

from worldfast.display import count
from worldfast.report.colours import Tasks
from worldfast.report.figures.style import MUTED, heading, paper, quiet, styled
from worldfast.report.figures.tables import LacksRuns, groups, need

LINES = ("-", "--", ":", "-.", (0, (6, 2)), (0, (1, 1)))  # of groups of positions, in their order
TOLD = 0.25  # largest standard error of the recovered share, a median, for a task to be drawn


@styled
def patching(table, runs):
    """Plot the recovered share, from the target's answers (0) to the source's (1), by layer, with standard errors over
    rows.

    One panel per task, one line per group of positions. Tasks on which source and target differ too little to measure
    the share are left out.

    Parameters
    ----------
    table, runs : DataFrame
        The study's tables "patching" and "runs".

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        No row, or no task with a measurable share.
    ValueError
        A missing column.
    """
    need(table, "patching", "layer positions task source target recovered standard_error")
    tasks, colours = told(table), Tasks(runs["tasks"]).colours
    parts = []
    figure = paper(3.4 * len(tasks) + 2.6, 3.4)
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tasks):
        of_task = table[table["task"] == task]
        for (positions, part), line in zip(of_task.groupby("positions", sort=False), cycle(LINES)):
            part = part.sort_values("layer")
            axes.errorbar(
                part["layer"],
                part["recovered"],
                part["standard_error"],
                label=positions,
                color=colours[task],
                linestyle=line,
                marker="o",
                markersize=3.5,
                elinewidth=0.8,
                linewidth=1.6,
            )
        for level in (0, 1):
            axes.axhline(level, color=MUTED, linewidth=0.8, zorder=0)
        axes.set_title(task)
        axes.set_xlabel("layer whose states are the source's")
        axes.set_xticks(sorted(of_task["layer"].unique()))
        quiet(axes, "y")
        half = of_task[(of_task["recovered"] >= 0.5) & (of_task["positions"] == of_task["positions"].iloc[0])]
        where = f"layer {int(half['layer'].min())}" if len(half) else "no layer"
        parts.append(f"{task}: half of the way at {where}")
    first = figure.axes[0]
    first.set_ylabel("0: as the target, 1: as the source")
    about = {"frameon": False, "fontsize": 8, "title": "positions", "title_fontsize": 8}
    figure.axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), **about)
    drawn = table[table["task"].isin(tasks)]
    above = drawn["recovered"] - 2 * drawn["standard_error"] > 1
    beyond = " Above 1, answers go past the source's: a mixture of two models' states can answer worse than either."
    row = table.iloc[0]
    heading(figure, f"States of {row['source']} put into {row['target']}")
    group = groups(runs[runs["run"].isin([row["source"], row["target"]])])
    return figure, (
        f"Rows that include {group}, answered by {row['target']} with states of {row['source']} at the tokens of "
        f"{group} and at all tokens; {'; '.join(parts)} from {group}'s tokens alone "
        f"(one pair of models, n = {count(int(row['n']), 'row')} a task; bars: standard errors over rows)."
        f"{beyond if above.any() else ''}"
    )


def told(table) -> list[str]:
    """Return the tasks whose recovered share has a standard error of at most TOLD at half of positions and layers."""
    if not len(table):
        raise LacksRuns("table 'patching' holds no rows")
    errors = table.groupby("task", sort=False)["standard_error"].median()
    tasks = [task for task, error in errors.items() if np.isfinite(error) and error <= TOLD]
    if not tasks:
        raise LacksRuns("source and target differ too little on every task to measure patching")
    return tasks

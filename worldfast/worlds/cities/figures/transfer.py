"""Transfer from task to task, as likeness, gradients and hidden states show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.display import count
from worldfast.report import DIVERGING_STOPS, INK, Tasks, listed
from worldfast.report.figures import (
    MUTED,
    Cells,
    LacksRuns,
    chosen,
    groups,
    layer_of,
    need,
    note,
    pairs,
    paper,
    quiet,
    sheet,
)
from worldfast.report.figures import patching as of_positions
from worldfast.worlds.cities import published
from worldfast.worlds.cities.figures.catalogue import figure, is_comparable
from worldfast.worlds.cities.figures.effects import WITH, over_seeds
from worldfast.worlds.cities.patching import POSITIONS
from worldfast.worlds.cities.transfer import likeness_against_transfer, transfer_points


@figure("cka-against-improvement", "tuning", "cka improvement runs")
def cka_against_improvement(cka, improvement, runs, layer: int | None = None, without: Sequence[str] = ("crossing",)):
    """Plot the CKA of two one-task models against transfer in fine-tuning from one task to the other, a point for each
    pair.

    Each unordered pair counts once, with the mean of its two directions.

    Parameters
    ----------
    cka, improvement, runs : DataFrame
        The study's tables of these names.
    layer : int, optional
        None means the last but one of the layers.
    without : sequence of str
        Tasks to leave out: crossing, which is not learned alone, as published.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        There are no one-task models, no one-task fine-tunes, or fewer than two tasks that have both.
    ValueError
        A column is missing.
    """
    need(cka, "cka", "layer step_share kernel debiased components run other value")
    need(improvement, "improvement", "run tasks seed task improvement trained")
    layer = layer_of(cka, "cka", layer)
    kept = {"step_share": 1.0, "kernel": "linear", "debiased": False, "components": 0}
    likeness = pairs(cka, runs, "value", 1, layer, **kept).frame()
    carried = over_seeds(improvement, "improvement", 1).frame()
    if len(set(likeness.index) & set(carried.index) - set(without)) < 2:
        raise LacksRuns("fewer than two tasks have both a one-task model and a one-task fine-tune")
    points = transfer_points(likeness, carried, without).dropna()
    if not len(points):
        raise LacksRuns("no pair of tasks has both a CKA and an improvement")
    drawing = paper(6.4, 4.6)
    axes = drawing.subplots()
    for far, colour, marker in ((False, INK, "o"), (True, WITH, "D")):
        some = points[points["distance"] == far]
        axes.plot(some["likeness"], some["improvement"], marker, color=colour, markersize=5.5)
    _beside(axes, points, Tasks(runs["tasks"]).letters)
    axes.set_xlabel(f"linear CKA of the one-task models, layer {layer}")
    axes.set_ylabel("normalised improvement on the other task")
    axes.set_title("Does likeness say what fine-tuning carries over?")
    quiet(axes)
    note(drawing, "blue diamonds: pairs with distance")
    tests = likeness_against_transfer(likeness, carried, without).dropna(subset="r2")
    parts = [f"R² {row.r2:.2f}, p {row.p:.2g} over {count(row.n, 'pair')} ({row.what})" for row in tests.itertuples()]
    said = f"CKA against improvement: {'; '.join(parts)}; " if parts else "Too few tasks for a test; "
    said += f"without {listed(without)}, not learned alone; " if without else ""
    said += "unit: an unordered pair of tasks, means over seeds; p from permuting the tasks (Mantel)."
    if is_comparable(runs):
        r2, p = (published.value(f"cka_generalisation_{what}").value for what in ("r2", "p"))
        said += (
            f" The published R² of {r2} (p {p}) counts 15 symmetric values twice, and most of it is the distance task."
        )
    return drawing, said


@figure("gradient-agreement", "tuning", "agreement runs")
def agreement(table, runs, base: str | None = None):
    """Draw the cosines of tasks' gradients at a pretrained model, before any fine-tuning; the diagonal compares
    different rows.

    Parameters
    ----------
    table, runs : DataFrame
        The study's tables "agreement" and "runs".
    base : str, optional
        One pretrained run; None means the mean over all, with standard errors.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        There is no such base.
    ValueError
        A column is missing.
    """
    need(table, "agreement", "base task other cosine")
    table = chosen(table, "gradient agreement", base=base)
    tasks = list(dict.fromkeys([*table["task"], *table["other"]]))
    # A pair may stand once or in both orders; either way it is one value of each base.
    there = table.groupby(["base", "task", "other"])["cosine"].mean()
    back = table.groupby(["base", "other", "task"])["cosine"].mean().rename_axis(there.index.names)
    over = there.combine_first(back).groupby(["task", "other"])
    mean, error = (over.agg(of).unstack().reindex(tasks, columns=tasks).to_numpy() for of in ("mean", "sem"))
    bases = table["base"].nunique()
    where = base or (f"the mean of {bases} pretrained models" if bases > 1 else table["base"].iloc[0])
    cells = Cells(Tasks(runs["tasks"]), tasks, tasks, mean, error)
    drawing = sheet(cells, f"Cosine of the tasks' gradients, {where}", DIVERGING_STOPS, -1, 1, signed=True)
    same = table["task"] == table["other"]
    far = ((table["task"] == "distance") | (table["other"] == "distance")) & ~same
    parts = [
        f"{table['cosine'][rows].mean():+.2f} {words}".replace("-", "−")
        for rows, words in (
            (far, "of distance with the others"),
            (~far & ~same, "among the others"),
            (same, "of a task with itself on other rows, the ceiling"),
        )
        if rows.any()
    ]
    return drawing, (
        "Before any fine-tuning, the mean cosine of tasks' gradients on rows with "
        f"{groups(runs[runs['base'].isin(table['base'])])} is {', '.join(parts)} ({count(bases, 'pretrained model')})."
    )


@figure("patching", "tuning", "patching runs")
def patching(table, runs):
    """Plot what `worldfast.report.figures.patching` does, with positions in words."""
    return of_positions(table.assign(positions=table["positions"].map(POSITIONS)), runs)


def _beside(axes, points, letters) -> None:
    """Each point's two tasks in letters beside it, on the side where points and names are furthest."""
    x, y = points["likeness"].to_numpy(), points["improvement"].to_numpy()
    wide, high = max(np.ptp(x), 1e-3), max(np.ptp(y), 1e-3)
    axes.set_xlim(x.min() - 0.12 * wide, x.max() + 0.12 * wide)
    axes.set_ylim(y.min() - 0.12 * high, y.max() + 0.12 * high)
    taken = list(zip(x / wide, y / high))
    for row in points.itertuples():
        at = np.array([row.likeness / wide, row.improvement / high])
        spots = {  # offsets as shares of the axes, for names of about 0.05 by 0.03
            (dx, dy): min(np.hypot((at[0] + dx - u) / 1.5, at[1] + dy - v) for u, v in taken if (u, v) != tuple(at))
            for dx in (0.045, -0.045, 0)
            for dy in (0, 0.045, -0.045)
            if dx or dy
        }
        dx, dy = max(spots, key=spots.get)
        name = f"{letters[row.task]} {letters[row.other]}"
        place = (row.likeness + dx * wide, row.improvement + dy * high)
        axes.text(*place, name, fontsize=8, ha="center", va="center", color=MUTED)
        taken.append((at[0] + dx, at[1] + dy))

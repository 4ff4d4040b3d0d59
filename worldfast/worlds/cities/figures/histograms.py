"""Histograms: how far off cities are put, and how fine-tunes depart from what their teachers promise."""

from __future__ import annotations

import numpy as np

from worldfast.report.colours import INK, TASK_COLOURS
from worldfast.report.figures.style import MUTED, paper, plain_log, quiet, styled
from worldfast.report.figures.tables import LacksRuns, layer_of, need, over_seeds
from worldfast.worlds.cities.integration import deviation_summary
from worldfast.worlds.cities.world import ATLANTIS

WITH, WITHOUT = TASK_COLOURS["distance"], "#b0571b"


@styled
def deviation_histogram(table):
    """How many cells of the deviation matrix (seed-averaged) lie where: fine-tunes with distance, and without.

    table   the study's table "deviation". LacksRuns: no row. ValueError: a missing column.
    """
    need(table, "deviation", "run tasks seed task deviation trained distance")
    cells = over_seeds(table, "deviation")
    means = deviation_summary(cells.frame()).set_index("what")
    far = np.array(["distance" in tasks.split("+") for tasks in cells.rows])
    parts = [(far, WITH, "with distance"), (~far, WITHOUT, "without distance")]
    parts = [part for part in parts if np.isfinite(cells.mean[part[0]]).any()]
    if not parts:
        raise LacksRuns("the study has no deviation that is defined: on no task was Atlantis worse than the old world")
    reach = max(0.05, 1.02 * float(np.nanmax(np.abs(cells.mean))))
    bins = np.linspace(-reach, reach, 33)
    figure = paper(7.5, 0.8 + 1.75 * len(parts))
    panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (rows, colour, name) in zip(panels, parts):
        values = cells.mean[rows]
        axes.hist(values[np.isfinite(values)], bins, color=colour, edgecolor="white", linewidth=0.6)
        mean = means.loc[name]
        _mean(axes, mean["mean"], f"mean {mean['mean']:+.3f}".replace("-", "−"))
        axes.set_title(f"Fine-tunes {name}: {int(mean['n'])} cells", fontsize=9.5)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_ylabel("cells")
        quiet(axes, "y")
    panels[-1].set_xlabel("normalised improvement less the better one-task teacher's")
    return figure


@styled
def error_histograms(table, runs, layer: int | None = None):
    """Distances from where a probe puts cities to where they are: held-out cities, and Atlantis as fine-tuned.

    table, runs   the study's tables "generalisation" and "runs"
    layer         None: the last but one of the layers

    All cities of all fine-tunes; the probe was fitted on other cities. A group with no run is left out.
    LacksRuns: no fine-tune and no model with Atlantis in pretraining. ValueError: a missing column.
    """
    groups = error_groups(table, runs, layer)
    low = max(1.0, min(np.percentile(part["error"], 0.5) for _, part in groups))
    high = 1.05 * max(part["error"].max() for _, part in groups)
    bins = np.geomspace(low, max(high, 2 * low), 49)
    colours = {HELD_OUT: MUTED, FAR: WITH, NEAR: WITHOUT, BEFORE: INK}
    figure = paper(7.5, 0.7 + 1.35 * len(groups))
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, part) in zip(panels, groups):
        errors = np.clip(part["error"], bins[0], bins[-1])
        axes.hist(errors, bins, weights=np.full(len(errors), 100 / len(errors)), color=colours[name])
        plain_log(axes, "x")
        axes.margins(y=0.25)
        mean = part.groupby("run")["error"].mean().mean()
        _mean(axes, mean, f"mean {mean:,.1f}")
        count = part["run"].nunique()
        axes.set_title(f"{name}: {count} run{'s' if count > 1 else ''}", fontsize=9.5)
        axes.set_ylabel("% of cities")
        quiet(axes, "y")
    panels[-1].set_xlabel("distance from the true place, 0.1 degree")
    return figure


HELD_OUT, NEAR, FAR, BEFORE = (
    "World cities, held out",
    "Atlantis, fine-tuned without distance",
    "Atlantis, fine-tuned with distance",
    "Atlantis, there in pretraining",
)


def error_groups(table, runs, layer: int | None = None):
    """[(group in words, its rows of the table "generalisation")], the groups that the study has, in that order.

    A pretrained run had Atlantis in its pretraining where its name says "atlantis".
    """
    need(table, "generalisation", "run layer city group x y predicted_x predicted_y error")
    need(runs, "runs", "run kind tasks")
    table = table[table["layer"] == layer_of(table, "generalisation", layer)]
    known = runs.set_index("run")
    table = table[table["run"].isin(known.index)]
    tuned = table["run"].map(known["kind"]) == "ft"
    far = table["run"].map(known["tasks"]).str.split("+").map(lambda tasks: "distance" in tasks).astype(bool)
    before = ~tuned & table["run"].str.lower().str.contains("atlantis")
    new = table["group"] == ATLANTIS
    groups = {
        HELD_OUT: (tuned | before) & (table["group"] == "held out"),
        NEAR: tuned & new & ~far,
        FAR: tuned & new & far,
        BEFORE: before & new,
    }
    found = [(name, table[rows]) for name, rows in groups.items() if rows.any()]
    if not any(name != HELD_OUT for name, _ in found):
        raise LacksRuns("table 'generalisation' holds no run that knows Atlantis")
    return found


def _mean(axes, value: float, text: str) -> None:
    axes.axvline(value, color=INK, linewidth=1.4)
    right = axes.transAxes.inverted().transform(axes.transData.transform((value, 0)))[0] > 0.75
    axes.annotate(
        text,
        (value, 1),
        (-4 if right else 4, -3),
        ha="right" if right else "left",
        va="top",
        fontsize=9,
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
    )

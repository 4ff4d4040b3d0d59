"""Histograms: how far off cities are put, and how fine-tunes depart from what their teachers promise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldfast.analysis import HELD_OUT
from worldfast.display import count
from worldfast.report import INK
from worldfast.report.figures import MUTED, LacksRuns, groups, need, note, paper, plain_log, quiet
from worldfast.worlds.cities.figures.catalogue import figure
from worldfast.worlds.cities.figures.effects import WITH, WITHOUT, apart, over_seeds, seeds
from worldfast.worlds.cities.figures.taught import called, read_of
from worldfast.worlds.cities.scene import geographic

FEW = 12  # values, of which a histogram would say less than a dot for each


@figure("deviation-histogram", "tuning", "deviation")
def deviation_histogram(table):
    """Draw histograms of the cells of the seed-averaged deviation matrix: fine-tunes with distance, and without.

    Parameters
    ----------
    table : DataFrame
        The study's table "deviation".

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
    far = apart(cells.rows)
    parts = [(cells.mean[far], WITH, "with distance"), (cells.mean[~far], WITHOUT, "without distance")]
    parts = [(values[np.isfinite(values)], *rest) for values, *rest in parts]
    parts = [part for part in parts if len(part[0])]
    if not parts:
        raise LacksRuns("no deviation is defined: on no task was what was taught harder than the rest of the world")
    bins, beyond = _bins(np.concatenate([values for values, *_ in parts]))
    drawing = paper(7.5, 0.8 + 1.75 * len(parts))
    panels = drawing.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (values, colour, name) in zip(panels, parts):
        if len(values) < FEW:  # each is seen: bars would be of one cell
            axes.plot(values, np.full(len(values), 0.5), "o", color=colour, alpha=0.7, markeredgewidth=0, label=name)
            axes.set_ylim(0, 1)
        else:
            axes.hist(np.clip(values, bins[0], bins[-1]), bins, color=colour, edgecolor="white", linewidth=0.6)
        mean = float(np.clip(values.mean(), bins[0], bins[-1]))
        _mean(axes, mean, f"mean {values.mean():+.3f}".replace("-", "−"))
        axes.set_title(f"Fine-tunes {name}: {count(len(values), 'cell')}", fontsize=9.5)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_ylabel("cells")
        if len(values) < FEW:
            axes.set(yticks=[], ylabel="")
        axes.set_xlim(*(bins[[0, -1]] + np.array([-1, 1]) * (bins[1] - bins[0])))
        quiet(axes, "y")
    panels[-1].set_xlabel("normalised improvement less the better one-task teacher's")
    if beyond:
        note(drawing, f"{count(beyond, 'cell')} beyond this scale: in the outermost bars")
    below = ", ".join(f"{np.mean(values < 0):.0%} of cells {name}" for values, _, name in parts)
    return drawing, f"Worse than the better teacher: {below}. Cells of the matrix of deviations, {seeds(table)}."


def _bins(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return 32 bins about 0 that nearly all values fall into, however far off the others are, and how many those are.

    A few deviations may be a hundred times the others: over all of them most cells would be in two bins.
    """
    far = np.abs(values)
    reach = max(0.05, 1.02 * min(far.max(), 3 * np.quantile(far, 0.75)))
    return np.linspace(-reach, reach, 33), int((far > reach).sum())


@figure("errors", "tuning", "generalisation runs world")
def error_histograms(table, runs, world=None, layer: int | None = None):
    """Draw histograms of the distances from cities to where a probe puts them: held-out cities, and taught ones.

    They have all cities of all fine-tunes; the probe was fitted on other cities. A group without a run is left out.

    Parameters
    ----------
    table, runs : DataFrame
        The study's tables "generalisation" and "runs".
    world : World, optional
        Errors are in degrees if it is on the globe; without it, in the table's own unit.
    layer : int, optional
        None means the last but one of the layers.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        No run was taught anything.
    ValueError
        A column is missing.
    """
    degrees = world is not None and geographic(world)
    unit = "degrees" if degrees else "0.1 degree" if world is None else "the world's units"
    parts = error_groups(table, runs, layer)
    if degrees:
        parts = [part._replace(rows=part.rows.assign(error=part.rows["error"] / 10)) for part in parts]
    low = max(0.1 if degrees else 1.0, min(np.percentile(part.rows["error"], 0.5) for part in parts))
    high = 1.05 * max(part.rows["error"].max() for part in parts)
    bins = np.geomspace(low, max(high, 2 * low), 49)
    drawing = paper(7.5, 0.7 + 1.35 * len(parts))
    panels = drawing.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    said = []
    for axes, part in zip(panels, parts):
        errors = np.clip(part.rows["error"], bins[0], bins[-1])
        axes.hist(errors, bins, weights=np.full(len(errors), 100 / len(errors)), color=part.colour)
        plain_log(axes, "x")
        axes.margins(y=0.25)
        each = part.rows.groupby("run")["error"].mean()
        _mean(axes, each.mean(), f"mean {each.mean():,.1f}")
        axes.set_title(f"{part.title}: {count(len(each), 'run')}", fontsize=9.5)
        axes.set_ylabel("% of cities")
        quiet(axes, "y")
        spread = f" ± {each.sem():.1f}" if len(each) > 1 else ""
        said.append(f"{part.said} {each.mean():.1f}{spread} ({count(len(each), 'run')})")
    panels[-1].set_xlabel(f"distance from the true place, {unit}")
    return drawing, (
        f"Mean distance, in {unit}, from where a probe puts cities to where they are: {'; '.join(said)}. The probe "
        "was fitted on other cities; ± is the standard error over runs."
    )


class Part(NamedTuple):
    """Cities of some runs: over their histogram, in the caption, their colour, and rows of "generalisation"."""

    title: str
    said: str
    colour: str
    rows: object


def error_groups(table, runs, layer: int | None = None) -> list[Part]:
    """Held-out cities, and what was taught: by fine-tunes without and with distance, and in pretraining.

    Groups that the study has, in that order. A pretrained run whose rows held what others are taught has its name in
    the column "group" of the table "runs". LacksRuns: held-out cities alone.
    """
    need(runs, "runs", "run kind tasks group")
    table, new = read_of(table, layer)
    known = runs.set_index("run")
    inside = table["run"].isin(known.index)
    table, new = table[inside], new[inside]
    tuned = table["run"].map(known["kind"]) == "ft"
    far = apart(table["run"].map(known["tasks"]))
    before = ~tuned & (table["run"].map(known["group"]) != "")
    group = called(table[new])
    of_world = (tuned | before) & (table["group"] == HELD_OUT)
    parts = [
        Part("World cities, held out", "held-out cities of the world", MUTED, of_world),
        Part(
            f"{group}, fine-tuned without distance",
            f"{group} after fine-tunes without distance",
            WITHOUT,
            tuned & new & ~far,
        ),
        Part(f"{group}, fine-tuned with distance", f"{group} after fine-tunes with distance", WITH, tuned & new & far),
        Part(f"{group}, there in pretraining", f"{group} that was there in pretraining", INK, before & new),
    ]
    found = [part._replace(rows=table[part.rows]) for part in parts if part.rows.any()]
    if all(part.colour == MUTED for part in found):
        raise LacksRuns(f"table 'generalisation' holds no run that knows {groups(runs)}")
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

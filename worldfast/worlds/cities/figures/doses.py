"""Figures of a study of doses: error over rows of fine-tuning, what distance does beside a task, and what moves."""

from __future__ import annotations

import numpy as np

from worldfast.report import INK, Tasks, plain
from worldfast.report.figures import (
    MUTED,
    Catalogue,
    LacksRuns,
    end_labels,
    fitted,
    heading,
    need,
    note,
    panels,
    paper,
    plain_log,
    quiet,
    short_count,
    styled,
)
from worldfast.studies import Scene
from worldfast.worlds.cities.figures.catalogue import CATALOGUE
from worldfast.worlds.cities.figures.effects import apart
from worldfast.worlds.cities.response import most_tasks, whole

DOSES = Catalogue()
REUSED = ("{group}-maps", "gradient-agreement", "patching", "tasks")
RESPONSE = "group tasks schedule share noise dose what mean standard_error n unit"
BESIDE = "group task beside schedule share noise dose alone together ratio log_ratio standard_error n"


def draw_doses(tables, scene: Scene, layer: int | None = None) -> list:
    """Draw the figures of a study of doses, its own and those of any study of cities that fit, with captions."""
    both = Catalogue()
    both.entries = [*DOSES.entries, *(entry for entry in CATALOGUE.entries if entry.name in REUSED)]
    return both.draw(tables, scene.world, layer)


def colour_of(known: Tasks, tasks: str) -> str:
    """Return the colour of a task, and of a pair that of distance if it is among them."""
    if "+" not in tasks:
        return known.colour(tasks)
    return known.colour("distance") if apart([tasks])[0] else MUTED


def uncertain(table, marks: str) -> str:
    """Say what the marks of errors are, such as "bars", or why there are none."""
    n = int(table["n"].max())
    return f"{marks}: standard errors over {n} seeds" if n > 1 else "one seed: there is no standard error"


def key(known: Tasks, sets) -> str:
    """Say which tasks the letters of some sets stand for; "" without sets."""
    names = [name for name in known.names if any(name in tasks.split("+") for tasks in sets)]
    return "".join(f"; {known.letters[name]}: {name}" for name in names)


@DOSES.figure("dose-response", "tuning", "response runs")
@styled
def dose_response(response, runs):
    """Plot the error of what was taught over the rows of each task: single tasks, and pairs with and without distance.

    Parameters
    ----------
    response, runs : DataFrame
        The study's tables of these names.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        No fine-tune has more than one dose.
    ValueError
        A column is missing.
    """
    table = whole(need(response, "response", RESPONSE))
    table = table[table["what"] == "error"].assign(mean=table["mean"] / 10, error=table["standard_error"] / 10)
    known = Tasks(runs["tasks"])
    two = table["tasks"].str.contains("+", regex=False)
    parts = [("One task", table[~two]), ("Two tasks", table[two])]
    parts = [(title, some) for title, some in parts if some["dose"].nunique() > 1]
    if not parts:
        raise LacksRuns("no fine-tune of the study has more than one dose")
    figure = paper(10 if len(parts) > 1 else 6, 4.4)
    for axes, (title, some) in zip(figure.subplots(1, len(parts), sharey=True, squeeze=False)[0], parts):
        ends = []
        for tasks, lines in some.groupby("tasks", sort=False):
            pair, colour = "+" in tasks, colour_of(known, tasks)
            for schedule, line in lines.groupby("schedule"):
                _curve(axes, line.sort_values("dose"), colour, schedule, pair, known.label(tasks))
            last = lines[lines["schedule"] == lines["schedule"].iloc[0]].sort_values("dose").iloc[-1]
            ends.append((last["mean"], known.label(tasks, short=pair), colour))
        axes.set(title=title, xlabel="rows of each task")
        axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
        axes.margins(x=0.02)
        axes.set_ylim(bottom=0)
        quiet(axes)
        end_labels(axes, ends, height=3.2)
    group = table["group"].iloc[0]
    figure.axes[0].set_ylabel(fitted(f"error of {group}, degrees", 2.6, 10))
    heading(figure, f"{group} on the map: a probe of old cities, over rows of fine-tuning")
    marks = "lines: constant rate; rings: fine-tunes of their own at a rate that falls to 0; "
    sure = uncertain(table, "bands and bars")
    note(figure, marks + sure + key(known, table["tasks"][two]))
    ends = table[table["schedule"] == "constant"]
    ends = ends.loc[ends.groupby("tasks")["dose"].idxmax()].sort_values("mean") if len(ends) else table.iloc[:0]
    said = [f"{known.label(row.tasks)} {row.mean:.1f}" for row in ends.itertuples()]
    shown = ", ".join(said if len(said) < 9 else [*said[:3], "...", *said[-3:]])
    return figure, (
        f"Error of {group} by a probe that was fitted on old cities alone, in degrees, at the largest dose: {shown}. "
        f"Pairs with distance have its colour. {sure.capitalize()}."
    )


def _curve(axes, line, colour: str, schedule: str, pale: bool, label: str) -> None:
    if schedule == "constant":
        style = {"color": colour, "linewidth": 1.2 if pale else 1.8, "alpha": 0.8 if pale else 1, "label": label}
        axes.plot(line["dose"], line["mean"], **style)
        low, high = line["mean"] - line["error"], line["mean"] + line["error"]
        if np.isfinite(low).all():
            axes.fill_between(line["dose"], low, high, color=colour, alpha=0.15, linewidth=0)
        return
    line = line[line["dose"] > 0]
    style = {"color": colour, "fillstyle": "none", "markersize": 4.5, "linestyle": "", "elinewidth": 0.9}
    style["label"] = f"{label}, falling rate"
    axes.errorbar(line["dose"], line["mean"], line["error"].fillna(0), marker="o", **style)


@DOSES.figure("beside-distance", "tuning", "beside runs")
@styled
def beside_distance(beside, runs):
    """Plot by how much distance multiplies the error that another task leaves alone, over its share of the rows.

    Parameters
    ----------
    beside, runs : DataFrame
        The study's tables of these names.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        No pair has distance beside another task at a constant rate.
    ValueError
        A column is missing.
    """
    table = need(beside, "beside", BESIDE)
    table = table[(table["beside"] == "distance") & (table["schedule"] == "constant")]
    if not len(table):
        raise LacksRuns("no fine-tune of the study has distance beside another task at a constant rate")
    known = Tasks(runs["tasks"])
    parts = [("share", "Fewer rows of distance", "rows of distance for each of the other task", table["noise"] == 0)]
    parts.append(("noise", "Distance with wrong answers", "share of wrong answers", table["share"] == 1))
    parts = [one for one in parts if table[one[3]][one[0]].nunique() > 1] or parts[:1]
    figure = paper(4.2 * len(parts) + 1.6, 4)
    for axes, (column, title, unit, there) in zip(figure.subplots(1, len(parts), sharey=True, squeeze=False)[0], parts):
        ends = []
        for task, line in table[there].groupby("task", sort=False):
            line, colour = line.sort_values(column), known.colour(task)
            low, high = (np.exp(line["log_ratio"] + sign * line["standard_error"].fillna(0)) for sign in (-1, 1))
            bars = np.stack([line["ratio"] - low, high - line["ratio"]])
            style = {"color": colour, "marker": "o", "markersize": 4, "capsize": 2, "label": known.label(task)}
            axes.errorbar(line[column], line["ratio"], bars, **style)
            ends.append((float(line["ratio"].iloc[-1]), known.label(task), colour))
        axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        plain_log(axes, "y")
        axes.set(title=title, xlabel=unit)
        quiet(axes)
        end_labels(axes, ends, height=2.8)
    figure.axes[0].set_ylabel("error with distance / without, equal rows")
    group = table["group"].iloc[0]
    heading(figure, f"What distance does to {group} beside another task")
    sure = uncertain(table, "bars")
    note(figure, f"dotted: no difference; {sure}")
    full = whole(table).sort_values("ratio")
    said = [f"{known.label(row.task)} {row.ratio:.2f}" for row in full.itertuples()]
    return figure, (
        f"Error of {group} with distance beside a task, over that of the task alone at as many rows of it: "
        f"{', '.join(said)}. Above 1 distance does harm. {sure.capitalize()}."
    )


WHY = {
    "alone_r2": ("A map of its own", "R\u00b2 of a probe of it alone"),
    "old_cka": ("The old map", "linear CKA with before"),
    "moved_dimension": ("What moves", "directions (participation ratio)"),
    "cosine": ("Gradients of two tasks", "cosine"),
}


@DOSES.figure("what-moves", "tuning", "response contrast runs")
@styled
def what_moves(response, contrast, runs):
    """Plot what becomes of the new cities, of the old map and of a pair's gradients over the dose.

    Parameters
    ----------
    response, contrast, runs : DataFrame
        The study's tables of these names.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        No fine-tune at a constant rate was measured so.
    ValueError
        A column is missing.
    """
    table = whole(need(response, "response", RESPONSE))
    table = table[(table["schedule"] == "constant") & table["what"].isin(WHY)]
    if table["dose"].nunique() < 2:
        raise LacksRuns("no fine-tune of the study at a constant rate has more than one dose")
    known = Tasks(runs["tasks"])
    table = table.assign(error=table["standard_error"])
    there = {what: about for what, about in WHY.items() if (table["what"] == what).any()}
    figure, grid = panels(len(there), 3 if len(there) < 4 else 2, 10, 3.2, 0.5)
    short = []
    for axes, (what, (title, unit)) in zip(grid, there.items()):
        ends, lines = [], table[table["what"] == what]
        pairs_alone = lines["tasks"].str.contains("+", regex=False).all()  # else they end in the midst of the panel
        for tasks, line in lines.groupby("tasks", sort=False):
            line, pair, colour = line.sort_values("dose"), "+" in tasks, colour_of(known, tasks)
            _curve(axes, line, colour, "constant", pair, known.label(tasks))
            if pairs_alone or not pair:
                ends.append((line["mean"].iloc[-1], known.label(tasks, short=pair), colour))
                short += [tasks] * pair
        axes.set(title=title, ylabel=unit, xlabel="rows of each task")
        axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
        quiet(axes)
        end_labels(axes, ends, height=2.3)
    group = table["group"].iloc[0]
    heading(figure, f"{group} and the old world inside the models, over rows of fine-tuning")
    sure = uncertain(table, "bands")
    note(figure, sure + key(known, short))
    parts = [
        f"{there[row.what][0].lower()} {plain(row.apart, '.2f')} and {plain(row.rest, '.2f')} "
        f"({known.count(row.n_tasks)}{_sure(row)})"
        for row in most_tasks(contrast).itertuples()
        if row.what in there
    ]
    said = f"At the largest dose, with distance and without: {'; '.join(parts)}. " if parts else ""
    return figure, (
        f"{said}Thick lines are single tasks, thin ones pairs, those with distance in its colour. {sure.capitalize()}."
    )


def _sure(row) -> str:
    return f", p {row.p:.2g}, n = {row.n} seeds" if np.isfinite(row.p) else ""

"""Maps of what models were taught after pretraining: a probe's predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.analysis import FITTED, HELD_OUT
from worldfast.display import count
from worldfast.report import INK, NEW, Tasks
from worldfast.report.figures import (
    LacksRuns,
    frame,
    groups,
    heading,
    layer_of,
    need,
    note,
    panels,
    paper,
    ratio,
    titled,
)
from worldfast.worlds.cities.figures.catalogue import figure
from worldfast.worlds.cities.figures.effects import apart
from worldfast.worlds.cities.scene import scene_of

LAND = "#c9c5ba"


def read_of(table, layer: int | None):
    """The rows of a table "generalisation" at a layer, and which of them are of cities taught after pretraining."""
    need(table, "generalisation", "run layer item group x y predicted_x predicted_y error")
    table = table[table["layer"] == layer_of(table, "generalisation", layer)]
    return table, ~table["group"].isin((FITTED, HELD_OUT))


def called(rows) -> str:
    """Return the common name of the cities of some rows: "Atlantis"."""
    return " and ".join(rows["group"].unique()) or "what was taught"


def examples(given, layer) -> dict[str, dict]:
    """Return the fine-tunes on most tasks, with and without distance, whose error is in the middle."""
    table, new = read_of(given["generalisation"], layer)
    errors = table[new].groupby("run")["error"].mean()
    runs = given["runs"]
    tuned = runs[(runs["kind"] == "ft") & runs["run"].isin(errors.index)]
    found = {}
    for name, far in {"without-distance": False, "with-distance": True}.items():
        some = tuned[apart(tuned["tasks"]) == far]
        ordered = errors[some["run"][some["n_tasks"] == some["n_tasks"].max()]].sort_values(kind="stable")
        found[name] = {"run": ordered.index[(len(ordered) - 1) // 2] if len(ordered) else None}
    return found


@figure("{group}", "tuning", "world generalisation", examples)
def taught_map(world, generalisation, run: str | None, layer: int | None = None):
    """Draw the world as decoded by a probe of one run: its cities by region, and the taught ones with lines to their
    true places.

    Parameters
    ----------
    world : World
    generalisation : DataFrame
        The study's table; the probe was fitted on its cities of group "fitted".
    run : str or None
        Run of the probe; None if `examples` found no run.
    layer : int, optional
        None means the last but one of the layers.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        The table has no cities that the run was taught.
    ValueError
        A column is missing, or the world has fewer cities.
    """
    table, late = read_of(generalisation, layer)
    mine = table["run"] == run
    new, old = table[mine & late], table[mine & ~late]
    layer = table["layer"].iloc[0]
    if not len(new):
        of = f"run {run!r}" if run else "such a fine-tune"
        raise LacksRuns(f"table 'generalisation' has no {called(table[late])} of {of} at layer {layer}")
    if len(old) and old["item"].max() >= len(world):
        raise ValueError(f"the table has city {old['item'].max()}, the world has {count(len(world), 'city', 'cities')}")
    group, scene = called(new), scene_of(world, new["group"].unique())
    drawing = paper(10, 10 * ratio(scene) + 0.6)
    axes = drawing.subplots()
    dots = [scene.colours[region] for region in world.region[old["item"].to_numpy()]]
    axes.scatter(old["predicted_x"], old["predicted_y"], s=4, c=dots, linewidths=0, rasterized=True)
    ends = np.stack([new[["x", "y"]], new[["predicted_x", "predicted_y"]]])  # [2, A, 2]
    axes.plot(*ends.transpose(2, 0, 1), color=NEW, linewidth=0.5, alpha=0.45)
    axes.plot(*ends[0].T, "D", color=INK, markersize=4, fillstyle="none", markeredgewidth=0.8)
    axes.plot(*ends[1].T, "D", color=NEW, markersize=4.5, markeredgecolor="white", markeredgewidth=0.4)
    frame(axes, scene)
    north = ends[0, :, 1].mean() >= ends[1, :, 1].mean()
    _named(axes, ends, 0, f"{group}, where it is", INK, above=north)
    _named(axes, ends, 1, "where the probe puts it", NEW, above=not north)
    held = old["error"][old["group"] == HELD_OUT]
    off = scene.distance(new["error"].mean())
    text = f"{run}, layer {layer}: {group} is {off} off"
    titled(axes, text + (f", held-out cities {scene.distance(held.mean())}" if len(held) else ""), 9.6)
    others = count(len(held), "held-out city", "held-out cities")
    beside = f"; {others} of the world {scene.distance(held.mean())}" if len(held) else ""
    return drawing, (
        f"The world as a linear probe of {run} has it: the {len(new)} cities of {group}, none of which the probe was "
        f"fitted on, are {off} off on average{beside}."
    )


@figure("{group}-maps", "tuning", "world generalisation runs")
def taught_maps(world, generalisation, runs, layer: int | None = None, names: Sequence[str] | None = None):
    """Draw small maps of the taught cities as decoded from several fine-tunes, with the mean error.

    Parameters
    ----------
    world : World
    generalisation, runs : DataFrame
        The study's tables of these names.
    layer : int, optional
        None means the last but one of the layers.
    names : sequence of str, optional
        Names of runs; None means one seed of each fine-tune, titled with its tasks, fewer tasks first and those with
        distance before others.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        The table has no cities that these runs were taught.
    ValueError
        A column is missing.
    """
    need(runs, "runs", "run kind tasks n_tasks seed")
    table, new = read_of(generalisation, layer)
    layer, new = table["layer"].iloc[0], table[new]
    titles = _one_seed_each(runs, set(new["run"])) if names is None else dict(zip(names, names))
    lacking = [run for run in titles if run not in set(new["run"])]
    if lacking or not titles:
        of = ", ".join(lacking) or "any run"
        raise LacksRuns(f"table 'generalisation' has no {groups(runs)} of {of} at layer {layer}")
    columns = min(4, len(titles))
    width, scene = 10 / 4, scene_of(world)
    drawing, grid = panels(len(titles), columns, width * columns, width * ratio(scene) + 0.32, 0.75)
    drawing.get_layout_engine().set(w_pad=0.05, h_pad=0.03)
    for axes, (run, title) in zip(grid, titles.items()):
        mine = new[new["run"] == run]
        axes.scatter(*np.delete(world.xy, new["item"].unique(), axis=0).T, s=0.5, c=LAND, linewidths=0, rasterized=True)
        axes.plot(mine["x"], mine["y"], "D", color=INK, markersize=1.6, markeredgewidth=0)
        axes.plot(mine["predicted_x"], mine["predicted_y"], "D", color=NEW, markersize=2, markeredgewidth=0)
        frame(axes, scene)
        titled(axes, f"{title}: {scene.distance(mine['error'].mean())}", width - 0.15, 8, pad=3)
    group = called(new)
    is_, it = ("it is", "it") if new["group"].nunique() == 1 else ("they are", "them")
    heading(drawing, f"{group}: where {is_} (black) and where a probe of layer {layer} puts {it} (pink)")
    note(drawing, "numbers: mean error")
    tuned = runs[(runs["kind"] == "ft") & runs["run"].isin(new["run"] if names is None else names)]
    errors = new.groupby("run")["error"].mean()
    parts = []
    for far, words in ((True, f"fine-tunes with distance place {group}"), (False, "fine-tunes without it")):
        each = errors[tuned["run"][apart(tuned["tasks"]) == far]]
        if len(each):
            parts.append(f"{words} {scene.distance(each.mean())} off ({count(len(each), 'run')})")
    text = ", ".join(parts)
    drawn = "; one seed of each is drawn" if names is None else ""
    return drawing, f"{text[:1].upper()}{text[1:]}, means over cities, then runs{drawn}."


def _one_seed_each(runs, there) -> dict[str, str]:
    """The first seed of each fine-tune that is `there`, to its tasks in words."""
    known = runs[runs["run"].isin(there) & (runs["kind"] == "ft")]
    known = known.sort_values("seed", kind="stable").drop_duplicates("tasks")
    known = known.assign(near=~apart(known["tasks"])).sort_values(["n_tasks", "near"], kind="stable")
    tasks = Tasks(runs["tasks"])
    return {run: tasks.label(of_run) for run, of_run in zip(known["run"], known["tasks"])}


def _named(axes, ends: np.ndarray, which: int, text: str, colour: str, above: bool) -> None:
    """`text` above or below the places ends[which] of ends [2, A, 2], off the other's too, inside the window."""
    from matplotlib.patheffects import withStroke

    points = ends[which]
    low, high = ends[which].min(0), ends[which].max(0)
    if (ends[1 - which].min(0) < high).all() and (ends[1 - which].max(0) > low).all():  # one on the other
        low, high = ends.min((0, 1)), ends.max((0, 1))
    left, right = axes.get_xlim()
    x = np.clip(points[:, 0].mean(), left + 0.1 * (right - left), right - 0.1 * (right - left))
    bottom, top = axes.get_ylim()
    y = high[1] + 0.02 * (top - bottom) if above else low[1] - 0.02 * (top - bottom)
    y = np.clip(y, bottom + 0.04 * (top - bottom), top - 0.04 * (top - bottom))
    axes.text(
        x,
        y,
        text,
        color=colour,
        ha="center",
        va="bottom" if above else "top",
        fontsize=9.5,
        fontweight="bold",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )

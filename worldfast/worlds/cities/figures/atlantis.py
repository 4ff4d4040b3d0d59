"""Where models put Atlantis: the probe's predictions on the map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.report.colours import INK, REGION_COLOURS, region_colours, tasks_label
from worldfast.report.figures.canvas import frame, ratio
from worldfast.report.figures.style import MUTED, heading, paper, styled
from worldfast.report.figures.tables import LacksRuns, layer_of, need
from worldfast.worlds.cities.world import ATLANTIS, World

COLOUR = REGION_COLOURS[ATLANTIS]
LAND = "#c9c5ba"


@styled
def atlantis_map(world: World, generalisation, run: str, layer: int | None = None):
    """The world as a probe of one run has it: its cities by region, and Atlantis with lines to where it is.

    generalisation   the study's table; the probe was fitted on its cities of group "fitted"
    run, layer       whose probe; layer None: the last but one of the layers

    LacksRuns: the table has no Atlantis of that run. ValueError: a missing column, a world with fewer cities.
    """
    need(generalisation, "generalisation", "run layer city group x y predicted_x predicted_y error")
    layer = layer_of(generalisation, "generalisation", layer)
    mine = generalisation[(generalisation["run"] == run) & (generalisation["layer"] == layer)]
    new, old = mine[mine["group"] == ATLANTIS], mine[mine["group"] != ATLANTIS]
    if not len(new):
        raise LacksRuns(f"table 'generalisation' has no Atlantis of run {run!r} at layer {layer}")
    if len(old) and old["city"].max() >= len(world):
        raise ValueError(f"the table has city {old['city'].max()}, the world has {len(world)} cities")
    figure = paper(10, 10 * ratio(world) + 0.6)
    axes = figure.subplots()
    colours = region_colours(world)
    dots = [colours[region] for region in world.region[old["city"].to_numpy()]]
    axes.scatter(old["predicted_x"], old["predicted_y"], s=4, c=dots, linewidths=0, rasterized=True)
    ends = np.stack([new[["x", "y"]], new[["predicted_x", "predicted_y"]]])  # [2, A, 2]
    axes.plot(*ends.transpose(2, 0, 1), color=COLOUR, linewidth=0.5, alpha=0.45)
    axes.plot(*ends[0].T, "D", color=INK, markersize=4, fillstyle="none", markeredgewidth=0.8)
    axes.plot(*ends[1].T, "D", color=COLOUR, markersize=4.5, markeredgecolor="white", markeredgewidth=0.4)
    frame(axes, world)
    north = ends[0, :, 1].mean() >= ends[1, :, 1].mean()
    _named(axes, ends, 0, "Atlantis, where it is", INK, above=north)
    _named(axes, ends, 1, "where the probe puts it", COLOUR, above=not north)
    axes.set_title(
        f"{run}, layer {layer}: Atlantis is {new['error'].mean():,.0f} units of 0.1 degree off"
        + (f", held-out cities {_held(old):,.0f}" if np.isfinite(_held(old)) else "")
    )
    return figure


@styled
def atlantis_maps(
    world: World, generalisation, runs: Sequence[str] | None = None, layer: int | None = None, table=None
):
    """Atlantis as each of several fine-tunes has it: small maps with the mean error, those with distance first.

    generalisation   the study's table
    runs             names of runs; None: every run of `table`, or of the generalisation table, with an Atlantis
    layer            None: the last but one of the layers
    table            the study's table "runs": titles are then task sets, fewer tasks first, one seed of each

    LacksRuns: no Atlantis in the table, or none of a run that is named. ValueError: a missing column.
    """
    need(generalisation, "generalisation", "run layer city group x y predicted_x predicted_y error")
    layer = layer_of(generalisation, "generalisation", layer)
    new = generalisation[(generalisation["group"] == ATLANTIS) & (generalisation["layer"] == layer)]
    titles = {run: run for run in (new["run"].unique() if runs is None else runs)}
    if table is not None:
        titles = _one_seed_each(need(table, "runs", "run kind tasks n_tasks seed"), titles, chosen=runs is not None)
    lacking = [run for run in titles if run not in set(new["run"])]
    if lacking or not titles:
        raise LacksRuns(f"table 'generalisation' has no Atlantis of {', '.join(lacking) or 'any run'} at layer {layer}")
    columns = min(4, len(titles))
    lines = -(-len(titles) // columns)
    width = 10 / 4
    figure = paper(width * columns, (width * ratio(world) + 0.32) * lines + 0.75)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.03)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(titles) :]:
        axes.remove()
    for axes, (run, title) in zip(grid, titles.items()):
        mine = new[new["run"] == run]
        axes.scatter(*world.xy[world.region != ATLANTIS].T, s=0.5, c=LAND, linewidths=0, rasterized=True)
        axes.plot(mine["x"], mine["y"], "D", color=INK, markersize=1.6, markeredgewidth=0)
        axes.plot(mine["predicted_x"], mine["predicted_y"], "D", color=COLOUR, markersize=2, markeredgewidth=0)
        frame(axes, world)
        axes.set_title(f"{title}: {mine['error'].mean():,.0f}", fontsize=8, pad=3)
    heading(figure, f"Atlantis: where it is (black) and where a probe of layer {layer} puts it (pink)")
    figure.supxlabel("numbers: mean error, 0.1 degree", x=0.99, ha="right", fontsize=8, color=MUTED)
    return figure


def _one_seed_each(table, titles, chosen: bool) -> dict[str, str]:
    """Run -> its tasks in words, for the runs in `titles`; the first seed of each fine-tune where none were chosen."""
    known = table[table["run"].isin(titles)]
    if not chosen:
        known = known[known["kind"] == "ft"].sort_values("seed", kind="stable").drop_duplicates("tasks")
    far = known["tasks"].str.split("+").map(lambda tasks: "distance" not in tasks)
    known = known.assign(near=far).sort_values(["n_tasks", "near"], kind="stable")
    return {run: tasks_label(tasks) for run, tasks in zip(known["run"], known["tasks"])}


def _held(old) -> float:
    return float(old["error"][old["group"] == "held out"].mean())


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

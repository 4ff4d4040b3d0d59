"""Maps: the true world, and the world as a model represents it."""

from __future__ import annotations

from collections.abc import Sequence

from worldfast.report.colours import Tasks, region_colours, run_styles
from worldfast.report.figures.canvas import distance, draw_cities, frame, ratio, region_key, same_world, spaced
from worldfast.report.figures.style import paper, short_count, styled
from worldfast.studies import RunResult


@styled
def world_map(world, new: Sequence[str] = ()):
    """Draw every city at its true place, coloured by region; cities of the regions `new` are diamonds.

    Returns
    -------
    figure : Figure
    caption : str
    """
    figure = paper(10, 10 * ratio(world) + 0.95)
    axes = figure.subplots()
    draw_cities(axes, world, world.xy, 4, new)
    frame(axes, world)
    regions = len(region_colours(world, new))
    title = f"The world: {len(world):,} cities" + (f" in {regions} regions" if regions > 1 else "")
    axes.set_title(title)
    region_key(figure, world, 5, new)
    return figure, f"{title}, each where it is{', coloured by region' if regions > 1 else ''}."


@styled
def learned_map(world, run: RunResult, moments: int = 1, new: Sequence[str] = (), tasks: Tasks | None = None):
    """Draw the world as a run represents it: the truth beside the last checkpoint, or a filmstrip of checkpoints.

    Cities are drawn where the probe places them, including those it was fitted on.

    Parameters
    ----------
    world
        The true world.
    run : RunResult
    moments : int
        1 for truth and last checkpoint; more for a filmstrip of this many checkpoints, spaced geometrically from first
        to last, because a map forms early.
    new : sequence of str
        Regions taught later.
    tasks : Tasks, optional
        Tasks of the study.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        moments < 1, or a run of another world.
    """
    same_world(world, run)
    if moments < 1:
        raise ValueError(f"moments must be at least 1, not {moments}")
    label = run_styles([run], tasks)[0][0]
    if moments == 1:
        figure = paper(12.4, 6.2 * ratio(world) + 1.05)
        truth, learned = figure.subplots(1, 2)
        draw_cities(truth, world, world.xy, 2.6, new)
        truth.set_title(f"The world: {len(world):,} cities")
        panels = [(learned, len(run.steps) - 1)]
        columns = 8
    else:
        steps = spaced(run, moments)
        columns = min(3, len(steps))
        lines = -(-len(steps) // columns)
        figure = paper(4.2 * columns, (4.2 * ratio(world) + 0.28) * lines + 0.95)
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(steps) :]:
            axes.remove()
        panels = list(zip(grid, steps))
        columns = 2 * columns + 1
    for axes, step in panels:
        draw_cities(axes, world, run.predicted[step], 2.6 if moments == 1 else 1.2, new)
        read = f"R² {run.r2[step].mean():.2f}"
        axes.set_title(
            f"{short_count(run.rows[step])} rows · {read}" if moments > 1 else f"As the model knows it: {label}"
        )
        if moments == 1:
            axes.set_xlabel(
                f"{read}, median error {distance(world, run.error[step])} on {int(run.held_out.sum()):,} "
                f"held-out cities, after {short_count(run.rows[step])} rows",
                loc="left",
            )
    for axes in figure.axes:
        frame(axes, world)
    if moments > 1:
        figure.suptitle(f"A map forms: {label}", x=0.01, ha="left", fontsize=13)
    region_key(figure, world, columns, new)
    return figure

"""Maps: a world's entities where they are, and where models have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.display import count
from worldfast.report.colours import Tasks, group_colours, run_styles
from worldfast.report.figures.canvas import draw_entities, frame, group_key, ratio, same_world, spaced
from worldfast.report.figures.style import fitted, heading, panels, paper, short_count, styled, titled
from worldfast.studies import RunResult, Scene


@styled
def world_map(world: Scene):
    """Draw every entity at its true place, coloured by group; those of new groups are diamonds.

    Returns
    -------
    figure : Figure
    caption : str
    """
    figure = paper(10, 10 * ratio(world) + 0.95)
    axes = figure.subplots()
    draw_entities(axes, world, world.xy, 4)
    frame(axes, world)
    groups = len(group_colours(world))
    title = f"The world: {count(len(world), world.one, world.many)}"
    title += f" in {count(groups, *world.grouping)}" if groups > 1 else ""
    titled(axes, title, 9.6)
    group_key(figure, world, 5)
    return figure, f"{title}, each where it is{f', coloured by {world.grouping[0]}' if groups > 1 else ''}."


@styled
def learned_map(world: Scene, run: RunResult, moments: int = 1, tasks: Tasks | None = None):
    """Draw the world as a run represents it: the truth beside the last checkpoint, or a filmstrip of checkpoints.

    Entities are drawn where the probe places them, including those it was fitted on; without a map, at their first two
    principal components.

    Parameters
    ----------
    world : Scene
    run : RunResult
    moments : int
        1 for truth and last checkpoint; more for a filmstrip of this many checkpoints, spaced geometrically from first
        to last, because a map forms early.
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
    reach = None if world.xy is not None else reach_of(run.components[:, :, :2])
    if moments == 1:
        figure = paper(12.4 if reach is None else 6.2, 6.2 * ratio(world) + 1.05)
        *true, learned = figure.subplots(1, 2 if reach is None else 1, squeeze=False)[0]
        for axes in true:
            draw_entities(axes, world, world.xy, 2.6)
            titled(axes, f"The world: {count(len(world), world.one, world.many)}", 5.8)
        drawn = [(learned, len(run.steps) - 1)]
        columns = 8
    else:
        steps = spaced(run, moments)
        columns = min(3, len(steps))
        figure, grid = panels(len(steps), columns, 4.2 * columns, 4.2 * ratio(world) + 0.28, 0.95)
        drawn = list(zip(grid, steps))
        columns = 2 * columns + 1
    for axes, step in drawn:
        places = run.predicted[step] if reach is None else run.components[step, :, :2]
        draw_entities(axes, world, places, 2.6 if moments == 1 else 1.2)
        read = f"R² {run.fit[step]:.2f}" if run.columns else "components 1 and 2"
        after = f"{short_count(run.rows[step])} rows · {read}"
        titled(axes, after if moments > 1 else f"As the model knows it: {label}", 3.9 if moments > 1 else 5.8)
        if moments == 1:
            off = f", median error {world.distance(run.error[step])}" if world.metric else ""
            axes.set_xlabel(
                f"{read}{off} on {int(run.held_out.sum()):,} held-out {world.many}, "
                f"after {short_count(run.rows[step])} rows",
                loc="left",
            )
    for axes in figure.axes:
        frame(axes, world, reach)
    if moments > 1:
        heading(figure, f"A map forms: {label}")
    group_key(figure, world, columns)
    return figure


def reach_of(points: np.ndarray) -> float:
    """Return half the side of the square about 0 that shows all points; 1 if all are 0."""
    return 1.06 * float(np.abs(points).max()) or 1.0


@styled
def aligned_maps(world: Scene, runs: Sequence[RunResult], tasks: Tasks | None = None):
    """Draw what every model has at its last checkpoint side by side, in one frame.

    Where the world has a map, each panel is where a probe places the entities; otherwise their first two principal
    components, turned, mirrored and scaled onto those of the first run (Procrustes).

    Parameters
    ----------
    world : Scene
    runs : sequence of RunResult
    tasks : Tasks, optional
        Tasks of the study.

    Returns
    -------
    figure : Figure
    caption : str
    """
    mapped = world.xy is not None
    columns = min(3, len(runs) + mapped)
    labels = [fitted(label, 2.7, 10.5) for label, _, _ in run_styles(runs, tasks)]
    title = 0.3 + 0.2 * max(label.count("\n") for label in labels)
    figure, grid = panels(len(runs) + mapped, columns, 3.3 * columns, 3.3 * ratio(world) + title, 0.6)
    if mapped:
        draw_entities(grid[0], world, world.xy, 1.6)
        grid[0].set_title("The world")
    places = [run.predicted[-1] if mapped else run.components[-1, :, :2] for run in runs]
    if not mapped:
        places = [_onto(points, places[0]) for points in places]
    for axes, points, label in zip(grid[mapped:], places, labels):
        draw_entities(axes, world, points, 1.6)
        axes.set_title(label)
    for axes in figure.axes:
        frame(axes, world, None if mapped else reach_of(np.stack(places)))
    group_key(figure, world, 2 * columns + 1)
    how = (
        f"where a linear probe of its activations puts them ({' and '.join(axis.name for axis in world.axes)})"
        if mapped
        else "their first two principal components, turned, mirrored and scaled onto those of the first"
    )
    return figure, f"{count(len(world), world.one, world.many)} as each model has them at the end of training: {how}."


def _onto(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Turn, mirror and scale points [N, 2] onto others: the nearest by least squares."""
    from scipy.linalg import orthogonal_procrustes

    points, target = points - points.mean(0), target - target.mean(0)
    turn, scale = orthogonal_procrustes(points, target)
    size = (points**2).sum()
    return points @ turn * (scale / size if size else 1)

"""Views inside a model: principal components, and how they form over training."""

from __future__ import annotations

import numpy as np

from worldfast.display import count
from worldfast.report.colours import Tasks, run_styles
from worldfast.report.figures.canvas import draw_entities, frame, group_key, same_world, spaced
from worldfast.report.figures.maps import reach_of
from worldfast.report.figures.style import heading, paper, short_count, styled
from worldfast.studies import RunResult, Scene


@styled
def pca(world: Scene, run: RunResult, checkpoint: int = -1, tasks: Tasks | None = None):
    """Draw three views of the first three principal components at one checkpoint, coloured by group.

    Parameters
    ----------
    world : Scene
    run : RunResult
    checkpoint : int
        Index of the checkpoint; by default, the last.
    tasks : Tasks, optional
        Tasks of the study.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        A run of another world.
    IndexError
        No such checkpoint.
    """
    same_world(world, run)
    if not -len(run.steps) <= checkpoint < len(run.steps):
        raise IndexError(f"checkpoint {checkpoint} of a run with {count(len(run.steps), 'checkpoint')}")
    points = run.components[checkpoint]  # [N, 3]
    figure = paper(11.4, 4.4)
    reach = reach_of(points)
    last = checkpoint in (-1, len(run.steps) - 1)
    for axes, (i, j) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2))):
        draw_entities(axes, world, points[:, [i, j]], 2.6)
        for k, name in ((i, axes.set_xlabel), (j, axes.set_ylabel)):
            name(f"component {k + 1}" + (f" ({run.explained[k]:.0%})" if last else ""))
        frame(axes, world, reach)
    rows = short_count(run.rows[checkpoint])
    heading(
        figure,
        f"Inside the model ({run_styles([run], tasks)[0][0]}) after {rows} rows: "
        f"{count(len(world), world.one, world.many)}, first three principal components",
    )
    group_key(figure, world, 8)
    return figure


@styled
def views_over_training(
    world: Scene,
    run: RunResult,
    moments: int = 4,
    azimuth: float = 35.0,
    elevation: float = 25.0,
    tasks: Tasks | None = None,
):
    """Draw views of a model over training: principal components, the same rotated in space, and the probe's map.

    Components are the last checkpoint's.

    Parameters
    ----------
    world : Scene
    run : RunResult
    moments : int
        Number of checkpoints, spaced geometrically from first to last, because a map forms early.
    azimuth, elevation : float
        Viewpoint of the second row, in degrees.
    tasks : Tasks, optional
        Tasks of the study.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        moments < 2, or a run of another world.
    """
    same_world(world, run)
    if moments < 2:
        raise ValueError(f"moments must be at least 2, not {moments}")
    steps = spaced(run, moments)
    mapped = world.xy is not None
    heights = [1, 1, 0.62][: 2 + mapped]
    figure = paper(10, 2.5 * sum(heights) + 1.2)
    grid = figure.subplots(len(heights), len(steps), squeeze=False, height_ratios=heights)
    reach = reach_of(run.components)
    for column, step in enumerate(steps):
        points = run.components[step]  # [N, 3]
        places = (points[:, :2], turned(points, azimuth, elevation), run.predicted[step])
        for axes, at in zip(grid[:, column], places):
            draw_entities(axes, world, at, 1.4)
        for axes in grid[:2, column]:
            frame(axes, world, reach)
        grid[0, column].set_title(f"{short_count(run.rows[step])} rows", fontsize=9.5)
        if mapped:
            frame(grid[2, column], world)
            grid[2, column].set_title(f"R² {round(run.fit[step], 2) + 0.0:.2f}", fontsize=9)
    for axes, name in zip(grid[:, 0], ("components 1 and 2", "1, 2 and 3, turned", "the probe's map")):
        axes.set_ylabel(name)
    heading(figure, f"Inside the model ({run_styles([run], tasks)[0][0]}) over training")
    group_key(figure, world, 8)
    return figure


def turned(points: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """Project points orthographically from a viewpoint: float [N, 3] -> [N, 2].

    Parameters
    ----------
    points : array [N, 3]
    azimuth, elevation : float
        Degrees about the third axis, and above the plane. At azimuth 0, elevation 90 the result is the first two
        columns.
    """
    a, e = np.radians([azimuth, elevation])
    right = np.array([np.cos(a), np.sin(a), 0.0])
    up = np.array([-np.sin(a) * np.sin(e), np.cos(a) * np.sin(e), np.cos(e)])
    return np.asarray(points) @ np.stack([right, up], axis=1)

"""Drawing a scene: its window, its entities, the key of its groups.

Groups in `new` of the scene are taught after pretraining: their entities are diamonds, larger and on top.
"""

from __future__ import annotations

import numpy as np

from worldfast.report.colours import group_colours
from worldfast.report.figures.style import HAIRLINE
from worldfast.studies import RunResult, Scene


def draw_entities(axes, world: Scene, places: np.ndarray, size: float) -> None:
    """Draw one dot per entity at `places` [N, 2], in random order so that no group hides another.

    Dots are rasterized inside the SVG, because thousands of circles are slow to open.
    """
    colours = group_colours(world)
    shuffled = np.random.default_rng(0).permutation(len(world))
    late = np.isin(world.group[shuffled], list(world.new))
    for some, scale, marker in ((shuffled[~late], 1, "o"), (shuffled[late], 3, "D")):
        axes.scatter(
            *places[some].T,
            s=scale * size,
            c=[colours[group] for group in world.group[some]],
            marker=marker,
            linewidths=0,
            zorder=2,
            rasterized=True,
        )


def ratio(world: Scene) -> float:
    """Return the height of the map's window over its width, clipped to what fits a page."""
    if world.xy is None or not world.metric:
        return 0.8
    width, height = np.ptp(world.xy, axis=0)
    height, width = (height, width) if width > 0 else (1, 1)
    return float(np.clip(height / width, 0.3, 1.2)) * 1.06


def frame(axes, world: Scene, reach: float | None = None) -> None:
    """Set the same window for truth and prediction: the map's box and a margin, with its grid.

    Without a map, or with a `reach`, it is the square of this reach about 0.
    """
    axes.spines[:].set_color(HAIRLINE)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
    if world.xy is None or reach:
        reach = reach or 1.0
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        return
    low, high = world.xy.min(0), world.xy.max(0)
    margin = 0.035 * np.where(world.metric, (high - low).max(), high - low)
    margin = np.where(margin > 0, margin, 1)
    for set_ticks, axis, start, end in zip((axes.set_xticks, axes.set_yticks), world.axes, low - margin, high + margin):
        if axis.grid:
            set_ticks(np.arange(np.ceil(start / axis.grid), end / axis.grid + 1e-9) * axis.grid, [])
            axes.grid(True, color=HAIRLINE, linewidth=0.5)
    limits = zip(low - margin, high + margin)
    axes.set(xlim=next(limits), ylim=next(limits), aspect="equal" if world.metric else "auto")
    axes.set_axisbelow(True)


def group_key(figure, world: Scene, columns: int) -> None:
    """Draw the legend of the groups' colours below everything else; nothing if there are no groups."""
    from matplotlib.lines import Line2D

    colours = group_colours(world)
    if list(colours) == [""]:
        return
    dots = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="D" if group in world.new else "o",
            markersize=5,
            markeredgewidth=0,
            color=colour,
            label=group or f"no {world.grouping[0]}",
        )
        for group, colour in colours.items()
    ]
    figure.legend(
        handles=dots,
        loc="outside lower center",
        ncols=min(columns, len(dots)),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1.2,
    )


def spaced(run: RunResult, moments: int) -> np.ndarray:
    """Return indices of checkpoints, first to last, at most `moments`, spaced geometrically: a map forms early."""
    return np.unique(np.rint(np.geomspace(1, len(run.steps), moments)).astype(int) - 1)


def same_world(world: Scene, run: RunResult) -> None:
    """Raise ValueError if a run has another number of entities than the world."""
    if run.predicted.shape[1] != len(world):
        raise ValueError(f"run {run.name!r} has {run.predicted.shape[1]} {world.many}, the world has {len(world)}")

"""Drawing a world: its window, its cities, the key of its regions.

A world is any object with `xy`, numbers [N, 2], `region`, strings [N], and a length N. Regions in `new` are taught
after pretraining: their cities are diamonds, larger and on top.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.report.colours import region_colours
from worldfast.report.figures.style import HAIRLINE
from worldfast.studies import RunResult

GLOBE = (-1800, -900), (1800, 900)  # 0.1 degree


def geographic(world) -> bool:
    """Return True if every city is on the globe, in coordinates of 0.1 degree; other planes have their own units."""
    return bool((world.xy >= GLOBE[0]).all() and (world.xy <= GLOBE[1]).all())


def distance(world, value: float) -> str:
    """Return a distance in words: 41.3 -> "4.1°" on the globe, "41" on another plane, "–" if it is not finite."""
    if not np.isfinite(value):
        return "–"
    return f"{value / 10:.1f}°" if geographic(world) else f"{value:,.0f}"


def draw_cities(axes, world, places: np.ndarray, size: float, new: Sequence[str] = ()) -> None:
    """Draw one dot per city at `places` [N, 2], in random order so that no region hides another.

    Dots are rasterized inside the SVG, because thousands of circles are slow to open.
    """
    colours = region_colours(world, new)
    shuffled = np.random.default_rng(0).permutation(len(world))
    late = np.isin(world.region[shuffled], list(new))
    for cities, scale, marker in ((shuffled[~late], 1, "o"), (shuffled[late], 3, "D")):
        axes.scatter(
            *places[cities].T,
            s=scale * size,
            c=[colours[region] for region in world.region[cities]],
            marker=marker,
            linewidths=0,
            zorder=2,
            rasterized=True,
        )


def ratio(world) -> float:
    """Return the height of the world's window over its width, clipped to what fits a page."""
    width, height = np.maximum(np.ptp(world.xy, axis=0), 1)
    return float(np.clip(height / width, 0.3, 1.2)) * 1.06


def frame(axes, world) -> None:
    """Set the same window for truth and prediction: the world's box and a margin; a 30 degree grid on the globe."""
    low, high = world.xy.min(0), world.xy.max(0)
    margin = max(1, 0.035 * (high - low).max())
    axes.spines[:].set_color(HAIRLINE)
    if geographic(world):
        axes.set_xticks(range(-1800, 1801, 300), [])
        axes.set_yticks(range(-900, 901, 300), [])
        axes.grid(True, color=HAIRLINE, linewidth=0.5)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), aspect="equal")
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def region_key(figure, world, columns: int, new: Sequence[str] = ()) -> None:
    """Draw the legend of region colours below everything else; nothing if there are no regions."""
    from matplotlib.lines import Line2D

    colours = region_colours(world, new)
    if list(colours) == [""]:
        return
    dots = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="D" if region in new else "o",
            markersize=5,
            markeredgewidth=0,
            color=colour,
            label=region or "no region",
        )
        for region, colour in colours.items()
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


def same_world(world, run: RunResult) -> None:
    """Raise ValueError if a run has another number of cities than the world."""
    if run.predicted.shape[1] != len(world):
        raise ValueError(f"run {run.name!r} has {run.predicted.shape[1]} cities, the world has {len(world)}")

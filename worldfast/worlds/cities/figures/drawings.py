"""The world and its tasks, drawn: an example row of each on its piece of the map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from worldfast.report import INK, Tasks, listed, number
from worldfast.report.figures import HAIRLINE, MUTED, LacksRuns, group_names, heading, paper, world_map
from worldfast.worlds.cities.figures.catalogue import figure
from worldfast.worlds.cities.sampling import sample
from worldfast.worlds.cities.scene import geographic, scene_of
from worldfast.worlds.cities.tasks import TASKS, Task
from worldfast.worlds.cities.world import World

LAND = "#c9c5ba"
SHAPES = {  # the lines of a row: pairs of its cities, in its order
    "distance": [(0, 1)],
    "trianglearea": [(0, 1), (1, 2), (2, 0)],
    "angle": [(1, 0), (1, 2)],
    "compass": [],
    "crossing": [(0, 1), (2, 3)],
}
TRIED = 4000  # rows of a task among which the clearest is chosen


def newcomers(given, _) -> dict[str, dict]:
    """The regions that models are taught after pretraining, where the study says."""
    return {"": {"new": group_names(given["runs"]) if "runs" in given else []}}


def without_rule(given, _) -> dict[str, dict]:
    """The study's tasks that are not of the table of tasks."""
    names = Tasks(given["runs"]["tasks"]).names if "runs" in given else ()
    return {"": {"undrawn": [name for name in names if name not in TASKS]}}


@figure("world", "tasks", "world", newcomers)
def region_map(world: World, new: Sequence[str] = ()):
    """Draw every city at its true place, coloured by region; cities of the regions `new` are diamonds."""
    return world_map(scene_of(world, new))


@figure("tasks", "tasks", "world", without_rule)
def task_drawings(world: World, tasks: Iterable[Task] = tuple(TASKS.values()), undrawn: Sequence[str] = ()):
    """Draw each task with a row of its training stream: cities by name, the quantity asked for, the row's text and its
    answer.

    Of 4,000 rows (seed 0; a small world has fewer pairs) it shows the one whose cities are easiest to distinguish on a
    section of the map.

    Parameters
    ----------
    world : World
    tasks : iterable of Task
        Tasks to draw.
    undrawn : sequence of str
        Names of other tasks, which the caption mentions.

    Returns
    -------
    The figure and its caption.

    Raises
    ------
    LacksRuns
        The world has no row of some task. It is a ValueError.
    """
    tasks = list(tasks)
    lines = len(tasks) // 4 + 1  # the last panel explains
    drawing = paper(10, 2.95 * lines)
    grid = drawing.subplots(lines, 4, squeeze=False).ravel()
    colours = Tasks(task.name for task in tasks).colours
    for axes, task in zip(grid, tasks):
        _drawn(axes, world, task, colours[task.name])
    for axes in grid[len(tasks) : -1]:
        axes.remove()
    _explained(grid[-1], world)
    questions = f"{number(len(tasks)).capitalize()} question{'' if len(tasks) == 1 else 's'}"
    heading(drawing, f"{questions} about places that a model knows by name alone")
    return drawing, (
        "A row of each task, drawn. A model reads the names and learns to give the answer; it never sees a coordinate."
        + (f" Not drawn, because the study's rules for them are its own: {listed(undrawn)}." if undrawn else "")
    )


def _drawn(axes, world: World, task: Task, colour: str) -> None:
    pairs = len(world) * (len(world) - 1) // 2
    tried = min(TRIED, max(1, pairs // 2)) if task.unique_pairs else TRIED
    try:
        batch = sample(world, task, n=tried, seed=0)
    except ValueError as error:
        raise LacksRuns(f"task {task.name} cannot be drawn in this world: {error}") from error
    row = clearest(world, task, batch.cities, batch.label)
    cities = batch.cities[row][batch.cities[row] >= 0]
    points = world.xy[cities].astype(float)  # [k, 2]
    low, high = points.min(0), points.max(0)
    middle, reach = (low + high) / 2, 0.72 * max(*(high - low), 20)
    near = (np.abs(world.xy - middle) <= reach).all(1)
    axes.scatter(*world.xy[near].T, s=2.5, c=LAND, linewidths=0, rasterized=True)
    lines = SHAPES.get(task.name)
    if task.name == "inside":
        _hull(axes, points[1:], colour)
    elif lines is None:
        lines = [(i, (i + 1) % len(points)) for i in range(len(points))]
    for a, b in lines or ():
        axes.plot(*points[[a, b]].T, color=colour, linewidth=1.8, zorder=2)
    if task.name == "trianglearea":
        axes.fill(*points.T, color=colour, alpha=0.2, linewidth=0)
    elif task.name == "angle":
        _arc(axes, points, colour, 0.3 * reach)
    elif task.name == "compass":
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.8, "shrinkA": 3, "shrinkB": 3}
        axes.annotate("", points[1], points[0], arrowprops=arrow, zorder=2)
    asked = np.zeros(len(points), dtype=bool)
    asked[0 if task.name == "inside" else slice(None)] = True
    axes.scatter(*points[asked].T, s=24, c=INK, zorder=3)
    axes.scatter(*points[~asked].T, s=24, facecolors="white", edgecolors=INK, zorder=3)
    axes.set(xlim=middle[0] + np.array([-1, 1]) * reach, ylim=middle[1] + np.array([-1, 1]) * reach)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color(HAIRLINE)
    for point, name in zip(points, _names(world, cities)):
        _label(axes, point, name, points.mean(0), reach)
    label = int(batch.label[row])
    answer = in_words(label, task.unit) if geographic(world) and task.unit else task.answer(label)
    axes.set_title(f"{task.name}: {answer}", color=INK, fontsize=9.5, pad=4)
    text = batch.text(row)
    axes.set_xlabel(_folded(text), fontsize=7.5, family="DejaVu Sans Mono", color=MUTED, labelpad=4)


def clearest(world: World, task: Task, cities: np.ndarray, label: np.ndarray) -> int:
    """The row of `cities` [n, k] (-1 where unused) that is best seen: spread evenly, and on a piece of the map.

    Rows with more cities come first, up to five. A choice of TRUE and FALSE is drawn TRUE, an angle
    between 30 and 150 degrees.
    """
    used = cities >= 0
    points = world.xy[np.where(used, cities, cities[:, :1])].astype(float)  # [n, k, 2]
    apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)  # [n, k, k]
    pair = used[:, :, None] & used[:, None] & ~np.eye(cities.shape[1], dtype=bool)
    least = np.where(pair, apart, np.inf).min((1, 2))
    box = np.ptp(points, axis=1)  # [n, 2]
    size = box.max(1)
    whole = np.ptp(world.xy, axis=0).max()
    score = least / np.maximum(size, 1) + 0.35 * box.min(1) / np.maximum(size, 1)
    score -= 2 * np.maximum(0, size / whole - 0.3)  # a piece of the map, not the whole
    score -= np.maximum(0, 0.08 - size / whole)
    score -= np.array([max(map(len, world.name[row[row >= 0]])) > 13 for row in cities])
    score += 0.5 * np.minimum(used.sum(1), 5)  # of tasks with few or many cities, a row with many
    if task.answers == ("FALSE", "TRUE"):
        score -= 10.0 * (label != 1)
    if task.name == "angle":
        score -= 10.0 * ((label < 30) | (label > 150))
    return int(score.argmax())


def in_words(label: int, unit: str) -> str:
    """A label on the globe in words: (769, "0.1 degree") -> "76.9°", (97037, "0.01 square degree") -> "970 deg²"."""
    if unit == "0.1 degree":
        return f"{label / 10:.1f}°"
    return f"{label / 100:,.0f} deg²" if unit == "0.01 square degree" else f"{label}°"


def _names(world: World, cities) -> list[str]:
    return [str(world.name[city]) or f"c_{world.city_id[city]:04d}" for city in cities]


def _label(axes, point, name: str, middle, reach: float) -> None:
    """A city's name beside its dot, on the side away from the others, inside the panel."""
    from matplotlib.patheffects import withStroke

    away = point - middle
    below = away[1] < 0
    left, right = axes.get_xlim()
    half = 0.036 * len(name) * reach
    x = np.clip(point[0], left + half + 0.03 * reach, right - half - 0.03 * reach)
    y = point[1] + (-0.08 if below else 0.08) * reach
    halo = [withStroke(linewidth=2.5, foreground="white")]
    axes.text(x, y, name, fontsize=8, ha="center", va="top" if below else "bottom", path_effects=halo, zorder=4)


def _hull(axes, points, colour: str) -> None:
    from scipy.spatial import ConvexHull

    corners = points[ConvexHull(points).vertices]
    axes.fill(*corners.T, facecolor=colour, alpha=0.2, linewidth=0)
    axes.plot(*np.vstack([corners, corners[:1]]).T, color=colour, linewidth=1.8, zorder=2)


def _arc(axes, points, colour: str, radius: float) -> None:
    from matplotlib.patches import Wedge

    ends = sorted(np.degrees(np.arctan2(*(points[i] - points[1])[::-1])) for i in (0, 2))
    if ends[1] - ends[0] > 180:
        ends = [ends[1], ends[0] + 360]
    axes.add_patch(Wedge(points[1], radius, *ends, facecolor=colour, alpha=0.3, linewidth=0))


def _folded(text: str) -> str:
    """A row's text in lines of at most 30 characters, broken after a comma or semicolon."""
    lines, rest = [], text
    while len(rest) > 30:
        at = max(rest.rfind(mark, 0, 30) for mark in ",;(") + 1
        lines.append(rest[:at])
        rest = rest[at:]
    return "\n".join([*lines, rest])


def _explained(axes, world: World) -> None:
    unit = "in units\nof 0.1 degree on a plane" if geographic(world) else "on a plane"
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    lines = (
        "A row is text: names of\ncities in, an answer out.",
        f"Coordinates are never\ngiven. Each answer is exact,\nfrom positions {unit}.",
        "Grey dots: other cities.\nHollow: a hull's corners.",
    )
    axes.text(0.04, 0.97, "\n\n".join(lines), va="top", color=MUTED, linespacing=1.4)

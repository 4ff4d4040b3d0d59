"""Colours and names shared by the figures and the page, so that readers learn them once.

A group or a task has one colour in every figure of a study. The hues of PALETTE go around the circle; lightness then
separates neighbours. In OKLab, any two differ by at least 0.045, for full colour vision and for simulated protanopia,
deuteranopia and tritanopia (Machado et al. 2009). Fourteen colours cannot all be far apart for every reader, so no
figure relies on colour alone: position, label or line style carry the same information.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np

from worldfast.report.words import number
from worldfast.studies import RunResult, Scene

NEW = "#f13589"  # groups that models are taught after pretraining
PALETTE = (  # of groups, around the circle of hues
    "#a72e4f",
    "#da8166",
    "#a6700e",
    "#7b5109",
    "#bcbc0a",
    "#7d9b1f",
    "#64ca92",
    "#077b70",
    "#089bbf",
    "#1155ae",
    "#9abcf8",
    "#795bb3",
    "#c36cdf",
    "#f191cd",
)
TASK_HUES = (  # of tasks in their order: Okabe and Ito's without their yellow, which is too pale on paper; 0.07 apart
    "#0072b2",
    "#e69f00",
    "#d55e00",
    "#56b4e9",
    "#009e73",
    "#cc79a7",
    "#882255",
    "#9f6efe",
    "#b30108",
    "#0105c0",
    "#570580",
)
INK = "#23272d"  # text, and models of several tasks
MUTED = "#6b6f76"  # what stands behind
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # distinguish lines of one colour, as in SVG's stroke-dasharray
CKA_STOPS = ("#f4f0e6", "#c3d8c6", "#6dadaa", "#2b6f92", "#14315c")  # 0 to 1, with evenly decreasing lightness

DIVERGING_STOPS = ("#8f4a08", "#d08a45", "#f4f0e6", "#5f9cc0", "#123f66")  # -1, 0, 1: brown, paper, blue


def group_colours(world: Scene) -> dict[str, str]:
    """Return "#rrggbb" of each group of a scene, in order: its own, or hues far apart; ink without groups."""
    if world.colours:
        return dict(world.colours)
    names = [name for name in dict.fromkeys(world.group.tolist()) if name]
    hues = spread_hues(PALETTE, [name for name in names if name not in world.new])
    rest = {"": INK if not names else MUTED} if (world.group == "").any() else {}
    return hues | dict.fromkeys(world.new, NEW) | rest


def spread_hues(hues: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return a hue for each name, as far apart on the circle as their number allows."""
    stride = max(1, len(hues) // max(1, len(names)))
    return {name: hues[i * stride % len(hues)] for i, name in enumerate(names)}


class Tasks:
    """Tasks of a study: labels for sets of them in figures and on the page, and their colours.

    Parameters
    ----------
    sets : iterable of str
        Sets of tasks, their names joined by "+", such as the column "tasks" of a study's table of runs.

    Attributes
    ----------
    names : tuple of str
        The tasks, in order of first appearance.
    colours : dict of str to str
        Task to "#rrggbb", the same everywhere in a study.
    letters : dict of str to str
        Task to the letters that stand for it over the columns of a wide matrix: as many as no other task begins with.
    """

    def __init__(self, sets: Iterable[str]):
        self.names = tuple(dict.fromkeys(name for tasks in sets for name in tasks.split("+")))
        self.colours = dict(zip(self.names, cycle(TASK_HUES)))
        self.letters = {}
        for name in self.names:
            others = [other for other in self.names if other != name]
            starts = (name[:end] for end in range(1, len(name) + 1))
            own = (start for start in starts if not any(other.startswith(start) for other in others))
            self.letters[name] = next(own, "").capitalize() or name

    @classmethod
    def of(cls, runs: Sequence[RunResult]) -> Tasks:
        """Return the tasks of trained models."""
        return cls("+".join(run.tasks) for run in runs)

    def count(self, n: int) -> str:
        """Return a number of tasks in words: "one task", "4 tasks", "all seven tasks"."""
        if 3 < n == len(self.names):
            return f"all {number(n)} tasks"
        return f"{number(n) if n <= 3 else n} task{'' if n == 1 else 's'}"

    def label(self, tasks: str, short: bool = False) -> str:
        """Return the label of a set: "distance + angle", "all 7 tasks", "4 tasks"; short: "D A", "all", "4"."""
        names = tasks.split("+")
        if len(names) <= 3:
            return " ".join(self.letters.get(name, name) for name in names) if short else " + ".join(names)
        whole = set(names) == set(self.names)
        if short:
            return "all" if whole else str(len(names))
        return f"{'all ' if whole else ''}{len(names)} tasks"

    def colour(self, tasks: str) -> str:
        """Return the colour of a set of tasks: the task's own for one, ink for several."""
        return self.colours.get(tasks, INK)


def run_styles(runs: Sequence[RunResult], tasks: Tasks | None = None) -> list[tuple[str, str, str]]:
    """Return labels, colours and dashes that name and draw models in every figure.

    A model of one task has its task's colour; a model of several is ink. Up to four runs of one colour differ in
    dashes. Runs whose labels would be equal are labelled by name.

    Parameters
    ----------
    runs : sequence of RunResult
    tasks : Tasks, optional
        Those of the study; by default, those of these runs.

    Returns
    -------
    list of (str, str, str)
        Label, colour and dashes of each run.
    """
    tasks = tasks or Tasks.of(runs)
    sets = ["+".join(run.tasks) for run in runs]
    titles, colours = [tasks.label(one) for one in sets], [tasks.colour(one) for one in sets]
    labels = [run.name if titles.count(title) > 1 else title for run, title in zip(runs, titles, strict=True)]
    before = [colours[:i].count(colour) for i, colour in enumerate(colours)]
    return [(label, colour, DASHES[n % len(DASHES)]) for label, colour, n in zip(labels, colours, before, strict=True)]


def ramp(value: float) -> str:
    """Return the colour "#rrggbb" of a similarity in [0, 1]; values outside are clipped."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in CKA_STOPS])  # [5, 3]
    at = float(np.clip(value, 0, 1)) * (len(stops) - 1)
    mixed = [round(float(np.interp(at, range(len(stops)), stops[:, channel]))) for channel in range(3)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def legible(value: float) -> str:
    """Return the colour for a number written on `ramp(value)`."""
    return legible_on(ramp(value))


def legible_on(colour: str) -> str:
    """Return white or ink, whichever has the higher contrast ratio (WCAG 2) on "#rrggbb"."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    here = luminance(colour)
    return "#ffffff" if 1.05 / (here + 0.05) > (here + 0.05) / (luminance(INK) + 0.05) else INK

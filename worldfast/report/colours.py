"""Colours and names that the figures and the page share, so that they need to be learned once.

A region or a task has one colour in every figure of every study. The hues of the 14 regions go around the
circle as the regions go around the globe, west to east, so that a city put in the wrong part of the world
shows as a wrong colour; lightness then sets neighbours apart. In OKLab, regions that share a border differ
by at least 0.095 and any two by at least 0.045, for full colour vision and for simulated protanopia,
deuteranopia and tritanopia (Machado et al. 2009). Fourteen colours cannot all be far apart for every
reader, so no figure rests on colour alone: position, label or line style say the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.studies import RunResult
from worldfast.worlds.cities.world import ATLANTIS, World

REGION_COLOURS = {
    "North America": "#a72e4f",
    "Middle America": "#e4756b",
    "South America": "#a6700e",
    "West and Central Africa": "#7b5109",
    "North Africa": "#bcbc0a",
    "Western Europe": "#769d19",
    "Eastern Europe": "#6ac68f",
    "East and Southern Africa": "#077b70",
    "Western Asia": "#0b97bd",
    "Central Asia": "#095ba8",
    "South Asia": "#9bb2fe",
    "Southeast Asia": "#8060af",
    "East Asia": "#c36cdf",
    "Oceania": "#f191cd",
    ATLANTIS: "#ff2d95",
}
TASK_COLOURS = {  # Okabe and Ito's, but for their yellow, which paper swallows; at least 0.07 apart
    "distance": "#0072b2",
    "trianglearea": "#e69f00",
    "angle": "#d55e00",
    "compass": "#56b4e9",
    "inside": "#009e73",
    "perimeter": "#cc79a7",
    "crossing": "#882255",
}
INK = "#23272d"  # text, and models of several tasks
TASK_LETTERS = {  # for the columns of wide matrices, as in the published figures
    "distance": "D",
    "trianglearea": "T",
    "angle": "A",
    "compass": "Co",
    "inside": "I",
    "perimeter": "P",
    "crossing": "Cr",
}
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # lines of one colour, told apart as in SVG's stroke-dasharray
CKA_STOPS = ("#f4f0e6", "#c3d8c6", "#6dadaa", "#2b6f92", "#14315c")  # 0 to 1, lightness falling evenly

DIVERGING_STOPS = ("#8f4a08", "#d08a45", "#f4f0e6", "#5f9cc0", "#123f66")  # -1, 0, 1: brown, paper, blue


def region_colours(world: World) -> dict[str, str]:
    """Region -> "#rrggbb" for the regions of `world`, in the order of the table above.

    Regions that the table does not know follow from west to east by their median x, in hues that are left
    over; a world without regions is one region "" in ink.
    """
    present = set(world.region.tolist())
    colours = {region: colour for region, colour in REGION_COLOURS.items() if region in present}
    middle = {region: np.median(world.xy[world.region == region, 0]) for region in present - colours.keys()}
    others = sorted(middle, key=lambda region: (middle[region], region))
    if others == [""] and not colours:
        return {"": INK}
    hues = [colour for region, colour in REGION_COLOURS.items() if region not in (ATLANTIS, *present)]
    hues = hues or list(REGION_COLOURS.values())
    stride = max(1, len(hues) // max(1, len(others)))
    return colours | {region: hues[i * stride % len(hues)] for i, region in enumerate(others)}


def tasks_label(tasks: str | Sequence[str], short: bool = False) -> str:
    """What a set of tasks is called: "distance + angle", "all 7 tasks", "4 tasks"; short: "D A", "all", "4".

    `tasks` is a sequence of names, or names joined by "+".
    """
    names = tasks.split("+") if isinstance(tasks, str) else list(tasks)
    if len(names) <= 3:
        return " ".join(TASK_LETTERS.get(name, name) for name in names) if short else " + ".join(names)
    whole = set(names) == set(TASK_COLOURS)
    if short:
        return "all" if whole else str(len(names))
    return f"{'all ' if whole else ''}{len(names)} tasks"


def tasks_colour(tasks: str | Sequence[str]) -> str:
    """The colour of what was trained on these tasks: its task's for one, ink for several."""
    names = tasks.split("+") if isinstance(tasks, str) else list(tasks)
    return TASK_COLOURS.get(names[0], INK) if len(names) == 1 else INK


def run_styles(runs: Sequence[RunResult]) -> list[tuple[str, str, str]]:
    """(label, colour, dashes) of each run: what names and draws a model in every figure.

    A model of one task has its task's colour, one of several is ink; up to four runs of one colour differ
    in dashes, and runs that would be called alike are called by their names.
    """

    titles = [tasks_label(run.tasks) for run in runs]
    colours = [tasks_colour(run.tasks) for run in runs]
    labels = [run.name if titles.count(title) > 1 else title for run, title in zip(runs, titles, strict=True)]
    before = [colours[:i].count(colour) for i, colour in enumerate(colours)]
    return [(label, colour, DASHES[n % len(DASHES)]) for label, colour, n in zip(labels, colours, before, strict=True)]


def ramp(value: float) -> str:
    """The colour "#rrggbb" of a similarity in [0, 1]; values beyond are clipped."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in CKA_STOPS])  # [5, 3]
    at = float(np.clip(value, 0, 1)) * (len(stops) - 1)
    mixed = [round(float(np.interp(at, range(len(stops)), stops[:, channel]))) for channel in range(3)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def legible(value: float) -> str:
    """The colour of a number written on `ramp(value)`."""
    return legible_on(ramp(value))


def legible_on(colour: str) -> str:
    """White or ink, whichever stands out more on "#rrggbb" (contrast ratio of WCAG 2)."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    here = luminance(colour)
    return "#ffffff" if 1.05 / (here + 0.05) > (here + 0.05) / (luminance(INK) + 0.05) else INK

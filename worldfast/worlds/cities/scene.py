"""The world of cities as figures and the page draw it: on a map, coloured by region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.report import INK, NEW, PALETTE, spread_hues
from worldfast.run import Run
from worldfast.studies import Axis, Scene
from worldfast.worlds.cities.prompts import CITY, prompt_of
from worldfast.worlds.cities.world import ATLANTIS, World

GLOBE = (-1800, -900), (1800, 900)  # 0.1 degree
REGIONS = (  # west to east, so a city placed in the wrong part of the world shows as a wrong colour
    "North America",
    "Middle America",
    "South America",
    "West and Central Africa",
    "North Africa",
    "Western Europe",
    "Eastern Europe",
    "East and Southern Africa",
    "Western Asia",
    "Central Asia",
    "South Asia",
    "Southeast Asia",
    "East Asia",
    "Oceania",
)
REGION_COLOURS = dict(zip(REGIONS, PALETTE, strict=True)) | {ATLANTIS: NEW}  # neighbours: CIEDE2000 of 10 and more
DEGREES = {"0.1 degree": (0.1, "degree"), "0.01 square degree": (0.01, "square degree")}
TERMS = {  # of figures and findings that are the cities' own
    "normalised improvement": "how far a fine-tune has come on rows with what it was taught: 0 is its base’s score "
    "there, 1 its base’s score on the rest of the world; of errors on a logarithmic scale. Clipped to 0 to 1.5, as "
    "published.",
    "deviation": "normalised improvement of a fine-tune on two tasks, less that of the better of its teachers, the two "
    "fine-tunes on one of the tasks each. Not clipped, as published, so that one error of many digits counts in full.",
    "dose": "rows that a fine-tune has seen of each of its tasks.",
}
CITE = """@misc{arXiv-2602-00533,
  title         = "{Convergent World Representations and Divergent Tasks}",
  eprint        = {2602.00533},
  archivePrefix = {arXiv}
}"""
SOURCE_OF_CITIES = (
    ("Cities: ", ""),
    ("GeoNames", "https://www.geonames.org/"),
    (", ", ""),
    ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    (", rounded to 0.1\u00b0. ", ""),
)
SOURCES = (
    ("Tasks and analyses after \u201cConvergent World Representations and Divergent Tasks\u201d, ", ""),
    ("arXiv 2602.00533", "https://arxiv.org/abs/2602.00533"),
    (".", ""),
)


def geographic(world: World) -> bool:
    """Return True if every city is on the globe, in coordinates of 0.1 degree; other planes have their own units."""
    return bool((world.xy >= GLOBE[0]).all() and (world.xy <= GLOBE[1]).all())


def region_colours(world: World, new: Sequence[str] = ()) -> dict[str, str]:
    """Return the colours of a world's regions, those of REGION_COLOURS first and in its order.

    Other regions follow from west to east by their median x, in the hues that are left; a world without regions is one
    region "" in ink.

    Parameters
    ----------
    world : World
    new : sequence of str
        Regions that models are taught after pretraining; they share the colour NEW.

    Returns
    -------
    dict of str to str
        Region to "#rrggbb".
    """
    present = set(world.region.tolist())
    table = {region: colour for region, colour in REGION_COLOURS.items() if colour != NEW or not new}
    table |= dict.fromkeys(new, NEW)
    colours = {region: colour for region, colour in table.items() if region in present}
    middle = {region: np.median(world.xy[world.region == region, 0]) for region in present - colours.keys()}
    others = sorted(middle, key=lambda region: (middle[region], region))
    if others == [""] and not colours:
        return {"": INK}
    hues = [colour for region, colour in REGION_COLOURS.items() if colour != NEW and region not in present]
    return colours | spread_hues(hues or list(REGION_COLOURS.values()), others)


def scene_of(world: World, new: Sequence[str] = ()) -> Scene:
    """Return the scene of a world; cities of the regions `new` are taught after pretraining."""
    x, y = Axis("x"), Axis("y")
    bundled = np.isin(world.entities, World.cities().entities).any()
    if geographic(world):
        x = Axis("x", "\u00b0", 0.1, 1, ("E", "W"), 300)
        y = Axis("y", "\u00b0", 0.1, 1, ("N", "S"), 300)
    return Scene(
        name=world.name,
        group=world.region,
        xy=world.xy,
        axes=(x, y),
        columns=("x", "y"),
        weight=world.population,
        colours=region_colours(world, new),
        new=tuple(name for name in new if name in world.region),
        one="city",
        many="cities",
        units=DEGREES if geographic(world) else {},
        grouping=("region", "regions"),
        loss="nats a token",
        title="The map inside the model",
        question=_question(new),
        notes="A dot grows with its city\u2019s population.",
        terms=TERMS,
        sources=(*SOURCE_OF_CITIES, *SOURCES) if bundled else SOURCES,
        cite=CITE,
        world=world,
    )


def read_at(runs: Sequence[Run]) -> str:
    """Say at which prompt the models of a study are read."""
    prompts: dict[str, None] = {}
    own = True
    for run in runs:
        options = dict(run.capture.readout)
        text = options.get("prompt") or prompt_of(run.data.task(options.get("task") or run.data.tasks[0]))
        prompts[text.replace(CITY, "c_dddd")] = None
        own &= not options.keys() & {"prompt", "task"}
    first, *others = prompts
    if not others:
        return f"Models are read at the prompt \u201c{first}\u201d."
    if own:
        return f"Each model is read at the prompt of the first of its own tasks, such as \u201c{first}\u201d."
    return f"Models are read at {len(prompts)} prompts, the first at \u201c{first}\u201d."


def taught_by(runs: Sequence[Run]) -> str:
    """Say of which rows fine-tunes learn their groups; "" if there are none."""
    tuned = [run for run in runs if run.start and run.data.taught]
    if not tuned:
        return ""
    others = [part for run in tuned for part in run.data.mixture if part.task not in run.data.tasks]
    if not others:
        return "each from rows of its own tasks alone"
    sizes = sorted({part.rows for part in others})
    about = ", which have new cities too" if any(part.must_include for part in others) else ""
    rows = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    return f"each from rows of its own tasks and, in every epoch, {rows} of each other task of its base{about}"


def _question(new: Sequence[str]) -> str:
    """Return what a study of cities asks, with what it teaches later, if anything."""
    question = "Does a model that reads names of cities and answers to questions about them form a map of the world"
    if not new:
        return f"{question}, and is it the same map whatever it is asked?"
    return f"{question}, and when it is taught {' and '.join(new)} later, does that find its place on the map?"

"""Options of `worldfast train` that are of cities, and the dataset that they describe."""

from __future__ import annotations

from dataclasses import MISSING, asdict
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from worldfast.folder import spec_of
from worldfast.options import TYPES, AnyText, group
from worldfast.worlds.cities.dataset import Dataset
from worldfast.worlds.cities.tasks import BUILT_IN
from worldfast.worlds.cities.world_spec import WorldSpec

Data = group(
    "Data",
    Dataset,
    WorldSpec,
    tasks=(
        Annotated[tuple[str, ...], arg(metavar="TASK ...")],
        MISSING,
        "Tasks of each model, such as distance angle; or all.",
    ),
    rows="Rows of each task in an epoch.",
    vocabulary="character; or entity: one token a city, easier to learn.",
    loss="Tokens to learn: all after the first, or answer, those after '='.",
    among="Cities that rows may use, such as \"region != 'Atlantis'\"; all by default.",
    crossing="Rows of crossing: balanced, or reshuffled, 26 % TRUE.",
    world=(TYPES["str"], WorldSpec.source, "cities, or the path of a CSV file."),
    atlantis="Number of cities of Atlantis to add to the world.",
    layout="Layout of Atlantis: clustered or scattered.",
    atlantis_seed="Seed for the places of Atlantis's cities.",
    largest="Keep only the N most populous cities of the world; 0 keeps all.",
    capture_among=(AnyText, None, 'Cities to write activations of, such as "city_id >= 1000"; all by default.'),
    capture_task=(AnyText, None, "Task whose prompt is read for activations; the first by default."),
)


def asked(data: Data, start: Path | None) -> tuple[Dataset, dict[str, Any]]:
    """The dataset that the options describe, and those of its readout. With the folder of a start, a vocabulary that
    is not asked for is the start's.
    """
    about = asdict(data)
    readout = {"among": about.pop("capture_among"), "task": about.pop("capture_task")}
    about["world"] = WorldSpec(*map(about.pop, ("world", "atlantis", "layout", "atlantis_seed", "largest")))
    about["tasks"] = BUILT_IN if data.tasks == ("all",) else data.tasks
    if start is not None and data.vocabulary == Dataset.vocabulary:
        about["vocabulary"] = spec_of(start).data.vocabulary
    return Dataset(**about), {name: value for name, value in readout.items() if value is not None}

"""Spec of a world of cities: a frozen value that JSON keeps, and the world that it builds."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from worldfast.classes import Named
from worldfast.errors import one_of, unknown_name, whole
from worldfast.worlds.cities.csv_file import ID_COUNT, no_file
from worldfast.worlds.cities.world import LAYOUTS, World

__all__ = ["WorldSpec"]


@dataclass(frozen=True)
class WorldSpec(Named):
    """Spec of a world, in values that JSON keeps (`dataclasses.asdict`, and back with `WorldSpec(**fields)`).

    Parameters
    ----------
    source : str
        "cities" or the path of a CSV file (`*.csv` or `*.tsv`; see `World.from_csv`).
    atlantis : int
        Number of cities of Atlantis, 0 for none.
    layout : {"clustered", "scattered"}
        Layout of Atlantis; see `World.with_atlantis`.
    atlantis_seed : int
        Seed of Atlantis.
    largest : int
        Keep only this number of the most populous cities; 0 for all.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> wf.WorldSpec(atlantis=100, largest=1000).build()
    World(1,100 cities, 15 regions)
    """

    source: str = "cities"
    atlantis: int = 0
    layout: str = "clustered"
    atlantis_seed: int = 42
    largest: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.source, (str, os.PathLike)):
            raise TypeError(f"source must be 'cities' or the path of a CSV file, not {self.source!r}")
        source = os.fspath(self.source)
        if source != "cities" and not source.lower().endswith((".csv", ".tsv")):
            raise unknown_name("world source", source, ["cities", "*.csv", "*.tsv"])
        one_of("layout", self.layout, LAYOUTS)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "largest", whole("largest", self.largest, 0, ID_COUNT))
        object.__setattr__(self, "atlantis", whole("atlantis", self.atlantis, 0, ID_COUNT))
        object.__setattr__(self, "atlantis_seed", whole("atlantis_seed", self.atlantis_seed, 0))

    def build(self) -> World:
        """Return the world: the same object each time in one process, until its CSV file changes.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            As from `World.from_csv`, `largest` and `with_atlantis`.
        """
        if self.source == "cities":
            return _build(self, ())
        try:
            now = os.stat(self.source)
        except FileNotFoundError:
            raise no_file("world source", self.source) from None
        return _build(self, (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))


@functools.lru_cache(maxsize=64)
def _build(spec: WorldSpec, _changed: tuple[int, ...]) -> World:
    world = World.cities() if spec.source == "cities" else World.from_csv(spec.source)
    if spec.largest and not world.population.any():
        raise ValueError(f"largest: no city of '{spec.source}' has a population, by which the largest are known")
    world = world.largest(spec.largest) if spec.largest else world
    return world.with_atlantis(spec.atlantis, spec.atlantis_seed, spec.layout) if spec.atlantis else world

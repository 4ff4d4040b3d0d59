"""Worlds: entities on a plane, each with an id, a name and a region; the bundled cities, and Atlantis.

A coordinate is an integer in units of 0.1 degree on a plane without projection: x = 10 * longitude and y = 10 *
latitude, rounded half to even. Labels, tokens, samples and probes depend on a `World` alone.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from worldfast.arrays import ArrayLike, refuse
from worldfast.dataset import digests_of
from worldfast.display import count
from worldfast.errors import one_of, whole
from worldfast.worlds.cities.csv_file import COORDINATE_LIMIT, ID_COUNT, no_file, read_csv
from worldfast.worlds.cities.selection import select

ID_SEED = 42
BOX = np.array([[-1800, -900], [1800, 900]])  # the corners of the globe, 0.1 degree
ATLANTIS = "Atlantis"
NEW = f"region == '{ATLANTIS}'"  # for World.select
OLD = f"region != '{ATLANTIS}'"
ATLANTIS_CENTRE = (-350, 350)
ATLANTIS_SPREAD = 30  # standard deviation per axis
LAYOUTS = ("clustered", "scattered")
CITIES_CSV = Path(__file__).with_name("data") / "cities.csv"


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """N entities on a plane. Immutable: its arrays are read-only copies. Equality and hash are by identity.

    Usually made by `World.cities()`, `World.from_csv(path)` or `World.from_array(xy)`, and extended by
    `with_atlantis()`.

    Parameters
    ----------
    xy : ndarray
        int32 [N, 2], x and y in 0.1 degree, |coordinate| <= 2**20.
    city_id : ndarray
        int32 [N], 0 to 9999, all different; written `c_0865`.
    name : ndarray
        str [N], "" if unknown.
    region : ndarray
        str [N], "" if unknown.
    country : ndarray
        str [N], ISO 3166-1 alpha-2, "" if unknown.
    population : ndarray
        int64 [N], 0 if unknown.

    Raises
    ------
    TypeError
        Coordinates are not signed integers, ids or populations not integers, or texts not strings.
    ValueError
        A shape is wrong, there is no city, a coordinate or id is out of range, or an id is used twice.

    Examples
    --------
    >>> world = wf.World.cities()
    >>> world
    World(5,075 cities, 14 regions)
    >>> str(world.name[0]), world.xy[0].tolist(), int(world.city_id[0])
    ('Shanghai', [1215, 312], 8132)
    >>> wf.World.from_array(np.array([[0, 0], [10, 20]]), region=["west", "east"]).select("x > 5").tolist()
    [False, True]
    """

    xy: np.ndarray
    city_id: np.ndarray
    name: np.ndarray
    region: np.ndarray
    country: np.ndarray
    population: np.ndarray

    def __post_init__(self) -> None:
        xy = _array("xy", self.xy)
        if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
            raise ValueError(f"xy must have the shape [N, 2] with N >= 1, not {list(xy.shape)}")
        if xy.dtype.kind != "i":
            cast = "round and cast, np.rint(xy).astype(np.int32)"
            raise TypeError(f"xy must hold signed integers, 0.1 degree, not {xy.dtype}: {cast}")
        n = len(xy)
        xy = _in_range("xy", xy, -COORDINATE_LIMIT, COORDINATE_LIMIT)
        columns = {
            "xy": xy.astype(np.int32, order="C"),
            "city_id": _integers("city_id", self.city_id, n, ID_COUNT - 1).astype(np.int32),
            "name": _texts("name", self.name, n),
            "region": _texts("region", self.region, n),
            "country": _texts("country", self.country, n),
            "population": _integers("population", self.population, n, 2**63 - 1).astype(np.int64),
        }
        ids, first = np.unique(columns["city_id"], return_index=True)
        if len(ids) < n:
            again = np.setdiff1d(np.arange(n), first)[0]
            city_id = columns["city_id"][again]
            raise ValueError(f"city_id must be different for each city, but city {again} repeats {city_id}")
        for field, array in columns.items():
            array.flags.writeable = False
            object.__setattr__(self, field, array)

    def __len__(self) -> int:
        return len(self.xy)

    def __repr__(self) -> str:
        return f"World({count(len(self), 'city', 'cities')}, {count(len(np.unique(self.region)), 'region')})"

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Columns by name: all that labels, tokens, samples and selections are made of."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Digest of each column by name, 16 hexadecimal digits; the order of cities counts."""
        return digests_of(self.columns)

    @functools.cached_property
    def entities(self) -> np.ndarray:
        """Identity of each city in any world, str [N]: its id, by which a model knows it, and its place."""
        found = zip(self.city_id.tolist(), self.xy.tolist())
        return np.array([f"c_{city_id:04d} at {x},{y}" for city_id, (x, y) in found])

    def __reduce__(self) -> tuple:
        # Copies and pickles go through the constructor: plainly unpickled arrays would be writable.
        return World, tuple(self.columns.values())

    @staticmethod
    @functools.cache
    def cities() -> World:
        """Return the 5,075 most populous places of GeoNames, largest first, in 14 regions (data/README.md). Cached."""
        return World.from_csv(CITIES_CSV)

    @staticmethod
    def from_csv(path: str | os.PathLike) -> World:
        """Read a world from a UTF-8 CSV file with a header, one city a row.

        Values are separated by ",", ";" or tabs. Columns may stand in any order, with any capitals; others are ignored.
        Places are either `x`, `y` (integers, 0.1 degree) or `longitude`, `latitude` (degrees with a decimal point,
        rounded half to even to 0.1), also called `lon`, `long`, `lng`, `longitude_deg` and `lat`, `latitude_deg`.
        Optional are `city_id` (without it, ids are drawn as for `cities()`), `region`, `name` (or else `asciiname`,
        `city`), `country` (or else `country_code`, `iso2`) and `population` (or else `pop`; empty if unknown). Texts
        are kept as they are, "NA" too. What is read does not depend on how it was written.

        Parameters
        ----------
        path : path

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            A column is missing or doubled, a number cannot be parsed or is out of range, an id is used twice, or the
            number of cities is 0 or above 10,000. The message names file and line, and the nearest column.
        """
        try:
            table, n = read_csv(Path(path))
        except FileNotFoundError:
            raise no_file("path", path) from None
        empty = np.full(n, "")
        x, y = (table["x"], table["y"]) if "x" in table else (table["longitude"], table["latitude"])
        return World(
            xy=np.array([x, y], dtype=np.int32).T,
            city_id=table["city_id"] if "city_id" in table else _unused_ids(n),
            name=table.get("name", empty),
            region=table.get("region", empty),
            country=table.get("country", empty),
            population=table.get("population", np.zeros(n, dtype=np.int64)),
        )

    @staticmethod
    def from_array(
        xy: ArrayLike, city_id: ArrayLike | None = None, name: ArrayLike | None = None, region: ArrayLike | None = None
    ) -> World:
        """Make a world from coordinates.

        Parameters
        ----------
        xy : array
            Signed integers [N, 2], 0.1 degree, |coordinate| <= 2**20, N <= 10,000. Floats are refused: the caller knows
            how to round them.
        city_id : array, optional
            Integers [N]; by default drawn as for `cities()`.
        name, region : array, optional
            Strings [N]; by default "".

        Raises
        ------
        TypeError, ValueError
            As from `World`.
        """
        xy = _array("xy", xy)
        n = len(xy) if xy.ndim else 0
        empty = np.full(n, "")
        return World(
            xy=xy,
            city_id=_unused_ids(n) if city_id is None else _array("city_id", city_id),
            name=empty if name is None else _array("name", name),
            region=empty if region is None else _array("region", region),
            country=empty,
            population=np.zeros(n, dtype=np.int64),
        )

    def with_atlantis(self, n: int = 100, seed: int = 42, layout: str = "clustered") -> World:
        """Return this world with n more cities at the end, `Atlantis 001`..., of the region "Atlantis".

        Positions are a function of layout and seed, and a smaller Atlantis is the beginning of a larger one. Ids are
        the next unused ones in the order of their draw. Source: arXiv 2602.00533, whose own draw was seeded by a
        randomised hash and cannot be repeated.

        Parameters
        ----------
        n : int
            Number of cities.
        seed : int
        layout : {"clustered", "scattered"}
            Normal around longitude -35, latitude 35, with a standard deviation of 3 degrees per axis, clipped to the
            globe; or uniform over the globe.

        Raises
        ------
        ValueError
            n is below 1 or above the number of unused ids, the layout is unknown, the seed is negative, or the world
            has an Atlantis already.
        """
        n, seed = whole("n", n, 1), whole("seed", seed, 0)
        one_of("layout", layout, LAYOUTS)
        if ATLANTIS in self.region:
            raise ValueError("this world has an Atlantis already: add it once, with the n it should have")
        ids = _unused_ids(n, self.city_id)  # first: there is no memory for cities that cannot be
        random = np.random.default_rng(seed)
        if layout == "clustered":
            drawn = random.normal(ATLANTIS_CENTRE, ATLANTIS_SPREAD, size=(n, 2))
            xy = np.clip(np.rint(drawn), *BOX).astype(np.int32)  # [n, 2]
        else:
            low, high = BOX
            xy = random.integers(low, high, size=(n, 2), endpoint=True, dtype=np.int32)  # [n, 2]
        return World(
            xy=np.concatenate([self.xy, xy]),
            city_id=np.concatenate([self.city_id, ids]),
            name=np.concatenate([self.name, [f"{ATLANTIS} {i:03d}" for i in range(1, n + 1)]]),
            region=np.concatenate([self.region, [ATLANTIS] * n]),
            country=np.concatenate([self.country, [""] * n]),
            population=np.concatenate([self.population, np.zeros(n, dtype=np.int64)]),
        )

    def largest(self, n: int) -> World:
        """Return the world of the n most populous cities, in their present order and with their ids.

        Among cities of equal population the earlier ones are kept.

        Raises
        ------
        ValueError
            n is below 1 or above the number of cities.
        """
        n = whole("n", n, 1)
        if n > len(self):
            raise ValueError(
                f"n: this world has {count(len(self), 'city', 'cities')}, the {n:,} largest were asked for"
            )
        kept = np.sort(np.argsort(-self.population, kind="stable")[:n])
        return World(**{name: column[kept] for name, column in self.columns.items()})

    def select(self, which: str | ArrayLike) -> np.ndarray:
        """Return a selection of cities as a mask.

        An expression consists of column names, numbers, strings, comparisons (chained too), `and`, `or`, `not`, `in`
        and `not in` a literal list, + - * / and unary minus. Columns are region, name, country, city_id, x, y (0.1
        degree), population and index. Arithmetic is float64, with division by zero as in IEEE 754.

        Parameters
        ----------
        which : str or array
            Expression over the columns, or a bool mask [N], which is checked.

        Returns
        -------
        ndarray
            bool [N].

        Raises
        ------
        ValueError
            The expression has an unknown column or anything else (the message lists what is allowed), or the mask has
            the wrong shape.
        TypeError
            `which` is neither a string nor a bool array.

        Examples
        --------
        >>> world = wf.World.cities()
        >>> int(world.select("country in ['NA', 'ZA'] or not population / 1e6 >= 1").sum())
        4517
        >>> int(world.select("region != 'Oceania' and 0 < x <= 450").sum())
        1308
        """
        if isinstance(which, str):
            return select(which, self._columns())
        mask = _array("mask", which)
        if mask.dtype != bool:
            came = f"{mask.dtype} values" if mask.ndim else repr(which)
            raise TypeError(f"a selection is an expression or a bool mask [N], not {came}")
        return _one_per_city("mask", mask, len(self)).copy()

    def _columns(self) -> dict[str, np.ndarray]:
        return {
            "region": self.region,
            "name": self.name,
            "country": self.country,
            "city_id": self.city_id.astype(np.float64),
            "x": self.xy[:, 0].astype(np.float64),
            "y": self.xy[:, 1].astype(np.float64),
            "population": self.population.astype(np.float64),
            "index": np.arange(len(self), dtype=np.float64),
        }


def _unused_ids(n: int, used: Any = ()) -> np.ndarray:
    """Return the next n unused ids, int32 [n], in one fixed order of all ids, which world and Atlantis share, so that
    Atlantis has its ids before it exists.

    Raises
    ------
    ValueError
        Too few ids are left.
    """
    order = np.random.default_rng(ID_SEED).permutation(ID_COUNT)
    free = order[~np.isin(order, used)]
    if n > len(free):
        raise ValueError(
            f"{count(n, 'city needs', 'cities need')} an id, but {len(free):,} of the {ID_COUNT:,} four-digit ids are "
            "left"
        )
    return free[:n].astype(np.int32)


# ---- checks: each returns what it checked and names the argument in its error ----


def _array(argument: str, values: Any) -> np.ndarray:
    refuse(values, argument)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{argument} is not a rectangular array: {error}") from None


def _in_range(argument: str, values: np.ndarray, low: int, high: int) -> np.ndarray:
    outside = np.argwhere((values < low) | (values > high))
    if len(outside):
        at = tuple(outside[0])
        raise ValueError(f"{argument} must be in {low}..{high}, but city {at[0]} has {values[at]}")
    return values


def _one_per_city(argument: str, values: Any, n: int) -> np.ndarray:
    array = _array(argument, values)
    if array.shape != (n,):
        raise ValueError(f"{argument} must have the shape [{n}], one per city, not {list(array.shape)}")
    return array


def _integers(argument: str, values: Any, n: int, high: int) -> np.ndarray:
    array = _one_per_city(argument, values, n)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{argument} must hold integers, not {array.dtype}")
    return _in_range(argument, array, 0, high)


def _texts(argument: str, values: Any, n: int) -> np.ndarray:
    array = _one_per_city(argument, values, n)
    if array.dtype.kind in "OT" and all(isinstance(text, str) for text in array):
        array = array.astype(str)
    if array.dtype.kind != "U":
        raise TypeError(f"{argument} must hold strings, not {array.dtype}")
    return array.copy()

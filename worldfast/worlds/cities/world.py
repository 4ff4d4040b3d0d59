"""Worlds: entities on a plane, each with an id, a name and a region; the bundled cities, and Atlantis.

A coordinate is an integer in units of 0.1 degree on a plane without projection: x = 10 * longitude and
y = 10 * latitude, rounded half to even. Labels, tokens, samples and probes read a `World` and nothing else.
"""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from worldfast.errors import unknown_name
from worldfast.worlds.cities.selection import select

COORDINATE_LIMIT = 1 << 20  # |x|, |y|: squares, cross products and their sums stay exact in 64-bit integers
ID_COUNT = 10_000  # ids are written with four digits
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
    """N entities on a plane. Immutable: its arrays are read-only copies. Equal, and hashed, by identity.

        xy          int32 [N, 2]   x, y in 0.1 degree, |coordinate| <= 2**20
        city_id     int32 [N]      0..9999, all different; written `c_0865`
        name        str   [N]      "" where unknown, like region and country
        region      str   [N]
        country     str   [N]      ISO 3166-1 alpha-2
        population  int64 [N]      0 where unknown

    Made by `World.cities()`, `World.from_csv(path)` or `World.from_array(xy)`, and then `with_atlantis()`.
    TypeError: coordinates that are not signed integers, ids or populations that are not integers, texts that
    are not strings. ValueError: a wrong shape, no city, a coordinate or id out of range, an id used twice.
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
        return f"World({len(self)} cities, {len(np.unique(self.region))} regions)"

    def __reduce__(self) -> tuple:
        # Copies and pickles go through the constructor: plainly unpickled arrays would be writable.
        return World, tuple(getattr(self, field.name) for field in fields(self))

    @staticmethod
    @functools.cache
    def cities() -> World:
        """The 5,075 most populous places of GeoNames, largest first, 14 regions (data/README.md). Cached."""
        return World.from_csv(CITIES_CSV)

    @staticmethod
    def from_csv(path: str | os.PathLike) -> World:
        """A world from a UTF-8 CSV file with a header, one city a row.

        Needs either `x`, `y` (integers, 0.1 degree) or `longitude`, `latitude` (degrees, rounded half to even
        to 0.1). Takes `name`, `region`, `country`, `city_id`, `population` where they are there; without
        `city_id`, ids are drawn as for `cities()`. Other columns are passed over; texts are kept, "NA" too.
        ValueError naming file and line: missing or doubled columns, a number that cannot be read or is out of
        range, an id used twice, more than 10,000 cities, none.
        """
        table, n = _read_csv(Path(path))
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
    def from_array(xy, city_id=None, name=None, region=None) -> World:
        """A world from coordinates: signed integers [N, 2], 0.1 degree, |coordinate| <= 2**20, N <= 10,000.

        `city_id` integers [N] (default: drawn as for `cities()`), `name`, `region` strings [N] (default: "").
        Errors: those of `World`; floats are refused, since the caller knows how they should be rounded.
        """
        xy = _array("xy", xy)
        n = len(xy) if xy.ndim else 0
        empty = np.full(n, "")
        return World(
            xy=xy,
            city_id=_unused_ids(n) if city_id is None else city_id,
            name=empty if name is None else name,
            region=empty if region is None else region,
            country=empty,
            population=np.zeros(n, dtype=np.int64),
        )

    def with_atlantis(self, n: int = 100, seed: int = 42, layout: str = "clustered") -> World:
        """This world and n cities more, `Atlantis 001`..., region "Atlantis", at the end.

        "clustered": normal around longitude -35, latitude 35, standard deviation 3 degrees per axis, clipped
        to the globe. "scattered": uniform over the globe. Positions are a function of layout and seed, and a
        smaller Atlantis is the beginning of a larger one; ids are the next unused in the order of their draw.
        Source: arXiv 2602.00533, whose own draw was seeded by a randomised hash and cannot be repeated.
        ValueError: n < 1 or beyond the ids left, an unknown layout, a negative seed, a second Atlantis.
        """
        n, seed = _count("n", n, 1), _count("seed", seed, 0)
        if layout not in LAYOUTS:
            raise unknown_name("layout", layout, LAYOUTS)
        if ATLANTIS in self.region:
            raise ValueError("this world has an Atlantis already: add it once, with the n it should have")
        random = np.random.default_rng(seed)
        if layout == "clustered":
            drawn = random.normal(ATLANTIS_CENTRE, ATLANTIS_SPREAD, size=(n, 2))
            xy = np.clip(np.rint(drawn), *BOX).astype(np.int32)  # [n, 2]
        else:
            low, high = BOX
            xy = random.integers(low, high, size=(n, 2), endpoint=True, dtype=np.int32)  # [n, 2]
        return World(
            xy=np.concatenate([self.xy, xy]),
            city_id=np.concatenate([self.city_id, _unused_ids(n, self.city_id)]),
            name=np.concatenate([self.name, [f"{ATLANTIS} {i:03d}" for i in range(1, n + 1)]]),
            region=np.concatenate([self.region, [ATLANTIS] * n]),
            country=np.concatenate([self.country, [""] * n]),
            population=np.concatenate([self.population, np.zeros(n, dtype=np.int64)]),
        )

    def largest(self, n: int) -> World:
        """The world of its n most populous cities alone, in the order they stand here; ids are kept.

        Of cities with one population the earlier stay. ValueError: n < 1 or more than there are.
        """
        n = _count("n", n, 1)
        if n > len(self):
            raise ValueError(f"n: this world has {len(self):,} cities, the {n:,} largest were asked for")
        kept = np.sort(np.argsort(-self.population, kind="stable")[:n])
        return World(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})

    def select(self, which) -> np.ndarray:
        """The chosen cities as bool [N], from a bool mask [N] (checked) or an expression over the columns.

            world.select("region != 'Atlantis' and 0 < x <= 450")
            world.select("country in ['NA', 'ZA'] or not population / 1e6 >= 1")

        Columns: region, name, country, city_id, x, y (0.1 degree), population, index. An expression is made
        of these, numbers, strings, comparisons (chained too), `and`, `or`, `not`, `in` and `not in` a literal
        list, + - * / and unary minus; arithmetic is float64, division by zero as in IEEE 754.
        ValueError: anything else in an expression (it says what is allowed), an unknown column, a mask of a
        wrong shape. TypeError: neither a string nor a bool array.
        """
        if isinstance(which, str):
            return select(which, self._columns())
        mask = _array("mask", which)
        if mask.dtype != bool:
            raise TypeError(f"a selection is an expression or a bool mask [N], not {mask.dtype} values")
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


@dataclass(frozen=True)
class WorldSpec:
    """What a world is, in values that JSON keeps (`dataclasses.asdict`, and back with `WorldSpec(**fields)`).

    `source` is "cities" or the path of a CSV file (`*.csv`); `largest` leaves only so many of its cities, the
    most populous, 0 for all; `atlantis` is its number of cities, 0 for none; `layout` and `atlantis_seed` are the
    layout and seed of `with_atlantis`. ValueError, TypeError: those of `largest` and `with_atlantis`, and an
    unknown source.
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
        if source != "cities" and not source.endswith(".csv"):
            raise unknown_name("world source", source, ["cities", "*.csv"])
        if self.layout not in LAYOUTS:
            raise unknown_name("layout", self.layout, LAYOUTS)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "largest", _count("largest", self.largest, 0))
        object.__setattr__(self, "atlantis", _count("atlantis", self.atlantis, 0))
        object.__setattr__(self, "atlantis_seed", _count("atlantis_seed", self.atlantis_seed, 0))

    def build(self) -> World:
        """The world: the same object each time in one process, until its CSV file changes."""
        return _build(self, None if self.source == "cities" else os.stat(self.source).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _build(spec: WorldSpec, _changed: int | None) -> World:
    world = World.cities() if spec.source == "cities" else World.from_csv(spec.source)
    world = world.largest(spec.largest) if spec.largest else world
    return world.with_atlantis(spec.atlantis, spec.atlantis_seed, spec.layout) if spec.atlantis else world


def _unused_ids(n: int, used=()) -> np.ndarray:
    """The next n ids, int32 [n], in one fixed order of all ids, past those in use: one draw for world and
    Atlantis together, so that Atlantis has its ids before it exists. ValueError where too few are left.
    """
    order = np.random.default_rng(ID_SEED).permutation(ID_COUNT)
    free = order[~np.isin(order, used)]
    if n > len(free):
        raise ValueError(f"{n} cities need an id, but {len(free)} of the {ID_COUNT} four-digit ids are left")
    return free[:n].astype(np.int32)


# ---- checks: each returns what it checked and names the argument in its error ----


def _array(argument: str, values) -> np.ndarray:
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


def _one_per_city(argument: str, values, n: int) -> np.ndarray:
    array = _array(argument, values)
    if array.shape != (n,):
        raise ValueError(f"{argument} must have the shape [{n}], one per city, not {list(array.shape)}")
    return array


def _integers(argument: str, values, n: int, high: int) -> np.ndarray:
    array = _one_per_city(argument, values, n)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{argument} must hold integers, not {array.dtype}")
    return _in_range(argument, array, 0, high)


def _texts(argument: str, values, n: int) -> np.ndarray:
    array = _one_per_city(argument, values, n)
    if array.dtype.kind in "OT" and all(isinstance(text, str) for text in array):
        array = array.astype(str)
    if array.dtype.kind != "U":
        raise TypeError(f"{argument} must hold strings, not {array.dtype}")
    return array.copy()


def _count(argument: str, value, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be an integer, not {value!r}")
    count = int(value)
    if count < low:
        raise ValueError(f"{argument} must be at least {low}, not {count}")
    return count


# ---- CSV ----


def _whole(column: str, low: int, high: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}, not an integer") from None
    if not low <= value <= high:
        raise ValueError(f"{column} is {text}, outside {low}..{high}")
    return value


def _tenths(column: str, limit: int, text: str) -> int:
    """Degrees to 0.1 degree, half to even, decided on the decimal text: the float 0.15 is no half of 0.1."""
    try:
        degrees = Decimal(text)
        if -limit <= degrees <= limit:
            return int(10 * degrees.quantize(TENTH, ROUND_HALF_EVEN))
    except InvalidOperation:  # no number, or "nan"
        raise ValueError(f"{column} is {text!r}, not a number") from None
    raise ValueError(f"{column} is {text}, outside -{limit}..{limit} degrees (for other planes give x and y)")


TENTH = Decimal("0.1")
READERS: dict[str, Callable[[str], int | str]] = {
    "x": functools.partial(_whole, "x", -COORDINATE_LIMIT, COORDINATE_LIMIT),
    "y": functools.partial(_whole, "y", -COORDINATE_LIMIT, COORDINATE_LIMIT),
    "longitude": functools.partial(_tenths, "longitude", 180),
    "latitude": functools.partial(_tenths, "latitude", 90),
    "city_id": functools.partial(_whole, "city_id", 0, ID_COUNT - 1),
    "population": functools.partial(_whole, "population", 0, 2**63 - 1),
    "name": str,
    "region": str,
    "country": str,
}


def _read_csv(path: Path) -> tuple[dict[str, Any], int]:
    """The columns of `READERS` that the file has, and its number of cities."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = [column.strip() for column in next(lines, [])]
            _check_header(header)
            table: dict[str, list] = {column: [] for column in READERS if column in header}
            readers = [(header.index(column), READERS[column], table[column]) for column in table]
            line_of_id: dict[int, int] = {}
            n = 0
            for row in lines:
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} values, the header has {len(header)} columns")
                for place, read, values in readers:
                    values.append(read(row[place]))
                if "city_id" in table:
                    city_id = table["city_id"][-1]
                    if city_id in line_of_id:
                        raise ValueError(f"city_id {city_id} is taken by line {line_of_id[city_id]}")
                    line_of_id[city_id] = lines.line_num
                n += 1
                if n > ID_COUNT:
                    raise ValueError(f"more than {ID_COUNT} cities: ids have four digits")
            if not n:
                raise ValueError("no city below the header")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text: {error}") from None
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    return table, n


def _check_header(header: list[str]) -> None:
    if not header:
        raise ValueError("the file is empty, a header was expected")
    doubled = [column for column in READERS if header.count(column) > 1]
    if doubled:
        raise ValueError(f"column {doubled[0]} stands twice in the header")
    pairs = [pair for pair in (("x", "y"), ("longitude", "latitude")) if set(pair) <= set(header)]
    if len(pairs) != 1:
        raise ValueError(
            "one pair of columns is needed, x, y (integers, 0.1 degree) or longitude, latitude (degrees); "
            f"the header has {', '.join(header)}"
        )

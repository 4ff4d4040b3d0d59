"""CSV files of cities, as people have them: three separators, several names for a column, populations of floats."""

from __future__ import annotations

import csv
import difflib
import functools
import os
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from worldfast import files
from worldfast.display import count

COORDINATE_LIMIT = 1 << 20  # |x|, |y|: squares, cross products and their sums stay exact in 64-bit integers
ID_COUNT = 10_000  # ids are written with four digits
TENTH = Decimal("0.1")
SEPARATORS = ",;\t"
# other names of a column, used where it is not there, the first before the others
OTHER_NAMES = {
    "longitude": ("lon", "long", "lng", "longitude_deg"),
    "latitude": ("lat", "latitude_deg"),
    "name": ("asciiname", "city"),
    "country": ("country_code", "iso2"),
    "population": ("pop",),
}
PAIRS = (("x", "y"), ("longitude", "latitude"))


def read_csv(path: Path) -> tuple[dict[str, Any], int]:
    """Read the columns of `READERS` that a file has.

    Returns
    -------
    table : dict of str to list
        Values of each column, by its name in `READERS`, whatever its name is in the file.
    n : int
        Number of cities.

    Raises
    ------
    ValueError
        As from `World.from_csv`.
    """
    with (
        files.naming(path, "it cannot be read"),
        open(path, newline="", encoding="utf-8-sig", opener=files.followed) as file,
    ):
        try:
            separator = _separator(file.readline())
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from None
        except csv.Error as error:
            raise ValueError(f"{path}, line 1: {error}") from None
        file.seek(0)
        lines = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = next(lines, [])
            places = _places(header)
            table: dict[str, list] = {column: [] for column in places}
            line_of_id: dict[int, int] = {}
            n = 0
            for row in lines:
                if not row:
                    continue
                _read_row(row, header, places, table)
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
            raise _not_utf8(path, error) from None
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    return table, n


def no_file(argument: str, path: str | os.PathLike) -> FileNotFoundError:
    """Return the error for a file that is not there; a relative path is said with its folder."""
    where = "" if os.path.isabs(path) else f" in '{os.getcwd()}'"
    return FileNotFoundError(f"{argument}: there is no file '{os.fspath(path)}'{where}")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{path}: not UTF-8 text: {error}; save it as UTF-8")


# ---- header ----


def _separator(header: str) -> str:
    """The separator that makes the most columns of a header; csv.Sniffer would guess from letters that repeat."""
    return max(SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _places(header: list[str]) -> dict[str, int]:
    """Place of each column in a row, by its name in `READERS`."""
    if not any(header):
        raise ValueError("the file is empty, a header was expected")
    found = [column.strip().lower().replace(" ", "_") for column in header]
    places: dict[str, int] = {}
    for column in READERS:
        names = (column, *OTHER_NAMES.get(column, ()))
        for name in names:
            if found.count(name) > 1:
                raise ValueError(f"column {name} stands twice in the header")
        there = [name for name in names if name in found]
        if len(there) > 1 and any(column in pair for pair in PAIRS):
            raise ValueError(f"columns {' and '.join(there)} both say the {column}: keep one")
        if there:
            places[column] = found.index(there[0])
    if sum(set(pair) <= set(places) for pair in PAIRS) != 1:
        raise ValueError(
            "one pair of columns is needed, x, y (integers, 0.1 degree) or longitude, latitude (degrees; also called "
            f"lng, lat ...); {_nearest(found, places)}the header has {', '.join(map(str.strip, header))}"
        )
    return places


def _nearest(found: list[str], places: dict[str, int]) -> str:
    """Missing column of the pair that is begun, or else of degrees, and the columns nearest to it by name."""
    pair = max(reversed(PAIRS), key=lambda pair: sum(column in places for column in pair))
    others = [name for at, name in enumerate(found) if at not in places.values()]
    told = ""
    for column in (column for column in pair if column not in places):
        near = difflib.get_close_matches(column, others, n=1)
        told += f"{column} is missing" + (f", did you mean it by {near[0]!r}?; " if near else "; ")
    return told


# ---- values ----


def _read_row(row: list[str], header: list[str], places: dict[str, int], table: dict[str, list]) -> None:
    if len(row) != len(header):
        comma = "; is a ',' in a number or a text, without quotes?" if len(row) > len(header) else ""
        raise ValueError(f"{count(len(row), 'value')}, the header has {count(len(header), 'column')}{comma}")
    if not any(map(str.strip, row)):
        raise ValueError("every value is empty: remove the line")
    try:
        for column, at in places.items():
            table[column].append(READERS[column](row[at]))
    except ValueError as error:
        if column == "latitude" and _is_within(90, row[places["longitude"]]) and _is_within(180, row[at]):
            raise ValueError(f"{error}; are latitude and longitude swapped?") from None
        raise


def _number(column: str, kind: str, text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    if value.is_nan():
        raise ValueError(f"{column} is {text!r}, not {kind}{_advice(text)}")
    return value


def _advice(text: str) -> str:
    """Return how to write a number with separators of thousands or a decimal comma; "" for another text."""
    digits = re.sub(r"[,.'\s_]", "", text)
    parted = f"write {digits}, without separators of thousands"
    if re.fullmatch(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})\s*", text):  # a decimal comma as well
        return f": {parted}, or {text.strip().replace(',', '.')}, with a decimal point"
    if re.fullmatch(r"\s*[+-]?[1-9]\d{0,2}([,.'\s_])\d{3}(\1\d{3})*\s*", text):
        return f": {parted}"
    return f": write {text.replace(',', '.')}, with a decimal point" if _is_within(1e18, text, ",") else ""


def _is_within(limit: float, text: str, point: str = ".") -> bool:
    try:
        return text.count(point) <= 1 and abs(Decimal(text.replace(point, "."))) <= limit
    except InvalidOperation:
        return False


def _whole(column: str, low: int, high: int, text: str) -> int:
    """An integer, also as 37732000.0: so it is written where a column had gaps."""
    value = _number(column, "an integer", text)
    if not low <= value <= high:
        raise ValueError(f"{column} is {text}, outside {low}..{high}")
    if value != int(value):
        raise ValueError(f"{column} is {text!r}, not an integer")
    return int(value)


def _population(text: str) -> int:
    return _whole("population", 0, 2**63 - 1, text) if text.strip() else 0


def _tenths(column: str, limit: int, text: str) -> int:
    """Convert degrees to 0.1 degree, half to even, from the decimal text: the float 0.15 is not exactly half of 0.1."""
    degrees = _number(column, "a number", text)
    if -limit <= degrees <= limit:
        return int(10 * degrees.quantize(TENTH, ROUND_HALF_EVEN))
    raise ValueError(f"{column} is {text}, outside -{limit}..{limit} degrees (for other planes give x and y)")


READERS: dict[str, Callable[[str], int | str]] = {
    "x": functools.partial(_whole, "x", -COORDINATE_LIMIT, COORDINATE_LIMIT),
    "y": functools.partial(_whole, "y", -COORDINATE_LIMIT, COORDINATE_LIMIT),
    "longitude": functools.partial(_tenths, "longitude", 180),
    "latitude": functools.partial(_tenths, "latitude", 90),
    "city_id": functools.partial(_whole, "city_id", 0, ID_COUNT - 1),
    "population": _population,
    "name": str,
    "region": str,
    "country": str,
}

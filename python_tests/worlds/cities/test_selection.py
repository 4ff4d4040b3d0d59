"""The selection language: masks and expressions over a world's columns, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldfast.worlds.cities.selection import unknown_texts
from worldfast.worlds.cities.world import World

FIELDS = ("xy", "city_id", "name", "region", "country", "population")


@pytest.fixture(scope="module")
def world() -> World:
    return World.cities().with_atlantis()


def columns_of(world: World) -> dict[str, np.ndarray]:
    x, y = world.xy.astype(float).T
    rest = {field: getattr(world, field) for field in FIELDS[1:]}
    return rest | {"x": x, "y": y, "index": np.arange(len(world))}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("region != 'Atlantis'", lambda c: c["region"] != "Atlantis"),
        ('  region == "East Asia"\n', lambda c: c["region"] == "East Asia"),
        ("country == 'NA'", lambda c: c["country"] == "NA"),
        ("name >= 'M'", lambda c: c["name"] >= "M"),
        ("'Paris' == name", lambda c: c["name"] == "Paris"),
        ("0 < x <= 450", lambda c: (c["x"] > 0) & (c["x"] <= 450)),
        ("-10 <= x < y != 3 > 2", lambda c: (c["x"] >= -10) & (c["x"] < c["y"]) & (c["y"] != 3)),
        ("x == y or x == -y", lambda c: np.abs(c["x"]) == np.abs(c["y"])),
        ("not x > 0 and y > 0", lambda c: (c["x"] <= 0) & (c["y"] > 0)),
        ("x > 0 or x < -900 and y > 0", lambda c: (c["x"] > 0) | ((c["x"] < -900) & (c["y"] > 0))),
        ("x > 0 and y > 0 and city_id < 500", lambda c: (c["x"] > 0) & (c["y"] > 0) & (c["city_id"] < 500)),
        ("country in ['NA', 'ZA', 'CNN']", lambda c: np.isin(c["country"], ["NA", "ZA"])),
        ("country not in ('CN',)", lambda c: c["country"] != "CN"),
        ("x in {-1, 0, 1.0, 0.1, 2 * 3}", lambda c: np.isin(c["x"], [-1, 0, 1, 6])),
        ("x / 10 in [12.1]", lambda c: c["x"] == 121),
        ("0 < x in [5, 7, -5]", lambda c: np.isin(c["x"], [5, 7])),
        ("country in []", lambda c: np.zeros(len(c["x"]), bool)),
        ("x not in []", lambda c: np.ones(len(c["x"]), bool)),
        ("(x + 350) * (x + 350) + y * y < 2500", lambda c: np.hypot(c["x"] + 350, c["y"]) < 50),
        ("population / 1e6 > 1.5", lambda c: c["population"] > 1_500_000),
        ("x * 100000000 > 100000000000", lambda c: c["x"] > 1000),  # past 32 bits
        ("x * x * x * x * x * x * x >= 0", lambda c: c["x"] >= 0),  # past 64 bits
        ("-(x - 1) > --5", lambda c: c["x"] < -4),
        ("x / y > 1e9", lambda c: (c["y"] == 0) & (c["x"] > 0)),
        ("(x > 0) == (y > 0)", lambda c: (c["x"] > 0) == (c["y"] > 0)),
        ("index < 3", lambda c: c["index"] < 3),
    ],
)
def test_select_an_expression(world, expression, expected):
    chosen = world.select(expression)
    assert chosen.dtype == bool and chosen.shape == (len(world),)
    np.testing.assert_array_equal(chosen, expected(columns_of(world)))


numbers = st.sampled_from(["x", "y", "city_id"]) | st.integers(-5, 5).map(str)
signs, links = st.sampled_from("+-*"), st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
sums = st.recursive(numbers, lambda s: st.builds("({} {} {})".format, s, signs, s), max_leaves=5)
comparisons = st.builds("{} {} {}".format, sums, links, sums)
conditions = st.recursive(
    comparisons,
    lambda c: st.builds("({} {} {})".format, c, st.sampled_from(["and", "or"]), c) | c.map("not ({})".format),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=6), conditions)
def test_select_agrees_with_python_row_by_row(xy, condition):
    world = World.from_array(np.array(xy, np.int32), city_id=np.arange(len(xy)))
    if not any(column in condition for column in ("x", "y", "city_id")):
        with pytest.raises(ValueError, match="is no condition on"):
            world.select(condition)
        return
    expected = [eval(condition, {"x": x, "y": y, "city_id": i}) for i, (x, y) in enumerate(xy)]
    assert world.select(condition).tolist() == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("regoin == 'x'", "unknown column 'regoin': did you mean 'region'"),
        ("longitude > 3", "unknown column 'longitude'.*known: region, name, country, city_id, x, y"),
        ("abs(x) > 3", r"cannot hold 'abs\(x\)'; allowed are columns, numbers, strings"),
        ("__import__('os').system('true')", "cannot hold"),
        ("x.size > 3", "cannot hold 'x.size'"),
        ("x[0] > 3", r"cannot hold 'x\[0\]'"),
        ("x ** 2 > 3", r"cannot hold 'x \*\* 2'"),
        ("x % 2 == 0", "cannot hold 'x % 2'"),
        ("x // 2 == 0", "cannot hold"),
        ("(x > 0) & (y > 0)", "cannot hold"),
        ("~(x > 0)", "cannot hold"),
        ("+x > 0", r"cannot hold '\+x'"),
        ("x is 3", "cannot hold 'x is 3'"),
        ("x > 0 if y > 0 else y < 0", "cannot hold"),
        ("(lambda: x > 0)()", "cannot hold"),
        ("(z := x) > 0", "cannot hold"),
        ("f'{x}' == name", "cannot hold"),
        ("[x > 0]", r"cannot hold '\[x > 0\]'"),
        ("x > True", "cannot hold 'True'"),
        ("True", "cannot hold 'True'"),
        ("x == None", "cannot hold 'None'"),
        ("x > 1j", "cannot hold '1j'"),
        ("name == b'x'", "cannot hold"),
        ("x in y", "cannot hold 'x in y'"),
        ("'San' in name", "cannot hold"),
        ("region in 'Atlantis'", "cannot hold"),
        ("x in [y]", r"cannot hold 'x in \[y\]'"),
        ("x in ['1']", "\"'1'\" is a string, a number was expected"),
        ("name in ['a', 1]", "'1' is a number, a string was expected"),
        ("name < 3", "'3' is a number, a string was expected"),
        ("x == '3'", "is a string, a number was expected"),
        ("name + 'a' == 'b'", "'name' is a string, a number was expected"),
        ("-name == 'b'", "'name' is a string, a number was expected"),
        ("x + (y > 0) > 0", "'y > 0' is a condition, a number was expected"),
        ("not x", "'x' is a number, a condition was expected"),
        ("x and y > 0", "'x' is a number, a condition was expected"),
        ("x", "'x' is no condition on region, name"),
        ("1 < 2", "'1 < 2' is no condition on"),
        ("name", "is no condition on"),
        ("", "cannot read the selection ''"),
        ("x >", "cannot read the selection 'x >': invalid syntax"),
        ("x = 3", "cannot read"),
        ("import os", "cannot read"),
        ("x > 0; y > 0", "cannot read"),
        ("x > 0) or (y > 0", "cannot read"),
        ("x > 1" + "0" * 400, "cannot read.*too large"),
        ("x > " + "1" * 5_000, "cannot read"),
        ("(" * 5_000 + "x", "cannot read"),
        ("not " * 500 + "x > 0", "cannot read"),
        ("not " * 50_000 + "x > 0", "cannot read"),
        ("-" * 50_000 + "x > 0", "cannot read"),
        ("x > 0\0", "null bytes"),
    ],
)
def test_select_refuses_an_expression(world, expression, message):
    with pytest.raises(ValueError, match=message) as caught:
        world.select(expression)
    assert len(str(caught.value)) < 600


def test_select_checks_and_copies_a_mask(world):
    mask = world.xy[:, 0] > 0
    chosen = world.select(mask)
    np.testing.assert_array_equal(chosen, mask)
    chosen[:] = False
    assert mask.any()
    assert world.select(mask.tolist()).sum() == mask.sum()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones(5_174, bool), ValueError, r"mask must have the shape \[5175\], one per city, not \[5174\]"),
        (np.ones((5_175, 1), bool), ValueError, r"not \[5175, 1\]"),
        (True, ValueError, r"not \[\]"),
        (np.ones(5_175, int), TypeError, "an expression or a bool mask .* not int64 values"),
        (None, TypeError, "not None"),
        (len, TypeError, "not <built-in function len>"),
        ([[True], [True, False]], ValueError, "mask is not a rectangular array"),
    ],
)
def test_select_refuses_a_mask(world, mask, error, message):
    with pytest.raises(error, match=message):
        world.select(mask)


def test_a_text_that_no_row_has_is_named_with_the_nearest():
    columns = {"region": np.array(["Oceania", "East Asia", ""]), "name": np.array(["Perth", "Osaka", "Tokyo"])}
    for expression, said in {
        "region == 'Ocenia'": "; no region is 'Ocenia': did you mean 'Oceania'?",
        "not region != 'east asia'": "; no region is 'east asia': did you mean 'East Asia'?",
        "region == 'Atlantis' and x > 3": "; no region is 'Atlantis'",
        "'Perht' == name and region in ['Oceania', 'Asia']": "; no name is 'Perht': did you mean 'Perth'?; no region is 'Asia': did you mean 'East Asia'?",
        "region == 'Oceania' and name == 'Osaka'": "",
    }.items():
        assert unknown_texts(expression, columns) == said
    assert unknown_texts(np.zeros(3, bool), columns) == ""

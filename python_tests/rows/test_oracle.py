"""The oracle holds the core; here its two versions hold each other, and SciPy and known answers hold both."""

from fractions import Fraction

import numpy as np
import oracle
import pytest
from scipy.spatial import ConvexHull

REACHES = {"grid": 2, "small": 9, "cities": 1800, "extreme": 2**20}


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES.keys())
@pytest.mark.parametrize("task", oracle.TASKS)
def test_vectorised_labels_equal_exact_labels(task, reach):
    rng = np.random.default_rng(reach)
    fewest, most = oracle.ARITY[task]
    xy = rng.integers(-reach, reach, (300, most, 2), endpoint=True)
    count = rng.integers(fewest, most, 300, endpoint=True)
    exact = [oracle.exact_label(task, row[:k]) for row, k in zip(xy, count)]
    assert oracle.label(task, xy, count).tolist() == exact


def test_exact_inside_equals_qhull_in_general_position():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        xy = rng.integers(-1000, 1000, (6, 2))
        normals = ConvexHull(xy[1:]).equations  # [edges, 3]: inside where normal . x + offset <= 0
        found.append(bool((normals[:, :2] @ xy[0] + normals[:, 2] <= 0).all()))
        assert oracle.exact_label("inside", xy) == found[-1]
    assert 20 < sum(found) < 180


def test_exact_crossing_finds_the_point_where_segments_meet():
    rng = np.random.default_rng(1)
    found = []
    for a, b, c, d in rng.integers(-1000, 1000, (200, 4, 2)).tolist():
        u, v, w = (b[0] - a[0], b[1] - a[1]), (d[0] - c[0], d[1] - c[1]), (c[0] - a[0], c[1] - a[1])
        determinant = u[0] * v[1] - u[1] * v[0]
        assert determinant, "the fixed seed gives no parallel segments"
        along_ab = Fraction(w[0] * v[1] - w[1] * v[0], determinant)  # a + s u = c + t v
        along_cd = Fraction(w[0] * u[1] - w[1] * u[0], determinant)
        found.append(0 < along_ab < 1 and 0 < along_cd < 1)
        assert oracle.exact_label("crossing", (a, b, c, d)) == found[-1]
    assert 20 < sum(found) < 180


def test_half_degrees_are_on_the_unit_circle():
    for h, (sine, cosine) in enumerate(oracle._HALF_DEGREES):
        assert abs(sine**2 + cosine**2 - 1) < Fraction(1, 10**45)
        assert float(sine) == pytest.approx(np.sin(np.radians(h + 0.5)), abs=1e-15)
        assert float(cosine) == pytest.approx(np.cos(np.radians(h + 0.5)), abs=1e-15)


def test_near_ties_are_marked_and_only_they():
    values = np.array([0.5, 1.5 + 5e-10, 1.5 + 5e-9, 2.0, 2.49, 1e7 + 0.5])
    assert oracle.near_tie("perimeter", values).tolist() == [True, True, False, False, False, True]
    assert not oracle.near_tie("trianglearea", values).any()  # half-integers there are exact


def test_text_and_tokens_of_a_row():
    row = oracle.text("distance", [865, 4879], 769)
    assert row == "dist(c_0865,c_4879)=769"
    assert oracle.text("inside", [1, 2, 3, 4], 1) == "inside(c_0001;c_0002,c_0003,c_0004)=TRUE"
    assert oracle.text("crossing", [1, 2, 3, 4], 0) == "cross(c_0001,c_0002;c_0003,c_0004)=FALSE"
    assert len(oracle.token_ids(row)) == 25
    assert oracle.token_ids("c_0007,", {7: 3}) == [2, 101, oracle.TOKEN[","], 3]
    assert oracle.VOCABULARY == 98


@pytest.mark.parametrize("task", oracle.TASKS)
def test_answers_parse_back(task):
    for label in range(len(oracle.ANSWERS.get(task, range(1000)))):
        assert oracle.parse(task, oracle.answer(task, label)) == label
    for nonsense in ("", " ", "=", "5.0", "-", "TRUEE", "E ", "ne", "1e3", "<eos>"):
        assert oracle.parse(task, nonsense) is None

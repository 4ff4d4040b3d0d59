"""`wf.label` against the oracle: a million random rows a task, degenerate geometry, arrays of all layouts."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import worldfast as wf

LIMIT = 2**20
ROWS = 262_144  # a kind; four kinds make more than a million rows a task


@pytest.fixture(scope="module")
def cities():
    return wf.World.cities()


def rows_of(task, kind, n, world):
    """Random rows (xy int32 [n, k, 2], count int32 [n]) of a task.

    Kinds: real city coordinates; uniform over the plane; grids from 2 x 2 to 4 x 4, where every other row has
    coincident or collinear cities; corners and rims of the largest square, where products are largest.
    """
    rng = np.random.default_rng([oracle.TASKS.index(task), *kind.encode()])
    fewest, most = oracle.ARITY[task]
    shape = (n, most, 2)
    if kind == "cities":
        xy = world.xy[rng.integers(len(world), size=shape[:2])]
    elif kind == "uniform":
        xy = rng.integers(-LIMIT, LIMIT, shape, endpoint=True)
    elif kind == "grid":
        xy = rng.integers(0, rng.integers(1, 3, (n, 1, 1), endpoint=True), shape, endpoint=True)
    else:
        xy = rng.integers(-2, 2, shape, endpoint=True) + rng.choice([-LIMIT + 2, 0, LIMIT - 2], shape)
    count = rng.integers(fewest, most, n, endpoint=True)
    return xy.astype(np.int32), count.astype(np.int32)


# ---------------------------------------------------------------------------------------------- random rows


@pytest.mark.parametrize("kind", ["cities", "uniform", "grid", "extreme"])
@pytest.mark.parametrize("task", oracle.TASKS)
def test_labels_equal_the_oracle(task, kind, cities):
    xy, count = rows_of(task, kind, ROWS, cities)
    labels = wf.label(task, xy=xy, count=count)
    assert labels.dtype == np.int64 and labels.shape == (ROWS,)

    values = oracle.value(task, xy, count)
    ties = oracle.near_tie(task, values)
    wrong = np.flatnonzero((labels != np.rint(values)) & ~ties)
    assert wrong.size == 0, [(xy[i, : count[i]].tolist(), int(labels[i]), float(values[i])) for i in wrong[:3]]
    assert ties.sum() <= 3
    assert (np.abs(labels - values)[ties] < 0.5 + 1e-6).all()  # there, one of the two neighbours


@pytest.mark.parametrize("task", oracle.ANSWERS)
def test_random_rows_reach_every_answer(task, cities):
    for kind in ("cities", "uniform", "grid", "extreme"):
        xy, count = rows_of(task, kind, 20_000, cities)
        share = np.bincount(wf.label(task, xy=xy, count=count), minlength=len(oracle.ANSWERS[task])) / 20_000
        assert (share > 0.01).all()


@pytest.mark.parametrize("task", oracle.TASKS)
def test_labels_of_cities_are_labels_of_their_coordinates(task, cities):
    rng = np.random.default_rng(3)
    fewest, most = oracle.ARITY[task]
    chosen = np.argsort(rng.random((500, 40)), axis=1)[:, :most] * 100  # distinct within a row
    count = rng.integers(fewest, most, 500, endpoint=True)
    chosen = np.where(np.arange(most) < count[:, None], chosen, -1).astype(np.int32)
    assert_equal(wf.label(task, cities, chosen), oracle.label(task, cities.xy[chosen], count))


def assert_equal(got, expected):
    assert np.asarray(got).tolist() == np.asarray(expected).tolist()


# -------------------------------------------------------------------------------------------------- by hand


def label(task, *points):
    return int(wf.label(task, xy=np.array([points], np.int32))[0])


@pytest.mark.parametrize(
    "points, expected",
    [
        (((0, 0), (3, 4)), 5),
        (((0, 0), (1, 1)), 1),  # 1.41
        (((0, 0), (1, 2)), 2),  # 2.24
        (((2, 3), (3, 5)), 2),
        (((7, -7), (7, -7)), 0),
        (((-1800, -900), (1800, 900)), 4025),  # 4024.92
        (((-LIMIT, -LIMIT), (LIMIT, LIMIT)), 2965821),  # 2**21 * sqrt(2) = 2965820.8
        (((-LIMIT, 5), (LIMIT, 5)), 2097152),
    ],
)
def test_distance(points, expected):
    assert label("distance", *points) == label("distance", *points[::-1]) == expected


@pytest.mark.parametrize(
    "points, expected",
    [
        (((0, 0), (1, 0), (0, 1)), 0),  # 0.5 to even
        (((0, 0), (3, 0), (0, 1)), 2),  # 1.5
        (((0, 0), (5, 0), (0, 1)), 2),  # 2.5
        (((0, 0), (7, 0), (0, 1)), 4),  # 3.5
        (((0, 0), (9, 0), (0, 1)), 4),  # 4.5
        (((0, 0), (4, 0), (0, 3)), 6),
        (((0, 0), (1, 1), (2, 2)), 0),
        (((5, 5), (5, 5), (9, 2)), 0),
        (((-1800, -900), (1800, -900), (1800, 900)), 3240000),
        (((-LIMIT, -LIMIT), (LIMIT, -LIMIT), (LIMIT, LIMIT)), 2**41),
        (((-LIMIT, -LIMIT), (LIMIT, -LIMIT), (LIMIT - 1, LIMIT - 1)), 2**41 - 2**20),
        (((-LIMIT, -LIMIT), (LIMIT, 1 - LIMIT), (LIMIT - 1, LIMIT)), 2199022206976),  # 2199022206976.5 to even
        (((-LIMIT, -LIMIT), (LIMIT, 1 - LIMIT), (LIMIT - 3, LIMIT)), 2199022206978),  # 2199022206977.5 to even
    ],
)
def test_trianglearea(points, expected):
    a, b, c = points
    for order in ((a, b, c), (b, c, a), (c, b, a)):
        assert label("trianglearea", *order) == expected


@pytest.mark.parametrize(
    "points, expected",
    [
        (((1, 0), (0, 0), (0, 1)), 90),
        (((0, 0), (1, 0), (1, 1)), 90),  # at the second city, not at the first (45)
        (((1, 0), (0, 0), (1, 1)), 45),
        (((1, 0), (0, 0), (-1, 1)), 135),
        (((1, 0), (0, 0), (-7, 0)), 180),
        (((1, 3), (0, 0), (5, 15)), 0),
        (((1, 0), (0, 0), (2, 1)), 27),  # 26.57
        (((1, 0), (0, 0), (3, 1)), 18),  # 18.43
        (((1, 0), (0, 0), (-3, 1)), 162),  # 161.57
        (((1, 0), (0, 0), (1000, 9)), 1),  # 0.516
        (((1, 0), (0, 0), (1000, 8)), 0),  # 0.458
        (((4, 4), (4, 4), (9, 9)), 0),  # an arm without length
        (((9, 9), (4, 4), (4, 4)), 0),
        (((4, 4), (4, 4), (4, 4)), 0),
        (((9, 8), (4, 4), (9, 8)), 0),
        (((LIMIT, LIMIT), (-LIMIT, -LIMIT), (LIMIT, -LIMIT)), 45),
        (((LIMIT, LIMIT), (0, 0), (-LIMIT, -LIMIT)), 180),
        (((LIMIT, LIMIT), (0, 0), (LIMIT, LIMIT - 1)), 0),
    ],
)
def test_angle(points, expected):
    assert label("angle", *points) == label("angle", *points[::-1]) == expected


@pytest.mark.parametrize(
    "direction, expected",
    [
        ((1, 0), "E"),
        ((1, 1), "NE"),
        ((0, 1), "N"),
        ((-1, 1), "NW"),
        ((-1, 0), "W"),
        ((-1, -1), "SW"),
        ((0, -1), "S"),
        ((1, -1), "SE"),
        ((5, 2), "E"),
        ((12, 5), "NE"),  # 21.80 and 22.62 degrees about 22.5
        ((5, 12), "NE"),
        ((2, 5), "N"),  # 67.38 and 68.20 about 67.5
        ((-2, 5), "N"),
        ((-5, 12), "NW"),
        ((-12, 5), "NW"),
        ((-5, 2), "W"),
        ((-5, -2), "W"),
        ((-12, -5), "SW"),
        ((-5, -12), "SW"),
        ((-2, -5), "S"),
        ((2, -5), "S"),
        ((5, -12), "SE"),
        ((12, -5), "SE"),
        ((5, -2), "E"),
        ((0, 0), "N"),
        # Pell numbers, the convergents of sqrt(2) + 1: no direction comes closer to a boundary, on either side.
        ((1136689, 470832), "E"),
        ((470832, 195025), "NE"),
        ((470832, 1136689), "N"),
        ((195025, 470832), "NE"),
        ((2**21, 0), "E"),
        ((-(2**21), -(2**21)), "SW"),
    ],
)
def test_compass(direction, expected):
    dx, dy = direction
    start = (-(dx // 2), -(dy // 2))
    end = (start[0] + dx, start[1] + dy)
    assert wf.TASKS["compass"].answers[label("compass", start, end)] == expected


TRIANGLE = ((0, 0), (4, 0), (0, 4))


@pytest.mark.parametrize(
    "target, hull, expected",
    [
        ((1, 1), TRIANGLE, 1),
        ((1, 1), TRIANGLE[::-1], 1),
        ((3, 3), TRIANGLE, 0),
        ((-1, 0), TRIANGLE, 0),  # on the line of an edge, beyond it
        ((5, 0), TRIANGLE, 0),
        ((2, 0), TRIANGLE, 1),  # on edges
        ((2, 2), TRIANGLE, 1),
        ((0, 0), TRIANGLE, 1),  # on vertices
        ((0, 4), TRIANGLE, 1),
        ((1, 1), ((0, 0), (2, 2), (4, 4)), 0),  # a flat hull holds nothing, its points neither
        ((2, 2), ((0, 0), (2, 2), (4, 4)), 0),
        ((1, 1), ((0, 0), (2, 2), (2, 2)), 0),
        ((3, 3), ((3, 3), (3, 3), (3, 3)), 0),
        ((1, 0), ((0, 0), (2, 0), (3, 0), (4, 0), (1, 0)), 0),
        ((1, 1), ((0, 0), (0, 0), (4, 0), (0, 4)), 1),  # coincident corners
        ((1, 1), ((0, 0), (4, 0), (4, 0), (0, 4), (0, 4)), 1),
        ((3, 3), ((0, 0), (4, 0), (4, 0), (0, 4), (0, 4)), 0),
        ((3, 0), ((0, 0), (2, 0), (4, 0), (0, 4)), 1),  # on an edge with a third point on it
        ((2, 2), ((0, 0), (4, 0), (4, 4), (0, 4)), 1),  # where the diagonals cross
        ((2, 2), ((4, 4), (0, 0), (0, 4), (4, 0)), 1),  # any order of the points
        ((2, 0), ((0, 0), (4, 0), (2, 1), (2, 5)), 1),  # a point of the hull's list inside the hull
        ((2, 1), ((0, 0), (4, 0), (2, 1), (2, 5)), 1),
        ((0, 3), ((0, 4), (4, 1), (2, -3), (-2, -3), (-4, 1)), 1),
        ((3, 3), ((0, 4), (4, 1), (2, -3), (-2, -3), (-4, 1)), 0),
        ((0, 0), ((-LIMIT, -LIMIT), (LIMIT, LIMIT), (LIMIT, LIMIT - 1)), 1),  # on the long edge of a sliver
        ((1, 0), ((-LIMIT, -LIMIT), (LIMIT, LIMIT), (LIMIT, LIMIT - 1)), 0),
        ((0, 1), ((-LIMIT, -LIMIT), (LIMIT, LIMIT), (LIMIT, LIMIT - 1)), 0),
    ],
)
def test_inside(target, hull, expected):
    assert oracle.exact_label("inside", (target, *hull)) == expected
    assert label("inside", target, *hull) == expected


@pytest.mark.parametrize(
    "points, expected",
    [
        (((0, 0), (3, 4)), 5),  # the single distance, not there and back
        (((0, 0), (1, 1)), 1),
        (((5, 5), (5, 5)), 0),
        (((0, 0), (3, 0), (3, 4)), 12),
        (((0, 0), (3, 0), (7, 0)), 14),  # on a line: there and back
        (((0, 0), (3, 0), (3, 0)), 6),
        (((0, 0), (2, 0), (2, 2), (0, 2)), 8),
        (((0, 0), (2, 2), (2, 0), (0, 2)), 10),  # in the given order: 4 + 4 sqrt(2) = 9.66
        (((0, 0), (4, 3), (8, 0), (8, -5), (0, -5)), 28),  # 5 + 5 + 5 + 8 + 5
        (((1, 1), (1, 1), (1, 1), (1, 1), (1, 1)), 0),
        (((-LIMIT, -LIMIT), (LIMIT, -LIMIT), (LIMIT, LIMIT), (-LIMIT, LIMIT)), 2**23),
    ],
)
def test_perimeter(points, expected):
    assert label("perimeter", *points) == label("perimeter", *points[::-1]) == expected


@pytest.mark.parametrize(
    "points, expected",
    [
        (((0, 0), (2, 2), (0, 2), (2, 0)), 1),
        (((0, 0), (2, 2), (2, 0), (0, 2)), 1),
        (((0, 0), (2, 0), (0, 1), (2, 1)), 0),  # parallel
        (((0, 0), (1, 1), (5, 0), (0, 5)), 0),  # the line of ab crosses cd, ab does not
        (((0, 0), (4, 0), (2, 0), (2, 3)), 1),  # c on ab, d to its left: counted
        (((0, 0), (4, 0), (2, 0), (2, -3)), 0),  # d to its right: not counted, as published
        (((0, 0), (2, 0), (0, 0), (0, 2)), 0),  # a shared end
        (((0, 0), (2, 0), (2, 0), (2, 2)), 1),
        (((0, 0), (2, 0), (2, 0), (2, -2)), 0),
        (((0, 0), (4, 0), (1, 0), (3, 0)), 0),  # overlapping on one line
        (((0, 0), (4, 0), (0, 0), (4, 0)), 0),
        (((1, 1), (1, 1), (0, 0), (2, 2)), 0),  # segments without length
        (((1, 1), (1, 1), (1, 1), (1, 1)), 0),
        (((-LIMIT, -LIMIT), (LIMIT, LIMIT), (-LIMIT, LIMIT), (LIMIT, -LIMIT)), 1),
        (((-LIMIT, -LIMIT), (LIMIT, LIMIT), (-LIMIT, -LIMIT + 1), (LIMIT, LIMIT - 1)), 1),
        (((-LIMIT, -LIMIT), (LIMIT, LIMIT), (1 - LIMIT, -LIMIT), (LIMIT, LIMIT - 1)), 0),
    ],
)
def test_crossing(points, expected):
    assert label("crossing", *points) == expected


# -------------------------------------------------------------------------------------------- by hypothesis

near_zero, on_the_rim = st.integers(0, 3), st.sampled_from([-LIMIT, 1 - LIMIT, -1, 0, 1, LIMIT - 1, LIMIT])
points = st.one_of(
    st.tuples(near_zero, near_zero),
    st.tuples(on_the_rim, on_the_rim),
    st.tuples(st.integers(-LIMIT, LIMIT), st.integers(-LIMIT, LIMIT)),
    st.integers(-1000, 1000).map(lambda t: (3 * t, 2 * t)),  # on one line
)


@pytest.mark.parametrize("task", oracle.TASKS)
def test_any_row_has_its_exact_label(task):
    fewest, most = oracle.ARITY[task]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.lists(points, min_size=fewest, max_size=most))
    def holds(row):
        assert label(task, *row) == oracle.exact_label(task, row)

    holds()


# ------------------------------------------------------------------------------------- arrays of every kind


@pytest.mark.parametrize("task", oracle.TASKS)
def test_any_strides_give_the_same_labels(task, cities):
    xy, count = rows_of(task, "cities", 1001, cities)
    expected = oracle.label(task, xy, count)
    wide = np.zeros((3 * 1001, xy.shape[1] + 2, 4), np.int32)
    wide[::3, 1:-1, 1:3] = xy
    spaced = np.zeros((1001, 2), np.int32)
    spaced[:, 1] = count
    for form in (
        np.asfortranarray(xy),
        np.ascontiguousarray(xy.transpose(1, 2, 0)).transpose(2, 0, 1),
        np.ascontiguousarray(xy.transpose(2, 1, 0)).transpose(2, 1, 0),
        np.ascontiguousarray(xy[::-1])[::-1],
        wide[::3, 1:-1, 1:3],
    ):
        assert_equal(wf.label(task, xy=form, count=spaced[:, 1]), expected)
    assert_equal(wf.label(task, xy=xy[1::2], count=count[1::2]), expected[1::2])
    assert_equal(wf.label(task, xy=xy[:1], count=count[:1]), expected[:1])


def test_cities_of_any_strides(cities):
    chosen = np.random.default_rng(5).permutation(len(cities))[:3000].astype(np.int32).reshape(1000, 3)
    expected = oracle.label("angle", cities.xy[chosen])
    for form in (chosen, np.asfortranarray(chosen), np.repeat(chosen, 2, axis=1)[:, ::2]):
        assert_equal(wf.label("angle", cities, form), expected)
    assert_equal(wf.label("angle", cities, chosen[:, ::-1]), expected)  # the arms change places
    assert_equal(wf.label("angle", cities, chosen[::-1]), expected[::-1])


def test_a_row_that_is_repeated_by_stride_zero():
    xy = np.broadcast_to(np.array([[0, 0], [3, 4]], np.int32), (7, 2, 2))
    assert_equal(wf.label("distance", xy=xy), [5] * 7)


@pytest.mark.parametrize("task", oracle.TASKS)
def test_torch_in_torch_out(task, cities):
    xy, count = rows_of(task, "cities", 501, cities)
    expected = oracle.label(task, xy, count)
    flipped = torch.from_numpy(np.ascontiguousarray(xy.transpose(2, 1, 0))).permute(2, 1, 0)
    for tensor in (torch.from_numpy(xy), flipped):
        labels = wf.label(task, xy=tensor, count=torch.from_numpy(count))
        assert isinstance(labels, torch.Tensor) and labels.dtype == torch.int64
        assert_equal(labels, expected)
    assert isinstance(wf.label(task, xy=xy, count=count), np.ndarray)


def test_torch_cities_and_torch_out(cities):
    chosen = torch.arange(3000, dtype=torch.int32).reshape(1000, 3)
    out = torch.full((1000,), -1, dtype=torch.int64)
    result = wf.label("trianglearea", cities, chosen, out=out)
    assert result.data_ptr() == out.data_ptr()
    assert_equal(out, oracle.label("trianglearea", cities.xy[chosen.numpy()]))


@pytest.mark.parametrize("task", oracle.TASKS)
def test_out_is_filled_and_returned(task, cities):
    xy, count = rows_of(task, "cities", 700, cities)
    memory = np.full(702, -7, np.int64)
    result = wf.label(task, xy=xy, count=count, out=memory[1:-1])
    assert np.shares_memory(result, memory)
    assert_equal(result, oracle.label(task, xy, count))
    assert_equal(memory[1:-1], result)
    assert memory[0] == memory[-1] == -7  # not a byte beyond it


@pytest.mark.parametrize("task", oracle.TASKS)
def test_no_rows_no_labels(task, cities):
    most = oracle.ARITY[task][1]
    for labels in (
        wf.label(task, xy=np.zeros((0, most, 2), np.int32)),
        wf.label(task, xy=np.zeros((0, most, 2), np.int32), count=np.zeros(0, np.int32)),
        wf.label(task, cities, np.zeros((0, most), np.int32)),
    ):
        assert labels.shape == (0,) and labels.dtype == np.int64


@pytest.mark.parametrize("task", ["inside", "perimeter"])
def test_without_count_every_column_is_used(task, cities):
    xy, _ = rows_of(task, "cities", 300, cities)
    for k in range(oracle.ARITY[task][0], oracle.ARITY[task][1] + 1):
        assert_equal(wf.label(task, xy=xy[:, :k]), oracle.label(task, xy[:, :k]))


@pytest.mark.parametrize("task", oracle.TASKS)
def test_threads_change_nothing_and_inputs_stay(task, cities):
    xy, count = rows_of(task, "cities", 20_011, cities)
    before = xy.copy(), count.copy()
    expected = wf.label(task, xy=xy, count=count, threads=1)
    for threads in (0, 2, 3, 8):
        assert_equal(wf.label(task, xy=xy, count=count, threads=threads), expected)
    assert (xy == before[0]).all() and (count == before[1]).all()

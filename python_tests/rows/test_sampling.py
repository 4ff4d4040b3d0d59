"""`wf.sample`: row i is a function of world, task, seed, split and i, distributed as it should be."""

import dataclasses
import itertools
from collections import Counter
from math import comb

import numpy as np
import oracle
import pytest
import torch
from scipy import stats

import worldfast as wf
from worldfast.worlds.cities import Stream

PAIRED = ("distance", "compass")  # never repeat an unordered pair
FREE = ("trianglearea", "angle", "perimeter")  # cities drawn at will, no answer to balance
SPLITS = ("train", "validation", "test")
ATLANTIS = {"must_include": "region == 'Atlantis'"}
LEAST_P = 1e-4  # seeds are fixed: a test that fails fails for a reason


@pytest.fixture(scope="module")
def cities():
    return wf.World.cities()


@pytest.fixture(scope="module")
def atlantis(cities):
    return cities.with_atlantis(n=100, seed=42)


def small_world(n, seed=0):
    return wf.World.from_array(np.random.default_rng(seed).integers(-200, 200, (n, 2)).astype(np.int32))


def counts_of(batch):
    return (batch.cities >= 0).sum(1)


def assert_same_rows(batch, other):
    """Equal in everything but how far the rectangle of tokens is padded."""
    for field in ("length", "answer_start", "label", "task"):
        assert np.array_equal(getattr(batch, field), getattr(other, field)), field
    for field, filler in (("cities", -1), ("tokens", 0)):
        a, b = getattr(batch, field), getattr(other, field)
        width = min(a.shape[1], b.shape[1])
        assert np.array_equal(a[:, :width], b[:, :width]), field
        assert (a[:, width:] == filler).all() and (b[:, width:] == filler).all(), field


class Part:
    """Some rows of a batch, or rows of several batches one after the other."""

    def __init__(self, *batches, rows=slice(None)):
        for field in ("length", "answer_start", "label", "task"):
            setattr(self, field, np.concatenate([getattr(b, field) for b in batches])[rows])
        for field, filler in (("cities", -1), ("tokens", 0)):
            arrays = [getattr(b, field) for b in batches]
            width = max(a.shape[1] for a in arrays)
            wide = [np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=filler) for a in arrays]
            setattr(self, field, np.concatenate(wide)[rows])


def is_uniform(observed, expected=None):
    return stats.chisquare(observed, expected).pvalue > LEAST_P


def is_half(trues, n):
    return stats.binomtest(int(trues), n).pvalue > LEAST_P


# --------------------------------------------------------------------------------- row i is a function of i


@pytest.mark.parametrize("task", oracle.TASKS)
def test_rows_do_not_depend_on_batch_start_order_or_threads(task, cities):
    whole = wf.sample(cities, task, n=700, seed=7, threads=1)
    starts = [500, 0, 1, 699, 300]
    for start, n in zip(starts, [200, 1, 299, 1, 200]):
        part = wf.sample(cities, task, n=n, seed=7, start=start)
        assert_same_rows(part, Part(whole, rows=slice(start, start + n)))
    for threads in (0, 2, 3, 16):
        assert_same_rows(wf.sample(cities, task, n=700, seed=7, threads=threads), whole)


def test_rows_far_into_the_stream(cities):
    far = 2**40
    rows = wf.sample(cities, "angle", n=20, start=far)
    assert_same_rows(wf.sample(cities, "angle", n=5, start=far + 7), Part(rows, rows=slice(7, 12)))
    assert not np.array_equal(rows.cities, wf.sample(cities, "angle", n=20).cities)


@pytest.mark.parametrize(
    "options",
    [
        {"among": "region != 'Atlantis'"},
        ATLANTIS,
        {"split": "test"},
        {"crossing": "reshuffled"},
        {"vocabulary": "entity"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_keep_rows_independent_of_the_batch(options, atlantis):
    for task in oracle.TASKS:
        whole = wf.sample(atlantis, task, n=60, seed=3, threads=1, **options)
        parts = [wf.sample(atlantis, task, n=20, seed=3, start=i, threads=2, **options) for i in (0, 20, 40)]
        assert_same_rows(Part(*parts), whole)


@pytest.mark.parametrize("tasks", [oracle.TASKS, ("crossing", "distance"), ("angle",), ["inside", "angle"]])
def test_several_tasks_take_turns(tasks, cities):
    n = 100
    mixed = wf.sample(cities, tasks, n=n, seed=5)
    turns = len(tasks)
    for turn, task in enumerate(tasks):
        own = np.arange(n) % turns == turn
        alone = wf.sample(cities, task, n=int(own.sum()), seed=5)
        assert_same_rows(Part(mixed, rows=own), alone)
        assert (mixed.task[own] == oracle.TASKS.index(task)).all()
    later = wf.sample(cities, tasks, n=41, seed=5, start=33)
    assert_same_rows(later, Part(mixed, rows=slice(33, 74)))


def test_the_same_call_gives_the_same_rows_and_another_seed_others(cities):
    for task in oracle.TASKS:
        first = wf.sample(cities, task, n=200, seed=1)
        assert_same_rows(first, wf.sample(cities, task, n=200, seed=1))
        assert (first.cities != wf.sample(cities, task, n=200, seed=2).cities).any(1).mean() > 0.98
    by_default = wf.sample(cities, "angle", n=50)
    assert_same_rows(by_default, wf.sample(cities, "angle", n=50, seed=42, start=0, split="train"))


def test_tasks_draw_independently(cities):
    drawn = {task: wf.sample(cities, task, n=400).cities[:, :2] for task in oracle.TASKS}
    for one, other in itertools.combinations(oracle.TASKS, 2):
        assert (np.sort(drawn[one]) == np.sort(drawn[other])).all(1).sum() <= 1, (one, other)


def test_splits_draw_independently(cities):
    for task in oracle.TASKS:
        drawn = [wf.sample(cities, task, n=10_000, split=split).cities for split in SPLITS]
        rows = [set(map(bytes, np.ascontiguousarray(rows))) for rows in drawn]
        for one, other in itertools.combinations(rows, 2):
            # of 2,500 perimeters of two cities in each, a quarter of one is expected to be in both by chance
            assert len(one & other) <= (3 if task == "perimeter" else 0), task


# ----------------------------------------------------------------------------------------- what a row holds


@pytest.mark.parametrize("task", oracle.TASKS)
def test_batch_fields(task, atlantis):
    n = 5000
    batch = wf.sample(atlantis, task, n=n)
    fewest, most = oracle.ARITY[task]
    counts = counts_of(batch)
    assert batch.tokens.dtype == np.uint8 and batch.tokens.shape[0] == n
    assert batch.length.dtype == batch.answer_start.dtype == batch.cities.dtype == np.int32
    assert batch.label.dtype == np.int64 and batch.task.dtype == np.uint8
    assert batch.cities.shape == (n, most)
    assert batch.length.shape == batch.answer_start.shape == batch.label.shape == batch.task.shape == (n,)
    assert (batch.task == oracle.TASKS.index(task)).all()
    assert counts.min() == fewest and counts.max() == most
    unused = np.arange(most) >= counts[:, None]
    assert ((batch.cities == -1) == unused).all()
    assert batch.cities.max() < len(atlantis)


@pytest.mark.parametrize("options", [{}, ATLANTIS, {"crossing": "reshuffled"}])
@pytest.mark.parametrize("task", oracle.TASKS)
def test_labels_equal_the_oracle_and_cities_are_distinct(task, options, atlantis):
    batch = wf.sample(atlantis, task, n=20_000, seed=11, **options)
    xy = atlantis.xy[batch.cities]
    values = oracle.value(task, xy, counts_of(batch))
    assert ((batch.label == np.rint(values)) | oracle.near_tie(task, values)).all()
    distinct = np.sort(batch.cities, axis=1)
    assert (np.diff(distinct)[distinct[:, 1:] >= 0] > 0).all()


def test_no_rows(cities):
    for task in (*oracle.TASKS, oracle.TASKS):
        batch = wf.sample(cities, task, n=0)
        assert batch.tokens.shape[0] == batch.cities.shape[0] == 0
        for field in ("length", "answer_start", "label", "task"):
            assert getattr(batch, field).shape == (0,)


def test_the_smallest_world_of_each_task():
    for task in oracle.TASKS:
        n = oracle.ARITY[task][1]
        batch = wf.sample(small_world(n, seed=1), task, n=1)
        used = np.sort(batch.cities[0][batch.cities[0] >= 0])
        assert np.array_equal(used, np.unique(used)) and used.max() < n


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("vocabulary", ["character", "entity"])
def test_rows_into_arrays_that_are_there(vocabulary, kind, cities):
    tasks = ["inside", "distance"]
    first = wf.sample(cities, tasks, n=300, vocabulary=vocabulary)
    fields = [field.name for field in dataclasses.fields(wf.Batch) if field.name not in ("vocabulary", "tasks")]
    out = dataclasses.replace(first, **{name: kind(getattr(first, name)) for name in fields})
    got = wf.sample(cities, tasks, n=300, start=300, vocabulary=vocabulary, out=out)
    for name in fields:
        assert getattr(got, name) is getattr(out, name), name
    as_numpy = dataclasses.replace(got, **{name: np.asarray(getattr(got, name)) for name in fields})
    assert_same_rows(as_numpy, wf.sample(cities, tasks, n=300, start=300, vocabulary=vocabulary))
    assert got.text(1) == wf.sample(cities, tasks, n=1, start=301, vocabulary=vocabulary).text(0)


# --------------------------------------------------------------------------------------------- distribution


@pytest.mark.parametrize("task", FREE)
def test_cities_are_uniform_in_every_place(task):
    n, size = 60_000, 50
    batch = wf.sample(small_world(size), task, n=n)
    for place in batch.cities.T:
        assert is_uniform(np.bincount(place[place >= 0], minlength=size))


@pytest.mark.parametrize("task", FREE)
def test_pairs_of_places_are_uniform(task):
    size = 12
    batch = wf.sample(small_world(size), task, n=60_000)
    first, second = batch.cities[:, :2].T
    table = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    assert (np.diag(table) == 0).all()
    assert is_uniform(table[~np.eye(size, dtype=bool)])


def test_consecutive_rows_are_independent():
    size = 12
    for task in FREE:
        first = wf.sample(small_world(size), task, n=40_001).cities[:, 0]
        assert is_uniform(np.bincount(first[:-1] * size + first[1:], minlength=size * size))


@pytest.mark.parametrize("task", PAIRED)
def test_cities_of_pairs_are_uniform_over_the_real_world(task, cities):
    batch = wf.sample(cities, task, n=200_000)
    assert is_uniform(np.bincount(batch.cities.ravel(), minlength=len(cities)))
    assert is_half((batch.cities[:, 0] < batch.cities[:, 1]).sum(), 200_000)


@pytest.mark.parametrize("task, extra", [("inside", 1), ("perimeter", 0)])
@pytest.mark.parametrize("options", [{}, ATLANTIS], ids=["plain", "group"])
def test_number_of_cities_is_uniform(task, extra, options, atlantis):
    counts = counts_of(wf.sample(atlantis, task, n=30_000, **options))
    fewest, most = oracle.ARITY[task]
    assert fewest == counts.min() and most == counts.max()
    assert is_uniform(np.bincount(counts - fewest))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", ["inside", "crossing"])
def test_half_the_rows_are_true(task, split, atlantis):
    for options in ({}, ATLANTIS, {"among": "region == 'Atlantis'"}):
        batch = wf.sample(atlantis, task, n=20_000, split=split, **options)
        assert is_half(batch.label.sum(), 20_000), options


def test_which_rows_are_true_is_random_and_of_each_task_its_own(cities):
    inside, crossing = (wf.sample(cities, task, n=20_000).label for task in ("inside", "crossing"))
    for labels in (inside, crossing):
        assert is_half((labels[1:] != labels[:-1]).sum(), 19_999)
    assert is_half((inside != crossing).sum(), 20_000)


def test_of_the_true_rows_every_number_of_cities_is_there_as_often(cities):
    batch = wf.sample(cities, "inside", n=40_000)
    for label in (0, 1):  # a rejected row is drawn again with as many cities, else large hulls would win
        assert is_uniform(np.bincount(counts_of(batch)[batch.label == label] - 4))


def test_reshuffled_crossing(cities):
    """Four cities in convex position cross in one of three pairings, the others in none."""
    n = 40_000
    balanced = wf.sample(cities, "crossing", n=n)
    shuffled = wf.sample(cities, "crossing", n=n, crossing="reshuffled")
    a, b, c, d = cities.xy[balanced.cities].transpose(1, 0, 2)
    pairings = [(a, b, c, d), (a, c, b, d), (a, d, b, c)]
    convex = np.any([oracle.label("crossing", np.stack(pairing, 1)) == 1 for pairing in pairings], axis=0)
    expected = convex.mean() / 3
    assert abs(expected - 0.26) < 0.02
    assert abs(shuffled.label.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 0.003
    assert not np.array_equal(balanced.cities, shuffled.cities)
    for task in ("inside", "distance"):  # nothing else changes
        assert_same_rows(wf.sample(cities, task, n=50, crossing="reshuffled"), wf.sample(cities, task, n=50))


# ----------------------------------------------------------------------------------------- pairs and splits


def shares(pairs):
    tenth = pairs // 10
    return {"train": pairs - 2 * tenth, "validation": tenth, "test": tenth}


def pairs_of(batch):
    return [tuple(sorted(pair)) for pair in batch.cities.tolist()]


@pytest.mark.parametrize("size", [2, 3, 5, 17, 45])
@pytest.mark.parametrize("task", PAIRED)
def test_splits_share_out_all_pairs_once(task, size):
    world, share = small_world(size), shares(comb(size, 2))
    seen = Counter()
    for split in SPLITS:
        batch = wf.sample(world, task, n=share[split], split=split, seed=9)
        seen.update(pairs_of(batch))
        with pytest.raises(ValueError, match=rf"(?s)(?=.*{task})(?=.*\b{share[split]}\b)"):
            wf.sample(world, task, n=share[split] + 1, split=split, seed=9)
        with pytest.raises(ValueError, match=task):
            wf.sample(world, task, n=1, start=share[split], split=split, seed=9)
    assert seen == Counter({pair: 1 for pair in itertools.combinations(range(size), 2)})


@pytest.mark.parametrize("task", PAIRED)
def test_splits_of_a_group_share_out_its_pairs_once(task):
    size, group, world = 30, np.arange(30) % 10 == 3, small_world(30)
    holds = [pair for pair in itertools.combinations(range(size), 2) if group[list(pair)].any()]
    share, seen = shares(len(holds)), Counter()
    for split in SPLITS:
        seen.update(pairs_of(wf.sample(world, task, n=share[split], split=split, must_include=group)))
        with pytest.raises(ValueError, match=task):
            wf.sample(world, task, n=share[split] + 1, split=split, must_include=group)
    assert seen == Counter({pair: 1 for pair in holds})


@pytest.mark.parametrize("task", PAIRED)
def test_splits_of_some_cities_share_out_their_pairs_once(task):
    among = np.arange(30) % 3 > 0
    share, seen = shares(comb(20, 2)), Counter()
    for split in SPLITS:
        seen.update(pairs_of(wf.sample(small_world(30), task, n=share[split], split=split, among=among)))
    assert seen == Counter({pair: 1 for pair in itertools.combinations(np.flatnonzero(among).tolist(), 2)})


def test_the_first_pairs_of_a_split_are_uniform_over_seeds():
    """Keyed order: over many seeds each pair comes first, and stands in each split, as often as any other."""
    size = 6
    index = {pair: i for i, pair in enumerate(itertools.combinations(range(size), 2))}
    world = small_world(size)
    for split in ("train", "test"):
        batches = (wf.sample(world, "distance", n=1, seed=seed, split=split) for seed in range(3000))
        assert is_uniform(np.bincount([index[pairs_of(batch)[0]] for batch in batches], minlength=15))


def test_a_million_real_pairs_without_repetition(cities):
    drawn = [
        wf.sample(cities, "distance", n=n, split=split).cities
        for split, n in (("train", 1_000_000), ("validation", 128), ("test", 10_000))
    ]
    low, high = np.sort(np.concatenate(drawn).astype(np.int64), axis=1).T
    assert np.unique(low * len(cities) + high).size == 1_010_128


# -------------------------------------------------------------------------------------- among, must_include


@pytest.mark.parametrize("task", oracle.TASKS)
def test_among_keeps_to_its_cities(task, atlantis):
    mask = atlantis.select("region != 'Atlantis'")
    batch = wf.sample(atlantis, task, n=3000, among=mask)
    assert mask[batch.cities[batch.cities >= 0]].all()
    assert_same_rows(batch, wf.sample(atlantis, task, n=3000, among="region != 'Atlantis'"))
    everything = wf.sample(atlantis, task, n=100, among=np.ones(len(atlantis), bool))
    assert_same_rows(everything, wf.sample(atlantis, task, n=100))


@pytest.mark.parametrize("task", FREE)
def test_among_is_uniform(task):
    among = np.arange(40) % 4 == 1
    batch = wf.sample(small_world(40), task, n=20_000, among=among)
    observed = np.bincount(batch.cities[batch.cities >= 0], minlength=40)
    assert (observed[~among] == 0).all() and is_uniform(observed[among])


@pytest.mark.parametrize("task", oracle.TASKS)
def test_every_row_holds_one_of_the_group(task, atlantis):
    group = atlantis.select("region == 'Atlantis'")
    for split in SPLITS:
        batch = wf.sample(atlantis, task, n=2000, split=split, must_include=group)
        assert (group[batch.cities] & (batch.cities >= 0)).any(1).all()
    assert_same_rows(batch, wf.sample(atlantis, task, n=2000, split="test", **ATLANTIS))


@pytest.mark.parametrize("task", FREE)
def test_the_others_of_a_row_are_uniform_over_all(task):
    """One from the group, the others from all cities left, in random order: each place has the same mix."""
    n, size = 60_000, 25
    group = np.isin(np.arange(size), [2, 9, 20, 24])
    batch = wf.sample(small_world(size), task, n=n, must_include=group)
    for count in range(oracle.ARITY[task][0], oracle.ARITY[task][1] + 1):
        rows = batch.cities[counts_of(batch) == count, :count]
        other = (count - 1) / (size - 1)
        expected = np.where(group, 1 / group.sum() + (1 - 1 / group.sum()) * other, other) * len(rows) / count
        for place in rows.T:
            assert is_uniform(np.bincount(place, minlength=size), expected)
        extra = group[rows].sum(1) - 1  # further cities of the group come by chance alone
        most = min(count, group.sum())
        chance = stats.hypergeom(size - 1, group.sum() - 1, count - 1).pmf(range(most))
        assert is_uniform(np.bincount(extra, minlength=most), chance * len(rows))


def test_a_group_within_some_cities():
    among, group = np.arange(40) < 20, np.isin(np.arange(40), [3, 7])
    for task in oracle.TASKS:
        cities = wf.sample(small_world(40), task, n=30, among=among, must_include=group).cities
        assert cities.max() < 20
        assert (group[cities] & (cities >= 0)).any(1).all()


# ----------------------------------------------------------------------------------------- worlds that fail


@pytest.mark.parametrize("task", ["inside", "crossing"])
def test_a_world_without_a_true_row_says_so(task):
    line = wf.World.from_array(np.stack([np.arange(50), 2 * np.arange(50)], 1).astype(np.int32))
    with pytest.raises(ValueError, match=rf"(?s)(?=.*{task})(?=.*\btr(y|ies)\b)(?=.*\d)"):
        wf.sample(line, task, n=100)


def test_a_position_without_a_row_is_kept_where_nobody_checks():
    line = wf.World.from_array(np.stack([np.arange(50), 2 * np.arange(50)], 1).astype(np.int32))
    stream = Stream(line, [wf.Component("angle", 20), wf.Component("crossing", 9)], seed=1, shuffle=False)
    for make, empty in ((stream.rectangle, stream.empty_batch), (stream.pack, stream.empty_pack)):
        out = empty(29)
        assert make(0, 29, out=out, check=False).failed.tolist() == out.failed.tolist()
        assert 20 <= out.failed[0] < 29
        kept = int(out.failed[0])
        make(0, 20, out=dataclasses.replace(empty(20), failed=out.failed), check=False)
        assert out.failed[0] == kept
        with pytest.raises(ValueError, match=rf"row {kept}: no crossing row"):
            make(0, 29, out=out)
        make(0, 20, out=dataclasses.replace(empty(20), failed=out.failed))
        assert out.failed[0] == -1


@pytest.mark.parametrize("task", oracle.TASKS)
def test_rows_are_those_of_the_cities_not_of_the_world_around_them(task):
    """A model trained on the cities and tested in the world that has Atlantis too keeps its splits apart."""
    cities = wf.World.cities()
    larger = cities.with_atlantis()
    alone = wf.sample(cities, task, n=500, start=77)
    among = wf.sample(larger, task, n=500, start=77, among="region != 'Atlantis'")
    assert np.array_equal(alone.cities, among.cities) and np.array_equal(alone.label, among.label)

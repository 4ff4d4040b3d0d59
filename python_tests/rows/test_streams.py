"""`Stream`: the endless shuffled rows that training reads, packed: sampled rows and nothing else."""

from collections import Counter

import numpy as np
import oracle
import pytest
import torch
from scipy import stats

import worldfast as wf
from worldfast import rows
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream
from worldfast.worlds.cities.stream import LearnedStream

LEAST_P = 1e-4  # seeds are fixed: a test that fails fails for a reason


@pytest.fixture(scope="module")
def cities():
    return wf.World.cities()


@pytest.fixture(scope="module")
def atlantis(cities):
    return cities.with_atlantis(n=100, seed=42)


def small_world(n):
    return wf.World.from_array(np.random.default_rng(0).integers(-200, 200, (n, 2)).astype(np.int32))


MIXTURE = (
    Component("distance", 300),
    Component("inside", 200, first=50),
    Component("crossing", 100, among="region != 'Atlantis'"),
    Component("distance", 150, must_include="region == 'Atlantis'"),
)


def token_rows(packed):
    """The rows of a pack as tuples of token ids."""
    assert packed.tokens.dtype == packed.row_start.dtype == packed.answer_start.dtype == np.int32
    assert packed.row_start[0] == 0 and packed.row_start[-1] == len(packed.tokens)
    assert len(packed.answer_start) == len(packed.row_start) - 1
    return [tuple(packed.tokens[a:b].tolist()) for a, b in zip(packed.row_start, packed.row_start[1:])]


def sampled_rows(world, components, vocabulary="character", **options):
    rows = []
    for part in components:
        batch = wf.sample(
            world,
            part.task,
            part.rows,
            start=part.first,
            among=part.among,
            must_include=part.must_include,
            vocabulary=vocabulary,
            **options,
        )
        rows += [tuple(tokens[:length].tolist()) for tokens, length in zip(batch.tokens, batch.length)]
    return rows


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_stream_rows_are_the_sampled_rows(split, vocabulary, atlantis):
    expected = sampled_rows(atlantis, MIXTURE, vocabulary, split=split, seed=6)
    in_order = Stream(atlantis, MIXTURE, seed=6, split=split, vocabulary=vocabulary, shuffle=False)
    assert in_order.rows == 750
    assert token_rows(in_order.pack(0, 750)) == expected
    assert token_rows(in_order.pack(740, 20)) == expected[740:] + expected[:10]
    shuffled = Stream(atlantis, MIXTURE, seed=6, split=split, vocabulary=vocabulary)
    epochs = [token_rows(shuffled.pack(750 * epoch, 750)) for epoch in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(expected)
        assert epoch != expected
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_stream_is_the_same_in_any_pieces(atlantis):
    stream = Stream(atlantis, MIXTURE, seed=6)
    whole = token_rows(stream.pack(0, 2000))
    again = Stream(atlantis, list(MIXTURE), seed=6)
    for start, n in ((1999, 1), (700, 100), (0, 750), (750, 750), (1400, 600), (3, 1)):
        assert token_rows(again.pack(start, n)) == whole[start : start + n]
    assert token_rows(stream.pack(750 * 10**6 + 5, 3)) == token_rows(stream.pack(750 * 10**6, 8))[5:]
    nothing = stream.pack(5, 0)
    assert nothing.tokens.shape == nothing.answer_start.shape == (0,) and nothing.row_start.tolist() == [0]


def test_stream_answers_start_after_the_equals_sign(atlantis):
    packed = Stream(atlantis, MIXTURE, seed=6).pack(0, 1000)
    for row, start in zip(token_rows(packed), packed.answer_start):
        assert row.index(oracle.TOKEN["="]) + 1 == start


def test_streams_of_another_seed_are_others(atlantis):
    one, other = (token_rows(Stream(atlantis, MIXTURE, seed=seed).pack(0, 750)) for seed in (1, 2))
    assert sum((Counter(one) & Counter(other)).values()) < 10


def test_an_epoch_mixes_its_components_evenly(cities):
    sizes = dict(zip(oracle.TASKS, (4000, 1000, 2000, 3000, 1000, 2000, 1000)))
    stream = Stream(cities, [Component(task, rows) for task, rows in sizes.items()], seed=3)
    prompts = [tuple(map(oracle.TOKEN.get, oracle.PROMPT[task] + "(")) for task in sizes]
    order = np.array(
        [
            next(i for i, prompt in enumerate(prompts) if row[1 : 1 + len(prompt)] == prompt)
            for row in token_rows(stream.pack(0, stream.rows))
        ]
    )
    assert np.bincount(order).tolist() == list(sizes.values())
    tenths = np.stack([np.bincount(tenth, minlength=7) for tenth in np.array_split(order, 10)])
    assert stats.chi2_contingency(tenths).pvalue > LEAST_P
    following = np.zeros((7, 7), int)
    np.add.at(following, (order[:-1], order[1:]), 1)
    assert stats.chi2_contingency(following).pvalue > LEAST_P


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 65, 1000])
def test_a_shuffle_of_any_length_is_a_permutation(rows):
    world = small_world(60)
    stream = Stream(world, [Component("compass", rows)], seed=1)
    expected = Counter(sampled_rows(world, [Component("compass", rows)], seed=1))
    assert max(expected.values()) == 1
    for epoch in (0, 1, 99):
        assert Counter(token_rows(stream.pack(epoch * rows, rows))) == expected


def test_every_row_is_first_as_often_as_any_other():
    world = small_world(20)
    place = {row: i for i, row in enumerate(sampled_rows(world, [Component("compass", 8)], seed=1))}
    stream = Stream(world, [Component("compass", 8)], seed=1)
    rows = token_rows(stream.pack(0, 8 * 2000))
    for where in (0, 3):
        observed = np.bincount([place[row] for row in rows[where::8]], minlength=8)
        assert stats.chisquare(observed).pvalue > LEAST_P


def test_a_stream_cannot_hold_more_pairs_than_its_split():
    world = small_world(10)  # 45 pairs: 37, 4, 4
    Stream(world, [Component("distance", 37)], seed=1).pack(0, 37)
    for component in (Component("distance", 38), Component("distance", 30, first=8)):
        with pytest.raises(ValueError, match=r"(?s)(?=.*distance)(?=.*\b37\b)"):
            Stream(world, [component], seed=1).pack(0, component.rows)


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
def test_rows_packed_into_arrays_that_are_there(vocabulary, atlantis):
    stream = Stream(atlantis, MIXTURE, seed=6, vocabulary=vocabulary)
    out = stream.empty_pack(100)
    for start in (0, 700, 5):
        got, expected = stream.pack(start, 100, out=out), stream.pack(start, 100)
        assert token_rows(got) == token_rows(expected)
        assert np.shares_memory(got.tokens, out.tokens) and got.row_start is out.row_start
        unchecked = stream.pack(start, 100, out=out, check=False)
        assert unchecked.tokens is out.tokens and np.array_equal(unchecked.row_start, expected.row_start)


def test_a_start_that_stands_in_memory(atlantis):
    stream = Stream(atlantis, MIXTURE, seed=6)
    start = torch.tensor([7])
    for i in range(3):
        assert token_rows(stream.pack(start, 10)) == token_rows(stream.pack(7 + 10 * i, 10))
        start += 10
    assert np.array_equal(stream.rectangle(start, 10).tokens, stream.rectangle(37, 10).tokens)


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("loss", ["all", "answer"])
def test_rows_as_they_are_learned(loss, vocabulary, atlantis):
    """Each row without its last token; at each scored position the token after it, of the row or of its answer."""
    stream = LearnedStream(atlantis, MIXTURE, seed=3, vocabulary=vocabulary, loss=loss)
    assert isinstance(stream, rows.Stream) and stream.rows == 750
    assert stream.shape == rows.Shape(stream.vocabulary.size, stream.vocabulary.size)
    packed, learned = stream.pack(20, 60), stream.batch(20, 60)
    assert [x.dtype for x in learned[:4]] == [torch.int32, torch.int32, torch.int64, torch.int64]
    assert learned.weights is None and learned.row_start.diff().max() <= stream.longest
    bounds = learned.row_start.tolist()
    assert len(bounds) == 61 and bounds[-1] == len(learned.inputs)
    for i, row in enumerate(token_rows(packed)):
        assert tuple(learned.inputs[bounds[i] : bounds[i + 1]].tolist()) == row[:-1]
        mine = (learned.scored >= bounds[i]) & (learned.scored < bounds[i + 1])
        first = packed.answer_start[i] if loss == "answer" else 1
        assert (learned.scored[mine] - bounds[i]).tolist() == list(range(first - 1, len(row) - 1))
        assert tuple(learned.targets[mine].tolist()) == row[first:]
    halves = stream.batch(20, 25), stream.batch(45, 35)
    assert torch.equal(torch.cat([half.inputs for half in halves]), learned.inputs)

"""The blocks of the CUDA driver, run thread by thread on the CPU (csrc/rows/tile.h), give the bits of the CPU driver."""

import numpy as np
import oracle
import pytest
from tiles_on_cpu import FIELDS, assert_same, packed_in_tiles

import worldfast as wf
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream

TILE = 256
SIZES = (0, 1, 2, TILE - 1, TILE, TILE + 1, 1000)


@pytest.fixture(scope="module")
def world():
    return wf.World.cities().with_atlantis()


def taking_turns(world, tasks, **options):
    """The stream that wf.sample reads of several tasks."""
    stream = Stream.__new__(Stream)
    components = tuple(Component(task, 100_000) for task in tasks)
    stream._open(world, components, 42, "train", options.get("vocabulary", "character"), "interleaved", "balanced")
    return stream


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("options", [{}, {"must_include": "region == 'Atlantis'"}, {"among": "x > 0"}])
@pytest.mark.parametrize("task", oracle.TASKS)
def test_every_task(task, options, vocabulary, world):
    component = Component(task, 3000, **options)
    for crossing in ("balanced", "reshuffled") if task == "crossing" else ("balanced",):
        stream = Stream(world, [component], seed=3, vocabulary=vocabulary, shuffle=False, crossing=crossing)
        assert_same(stream, 17, 1000)


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
def test_every_order_size_and_address(vocabulary, world):
    mixture = [Component(task, 500) for task in oracle.TASKS] + [Component("inside", 90, among="y > 0", first=7)]
    streams = [Stream(world, mixture, seed=3, vocabulary=vocabulary, shuffle=shuffle) for shuffle in (False, True)]
    streams += [taking_turns(world, tasks, vocabulary=vocabulary) for tasks in (oracle.TASKS, oracle.TASKS[1:3])]
    for stream in streams:
        for n in SIZES:
            assert_same(stream, 3400, n)
    for ahead in range(1, 16):  # a caller's array begins anywhere
        assert_same(streams[1], 0, 300, ahead)


def test_widths_of_all_kinds():
    """Rows of few tokens and of many: a small world, and one as wide as there can be."""
    for size in (4, 2**20):
        xy = np.random.default_rng(0).integers(-size, size, (40, 2)).astype(np.int32)
        for task in oracle.TASKS:
            for vocabulary in ("character", "entity"):
                stream = Stream(wf.World.from_array(xy), [Component(task, 600)], seed=1, vocabulary=vocabulary)
                assert_same(stream, 0, 600)


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("n", [*SIZES, 300 * TILE + 5])
def test_packed_rows(n, vocabulary, world):
    stream = Stream(world, [Component(task, 500) for task in oracle.TASKS], seed=3, vocabulary=vocabulary)
    expected = stream.pack(99, n)
    for mine, theirs in zip(
        packed_in_tiles(stream, 99, n), (expected.tokens, expected.row_start, expected.answer_start)
    ):
        assert np.array_equal(mine, theirs)


def test_a_start_in_memory(world):
    stream = Stream(world, [Component("angle", 500)], seed=3)
    start = np.array([123])
    for _ in range(3):
        expected = stream.pack(int(start[0]), 50)
        assert np.array_equal(packed_in_tiles(stream, start, 50)[0], expected.tokens)
        start += 50


def test_the_first_position_without_a_row():
    """Crossing has no TRUE row on a line; distance has all its rows."""
    line = wf.World.from_array(np.stack([np.arange(12), 2 * np.arange(12)], 1).astype(np.int32))
    stream = Stream(line, [Component("distance", 40), Component("crossing", 20)], seed=1, shuffle=False)
    expected = stream.rectangle(0, 60, check=False)
    assert 40 <= expected.failed[0] < 60
    out = stream.empty_batch(60)
    arrays = [getattr(out, field) for field in FIELDS]
    stream._native.rectangle(0, 60, *arrays, out.failed, reset=True, threads=1, cuda_stream=0, in_tiles=True)
    first = int(expected.failed[0])
    assert out.failed[0] == first
    before = stream.rectangle(0, first)
    for field in FIELDS:
        assert np.array_equal(getattr(out, field)[:first], getattr(before, field)), field
    missing = out.label == -1
    assert np.flatnonzero(missing)[0] == first and not out.length[missing].any() and (out.cities[missing] == -1).all()
    stream._native.rectangle(0, 20, *(a[:20] for a in arrays), out.failed, False, 1, 0, in_tiles=True)
    assert out.failed[0] == first  # kept until it is reset

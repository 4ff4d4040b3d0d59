"""Bad input to labels, samples, streams and vocabularies: typed errors that say what came and what should."""

import dataclasses
import re

import numpy as np
import oracle
import pytest
import torch

import worldfast as wf
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream
from worldfast.worlds.cities.tokens import Vocabulary

LIMIT = 2**20


def naming(*words):
    """A pattern for messages that hold all these words, in any order."""
    return "(?is)" + "".join(rf"(?=.*{re.escape(str(word))})" for word in words)


@pytest.fixture(scope="module")
def world():
    return wf.World.from_array(np.random.default_rng(0).integers(-200, 200, (40, 2)).astype(np.int32))


def ints(*shape):
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name, nearest",
    [("distnace", "distance"), ("Distance", "distance"), ("triangl_area", "trianglearea"), ("insde", "inside")],
)
def test_unknown_task(name, nearest, world):
    expected = naming("task", name, f"did you mean '{nearest}'", "crossing")
    for call in (
        lambda: wf.label(name, xy=ints(1, 2, 2)),
        lambda: wf.label(name, world, ints(1, 2)),
        lambda: wf.sample(world, name, n=1),
        lambda: wf.sample(world, ["angle", name], n=1),
        lambda: Stream(world, [Component("angle", 5), Component(name, 5)], seed=1),
    ):
        with pytest.raises(ValueError, match=expected):
            call()


@pytest.mark.parametrize(
    "argument, name, nearest",
    [
        ("vocabulary", "charcter", "character"),
        ("vocabulary", "Entity", "entity"),
        ("split", "tests", "test"),
        ("split", "valid", "validation"),
        ("crossing", "reshufled", "reshuffled"),
    ],
)
def test_unknown_option(argument, name, nearest, world):
    for call in (
        lambda: wf.sample(world, "angle", n=1, **{argument: name}),
        lambda: Stream(world, [Component("angle", 5)], seed=1, **{argument: name}),
    ):
        with pytest.raises(ValueError, match=naming(argument, name, f"did you mean '{nearest}'")):
            call()


def test_unknown_vocabulary_by_itself(world):
    with pytest.raises(ValueError, match=naming("vocabulary", "entities", "did you mean 'entity'")):
        Vocabulary("entities", world)


@pytest.mark.parametrize("name", ["gpu", "cdua", "tpu", ""])
def test_unknown_device(name, world):
    with pytest.raises(ValueError, match=naming("device", name, "cpu", "cuda")):
        wf.sample(world, "angle", n=1, device=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(world):
    with pytest.raises(RuntimeError, match=naming("cuda", "device")):
        wf.sample(world, "angle", n=1, device="cuda")


def test_no_task_at_all(world):
    with pytest.raises(ValueError, match="task|component"):
        wf.sample(world, [], n=1)
    for thing in (None, 3):
        with pytest.raises((TypeError, ValueError), match="task"):
            wf.sample(world, thing, n=1)


# ------------------------------------------------------------------------------------------ cities to label


@pytest.mark.parametrize("bad", [40, 41, 2**31 - 1, -2, -(2**31)])
@pytest.mark.parametrize("task", oracle.TASKS)
def test_city_outside_the_world(task, bad, world):
    for place in range(oracle.ARITY[task][0]):
        cities = ints(3, oracle.ARITY[task][0])
        cities[1, place] = bad
        with pytest.raises(IndexError, match=naming("cities", bad) + ".*(39|40)"):
            wf.label(task, world, cities)


@pytest.mark.parametrize("task", oracle.TASKS)
def test_repeated_city(task, world):
    k = oracle.ARITY[task][1]
    for one in range(k):
        for other in range(one):
            cities = ints(2, k)
            cities[1, one] = cities[1, other] = 37
            with pytest.raises(ValueError, match=naming("cities", 37)):
                wf.label(task, world, cities)


@pytest.mark.parametrize("task", oracle.TASKS)
def test_too_few_cities_in_a_row(task, world):
    fewest, most = oracle.ARITY[task]
    short = np.full((2, most), -1, np.int32)
    short[0, :most] = range(most)
    short[1, : fewest - 1] = range(fewest - 1)
    with pytest.raises((ValueError, IndexError), match="cities"):
        wf.label(task, world, short)
    with pytest.raises((ValueError, IndexError), match="cities"):
        wf.label(task, world, np.full((1, most), -1, np.int32))


@pytest.mark.parametrize("task", oracle.TASKS)
def test_a_gap_in_a_row(task, world):
    """-1 stands behind the last city only: a row with a city after it was put together wrongly."""
    cities = ints(1, oracle.ARITY[task][1])
    cities[0, 0 if cities.size == 2 else 1] = -1
    with pytest.raises((ValueError, IndexError), match="cities"):
        wf.label(task, world, cities)


@pytest.mark.parametrize("task", oracle.TASKS)
def test_wrong_arity(task, world):
    fewest, most = oracle.ARITY[task]
    for k in {0, 1, fewest - 1, most + 1}:
        with pytest.raises(ValueError, match=naming("cities", k)):
            wf.label(task, world, ints(2, k))
        with pytest.raises(ValueError, match=naming("xy", k)):
            wf.label(task, xy=ints(2, k, 2))


def test_arguments_that_do_not_go_together(world):
    xy, cities = ints(3, 2, 2), ints(3, 2)
    for arguments, options in (
        ((), {}),
        ((world,), {}),
        ((None, cities), {}),
        ((world, cities), {"xy": xy}),
        ((world,), {"xy": xy}),
        ((), {"count": ints(3)}),
    ):
        with pytest.raises((TypeError, ValueError), match="xy|cities"):
            wf.label("distance", *arguments, **options)


# --------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "?", "c16", "O", "U2"])
def test_wrong_dtype(dtype, world):
    for argument, arguments, options in (
        ("cities", (world, ints(3, 2).astype(dtype)), {}),
        ("xy", (), {"xy": ints(3, 2, 2).astype(dtype)}),
        ("count", (), {"xy": ints(3, 2, 2), "count": np.full(3, 2).astype(dtype)}),
    ):
        with pytest.raises(TypeError, match=naming(argument)):
            wf.label("distance", *arguments, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.bfloat16])
def test_wrong_torch_dtype(dtype):
    with pytest.raises(TypeError, match="xy"):
        wf.label("distance", xy=torch.ones(3, 2, 2, dtype=dtype))


INTEGERS = [f"{order}{sign}{width}" for order in "<>" for sign in "iu" for width in (1, 2, 4, 8)]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_any_width_are_read_right(dtype, world):
    cities, xy = ints(3, 2), ints(3, 2, 2)
    for count in (None, np.full(3, 2, dtype)):
        labels = wf.label("distance", xy=xy.astype(dtype), count=count)
        assert labels.dtype == np.int64 and labels.tolist() == oracle.label("distance", xy).tolist()
    expected = oracle.label("distance", world.xy[cities]).tolist()
    assert wf.label("distance", world, cities.astype(dtype)).tolist() == expected
    if dtype[0] == "<":
        found = wf.label("distance", world, torch.from_numpy(cities.astype(dtype)))
        assert isinstance(found, torch.Tensor) and found.tolist() == expected


@pytest.mark.parametrize("dtype, bad", [("u2", 65_535), ("u4", 2**32 - 1), ("u8", 2**63), ("u8", 2**64 - 1)])
def test_an_unsigned_integer_never_becomes_minus_one(dtype, bad, world):
    """Which says that a row has no further city."""
    cities = np.array([[0, 1, 2], [3, 4, bad]], dtype)
    for given in (cities, torch.from_numpy(cities)):
        with pytest.raises(IndexError, match=r"cities.*(row|\[)"):
            wf.label("perimeter", world, given)
        assert wf.label("perimeter", world, given, check=False).tolist()[1] == -1


def test_an_int64_that_does_not_fit_is_never_wrapped(world):
    with pytest.raises((TypeError, IndexError), match="cities"):
        wf.label("distance", world, np.array([[0, 2**32 + 1]]))
    with pytest.raises((TypeError, ValueError), match="xy"):
        wf.label("distance", xy=np.array([[[0, 0], [0, 2**32 + 1]]]))


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (3, 2, 1), (3, 2, 3), (1, 3, 2, 2)])
def test_wrong_shape_of_xy(shape):
    with pytest.raises((ValueError, TypeError), match="xy"):
        wf.label("distance", xy=ints(*shape) if shape else np.int32(3))


@pytest.mark.parametrize("shape", [(), (2,), (3, 2, 1), (3, 2, 2)])
def test_wrong_shape_of_cities(shape, world):
    with pytest.raises((ValueError, TypeError), match="cities"):
        wf.label("distance", world, ints(*shape) if shape else np.int32(3))


@pytest.mark.parametrize("bad", [LIMIT + 1, -LIMIT - 1, 2**31 - 1, -(2**31)])
def test_coordinates_out_of_range(bad):
    for task in oracle.TASKS:
        for place in range(oracle.ARITY[task][0]):
            for axis in range(2):
                xy = ints(2, oracle.ARITY[task][0], 2)
                xy[1, place, axis] = bad
                with pytest.raises(ValueError, match=naming("xy", bad)):
                    wf.label(task, xy=xy)


def test_coordinates_behind_count_are_not_looked_at():
    xy = ints(1, 5, 2)
    xy[0, 3:] = 2**31 - 1
    assert wf.label("perimeter", xy=xy, count=np.array([3], np.int32)).tolist() == [11]  # 2 * 2.83 + 5.66


@pytest.mark.parametrize("task", oracle.TASKS)
def test_wrong_count(task):
    fewest, most = oracle.ARITY[task]
    xy = ints(2, most, 2)
    for bad in (fewest - 1, most + 1, 0, -1, 2**31 - 1):
        with pytest.raises(ValueError, match=naming("count", bad)):
            wf.label(task, xy=xy, count=np.array([most, bad], np.int32))
    for shape in ((1,), (3,), (2, 1), ()):
        with pytest.raises((ValueError, TypeError), match="count"):
            wf.label(task, xy=xy, count=np.full(shape, most, np.int32))


def test_count_beyond_the_columns_that_are_there():
    with pytest.raises(ValueError, match=naming("count", 5)):
        wf.label("perimeter", xy=ints(1, 3, 2), count=np.array([5], np.int32))


def test_read_only_inputs_are_welcome(world):
    cities, xy = ints(3, 2), ints(3, 2, 2)
    cities.flags.writeable = xy.flags.writeable = False
    assert wf.label("distance", world, cities).tolist() == oracle.label("distance", world.xy[cities]).tolist()
    assert wf.label("distance", xy=xy).tolist() == [3, 3, 3]


def test_read_only_out():
    out = np.full(3, -7, np.int64)
    out.flags.writeable = False
    with pytest.raises((ValueError, TypeError, BufferError), match=r"(?is)(?=.*\bout\b).*(read.?only|writ)"):
        wf.label("distance", xy=ints(3, 2, 2), out=out)
    assert out.tolist() == [-7, -7, -7]


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64, bool, np.uint8])
def test_out_of_wrong_dtype(dtype):
    with pytest.raises(TypeError, match=r"\bout\b"):
        wf.label("distance", xy=ints(3, 2, 2), out=np.zeros(3, dtype))


@pytest.mark.parametrize("shape", [(), (0,), (2,), (4,), (3, 1), (1, 3)])
def test_out_of_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"\bout\b"):
        wf.label("distance", xy=ints(3, 2, 2), out=np.zeros(shape, np.int64))


def test_out_that_is_no_array():
    with pytest.raises(TypeError, match=r"\bout\b"):
        wf.label("distance", xy=ints(3, 2, 2), out=[0, 0, 0])


def test_out_with_strides_is_refused_or_filled():
    memory = np.full(6, -7, np.int64)
    try:
        wf.label("distance", xy=ints(3, 2, 2), out=memory[::2])
    except ValueError as error:
        assert "out" in str(error)
        assert (memory == -7).all()
    else:
        assert memory.tolist() == [3, -7, 3, -7, 3, -7]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_without_memory_are_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3, 2, 2, dtype=torch.int32)
    for tensor in (torch.zeros(3, 2, 2, dtype=torch.int32, device="meta"), fake):
        with pytest.raises((TypeError, ValueError, RuntimeError, BufferError)):
            wf.label("distance", xy=tensor)


# -------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("argument", ["n", "start"])
def test_counts_of_rows(argument, world):
    for bad in (-1, -(2**40)):
        with pytest.raises(ValueError, match=naming(argument, bad)):
            wf.sample(world, "angle", **{"n": 1, argument: bad})
    for bad in (2.5, 2.0, "3", None, True):
        with pytest.raises(TypeError, match=naming(argument, bad)):
            wf.sample(world, "angle", **{"n": 1, argument: bad})
    assert len(wf.sample(world, "angle", np.int64(3), start=np.int32(2)).label) == 3


def test_rows_beyond_the_last_number():
    world = wf.World.from_array(ints(10, 2))
    for start in (2**63 - 1, 2**64, 10**30):
        with pytest.raises((ValueError, OverflowError)):
            wf.sample(world, "angle", n=2, start=start)


@pytest.mark.parametrize("bad", [1.5, "x", None, [1]])
def test_seed_is_an_integer(bad, world):
    with pytest.raises(TypeError, match="seed"):
        wf.sample(world, "angle", n=1, seed=bad)
    with pytest.raises(TypeError, match="seed"):
        Stream(world, [Component("angle", 5)], seed=bad)


def test_threads_is_no_less_than_zero(world):
    with pytest.raises(ValueError, match=naming("threads", -1)):
        wf.sample(world, "angle", n=10, threads=-1)
    with pytest.raises(ValueError, match=naming("threads", -1)):
        wf.label("distance", xy=ints(3, 2, 2), threads=-1)


def test_a_world_that_is_none():
    for thing in (None, "cities", ints(40, 2)):
        with pytest.raises(TypeError, match="world"):
            wf.sample(thing, "angle", n=1)
        with pytest.raises(TypeError, match="world|xy|cities"):
            wf.label("distance", thing, ints(1, 2))


@pytest.mark.parametrize("task", oracle.TASKS)
def test_world_too_small(task, world):
    """A world must hold the task's largest row, or the number of cities would not be uniform."""
    most = oracle.ARITY[task][1]
    for n in range(1, most):
        tiny = wf.World.from_array(ints(n, 2))
        with pytest.raises(ValueError, match=naming("world", task, most, n)):
            wf.sample(tiny, task, n=1)
        with pytest.raises(ValueError, match=naming(task, most, n)):
            wf.sample(world, task, n=1, among=np.arange(40) < n)
        with pytest.raises(ValueError, match=naming(task, most, n)):
            Stream(tiny, [Component(task, 1)], seed=1)


@pytest.mark.parametrize("argument", ["among", "must_include"])
def test_selections(argument, world):
    for bad, error, words in (
        (np.ones(39, bool), ValueError, (39, 40)),
        (np.ones((40, 1), bool), ValueError, (40,)),
        (np.ones(40), TypeError, ("float64",)),
        (np.arange(40), TypeError, ("int",)),
        (7, TypeError, ()),
        ("regoin == 'Asia'", ValueError, ("regoin", "did you mean 'region'")),
        ("x >", ValueError, ("x >",)),
    ):
        with pytest.raises(error, match=naming(*words)):
            wf.sample(world, "angle", n=1, **{argument: bad})
    for nothing, said in ((np.zeros(40, bool), "a mask"), ("x > 1000", "'x > 1000'")):
        with pytest.raises(ValueError, match=f"{argument}: {said} selects (no city|none of 40 cities)"):
            wf.sample(world, "angle", n=1, **{argument: nothing})


def test_a_group_outside_the_cities_that_rows_may_use(world):
    low = np.arange(40) < 20
    with pytest.raises(ValueError, match="must_include"):
        wf.sample(world, "angle", n=1, among=low, must_include=~low)


# -------------------------------------------------------------------------------------------------- streams


def test_streams(world):
    with pytest.raises(ValueError, match="components"):
        Stream(world, [], seed=1)
    for rows in (0, -1):
        with pytest.raises(ValueError, match=naming("rows", rows)):
            Stream(world, [Component("angle", rows)], seed=1)
    with pytest.raises(ValueError, match=naming("first", -1)):
        Stream(world, [Component("angle", 5, first=-1)], seed=1)
    with pytest.raises(TypeError, match=naming("rows", 2.5)):
        Stream(world, [Component("angle", 2.5)], seed=1)
    stream = Stream(world, [Component("angle", 5)], seed=1)
    with pytest.raises(ValueError, match=naming("start", -1)):
        stream.pack(-1, 2)
    with pytest.raises(ValueError, match=naming("n", -2)):
        stream.pack(0, -2)
    with pytest.raises(TypeError, match=naming("n", 1.5)):
        stream.pack(0, 1.5)


@pytest.mark.parametrize(
    "field, change, error",
    [
        ("tokens", lambda a: a[:, :-1], ValueError),
        ("tokens", lambda a: a.astype(np.int32), TypeError),
        ("length", lambda a: a[:-1], ValueError),
        ("answer_start", lambda a: np.repeat(a, 2)[::2], ValueError),
        ("cities", lambda a: np.asfortranarray(a), ValueError),
        ("label", lambda a: a.astype(np.int32), TypeError),
        ("label", lambda a: np.broadcast_to(a[:1], a.shape), ValueError),
        ("task", lambda a: a.tolist(), TypeError),
        ("failed", lambda a: np.zeros(2, np.int64), ValueError),
    ],
)
def test_batches_to_overwrite(field, change, error, world):
    out = wf.sample(world, "inside", n=10)
    bad = dataclasses.replace(out, **{field: change(getattr(out, field))})
    with pytest.raises(error, match=rf"out\.{field}: expected"):
        wf.sample(world, "inside", n=10, out=bad)


@pytest.mark.parametrize(
    "field, change, error",
    [
        ("tokens", lambda a: a[:20], ValueError),
        ("tokens", lambda a: a.astype(np.int64), TypeError),
        ("row_start", lambda a: a[:-1], ValueError),
        ("answer_start", lambda a: a.astype(np.uint8), TypeError),
        ("failed", lambda a: a.astype(np.int32), TypeError),
        ("scratch", lambda a: a[:8], ValueError),
        ("scratch", lambda a: np.concatenate([a, a])[1:], ValueError),
    ],
)
def test_packs_to_overwrite(field, change, error, world):
    stream = Stream(world, [Component("angle", 50)], seed=1)
    out = stream.empty_pack(10)
    with pytest.raises(error, match=rf"out\.{field}: expected"):
        stream.pack(0, 10, out=dataclasses.replace(out, **{field: change(getattr(out, field))}))


def test_where_rows_go(world):
    stream = Stream(world, [Component("angle", 50)], seed=1)
    with pytest.raises(TypeError, match="out: expected a Batch, got a Packed"):
        stream.rectangle(0, 10, out=stream.empty_pack(10))
    with pytest.raises(TypeError, match="out: expected a Packed, got a ndarray"):
        stream.pack(0, 10, out=np.zeros(100, np.int32))
    with pytest.raises(TypeError, match="device.*out"):
        wf.sample(world, "angle", n=10, device="cpu", out=stream.empty_batch(10))
    with pytest.raises(ValueError, match="n: .*int32"):
        stream.pack(0, 2**27)


@pytest.mark.parametrize(
    "bad, error",
    [
        (np.array([1, 2]), ValueError),
        (np.array(1), ValueError),
        (np.array([1], np.int32), TypeError),
        (np.array([-3]), ValueError),
        (np.array([1.0]), TypeError),
    ],
)
def test_starts_in_memory(bad, error, world):
    stream = Stream(world, [Component("angle", 50)], seed=1)
    for make in (stream.rectangle, stream.pack):
        with pytest.raises(error, match="start: expected"):
            make(bad, 5)


@pytest.mark.parametrize("cities", [[[0, 1], [3, 3], [5, 40], [2, 4]], [[0, 1], [3, -1], [-7, 5], [2, 4]]])
def test_labels_that_nobody_checks(cities, world):
    cities = np.array(cities, dtype=np.int32)
    labels = wf.label("distance", world, cities, check=False)
    assert np.array_equal(labels[[0, 3]], wf.label("distance", world, cities[[0, 3]]))
    assert labels[[1, 2]].tolist() == [-1, -1]


# --------------------------------------------------------------------------------------------- vocabularies


@pytest.mark.parametrize("name, size", [("character", 98), ("entity", 138)])
def test_ids_outside_a_vocabulary(name, size, world):
    vocabulary = Vocabulary(name, world)
    for bad in (-1, size, 10**6):
        with pytest.raises((ValueError, IndexError), match=naming(bad, size)):
            vocabulary.decode([61, bad])


@pytest.mark.parametrize("name", ["character", "entity"])
def test_city_tokens_of_no_city(name, world):
    vocabulary = Vocabulary(name, world)
    for bad in (40, -1, -41):  # -1 is an unused place in Batch.cities, not the last city
        with pytest.raises(IndexError, match=naming(bad)):
            vocabulary.city_tokens(bad)

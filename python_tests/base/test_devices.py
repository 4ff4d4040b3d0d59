"""Arrays of a device that is not the current one, and copies on devices: with arrays in a GPU's place that refuse to be
shared while another device is current, as torch's do."""

import contextlib
import gc
import sys
import types
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast import _native
from worldfast.worlds.cities import components, tasks
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream

CURRENT = [0]


class Device:
    """A device that is current within it."""

    def __enter__(self):
        CURRENT.append(1)

    def __exit__(self, *_):
        CURRENT.pop()


class Elsewhere:
    """An array that numpy holds, in the place of one on device 1."""

    device = Device()

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __getitem__(self, i):
        return self.array[i]

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        if CURRENT[-1] != 1:
            raise BufferError("Can't export tensors on a different CUDA device index. Expected: 1. Current device: 0.")
        return self.array.__dlpack__(**options)


Elsewhere.__module__ = "cupy.here"


@pytest.fixture
def elsewhere(monkeypatch):
    """Moves the arrays of a Batch or Packed there."""
    cupy = types.ModuleType("cupy")
    cupy.empty = lambda shape, dtype: Elsewhere(np.empty(shape, dtype))
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=0))
    monkeypatch.setitem(sys.modules, "cupy", cupy)

    def move(arrays):
        names = [field.name for field in fields(arrays) if field.name not in ("vocabulary", "tasks")]
        return replace(arrays, **{name: Elsewhere(getattr(arrays, name)) for name in names})

    return move


@pytest.fixture
def stream(world):
    return Stream(world, [Component("distance", 9), Component("inside", 9)], seed=1)


def test_rows_go_to_a_device_that_is_not_current(elsewhere, stream, world):
    for make, empty in ((stream.rectangle, stream.empty_batch), (stream.pack, stream.empty_pack)):
        there, here = make(2, 9, out=elsewhere(empty(9)), check=False), make(2, 9, check=False)
        for name in ("tokens", "answer_start", "failed"):
            whole = slice(None) if name != "tokens" or make == stream.rectangle else slice(int(here.row_start[-1]))
            assert np.array_equal(getattr(there, name).array[whole], getattr(here, name)[whole]), name
    out = elsewhere(stream.empty_batch(3))
    with pytest.raises(TypeError, match="out.tokens: expected an array that can be shared, got one that refuses"):
        stream._native.rectangle(0, 3, *(getattr(out, name) for name in BATCH), True, 1, 0)
    assert CURRENT == [0]


BATCH = ("tokens", "length", "answer_start", "cities", "label", "task", "failed")


def test_labels_of_a_device_that_is_not_current(elsewhere, world):
    cities = np.array([[3, 5], [9, 4]], dtype=np.int32)
    there = wf.label("distance", world, Elsewhere(cities))
    assert np.array_equal(there.array, wf.label("distance", world, cities))
    there = wf.label("distance", xy=Elsewhere(world.xy[cities]))
    assert np.array_equal(there.array, wf.label("distance", world, cities))
    assert CURRENT == [0]


def test_the_device_of_a_tensor_is_made_current(monkeypatch):
    """torch's own arrays say where they are in another way."""
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or contextlib.nullcontext())
    tensor = type("Tensor", (), {"__module__": "torch", "is_cuda": True, "device": torch.device("cuda", 1)})()
    for array in (tensor, torch.zeros(1), np.zeros(1)):
        with _native.current_device_of(array):
            pass
    assert asked == [torch.device("cuda", 1)]


# ---- copies that are made once ----


@pytest.fixture
def made(monkeypatch):
    """The native streams that were made since; each has its own copies on devices."""
    made, make = [], components._made
    monkeypatch.setattr(components, "_made", lambda *given: made.append(make(*given)) or made[-1])
    monkeypatch.setattr(components, "_streams", type(components._streams)())
    return made


def test_a_second_call_has_the_stream_of_the_first(made, small):
    """Whatever rows it asks for; another stream for whatever decides what they are."""
    first = wf.sample(small, ["distance", "inside"], 30, seed=3)
    for start, n in ((0, 30), (7, 200), (1000, 1)):
        rows = wf.sample(small, ["distance", "inside"], n, seed=3, start=start)
        assert len(made) == 1
    assert np.array_equal(rows.label, wf.sample(small, ["distance", "inside"], 1001, seed=3).label[1000:])
    assert np.array_equal(first.label, wf.sample(small, ["distance", "inside"], 40, seed=3).label[:30])
    others = [
        dict(seed=4),
        dict(split="test"),
        dict(vocabulary="entity"),
        dict(noise=0.5),
        dict(among="index < 40"),
        dict(must_include="region == 'Here'"),
        dict(task=["inside", "distance"]),
    ]
    for count, other in enumerate(others, 2):
        for _ in range(2):
            wf.sample(small, **dict(task=["distance", "inside"], n=20, seed=3) | other)
            assert len(made) == count, other
    for seed in range(100, 100 + components.KEPT):
        wf.sample(small, "distance", 1, seed=seed)
    assert len(components._streams[small]) == components.KEPT


def test_copies_go_with_their_world(monkeypatch, made):
    """Streams, and coordinates for labels, are kept as long as the world is, and no longer."""
    copied, as_tensor = [], torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda array, device: copied.append(device) or as_tensor(array))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    world = wf.World.from_array(np.random.default_rng(0).integers(-90, 90, (30, 2)).astype(np.int32))
    wf.sample(world, "distance", 3)
    for _ in range(2):
        assert tasks._xy_on_gpu(world, 1).tolist() == world.xy.tolist()
    assert tasks._xy_on_gpu(world, 0) is tasks._xy_on_gpu(world, 0) and copied == ["cuda:1", "cuda:0"]
    before = len(components._streams), len(tasks._on_gpus)
    del world
    gc.collect()
    assert (len(components._streams), len(tasks._on_gpus)) == (before[0] - 1, before[1] - 1)

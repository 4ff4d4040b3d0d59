"""The CUDA driver gives the bits of the CPU driver. Skipped where there is no GPU; test_tiles.py runs its blocks without one."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
import torch

import worldfast as wf
from worldfast._native import core
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream

needs_gpu = pytest.mark.skipif(not (core.cuda and torch.cuda.is_available()), reason="no GPU, or built without CUDA")
FIELDS = ("tokens", "length", "answer_start", "cities", "label", "task")
MIXTURE = tuple(Component(task, 700) for task in oracle.TASKS)


def assert_same(gpu, cpu):
    for name in FIELDS:
        assert np.array_equal(getattr(cpu, name), getattr(gpu, name).cpu().numpy()), name
    assert gpu.failed.tolist() == [-1]


def assert_same_pack(gpu, cpu):
    row_start = gpu.row_start.cpu().numpy()
    assert np.array_equal(row_start, cpu.row_start)
    assert np.array_equal(gpu.tokens[: row_start[-1]].cpu().numpy(), cpu.tokens)
    assert np.array_equal(gpu.answer_start.cpu().numpy(), cpu.answer_start)
    assert gpu.failed.tolist() == [-1]


def poison(arrays):
    """Overwrites a Batch or Packed on a GPU with numbers that are no tokens, so that what is not written shows."""
    for field in dataclasses.fields(arrays):
        if field.name not in ("vocabulary", "tasks", "failed"):
            getattr(arrays, field.name).fill_(0x55)


@pytest.fixture(scope="module")
def world():
    return wf.World.cities().with_atlantis()


@needs_gpu
@pytest.mark.parametrize("task", [*oracle.TASKS, oracle.TASKS], ids=str)
@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize(
    "options",
    [{}, {"must_include": "region == 'Atlantis'"}, {"among": "x > 0"}, {"crossing": "reshuffled"}, {"split": "test"}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_rows_are_those_of_the_cpu(task, vocabulary, options, world):
    cpu = wf.sample(world, task, n=10_001, start=5, vocabulary=vocabulary, **options)
    gpu = wf.sample(world, task, n=10_001, start=5, vocabulary=vocabulary, device="cuda", **options)
    assert_same(gpu, cpu)
    assert gpu.text(7) == cpu.text(7)
    if isinstance(task, str):
        assert torch.equal(wf.label(task, world, gpu.cities), gpu.label)
        xy = torch.from_numpy(world.xy[np.maximum(cpu.cities, 0)]).cuda()
        count = (gpu.cities >= 0).sum(1, dtype=torch.int32)
        assert torch.equal(wf.label(task, xy=xy, count=count), gpu.label)


@needs_gpu
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 100_000])
@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_streams_are_those_of_the_cpu(n, vocabulary, shuffle, world):
    stream = Stream(world, MIXTURE, seed=4, vocabulary=vocabulary, shuffle=shuffle)
    assert_same(stream.rectangle(4000, n, "cuda"), stream.rectangle(4000, n))
    assert_same_pack(stream.pack(4000, n, "cuda"), stream.pack(4000, n))


@needs_gpu
def test_threads_that_share_a_stream_nobody_has_used(world):
    """Its copy on the device is made by one of them, while the others wait."""
    stream = Stream(world, MIXTURE, seed=5)
    outs = [stream.empty_batch(700, "cuda") for _ in range(8)]
    begin = threading.Barrier(len(outs))

    def make(i):
        begin.wait()
        stream.rectangle(i * 700, 700, out=outs[i])

    with ThreadPoolExecutor(len(outs)) as pool:
        list(pool.map(make, range(len(outs))))
    for i, out in enumerate(outs):
        assert_same(out, stream.rectangle(i * 700, 700))


@pytest.mark.skipif(not core.cuda or torch.cuda.device_count() < 2, reason="no second GPU")
def test_a_device_that_is_not_current(world):
    stream = Stream(world, MIXTURE, seed=4)
    assert_same(stream.rectangle(0, 3000, "cuda:1"), stream.rectangle(0, 3000))
    assert_same_pack(stream.pack(0, 3000, "cuda:1"), stream.pack(0, 3000))
    rows = wf.sample(world, "distance", 1000, device="cuda:1")
    assert torch.equal(wf.label("distance", world, rows.cities), rows.label)
    assert torch.cuda.current_device() == 0


@needs_gpu
def test_rows_into_arrays_that_are_there(world):
    stream = Stream(world, MIXTURE, seed=4)
    batch, pack = stream.empty_batch(3000, "cuda"), stream.empty_pack(3000, "cuda")
    for start in (0, 12_345):
        poison(batch)
        poison(pack)
        assert stream.rectangle(start, 3000, out=batch).tokens is batch.tokens
        assert_same(batch, stream.rectangle(start, 3000))
        assert stream.pack(start, 3000, out=pack).row_start is pack.row_start
        assert_same_pack(pack, stream.pack(start, 3000))
    whole = torch.full((3000 * batch.tokens.shape[1] + 40,), 0x55, dtype=torch.uint8, device="cuda")
    for ahead in range(1, 16):  # memory that begins anywhere
        whole.fill_(0x55)
        tokens = whole[ahead : ahead + batch.tokens.numel()].view(batch.tokens.shape)
        stream.rectangle(0, 3000, out=dataclasses.replace(batch, tokens=tokens))
        assert np.array_equal(tokens.cpu().numpy(), stream.rectangle(0, 3000).tokens)
        assert (whole[:ahead] == 0x55).all() and (whole[ahead + tokens.numel() :] == 0x55).all()


@needs_gpu
def test_rows_in_a_cuda_graph(world):
    """Recorded once, replayed: each replay makes the next rows, on a stream that is not the default one."""
    stream = Stream(world, MIXTURE, seed=4, vocabulary="entity")
    n, start = 2048, torch.zeros(1, dtype=torch.int64, device="cuda")
    batch, pack = stream.empty_batch(n, "cuda"), stream.empty_pack(n, "cuda")
    labels = torch.empty(n, dtype=torch.int64, device="cuda")
    cities = stream.rectangle(0, n, "cuda").cities[:, :2].contiguous()
    cities[:, 1] = (cities[:, 0] + 1) % len(world)

    def step():
        stream.rectangle(start, n, out=batch, check=False)
        stream.pack(start, n, out=pack, check=False)
        wf.label("distance", world, cities, out=labels, check=False)
        start.add_(n)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    assert_same(batch, stream.rectangle(0, n))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    start.fill_(100)
    for i in range(3):
        poison(batch)
        poison(pack)
        labels.fill_(-7)
        graph.replay()
        torch.cuda.synchronize()
        assert_same(batch, stream.rectangle(100 + i * n, n))
        assert_same_pack(pack, stream.pack(100 + i * n, n))
        assert np.array_equal(labels.cpu().numpy(), wf.label("distance", world, cities.cpu().numpy()))
    assert start.tolist() == [100 + 3 * n]


@needs_gpu
def test_a_position_without_a_row():
    line = wf.World.from_array(np.stack([np.arange(50), 2 * np.arange(50)], 1).astype(np.int32))
    stream = Stream(line, [Component("angle", 20), Component("crossing", 9)], seed=1, shuffle=False)
    first = int(stream.rectangle(0, 29, check=False).failed[0])
    for make in (stream.rectangle, stream.pack):
        unchecked = make(0, 29, "cuda", check=False)
        assert unchecked.failed.tolist() == [first]
        assert make(0, 20, out=_cut(stream, make, unchecked), check=False).failed.tolist() == [first]
        with pytest.raises(ValueError, match=f"row {first}: no crossing row"):
            make(0, 29, "cuda")


def _cut(stream, make, arrays):
    """Arrays for 20 rows that share `failed`."""
    empty = stream.empty_batch if make == stream.rectangle else stream.empty_pack
    return dataclasses.replace(empty(20, "cuda"), failed=arrays.failed)


@needs_gpu
def test_bad_rows_are_found_on_the_gpu(world):
    cities = torch.tensor([[0, 1], [3, 3], [4, 99_999]], dtype=torch.int32, device="cuda")
    with pytest.raises(ValueError, match="city 3 is repeated in row 1"):
        wf.label("distance", world, cities)
    with pytest.raises(IndexError, match="city index 99999 in row 0"):
        wf.label("distance", world, cities[2:])
    with pytest.raises(ValueError, match="device"):
        wf.label("distance", world, cities, out=torch.empty(3, dtype=torch.int64))
    labels = wf.label("distance", world, cities, check=False)
    assert labels.tolist() == [int(wf.label("distance", world, cities[:1])[0]), -1, -1]


@needs_gpu
def test_arrays_that_do_not_fit(world):
    stream = Stream(world, MIXTURE, seed=4)
    batch, pack = stream.empty_batch(10, "cuda"), stream.empty_pack(10, "cuda")
    for field in ("length", "cities", "failed"):
        bad = dataclasses.replace(batch, **{field: getattr(batch, field).cpu()})
        with pytest.raises(ValueError, match=rf"out\.{field}: .*device"):
            stream.rectangle(0, 10, out=bad)
    with pytest.raises(ValueError, match=r"out\.scratch: .*device"):
        stream.pack(0, 10, out=dataclasses.replace(pack, scratch=pack.scratch.cpu()))
    with pytest.raises(ValueError, match="start: .*device"):
        stream.pack(np.array([3]), 10, out=pack)


@needs_gpu
def test_cupy_without_a_copy(world):
    cupy = pytest.importorskip("cupy")
    stream = Stream(world, MIXTURE, seed=4)
    torch_batch = stream.rectangle(0, 1000, "cuda")
    torch.cuda.synchronize()
    for field in FIELDS:
        tensor = getattr(torch_batch, field)
        for array in (cupy.asarray(tensor), cupy.from_dlpack(tensor)):
            assert array.data.ptr == tensor.data_ptr()
            assert np.array_equal(array.get(), tensor.cpu().numpy())
    batch = dataclasses.replace(
        stream.empty_batch(1000, "cuda"),
        **{name: cupy.empty_like(cupy.asarray(getattr(torch_batch, name))) for name in FIELDS},
        failed=cupy.full(1, -1, dtype=cupy.int64),
    )
    with cupy.cuda.Stream(non_blocking=True) as own:
        got = stream.rectangle(0, 1000, out=batch)
        own.synchronize()
    for field in FIELDS:
        assert getattr(got, field) is getattr(batch, field)
        assert np.array_equal(getattr(got, field).get(), getattr(torch_batch, field).cpu().numpy()), field
    distance = wf.sample(world, "distance", n=500)
    with cupy.cuda.Stream(non_blocking=True):
        labels = wf.label("distance", world, cupy.asarray(distance.cities))
        assert isinstance(labels, cupy.ndarray) and np.array_equal(labels.get(), distance.label)
        labels = wf.label("distance", xy=cupy.asarray(world.xy[distance.cities]))
        assert isinstance(labels, cupy.ndarray) and np.array_equal(labels.get(), distance.label)


@pytest.mark.skipif(core.cuda and torch.cuda.is_available(), reason="there is a GPU")
def test_asked_for_and_not_there(world):
    stream = Stream(world, MIXTURE, seed=4)
    for call in (
        lambda: wf.sample(world, "distance", n=1, device="cuda"),
        lambda: stream.pack(0, 1, "cuda"),
        lambda: stream.empty_batch(1, "cuda"),
    ):
        with pytest.raises(RuntimeError, match="CUDA"):
            call()

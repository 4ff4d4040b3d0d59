"""Rows on a GPU: those of the CPU on every bit, a billion of them where there is time, then rates by task into
arrays that are there."""

import dataclasses

import gpu_device
import torch
from harness import Contestant, Unit, copying, run_on_device

import worldfast as wf
from worldfast.worlds.cities import Stream

GPU = gpu_device.DEVICE
DEVICE = GPU.place
FIELDS = ("tokens", "length", "answer_start", "cities", "label", "task")
OPTIONS = ({"must_include": "region == 'Atlantis'"}, {"among": "region != 'Atlantis'"})
VOCABULARIES = ("character", "entity")


def stream_of(world, tasks, rows, seed=42, vocabulary="character", **options):
    """Rows of one task in order, or of several shuffled."""
    parts = [wf.Component(task, rows // len(tasks), **options) for task in tasks]
    return Stream(world, parts, seed=seed, vocabulary=vocabulary, shuffle=len(tasks) > 1)


def pinned(batch):
    """A Batch like this one in memory that a GPU reads without a copy in between."""
    new = {name: GPU.pinned(torch.from_numpy(getattr(batch, name))).numpy() for name in FIELDS}
    return dataclasses.replace(batch, **new)


def require_same(gpu, cpu, fields):
    for name in fields:
        expected = torch.from_numpy(getattr(cpu, name)).to(DEVICE, non_blocking=True)
        assert torch.equal(getattr(gpu, name), expected), f"{name} differs from the CPU's"
    assert int(gpu.failed[0]) == int(cpu.failed[0]) == -1, "there are rows that were not found"


class Places:
    """Arrays that rows of a kind are made into, on both sides, and kept for the next of that kind."""

    def __init__(self):
        self._kept = {}

    def of(self, key, stream, n):
        if key not in self._kept:
            gpu = GPU.tensors(stream.empty_batch(n, DEVICE))
            self._kept[key] = gpu, pinned(stream.empty_batch(n))
        return self._kept[key]


def verify_rows(world, tasks, vocabulary, chunk, seed, places):
    """Rows of a task or of the mix, and labels of their cities, are those of the CPU, bit for bit: their number."""
    stream = stream_of(world, tasks, chunk, seed, vocabulary)
    gpu, cpu = places.of((tasks, vocabulary), stream, chunk)
    gpu = stream.rectangle(0, chunk, out=gpu, check=False)
    cpu = stream.rectangle(0, chunk, out=cpu)
    require_same(gpu, cpu, FIELDS)
    if len(tasks) == 1:
        assert torch.equal(torch.as_tensor(wf.label(tasks[0], world, gpu.cities)), gpu.label), "labels differ"
    return chunk


def verify_options(world, tasks, vocabulary, options, n):
    """The same of rows among some cities, also packed."""
    stream = stream_of(world, tasks, n, vocabulary=vocabulary, **options)
    gpu = GPU.tensors(stream.empty_batch(n, DEVICE))
    require_same(stream.rectangle(0, n, out=gpu), stream.rectangle(0, n), FIELDS)
    pack = stream.pack(7, n, out=GPU.tensors(stream.empty_pack(n, DEVICE)))
    require_same(pack, stream.pack(7, n), ("tokens", "row_start", "answer_start"))
    return 2 * n


def written(batch):
    return sum(getattr(batch, name).nbytes for name in FIELDS)


def time_rows(part, case, n, size, run):
    unit = Unit("ns/row", lambda seconds: seconds * 1e9 / n)
    contestant = Contestant("worldfast", run, limits=(copying(size, DEVICE),))
    found = run_on_device("labels", f"{case}, {n:,} rows of {size / n:.0f} bytes", [contestant], part.out, unit)
    print(f"{1e9 / found[0].median:.3g} rows/s")


def time_task(part, world, tasks, rows):
    for vocabulary in VOCABULARIES:
        stream = stream_of(world, tasks, rows, vocabulary=vocabulary)
        batch = stream.rectangle(0, rows, out=GPU.tensors(stream.empty_batch(rows, DEVICE)))
        case = f"{tasks[0] if len(tasks) == 1 else 'shuffled mix'}, {vocabulary}"
        run = lambda: stream.rectangle(0, rows, out=batch, check=False)  # noqa: E731, B023
        time_rows(part, case, rows, written(batch), run)
    if len(tasks) == 1:
        size, cities, label = batch.cities.nbytes + batch.label.nbytes, batch.cities, batch.label
        run = lambda: wf.label(tasks[0], world, cities, out=label, check=False)  # noqa: E731
        time_rows(part, f"{tasks[0]}, labels alone", rows, size, run)


def time_packs(part, world, n, rows):
    """Rows of a training step, in a CUDA graph as they are there."""
    stream = stream_of(world, tuple(wf.TASKS), rows)
    start = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    pack = stream.pack(start, n, out=GPU.tensors(stream.empty_pack(n, DEVICE)), check=False)
    size = pack.row_start.nbytes + pack.answer_start.nbytes + 4 * int(pack.row_start[-1])

    def step():
        nonlocal start
        stream.pack(start, n, out=pack, check=False)
        start += n

    time_rows(part, "shuffled mix, packed, a CUDA graph", n, size, GPU.recorded(step))


def time_sample(part, world, rows):
    mix, device = list(wf.TASKS), None if part.dry else DEVICE
    batch = wf.sample(world, mix, n=rows, device=device)
    run = lambda: wf.sample(world, mix, n=rows, device=device)  # noqa: E731
    time_rows(part, "mix in turns, wf.sample", rows, written(batch), run)


def labels(part):
    """Agreement, then times; what time is left goes into more rows that agree."""
    tiny = part.dry
    world = wf.World.cities().with_atlantis()
    tasks = [("distance",), tuple(wf.TASKS)] if tiny else [*((task,) for task in wf.TASKS), tuple(wf.TASKS)]
    kinds = [(of, vocabulary) for of in tasks for vocabulary in VOCABULARIES]
    chunk, few, rows = (1_000, 100, 1_000) if tiny else (2_500_000, 100_000, 10_000_000)
    places, seen = Places(), 0
    for of, vocabulary in kinds:
        name = f"{'+'.join(of) if len(of) == 1 else 'mix'}, {vocabulary}"
        seen += part.agrees(f"rows of {name}", verify_rows, world, of, vocabulary, chunk, 0, places) or 0
        for options in OPTIONS:
            [where] = options.values()
            case = f"rows of {name}, {where}"
            seen += part.agrees(case, verify_options, world, of, vocabulary, options, few) or 0
    print(f"{seen:,} rows agree with the CPU on every bit", flush=True)
    for of in tasks:
        part.case(f"times of {'+'.join(of) if len(of) == 1 else 'the mix'}", time_task, part, world, of, rows)
    for n in (64, 128) if tiny else (2_048, 1_000_000):  # a training step's batch; one that fills the GPU
        part.case(f"times of {n:,} packed", time_packs, part, world, n, rows)
    part.case("times of wf.sample", time_sample, part, world, rows)
    part.case("more rows", verify_more, part, world, kinds, chunk, places)


def verify_more(part, world, kinds, chunk, places, most=1_000_000_000):
    """Other seeds, in turns over kinds of rows, up to a billion rows or until two thirds of the time are gone."""
    until, seen, seed = part.left() / 3, 0, 1
    while seen < (2 * chunk if part.dry else most) and part.left() > until:
        seen += verify_rows(world, *kinds[seed % len(kinds)], chunk, seed, places)
        seed += 1
    print(f"{seen:,} more rows of other seeds agree with the CPU on every bit", flush=True)

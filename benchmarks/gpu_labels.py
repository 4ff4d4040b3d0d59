"""Rows on a GPU: those of the CPU on every bit, a billion of them, then rates by task into arrays that are there."""

import dataclasses

import torch
from harness import Contestant, Unit, copying, run_on_device

import worldfast as wf

DEVICE = "cuda"
FIELDS = ("tokens", "length", "answer_start", "cities", "label", "task")
OPTIONS = ({"must_include": "region == 'Atlantis'"}, {"among": "region != 'Atlantis'"})
VOCABULARIES = ("character", "entity")


def stream_of(world, tasks, rows, seed=42, vocabulary="character", **options):
    """Rows of one task in order, or of several shuffled."""
    parts = [wf.Component(task, rows // len(tasks), **options) for task in tasks]
    return wf.Stream(world, parts, seed=seed, vocabulary=vocabulary, shuffle=len(tasks) > 1)


def pinned(batch):
    """A Batch like this one in memory that a GPU reads without a copy in between."""
    new = {name: torch.from_numpy(getattr(batch, name)).pin_memory().numpy() for name in FIELDS}
    return dataclasses.replace(batch, **new)


def require_same(case, gpu, cpu, fields):
    for name in fields:
        expected = torch.from_numpy(getattr(cpu, name)).to(DEVICE, non_blocking=True)
        assert torch.equal(getattr(gpu, name), expected), f"{case}: {name} differs"
    assert int(gpu.failed[0]) == int(cpu.failed[0]) == -1, case


def verify_labels(world, rows, chunk=2_500_000):
    """Rows of every task and of the mix, and labels of their cities, are those of the CPU, bit for bit: the number of rows.

    In chunks that take turns over tasks and vocabularies, each of another seed.
    """
    cases = [(task,) for task in wf.TASKS] + [tuple(wf.TASKS)]
    places, seen = {}, 0
    for seed in range(-(-rows // chunk)):
        tasks, vocabulary = cases[seed % len(cases)], VOCABULARIES[seed // len(cases) % 2]
        stream = stream_of(world, tasks, chunk, seed, vocabulary)
        if (tasks, vocabulary) not in places:
            places[tasks, vocabulary] = stream.empty_batch(chunk, DEVICE), pinned(stream.empty_batch(chunk))
        gpu, cpu = places[tasks, vocabulary]
        gpu = stream.rectangle(0, chunk, out=gpu, check=False)
        cpu = stream.rectangle(0, chunk, out=cpu)
        require_same((seed, tasks, vocabulary), gpu, cpu, FIELDS)
        if len(tasks) == 1:
            assert torch.equal(wf.label(tasks[0], world, gpu.cities), gpu.label), tasks
        seen += chunk
    for tasks in cases:
        for vocabulary in VOCABULARIES:
            for options in OPTIONS:
                stream = stream_of(world, tasks, 100_000, vocabulary=vocabulary, **options)
                case = (tasks, vocabulary, options)
                require_same(case, stream.rectangle(0, 100_000, DEVICE), stream.rectangle(0, 100_000), FIELDS)
                packs = stream.pack(7, 100_000, DEVICE), stream.pack(7, 100_000)
                require_same(case, *packs, ("tokens", "row_start", "answer_start"))
                seen += 200_000
    return seen


def written(batch):
    return sum(getattr(batch, name).nbytes for name in FIELDS)


def labels(out, verify_rows=1_000_000_000, rows=10_000_000):
    """Agreement, then times, into the folder `out`."""
    world = wf.World.cities().with_atlantis()
    print(f"{verify_labels(world, verify_rows):,} rows agree with the CPU on every bit", flush=True)

    def measure(case, n, size, run):
        unit = Unit("ns/row", lambda seconds: seconds * 1e9 / n)
        contestant = Contestant("worldfast", run, limits=(copying(size, DEVICE),))
        found = run_on_device(
            "labels", f"{case}, {n:,} rows of {size / n:.0f} bytes", [contestant], out, unit
        )
        print(f"{1e9 / found[0].median:.3g} rows/s")

    for tasks in [*((task,) for task in wf.TASKS), tuple(wf.TASKS)]:
        for vocabulary in VOCABULARIES:
            stream = stream_of(world, tasks, rows, vocabulary=vocabulary)
            batch = stream.rectangle(0, rows, DEVICE)
            case = f"{tasks[0] if len(tasks) == 1 else 'shuffled mix'}, {vocabulary}"
            measure(case, rows, written(batch), lambda: stream.rectangle(0, rows, out=batch, check=False))
        if len(tasks) == 1:
            size = batch.cities.nbytes + batch.label.nbytes
            cities, label = batch.cities, batch.label
            case = f"{tasks[0]}, labels alone"
            measure(case, rows, size, lambda: wf.label(tasks[0], world, cities, out=label, check=False))
    for n in (
        2_048,
        1_000_000,
    ):  # a training step's batch, in a CUDA graph as it is there; one that fills the GPU
        stream = stream_of(world, tuple(wf.TASKS), rows)
        pack, start = stream.pack(0, n, DEVICE), torch.zeros(1, dtype=torch.int64, device=DEVICE)
        size = pack.tokens.nbytes + pack.row_start.nbytes + pack.answer_start.nbytes
        pack, graph = stream.empty_pack(n, DEVICE), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            stream.pack(start, n, out=pack, check=False)
            start += n
        measure("shuffled mix, packed, a CUDA graph", n, size, graph.replay)
    mix = list(wf.TASKS)
    batch = wf.sample(world, mix, n=rows, device=DEVICE)
    measure(
        "mix in turns, wf.sample", rows, written(batch), lambda: wf.sample(world, mix, n=rows, device=DEVICE)
    )

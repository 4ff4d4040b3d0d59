"""Sampling, labelling and encoding rows: nanoseconds a row, by task and for the uniform mix.

    python benchmarks/labels.py [--rows 7000000] [--repeats 7] [--threads 1 2]

Verified against the independent oracle of the tests. The limit is moving as many bytes as the rows' arrays
have.
"""

import sys
from pathlib import Path

import numpy as np
from harness import CORES, Contestant, Unit, arguments, copying, run

import worldfast as wf

sys.path.insert(0, str(Path(__file__).parent.parent / "python_tests"))
import oracle


def wrong_labels(world, batch, among=20_000):
    """Count the first rows whose label differs from the oracle's."""
    task, cities, label = batch.task[:among], batch.cities[:among], batch.label[:among]
    count = (cities >= 0).sum(1).astype(np.int32)
    xy = world.xy[np.maximum(cities, 0)]  # [n, k, 2]
    wrong = 0
    for index in np.unique(task):
        rows = task == index
        wrong += (label[rows] != oracle.label(list(wf.TASKS)[index], xy[rows], count[rows])).sum()
    return wrong


def written(batch):
    """Bytes of a batch."""
    arrays = (batch.tokens, batch.length, batch.answer_start, batch.cities, batch.label, batch.task)
    return sum(array.nbytes for array in arrays)


def contestants(world, tasks, n, threads):
    again = wf.sample(world, tasks, n=n)
    for count in threads:
        limits = (copying(written(again), threads=count),)
        for name, out in (("", None), (" into arrays that are there", again)):
            yield Contestant(
                f"worldfast, {count} threads{name}",
                lambda count=count, out=out: wf.sample(world, tasks, n=n, threads=count, out=out),
                lambda batch: wrong_labels(world, batch),
                limits=limits,
            )


def gains(found, threads):
    """Speed of more threads relative to the first number of threads, as ratios of medians, in words."""
    medians = [row.median for row in found if not row.contestant.startswith("limit: ")]
    new, there = medians[::2], medians[1::2]  # in the order of `contestants`
    return "\n".join(
        f"{count} threads are {new[0] / new[i]:.2f}x as fast as {threads[0]}, {there[0] / there[i]:.2f}x into arrays that are there"
        for i, count in enumerate(threads)
        if i
    )


def main():
    parser = arguments(__doc__, repeats=7, threads=sorted({1, CORES}))
    parser.add_argument("--rows", type=int, default=7_000_000)
    options = parser.parse_args()
    world = wf.World.cities()
    n, n_mix = (2_000, 2_000) if options.quick else (1_000_000, options.rows)
    cases = [(task, [task], n) for task in wf.TASKS] + [("uniform mix", list(wf.TASKS), n_mix)]
    for name, tasks, rows in cases:
        unit = Unit("ns/row", lambda seconds, rows=rows: seconds * 1e9 / rows)
        case = f"{name}, {rows:,} rows"
        found = run("labels", case, list(contestants(world, tasks, rows, options.threads)), options, unit)
        print(gains(found, options.threads))


if __name__ == "__main__":
    main()

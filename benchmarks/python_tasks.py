"""Rows of tasks in Python beside those of built-in tasks: millions of rows a second, on one thread.

    python benchmarks/python_tasks.py [--rows 1000000] [--repeats 7]

Rows are verified against the task's function and Python's own text of them. The limit is moving as many bytes as the
rows' arrays have. Rows of a task in Python are made on one thread, so that is what all have here. A line says how many
bytes a row has that is made here for a GPU, from which the share of a link can be counted.
"""

import sys

import numpy as np
from harness import Contestant, Unit, arguments, copying, run

import worldfast as wf
from worldfast.worlds.cities import Stream

STEP = 128  # rows of a training step


@wf.task("mid", cities=2, unit="0.1 degree")
def midpoint(xy):
    return (xy[:, 0, 0] + xy[:, 1, 0]) // 2


@wf.task("dist_again", cities=2, unit="0.1 degree")
def distance(xy):
    difference = xy[:, 1] - xy[:, 0]
    return np.rint(np.hypot(difference[:, 0], difference[:, 1])).astype(np.int64)


@wf.task("east", cities=2, choices=("FALSE", "TRUE"), balanced=True)
def is_east(xy):
    return xy[:, 1, 0] > xy[:, 0, 0]


@wf.task("near", cities=2, choices=("FALSE", "TRUE"), balanced=True)
def is_near(xy):
    return (np.abs(xy[:, 1] - xy[:, 0]) < 400).all(1)


@wf.task("spread", cities=(2, 5), unit="0.1 degree")
def spread(xy):
    return np.ptp(xy[:, :, 0], axis=1)


CASES = ["distance", midpoint, distance, "compass", is_east, is_near, "inside", "perimeter", spread]
LEAST = {True: 500_000, False: 2_000_000}  # rows a second that a task of two cities has to reach; True: balanced


def wrong_rows(world, task, batch, among=20_000):
    """Rows among the first whose label or text is another than the task's rule and Python give."""
    task = wf.TASKS[task] if isinstance(task, str) else task
    cities = batch.cities[:among]
    labels = wf.label(task, world, cities)
    wrong = batch.label[:among] != labels
    for i in range(0, len(cities), 50):
        ids = world.city_id[cities[i, cities[i] >= 0]]
        wrong[i] |= batch.text(i) != task.question(ids) + task.answer(labels[i])
    return int(wrong.sum())


def written(batch):
    """Bytes of a batch."""
    arrays = (batch.tokens, batch.length, batch.answer_start, batch.cities, batch.label, batch.task)
    return sum(array.nbytes for array in arrays)


def pack_steps(stream, steps):
    """Rows of so many training steps, one call each; the last of them."""
    for step in range(steps):
        packed = stream.pack(step * STEP, STEP)
    return packed


def main():
    parser = arguments(__doc__, repeats=7, threads=[1])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    world = wf.World.cities()
    n, slow = 2_000 if options.quick else options.rows, []
    for task in CASES:
        name = task if isinstance(task, str) else f"{task.name} in Python"
        again = wf.sample(world, task, n=n)
        stream = Stream(world, [wf.Component(task, n)], seed=1)
        expected = stream.pack((n // STEP - 1) * STEP, STEP)
        unit = Unit("M rows/s", lambda seconds: n / seconds / 1e6)
        contestants = [
            Contestant(
                "worldfast, rows into arrays that are there",
                lambda task=task, out=again: wf.sample(world, task, n=n, threads=1, out=out),
                lambda batch, task=task: wrong_rows(world, task, batch),
                limits=(copying(written(again), threads=1),),
            ),
            Contestant(
                f"worldfast, steps of {STEP} rows, packed",
                lambda stream=stream: pack_steps(stream, n // STEP),
                lambda packed, expected=expected: int((packed.tokens != expected.tokens).sum()),
                times=n / (n // STEP * STEP),
            ),
        ]
        found = run("python_tasks", f"{name}, {n:,} rows", contestants, options, unit)
        print(f"packed for a GPU: {4 * float(again.length.mean()) + 8:.0f} bytes a row")
        if not isinstance(task, str) and task.max_cities == 2 and not options.quick:
            share = found[0].median / (LEAST[task.balanced] / 1e6)
            print(f"{share:.1f} times the least that is asked for")
            slow += [name] * bool(share < 1)
    if slow:
        sys.exit(f"slower than is asked for: {', '.join(slow)}")


if __name__ == "__main__":
    main()

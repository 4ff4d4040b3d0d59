"""Sampling, labelling and encoding rows: nanoseconds a row, by task and for the uniform mix, on one thread and more.

    python benchmarks/labels.py [--rows 7000000] [--repeats 7]

Beside each time stands the share of it that writing the same output arrays alone would take.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from harness import compare, machine, record

import worldfast as wf

sys.path.insert(0, str(Path(__file__).parent.parent / "python_tests"))
import oracle


def verify(world):
    """A sample of every task agrees with the independent oracle."""
    for task in wf.TASKS:
        batch = wf.sample(world, task, n=20_000)
        count = (batch.cities >= 0).sum(1).astype(np.int32)
        xy = world.xy[np.maximum(batch.cities, 0)]
        assert np.array_equal(batch.label, oracle.label(task, xy, count)), task


def write_alone(batch):
    """Writes arrays like the batch's once, and does nothing else."""
    for array in (batch.tokens, batch.length, batch.answer_start, batch.cities, batch.label, batch.task):
        np.empty_like(array).fill(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=7_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    world = wf.World.cities()
    verify(world)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    mix = list(wf.TASKS)
    print(f"{machine()}\n\n{'case':20}{'ns a row':>10}{'p20':>8}{'p80':>8}{'writing alone':>16}")
    for name, tasks, rows in [*((task, task, 1_000_000) for task in mix), ("uniform mix", mix, options.rows)]:
        like = wf.sample(world, tasks, n=rows)
        contestants = {
            "one thread": lambda: wf.sample(world, tasks, n=rows, threads=1),
            f"{cores} threads": lambda: wf.sample(world, tasks, n=rows, threads=cores),
            "writing alone": lambda: write_alone(like),
        }
        timings = compare(contestants, options.repeats)
        for contestant in list(contestants)[:2]:
            t, alone = timings[contestant], timings["writing alone"].median
            scale = 1e9 / rows
            print(
                f"{name:20}"
                f"{t.median * scale:10.1f}{t.quantile(0.2) * scale:8.1f}{t.quantile(0.8) * scale:8.1f}"
                f"{alone / t.median:15.0%}   {contestant}"
            )
        record("labels", f"{name}, {rows:,} rows", timings, scale=1e9 / rows, unit="ns/row")
    one, many = timings["one thread"].median, timings[f"{cores} threads"].median
    print(f"\n{options.rows:,} rows of the mix: {one:.3f} s on one thread, {many:.3f} s on {cores} ({one / many:.2f}x)")


if __name__ == "__main__":
    main()

"""Everything a GPU must show, in one call: every GPU path agrees with the CPU, then it is timed.

    python benchmarks/gpu.py [--out FOLDER]

Runs offline. Where the module is not built yet, it is built first, once. Prints a short table and writes gpu.csv to FOLDER.
"""

import argparse
import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

if importlib.util.find_spec("worldfast._core") is None:
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(build, cwd=ROOT, env=os.environ | {"WORLDFAST_CUDA": "ON"}, check=True)

import numpy as np
import torch
from harness import Timing, record

import worldfast as wf

OPTIONS = ({}, {"must_include": "region == 'Atlantis'"}, {"among": "region != 'Atlantis'"})


def verify(world, rows):
    """Every array of every task's rows, and labels of given cities, are those of the CPU, bit for bit. Returns rows."""
    seen = 0
    for task in wf.TASKS:
        for vocabulary in ("character", "entity"):
            for options in OPTIONS:
                split = "test" if options else "train"
                n = min(rows, 40_000) if options else rows
                cpu = wf.sample(world, task, n=n, split=split, vocabulary=vocabulary, **options)
                gpu = wf.sample(world, task, n=n, split=split, vocabulary=vocabulary, device="cuda", **options)
                for name in ("tokens", "length", "answer_start", "cities", "label", "task"):
                    same = np.array_equal(getattr(cpu, name), getattr(gpu, name).cpu().numpy())
                    assert same, f"{task}, {vocabulary}, {options}: {name} differs"
                seen += n
        assert torch.equal(wf.label(task, world, gpu.cities), gpu.label), task
    return seen


def timed(run, repeats=20):
    for _ in range(3):
        run()
    seconds = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return Timing(np.array(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--verify-rows", type=int, default=2_000_000)
    parser.add_argument("--rows", type=int, default=20_000_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name()
    world = wf.World.cities().with_atlantis()
    print(f"{device}: {verify(world, options.verify_rows):,} rows agree with the CPU")
    table = [("case", "ns_per_row", "rows_per_second", "gigabytes_written_per_second")]
    for task in wf.TASKS:
        n = min(options.rows, 10_000_000)
        batch = wf.sample(world, task, n=n, device="cuda")
        written = sum(t.nbytes for t in (batch.tokens, batch.length, batch.answer_start, batch.cities, batch.label, batch.task))
        timing = timed(lambda: wf.sample(world, task, n=n, device="cuda"))
        record("labels", f"{task}, {n:,} rows", {"CUDA": timing}, scale=1e9 / n, unit="ns/row", device=device)
        table.append((task, timing.median * 1e9 / n, n / timing.median, written / timing.median / 1e9))
    with open(options.out / "gpu.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    print(f"{'task':14}{'ns a row':>10}{'rows/s':>12}{'GB/s':>8}")
    for case, nanoseconds, rate, bandwidth in table[1:]:
        print(f"{case:14}{nanoseconds:10.2f}{rate:12.3g}{bandwidth:8.0f}")


if __name__ == "__main__":
    main()

"""Same everywhere: labels and tokens on any number of threads, cut anywhere, at each width of vectors that the processor
has, and in builds with sanitizers; weights on any number of threads. Every bit is equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import worldfast as wf
from torture.core import RUNTIMES, sanitized
from torture.tally import Tally
from worldfast._native import core
from worldfast.capture import Capture
from worldfast.worlds import cities

PROMISE = "same everywhere"
TARGET = 5_000_000  # rows compared
THREADS = (1, 2, 7)
WIDTHS = {4: "SSE2", 8: "AVX2", 16: "AVX-512"}
ROWS = 2_000
OF_A_GPU = "its rows are compared by python_tests/rows/test_cuda.py"
ROOT = Path(__file__).parents[1]

RUN = wf.Run(
    cities.Dataset(("distance", "angle"), rows=160, loss="answer"),
    batch=32,
    learning_rate=3e-3,
    model=wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=48),
    checkpoints=2,
    capture=Capture(layers=(1, 2), readout={"among": "index < 40"}),
)


def case(seed: int) -> dict:
    """Return arguments of `sample`, drawn by a seed."""
    chance = random.Random(seed)
    return {
        "task": chance.choice(list(wf.TASKS)),
        "seed": chance.randrange(1 << 31),
        "start": chance.choice((0, chance.randrange(10_000))),
        "split": chance.choice(("train", "validation", "test")),
        "vocabulary": chance.choice(("character", "entity")),
        "crossing": chance.choice(("balanced", "reshuffled")),
        "noise": chance.choice((0.0, 0.3)),
    }


def digest(batches) -> str:
    found = hashlib.sha256()
    for name in ("tokens", "length", "answer_start", "cities", "label"):
        found.update(np.concatenate([getattr(batch, name) for batch in batches]).tobytes())
    return found.hexdigest()


def rows(how: dict, n: int, threads: int = 1, cuts: tuple[int, ...] = ()) -> str:
    """Return the digest of n rows that are made in pieces, and labelled once more."""
    world, how = wf.World.cities(), dict(how)
    task, start = how.pop("task"), how.pop("start")
    edges = (0, *sorted(cuts), n)
    pieces = [
        wf.sample(world, task, b - a, start=start + a, threads=threads, **how)
        for a, b in zip(edges, edges[1:])
        if b > a
    ]
    found = digest(pieces)
    if how["noise"] == 0 and how["crossing"] == "balanced":
        for piece in pieces:
            again = wf.label(task, world, piece.cities, threads=threads)
            if not np.array_equal(again, piece.label):
                raise AssertionError(f"{task}: labels differ from those of the rows")
    return found


def weights(threads: int, place: Path) -> str:
    """Return the digest of what training on so many threads leaves."""
    with tempfile.TemporaryDirectory(dir=place) as out:
        (folder,) = wf.train(replace(RUN, name="same"), out, device="cpu", threads=threads, progress=False)
        found = wf.Activations(folder)
        arrays = [found[step, layer].tobytes() for step in found.steps for layer in found.layers]
        return hashlib.sha256(b"".join(arrays)).hexdigest()


def of_seeds(seeds: list[int], n: int, widths: list[int], threads: int) -> list[str]:
    """Return digests of the rows of each seed, at each width of vectors."""
    found = []
    for width in widths:
        core.limit_vector_width(width)
        found += [rows(case(seed), n, threads) for seed in seeds]
    return found


def site_of(kind: str, make: bool) -> Path:
    """Return the folder of a package with a sanitizer, made by .ci/sanitize; raises an OSError where there is none."""
    if make:
        command = [ROOT / ".ci" / "sanitize", kind]
        environment = {**os.environ, "PYTHON": sys.executable}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f".ci/sanitize {kind}: {(done.stdout + done.stderr)[-300:]}")
    site = ROOT / "build" / f"sanitize-{kind.partition(',')[0]}" / "site"
    if not list(site.glob("worldfast/_core*.so")):
        raise OSError(f"no build with the {kind} sanitizer: .ci/sanitize makes it")
    return site


def in_sanitizers(tally: Tally, seeds: list[int], expected: list[str], n: int, widths: list[int], make: bool) -> None:
    """Make the same rows in builds with sanitizers, at each width of vectors."""
    for kind in RUNTIMES:
        try:
            site, variables = site_of(kind, make), sanitized(kind)
        except OSError as error:
            tally.notes.append(str(error))
            continue
        environment = {**os.environ, **variables, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        made = f"of_seeds({seeds}, {n}, {widths}, threads=2)"
        code = f"import json; from torture.everywhere import of_seeds; print(json.dumps({made}))"
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=site, capture_output=True, text=True)
        answers = json.loads(done.stdout) if done.returncode == 0 else []
        if answers == expected * len(widths):
            tally.hold(f"rows under the {kind} sanitizer", n * len(answers))
        else:
            tally.fail(f"rows under the {kind} sanitizer", f"exit code {done.returncode}: {done.stderr[-500:]}")


def run(tally: Tally, make: bool = True) -> None:
    """Compare rows of drawn streams, made in every way, with those of one thread in one piece at the widest vectors; builds
    with sanitizers are made, or used where they are.
    """
    chance = random.Random(tally.seed)
    widths = [width for width in WIDTHS if core.limit_vector_width(width) == width]
    tally.notes.append(f"widths of vectors here: {', '.join(WIDTHS[width] for width in widths)}")
    tally.notes.append(f"GPU: not run{'' if torch.cuda.is_available() else ', none is here'}: {OF_A_GPU}")
    core.limit_vector_width(max(widths))
    seeds, expected, number = [], [], 0
    while tally.going:
        seed = chance.randrange(1 << 40)
        how = case(seed)
        whole = rows(how, ROWS)
        if number < 10:
            seeds.append(seed)
            expected.append(whole)
        for width in widths:
            core.limit_vector_width(width)
            for threads in THREADS:
                cuts = tuple(chance.randrange(ROWS) for _ in range(chance.randrange(5)))
                found = rows(how, ROWS, threads, cuts)
                kind = f"rows: {WIDTHS[width]}, threads: {threads}"
                if found == whole:
                    tally.hold(kind, ROWS)
                else:
                    tally.fail(kind, f"{how} cut at {cuts}")
        core.limit_vector_width(max(widths))
        if number % 20 == 0:
            for width in widths:
                core.limit_vector_width(width)
                ways = {threads: weights(threads, tally.place) for threads in THREADS}
                tally.expect(f"weights: {WIDTHS[width]}", len(set(ways.values())) == 1, ways)
            core.limit_vector_width(max(widths))
        number += 1
    in_sanitizers(tally, seeds, expected, ROWS, widths, make)

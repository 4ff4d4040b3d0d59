"""Numbers that a change of the code's shape may not change: `python python_tests/golden.py` writes golden.json anew.

Labels, tokens, weights and activations are the same bits on every processor, at the vector widths 4 and 8. Tables come
from NumPy, SciPy and their BLAS: each column stands as its sum. The page stands as the digest of its text.
"""

import hashlib
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import synthetic
from synthetic_study import large_study
from vectors import vectors_of

import worldfast as wf
from worldfast.analysis import task_matrix, trends
from worldfast.report import report
from worldfast.training import load
from worldfast.worlds.cities import Dataset, improvement, studies
from worldfast.worlds.cities.tasks import TASKS

GOLDEN = Path(__file__).with_suffix(".json")
WIDTHS = (4, 8)

TINY = wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=64, outputs=98)
RUN = wf.Run(
    Dataset(("distance", "inside"), rows=320, world=wf.WorldSpec(largest=200, atlantis=20)),
    batch=32,
    warmup=4,
    checkpoints=2,
    learning_rate=0.002,
    model=TINY,
    capture=wf.Capture(layers=(1, 2)),
)  # 20 steps


def digest(*arrays) -> str:
    """SHA-256 of dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def rows() -> dict[str, str]:
    """Tokens, where rows begin, and answers, of every task: with Atlantis, in both vocabularies."""
    world = wf.World.cities().with_atlantis()
    found = {}
    for task in TASKS:
        for vocabulary in ("character", "entity"):
            batch = wf.sample(world, task, n=1000, seed=7, vocabulary=vocabulary)
            found[f"{task}, {vocabulary}"] = digest(
                batch.tokens, batch.length, batch.answer_start, batch.cities, batch.label
            )
    return found


def trained(width: int) -> dict[str, str]:
    """Weights after 20 steps of ensembles of two, and what was captured, at this vector width."""
    found = {}
    with vectors_of(width), tempfile.TemporaryDirectory() as out:
        for matmul_dtype in ("float32", "bfloat16"):
            bases = [replace(RUN, seed=seed, matmul_dtype=matmul_dtype) for seed in (0, 1)]
            found |= _of(matmul_dtype, wf.train(bases, out=out, device="cpu", progress=False))
        tuned = replace(RUN, data=replace(RUN.data, tasks=("angle",), among="region == 'Atlantis'"), start=bases[0])
        found |= _of("fine-tuned", wf.train([tuned], out=out, device="cpu", progress=False))
    return found


def _of(name: str, folders) -> dict[str, str]:
    weights, read = [], []
    for folder in folders:
        weights.append(load(folder)[1].parameters.numpy())
        activations = wf.Activations(folder)
        read += [activations[step, layer] for step in activations.steps for layer in (1, 2)]
    return {name: digest(*weights), f"{name}, activations": digest(*read)}


def tables() -> dict[str, dict]:
    """Tables that follow from those of a study that nobody ran."""
    found = synthetic.tables(wf.World.cities().with_atlantis())
    runs = found["runs"]
    tuned = runs[runs.kind == "ft"]
    found["improvement"]["metric"] = "accuracy"
    found["deviation"] = improvement.deviation(found["improvement"], tuned)
    found["trends"] = trends(found["cka"], runs)
    found["matrix"] = task_matrix(found["cka"], runs)
    return {name: _summary(found[name]) for name in ("deviation", "trends", "matrix")}


def _summary(table) -> dict:
    """Sums of columns of numbers, digests of the others."""
    of_column = {}
    for name in table:
        column = table[name]
        numbers = column.dtype.kind in "fiu"
        of_column[name] = float(column.sum()) if numbers else digest(column.astype(str).to_numpy("U"))
    return {"rows": len(table), **of_column}


def page() -> str:
    """Digest of the page of a study that nobody ran, without its figures, styles, scripts and films."""
    text = report.page(large_study(wf.World.cities().with_atlantis(), seeds=1, drawn=False))
    return hashlib.sha256(re.sub(r"(?s)<(script|style)\b.*?</\1>", "", text).encode()).hexdigest()


def identities() -> dict[str, str]:
    """Digests of the names and ids of every run of the presets."""
    presets = (studies.demo, studies.mini, studies.paper, studies.width)
    named = {preset.__name__: [f"{run.name} {run.id}" for run in preset().runs] for preset in presets}
    return {name: hashlib.sha256("\n".join(lines).encode()).hexdigest() for name, lines in named.items()}


def all_of_it() -> dict:
    found = {"rows": rows(), "tables": tables(), "page": page(), "identities": identities()}
    return found | {"trained": {str(width): trained(width) for width in WIDTHS}}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(all_of_it(), indent=1, sort_keys=True) + "\n")

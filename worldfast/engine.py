"""How a study runs: train what is missing, read every run's activations, compare, score, and write down what was found.

    <out>/runs/<name>-<id>/                        as in worldfast.train
    <out>/studies/<name>/probe.csv cka.csv scores.csv   one table an analysis
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

from worldfast import __version__, files
from worldfast.activations import Activations
from worldfast.analysis.cka import cka_matrix
from worldfast.analysis.pca import pca_over_training
from worldfast.analysis.probe import held_out, probe_over_training
from worldfast.evaluate import evaluate, load
from worldfast.study import RunResult, Study, StudyResult
from worldfast.tasks import TASKS
from worldfast.train import train
from worldfast.world import World

__all__ = ["run_study"]


def run_study(study: Study, out: str | os.PathLike = ".", *, threads: int | None = None, progress=True) -> StudyResult:
    """Runs a study in this process and returns what it found. What is done already is not done again.

    out       the folder that holds runs/ and studies/
    threads   CPU threads; None: as many as torch uses
    progress  True: what is going on, on standard error

    Raises what `train` raises; RuntimeError where no run of the study finished.
    """
    out = files.folder(out, "out")
    began = time.perf_counter()
    folders = train(study.runs, out / "runs", threads=threads, progress=progress)
    trained_in = time.perf_counter() - began
    trained = [folder for folder in folders if _ending(folder)["status"] == "finished"]
    if not trained:
        raise RuntimeError(f"study {study.name!r}: no run finished; see metrics.jsonl in {folders[0]}")
    if progress:
        print("reading activations and scoring answers", file=sys.stderr, flush=True)
    world = study.runs[0].world.build()
    captured = [Activations(folder) for folder in trained]
    runs = [_read(activations, study, world) for activations in captured]
    cka = cka_matrix([activations[activations.steps[-1], study.layer] for activations in captured])
    read_in = time.perf_counter() - began - trained_in
    result = StudyResult(
        name=study.name,
        world=world,
        runs=runs,
        cka=cka,
        cka_layer=study.layer,
        test_rows=study.test_rows,
        findings=_findings(runs, cka),
        machine=_machine(threads),
        seconds=max(trained_in, *(run.seconds for run in runs)) + read_in,  # members train side by side
        command=f"worldfast {study.name}",
        version=__version__,
        commit=files.origin("cpu")["commit"],
        date=datetime.date.today().isoformat(),
    )
    _write_tables(files.folder(out / "studies" / study.name, "out"), result)
    return result


def _ending(folder: Path) -> dict:
    return json.loads((folder / "done").read_text())


def _read(activations: Activations, study: Study, world: World) -> RunResult:
    """Everything the study asks of one finished run."""
    folder = activations.folder
    run, ensemble = load(folder)
    cities = activations.cities
    if len(cities) < len(world):
        raise ValueError(f"{folder}: a study reads every city, capture.cities left {len(world) - len(cities)} out")
    test = held_out(len(world))
    probes = probe_over_training(activations, study.layer, world.xy, test)
    components = pca_over_training(activations, study.layer)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("loss") is not None]
    steps = np.array(activations.steps)
    seen = np.array([0, *np.cumsum([run.rows_at(step)[1] for step in range(run.steps)])])  # rows after each step
    scores = {}
    if study.test_rows:
        for task in run.tasks:
            score = evaluate(
                ensemble, 0, world, task, study.test_rows, run.seed, vocabulary=run.vocabulary, among=run.among
            )
            scores[task] = score.value
    return RunResult(
        name=run.name,
        tasks=run.tasks,
        spec=run.to_json(),
        folder=str(folder),
        seconds=_ending(folder)["seconds"],
        loss_rows=np.array([line["rows"] for line in lines], dtype=np.int64),
        loss=np.array([line["loss"] for line in lines], dtype=np.float64),
        steps=steps,
        rows=seen[steps],
        r2=np.stack([probe.r2 for probe in probes]),
        error=np.array([probe.median_error for probe in probes]),
        predicted=np.stack([probe.predicted for probe in probes]),
        held_out=test,
        components=components.projected,
        explained=components.explained,
        scores=scores,
    )


def _findings(runs: list[RunResult], cka: np.ndarray) -> list[str]:
    """What the numbers say, in plain sentences, the main one first."""
    order = sorted(runs, key=lambda run: -run.r2[-1].mean())
    best = order[0]
    sentences = []
    if best.r2[-1].mean() > 0.5:
        sentences.append(
            f"Without ever seeing a coordinate, the model trained on {_taught(best)} has learned a map: half of the "
            f"{int(best.held_out.sum()):,} cities a linear probe was not fitted on lie within {best.error[-1] / 10:.1f} "
            "degrees of where the probe puts them."
        )
    for run in order:
        (x, y), r2 = run.r2[-1], run.r2[-1].mean()
        reached = run.steps[int(np.argmax(run.r2.mean(1) >= 0.9 * r2))] / run.steps[-1]
        sentences.append(
            f"{_taught(run).capitalize()}: R\u00b2 {x:.2f} for x and {y:.2f} for y, "
            + (f"nine tenths of it after {reached:.0%} of training." if r2 > 0.5 else "no map that a linear probe can read.")
        )
    if len(runs) > 1:
        above = [(cka[i, j], i, j) for i in range(len(runs)) for j in range(i)]
        value, i, j = max(above)
        sentences.append(
            f"Of {len(above)} pairs of models, {_taught(runs[j])} and {_taught(runs[i])} arrange the cities most alike: "
            f"linear CKA {value:.2f}"
            + (f"; the least alike pair has {min(above)[0]:.2f}." if len(above) > 1 else ".")
        )
    if best.scores:
        parts = [
            f"{name} {value:.0%} right" if TASKS[name].answers else f"{name} off by {value:,.0f} ({TASKS[name].unit})"
            for name, value in best.scores.items()
        ]
        sentences.append(f"Asked what it has not seen, the model of {_taught(best)} answers: " + ", ".join(parts) + ".")
    return sentences


def _taught(run: RunResult) -> str:
    return "all seven tasks" if len(run.tasks) == len(TASKS) else " and ".join(run.tasks)


def _machine(threads: int | None) -> dict[str, str]:
    import torch

    return {
        "processor": files.origin("cpu")["device"].removeprefix("cpu: "),
        "threads used": str(threads or torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _write_tables(folder: Path, result: StudyResult) -> None:
    names = [run.name for run in result.runs]
    probe = [
        (run.name, step, rows, r2[0], r2[1], error)
        for run in result.runs
        for step, rows, r2, error in zip(run.steps, run.rows, run.r2, run.error, strict=True)
    ]
    _write_table(folder / "probe.csv", ("run", "step", "rows", "r2_x", "r2_y", "median_error_tenths_of_degree"), probe)
    cka = [(a, b, result.cka_layer, result.cka[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)]
    _write_table(folder / "cka.csv", ("run", "other", "layer", "linear_cka"), cka)
    scores = [
        (run.name, task, TASKS[task].metric, TASKS[task].unit, value)
        for run in result.runs
        for task, value in run.scores.items()
    ]
    _write_table(folder / "scores.csv", ("run", "task", "metric", "unit", "value"), scores)


def _write_table(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    files.write_whole(path, text.getvalue().encode())

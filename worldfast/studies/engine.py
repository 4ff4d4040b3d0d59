"""How a study runs: train what is missing, read what is not read yet, and put together what was found.

<out>/runs/<name>-<id>/             as in worldfast.training.train
      readings/                     as in worldfast.worlds.cities.analyses
      studies/<name>/study.json     what it is made of: `worldfast study status` looks there
                     <table>.csv    every table of the result
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from worldfast import __version__, files
from worldfast.analysis.cka import cka_matrix
from worldfast.analysis.pca import mixed_over_training, pca_over_training
from worldfast.analysis.probe import held_out, probe_over_training
from worldfast.errors import unknown_name
from worldfast.run import Run
from worldfast.studies.results import RunResult, StudyResult
from worldfast.studies.study import Study
from worldfast.training import train
from worldfast.training.cluster import run_jobs, train_on_cluster
from worldfast.training.folder import outcome
from worldfast.training.jobs import Job
from worldfast.worlds.cities.analyses import Trained, compute, last_states, made, make, of_study
from worldfast.worlds.cities.findings import comparisons, findings
from worldfast.worlds.cities.tables import tables

__all__ = ["ENGINES", "run_study"]

ENGINES = ("local", "ray")


def run_study(
    study: Study,
    out: str | os.PathLike = ".",
    *,
    engine: str = "local",
    address: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    memory: int | str | None = None,
    progress=True,
    command: str = "",
    train_missing: bool = True,
) -> StudyResult:
    """Runs a study and returns what it found. What is done already is not done again.

    out       the folder that holds runs/, readings/ and studies/; with Ray, one that all nodes share
    engine    "local": in this process; "ray": on the cluster at `address` (docs/cluster.md)
    device, threads, memory   as for `train`, on every node
    progress  True: what is going on, on standard error
    command   that made it, for its page
    train_missing  False: only what has ended is read

    A run that diverges, and what starts from it, is marked and left out of what is read. Raises what `train` raises;
    RuntimeError where no run of the study finished.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    out = files.folder(out, "out")
    began = time.perf_counter()
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True) if progress else None  # noqa: E731
    where = {"device": device, "memory": memory, "progress": progress}
    folder = files.folder(out / "studies" / study.name, "out")
    _write_study(study, folder)
    if not train_missing:
        say("only what has ended is read")
    elif engine == "ray":
        for job, error in train_on_cluster(study.runs, out / "runs", address=address, **where).failed.items():
            say(f"{job} failed: {error} (see {out / 'runs' / 'failed'})")
    else:
        _train(study, out, threads=threads, **where)
    trained_in = time.perf_counter() - began
    ended = {run.id: outcome(run, out / "runs").finished for run in study.runs}
    if not any(ended.values()):
        raise RuntimeError(f"study {study.name!r}: no run finished; see metrics.jsonl in {out / 'runs'}")
    read = {}
    wanted = of_study(study, ended)
    missing = [reading for reading in wanted if not made(reading, out)]
    say(f"reading {sum(ended.values())} runs: {len(missing)} of {len(wanted)} tables to make")
    if engine == "ray":
        jobs = [Job(reading.name, make, (reading, out.absolute()), made, cpus=1) for reading in missing]
        failed = run_jobs(jobs, out, address=address, progress=progress).failed
        if failed:
            name, error = next(iter(failed.items()))
            raise RuntimeError(f"{len(failed)} tables could not be made, {name} first: {error} (see {out / 'failed'})")
    for i, reading in enumerate(wanted):
        if i % 50 == 49:
            say(f"{i + 1} of {len(wanted)} tables")
        read.setdefault(reading.kind, []).append(compute(reading, out))
    found = tables(study, out, read)
    shown = [run for run in study.shown_runs if ended[run.id]] or [run for run in study.runs if ended[run.id]][:1]
    shown = [Trained(run, out) for run in shown if run.world == shown[0].world]
    films = [_film(one, study, found) for one in shown]
    cka = cka_matrix(list(last_states(shown, study.layer, study.cities).values()))
    read_in = time.perf_counter() - began - trained_in
    seconds = found["runs"].seconds
    result = StudyResult(
        name=study.name,
        world=shown[0].world,
        runs=films,
        cka=cka,
        cka_layer=study.layer,
        test_rows=study.test_rows,
        findings=findings(study, found, films, cka),
        machine=_machine(threads),
        seconds=max(trained_in, float(seconds.max())) + read_in,  # members train side by side
        command=command or f"worldfast study run {study.name}",
        version=__version__,
        commit=files.origin("cpu")["commit"],
        date=datetime.date.today().isoformat(),
        tables=found,
        published=tuple(comparisons(study, found)),
        specs={run.name: run.to_json() for run in study.runs},
    )
    for name, table in found.items():
        files.write_table(folder / f"{name}.csv", table)
    return result


def _write_study(study: Study, folder: Path) -> None:
    runs = [
        {
            "name": run.name,
            "folder": run.folder_name,
            "start": run.start.folder_name if isinstance(run.start, Run) else "",
            "steps": run.steps,
            "rows": run.epochs * run.epoch_rows,
        }
        for run in study.runs
    ]
    content = {"name": study.name, "layer": study.layer, "runs": runs, "origin": files.origin("cpu")}
    files.write_whole(folder / "study.json", json.dumps(content, indent=1).encode())


def _train(study: Study, out: Path, **how) -> None:
    """Trains what can begin until nothing can: what starts from a run that diverged is passed over."""
    while ready := [run for run in study.runs if outcome(run, out / "runs").status == "open"]:
        train(ready, out / "runs", **how)


def _film(one: Trained, study: Study, found) -> RunResult:
    """What the page shows of a run at every checkpoint."""
    activations = one.activations
    if len(one.cities) < len(one.world):
        raise ValueError(
            f"{one.folder}: the page shows every city, capture.cities left {len(one.world) - len(one.cities)} out"
        )
    old = np.flatnonzero(~one.new)
    test = one.new.copy()  # the probe is fitted on world cities alone: where it puts Atlantis was learned from answers
    test[old[held_out(len(old))]] = True
    moments = probe_over_training(activations, study.layer, one.xy, test)
    components = pca_over_training(activations, study.layer)
    of_run = {name: table[table.run == one.name] for name, table in found.items() if "run" in table}
    probes = of_run["probes"][of_run["probes"].layer == study.layer].sort_values("step")
    curve = of_run["curves"]
    scores = {}
    if "evaluation" in of_run:
        standard = of_run["evaluation"][of_run["evaluation"].group == "standard"]
        scores = dict(zip(standard.task, standard.value))
    return RunResult(
        name=one.name,
        tasks=one.run.tasks,
        spec=one.run.to_json(),
        folder=str(one.folder),
        seconds=outcome(one.run, one.folder.parent).seconds,
        loss_rows=curve.rows.to_numpy(np.int64),
        loss=curve.loss.to_numpy(np.float64),
        steps=probes.step.to_numpy(np.int64),
        rows=probes.rows.to_numpy(np.int64),
        r2=probes[["r2_x", "r2_y"]].to_numpy(np.float64),
        error=probes.median_error.to_numpy(np.float64),
        predicted=np.stack([moment.predicted for moment in moments]),
        held_out=test,
        components=components.projected,
        explained=components.explained,
        scores={task: scores[task] for task in one.run.tasks if task in scores},
        mixed=mixed_over_training(activations, study.layer, one.xy, ~test).projected.astype(np.float32),
    )


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

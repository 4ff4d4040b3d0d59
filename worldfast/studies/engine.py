"""How a study runs: train what is missing, read what is not read yet, and put together what was found.

<out>/runs/<name>-<id>/             as in worldfast.training.train
      tables/                       as in worldfast.studies.analyses
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
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from worldfast import __version__, files
from worldfast.errors import unknown_name
from worldfast.folder import outcome
from worldfast.run import Run
from worldfast.studies.analyses import compute, made, make, tables_of
from worldfast.studies.results import Findings, RunResult, StudyResult, run_result, square
from worldfast.studies.study import Study
from worldfast.studies.tables import common_tables
from worldfast.training import train
from worldfast.training.cluster import run_jobs, train_on_cluster
from worldfast.training.jobs import Job

__all__ = ["ENGINES", "run_study"]

ENGINES = ("local", "ray")
FILMS = "films"
Say = Callable[[str], None]


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

    out       the folder that holds runs/, tables/ and studies/; with Ray, one that all nodes share
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
    say: Say = lambda text: print(text, file=sys.stderr, flush=True) if progress else None  # noqa: E731
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
    finished = [run for run in study.runs if outcome(run, out / "runs").finished]
    if not finished:
        raise RuntimeError(f"study {study.name!r}: no run finished; see metrics.jsonl in {out / 'runs'}")
    found = (study.tables or common_tables)(
        study, out, _read(study, finished, out, say, engine=engine, address=address, progress=progress)
    )
    shown = study.shown_of(finished)
    films = _films(study, shown, found, out)
    cka = _cka(study, shown, found)
    read_in = time.perf_counter() - began - trained_in
    said = study.findings(study, found, films, cka) if study.findings else Findings([])
    result = StudyResult(
        name=study.name,
        world=study.world_of(shown[0]),
        runs=films,
        cka=cka,
        cka_layer=study.layer,
        test_rows=study.test_rows,
        findings=said.sentences,
        machine=_machine(threads),
        seconds=max(trained_in, float(found["runs"].seconds.max())) + read_in,  # members train side by side
        command=command or f"worldfast study run {study.name}",
        version=__version__,
        commit=files.origin("cpu")["commit"],
        date=datetime.date.today().isoformat(),
        tables=found,
        published=tuple(said.published),
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


def _read(
    study: Study, finished: list[Run], out: Path, say: Say, *, engine: str, address: str, progress: bool
) -> dict[str, list]:
    """Kind -> tables of a study, made where they are missing; films are made and not read."""
    wanted = tables_of(study, finished)
    missing = [table for table in wanted if not made(table, out)]
    say(f"reading {len(finished)} runs: {len(missing)} of {len(wanted)} tables to make")
    if engine == "ray":
        jobs = [Job(table.name, make, (table, out.absolute()), made, cpus=1) for table in missing]
        failed = run_jobs(jobs, out, address=address, progress=progress).failed
        if failed:
            name, error = next(iter(failed.items()))
            raise RuntimeError(f"{len(failed)} tables could not be made, {name} first: {error} (see {out / 'failed'})")
    read: dict[str, list] = {}
    for i, table in enumerate(wanted):
        if i % 50 == 49:
            say(f"{i + 1} of {len(wanted)} tables")
        if table.kind != FILMS:
            read.setdefault(table.kind, []).append(compute(table, out))
        elif not made(table, out):
            make(table, out)
    return read


def _films(study: Study, shown: list[Run], found: Mapping, out: Path) -> list[RunResult]:
    """What the page shows of runs, one after the other: a film is large."""
    seconds = dict(zip(found["runs"].run, found["runs"].seconds))
    return [
        run_result(run, out / "runs" / run.folder_name, compute(table, out), found, study.layer, seconds[run.name])
        for table in tables_of(study, shown)
        for run in table.runs
        if table.kind == FILMS
    ]


def _cka(study: Study, shown: list[Run], found: Mapping) -> np.ndarray:
    """Linear CKA of the runs that the page shows, float64 [M, M], from the tables of pairs."""
    plain = f"layer == {study.layer} and step_share == 1 and kernel == 'linear' and not debiased and components == 0"
    pairs = [found[kind].query(plain) for kind in ("cka", "cka_shown") if kind in found]
    return square([run.name for run in shown], *pairs)


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

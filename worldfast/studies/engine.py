"""Running a study: train the runs that are missing, compute the missing tables, and assemble the results.

<out>/runs/<name>-<id>/             as in worldfast.training.train
      tables/                       as in worldfast.studies.analyses
      studies/<name>/study.json     runs of the study, read by `worldfast study status`, and SHA-256 of its tables
                     <table>.csv    every table of the result
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch

from worldfast import __version__, files
from worldfast.display import count
from worldfast.errors import as_path, file_name, one_of, typed, whole
from worldfast.folder import require_same
from worldfast.log import tell
from worldfast.outcome import outcome
from worldfast.run import Run
from worldfast.studies.analyses import compute, made, make, tables_of
from worldfast.studies.results import Findings, RunResult, StudyResult, run_result, square
from worldfast.studies.scene import Scene
from worldfast.studies.study import Study
from worldfast.studies.tables import common_tables
from worldfast.training import Job, connected, run_jobs, train, train_on_cluster

__all__ = ["ENGINES", "run_study"]

ENGINES = ("local", "ray")
FILMS = "films"


def run_study(
    study: Study,
    out: str | os.PathLike = ".",
    *,
    engine: str = "local",
    address: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    memory: int | str | None = None,
    progress: bool = True,
    command: str = "",
    train_missing: bool = True,
) -> StudyResult:
    """Run a study and return its results. Finished work is not repeated.

    A run that diverges, and any run that starts from it, is marked and excluded from the analyses.

    Parameters
    ----------
    study : Study
    out : path
        Folder that holds runs/, tables/ and studies/; with Ray, one that all nodes share.
    engine : {"local", "ray"}
        "local" runs in this process; "ray" on the cluster at `address` (docs/cluster.md).
    address : str
        Address of the Ray cluster.
    device, threads, memory
        As in `train`, on every node.
    progress : bool
        Report progress on standard error.
    command : str
        Command that runs the study again, shown on its page; by default, that of a preset of `worldfast.worlds.preset`
        or a file of `load_study`, and for any other study what to call.
    train_missing : bool
        Train the missing runs; if False, only finished runs are analysed.

    Returns
    -------
    StudyResult

    Raises
    ------
    TypeError
        `study` is not a Study.
    RuntimeError
        No run of the study finished, or a table could not be computed on the cluster. With `train_missing=False` and no
        finished run, nothing is written.
    Exception
        Any error of `train`.

    Examples
    --------
    >>> import worldfast as wf
    >>> from worldfast.worlds import cities
    >>> data = cities.Dataset(("distance",), rows=64, world=wf.WorldSpec(largest=100))
    >>> model = wf.TransformerSpec(hidden=16, layers=2, heads=2)
    >>> fixed = dict(batch=32, model=model, checkpoints=1, capture=wf.Capture(layers=(1, 2)))
    >>> runs = [wf.Run(data, seed=seed, name=f"distance-s{seed}", **fixed) for seed in (0, 1)]
    >>> study = cities.Study("seeds", runs, layer=1, test_rows=10)
    >>> result = wf.run_study(study, "out", device="cpu", progress=False)
    >>> result.tables["runs"].status.tolist()
    ['finished', 'finished']
    >>> result.cka.shape
    (2, 2)
    """
    if not isinstance(study, Study):
        made = f"; worldfast.worlds.preset({study!r:.100}) makes the preset of a name" if isinstance(study, str) else ""
        raise TypeError(f"study: expected a worldfast.Study, got {study!r:.100}{made}")
    typed("command", command, str, "a text")
    threads = threads if threads is None else whole("threads", threads, 1)
    one_of("engine", engine, ENGINES)
    out = as_path("out", out)
    if train_missing or files.there(out):
        files.folder(out, "out")
    began = time.perf_counter()
    say = partial(tell, shown=progress)
    where = {"device": device, "memory": memory, "progress": progress}
    folder = out / "studies" / study.name
    files.require_folder(folder.parent)
    for place in (folder, out / "tables"):
        files.require_folder(place)
        files.remove_partial(place)
    if not (train_missing or any(outcome(run, out / "runs").finished for run in study.runs)):
        raise RuntimeError(
            f"study {study.name!r}: no run finished in '{out / 'runs'}', so there is nothing to report; to run it: "
            f"{command or study.command}"
        )
    files.inner_folder(files.inner_folder(folder.parent) / study.name)
    _write_study(study, folder)
    with connected(address) if engine == "ray" else nullcontext():  # one cluster for training and reading
        if not train_missing:
            say("training is skipped: only finished runs are analysed")
        elif engine == "ray":
            for job, error in train_on_cluster(study.runs, out / "runs", address=address, **where).failed.items():
                say(f"{job} failed: {error} (see {out / 'runs' / 'failed'})")
        else:
            _train(study, out, threads=threads, **where)
        trained_in = time.perf_counter() - began
        finished = [run for run in study.runs if outcome(run, out / "runs").finished]
        for run in finished:
            require_same(out / "runs" / run.folder_name, run)
        if not finished:
            raise RuntimeError(f"study {study.name!r}: no run finished; see metrics.jsonl in {out / 'runs'}")
        pooled = partial(run_jobs, out=out, address=address, progress=progress) if engine == "ray" else None
        read = _read(study, finished, out, say, pooled)
    found = (study.tables or common_tables)(study, out, read)
    shown = study.shown_of(finished)
    scene = study.scene_of(shown[0])
    films = _films(study, shown, found, out, scene)
    cka = _cka(study, films, found)
    read_in = time.perf_counter() - began - trained_in
    said = study.findings(study, found, films, cka) if study.findings else Findings([])
    result = StudyResult(
        name=study.name,
        world=scene,
        runs=films,
        cka=cka,
        cka_layer=study.layer,
        test_rows=study.test_rows,
        findings=said.sentences,
        machine=_machine(threads),
        seconds=max(trained_in, float(found["runs"].seconds.max())) + read_in,  # members train side by side
        command=command or study.command,
        version=__version__,
        commit=files.origin("cpu")["commit"],
        date=datetime.date.today().isoformat(),
        tables=found,
        published=tuple(said.published),
        specs={run.name: run.to_json() for run in study.runs},
    )
    contents = {f"{file_name('name of a table', name)}.csv": files.table_bytes(table) for name, table in found.items()}
    for name, content in contents.items():
        files.write_whole(folder / name, content)
    _write_study(study, folder, {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    return result


def _write_study(study: Study, folder: Path, tables: Mapping[str, str] | None = None) -> None:
    """Write study.json: at first without its tables, whose digests are known once they are written."""
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
    content = {"name": study.name, "layer": study.layer, "runs": runs, "tables": tables, "origin": files.origin("cpu")}
    files.write_json(folder / "study.json", content)


def _train(study: Study, out: Path, **how) -> None:
    """Train the runs that can start until none can; runs that start from a diverged run are skipped."""
    while ready := [run for run in study.runs if outcome(run, out / "runs").status == "open"]:
        train(ready, out / "runs", **how)


def _read(study: Study, finished: list[Run], out: Path, say: Callable[[str], None], pooled: Callable | None) -> dict:
    """Return the tables of a study by kind, computing those that are missing; films are computed but not returned."""
    wanted = tables_of(study, finished)
    missing = [table for table in wanted if not made(table, out)]
    say(f"reading {count(len(finished), 'run')}: {len(missing)} of {count(len(wanted), 'table')} to make")
    if pooled:
        jobs = [Job(table.name, make, (table, out.absolute()), made, cpus=1) for table in missing]
        if failed := pooled(jobs).failed:
            name, error = next(iter(failed.items()))
            tables = count(len(failed), "table")
            raise RuntimeError(f"{tables} could not be made, {name} first: {error} (see {out / 'failed'})")
    read: dict[str, list] = {}
    for i, table in enumerate(wanted):
        if i % 50 == 49:
            say(f"{i + 1} of {len(wanted)} tables")
        if table.kind != FILMS:
            read.setdefault(table.kind, []).append(compute(table, out))
        elif not made(table, out):
            make(table, out)
    return read


def _films(study: Study, shown: list[Run], found: Mapping, out: Path, scene: Scene) -> list[RunResult]:
    """Return the page's results of runs, loading one film at a time, since films are large."""
    seconds = dict(zip(found["runs"].run, found["runs"].seconds))
    return [
        run_result(
            run, out / "runs" / run.folder_name, compute(table, out), found, study.layer, seconds[run.name], scene
        )
        for table in tables_of(study, shown)
        for run in table.runs
        if table.kind == FILMS
    ]


def _cka(study: Study, films: list[RunResult], found: Mapping) -> np.ndarray:
    """Return linear CKA of the runs shown on the page, float64 [M, M], from the tables of pairs."""
    plain = f"layer == {study.layer} and step_share == 1 and kernel == 'linear' and not debiased and components == 0"
    pairs = [found[kind].query(plain) for kind in ("cka", "cka_shown") if kind in found]
    return square([film.name for film in films], *pairs)


def _machine(threads: int | None) -> dict[str, str]:
    return {
        "processor": files.origin("cpu")["device"].removeprefix("cpu: "),
        "threads used": str(threads or torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }

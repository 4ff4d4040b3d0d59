"""Cost of a study before it starts, and its status while it runs.

Rates are measured: a few steps of each shape of model on this machine, with as many members as will train together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldfast import files
from worldfast.folder import done
from worldfast.run import Run
from worldfast.studies.results import tasks_of
from worldfast.studies.study import Study
from worldfast.training.memory import NUMBER, captured, limit_of, plan, text
from worldfast.training.step import Lockstep

__all__ = ["Family", "Standing", "plan_study", "print_plan", "print_status", "status"]

STEPS = 3  # timed steps, after one that is not
TOGETHER = 8  # members at most while measuring a rate
STATES = 3  # values per parameter in a checkpoint: the parameter and two moments
STALE = 60.0  # seconds to wait for new metrics


@dataclass(frozen=True)
class Family:
    """Runs of one shape and kind.

    Attributes
    ----------
    name : str
        Name in words.
    runs : int
        Number of runs.
    rows, steps : int
        Totals over all of the runs.
    seconds : float
        Training time on this machine, as measured; NaN if not measured.
    memory : int
        Bytes of the members that train together, and of what they share.
    fit : int
        Members that fit in memory at once.
    waves : int
        Number of groups trained one after the other.
    disk : int
        Bytes written to disk.
    """

    name: str
    runs: int
    rows: int
    steps: int
    seconds: float
    memory: int
    fit: int
    waves: int
    disk: int


def plan_study(
    study: Study, *, threads: int, memory: int | str | None = None, measure: bool = True
) -> Iterator[Family]:
    """Yield the families of a study, for the CPU of this machine.

    Parameters
    ----------
    study : Study
    threads : int
    memory : int or str, optional
        As in `train`.
    measure : bool
        Measure rates, which takes a few training steps for each shape.

    Yields
    ------
    Family

    Raises
    ------
    MemoryError
        A single run does not fit.
    """
    limit = limit_of(memory, "cpu")
    families: dict[tuple, list[Run]] = {}
    for run in study.runs:
        families.setdefault(_family(run), []).append(run)
    rates: dict[tuple, float] = {}
    for (kind, tasks, *shape), runs in families.items():
        planned = plan(runs, limit, "cpu", threads)
        key = (*shape, min(planned.fit, len(runs), TOGETHER))
        if measure and key not in rates:
            rates[key] = _rate(runs[: key[-1]], threads)
        rows = sum(run.epochs * run.epoch_rows for run in runs)
        what = "fine-tuned" if kind else "pretrained"
        width = f", width {runs[0].model.hidden}" if len({run.model.hidden for run in study.runs}) > 1 else ""
        yield Family(
            name=f"{what}, {tasks} task{'s' if tasks > 1 else ''}{width}",
            runs=len(runs),
            rows=rows,
            steps=sum(run.steps for run in runs),
            seconds=rows / rates[key] if measure else float("nan"),
            memory=planned.need.member * planned.fit + planned.need.shared,
            fit=planned.fit,
            waves=planned.waves,
            disk=sum(_disk(run) for run in runs),
        )


def _family(run: Run) -> tuple:
    return run.start is not None, len(tasks_of(run)), *run.family, run.batch, getattr(run.data, "loss", "")


def _rate(runs: Sequence[Run], threads: int) -> float:
    """Return the rows per second of runs trained together, with fresh weights, which are as fast as trained ones."""
    ensemble = runs[0].model.build(runs[0].shape, len(runs), threads=threads, matmul_dtype=runs[0].matmul_dtype)
    lockstep = Lockstep(ensemble, list(runs))
    for i, run in enumerate(runs):
        ensemble.initialise(i, run.seed)
    members = list(range(len(runs)))
    lockstep.step(members)
    began = time.perf_counter()
    for _ in range(STEPS):
        lockstep.step(members)
    return STEPS * sum(run.batch for run in runs) / (time.perf_counter() - began)


def _disk(run: Run) -> int:
    """Return the bytes that a run leaves on disk: its last two checkpoints, and the activations of all."""
    kept = captured(run) // (2 if run.capture.dtype == "float16" else 1)
    return 2 * STATES * NUMBER * run.model.parameters(run.shape) + len(run.checkpoint_steps) * kept


def print_plan(study: Study, *, threads: int, memory: int | str | None = None, measure: bool = True) -> None:
    """Print the plan of a study as a table. Arguments and errors as in `plan_study`."""
    head = ("", "runs", "rows", "steps", "time here", "memory", "at a time", "disk")
    families = list(plan_study(study, threads=threads, memory=memory, measure=measure))
    lines = [
        (
            one.name,
            f"{one.runs:,}",
            f"{one.rows / 1e6:,.1f} M",
            f"{one.steps:,}",
            _time(one.seconds),
            text(one.memory),
            f"{one.fit}" + (f", {one.waves} waves" if one.waves > 1 else ""),
            text(one.disk),
        )
        for one in families
    ]
    total = (
        "in all",
        f"{sum(one.runs for one in families):,}",
        f"{sum(one.rows for one in families) / 1e6:,.1f} M",
        f"{sum(one.steps for one in families):,}",
        _time(sum(one.seconds for one in families)),
        text(max(one.memory for one in families)),
        "",
        text(sum(one.disk for one in families)),
    )
    print(f"study {study.name}: {len(study.canon):,} runs of the canon, {len(study.extensions):,} more\n")
    _print_table([head, *lines, total])
    if measure:
        print(f"\ntime: training only, at the rate of {STEPS} steps measured here with {threads} threads")


def _time(seconds: float) -> str:
    if np.isnan(seconds):
        return "not measured"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        ]
        print("  ".join(cells).rstrip())


# ---- status ----


@dataclass(frozen=True)
class Standing:
    """Status of a run.

    Attributes
    ----------
    name : str
        Name of the run.
    state : str
        "done", "running", "stopped" (has a checkpoint, but is not being trained), "waiting", "diverged" or "failed".
    step, steps : int
        Steps done, and all steps.
    rows, all_rows : int
        Rows seen, and all rows.
    why : str
        Reason of a failure.
    """

    name: str
    state: str
    step: int
    steps: int
    rows: int
    all_rows: int
    why: str = ""


def status(folder: Path) -> list[Standing]:
    """Return the status of every run of a study, which may be running.

    Parameters
    ----------
    folder : Path
        <out>/studies/<name>.

    Returns
    -------
    list of Standing

    Raises
    ------
    FileNotFoundError
        It is not a study's folder.
    """
    spec = folder / "study.json"
    if not spec.exists():
        raise FileNotFoundError(f"{folder} is not a study's folder: it has no study.json")
    out = folder.parents[1]
    failed = _failed(out / "runs" / "failed") | _failed(out / "failed")
    found = []
    for run in json.loads(spec.read_text())["runs"]:
        at = out / "runs" / run["folder"]
        state, why, step, rows = "waiting", "", 0, 0
        last = _last_line(at / "metrics.jsonl")
        if last:
            step, rows = last["step"], last["rows"]
        if ending := done(at):
            state = "done" if ending["status"] == "finished" else ending["status"]
            step = ending["step"]
            rows = run["rows"] if state == "done" else rows
            why = f"its loss or gradient was not finite at step {step + 1:,}" if state == "diverged" else ""
        elif at.exists() and files.locked(at):
            state = "running"
        elif run["folder"] in failed:
            state, why = "failed", failed[run["folder"]]
        elif last:
            state = "stopped"
        found.append(Standing(run["name"], state, step, run["steps"], rows, run["rows"], why))
    return found


def _last_line(path: Path) -> dict | None:
    if not path.exists():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue  # being written at this moment
    return None


def _failed(folder: Path) -> dict[str, str]:
    """Return run folder -> error for the jobs that failed on a cluster."""
    found = {}
    for path in folder.glob("*.json") if folder.exists() else ():
        content = json.loads(path.read_text())
        for about in content.get("about", ()):
            found[about] = content["error"]
    return found


def print_status(folder: Path) -> None:
    """Print the status of a study and, if a run is training, the current rate and the time left."""
    before, began = status(folder), time.perf_counter()
    now, rate = before, 0.0
    if any(one.state == "running" for one in before):
        deadline = began + STALE
        while time.perf_counter() < deadline and sum(one.rows for one in now) == sum(one.rows for one in before):
            time.sleep(1.0)
            now = status(folder)
        rate = (sum(one.rows for one in now) - sum(one.rows for one in before)) / (time.perf_counter() - began)
    counts = {state: sum(one.state == state for one in now) for state in dict.fromkeys(one.state for one in now)}
    rows, every = sum(one.rows for one in now), sum(one.all_rows for one in now)
    print(f"{folder.name}: {len(now)} runs, " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    left = f", {rate:,.0f} rows/s, {_time((every - rows) / rate)} left" if rate else ""
    print(f"{rows:,} of {every:,} rows{left}")
    for one in now:
        if one.state == "running":
            print(f"  {one.name}  step {one.step:,} of {one.steps:,}")
        elif one.state not in ("done", "waiting"):
            print(f"  {one.name}  {one.state} at step {one.step:,} of {one.steps:,}{': ' + one.why if one.why else ''}")

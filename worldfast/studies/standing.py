"""How the runs of a study stand, also while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worldfast.display import count, duration
from worldfast.errors import file_name, shown
from worldfast.files import regular
from worldfast.locks import locked
from worldfast.outcome import RunOutcome, done
from worldfast.studies.audit import read_study

STALE = 60.0  # seconds


@dataclass(frozen=True)
class Standing:
    """Status of a run.

    Attributes
    ----------
    name : str
        Name of the run.
    state : str
        Status of its `worldfast.outcome.RunOutcome`; of one that is open, "running", "failed" or "stopped" (has begun,
        but is not being trained) where that is known.
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
    DamagedError, UnsafeError
        study.json, or the end of a run, is not what was written; the message names the file.
    MismatchError
        study.json, or the end of a run, is another one's.
    """
    spec = folder / "study.json"
    if not spec.exists():
        raise FileNotFoundError(f"{folder} is not a study's folder: it has no study.json")
    out = folder.parents[1]
    failed = _failed(out / "runs" / "failed") | _failed(out / "failed")
    runs = {file_name(f"{spec}: folder of a run", run["folder"]): run for run in read_study(folder)["runs"]}
    starts = {name: run["start"] and file_name(f"{spec}: start of a run", run["start"]) for name, run in runs.items()}
    endings = {name: done(out / "runs" / name, name.rpartition("-")[2]) for name in runs}
    found = []
    for name, run in runs.items():
        at = out / "runs" / name
        now, why, step, rows = _outcome(name, starts, endings), "", 0, 0
        state = now.status
        last = _last_line(at / "metrics.jsonl")
        if last:
            step, rows = last["step"], last["rows"]
        if now.ended:
            step = now.step
            rows = run["rows"] if now.finished else rows
            why = "" if now.finished else f"its loss or gradient was not finite at step {step + 1:,}"
        elif at.exists() and locked(at):
            state = "running"
        elif name in failed:
            state, why = "failed", failed[name]
        elif last:
            state = "stopped"
        found.append(
            Standing(
                file_name(f"{spec}: name of a run", run["name"]), state, step, run["steps"], rows, run["rows"], why
            )
        )
    return found


def _outcome(name: str, starts: Mapping[str, str], endings: Mapping[str, Mapping | None]) -> RunOutcome:
    """Return the outcome of the run in a folder, by the folders that runs start from and the last records of all."""
    chain = []  # of runs that have not ended, each started from the next
    while not (ending := endings.get(name)) and starts.get(name) and name not in chain:
        chain.append(name)
        name = starts[name]
    found = RunOutcome.of(ending) if ending else RunOutcome("open")
    for _ in chain:
        found = found.following
    return found


def _last_line(path: Path) -> dict | None:
    try:
        with open(path, "rb", opener=regular) as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
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
        content = json.loads(path.read_text(encoding="utf-8"))
        for about in content.get("about", ()):
            found[about] = shown(content["error"])
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
    print(f"{folder.name}: {count(len(now), 'run')}, " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    left = f", {rate:,.0f} rows/s, {duration((every - rows) / rate, 0)} left" if rate else ""
    print(f"{rows:,} of {count(every, 'row')}{left}")
    for one in now:
        if one.state == "running":
            print(f"  {one.name}  step {one.step:,} of {one.steps:,}")
        elif one.state not in ("finished", "open", "waiting"):
            print(f"  {one.name}  {one.state} at step {one.step:,} of {one.steps:,}{': ' + one.why if one.why else ''}")

"""State of the runs of a study, also while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worldfast import files
from worldfast.display import count, duration
from worldfast.errors import DamagedError, file_name
from worldfast.folder import metrics
from worldfast.locks import locked
from worldfast.outcome import RunOutcome, done
from worldfast.studies.audit import read_study
from worldfast.training import read_failures

STALE = 60.0  # seconds
LONGEST_LINE = 1 << 16  # bytes, of metrics


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
    DamagedError, UnsafeError, OSError
        study.json, the end of a run, its metrics or the record of a failure is not what was written, or cannot be read;
        the message names the file.
    MismatchError
        study.json, or the end of a run, is another one's.
    """
    spec, out = folder / "study.json", folder.parents[1]
    runs = {file_name(f"{spec}: folder of a run", run["folder"]): run for run in read_study(folder)["runs"]}
    starts = {name: run["start"] and file_name(f"{spec}: start of a run", run["start"]) for name, run in runs.items()}
    endings = {name: done(out / "runs" / name, name.rpartition("-")[2]) for name in runs}
    failed = read_failures(out / "runs" / "failed") | read_failures(out / "failed")
    found = []
    for name, run in runs.items():
        at = out / "runs" / name
        now, why = _outcome(name, starts, endings), ""
        state, last = now.status, None if now.ended else _progress(at / "metrics.jsonl")
        step, rows = last or (0, 0)
        if now.finished:
            step, rows = now.step, run["rows"]
        elif now.ended:
            step, rows = now.step, metrics(at)[-1]["rows"]
            why = f"its loss or gradient was not finite at step {step + 1:,}"
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


def _progress(path: Path) -> tuple[int, int] | None:
    """Return the step and the rows of the last whole line of metrics; None before there is one."""
    try:
        with files.naming(path, "it cannot be read"), open(path, "rb", opener=files.regular) as file:
            file.seek(max(0, file.seek(0, 2) - LONGEST_LINE))
            *lines, _ = file.read().split(b"\n")  # the last is being written at this moment, or empty
    except FileNotFoundError:
        return None
    if not lines:
        return None
    last = files.json_object(path, lines[-1])
    if not all(isinstance(last.get(name), int) for name in ("step", "rows")):
        raise DamagedError(f"'{path}' is damaged: its last line has no step and rows")
    return last["step"], last["rows"]


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

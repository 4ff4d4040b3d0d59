"""Cost of a study before it starts, and its status while it runs.

What follows from the specs (rows, memory, disk) is counted. Rates are measured: a few steps of each shape of model,
here and now, with as many members as will train together. Of a GPU that is not here they are counted too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from worldfast.display import count, size_text
from worldfast.errors import file_name, one_of, shown, whole
from worldfast.files import regular
from worldfast.folder import RunOutcome, done
from worldfast.locks import locked
from worldfast.run import Run
from worldfast.studies.audit import read_study
from worldfast.studies.results import tasks_of
from worldfast.studies.study import Study
from worldfast.training import (
    base_of,
    captured_bytes,
    checkpoint_bytes,
    limit_of,
    lockstep_of,
    pack,
    plan,
    weights_bytes,
)

STEPS = 3  # timed, after one that is not
TOGETHER = 8  # members at most, while a rate is measured
STALE = 60.0  # seconds
# Of an H200, counted from operations and bytes: rows times parameters of the paper's shape, and seconds that they take.
COUNTED_WORK = 42e6 * 1_601_920
COUNTED_SECONDS = (80.0, 105.0)


class Files(NamedTuple):
    """Files of a run: bytes of a checkpoint, of which two stay, number of checkpoints, bytes of activations at each,
    and bytes of all weights that are kept besides.
    """

    checkpoint: int
    files: int
    states: int
    weights: int


@dataclass(frozen=True)
class Family:
    """Runs of one shape and kind.

    Attributes
    ----------
    name : str
        Description of the family.
    members : tuple of Run
    rows, steps : int
        Sums over all members.
    memory : int
        Bytes of the members that train together and of what they share.
    fit, waves : int
        Members that fit in memory at a time; times that they are trained one after the other.
    files : tuple of Files
        What each member writes.
    seconds, most : float
        Training time on one device, least and most: one number where it was measured; NaN where it is not known.
    """

    name: str
    members: tuple[Run, ...]
    rows: int
    steps: int
    memory: int
    fit: int
    waves: int
    files: tuple[Files, ...]
    seconds: float = float("nan")
    most: float = float("nan")

    @property
    def runs(self) -> int:
        return len(self.members)

    @property
    def disk(self) -> int:
        """Bytes left on disk."""
        return sum(2 * one.checkpoint + one.files * one.states + one.weights for one in self.files)


def plan_study(
    study: Study,
    *,
    device: str = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    measure: bool = True,
) -> Iterator[Family]:
    """Yield the families of a study, each as soon as it is counted, and timed where `measure` is true.

    Parameters
    ----------
    study : Study
    device : {"cpu", "cuda"}
        Rates on "cuda" are counted where this machine has no GPU.
    threads : int, optional
        CPU threads; None means torch's number.
    memory : int or str, optional
        Memory of a device that training may use; None means most of what is free.
    measure : bool
        Time a few steps of each shape.

    Raises
    ------
    MemoryError
        One run alone does not fit.
    ValueError
        The device is unknown, or `memory` is not given for a GPU that is not here.
    """
    limit = _limit(memory, device)
    threads = threads or torch.get_num_threads()
    families: dict[tuple, list[Run]] = {}
    for run in study.runs:
        key = run.start is not None, len(tasks_of(run)), *run.family, run.batch, getattr(run.data, "loss", "")
        families.setdefault(key, []).append(run)
    widths = len({run.model.hidden for run in study.runs})
    rates: dict[tuple, float] = {}
    for (tuned, tasks, *_), runs in families.items():
        planned = plan(runs, limit, device, threads)
        width = f", width {runs[0].model.hidden}" if widths > 1 else ""
        family = Family(
            name=f"{'fine-tuned' if tuned else 'pretrained'}, {count(tasks, 'task')}{width}",
            members=tuple(runs),
            rows=sum(run.epochs * run.epoch_rows for run in runs),
            steps=sum(run.steps for run in runs),
            memory=planned.need.member * planned.fit + planned.need.shared,
            fit=planned.fit,
            waves=planned.waves,
            files=tuple(_files(runs)),
        )
        yield _timed(family, device, threads, rates) if measure else family


def _timed(family: Family, device: str, threads: int, rates: dict[tuple, float]) -> Family:
    """The family with its times, counted or at a rate that is measured where `rates` has none yet."""
    run = family.members[0]
    if _is_counted(device):
        works = family.rows * run.model.parameters(run.shape) / COUNTED_WORK
        return replace(family, seconds=COUNTED_SECONDS[0] * works, most=COUNTED_SECONDS[1] * works)
    members = min(family.fit, family.runs, TOGETHER)
    key = (*run.family, run.batch, getattr(run.data, "loss", ""), members)
    if key not in rates:
        rates[key] = _rate(family.members[:members], device, threads)
    return replace(family, seconds=family.rows / rates[key], most=family.rows / rates[key])


def _limit(memory: int | str | None, device: str) -> int:
    one_of("device", device, ("cpu", "cuda"))
    if memory is None and _is_counted(device):
        raise ValueError(
            "memory: expected what training may use of a GPU, such as 72GiB (--memory 72GiB) of one with 80 GB, 21GiB "
            "with 24 GB, 126GiB with 141 GB, got None: there is no GPU here to ask, and device is 'cuda'"
        )
    return limit_of(memory, device)


def _is_counted(device: str) -> bool:
    return device != "cpu" and not torch.cuda.is_available()


def _files(runs: Sequence[Run]) -> Iterator[Files]:
    """Yield what each run leaves on disk."""
    for run in runs:
        captured = captured_bytes(run) // (2 if run.capture.dtype == "float16" else 1)
        weights = len(run.kept_steps) * weights_bytes(run)
        yield Files(checkpoint_bytes(run), len(run.checkpoint_steps), captured, weights)


def _rate(runs: Sequence[Run], device: str, threads: int) -> float:
    """Rows a second of some runs trained together: fresh weights do as well as trained ones."""
    lockstep, _ = lockstep_of(list(runs), device, threads)
    for i, run in enumerate(runs):
        lockstep.ensemble.initialise(i, run.seed)
    members = list(range(len(runs)))
    lockstep.step(members)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(STEPS):
        lockstep.step(members)
    wait()
    return STEPS * sum(run.batch for run in runs) / (time.perf_counter() - began)


# ---- in print ----


def print_plan(
    study: Study,
    *,
    device: str = "cpu",
    gpus: int = 1,
    threads: int | None = None,
    memory: int | str | None = None,
    measure: bool = True,
) -> None:
    """Print the plan of a study: what is counted first, then times as they are measured.

    Parameters are those of `plan_study`, and `gpus`, the number of GPUs that train side by side.
    """
    _limit(memory, device)  # an error comes before anything is printed
    whole("gpus", gpus, 1)
    if device == "cpu" and gpus != 1:
        raise ValueError(f"gpus: {gpus} of the device 'cpu'; ask for the device 'cuda'")
    threads = threads or torch.get_num_threads()
    print(f"study {study.name}: {count(len(study.canon), 'run')} of the canon, {len(study.extensions):,} more\n")
    head = ("runs", "rows", "steps", "memory", "at a time", "disk")
    print(_line("", head))
    families = []
    for one in plan_study(study, device=device, threads=threads, memory=memory, measure=False):
        families.append(one)
        at_a_time = f"{one.fit}" + (f", {one.waves} waves" if one.waves > 1 else "")
        cells = (size_text(one.memory), at_a_time, size_text(one.disk))
        print(_line(one.name, (*_amounts([one]), *cells)), flush=True)
    memory_of_all = size_text(max(one.memory for one in families))
    print(_line("in all", (*_amounts(families), memory_of_all, "", size_text(sum(one.disk for one in families)))))
    if _is_counted(device):
        of = size_text(_limit(memory, device))
        print(f"\ntime on one GPU, an H200 with {of} for training: counted from operations and bytes, not measured")
    elif measure:
        where = torch.cuda.get_device_name() if device == "cuda" else f"{count(threads, 'thread')} here"
        print(f"\ntime of training alone, at the rate of {STEPS} steps measured on {where}")
    else:
        return print("\ntime: not measured")
    timed, rates = [], {}
    for one in (_timed(family, device, threads, rates) for family in families):
        timed.append(one)
        print(_line(one.name, (_times(one.seconds, one.most),)), flush=True)
    seconds = [sum(each) for each in zip(*((one.seconds, one.most) for one in timed))]
    print(_line("in all", (_times(*seconds),)))
    if device == "cuda":
        _print_places(study, timed, gpus, _limit(memory, device), threads)


def _print_places(study: Study, timed: Sequence[Family], gpus: int, limit: int, threads: int) -> None:
    """Print when a study ends on some GPUs, and what is written until then."""
    parts = pack(study.runs, gpus, limit, "cuda", threads)
    per_row = {run.id: (one.seconds / one.rows, one.most / one.rows) for one in timed for run in one.members}
    bases, every = zip(*(_ends(parts, gpus, {key: value[i] for key, value in per_row.items()}) for i in (0, 1)))
    print(f"\n{count(gpus, 'GPU')}: {count(len(parts), 'ensemble')} of up to {count(max(map(len, parts)), 'run')}")
    print(f"  pretrained after {_times(*bases)}, all after {_times(*every)}, if no GPU waits for rows or files")
    of_runs = [of_run for one in timed for of_run in one.files]
    written = sum(one.files * (one.checkpoint + one.states) + one.weights for one in of_runs)
    rates = " to ".join(dict.fromkeys(f"{written / one / 1e9:.1f}" for one in reversed(every)))
    segments = sum(one.files for one in of_runs)
    print(f"  {written / 1e12:.1f} TB are written meanwhile, {rates} GB/s; activations are {count(segments, 'file')}")
    pairs = len(of_runs) * (len(of_runs) - 1) // 2
    print(f"  {count(pairs, 'pair')} of runs may be compared, in each layer at each checkpoint")


def _ends(parts: Sequence[Sequence[Run]], places: int, per_row: dict[str, float]) -> tuple[float, float]:
    """Seconds until all have ended that start from no run of the study, and until all have."""
    free, ended = [0.0] * places, {}
    for part in parts:
        place = free.index(min(free))
        base = base_of(part[0], ended)
        begins = max(free[place], ended[base.id] if base else 0.0)
        free[place] = begins + sum(per_row[run.id] * run.epochs * run.epoch_rows for run in part)
        ended |= {run.id: free[place] for run in part}
    return max(ended[run.id] for part in parts for run in part if not isinstance(run.start, Run)), max(ended.values())


def _amounts(families: Sequence[Family]) -> tuple[str, str, str]:
    rows = sum(one.rows for one in families)
    in_all = f"{rows / 1e6:,.1f} M" if rows >= 100_000 else f"{rows:,}"
    return (f"{sum(one.runs for one in families):,}", in_all, f"{sum(one.steps for one in families):,}")


def _line(name: str, cells: Sequence[str]) -> str:
    """A line of a table whose widths are known before what stands below it."""
    widths = (8, 13, 15, 11, 15, 12) if len(cells) > 1 else (12,)
    return f"{name:<29} " + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)).rstrip()


def _times(least: float, most: float) -> str:
    return _time(least) if least == most else f"{_time(least)} to {_time(most)}"


def _time(seconds: float) -> str:
    if np.isnan(seconds):
        return "not measured"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


# ---- status ----


@dataclass(frozen=True)
class Standing:
    """Status of a run.

    Attributes
    ----------
    name : str
        Name of the run.
    state : str
        Status of its `worldfast.folder.RunOutcome`; of one that is open, "running", "failed" or "stopped" (has begun,
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
    left = f", {rate:,.0f} rows/s, {_time((every - rows) / rate)} left" if rate else ""
    print(f"{rows:,} of {count(every, 'row')}{left}")
    for one in now:
        if one.state == "running":
            print(f"  {one.name}  step {one.step:,} of {one.steps:,}")
        elif one.state not in ("finished", "open", "waiting"):
            print(f"  {one.name}  {one.state} at step {one.step:,} of {one.steps:,}{': ' + one.why if one.why else ''}")

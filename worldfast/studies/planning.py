"""Cost of a study before it starts.

What follows from the specs (rows, memory, disk) is counted. Rates are measured: a few steps of each shape of model,
here and now, with as many members as will train together. Of a GPU that is not here they are counted too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from worldfast._native import instructions
from worldfast.display import count, duration, size_text
from worldfast.errors import one_of, whole
from worldfast.run import Run
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
        Description of the family; the name of its first run, where another family has the same description.
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
    rates: dict[tuple, float] = {}
    for name, runs in zip(_names(families), families.values()):
        planned = plan(runs, limit, device, threads)
        family = Family(
            name=name,
            members=tuple(runs),
            rows=sum(run.epochs * run.epoch_rows for run in runs),
            steps=sum(run.steps for run in runs),
            memory=planned.need.member * planned.fit + planned.need.shared,
            fit=planned.fit,
            waves=planned.waves,
            files=tuple(_files(runs)),
        )
        yield _timed(family, device, threads, rates) if measure else family


def _names(families: Mapping[tuple, Sequence[Run]]) -> list[str]:
    """Return descriptions of families, no two of them alike unless their first runs have one name."""
    widths = len({run.model.hidden for runs in families.values() for run in runs})
    found = []
    for (tuned, tasks, *_), runs in families.items():
        width = f", width {runs[0].model.hidden}" if widths > 1 else ""
        found.append(f"{'fine-tuned' if tuned else 'pretrained'}, {count(tasks, 'task')}{width}")
    firsts = [runs[0].name for runs in families.values()]
    return [name if found.count(name) == 1 else first for name, first in zip(found, firsts)]


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
        where = (
            torch.cuda.get_device_name() if device == "cuda" else f"{count(threads, 'thread')} here, {instructions()}"
        )
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
    return " to ".join(dict.fromkeys((duration(least, 0), duration(most, 0))))

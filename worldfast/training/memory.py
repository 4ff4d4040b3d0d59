"""Memory: how much training needs, how much is available, and how many runs of one shape fit together.

A plan is made before training starts. Runs that do not fit at once train in waves, one after the other; results do not
depend on that, since each member trains as if it were alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import torch

from worldfast.capture import Capture, readout_of
from worldfast.dataset import Dataset
from worldfast.display import size_text
from worldfast.models import gpu_bytes
from worldfast.run import Run
from worldfast.training.gpu_step import CHUNK_BYTES
from worldfast.training.step import MOMENTS

UNITS = {"": 1, "B": 1} | {f"{letter}iB": 1 << 10 * i for i, letter in enumerate("KMGT", 1)}
USED = 0.9  # share of the available memory: the rest is left to other processes
NUMBER = 4  # bytes of a float32
MEMBER_EXTRA = 4 << 20  # stream, prompt and lines of metrics
LONGEST_ANSWER = 16  # tokens of an answer to a validation row
GPU_EXTRA = 512 << 20  # graphs and the code of kernels
# cuBLAS has 32 MiB (8 before Hopper) for each stream that multiplies: the current one, the one on which steps are
# recorded, and the one beside it; newer versions of torch allocate those of the latter two again within a graph
WORKSPACES = 5 * (32 << 20)
TOKEN_EXTRA = 100  # bytes of indices for each token of a batch
CGROUPS = Path("/sys/fs/cgroup")


class Need(NamedTuple):
    """Upper bound on the memory of an ensemble of m members while it trains: m * member + shared.

    Attributes
    ----------
    member, shared : int
        Bytes.
    """

    member: int
    shared: int


@dataclass(frozen=True)
class Plan:
    """Number of runs that fit in memory at a time.

    Attributes
    ----------
    need : Need
        Upper bound over the runs.
    limit : int
        Bytes available.
    members : int
        Number of runs.
    fit : int
        Runs that fit below `limit`.
    """

    need: Need
    limit: int
    members: int
    fit: int

    @property
    def waves(self) -> int:
        return -(-self.members // self.fit)

    def slices(self) -> Iterator[slice]:
        """Return the runs of each wave: as few waves as possible, of about equal size."""
        bounds = [self.members * i // self.waves for i in range(self.waves + 1)]
        return map(slice, bounds, bounds[1:])

    def __str__(self):
        each = f"{size_text(self.need.member)} each, {size_text(self.need.shared)} shared"
        fit = f"{self.fit} of {self.members} fit in {size_text(self.limit)} ({each})"
        return f"{fit}: {self.waves} waves" if self.waves > 1 else fit


def plan(runs: Sequence[Run], limit: int, device: str, threads: int) -> Plan:
    """Plan the training of runs of one shape.

    Parameters
    ----------
    runs : sequence of Run
    limit : int
        Bytes available.
    device : str
    threads : int
        CPU threads.

    Raises
    ------
    MemoryError
        Not even one run fits.
    """
    # what a need follows from beside the shape, which is one: runs that differ in their seeds need the same
    kinds = list({(run.data, run.capture, run.batch, run.validation): run for run in runs}.values())
    needs = [need(run, device, threads) for run in kinds]
    most = Need(*(max(part) for part in zip(*needs)))
    fit = min((limit - most.shared) // most.member, len(runs))
    if fit < 1:
        run = kinds[max(range(len(kinds)), key=lambda i: sum(needs[i]))]
        raise MemoryError(
            f"memory: {run.name!r} alone needs {size_text(sum(most))} "
            f"({run.model.parameters(run.shape):,} parameters, batch {run.batch}), but there are "
            f"{size_text(limit)}{_of_all(device)}: take a smaller model, batch or capture, or give it more{_table(run)}"
        )
    return Plan(most, limit, len(runs), fit)


def need(run: Run, device: str, threads: int) -> Need:
    """Return an upper bound on one run's memory use, in bytes."""
    return _need_on_cpu(run, threads) if device == "cpu" else _need_on_gpu(run)


def available(device: str) -> int:
    """Return the free bytes of a device."""
    return _available_on_cpu() if device == "cpu" else torch.cuda.mem_get_info(device)[0]


def _table(run: Run) -> str:
    size = run.data.stream_bytes
    return f"; {size_text(size)} are what its rows are drawn from" if size else ""


def _of_all(device: str) -> str:
    """Describe in words how much of a GPU is free, since other processes may hold the rest."""
    if ":" not in device:  # a GPU that is here has a number
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f" ({size_text(free)} of the {size_text(total)} of {device} are free, others have taken the rest)"


def limit_of(memory: int | str | None, device: str) -> int:
    """Return a memory limit in bytes.

    Parameters
    ----------
    memory : int or str, optional
        Bytes, or a text such as "8GiB". None means 0.9 of the device's free memory.
    device : str

    Raises
    ------
    TypeError, ValueError
        `memory` is anything else.
    """
    if memory is None:
        return int(USED * available(device))
    if isinstance(memory, bool) or not isinstance(memory, Integral | str):
        raise TypeError(f"memory: expected bytes, a text such as '8GiB' or None, got {memory!r}")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\w*)\s*", str(memory))
    units = {unit.lower(): size for unit, size in UNITS.items()}
    if not found or found[2].lower() not in units:
        raise ValueError(f"memory: expected bytes or a text such as '8GiB' ({', '.join(UNITS)[2:]}), got {memory!r}")
    return int(float(found[1]) * units[found[2].lower()])


def captured_bytes(run: Run) -> int:
    """Return the bytes of a checkpoint's activations, in float32."""
    layers = len(run.capture.of(run.model.layers))
    return layers * _captured(run.data, run.capture) * run.model.hidden * NUMBER if layers else 0


@lru_cache(maxsize=1024)
def _captured(data: Dataset, capture: Capture) -> int:
    """Return the number of positions that are captured: a study has few captures, and plans each for many runs."""
    return len(readout_of(data, capture).rows.scored)


def checkpoint_bytes(run: Run) -> int:
    """Return the bytes of a run's parameters and moments."""
    return (1 + len(MOMENTS)) * weights_bytes(run)


def weights_bytes(run: Run) -> int:
    """Return the bytes of a run's parameters at one step."""
    return NUMBER * run.model.parameters(run.shape)


# ---- a GPU ----


def _need_on_gpu(run: Run) -> Need:
    """Return the need on a GPU: the footprint of training, and once the larger of the two things that one member at
    a time does at a checkpoint, capturing states or answering validation rows.
    """
    longest = run.data.longest
    width = longest + LONGEST_ANSWER
    model = gpu_bytes(run.model, run.shape, run.batch * longest, run.validation, width, run.matmul_dtype)
    checkpoint = max(model.reading + captured_bytes(run), model.answering)
    return Need(model.member, model.shared + CHUNK_BYTES + checkpoint + GPU_EXTRA + WORKSPACES)


# ---- the CPU ----


def _need_on_cpu(run: Run, threads: int) -> Need:
    """Return the need on a CPU: for each member the model, moments, a batch and a captured checkpoint; once for all
    a file of activations in the making.
    """
    spec, shape, tokens = run.model, run.shape, run.batch * run.data.longest
    model = spec.cpu_bytes(shape, tokens, threads, run.matmul_dtype, run.data.longest)
    states = captured_bytes(run)
    moments = NUMBER * spec.parameters(shape) * len(MOMENTS)
    segment = 2 * states  # a file of activations while it is made
    batch = tokens * TOKEN_EXTRA + run.data.stream_bytes
    return Need(model.member + moments + batch + states + MEMBER_EXTRA, model.shared + segment)


def _available_on_cpu() -> int:
    """Return the available memory by /proc/meminfo and the process's control groups; without /proc/meminfo, all
    physical memory.
    """
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    except FileNotFoundError:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([free, *_left_in_cgroups(CGROUPS, Path("/proc/self/cgroup"))])


def _left_in_cgroups(root: Path, own: Path) -> Iterator[int]:
    """Yield the bytes left below the limit of each control group (version 2) of the process."""
    if not own.exists():
        return
    for line in own.read_text(encoding="utf-8").splitlines():
        if line.startswith("0::"):
            group = root / line[3:].lstrip("/")
            for folder in (group, *group.parents):
                limit = folder / "memory.max"
                if limit.exists() and limit.read_text(encoding="utf-8").strip() != "max":
                    stat = dict(
                        line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
                    )
                    used = int((folder / "memory.current").read_text(encoding="utf-8")) - int(stat["inactive_file"])
                    yield int(limit.read_text(encoding="utf-8")) - used
                if folder == root:
                    break

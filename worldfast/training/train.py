"""Training: runs of one shape as an ensemble in lockstep, each as if it were trained alone.

A step makes each member's rows, computes every member's gradient and updates each with its own learning rate
and clipping (worldfast.training.step). At a checkpoint the activations go to a writer's thread, then the
checkpoint to disk, so that whoever resumes from it finds the activations before it, and its own are made
again where they are missing. What a run leaves in its folder stands in worldfast.training.member.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch

from worldfast import files
from worldfast._native import core
from worldfast.errors import DeviceError, unknown_name
from worldfast.models import require_cuda
from worldfast.reading import Writer
from worldfast.run import Family, Run
from worldfast.training import metrics, start
from worldfast.training.folder import outcome
from worldfast.training.gpu_step import GpuLockstep
from worldfast.training.member import Member
from worldfast.training.memory import limit_of, plan, text
from worldfast.training.progress import NAMED, Interrupt, Progress
from worldfast.training.schedule import levels
from worldfast.training.step import Lockstep

__all__ = ["Run", "lockstep_of", "train"]

DEVICES = ("auto", "cpu", "cuda")


def train(
    runs: Run | Iterable[Run],
    out: str | os.PathLike = "runs",
    *,
    device="auto",
    threads: int | None = None,
    memory: int | str | None = None,
    progress=True,
    log: Callable[[Run, dict], None] | str | None = None,
) -> list[Path]:
    """Trains runs, those of one shape and one kind of products together, and returns their folders below `out`, in order.

    A run whose folder says that it is done is left as it is; one that was stopped goes on from its newest
    checkpoint and ends with the bits of an uninterrupted one. Members differ in tasks, seed, rows, batch,
    learning rate, length, start. One whose loss or gradient is not finite is frozen before that step and
    marked in its `done`; the others go on.

    A run that starts from another (`Run.start`) needs it done below `out`, or in the same call: it is then
    trained first. Runs of one shape that do not fit in memory together train in waves, the longest first, so
    that runs of like length share one. Results depend on none of this, but on a GPU, where the members of an
    ensemble and the device decide in which order sums are added up.

    device    "cpu", "cuda" or "cuda:1" ...; "auto": a GPU where one can be used; what is chosen is said, and
              why where a GPU is expected and none is used
    threads   CPU threads; None: as many as torch uses. Results do not depend on it
    memory    how much of it training may take: bytes, or a text such as "8GiB"; None: 0.9 of what is free
    progress  True: rate, loss and time left, on standard error
    log       where lines of metrics go besides metrics.jsonl: "tensorboard" (below the run's folder), "wandb"
              or "trackio" (project "worldfast"), or a callable that gets the run and each line, a dict. Who
              goes on from a checkpoint sends the lines behind it again

    Ctrl-C finishes the step, saves every member and raises KeyboardInterrupt. Before anything starts it
    raises DeviceError (a RuntimeError) where a device cannot be used, FileExistsError where `out` is a file, ValueError where a run stands there twice, a start does not
    fit or a world is too small for its rows, FileNotFoundError where a start is not trained, MemoryError
    where one run alone does not fit (or, later, where another process takes a GPU's memory), BlockingIOError where another process trains one, ModuleNotFoundError
    where `log` is not installed. Later, ValueError where a folder holds something else than its run, and
    OSError where a file cannot be written: what was finished stays, and the same call goes on. RuntimeError
    at the end where runs could not begin, since what they start from diverged.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    _check_runs(runs)
    shown = Progress(progress)
    device = _device(device, shown)
    threads = _threads(threads)
    open_log = metrics.opener(log)
    limit = limit_of(memory, device)
    out = files.folder(out, "out")
    folders = [out / run.folder_name for run in runs]
    pending = {folder: run for run, folder in zip(runs, folders) if not (folder / "done").exists()}
    for run in pending.values():
        start.require(run, out, {other.id for other in pending.values()})
        run.stream(), run.readout()  # what is wrong with rows is said now, not when their wave begins
        if device != "cpu" and not run.model.on_gpu(run.shape, run.data.longest):
            raise DeviceError(device, f"{run.name!r} is a model in PyTorch, which trains on the CPU")
    waves = list(_waves(pending, limit, device, threads))
    with ExitStack() as locks:
        for folder in pending:
            locks.enter_context(files.lock(files.folder(folder, "out")))
        stuck = []
        for wave in waves:
            ready = {at: run for at, run in wave.runs.items() if outcome(run, out).status != "barred"}
            stuck += [run for at, run in wave.runs.items() if at not in ready]
            shown.say(wave.about)
            if ready:
                try:
                    _train_wave(ready, device, threads, shown, open_log)
                except torch.OutOfMemoryError as error:
                    raise MemoryError(_taken(device)) from error
    if stuck:
        names = ", ".join(f"{run.name!r} from {run.start.name!r}" for run in stuck if isinstance(run.start, Run))
        raise RuntimeError(f"all other runs have ended, but what these start from diverged: {names}")
    return folders


def _taken(device: str) -> str:
    """What is said where a device has less memory than it had when it was planned."""
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"memory: {device} ran out of it, {text(free)} of {text(total)} are free: has another process taken some? "
        "Checkpoints stay, and the same call goes on from them; with memory=... fewer runs train at once"
    )


def _check_runs(runs: list[Run]) -> None:
    seen: dict[str, int] = {}
    for i, run in enumerate(runs):
        if not isinstance(run, Run):
            raise TypeError(f"runs: expected worldfast.Run, got {run!r}")
        if run.id in seen:
            raise ValueError(
                f"runs: {i} is {seen[run.id]} again, {run.name!r} with the id {run.id}: give each a seed or "
                "whatever makes it another run; its name does not"
            )
        seen[run.id] = i


def _device(device, shown: Progress) -> str:
    """ "cpu", or a GPU with its number."""
    if str(device).partition(":")[0] not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if str(device) == "auto":
        try:
            return str(require_cuda("cuda"))
        except DeviceError as error:
            if torch.version.cuda:  # else nobody expects a GPU to be used
                shown.say(f"on the CPU: {error.reason}")
            return "cpu"
    return "cpu" if str(device) == "cpu" else str(require_cuda(device))


def _threads(threads: int | None) -> int:
    if threads is None:
        return torch.get_num_threads()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads: expected an integer or None, got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    return threads


# ---- waves ----


class _Wave(NamedTuple):
    """Runs of one shape that train together, by folder, and what to say of them."""

    runs: dict[Path, Run]
    about: str


def _waves(pending: dict[Path, Run], limit: int, device: str, threads: int) -> Iterator[_Wave]:
    """Runs in the order in which they train: level by level, then family by family, each family's longest runs first."""
    folders = {run.id: folder for folder, run in pending.items()}
    for level in levels(pending.values()):
        families: dict[Family, list[Run]] = {}
        for run in level:
            families.setdefault(run.family, []).append(run)
        for runs in families.values():
            runs.sort(key=lambda run: -run.steps)
            planned = plan(runs, limit, device, threads)
            for i, part in enumerate(planned.slices(), 1):
                about = f"wave {i} of {planned.waves}" if i > 1 else str(planned)
                yield _Wave({folders[run.id]: run for run in runs[part]}, about)


# ---- a wave ----


def _train_wave(runs: dict[Path, Run], device: str, threads: int, progress: Progress, open_log: metrics.Opener) -> None:
    """Trains runs of one shape, by folder, as the members of an ensemble."""
    lockstep, where = lockstep_of(list(runs.values()), device, threads)
    writer = Writer()
    members = [Member(lockstep, i, folder, run, writer) for i, (folder, run) in enumerate(runs.items())]
    try:
        with Interrupt() as interrupt, ExitStack() as logs:
            _at_checkpoint([member for member in members if member.begin()], writer)
            for member in members:
                member.log = logs.enter_context(open_log(member.run, member.folder, member.step))
            progress.start(members, where)
            while active := [member for member in members if not member.ended]:
                lockstep.step([member.index for member in active])
                for member in active:
                    member.advance()
                _at_checkpoint([member for member in active if member.due], writer)
                if interrupt.requested and not all(member.ended for member in members):
                    _stop(members, writer)
                progress.step(members)
            writer.flush()
            for member in members:
                member.write_done()
    finally:
        writer.close()
        progress.end()


def lockstep_of(runs: list[Run], device: str, threads: int) -> tuple[Lockstep, str]:
    """Runs of one shape as members of an ensemble, and in words where it is."""
    spec, shape, matmul_dtype = runs[0].model, runs[0].shape, runs[0].matmul_dtype
    longest = max(run.stream().longest for run in runs)
    options = {"device": device, "threads": threads, "matmul_dtype": matmul_dtype, "longest": longest}
    ensemble = spec.build(shape, len(runs), **options)
    about = f"; {ensemble.about}" if ensemble.about else ""
    if device == "cpu":
        emulated = matmul_dtype == "bfloat16" and not core.multiplies_pairs()
        how = "; bfloat16 products are multiplied as float32 here, no faster than float32" if emulated else ""
        return Lockstep(ensemble, runs), f"the CPU, threads: {threads}{how}{about}"
    return GpuLockstep(ensemble, runs), torch.cuda.get_device_name(device)


def _at_checkpoint(members: list[Member], writer: Writer) -> None:
    """Activations first and all those before them on disk, so that a checkpoint never stands without them."""
    if members:
        writer.flush()
        for member in members:
            member.capture()
        for member in members:
            member.validate()
            member.save()


def _stop(members: list[Member], writer: Writer) -> None:
    writer.flush()
    for member in members:
        member.look()
        if not member.ended:
            member.save()
    steps = ", ".join(f"{m.run.name} at step {m.step:,} of {m.run.steps:,}" for m in members[:NAMED])
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    raise KeyboardInterrupt(f"stopped and saved: {steps}{more}. The same call or command goes on from here.")

"""Training: runs of one shape as an ensemble in lockstep, each as if it were trained alone.

A step makes each member's rows, computes every member's gradient and updates each with its own learning rate and
clipping (worldfast.training.step). At a checkpoint the activations go to a writer's thread first and the checkpoint to
disk afterwards, so that a resumed run finds the activations before its checkpoint, and makes the missing ones again.
worldfast.training.member lists the files in a run's folder.
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
from worldfast.dataset import scores_of
from worldfast.display import size_text
from worldfast.errors import DeviceError, several, typed, unknown_name, whole
from worldfast.folder import require_kept, require_same
from worldfast.locks import Holder, lock, sweep
from worldfast.models import require_cuda
from worldfast.outcome import done, outcome
from worldfast.reading import Writer
from worldfast.rows import rows_from
from worldfast.run import Family, Run
from worldfast.training import metrics, start
from worldfast.training.gpu_step import GpuLockstep
from worldfast.training.member import Member, write_spec
from worldfast.training.memory import limit_of, plan
from worldfast.training.progress import NAMED, Interrupt, Progress, Stopped
from worldfast.training.schedule import levels
from worldfast.training.step import Lockstep

DEVICES = ("auto", "cpu", "cuda")


def train(
    runs: Run | Iterable[Run],
    out: str | os.PathLike = "runs",
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
    memory: int | str | None = None,
    progress: bool = True,
    log: Callable[[Run, dict], None] | str | None = None,
) -> list[Path]:
    """Train runs, those of one shape and matmul dtype together.

    A run whose folder is marked as done is left as it is; an interrupted one resumes from its newest checkpoint and is
    bit-identical to an uninterrupted one. Members may differ in tasks, seed, rows, batch, learning rate, length and
    start. A member whose loss or gradient is not finite is frozen before that step and marked in its `done`; the others
    continue.

    A run that starts from another (`Run.start`) needs that run done below `out`, or in the same call, which then trains
    it first. Runs of one shape that do not fit in memory together train in waves, the longest first, so that runs of
    similar length share a wave. Results do not depend on any of this, except on a GPU, where the members of an ensemble
    and the device determine the order of sums.

    Ctrl-C, SIGTERM and SIGHUP finish the step, save every member and raise KeyboardInterrupt, whose `signum` says which
    it was; signals reach the main thread only. After any error the same call resumes.

    Parameters
    ----------
    runs : Run or iterable of Run
    out : path
        Folder below which each run has its folder.
    device : str or torch.device
        "cpu", "cuda", "cuda:1" ...; "auto" uses a GPU if possible, and reports the choice.
    threads : int, optional
        CPU threads; None means torch's number. Results do not depend on it.
    memory : int or str, optional
        Memory that training may take: bytes, or a text such as "8GiB". None means 0.9 of the free memory.
    progress : bool
        Report rate, loss and remaining time on standard error.
    log : callable or str, optional
        Destination of metrics besides metrics.jsonl: "tensorboard" (below the run's folder), "wandb" or "trackio"
        (project "worldfast"), or a callable that gets the run and each line, a dict. A resumed run re-sends the lines
        after its checkpoint.

    Returns
    -------
    list of Path
        Folders of the runs, in order.

    Raises
    ------
    DeviceError
        The device cannot be used. It is a RuntimeError.
    FileExistsError
        `out` is a file.
    ValueError
        A run is given twice, a start does not fit, a world is too small for its rows, a run has passed steps whose
        weights it is to keep (`Run.keep`), or (later) a folder holds another run.
    FileNotFoundError
        A start is not trained.
    MemoryError
        One run alone does not fit, or (later) another process took the GPU's memory.
    BlockingIOError
        Another process trains one of the runs.
    ModuleNotFoundError
        The tracker that `log` names is not installed.
    OSError
        A file cannot be written; finished checkpoints remain.
    RuntimeError
        At the end: some runs could not begin, because the runs they start from diverged.

    Examples
    --------
    >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32)
    >>> data = cities.Dataset("distance", rows=64)
    >>> runs = [wf.Run(data, seed, model=spec, batch=32, checkpoints=1) for seed in (1, 2)]
    >>> folders = wf.train(runs, "runs", device="cpu", progress=False)
    >>> sorted(path.name for path in folders[0].iterdir())
    ['activations', 'checkpoint', 'done', 'lock', 'metrics.jsonl', 'spec.json']
    """
    runs = [runs] if isinstance(runs, Run) else list(several("runs", runs, "worldfast.Run, or several"))
    _check_runs(runs)
    shown = Progress(progress)
    device = _device(device, runs, shown)
    threads = torch.get_num_threads() if threads is None else whole("threads", threads, 1)
    open_log = metrics.opener(log)
    limit = limit_of(memory, device)
    out = files.folder(out, "out")
    folders = [out / run.folder_name for run in runs]
    for folder, run in zip(folders, runs):
        require_same(folder, run)
        require_kept(folder, run)
    pending = {folder: run for run, folder in zip(runs, folders) if not done(folder, run.id)}
    for folder, run in zip(folders, runs):
        if folder not in pending and not files.there(folder / "spec.json"):
            write_spec(folder, run, files.origin(device))
    for run in pending.values():
        start.require(run, out, {other.id for other in pending.values()})
        run.stream(), run.readout()  # errors of rows are raised now, not when their wave begins
    waves = list(_waves(pending, limit, device, threads))
    _try_rows(pending)
    if not pending:
        sweep(out)
        return folders
    with lock(out, [files.folder(folder, "out") for folder in pending]) as holder:
        stuck = []
        for wave in waves:
            ready = {at: run for at, run in wave.runs.items() if outcome(run, out).status != "barred"}
            stuck += [run for at, run in wave.runs.items() if at not in ready]
            shown.say(wave.about)
            if ready:
                try:
                    _train_wave(ready, device, threads, shown, open_log, holder)
                except torch.OutOfMemoryError as error:
                    raise MemoryError(_taken(device)) from error
    if stuck:
        names = ", ".join(f"{run.name!r} from {run.start.name!r}" for run in stuck if isinstance(run.start, Run))
        raise RuntimeError(f"all other runs have ended, but what these start from diverged: {names}")
    return folders


def _taken(device: str) -> str:
    """Return the message for a device that has less memory than planned."""
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"memory: {device} ran out of it, {size_text(free)} of {size_text(total)} are free: has another process taken "
        "some? Checkpoints stay, and the same call goes on from them; with memory=... fewer runs train at once"
    )


def _check_runs(runs: list[Run]) -> None:
    seen: dict[str, int] = {}
    for i, run in enumerate(runs):
        if typed("runs", run, Run, "worldfast.Run").id in seen:
            raise ValueError(
                f"runs: {i} is {seen[run.id]} again, {run.name!r} with the id {run.id}: give each a seed or "
                "whatever makes it another run; its name does not"
            )
        seen[run.id] = i


def _try_rows(runs: dict[Path, Run]) -> None:
    """Draw the first batch of each run, by folder, and score an untrained model of each class of datasets, of runs that
    have not begun: what is wrong with a world of one's own is said before anything is written.
    """
    scored = set()
    for run in (run for folder, run in runs.items() if not files.there(folder / "spec.json")):
        rows = rows_from(run.stream(), *run.rows_at(0), run.shape)
        if rows.targets is None or not len(rows.scored):
            raise ValueError(
                f"rows of {run.name!r}: expected scored positions with targets, {type(run.data).__name__} gives none"
            )
        if run.validation and type(run.data) not in scored:
            scored.add(type(run.data))
            untrained = run.model.build(run.shape)
            untrained.initialise(0, run.seed)
            scores_of(run.data, untrained, 0, run.validation, seed=run.seed, split="validation")


def _device(device: str | torch.device, runs: Iterable[Run], shown: Progress) -> str:
    """Return "cpu", or a GPU with its number, on which all of the runs can train."""
    if str(device).partition(":")[0] not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if str(device) == "cpu":
        return "cpu"
    if str(device) != "auto":
        if run := _of_the_cpu(runs):
            raise DeviceError(device, f"{run.name!r} has no kernels for a GPU, it trains on the CPU")
        return str(require_cuda(device))
    try:
        found = str(require_cuda("cuda"))
    except DeviceError as error:
        if torch.version.cuda:  # otherwise nobody expects a GPU
            shown.say(f"on the CPU: {error.reason}")
        return "cpu"
    if run := _of_the_cpu(runs):
        shown.say(f"on the CPU: {run.name!r} has no kernels for a GPU")
        return "cpu"
    return found


def _of_the_cpu(runs: Iterable[Run]) -> Run | None:
    """Return the first run whose model trains on the CPU only, or None."""
    return next((run for run in runs if not run.model.on_gpu(run.shape, run.data.longest)), None)


# ---- waves ----


class _Wave(NamedTuple):
    """Runs of one shape that train together, by folder, and a description for the progress report."""

    runs: dict[Path, Run]
    about: str


def _waves(pending: dict[Path, Run], limit: int, device: str, threads: int) -> Iterator[_Wave]:
    """Yield runs in the order of training: level by level, then family by family, each family's longest runs first."""
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


def _train_wave(
    runs: dict[Path, Run], device: str, threads: int, progress: Progress, open_log: metrics.Opener, holder: Holder
) -> None:
    """Train runs of one shape, by folder, as the members of an ensemble."""
    lockstep, where = lockstep_of(list(runs.values()), device, threads)
    writer = Writer()
    members = [Member(lockstep, i, folder, run, writer, holder) for i, (folder, run) in enumerate(runs.items())]
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
                    _stop(members, writer, interrupt.requested)
                progress.step(members)
            writer.flush()
            for member in members:
                member.write_done()
    finally:
        writer.close()
        progress.end()


def lockstep_of(runs: list[Run], device: str, threads: int) -> tuple[Lockstep, str]:
    """Return runs of one shape as members of an ensemble, and a description of where they train."""
    spec, shape, matmul_dtype = runs[0].model, runs[0].shape, runs[0].matmul_dtype
    longest = max(run.data.longest for run in runs)
    options = {"device": device, "threads": threads, "matmul_dtype": matmul_dtype, "longest": longest}
    ensemble = spec.build(shape, len(runs), **options)
    about = f"; {ensemble.about}" if ensemble.about else ""
    if device == "cpu":
        emulated = matmul_dtype == "bfloat16" and not core.multiplies_pairs()
        how = "; bfloat16 products are multiplied as float32 here, no faster than float32" if emulated else ""
        return Lockstep(ensemble, runs), f"the CPU, threads: {threads}{how}{about}"
    return GpuLockstep(ensemble, runs), torch.cuda.get_device_name(device)


def _at_checkpoint(members: list[Member], writer: Writer) -> None:
    """Write all activations before any checkpoint, so that a checkpoint never exists without them."""
    if members:
        writer.flush()
        for member in members:
            member.capture()
        for member in members:
            member.validate()
            member.save()


def _stop(members: list[Member], writer: Writer, signum: int) -> None:
    writer.flush()
    for member in members:
        member.look()
        if not member.ended:
            member.save()
    steps = ", ".join(f"{m.run.name} at step {m.step:,} of {m.run.steps:,}" for m in members[:NAMED])
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    raise Stopped(f"stopped and saved: {steps}{more}. The same call or command goes on from here.", signum)

"""Training on a Ray cluster: ensembles are packed onto its GPUs, or onto its cores if it has none.

The shared folder is the truth: Ray is told what to do and never asked what has been done. If a worker dies, a node
disappears or the call itself ends, only the work since the last checkpoint is lost. Workers get specs and paths. How to
start a cluster: docs/cluster.md.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import platform
import time
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from worldfast import files
from worldfast.classes import LOADED, load_file
from worldfast.display import count, size_text
from worldfast.errors import one_of
from worldfast.folder import metrics, require_kept
from worldfast.log import LOG, logged_to, tell
from worldfast.outcome import outcome
from worldfast.run import Run
from worldfast.training import start
from worldfast.training.jobs import SEEN, Ending, Job, Outcome, drive
from worldfast.training.memory import USED, available, limit_of, plan
from worldfast.training.packing import pack, work
from worldfast.training.schedule import base_of, levels
from worldfast.training.train import train

DEVICES = ("auto", "cuda", "cpu")
# most cores of a place on a CPU: many cores are used better by more ensembles than by more threads
CORES = 4
NAME = 100  # most characters of a run's name in a job's id, which is also a file name
INSTALL = "Ray is not installed: pip install 'worldfast[ray]', on each node of the cluster too"


class Places(NamedTuple):
    """Places at which a cluster can train, each for one ensemble at a time.

    Attributes
    ----------
    device : {"cuda", "cpu"}
        A place is a GPU, or some cores.
    count : int
        Number of places.
    memory : int
        Bytes that an ensemble may take in the smallest of them.
    cpus : int
        Cores of a place.
    """

    device: str
    count: int
    memory: int
    cpus: int

    def text(self) -> str:
        """Describe the places in words."""
        kind = "GPUs" if self.device == "cuda" else "places on CPUs"
        return f"{kind}: {self.count}, each with {size_text(self.memory)}, cores: {self.cpus}"


# ---- what the engine calls ----


def train_on_cluster(
    runs: Iterable[Run],
    out: str | os.PathLike = "runs",
    *,
    address: str = "auto",
    device: str = "auto",
    memory: int | str | None = None,
    retries: int = 3,
    patience: float = 600.0,
    progress=True,
) -> Outcome:
    """Train runs on a Ray cluster, as `worldfast.train` does in this process.

    On CPUs of one kind the weights are bit-identical to those of `worldfast.train`; on GPUs the order of sums depends
    on how runs are packed into ensembles.

    Parameters
    ----------
    runs : iterable of Run
    out : path
        Folder that all nodes see under the same path.
    address : str
        Address of the cluster; see `run_jobs`.
    device : {"auto", "cuda", "cpu"}
        Device to train on; "auto" uses GPUs if the cluster has any, and says so.
    memory : int or str, optional
        Bytes that an ensemble may take, or a text such as "40GiB"; None means most of what the cluster's smallest place
        has.
    retries, patience
        As for `run_jobs`.
    progress : bool
        Report progress on standard error.

    Returns
    -------
    Outcome
        Fate of each ensemble.
    """
    with connected(address):
        places = survey(device=device, memory=memory)
        jobs = training_jobs(runs, out, places)
        tell(f"{count(len(jobs), 'ensemble')} to train, for {places.text()}", progress)
        return run_jobs(jobs, out, retries=retries, patience=patience, progress=progress)


def run_jobs(
    jobs: Iterable[Job],
    out: str | os.PathLike,
    *,
    address: str = "auto",
    retries: int = 3,
    patience: float = 600.0,
    progress=True,
) -> Outcome:
    """Run jobs on a Ray cluster, each as soon as the jobs it needs are done.

    Jobs that are done already are skipped. A job that raises an error is recorded in `<out>/failed/<id>.json`, as are
    the jobs that need it; all others continue. Calling again retries failed jobs. Ctrl-C makes running jobs save their
    state.

    Parameters
    ----------
    jobs : iterable of Job
        Paths in their arguments are the same on all nodes.
    out : path
        Folder below which jobs leave their files, shared by all nodes.
    address : str
        Address of the cluster. "auto" is the one that runs here or that RAY_ADDRESS names; "local" starts one on this
        machine for the duration of the call. An existing connection is used as it is.
    retries : int
        Attempts after a worker died; a lost node does not count.
    patience : float
        Seconds that a job waits for a lock that another process holds, or for a node that is large enough.
    progress : bool
        Report progress on standard error.

    Returns
    -------
    Outcome
        Fate of each job.

    Raises
    ------
    ModuleNotFoundError
        Ray is not installed.
    ConnectionError
        There is no cluster.
    ValueError
        Jobs need each other in a circle, share an id, or need an unknown one.
    KeyboardInterrupt
        Ctrl-C was pressed.
    """
    out = files.folder(out, "out").absolute()
    with connected(address) as ray, _mark(out) as mark:
        pool = _RayPool(ray, mark)
        return drive(jobs, out, pool, retries=retries, patience=patience, say=partial(tell, shown=progress))


def training_jobs(runs: Iterable[Run], out: str | os.PathLike, places: Places) -> list[Job]:
    """Return the jobs that train unfinished runs: one for each ensemble, packed for the places.

    A run may start from another of these runs, or from one that is done below `out`.

    Parameters
    ----------
    runs : iterable of Run
    out : path
        Folder of the runs.
    places : Places

    Returns
    -------
    list of Job

    Raises
    ------
    FileNotFoundError, ValueError, MemoryError
        As `worldfast.train` raises before training starts.
    """
    out = Path(out).absolute()
    runs = list(runs)
    for run in runs:
        require_kept(out / run.folder_name, run)
    left = [run for run in runs if not outcome(run, out).settled]
    for run in left:
        start.require(run, out, {other.id for other in left})
    alone: dict[str, Run] = {}  # by id: those that are damaged, and what waits for them
    for run in itertools.chain(*levels(left)):
        if base_of(run, alone) or not _goes_on(run, out):
            alone[run.id] = run
    others = [run for run in left if run.id not in alone]
    parts = pack(others, places.count, places.memory, places.device, places.cpus) + [[run] for run in alone.values()]
    jobs: list[Job] = []
    of_run = {run.id: _job_name(part) for part in parts for run in part}
    for part in parts:
        name = _job_name(part)
        needs = {of_run[base.id] for run in part if (base := base_of(run, of_run))}
        on_gpu = places.device == "cuda"
        memory = None
        if not on_gpu:
            need = plan(part, places.memory, places.device, places.cpus).need
            memory = min(places.memory, need.member * len(part) + need.shared)
        job = Job(
            id=name,
            function=train_ensemble,
            arguments=(tuple(part), out, places.device, places.cpus, memory),
            done=settled,
            needs=tuple(sorted(needs)),
            about=tuple(run.folder_name for run in part),
            cpus=places.cpus,
            gpus=1 if on_gpu else 0,
            memory=memory or 0,
            cost=work(part),
        )
        jobs.append(job)
    return jobs


def _job_name(part: Sequence[Run]) -> str:
    digest = hashlib.sha256(" ".join(run.id for run in part).encode()).hexdigest()[:8]
    more = f"-and-{len(part) - 1}-more" if len(part) > 1 else ""
    return f"train-{part[0].name[:NAME]}{more}-{digest}"


def _goes_on(run: Run, out: Path) -> bool:
    """Return False if what a run has left is damaged: as a job of its own it keeps no other from training."""
    folder = out / run.folder_name
    try:
        if files.there(folder / "checkpoint"):
            metrics(folder)  # as its spec, its newest checkpoint and its own file have them
    except (ValueError, OSError):
        return False
    return True


def train_ensemble(runs: Sequence[Run], out: Path, device: str, threads: int, memory: int | None) -> None:
    """Train those of the runs that can begin; a run whose start diverged cannot."""
    begin = [run for run in runs if outcome(run, out).status != "barred"]
    train(begin, out, device=device, threads=threads, memory=memory, progress=False)


def settled(runs: Sequence[Run], out: Path, *_) -> bool:
    """Return True if nothing is left to train: each run has ended, or starts from one that diverged."""
    return all(outcome(run, out).settled for run in runs)


# ---- the cluster ----


@contextmanager
def connected(address: str = "auto") -> Iterator:
    """Connect to the cluster and yield the ray module; an existing connection is used and left open."""
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError(INSTALL, name="ray") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ConnectionError(
            f"address: no Ray cluster at {address!r}. Start one with `ray start --head` (docs/cluster.md), or "
            f"name one, or say 'local'. {error}"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def survey(*, address: str = "auto", device: str = "auto", memory: int | str | None = None) -> Places:
    """Return the places at which a cluster can train: its GPUs, or groups of at most CORES cores.

    Parameters
    ----------
    address : str
        Address of the cluster; see `run_jobs`.
    device : {"auto", "cuda", "cpu"}
        "auto" means GPUs if there are any.
    memory : int or str, optional
        Memory of a place in bytes or as text. None means most of the smallest place's; one GPU is asked how much it has
        free, as soon as it is.

    Raises
    ------
    ValueError
        The device is unknown.
    RuntimeError
        No node has a GPU or a core.
    """
    one_of("device", device, DEVICES)
    with connected(address) as ray:
        nodes = _nodes(ray)
        with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
        if with_gpus and device != "cpu":
            count = sum(int(node["GPU"]) for node in with_gpus)
            cpus = min(max(1, int(node.get("CPU", 0) // node["GPU"])) for node in with_gpus)
            return Places("cuda", count, limit_of(memory, "cuda") if memory else _gpu_memory(ray), cpus)
        cores = [(int(node["CPU"]), node.get("memory", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        if device == "cuda" or not cores:
            lacking = "GPU" if device == "cuda" else "GPU or core"
            raise RuntimeError(f"device: no node of the cluster has a {lacking} now (`ray status` shows them)")
        cpus = min(CORES, *(count for count, _ in cores))
        limit = limit_of(memory, "cpu") if memory else int(min(USED * size / (n // cpus) for n, size in cores))
        return Places("cpu", sum(count // cpus for count, _ in cores), limit, cpus)


def _nodes(ray) -> list[dict[str, float]]:
    """Return the resources of each live node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _gpu_memory(ray) -> int:
    """Return the bytes that an ensemble may take on one of the cluster's GPUs."""
    return int(USED * ray.get(ray.remote(available).options(num_gpus=1, num_cpus=0).remote("cuda")))


class _RayPool:
    """Ray cluster as a pool: one task for each attempt; Ray itself retries nothing."""

    def __init__(self, ray, mark: Path):
        self.ray, self.mark = ray, mark
        self.tasks: dict = {}  # reference -> id of the job
        self.remote = ray.remote(_carry_out)

    def submit(self, job: Job, needs: Sequence[Job]) -> None:
        takes = {"num_cpus": job.cpus, "num_gpus": job.gpus}
        if job.memory:
            takes["memory"] = job.memory
        task = self.remote.options(name=job.id, max_retries=0, **takes)
        sent = self.ray.cloudpickle.dumps((job, needs))
        loaded = [path for path in LOADED.values() if path.is_file()]
        self.tasks[task.remote(sent, loaded, self.mark, _version())] = job.id

    def endings(self, seconds: float) -> list[tuple[str, Ending]]:
        if not self.tasks:
            time.sleep(seconds)
            return []
        self.ray.wait(list(self.tasks), num_returns=1, timeout=seconds)
        ready, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        return [(self.tasks.pop(task), self._ending(task)) for task in ready]

    def _ending(self, task) -> Ending:
        wrong = self.ray.exceptions
        try:
            return self.ray.get(task)
        except wrong.TaskCancelledError:
            return Ending("stopped")
        except wrong.NodeDiedError as error:
            return Ending("lost", f"its node went: {_sentence(error)}")
        except (wrong.RayTaskError, wrong.RuntimeEnvSetupError) as error:  # before a job's function was called
            return Ending("raised", _line(error.cause if hasattr(error, "cause") else error), str(error))
        except wrong.RayError as error:
            return Ending("died", f"its worker died: {_sentence(error)}")

    def homeless(self, jobs: Sequence[Job]) -> Collection[str]:
        nodes = _nodes(self.ray)
        found = []
        for job in jobs:
            takes = {"CPU": job.cpus, "GPU": job.gpus, "memory": job.memory}
            if not any(all(node.get(name, 0) >= most for name, most in takes.items()) for node in nodes):
                found.append(job.id)
        return found

    def stop(self) -> None:
        for task in list(self.tasks):
            self.ray.cancel(task)  # Ctrl-C in the worker: training saves and ends

    def text(self) -> str:
        nodes = _nodes(self.ray)
        parts = [(len(nodes), "node")]
        parts += [(int(sum(node.get(name, 0) for node in nodes)), name) for name in ("CPU", "GPU")]
        return ", ".join(count(n, name) for n, name in parts)


# ---- in a worker ----


def _carry_out(sent: bytes, loaded: Sequence[Path], mark: Path, version: tuple[str, str]) -> Ending:
    """Carry out a job, sent as it was pickled: only with the files that the call has loaded can it be read."""
    where = platform.node()
    try:
        if _version() != version:
            ours, theirs = (" ".join(part).strip() for part in (version, _version()))
            raise RuntimeError(f"node {where} has worldfast {theirs}, the call {ours}: install the same there")
        if not mark.exists():
            raise FileNotFoundError(
                f"node {where} does not see {mark}: `out` must be a folder that all nodes share, under one path"
            )
        for path in loaded:
            if LOADED.get(path.stem) != path:
                load_file(path, f"a file that node {where} needs")
        job, needs = pickle.loads(sent)
        with logged_to(mark.parent / "logs" / f"{job.id}.log"):
            LOG.info("begins on node %s, process %d", where, os.getpid())
            try:
                _await(needs)
                job.function(*job.arguments)
            except BaseException:
                LOG.exception("ended")
                raise
            LOG.info("done")
    except BlockingIOError as error:
        return Ending("held", _line(error), traceback.format_exc(), where)
    except Exception as error:
        return Ending("raised", _line(error), traceback.format_exc(), where)
    return Ending("returned", where=where)


def _await(needs: Sequence[Job]) -> None:
    """Return once the jobs that this one needs are seen as done on this node: a network file system may lag."""
    until = time.monotonic() + SEEN
    while missing := [need.id for need in needs if not need.is_done()]:
        if time.monotonic() > until:
            raise FileNotFoundError(f"{', '.join(missing)}: done, but not seen from here after {SEEN:.0f} s")
        time.sleep(1)


def _line(error: BaseException) -> str:
    """Return an error as one line."""
    message = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {message}"


def _sentence(error: BaseException) -> str:
    """Return the first sentence of Ray's message; advice follows it."""
    return _line(error).partition(". ")[0]


def _version() -> tuple[str, str]:
    """Return the version and commit of the package; the commit is "" outside a checkout."""
    origin = files.origin("cpu")
    return origin["worldfast"], origin["commit"]


@contextmanager
def _mark(out: Path) -> Iterator[Path]:
    """Create a file by which workers verify that their `out` is the same folder."""
    path = out / f".driver-{platform.node()}-{os.getpid()}"
    files.write_whole(path, b"")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

"""Jobs that wait for each other: their order, their progress, and a record on disk of those that failed.

A job is done if its `done` finds its files on disk, and only then. A pool decides where jobs run
(worldfast.training.cluster has one on Ray); this module knows nothing of clusters.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from worldfast import files
from worldfast.display import count
from worldfast.errors import DamagedError, UnsafeError, file_name, number, one_of, shown
from worldfast.training.progress import Interrupt, Stopped

LOOK = 1.0  # seconds between two looks at endings
TOLD = 10.0  # seconds between two lines of progress
AGAIN = 5.0  # seconds until a held lock is tried again
SEEN = 120.0  # seconds within which a job's files must be seen here: a network file system may lag
STOPPED = 120.0  # seconds that running jobs have to save their state
LOSSES = 20  # nodes that may be lost during one job


@dataclass(frozen=True)
class Job:
    """Piece of work that some worker does, and that leaves files.

    Attributes
    ----------
    id : str
        Name, unique in a call: letters, digits, '.', '_', '+' and '-'.
    function : callable
        Called as function(*arguments), on any node. It travels by name, so it stands at the top of a module. It resumes
        after an interruption, and does nothing once all is done.
    arguments : tuple
        Specs and paths, not arrays.
    done : callable
        done(*arguments) tells if all files that it leaves exist.
    needs : tuple of str
        Ids of jobs that must be done before.
    about : tuple of str
        Names of its results, such as runs' folders, for readers of a failure.
    cpus, gpus : float
        Resources that it takes of a node.
    memory : int
        Bytes that it takes of a node.
    cost : float
        Duration in any unit that all jobs share: the longest chain of jobs begins first.

    Raises
    ------
    ValueError
        The id cannot be a file name, or a resource is below 0.
    """

    id: str
    function: Callable[..., object]
    arguments: tuple
    done: Callable[..., bool]
    needs: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    cpus: float = 1
    gpus: float = 0
    memory: int = 0
    cost: float = 1

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.id):
            raise ValueError(f"id: expected letters, digits, '.', '_', '+' and '-', got {self.id!r}")
        file_name("id", self.id)
        for name in ("cpus", "gpus", "memory", "cost"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of {self.id!r}: expected at least 0, got {getattr(self, name)!r}")

    def is_done(self) -> bool:
        return bool(self.done(*self.arguments))


class Ending(NamedTuple):
    """End of one attempt at a job.

    Attributes
    ----------
    how : str
        "returned"; "raised" an error; "held", as another process holds a lock that it needs; "died", with its worker;
        "lost", with its node; "stopped", as requested.
    what : str
        The error in one line.
    trace : str
        Its traceback.
    where : str
        The node.
    """

    how: str
    what: str = ""
    trace: str = ""
    where: str = ""


class Pool(Protocol):
    """Workers that carry out jobs."""

    def submit(self, job: Job, needs: Sequence[Job]) -> None:
        """Start a job, without waiting for it."""

    def endings(self, seconds: float) -> Iterable[tuple[str, Ending]]:
        """Return the ids of jobs that ended since the last call, each once, with their endings; wait up to `seconds`
        for the first.
        """

    def homeless(self, jobs: Sequence[Job]) -> Collection[str]:
        """Return the ids of those jobs that no present node is large enough for."""

    def stop(self) -> None:
        """Ask all running jobs to save their state and end."""

    def text(self) -> str:
        """Describe the resources in words."""


class Outcome(NamedTuple):
    """Jobs by their fate.

    Attributes
    ----------
    done : tuple of str
        Ids of jobs that are done.
    failed : dict of str to str
        Error of each failed job in one line, by id.
    blocked : dict of str to str
        Id of the failed job that each blocked job waits for, by id.
    """

    done: tuple[str, ...]
    failed: dict[str, str]
    blocked: dict[str, str]


def order(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs in the order in which they should begin: those that the longest chain of work waits for first.

    Raises
    ------
    ValueError
        Two jobs share an id, a need is no job's id, or jobs wait for each other in a circle, which is named.
    """
    jobs = list(jobs)
    by_id = {job.id: job for job in jobs}
    if len(by_id) < len(jobs):
        twice = next(job.id for i, job in enumerate(jobs) if job.id in {other.id for other in jobs[:i]})
        raise ValueError(f"jobs: two have the id {twice!r}")
    behind: dict[str, list[str]] = {job.id: [] for job in jobs}
    for job in jobs:
        for need in job.needs:
            one_of(f"need of {job.id!r},", need, by_id)
            behind[need].append(job.id)
    missing = {job.id: len(set(job.needs)) for job in jobs}
    forward = [name for name, count in missing.items() if not count]
    for name in forward:  # it grows
        for other in dict.fromkeys(behind[name]):
            missing[other] -= 1
            if not missing[other]:
                forward.append(other)
    if len(forward) < len(jobs):
        raise ValueError(f"jobs: {' needs '.join(_circle(by_id, set(by_id) - set(forward)))}")
    chain: dict[str, float] = {}
    for name in reversed(forward):
        chain[name] = by_id[name].cost + max((chain[other] for other in behind[name]), default=0.0)
    place = {name: i for i, name in enumerate(forward)}
    return sorted(jobs, key=lambda job: (-chain[job.id], place[job.id]))


def _circle(by_id: dict[str, Job], left: set[str]) -> list[str]:
    """Return ids of jobs, each of which needs the next; the last is the first again."""
    path = [min(left)]
    while path.count(path[-1]) == 1:
        path.append(next(need for need in by_id[path[-1]].needs if need in left))
    return path[path.index(path[-1]) :]


# ---- carrying out ----


@dataclass
class _State:
    """Progress of a job: "waiting", "in hand", "returned", "done", "failed" or "blocked"."""

    job: Job
    phase: str = "waiting"
    deaths: int = 0
    losses: int = 0
    not_before: float = 0.0  # time of the next attempt
    since: dict[str, float] = field(default_factory=dict)  # time at which it was first held, homeless or returned

    def lasts(self, what: str, now: float) -> float:
        """Return the seconds since a condition was first seen."""
        return now - self.since.setdefault(what, now)


def drive(
    jobs: Iterable[Job],
    out: Path,
    pool: Pool,
    *,
    retries: int = 3,
    patience: float = 600.0,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Have a pool carry out jobs, each as soon as the jobs it needs are done.

    Ready jobs are submitted at once, the longest chain first; jobs that become ready later queue after them. Jobs that
    are done already are skipped. A job that raises an error is not retried: `failed/<id>.json` records what happened,
    as it does for the jobs that wait for it; all others continue. Calling again retries them. Ctrl-C, SIGTERM and
    SIGHUP stop running jobs at a point from which they can resume; a second one stops at once.

    Parameters
    ----------
    jobs : iterable of Job
    out : Path
        Folder below which everything is; failures are recorded in its folder `failed`.
    pool : Pool
    retries : int
        Attempts after a worker died; a lost node does not count.
    patience : float
        Seconds that a job waits for a lock that another process holds, or for a node that is large enough.
    say : callable
        Gets lines of progress.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError
        As from `order`; or `retries` or `patience` is below 0.
    KeyboardInterrupt
        Ctrl-C was pressed, or the process was asked to end; `signum` says by which signal.
    """
    states = {job.id: _State(job) for job in order(jobs)}
    for name, value in dict(retries=retries, patience=patience).items():
        if not number(name, value) >= 0:
            raise ValueError(f"{name}: expected at least 0, got {value!r}")
    return _Drive(states, out, pool, retries, patience, say).run()


class _Drive:
    def __init__(self, states: dict[str, _State], out: Path, pool: Pool, retries, patience, say):
        self.states, self.pool, self.say = states, pool, say
        self.retries, self.patience = retries, patience
        self.failures = files.inner_folder(files.folder(out, "out") / "failed")
        files.remove_partial(self.failures)
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}

    def run(self) -> Outcome:
        self._forget()
        for state in self.states.values():
            if state.job.is_done():
                state.phase = "done"
        self.say(f"{self._counts()}, on {self.pool.text()}")
        told = time.monotonic()
        with Interrupt() as interrupt:
            while any(state.phase in ("waiting", "in hand", "returned") for state in self.states.values()):
                self._begin()
                for name, ending in self.pool.endings(LOOK):
                    self._ended(self.states[name], ending)
                for state in self._in("returned"):
                    self._look(state)
                if interrupt.requested:
                    self._stop(interrupt.requested)
                if time.monotonic() - told >= TOLD:
                    told = time.monotonic()
                    self._find_homes()
                    self.say(self._counts())
        self.say(self._counts())
        done = tuple(name for name, state in self.states.items() if state.phase == "done")
        return Outcome(done, self.failed, self.blocked)

    def _in(self, phase: str) -> list[_State]:
        return [state for state in self.states.values() if state.phase == phase]

    def _counts(self) -> str:
        phases = [state.phase for state in self.states.values()]
        parts = [f"{phases.count(what):,} {what}" for what in ("in hand", "waiting", "failed", "blocked")]
        named = [part for part in parts if not part.startswith("0 ")]
        return ", ".join([f"{phases.count('done'):,} of {count(len(phases), 'job')} done", *named])

    def _begin(self) -> None:
        """Submit ready jobs, the longest chain first."""
        now = time.monotonic()
        for state in self._in("waiting"):
            needs = [self.states[need] for need in state.job.needs]
            if state.not_before <= now and all(need.phase == "done" for need in needs):
                if state.job.is_done():  # by someone else meanwhile, or before its worker died
                    state.phase = "done"
                else:
                    state.phase = "in hand"
                    self.pool.submit(state.job, [need.job for need in needs])

    def _ended(self, state: _State, ending: Ending) -> None:
        """Record how an attempt ended."""
        if state.phase != "in hand":  # it had failed for want of a node, and one came after all
            return
        state.phase = "waiting"
        if ending.how == "returned":
            state.phase = "returned"
            state.since.pop("returned", None)
            self._look(state)
        elif ending.how == "raised":
            self._fail(state, ending)
        elif ending.how == "held":
            state.not_before = time.monotonic() + AGAIN
            if state.lasts("held", time.monotonic()) > self.patience:
                self._fail(state, ending)
            else:
                self.say(f"{state.job.id} waits: {ending.what}")
        elif ending.how in ("died", "lost"):
            state.since.pop("held", None)
            state.deaths += ending.how == "died"
            state.losses += ending.how == "lost"
            if state.deaths > self.retries or state.losses > LOSSES:
                self._fail(state, ending)
            else:
                self.say(f"{state.job.id} is tried again: {ending.what}")

    def _look(self, state: _State) -> None:
        """Mark a job that returned as done once its files are seen here, or as failed after SEEN seconds."""
        if state.job.is_done():
            state.phase = "done"
        elif state.lasts("returned", time.monotonic()) > SEEN:
            what = f"it returned, but what it leaves is not there after {SEEN:.0f} s"
            self._fail(state, Ending("raised", what))

    def _find_homes(self) -> None:
        """Fail jobs that have waited too long for a node that is large enough."""
        in_hand = self._in("in hand")
        homeless = self.pool.homeless([state.job for state in in_hand])
        for state in in_hand:
            if state.job.id not in homeless:
                state.since.pop("homeless", None)
                continue
            job = state.job
            what = f"no node has {job.cpus:g} CPUs, {job.gpus:g} GPUs and {job.memory:,} bytes of memory"
            if state.lasts("homeless", time.monotonic()) > self.patience:
                self._fail(state, Ending("raised", what))
            else:
                self.say(f"{job.id} waits: {what}, in use or not; there are {self.pool.text()}")

    def _stop(self, signum: int) -> None:
        self.say("stopping; what is in hand saves itself")
        self.pool.stop()
        until = time.monotonic() + STOPPED
        while self._in("in hand") and time.monotonic() < until:
            for name, ending in self.pool.endings(LOOK):
                self.states[name].phase = "returned" if ending.how == "returned" else "waiting"
        for state in self._in("returned"):
            if state.job.is_done():
                state.phase = "done"
        left = f"; {len(self._in('in hand'))} did not save in time" if self._in("in hand") else ""
        raise Stopped(f"stopped: {self._counts()}{left}. The same call or command goes on from here.", signum)

    # ---- failures ----

    def _path(self, job: Job) -> Path:
        return self.failures / f"{job.id}.json"

    def _forget(self) -> None:
        """Remove records of earlier failures of the jobs that this call retries."""
        ours = {name for state in self.states.values() for name in state.job.about}
        for path in files.entries(self.failures):
            if path.suffix == ".json" and (path.stem in self.states or _only_of(path, ours)):
                path.unlink(missing_ok=True)  # another call removes its own records

    def _keep(self, job: Job, **what) -> None:
        content = {"job": job.id, "about": list(job.about), **what, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        files.write_json(self._path(job), content)

    def _fail(self, state: _State, ending: Ending) -> None:
        """Mark a job as failed, and all that wait for it as blocked."""
        state.phase, self.failed[state.job.id] = "failed", ending.what
        tries = {"deaths": state.deaths, "losses": state.losses}
        self._keep(state.job, error=ending.what, where=ending.where, traceback=ending.trace, **tries)
        self.say(f"{state.job.id} failed: {ending.what} ({self._path(state.job)})")
        bad = {state.job.id}
        grown = True
        while grown:
            new = [s for s in self._in("waiting") if bad & set(s.job.needs)]
            grown = bool(new)
            for waiting in new:
                bad.add(waiting.job.id)
                waiting.phase = "blocked"
                self.blocked[waiting.job.id] = state.job.id
                self._keep(waiting.job, error=f"it needs {state.job.id}, which failed", needs=state.job.id)


def read_failures(folder: Path) -> dict[str, str]:
    """Return the errors of jobs that failed, in one line each, by the names of their results.

    Parameters
    ----------
    folder : Path
        The folder `failed` of `drive`, which need not be there.

    Raises
    ------
    DamagedError, UnsafeError, OSError
        A record is not what was written, or cannot be read; the message names it.
    """
    files.require_folder(folder)
    found = {}
    for path in files.entries(folder):
        if path.suffix == ".json":
            with suppress(FileNotFoundError):  # a call that retries the job has removed it
                about, error = _record(path)
                found |= dict.fromkeys(about, shown(error))
    return found


def _record(path: Path) -> tuple[list[str], str]:
    """Return the names of a failed job's results, and its error."""
    content = files.read_json(path)
    about, error = content.get("about"), content.get("error")
    if not (isinstance(about, list) and all(isinstance(one, str) for one in about) and isinstance(error, str)):
        raise DamagedError(f"'{path}' was not written by this version of worldfast: it is no record of a failure")
    return about, error


def _only_of(path: Path, results: set[str]) -> bool:
    """Return True if a failure concerns these results and no others; of a record that is damaged nobody knows."""
    try:
        about, _ = _record(path)
    except (FileNotFoundError, DamagedError, UnsafeError):
        return False
    return bool(about) and set(about) <= results

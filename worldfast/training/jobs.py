"""Jobs that wait for each other: in which order they begin, what comes of it when one ends, and what is left
on disk of those that failed.

What is done is what a job's `done` finds on disk, and nothing else. Where jobs are carried out is a pool's
affair (worldfast.training.cluster has one on Ray); this module knows of no cluster.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from worldfast import files
from worldfast.errors import unknown_name
from worldfast.training.progress import Interrupt

__all__ = ["Ending", "Job", "Outcome", "Pool", "drive", "order"]

LOOK = 1.0  # seconds between two looks at what has ended
TOLD = 10.0  # seconds between two lines of progress
AGAIN = 5.0  # seconds until what another process holds is tried again
SEEN = 120.0  # seconds within which what a job has left must be seen here: a network file system may lag
STOPPED = 120.0  # seconds that work in hand has to save itself when it is stopped
LOSSES = 20  # nodes that may go while they do one job


@dataclass(frozen=True)
class Job:
    """A piece of work that some worker does, and that leaves files.

    id         its name, unique in a call: letters, digits, '.', '_', '+' and '-'
    function   called as function(*arguments), on any node. It travels by name, so it is a module's own. Where it
               was stopped, the next call goes on; where all is done, it does nothing
    arguments  specs and paths, not arrays
    done       done(*arguments): whether all that it leaves is there
    needs      ids of jobs that must be done before
    about      names of what it makes, such as runs' folders, for who reads that it failed
    cpus, gpus, memory   what it takes of a node; bytes
    cost       how long it takes, in any unit that all jobs share: the longest chain of jobs begins first

    ValueError for an id that is no file's name, or where it takes less than nothing.
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
        for name in ("cpus", "gpus", "memory", "cost"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of {self.id!r}: expected at least 0, got {getattr(self, name)!r}")

    def is_done(self) -> bool:
        return bool(self.done(*self.arguments))


class Ending(NamedTuple):
    """How a worker's try at a job ended.

    how    "returned"; "raised" an error; "held": another process holds what it would work on; "died": the
           worker did; "lost": its node was; "stopped", as it was told to
    what   the error in one line
    trace  its traceback
    where  the node
    """

    how: str
    what: str = ""
    trace: str = ""
    where: str = ""


class Pool(Protocol):
    """Workers."""

    def submit(self, job: Job, needs: Sequence[Job]) -> None:
        """Takes a job in hand; returns at once."""

    def endings(self, seconds: float) -> Iterable[tuple[str, Ending]]:
        """Ids of jobs that have ended since the last call, each once; waits so long for the first."""

    def homeless(self, jobs: Sequence[Job]) -> Collection[str]:
        """Ids of those jobs that no node there is could ever hold."""

    def stop(self) -> None:
        """Asks all that is in hand to save itself and end."""

    def text(self) -> str:
        """What there is to work with, in words."""


class Outcome(NamedTuple):
    """Ids of jobs by what became of them: of `failed` with the error in one line, of `blocked` with the id of
    the failed one that they wait for."""

    done: tuple[str, ...]
    failed: dict[str, str]
    blocked: dict[str, str]


def order(jobs: Iterable[Job]) -> list[Job]:
    """Jobs in the order in which they should begin: what the longest chain of work waits for comes first.

    ValueError for two jobs of one id, a need that is no job's id, and jobs that wait for each other in a
    circle, which is named.
    """
    jobs = list(jobs)
    by_id = {job.id: job for job in jobs}
    if len(by_id) < len(jobs):
        twice = next(job.id for i, job in enumerate(jobs) if job.id in {other.id for other in jobs[:i]})
        raise ValueError(f"jobs: two have the id {twice!r}")
    behind: dict[str, list[str]] = {job.id: [] for job in jobs}
    for job in jobs:
        for need in job.needs:
            if need not in by_id:
                raise unknown_name(f"need of {job.id!r},", need, by_id)
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
    """Ids of jobs, each of which needs the next; the last is the first again."""
    path = [min(left)]
    while path.count(path[-1]) == 1:
        path.append(next(need for need in by_id[path[-1]].needs if need in left))
    return path[path.index(path[-1]) :]


# ---- carrying out ----


@dataclass
class _State:
    """Where a job stands: "waiting", "in hand", "returned", "done", "failed" or "blocked"."""

    job: Job
    phase: str = "waiting"
    deaths: int = 0
    losses: int = 0
    not_before: float = 0.0  # it is tried again
    since: dict[str, float] = field(default_factory=dict)  # it was first held, homeless or returned

    def lasts(self, what: str, now: float) -> float:
        """Seconds since something was first so."""
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
    """Has a pool carry out jobs, each when what it needs is done, and returns what became of them.

    out       the folder below which all of it is; failures are kept in its folder `failed`
    retries   how often a job is tried again whose worker died; a node that went does not count
    patience  seconds that a job waits for what another process holds, or for a node that can hold it
    say       gets lines of progress

    What is ready is handed over at once, the longest chain first; what becomes ready later queues behind it.
    Jobs that are done are left alone. One that raises an error is not tried again: `failed/<id>.json` says
    what happened, and for those that wait for it, that they do; all others go on. Calling again tries them
    again. Ctrl-C stops what is in hand where it can go on, and raises KeyboardInterrupt; at the second, at
    once.
    """
    states = {job.id: _State(job) for job in order(jobs)}
    for name, value in dict(retries=retries, patience=patience).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ValueError(f"{name}: expected at least 0, got {value!r}")
    return _Drive(states, out, pool, retries, patience, say).run()


class _Drive:
    def __init__(self, states: dict[str, _State], out: Path, pool: Pool, retries, patience, say):
        self.states, self.pool, self.say = states, pool, say
        self.retries, self.patience = retries, patience
        self.failures = files.folder(out / "failed", "out")
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
                    self._stop()
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
        return ", ".join([f"{phases.count('done'):,} of {len(phases):,} jobs done", *named])

    def _begin(self) -> None:
        """Submits what is ready, the longest chain first."""
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
        """Takes note of how a try ended."""
        if state.phase != "in hand":  # it was given up for want of a node, and one came after all
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
        """Whether what a job has left when it returned is seen here."""
        if state.job.is_done():
            state.phase = "done"
        elif state.lasts("returned", time.monotonic()) > SEEN:
            what = f"it returned, but what it leaves is not there after {SEEN:.0f} s"
            self._fail(state, Ending("raised", what))

    def _find_homes(self) -> None:
        """Gives up what has been waiting for a node that can hold it."""
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

    def _stop(self) -> None:
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
        raise KeyboardInterrupt(f"stopped: {self._counts()}{left}. The same call or command goes on from here.")

    # ---- failures ----

    def _path(self, job: Job) -> Path:
        return self.failures / f"{job.id}.json"

    def _forget(self) -> None:
        """Removes what an earlier call kept of failures that this one takes up again."""
        ours = {name for state in self.states.values() for name in state.job.about}
        for path in self.failures.glob("*.json"):
            with suppress(FileNotFoundError):  # another call removes what is its own
                about = set(json.loads(path.read_text())["about"])
                if path.stem in self.states or (about and about <= ours):
                    path.unlink()

    def _keep(self, job: Job, **what) -> None:
        content = {"job": job.id, "about": list(job.about), **what, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        files.write_whole(self._path(job), json.dumps(content, indent=1).encode())

    def _fail(self, state: _State, ending: Ending) -> None:
        """Marks a job as failed, and all that wait for it."""
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

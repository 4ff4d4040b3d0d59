"""Objects in other processes: threads that outlive a fork, and objects that are pickled as the call that made them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import local
from typing import Any

import torch


def _in_a_child() -> None:
    """Make torch usable by threads of a forked child."""
    # torch's own threads do not outlive a fork either, and OpenMP would wait for them for ever: a child has one, as a
    # worker of torch's DataLoader does.
    torch.set_num_threads(1)
    # A child's first gradient replaces torch's engine, without a lock: of two threads that both came first, one would
    # compute in an engine that the other destroys. A child of a process that uses a GPU has no gradients at all.
    if not torch.cuda.is_initialized():
        with torch.inference_mode(False), torch.enable_grad():
            torch.zeros((), dtype=torch.float32, device="cpu", requires_grad=True).backward()


os.register_at_fork(after_in_child=_in_a_child)


class Threads:
    """Threads that share a list of jobs, each with working memory of its own. The caller is one of them, so that short
    jobs do not wait for another thread to wake; the others are started when they are first used, and end with this
    object.

    A forked child has none of its parent's threads, so it starts its own; so does a copy that was pickled.

    Parameters
    ----------
    count : int
        Threads, that of the caller among them.
    memory : callable
        Function that makes a thread's working memory.
    """

    def __init__(self, count: int, memory: Callable[[], Any] = dict):
        self.count, self.memory = count, memory
        self._process = 0

    def __reduce__(self) -> tuple:
        return Threads, (self.count, self.memory)

    def run(self, job: Callable, items: Iterable) -> list:
        """Return [job(item, working memory) for item in items]; raises the first job's error when all have ended."""
        self._begin()
        jobs = _Jobs(job, list(items), self._own, self.memory)
        others = [self._pool.submit(jobs.work) for _ in range(min(self.count, len(jobs.items)) - 1)]
        try:
            jobs.work()
        finally:
            wait(others)
        for error in filter(None, jobs.errors):
            raise error
        return jobs.found

    def memories(self) -> list:
        """Return working memory for `count` threads, for a call that starts them itself."""
        self._begin()
        if not self._memories:
            self._memories = [self.memory() for _ in range(self.count)]
        return self._memories

    def _begin(self) -> None:
        if self._process != os.getpid():
            self._own, self._memories = local(), []
            self._pool = ThreadPoolExecutor(max(self.count - 1, 1), "worldfast")
            self._process = os.getpid()


class _Jobs:
    """Jobs that threads take one by one. They do not lead back to Threads, which would then never end."""

    def __init__(self, job: Callable, items: list, own: local, memory: Callable[[], Any]):
        self.job, self.items, self.own, self.memory = job, items, own, memory
        self.left = deque(range(len(items)))
        self.found: list[Any] = [None] * len(items)
        self.errors: list[BaseException | None] = [None] * len(items)

    def work(self) -> None:
        """Do jobs until none is left."""
        if not hasattr(self.own, "memory"):
            self.own.memory = self.memory()
        while self.left:
            try:
                i = self.left.popleft()
            except IndexError:  # another thread has taken the last one
                return
            try:
                self.found[i] = self.job(self.items[i], self.own.memory)
            except BaseException as error:
                self.errors[i] = error


class Remade:
    """Object that is pickled and copied as the call that made it, and a state of its own: `__getstate__`, if it is not
    None, goes to `__setstate__`.
    """

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        made = super().__new__(cls)
        made._call = arguments, options
        return made

    def __reduce__(self) -> tuple:
        return _made, (type(self), *self._call), self.__getstate__()


def _made(kind: type, arguments: tuple, options: dict) -> Any:
    return kind(*arguments, **options)

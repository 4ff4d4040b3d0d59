"""Objects in other processes: threads that outlive a fork, and objects that are pickled as the call that made them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import local
from types import GeneratorType
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
        """Return [job(item, working memory) for item in items]; raises the first job's error when all have ended.

        After Ctrl-C no job begins, those that other threads are at end, and then KeyboardInterrupt is raised: no thread
        is left at work on what the caller may use next. A long job is a generator function, which returns None: it is
        left at its next `yield`.
        """
        self._begin()
        jobs = _Jobs(job, list(items), self._own, self.memory)
        try:
            others = [self._pool.submit(jobs.help) for _ in range(min(self.count, len(jobs.items)) - 1)]
            jobs.work()
            for other in others:
                other.result()
        except BaseException as error:
            jobs.ended = True
            if (worse := jobs.joined(error)) is not error:
                raise worse from error
            raise
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
        self.helpers: deque[None] = deque()  # one for each thread besides the caller's that is at work
        self.ended = False
        self.found: list[Any] = [None] * len(items)
        self.errors: list[BaseException | None] = [None] * len(items)

    def work(self) -> None:
        """Do jobs until none is left, or the call has ended."""
        if not hasattr(self.own, "memory"):
            self.own.memory = self.memory()
        while self.left and not self.ended:
            try:
                i = self.left.popleft()
            except IndexError:  # another thread has taken the last one
                return
            try:
                found = self.job(self.items[i], self.own.memory)
                if isinstance(found, GeneratorType):
                    found = next((None for _ in found if self.ended), None)
                self.found[i] = found
            except Exception as error:
                self.errors[i] = error

    def help(self) -> None:
        """Work in a thread that is not the caller's."""
        self.helpers.append(None)  # before `ended` is looked at: a thread that comes late does nothing
        try:
            self.work()
        finally:
            self.helpers.pop()

    def joined(self, error: BaseException) -> BaseException:
        """Return what is to be raised once no other thread is at a job, however often Ctrl-C is pressed meanwhile: this
        error, or the first interruption that says more.
        """
        while True:
            try:
                while self.helpers:
                    time.sleep(0.001)
                return error
            except KeyboardInterrupt as pressed:
                if not isinstance(error, KeyboardInterrupt) or type(error) is KeyboardInterrupt:
                    error = pressed


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

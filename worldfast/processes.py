"""Objects in other processes: threads that outlive a fork, and objects that are pickled as the call that made them."""

from __future__ import annotations

import os
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
    """Pool of threads, each with working memory of its own, started when they are first used; they end with the pool.

    A forked child has none of its parent's threads, so it starts its own; so does a copy that was pickled.

    Parameters
    ----------
    count : int
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
        if self._process != os.getpid():
            self._own = own = local()
            # A thread keeps what it was started with: if that led back here, no pool would ever end.
            self._pool = ThreadPoolExecutor(self.count, "worldfast", _remember, (own, self.memory))
            self._process = os.getpid()
        own = self._own
        futures = [self._pool.submit(lambda item=item: job(item, own.memory)) for item in items]
        wait(futures)
        return [future.result() for future in futures]


def _remember(own: local, memory: Callable[[], Any]) -> None:
    own.memory = memory()


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

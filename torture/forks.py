"""Forks of this process, which tell what they find through a pipe: one that dies or hangs is seen, and others go on."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

__all__ = ["Died", "begin", "forked", "status_of"]

SECONDS = 60.0  # for one job


class Died(str):
    """End of a fork in the middle of a job, in words."""


def begin(job: Callable[[int], int | None]) -> tuple[int, int]:
    """Fork a process that calls job(pipe) and ends with the status that it returns, or with 1 if it raises an error.

    Returns
    -------
    (int, int)
        Its id, and the pipe's other end.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        try:
            status = job(write) or 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            status = 1
        sys.stderr.flush()
        os._exit(status)
    os.close(write)
    return pid, read


def status_of(pid: int) -> int:
    """Wait for the end of a fork, and return its status: negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(jobs: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    """Yield what each job returns, as JSON keeps it, or Died; a fork does all of them, one after the other, until it dies."""
    at = 0
    while at < len(jobs):
        pid, read = begin(partial(_work, jobs[at:]))
        with open(read, encoding="utf-8") as told:
            for line in told:
                yield json.loads(line)
                at += 1
        ended = status_of(pid)
        if at < len(jobs):
            yield Died(f"hung for {SECONDS:g} s" if ended == -signal.SIGALRM else f"died with status {ended}")
            at += 1


def _work(jobs: Sequence[Callable[[], Any]], pipe: int) -> None:
    for job in jobs:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        os.write(pipe, json.dumps(job()).encode() + b"\n")  # short enough to be written at once

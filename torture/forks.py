"""Jobs in forks of this process, so that one that dies or hangs is seen and the others go on."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Died", "forked"]

SECONDS = 60.0  # for one job


class Died(str):
    """How a fork ended in the middle of a job, in words."""


def forked(jobs: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    """Yield what each job returns, as JSON keeps it, or Died; a fork does all of them, one after the other, until it dies."""
    at = 0
    while at < len(jobs):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            _work(jobs[at:], write)
        os.close(write)
        with open(read, encoding="utf-8") as told:
            for line in told:
                yield json.loads(line)
                at += 1
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if at < len(jobs):
            yield Died(f"hung for {SECONDS:g} s" if ended == -signal.SIGALRM else f"died with status {ended}")
            at += 1


def _work(jobs: Sequence[Callable[[], Any]], pipe: int) -> None:
    try:
        for job in jobs:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            os.write(pipe, json.dumps(job()).encode() + b"\n")  # short enough to be written at once
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(1)

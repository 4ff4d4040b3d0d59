"""Progress of training on standard error and in the log, and its interruption."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worldfast.display import count
from worldfast.log import LOG, tell

NAMED = 6  # most members that are named one by one


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a scheduler or a shutdown, a closed terminal


STOPPED = "stopped: what is finished stays. The same command goes on from here."


class Stopped(KeyboardInterrupt):
    """Stop at a checkpoint, as a signal requested; `signum` is its number."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Stopped inside the block, in the main thread, when the process is asked to end, so that it says so and
    leaves no half-written file. A signal that comes twice counts once, one that is ignored stays ignored.
    """
    before: dict[int, Any] = {}

    def end(number, _):
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(STOPPED, number)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) == signal.SIG_DFL:  # Ctrl-C raises as it is
                    before[number] = signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupt:
    """Signals as a request, in the main thread: the first sets `requested`, a second Ctrl-C raises KeyboardInterrupt.

    SIGTERM and SIGHUP often come twice, from the kernel and from a shell: that is the same request. A signal that is
    ignored, as SIGHUP is below nohup, stays ignored.
    """

    def __init__(self):
        self.requested = 0  # number of the signal
        self._before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not of Python's making
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, _):
        self.requested = self.requested or number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Progress:
    """Rate, loss and time left: a bar on a terminal and in a notebook, elsewhere and in the log a line each 10 s."""

    def __init__(self, shown: bool):
        self._shown, self._bar = shown, None

    def say(self, text: str) -> None:
        tell(text, self._shown)

    def start(self, members, where):
        if len(members) <= NAMED:
            names = ", ".join(f"{m.run.name} (step {m.step:,})" if m.step else m.run.name for m in members)
        else:
            names = f"{len(members)} runs, {members[0].run.name} to {members[-1].run.name},"
        self.say(f"training {names} on {where}")
        self._began, self._next = time.perf_counter(), 0.0
        self._before = sum(m.rows for m in members)
        if self._shown and _shows_bars():
            from tqdm.auto import tqdm

            self._bar = tqdm(
                initial=self._before, total=_total(members), unit=" rows", unit_scale=True, dynamic_ncols=True
            )

    def step(self, members):
        now = time.perf_counter()
        last = all(member.ended for member in members)
        if not (self._shown or LOG.isEnabledFor(logging.INFO)) or (now < self._next and not last):
            return
        self._next = now + (10.0 if self._bar is None else 0.2)
        done, total, losses = sum(m.rows for m in members), _total(members), self._losses(members)
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(f"loss {losses}", refresh=False)
            self._bar.update(done - self._bar.n)
            return
        rate = (done - self._before) / (now - self._began)
        left = round((total - done) / rate) if rate else 0
        of = count(total, "row")
        self.say(f"{done:,} of {of}  {rate:,.0f} rows/s  loss {losses}  {left // 60}:{left % 60:02d} left")

    def _losses(self, members) -> str:
        """Format each member's loss; for many members the range of losses, and how many have ended."""
        losses = [m.latest_loss() for m in members]
        if len(members) <= NAMED:
            return " ".join("diverged" if m.diverged else f"{loss:.3f}" for m, loss in zip(members, losses))
        going = [loss for m, loss in zip(members, losses) if not m.diverged]
        text = f"{min(going):.3f} to {max(going):.3f}" if going else "none"
        diverged, ended = (sum(getattr(m, how) for m in members) for how in ("diverged", "ended"))
        return text + (f", {ended} ended" if ended else "") + (f", {diverged} diverged" if diverged else "")

    def end(self):
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _total(members) -> int:
    """Return the rows of all members' training; of one that diverged those that it saw."""
    return sum(m.rows if m.diverged else m.run.epoch_rows * m.run.epochs for m in members)


def _shows_bars() -> bool:
    """Tell if standard error is a terminal or the output of a notebook's cell."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")

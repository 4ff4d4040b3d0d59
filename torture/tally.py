"""Count of what a row of the table tried, how long it may go on, and what did not hold."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Tally"]

SHOWN = 3  # failures of a kind that are kept in words


@dataclass
class Tally:
    """Tries of one row.

    Attributes
    ----------
    target : int
        Tries after which a row has shown what it promises.
    seconds : float
        Seconds after which it stops short of its target.
    seed : int
        Seed of whatever it draws.
    place : Path
        Empty folder that it may fill.
    held : Counter of str
        Tries that held, by kind.
    failed : Counter of str
        Tries that did not hold, by kind.
    examples : dict of str to list of str
        First failures of each kind, in words.
    notes : list of str
        Facts that belong beside the counts, such as what this machine lacks.
    """

    target: int
    seconds: float
    place: Path
    seed: int = 0
    held: Counter = field(default_factory=Counter)
    failed: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def tried(self) -> int:
        return self.held.total() + self.failed.total()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @property
    def going(self) -> bool:
        """True while the target is not reached and time is left."""
        return self.tried < self.target and self.elapsed < self.seconds

    def hold(self, kind: str, times: int = 1) -> None:
        """Count tries that held."""
        self.held[kind] += times

    def fail(self, kind: str, what: object, times: int = 1) -> None:
        """Count tries that did not hold, and keep the first few in words."""
        self.failed[kind] += times
        if len(kept := self.examples.setdefault(kind, [])) < SHOWN:
            kept.append(str(what)[:600])

    def expect(self, kind: str, holds: bool, what: object = "") -> None:
        """Count a try that held, or one that did not, described by `what`."""
        if holds:
            self.hold(kind)
        else:
            self.fail(kind, what)

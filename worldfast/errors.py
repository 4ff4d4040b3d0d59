"""Errors that teach: what came, what was expected, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(what: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in a table; the caller raises it.

    `what` is the kind of name ("task", "column"), `known` the valid ones in the order to list them. The
    nearest is suggested, letter case aside; where nothing is near, none is.

        raise unknown_name("task", "distnace", TASKS)
        # ValueError: unknown task 'distnace': did you mean 'distance'? known: distance, trianglearea, ...
    """
    names = list(known)
    by_lower = {valid.lower(): valid for valid in names}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
    return ValueError(f"unknown {what} {name!r}: {hint}known: {', '.join(names)}")


class TaskError(ValueError):
    """A task made in Python that does not do what a task has to, or is not the one that was asked for."""


class DeviceError(RuntimeError):
    """A device that cannot be used; `reason` says why, in words that also stand alone."""

    def __init__(self, device: object, reason: str):
        super().__init__(f"device {str(device)!r}: {reason}; use device='cpu'")
        self.reason = reason

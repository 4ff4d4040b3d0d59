"""Errors with the value given, the values expected and the nearest valid name."""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any


def unknown_name(what: str, name: object, known: Iterable[str]) -> ValueError:
    """Return the error for a name that is not in a table; the caller raises it.

    Parameters
    ----------
    what : str
        Kind of name, such as "task" or "column".
    name : object
        The name given.
    known : iterable of str
        Valid names, in the order to list them.

    Returns
    -------
    ValueError
        The nearest valid name is suggested, ignoring case; none if nothing is near.

    Examples
    --------
    >>> print(unknown_name("task", "distnace", ["distance", "angle"]))
    unknown task 'distnace': did you mean 'distance'? known: distance, angle
    """
    names = list(known)
    by_lower = {valid.lower(): valid for valid in names}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
    return ValueError(f"unknown {what} {name!r}: {hint}known: {shown(', '.join(names))}")


def one_of(what: str, name: Any, known: Iterable[str]) -> Any:
    """Return a name that is in a table; raises the ValueError of `unknown_name` for another."""
    if not isinstance(name, str) or name not in known:
        raise unknown_name(what, name, known)
    return name


def file_name(argument: str, value: Any) -> str:
    """Return a name under which files or folders are written, if it can be nothing but one name.

    Raises
    ------
    TypeError, ValueError
        It is no text, is empty or longer than 200 bytes, or holds what leads elsewhere or is not shown as it is.
    """
    typed(argument, value, str, "a text")
    shown_as_it_is = value.isprintable() and value == value.strip() and not value.startswith((".", "-"))
    if not (value and shown_as_it_is and not set(value) & {"/", "\\"} and len(value.encode()) <= 200):
        raise ValueError(
            f"{argument}: expected a name of 1 to 200 bytes that names a file: printable, without '/' or '\\', and "
            f"beginning with neither '.', '-' nor a space; got {value!r:.100}"
        )
    return value


def shown(text: object) -> str:
    """Return a text for a terminal or a message: control characters, of which escape sequences are made, as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def typed(name: str, value: Any, kinds: Any, expected: str) -> Any:
    """Return the value; raises a TypeError that names it and says what was expected, if it is of none of the kinds."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name}: expected {expected}, got {value!r:.100}")
    return value


def several(name: str, values: Any, expected: str) -> tuple:
    """Return what an iterable holds; raises a TypeError that says what was expected if it is none, or a text."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected {expected}, got {values!r:.100}")
    return tuple(values)


def as_path(name: str, value: Any) -> Path:
    """Return a path; raises a TypeError that names it if it is none."""
    return Path(typed(name, value, (str, os.PathLike), "a path"))


def number(name: str, value: object) -> float:
    """Return a real number of any kind, NumPy's too, as a float; raises a TypeError that names it if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r:.100}")
    return float(value)


def positive(name: str, value: object) -> float:
    """Return a finite number above 0 as a float; raises a TypeError or ValueError that names it if it is none."""
    found = number(name, value)
    if not 0 < found < math.inf:
        expected = "a number above 0" if math.isfinite(found) else "a finite number"
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return found


def whole(name: str, value: Any, least: int = -(2**63), most: int = 2**63 - 1) -> int:
    """Return an integer of any kind, NumPy's too, as an int.

    Raises a TypeError or ValueError that names it if it is none, or not between `least` and `most`.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r:.100}")
    if found < least:
        raise ValueError(f"{name}: expected at least {least}, got {found}")
    if found > most:
        raise ValueError(f"{name}: expected at most {most:,}, got {found}")
    return found


def nearest_steps(step: int, known: Sequence[int]) -> str:
    """Return which of some steps come before and after another, in words."""
    before, after = ([s for s in known if s < step][-1:], [s for s in known if s > step][:1])
    return "nearest: " + (" and ".join(f"{one:,}" for one in (*before, *after)) or "none")


class TaskError(ValueError):
    """Error of a task written in Python that breaks the contract of a task, or is not the one that was asked for."""


class CodeError(ValueError):
    """Error of a whole file that names a class or a task which is not defined in this process, or is another here."""


class DamagedError(ValueError):
    """Error of a file whose content is not what was written."""


class MismatchError(ValueError):
    """Error of a whole file, or an object, that is not of what was asked for: another run, step, world or entities."""


class VersionError(ValueError):
    """Error of a file that another version of worldfast wrote and that this version cannot read."""


class UnsafeError(ValueError):
    """Error of a file that reaches outside its folder, claims sizes that its bytes cannot hold, or could run code."""


OF_CONTENT = (DamagedError, MismatchError, VersionError, UnsafeError)  # of what a file holds, not of its environment


class DeviceError(RuntimeError):
    """Error of a device that cannot be used; `reason` says why, in words that also make sense alone."""

    def __init__(self, device: object, reason: str) -> None:
        super().__init__(f"device {str(device)!r}: {reason}; use device='cpu'")
        self.reason = reason

"""Tasks whose rule is a Python function of coordinates: made with `task`, then used like the built-in ones.

The native core draws cities and writes text, many rows to a call of the function. So rows are functions of their
position, as for built-in tasks, and a rule that equals that of a built-in task gives equal labels.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from worldfast._native import core
from worldfast.arrays import refuse
from worldfast.display import count
from worldfast.errors import TaskError, several, typed
from worldfast.worlds.cities.rule import rule_of
from worldfast.worlds.cities.tasks import BUILT_IN, TASKS, Task, named, register, task_from_json

Rule = Callable[[np.ndarray], Any]  # int32 [n, c, 2] -> integers [n]

CHECKED = 1024  # test rows for each number of cities


@dataclass(frozen=True)
class PythonTask(Task):
    """Task whose rule is a Python function; see `task`. Two are equal if their options and rules are.

    Attributes
    ----------
    digits : int
        Most digits of a numeric answer.
    rule : str
        Identity of the function: a hash of its source, or its declared version.
    function : callable
        int32 [n, c, 2] -> integers [n]. Calling the task calls it, with the checks of `labels`.
    """

    digits: int
    rule: str
    function: Rule = field(compare=False, repr=False)

    @property
    def native(self) -> dict[str, Any]:
        """Description of the task for the native core, with its rule."""
        names = ("name", "prompt", "min_cities", "max_cities", "semicolon", "balanced", "answers", "digits")
        return {name: getattr(self, name) for name in names} | {"rule": self._write_labels}

    def __deepcopy__(self, memory: dict) -> PythonTask:
        return self  # it is frozen, and known by its name

    def __reduce__(self) -> tuple:
        return _found, (self.function.__module__, self.to_json())

    def _write_labels(self, points: Any, labels: Any, count: int) -> None:
        """Write labels for the native core, whose memory is invalid after the call: so the function gets a copy."""
        xy = np.frombuffer(points, np.int32).reshape(-1, count, 2).copy()
        np.frombuffer(labels, np.int64)[:] = self.labels(xy)

    def labels(self, xy: np.ndarray) -> np.ndarray:
        """Labels of points, checked.

        Parameters
        ----------
        xy : ndarray
            int32 [n, c, 2] in 0.1 degree, c cities in each row.

        Returns
        -------
        ndarray
            int64 [n].

        Raises
        ------
        TaskError
            The function raised or wrote into its input, or its answers are not integers [n] in the declared range.
        """
        refuse(xy, "xy")
        xy = xy.view()
        xy.flags.writeable = False
        try:
            found = self.function(xy)
        except Exception as error:
            if isinstance(error, ValueError) and "read-only" in str(error):
                raise self._error("writes into its input, which is read-only: take a copy first") from error
            raise self._error(f"raised {type(error).__name__}: {error}") from error
        if found is None:
            raise self._error("returned None, expected integers [n]: does it end with return?")
        if isinstance(found, np.ma.MaskedArray):
            raise self._error("has to give integers [n], got a masked array")
        labels = np.asarray(found)
        kinds = "iub" if self.answers else "iu"  # a comparison may choose between two answers
        if labels.dtype.kind not in kinds:
            raise self._error(
                f"has to give integers, got {labels.dtype} (round as you mean to, as in np.rint(x).astype(np.int64))"
            )
        if labels.shape != xy.shape[:1]:
            raise self._error(
                f"has to give one answer for each row, shape {list(xy.shape[:1])}, got {list(labels.shape)}"
            )
        if len(labels):
            self._require_range(int(labels.min()), int(labels.max()))
        return labels.astype(np.int64, copy=False)

    __call__ = labels

    def _require_range(self, least: int, most: int) -> None:
        if not self.answers:
            limit = 10**self.digits - 1
            if least < -limit or most > limit:
                came = max(least, most, key=abs)
                digits = len(str(abs(came)))
                room = core.most_digits
                advice = f"declare digits={digits}" if digits <= room else f"{room} are the most, so take a larger unit"
                raise self._error(f"gave {came}, which has more than {count(self.digits, 'digit')}: {advice}")
        elif least < 0 or most >= len(self.answers):
            came = least if least < 0 else most
            raise self._error(f"gave {came}, but its {len(self.answers)} choices are 0 to {len(self.answers) - 1}")

    def check(self, xy: np.ndarray) -> np.ndarray:
        """Return the labels of points, int32 [n, c, 2]; raises a TaskError if they depend on more than their own
        row.
        """
        labels, again = self.labels(xy), self.labels(xy)
        if (labels != again).any():
            row = int((labels != again).argmax())
            raise self._error(
                f"is not deterministic: asked twice for {xy[row].tolist()}, it gave {labels[row]} and {again[row]}"
            )
        half = len(xy) // 2
        apart = np.concatenate([self.labels(part) for part in (xy[:1], xy[1:half], xy[half:])])
        if (labels != apart).any():
            row = int((labels != apart).argmax())
            raise self._error(
                f"looks at other rows: its answer to {xy[row].tolist()} is {labels[row]} among "
                f"{count(len(xy), 'row')} and {apart[row]} among fewer"
            )
        return labels

    def parse(self, text: str) -> int | None:
        """Return the label that an answer's text stands for, or None. A number may have a minus sign."""
        negative = not self.answers and typed("text", text, str, "a text").startswith("-")
        number = super().parse(text[1:] if negative else text)
        return -number if number is not None and negative else number

    def to_json(self) -> dict[str, Any]:
        """Return everything that determines rows and scores; the function is represented by its identity."""
        names = ("name", "semicolon", "balanced", "unit", "failure", "digits", "rule")
        content = {name: getattr(self, name) for name in names}
        return content | {"cities": [self.min_cities, self.max_cities], "choices": list(self.answers)}

    def _error(self, what: str) -> TaskError:
        return TaskError(f"task {self.name!r}: its function {what}")


def _found(module: str, content: Mapping[str, Any]) -> Task:
    """Return the task of `to_json` in this process, after its module has been imported if it is not there yet."""
    if content["name"] not in TASKS and module not in sys.modules:
        importlib.import_module(module)
    try:
        return task_from_json(content)
    except TaskError as error:
        raise TaskError(
            f"{error}; a task is pickled as its name, so that the other process has to make it too: put it in a module "
            f"that both import, not in {module}"
        ) from None


def task(
    name: str | None = None,
    *,
    cities: int | tuple[int, int] | None = None,
    choices: Sequence[str] = (),
    balanced: bool = False,
    unit: str = "",
    semicolon: int = -1,
    digits: int = 9,
    failure: float | None = None,
    version: str | None = None,
) -> Callable[[Rule], PythonTask]:
    """Make a task from a Python function: a decorator.

    The function takes the coordinates of n rows, int32 [n, c, 2], in 0.1 degree and read-only, and returns the rows'
    answers: integers [n], each a function of its row alone. It is called with many rows at a time, so write it in
    NumPy. Rows read ``name(c_0865,c_4879)=412``, a negative number ``-412``. Cities of a row are distinct, but may
    stand at the same place.

    A task of two cities that is not balanced never repeats an unordered pair, within and across splits; others draw
    each row independently, and splits are disjoint streams. Tasks of different names draw different rows.

    Its identity, part of the id of a run, is its name, its options and its function's source, without comments,
    docstring and decorators, and with what that reads from outside, also in comprehensions and other nested code:
    numbers, text and arrays, and lists, tuples, sets and dicts of them; defaults; functions, which are known in the
    same way, and other tasks. Modules, and functions and classes of installed packages, are known by name: change the
    name of the task, or give a `version`, when what is read through them changes. Other objects need a `version`.

    Parameters
    ----------
    name : str
        Name, which is also the word in the text: lower-case letters, digits and ``_``, at most 14. Defining a name
        again replaces the task; names and words of built-in tasks are taken.
    cities : int or (int, int)
        Cities in a row, 1 to 6; or the smallest and largest number, in which case all numbers are equally frequent and
        a call has rows of one number.
    choices : sequence of str
        Words of at most 8 characters, for answers that are not numbers: answer i is ``choices[i]``. A comparison (bool
        [n]) chooses between two.
    balanced : bool
        Make choices equally frequent, by rejection: a row draws its answer, then cities until they have that answer.
    unit : str
        Unit of numbers, for tables and figures.
    semicolon : int
        City after which ``;`` stands instead of ``,``, 0 being the first; -1 for none.
    digits : int
        Most digits of a number, at most 15; rows have room for this many.
    failure : float, optional
        Absolute error of an answer that is not a number. By default the spread of the answers to 1,024 random rows of
        the Earth. Scores of numbers are absolute errors, of choices accuracies.
    version : str, optional
        Identity of the function instead of its source. Needed if there is no source, as at a prompt or in `exec`, or
        if it reads an object whose content cannot be known; change it whenever the function or the object changes.

    Returns
    -------
    callable
        Decorator that returns a `PythonTask`, accepted wherever the name of a built-in task is. It is also in
        ``wf.TASKS``.

    Raises
    ------
    TypeError
        There is no name or number of cities, as where ``@wf.task`` stands alone, or `choices` are not words.
    TaskError
        Options do not fit; there is no version, and no source or known content of what it reads; or on random rows the
        function raises an error, writes into its input, or gives answers that are not integers of the declared range
        and shape, are not reproducible, or depend on other rows. It is a ValueError.

    Examples
    --------
    >>> @wf.task("mid", cities=2, unit="0.1 degree", version="1")
    ... def midpoint(xy):
    ...     return (xy[:, 0, 0] + xy[:, 1, 0]) // 2
    >>> wf.sample(wf.World.cities(), midpoint, n=1).text(0)
    'mid(c_3436,c_0860)=653'
    """
    if callable(name):
        raise TypeError(
            f"task: expected a name and a number of cities before the function, as in @wf.task('mid', cities=2), got "
            f"{named(name)} itself"
        )
    if name is None or cities is None:
        missing = " and ".join(what for what, value in (("name", name), ("cities", cities)) if value is None)
        raise TypeError(f"task: expected {missing}, as in @wf.task('mid', cities=2)")
    choices = several("choices", choices, "words")
    options = _options(name, cities, choices, balanced, unit, semicolon, digits, failure)

    def make(function: Rule) -> PythonTask:
        if not callable(function):
            raise TaskError(f"task {name!r}: expected a function, got {function!r}")
        made = PythonTask(**options, rule=_identity(name, function, version), function=function)
        labels = [made.check(_random_points(n)) for n in range(made.min_cities, made.max_cities + 1)]
        if made.failure is None:
            spread = max(int(found.max()) for found in labels) - min(int(found.min()) for found in labels)
            made = replace(made, failure=float(max(spread, 1)))
        return register(made)

    return make


def _options(
    name: Any, cities: Any, choices: tuple, balanced: Any, unit: Any, semicolon: Any, digits: Any, failure: Any
) -> dict[str, Any]:
    """Return the fields of a PythonTask from the options of `task`; raises a TaskError naming the option that does not
    fit.
    """

    def require(fits: object, what: str, came: object) -> None:
        if not fits:
            raise TaskError(f"task {name!r}: {what}, got {came!r}")

    def whole(value: object) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool)

    require(
        isinstance(name, str) and re.fullmatch(rf"[a-z][a-z0-9_]{{0,{core.prompt_room - 1}}}", name),
        f"name: expected at most {core.prompt_room} lower-case letters, digits and '_', a letter first",
        name,
    )
    taken = {word for built_in in BUILT_IN for word in (built_in, TASKS[built_in].prompt)}
    require(name not in taken, "name: expected one that no built-in task has as its name or word", name)
    low, high = (
        (cities, cities)
        if whole(cities)
        else cities
        if isinstance(cities, tuple | list) and len(cities) == 2
        else (0, 0)
    )
    require(
        whole(low) and whole(high) and 1 <= low <= high <= core.most_cities,
        f"cities: expected a number from 1 to {core.most_cities}, or the fewest and the most",
        cities,
    )
    if choices:
        require(
            2 <= len(set(choices)) == len(choices) <= core.most_answers,
            f"choices: expected 2 to {core.most_answers} different words",
            choices,
        )
        for word in choices:
            require(
                isinstance(word, str) and re.fullmatch(rf"[!-~]{{1,{core.answer_room}}}", word),
                f"choices: expected words of 1 to {core.answer_room} printable ASCII characters",
                word,
            )
        require(unit == "", "unit: choices have none", unit)
        require(failure is None, "failure: an answer that is none of the choices scores 0", failure)
    require(isinstance(balanced, bool) and (choices or not balanced), "balanced: expected choices beside it", balanced)
    require(isinstance(unit, str), "unit: expected text", unit)
    require(
        whole(semicolon) and -1 <= semicolon < low - 1,
        "semicolon: expected -1 or the number, from 0, of a city that is never the last",
        semicolon,
    )
    require(whole(digits) and 1 <= digits <= core.most_digits, f"digits: expected 1 to {core.most_digits}", digits)
    require(
        failure is None
        or (isinstance(failure, Real) and not isinstance(failure, bool) and 0 < float(failure) < math.inf),
        "failure: expected a number above 0",
        failure,
    )
    longest = 1 + len(name) + 1 + 7 * high + 1 + (max(map(len, choices)) if choices else 1 + digits) + 1
    require(
        longest <= core.row_capacity,
        f"rows of at most {core.row_capacity} tokens are possible; expected a shorter name, fewer cities or digits",
        longest,
    )
    return dict(
        name=name,
        index=-1,
        prompt=name,
        min_cities=int(low),
        max_cities=int(high),
        semicolon=int(semicolon),
        unique_pairs=low == high == 2 and not balanced,
        balanced=balanced,
        unit=unit,
        answers=choices,
        failure=0.0 if choices else None if failure is None else float(failure),
        digits=int(digits),
    )


def _random_points(count: int) -> np.ndarray:
    """Return points of the Earth that are the same in every process, int32 [n, count, 2]; those of the first row
    coincide, those of the second are collinear.
    """
    box = np.array([3601, 1801], dtype=np.uint32)
    bits = hashlib.shake_128(f"cities/{count}".encode()).digest(CHECKED * count * 8)
    points = (np.frombuffer(bits, "<u4").reshape(CHECKED, count, 2) % box).astype(np.int32) - np.array(
        [1800, 900], np.int32
    )
    points[0] = points[0, 0]
    points[1] = np.arange(count)[:, None] * 7
    return points


def _identity(name: str, function: Rule, version: Any) -> str:
    """Return a function's identity as text: `version`, or the hash of its source and of all that it reads."""
    if version is not None:
        if not isinstance(version, str) or not version:
            raise TaskError(f"task {name!r}: version: expected text, got {version!r}")
        return f"version {version}"
    try:
        return rule_of(function)
    except ValueError as error:
        raise TaskError(
            f"task {name!r}: its function {named(function)} {error}, and a run is known by it: write the function with "
            "def in a file or a notebook, reading numbers, text, arrays and functions, or give version='1', and "
            "another whenever the function, or what it reads, changes"
        ) from None

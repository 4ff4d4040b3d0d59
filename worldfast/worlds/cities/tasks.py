"""Tasks: their table, labels in bulk, prompts, and the parsing and scoring of answers.

The seven built-in tasks and their rules stand in csrc/rows/tasks.h, which this module reads; `python_task` adds others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from worldfast._native import core, cuda_stream, current_device_of, empty, on_gpu, thread_count
from worldfast.arrays import integers, refuse
from worldfast.errors import TaskError, one_of, several, typed, unknown_name, whole
from worldfast.worlds.cities.world import World

__all__ = ["BUILT_IN", "TASKS", "Task", "find", "in_python", "label", "one_or_more", "register", "task_from_json"]

T = TypeVar("T", bound="Task")


@dataclass(frozen=True)
class Task:
    """Row of the task table.

    Attributes
    ----------
    name, prompt : str
        Name of the task, "trianglearea", and its word in the text, "triarea".
    index : int
        Position in the table of built-in tasks; -1 for others.
    min_cities, max_cities : int
        Bounds on the number of cities in a row.
    semicolon : int
        City after which ';' stands instead of ',' (-1: none).
    unique_pairs : bool
        Rows enumerate the unordered pairs of cities, none of them twice.
    balanced : bool
        Half the rows are TRUE, half FALSE.
    unit : str
        Unit of the label; "" for choices.
    answers : tuple of str
        Choices in the order of their labels; () for numbers.
    failure : float
        Score of an answer that cannot be parsed (absolute error, or accuracy 0).

    Examples
    --------
    >>> task = wf.TASKS["distance"]
    >>> task.question([865, 4879]), task.metric, task.unit
    ('dist(c_0865,c_4879)=', 'absolute error', '0.1 degree')
    """

    name: str
    index: int
    prompt: str
    min_cities: int
    max_cities: int
    semicolon: int
    unique_pairs: bool
    balanced: bool
    unit: str
    answers: tuple[str, ...]
    failure: float

    @property
    def native(self) -> Any:
        """Task in the form that the native core takes: its number there."""
        return self.index

    @property
    def kind(self) -> str:
        """ "choice" if the label is an index into `answers`, otherwise "number"."""
        return "choice" if self.answers else "number"

    @property
    def metric(self) -> str:
        """Name of the score that `score` returns."""
        return "accuracy" if self.answers else "absolute error"

    @property
    def delimiter(self) -> str:
        """Character after the first city."""
        return ";" if self.semicolon == 0 else "," if self.max_cities > 1 else ")"

    def question(self, city_ids: Sequence[int]) -> str:
        """Return the text of a row up to and including '=': question([865, 4879]) -> "dist(c_0865,c_4879)="."""
        text = f"{self.prompt}("
        for i, city_id in enumerate(city_ids):
            last = i == len(city_ids) - 1
            text += f"c_{whole('city_ids', city_id):04d}" + (")" if last else ";" if i == self.semicolon else ",")
        return text + "="

    def answer(self, label: int) -> str:
        """Return the text of a label: answer(0) -> "FALSE" for inside, "0" for distance."""
        label = whole("label", label)
        return self.answers[label] if self.answers else str(label)

    def parse(self, text: str) -> int | None:
        """Return the label that an answer's text stands for, or None if it stands for none."""
        text = typed("text", text, str, "a text")
        if self.answers:
            return self.answers.index(text) if text in self.answers else None
        return int(text) if text.isascii() and text.isdigit() else None

    def score(self, labels: Any, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Score answers against labels.

        A score is the absolute error in the task's unit for numbers, 1 or 0 for choices. An answer that cannot be
        parsed gets the failure value.

        Parameters
        ----------
        labels : array
            Integers [n].
        texts : sequence of str
            Answers.

        Returns
        -------
        scores : ndarray
            float64 [n].
        unparsable : int
            Number of answers that cannot be parsed.
        """
        labels = integers(labels, "labels").tolist()
        answers = [self.parse(text) for text in several("texts", texts, "a sequence of texts")]
        unparsable = sum(answer is None for answer in answers)
        if self.answers:
            scores = [float(answer == label) for answer, label in zip(answers, labels, strict=True)]
        else:
            scores = [
                self.failure if answer is None else abs(answer - label)
                for answer, label in zip(answers, labels, strict=True)
            ]
        return np.asarray(scores, dtype=np.float64), unparsable

    def constant(self, labels: np.ndarray) -> float:
        """Return the score of the best constant answer to these labels: the baseline of a model that has learned
        nothing.
        """
        labels = integers(labels, "labels")
        if self.answers:
            return float(np.bincount(labels).max() / len(labels))
        return float(np.abs(labels - np.median(labels)).mean())

    def to_json(self) -> Any:
        """Return the task in the form that JSON keeps, for `task_from_json`: the name of a built-in one."""
        return self.name


class _Tasks(dict):
    def __missing__(self, name: object) -> NoReturn:
        raise KeyError(str(unknown_name("task", name, self)))


_by_name = _Tasks({row["name"]: Task(index=i, **row) for i, row in enumerate(core.task_table())})
BUILT_IN = tuple(_by_name)  # the seven
TASKS = MappingProxyType(_by_name)
"""Every `Task` by name, read-only: the seven built-in ones, then those made in Python in order of definition.

A name that is no task raises a KeyError with the nearest one.

Examples
--------
>>> list(wf.TASKS)[:3]
['distance', 'trianglearea', 'angle']
>>> wf.TASKS["compass"].answers
('E', 'NE', 'N', 'NW', 'W', 'SW', 'S', 'SE')
"""


def named(function: object) -> str:
    """Return the name of a function for a message, or of the type of another thing that can be called."""
    return repr(getattr(function, "__name__", type(function).__name__))


def register(task: T) -> T:
    """Register a task under its name, replacing one of that name, and return it."""
    _by_name[task.name] = task
    return task


def find(task: str | Task) -> Task:
    """Return the Task of a name, or the Task itself.

    Raises
    ------
    ValueError
        The name is unknown; the message names the nearest one.
    TypeError
        The argument is neither a name nor a Task.
    """
    if isinstance(task, Task):
        return task
    if callable(task):
        raise TypeError(f"task: expected a name or a task, got the function {named(task)}: put @wf.task over it")
    return TASKS[one_of("task", typed("task", task, str, "a name or a task"), TASKS)]


def one_or_more(tasks: str | Task | Sequence[str | Task]) -> tuple:
    """Return one task, or several, as a tuple; raises a TypeError if they are neither names nor Tasks."""
    if isinstance(tasks, str | Task) or callable(tasks):
        return (tasks,)
    return several("tasks", tasks, "names or tasks, one or several")


def in_python(tasks: Iterable[Task]) -> tuple:
    """Return those of some Tasks that were made in Python, each once; raises TaskError if two of one name differ."""
    own: dict[str, Task] = {}
    for task in tasks:
        if task.index < 0 and own.setdefault(task.name, task) != task:
            raise TaskError(f"task {task.name!r}: expected one task of a name, got two that differ")
    return tuple(own.values())


def task_from_json(content: str | Mapping[str, Any]) -> Task:
    """Return the Task of `Task.to_json`.

    Raises
    ------
    TaskError
        A task made in Python is not defined in this process, or is defined differently.
    """
    if isinstance(content, str):
        return find(content)
    name = content["name"]
    if name not in TASKS:
        raise TaskError(
            f"task {name!r} is made in Python, and its function is not in the files of a run: first run or import the "
            f"code that makes it with wf.task({name!r}, ...); on the command line, --load its file"
        )
    task = find(name)
    here = task.to_json()
    if here == content:
        return task
    if here["rule"] != content["rule"]:
        raise TaskError(
            f"task {name!r}: its function is not the one that was asked for (rule {content['rule']!r}, here "
            f"{here['rule']!r}): make it with that function again, or give the new function another name"
        )
    differs = [f"{key} {content.get(key)!r}, here {here[key]!r}" for key in here if here[key] != content.get(key)]
    raise TaskError(f"task {name!r}: its options are not those that were asked for ({'; '.join(differs)})")


def label(
    task: str | Task,
    world: World | None = None,
    cities: Any = None,
    *,
    xy: Any = None,
    count: Any = None,
    out: Any = None,
    threads: int = 0,
    check: bool = True,
) -> Any:
    """Compute labels in bulk, exactly.

    Call either label("inside", world, cities) or label("inside", xy=xy). Source: arXiv 2602.00533, section 2 and its
    published code; rounding is half to even.

    Parameters
    ----------
    task : str or Task
        A task made in Python runs on the CPU, also for arrays on a GPU.
    world : World
    cities : array
        Integers [n, k], indices into the world, distinct in each row; int32 is taken as it is; -1 after the last city
        of a shorter row.
    xy : array
        Integers [n, k, 2], 0.1 degree, |coordinate| <= 2**20; points may coincide.
    count : array, optional
        Integers [n], number of points in each row of xy; k by default.
    out : array, optional
        int64 [n], written; contiguous, of the kind and on the device of the input.
    threads : int
        CPU threads; 0 means one per processor.
    check : bool
        With False an invalid row is not an error. Then, on a GPU, the host does not wait for the labels, and if `out`
        is given too, a CUDA graph can capture the call (with a world that stays alive and was used on that device
        before).

    Returns
    -------
    array
        int64 [n], of the kind (numpy, torch, cupy) of the input; on a GPU computed on the current CUDA stream of the
        library that owns it. A choice is its index in TASKS[task].answers. The label of an invalid row is -1.

    Raises
    ------
    TypeError
        An array has the wrong dtype.
    ValueError
        A shape, the number of cities, a repeated city or a coordinate does not fit, or the task is unknown. The message
        names the argument and the row.
    IndexError
        A city is outside the world.

    Examples
    --------
    >>> xy = np.array([[[0, 0], [30, 40]]], dtype=np.int32)  # two points, 0.1 degree
    >>> wf.label("distance", xy=xy)
    array([50])
    >>> wf.label("distance", wf.World.cities(), np.array([[0, 1]], dtype=np.int32))
    array([101])
    """
    task = find(task)
    by_city = world is not None and cities is not None and xy is None and count is None
    by_point = xy is not None and world is None and cities is None
    if not (by_city or by_point):
        raise TypeError("label takes either a world and cities, or xy (and count)")
    if by_city and not isinstance(world, World):
        raise TypeError(f"world: expected a World, got a {type(world).__name__}")
    threads = thread_count(threads)
    given, name = (cities, "cities") if by_city else (xy, "xy")
    refuse(given, name)
    refuse(count, "count")
    refuse(out, "out")
    if not hasattr(given, "__dlpack__"):
        raise TypeError(f"{name}: expected an int32 array (numpy, torch or cupy), got a {type(given).__name__}")
    if world is not None:
        given = cities = _narrow("cities", cities, check, f"0..{len(world) - 1}")
    else:
        given = xy = _narrow("xy", xy, check, "-2^20 to 2^20")
        count = _narrow("count", count, check, f"{task.min_cities} to {task.max_cities} cities")
    if task.index < 0 and on_gpu(given):
        return _label_from_gpu(task, world, cities, xy, count, out, check)
    with current_device_of(given):
        if world is not None:
            xy = _xy_on_gpu(world, given.__dlpack_device__()[1]) if on_gpu(given) else world.xy
        if out is None:
            out = empty(given.shape[:1], "int64", like=given)
        first_bad = empty(3, "int64", like=given) if check else None
        core.label(task.native, xy, cities, count, out, first_bad, threads, cuda_stream(given))
    return out


NARROW = ("int8", "int16", "uint8", "uint16", "i2", "u2", "i4")  # that int32 holds; i4: in another order of bytes
WIDE = ("int64", "uint32", "uint64", "i8", "u4", "u8")


def _narrow(name: str, given: Any, check: bool, expected: str) -> Any:
    """Return an array of integers of any width as int32, as the native core takes them; others as they are.

    With check=False what int32 cannot hold becomes its last number, which no city and no coordinate is.
    """
    dtype = str(getattr(given, "dtype", None)).removeprefix("torch.").removeprefix(">")
    if dtype in WIDE:
        unsigned = dtype.startswith("u")
        if unsigned and hasattr(given, "long"):  # torch does little with these; beyond int64 they turn negative
            given = given.long()
            given = given.masked_fill(given < 0, 2**63 - 1)
        narrow = given.clip(0 if unsigned else -(2**31), 2**31 - 1)
        wide = given != narrow
        if check and wide.any():
            row = int(wide.reshape(len(wide), -1).any(1).nonzero()[0].ravel()[0]) if wide.ndim else 0
            came = int(given[wide].ravel()[0])
            raise (IndexError if name == "cities" else ValueError)(f"{name}: {came} in row {row} is outside {expected}")
    elif dtype in NARROW:
        narrow = given
    else:
        return given
    return narrow.int() if hasattr(narrow, "int") else narrow.astype("int32")


def _label_from_gpu(task: Task, world: World | None, cities: Any, xy: Any, count: Any, out: Any, check: bool) -> Any:
    """Compute `label` on the CPU for arrays on a GPU."""
    given = xy if cities is None else cities
    here = [None if x is None else torch.from_dlpack(x).cpu().numpy() for x in (cities, xy, count)]
    labels = label(task, world, here[0], xy=here[1], count=here[2], check=check)
    with current_device_of(given):
        out = empty(given.shape[:1], "int64", like=given) if out is None else out
        torch.from_dlpack(out).copy_(torch.from_numpy(labels))
    return out


_on_gpus: WeakKeyDictionary = WeakKeyDictionary()  # World -> {device: its coordinates}


def _xy_on_gpu(world: World, device: int) -> torch.Tensor:
    """Return a world's coordinates on a GPU, int32 [N, 2]: a torch tensor, ready on return, that lives as long as the
    world.
    """
    copies = _on_gpus.setdefault(world, {})
    if device not in copies:
        copies[device] = torch.as_tensor(np.array(world.xy), device=f"cuda:{device}")
        torch.cuda.synchronize(device)
    return copies[device]

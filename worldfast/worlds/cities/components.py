"""Components of a stream, and the native streams that are made of them.

A native stream takes a component as pools of cities by their indices, keys of its random numbers, and its share of the
pairs that never repeat.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from worldfast._native import core
from worldfast.classes import Named
from worldfast.display import count
from worldfast.errors import TaskError, number, whole
from worldfast.rows import LAST_ROW, SPLITS, key_of
from worldfast.worlds.cities.python_task import PythonTask
from worldfast.worlds.cities.selection import named, unknown_texts
from worldfast.worlds.cities.tasks import BUILT_IN, Task, find
from worldfast.worlds.cities.world import World

CROSSINGS = ("balanced", "reshuffled")
ORDERS = ("sequential", "shuffled", "interleaved")  # as in csrc/rows/generate.h
KEPT = 16  # interleaved streams of a world
TRIED = 256  # rows of each number of cities
CONSTANT = 1 << 14  # rows that all have the same answer, before a task is refused


@dataclass(frozen=True)
class Component(Named):
    """Block of a mixture: rows first .. first + rows - 1 of a task's own stream.

    Parameters
    ----------
    task : str or Task
        Name, or a task made with `worldfast.task`.
    rows : int
        Number of rows.
    among : str or array, optional
        Cities that rows may use: an expression for World.select or a mask bool [N]; None means all.
    must_include : str or array, optional
        Cities of which each row has at least one (among those of `among`).
    first : int
        First row of the task's stream.
    noise : float
        Label noise, 0 to below 1: the probability that a row's answer, in its text and label, is that of another row of
        the task with as many cities, drawn independently from all possible rows of the component. It is a function of
        the row: the noisy rows of a smaller noise are among those of a larger. Answers are as frequent as without
        noise, so that some are right by chance: half of those of inside and crossing.

    Examples
    --------
    >>> part = wf.Component("distance", 100, among="country == 'JP'", noise=0.1)
    >>> cities.Dataset("distance", mixture=[part]).epoch_rows
    100

    Raises
    ------
    TypeError, ValueError
        `rows`, `first` or `noise` is no number, or out of its range; or `among` or `must_include` is no selection.
    """

    task: str | Task
    rows: int
    among: Any = None
    must_include: Any = None
    first: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        task = getattr(self.task, "name", self.task)
        for name in ("rows", "first"):
            object.__setattr__(self, name, row_count(f"mixture: {name} of {task}", getattr(self, name)))
        for name in ("among", "must_include"):
            value = getattr(self, name)
            if not (value is None or hasattr(value, "__len__")):
                raise TypeError(f"mixture: {name} of {task}: expected an expression or a mask, got {value!r:.100}")
        object.__setattr__(self, "noise", require_noise(f"mixture: noise of {task}", self.noise))


def row_count(name: str, value: Any, least: int = 0) -> int:
    """Return a number of rows, or a position among them, as an int."""
    return whole(name, value, least, LAST_ROW)


def require_noise(name: str, value: Any) -> float:
    """Return a probability of label noise as a float; raises a TypeError or ValueError naming it if it is not one."""
    found = number(name, value)
    if not 0 <= found < 1:
        raise ValueError(f"{name}: expected at least 0 and below 1, got {value}")
    return found


# ---- native streams ----


def native_stream(
    world: World,
    entity: bool,
    own: Sequence[PythonTask],
    tasks: tuple[str, ...],
    components: Sequence[Component],
    *,
    seed: int,
    split: str,
    crossing: str,
    order: str,
) -> Any:
    """Return the native stream of components, with one token for a city if `entity`; `tasks` are the names of all its
    tasks, of which `own` are made in Python.
    """
    native = [_native_component(world, c, seed, split, crossing, tasks) for c in components]
    make = _kept if order == "interleaved" else _made
    return make(world, entity, own, native, ORDERS.index(order), key_of(seed, "shuffle", split))


def _made(
    world: World, entity: bool, own: Sequence[PythonTask], components: Sequence[dict], order: int, shuffle_key: int
) -> Any:
    for task in own:
        pools = [c["pool"] for c in components if c["task"] == len(BUILT_IN) + own.index(task)]
        _try(task, world, world.xy if pools[0] is None else world.xy[pools[0]])
    given = [task.native for task in own]
    return core.Stream(world.xy, world.city_id, entity, given, components, order, shuffle_key)


def _try(task: PythonTask, world: World, xy: np.ndarray) -> None:
    """Raise a TaskError if a task in Python fails on cities that rows have, or has one answer in all of the world.

    Cities of one region may well have one answer. A balanced task that has one says so of the rows that it cannot make.
    """
    counts = range(task.min_cities, task.max_cities + 1)
    found = set()
    for each in counts:
        at = (np.arange(TRIED)[:, None] * 5 + np.arange(each) * 7) % len(xy)
        found |= set(task.check(xy[at]).tolist())
    if len(found) > 1 or task.balanced:
        return
    rng = np.random.default_rng(0)
    for each in counts:
        found |= set(task.labels(world.xy[rng.integers(len(world), size=(CONSTANT, each))]).tolist())
    if len(found) == 1:
        raise TaskError(
            f"task {task.name!r}: its function gave {found.pop()} to each of {CONSTANT:,} rows of random cities: a "
            "model has nothing to learn; coordinates are integers in 0.1 degree, xy[:, i, 0] is x of city i"
        )


_streams: WeakKeyDictionary = WeakKeyDictionary()  # World -> its latest streams, by content
_lock = threading.RLock()  # a task in Python is tried within it, and may ask for rows


def _unlock() -> None:
    """In a forked child no other thread is left to let go of the lock."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


def _kept(
    world: World, entity: bool, own: Sequence[PythonTask], components: Sequence[dict], order: int, shuffle_key: int
) -> Any:
    """Return an interleaved stream of endless components; an earlier one is reused with its copies on GPUs, if there is
    one.
    """
    components = [{**c, "rows": 1} for c in components]  # interleaved components are endless
    content = [(k, v.tobytes() if isinstance(v, np.ndarray) else v) for c in components for k, v in c.items()]
    key = (entity, own, tuple(task.function for task in own), order, shuffle_key, *content)
    with _lock:
        latest = _streams.setdefault(world, OrderedDict())
        if key not in latest:
            latest[key] = _made(world, entity, own, components, order, shuffle_key)
        latest.move_to_end(key)
        while len(latest) > KEPT:
            latest.popitem(last=False)
        return latest[key]


def _native_component(
    world: World, c: Component, seed: int, split: str, crossing: str, tasks: tuple[str, ...]
) -> dict[str, Any]:
    """Return a component in the form of the native stream: the task as an index into the names of the stream's tasks,
    pools of cities as indices, keys, and the split's share of the pairs.
    """
    task = find(c.task)
    pool = np.ones(len(world), dtype=bool) if c.among is None else world.select(c.among)
    group = np.zeros(len(world), dtype=bool) if c.must_include is None else world.select(c.must_include) & pool
    if c.must_include is not None and not group.any():
        unknown = unknown_texts(c.must_include, world.columns)
        raise ValueError(f"must_include: {named(c.must_include)} selects no city that rows may use{unknown}")
    if not pool.any():
        unknown = unknown_texts(c.among, world.columns)
        raise ValueError(f"among: {named(c.among)} selects none of {count(len(world), 'city', 'cities')}{unknown}")
    if pool.sum() < task.max_cities:
        raise ValueError(
            f"the world is too small: task {task.name} needs {count(task.max_cities, 'city', 'cities')}, "
            f"rows may use {pool.sum()}" + ("" if c.among is None else f", which among={named(c.among)} selects")
        )
    # The key depends on the cities that rows may use, not on the rest of the world: the same cities give the same rows
    # with and without Atlantis.
    cities = hashlib.sha256(_indices(pool).tobytes() + b"/" + _indices(group).tobytes()).hexdigest()
    pair_count = pair_offset = 0
    if task.unique_pairs:
        size, held = int(pool.sum()), int(group.sum())
        within = size * (size - 1) // 2
        pair_count = held * (held - 1) // 2 + held * (size - held) if held else within
        pair_offset, share = _pair_share(pair_count, split)
        if c.first + c.rows > share:
            raise ValueError(
                f"rows: task {task.name} never repeats a pair, and the {split} split of these cities holds "
                f"{count(share, 'pair')}; rows up to {c.first + c.rows:,} were asked for: ask for fewer, or for "
                "more cities"
            )
    return {
        "task": tasks.index(task.name),
        "pool": None if pool.all() else _indices(pool),
        "group": _indices(group) if group.any() else None,
        "rest": _indices(pool & ~group) if group.any() else None,
        "key": key_of(seed, task.name, split, cities),
        "first": c.first,
        "rows": c.rows,
        "pair_key": key_of(seed, task.name, "pairs", cities),
        "pair_count": pair_count,
        "pair_offset": pair_offset,
        "noise": int(c.noise * 2.0**64),  # exact: only the exponent changes
        "noise_key": key_of(seed, task.name, "noise", split, cities),
        "reshuffled": task.name == "crossing" and crossing == "reshuffled",
    }


def _pair_share(count: int, split: str) -> tuple[int, int]:
    """Return the offset and the size of a split's share of all pairs, in keyed order."""
    tenth = count // 10
    sizes = dict(zip(SPLITS, (count - 2 * tenth, tenth, tenth)))
    return sum(sizes[before] for before in SPLITS[: SPLITS.index(split)]), sizes[split]


def _indices(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(mask).astype(np.int32)

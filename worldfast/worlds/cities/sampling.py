"""Streams of rows: a dataset is a function of (world, tasks, split, seed), not a file.

Row i of a stream is computed from a counter-based generator: it does not depend on the batch it comes in, the order of
requests, or the number of threads. Nothing is stored, so that an epoch's shuffle is a keyed permutation and resuming at
step n costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from worldfast._native import core, cuda_device, cuda_stream, current_device_of, on_gpu, thread_count
from worldfast.arrays import ArrayLike, refuse
from worldfast.errors import one_of, several, typed, unknown_name, whole
from worldfast.rows import Packed, require_split
from worldfast.worlds.cities.components import CROSSINGS, Component, native_stream, require_noise, row_count
from worldfast.worlds.cities.tasks import BUILT_IN, Task, find, in_python
from worldfast.worlds.cities.tokens import Vocabulary
from worldfast.worlds.cities.upload import Ahead, copy_rows
from worldfast.worlds.cities.world import World

T = TypeVar("T", "Batch", Packed)


@dataclass(frozen=True)
class Batch:
    """Rectangle of rows. Arrays are numpy on the CPU and torch on a GPU; as `out` they may be numpy, torch or cupy.

    Attributes
    ----------
    tokens : array
        uint8 [n, T] (character vocabulary) or int32 [n, T] (entity), padded with 0 on the right; T is the longest row
        that the world and the tasks allow.
    length : array
        int32 [n], tokens in each row, with <bos> and <eos>.
    answer_start : array
        int32 [n], index of the first token after '='.
    cities : array
        int32 [n, k], indices into the world, -1 after a row's last city.
    label : array
        int64 [n].
    task : array
        uint8 [n], index into `tasks`.
    failed : array
        int64 [1], the first position without a row, or -1 (see `Stream.rectangle`).
    vocabulary : Vocabulary
        Vocabulary of the tokens.
    tasks : tuple of str
        Names of the built-in tasks, then of the stream's own in Python.

    Examples
    --------
    >>> batch = wf.sample(wf.World.cities(), ("distance", "crossing"), n=2, seed=1)
    >>> batch.tokens.shape, batch.length.tolist()
    ((2, 42), [25, 41])
    >>> [batch.tasks[task] for task in batch.task], batch.cities.tolist()
    (['distance', 'crossing'], [[75, 1472, -1, -1], [1417, 3971, 2252, 1766]])
    >>> batch.text(0)
    'dist(c_6864,c_8515)=154'
    """

    tokens: Any
    length: Any
    answer_start: Any
    cities: Any
    label: Any
    task: Any
    failed: Any
    vocabulary: Vocabulary
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def text(self, i: int) -> str:
        """Return row i as text: "dist(c_0865,c_4879)=769"."""
        i = whole("i", i)
        return self.vocabulary.decode(self.tokens[i, : int(self.length[i])].tolist())


class Stream:
    """Endless stream of rows: the rows of all components, in a new keyed order each epoch.

    Parameters
    ----------
    world : World
    components : sequence of Component
    seed : int
    split : {"train", "validation", "test"}
        Disjoint streams. Distance and compass never repeat an unordered pair: the pairs in keyed random order are
        divided, 80% for train and 10% for each of the others.
    vocabulary : {"character", "entity"}
    shuffle : bool
        False puts the components one after the other.
    crossing : {"balanced", "reshuffled"}
        "reshuffled" permutes the cities of a crossing row once more and relabels it (26% TRUE).

    Attributes
    ----------
    rows : int
        Rows in an epoch.

    Raises
    ------
    ValueError
        The world is too small for a task, or a component has more rows than its split has pairs.

    Examples
    --------
    >>> stream = cities.Stream(wf.World.cities(), [wf.Component("distance", 100)], seed=42)
    >>> batch = stream.rectangle(0, 8)
    >>> stream.rectangle(3, 1).text(0) == batch.text(3)  # however rows are batched
    True
    """

    def __init__(
        self,
        world: World,
        components: Sequence[Component],
        *,
        seed: int,
        split: str = "train",
        vocabulary: str = "character",
        shuffle: bool = True,
        crossing: str = "balanced",
    ) -> None:
        components = several("components", components, "Components")
        self._asked: dict[str, Any] = dict(
            world=world,
            components=components,
            seed=seed,
            split=split,
            vocabulary=vocabulary,
            shuffle=shuffle,
            crossing=crossing,
        )
        for i, c in enumerate(components):
            typed(f"components[{i}]", c, Component, "a Component")
            row_count("rows", c.rows, least=1)
        order = "shuffled" if shuffle else "sequential"
        self._open(world, components, seed, split, vocabulary, order, crossing)
        self.rows = sum(c.rows for c in components)

    def _open(
        self,
        world: World,
        components: Sequence[Component],
        seed: int,
        split: str,
        vocabulary: str,
        order: str,
        crossing: str,
    ) -> None:
        typed("world", world, World, "a World")
        require_split(split)
        one_of("crossing", crossing, CROSSINGS)
        whole("seed", seed, -(2**63), 2**64 - 1)
        if not components:
            raise ValueError("components: a stream needs at least one")
        self._components = [find(c.task) for c in components]
        self.vocabulary = Vocabulary(vocabulary, world)
        self._entity = vocabulary == "entity"
        self._own = in_python(self._components)
        self._tasks = BUILT_IN + tuple(task.name for task in self._own)
        asked: dict[str, Any] = dict(seed=seed, split=split, crossing=crossing, order=order)
        self._native = native_stream(world, self._entity, self._own, self._tasks, components, **asked)

    def __reduce__(self) -> tuple:  # pickled and copied as the call that made it
        return functools.partial(type(self), **self._asked), ()

    def empty_batch(self, n: int, device: str | torch.device = "cpu") -> Batch:
        """Return an uninitialised Batch of n rows, for `out` of `rectangle`."""
        row_count("n", n)
        empty = _allocator(device)
        return Batch(
            tokens=empty((n, self._native.width), "int32" if self._entity else "uint8"),
            length=empty(n, "int32"),
            answer_start=empty(n, "int32"),
            cities=empty((n, self._native.cities_width), "int32"),
            label=empty(n, "int64"),
            task=empty(n, "uint8"),
            failed=_none_failed(empty),
            vocabulary=self.vocabulary,
            tasks=self._tasks,
        )

    def empty_pack(self, n: int, device: str | torch.device = "cpu") -> Packed:
        """Return an uninitialised Packed with room for n rows of the largest length, for `out` of `pack`."""
        row_count("n", n)
        empty = _allocator(device)
        return Packed(
            tokens=empty(self._native.packed_room(n), "int32"),
            row_start=empty(n + 1, "int32"),
            answer_start=empty(n, "int32"),
            failed=_none_failed(empty),
            scratch=empty(self._native.packed_scratch(n), "uint8"),
        )

    def rectangle(
        self,
        start: Any,
        n: int,
        device: str | torch.device | None = None,
        threads: int = 0,
        *,
        out: Batch | None = None,
        check: bool = True,
    ) -> Batch:
        """Make rows start .. start + n - 1 of the stream as a Batch.

        Rows of tasks in Python are made on one CPU thread, and copied to the device of `out`.

        On a GPU the work is queued on the current CUDA stream (of the library that owns `out`). With check=False the
        host does not wait for it; with `out` too, nothing is allocated once the stream has made rows on that device
        before, so that a CUDA graph can capture the call. A replay makes the rows at the value that `start`, an array,
        then has: `start += n` in the graph advances it. The caller guarantees that it is not negative, and keeps stream
        and arrays alive as long as the graph.

        Parameters
        ----------
        start : int or array
            First row; an array is int64 [1] on the device of the rows, read when they are made.
        n : int
            Number of rows.
        device : str, optional
            "cpu" (the default) or "cuda", "cuda:1" ...; not together with `out`.
        threads : int
            CPU threads; 0 means one per processor.
        out : Batch, optional
            Batch to overwrite and return, from `empty_batch` or `rectangle`: contiguous arrays of these shapes and
            dtypes, on one device.
        check : bool
            With False a position without a row is not an error. The smallest such position is stored in `failed`, which
            is otherwise unchanged; if it is set, none of the rows may be used.

        Returns
        -------
        Batch

        Raises
        ------
        ValueError
            No row was found at a position (only for tasks with balanced answers, in a world that hardly has one of the
            answers), or `out` does not fit.
        TypeError
            A dtype of `out` or another argument does not fit.
        """
        row_count("n", n)
        threads = thread_count(threads)
        out = _where_to(out, Batch, device, lambda where: self.empty_batch(n, where))
        fields = (out.tokens, out.length, out.answer_start, out.cities, out.label, out.task, out.failed)
        if self._goes_up(start, out):
            copy_rows(self.rectangle(start, n, threads=threads, check=check), out, reset=check)
        else:
            with current_device_of(out.tokens):
                self._native.rectangle(_position(start), n, *fields, check, threads, cuda_stream(out.tokens))
        if check:
            self._require_rows(out.failed)
        return replace(out, vocabulary=self.vocabulary, tasks=self._tasks)

    def pack(
        self,
        start: Any,
        n: int,
        device: str | torch.device | None = None,
        *,
        out: Packed | None = None,
        check: bool = True,
    ) -> Packed:
        """Make rows start .. start + n - 1 of the stream as Packed, for a training step.

        Parameters
        ----------
        start, n, device, check
            As for `rectangle`, including its remarks on CUDA streams and graphs.
        out : Packed, optional
            Packed to overwrite, from `empty_pack`.

        Returns
        -------
        Packed
            With the tokens of the rows only; with check=False with all of `out`'s, since the number of tokens,
            row_start[n], is known only on the device.

        Raises
        ------
        ValueError
            As from `rectangle`; or n rows have more tokens than int32 can count.
        TypeError
            As from `rectangle`.
        """
        row_count("n", n)
        trains = out is not None and not check  # training requests the rows after these next
        out = _where_to(out, Packed, device, lambda where: self.empty_pack(n, where))
        fields = (out.tokens, out.row_start, out.answer_start, out.failed, out.scratch)
        if not self._goes_up(start, out):
            with current_device_of(out.tokens):
                self._native.packed(_position(start), n, *fields, check, cuda_stream(out.tokens))
        elif trains:
            self._ahead.pack(start, n, out)
        else:
            copy_rows(self.pack(start, n, check=check), out, reset=check)
        if not check:
            return out
        self._require_rows(out.failed)
        return replace(out, tokens=out.tokens[: int(out.row_start[-1])])

    def _goes_up(self, start: Any, out: Batch | Packed) -> bool:
        """Return True if rows must be made on the CPU and copied to a GPU, because their tasks are in Python."""
        if not self._own or not on_gpu(out.failed):
            return False
        if hasattr(start, "__dlpack__"):
            name = self._own[0].name
            raise TypeError(f"start: rows of task {name!r} are made on the CPU, which takes an integer, got an array")
        row_count("start", start)
        return True

    @cached_property
    def _ahead(self) -> Ahead:
        return Ahead(self)

    def _require_rows(self, failed: Any) -> None:
        position = int(failed[0])
        if position >= 0:
            tasks = [task for task in self._components if task.balanced]
            balanced = " or ".join(sorted({task.name for task in tasks}))
            native = any(task.index >= 0 for task in tasks)
            why = "are its cities all on one line?" if native else "does its function give each of the choices?"
            raise ValueError(
                f"row {position}: no {balanced} row with the wanted answer in {core.max_tries:,} tries: rows of this "
                f"world can hardly be balanced ({why})"
            )


def sample(
    world: World,
    task: str | Task | Iterable[str | Task],
    n: int,
    seed: int = 42,
    start: int = 0,
    split: str = "train",
    device: str | torch.device | None = None,
    among: str | ArrayLike | None = None,
    must_include: str | ArrayLike | None = None,
    vocabulary: str = "character",
    crossing: str = "balanced",
    threads: int = 0,
    out: Batch | None = None,
    noise: float = 0.0,
) -> Batch:
    """Sample, label and encode rows start .. start + n - 1 of a task's stream in one pass.

    Source of the rules: arXiv 2602.00533 and its published code.

    Parameters
    ----------
    world : World
    task : str, Task or sequence of them
        Name, or a task made with `worldfast.task`. Of a sequence of k tasks, row i is row i // k of task i % k.
    n : int
        Number of rows.
    seed : int
        Seed of the stream.
    start : int
        First row; row i does not depend on n and start.
    split : {"train", "validation", "test"}
        Disjoint streams.
    device : str, optional
        "cpu" (the default: numpy arrays) or "cuda", "cuda:1" ... (torch tensors).
    among : str or array, optional
        Cities that rows may use: an expression or a mask bool [N]; None means all.
    must_include : str or array, optional
        Cities of which each row has at least one: an expression or a mask.
    vocabulary : {"character", "entity"}
    crossing : {"balanced", "reshuffled"}
        As for `Stream`.
    threads : int
        CPU threads; 0 means one per processor.
    out : Batch, optional
        Batch of n such rows to overwrite and return; rows are made on its device.
    noise : float
        Label noise: the probability that a row has another row's answer; see `Component`.

    Returns
    -------
    Batch

    Raises
    ------
    ValueError, TypeError, IndexError
        An argument does not fit.
    RuntimeError
        The device is not available.

    Examples
    --------
    >>> batch = wf.sample(wf.World.cities(), "distance", n=4, seed=1)
    >>> batch.text(0)
    'dist(c_6864,c_8515)=154'
    >>> int(batch.label[0])
    154
    """
    start, n = row_count("start", start), row_count("n", n)
    require_noise("noise", noise)
    asked = (task,) if isinstance(task, str | Task) or callable(task) else task
    tasks = [find(one) for one in typed("task", asked, Iterable, "a name or a sequence of names")]
    rows = -(-(start + n) // max(len(tasks), 1))
    components = tuple(Component(t, rows, among, must_include, noise=noise) for t in tasks)
    stream = Stream.__new__(Stream)
    stream._open(world, components, seed, split, vocabulary, "interleaved", crossing)
    return stream.rectangle(start, n, device, threads, out=out)


def _position(start: Any) -> Any:
    """Return a start in the form of the native stream: an integer, or an array that is read on its device."""
    refuse(start, "start")
    return start if hasattr(start, "__dlpack__") else row_count("start", start)


def _where_to(
    out: T | None, kind: type[T], device: str | torch.device | None, make: Callable[[str | torch.device], T]
) -> T:
    """Return `out` after its checks, or a new one from make(device)."""
    if out is None:
        return make("cpu" if device is None else device)
    if not isinstance(out, kind):
        raise TypeError(f"out: expected a {kind.__name__}, got a {type(out).__name__}")
    if device is not None:
        raise TypeError(f"device: rows go to the device of out, so device={device!r} cannot be given with it")
    return out


def _none_failed(empty: Callable[..., Any]) -> Any:
    failed = empty(1, "int64")
    failed[0] = -1
    return failed


def _allocator(device: str | torch.device) -> Callable[..., Any]:
    """Return empty(shape, dtype) for a device."""
    kind = str(device).partition(":")[0]
    if kind == "cpu":
        return np.empty
    if kind != "cuda":
        raise unknown_name("device", str(device), ("cpu", "cuda"))
    where = cuda_device(device)

    def empty(shape: int | tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=where)

    return empty

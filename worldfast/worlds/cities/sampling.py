"""Streams of rows: a dataset is a function of (world, tasks, split, seed), not a file.

Row i of a stream is computed from a counter-based generator: the same whatever the batch it comes in, the order rows
are asked for, or the number of threads. Nothing is stored, so an epoch's shuffle is a keyed permutation and going on
at step n costs nothing.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from worldfast._native import core, cuda_device, cuda_stream, current_device_of, on_gpu
from worldfast.errors import unknown_name
from worldfast.rows import Packed
from worldfast.worlds.cities.tasks import BUILT_IN, Task, find, in_python
from worldfast.worlds.cities.tokens import VOCABULARIES, Vocabulary
from worldfast.worlds.cities.upload import Ahead, copy_rows
from worldfast.worlds.cities.world import World

__all__ = ["Batch", "Component", "Packed", "Stream", "sample"]

LAST_ROW = 2**62
SPLITS = ("train", "validation", "test")
CROSSINGS = ("balanced", "reshuffled")
ORDERS = ("sequential", "shuffled", "interleaved")  # as in csrc/rows/generate.h


@dataclass(frozen=True)
class Batch:
    """A rectangle of rows. Arrays are numpy on the CPU and torch on a GPU; as `out` they may be numpy, torch or cupy.

    tokens        uint8 [n, T] (character vocabulary) or int32 [n, T] (entity), padded with 0 on the right; T is the
                  longest row that the world and the tasks allow
    length        int32 [n], tokens in each row, with <bos> and <eos>
    answer_start  int32 [n], index of the first token after '='
    cities        int32 [n, k], indices into the world, -1 behind a row's last city
    label         int64 [n]
    task          uint8 [n], index into `tasks`
    failed        int64 [1], the first position without a row, or -1 (see `Stream.rectangle`)
    tasks         names: of the built-in tasks, then of the stream's own in Python
    """

    tokens: object
    length: object
    answer_start: object
    cities: object
    label: object
    task: object
    failed: object
    vocabulary: Vocabulary
    tasks: tuple[str, ...]

    def __len__(self):
        return len(self.label)

    def text(self, i):
        """Row i as text: "dist(c_0865,c_4879)=769"."""
        return self.vocabulary.decode(self.tokens[i, : int(self.length[i])].tolist())


@dataclass(frozen=True)
class Component:
    """One block of a mixture: rows first .. first + rows - 1 of a task's own stream.

    task          a name, or a task made with `worldfast.task`
    among         cities that rows may use: a mask bool [N], an expression for World.select, or None for all
    must_include  at least one city of each row is from here (and from `among`)
    noise         label noise, 0 to below 1: the probability that a row's answer, in its text and label, is that of
                  another row of the task with as many cities, drawn independently from all that the component could
                  have. A function of the row: the rows of a smaller noise are among those of a larger. Answers are as
                  frequent as without noise, so some are right by chance: half of those of inside and crossing
    """

    task: str | Task
    rows: int
    among: object = None
    must_include: object = None
    first: int = 0
    noise: float = 0.0


class Stream:
    """An endless stream of rows: the components' rows, in a new keyed order each epoch.

    world        World
    components   sequence of Component
    seed         int
    split        "train", "validation" or "test": disjoint streams. distance and compass never repeat an unordered
                 pair: the pairs in keyed random order are shared out, 80% for train, 10% and 10% for the others.
    vocabulary   "character" or "entity"
    shuffle      False: the components one after the other
    crossing     "balanced", or "reshuffled": permute a crossing row's cities once more and relabel (26% TRUE)

    .rows is the number of rows in an epoch. Raises ValueError where the world is too small for a task, or a component
    asks for more rows than its split has pairs.
    """

    def __init__(
        self, world, components, *, seed, split="train", vocabulary="character", shuffle=True, crossing="balanced"
    ):
        components = tuple(components)
        for c in components:
            _require_count("rows", c.rows, least=1)
        order = "shuffled" if shuffle else "sequential"
        self._open(world, components, seed, split, vocabulary, order, crossing)
        self.rows = sum(c.rows for c in components)

    def _open(self, world, components, seed, split, vocabulary, order, crossing):
        if not isinstance(world, World):
            raise TypeError(f"world: expected a World, got a {type(world).__name__}")
        for what, name, known in (
            ("split", split, SPLITS),
            ("vocabulary", vocabulary, VOCABULARIES),
            ("crossing", crossing, CROSSINGS),
        ):
            if name not in known:
                raise unknown_name(what, name, known)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed: expected an integer, got {seed!r}")
        if not components:
            raise ValueError("components: a stream needs at least one")
        self._components = [find(c.task) for c in components]
        self.vocabulary = Vocabulary(vocabulary, world)
        self._entity = vocabulary == "entity"
        self._own = in_python(self._components)
        self._tasks = BUILT_IN + tuple(task.name for task in self._own)
        native = [_native_component(world, c, seed, split, crossing, self._tasks) for c in components]
        make = _kept if order == "interleaved" else _native_stream
        self._native = make(world, self._entity, self._own, native, ORDERS.index(order), _key(seed, "shuffle", split))

    def empty_batch(self, n, device="cpu"):
        """A Batch of n rows that are not made yet: the `out` of rectangle."""
        _require_count("n", n)
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

    def empty_pack(self, n, device="cpu"):
        """A Packed of n rows that are not made yet, with room for the longest there can be: the `out` of pack."""
        _require_count("n", n)
        empty = _allocator(device)
        return Packed(
            tokens=empty(self._native.packed_room(n), "int32"),
            row_start=empty(n + 1, "int32"),
            answer_start=empty(n, "int32"),
            failed=_none_failed(empty),
            scratch=empty(self._native.packed_scratch(n), "uint8"),
        )

    def rectangle(self, start, n, device=None, threads=0, *, out=None, check=True):
        """Rows start .. start + n - 1 of the stream as a Batch.

        start    integer; or int64 [1] on the device of the rows, read when they are made
        device   "cpu" (the default) or "cuda", "cuda:1" ...; not together with `out`
        threads  CPU threads, 0: one per processor
        out      a Batch to overwrite, as `empty_batch` and `rectangle` return them: contiguous arrays of these shapes and
                 dtypes, all on one device. It is returned.
        check    False: a position without a row (see below) is not an error. The smallest one is kept in `failed`, which
                 stays as it is where all rows are there; where they are not, none of the rows is to be used.

        Rows of tasks in Python are made on one CPU thread, and copied to where `out` is.

        On a GPU the work is queued on the current CUDA stream (of the library that owns `out`). With check=False the host
        does not wait for it; with `out` too, nothing is allocated once the stream has made rows on that device before, so
        that a CUDA graph can hold the call. A replay makes the rows that `start`, an array, says then: `start += n` in the
        graph moves it on. The caller vouches that it is not negative, and keeps stream and arrays alive as long as the graph.

        ValueError: no row was found at a position (only of tasks whose answers are balanced, in a world that hardly has
        one of the answers), or `out` does not fit; TypeError: its dtypes, or other arguments.
        """
        _require_count("n", n)
        _require_count("threads", threads)
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

    def pack(self, start, n, device=None, *, out=None, check=True):
        """Rows start .. start + n - 1 of the stream as Packed, for a training step.

        start, device, check  as in `rectangle`, and so is what is said of CUDA streams and graphs
        out                   a Packed to overwrite, as `empty_pack` returns it. Of its tokens, the rows' are returned; with
                              check=False all, since how many are the rows' is known on the device only: row_start[n].

        Errors as of `rectangle`; ValueError also where int32 cannot count the tokens of n rows.
        """
        _require_count("n", n)
        trains = out is not None and not check  # and asks for the rows after these next
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

    def _goes_up(self, start, out):
        """True where rows have to be made on the CPU and then go to a GPU, being of tasks in Python."""
        if not self._own or not on_gpu(out.failed):
            return False
        if hasattr(start, "__dlpack__"):
            name = self._own[0].name
            raise TypeError(f"start: rows of task {name!r} are made on the CPU, which takes an integer, got an array")
        _require_count("start", start)
        return True

    @cached_property
    def _ahead(self):
        return Ahead(self)

    def _require_rows(self, failed):
        position = int(failed[0])
        if position >= 0:
            balanced = " or ".join(sorted({task.name for task in self._components if task.balanced}))
            raise ValueError(
                f"row {position}: no {balanced} row with the wanted answer in {core.max_tries:,} tries: rows of this "
                "world can hardly be balanced (are its cities all on one line?)"
            )


def sample(
    world,
    task,
    n,
    seed=42,
    start=0,
    split="train",
    device=None,
    among=None,
    must_include=None,
    vocabulary="character",
    crossing="balanced",
    threads=0,
    out=None,
    noise=0.0,
):
    """Rows start .. start + n - 1 of a task's stream: sampled, labelled and encoded in one pass.

    world         World
    task          a name or a task made with `worldfast.task`, or a sequence of k of them: row i is then row i // k of
                  task i % k
    seed          of the stream: another seed, other rows
    n, start      row i is the same whatever n and start
    split         "train", "validation", "test": disjoint streams
    device        "cpu" (the default: numpy arrays) or "cuda", "cuda:1" ... (torch tensors)
    among         cities that rows may use: mask bool [N] or expression; default: all
    must_include  at least one city of each row is from here: mask or expression
    vocabulary    "character" or "entity"
    crossing      "balanced" or "reshuffled"
    threads       CPU threads; 0: one per processor
    out           a Batch of as many such rows to overwrite and return; the rows are made on its device
    noise         label noise: the probability that a row has another row's answer, see `Component`

    Returns a Batch. Raises ValueError, TypeError, IndexError for arguments that do not fit, RuntimeError where the
    device is not there. Source of the rules: arXiv 2602.00533 and its published code.
    """
    _require_count("start", start)
    _require_count("n", n)
    if not isinstance(task, str | Task | Iterable):
        raise TypeError(f"task: expected a name or a sequence of names, got {task!r}")
    tasks = [find(name) for name in ([task] if isinstance(task, str | Task) else task)]
    rows = -(-(start + n) // max(len(tasks), 1))
    components = tuple(Component(t, rows, among, must_include, noise=noise) for t in tasks)
    stream = Stream.__new__(Stream)
    stream._open(world, components, seed, split, vocabulary, "interleaved", crossing)
    return stream.rectangle(start, n, device, threads, out=out)


def _native_stream(world, entity, own, components, order, shuffle_key):
    for task in own:
        pools = [c["pool"] for c in components if c["task"] == len(BUILT_IN) + own.index(task)]
        _try(task, world.xy if pools[0] is None else world.xy[pools[0]])
    given = [task.native for task in own]
    return core.Stream(world.xy, world.city_id, entity, given, components, order, shuffle_key)


TRIED = 256  # rows of each number of cities


def _try(task, xy):
    """TaskError where a task in Python does not do what it must with cities that rows have."""
    for count in range(task.min_cities, task.max_cities + 1):
        at = (np.arange(TRIED)[:, None] * 5 + np.arange(count) * 7) % len(xy)
        task.check(xy[at])


KEPT = 16  # streams of a world
_streams: WeakKeyDictionary = WeakKeyDictionary()  # World -> its latest streams, by all they are made of
_lock = threading.RLock()  # a task in Python is tried within it, and may ask for rows


def _kept(world, entity, own, components, order, shuffle_key):
    """A stream in turns, of the components without end; the one of an earlier call, with its copies on GPUs, where
    there is one."""
    components = [{**c, "rows": 1} for c in components]  # in turns it is not asked how many there are
    content = [(k, v.tobytes() if isinstance(v, np.ndarray) else v) for c in components for k, v in c.items()]
    key = (entity, own, tuple(task.function for task in own), order, shuffle_key, *content)
    with _lock:
        latest = _streams.setdefault(world, OrderedDict())
        if key not in latest:
            latest[key] = _native_stream(world, entity, own, components, order, shuffle_key)
        latest.move_to_end(key)
        while len(latest) > KEPT:
            latest.popitem(last=False)
        return latest[key]


def _native_component(world, c, seed, split, crossing, tasks):
    """A component as the native stream takes it: the task as an index into the names of the stream's tasks, pools of
    cities as indices, keys, the split's share of the pairs."""
    task = find(c.task)
    _require_count("first", c.first)
    noise = require_noise("noise", c.noise)
    pool = np.ones(len(world), dtype=bool) if c.among is None else world.select(c.among)
    group = np.zeros(len(world), dtype=bool) if c.must_include is None else world.select(c.must_include) & pool
    if c.must_include is not None and not group.any():
        raise ValueError(f"must_include: {c.must_include!r} selects no city that rows may use")
    if pool.sum() < task.max_cities:
        raise ValueError(
            f"the world is too small: task {task.name} needs {task.max_cities} cities, rows may use {pool.sum()}"
        )
    # Of the cities rows may use, and not of how many more the world has: cities() alone and cities() in a world with
    # Atlantis give the same rows.
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
                f"{share:,} pairs; rows up to {c.first + c.rows:,} were asked for"
            )
    return {
        "task": tasks.index(task.name),
        "pool": None if pool.all() else _indices(pool),
        "group": _indices(group) if group.any() else None,
        "rest": _indices(pool & ~group) if group.any() else None,
        "key": _key(seed, task.name, split, cities),
        "first": c.first,
        "rows": c.rows,
        "pair_key": _key(seed, task.name, "pairs", cities),
        "pair_count": pair_count,
        "pair_offset": pair_offset,
        "noise": int(noise * 2.0**64),  # exact: only the exponent changes
        "noise_key": _key(seed, task.name, "noise", split, cities),
        "reshuffled": task.name == "crossing" and crossing == "reshuffled",
    }


def _pair_share(count, split):
    """Where a split's share of all pairs, in keyed order, begins, and its size."""
    tenth = count // 10
    sizes = {"train": count - 2 * tenth, "validation": tenth, "test": tenth}
    offset = 0
    for name in SPLITS:
        if name == split:
            return offset, sizes[name]
        offset += sizes[name]


def _indices(mask):
    return np.flatnonzero(mask).astype(np.int32)


def _key(*parts):
    """64 bits that no other combination of parts is likely to share."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def _require_count(name, value, least=0):
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not least <= value <= LAST_ROW:
        raise ValueError(f"{name}: expected {least} to {LAST_ROW:,}, got {value}")


def require_noise(name, value):
    """A probability of label noise as a float; TypeError or ValueError naming it where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 <= value < 1:  # so is NaN
        raise ValueError(f"{name}: expected at least 0 and below 1, got {value}")
    return float(value)


def _position(start):
    """A start as the native stream takes it: an integer, or an array that is read on its device."""
    if not hasattr(start, "__dlpack__"):
        _require_count("start", start)
    return start


def _where_to(out, kind, device, make):
    """`out` after its checks, or else a new one from make(device)."""
    if out is None:
        return make("cpu" if device is None else device)
    if not isinstance(out, kind):
        raise TypeError(f"out: expected a {kind.__name__}, got a {type(out).__name__}")
    if device is not None:
        raise TypeError(f"device: rows go to the device of out, so device={device!r} cannot be given with it")
    return out


def _none_failed(empty):
    failed = empty(1, "int64")
    failed[0] = -1
    return failed


def _allocator(device):
    """empty(shape, dtype) for a device."""
    kind = str(device).partition(":")[0]
    if kind == "cpu":
        return np.empty
    if kind != "cuda":
        raise unknown_name("device", str(device), ("cpu", "cuda"))
    import torch

    where = cuda_device(device)

    def empty(shape, dtype):
        return torch.empty(shape, dtype=getattr(torch, dtype), device=where)

    return empty

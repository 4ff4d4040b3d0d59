"""Rows that a model reads, their shape, and streams of them: the interface between worlds and models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldfast._native import core
from worldfast.display import count
from worldfast.errors import one_of, typed, whole

INTEGERS = (torch.int32, torch.int64)
LAST_ROW = core.last_row
MOST_INPUTS = 2**31 - 1  # of a batch
LOSSES = ("cross_entropy", "binary_cross_entropy", "mean_square", "tanh_square")
SPLITS = ("train", "validation", "test")


class Shape(NamedTuple):
    """Shape of a model's inputs and outputs.

    Attributes
    ----------
    inputs : int
        Tokens in the vocabulary, or numbers in a vector.
    outputs : int
        Numbers that the model gives at each scored position.
    vectors : bool
        Inputs are vectors, float32 [L, inputs], instead of tokens, int32 [L].
    loss : {"cross_entropy", "binary_cross_entropy", "mean_square", "tanh_square"}
        Loss at a scored position: the cross entropy of softmax(outputs) and a class, the sum of the binary cross
        entropies of sigmoid(outputs), or half the summed squared error of the outputs or of tanh(outputs).
    """

    inputs: int
    outputs: int
    vectors: bool = False
    loss: str = "cross_entropy"


class Rows(NamedTuple):
    """Rows of one model, end to end, without padding: L inputs, R rows, K scored positions.

    Attributes
    ----------
    inputs : Tensor
        Tokens, int32 [L], or vectors, float32 [L, d].
    row_start : Tensor
        int32 [R + 1]; row r is ``inputs[row_start[r]:row_start[r + 1]]``.
    scored : Tensor
        int64 [K], positions that are read out, ascending.
    targets : Tensor, optional
        Classes, int64 [K], or numbers, float32 [K, outputs]; None if nothing is learned.
    weights : Tensor, optional
        float32 [K], factors of the losses, or [K, outputs] of those of each output, where the loss is a sum over
        outputs; None means ones.

    Examples
    --------
    >>> rows = wf.Run(cities.Dataset("distance", rows=10)).stream().batch(0, 4)
    >>> rows.inputs.dtype, len(rows.row_start)
    (torch.int32, 5)
    """

    inputs: Tensor
    row_start: Tensor
    scored: Tensor
    targets: Tensor | None = None
    weights: Tensor | None = None


class CheckedRows(Rows):
    """Rows that `require_rows` has let through, or that were cut from such: an ensemble does not check them again."""

    __slots__ = ()


@runtime_checkable
class Stream(Protocol):
    """Rows of a dataset, ordered by a seed and a split: a function of the position.

    Attributes
    ----------
    shape : Shape
    rows : int
        Rows of an epoch. Later epochs have the same rows in another order.
    longest : int
        Inputs of the longest row.
    """

    shape: Shape
    rows: int
    longest: int

    def batch(self, start: int, n: int) -> Rows:
        """Return rows `start` to `start + n`, which do not depend on how they are batched."""
        ...


@dataclass(frozen=True)
class Packed:
    """Rows of tokens end to end, as a stream makes them on either device. Arrays of NumPy, torch or CuPy.

    Attributes
    ----------
    tokens : array
        int32 [L].
    row_start : array
        int32 [n + 1]; row i is ``tokens[row_start[i]:row_start[i + 1]]``, the last token included.
    answer_start : array
        int32 [n], index within the row of the first token of the answer.
    failed : array
        int64 [1], the first position without a row, or -1.
    scratch : array
        uint8, working memory in which a GPU makes the rows.
    """

    tokens: Any
    row_start: Any
    answer_start: Any
    failed: Any
    scratch: Any


@runtime_checkable
class DeviceStream(Stream, Protocol):
    """Stream of tokens whose rows a GPU can make, many steps of them by one call.

    Attributes
    ----------
    answers_only : bool
        Only tokens of the answers are learned, not every token after the first.
    """

    answers_only: bool

    def empty_pack(self, n: int, device: Any = "cpu") -> Packed:
        """Return uninitialised memory for n rows of the largest length."""
        ...

    def pack(self, start: int, n: int, device: Any = None, *, out: Packed | None = None, check: bool = True) -> Packed:
        """Make rows `start` to `start + n`, in `out` if it is given; with check=False the host does not wait."""
        ...


def require_split(split: Any) -> str:
    """Return the name of a split; raises ValueError for a name that is not in SPLITS."""
    return one_of("split", split, SPLITS)


def require_stream(stream: Any, data: object) -> Any:
    """Return a stream of a dataset; raises a TypeError or ValueError that says what it lacks to be a `Stream`."""
    what = f"stream of {type(data).__name__}"
    if lacks := [name for name in ("shape", "rows", "longest", "batch") if not hasattr(stream, name)]:
        raise TypeError(
            f"{what}: expected shape, rows, longest and batch(start, n), got a {type(stream).__name__}, which lacks "
            f"{', '.join(lacks)}"
        )
    typed(f"{what}: shape", stream.shape, Shape, "a worldfast.rows.Shape")
    whole(f"{what}: longest", stream.longest, 1)
    return stream


def rows_from(stream: Stream, start: int, n: int, shape: Shape | None = None) -> Rows:
    """Return rows `start` to `start + n` of a stream, checked.

    Raises
    ------
    TypeError, ValueError
        What the stream gives are no rows of the shape, by default its own, or not n of them; and what it raises itself.
    """
    rows, what = stream.batch(start, n), f"batch({start}, {n}) of {type(stream).__name__}"
    try:
        require_rows(rows, shape or stream.shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what}: {error}") from None
    if (given := len(rows.row_start) - 1) != n:
        raise ValueError(f"{what}: expected {count(n, 'row')}, got {given:,}")
    return rows


def key_of(*parts: object) -> int:
    """Return the key of a stream's random numbers: 64 bits that no other parts are likely to share."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def require_batch(start: Any, n: Any, longest: int) -> tuple[int, int]:
    """Return the first row and the number of rows of a batch as integers.

    Raises
    ------
    TypeError, ValueError
        They are none, rows are beyond the last one, or `n` rows of `longest` inputs are more than `row_start`
        counts.
    """
    n = whole("n", n, 0, MOST_INPUTS // longest)
    return whole("start", start, 0, LAST_ROW - n), n


def require_loss(loss: str) -> str:
    """Return the name of a loss; raises ValueError for a name that is not in LOSSES."""
    return one_of("loss", loss, LOSSES)


def require_rows(rows: Rows, shape: Shape) -> None:
    """Raise a TypeError or ValueError naming the field of `rows` that does not fit a model of this shape."""
    typed("rows", rows, Rows, "worldfast.rows.Rows")
    inputs = ((torch.float32, torch.float64), (None, shape.inputs)) if shape.vectors else (INTEGERS, (None,))
    _require("inputs", rows.inputs, *inputs)
    if not shape.vectors:
        _require_within("inputs", rows.inputs, shape.inputs)
    _require("row_start", rows.row_start, INTEGERS, (None,))
    L, start = len(rows.inputs), rows.row_start.numpy(force=True)  # NumPy compares few numbers sooner
    if not len(start) or start[0] != 0 or start[-1] != L or (start[1:] < start[:-1]).any():
        raise ValueError(
            f"row_start: expected offsets that ascend from 0 to {L}, the inputs, got {start.tolist()[:12]}"
        )
    _require("scored", rows.scored, INTEGERS, (None,))
    scored, K = rows.scored.numpy(force=True), len(rows.scored)
    ascending = (scored[1:] > scored[:-1]).all()
    if not ascending or K and not 0 <= scored[0] <= scored[-1] < L:  # the others are between these two
        _require_within("scored", rows.scored, L)
        raise ValueError("scored: expected ascending positions, each once")
    if rows.targets is not None:
        if shape.loss == "cross_entropy":
            _require("targets", rows.targets, INTEGERS, (K,))
            _require_within("targets", rows.targets, shape.outputs)
        else:
            _require("targets", rows.targets, (torch.float32, torch.float64), (K, shape.outputs))
    if rows.weights is not None:
        each = shape.loss != "cross_entropy" and isinstance(rows.weights, Tensor) and rows.weights.ndim == 2
        _require("weights", rows.weights, (torch.float32, torch.float64), (K, shape.outputs) if each else (K,))


def _require(name: str, x: object, dtypes: tuple[torch.dtype, ...], size: tuple[int | None, ...]) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(str(dtype)[6:] for dtype in dtypes)}, got {str(x.dtype)[6:]}")
    if x.ndim != len(size) or any(n not in (None, came) for n, came in zip(size, x.shape)):
        expected = ", ".join("any" if n is None else str(n) for n in size)
        raise ValueError(f"{name}: expected shape [{expected}], got {list(x.shape)}")


def _require_within(name: str, x: Tensor, end: int) -> None:
    values = x.numpy(force=True)
    if values.size and (values.min() < 0 or values.max() >= end):
        raise ValueError(f"{name}: expected 0 to {end - 1}, got {values[(values < 0) | (values >= end)][0]}")

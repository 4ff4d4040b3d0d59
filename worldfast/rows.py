"""Rows that a model reads, their shape, and streams of them: all that a world and a model both know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from worldfast.errors import unknown_name

__all__ = ["LOSSES", "DeviceStream", "Packed", "Rows", "Shape", "Stream", "require_loss"]

LOSSES = ("cross_entropy", "binary_cross_entropy", "mean_square")


class Shape(NamedTuple):
    """Shape of what goes into a model and comes out of it.

    Attributes
    ----------
    inputs : int
        Tokens in the vocabulary, or numbers in a vector.
    outputs : int
        Numbers that the model gives at each scored position.
    vectors : bool
        Inputs are vectors, float32 [L, inputs], in place of tokens, int32 [L].
    loss : {"cross_entropy", "binary_cross_entropy", "mean_square"}
        Loss at a scored position: the cross entropy of the softmax of the outputs and a class, the sum of the binary
        cross entropies of the sigmoid of each output, or half the summed squared error.
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
        Classes, int64 [K], or numbers, float32 [K, outputs]; None where nothing is learned.
    weights : Tensor, optional
        float32 [K], factors of the losses; None means ones.
    """

    inputs: Tensor
    row_start: Tensor
    scored: Tensor
    targets: Tensor | None = None
    weights: Tensor | None = None


@runtime_checkable
class Stream(Protocol):
    """Rows of a dataset in the order in which a seed and a split give them: a function of the position.

    Attributes
    ----------
    shape : Shape
    rows : int
        Rows of an epoch. A later epoch has the same rows in another order.
    longest : int
        Inputs of the longest row.
    """

    shape: Shape
    rows: int
    longest: int

    def batch(self, start: int, n: int) -> Rows:
        """Return rows `start` to `start + n`, the same however they are batched."""
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
        int32 [n], within its row: index of the first token of the answer.
    failed : array
        int64 [1], the first position without a row, or -1.
    scratch : array
        uint8, memory in which a GPU makes the rows; nothing of it is kept.
    """

    tokens: Any
    row_start: Any
    answer_start: Any
    failed: Any
    scratch: Any


@runtime_checkable
class DeviceStream(Stream, Protocol):
    """Stream of tokens whose rows a GPU makes, many steps of them by one call.

    Attributes
    ----------
    answers_only : bool
        Learned are the tokens of the answers, not every one after the first.
    """

    answers_only: bool

    def empty_pack(self, n: int, device: Any = "cpu") -> Packed:
        """Return room for n rows, the longest there can be."""
        ...

    def pack(self, start: int, n: int, device: Any = None, *, out: Packed | None = None, check: bool = True) -> Packed:
        """Make rows `start` to `start + n`, in `out` where it is given; without `check` the host waits for nothing."""
        ...


def require_loss(loss: str) -> str:
    """Return a loss's name. Raises ValueError for a name that is not in LOSSES."""
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    return loss

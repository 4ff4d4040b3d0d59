"""Rows that a model reads, their shape, and streams of them: all that a world and a model both know."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from worldfast.errors import unknown_name

__all__ = ["LOSSES", "Rows", "Shape", "Stream", "require_loss"]

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


def require_loss(loss: str) -> str:
    """Return a loss's name. Raises ValueError for a name that is not in LOSSES."""
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    return loss

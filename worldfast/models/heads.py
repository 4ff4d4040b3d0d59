"""Families whose models have heads of attention: what heads look at, and what is left of a model without some of them.

D hidden, K scored positions, L inputs, P parameters with gaps, T inputs of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from worldfast.arrays import numbers
from worldfast.models.attention import weights_of_row
from worldfast.models.ensemble import Ensemble
from worldfast.models.spec import Spec
from worldfast.rows import Rows

__all__ = ["AttentionEnsemble", "AttentionSpec", "attention_weights"]

A = TypeVar("A", bound="AttentionEnsemble")


class AttentionSpec(Spec[A]):
    """Base of the spec of a family with heads of attention; analyses of heads take the runs of such models.

    Attributes
    ----------
    heads : int
        Heads of each block, of hidden / heads numbers.
    rope_base : float, optional
        Base of the rotation by which queries and keys get their positions; None: they are not rotated.
    """

    heads: int
    rope_base: float | None = None


class AttentionEnsemble(Ensemble):
    """M models with heads of attention: each block adds to the residual stream what an output matrix makes of them."""

    @abstractmethod
    def outputs(self, rows: Rows, member: int, *, gain: Any = None) -> Tensor:
        """Return a member's outputs at the scored positions, float32 [K, outputs].

        Parameters
        ----------
        rows : Rows
        member : int
        gain : array, optional
            [layers, heads], factors of what each head adds to the residual stream: 0 ablates a head. None means ones.
            The bias of an output matrix, if it has one, is that of no head, and stays.

        Raises
        ------
        TypeError, ValueError
            The gain is no finite number for each head.
        """

    @abstractmethod
    def states(self, rows: Rows, member: int, layers: Sequence[int], *, gain: Any = None) -> list[Tensor]:
        """Return a member's hidden states at the scored positions, as `Ensemble.states`; `gain` as in `outputs`."""

    @abstractmethod
    def _queries_and_keys(self, rows: Rows, member: int) -> list[tuple[Tensor, Tensor]]:
        """Return queries and keys of each block before the rotation, heads side by side, [L, D] each."""

    @abstractmethod
    def _output_matrices(self, parameters: Tensor) -> Iterable[Tensor]:
        """Return each block's output matrix [D, D], which reads the heads side by side, as a view of parameters [P]."""

    def _gain(self, gain: Any) -> Tensor:
        """Return a gain, checked, [layers, D]: a factor for each number that heads give, side by side."""
        size = self.spec.layers, self.spec.heads
        found = numbers(gain, "gain", size).tensor().to(self.device, self.parameters.dtype)
        return found.repeat_interleave(self.spec.hidden // self.spec.heads, 1)

    def _gained(self, member: int, gain: Any) -> Tensor:
        """Return the parameters [P] of a member with a gain: its output matrices read heads with these factors."""
        parameters = self.parameters[member]
        if gain is None:
            return parameters
        factors, parameters = self._gain(gain), parameters.clone()
        for factor, output in zip(factors, self._output_matrices(parameters)):
            output.mul_(factor)
        return parameters


def attention_weights(ensemble: Ensemble, rows: Rows, member: int = 0) -> list[list[Tensor]]:
    """Return the weights of attention, which models never hold as a whole: computed from queries and keys.

    Parameters
    ----------
    ensemble : Ensemble
        Of a family with heads, such as that of TransformerSpec or GPTSpec.
    rows : Rows
    member : int

    Returns
    -------
    list of list of Tensor
        For each block and each row float64 [H, T, T]: weights of each position over those up to it, as they are
        without dropout.

    Raises
    ------
    TypeError
        The ensemble is of a family without heads.

    Examples
    --------
    >>> data = cities.Dataset("distance", rows=10)
    >>> ensemble = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32).build(data.shape)
    >>> ensemble.initialise(0, seed=0)
    >>> rows = data.stream(seed=0).batch(0, 4)
    >>> (of_block,) = worldfast.models.attention_weights(ensemble, rows)
    >>> [tuple(of_row.shape) == (2, n, n) for of_row, n in zip(of_block, rows.row_start.diff())]
    [True, True, True, True]
    """
    if not isinstance(ensemble, AttentionEnsemble):
        family = type(ensemble.spec).__name__
        raise TypeError(
            f"ensemble: expected models with heads, as of TransformerSpec and GPTSpec, got those of {family}"
        )
    spec = ensemble.spec
    with torch.no_grad():
        pairs = ensemble._queries_and_keys(rows, member)
        start = rows.row_start.tolist()
        each = [[x.reshape(-1, spec.heads, spec.hidden // spec.heads) for x in pair] for pair in pairs]
        return [[weights_of_row(q[a:b], k[a:b], spec.rope_base) for a, b in zip(start, start[1:])] for q, k in each]

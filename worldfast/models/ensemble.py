"""The ensemble: M models of one shape that learn in lockstep, each as if it were alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from worldfast.rows import Rows, Shape

__all__ = ["Ensemble"]


class Ensemble(ABC):
    """M models of one shape.

    A family of models implements the five operations below; what trains, reads, compares and captures models uses
    nothing else. A member's arithmetic never touches another's: on a CPU a member has the bits that it would have alone.

    Attributes
    ----------
    spec
        The frozen spec that built the ensemble: TransformerSpec, RecurrentSpec ...
    shape : Shape
        Shape of inputs and outputs.
    members : int
        M.
    device : torch.device
    threads : int
        CPU threads in use.
    parameters, gradients : Tensor
        float32 [M, P].
    decayed : Tensor
        float32 [P]: 1 where weight decay applies, otherwise 0.
    """

    spec: Any
    shape: Shape
    members: int
    device: torch.device
    threads: int = 1
    parameters: Tensor
    gradients: Tensor
    decayed: Tensor

    @abstractmethod
    def initialise(self, member: int, seed: int) -> None:
        """Draw a member's initial weights."""

    @abstractmethod
    def learn(self, rows: Sequence[Rows], members: Sequence[int]) -> Tensor:
        """Set members' gradients to those of their summed losses.

        Parameters
        ----------
        rows : sequence of Rows
            With targets, one for each of `members`.
        members : sequence of int
            Each at most once; the gradients of the other members stay as they were.

        Returns
        -------
        Tensor
            Summed losses, float64 [len(members)].
        """

    @abstractmethod
    def outputs(self, rows: Rows, member: int) -> Tensor:
        """Return a member's outputs at the scored positions, float32 [K, outputs]."""

    @abstractmethod
    def states(self, rows: Rows, member: int, layers: Sequence[int]) -> list[Tensor]:
        """Return a member's hidden states at the scored positions, float32 [K, D] for each of `layers`.

        Layer 0 is what goes into the first block; layer k comes out of block k, the last after the final norm.

        Raises
        ------
        IndexError
            The model has no such layer.
        """

    def each(self, job: Callable, items: Iterable) -> list:
        """Return [job(item) for item in items], which an ensemble with threads of its own shares out among them."""
        return [job(item) for item in items]

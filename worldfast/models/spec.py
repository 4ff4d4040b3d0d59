"""Spec: what the models of a family are, as a frozen value that builds ensembles of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from worldfast.classes import Named
from worldfast.errors import whole
from worldfast.models.ensemble import Ensemble
from worldfast.rows import Shape

__all__ = ["CpuBytes", "Spec", "require_sizes"]

WIDEST, DEEPEST = 2**20, 2**12  # as in csrc/transformer/transformer.cpp
E = TypeVar("E", bound=Ensemble)


class CpuBytes(NamedTuple):
    """Upper bound on the memory that models take on a CPU while they learn.

    Attributes
    ----------
    member : int
        Bytes of each model.
    shared : int
        Bytes that all models share.
    """

    member: int
    shared: int


class Spec(Named, ABC, Generic[E]):
    """Base of a family's spec, a frozen dataclass: it says what its models are, and builds ensembles of them.

    Attributes
    ----------
    hidden, layers : int
        Width of a model's states, and depth.
    outputs : int, optional
        Number of outputs, the first ones; None means all of the data.
    """

    hidden: int
    layers: int
    outputs: int | None

    @abstractmethod
    def sizes(self, shape: Shape) -> Iterable[tuple[int, ...]]:
        """Return the shape of each parameter of a model of such data, in the order of a member's buffer."""

    @abstractmethod
    def cpu_bytes(self, shape: Shape, inputs: int, threads: int, matmul_dtype: str, longest: int) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` inputs, of up to `longest` a row."""

    def on_gpu(self, shape: Shape, longest: int) -> bool:
        """Return True if GPU kernels take whole steps of training; a family without kernels has none that do."""
        return False

    def parameters(self, shape: Shape) -> int:
        """Return the number of parameters of a model of such data."""
        return sum(map(math.prod, self.sizes(shape)))

    def of(self, shape: Shape) -> Shape:
        """Return the shape of a model of such data; raises a ValueError if the data has fewer outputs."""
        if self.outputs is not None and self.outputs > shape.outputs:
            whose = "data" if shape.vectors else "vocabulary"
            raise ValueError(f"model.outputs: expected at most the {whose}'s {shape.outputs}, got {self.outputs}")
        return shape._replace(outputs=self.outputs or shape.outputs)

    def build(
        self,
        shape: Shape,
        members: int = 1,
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        matmul_dtype: str = "float32",
        longest: int | None = None,
    ) -> E:
        """Build an ensemble of such models, with parameters of 0.

        Parameters
        ----------
        shape : Shape
            Shape of the data.
        members : int
            Number of models.
        device : str or torch.device
            With a native engine, "cpu" builds an ensemble of the native core, and a CUDA device one of the GPU kernels
            if the family has some.
        threads : int, optional
            CPU threads; None means torch's number. Results do not depend on it.
        matmul_dtype : {"float32", "bfloat16"}
            Type in which matrices are multiplied while learning; sums, parameters, norms and residual stream are
            float32.
        longest : int, optional
            Inputs of the longest row, if known.

        Returns
        -------
        Ensemble
            That of the family: Transformer, Recurrent ...

        Raises
        ------
        ValueError
            The engine was chosen by name and cannot compute this, or an argument does not fit.
        """
        longest = None if longest is None else whole("longest", longest, 0)
        return self._build(shape, members, device, threads, matmul_dtype, longest)

    @abstractmethod
    def _build(
        self,
        shape: Shape,
        members: int,
        device: str | torch.device,
        threads: int | None,
        matmul_dtype: str,
        longest: int | None,
    ) -> E:
        """Return what `build` does."""


def require_sizes(spec: Any, names: Sequence[str]) -> None:
    """Raise a TypeError or ValueError for a field of a spec that is no integer of at least 1; `outputs` may be None."""
    for name in names:
        value = getattr(spec, name)
        if name == "outputs" and value is None:
            continue
        found = whole(f"model.{name}", value, 1, DEEPEST if name == "layers" else WIDEST)
        object.__setattr__(spec, name, found)

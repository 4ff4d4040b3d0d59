"""Ensembles of families written in PyTorch: a forward pass is given, and autograd computes the gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldfast._native import thread_count
from worldfast.models.buffer import buffer_size, tensors_in
from worldfast.models.ensemble import Ensemble
from worldfast.models.losses import summed_loss
from worldfast.models.spec import CpuBytes
from worldfast.processes import Threads
from worldfast.rows import Rows, Shape, require_loss

NUMBER = 4  # bytes of a float32


def autograd_bytes(shapes: Iterable[tuple[int, ...]], inputs: int, kept: int, threads: int) -> CpuBytes:
    """Return the memory of models that train on `threads` threads, in bytes.

    A member has parameters and gradients; a thread has a gradient in the making, and activations with theirs.

    Parameters
    ----------
    shapes : iterable of tuple of int
        Shapes of a member's parameters.
    inputs : int
        Inputs of a batch.
    kept : int
        Numbers that autograd keeps for each input.
    threads : int
    """
    P = buffer_size(shapes)
    return CpuBytes(2 * NUMBER * P, threads * NUMBER * (2 * P + 2 * inputs * kept))


class AutogradEnsemble(Ensemble):
    """M models of a family that is written in PyTorch.

    Each member is computed by itself, one tensor operation after another, so that its results are bit-identical to
    those of a single model: a product batched over members may take another code path for another number of them.

    Parameters
    ----------
    spec
        Spec that builds the ensemble.
    shape : Shape
        Shape of the models.
    shapes : sequence of tuple of int
        Shapes of a member's parameters, in the order of its buffer.
    members : int
        M.
    device : str or torch.device
    threads : int, optional
        Members that are computed at a time on a CPU; None means torch's number of threads. Results do not depend on it.
    matmul_dtype : {"float32"}
        Matrices are multiplied in the dtype of the parameters.
    dtype : torch.dtype
        Type of parameters and computation, float32 or float64.

    Raises
    ------
    ValueError
        `members` is below 1, or `matmul_dtype` or the loss is unknown here.
    """

    def __init__(
        self,
        spec: Any,
        shape: Shape,
        shapes: Sequence[tuple[int, ...]],
        members: int = 1,
        *,
        device="cpu",
        threads: int | None = None,
        matmul_dtype: str = "float32",
        dtype: torch.dtype = torch.float32,
    ):
        self._require_float32(matmul_dtype)
        require_loss(shape.loss)
        Ensemble.__init__(self, spec, shape, shapes, members, device, matmul_dtype, dtype)  # not that of a sibling
        self.threads = thread_count(threads) or torch.get_num_threads()
        self._threads = Threads(self.threads)

    @abstractmethod
    def forward(self, parameters: Tensor, rows: Rows, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Compute outputs and states for checked rows.

        Parameters
        ----------
        parameters : Tensor
            [P], a member's.
        rows : Rows
            Checked, on the ensemble's device, vectors in its dtype.
        layers : sequence of int
            Layers of the model.

        Returns
        -------
        outputs : Tensor
            [K, outputs].
        states : list of Tensor
            [K, D] for each of `layers`.
        """

    def learning(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Compute outputs [K, outputs] while learning; of `forward`, unless the family is disturbed while it learns."""
        return self.forward(parameters, rows, ())[0]

    def learn(self, rows: Sequence[Rows], members: Sequence[int]) -> Tensor:
        self._require_targets(rows, members)
        gradients = self.gradients  # made once, before threads write to it
        return torch.stack(self.each(lambda job: self._learn(*job, gradients), list(zip(rows, members))))

    def _learn(self, rows: Rows, member: int, gradients: Tensor) -> Tensor:
        rows = self._here(rows)
        with torch.enable_grad():
            parameters = self.parameters[member].detach().requires_grad_()
            outputs = self.learning(parameters, rows)
            loss = summed_loss(self.shape.loss, outputs, rows.targets, rows.weights)
            (gradient,) = torch.autograd.grad(loss, parameters)
        gradients[member].copy_(gradient)
        return loss.detach().cpu()

    @torch.no_grad()
    def outputs(self, rows: Rows, member: int) -> Tensor:
        self._require_rows([rows], [member])
        return self.forward(self.parameters[member], self._here(rows), ())[0]

    @torch.no_grad()
    def states(self, rows: Rows, member: int, layers: Sequence[int]) -> list[Tensor]:
        self._require_layers(layers)
        self._require_rows([rows], [member])
        return self.forward(self.parameters[member], self._here(rows), layers)[1]

    def _require_float32(self, matmul_dtype: str) -> None:
        if matmul_dtype != "float32":
            raise ValueError(f"matmul_dtype: {type(self).__name__} multiplies in 'float32' only, got {matmul_dtype!r}")

    def _answer(self, prompts, longest, members, matmul_dtype, end) -> list[list[np.ndarray]]:
        self._require_float32(matmul_dtype)
        return self.each(lambda job: self._greedy(*job[0], longest, job[1], end), list(zip(prompts, members)))

    def _greedy(self, tokens: np.ndarray, length: np.ndarray, longest: int, member: int, end: int) -> list[np.ndarray]:
        """Return the answers of a member; the whole row is computed again for each token."""
        rows = [row[:n] for row, n in zip(tokens, length)]
        going = list(range(len(rows)))
        for _ in range(longest):
            if not going:
                break
            found = self._after([rows[i] for i in going], member).argmax(1).numpy(force=True)
            rows_left = []
            for i, token in zip(going, found):
                if token != end:
                    rows[i] = np.append(rows[i], token)
                    rows_left.append(i)
            going = rows_left
        return [row[n:].astype(np.int32) for row, n in zip(rows, length)]

    def each(self, job: Callable, items: Iterable) -> list:
        """Return [job(item) for item in items], computed on the ensemble's threads; raises the first job's error."""
        return self._threads.run(lambda item, _: job(item), items)

    def _here(self, rows: Rows) -> Rows:
        """Return rows on the ensemble's device, vectors in its dtype."""
        rows = Rows(*(None if x is None else x.to(self.device) for x in rows))
        return rows._replace(inputs=rows.inputs.to(self.parameters.dtype if self.shape.vectors else torch.int64))


class NamedEnsemble(AutogradEnsemble):
    """M models of a family whose spec names its parameters in `shapes`.

    Parameters
    ----------
    spec
        Spec that builds the ensemble.
    shape : Shape
        Shape of the data.
    members : int
    **options
        Those of AutogradEnsemble.
    """

    def __init__(self, spec: Any, shape: Shape, members: int = 1, **options):
        self._named_shapes = spec.shapes(shape)
        super().__init__(spec, spec.of(shape), list(self._named_shapes.values()), members, **options)

    def tensors(self, member: int) -> dict[str, Tensor]:
        """Return a member's parameters as views, by name."""
        return self._named(self.parameters[member])

    def _named(self, parameters: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._named_shapes, tensors_in(parameters, list(self._named_shapes.values()))))

"""Learning of an ensemble on a GPU, in memory that is taken once. worldfast.training.gpu_step records it as a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from worldfast.models.footprint import is_fused, places
from worldfast.models.gpu import DTYPES, GpuTransformer, exact_products


class GpuLearner:
    """Gradients of all members of a GpuTransformer, in memory of its own: what it does can be recorded as a CUDA graph.

    Parameters
    ----------
    ensemble : GpuTransformer
    tokens : int
        Upper bound on the tokens of a member's rows.

    Attributes
    ----------
    places : int
        Most places of a member for tokens.
    rounded : Tensor or None
        [M, P], the parameters as matrices are multiplied; whoever changes parameters rounds them anew. None if float32.
    """

    def __init__(self, ensemble: GpuTransformer, tokens: int):
        from worldfast.models.fused import FusedPasses
        from worldfast.models.gpu_transformer import Passes

        dtype = DTYPES[ensemble.matmul_dtype]
        self.places = places(tokens)
        self.rounded = None if dtype == torch.float32 else torch.empty_like(ensemble.parameters, dtype=dtype)
        self._buffer, self._gradients = ensemble.gradients, ensemble.stacked(ensemble.gradients)
        masters = ensemble.stacked(ensemble.parameters)
        weights = masters if self.rounded is None else ensemble.stacked(self.rounded)
        if is_fused(ensemble.spec, ensemble.matmul_dtype):
            self.passes = FusedPasses(ensemble.spec, masters, weights, self.places)
        else:
            self.passes = Passes(ensemble.spec, masters, weights, self.places, learns=True)

    @exact_products()
    def learn(self, tokens: Tensor, starts: Tensor, ends: Tensor, longest: int, targets: Tensor) -> Tensor:
        """Write the ensemble's gradients and return losses, float32 [M, C, 2]; arguments are those of a `Batch`."""
        from worldfast.models.gpu_transformer import Batch

        return self.passes.learn(Batch(tokens, starts, ends, longest, targets), self._gradients, self._buffer)

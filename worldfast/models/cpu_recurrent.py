"""Recurrent networks on a CPU, trained and read by the native core: one call for all members a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldfast._native import core
from worldfast.models.buffer import buffer_size
from worldfast.models.recurrent import KINDS, Recurrent, RecurrentSpec
from worldfast.models.spec import CpuBytes
from worldfast.processes import Threads
from worldfast.rows import Rows, Shape

NUMBER = 4  # bytes of a float32
PIECE = 1 << 15  # inputs that are read at once
LOSSES = ("cross_entropy", "binary_cross_entropy", "mean_square", "tanh_square")  # in the core's order


class CpuRecurrent(Recurrent):
    """Ensemble of recurrent networks on a CPU. Recurrent, in PyTorch, is its reference.

    A member is a job for one thread, so that its results are bit-identical to those of a single model, whatever the
    number of threads; a row is read with the same bits in every batch.

    Parameters
    ----------
    spec : RecurrentSpec
    shape : Shape
        Shape of the data.
    members : int
    threads : int, optional
        CPU threads; None means torch's number.
    matmul_dtype : {"float32"}
        Matrices are multiplied in float32.
    """

    def __init__(
        self,
        spec: RecurrentSpec,
        shape: Shape,
        members: int = 1,
        *,
        threads: int | None = None,
        matmul_dtype: str = "float32",
    ):
        super().__init__(spec, shape, members, threads=threads, matmul_dtype=matmul_dtype)
        self._native = native(spec, shape)
        self._threads = Threads(self.threads, core.Arena)

    @staticmethod
    def cpu_bytes(spec: RecurrentSpec, shape: Shape, inputs: int, threads: int) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` inputs.

        A member has parameters and gradients; a thread has packed matrices, and a member's activations with their
        gradients.
        """
        D, P = spec.hidden, buffer_size(spec.shapes(shape).values())
        read, gates, outputs = shape.inputs if shape.vectors else D, KINDS[spec.kind] * D, spec.of(shape).outputs
        kept = read + spec.layers * (2 * gates + 3 * D) + 5 * D + outputs  # numbers for each input
        kept += max(read, D) + 32 + gates + 96 + 8  # copies in the making of a gradient, and places
        packed = 2 * P + 64 * (read + gates + outputs)
        return CpuBytes(2 * NUMBER * P, threads * NUMBER * 3 * (packed + inputs * kept))

    def learn(self, rows: Sequence[Rows], members: Sequence[int]) -> Tensor:
        self._require_targets(rows, members)
        given = [(*self._arrays(one), self.noise(one) if self.spec.noise else None) for one in rows]
        arrays = self.parameters.numpy(), members, given, self.gradients.numpy()
        return torch.from_numpy(np.array(self._native.learn(*arrays, self._threads.memories()), np.float64))

    def outputs(self, rows: Rows, member: int) -> Tensor:
        return self._read(rows, member, None, [self.shape.outputs])[0]

    def states(self, rows: Rows, member: int, layers: Sequence[int]) -> list[Tensor]:
        self._require_layers(layers)
        first = self.shape.inputs if self.shape.vectors else self.spec.hidden
        return self._read(rows, member, layers, [self.spec.hidden if layer else first for layer in layers])

    def _read(self, rows: Rows, member: int, layers: Sequence[int] | None, widths: Sequence[int]) -> list[Tensor]:
        """Return the states of layers, or the outputs where that is None, [K, width] each."""
        self._require_rows([rows], [member])
        inputs, row_start, scored, _, _ = self._arrays(rows)
        found = [np.empty((len(scored), width), np.float32) for width in widths]
        first = np.unique(np.searchsorted(row_start, np.arange(0, len(inputs), PIECE), side="right") - 1)
        pieces = list(zip(first, [*first[1:], len(row_start) - 1]))

        def job(piece, arena):
            begin, end = row_start[piece[0]], row_start[piece[1]]
            here = np.flatnonzero((scored >= begin) & (scored < end))
            parts = [np.empty((len(here), width), np.float32) for width in widths]
            starts = row_start[piece[0] : piece[1] + 1] - begin
            given = inputs[begin:end], starts, scored[here] - begin, None, None, None
            states, outputs = ([], parts[0]) if layers is None else (parts, None)
            self._native.read(self.parameters[member].numpy(), given, list(layers or ()), states, outputs, arena)
            for whole, part in zip(found, parts):
                whole[here] = part

        self._threads.run(job, pieces)
        return [torch.from_numpy(whole) for whole in found]

    def _arrays(self, rows: Rows) -> tuple[np.ndarray | None, ...]:
        """Return rows as contiguous arrays of the types that the core takes."""
        vectors, classes = self.shape.vectors, self.shape.loss == "cross_entropy"
        wanted = torch.float32 if vectors else torch.int32, torch.int32, torch.int64
        wanted = (*wanted, torch.int64 if classes else torch.float32, torch.float32)
        return tuple(None if x is None else x.to("cpu", dtype).contiguous().numpy() for x, dtype in zip(rows, wanted))


def native(spec: RecurrentSpec, shape: Shape) -> core.Recurrent:
    """Build the native network of a spec, which computes with a member's parameters, float32 [P].

    Its methods take rows as (inputs, row_start, scored, targets, weights, noise), the last three of which may be None;
    an arena is reusable memory of a thread::

        learn(parameters, members, rows, gradients, arenas)
                                                    returns the summed loss of each of these members of [M, P], whose
                                                    rows are a list; writes their gradients [M, P]; a thread an arena
        read(parameters, rows, layers, states, outputs, arena)
                                                    of one member's parameters [P]: writes states, [K, D] for each
                                                    layer, and outputs, [K, O] or None
    """
    offsets = [0]
    for parameter in spec.shapes(shape).values():
        offsets.append(offsets[-1] + buffer_size([parameter]))
    return core.Recurrent(
        inputs=shape.inputs,
        hidden=spec.hidden,
        layers=spec.layers,
        outputs=spec.of(shape).outputs,
        vectors=shape.vectors,
        lstm=spec.kind == "lstm",
        relu=spec.nonlinearity == "relu",
        bias=spec.bias,
        keep=1 - spec.leak if spec.decays else 1.0,
        share=spec.leak,
        loss=LOSSES.index(shape.loss),
        offsets=offsets[:-1],
    )

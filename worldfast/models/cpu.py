"""Transformers on a CPU, trained and read by the native core.

A member's rows are cut into tiles of about a thousand tokens, and distributed over LANES partial sums. A lane is one
job for one thread, so that threads synchronise twice a step and not once an operation; lanes are added in order. A
member's results are bit-identical to those of a single model, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldfast._native import core, thread_count
from worldfast.models.buffer import buffer_size
from worldfast.models.decoding import Scratch, drawn, greedy, share
from worldfast.models.spec import CpuBytes
from worldfast.models.tiles import Piece, cut
from worldfast.models.transformer import Transformer, TransformerSpec, views
from worldfast.processes import Threads
from worldfast.rows import Rows, Shape

NUMBER = 4  # bytes of a float32
LANES = 4  # a constant, so that results do not depend on the machine
LANE_LIMIT = 1 << 22  # parameters after the embeddings; a larger model is one lane, its operations use threads
TILE = 1 << 20  # numbers in the widest activation of a tile


class CpuTransformer(Transformer):
    """Ensemble of transformers on a CPU.

    Parameters
    ----------
    spec : TransformerSpec
    shape : Shape
        Shape of the data.
    members : int
    threads : int, optional
        CPU threads; None means torch's number. Results do not depend on it. `.threads` is the number in use.
    matmul_dtype : {"float32", "bfloat16"}
        Type in which matrices are multiplied while learning. Reading is always in float32.
    """

    def __init__(
        self,
        spec: TransformerSpec,
        shape: Shape,
        members: int = 1,
        *,
        threads: int | None = None,
        matmul_dtype: str = "float32",
    ):
        super().__init__(spec, shape, members, "cpu", matmul_dtype)
        size = self.parameters.shape[1]
        self._inner = buffer_size([self._shapes.embed])  # where the parameters after the embeddings begin
        widest = max(2 * spec.intermediate, 3 * spec.hidden)
        self._tile = min(max(TILE // widest, 512), 4096)  # tokens
        self._lanes = LANES if size - self._inner <= LANE_LIMIT else 1
        self.threads = thread_count(threads) or torch.get_num_threads()
        self._inside = 1 if self._lanes > 1 else self.threads  # threads of an operation
        self._threads = Threads(self.threads // self._inside, Scratch)
        self._packed: dict[str, tuple] = {}

    @cached_property
    def _lane_sums(self) -> list[list[np.ndarray]]:
        """Gradients summed by each lane, [M][lanes] of [P]; the first lane's is the gradient itself."""
        more = np.zeros((self.members, self._lanes - 1, self.parameters.shape[1]), dtype=np.float32)
        return [[first, *others] for first, others in zip(self.gradients.numpy(), more)]

    def each(self, job: Callable, items: Iterable) -> list:
        return self._threads.run(lambda item, _: job(item), items)

    @staticmethod
    def cpu_bytes(
        spec: TransformerSpec, shape: Shape, inputs: int, threads: int, matmul_dtype: str, longest: int
    ) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` tokens, of up to `longest` a row.

        A member has parameters, gradients in lanes, packed matrices and gradients at tokens; all together have the sum
        of a gradient and a tile for each thread.
        """
        D, F, shapes = spec.hidden, spec.intermediate, spec.shapes(shape)
        P = buffer_size(shapes.each())
        lanes = LANES if P - buffer_size([shapes.embed]) <= LANE_LIMIT else 1
        # packed copies, one for each side of a product: in float32 for reading, and in the dtype of training
        packed = 2 if matmul_dtype == "float32" else 3 if core.multiplies_pairs() else 4
        tile = min(inputs, int(1.5 * max(TILE // max(2 * F, 3 * D), 512)) + longest)  # tokens
        kept = spec.layers * (11 * D + 2 * F) + 8 * D + 4 * F + shapes.head[0]  # numbers for each of them
        scratch = NUMBER * tile * kept * 2  # it doubles when it grows
        member = NUMBER * (P * (1 + lanes + packed) + inputs * D)
        return CpuBytes(member, NUMBER * P + (threads if lanes > 1 else 1) * scratch)

    def _pack(self, members: Sequence[int], matmul_dtype: str) -> tuple[core.Transformer, np.ndarray]:
        """Return the native transformer for this dtype, and the packed weights of all members, those of `members`
        packed anew.
        """
        if matmul_dtype not in self._packed:
            transformer = native(self.spec, self.shape, matmul_dtype)
            self._packed[matmul_dtype] = transformer, np.empty((self.members, transformer.packed_bytes), np.uint8)
        transformer, packed = self._packed[matmul_dtype]
        for member in set(members):
            transformer.pack(self.parameters[member], packed[member], self.threads)
        return transformer, packed

    def _cut(self, rows: Rows) -> tuple[np.ndarray, list[Piece]]:
        return cut(rows, self._tile, self._lanes)

    # ---- reading ----

    def outputs(self, rows: Rows, member: int, *, gain: Any = None) -> Tensor:
        out = np.empty((len(rows.scored), self.shape.outputs), dtype=np.float32)
        self._read(rows, member, gain, (), [], out)
        return torch.from_numpy(out)

    def states(self, rows: Rows, member: int, layers: Sequence[int], *, gain: Any = None) -> list[Tensor]:
        self._require_layers(layers)
        states = [np.empty((len(rows.scored), self.spec.hidden), dtype=np.float32) for _ in layers]
        self._read(rows, member, gain, layers, states, None)
        return [torch.from_numpy(state) for state in states]

    def _read(self, rows: Rows, member: int, gain: Any, layers: Sequence[int], states: list[np.ndarray], outputs):
        self._require_rows([rows], [member])
        _, pieces = self._cut(rows)
        transformer, packed = self._pack([member] if gain is None else [], "float32")
        parameters, of_member = self._gained(member, gain), packed[member]
        if gain is not None:
            of_member = np.empty_like(of_member)
            transformer.pack(parameters, of_member, self.threads)

        def read(piece, scratch):
            wanted = [*states] if outputs is None else [*states, outputs]
            found = [np.empty((len(piece.scored), array.shape[1]), dtype=np.float32) for array in wanted]
            transformer.read(
                parameters,
                of_member,
                piece.tile,
                layers,
                found[: len(states)],
                None if outputs is None else found[-1],
                scratch.arena,
                self._inside,
            )
            for array, part in zip(wanted, found):
                array[piece.scored] = part

        self._threads.run(read, pieces)

    def _answer(self, prompts, longest, members, matmul_dtype, end) -> list[list[np.ndarray]]:
        tiles = [share(*of_member, self._tile) for of_member in prompts]
        transformer, packed = self._pack(members, matmul_dtype)
        answers = [[None] * len(length) for _, length in prompts]

        def read(job, scratch):
            slot, tile = job
            model = self.parameters[members[slot]], packed[members[slot]]
            found = greedy(self.spec, transformer, model, tile, longest, end, scratch, self._inside)
            for row, i in zip(tile.rows, tile.answer):
                answers[slot][row] = found[i]

        self._threads.run(read, [(slot, tile) for slot, of_member in enumerate(tiles) for tile in of_member])
        return answers

    def _sample(self, prompts, rows, draws, longest, member, choice, end) -> np.ndarray:
        tiles = share(*prompts, max(1, self._tile // (draws * longest)))
        transformer, packed = self._pack([member], "float32")
        model, found = (self.parameters[member], packed[member]), np.empty((len(rows), draws, longest), np.int32)

        def read(tile, scratch):
            given = self.spec, transformer, model, tile, rows[tile.rows], draws, longest, choice, end
            found[tile.rows] = drawn(*given, self.shape.outputs, scratch, self._inside)

        self._threads.run(read, tiles)
        return found

    # ---- learning ----

    def learn(self, rows: Sequence[Rows], members: Sequence[int]) -> Tensor:
        self._require_targets(rows, members)
        gradients, lane_sums = self.gradients, self._lane_sums
        tokens, pieces = zip(*map(self._cut, rows)) if rows else ((), ())
        transformer, packed = self._pack(members, self.matmul_dtype)
        losses = np.zeros((len(members), self._lanes))
        # gradients at the tokens of each member
        arrived = [np.empty((len(of_member), self.spec.hidden), dtype=np.float32) for of_member in tokens]

        def lane(job, scratch):
            slot, k = job
            member = members[slot]
            sums = lane_sums[member][k]
            sums[self._inner :].fill(0)
            for piece in pieces[slot][k :: self._lanes]:
                losses[slot, k] += transformer.learn(
                    self.parameters[member],
                    packed[member],
                    piece.tile,
                    sums,
                    arrived[slot][piece.computed],
                    scratch.arena,
                    self._inside,
                )
                yield

        def gather(slot):
            lanes = lane_sums[members[slot]][: len(pieces[slot])]
            embedding = views(self._shapes, gradients[members[slot]]).embed
            core.gather_gradient(lanes, self._inner, tokens[slot], arrived[slot], embedding)

        slots = range(len(members))
        self._threads.run(lane, [(slot, k) for k in range(self._lanes) for slot in slots if pieces[slot][k:]])
        self.each(gather, slots)
        return torch.from_numpy(losses.sum(1))


def native(spec: TransformerSpec, shape: Shape, matmul_dtype: str) -> core.Transformer:
    """Build the native transformer of a spec, which computes with a model's parameters, float32 [P], and its packed
    matrices.

    Its methods; `arena` is reusable memory, one for each calling thread::

        packed_bytes                               size of the uint8 array for packed matrices
        pack(parameters, packed, threads)          to call after every change of the parameters
        learn(parameters, packed, tile, gradients, grad_embedded, arena, threads)
                                                   returns the summed loss; adds to gradients [P], except those of the
                                                   embedding, which are written to grad_embedded [U, D] for each token
        read(parameters, packed, tile, layers, states, logits, arena, threads)
                                                   writes states, [K, D] for each layer, and logits, [K, H] or None
        extend(parameters, packed, tokens, caches, turn, path, length, fresh, first, following, arena, threads)
                                                   a step of decoding: see worldfast.models.decoding
    """
    offsets = [0]
    for parameter in spec.shapes(shape).each():
        offsets.append(offsets[-1] + buffer_size([parameter]))
    return core.Transformer(
        hidden=spec.hidden,
        layers=spec.layers,
        heads=spec.heads,
        intermediate=spec.intermediate,
        vocabulary=shape.inputs,
        outputs=spec.of(shape).outputs,
        rope_base=spec.rope_base or 0.0,
        norm_eps=spec.norm_eps,
        offsets=offsets[:-1],
        bfloat16=matmul_dtype == "bfloat16",
    )

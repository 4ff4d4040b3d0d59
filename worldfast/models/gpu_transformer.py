"""All members of an ensemble at once on a GPU: one transformer's arithmetic with a member axis, [M, C, ...].

Each member has C places for tokens, as many as the longest member needs. Rows lie in them end to end; the remaining
places have no row, no target and a gradient of 0. A matrix product is batched over all members; the operations between
them are worldfast.kernels, which also state the memory traffic. Nothing here waits for the device or allocates on it
after the first call of a size, so that a CUDA graph can capture all of it.

M members, C places of each, D hidden, F intermediate, H tokens that the head can answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worldfast.kernels import embedding, loss, norm, rows, sums, swiglu
from worldfast.kernels.attention import attention_backward, attention_forward
from worldfast.models.footprint import GENERAL, ONLY_LEARNING, places, sizes
from worldfast.models.transformer import TransformerSpec, Weights
from worldfast.rows import Rows


class Batch(NamedTuple):
    """Rows of all members on the device.

    Attributes
    ----------
    tokens : Tensor
        int32 [M, C], contiguous.
    starts, ends : Tensor
        int32 [M, R], bounds of rows among all M C places; an absent row has no tokens.
    longest : int
        Upper bound on the tokens of a row; at most 128.
    targets : Tensor, optional
        int32 [M, C], -1 for none; None if nothing is learned.
    """

    tokens: Tensor
    starts: Tensor
    ends: Tensor
    longest: int
    targets: Tensor | None = None

    @staticmethod
    def of(rows: Sequence[Rows], device: torch.device, longest: int) -> Batch:
        """Copy the rows of each member to the device, with their targets if they have some."""
        M, C = len(rows), places(max((len(of_member.inputs) for of_member in rows), default=0))
        R = max((len(of_member.row_start) - 1 for of_member in rows), default=0)
        tokens = torch.zeros(M, C, dtype=torch.int32, device="cpu")
        starts, ends = torch.zeros(2, M, R, dtype=torch.int32, device="cpu")
        learned = any(of_member.targets is not None for of_member in rows)
        targets = torch.full((M, C), -1, dtype=torch.int32, device="cpu") if learned else None
        for m, of_member in enumerate(rows):
            bounds = of_member.row_start + m * C
            tokens[m, : len(of_member.inputs)] = of_member.inputs
            starts[m, : len(bounds) - 1], ends[m, : len(bounds) - 1] = bounds[:-1], bounds[1:]
            if of_member.targets is not None:
                targets[m, of_member.scored.cpu()] = of_member.targets.cpu().int()
        tokens, starts, ends = (x.to(device) for x in (tokens, starts, ends))
        return Batch(tokens, starts, ends, longest, targets.to(device) if learned else None)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        return self.starts.view(-1), self.ends.view(-1)


class Passes:
    """Forward and backward passes through M transformers, and the memory for them.

    Parameters
    ----------
    spec : TransformerSpec
    masters : Weights
        float32 [M, ...], source of embedding and norms.
    weights : Weights
        [M, ...] in the matmul dtype, source of matrices and biases.
    capacity : int
        Most places of a member.
    learns : bool
        Keep of each layer what a gradient needs; otherwise all layers share memory.
    caches : bool
        Keep queries, keys and values of every layer although nothing is learned; there are no logits.
    """

    TABLE = GENERAL  # the memory for tokens

    def __init__(
        self,
        spec: TransformerSpec,
        masters: Weights,
        weights: Weights,
        capacity: int,
        *,
        learns: bool,
        caches: bool = False,
    ):
        self.spec, self.masters, self.weights, self.capacity, self.learns = (spec, masters, weights, capacity, learns)
        self.members = len(masters.embed)
        self.dtype, self.device = weights.head.dtype, masters.embed.device
        self._room: dict[tuple[str, int], Tensor] = {}
        for name, width, size, copies in sizes(self.TABLE, spec, self.outputs, self.dtype.itemsize):
            if not learns and name.startswith(ONLY_LEARNING) or caches and name == "logits":
                continue
            kept = copies if learns or caches and name == "qkv" else 1
            for i in range(copies):
                dtype = torch.float32 if size == 4 else self.dtype
                new = i < kept
                self._room[name, i] = (
                    self._zeros(self.members * capacity * width, dtype=dtype) if new else self._room[name, 0]
                )
        if learns:
            V, D = masters.embed.shape[1:]
            norms = 2 * spec.layers + 1
            self._norm_parts = self._zeros(norms * self.members * -(-capacity // norm.tokens_of_program(D)) * D)
            self._embed_parts = self._zeros(self.members * embedding.stretches(capacity) * V * D)
            self._loss_parts = self._zeros(self.members * -(-capacity // loss.tokens_of_program(self.outputs)) * 2)
            self._known_places: dict[tuple, Tensor] = {}

    @property
    def outputs(self) -> int:
        """H."""
        return self.weights.head.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes on the device that belong to these passes."""
        own = {id(room): room.nbytes for room in self._room.values()}
        return sum(own.values()) + sum(x.nbytes for name, x in vars(self).items() if name.endswith("_parts"))

    def _zeros(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(count, dtype=dtype, device=self.device)

    def at(self, name: str, C: int, i: int = 0) -> Tensor:
        """Return memory [M, C, .] by its name in worldfast.models.footprint, of layer i or of the i-th norm."""
        room = self._room[name, i]
        width = room.numel() // (self.members * self.capacity)
        return room[: self.members * C * width].view(self.members, C, width)

    def _norm(self, C: int, i: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.at("x", C, i), self.at("normed", C, i), self.at("scale", C, i)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values as views [M C, heads, D / heads] of [M, C, 3 D]."""
        return qkv.view(-1, 3, self.spec.heads, self.spec.hidden // self.spec.heads).unbind(1)

    def _one_head(self, x: Tensor) -> Tensor:
        return x.view(-1, self.spec.heads, self.spec.hidden // self.spec.heads)

    # ---- forward ----

    def forward(
        self,
        batch: Batch,
        *,
        seen: Callable[[int, Tensor], None] | None = None,
        attend: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Compute the forward pass.

        Parameters
        ----------
        batch : Batch
        seen : callable, optional
            Called with the number of each layer, from 0, and the residual stream before it, float32 [M, C, D].
        attend : callable, optional
            attend(layer, qkv, mixed) sets mixed [M, C, D], instead of attention within the batch's rows.

        Returns
        -------
        Tensor
            The final norm [M, C, D], in the matmul dtype.
        """
        spec, C = self.spec, batch.tokens.shape[1]
        attend = attend or (lambda layer, qkv, mixed: self.attend(qkv, batch.rows, batch.longest, mixed))
        added, gated = self.at("added", C), self.at("gated", C)
        norms = [weight for block in self.masters.blocks for weight in (block.input_norm, block.mlp_norm)]
        norms.append(self.masters.norm)
        x, normed, scale = self._norm(C, 0)
        norm.embed_norm(batch.tokens, self.masters.embed, norms[0], spec.norm_eps, x, normed, scale)
        for i, block in enumerate(self.weights.blocks):
            if seen:
                seen(i, x)
            qkv, mixed, gate_up = (self.at(name, C, i) for name in ("qkv", "mixed", "gate_up"))
            torch.baddbmm(block.qkv_bias[:, None], normed, block.qkv.mT, out=qkv)
            attend(i, qkv, mixed)
            product(mixed, block.output.mT, added)
            x, normed = self._add_norm(x, added, norms, C, 2 * i + 1)
            product(normed, block.gate_up.mT, gate_up)
            swiglu.swiglu(gate_up, gated)
            product(gated, block.down.mT, added)
            x, normed = self._add_norm(x, added, norms, C, 2 * i + 2)
        return normed

    def _add_norm(self, x: Tensor, added: Tensor, norms: list[Tensor], C: int, i: int) -> tuple[Tensor, Tensor]:
        out, normed, scale = self._norm(C, i)
        norm.add_norm(x, added, norms[i], self.spec.norm_eps, out, normed, scale)
        return out, normed

    def attend(
        self, qkv: Tensor, rows: tuple[Tensor, Tensor], longest: int, mixed: Tensor, last_only: bool = False
    ) -> None:
        """Compute attention of [M, C, 3 D] within rows, given as starts and ends, into mixed [M, C, D]; with
        `last_only` only for the last token of each row.
        """
        heads = self._heads(qkv)
        attention_forward(*heads, rows, self.spec.rope_base or 0, longest, self._one_head(mixed), last_only)

    def logits(self, final: Tensor) -> Tensor:
        """Return the logits, float32 [M, C, H]; those of a token begin at a multiple of 8."""
        logits = self.at("logits", final.shape[1])[..., : self.outputs]
        product(final, self.weights.head.mT, logits)
        return logits

    # ---- backward ----

    def learn(self, batch: Batch, gradients: Weights, buffer: Tensor) -> Tensor:
        """Set the gradients to those of each member's summed loss.

        Parameters
        ----------
        batch : Batch
            With targets.
        gradients : Weights
            float32 [M, ...], views of `buffer`.
        buffer : Tensor
            [M, P].

        Returns
        -------
        Tensor
            float32 [M, B, 2]: partial sums of losses, and of their number, in B parts.
        """
        spec, C, g = self.spec, batch.tokens.shape[1], gradients
        final = self.forward(batch)
        losses, grad_logits = self._loss(final, batch.targets)
        wide = self.dtype == torch.float32
        grad_x = self.at("grad_x", C)
        rounded = grad_x if wide else self.at("rounded", C)
        grad, grad_qkv = self.at("added", C), self.at("grad_qkv", C)
        gated, grad_gated = self.at("gated", C), self.at("grad_gated", C)
        parts = self._parts(self._norm_parts, norm.tokens_of_program(spec.hidden), C, 2 * spec.layers + 1, spec.hidden)

        def through_norm(i: int, weight: Tensor, first: bool = False) -> None:
            x, _, scale = self._norm(C, i)
            norm.norm_backward(grad, x, scale, weight, grad_x, None if wide else rounded, parts[i], first)

        rows.clear_padding(grad_qkv, batch.ends)  # attention does not write the padding
        product(grad_logits.mT, final, g.head)
        product(grad_logits, self.weights.head, grad)
        through_norm(2 * spec.layers, self.masters.norm, first=True)
        for i in reversed(range(spec.layers)):
            master, block, of = self.masters.blocks[i], self.weights.blocks[i], g.blocks[i]
            qkv, mixed, gate_up = (self.at(name, C, i) for name in ("qkv", "mixed", "gate_up"))
            # x = middle + down(swiglu(gate_up(norm(middle))))
            product(rounded, block.down, grad_gated)
            swiglu.swiglu_backward(grad_gated, gate_up, gated)  # gate_up now holds its gradient
            product(rounded.mT, gated, of.down)
            product(gate_up.mT, self.at("normed", C, 2 * i + 1), of.gate_up)
            product(gate_up, block.gate_up, grad)
            through_norm(2 * i + 1, master.mlp_norm)
            # middle = input + output(attention(qkv(norm(input))))
            product(rounded.mT, mixed, of.output)
            product(rounded, block.output, grad)
            attention_backward(
                self._one_head(grad),
                *self._heads(qkv),
                batch.rows,
                spec.rope_base or 0,
                batch.longest,
                *self._heads(grad_qkv),
            )
            product(grad_qkv.mT, self.at("normed", C, 2 * i), of.qkv)
            torch.sum(grad_qkv, 1, dtype=torch.float32, out=of.qkv_bias)
            product(grad_qkv, block.qkv, grad)
            through_norm(2 * i, master.input_norm)
        self._gather_embedding(batch.tokens, rounded, gradients, buffer)
        weights = [weight for block in g.blocks for weight in (block.input_norm, block.mlp_norm)]
        sums.add_up(parts, self._places([*weights, g.norm], buffer), buffer)
        return losses

    def _loss(self, final: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums of losses [M, B, 2], and the gradient at the logits."""
        logits, C = self.logits(final), final.shape[1]
        grad = logits if self.dtype == torch.float32 else self.at("grad_logits", C)[..., : self.outputs]
        losses = self._parts(self._loss_parts, loss.tokens_of_program(self.outputs), C, 1, 2)[0]
        loss.cross_entropy(logits, targets, grad, losses)
        return losses, grad

    def _parts(self, room: Tensor, tokens: int, C: int, count: int, width: int) -> Tensor:
        """Return memory [count, M, B, width] for partial sums of programs that take `tokens` tokens each."""
        B = -(-C // tokens)
        return room[: count * self.members * B * width].view(count, self.members, B, width)

    def _gather_embedding(self, tokens: Tensor, grad: Tensor, gradients: Weights, buffer: Tensor) -> None:
        V, D = gradients.embed.shape[1:]
        parts = self._parts(self._embed_parts, embedding.STRETCH, tokens.shape[1], 1, V * D)
        embedding.embedding_backward(tokens, grad, parts[0].unflatten(-1, (V, D)))
        sums.add_up(parts, self._places([gradients.embed], buffer), buffer)

    def _places(self, views: list[Tensor], buffer: Tensor) -> Tensor:
        """Return where in a member's buffer each view begins, int32 [N]."""
        offsets = tuple(view.storage_offset() - buffer.storage_offset() for view in views)
        if offsets not in self._known_places:
            self._known_places[offsets] = torch.tensor(offsets, dtype=torch.int32, device=self.device)
        return self._known_places[offsets]


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Compute the matrix product of each member's a and b, accumulated in float32, in the dtype of `out`."""
    if out.dtype == a.dtype:
        return torch.bmm(a, b, out=out)
    if a.is_cuda:
        return torch.ops.aten.bmm.dtype_out(a, b, out.dtype, out=out)
    return torch.bmm(a.to(out.dtype), b.to(out.dtype), out=out)

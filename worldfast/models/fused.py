"""Training with fused kernels, for models whose token fits in one tile of a program, with matrix products in 16 bits:
worldfast.kernels.fused.

The models are those of worldfast.models.gpu_transformer. Everything in a block between one attention and the next is
two kernels, and the forward pass keeps only the residual stream and attention's operands. Weight gradients are off the
critical path, so they run on a side stream beside the backward pass through the layers, which does not fill a GPU for a
single model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from worldfast.kernels import fused, norm, rows, sums
from worldfast.kernels.attention import attention_backward
from worldfast.models.footprint import FUSED
from worldfast.models.gpu import own_stream
from worldfast.models.gpu_transformer import Batch, Passes, product
from worldfast.models.transformer import Weights


class FusedPasses(Passes):
    """Passes that learn, for models that `footprint.is_fused` accepts."""

    TABLE = FUSED

    def __init__(self, spec, masters: Weights, weights: Weights, capacity: int):
        super().__init__(spec, masters, weights, capacity, learns=True)
        D = spec.hidden
        self._bias_parts = self._zeros(spec.layers * self.members * -(-capacity // 32) * 3 * D)
        self._last_parts = self._zeros(self.members * -(-capacity // norm.tokens_of_program(D)) * D)
        self._side = own_stream(self.device, self) if self.device.type == "cuda" else None

    def forward(self, batch: Batch) -> Tensor:
        """Return the final norm [M, C, D], in the matmul dtype."""
        spec, C, eps = self.spec, batch.tokens.shape[1], self.spec.norm_eps
        norm.embed_norm(batch.tokens, self.masters.embed, self.masters.norm, eps, self.at("x", C), None, None)
        for i, (block, master) in enumerate(zip(self.weights.blocks, self.masters.blocks)):
            x, middle, out = (self.at("x", C, 2 * i + k) for k in range(3))
            qkv, mixed = self.at("qkv", C, i), self.at("mixed", C, i)
            fused.project(x, master.input_norm, block.qkv, block.qkv_bias, eps, qkv)
            self.attend(qkv, batch.rows, batch.longest, mixed)
            fused.block(x, mixed, block.output, master.mlp_norm, block.gate_up, block.down, eps, middle, out)
        final = self.at("final", C)
        norm.norm(self.at("x", C, 2 * spec.layers), self.masters.norm, eps, final, self.at("scale", C))
        return final

    def learn(self, batch: Batch, gradients: Weights, buffer: Tensor) -> Tensor:
        spec, C, g, eps = self.spec, batch.tokens.shape[1], gradients, self.spec.norm_eps
        final = self.forward(batch)
        losses, grad_logits = self._loss(final, batch.targets)
        grad_x, grad = self.at("grad_x", C), self.at("grad", C)
        D, T = spec.hidden, fused.tokens_of_program(self.members, C, final.device)
        parts = self._parts(self._norm_parts, T, C, 2 * spec.layers, D)
        biases = self._parts(self._bias_parts, T, C, spec.layers, 3 * D)
        last = self._parts(self._last_parts, norm.tokens_of_program(D), C, 1, D)
        for i in range(min(2, spec.layers)):
            rows.clear_padding(self.at("grad_qkv", C, i), batch.ends)  # attention does not write the padding
        with self._aside():
            product(grad_logits.mT, final, g.head)
        product(grad_logits, self.weights.head, grad)
        x, scale = self.at("x", C, 2 * spec.layers), self.at("scale", C)
        rounded = self.at("rounded", C, spec.layers % 2)
        norm.norm_backward(grad, x, scale, self.masters.norm, grad_x, rounded, last[0], first=True)
        done: list[tuple] = []  # events of each layer so far, after the products of its two halves
        for i in reversed(range(spec.layers)):
            master, block, of = self.masters.blocks[i], self.weights.blocks[i], g.blocks[i]
            qkv, mixed = self.at("qkv", C, i), self.at("mixed", C, i)
            names = ("normed", "normed_middle", "rounded_middle", "gated", "grad_gate_up", "grad_qkv")
            normed, normed_middle, rounded_middle, gated, grad_gate_up, grad_qkv = (self.at(n, C, i % 2) for n in names)
            above, rounded = rounded, self.at("rounded", C, i % 2)
            self._wait(done[-2][1] if len(done) > 1 else None)  # its buffers are free again
            fused.block_backward(
                grad_x,
                self.at("x", C, 2 * i + 1),
                block.output,
                master.mlp_norm,
                block.gate_up,
                block.down,
                eps,
                rounded_middle,
                grad,
                normed_middle,
                gated,
                grad_gate_up,
                parts[2 * i + 1],
            )
            with self._aside():
                product(above.mT, gated, of.down)
                product(grad_gate_up.mT, normed_middle, of.gate_up)
                product(rounded_middle.mT, mixed, of.output)
                first_half = self._event()
            attention_backward(
                self._one_head(grad),
                *self._heads(qkv),
                batch.rows,
                spec.rope_base or 0,
                batch.longest,
                *self._heads(grad_qkv),
            )
            self._wait(done[-1][0] if done else None)  # `rounded` is free again
            fused.project_backward(
                grad_qkv,
                self.at("x", C, 2 * i),
                master.input_norm,
                block.qkv,
                eps,
                grad_x,
                rounded,
                normed,
                parts[2 * i],
                biases[i],
            )
            with self._aside():
                product(grad_qkv.mT, normed, of.qkv)
                done.append((first_half, self._event()))
        self._gather_embedding(batch.tokens, rounded, gradients, buffer)
        norms = [weight for block in g.blocks for weight in (block.input_norm, block.mlp_norm)]
        sums.add_up(parts, self._places(norms, buffer), buffer)
        sums.add_up(biases, self._places([block.qkv_bias for block in g.blocks], buffer), buffer)
        sums.add_up(last, self._places([g.norm], buffer), buffer)
        if self._side:
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        return losses

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Run on the side stream, after everything queued so far."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._side):
            yield

    def _event(self) -> torch.cuda.Event | None:
        return self._side.record_event() if self._side else None

    def _wait(self, event: torch.cuda.Event | None) -> None:
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)

"""One Qwen2 transformer on one tile of packed rows: its shape, its forward pass, its gradient.

The gradient is written out by hand beside the forward pass it belongs to: activations stand in memory that is
used again for the next tile, and weight gradients are added straight to where the optimizer reads them.

L tokens, U of them computed, K scored positions, D hidden, F intermediate, V vocabulary, H tokens the head
can answer, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from worldfast import layers, ops

__all__ = ["ModelSpec", "Scratch", "Tile", "Weights", "backward", "buffer_size", "forward", "normed", "views"]

ALIGN = 16  # numbers: every parameter begins at a multiple of 64 bytes, in every member of an ensemble


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a Qwen2 transformer (as many key-value heads as heads, untied head) and its initial scale.

    hidden, layers, heads, intermediate   widths and depth; hidden / heads is a multiple of 8
    rope_base, norm_eps                   as in Qwen2
    init_std                              standard deviation of initial embedding and linear weights
    head_size                             tokens the head can answer, the first of the vocabulary; None: all

    Raises TypeError or ValueError for a field that does not fit.
    """

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    intermediate: int = 512
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.1
    head_size: int | None = None

    def __post_init__(self):
        for name in ("hidden", "layers", "heads", "intermediate", "head_size"):
            value = getattr(self, name)
            if name == "head_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"model.{name}: expected an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"model.{name}: expected at least 1, got {value}")
        for name in ("rope_base", "norm_eps", "init_std"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"model.{name}: expected a number, got {value!r}")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"model.{name}: expected a positive number, got {value}")
        if self.hidden % self.heads or self.hidden // self.heads % 8:
            raise ValueError(
                "model.heads: hidden / heads must be a multiple of 8, "
                f"got {self.hidden} / {self.heads} = {self.hidden / self.heads:g}"
            )

    def shapes(self, vocabulary: int) -> Weights:
        """The shape of each parameter."""
        D, F = self.hidden, self.intermediate
        if self.head_size is not None and self.head_size > vocabulary:
            raise ValueError(
                f"model.head_size: expected at most the vocabulary's {vocabulary}, got {self.head_size}"
            )
        block = Block((D,), (3 * D, D), (3 * D,), (D, D), (D,), (2 * F, D), (D, F))
        return Weights((vocabulary, D), (block,) * self.layers, (D,), (self.head_size or vocabulary, D))

    def parameters(self, vocabulary: int) -> int:
        """The number of parameters."""
        return sum(map(math.prod, self.shapes(vocabulary).each()))


class Block(NamedTuple):
    """One block's parameters. A matrix is [out, in]."""

    input_norm: Tensor  # [D]
    qkv: Tensor  # [3 D, D]: queries, keys, values, one below the other
    qkv_bias: Tensor  # [3 D]
    output: Tensor  # [D, D]
    mlp_norm: Tensor  # [D]
    gate_up: Tensor  # [2 F, D]: gate above up
    down: Tensor  # [D, F]


class Weights(NamedTuple):
    """All parameters, in the order in which they are stored and first drawn."""

    embed: Tensor  # [V, D]
    blocks: tuple[Block, ...]
    norm: Tensor  # [D]
    head: Tensor  # [H, D]

    def each(self) -> Iterator:
        return chain([self.embed], *self.blocks, [self.norm, self.head])


def buffer_size(shapes: Iterable[tuple[int, ...]]) -> int:
    """P, with the gaps of alignment."""
    return sum(-(-math.prod(shape) // ALIGN) * ALIGN for shape in shapes)


def views(shapes: Weights, buffer: Tensor) -> Weights:
    """The parameters as views of a buffer [..., P]."""
    found, offset = [], 0
    for shape in shapes.each():
        found.append(buffer[..., offset : offset + math.prod(shape)].unflatten(-1, shape))
        offset += buffer_size([shape])
    each = iter(found)
    embed = next(each)
    blocks = tuple(Block(*islice(each, len(Block._fields))) for _ in shapes.blocks)
    return Weights(embed, blocks, *each)


class Scratch:
    """Memory for a tile's activations, used again for the next: fresh memory costs more than the arithmetic
    done in it.

    s(n, D) is the next uninitialised float32 [n, D]; `release(mark)` frees all that was taken since that
    `mark()`. threads: how many an operation may use.
    """

    def __init__(self, device: torch.device, threads: int):
        self.threads, self._used, self._memory = threads, 0, torch.empty(1 << 20, device=device)

    def __call__(self, n: int, width: int) -> Tensor:
        begin, self._used = self._used, self._used + n * width + -n * width % ALIGN
        if self._used > self._memory.shape[0]:  # what stands in the old memory keeps it alive
            self._memory = torch.empty(2 * self._used, device=self._memory.device)
        return self._memory.as_strided((n, width), (width, 1), begin)

    def mark(self) -> int:
        return self._used

    def release(self, mark: int = 0) -> None:
        self._used = mark


class Tile(NamedTuple):
    """Packed rows of one model. Where rows begin alike, what is alike is computed once: attention sees the L
    tokens of whole rows, all else the U among them that differ. Where none are alike, U = L.

    tokens       int32 [U]
    cu_seqlens   int32 [R + 1], where rows begin among the L
    scored       int64 [K], positions among the L to read out, ascending
    sources      int64 [K], the places of these among the U
    source       int64 [L], each token's place among the U; None where U = L
    first        int64 [U], where each of the U first stands among the L; None where U = L
    targets      int64 [K], what to answer at the scored positions; None where nothing is learned
    """

    tokens: Tensor
    cu_seqlens: Tensor
    scored: Tensor
    sources: Tensor
    source: Tensor | None = None
    first: Tensor | None = None
    targets: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """L, U, K."""
        U = self.tokens.shape[0]
        return U if self.source is None else self.source.shape[0], U, self.scored.shape[0]

    def seen(self, last: bool) -> Tensor | None:
        """Positions among the L whose attention is used: past the last, only scored ones matter. None:
        all."""
        return self.scored if last else self.first


class Norm(NamedTuple):
    """x / rms(x) * weight, and what its gradient needs."""

    x: Tensor  # [n, D]
    scale: Tensor  # [n], 1 / rms(x)
    out: Tensor  # [n, D]


class Kept(NamedTuple):
    """What a block's gradient needs of its forward pass; n is K in the last block, else U."""

    input: Norm  # of [U, D]
    qkv: Tensor  # [L, 3 D]
    mixed: Tensor  # [n, D], what attention gave
    middle: Norm  # of [n, D]
    gate_up: Tensor  # [n, 2 F]


def forward(spec: ModelSpec, w: Weights, tile: Tile, s: Scratch) -> tuple[list[Kept], Norm]:
    """Each block's activations, and the final norm [K, D] from which the head answers."""
    (L, U, K), D, F = tile.sizes, spec.hidden, spec.intermediate
    x = torch.index_select(w.embed, 0, tile.tokens, out=s(U, D))
    kept = []
    for i, block in enumerate(w.blocks):
        last = i == spec.layers - 1
        n, seen = K if last else U, tile.seen(last)
        input = normed(spec, x, block.input_norm, s)
        qkv = torch.addmm(block.qkv_bias, input.out, block.qkv.t(), out=s(U, 3 * D))
        if L > U:
            qkv = torch.index_select(qkv, 0, tile.source, out=s(L, 3 * D))
        mixed = s(L, D)
        heads = mixed.view(L, spec.heads, -1)
        ops.attention_forward(
            *_heads(spec, qkv), tile.cu_seqlens, spec.rope_base, out=heads, threads=s.threads
        )
        if seen is not None:
            mixed = torch.index_select(mixed, 0, seen, out=s(n, D))
        if last:
            x = torch.index_select(x, 0, tile.sources, out=s(n, D))
        middle = normed(spec, torch.addmm(x, mixed, block.output.t(), out=s(n, D)), block.mlp_norm, s)
        gate_up = torch.mm(middle.out, block.gate_up.t(), out=s(n, 2 * F))
        kept.append(Kept(input, qkv, mixed, middle, gate_up))
        x, mark = s(n, D), s.mark()
        gated = layers.swiglu_forward(gate_up, out=s(n, F), threads=s.threads)
        torch.addmm(middle.x, gated, block.down.t(), out=x)
        s.release(mark)
    return kept, normed(spec, x, w.norm, s)


def backward(
    spec: ModelSpec, w: Weights, tile: Tile, kept: list[Kept], final: Norm, dlogits: Tensor, g: Weights,
    dembed: Tensor, s: Scratch,
) -> None:  # fmt: skip
    """Adds the gradient at the weights to `g`, but for that at the embedded tokens, which is written to
    dembed [U, D].

    kept, final   what `forward` returned
    dlogits       [K, H], the loss's gradient at the logits
    """
    (L, U, K), D, F = tile.sizes, spec.hidden, spec.intermediate
    g.head.addmm_(dlogits.t(), final.out)
    dx = s(K, D).zero_()
    _norm_backward(torch.mm(dlogits, w.head, out=s(K, D)), final, w.norm, dx, g.norm, s)
    for i in reversed(range(spec.layers)):
        block, gb, of, last, mark = w.blocks[i], g.blocks[i], kept[i], i == spec.layers - 1, s.mark()
        n, seen = K if last else U, tile.seen(last)
        # x = middle + down(swiglu(gate_up(norm(middle))))
        dgated, dgate_up, gated = torch.mm(dx, block.down, out=s(n, F)), s(n, 2 * F), s(n, F)
        layers.swiglu_backward(dgated, of.gate_up, grad_gate_up=dgate_up, out=gated, threads=s.threads)
        gb.down.addmm_(dx.t(), gated)
        gb.gate_up.addmm_(dgate_up.t(), of.middle.out)
        dnorm = torch.mm(dgate_up, block.gate_up, out=s(n, D))
        _norm_backward(dnorm, of.middle, block.mlp_norm, dx, gb.mlp_norm, s)
        # middle = input + output(attention(qkv(norm(input))))
        gb.output.addmm_(dx.t(), of.mixed)
        dmixed = torch.mm(dx, block.output, out=dnorm)
        if seen is not None:
            dmixed = s(L, D).zero_().index_copy_(0, seen, dmixed)
        if last:
            dx = dembed.zero_().index_add_(0, tile.sources, dx)
        dqkv = s(L, 3 * D)
        dq, dk, dv = _heads(spec, dqkv)
        ops.attention_backward(
            dmixed.view(L, spec.heads, -1), *_heads(spec, of.qkv), tile.cu_seqlens, spec.rope_base,
            grad_q=dq, grad_k=dk, grad_v=dv, threads=s.threads,
        )  # fmt: skip
        if L > U:
            dqkv = s(U, 3 * D).zero_().index_add_(0, tile.source, dqkv)
        gb.qkv.addmm_(dqkv.t(), of.input.out)
        gb.qkv_bias.add_(dqkv.sum(0))
        dnorm = torch.mm(dqkv, block.qkv, out=s(U, D))
        _norm_backward(dnorm, of.input, block.input_norm, dx, gb.input_norm, s)
        s.release(mark)


def _heads(spec: ModelSpec, qkv: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys, values as views [L, heads, D / heads] of qkv [L, 3 D]."""
    return qkv.view(qkv.shape[0], 3, spec.heads, -1).unbind(1)


def normed(spec: ModelSpec, x: Tensor, weight: Tensor, s: Scratch) -> Norm:
    """RMSNorm of x [n, D] in scratch memory."""
    out, scale = s(*x.shape), s(1, x.shape[0])[0]
    layers.rms_norm_forward(
        x, weight[None], [0, x.shape[0]], spec.norm_eps, out=out, scale=scale, threads=s.threads
    )
    return Norm(x, scale, out)


def _norm_backward(dout: Tensor, norm: Norm, weight: Tensor, dx: Tensor, dweight: Tensor, s: Scratch) -> None:
    """Adds the gradients of the norm at its input to dx [n, D] and at its weight to dweight [D]."""
    layers.rms_norm_backward(
        dout, norm.x, weight[None], norm.scale, [0, dx.shape[0]], grad_x=dx, grad_weight=dweight[None],
        threads=s.threads,
    )  # fmt: skip

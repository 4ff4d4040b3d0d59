"""One Qwen2 transformer on one tile of packed rows: its shape, its forward pass, its gradient.

The gradient is written out by hand beside the forward pass it belongs to: activations stand in scratch arrays that are
used again for the next tile, and weight gradients are added straight to where the optimizer reads them.

L tokens, U of them computed, K scored positions, D hidden, F intermediate, V vocabulary, H tokens the head can answer, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor

from worldfast import ops

__all__ = ["Block", "ModelSpec", "Scratch", "Tile", "Weights", "backward", "buffer_size", "forward", "views"]

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
    """Arrays by name, kept from tile to tile: fresh memory costs more than the arithmetic done in it.

    threads: how many an operation may use.
    """

    def __init__(self, device: torch.device, threads: int):
        self.device, self.threads, self._arrays = device, threads, {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or len(array) < size:
            array = self._arrays[name] = torch.empty(size + size // 8, device=self.device)
        return array[:size].view(shape)


class Tile(NamedTuple):
    """Packed rows of one model. Where rows begin alike, what is alike is computed once: attention sees the L tokens of
    whole rows, all else the U among them that differ. Where none are alike, U = L.

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
    def length(self) -> int:
        """L."""
        return len(self.tokens if self.source is None else self.source)

    def seen(self, last: bool) -> Tensor | None:
        """Positions among the L whose attention is used: past the last one, only scored positions matter. None: all."""
        return self.scored if last else self.first


def forward(spec: ModelSpec, w: Weights, tile: Tile, s: Scratch) -> list[Tensor]:
    """The residual stream before each block [U, D] and behind the final norm [K, D]; all else stays in the scratch."""
    L, U, K, D, F = tile.length, len(tile.tokens), len(tile.scored), spec.hidden, spec.intermediate
    x = torch.index_select(w.embed, 0, tile.tokens, out=s("x0", U, D))
    states = [x]
    for i, block in enumerate(w.blocks):
        last = i == spec.layers - 1
        n, seen = K if last else U, tile.seen(last)
        h = _norm(spec, x, block.input_norm, f"input{i}", s)
        qkv = torch.addmm(block.qkv_bias, h, block.qkv.t(), out=s(f"qkv{i}" if L == U else "qkv", U, 3 * D))
        if L > U:
            qkv = torch.index_select(qkv, 0, tile.source, out=s(f"qkv{i}", L, 3 * D))
        mixed = s(f"mixed{i}" if seen is None else "mixed", L, D)
        heads_out = mixed.view(L, spec.heads, -1)
        ops.attention_forward(
            *_heads(spec, qkv), tile.cu_seqlens, spec.rope_base, out=heads_out, threads=s.threads
        )
        if seen is not None:
            mixed = torch.index_select(mixed, 0, seen, out=s(f"mixed{i}", n, D))
        if last:
            x = torch.index_select(x, 0, tile.sources, out=s("x", K, D))
        x = torch.addmm(x, mixed, block.output.t(), out=s(f"middle{i}", n, D))
        h = _norm(spec, x, block.mlp_norm, f"mlp{i}", s)
        gate_up = torch.mm(h, block.gate_up.t(), out=s(f"gate_up{i}", n, 2 * F))
        gated = ops.swiglu_forward(gate_up, out=s("gated", n, F), threads=s.threads)
        x = torch.addmm(x, gated, block.down.t(), out=s(f"x{i + 1}", n, D))
        states.append(x)
    states[-1] = _norm(spec, x, w.norm, "final", s)
    return states


def backward(
    spec: ModelSpec, w: Weights, tile: Tile, dlogits: Tensor, g: Weights, dembed: Tensor, s: Scratch
) -> None:
    """Adds the gradient at the weights to `g`, for the tile that `forward` last saw with this scratch.

    dlogits [K, H]: the loss's gradient at the logits. That at the embedded tokens is written to dembed [U, D], and
    `g.embed` is left alone.
    """
    L, U, K, D, F = tile.length, len(tile.tokens), len(tile.scored), spec.hidden, spec.intermediate
    g.head.addmm_(dlogits.t(), s("final", K, D))
    dh = torch.mm(dlogits, w.head, out=s("dh", K, D))
    dx = s("dx", K, D).zero_()
    _norm_backward(dh, s(f"x{spec.layers}", K, D), w.norm, "final", dx, g.norm, s)
    for i in reversed(range(spec.layers)):
        block, gb, last = w.blocks[i], g.blocks[i], i == spec.layers - 1
        n, seen = K if last else U, tile.seen(last)
        # x[i + 1] = middle + down(swiglu(gate_up(norm(middle))))
        dgated = torch.mm(dx, block.down, out=s("dgated", n, F))
        gate_up, dgate_up, gated = s(f"gate_up{i}", n, 2 * F), s("dgate_up", n, 2 * F), s("gated", n, F)
        ops.swiglu_backward(dgated, gate_up, grad_gate_up=dgate_up, out=gated, threads=s.threads)
        gb.down.addmm_(dx.t(), gated)
        gb.gate_up.addmm_(dgate_up.t(), s(f"mlp{i}", n, D))
        dh = torch.mm(dgate_up, block.gate_up, out=s("dh", n, D))
        _norm_backward(dh, s(f"middle{i}", n, D), block.mlp_norm, f"mlp{i}", dx, gb.mlp_norm, s)
        # middle = x[i] + output(attention(qkv(norm(x[i]))))
        gb.output.addmm_(dx.t(), s(f"mixed{i}", n, D))
        dmixed = torch.mm(dx, block.output, out=s("dmixed", n, D))
        if seen is not None:
            dmixed = s("dmixed_all", L, D).zero_().index_copy_(0, seen, dmixed)
        if last:
            dx = dembed.zero_().index_add_(0, tile.sources, dx)
        dqkv = s("dqkv", L, 3 * D)
        dq, dk, dv = _heads(spec, dqkv)
        ops.attention_backward(
            dmixed.view(L, spec.heads, -1), *_heads(spec, s(f"qkv{i}", L, 3 * D)), tile.cu_seqlens, spec.rope_base,
            grad_q=dq, grad_k=dk, grad_v=dv, threads=s.threads,
        )  # fmt: skip
        if L > U:
            dqkv = s("dqkv_differing", U, 3 * D).zero_().index_add_(0, tile.source, dqkv)
        gb.qkv.addmm_(dqkv.t(), s(f"input{i}", U, D))
        gb.qkv_bias.add_(dqkv.sum(0))
        dh = torch.mm(dqkv, block.qkv, out=s("dh", U, D))
        _norm_backward(dh, s(f"x{i}", U, D), block.input_norm, f"input{i}", dx, gb.input_norm, s)


def _heads(spec: ModelSpec, qkv: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys, values as views [L, heads, D / heads] of qkv [L, 3 D]."""
    return qkv.view(len(qkv), 3, spec.heads, -1).unbind(1)


def _norm(spec: ModelSpec, x: Tensor, weight: Tensor, name: str, s: Scratch) -> Tensor:
    """x / rms(x) * weight as scratch `name`; 1 / rms(x) stays beside it for the gradient."""
    out, scale = s(name, *x.shape), s(name + "_scale", len(x))
    ops.rms_norm_forward(x, weight[None], [0, len(x)], spec.norm_eps, out=out, scale=scale, threads=s.threads)
    return out


def _norm_backward(
    dout: Tensor, x: Tensor, weight: Tensor, name: str, dx: Tensor, dweight: Tensor, s: Scratch
) -> None:
    """Adds the gradients of `_norm(x)` at x to dx and at the weight to dweight."""
    scale, offsets = s(name + "_scale", len(x)), [0, len(x)]
    ops.rms_norm_backward(
        dout, x, weight[None], scale, offsets, grad_x=dx, grad_weight=dweight[None], threads=s.threads
    )

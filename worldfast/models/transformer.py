"""One Qwen2 transformer: its shape, its parameters in a buffer, and what computes on them on a CPU.

L tokens, U of them computed, K scored positions, D hidden, F intermediate, V vocabulary, H tokens the head
can answer, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast._native import core
from worldfast.models.buffer import buffer_size, tensors_in

__all__ = [
    "MATMUL_DTYPES",
    "TransformerSpec",
    "Tile",
    "Weights",
    "buffer_size",
    "draw",
    "named_as_huggingface",
    "native",
    "views",
]

MATMUL_DTYPES = ("float32", "bfloat16")  # the numbers that matrix products multiply


@dataclass(frozen=True)
class TransformerSpec:
    """The shape of a Qwen2 transformer (as many key-value heads as heads, untied head) and its initial scale.

    hidden, layers, heads, intermediate   widths and depth; hidden / heads is a multiple of 8
    rope_base, norm_eps                   as in Qwen2; rope_base None: no positions
    init_std                              standard deviation of initial embedding and linear weights
    outputs                               tokens the head can answer, the first of the vocabulary; None: all

    Raises TypeError or ValueError for a field that does not fit.
    """

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    intermediate: int = 512
    rope_base: float | None = 10_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.1
    outputs: int | None = None

    def __post_init__(self):
        for name in ("hidden", "layers", "heads", "intermediate", "outputs"):
            value = getattr(self, name)
            if name == "outputs" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"model.{name}: expected an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"model.{name}: expected at least 1, got {value}")
        for name in ("rope_base", "norm_eps", "init_std"):
            value = getattr(self, name)
            if name == "rope_base" and value is None:
                continue
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
        if self.outputs is not None and self.outputs > vocabulary:
            raise ValueError(f"model.outputs: expected at most the vocabulary's {vocabulary}, got {self.outputs}")
        block = Block((D,), (3 * D, D), (3 * D,), (D, D), (D,), (2 * F, D), (D, F))
        return Weights((vocabulary, D), (block,) * self.layers, (D,), (self.outputs or vocabulary, D))

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


def views(shapes: Weights, buffer: Tensor) -> Weights:
    """The parameters as views of a buffer [..., P]."""
    each = iter(tensors_in(buffer, list(shapes.each())))
    embed = next(each)
    blocks = tuple(Block(*islice(each, len(Block._fields))) for _ in shapes.blocks)
    return Weights(embed, blocks, *each)


def named_as_huggingface(weights: Weights) -> dict[str, Tensor]:
    """The parameters by the tensor names of transformers.Qwen2ForCausalLM, in the order in which they are drawn."""
    named = {"model.embed_tokens.weight": weights.embed}
    for layer, block in enumerate(weights.blocks):
        at = f"model.layers.{layer}."
        named[at + "input_layernorm.weight"] = block.input_norm
        for part, weight, bias in zip("qkv", block.qkv.chunk(3), block.qkv_bias.chunk(3)):
            named[at + f"self_attn.{part}_proj.weight"] = weight
            named[at + f"self_attn.{part}_proj.bias"] = bias
        named[at + "self_attn.o_proj.weight"] = block.output
        named[at + "post_attention_layernorm.weight"] = block.mlp_norm
        named[at + "mlp.gate_proj.weight"], named[at + "mlp.up_proj.weight"] = block.gate_up.chunk(2)
        named[at + "mlp.down_proj.weight"] = block.down
    return named | {"model.norm.weight": weights.norm, "lm_head.weight": weights.head}


def draw(weights: Weights, seed: int, init_std: float) -> None:
    """Draw initial weights in place: matrices normal(0, init_std), biases 0, norms 1."""
    random = np.random.Generator(np.random.Philox(seed))
    for name, view in named_as_huggingface(weights).items():
        if view.ndim == 2:
            drawn = random.standard_normal(view.shape, dtype=np.float32) * np.float32(init_std)
            view.copy_(torch.from_numpy(drawn))
        else:
            view.fill_(name.endswith("norm.weight"))


class Tile(NamedTuple):
    """Packed rows of one model. Where rows begin alike, what is alike is computed once: attention sees the L
    tokens of whole rows, all else the U among them that differ. All are numpy arrays.

    tokens       int32 [U]
    cu_seqlens   int32 [R + 1], where rows begin among the L
    place        int32 [L], each token's place among the U
    shared       int32 [R], a row's first tokens that stand where an earlier row has them
    sources      int64 [K], the places to read out
    targets      int64 [K], what to answer there; None where nothing is learned
    """

    tokens: np.ndarray
    cu_seqlens: np.ndarray
    place: np.ndarray
    shared: np.ndarray
    sources: np.ndarray
    targets: np.ndarray | None = None


def native(spec: TransformerSpec, vocabulary: int, matmul_dtype: str) -> core.Transformer:
    """What computes with a model's parameters, float32 [P], on a CPU. Its matrices are packed for products first:

    packed_bytes                               uint8 [packed_bytes] takes them
    pack(parameters, packed, threads)          after every change of the parameters
    learn(parameters, packed, tile, gradients, grad_embedded, arena, threads)
                                               returns the summed loss; adds to gradients [P], but for those of the
                                               embedding, which are written for each token to grad_embedded [U, D]
    read(parameters, packed, tile, layers, states, logits, arena, threads)
                                               writes states, [K, D] for each of the layers, and logits [K, H] or None
    extend(parameters, packed, tokens, caches, turn, path, length, fresh, first, following, arena, threads)
                                               a step of decoding: see worldfast.models.decoding

    arena is memory that is used again: one for each thread that calls.
    """
    shapes = spec.shapes(vocabulary)
    offsets = [0]
    for shape in shapes.each():
        offsets.append(offsets[-1] + buffer_size([shape]))
    return core.Transformer(
        hidden=spec.hidden,
        layers=spec.layers,
        heads=spec.heads,
        intermediate=spec.intermediate,
        vocabulary=vocabulary,
        outputs=shapes.head[0],
        rope_base=spec.rope_base or 0.0,
        norm_eps=spec.norm_eps,
        offsets=offsets[:-1],
        bfloat16=matmul_dtype == "bfloat16",
    )

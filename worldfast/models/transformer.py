"""Qwen2 transformers: their spec, where parameters stand in a buffer, and what ensembles of them have in common.

M members, L tokens, K scored positions, D hidden, F intermediate, V vocabulary, H tokens that the head can answer,
P parameters with gaps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast.errors import unknown_name
from worldfast.models.ensemble import Ensemble
from worldfast.rows import Rows, Shape

__all__ = ["MATMUL_DTYPES", "Block", "Transformer", "TransformerSpec", "Weights", "buffer_size", "views"]

ALIGN = 16  # numbers: every parameter begins at a multiple of 64 bytes, in every member of an ensemble
MATMUL_DTYPES = ("float32", "bfloat16")  # the numbers that matrix products multiply


@dataclass(frozen=True)
class TransformerSpec:
    """Shape of a Qwen2 transformer (as many key-value heads as heads, untied head) and its initial scale.

    Attributes
    ----------
    hidden, layers, heads, intermediate : int
        Widths and depth; hidden / heads is a multiple of 8.
    rope_base : float, optional
        Base of the rotary position embedding, as in Qwen2; None means that the model is told no positions.
    norm_eps : float
        Epsilon of RMSNorm, as in Qwen2.
    init_std : float
        Standard deviation of initial embedding and linear weights.
    outputs : int, optional
        Number of tokens that the head can answer, the first of the vocabulary; None means all.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.
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

    def build(
        self,
        shape: Shape,
        members: int = 1,
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
        matmul_dtype: str = "float32",
    ) -> Transformer:
        """Build an ensemble of such transformers, with parameters of 0.

        Parameters
        ----------
        shape : Shape
            Shape of the data: tokens in, classes out.
        members : int
            Number of models.
        device : str or torch.device
            "cpu" builds a CpuTransformer, a CUDA device a GpuTransformer.
        threads : int, optional
            CPU threads; None means torch's number. Results do not depend on it.
        matmul_dtype : {"float32", "bfloat16"}
            Type that matrix products multiply while learning; sums, parameters, norms and residual stream are float32.

        Raises
        ------
        ValueError
            The data's shape is not that of tokens and classes, or an argument does not fit.
        """
        from worldfast.models import CpuTransformer, GpuTransformer

        if torch.device(device).type == "cpu":
            return CpuTransformer(self, shape, members, threads=threads, matmul_dtype=matmul_dtype)
        return GpuTransformer(self, shape, members, device=device, matmul_dtype=matmul_dtype)

    def of(self, shape: Shape) -> Shape:
        """Shape of a model of such data: the data's, but for a head that answers a part of the classes."""
        if shape.vectors or shape.loss != "cross_entropy":
            raise ValueError(f"shape: this transformer reads tokens and answers with one class, got {shape}")
        if self.outputs is not None and self.outputs > shape.outputs:
            raise ValueError(f"model.outputs: expected at most the vocabulary's {shape.outputs}, got {self.outputs}")
        return shape._replace(outputs=self.outputs or shape.outputs)

    def shapes(self, shape: Shape) -> Weights:
        """Shape of each parameter in a model of such data."""
        D, F, (inputs, outputs, *_) = self.hidden, self.intermediate, self.of(shape)
        block = Block((D,), (3 * D, D), (3 * D,), (D, D), (D,), (2 * F, D), (D, F))
        return Weights((inputs, D), (block,) * self.layers, (D,), (outputs, D))

    def parameters(self, shape: Shape) -> int:
        """Number of parameters of a model of such data."""
        return sum(map(math.prod, self.shapes(shape).each()))


class Block(NamedTuple):
    """Parameters of a block. A matrix is [out, in]."""

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
    """Parameters as views of a buffer [..., P]."""
    found, offset = [], 0
    for shape in shapes.each():
        found.append(buffer[..., offset : offset + math.prod(shape)].unflatten(-1, shape))
        offset += buffer_size([shape])
    each = iter(found)
    embed = next(each)
    blocks = tuple(Block(*islice(each, len(Block._fields))) for _ in shapes.blocks)
    return Weights(embed, blocks, *each)


class Transformer(Ensemble):
    """Ensemble of M transformers, wherever it computes: parameters, weights in and out, and what it is asked for.

    Attributes
    ----------
    spec : TransformerSpec
    shape : Shape
        Shape of the models: V tokens in, H classes out.
    matmul_dtype : {"float32", "bfloat16"}
        Type that matrix products multiply while learning, and by default while answering. Reading is float32 always.
    weights : list of Weights
        Parameters of each member, as views of its row of `parameters`.
    """

    def __init__(
        self, spec: TransformerSpec, shape: Shape, members: int, device: str | torch.device, matmul_dtype: str
    ):
        if members < 1:
            raise ValueError(f"members: expected at least 1, got {members}")
        if matmul_dtype not in MATMUL_DTYPES:
            raise unknown_name("matmul_dtype", matmul_dtype, MATMUL_DTYPES)
        self.spec, self.shape, self.members, self.matmul_dtype = spec, spec.of(shape), members, matmul_dtype
        self.device = torch.device(device)
        self._shapes = spec.shapes(shape)
        self.parameters = torch.zeros(members, buffer_size(self._shapes.each()), device=self.device)
        self.weights = [views(self._shapes, row) for row in self.parameters]
        self.decayed = torch.zeros(self.parameters.shape[1], device=self.device)
        for view in views(self._shapes, self.decayed).each():
            view.fill_(view.ndim == 2)

    # ---- weights in and out ----

    def initialise(self, member: int, seed: int) -> None:
        """Draw a member's initial weights: matrices normal(0, init_std), biases 0, norms 1."""
        random = np.random.Generator(np.random.Philox(seed))
        for name, view in self._huggingface(member).items():
            if view.ndim == 2:
                drawn = random.standard_normal(view.shape, dtype=np.float32) * np.float32(self.spec.init_std)
                view.copy_(torch.from_numpy(drawn))
            else:
                view.fill_(name.endswith("norm.weight"))

    def to_huggingface(self, member: int) -> dict[str, Tensor]:
        """Copy a member's weights to the CPU, under the tensor names of transformers.Qwen2ForCausalLM.

        Where the head answers a part of the vocabulary, `lm_head.weight` has the rows of that part.
        """
        return {name: view.cpu().clone() for name, view in self._huggingface(member).items()}

    def from_huggingface(self, member: int, tensors: dict[str, Tensor]) -> None:
        """Set a member's weights from tensors as `to_huggingface` gives them.

        Raises
        ------
        ValueError
            A tensor is missing, is none of this model's, or has another shape.
        """
        weights = self._huggingface(member)
        for name in sorted(weights.keys() ^ tensors.keys()):
            what = "missing" if name in weights else "no weight of this model"
            raise ValueError(f"tensors: {name!r} is {what}")
        for name, view in weights.items():
            came = tensors[name].shape
            if came != view.shape:
                raise ValueError(f"tensors: {name!r} has shape {list(came)}, expected {list(view.shape)}")
            view.copy_(tensors[name])

    def _huggingface(self, member: int) -> dict[str, Tensor]:
        """Parameters of a member as views, by Hugging Face name, in the order in which they are drawn."""
        w = self.weights[member]
        named = {"model.embed_tokens.weight": w.embed}
        for layer, block in enumerate(w.blocks):
            at = f"model.layers.{layer}."
            named[at + "input_layernorm.weight"] = block.input_norm
            for part, weight, bias in zip("qkv", block.qkv.chunk(3), block.qkv_bias.chunk(3)):
                named[at + f"self_attn.{part}_proj.weight"] = weight
                named[at + f"self_attn.{part}_proj.bias"] = bias
            named[at + "self_attn.o_proj.weight"] = block.output
            named[at + "post_attention_layernorm.weight"] = block.mlp_norm
            named[at + "mlp.gate_proj.weight"], named[at + "mlp.up_proj.weight"] = block.gate_up.chunk(2)
            named[at + "mlp.down_proj.weight"] = block.down
        return named | {"model.norm.weight": w.norm, "lm_head.weight": w.head}

    def offsets(self) -> dict[str, slice]:
        """Slice of each tensor of `to_huggingface`, flat, in a member's parameters and gradients [P]."""
        named = self._huggingface(0)
        return {name: slice(at := view.storage_offset(), at + view.numel()) for name, view in named.items()}

    # ---- what it is asked for ----

    @abstractmethod
    def answer(
        self,
        prompts: Sequence[tuple[np.ndarray, np.ndarray]],
        longest: int = 16,
        members: Sequence[int] | None = None,
        matmul_dtype: str | None = None,
        *,
        end: int,
    ) -> list[list[np.ndarray]]:
        """Answer each member's prompts greedily. An answer depends on its prompt alone, but where
        the two likeliest tokens are within rounding of each other.

        Parameters
        ----------
        prompts : sequence of (ndarray, ndarray)
            For each member tokens, integers [N, T], and length, integers [N], 1 to T: prompt i is tokens[i, :length[i]].
        longest : int
            Tokens of an answer at most.
        members : sequence of int, optional
            Whose prompts they are; None means all, in order.
        matmul_dtype : {"float32", "bfloat16"}, optional
            Type that matrix products multiply; None means as the ensemble learns.
        end : int
            Token that ends an answer.

        Returns
        -------
        list of list of ndarray
            For each member and prompt the tokens before `end`, int32 [up to `longest`].
        """

    def _require_layers(self, layers: Sequence[int]) -> None:
        for layer in layers:
            if not 0 <= layer <= self.spec.layers:
                raise IndexError(f"layers: expected 0 to {self.spec.layers}, got {layer}")

    def _require_targets(self, rows: Sequence[Rows], members: Sequence[int]) -> None:
        """Raise as `_require_rows`, and where a member's rows have no targets."""
        self._require_rows(rows, members)
        for member, of_member in zip(members, rows):
            if of_member.targets is None:
                raise ValueError(f"rows: those of member {member} have no targets to learn from")

    def _require_rows(self, rows: Sequence[Rows], members: Sequence[int]) -> None:
        """Raise ValueError or IndexError where rows are not those of as many members."""
        if len(members) != len(rows):
            raise ValueError(f"members: {len(members)} named, but the rows are those of {len(rows)}")
        self._require_members(members)
        if len(set(members)) < len(members):
            raise ValueError(f"members: expected each at most once, got {list(members)}")
        for member, of_member in zip(members, rows):
            L, scored = len(of_member.inputs), of_member.scored
            if not L:
                raise ValueError(f"rows: member {member} has none")
            if of_member.weights is not None:
                raise ValueError("rows: weights of scored positions are not read by this transformer")
            if len(scored) and not (scored[0] >= 0 and scored[-1] < L and (scored.diff() > 0).all()):
                raise ValueError(f"rows: expected scored positions from 0 to {L - 1}, ascending")

    def _require_members(self, members: Sequence[int]) -> None:
        for member in members:
            if not 0 <= member < self.members:
                raise IndexError(f"members: expected 0 to {self.members - 1}, got {member}")

    def _asked(self, prompts, longest, members, matmul_dtype) -> tuple[list, Sequence[int], str]:
        """Prompts as arrays, whose they are, and the type that their answers are computed in."""
        members = range(self.members) if members is None else members
        if len(members) != len(prompts):
            raise ValueError(f"members: {len(members)} named, but the prompts are those of {len(prompts)}")
        self._require_members(members)
        if isinstance(longest, bool) or not isinstance(longest, int):
            raise TypeError(f"longest: expected an integer, got {longest!r}")
        if longest < 1:
            raise ValueError(f"longest: expected at least 1 token, got {longest}")
        matmul_dtype = self.matmul_dtype if matmul_dtype is None else matmul_dtype
        if matmul_dtype not in MATMUL_DTYPES:
            raise unknown_name("matmul_dtype", matmul_dtype, MATMUL_DTYPES)
        return [_prompts(*of_member, self.shape.inputs) for of_member in prompts], members, matmul_dtype


def _prompts(tokens, length, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of a member as arrays, tokens [N, T] and length [N]."""
    tokens, length = np.asarray(tokens), np.asarray(length)
    if tokens.ndim != 2 or length.shape != tokens.shape[:1]:
        got = f"{list(tokens.shape)} and {list(length.shape)}"
        raise ValueError(f"prompts: expected tokens [N, T] and length [N], got shapes {got}")
    if not (np.issubdtype(tokens.dtype, np.integer) and np.issubdtype(length.dtype, np.integer)):
        raise TypeError(f"prompts: expected integers, got {tokens.dtype} and {length.dtype}")
    for n in length[(length < 1) | (length > tokens.shape[1])]:
        raise ValueError(f"prompts: expected a length of 1 to {tokens.shape[1]}, got {n}")
    read = np.arange(tokens.shape[1]) < length[:, None]
    for token in tokens[read & ((tokens < 0) | (tokens >= vocabulary))]:
        raise ValueError(f"prompts: token {token} is outside the model's vocabulary of {vocabulary}")
    return tokens, length

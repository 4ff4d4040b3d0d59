"""Qwen2 transformers: their spec, the layout of their parameters in a buffer, and the base of their ensembles.

M members, L tokens, K scored positions, D hidden, F intermediate, V vocabulary, H tokens that the head can answer, P
parameters with gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast._native import core
from worldfast.errors import one_of, positive
from worldfast.models.attention import LONGEST_ON_GPU
from worldfast.models.buffer import tensors_in
from worldfast.models.heads import AttentionEnsemble, AttentionSpec
from worldfast.models.spec import CpuBytes, require_sizes
from worldfast.rows import Rows, Shape

__all__ = ["Block", "Transformer", "TransformerSpec", "Weights", "views"]

ENGINES = ("auto", "native", "plain")


@dataclass(frozen=True)
class TransformerSpec(AttentionSpec["Transformer"]):
    """Shape of a Qwen2 transformer (as many key-value heads as heads, untied head) and its initial scale.

    Parameters
    ----------
    hidden, layers, heads, intermediate : int
        Widths and depth; hidden / heads is a multiple of 8.
    rope_base : float, optional
        Base of the rotary position embedding, as in Qwen2; None gives the model no positions. A model with learned
        positions is a `worldfast.models.GPTSpec(positions=longest)`.
    norm_eps : float
        Epsilon of RMSNorm, as in Qwen2.
    init_std : float
        Standard deviation of initial embedding and linear weights.
    outputs : int, optional
        Number of tokens that the head can answer, the first of the vocabulary; None means all.
    engine : {"auto", "native", "plain"}
        Implementation: the native core on a CPU, for rows of up to 2,048 tokens, and kernels on a GPU, for up to 128,
        or PyTorch, which is slower but supports vectors, other losses, weights of scored positions and rows of any
        length. "auto" is "native" if that suffices.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> spec = wf.TransformerSpec(hidden=64, layers=2, heads=4, intermediate=256)
    >>> spec.parameters(cities.Dataset("distance").shape)
    144320
    """

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    intermediate: int = 512
    rope_base: float | None = 10_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.1
    outputs: int | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        require_sizes(self, ("hidden", "layers", "heads", "intermediate", "outputs"))
        for name in ("rope_base", "norm_eps", "init_std"):
            value = getattr(self, name)
            if name == "rope_base" and value is None:
                continue
            object.__setattr__(self, name, positive(f"model.{name}", value))
        one_of("model.engine", self.engine, ENGINES)
        if self.hidden % self.heads or self.hidden // self.heads % 8:
            raise ValueError(
                "model.heads: hidden / heads must be a multiple of 8, "
                f"got {self.hidden} / {self.heads} = {self.hidden / self.heads:g}"
            )

    def _build(
        self,
        shape: Shape,
        members: int,
        device: str | torch.device,
        threads: int | None,
        matmul_dtype: str,
        longest: int | None,
    ) -> Transformer:
        from worldfast.models import CpuTransformer, GpuTransformer, PlainTransformer

        on_gpu = torch.device(device).type != "cpu"
        lacks = self._native_lacks(shape, longest, on_gpu)
        if self.engine == "native" and lacks:
            raise ValueError(f"model.engine: 'native' takes {lacks}; use 'plain', which is PyTorch, or 'auto'")
        options = {"device": device, "threads": threads, "matmul_dtype": matmul_dtype}
        if self.engine == "plain" or lacks:
            built = PlainTransformer(self, shape, members, **options)
            built.about = f"models in PyTorch (the native engine takes {lacks})" if lacks else "models in PyTorch"
            return built
        if on_gpu:
            return GpuTransformer(self, shape, members, device=device, matmul_dtype=matmul_dtype)
        return CpuTransformer(self, shape, members, threads=threads, matmul_dtype=matmul_dtype)

    def on_gpu(self, shape: Shape, longest: int) -> bool:
        """Return True if GPU kernels take whole steps of training."""
        return self.engine != "plain" and not self._native_lacks(shape, longest, on_gpu=True)

    def cpu_bytes(self, shape: Shape, inputs: int, threads: int, matmul_dtype: str, longest: int) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` tokens or vectors."""
        from worldfast.models import CpuTransformer, PlainTransformer

        if self.engine == "plain" or self._native_lacks(shape, longest, on_gpu=False):
            return PlainTransformer.cpu_bytes(self, shape, inputs, threads)
        return CpuTransformer.cpu_bytes(self, shape, inputs, threads, matmul_dtype, longest)

    def _native_lacks(self, shape: Shape, longest: int | None, on_gpu: bool) -> str:
        """Return in words what the native engine takes instead of such data; "" if it takes them."""
        if shape.vectors:
            return "tokens, not vectors"
        if shape.loss != "cross_entropy":
            return f"the loss 'cross_entropy', not {shape.loss!r}"
        limit = LONGEST_ON_GPU if on_gpu else core.attention_row_limit
        if longest is not None and longest > limit:
            return f"rows of at most {limit:,} tokens{' on a GPU' * on_gpu}, not {longest:,}"
        return ""

    def shapes(self, shape: Shape) -> Weights:
        """Return the shape of each parameter of a model of such data."""
        D, F, (inputs, outputs, *_) = self.hidden, self.intermediate, self.of(shape)
        block = Block((D,), (3 * D, D), (3 * D,), (D, D), (D,), (2 * F, D), (D, F))
        return Weights((inputs, D), (block,) * self.layers, (D,), (outputs, D))

    def sizes(self, shape: Shape) -> Iterable[tuple[int, ...]]:
        return self.shapes(shape).each()


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
    """All parameters, in the order in which they are stored and initialised."""

    embed: Tensor  # [V, D]
    blocks: tuple[Block, ...]
    norm: Tensor  # [D]
    head: Tensor  # [H, D]

    def each(self) -> Iterator:
        return chain([self.embed], *self.blocks, [self.norm, self.head])


def views(shapes: Weights, buffer: Tensor) -> Weights:
    """Return parameters as views of a buffer [..., P]."""
    each = iter(tensors_in(buffer, list(shapes.each())))
    embed = next(each)
    blocks = tuple(Block(*islice(each, len(Block._fields))) for _ in shapes.blocks)
    return Weights(embed, blocks, *each)


class Transformer(AttentionEnsemble):
    """Ensemble of M transformers on any device: the base class of parameters, import and export of weights.

    Attributes
    ----------
    spec : TransformerSpec
    shape : Shape
        Shape of the models: V tokens in, H classes out.
    matmul_dtype : {"float32", "bfloat16"}
        Type in which matrices are multiplied while learning, and by default while answering. Reading is always in
        float32.
    weights : list of Weights
        Parameters of each member, as views of its row of `parameters`.
    """

    def __init__(
        self, spec: TransformerSpec, shape: Shape, members: int, device: str | torch.device, matmul_dtype: str
    ) -> None:
        self._shapes = spec.shapes(shape)
        super().__init__(spec, spec.of(shape), list(self._shapes.each()), members, device, matmul_dtype)

    @property
    def weights(self) -> list[Weights]:
        return [views(self._shapes, row) for row in self.parameters]

    def _queries_and_keys(self, rows: Rows, member: int) -> list[tuple[Tensor, Tensor]]:
        from worldfast.models import PlainTransformer

        return PlainTransformer.of(self)._queries_and_keys(rows, member)

    def _output_matrices(self, parameters: Tensor) -> Iterable[Tensor]:
        return [block.output for block in views(self._shapes, parameters).blocks]

    # ---- weights in and out ----

    def initialise(self, member: int, seed: int) -> None:
        """Draw a member's initial weights: matrices normal(0, init_std), biases 0, norms 1."""
        random = self._random(member, seed)
        for name, view in self._huggingface(member).items():
            if view.ndim == 2:
                drawn = random.standard_normal(view.shape, dtype=np.float32) * np.float32(self.spec.init_std)
                view.copy_(torch.from_numpy(drawn))
            else:
                view.fill_(name.endswith("norm.weight"))

    def to_huggingface(self, member: int) -> dict[str, Tensor]:
        """Copy a member's weights to the CPU, under the tensor names of transformers.Qwen2ForCausalLM.

        If the head answers only part of the vocabulary, `lm_head.weight` has only the rows of that part.
        """
        return {name: view.cpu().clone() for name, view in self._huggingface(member).items()}

    def from_huggingface(self, member: int, tensors: dict[str, Tensor]) -> None:
        """Set a member's weights from tensors named as by `to_huggingface`.

        Parameters
        ----------
        member : int
        tensors : dict of str to Tensor

        Raises
        ------
        ValueError
            A tensor is missing, unknown, or has another shape.
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
        """Return parameters of a member as views, by Hugging Face name, in the order of initialisation."""
        w = views(self._shapes, self.parameters[member])
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

"""GPT-2 on vectors or tokens, without positions or with learned ones, in PyTorch, with dropout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, linear

from worldfast.errors import number, positive, whole
from worldfast.models.autograd import NamedEnsemble, autograd_bytes
from worldfast.models.chance import generators
from worldfast.models.heads import AttentionEnsemble, AttentionSpec
from worldfast.models.spec import CpuBytes, require_sizes
from worldfast.rows import Rows, Shape

__all__ = ["GPT", "GPTSpec"]


@dataclass(frozen=True)
class GPTSpec(AttentionSpec["GPT"]):
    """GPT-2: pre-norm blocks of causal attention and an MLP with gelu in its tanh form, by default without positions.

    Vectors enter through a linear map with a bias, tokens through an embedding. Weights are normal with standard
    deviation `init_std`, those of maps into the residual stream divided by sqrt(2 layers); biases are 0, norms 1. The
    output map is a torch.nn.Linear: its weights and biases are uniform up to 1 / sqrt(hidden). The defaults, and this
    map, are those of arXiv 2407.11249.

    Parameters
    ----------
    hidden, layers, heads, intermediate : int
        Widths and depth.
    dropout : float
        Share of the embedded inputs, of attention and of what enters the residual stream that is dropped while
        learning. What is dropped is a function of the row (worldfast.models.chance).
    norm_eps, init_std : float
    positions : int
        Learned positions, for rows of up to so many inputs, added to what is embedded; 0: none, so that order is seen
        through the causal mask alone.
    outputs : int, optional
        Number of outputs, the first ones; None means all of the data.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> from worldfast.models import GPTSpec
    >>> from worldfast.rows import Shape
    >>> GPTSpec().parameters(Shape(inputs=41, outputs=24, vectors=True, loss="binary_cross_entropy"))
    54360
    """

    hidden: int = 64
    layers: int = 1
    heads: int = 8
    intermediate: int = 256
    dropout: float = 0.1
    norm_eps: float = 1e-5
    init_std: float = 0.02
    outputs: int | None = None
    positions: int = 0

    def __post_init__(self):
        require_sizes(self, ("hidden", "layers", "heads", "intermediate", "outputs"))
        for name in ("norm_eps", "init_std"):
            object.__setattr__(self, name, positive(f"model.{name}", getattr(self, name)))
        object.__setattr__(self, "dropout", number("model.dropout", self.dropout))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout: expected at least 0 and below 1, got {self.dropout}")
        object.__setattr__(self, "positions", whole("model.positions", self.positions, 0, 2**20))
        if self.hidden % self.heads:
            raise ValueError(f"model.heads: expected a divisor of hidden, {self.hidden}, got {self.heads}")

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by name; a matrix is [out, in]."""
        D, F = self.hidden, self.intermediate
        if shape.vectors:
            found: dict[str, tuple[int, ...]] = {"embed.weight": (D, shape.inputs), "embed.bias": (D,)}
        else:
            found = {"embed.weight": (shape.inputs, D)}
        for k in range(self.layers):
            maps = {"attention": (3 * D, D), "mixed": (D, D), "up": (F, D), "down": (D, F)}
            for norm in ("norm_1", "norm_2"):
                found |= {f"block.{k}.{norm}.weight": (D,), f"block.{k}.{norm}.bias": (D,)}
            for name, size in maps.items():
                found |= {f"block.{k}.{name}.weight": size, f"block.{k}.{name}.bias": size[:1]}
        found |= {"norm.weight": (D,), "norm.bias": (D,)}
        outputs = self.of(shape).outputs
        found |= {"head.weight": (outputs, D), "head.bias": (outputs,)}
        return found | ({"position.weight": (self.positions, D)} if self.positions else {})

    def sizes(self, shape: Shape) -> Iterable[tuple[int, ...]]:
        return self.shapes(shape).values()

    def cpu_bytes(self, shape: Shape, inputs: int, threads: int, matmul_dtype: str, longest: int) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` inputs, of up to `longest` a row."""
        block = 24 * self.hidden + 6 * self.intermediate + 6 * self.heads * longest
        kept = (10 if self.positions else 8) * self.hidden + self.layers * block + 5 * self.of(shape).outputs
        return autograd_bytes(self.sizes(shape), inputs, kept + (shape.inputs if shape.vectors else 2), threads)

    def _build(
        self,
        shape: Shape,
        members: int,
        device: str | torch.device,
        threads: int | None,
        matmul_dtype: str,
        longest: int | None,
    ) -> GPT:
        if self.positions:
            self._require_positions(longest or 0)
        return GPT(self, shape, members, device=device, threads=threads, matmul_dtype=matmul_dtype)

    def _require_positions(self, longest: int) -> None:
        if longest > self.positions:
            raise ValueError(f"model.positions: expected at least {longest}, the inputs of a row, got {self.positions}")


class GPT(NamedEnsemble, AttentionEnsemble):
    """M such models of one shape. The last layer's states are those after the final norm.

    Parameters
    ----------
    spec : GPTSpec
    shape : Shape
        Shape of the data.
    members : int
    **options
        Those of AutogradEnsemble.
    """

    def initialise(self, member: int, seed: int) -> None:
        random = self._random(member, seed)
        for name, view in self.tensors(member).items():
            if name.startswith("head."):
                drawn = 2 * random.random(view.shape, dtype=np.float32) - 1
                view.copy_(torch.from_numpy(drawn * np.float32(1 / math.sqrt(self.spec.hidden))))
            elif view.ndim == 2:
                residual = name.endswith(("mixed.weight", "down.weight"))
                std = self.spec.init_std / (math.sqrt(2 * self.spec.layers) if residual else 1)
                view.copy_(torch.from_numpy(random.standard_normal(view.shape, dtype=np.float32) * np.float32(std)))
            else:
                view.fill_("norm" in name and name.endswith("weight"))

    @torch.no_grad()
    def values(self, rows: Rows, member: int, layer: int = 1) -> Tensor:
        """Return the value vectors of a layer's attention at the scored positions, heads side by side, [K, hidden].

        Raises
        ------
        IndexError
            The model has no such layer; the first one is 1.
        """
        self._require_rows([rows], [member])
        if not 1 <= layer <= self.spec.layers:
            raise IndexError(f"layer: expected 1 to {self.spec.layers}, got {layer}")
        return self._mapped(rows, member)[layer - 1][2].index_select(0, rows.scored.to(self.device))

    def _mapped(self, rows: Rows, member: int) -> list[Sequence[Tensor]]:
        """Return queries, keys and values of each layer, heads side by side, [L, hidden] each."""
        found: list[Sequence[Tensor]] = []
        self._run(self.parameters[member], self._here(rows), (), None, found)
        return found

    def _queries_and_keys(self, rows: Rows, member: int) -> list[tuple[Tensor, Tensor]]:
        self._require_rows([rows], [member])
        return [(query, key) for query, key, _ in self._mapped(rows, member)]

    def _output_matrices(self, parameters: Tensor) -> Iterable[Tensor]:
        w = self._named(parameters)
        return [w[f"block.{k}.mixed.weight"] for k in range(self.spec.layers)]

    @torch.no_grad()
    def outputs(self, rows: Rows, member: int, *, gain: Any = None) -> Tensor:
        self._require_rows([rows], [member])
        return self.forward(self._gained(member, gain), self._here(rows), ())[0]

    @torch.no_grad()
    def states(self, rows: Rows, member: int, layers: Sequence[int], *, gain: Any = None) -> list[Tensor]:
        self._require_layers(layers)
        self._require_rows([rows], [member])
        return self.forward(self._gained(member, gain), self._here(rows), layers)[1]

    def forward(self, parameters: Tensor, rows: Rows, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        return self._run(parameters, rows, layers, None)

    def learning(self, parameters: Tensor, rows: Rows) -> Tensor:
        kept = _Kept(self.spec, rows, parameters) if self.spec.dropout else None
        return self._run(parameters, rows, (), kept)[0]

    def _run(
        self,
        parameters: Tensor,
        rows: Rows,
        layers: Sequence[int],
        kept: _Kept | None,
        each: list[Sequence[Tensor]] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute outputs and states; queries, keys and values of each layer, [L, hidden], go to `each`."""
        spec, w = self.spec, self._named(parameters)
        drop = kept or (lambda x, *_: x)

        def norm(x, name):
            return layer_norm(x, (spec.hidden,), w[f"{name}.weight"], w[f"{name}.bias"], spec.norm_eps)

        def mapped(x, name):
            return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

        lengths = rows.row_start.long().diff()
        R, T = len(lengths), int(lengths.max())
        step = torch.arange(T, dtype=torch.int64, device=lengths.device)
        there = step < lengths[:, None]  # [R, T]
        at = (rows.row_start[:-1].long()[:, None] + step).clamp(max=len(rows.inputs) - 1)  # padding reads any input
        hidden_from = ~(step[None, :] <= step[:, None])  # [T, T], of later ones
        x = mapped(rows.inputs, "embed") if self.shape.vectors else embedding(rows.inputs, w["embed.weight"])
        if spec.positions:
            spec._require_positions(T)
            x = x + embedding(step.expand(R, T)[there], w["position.weight"])
        found = [x]
        x = drop(x, "embed")
        for k in range(spec.layers):
            block = f"block.{k}"
            parts = mapped(norm(x, f"{block}.norm_1"), f"{block}.attention").chunk(3, 1)
            if each is not None:
                each.append(parts)
            q, key, value = (
                part[at].reshape(R, T, spec.heads, -1).transpose(1, 2) for part in parts
            )  # [R, heads, T, width]
            score = q @ key.transpose(2, 3) / math.sqrt(q.shape[-1])
            share = score.masked_fill(hidden_from, -math.inf).softmax(-1)
            mixed = (drop(share, k) @ value).transpose(1, 2).reshape(R, T, -1)[there]
            x = x + drop(mapped(mixed, f"{block}.mixed"), k, "mixed")
            middle = gelu(mapped(norm(x, f"{block}.norm_2"), f"{block}.up"), approximate="tanh")
            x = x + drop(mapped(middle, f"{block}.down"), k, "down")
            found.append(x)
        found[-1] = x = norm(x, "norm")
        outputs = mapped(x.index_select(0, rows.scored), "head")
        return outputs, [found[layer].index_select(0, rows.scored) for layer in layers]


class _Kept:
    """Factors of dropout, 0 or 1 / (1 - dropout), of a batch of rows."""

    def __init__(self, spec: GPTSpec, rows: Rows, like: Tensor):
        lengths = rows.row_start.diff().tolist()
        D, H, T = spec.hidden, spec.heads, max(lengths)
        flat: dict[tuple, list[np.ndarray]] = {}
        self.factors: dict[tuple, Tensor] = {}
        attention = np.ones((spec.layers, len(lengths), H, T, T), dtype=bool)
        for r, (random, n) in enumerate(zip(generators(rows, "dropout"), lengths)):
            flat.setdefault(("embed",), []).append(random.random((n, D), np.float32) >= spec.dropout)
            for k in range(spec.layers):
                attention[k, r, :, :n, :n] = random.random((H, n, n), np.float32) >= spec.dropout
                for name in ("mixed", "down"):
                    flat.setdefault((k, name), []).append(random.random((n, D), np.float32) >= spec.dropout)
        kept = {site: np.concatenate(parts) for site, parts in flat.items()}
        for site, mask in (kept | {(k,): attention[k] for k in range(spec.layers)}).items():
            self.factors[site] = torch.from_numpy(mask).to(like.device, like.dtype) / (1 - spec.dropout)

    def __call__(self, x: Tensor, *site) -> Tensor:
        return x * self.factors[site]

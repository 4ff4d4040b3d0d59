"""Transformer in PyTorch: rows of any length, tokens or vectors, any loss, inner values read and replaced.

It shares the arithmetic and the parameter buffer of the native transformer (worldfast.models.cpu), which is faster and
whose reference it is.

Inner values have names; k counts blocks from 1, and [L, D] is one value for each input of the rows::

    name               shape         TransformerLens's name for k = 1
    embed              [L, D]        hook_embed                     input of the first block: layer 0
    block.k.query      [L, D]        blocks.0.attn.hook_q           of all heads, side by side, before the rotation
    block.k.key        [L, D]        blocks.0.attn.hook_k           likewise
    block.k.value      [L, D]        blocks.0.attn.hook_v           likewise
    block.k.heads      [L, D]        blocks.0.attn.hook_z           output of each head, before the output matrix
    block.k.attention  [L, D]        blocks.0.hook_attn_out         contribution of attention to the residual stream
    block.k.middle     [L, D]        blocks.0.hook_resid_mid        residual stream between attention and MLP
    block.k.neurons    [L, F]        blocks.0.mlp.hook_post         silu(gate) * up
    block.k.mlp        [L, D]        blocks.0.hook_mlp_out          contribution of the MLP to the residual stream
    block.k            [L, D]        blocks.0.hook_resid_post       output of the block: layer k, except for the last
    norm               [L, D]        ln_final.hook_normalized * w   after the final norm: the last layer
    outputs            [K, outputs]                                 at the scored positions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from worldfast.errors import one_of
from worldfast.models.attention import attention
from worldfast.models.autograd import AutogradEnsemble, autograd_bytes
from worldfast.models.ensemble import Ensemble
from worldfast.models.spec import CpuBytes
from worldfast.models.transformer import Transformer, TransformerSpec, views
from worldfast.rows import Rows, Shape

PARTS = ("query", "key", "value", "heads", "attention", "middle", "neurons", "mlp")

# (positions, values): values broadcast to [n, width], at positions int64 [n] or bool [L]. Or a function that maps the
# value at all positions to its replacement.
Replacement = tuple[Tensor, Tensor] | Callable[[Tensor], Tensor]


class PlainTransformer(AutogradEnsemble, Transformer):
    """M transformers of one shape, in PyTorch.

    Tokens select rows of the embedding matrix, and vectors are multiplied by it, so that unit vectors are tokens.

    Parameters
    ----------
    spec : TransformerSpec
    shape : Shape
        Shape of the data.
    members : int
    **options
        Those of AutogradEnsemble.
    """

    def __init__(self, spec: TransformerSpec, shape: Shape, members: int = 1, **options):
        self._shapes = spec.shapes(shape)
        super().__init__(spec, spec.of(shape), list(self._shapes.each()), members, **options)

    @classmethod
    def of(cls, ensemble: Ensemble) -> PlainTransformer:
        """Return transformers that share the parameters of another ensemble of transformers, without a copy; TypeError
        if it is of another family.
        """
        if not isinstance(ensemble.spec, TransformerSpec):
            raise TypeError(f"ensemble: expected one of a TransformerSpec, got one of a {type(ensemble.spec).__name__}")
        plain = cls(ensemble.spec, ensemble.shape, ensemble.members, device=ensemble.device)
        plain.parameters = ensemble.parameters
        return plain

    @staticmethod
    def cpu_bytes(spec: TransformerSpec, shape: Shape, inputs: int, threads: int) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` inputs."""
        D, F = spec.hidden, spec.intermediate
        kept = D * (8 + 20 * spec.layers) + F * 6 * spec.layers + 5 * spec.of(shape).outputs
        return autograd_bytes(spec.shapes(shape).each(), inputs, kept + (shape.inputs if shape.vectors else 2), threads)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of inner values, in the order in which they are computed."""
        blocks = (f"block.{k}" for k in range(1, self.spec.layers + 1))
        inner = (name for block in blocks for name in (*(f"{block}.{part}" for part in PARTS), block))
        return ("embed", *inner, "norm", "outputs")

    def name_of_layer(self, layer: int) -> str:
        """Return the name of a layer's states; see `states`."""
        if layer == 0:
            return "embed"
        return "norm" if layer == self.spec.layers else f"block.{layer}"

    def run(
        self,
        rows: Rows,
        member: int = 0,
        read: Iterable[str] = ("outputs",),
        replace: Mapping[str, Replacement] | None = None,
    ) -> dict[str, Tensor]:
        """Return inner values of a member by name, computed with others replaced.

        Autograd passes through everything if `parameters` or a replacement requires gradients.

        Parameters
        ----------
        rows : Rows
        member : int
        read : iterable of str
            Names of the values to return, after replacement. Nothing after the last of them is computed.
        replace : mapping of str to (positions, values) or callable, optional
            Replacements of inner values: `values` at `positions`, int64 [n] or bool [L], or the result of a function of
            the whole value.

        Returns
        -------
        dict of str to Tensor

        Raises
        ------
        ValueError
            A name is not in `names`, or a replacement has another shape.

        Examples
        --------
        Outputs without the first of two heads of block 1, and the contribution of the other head:

        >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32, engine="plain")
        >>> data = cities.Dataset("distance", rows=10)
        >>> plain, rows = spec.build(data.shape), data.stream(seed=0).batch(0, 4)
        >>> plain.initialise(0, seed=0)
        >>> def ablated(heads):
        ...     return heads * (torch.arange(heads.shape[1]) >= heads.shape[1] // 2)
        >>> found = plain.run(rows, read=("block.1.attention", "outputs"), replace={"block.1.heads": ablated})
        >>> found["block.1.attention"].shape == (len(rows.inputs), 16)
        True
        """
        read, replace = set(read), dict(replace or {})
        for name in (*read, *replace):
            one_of("inner value", name, self.names)
        self._require_rows([rows], [member])
        return self._run(self.parameters[member], self._here(rows), read, replace)

    @torch.no_grad()
    def outputs(self, rows: Rows, member: int, *, gain: Any = None) -> Tensor:
        self._require_rows([rows], [member])
        return self._run(self.parameters[member], self._here(rows), {"outputs"}, self._ablated(gain))["outputs"]

    @torch.no_grad()
    def states(self, rows: Rows, member: int, layers: Sequence[int], *, gain: Any = None) -> list[Tensor]:
        self._require_layers(layers)
        self._require_rows([rows], [member])
        return self._read(self.parameters[member], self._here(rows), layers, self._ablated(gain))[1]

    def _ablated(self, gain: Any) -> dict[str, Replacement]:
        """Return replacements that multiply what heads give, before the output matrix."""
        if gain is None:
            return {}
        return {f"block.{k}.heads": lambda heads, by=by: heads * by for k, by in enumerate(self._gain(gain), 1)}

    def _queries_and_keys(self, rows: Rows, member: int) -> list[tuple[Tensor, Tensor]]:
        names = [(f"block.{k}.query", f"block.{k}.key") for k in range(1, self.spec.layers + 1)]
        found = self.run(rows, member, [name for pair in names for name in pair])
        return [(found[query], found[key]) for query, key in names]

    def forward(self, parameters: Tensor, rows: Rows, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        return self._read(parameters, rows, layers, {})

    def _read(self, parameters: Tensor, rows: Rows, layers: Sequence[int], replace: Mapping[str, Replacement]):
        names = [self.name_of_layer(layer) for layer in layers]
        found = self._run(parameters, rows, {*names, "outputs"}, replace)
        return found["outputs"], [found[name].index_select(0, rows.scored) for name in names]

    def _run(self, parameters, rows: Rows, read: set[str], replace: Mapping[str, Replacement]) -> dict[str, Tensor]:
        spec, w = self.spec, views(self._shapes, parameters)
        heads, row_start = (len(rows.inputs), spec.heads, spec.hidden // spec.heads), rows.row_start.int()
        found: dict[str, Tensor] = {}

        def named(name, value):
            if name in replace:
                value = _replaced(name, value, replace[name])
            if name in read:
                found[name] = value
            return value

        x = named("embed", rows.inputs @ w.embed if self.shape.vectors else embedding(rows.inputs, w.embed))
        for k, block in enumerate(w.blocks, 1):
            if len(found) == len(read):
                return found
            at = f"block.{k}"
            qkv = linear(self._norm(x, block.input_norm), block.qkv, block.qkv_bias).chunk(3, 1)
            qkv = [named(f"{at}.{part}", value).reshape(heads) for part, value in zip(PARTS, qkv)]
            mixed = attention(*qkv, row_start, spec.rope_base).reshape(x.shape)
            x = x + named(f"{at}.attention", linear(named(f"{at}.heads", mixed), block.output))
            x = named(f"{at}.middle", x)
            gate, up = linear(self._norm(x, block.mlp_norm), block.gate_up).chunk(2, 1)
            neurons = named(f"{at}.neurons", gate * gate.sigmoid() * up)
            x = named(at, x + named(f"{at}.mlp", linear(neurons, block.down)))
        x = named("norm", self._norm(x, w.norm))
        named("outputs", linear(x.index_select(0, rows.scored), w.head))
        return found

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.spec.norm_eps) * weight


def _replaced(name: str, value: Tensor, given: Replacement) -> Tensor:
    if callable(given):
        found = given(value)
        if not isinstance(found, Tensor) or found.shape != value.shape:
            came = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"replace: {name!r} has shape {list(value.shape)}, what the function returned {came}")
        return found
    positions, values = given
    value = value.clone()
    value[positions] = values.to(value.dtype)
    return value

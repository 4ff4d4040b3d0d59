"""Greedy decoding of one transformer with a cache of keys and values: a prompt is read, then a token a row.

An answer is short, so the time goes into prompts: a row of dist has 21 tokens before its answer's 4. But the
prompts of a test set are alike in what they begin with, and what is alike stands in the cache once. Sorted,
they are a trie, of which each node is computed and nothing else: of ten thousand rows of dist 8 tokens a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast import layers
from worldfast._native import core
from worldfast.tokens import EOS
from worldfast.transformer import Block, ModelSpec, Scratch, Weights, normed

__all__ = ["PRODUCTS", "Prompts", "greedy", "share", "with_products"]

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Prompts(NamedTuple):
    """R different prompts, sorted: the nodes of their trie, of which there are U.

    rows     int64 [N], which of the prompts that were given these are
    answer   int64 [N], which of the R each of them is
    tokens   int32 [U], row after row
    path     int32 [R, T], the nodes of a row's tokens
    length   int32 [R], its tokens
    fresh    int32 [R], how many of them, the last, no row before it has
    """

    rows: np.ndarray
    answer: np.ndarray
    tokens: np.ndarray
    path: np.ndarray
    length: np.ndarray
    fresh: np.ndarray


def share(tokens: np.ndarray, length: np.ndarray, tile: int) -> list[Prompts]:
    """Prompts in tiles of about `tile` nodes.

    tokens    integers [N, T]
    length    int32 [N], at least 1: row i is tokens[i, :length[i]]
    """
    column = np.arange(length.max(initial=1))
    tokens = np.where(column < length[:, None], tokens[:, : len(column)].astype(np.int32), -1)  # [N, T]
    order = np.lexsort(tokens.T[::-1])
    tokens, length = tokens[order], length[order]
    alike = np.zeros_like(length)  # tokens that a row shares with the row before it
    alike[1:] = np.cumprod(tokens[1:] == tokens[:-1], axis=1).sum(1)
    different = alike < length
    answer = np.cumsum(different) - 1  # [N]
    tokens, length, alike = tokens[different], length[different], alike[different]  # of R prompts
    piece = np.cumsum(length - alike) // tile
    alike[np.flatnonzero(np.diff(piece, prepend=-1))] = 0
    fresh = length - alike
    before = np.cumsum(fresh) - fresh
    is_fresh = (alike[:, None] <= column) & (column < length[:, None])  # [R, T]
    # a shared token stands in the nearest row above that does not share it
    owner = np.maximum.accumulate(np.where(is_fresh, np.arange(len(length))[:, None], 0), axis=0)
    path = (before - alike)[owner] + column
    return [
        Prompts(
            order[piece[answer] == p],
            answer[piece[answer] == p] - rows.start,
            tokens[rows][is_fresh[rows]],
            (path[rows] - before[rows.start]).astype(np.int32),
            length[rows].astype(np.int32),
            fresh[rows].astype(np.int32),
        )
        for p in np.unique(piece)
        for rows in [slice(*np.searchsorted(piece, (p, p + 1)))]
    ]


def with_products(w: Weights, dtype: torch.dtype) -> Weights:
    """The weights, with matrices that are multiplied in this dtype; in their own they are no copies."""

    def cast(block: Block) -> Block:
        matrices = ("qkv", "output", "gate_up", "down")
        return block._replace(**{name: getattr(block, name).to(dtype) for name in matrices})

    return w._replace(blocks=tuple(map(cast, w.blocks)), head=w.head.to(dtype))


def greedy(spec: ModelSpec, w: Weights, prompts: Prompts, longest: int, s: Scratch) -> list[np.ndarray]:
    """Answers to the R prompts: the tokens before <eos>, int32 [up to `longest`] each.

    w   from `with_products`
    """
    R, D = len(prompts.length), spec.hidden
    cache = [s(len(prompts.tokens) + R * (longest - 1), 3 * D) for _ in w.blocks]
    path = np.pad(prompts.path, ((0, 0), (0, longest - 1)))
    turn = _turns(spec, path.shape[1])
    answers, rows = np.full((R, longest), EOS, dtype=np.int32), np.arange(R)
    tokens, length, fresh, first, mark = prompts.tokens, prompts.length, prompts.fresh, 0, s.mark()
    for step in range(longest):
        s.release(mark)
        final = _extend(spec, w, tokens, cache, turn, (path, length, fresh), first, s)
        following = _product(final, w.head, s).argmax(1).to(torch.int32).numpy()
        goes_on = following != EOS
        first += len(tokens)
        tokens, rows, path, length = (x[goes_on] for x in (following, rows, path, length))
        if not len(rows):
            break
        answers[rows, step] = tokens
        if step < longest - 1:
            path[np.arange(len(rows)), length] = first + np.arange(len(rows))
        length, fresh = length + 1, np.ones_like(length)
    return [answer[:n] for answer, n in zip(answers, (answers != EOS).sum(1))]


def _extend(
    spec: ModelSpec, w: Weights, tokens: np.ndarray, cache: list[Tensor], turn: Tensor,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], first: int, s: Scratch,
) -> Tensor:  # fmt: skip
    """The final norm [R, D] at the last token of each row, of which n tokens are new.

    tokens   int32 [n], which go to the places from `first` on
    cache    [C, 3 D] of each block: queries, keys and values, all but the last turned by their position
    rows     path int32 [R, T], length int32 [R], fresh int32 [R], as of `Prompts`
    """
    n, D, F = len(tokens), spec.hidden, spec.intermediate
    last = torch.from_numpy(np.cumsum(rows[2], dtype=np.int64) - 1)  # [R]
    x = torch.index_select(w.embed, 0, torch.from_numpy(tokens), out=s(n, D))
    for i, block in enumerate(w.blocks):
        mark = s.mark()
        _product(normed(spec, x, block.input_norm, s).out, block.qkv, s, block.qkv_bias, out=cache[i][first : first + n])
        mixed = s(n, D)
        core.attention_cached(
            cache[i].view(-1, 3, spec.heads, D // spec.heads), turn, *rows, first,
            mixed.view(n, spec.heads, -1), s.threads,
        )  # fmt: skip
        if i == spec.layers - 1:
            x, mixed = x[last], mixed[last]  # [R, D]
        _product(mixed, block.output, s, x, x)
        gate_up = _product(normed(spec, x, block.mlp_norm, s).out, block.gate_up, s)  # [n, 2 F]
        gated = layers.swiglu_forward(gate_up, out=s(len(x), F), threads=s.threads)
        _product(gated, block.down, s, x, x)
        s.release(mark)
    return normed(spec, x, w.norm, s).out


def _product(
    x: Tensor, weight: Tensor, s: Scratch, onto: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """x weight', in float32, plus `onto` where it is given; of rounded numbers where the weight's are."""
    out = s(len(x), len(weight)) if out is None else out
    if weight.dtype == torch.float32:
        return torch.mm(x, weight.t(), out=out) if onto is None else torch.addmm(onto, x, weight.t(), out=out)
    product = torch.mm(x.to(weight.dtype), weight.t())
    return out.copy_(product) if onto is None else torch.add(onto, product, out=out)


def _turns(spec: ModelSpec, positions: int) -> Tensor:
    """Cosines, then sines, of RoPE at each position: float32 [positions, head size]."""
    half = spec.hidden // spec.heads // 2
    rate = spec.rope_base ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], 1).float()

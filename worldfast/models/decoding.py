"""Decoding of one transformer with a cache of keys and values: first the prompt, then one token of each row at a
time.

Answers are short, so prompts take most of the time: a row of dist has 21 tokens before the 4 of its answer. But the
prompts of a test set have common beginnings, which stand in the cache once. Sorted, the prompts are a trie, and each
node is computed once: 8 tokens a row for ten thousand rows of dist.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from worldfast._native import core
from worldfast.models.sampling import Choice
from worldfast.models.tiles import alike_together, places_of
from worldfast.models.transformer import TransformerSpec


class Scratch:
    """Working memory of one thread, reused from tile to tile."""

    def __init__(self):
        self.arena, self._cache = core.Arena(), np.empty(0, dtype=np.float32)

    def cache(self, *shape: int) -> np.ndarray:
        """Return an uninitialised float32 array, valid until the next call."""
        size = math.prod(shape)
        if size > len(self._cache):
            self._cache = np.empty(size, dtype=np.float32)
        return self._cache[:size].reshape(shape)


class Prompts(NamedTuple):
    """R different prompts, sorted, as a trie of U nodes.

    Attributes
    ----------
    rows : ndarray
        int64 [N], indices among the given prompts.
    answer : ndarray
        int64 [N], index among the R for each of them.
    tokens : ndarray
        int32 [U], row after row.
    path : ndarray
        int32 [R, T], nodes of a row's tokens.
    length : ndarray
        int32 [R], tokens of a row.
    fresh : ndarray
        int32 [R], how many of its last tokens are new nodes, not shared with an earlier row.
    """

    rows: np.ndarray
    answer: np.ndarray
    tokens: np.ndarray
    path: np.ndarray
    length: np.ndarray
    fresh: np.ndarray


def share(tokens: np.ndarray, length: np.ndarray, tile: int) -> list[Prompts]:
    """Cut prompts into tiles of about `tile` nodes.

    Parameters
    ----------
    tokens : ndarray
        Integers [N, T].
    length : ndarray
        Integers [N], at least 1: row i is tokens[i, :length[i]].
    tile : int
        Nodes of a tile.

    Returns
    -------
    list of Prompts
    """
    column = np.arange(length.max(initial=1))
    length = length.astype(np.int64)
    tokens = np.where(column < length[:, None], tokens[:, : len(column)].astype(np.int32), -1)  # [N, T]
    order, alike = alike_together(tokens)
    tokens, length = tokens[order], length[order]
    different = alike < length
    answer = np.cumsum(different) - 1  # [N]
    tokens, length, alike = tokens[different], length[different], alike[different]  # of R prompts
    piece = np.cumsum(length - alike) // tile
    alike[np.flatnonzero(np.diff(piece, prepend=-1))] = 0
    fresh = length - alike
    before = np.cumsum(fresh) - fresh
    is_fresh = (alike[:, None] <= column) & (column < length[:, None])  # [R, T]
    path = places_of(length, alike, *np.broadcast_arrays(column, np.arange(len(length))[:, None]))
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


def greedy(
    spec: TransformerSpec,
    transformer: core.Transformer,
    model,
    prompts: Prompts,
    longest: int,
    end: int,
    scratch: Scratch,
    threads: int,
) -> list[np.ndarray]:
    """Answer R prompts greedily.

    Parameters
    ----------
    spec : TransformerSpec
    transformer : core.Transformer
        From `worldfast.models.cpu.native`.
    model : tuple
        Parameters of the model, float32 [P], and its packed matrices.
    prompts : Prompts
    longest : int
        Most tokens of an answer.
    end : int
        Token that ends an answer.
    scratch : Scratch
    threads : int

    Returns
    -------
    list of ndarray
        Tokens before `end`, int32 [up to `longest`] for each prompt.
    """
    R = len(prompts.length)
    # queries, keys and values of each block, all but the last rotated by position
    caches = scratch.cache(spec.layers, len(prompts.tokens) + R * (longest - 1), 3 * spec.hidden)
    path = np.pad(prompts.path, ((0, 0), (0, longest - 1)))
    turn = _turns(spec, path.shape[1])
    answers, rows = np.full((R, longest), end, dtype=np.int32), np.arange(R)
    tokens, length, fresh, first = prompts.tokens, prompts.length, prompts.fresh, 0
    for step in range(longest):
        following = np.empty(len(rows), dtype=np.int32)
        transformer.extend(*model, tokens, caches, turn, path, length, fresh, first, following, scratch.arena, threads)
        goes_on = following != end
        first += len(tokens)
        tokens, rows, path, length = (x[goes_on] for x in (following, rows, path, length))
        if not len(rows):
            break
        answers[rows, step] = tokens
        if step < longest - 1:
            path[np.arange(len(rows)), length] = first + np.arange(len(rows))
        length, fresh = length + 1, np.ones_like(length)
    return [answer[:n] for answer, n in zip(answers, (answers != end).sum(1))]


def drawn(
    spec: TransformerSpec,
    transformer: core.Transformer,
    model,
    prompts: Prompts,
    numbers: np.ndarray,
    draws: int,
    longest: int,
    choice: Choice,
    end: int,
    outputs: int,
    scratch: Scratch,
    threads: int,
) -> np.ndarray:
    """Draw answers to N prompts, of which R differ: these are computed once, and all their draws share their places.

    Parameters are those of `greedy`, and `numbers`, the row of each prompt for its random numbers; answers are int32
    [N, draws, longest], filled with `end`.
    """
    N = len(prompts.rows)
    found = np.full((N * draws, longest), end, dtype=np.int32)
    caches = scratch.cache(spec.layers, len(prompts.tokens) + N * draws * (longest - 1), 3 * spec.hidden)
    path = np.pad(prompts.path, ((0, 0), (0, longest - 1)))
    turn = _turns(spec, path.shape[1])
    row, draw, going = np.repeat(numbers, draws), np.tile(np.arange(draws), N), np.arange(N * draws)
    tokens, length, fresh, first = prompts.tokens, prompts.length, prompts.fresh, 0
    for place in range(longest):
        logits = np.empty((len(path), outputs), dtype=np.float32)
        transformer.extend(*model, tokens, caches, turn, path, length, fresh, first, logits, scratch.arena, threads)
        first += len(tokens)
        if place == 0:
            which = np.repeat(prompts.answer, draws)
            logits, path, length = logits[which], path[which], length[which]
        tokens = choice.tokens(logits, row[going], draw[going], place)
        found[going, place] = tokens
        goes_on = tokens != end
        tokens, going, path, length = (x[goes_on] for x in (tokens, going, path, length))
        if not len(going) or place == longest - 1:
            break
        path[np.arange(len(going)), length] = first + np.arange(len(going))
        length, fresh = length + 1, np.ones_like(length)
    return found.reshape(N, draws, longest)


def _turns(spec: TransformerSpec, positions: int) -> np.ndarray:
    """Return cosines, then sines, of RoPE at each position: float32 [positions, hidden / heads]."""
    half = spec.hidden // spec.heads // 2
    rate = spec.rope_base ** -(np.arange(half) / half) if spec.rope_base else np.zeros(half)
    angle = np.arange(positions)[:, None] * rate
    return np.concatenate([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

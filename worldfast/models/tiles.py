"""Rows of one model in tiles: rows with a common beginning stand together, and the shared beginning is computed once.

Rows of one task often begin alike, and causal attention makes a beginning independent of its row.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from worldfast._native import core
from worldfast.rows import Rows

LONGEST_SHARED = 16  # tokens at the beginning of rows that are compared


class Tile(NamedTuple):
    """Rows of one model, as the native core takes them: attention sees the L tokens of whole rows, everything else
    the U that differ.

    Attributes
    ----------
    tokens : ndarray
        int32 [U].
    row_start : ndarray
        int32 [R + 1], beginnings of rows among the L.
    place : ndarray
        int32 [L], each token's place among the U.
    shared : ndarray
        int32 [R], number of a row's first tokens that are shared with an earlier row.
    sources : ndarray
        int64 [K], places to read out.
    targets : ndarray, optional
        int64 [K], classes to answer there; None if nothing is learned.
    weights : ndarray, optional
        float32 [K], factors of the losses there; None means ones.
    """

    tokens: np.ndarray
    row_start: np.ndarray
    place: np.ndarray
    shared: np.ndarray
    sources: np.ndarray
    targets: np.ndarray | None = None
    weights: np.ndarray | None = None


class Piece(NamedTuple):
    """Tile, with its slice of all computed tokens and the indices of its scored positions, int64 [k]."""

    tile: Tile
    computed: slice
    scored: np.ndarray


def cut(rows: Rows, size: int, lanes: int) -> tuple[np.ndarray, list[Piece]]:
    """Cut a model's rows into tiles of about `size` tokens, whole rows each; a row shares its beginning with the row
    before it.

    Parameters
    ----------
    rows : Rows
        At least one token. The order of rows affects the sums of a gradient only among rows that begin alike.
    size : int
        Tokens of a tile.
    lanes : int
        The number of tiles is a multiple of this, unless it is one.

    Returns
    -------
    tokens : ndarray
        int32 [U], the computed tokens, tile after tile.
    pieces : list of Piece

    Raises
    ------
    ValueError
        A row is longer than the native engine takes.
    """
    # the types of a tile, whatever integers and floats the rows came in
    inputs, start, scored = (
        x.cpu().numpy().astype(dtype, copy=False)
        for x, dtype in ((rows.inputs, np.int32), (rows.row_start, np.int32), (rows.scored, np.int64))
    )
    learned = [
        None if x is None else x.cpu().numpy().astype(dtype, copy=False)
        for x, dtype in ((rows.targets, np.int64), (rows.weights, np.float32))
    ]
    length, L = np.diff(start), len(inputs)
    if (long := np.flatnonzero(length > core.attention_row_limit)).size:
        raise ValueError(
            f"rows: the native engine takes rows of at most {core.attention_row_limit:,} tokens, got "
            f"{length[long[0]]:,} in row {long[0]}; engine='plain' takes any"
        )
    column = np.arange(min(LONGEST_SHARED, length.max(initial=1)))
    beginnings = inputs[np.minimum(start[:-1, None] + column, L - 1)]
    order, alike = alike_together(np.where(column < length[:, None], beginnings, -1))
    length, begin = length[order], start[:-1][order]

    count = max(1, round(L / size))
    if count > 1:  # lanes of one length
        count = max(1, round(count / lanes)) * lanes
    first = np.concatenate([[0], np.cumsum(length)])  # [R + 1], where rows begin now
    bounds = np.unique([0, *np.searchsorted(first[:-1], np.arange(1, count) * L / count), len(length)])
    alike[bounds[:-1]] = 0

    row = np.repeat(np.arange(len(length)), length)  # [L], whose each token is
    within = np.arange(L) - first[row]
    place = places_of(length, alike, within, row)
    tokens = inputs[begin[row] + within][within >= alike[row]]
    computed = np.concatenate([[0], np.cumsum(length - alike)])  # [R + 1]

    at = np.searchsorted(scored, start)
    many = np.diff(at)[order]  # [R], positions of a row
    which = _ranges(at[:-1][order], many)  # [K], the rows' scored positions in the order of the tiles
    sources = place[scored[which] + np.repeat(first[:-1] - begin, many)]
    read = np.concatenate([[0], np.cumsum(many)])  # [R + 1]
    pieces = []
    for r0, r1 in pairwise(bounds):
        t, u, k = (slice(x[r0], x[r1]) for x in (first, computed, read))
        tile = Tile(
            tokens[u],
            (first[r0 : r1 + 1] - t.start).astype(np.int32),
            (place[t] - u.start).astype(np.int32),
            alike[r0:r1],
            sources[k] - u.start,
            *(None if x is None else x[which[k]] for x in learned),
        )
        pieces.append(Piece(tile, u, which[k]))
    return tokens, pieces


def alike_together(beginnings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by how they begin, and count what each shares with the row before it.

    Parameters
    ----------
    beginnings : ndarray
        Integers [R, C], the first tokens of each row, -1 after its end.

    Returns
    -------
    order : ndarray
        int64 [R]; rows that begin alike keep their order.
    alike : ndarray
        int32 [R], tokens that row order[i] shares with row order[i - 1].
    """
    order = np.lexsort(beginnings.T[::-1])
    beginnings = beginnings[order]
    same = (beginnings[1:] == beginnings[:-1]) & (beginnings[1:] >= 0)
    alike = np.zeros(len(order), dtype=np.int32)
    alike[1:] = np.cumprod(same, axis=1).sum(1)
    return order, alike


def places_of(length: np.ndarray, alike: np.ndarray, within: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return the places of tokens among those that are computed, row after row, each row without the tokens that it
    shares.

    Parameters
    ----------
    length, alike : ndarray
        Integers [R], tokens of a row, and how many of its first tokens it shares with the row before it.
    within, row : ndarray
        Integers of one shape: position of a token within its row, and the row.
    """
    width = int(alike.max(initial=0)) + 1
    # a shared token stands in the nearest row above that does not share it
    fresh = alike[:, None] <= np.arange(width)  # [R, C]
    owner = np.maximum.accumulate(np.where(fresh, np.arange(len(length))[:, None], 0), axis=0)
    owner = np.where(within < alike[row], owner[row, np.minimum(within, width - 1)], row)
    return (np.cumsum(length - alike) - length)[owner] + within


def _ranges(begin: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return begin[i], begin[i] + 1 ..., count[i] numbers, for each i in turn."""
    ends = np.cumsum(count)
    return np.arange(ends[-1]) + np.repeat(begin - (ends - count), count)

"""Walks by the native sampler as rows: states are the tokens, or are named anew in some of the rows."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from worldfast._native import core, thread_count
from worldfast.rows import Rows, Shape, require_batch

__all__ = ["LIMITS", "WHOLE", "Drawn", "Sampler", "contexts_of", "cumulative", "thresholds"]

LIMITS = core.walk_limits  # of sizes, as the native core has them
WHOLE = 1 << core.walk_bits  # the share of all


class Drawn(NamedTuple):
    """Walks as arrays.

    Attributes
    ----------
    tokens : ndarray
        int32 [n, l].
    chain : ndarray
        int32 [n], the chain of each.
    names : ndarray
        int32 [n, k], the token of each state.
    """

    tokens: np.ndarray
    chain: np.ndarray
    names: np.ndarray

    @property
    def states(self) -> np.ndarray:
        """The states behind the tokens, int64 [n, l]."""
        n, k = self.names.shape
        named = np.zeros((n, 1 + int(self.names.max(initial=0))), np.int64)
        np.put_along_axis(named, self.names.astype(np.int64), np.arange(k)[None], axis=1)
        return np.take_along_axis(named, self.tokens.astype(np.int64), axis=1)


class Sampler:
    """Walks of one length by a key, of which every state but the last is scored for the next: a worldfast.rows.Stream.

    Parameters
    ----------
    key : int
        64 bits that decide what is drawn.
    table : ndarray
        int64 [N, k + 1, k], thresholds of the steps from each state of N chains, then those of its first state.
    prior : ndarray
        int64 [N], thresholds of the chains.
    names : int
        Tokens, of which names are drawn; at least k.
    renamed : ndarray
        int64 [N], thresholds of the rows of each chain whose states have drawn names; in the others a state's name is
        its number.
    length, rows : int
        States of a row, and rows of an epoch.
    """

    def __init__(
        self, key: int, table: np.ndarray, prior: np.ndarray, names: int, renamed: np.ndarray, length: int, rows: int
    ):
        self.shape, self.rows, self.longest = Shape(names, names), rows, length
        self._given = key, table, prior, names, renamed

    def drawn(self, start: int, n: int) -> Drawn:
        """Return walks `start` to `start + n`; raises as `worldfast.rows.require_batch`."""
        start, n = require_batch(start, n, self.longest)
        states = self._given[1].shape[2]
        made = Drawn(*(np.empty(shape, np.int32) for shape in ((n, self.longest), (n,), (n, states))))
        core.walks(*self._given, start, n, *made, thread_count(None))
        return made

    def batch(self, start: int, n: int) -> Rows:
        """Return rows `start` to `start + n`: every state but the last is scored for the next one."""
        tokens = self.drawn(start, n).tokens
        targets = torch.from_numpy(tokens[:, 1:].astype(np.int64).ravel())
        return self.packed(tokens, _scored(n, self.longest))._replace(targets=targets)

    def packed(self, tokens: np.ndarray, scored: np.ndarray | torch.Tensor) -> Rows:
        """Return walks [n, l] as rows, scored at positions of them all."""
        n, length = tokens.shape
        return Rows(torch.from_numpy(tokens.reshape(-1)), _row_start(n, length), torch.as_tensor(scored, device="cpu"))


def thresholds(transitions: np.ndarray, first: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `Sampler` reads of N chains of k states, cumulative shares of WHOLE.

    Parameters
    ----------
    transitions : ndarray
        float64 [N, k, k], shares of the next state from each.
    first : ndarray
        float64 [N, k], shares of the first state.
    prior : ndarray
        float64 [N], shares of the rows that follow each chain.

    Returns
    -------
    (ndarray, ndarray)
        int64 [N, k + 1, k] and int64 [N].
    """
    return cumulative(np.concatenate([transitions, first[:, None]], axis=1)), cumulative(prior)


def cumulative(shares: np.ndarray) -> np.ndarray:
    """Return cumulative shares along the last axis, int64: of WHOLE, from the last one above 0 on WHOLE itself."""
    found = np.rint(np.minimum(np.cumsum(shares, axis=-1), 1) * WHOLE).astype(np.int64)
    possible = shares > 0  # from the last such state on the threshold is the whole, so that no other is reached
    after = np.cumsum(possible[..., ::-1], axis=-1)[..., ::-1] - possible
    return np.where(after == 0, WHOLE, found)


def contexts_of(length: int) -> np.ndarray:
    """Return numbers of tokens that are read before the next one is asked for: 1, 2, 5, 10 ... and the whole row."""
    steps = [m * 10**e for e in range(4) for m in (1, 2, 5) if m * 10**e < length]
    return np.array([*steps, length])


# What batches of one size share.


@lru_cache(maxsize=16)
def _row_start(n: int, length: int) -> torch.Tensor:
    return torch.arange(n + 1, dtype=torch.int32, device="cpu") * length


@lru_cache(maxsize=16)
def _scored(n: int, length: int) -> torch.Tensor:
    return torch.from_numpy(np.arange(n * length).reshape(n, length)[:, :-1].ravel())

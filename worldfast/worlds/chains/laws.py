"""Transition matrices, drawn from a seed: their rows, stationary shares, prior, and the thresholds by which walks go.

Nothing here depends on a mathematical library, whose last bits differ from machine to machine: there are sums,
products, quotients and sorted numbers alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from worldfast.display import size_text
from worldfast.rows import key_of
from worldfast.worlds.walk_rows import WHOLE, cumulative, thresholds

__all__ = ["BLOCK", "LAWS", "PRIORS", "WITHIN", "Chains", "drawn", "given", "stationary"]

LAWS = ("dirichlet", "blocks")
PRIORS = ("random", "equal")
BLOCK, WITHIN = 5, 5  # states of a block, and the Dirichlet parameter of steps within one
SHARE_BYTES = 68  # at most, of a number that is drawn, while chains and their thresholds are made
PLANNED = 2**20  # shares, from which on their memory is planned
REST = 1e-9  # by which the shares of a row that is given may miss 1


class Chains(NamedTuple):
    """N chains of k states.

    Attributes
    ----------
    transitions : ndarray
        float64 [N, k, k], shares of the next state from each.
    stationary : ndarray
        float64 [N, k], shares of states in a long walk, which are those of the first one.
    prior : ndarray
        float64 [N], shares of the rows that follow each chain.
    """

    transitions: np.ndarray
    stationary: np.ndarray
    prior: np.ndarray

    def thresholds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what the native sampler reads: int64 [N, k + 1, k] and int64 [N], cumulative shares of 2^53."""
        return thresholds(*self)


@lru_cache(maxsize=32)
def drawn(n: int, states: int, law: str, concentration: int, prior: str, key: tuple) -> Chains:
    """Draw n chains; those of a smaller n and the same key are the first of them.

    Parameters
    ----------
    n, states : int
    law : {"dirichlet", "blocks"}
        Each row from a Dirichlet distribution of one parameter; or, within blocks of 5 states, of 5, elsewhere of 1.
    concentration : int
        Parameter of the former. Sorted uniform numbers are cut at every so many of them, which is exact, and the same
        everywhere, for whole numbers.
    prior : {"random", "equal"}
        Of chains: in proportion to uniform numbers, or the same for all.
    key : tuple
        What the draw depends on besides.

    Raises
    ------
    MemoryError
        The memory that is left does not hold them.
    """
    random = np.random.Generator(np.random.Philox(key_of("transitions", states, law, concentration, *key)))
    parameter = np.full((states, states), concentration)
    if law == "blocks":
        block = np.arange(states) // BLOCK
        parameter = np.where(block[:, None] == block, WITHIN, 1)
    ends = np.cumsum(parameter, axis=1)  # [k, k]
    _planned(n, states, n * states * int(ends[0, -1]))
    points = np.sort(random.random((n, states, ends[0, -1] - 1)), axis=-1)
    cuts = np.take_along_axis(points, np.broadcast_to(ends[:, :-1] - 1, (n, states, states - 1)), axis=-1)
    transitions = np.diff(cuts, axis=-1, prepend=0, append=1)
    weight = np.ones(n)
    if prior == "random":
        weight = np.random.Generator(np.random.Philox(key_of("prior", *key))).random(n)
    return _frozen(transitions, weight)


def _planned(n: int, states: int, shares: int) -> None:
    """Raise a MemoryError if memory does not hold as many shares, before any is taken."""
    if shares < PLANNED:
        return
    from worldfast.training import limit_of  # imports all of training, so only for large ones

    need, limit = shares * SHARE_BYTES, limit_of(None, "cpu")
    if need > limit:
        raise MemoryError(
            f"chains: {n:,} of {states:,} states take {size_text(need)} while they are drawn, but there are "
            f"{size_text(limit)}: take fewer chains or states"
        )


@lru_cache(maxsize=32)
def given(transitions: tuple, prior: str, key: tuple) -> Chains:
    """Return chains whose transitions are given, as nested tuples.

    Raises
    ------
    ValueError
        They are no transitions, or a walk through one of the chains does not come to every state.
    """
    try:
        found = np.array(transitions, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("transitions: expected a square of numbers for each chain, all of one size") from None
    if found.ndim != 3 or found.shape[1] != found.shape[2] or found.shape[1] < 2:
        raise ValueError(f"transitions: expected shape [chains, states, states], got {list(found.shape)}")
    wrong = ~(np.isfinite(found).all(-1) & (found >= 0).all(-1) & (abs(found.sum(-1) - 1) <= REST))
    if wrong.any():
        n, i = np.argwhere(wrong)[0]
        raise ValueError(
            f"transitions: expected shares of at least 0 that sum to 1, got {found[n, i].tolist()} from state {i} of "
            f"chain {n}"
        )
    steps = np.diff(cumulative(found), axis=-1, prepend=0)  # of WHOLE: a share far below 2^-53 is never drawn
    reached = steps > 0
    for _ in range(int(found.shape[1]).bit_length()):  # twice as many steps each time
        reached = (reached.astype(np.float32) @ reached.astype(np.float32) > 0) | reached
    if not reached.all():
        n, i, j = np.argwhere(~reached)[0]
        stays = steps[n, i, i] == WHOLE
        raise ValueError(
            f"transitions: chain {n} {'cannot leave' if stays else 'does not lead to every state from'} state {i}"
            + ("" if stays else f", such as {j}")
            + ": what a model reads there soon says nothing of the chain"
        )
    weight = np.ones(len(found))
    if prior == "random":
        weight = np.random.Generator(np.random.Philox(key_of("prior", *key))).random(len(found))
    return _frozen(found, weight)


def _frozen(transitions: np.ndarray, weight: np.ndarray) -> Chains:
    chains = Chains(transitions, stationary(transitions), weight / np.cumsum(weight)[-1])
    for one in chains:
        one.flags.writeable = False
    return chains


def stationary(transitions: np.ndarray) -> np.ndarray:
    """Return the stationary shares of chains [..., k, k] that lead from each state to all: float64 [..., k].

    States are taken away one after the other (Grassmann, Taksar, Heyman 1985): there is no difference of numbers, so
    that nearly no digit is lost.
    """
    P = np.moveaxis(np.asarray(transitions, np.float64), (-2, -1), (0, 1)).copy()  # sums run along the first axis
    k = len(P)
    for n in range(k - 1, 0, -1):
        P[:n, n] /= P[n, :n].sum(axis=0)
        P[:n, :n] += P[:n, None, n] * P[None, n, :n]
    shares = np.ones_like(P[0])
    for n in range(1, k):
        shares[n] = (shares[:n] * P[:n, n]).sum(axis=0)
    return np.moveaxis(shares / shares.sum(axis=0), 0, -1)

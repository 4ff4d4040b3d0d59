"""Four predictors of the next state, exact in float64: what a model of walks could compute. Source: arXiv 2412.01003.

Two look chains up: a posterior over those that were trained on, from the states of the context or from its steps. Two
infer the next state from counts of the context, of states or of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from worldfast.arrays import integers, numbers
from worldfast.errors import one_of, several, typed
from worldfast.worlds.chains.laws import Chains, stationary

__all__ = ["NAMES", "divergence", "predict"]

NAMES = ("Uni-Ret", "Bi-Ret", "Uni-Inf", "Bi-Inf")
AT_ONCE = 2**22  # numbers of a posterior, or of all that matrices of counts become: 32 MiB
NEVER = -1e6  # logarithm of no share: below that of any walk that can come


def predict(
    chains: Chains, tokens: np.ndarray, positions: Sequence[int] | np.ndarray, names: Sequence[str] = NAMES
) -> dict[str, np.ndarray]:
    """Return the shares of the next state that predictors give after the first t + 1 states of each row.

    Parameters
    ----------
    chains : Chains
        Those that are looked up.
    tokens : ndarray
        Integers [n, l], states.
    positions : sequence of int
        The t, ascending.
    names : sequence of str
        Of NAMES. Uni-Ret: of a posterior p_n prod_i pi_n(s_i) over chains, sum_n u_n pi_n. Bi-Ret: of p_n pi_n(s_1)
        prod_i T_n(s_i, s_i+1), sum_n b_n T_n(s_t, .). Bi-Inf: (c(s_t, j) + 1) / (c(s_t) + k), c the steps of the
        context. Uni-Inf: the stationary shares of the matrix that these are the rows of. Where no chain has a share of
        every step, those are looked up that lack the fewest: the limit of small shares in place of none.

    Returns
    -------
    dict of str to ndarray
        float64 [n, p, k].

    Raises
    ------
    TypeError, ValueError
        A token is no state of the chains, the positions do not ascend within a row, or a name is none of a predictor.
    """
    typed("chains", chains, Chains, "a set of chains, as `set_of` of a dataset returns it")
    k = chains.transitions.shape[-1]
    tokens, positions, names = _checked(tokens, positions, names, k)
    found: dict[str, np.ndarray] = {}
    first, states, steps = (_log(x) for x in (chains.prior, chains.stationary, chains.transitions))
    if "Uni-Ret" in names:
        seen = states.T  # [k, N]
        mean = lambda weight, _: weight @ chains.stationary  # noqa: E731
        said = lambda rows, some: seen[:, some][tokens[rows]]  # noqa: E731
        found["Uni-Ret"] = _looked_up(first, said, tokens.shape, positions, mean)
    if "Bi-Ret" in names:
        moved = np.ascontiguousarray(np.moveaxis(np.concatenate([steps, states[:, None]], axis=1), 0, -1))
        came = np.concatenate([np.full_like(tokens[:, :1], k), tokens[:, :-1]], axis=1)  # k: from nowhere
        at = tokens[:, positions]

        def of_steps(weight, rows):
            here, shares = at[rows], np.empty((*at[rows].shape, k))
            for state in range(k):  # one product for all contexts that end in a state
                shares[here == state] = weight[here == state] @ chains.transitions[:, state]
            return shares

        said = lambda rows, some: moved[..., some][came[rows], tokens[rows]]  # noqa: E731
        found["Bi-Ret"] = _looked_up(first, said, tokens.shape, positions, of_steps)
    found |= _inferred(tokens, positions, k, [name for name in NAMES[2:] if name in names])
    return {name: found[name] for name in NAMES if name in found}


def _checked(tokens, positions, names, k: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return rows of tokens, positions in them and names of predictors, if that is what they are."""
    tokens, positions = (integers(x, name, None) for x, name in ((tokens, "tokens"), (positions, "positions")))
    if tokens.ndim != 2 or positions.ndim != 1 or not tokens.shape[1] or not len(positions):
        raise ValueError(
            "tokens, positions: expected rows of tokens [n, l] and some positions [p], got shapes "
            f"{list(tokens.shape)} and {list(positions.shape)}"
        )
    if len(outside := tokens[(tokens < 0) | (tokens >= k)]):
        raise ValueError(f"tokens: expected states of the chains, 0 to {k - 1}, got {outside[0]}")
    last = tokens.shape[1] - 1
    if positions[0] < 0 or positions[-1] > last or (np.diff(positions) <= 0).any():
        raise ValueError(f"positions: expected ascending ones of a row, 0 to {last}, got {positions.tolist()}")
    names = tuple(one_of("predictor", name, NAMES) for name in several("names", names, "names of predictors"))
    return tokens, positions, names


def _log(shares: np.ndarray) -> np.ndarray:
    """Return logarithms; of no share a finite one, so that a context that no chain can make has a posterior too."""
    return np.log(shares, out=np.full_like(shares, NEVER), where=shares > 0)


def _looked_up(prior, logs, shape, positions, mean) -> np.ndarray:
    """Weigh chains by a prior [N] and logs(rows, some) [n, l, some of N], what each position says of some chains, and
    take a mean of theirs.
    """
    parts, each, some = [], max(1, AT_ONCE // (shape[1] * len(prior))), max(1, AT_ONCE // shape[1])
    for begin in range(0, shape[0], each):
        rows = slice(begin, begin + each)
        said = [np.cumsum(logs(rows, slice(c, c + some)), axis=1)[:, positions] for c in range(0, len(prior), some)]
        weight = prior + np.concatenate(said, axis=2)
        weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
        parts.append(mean(weight / weight.sum(axis=-1, keepdims=True), rows))
    return np.concatenate(parts)


def _inferred(tokens, positions, k: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Infer the next state from the matrices of `_counted`, of a few rows and positions at a time."""
    n, p, most = len(tokens), len(positions), max(2, AT_ONCE // (8 * k**2))
    found = {name: np.empty((n, p, k)) for name in names}
    for rows, at in product(_parts(n, max(1, most // p)), _parts(p, most)) if names else ():
        matrices = _counted(tokens[rows], positions[at], k)
        if "Uni-Inf" in names:
            found["Uni-Inf"][rows, at] = stationary(matrices)
        if "Bi-Inf" in names:
            here = tokens[rows, positions[at], None, None]
            found["Bi-Inf"][rows, at] = np.take_along_axis(matrices, here, axis=2)[:, :, 0]
    return found


def _parts(n: int, each: int) -> list[slice]:
    """Cut n things into parts of `each` or more, below twice as many; fewer are one part.

    No matrix is left alone: the sums of a single one may be rounded in another order than those of several.
    """
    parts = max(1, n // each)
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def _counted(tokens, positions, k: int) -> np.ndarray:
    """Return the matrices of steps counted up to each position, one more of each: float64 [n, p, k, k]."""
    n, length = tokens.shape
    counts = np.zeros((n, len(positions), k, k))
    row, step = np.indices((n, length - 1))
    since = np.searchsorted(positions, step + 1)  # the first of the positions that has seen the step
    seen = since < len(positions)
    np.add.at(counts, (row[seen], since[seen], tokens[:, :-1][seen], tokens[:, 1:][seen]), 1)
    counts = np.cumsum(counts, axis=1) + 1
    return counts / counts.sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the Kullback-Leibler divergence of q from p along the last axis, sum_j p_j log(p_j / q_j), in nats.

    Infinite where q has no share of what p has.

    Raises
    ------
    TypeError, ValueError
        They are no arrays of numbers of at least 0 in shapes that fit each other.
    """
    p, q = (numbers(x, name, None).array(finite=False) for x, name in ((p, "p"), (q, "q")))
    if p.shape != q.shape:
        try:
            p, q = np.broadcast_arrays(p, q)
        except ValueError:
            raise ValueError(f"p, q: expected shapes that fit each other, got {[*p.shape]} and {[*q.shape]}") from None
    if not p.ndim or min(p.min(initial=0), q.min(initial=0)) < 0:
        raise ValueError("p, q: expected shares of at least 0 along the last axis")
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    return np.maximum(terms.sum(axis=-1), 0.0)

"""Scores of heads of attention: weight on the token before, and on what came after the same token earlier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast.models import Ensemble, attention_weights
from worldfast.rows import Rows

__all__ = ["induction", "lines_of_heads", "scores_of_heads"]


def induction(tokens: np.ndarray, attended: np.ndarray) -> dict[str, np.ndarray]:
    """Score heads by the tokens that they attend to.

    Parameters
    ----------
    tokens : ndarray
        Integers [T].
    attended : ndarray
        float64 [H, T, T], weights of each position over those up to it.

    Returns
    -------
    dict of str to ndarray
        [H]: "previous", mean weight on the token before; "induction", mean weight on tokens that came after the present
        one earlier, where there are such; "chance", what even attention would have there.
    """
    T = len(tokens)
    before = attended[:, np.arange(1, T), np.arange(T - 1)].mean(axis=1)
    after = np.zeros((T, T), dtype=bool)
    after[:, 1:] = (tokens[:, None] == tokens[None, :-1]) & (np.arange(T)[:, None] > np.arange(T - 1))
    some = after.any(axis=1)
    even = (after.sum(axis=1) / np.arange(1, T + 1))[some].mean() if some.any() else np.nan
    found = (attended * after).sum(axis=2)[:, some].mean(axis=1) if some.any() else np.full(len(attended), np.nan)
    return {"previous": before, "induction": found, "chance": np.full(len(attended), even)}


def scores_of_heads(ensemble: Ensemble, rows: Rows, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Return `induction` of all heads of a model, means over the rows of tokens [n, T] that have each score.

    Returns
    -------
    dict of str to ndarray
        [layers, heads] each; NaN of a score that no row has.
    """
    found = [
        [induction(row, weights.numpy(force=True)) for row, weights in zip(tokens, of_rows)]
        for of_rows in attention_weights(ensemble, rows)
    ]
    table = {name: np.array([[one[name] for one in block] for block in found]) for name in found[0][0]}
    return {name: _mean_of_some(of, axis=1) for name, of in table.items()}


def _mean_of_some(X: np.ndarray, axis: int) -> np.ndarray:
    """Return means of what is not NaN, without the warning of numpy.nanmean where all is."""
    some = np.isfinite(X)
    count = some.sum(axis=axis)
    sums = np.where(some, X, 0).sum(axis=axis)
    return np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)


def lines_of_heads(about: dict, scores: Mapping[str, np.ndarray]) -> list[dict]:
    """Return a line for each head, counted from 1, with its scores."""
    return [
        about | {"block": block + 1, "head": head + 1} | {name: float(of[block, head]) for name, of in scores.items()}
        for block, head in np.ndindex(next(iter(scores.values())).shape)
    ]

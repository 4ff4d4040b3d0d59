"""A model as a mixture of predictors: the weights on the simplex whose mixture is nearest to what the model says.

Linear interpolation of algorithms, arXiv 2412.01003. The divergence is convex in the weights, and expectation
maximisation descends to its least value from any start inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldfast.worlds.chains.predictors import divergence

__all__ = ["Mixture", "interpolate"]

GAP = 1e-4  # nats, above the least divergence
MOST = 2000  # steps


class Mixture(NamedTuple):
    """Nearest mixtures, one for each of c contexts.

    Attributes
    ----------
    weights : ndarray
        float64 [c, A].
    divergence : ndarray
        float64 [c], mean over rows of that of the mixture from the model, in nats.
    gap : ndarray
        float64 [c], by which that is above its least value, at most.
    """

    weights: np.ndarray
    divergence: np.ndarray
    gap: np.ndarray


def interpolate(model: np.ndarray, predictors: np.ndarray) -> Mixture:
    """Find the weights w of least mean divergence KL(model || sum_a w_a P_a), for each context alone.

    Parameters
    ----------
    model : ndarray
        [n, c, k], shares of the next state after c contexts of n rows.
    predictors : ndarray
        [A, n, c, k], those of A predictors. Of predictors that are equal, weights stay as they began: the same.

    Returns
    -------
    Mixture
    """
    A, n, c, k = predictors.shape
    weights, gaps = np.empty((c, A)), np.empty(c)
    for context in range(c):
        target = model[:, context].ravel() / n
        parts = predictors[:, :, context].reshape(A, n * k)
        weights[context], gaps[context] = _nearest(target, parts)
    mixed = np.einsum("ca,anck->nck", weights, predictors)
    return Mixture(weights, divergence(model, mixed).mean(axis=0), gaps)


def _nearest(target: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, float]:
    seen = target > 0
    target, parts = target[seen], parts[:, seen]
    weights = np.full(len(parts), 1 / len(parts))
    for step in range(MOST):
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = parts @ (target / (weights @ parts))
        gap = float(gain.max() - 1)  # of a convex function, by its derivative toward each corner
        if gap <= GAP or step == MOST - 1:
            break
        weights = weights * gain
        weights /= weights.sum()
    return weights, gap

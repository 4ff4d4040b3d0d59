"""A model as a mixture of predictors: the weights on the simplex whose mixture is nearest to what the model says.

Linear interpolation of algorithms, arXiv 2412.01003. The divergence is convex in the weights, and expectation
maximisation descends to its least value from any start inside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldfast.arrays import numbers
from worldfast.worlds.chains.predictors import divergence

__all__ = ["Mixture", "interpolate"]

GAP = 1e-4  # nats, above the least divergence
MOST = 2000  # steps
REST = 1e-5  # by which the shares of a state may miss 1, as those of a softmax in float32 do


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

    Raises
    ------
    TypeError, ValueError
        The arrays are not of these shapes, their shares are not, or no predictor has a share of what the model says.
    """
    model = _shares(model, "model", ("n", "c", "k"))
    predictors = _shares(predictors, "predictors", ("A", *model.shape))
    A, n, c, k = predictors.shape
    if len(never := np.argwhere((model > 0) & (predictors == 0).all(axis=0))):
        row, context, state = never[0]
        raise ValueError(
            f"predictors: none has a share of state {state} in row {row}, context {context}, where the model has one: "
            "every mixture is infinitely far from it"
        )
    weights, gaps = np.empty((c, A)), np.empty(c)
    for context in range(c):
        target = model[:, context].ravel() / n
        parts = predictors[:, :, context].reshape(A, n * k)
        weights[context], gaps[context] = _nearest(target, parts)
    mixed = np.einsum("ca,anck->nck", weights, predictors)
    return Mixture(weights, divergence(model, mixed).mean(axis=0), gaps)


def _shares(X, name: str, shape: tuple) -> np.ndarray:
    found = numbers(X, name, shape).array()
    if not found.size:
        raise ValueError(f"{name}: expected some shares, got shape {list(found.shape)}")
    if (found < 0).any() or (off := abs(found.sum(axis=-1) - 1).max()) > REST:
        what = f"got {found.min():g}" if (found < 0).any() else f"theirs miss it by up to {off:g}"
        raise ValueError(f"{name}: expected shares of at least 0 that sum to 1 along the last axis, {what}")
    return found


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

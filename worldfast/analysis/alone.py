"""Probe of some items alone: is a map of them somewhere in the representation, whether or not it is that of others?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldfast.analysis.probe import located, scored
from worldfast.analysis.scale import lengths, magnitude, mean
from worldfast.arrays import ArrayLike
from worldfast.errors import whole

__all__ = ["Alone", "probe_alone"]

PENALTIES = np.logspace(-2, 5, 15)  # of ridge regression on standardised features
FOLDS = 10


class Alone(NamedTuple):
    """Scores of a probe that was fitted and tried on the same kind of items, in turn.

    Attributes
    ----------
    r2 : float
        Share of the variance of their places that it explains, mean of the coordinates.
    mean_error : float
        Mean distance between true and predicted places, in the unit of xy.
    constant_error : float
        The same of the best constant place: what nobody needs a representation for.
    n : int
        Number of items.
    """

    r2: float
    mean_error: float
    constant_error: float
    n: int


def probe_alone(X: ArrayLike, xy: ArrayLike, folds: int = FOLDS, seed: int = 0) -> Alone:
    """Fit a ridge probe on nine tenths of some items, and score it on the other tenth, in turn.

    A probe of other items may miss these because they are nowhere, or because they are elsewhere. The penalty is chosen
    inside each fit, by leaving out one item at a time, so fewer items than features are enough.

    Parameters
    ----------
    X : array [n, d]
        Representations of the items.
    xy : array [n, 2]
        Their coordinates.
    folds : int
        Number of parts, each left out once.
    seed : int
        Seed of the parts.

    Returns
    -------
    Alone

    Raises
    ------
    ValueError
        Shapes disagree, X is not finite, a coordinate does not vary, or there are fewer items than folds.

    Notes
    -----
    Source: ridge regression with generalised cross-validation as in scikit-learn's RidgeCV.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, xy = located(X, xy)
    folds, seed = whole("folds", folds, 2), whole("seed", seed, 0)
    if len(X) < folds:
        raise ValueError(f"X: expected at least {folds} items, one for each fold, got {len(X)}")
    X, size = X / magnitude(X, 0), magnitude(xy)
    xy = xy / size
    part = np.empty(len(X), dtype=int)
    part[np.random.default_rng(seed).permutation(len(X))] = np.arange(len(X)) % folds
    predicted, constant = np.empty_like(xy), np.empty_like(xy)
    for fold in range(folds):
        test = part == fold
        probe = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(X[~test], xy[~test])
        predicted[test], constant[test] = probe.predict(X[test]), xy[~test].mean(0)
    r2, errors = scored(xy, predicted)
    return Alone(float(r2.mean()), mean(errors) * size, mean(lengths(constant - xy)) * size, len(X))

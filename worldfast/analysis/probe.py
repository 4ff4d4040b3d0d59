"""Linear probes: is the map a linear function of the representation?

Ordinary least squares from representations to coordinates, scored on cities the probe has not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from worldfast.analysis.tables import labelled

if TYPE_CHECKING:
    import pandas

__all__ = ["Fit", "Probe", "fit_map", "held_out", "linear_probe", "probe_over_training", "probe_table", "scored"]

SMALLEST = 1e-6  # of singular values, as a share of the largest: scikit-learn's
SINGULAR = 10 * SMALLEST**2  # reciprocal condition of Z'Z below which singular values are looked at
CONSTANT = 1e-14  # a feature's spread as a share of its mean, which is rounding


@dataclass(frozen=True)
class Probe:
    """What a linear probe found.

    r2            float64 [2], of x and y, on the held-out cities
    mean_error    mean distance between true and predicted places of held-out cities, in the unit of xy
    median_error  its median
    predicted     float32 [n, 2], every city where the probe places it
    """

    r2: np.ndarray
    mean_error: float
    median_error: float
    predicted: np.ndarray


def held_out(n, share=0.2, seed=0):
    """A random choice, by `seed`, of things to leave out of a fit: bool [n], round(share * n) of them True."""
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    mask = np.zeros(n, dtype=bool)
    mask[np.random.default_rng(seed).permutation(n)[: round(share * n)]] = True
    return mask


def linear_probe(X, xy, test, ridge=None):
    """Fits xy from X on the cities where `test` is False, and scores the others.

    X      [n, d], representations
    xy     [n, 2], coordinates
    test   bool [n], the held-out cities
    ridge  penalty of a ridge regression on standardised features; None: ordinary least squares

    Returns a Probe. Raises ValueError where shapes disagree, X is not finite, or there are no more cities than features
    (ordinary least squares then fits anything).
    Source: the probes of arXiv 2602.00533; scikit-learn's LinearRegression and Ridge.
    """
    X, xy, test = _checked(X, xy, test)
    if test.sum() < 2:
        raise ValueError(f"test: expected at least 2 held-out cities, got {int(test.sum())}")
    predicted = fit_map(X[~test], xy[~test], ridge).predict(X)
    r2, errors = scored(xy[test], predicted[test])
    return Probe(r2, float(errors.mean()), float(np.median(errors)), predicted.astype(np.float32))


def _checked(X, xy, test):
    X, xy, test = np.asarray(X, dtype=np.float64), np.asarray(xy, dtype=np.float64), np.asarray(test)
    if X.ndim != 2 or xy.shape != (len(X), 2):
        raise ValueError(f"expected X [n, d] and xy [n, 2], got {list(X.shape)} and {list(xy.shape)}")
    if test.dtype != bool or test.shape != (len(X),):
        raise ValueError(f"test: expected a bool mask [{len(X)}], got {test.dtype} {list(test.shape)}")
    return X, xy, test


@dataclass(frozen=True)
class Fit:
    """A linear map from representations to coordinates: slope float64 [d, 2], intercept float64 [2]."""

    slope: np.ndarray
    intercept: np.ndarray

    def predict(self, X):
        """[n, d] -> float64 [n, 2]."""
        return np.asarray(X, dtype=np.float64) @ self.slope + self.intercept


def fit_map(X, xy, ridge=None):
    """The least-squares Fit of xy [n, 2] from X [n, d], or a ridge regression on standardised features.

    Solved by the normal equations, with one step of refinement on the residuals that gives back the digits these cost
    (Bjorck, "Stability analysis of the method of seminormal equations", 1987); where X is near singular, by its
    singular values, those below a millionth of the largest taken for none: the same as scikit-learn's LinearRegression.

    Raises ValueError where X is not finite, or where there are no more cities than features and no ridge.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
    from scipy.linalg.lapack import dpocon

    X, xy = np.asarray(X, dtype=np.float64), np.asarray(xy, dtype=np.float64)
    n, d = X.shape
    if not np.isfinite(X).all():
        raise ValueError("X: holds NaN or infinity")
    if ridge is not None and not ridge > 0:
        raise ValueError(f"ridge: expected a positive penalty, got {ridge}")
    if ridge is None and n <= d + 1:
        raise ValueError(
            f"a least-squares probe of {d} features needs more than {d + 1} cities, got {n}: "
            "pass ridge=1.0 for a penalised fit"
        )
    middle, mean = X.mean(0), xy.mean(0)
    Z, Y = X - middle, xy - mean
    if ridge is not None:
        spread = Z.std(0)
        spread[spread <= CONSTANT * np.abs(middle)] = 1.0
        Z /= spread
        G = Z.T @ Z
        G[np.diag_indices(d)] += ridge
        slope = np.linalg.solve(G, Z.T @ Y) / spread[:, None]
        return Fit(slope, mean - middle @ slope)
    G = Z.T @ Z
    try:
        factor = cho_factor(G, check_finite=False)
        condition = dpocon(factor[0], np.abs(G).sum(0).max(), uplo="U")[0]
    except LinAlgError:
        condition = 0.0
    if condition > SINGULAR:
        slope = cho_solve(factor, Z.T @ Y, check_finite=False)
        slope += cho_solve(factor, Z.T @ (Y - Z @ slope), check_finite=False)
    else:
        slope = lstsq(Z, Y, cond=SMALLEST, check_finite=False)[0]
    return Fit(slope, mean - middle @ slope)


def scored(xy, predicted):
    """R2 of x and y, float64 [2], and the distance of every prediction from its place, float64 [n].

    R2 is scikit-learn's r2_score: 1 - residual / variance; of a coordinate that does not vary 1 where the prediction is
    exact, else 0.
    """
    from sklearn.metrics import r2_score

    errors = np.linalg.norm(predicted - xy, axis=1)
    return np.asarray(r2_score(xy, predicted, multioutput="raw_values"), dtype=np.float64), errors


def probe_over_training(activations, layer, xy, test, ridge=None):
    """A probe at every step of a run: list of Probe, in the order of activations.steps.

    activations  Activations, or anything with .steps and [step, layer] -> [n, d]

    xy, test and ridge as in `linear_probe`.
    """
    work = [(step, layer) for step in activations.steps]
    return _in_parallel(lambda key: linear_probe(activations[key], xy, test, ridge), work)


def probe_table(
    activations,
    layers: Sequence[int],
    xy,
    test,
    *,
    rows: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    ridge: float | None = None,
    run: str | None = None,
) -> pandas.DataFrame:
    """Probes of every layer at every checkpoint.

    activations  Activations, or anything with .steps and [step, layer] -> [n, d]
    layers       their numbers
    xy, test     as for `linear_probe`, row i for row i of the activations
    rows         [S], rows seen at each of activations.steps; None: no such column
    steps        those to look at; None: all
    ridge        as for `linear_probe`
    run          a name, for the column of that name; None: no such column

    Returns the columns run, layer, step, rows, r2_x, r2_y, r2 (their mean), mean_error, median_error (in the unit of
    xy), n_fitted, n_held_out. ValueError as `linear_probe`, or where `rows` is of another length, a step unknown.
    """
    import pandas as pd

    known = [int(step) for step in activations.steps]
    if rows is not None and len(rows) != len(known):
        raise ValueError(f"rows: expected {len(known)}, one for each step of the activations, got {len(rows)}")
    steps = known if steps is None else [int(step) for step in steps]
    for step in steps:
        if step not in known:
            raise ValueError(f"steps: {step} is not among the steps of the activations, {known}")
    work = list(product(layers, steps))
    probes = _in_parallel(lambda key: linear_probe(activations[key[1], key[0]], xy, test, ridge), work)
    table = pd.DataFrame([{"layer": layer, "step": step} | _found(probe) for (layer, step), probe in zip(work, probes)])
    if rows is not None:
        seen = dict(zip(known, map(int, rows)))
        table.insert(2, "rows", table["step"].map(seen))
    held = int(np.asarray(test).sum())
    return labelled(table.assign(n_fitted=len(test) - held, n_held_out=held), run=run)


def _found(probe: Probe) -> dict[str, float]:
    return {
        "r2_x": float(probe.r2[0]),
        "r2_y": float(probe.r2[1]),
        "r2": float(probe.r2.mean()),
        "mean_error": probe.mean_error,
        "median_error": probe.median_error,
    }


def _in_parallel(function, work):
    from threadpoolctl import threadpool_limits

    # The products of one probe are too small to share out among threads; probes are not.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, work))

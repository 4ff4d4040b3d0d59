"""Linear probes: tests of how well coordinates are a linear function of the representation.

Ordinary least squares from representations to coordinates, scored on items that the probe has not seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from worldfast import frames as pd
from worldfast.analysis.scale import CONSTANT, lengths, magnitude, mean, single, varies
from worldfast.analysis.tables import labelled
from worldfast.arrays import ArrayLike, ByStep, mask, numbers
from worldfast.display import count
from worldfast.errors import several, whole

__all__ = [
    "Fit",
    "Probe",
    "fit_map",
    "held_out",
    "linear_probe",
    "located",
    "probe_over_training",
    "probe_table",
    "scored",
]

SMALLEST = 1e-6  # smallest singular value kept, as a share of the largest; scikit-learn's threshold
SINGULAR = 10 * SMALLEST**2  # reciprocal condition of Z'Z below which singular values are computed


@dataclass(frozen=True)
class Probe:
    """Scores and predictions of a linear probe.

    Attributes
    ----------
    r2 : ndarray
        float64 [k], R2 of each attribute on the held-out items.
    mean_error : float
        Mean distance between true and predicted attributes of held-out items, in the unit of xy.
    median_error : float
        Median of these distances.
    predicted : ndarray
        float32 [n, k], the probe's attributes of every item; float64 where they are beyond the range of float32.
    """

    r2: np.ndarray
    mean_error: float
    median_error: float
    predicted: np.ndarray


def held_out(n: int, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Choose at random the items to leave out of a fit.

    Parameters
    ----------
    n : int
        Number of items.
    share : float
        Share to leave out, between 0 and 1.
    seed : int
        Seed of the choice.

    Returns
    -------
    ndarray
        bool [n], round(share * n) of them True.

    Raises
    ------
    ValueError
        A share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    n, seed = whole("n", n, 0), whole("seed", seed, 0)
    mask = np.zeros(n, dtype=bool)
    mask[np.random.default_rng(seed).permutation(n)[: round(share * n)]] = True
    return mask


def linear_probe(X: ArrayLike, xy: ArrayLike, test: ArrayLike, ridge: float | None = None) -> Probe:
    """Fit xy from X on the items where `test` is False, and score the probe on the others.

    Parameters
    ----------
    X : array [n, d]
        Representations.
    xy : array [n, k]
        Attributes, such as the two coordinates of a place.
    test : array of bool [n]
        Held-out items, at least 2.
    ridge : float, optional
        Penalty of a ridge regression on standardised features; by default, ordinary least squares.

    Returns
    -------
    Probe

    Raises
    ------
    ValueError
        Shapes disagree, X is not finite, a coordinate does not vary among the held-out items (it has no R2 then), or
        there are no more items than features (ordinary least squares then fits anything).

    Notes
    -----
    Source: the probes of arXiv 2602.00533; scikit-learn's LinearRegression and Ridge.
    """
    X, xy = located(X, xy, "k")
    test = mask(test, "test", len(X))
    if test.sum() < 2:
        raise ValueError(f"test: expected at least 2 held-out items, got {int(test.sum())}")
    predicted = fit_map(X[~test], xy[~test], ridge).predict(X)
    r2, errors = scored(xy[test], predicted[test])
    size = magnitude(errors)
    return Probe(r2, mean(errors), float(np.median(errors / size)) * size, single(predicted))


def located(X: ArrayLike, xy: ArrayLike, k: int | str = 2) -> tuple[np.ndarray, np.ndarray]:
    """Take representations and attributes of the same things as float64.

    Parameters
    ----------
    X : array [n, d]
    xy : array [n, k]
    k : int or str
        Number of attributes; "k" takes any.

    Returns
    -------
    X : ndarray
        float64 [n, d].
    xy : ndarray
        float64 [n, k].

    Raises
    ------
    TypeError, ValueError
        An array is none, of another shape, not finite, or they are of different lengths; the message names it.
    """
    X, xy = numbers(X, "X"), numbers(xy, "xy", ("n", k))
    if len(X) != len(xy):
        raise ValueError(f"expected X [n, d] and xy [n, {k}], got {list(X.shape)} and {list(xy.shape)}")
    return X.array(), xy.array()


@dataclass(frozen=True)
class Fit:
    """A linear map from representations to coordinates.

    Attributes
    ----------
    gain : ndarray
        float64 [d, k], change of the attributes where a feature grows by its `size`.
    intercept : ndarray
        float64 [k].
    size : float or ndarray
        Powers of two near the largest values of the features that were fitted: of all, or float64 [1, d].
    """

    gain: np.ndarray
    intercept: np.ndarray
    size: float | np.ndarray

    @property
    def slope(self) -> np.ndarray:
        """float64 [d, k], change of the coordinates where a feature grows by 1."""
        return self.gain / np.reshape(self.size, (-1, 1))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the coordinates of representations: array [n, d] -> float64 [n, k]."""
        return numbers(X, "X", ("n", len(self.gain))).array() / self.size @ self.gain + self.intercept


def fit_map(X: ArrayLike, xy: ArrayLike, ridge: float | None = None) -> Fit:
    """Fit coordinates from representations by least squares or ridge regression.

    Solved by the normal equations, with one step of refinement on the residuals to recover the digits they lose
    (Bjorck, "Stability analysis of the method of seminormal equations", 1987). If X is nearly singular, the singular
    value decomposition is used and singular values below a millionth of the largest are dropped, as in scikit-learn's
    LinearRegression.

    Parameters
    ----------
    X : array [n, d]
        Representations.
    xy : array [n, k]
        Coordinates.
    ridge : float, optional
        Penalty on standardised features; by default, ordinary least squares.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        X is not finite, the penalty is not positive, or there are no more items than features and no ridge.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
    from scipy.linalg.lapack import dpocon

    X = numbers(X, "X").array()
    n, d = X.shape
    xy = numbers(xy, "xy", (n, "k")).array()
    if ridge is not None and not ridge > 0:
        raise ValueError(f"ridge: expected a positive penalty, got {ridge}")
    if ridge is None and n <= d + 1:
        raise ValueError(
            f"a least-squares probe of {count(d, 'feature')} needs more than {d + 1} items, got {n}: "
            "pass ridge=1.0 for a penalised fit"
        )
    sizes, unit = magnitude(X, None if ridge is None else 0), magnitude(xy, 0)
    X, xy = X / sizes, xy / unit
    middle, place = X.mean(0), xy.mean(0)
    Z, Y = X - middle, xy - place
    if ridge is not None:
        spread = Z.std(0)
        spread[spread <= CONSTANT * np.abs(middle)] = 1.0
        Z /= spread
        G = Z.T @ Z
        G[np.diag_indices(d)] += ridge
        slope = np.linalg.solve(G, Z.T @ Y) / spread[:, None]
        return Fit(slope * unit, (place - middle @ slope) * unit[0], sizes)
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
    return Fit(slope * unit, (place - middle @ slope) * unit[0], sizes)


def scored(xy: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Score predicted coordinates.

    Parameters
    ----------
    xy, predicted : array [n, k]
        True and predicted coordinates.

    Returns
    -------
    r2 : ndarray
        float64 [k], scikit-learn's r2_score of each: 1 - residual / variance.
    errors : ndarray
        float64 [n], distance of each prediction from its true place.

    Raises
    ------
    ValueError
        A coordinate does not vary.
    """
    from sklearn.metrics import r2_score

    xy = numbers(xy, "xy").array()
    predicted = numbers(predicted, "predicted", xy.shape).array()
    if not (varying := varies(xy)).all():
        raise ValueError(f"xy: column {varying.argmin()} does not vary among the held-out items, it has no R2")
    size = magnitude(xy, 0)
    r2 = r2_score(xy / size, predicted / size, multioutput="raw_values")
    return np.asarray(r2, dtype=np.float64), lengths(predicted - xy)


def probe_over_training(
    activations: ByStep, layer: int, xy: ArrayLike, test: ArrayLike, ridge: float | None = None
) -> list[Probe]:
    """Fit a probe at every step of a run.

    Parameters
    ----------
    activations : Activations
        Or any object with `steps` and [step, layer] -> array [n, d].
    layer : int
        Layer to read.
    xy, test, ridge
        As in `linear_probe`.

    Returns
    -------
    list of Probe
        In the order of `activations.steps`.

    Raises
    ------
    ValueError
        As in `linear_probe`.
    """
    layer = whole("layer", layer, 0)
    work = [(step, layer) for step in activations.steps]
    return _in_parallel(lambda key: linear_probe(activations[key], xy, test, ridge), work)


def penalty(items: int, features: int) -> float | None:
    """Return the penalty of a probe of some features fitted on some items: None where least squares will do, else 1.

    With no more items than features least squares fits anything.
    """
    return None if whole("items", items) > whole("features", features) + 1 else 1.0


def probe_table(
    activations: ByStep,
    layers: Sequence[int],
    xy: ArrayLike,
    test: ArrayLike,
    *,
    rows: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    ridge: float | None = None,
    run: str | None = None,
    columns: Sequence[str] = ("x", "y"),
) -> pd.DataFrame:
    """Probe every layer at every checkpoint, and return the scores as a table.

    Parameters
    ----------
    activations : Activations
        Or any object with `steps` and [step, layer] -> array [n, d].
    layers : sequence of int
        Layers to probe.
    xy, test
        As in `linear_probe`; row i belongs to row i of the activations.
    rows : sequence of int, optional
        [S], training rows seen at each of `activations.steps`; by default, the table has no such column.
    steps : sequence of int, optional
        Steps to probe; by default, all.
    ridge : float, optional
        As in `linear_probe`.
    run : str, optional
        Value of a column of this name.
    columns : sequence of str
        [k], names of the attributes.

    Returns
    -------
    DataFrame
        Columns run, layer, step, rows, r2_<name> of each attribute, r2 (their mean), mean_error,
        median_error (in the unit of xy), n_fitted, n_held_out.

    Raises
    ------
    ValueError
        As in `linear_probe`, or `rows` has another length, or a step is unknown.
    """
    layers = [whole("layers", layer, 0) for layer in several("layers", layers, "integers")]
    known = [int(step) for step in activations.steps]
    if rows is not None and len(rows) != len(known):
        raise ValueError(f"rows: expected {len(known)}, one for each step of the activations, got {len(rows)}")
    rows = None if rows is None else [whole("rows", row) for row in rows]
    steps = known if steps is None else [whole("steps", step) for step in steps]
    for step in steps:
        if step not in known:
            raise ValueError(f"steps: {step} is not among the steps of the activations, {known}")
    work = list(product(layers, steps))
    probes = _in_parallel(lambda key: linear_probe(activations[key[1], key[0]], xy, test, ridge), work)
    table = pd.DataFrame(
        [{"layer": layer, "step": step} | _found(probe, columns) for (layer, step), probe in zip(work, probes)]
    )
    if rows is not None:
        seen = dict(zip(known, rows))
        table.insert(2, "rows", table["step"].map(seen))
    test = mask(test, "test")
    return labelled(table.assign(n_fitted=int((~test).sum()), n_held_out=int(test.sum())), run=run)


def _found(probe: Probe, columns: Sequence[str]) -> dict[str, float]:
    return {
        **{f"r2_{name}": float(r2) for name, r2 in zip(columns, probe.r2, strict=True)},
        "r2": float(probe.r2.mean()),
        "mean_error": probe.mean_error,
        "median_error": probe.median_error,
    }


def _in_parallel(function: Callable[[tuple[int, int]], Probe], work: Sequence[tuple[int, int]]) -> list[Probe]:
    from threadpoolctl import threadpool_limits

    # The matrix products of one probe are too small to split among threads, so whole probes run in parallel.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, work))

"""Order and units do not matter: each statistic of rows that are permuted, sorted or given in blocks, and of columns that
are shifted, scaled or permuted, is the same within the error of its arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import worldfast as wf
from torture.tally import Tally
from worldfast.analysis.dimension import participation_ratio, two_nn
from worldfast.analysis.knn import mutual_knn
from worldfast.analysis.pca import leading_components
from worldfast.analysis.probe import linear_probe
from worldfast.analysis.procrustes import procrustes
from worldfast.analysis.stats import bootstrap, correlation, mean_and_error

PROMISE = "order and units do not matter"
TARGET = 5_000  # comparisons
EXACT = 1e-9
RESAMPLES = 400
BY_RESAMPLES = 5 / np.sqrt(
    RESAMPLES
)  # 5 sigmas of the difference of two standard deviations, each within 1 / sqrt(2 n)


class Statistic(NamedTuple):
    """Number of two representations, and how far it may move.

    Attributes
    ----------
    of : callable
        (X, Y) -> number or array.
    changes : tuple of str
        What must not change it.
    within : float or callable
        Largest difference, as a share: of rounding; or, where rows or resamples are drawn, (X, Y) -> what it may be by
        the error that the statistic states.
    """

    of: Callable
    changes: tuple[str, ...]
    within: float | Callable = EXACT


ORDER = ("permuted", "sorted", "reversed", "strided")
AGAIN = ("duplicated",)  # all rows twice: for statistics that are no estimates from n rows
ENDS = (1e155, 1e-155, 1e300, 1e-300)  # units near the ends of float64, where squares overflow or vanish
UNITS = ("shifted", "scaled", "columns permuted", *(f"times {size:g}" for size in ENDS))


def _probed(X, Y):
    return linear_probe(X, Y[:, :2], Y[:, 2] > np.median(Y[:, 2])).r2


def _explained(X, Y):
    size = np.abs(X).max()
    return (
        np.square(np.asarray(leading_components(X, 3)) / size).sum(0) / np.square(X / size - (X / size).mean(0)).sum()
    )


def _by_batches(X, Y):
    """Share by which the drawing of batches may move CKA: twice its standard error over all rows."""
    return 2 * wf.cka_standard_error([X, Y])[0, 1] / wf.cka(X, Y, debiased=True)


STATISTICS = {
    "cka, linear": Statistic(wf.cka, ORDER + AGAIN + UNITS),
    "cka, rbf": Statistic(lambda X, Y: wf.cka(X, Y, "rbf"), ORDER + UNITS, 1e-6),
    "cka, debiased": Statistic(lambda X, Y: wf.cka(X, Y, debiased=True), ORDER + UNITS),
    "cka of components": Statistic(lambda X, Y: wf.cka(X, Y, components=3), ORDER + UNITS, 1e-7),
    "cka_standard_error": Statistic(lambda X, Y: wf.cka_standard_error([X, Y])[0, 1], ORDER + UNITS, 1e-6),
    "cka_minibatch": Statistic(lambda X, Y: wf.cka_minibatch([X, Y], 64)[0, 1], ORDER + UNITS, _by_batches),
    "mutual_knn": Statistic(lambda X, Y: mutual_knn(X, Y, 5, "euclidean"), ORDER + UNITS),
    "procrustes": Statistic(procrustes, ORDER + AGAIN + UNITS, 1e-7),
    "participation_ratio": Statistic(lambda X, Y: participation_ratio(X), ORDER + AGAIN + UNITS),
    "two_nn": Statistic(lambda X, Y: two_nn(X), ORDER + UNITS, 1e-6),
    "explained by components": Statistic(_explained, ORDER + UNITS),
    "linear_probe": Statistic(_probed, (*ORDER, *UNITS), 1e-7),
    "correlation": Statistic(lambda X, Y: correlation(X[:, 0], Y[:, 0], permutations=1).r, ORDER + AGAIN + UNITS),
    "mean_and_error": Statistic(lambda X, Y: mean_and_error(X[:, 0], "row").standard_error, (*ORDER, "shifted")),
    "bootstrap": Statistic(
        lambda X, Y: bootstrap(X[:, 0], resamples=RESAMPLES).standard_error, (*ORDER, "shifted"), BY_RESAMPLES
    ),
}


def changed(X: np.ndarray, Y: np.ndarray, how: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the representations in another order, or X in other units."""
    n, d = X.shape
    orders = {
        "permuted": lambda: random.permutation(n),
        "sorted": lambda: np.argsort(X[:, 0]),
        "reversed": lambda: np.arange(n)[::-1],
        "strided": lambda: np.arange(n).reshape(-1, 8).T.ravel(),
    }
    if how in orders:
        order = orders[how]()
        return np.ascontiguousarray(X[order]), np.ascontiguousarray(Y[order])
    if how == "duplicated":
        return np.concatenate([X, X]), np.concatenate([Y, Y])
    if how.startswith("times "):
        return X * float(how.removeprefix("times ")), Y
    if how == "shifted":
        return X + 10 * random.normal(size=d), Y
    if how == "scaled":
        return X * 10.0 ** random.integers(-6, 7), Y
    order = random.permutation(d)
    return (np.ascontiguousarray(X[:, order]), Y) if how == "columns permuted" else (X, Y)


def pair(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return representations of 320 rows with a period: 40 groups of 8."""
    n, period = 320, 8
    phase = np.arange(n) % period
    X = random.normal(size=(n, 6)) + np.sin(phase)[:, None] * random.normal(size=6)
    Y = X @ random.normal(size=(6, 5)) + random.normal(size=(n, 5)) + np.cos(phase)[:, None]
    return X, Y


def run(tally: Tally) -> None:
    """Compare each statistic before and after each change."""
    number = 0
    while tally.going:
        random = np.random.default_rng((tally.seed, number))
        X, Y = pair(random)
        for name, one in STATISTICS.items():
            before = np.asarray(one.of(X, Y), dtype=np.float64)
            for how in one.changes:
                if name in ("correlation",) and how == "columns permuted":
                    continue
                with warnings.catch_warnings(action="error"):
                    after = np.asarray(one.of(*changed(X, Y, how, random)), dtype=np.float64)
                within = one.within(X, Y) if callable(one.within) else one.within
                apart = float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-12))
                tally.expect(f"{name}, {how}", apart <= within, f"{before} became {after}")
        number += 1

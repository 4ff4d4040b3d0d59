"""Statistics that state their test, n, and the unit of replication."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations as orderings

import numpy as np

__all__ = ["Correlation", "Interval", "Mean", "bootstrap", "correlation", "jackknife_error", "mantel", "mean_and_error"]


@dataclass(frozen=True)
class Mean:
    """A mean and its `standard_error`, s / sqrt(n) with s over n - 1, NaN where n is 1; `unit` is what n counts."""

    mean: float
    standard_error: float
    n: int
    unit: str


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation and a permutation test of it.

    r, r2          correlation, and its square: the share of variance that a straight line explains
    p              two-sided: the share of permutations whose |r| is at least as large
    n              points
    unit           what a point is
    test           in words, with what was permuted
    permutations   how many were looked at
    """

    r: float
    r2: float
    p: float
    n: int
    unit: str
    test: str
    permutations: int


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap percentile interval and standard error.

    value           the statistic of all values
    low, high       ends of the interval, which holds a share `level` of the resamples
    standard_error  their standard deviation
    n, unit         how many units were drawn from, and what one is
    """

    value: float
    low: float
    high: float
    standard_error: float
    level: float
    n: int
    unit: str


def mean_and_error(values, unit: str) -> Mean:
    """The mean of independent values, its standard error, n, and the unit of replication, such as "seed".

    ValueError where there is none, or one is NaN or infinite.
    """
    values = _finite(values, "values")
    if len(values) == 0:
        raise ValueError("values: expected at least one, got none")
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), error, len(values), unit)


def jackknife_error(left_out) -> float:
    """The standard error of a statistic from its values with one unit left out in turn [n].

    NaN for fewer than 2 values, or where one is NaN. Of a mean it is exactly s / sqrt(n).
    Source: Efron and Stein, "The Jackknife Estimate of Variance", Annals of Statistics 1981.
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    n = len(left_out)
    if n < 2:
        return math.nan
    return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))


def correlation(x, y, unit: str = "point", permutations: int = 10_000, seed: int = 0) -> Correlation:
    """Pearson's correlation of independent points, tested by permuting y.

    x, y          [n], n at least 3
    unit          what a point is, in words
    permutations  random ones by `seed`, beside the one at hand; all n! are looked at where those are no more

    For the entries of symmetric matrices, which are not independent, see `mantel`.
    ValueError: lengths differ, NaN or infinity, a constant.
    """
    x, y = _finite(x, "x"), _finite(y, "y")
    if x.shape != y.shape or len(x) < 3:
        raise ValueError(f"expected x and y of one length, at least 3, got {list(x.shape)} and {list(y.shape)}")
    x, y = _standardised(x, "x"), _standardised(y, "y")
    found = [float(x @ y[order]) for order in _orders(len(x), permutations, seed)]
    return _tested(found, len(x), unit, "permutation of the points", permutations, len(x))


def mantel(
    A, B, unit: str = "unordered pair", permutations: int = 10_000, seed: int = 0, names: Sequence[str] = ("A", "B")
) -> Correlation:
    """The correlation of two symmetric matrices over their unordered pairs, each once, by Mantel's test.

    A, B          [m, m], symmetric, m at least 4; diagonals are not looked at
    unit          what a pair is, in words
    permutations  of the m things, applied to rows and columns of B together, because pairs that share a thing are not
                  independent; random ones by `seed`, all m! where those are no more
    names         of A and B, for errors

    ValueError: shapes, asymmetry, NaN or infinity off the diagonal, a constant.
    Source: Mantel, "The Detection of Disease Clustering and a Generalized Regression Approach", Cancer Research 1967.
    """
    A, B = np.asarray(A, dtype=np.float64), np.asarray(B, dtype=np.float64)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape != B.shape or len(A) < 4:
        raise ValueError(
            f"expected {names[0]} and {names[1]} [m, m] with m at least 4, got {list(A.shape)} and {list(B.shape)}"
        )
    above = np.triu_indices(len(A), 1)
    for name, M in zip(names, (A, B), strict=True):
        _finite(M[above], name)
        if not np.allclose(M[above], M.T[above], rtol=0, atol=1e-9 * np.abs(M[above]).max()):
            raise ValueError(f"{name}: expected a symmetric matrix; of one that is not, average it with its transpose")
    x = _standardised(A[above], names[0])
    _standardised(B[above], names[1])  # every order has the same entries, so that one check is enough
    found = []
    for order in _orders(len(A), permutations, seed):
        y = B[np.ix_(order, order)][above]
        found.append(float(x @ _standardised(y, names[1])))
    return _tested(found, len(x), unit, "Mantel: rows and columns permuted together", permutations, len(A))


def bootstrap(
    values,
    statistic: Callable = np.mean,
    *,
    groups=None,
    unit: str = "value",
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap of a statistic, whole units drawn with replacement.

    values     [n] or [n, ...]
    statistic  array of values -> number
    groups     [n], which unit each value belongs to (its seed, its set of tasks): values of a unit stay together.
               None: each value is one
    unit       what is drawn, in words
    resamples  how many, drawn by `seed`
    level      share of them in the interval

    ValueError for fewer than 2 units, lengths that differ, NaN or infinity, a level outside (0, 1).
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. With few units it is narrow.
    """
    values = _finite(values, "values")
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    if len(groups) != len(values):
        raise ValueError(f"groups: expected {len(values)}, one for each value, got {len(groups)}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    units = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups.tolist())]
    if len(units) < 2:
        raise ValueError(f"values: expected at least 2 units to draw from, got {len(units)}")
    random = np.random.default_rng(seed)
    draws = random.integers(len(units), size=(resamples, len(units)))
    found = np.array([statistic(values[np.concatenate([units[i] for i in draw])]) for draw in draws], dtype=np.float64)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    error = float(found.std(ddof=1))
    return Interval(float(statistic(values)), float(low), float(high), error, level, len(units), unit)


def _finite(values, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    return values


def _standardised(x: np.ndarray, name: str) -> np.ndarray:
    """Centred, of length 1, so that a product of two is their correlation."""
    centred = x - x.mean()
    length = np.linalg.norm(centred)
    if not length > 1e-12 * np.abs(x).max():
        raise ValueError(f"{name}: is constant, its correlation is undefined")
    return centred / length


def _orders(n: int, permutations: int, seed: int):
    """The order at hand, then others: all of them where they are no more than asked for, else random ones."""
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    if math.factorial(n) <= permutations:
        yield from (np.array(order) for order in orderings(range(n)))
    else:
        random = np.random.default_rng(seed)
        yield np.arange(n)
        yield from (random.permutation(n) for _ in range(permutations))


def _tested(found: list[float], n: int, unit: str, test: str, permutations: int, things: int) -> Correlation:
    r, sizes = found[0], np.abs(found)
    # Orders that leave the points as they are differ from the first by rounding alone.
    p = float(np.mean(sizes >= sizes[0] - 1e-12))
    exact = "all orders" if math.factorial(things) <= permutations else f"{permutations:,} random orders"
    return Correlation(r, r * r, p, n, unit, f"two-sided, {test}, {exact}", len(found))

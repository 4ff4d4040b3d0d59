"""Statistics that state their test, n, and the unit of replication."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from itertools import permutations as orderings

import numpy as np

from worldfast.analysis.scale import magnitude, mean
from worldfast.arrays import ArrayLike, labels, numbers
from worldfast.errors import whole

__all__ = ["Correlation", "Interval", "Mean", "bootstrap", "correlation", "jackknife_error", "mantel", "mean_and_error"]

BLOCK = 1 << 18  # values that are permuted at a time


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error.

    Attributes
    ----------
    mean : float
    standard_error : float
        s / sqrt(n) with s over n - 1; NaN if n is 1.
    n : int
        Number of values.
    unit : str
        What n counts.
    """

    mean: float
    standard_error: float
    n: int
    unit: str


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation with a permutation test.

    Attributes
    ----------
    r, r2 : float
        Correlation, and its square: the share of variance that a straight line explains.
    p : float
        Two-sided: share of permutations whose |r| is at least as large.
    n : int
        Number of points.
    unit : str
        What a point is.
    test : str
        The test in words, including what was permuted.
    permutations : int
        Number of permutations evaluated.
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

    Attributes
    ----------
    value : float
        The statistic of all values.
    low, high : float
        Ends of the interval, which holds a share `level` of the resamples.
    standard_error : float
        Standard deviation of the resamples.
    level : float
        Share of the resamples inside the interval.
    n : int
        Number of units drawn from.
    unit : str
        What a unit is.
    """

    value: float
    low: float
    high: float
    standard_error: float
    level: float
    n: int
    unit: str


def mean_and_error(values: ArrayLike, unit: str) -> Mean:
    """Return the mean and standard error of independent values.

    Parameters
    ----------
    values : array [n]
        At least one value.
    unit : str
        Unit of replication, such as "seed".

    Returns
    -------
    Mean

    Raises
    ------
    ValueError
        No value, or a value that is NaN or infinite.
    """
    values = numbers(values, "values", ("n",)).array()
    if len(values) == 0:
        raise ValueError("values: expected at least one, got none")
    size = magnitude(values)
    error = float((values / size).std(ddof=1) / math.sqrt(len(values))) * size if len(values) > 1 else math.nan
    return Mean(mean(values), error, len(values), unit)


def jackknife_error(left_out: ArrayLike) -> float:
    """Return the jackknife standard error of a statistic.

    Parameters
    ----------
    left_out : array [n]
        Values of the statistic with one unit left out each.

    Returns
    -------
    float
        NaN for fewer than 2 values, or if one is NaN or infinite. For a mean it is exactly s / sqrt(n).

    Notes
    -----
    Source: Efron and Stein, "The Jackknife Estimate of Variance", Annals of Statistics 1981.
    """
    left_out = numbers(left_out, "left_out", ("n",)).array(finite=False)
    n = len(left_out)
    if n < 2 or not np.isfinite(left_out).all():
        return math.nan
    size = magnitude(left_out)
    left_out = left_out / size
    return float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())) * size


def correlation(
    x: ArrayLike, y: ArrayLike, unit: str = "point", permutations: int = 10_000, seed: int = 0
) -> Correlation:
    """Return Pearson's correlation of independent points, tested by permuting y.

    For entries of symmetric matrices, which are not independent, use `mantel`.

    Parameters
    ----------
    x, y : array [n]
        At least 3 points.
    unit : str
        What a point is, in words.
    permutations : int
        Number of random permutations, besides the given order. All n! are evaluated if there are no more than this.
    seed : int
        Seed of the permutations.

    Returns
    -------
    Correlation

    Raises
    ------
    ValueError
        Lengths differ, an array is constant, or it holds NaN or infinity.
    """
    x, y = (numbers(given, name, ("n",)).array() for given, name in ((x, "x"), (y, "y")))
    if x.shape != y.shape or len(x) < 3:
        raise ValueError(f"expected x and y of equal length, at least 3, got {list(x.shape)} and {list(y.shape)}")
    x, y = _standardised(x / magnitude(x), "x"), _standardised(y / magnitude(y), "y")
    found = [y[orders] @ x for orders in _orders(len(x), permutations, seed, len(x))]
    return _tested(found, len(x), unit, "permutation of the points", permutations, len(x))


def mantel(
    A: ArrayLike,
    B: ArrayLike,
    unit: str = "unordered pair",
    permutations: int = 10_000,
    seed: int = 0,
    names: Sequence[str] = ("A", "B"),
) -> Correlation:
    """Return the correlation of two symmetric matrices over their unordered pairs, with Mantel's test.

    Parameters
    ----------
    A, B : array [m, m]
        Symmetric, m at least 4; diagonals are ignored.
    unit : str
        What a pair is, in words.
    permutations : int
        Number of random permutations of the m items, applied to the rows and columns of B together, because pairs that
        share an item are not independent. All m! are evaluated if there are no more than this.
    seed : int
        Seed of the permutations.
    names : sequence of str
        Names of A and B in messages.

    Returns
    -------
    Correlation

    Raises
    ------
    ValueError
        Shapes disagree, or a matrix is asymmetric, constant, or holds NaN or infinity off the diagonal.

    Notes
    -----
    Source: Mantel, "The Detection of Disease Clustering and a Generalized Regression Approach", Cancer Research 1967.
    """
    A, B = (numbers(M, name, ("m", "m")).array(finite=False) for M, name in zip((A, B), names, strict=True))
    if A.shape[0] != A.shape[1] or A.shape != B.shape or len(A) < 4:
        raise ValueError(
            f"expected {names[0]} and {names[1]} [m, m] with m at least 4, got {list(A.shape)} and {list(B.shape)}"
        )
    A, B = (_symmetric(M, name) for M, name in zip((A, B), names, strict=True))
    above = np.triu_indices(len(A), 1)
    x = _standardised(A[above], names[0])
    y = np.zeros_like(B)
    y[above] = _standardised(B[above], names[1])  # once: every order has the same entries
    y += y.T
    found = [y[orders[:, above[0]], orders[:, above[1]]] @ x for orders in _orders(len(A), permutations, seed, len(x))]
    return _tested(found, len(x), unit, "Mantel: rows and columns permuted together", permutations, len(A))


def bootstrap(
    values: ArrayLike,
    statistic: Callable = mean,
    *,
    groups: ArrayLike | None = None,
    unit: str = "value",
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap of a statistic, drawing whole units with replacement.

    The interval is too narrow when there are few units.

    Parameters
    ----------
    values : array [n] or [n, ...]
        Values.
    statistic : callable
        Array of values -> number; by default, the mean.
    groups : array [n], optional
        Unit of each value, such as its seed or its set of tasks; the values of a unit stay together. By default, each
        value is a unit.
    unit : str
        What a unit is, in words.
    resamples : int
        Number of resamples.
    level : float
        Share of the resamples inside the interval, between 0 and 1.
    seed : int
        Seed of the resamples.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        Fewer than 2 units, lengths that differ, NaN or infinity, or a level outside (0, 1).

    Notes
    -----
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = np.atleast_1d(numbers(values, "values", None).array())
    groups = np.arange(len(values)) if groups is None else labels(groups, "groups")
    if len(groups) != len(values):
        raise ValueError(f"groups: expected {len(values)}, one for each value, got {len(groups)}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    units = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups.tolist())]
    if len(units) < 2:
        raise ValueError(f"values: expected at least 2 units to draw from, got {len(units)}")
    resamples, random = whole("resamples", resamples, 1), np.random.default_rng(whole("seed", seed, 0))
    draws = random.integers(len(units), size=(resamples, len(units)))
    if statistic is mean:
        found = _means(values, units, draws)
    else:
        found = np.array([statistic(values[np.concatenate([units[i] for i in draw])]) for draw in draws], np.float64)
    size = magnitude(found)
    low, high = np.quantile(found / size, [(1 - level) / 2, (1 + level) / 2]) * size
    error = float((found / size).std(ddof=1)) * size
    return Interval(float(statistic(values)), float(low), float(high), error, level, len(units), unit)


def _means(values: np.ndarray, units: list[np.ndarray], draws: np.ndarray) -> np.ndarray:
    """Return the mean of the values of each draw of units."""
    size = magnitude(values)
    sums, counts = (np.array([of(values[unit]) for unit in units]) for of in (lambda x: (x / size).sum(), np.size))
    return sums[draws].sum(1) / counts[draws].sum(1) * size


def _symmetric(M: np.ndarray, name: str) -> np.ndarray:
    """Check what is off the diagonal of a matrix, and return it near 1, with zeros on the diagonal."""
    above = np.triu_indices(len(M), 1)
    M = np.where(np.eye(len(M), dtype=bool), 0.0, M)
    if not np.isfinite(M[above]).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    M = M / magnitude(M)
    if not np.allclose(M[above], M.T[above], rtol=0, atol=1e-9 * np.abs(M[above]).max()):
        raise ValueError(f"{name}: expected a symmetric matrix; average another one with its transpose")
    return M


def _standardised(x: np.ndarray, name: str) -> np.ndarray:
    """Centre a vector and scale it to length 1, so that the product of two is their correlation."""
    centred = x - x.mean()
    length = np.linalg.norm(centred)
    if not length > 1e-12 * np.abs(x).max():
        raise ValueError(f"{name}: is constant, its correlation is undefined")
    return centred / length


def _orders(n: int, permutations: int, seed: int, values: int) -> Iterator[np.ndarray]:
    """Yield blocks [k, n] of orders of n things, small enough for k times so many values: the given order first, then
    all others if there are no more than `permutations`, else random ones.
    """
    permutations, seed = whole("permutations", permutations, 1), whole("seed", seed, 0)
    if math.factorial(n) <= permutations:
        orders: Iterator[Iterable[int]] = orderings(range(n))
    else:
        random = np.random.default_rng(seed)
        orders = chain([range(n)], (random.permutation(n) for _ in range(permutations)))
    while block := list(islice(orders, max(1, BLOCK // values))):
        yield np.array(block)


def _tested(blocks: list[np.ndarray], n: int, unit: str, test: str, permutations: int, things: int) -> Correlation:
    found = np.concatenate(blocks)
    r, sizes = float(found[0]), np.abs(found)
    # Orders that leave the points unchanged differ from the first only by rounding.
    p = float(np.mean(sizes >= sizes[0] - 1e-12))
    exact = "all orders" if math.factorial(things) <= permutations else f"{permutations:,} random orders"
    return Correlation(r, r * r, p, n, unit, f"two-sided, {test}, {exact}", len(found))

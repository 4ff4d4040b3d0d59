"""Statistics against SciPy and worked examples."""

import math

import numpy as np
import pytest
from scipy import stats

from worldfast.analysis.stats import bootstrap, correlation, jackknife_error, mantel, mean_and_error

random = np.random.default_rng(11)


def test_mean_and_error():
    found = mean_and_error([1, 2, 3, 6], "seed")
    assert (found.mean, found.n, found.unit) == (3, 4, "seed")
    assert found.standard_error == pytest.approx(stats.sem([1, 2, 3, 6]))
    assert math.isnan(mean_and_error([4], "seed").standard_error)
    for bad, match in (([], "none"), ([1, np.nan], "NaN")):
        with pytest.raises(ValueError, match=match):
            mean_and_error(bad, "seed")


def test_jackknife_of_a_mean_is_its_standard_error():
    x = random.normal(size=9)
    assert jackknife_error([np.delete(x, i).mean() for i in range(9)]) == pytest.approx(stats.sem(x))
    assert math.isnan(jackknife_error([1.0])) and math.isnan(jackknife_error([1.0, np.nan]))


def test_correlation_is_scipys():
    x, y = random.normal(size=(2, 7))
    found = correlation(x, y, "model")
    assert found.r == pytest.approx(stats.pearsonr(x, y)[0]) and found.r2 == pytest.approx(found.r**2)
    assert (found.n, found.unit, found.permutations) == (7, "model", 5040) and "all orders" in found.test

    def statistic(y):
        return abs(stats.pearsonr(x, y)[0])

    options = {"permutation_type": "pairings", "alternative": "greater", "n_resamples": 6000}
    exact = stats.permutation_test((y,), statistic, **options)
    assert found.p == pytest.approx(exact.pvalue)


def test_many_points_are_permuted_at_random():
    x = random.normal(size=60)
    y = x + 3 * random.normal(size=60)
    found = correlation(x, y, permutations=4000)
    assert abs(found.p - stats.pearsonr(x, y)[1]) < 0.02 and found.permutations == 4001
    assert correlation(x, x, permutations=99).p == pytest.approx(0.01)  # no smaller than the number of orders allows
    assert correlation(x, y, permutations=500, seed=1) == correlation(x, y, permutations=500, seed=1)


def test_orders_are_the_same_in_blocks_of_any_size(monkeypatch):
    x, y, A, B = *random.normal(size=(2, 30)), symmetric(9), symmetric(9)
    before = correlation(x, y, permutations=70), mantel(A, B, permutations=70)
    monkeypatch.setattr("worldfast.analysis.stats.BLOCK", 100)
    for found, whole in zip((correlation(x, y, permutations=70), mantel(A, B, permutations=70)), before, strict=True):
        assert (found.p, found.permutations) == (whole.p, 71) and found.r == pytest.approx(whole.r, rel=1e-14)


def symmetric(m):
    A = random.normal(size=(m, m))
    return A + A.T


def test_mantel_permutes_things_not_pairs():
    A, B = symmetric(5), symmetric(5)
    above = np.triu_indices(5, 1)
    found = mantel(A, B)
    assert found.r == pytest.approx(stats.pearsonr(A[above], B[above])[0]) and found.n == 10

    def statistic(order):
        order = np.asarray(order, dtype=int)
        return abs(stats.pearsonr(A[above], B[np.ix_(order, order)][above])[0])

    exact = stats.permutation_test((np.arange(5.0),), statistic, permutation_type="pairings", alternative="greater")
    assert (found.permutations, found.p) == (120, pytest.approx(exact.pvalue))


def test_mantel_keeps_its_level_where_pairs_share_things():
    """Matrices that are sums of their two things' values: a test of independent pairs would err far too often."""
    wrong = naive = 0
    above = np.triu_indices(12, 1)
    for _ in range(120):
        a, b = random.normal(size=(2, 12))
        A, B = a[:, None] + a, b[:, None] + b
        wrong += mantel(A, B, permutations=99).p <= 0.05
        naive += stats.pearsonr(A[above], B[above])[1] <= 0.05
    assert wrong <= 14 and naive > 30


def test_a_diagonal_says_nothing():
    A, B = symmetric(6), symmetric(6)
    before = mantel(A, B, permutations=50)
    np.fill_diagonal(A, np.nan)
    assert mantel(A, B, permutations=50) == before


def test_statistics_refuse():
    A = symmetric(5)
    with pytest.raises(ValueError, match="B: expected a symmetric matrix"):
        mantel(A, random.normal(size=(5, 5)))
    with pytest.raises(ValueError, match="m at least 4"):
        mantel(symmetric(3), symmetric(3))
    with pytest.raises(ValueError, match="equal length"):
        correlation([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="y: is constant"):
        correlation([1, 2, 3], [2, 2, 2])
    with pytest.raises(ValueError, match="x: holds NaN"):
        correlation([1, 2, np.inf], [2, 1, 2])
    with pytest.raises(ValueError, match="permutations"):
        correlation([1, 2, 3], [2, 1, 2], permutations=0)


def test_bootstrap_is_scipys():
    x = random.exponential(size=40)
    found = bootstrap(x, np.median, resamples=4000)
    theirs = stats.bootstrap((x,), np.median, n_resamples=4000, method="percentile", rng=1)
    low, high = theirs.confidence_interval
    assert found.value == np.median(x) and found.n == 40
    assert abs(found.low - low) < 0.06 and abs(found.high - high) < 0.06
    assert found.standard_error == pytest.approx(theirs.standard_error, rel=0.1)


def test_bootstrap_keeps_groups_together():
    """Ten copies of each value are no more than one."""
    x = random.normal(size=8)
    once = bootstrap(x, resamples=3000)
    copied = bootstrap(np.repeat(x, 10), groups=np.repeat(np.arange(8), 10), unit="seed", resamples=3000)
    apart = bootstrap(np.repeat(x, 10), resamples=3000)
    assert copied.standard_error == pytest.approx(once.standard_error) and (copied.n, copied.unit) == (8, "seed")
    assert apart.standard_error < once.standard_error / 2


@pytest.mark.parametrize("unit", [1.0, 1e306])
def test_bootstrap_of_a_mean_is_that_of_any_statistic(unit):
    x, groups = unit * random.normal(size=(9, 2)), np.array([0, 1, 1, 2, 2, 2, 3, 3, 4])
    found = bootstrap(x, groups=groups, resamples=50)
    expected = bootstrap(x, lambda values: unit * np.mean(values / unit), groups=groups, resamples=50)
    for name in ("value", "low", "high", "standard_error"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_bootstrap_refuses():
    for arguments, match in ((([1.0],), "2 units"), (([1, np.nan],), "NaN")):
        with pytest.raises(ValueError, match=match):
            bootstrap(*arguments)
    with pytest.raises(ValueError, match="groups: expected 3"):
        bootstrap([1, 2, 3], groups=[1, 2])
    with pytest.raises(ValueError, match="level"):
        bootstrap([1, 2, 3], level=95)

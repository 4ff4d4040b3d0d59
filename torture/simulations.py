"""Statistics are right: simulations without an effect and with a known one, for each test, estimator and standard error.

A rate (of rejections, of intervals that hold the truth) is compared with its nominal one by a binomial test, a mean with
its expectation by its own standard error. Each comparison errs once in ten thousand tables.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import worldfast as wf
from torture.tally import Tally
from worldfast.analysis.dimension import participation_ratio, two_nn
from worldfast.analysis.knn import chance, mutual_knn
from worldfast.analysis.probe import fit_map, held_out, linear_probe
from worldfast.analysis.procrustes import procrustes
from worldfast.analysis.stats import bootstrap, correlation, jackknife_error, mantel, mean_and_error
from worldfast.analysis.trends import task_matrix, trends

PROMISE = "statistics are right"
TARGET = 200_000  # numbers that simulations give
LEVEL = 1e-4
LAYERS = 8  # of a table, each a simulation of its own: most of what a table takes is one for all of them
FEWEST = 200  # of a kind, before a ratio or a rate is judged


class Seen(NamedTuple):
    """A number that a simulation gave.

    Attributes
    ----------
    of : str
        What it is.
    value : float
    expected : float
        Its mean, over many simulations.
    within : float
        Error of that expectation, as of a formula for large samples.
    """

    of: str
    value: float
    expected: float
    within: float = 0.0


def independent(random: np.random.Generator, n: int) -> np.ndarray:
    """Return n numbers of a skewed distribution with heavy tails."""
    return np.exp(1.5 * random.normal(size=n))


def rotation(random: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(random.normal(size=(d, d)))[0]


# ---- tests ----


def tests_of_points(random) -> Iterator[Seen]:
    for n, permutations in ((6, 720), (25, 99)):
        for what, draw in (("normal", random.normal), ("skewed", lambda size: independent(random, size))):
            x, y = draw(size=n), draw(size=n)
            found = correlation(x, y, permutations=permutations, seed=int(random.integers(2**31)))
            yield Seen(f"correlation, {n} {what} points: p at most 0.05 without an effect", found.p <= 0.05, 0.05)
    x = random.normal(size=200)
    y = 0.5 * x + math.sqrt(0.75) * random.normal(size=200)
    yield Seen("correlation: r of 0.5", correlation(x, y, permutations=1).r, 0.5 * (1 - 0.75 / 400), 0.001)
    yield Seen("correlation: a planted effect is found", correlation(x, y, permutations=199).p <= 0.05, 1.0)


def tests_of_pairs(random) -> Iterator[Seen]:
    def shared(m):  # pairs that share things are not independent
        a = independent(random, m)
        M = a[:, None] + a + 0.3 * random.normal(size=(m, m))
        return M + M.T

    for m, permutations in ((6, 720), (12, 99)):
        found = mantel(shared(m), shared(m), permutations=permutations, seed=int(random.integers(2**31)))
        yield Seen(f"mantel, {m} things: p at most 0.05 without an effect", found.p <= 0.05, 0.05)
    A = shared(12)
    found = mantel(A, A + 0.1 * shared(12), permutations=199)
    yield Seen("mantel: a planted effect is found", found.p <= 0.05, 1.0)


# ---- means, their errors and intervals ----


def errors_of_means(random) -> Iterator[Seen]:
    from scipy.stats import norm, t

    n = 5
    x = 3 + 2 * random.normal(size=n)
    found = mean_and_error(x, "draw")
    yield Seen("mean_and_error: squared error", found.standard_error**2, 4 / n)
    held = abs(found.mean - 3) <= t.ppf(0.975, n - 1) * found.standard_error
    yield Seen("mean_and_error: t intervals of 95% that hold the mean", held, 0.95)
    y = independent(random, 12)
    left_out = [np.delete(y, i).mean() for i in range(12)]
    yield Seen("jackknife of a mean: squared error", jackknife_error(left_out) ** 2 / (y.var(ddof=1) / 12), 1.0, 1e-9)
    n = 40
    x = random.normal(size=n)
    found = bootstrap(x, resamples=400, seed=int(random.integers(2**31)))
    # The interval is z sqrt((n - 1) / n) times the usual error to either side, wherever enough resamples are drawn.
    nominal = 2 * t.cdf(norm.ppf(0.975) * math.sqrt((n - 1) / n), n - 1) - 1
    yield Seen("bootstrap: intervals that hold the mean", found.low <= 0 <= found.high, nominal, 0.01)
    yield Seen("bootstrap: squared error", found.standard_error**2, (n - 1) / n**2)
    groups = np.repeat(np.arange(20), 4)
    x = random.normal(size=20)[groups] + 0.2 * random.normal(size=80)
    found = bootstrap(x, groups=groups, resamples=200, seed=int(random.integers(2**31)))
    yield Seen("bootstrap of groups: squared error", found.standard_error**2, 19 / 20**2 * (1 + 0.04 / 4))


def pairs_of(runs, effect: np.ndarray):
    """Return a table of similarities of pairs of runs: in each layer, the sum of both runs' effects [LAYERS, runs]."""
    import pandas as pd

    a, b = np.triu_indices(len(runs), 1)
    names = runs.run.to_numpy()
    columns = {"layer": np.repeat(np.arange(LAYERS), len(a)), "run": np.tile(names[a], LAYERS)}
    return pd.DataFrame(columns | {"other": np.tile(names[b], LAYERS), "value": (effect[:, a] + effect[:, b]).ravel()})


def errors_of_trends(random) -> Iterator[Seen]:
    """Similarities that are sums of effects of runs, of sets of tasks, and noise: their means' errors, squared."""
    import pandas as pd

    sets, seeds, of_run, noise = ("a", "b"), 6, 0.5, 0.3
    runs = pd.DataFrame([(f"{s}{i}", s, 1) for s in sets for i in range(seeds)], columns=["run", "tasks", "n_tasks"])
    pairs = pairs_of(runs, of_run * random.normal(size=(LAYERS, len(runs))))
    pairs["value"] += noise * random.normal(size=len(pairs))
    table = task_matrix(pairs, runs).set_index(["layer", "tasks", "other"])
    # A jackknife is right on sums over units, and too large, never too small, on products of them (Efron and Stein).
    both = 2 * of_run**2 / seeds + noise**2 / seeds**2 * (2 * seeds / (seeds - 1))
    pairs_of_one = seeds * (seeds - 1) / 2
    one = 4 * of_run**2 / seeds + 2 * noise**2 / pairs_of_one * (seeds - 1) / (seeds - 2)
    for layer in range(LAYERS):
        cross, same = table.loc[(layer, "a", "b")], table.loc[(layer, "a", "a")]
        error = cross.standard_error**2
        yield Seen("task_matrix, two sets: squared error", error, both, noise**2 / seeds**2 * 0.3)
        yield Seen("task_matrix: mean", cross["mean"], 0.0)
        error = same.standard_error**2
        yield Seen("task_matrix, one set: squared error", error, one, 2 * noise**2 / pairs_of_one * 0.35)
    yield from _errors_over_sets(random)


def _errors_over_sets(random) -> Iterator[Seen]:
    import pandas as pd

    sets = [f"t{i}" for i in range(7)]
    runs = pd.DataFrame([(f"{s}-{i}", s, 1) for s in sets for i in range(2)], columns=["run", "tasks", "n_tasks"])
    effect = np.repeat(random.normal(size=(LAYERS, 7)), 2, axis=1)
    found = trends(pairs_of(runs, effect), runs)
    for what in ("same task", "cross task"):
        for error in found[found.what == what].standard_error:
            yield Seen(f"trends, {what}: squared error", error**2, 4 / 7)


# ---- alignment ----


def alignment(random) -> Iterator[Seen]:
    n = 40
    X, Y = random.normal(size=(n, 12)), independent(random, n * 9).reshape(n, 9)
    for kernel in ("linear", "rbf"):
        yield Seen(f"debiased {kernel} CKA of independent representations", wf.cka(X, Y, kernel, debiased=True), 0.0)
    B = np.zeros((6, 8))
    B[:3, :3] = np.diag((1.0, 0.7, 0.4))
    X = random.normal(size=(n, 6))
    Y = X @ B + random.normal(size=(n, 8))
    hsic = wf.gram_statistics([X, Y], "linear").hsic(debiased=True)
    yield Seen("unbiased HSIC of a planted map", hsic[0, 1], float(np.square(B).sum()))
    covariance = B.T @ B + np.eye(8)
    truth = np.square(B).sum() / math.sqrt(6 * np.square(covariance).sum())
    X = random.normal(size=(2000, 6))
    Y = X @ B + random.normal(size=(2000, 8))
    yield Seen("cka_minibatch of a planted map", wf.cka_minibatch([X, Y], 100)[0, 1], truth, 0.002)
    n = 80
    X = random.normal(size=(n, 6))
    Y = X @ B + random.normal(size=(n, 8))
    for debiased in (False, True):
        name = "debiased CKA" if debiased else "plain CKA"
        value = wf.cka(X, Y, debiased=debiased)
        error = wf.cka_standard_error([X, Y], debiased=debiased)[0, 1]
        yield Seen(f"{name}: value", value, math.nan)  # for its variance
        yield Seen(f"{name}: squared error", error**2, math.nan)


# ---- neighbours, dimension, rotation ----


def shapes(random) -> Iterator[Seen]:
    n, k = 60, 5
    X, Y = random.normal(size=(n, 7)), independent(random, 4 * n).reshape(n, 4)
    for metric in ("cosine", "euclidean"):
        yield Seen(f"mutual_knn of unrelated representations, {metric}", mutual_knn(X, Y, k, metric), chance(n, k))
        same = mutual_knn(X, 3 * X @ rotation(random, 7), k, metric)
        yield Seen(f"mutual_knn of a rotated representation, {metric}", same, 1.0, 1e-9)
    for d in (1, 2, 3):
        points = random.random(size=(600, d)) @ rotation(random, 8)[:d]
        yield Seen(f"two_nn of {d} dimensions", two_nn(points), d, 0.05 * d)
    X = random.normal(size=(1000, 5)) @ rotation(random, 9)[:5]
    yield Seen("participation_ratio of 5 directions", participation_ratio(X), 5 * 1000 / 1006, 0.01)
    X = random.normal(size=(1000, 4))
    Y = 2 * (X + 0.5 * random.normal(size=X.shape)) @ rotation(random, 4) + 7
    yield Seen("procrustes of a rotated and noisy representation", procrustes(X, Y, None), 0.25 / 1.25, 0.002)


# ---- probes ----


def probes(random) -> Iterator[Seen]:
    n, d, noise = 150, 10, 0.5
    X = random.normal(size=(n, d))
    slope = np.zeros((d, 2))
    slope[0], slope[1] = (1.0, 0.0), (0.0, 1.0)
    xy = X @ slope + noise * random.normal(size=(n, 2)) + 4
    fit = fit_map(X, xy)
    yield Seen("fit_map: a slope of 1", fit.slope[0, 0], 1.0)
    yield Seen("fit_map: a slope of 0", fit.slope[2, 0], 0.0)
    test = held_out(n, 0.4, seed=int(random.integers(2**31)))
    fitted = n - test.sum()
    predicted = linear_probe(X, xy, test).predicted[test]
    # Error of least squares on new points of a normal design.
    expected = noise**2 * (1 + 1 / fitted) * (fitted - 2) / (fitted - d - 2)
    yield Seen("linear_probe: squared error on held-out points", np.square(predicted - xy[test]).mean(), expected)
    nothing = random.normal(size=(n, 2))
    predicted = linear_probe(X, nothing, test).predicted[test]
    yield Seen(
        "linear_probe of nothing: squared error", np.square(predicted - nothing[test]).mean(), expected / noise**2
    )


# How many simulations each makes at a time: so many in turn pass before it is called again.
CHECKS = {
    tests_of_points: 1,
    tests_of_pairs: 1,
    errors_of_means: 1,
    errors_of_trends: LAYERS,
    alignment: 1,
    shapes: 1,
    probes: 1,
}


# ---- judging ----


def judge(tally: Tally, name: str, seen: list[Seen]) -> None:
    """Compare what was seen with what is expected; each number counts as a try that held, or one of them did not."""
    from scipy.stats import binomtest

    values, expected, within = np.array([one.value for one in seen], float), seen[0].expected, seen[0].within
    mean, n = values.mean(), len(values)
    if isinstance(seen[0].value, (bool, np.bool_)):
        near = min(max(mean, expected - within), expected + within)  # the rate within the formula's error
        holds = binomtest(int(values.sum()), n, min(near, 1.0)).pvalue > LEVEL if n >= FEWEST or expected == 1 else True
        said = f"{mean:.4f} of {n:,}, expected {expected:.4f}"
        holds = holds if expected < 1 else mean > 0.95
    else:
        error = values.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
        holds = abs(mean - expected) <= within + 4 * error + 1e-12
        said = f"{mean:.5g} +- {error:.2g} of {n:,}, expected {expected:.5g}"
    tally.notes.append(f"{name}: {said}")
    if holds:
        tally.hold(name, n)
    else:
        tally.fail(name, said, n)


def judge_errors(tally: Tally, name: str, values: list[Seen], squared: list[Seen]) -> None:
    """Compare the mean squared standard error with the variance of the values themselves: 0.9 to 1.3 of it, as a
    jackknife errs to the safe side.
    """
    n, both = len(values), len(values) + len(squared)
    if n < FEWEST:
        return
    variance = np.var([one.value for one in values], ddof=1)
    ratio = float(np.mean([one.value for one in squared]) / variance)
    slack = 4 * math.sqrt(2 / n)
    tally.notes.append(f"{name}: squared standard errors are {ratio:.3f} of the variance over {n:,} simulations")
    if 0.9 - slack <= ratio <= 1.3 + slack:
        tally.hold(f"{name}: standard error", both)
    else:
        tally.fail(f"{name}: standard error", f"{ratio:.3f}", both)


def run(tally: Tally) -> None:
    """Simulate all checks in turn until there are enough numbers, then judge each."""
    found: dict[str, list[Seen]] = defaultdict(list)
    count = number = 0
    while count < tally.target and tally.elapsed < tally.seconds:
        for i, (check, together) in enumerate(CHECKS.items()):
            for seen in () if number % together else check(np.random.default_rng((tally.seed, number, i))):
                found[seen.of].append(seen)
                count += 1
        number += 1
    for name, seen in found.items():
        if math.isnan(seen[0].expected):
            if name.endswith(": value"):
                what = name.removesuffix(": value")
                judge_errors(tally, what, seen, found[f"{what}: squared error"])
        else:
            judge(tally, name, seen)

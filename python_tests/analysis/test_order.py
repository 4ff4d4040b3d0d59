"""Invariances of the statistics: order and units do not matter, within the error that each states.

The rows are as people have them: groups of five prompts one after another, each group near its own centre, so that a
stride of the rows, or their first half, is another population than the whole.
"""

import numpy as np
import pytest
from stand_ins import OneCheckpoint

import worldfast as wf
from worldfast.analysis import dimension, generalisation, knn, pca, probe, procrustes, stats

random = np.random.default_rng(5)
GROUPS, PROMPTS = 512, 5
N = GROUPS * PROMPTS  # more than the median heuristic uses
PLACES = np.repeat(random.normal(size=(GROUPS, 2)), PROMPTS, 0)
KIND = np.tile(np.arange(PROMPTS), GROUPS)
X = (
    0.3 * PLACES @ random.normal(size=(2, 6))
    + random.normal(size=(PROMPTS, 6))[KIND]
    + 0.1 * random.normal(size=(N, 6))
)
Y = X @ random.normal(size=(6, 4)) + 0.2 * random.normal(size=(N, 4))
ROWS = {"X": X, "Y": Y, "xy": PLACES + 0.1 * random.normal(size=(N, 2)), "test": np.arange(N) // PROMPTS % 4 == 0}


def generalised(X, Y, xy, test):
    table = generalisation.probe_generalisation(X, xy, ~test, {"rest": test})
    return table.groupby("group")["error"].mean().to_numpy()


def distances(X):
    return np.linalg.norm(X[::8, None] - X[None, ::8], axis=2)


# By statistic: a function of the rows, and the relative error within which it stays the same where the rows come in
# another order or sorted ("order"), all twice, block after block ("twice"), with a constant added to each column of X
# ("shifted"), with X in another unit ("scaled"), or with each of its columns in another unit ("units"). Not there: it changes.
EXACT = 1e-8
SAMPLED = 0.03  # of batches, and of a bandwidth, that a permutation of the rows decides
ALL = {"order": EXACT, "twice": EXACT, "shifted": EXACT, "scaled": EXACT}
DEBIASED = ALL | {"twice": 3 / N}  # a row is no independent copy of itself
BY_SAMPLE = ALL | {"order": SAMPLED, "twice": SAMPLED}
STATISTICS = {
    "cka": (lambda X, Y, **_: wf.cka(X, Y), ALL),
    "cka, float32": (lambda X, Y, **_: wf.cka(np.float32(X), np.float32(Y)), dict.fromkeys(ALL, 1e-5)),
    "cka, debiased": (lambda X, Y, **_: wf.cka(X, Y, debiased=True), DEBIASED),
    "cka, rbf": (lambda X, Y, **_: wf.cka(X, Y, "rbf"), BY_SAMPLE),
    "cka, rbf, debiased": (lambda X, Y, **_: wf.cka(X, Y, "rbf", True), BY_SAMPLE),
    "cka, rbf of a sigma": (
        lambda X, Y, **_: wf.cka(X, Y, "rbf", bandwidth=[2.0, 5.0]),
        {"order": EXACT, "twice": EXACT, "shifted": EXACT},
    ),
    "cka of components": (lambda X, Y, **_: wf.cka(X, Y, components=2), ALL),
    "median bandwidth": (lambda X, **_: wf.gram_statistics([X], "rbf").bandwidth / np.linalg.norm(X.std(0)), BY_SAMPLE),
    "cka_minibatch": (lambda X, Y, **_: wf.cka_minibatch([X, Y], 64), BY_SAMPLE),
    "cka_minibatch, rbf": (lambda X, Y, **_: wf.cka_minibatch([X, Y], 64, "rbf"), BY_SAMPLE),
    "cka_standard_error": (
        lambda X, Y, **_: wf.cka_standard_error([X[:, :3], Y])[0, 1],
        {"order": EXACT, "shifted": EXACT, "scaled": EXACT},
    ),
    "procrustes": (lambda X, Y, **_: procrustes(X, Y), ALL),
    "mutual_knn": (
        lambda X, Y, **_: knn.mutual_knn(X, Y, metric="euclidean"),
        {"order": EXACT, "shifted": EXACT, "scaled": EXACT},
    ),
    "mutual_knn, cosine": (lambda X, Y, **_: knn.mutual_knn(X, Y), {"order": EXACT, "scaled": EXACT}),
    "participation_ratio": (lambda X, **_: dimension.participation_ratio(X), ALL),
    "two_nn": (lambda X, **_: dimension.two_nn(X), ALL),
    "linear_probe": (lambda X, xy, test, **_: probe.linear_probe(X, xy, test).r2, ALL | {"units": EXACT}),
    "linear_probe, ridge": (
        lambda X, xy, test, **_: probe.linear_probe(X, xy, test, ridge=10.0).r2,
        {"order": EXACT, "shifted": EXACT, "scaled": EXACT, "units": EXACT},
    ),
    "probe_generalisation": (generalised, ALL | {"units": EXACT}),
    "pca_over_training": (
        lambda X, **_: pca.pca_over_training(OneCheckpoint(X), 1).explained,
        {"order": 2 * SAMPLED, "twice": 2 * SAMPLED, "shifted": EXACT, "scaled": EXACT},
    ),
    "pca_over_training of all": (lambda X, **_: pca.pca_over_training(OneCheckpoint(X), 1, share=1.0).explained, ALL),
    "mixed_over_training": (lambda X, xy, **_: pca.mixed_over_training(OneCheckpoint(X), 1, xy).explained, ALL),
    "mean_and_error": (
        lambda X, **_: stats.mean_and_error(X[:, 0], "row").standard_error,
        {"order": EXACT, "shifted": EXACT},
    ),
    "jackknife_error": (lambda X, **_: stats.jackknife_error(X[:, 0]), {"order": EXACT, "shifted": EXACT}),
    "correlation": (lambda X, Y, **_: stats.correlation(X[:, 0], Y[:, 0], permutations=2).r, ALL),
    "bootstrap": (
        lambda X, **_: stats.bootstrap(X[:, 0], np.std, resamples=400).standard_error,
        {"order": 0.2, "shifted": EXACT},
    ),
}


def another(rows, change):
    if change == "sorted":
        order = np.lexsort(rows["X"].T)
    elif change == "order":
        order = np.random.default_rng(0).permutation(len(rows["X"]))
    else:
        order = np.arange(len(rows["X"]) * (2 if change == "twice" else 1)) % len(rows["X"])
    changed = {name: values[order] for name, values in rows.items()}
    columns = np.arange(1, 1 + rows["X"].shape[1])
    if change == "shifted":
        changed["X"] = changed["X"] + 3.0 * columns
    if change in ("scaled", "units"):
        changed["X"] = changed["X"] * (columns if change == "units" else 7.0)
    return changed


@pytest.fixture(scope="module")
def before():
    return {name: statistic(**ROWS) for name, (statistic, _) in STATISTICS.items()}


@pytest.mark.parametrize(
    "name,change", [(name, change) for name, (_, within) in STATISTICS.items() for change in ("sorted", *within)]
)
def test_order_and_units_do_not_matter(name, change, before):
    statistic, within = STATISTICS[name]
    tolerance = within["order" if change == "sorted" else change]
    np.testing.assert_allclose(statistic(**another(ROWS, change)), before[name], rtol=tolerance, atol=tolerance / 100)


def test_mantel_of_items_in_another_order():
    A, B = distances(X[:400]), distances(Y[:400])
    order = random.permutation(len(A))
    moved = (M[np.ix_(order, order)] for M in (A, 5 * B + 2))
    assert stats.mantel(*moved, permutations=2).r == pytest.approx(stats.mantel(A, B, permutations=2).r, rel=EXACT)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("period", [2, 5, 8, 40, 64, 100])
def test_batches_of_rows_with_a_period(kernel, period):
    """The number of batches is a multiple of the period, or the other way round: a stride sees one kind of row."""
    n = 3200
    kinds, groups = random.normal(size=(period, 5)), np.repeat(random.normal(size=(n // period, 5)), period, 0)
    A = np.tile(kinds, (n // period, 1)) + 0.2 * groups + 0.05 * random.normal(size=(n, 5))
    B = A @ random.normal(size=(5, 4)) + 0.05 * random.normal(size=(n, 4))
    expected = wf.cka(A, B, kernel, debiased=True)
    order = random.permutation(n)
    for rows in (slice(None), order, np.lexsort(A.T)):
        assert wf.cka_minibatch([A[rows], B[rows]], 80, kernel)[0, 1] == pytest.approx(expected, abs=0.02)


def test_flattened_prompts():
    """2,048 groups of 5 prompts, one after another, in 40 batches: by stride, each would be of one prompt alone."""
    prompts, groups = random.normal(size=(5, 16)), np.repeat(random.normal(size=(2048, 16)), 5, 0)
    A = np.tile(prompts, (2048, 1)) + 0.1 * groups
    B = np.tile(prompts @ random.normal(size=(16, 16)), (2048, 1)) + 0.1 * random.normal(size=A.shape)
    order = random.permutation(len(A))
    flattened, shuffled = (wf.cka_minibatch([A[rows], B[rows]], 256)[0, 1] for rows in (slice(None), order))
    assert shuffled > 0.5 and flattened == pytest.approx(shuffled, abs=0.01)
    assert wf.cka_minibatch([A, B], 256, seed=1)[0, 1] == pytest.approx(shuffled, abs=0.01)
    one, other = (wf.gram_statistics([A[rows]], "rbf").bandwidth[0] for rows in (slice(None), order))
    assert one == pytest.approx(other, rel=0.02)

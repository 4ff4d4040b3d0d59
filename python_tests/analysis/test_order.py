"""Invariances of the statistics: order and units do not matter, within the error that each states, and what does not
vary is refused.

The rows are as people have them: groups of five prompts one after another, each group near its own centre, so that a
stride of the rows, or their first half, is another population than the whole.
"""

import numpy as np
import pytest
from stand_ins import OneCheckpoint

import worldfast as wf
from worldfast.analysis import dimension, generalisation, knn, pca, probe, probe_alone, procrustes, stats

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


def few(rows, scale=1.0, offset=0.0):
    """The first rows, with X in another unit."""
    some = {name: values[:200] for name, values in rows.items()}
    return some | {"X": some["X"] * scale + offset}


IN_UNITS = {"mean_and_error", "jackknife_error", "bootstrap"}  # the answer is in the unit of X
ABSOLUTE = {"cka, rbf of a sigma": "bandwidths that are given", "cka, float32": "float32 ends at 1e38"}
LARGE = {
    name: statistic
    for name, (statistic, _) in STATISTICS.items()
    if name not in ABSOLUTE and name != "bootstrap"  # of np.std, which overflows by itself
} | {"bootstrap": lambda X, **_: stats.bootstrap(X[:, 0], resamples=50).standard_error}
LARGE |= {
    "mantel": lambda X, Y, **_: stats.mantel(np.abs(X[:9, None, 0] - X[:9, 0]), distances(Y)[:9, :9], permutations=2).r,
    "probe_alone": lambda X, xy, **_: probe_alone(X, xy).r2,
    "median bandwidth": lambda X, **_: wf.gram_statistics([X], "rbf").bandwidth / np.abs(X).max(),
    "cka_table": lambda X, Y, **_: wf.analysis.cka_table({"a": X, "b": Y}, debiased=True).value[0],
    "mixed_selectivity": lambda X, **_: wf.analysis.mixed_selectivity(X, (20, 10)),
    "sparsity": lambda X, **_: wf.analysis.sparsity(X),
    "angles": lambda X, **_: wf.analysis.angles(X),
}


@pytest.fixture(scope="module")
def at_one():
    return {name: statistic(**few(ROWS)) for name, statistic in LARGE.items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e155, 1e-155, 1e300, 1e-300])
@pytest.mark.parametrize("name", LARGE)
def test_units_near_the_ends_of_float64(name, scale, at_one):
    found = np.asarray(LARGE[name](**few(ROWS, scale)))
    np.testing.assert_allclose(found / scale if name in IN_UNITS else found, at_one[name], rtol=1e-7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["mixed_selectivity", "sparsity", "angles"])
def test_each_unit_of_a_model_in_a_unit_of_its_own(name, at_one):
    """A unit of small activities is no unit that does not vary."""
    sizes = np.array([1e-300, 1e-20, 1.0, 1e20, 1e155, 1e300])
    np.testing.assert_allclose(LARGE[name](**few(ROWS, sizes)), at_one[name], rtol=1e-7)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.1, 7.3e200, -1.1e-300])
@pytest.mark.parametrize("name", sorted(set(STATISTICS) - IN_UNITS))
def test_rows_that_are_equal(name, value):
    """No number comes of rounding errors: an error, or what a probe of nothing is worth."""
    if name == "cka, float32" and value != 0.1:
        value = 0.7
    rows = few(ROWS) | {"X": np.full((200, 6), value)}
    if "probe" in name:
        alone = few(ROWS) | {"X": np.zeros((200, 6))}
        np.testing.assert_allclose(STATISTICS[name][0](**rows), STATISTICS[name][0](**alone), rtol=1e-9)
    else:
        with pytest.raises(
            ValueError, match="all rows|rows are equal|is constant|distinct points, got 1|nothing is left"
        ):
            STATISTICS[name][0](**rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e200])
def test_targets_in_any_unit(scale):
    rows = few(ROWS)
    X, xy, test = rows["X"], rows["xy"], rows["test"]
    expected, found = (probe.linear_probe(X, places, test) for places in (xy, xy * scale))
    np.testing.assert_allclose(found.r2, expected.r2, rtol=1e-9)
    np.testing.assert_allclose(found.predicted / scale, expected.predicted, rtol=1e-5, atol=1e-7)
    assert found.mean_error / scale == pytest.approx(expected.mean_error)
    assert found.median_error / scale == pytest.approx(expected.median_error)
    one, other = (generalised(X, None, places, test) for places in (xy, xy * scale))
    np.testing.assert_allclose(other / scale, one, rtol=1e-9)
    for constant in (np.full_like(xy, 0.1 * scale), np.where(test[:, None], 0.1, xy) * scale):
        with pytest.raises(ValueError, match="xy: column 0 does not vary among the held-out items"):
            probe.linear_probe(X, constant, test)


@pytest.mark.filterwarnings("error")
def test_means_at_the_end_of_float64():
    values = np.array([1.0, 1.5, 1.2])
    for size in (1e308, 1e-308):
        found, expected = (stats.mean_and_error(x, "seed") for x in (values * size, values))
        assert found.mean / size == pytest.approx(expected.mean)
        assert found.standard_error / size == pytest.approx(expected.standard_error)
        assert stats.jackknife_error(values * size) / size == pytest.approx(stats.jackknife_error(values))
        found, expected = (stats.bootstrap(x, resamples=50) for x in (values * size, values))
        for part in ("value", "low", "high", "standard_error"):
            assert getattr(found, part) / size == pytest.approx(getattr(expected, part)), part


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

"""CKA against its definition, n x n in float64, and against what is known of it."""

import math
import sys

import h5py
import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast._native import core
from worldfast.analysis import gram
from worldfast.analysis.cka import cka_minibatch, cka_standard_error
from worldfast.arrays import numbers, permuted

rng = np.random.default_rng(7)
KINDS = [(kernel, debiased) for kernel in ("linear", "rbf") for debiased in (False, True)]


def gram_matrix(X, kernel, sigma=None):
    X = np.asarray(X, dtype=np.float64)
    if kernel == "linear":
        X = X - X.mean(0)
        return X @ X.T
    squared = ((X[:, None] - X[None]) ** 2).sum(-1)
    sigma = np.median(np.sqrt(squared[np.triu_indices(len(X), 1)])) if sigma is None else sigma
    return np.exp(-squared / (2 * sigma**2))


def reference(Xs, kernel="linear", debiased=False, sigma=None):
    """By the definitions: float64 [M, M]."""
    n = len(Xs[0])
    one, centre = np.ones(n), np.eye(n) - 1 / n

    def hsic(A, B):
        if not debiased:
            return np.trace(centre @ A @ centre @ B)
        A, B = A - np.diag(np.diag(A)), B - np.diag(np.diag(B))
        middle = (one @ A @ one) * (one @ B @ one) / ((n - 1) * (n - 2))
        return (np.trace(A @ B) + middle - 2 / (n - 2) * (one @ A @ B @ one)) / (n * (n - 3))

    sigma = [None] * len(Xs) if sigma is None else sigma
    grams = [gram_matrix(X, kernel, s) for X, s in zip(Xs, sigma)]
    matrix = np.array([[hsic(A, B) for B in grams] for A in grams])
    own = np.sqrt(np.diagonal(matrix))
    return matrix / own[:, None] / own


def alike(n, widths, scale=1.0, offset=0.0, dtype=np.float64):
    """Representations that share three hidden coordinates, columns of very different size."""
    rng = np.random.default_rng(n)  # the same whatever ran before
    hidden = rng.normal(size=(n, 3))
    Xs = []
    for d in widths:
        X = np.tanh(hidden @ rng.normal(size=(3, d))) + 0.3 * rng.normal(size=(n, d))
        Xs.append((X * scale * 10 ** rng.uniform(-1, 1, d) + offset).astype(dtype))
    return Xs


@pytest.mark.parametrize("kernel,debiased", KINDS)
@pytest.mark.parametrize(
    "n,widths", [(5, (3, 2)), (64, (1, 7)), (33, (7, 11, 64, 130)), (200, (101, 64, 33)), (17, (301, 5))]
)
@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-10), ("float32", 1e-5), ("float16", 1e-5)])
@pytest.mark.parametrize("offset,scale", [(0, 1), (1000, 1), (0, 1e-3), (30, 1e3)])
def test_against_the_definition(n, widths, dtype, tolerance, offset, scale, kernel, debiased):
    if dtype == "float16" and abs(offset) + 40 * scale > 6e4:
        pytest.skip("more than float16 can hold")
    Xs = alike(n, widths, scale, offset, dtype)
    if kernel == "rbf" and any(len(np.unique(X, axis=0)) < n / 2 for X in Xs):
        pytest.skip("float16 has made most rows equal")
    expected = reference(Xs, kernel, debiased)
    matrix = wf.cka_matrix(Xs, kernel, debiased)
    # what the debiased ratio is rounded to is the plain one: it may be near 0
    np.testing.assert_allclose(matrix, expected, rtol=tolerance, atol=tolerance / 10)
    assert wf.cka(Xs[0], Xs[1], kernel, debiased) == pytest.approx(matrix[0, 1], rel=2 * tolerance, abs=tolerance / 5)


@pytest.mark.parametrize("kernel,debiased", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_vector_width(dtype, kernel, debiased, vector_width):
    Xs = alike(101, (33, 70, 3, 5, 129), dtype=dtype)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    for few in (Xs, Xs[:2]):  # Gram of Grams and feature products
        np.testing.assert_allclose(
            wf.cka_matrix(few, kernel, debiased), reference(few, kernel, debiased), rtol=tolerance
        )


def test_linear_takes_the_cheaper_way(monkeypatch):
    """Features for two narrow representations, Gram of Grams for many wide ones: both are right, and both are taken."""
    taken = []
    for kind in ("FeatureProducts64", "GramOfGrams64"):
        made = getattr(core, kind)
        monkeypatch.setattr(core, kind, lambda *args, kind=kind, made=made: taken.append(kind) or made(*args))
    for n, widths in ((300, (20, 30)), (40, (64, 65, 200))):
        Xs = alike(n, widths)
        np.testing.assert_allclose(wf.cka_matrix(Xs), reference(Xs), rtol=1e-10)
    assert taken == ["FeatureProducts64", "GramOfGrams64"]


@pytest.mark.parametrize("kernel,debiased", KINDS)
def test_several_statistics_from_one_pass(kernel, debiased):
    Xs = alike(150, (40, 20, 64))
    statistics = wf.gram_statistics(Xs, ("linear", "rbf"))
    np.testing.assert_allclose(statistics.cka(kernel, debiased), reference(Xs, kernel, debiased), rtol=1e-10)


@pytest.mark.parametrize("kernel", gram.KERNELS)
@pytest.mark.parametrize("widths", [(7, 5), (40, 90, 64)])
def test_blocks_of_rows_make_no_difference(monkeypatch, tmp_path, kernel, widths):
    """What does not fit in memory is read in blocks, from an HDF5 file too."""
    Xs = alike(333, widths, dtype=np.float32)
    whole = wf.cka_matrix(Xs, kernel)
    with h5py.File(tmp_path / "stream.h5", "w") as file:
        for i, X in enumerate(Xs):
            file[f"layer_{i}"] = X
        monkeypatch.setattr(gram, "PANEL_BYTES", 1)
        streamed = wf.cka_matrix([file[f"layer_{i}"] for i in range(len(Xs))], kernel)
    np.testing.assert_allclose(streamed, whole, rtol=1e-6)
    np.testing.assert_allclose(streamed, reference(Xs, kernel), rtol=1e-5)


@pytest.mark.parametrize("kernel,debiased", KINDS)
def test_float64_by_matrix_products(kernel, debiased):
    """The way of float64 on a GPU, here on the CPU."""
    Xs = alike(150, (40, 20, 64), scale=300)
    plain = [numbers(torch.tensor(X), "X") for X in Xs]
    found = gram._on_gpu(plain, (kernel,), np.asarray(1.0))
    np.testing.assert_allclose(found.cka(kernel, debiased), reference(Xs, kernel, debiased), rtol=1e-10)


@pytest.mark.parametrize("kernel,debiased", KINDS)
def test_the_number_of_threads_makes_no_difference(kernel, debiased):
    Xs = alike(700, (40, 30, 20), dtype=np.float32)
    one, three = (wf.gram_statistics(Xs, kernel, threads=threads).cka(kernel, debiased) for threads in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize("kernel,debiased", KINDS)
def test_symmetry_the_diagonal_and_invariance(kernel, debiased):
    X, Y = alike(90, (9, 5))
    turned = X @ np.linalg.qr(rng.normal(size=(9, 9)))[0] * 17 + 3
    matrix = wf.cka_matrix([X, Y, turned], kernel, debiased)
    assert np.array_equal(matrix, matrix.T) and np.array_equal(np.diagonal(matrix), np.ones(3))
    assert matrix[0, 2] == pytest.approx(1, abs=1e-12)
    assert matrix[2, 1] == pytest.approx(matrix[0, 1], rel=1e-12)


@pytest.mark.parametrize("kernel", gram.KERNELS)
@pytest.mark.parametrize("n", [8, 64, 512, 4096])
def test_debiased_of_independent_inputs_is_zero_on_average(n, kernel):
    own = np.random.default_rng(n)
    values = []
    for _ in range(max(4000 // n, 8)):
        X, Y = own.normal(size=(n, 5)), own.normal(size=(n, 4)).astype(np.float32)
        values.append(wf.cka(X, Y, kernel, debiased=True))
        assert wf.cka(X, Y, kernel) > 0
    assert abs(np.mean(values)) < 2 * np.std(values, ddof=1) / np.sqrt(len(values))


def test_an_outlier_does_not_cost_its_neighbours_their_distances():
    """Two things far out and near each other: float32 products would not see how near."""
    Xs = [X.astype(np.float32) for X in alike(60, (8, 6))]
    for X in Xs:
        X[:2] += 1e5
    np.testing.assert_allclose(wf.cka_matrix(Xs, "rbf"), reference(Xs, "rbf"), rtol=1e-5)


@pytest.mark.parametrize("kernel", gram.KERNELS)
def test_every_kind_of_array(kernel):
    X, Y = alike(40, (12, 6), dtype=np.float32)
    expected = reference([X[:, ::2], Y], kernel)[0, 1]
    X.flags.writeable = False
    kinds = [X[:, ::2], np.asfortranarray(X[:, ::2]), X[:, ::2].tolist(), X[:, ::2].astype(">f8").astype(np.float64)]
    kinds += [torch.tensor(X)[:, ::2], torch.tensor(X[:, ::2], requires_grad=True), torch.tensor(X).T[::2].T]
    for kind in kinds:
        assert wf.cka(kind, Y, kernel) == pytest.approx(expected, rel=1e-5)
    whole = (X * 100).round()
    exact = reference([whole, Y], kernel)[0, 1]
    for dtype in ("int32", "uint8", "int64"):
        integers = (whole - whole.min()).astype(dtype)
        assert wf.cka(integers, Y, kernel) == pytest.approx(reference([integers, Y], kernel)[0, 1], rel=1e-5)
        assert wf.cka(torch.from_numpy(integers), Y, kernel) == pytest.approx(wf.cka(integers, Y, kernel), rel=1e-12)
    assert wf.cka(whole.astype(np.float64), Y.astype(np.float64), kernel) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("kernel", gram.KERNELS)
def test_bfloat16_and_the_edges_of_float16(kernel):
    Xs = [torch.tensor(X).bfloat16() for X in alike(70, (12, 6))]
    expected = reference([X.double().numpy() for X in Xs], kernel)
    np.testing.assert_allclose(wf.cka_matrix(Xs, kernel), expected, rtol=1e-5)
    small = [(X * 1e-6).astype(np.float16) for X in alike(70, (12, 6))]  # denormals
    assert any(np.abs(X[X != 0]).min() < 6e-6 for X in small)
    np.testing.assert_allclose(wf.cka_matrix(small, kernel), reference(small, kernel), rtol=1e-5)


def test_bandwidth():
    Xs = alike(80, (6, 9))
    sigma = [1.5, 4.0]
    np.testing.assert_allclose(wf.cka_matrix(Xs, "rbf", bandwidth=sigma), reference(Xs, "rbf", sigma=sigma), rtol=1e-10)
    medians = wf.gram_statistics(Xs, "rbf").bandwidth
    for X, median in zip(Xs, medians):
        assert median == pytest.approx(
            np.median([np.linalg.norm(a - b) for i, a in enumerate(X) for b in X[:i]]), rel=1e-12
        )
    half = wf.cka_matrix(Xs, "rbf", bandwidth=0.5)
    np.testing.assert_allclose(half, reference(Xs, "rbf", sigma=medians / 2), rtol=1e-10)


def centred_by_difference(X, sigma, dtype):
    """The doubly centred RBF matrix, from differences of rows and without the ones that cancel."""
    squared = sum((column[:, None] - column) ** 2 for column in np.asarray(X, dtype).T)
    K = np.expm1(-squared / (2 * dtype(sigma) ** 2))
    K -= K.mean(0)
    return K - K.mean(1)[:, None]


@pytest.mark.parametrize("n", [8, 61, 300])
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float64", 1e-10)])
def test_any_bandwidth(n, dtype, tolerance):
    """The wider the kernel, the nearer to one are all of its entries: what differs must not be lost."""
    Xs = alike(n, (9, 5), dtype=dtype)
    for multiple in (1e-3, 0.01, 0.1, 0.5, 2, 30, 3_000, 1e4, 1e7, 1e15, 1e30):
        found = wf.gram_statistics(Xs, "rbf", multiple)
        K, L = (centred_by_difference(X, sigma, np.longdouble) for X, sigma in zip(Xs, found.bandwidth))
        expected = float((K * L).sum() / np.sqrt((K * K).sum()) / np.sqrt((L * L).sum()))
        assert found.cka("rbf")[0, 1] == pytest.approx(expected, rel=tolerance), multiple


def expm1(x):
    """Return exp(x) - 1, long double, by its series where that is quicker."""
    largest, terms = abs(x).max(), 1
    while largest**terms / math.factorial(terms + 1) > 1e-20 and terms < 9:
        terms += 1
    if terms == 9:
        return np.expm1(x)
    found = x / terms
    for term in range(terms - 1, 0, -1):
        found += 1
        found *= x * (1 / np.longdouble(term))
    return found


def rbf_by_blocks(Xs, sigmas, size=128):
    """Sums over the entries of exp(-d^2 / (2 sigma^2)) - 1 of two, long double: of products [2, 2], of rows [2, n]."""
    Xs, n = [np.asarray(X, np.longdouble) for X in Xs], len(Xs[0])
    products, rows = np.zeros((2, 2), np.longdouble), np.zeros((2, n), np.longdouble)
    for start in range(0, n, size):  # the blocks on the diagonal, and what is right of each, twice
        of, after = slice(start, start + size), slice(start + size, n)
        blocks = []
        for X, sigma in zip(Xs, sigmas):
            squared = sum((column[of, None] - column[start:]) ** 2 for column in X.T)
            blocks.append(expm1(squared / (-2 * np.longdouble(sigma) ** 2)))
        for a, K in enumerate(blocks):
            rows[a, of] += K.sum(1)
            rows[a, after] += K[:, size:].sum(0)
            for b, L in enumerate(blocks[: a + 1]):
                both = K * L
                products[a, b] += both[:, :size].sum() + 2 * both[:, size:].sum()
    return products + np.tril(products, -1).T, rows


def hsic_by_sums(products, rows, debiased):
    """HSIC [2, 2] up to a factor; a constant on all entries, or on all off the diagonal if debiased, changes nothing."""
    n, total = rows.shape[1], rows.sum(1)
    if debiased:
        return products - 2 / np.longdouble(n - 2) * rows @ rows.T + np.outer(total, total) / ((n - 1) * (n - 2))
    return products - 2 / np.longdouble(n) * rows @ rows.T + np.outer(total, total) / n**2


@pytest.mark.parametrize("n,multiples", [(1500, (0.1, 1, 3_000)), (2177, (30, 1e4)), (5000, (1e4,))])
def test_any_bandwidth_of_many_rows(monkeypatch, n, multiples):
    """Several blocks of rows and, of more than 2,048, the median of some: in both dtypes, plain and debiased."""
    monkeypatch.setattr(gram, "PANEL_BYTES", 1 << 14)
    single = alike(n, (3, 2), dtype="float32")
    assert len(gram._blocks(n, 20)) > 3
    some = permuted(n)[:2048]
    medians = [np.median(torch.pdist(torch.tensor(X[some]).double()).numpy()) for X in single]
    for multiple in multiples:
        sigmas = multiple * np.array(medians)
        sums = rbf_by_blocks(single, sigmas)
        for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-10)):
            found = wf.gram_statistics([X.astype(dtype) for X in single], "rbf", multiple)
            np.testing.assert_allclose(found.bandwidth, sigmas, rtol=tolerance / 10)
            for debiased in (False, True):
                hsic = hsic_by_sums(*sums, debiased)
                expected = float(hsic[0, 1] / np.sqrt(hsic[0, 0] * hsic[1, 1]))
                assert found.cka("rbf", debiased)[0, 1] == pytest.approx(expected, rel=tolerance), (multiple, debiased)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float64", 1e-10)])
def test_any_bandwidth_of_heavy_tails(dtype, tolerance):
    """Outliers make up most of a wide kernel's matrix: centring leaves little of its sums."""
    Xs = [rng.standard_cauchy(size=(200, 6)).astype(dtype) for _ in range(2)]
    Xs[1] += Xs[0]
    for multiple in (0.3, 1, 30, 3_000, 1e5):
        found = wf.gram_statistics(Xs, "rbf", multiple)
        K, L = (centred_by_difference(X, sigma, np.longdouble) for X, sigma in zip(Xs, found.bandwidth))
        expected = float((K * L).sum() / np.sqrt((K * K).sum()) / np.sqrt((L * L).sum()))
        assert found.cka("rbf")[0, 1] == pytest.approx(expected, rel=tolerance), multiple
        errors = cka_standard_error(Xs, "rbf", bandwidth=multiple)
        assert np.isfinite(errors).all() and 0 < errors[0, 1] < 1


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float64", 1e-10)])
def test_error_of_the_debiased_ratio(dtype, tolerance):
    """That of the plain one, over the share of a representation's own HSIC that is left of it."""
    checked = 0
    for multiple in (0.1, 0.2, 0.3, 0.5, 1, 10):
        Xs = alike(8, (3, 2), dtype=dtype)
        found = wf.gram_statistics(Xs, "rbf", multiple)
        grams = [
            np.exp(-sum((x[:, None] - x) ** 2 for x in X.astype(np.longdouble).T) / (2 * np.longdouble(s) ** 2))
            for X, s in zip(Xs, found.bandwidth)
        ]
        for K in grams:
            np.fill_diagonal(K, 0)

        def hsic(K, L):
            row, total = K.sum(0) @ L.sum(0), K.sum() * L.sum()
            return ((K * L).sum() - row / 3 + total / 42) / 40

        own = [hsic(K, K) for K in grams]
        share = min(float(mine / plain) for mine, plain in zip(own, np.diagonal(found.hsic("rbf"))))
        if share * 1e3 < tolerance:
            continue  # CKA may be undefined
        expected = float(hsic(*grams) / np.sqrt(own[0] * own[1]))
        assert abs(found.cka("rbf", debiased=True)[0, 1] - expected) < tolerance / min(share, 1), multiple
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float64", 1e-10)])
def test_outliers_up_to_a_thousand_times_the_median_distance(dtype, tolerance):
    Xs = alike(60, (8, 6), dtype=dtype)
    for X in Xs:
        X[:2] += 1e3 * np.linalg.norm(X.std(0)) / np.sqrt(X.shape[1])
    for multiple in (0.3, 1, 30, 1e5):
        found = wf.gram_statistics(Xs, "rbf", multiple)
        K, L = (centred_by_difference(X, sigma, np.longdouble) for X, sigma in zip(Xs, found.bandwidth))
        expected = float((K * L).sum() / np.sqrt((K * K).sum()) / np.sqrt((L * L).sum()))
        assert found.cka("rbf")[0, 1] == pytest.approx(expected, rel=tolerance), multiple


def test_median_distance_of_many_rows():
    """Where most distances are dropped before the middle ones are found; also where many are equal."""
    X = rng.normal(size=(500, 3))
    for given in (X, X.round(), np.sort(X, 0), np.repeat(X[:50], 10, 0)[:499], X.astype(np.float32)):
        i, j = np.triu_indices(len(given), 1)
        expected = np.median(np.linalg.norm((given[i] - given[j]).astype(np.float64), axis=1))
        found = wf.gram_statistics([given], "rbf").bandwidth[0]
        assert found == pytest.approx(expected, rel=1e-12 if given.dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("debiased", [False, True])
def test_a_kernel_ever_wider_has_a_limit(debiased):
    """It is 1 - |x - y|^2 / (2 sigma^2), which centring makes linear; on a GPU's way too."""
    Xs = alike(90, (9, 5))
    limit = wf.cka(*Xs) if not debiased else None
    for statistics in (
        wf.gram_statistics(Xs, "rbf", 1e6),
        wf.gram_statistics(Xs, "rbf", 1e20),
        gram._on_gpu([numbers(torch.tensor(X), "X") for X in Xs], ("rbf",), np.asarray(1e6)),
        gram._on_gpu([numbers(torch.tensor(X), "X") for X in Xs], ("rbf",), np.asarray(1e20)),
    ):
        found = statistics.cka("rbf", debiased)[0, 1]
        limit = found if limit is None else limit
        assert found == pytest.approx(limit, rel=1e-9)


@pytest.mark.parametrize("bandwidth", [0.05, 0.3, 1, 100, 1e6, 1e20])
def test_standard_error_at_any_bandwidth(bandwidth):
    Xs = alike(30, (7, 5))
    sigma = wf.gram_statistics(Xs, "rbf", bandwidth).bandwidth
    without = []
    for i in range(30):
        K, L = (centred_by_difference(np.delete(X, i, 0), s, np.longdouble) for X, s in zip(Xs, sigma))
        without.append(float((K * L).sum() / np.sqrt((K * K).sum()) / np.sqrt((L * L).sum())))
    expected = np.sqrt(29 / 30 * np.square(np.array(without) - np.mean(without)).sum())
    assert cka_standard_error(Xs, "rbf", bandwidth=bandwidth)[0, 1] == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_components():
    X, Y = alike(50, (12, 70))
    project = lambda A: (A - A.mean(0)) @ np.linalg.svd(A - A.mean(0), full_matrices=False)[2][:3].T  # noqa: E731
    expected = reference([project(X), project(Y)])[0, 1]
    assert wf.cka(X, Y, components=3) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="13 components"):
        wf.cka(X, Y, components=13)


@pytest.mark.parametrize("kernel,debiased", KINDS)
def test_standard_error_leaves_out_each_city_in_turn(kernel, debiased):
    Xs = alike(40, (7, 5, 30))
    sigma = wf.gram_statistics(Xs, "rbf").bandwidth
    without = np.array([reference([np.delete(X, i, 0) for X in Xs], kernel, debiased, sigma) for i in range(40)])
    expected = np.sqrt(39 / 40 * ((without - without.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(cka_standard_error(Xs, kernel, debiased), expected, atol=1e-10)


def test_standard_error_is_that_of_repeated_samples():
    """The spread over samples of the same population is what it estimates."""
    world = alike(20_000, (4, 4))
    values, errors = [], []
    for _ in range(100):
        rows = rng.choice(20_000, 100, replace=False)
        Xs = [X[rows] for X in world]
        values.append(wf.cka(*Xs, debiased=True))
        errors.append(cka_standard_error(Xs, debiased=True)[0, 1])
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


@pytest.mark.parametrize("kernel", gram.KERNELS)
def test_minibatches(tmp_path, kernel):
    Xs = alike(1000, (8, 6))
    one = cka_minibatch(Xs, 1000, kernel)
    np.testing.assert_allclose(one, wf.cka_matrix(Xs, kernel, debiased=True), rtol=1e-10)
    with h5py.File(tmp_path / "stream.h5", "w") as file:
        for i, X in enumerate(Xs):
            file[f"layer_{i}"] = X
        streamed = cka_minibatch([file["layer_0"], file["layer_1"]], 100, kernel)
    assert streamed[0, 1] == pytest.approx(one[0, 1], abs=0.03)
    # by hand: the sums of batches, not the mean of ratios
    batches = np.split(permuted(1000), 10)
    hsic = sum(wf.gram_statistics([X[rows] for X in Xs], kernel).hsic(kernel, debiased=True) for rows in batches)
    assert streamed[0, 1] == pytest.approx(hsic[0, 1] / np.sqrt(hsic[0, 0] * hsic[1, 1]), rel=1e-10)
    with pytest.raises(ValueError, match="batch: expected at least 4"):
        cka_minibatch(Xs, 3)


def test_minibatches_of_a_stream():
    """The batches as pairs, however they come, count as rows of arrays do."""
    X, Y = alike(1000, (8, 6), dtype=np.float32)
    drawn = [(X[rows], Y[rows]) for rows in np.split(permuted(1000), 10)]
    expected = cka_minibatch([X, Y], 100)
    assert np.array_equal(cka_minibatch(iter(drawn)), expected)
    assert np.array_equal(cka_minibatch([list(pair) for pair in drawn]), expected)
    tensors = torch.utils.data.TensorDataset(torch.tensor(X[permuted(1000)]), torch.tensor(Y[permuted(1000)]))
    loader = torch.utils.data.DataLoader(tensors, batch_size=100)
    assert np.array_equal(cka_minibatch(loader), expected)
    bandwidth = [3.0, 4.0]
    assert np.array_equal(
        cka_minibatch((pair for pair in drawn), None, "rbf", bandwidth=bandwidth),
        cka_minibatch([X, Y], 100, "rbf", bandwidth=bandwidth),
    )
    three = cka_minibatch((*pair, pair[0]) for pair in drawn)
    assert three.shape == (3, 3) and three[0, 2] == pytest.approx(1)
    # a generator of representations is one of representations
    assert np.array_equal(cka_minibatch((Z for Z in (X, Y)), 100), expected)
    # a short last batch weighs what its rows do
    assert cka_minibatch([*drawn, (X[:4], Y[:4])])[0, 1] == pytest.approx(expected[0, 1], abs=0.02)


def test_refuses_streams():
    X, Y = alike(40, (3, 2))
    for batches, error, message in (
        ([(X, Y), (X[:3], Y[:3])], ValueError, r"batches\[1\]\[0\]: expected a batch of at least 4 rows, got 3"),
        ([(X, Y), (X, Y, Y)], TypeError, r"batches\[1\]: expected a tuple of 2 arrays, got 3 arrays"),
        ([(X, Y), X], TypeError, r"batches\[1\]: expected a tuple of 2 arrays, got a ndarray"),
        ([(X, Y), (X, Y[:-1])], ValueError, r"batches\[1\]\[1\]: expected 40 rows as in batches\[1\]\[0\], got 39"),
        ([(X, Y), (X, X > 0)], TypeError, r"batches\[1\]\[1\]: expected real numbers, got dtype bool"),
        (iter(()), ValueError, "Xs: expected at least one"),
    ):
        with pytest.raises(error, match=message):
            cka_minibatch(batches)
    with pytest.raises(ValueError, match="batch: an iterable of batches has its own, got 10"):
        cka_minibatch([(X, Y)], 10)


class Chunked:
    """A dataset of compressed chunks that counts how often each is read."""

    def __init__(self, array, rows):
        self.shape, self.dtype, self.chunks = array.shape, array.dtype, (rows, array.shape[1])
        self.array, self.read = array, np.zeros(-(-len(array) // rows), int)

    def __getitem__(self, rows):
        self.read[rows.start // self.chunks[0] : (rows.stop - 1) // self.chunks[0] + 1] += 1
        return self.array[rows]


@pytest.mark.parametrize("rows", [1, 7, 64, 5000])
def test_each_chunk_is_read_once(monkeypatch, rows):
    Xs = alike(3000, (8, 6))
    expected = cka_minibatch(Xs, 100, "rbf")
    stored = [Chunked(X, rows) for X in Xs]
    assert np.array_equal(cka_minibatch(stored, 100, "rbf"), expected)
    assert all((X.read == 1).all() for X in stored)
    monkeypatch.setattr("worldfast.arrays.BLOCK_BYTES", 5000)  # a block of few rows, but of whole chunks
    monkeypatch.setattr(sys.modules["worldfast.analysis.cka"], "GATHERED_BYTES", sum(X.nbytes for X in Xs) // 3)
    assert np.array_equal(cka_minibatch(stored, 100, "rbf"), expected)
    assert all((X.read <= 5).all() for X in stored)  # once more for each third, and what is left of three


def test_hsic_is_in_the_units_of_the_representations():
    X, Y = alike(30, (4, 3), scale=37.0)
    expected = np.linalg.norm((X - X.mean(0)).T @ (Y - Y.mean(0))) ** 2 / 29**2
    assert wf.gram_statistics([X, Y]).hsic()[0, 1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "X,message",
    [
        (np.full((5, 3), 7.1), "X.*all rows are equal"),
        (np.full((5, 3), np.nan), "X: holds NaN"),
        (np.array([[1.0, 2], [3, np.inf], [0, 0], [1, 1], [2, 2]]), "X: holds NaN or infinity"),
        (np.full((5, 2), np.inf), "X: holds NaN"),
        (np.zeros(5), r"X.*\[n, d\]"),
        (np.zeros((1, 5)), "X: expected at least 2 rows"),
        (np.zeros((5, 0)), "X: without columns"),
        (rng.normal(size=(6, 3)), "Y: expected 6 rows as in X, got 5"),
    ],
)
@pytest.mark.parametrize("kernel", gram.KERNELS)
def test_refuses_values(X, message, kernel):
    Y = rng.normal(size=(1 if len(X) == 1 else 5, 2))
    with pytest.raises(ValueError, match=message):
        wf.cka(X, Y, kernel)
    with pytest.raises(ValueError, match=r"Xs\["):
        wf.cka_matrix([Y, X], kernel)


def test_refuses_names_types_and_options():
    X = rng.normal(size=(3, 2))
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        wf.cka(X, X, kernel="linaer")
    with pytest.raises(ValueError, match="unknown kernel 'rbf'.*known: linear"):
        wf.gram_statistics([X, X]).cka("rbf")
    with pytest.raises(TypeError, match="X: expected real numbers, got dtype complex128"):
        wf.cka(X + 1j, X)
    with pytest.raises(TypeError, match="X: expected real numbers"):
        wf.cka(X > 0, X)
    with pytest.raises(ValueError, match="at least 4 rows, got 3"):
        wf.cka(X, X, debiased=True)
    for call in (wf.cka_matrix, wf.cka_minibatch, wf.gram_statistics, cka_standard_error):
        with pytest.raises(TypeError, match=r"Xs: expected a sequence of arrays \[n, d\].*, got 3"):
            call(3)
    for kernel in (3, [3], None):
        with pytest.raises(TypeError, match="kernel: expected 'linear', 'rbf' or both, got"):
            wf.cka(X, X, kernel)
    with pytest.raises(TypeError, match="threads: expected an integer, got 'x'"):
        wf.gram_statistics([X, X], threads="x")
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        wf.gram_statistics([X, X], threads=0)
    with pytest.raises(TypeError, match="batch: expected an integer, got 'x'"):
        wf.cka_minibatch([X, X], "x")
    with pytest.raises(TypeError, match="bandwidth: expected a positive number, .*, got 'x'"):
        wf.cka(X, X, "rbf", bandwidth="x")
    with pytest.raises(ValueError, match="at least one"):
        wf.cka_matrix([])
    for bandwidth in (0, -1.0, np.nan, [1.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="bandwidth: expected a positive number"):
            wf.cka(X, X, "rbf", bandwidth=bandwidth)
    with pytest.raises(ValueError, match="the median distance is 0"):
        wf.cka(np.array([[0.0]] * 9 + [[1.0]]), rng.normal(size=(10, 1)), "rbf")

"""Comparisons of representations and their dimensions against SciPy, plain loops and planted answers."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial import procrustes as scipy_procrustes
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from worldfast.analysis.cka import cka, cka_matrix
from worldfast.analysis.cka_tables import cka_over_training, cka_table
from worldfast.analysis.dimension import dimension_table, participation_ratio, two_nn
from worldfast.analysis.knn import chance, mutual_knn, mutual_knn_table, nearest
from worldfast.analysis.procrustes import procrustes, procrustes_table

random = np.random.default_rng(13)


def turned(X, d=None):
    """The same figure elsewhere, larger, turned, in d dimensions."""
    d = d or X.shape[1]
    frame = np.linalg.qr(random.normal(size=(d, d)))[0][: X.shape[1]]
    return 3.5 * X @ frame + random.normal(size=d)


def several():
    base = random.normal(size=(60, 8)) * np.arange(8, 0, -1)
    noisy = base + 2 * random.normal(size=base.shape)
    return {"a": base, "b": turned(base, 12), "c": noisy, "d": random.normal(size=(60, 5))}


def test_procrustes_is_scipys():
    Xs = several()
    for a, b in itertools.combinations(Xs, 2):
        first, second = (PCA(3).fit_transform(Xs[name]) for name in (a, b))
        assert procrustes(Xs[a], Xs[b]) == pytest.approx(scipy_procrustes(first, second)[2], abs=1e-12)
    assert procrustes(Xs["a"], Xs["c"], None) == pytest.approx(scipy_procrustes(Xs["a"], Xs["c"])[2])
    assert procrustes(Xs["a"], Xs["b"]) < 1e-12 and procrustes(Xs["a"], Xs["b"], None) < 1e-12
    assert procrustes(Xs["a"], Xs["d"]) > 0.5
    single = torch.from_numpy(Xs["a"].astype(np.float32))
    assert procrustes(single, Xs["c"].astype(np.float16)) == pytest.approx(procrustes(Xs["a"], Xs["c"]), abs=1e-3)


def test_procrustes_table():
    Xs = several()
    table = procrustes_table(Xs, layer=5)
    assert list(table.columns) == ["layer", "components", "run", "other", "disparity"] and len(table) == 6
    assert (table["layer"] == 5).all() and (table["components"] == 3).all()
    for row in table.itertuples():
        assert row.run < row.other and row.disparity == pytest.approx(procrustes(Xs[row.run], Xs[row.other]), abs=1e-12)
    assert (procrustes_table(Xs, None)["components"] == 0).all()


def test_procrustes_refuses():
    Xs = several()
    for bad, match in (
        (np.ones((60, 4)), "b: all rows are equal"),
        (np.full((60, 4), np.nan), "b: holds NaN"),
        (np.ones(60), r"b: expected \[n, d\]"),
        (random.normal(size=(60, 2)), "b: .*3 components"),
        (random.normal(size=(50, 4)), "b: expected 60 rows as in a, got 50|a: expected 50 rows as in b, got 60"),
    ):
        with pytest.raises(ValueError, match=match):
            procrustes_table({"a": Xs["a"], "b": bad})
    with pytest.raises(ValueError, match="at least 2"):
        procrustes_table({"a": Xs["a"]})
    with pytest.raises(TypeError, match="mapping"):
        procrustes_table([Xs["a"]])


def neighbour_sets(X, k, metric):
    found = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(X).kneighbors(return_distance=False)
    return [set(row) for row in found]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_mutual_knn_counts_shared_neighbours(metric):
    X = random.normal(size=(1100, 6)) + 4  # several blocks
    Y = X + 0.5 * random.normal(size=X.shape)
    pairs = zip(neighbour_sets(X, 7, metric), neighbour_sets(Y, 7, metric))
    expected = np.mean([len(a & b) / 7 for a, b in pairs])
    assert mutual_knn(X, Y, 7, metric) == pytest.approx(expected) and 0.1 < expected < 0.9
    assert mutual_knn(X, turned(X, 9), 7, "euclidean") == 1


def test_nearest_is_in_order():
    X = random.normal(size=(300, 4))
    assert np.array_equal(nearest(X, 5), cKDTree(X).query(X, 6)[1][:, 1:])


def test_mutual_knn_of_noise_is_at_chance():
    values = [mutual_knn(*random.normal(size=(2, 200, 10)), k=10) for _ in range(20)]
    assert np.mean(values) == pytest.approx(chance(200, 10), abs=0.005) and chance(200, 10) == 10 / 199
    assert mutual_knn(*random.normal(size=(2, 30, 3)), k=29) == 1  # all others are neighbours


def test_mutual_knn_table():
    Xs = several()
    table = mutual_knn_table(Xs, k=5, layer=4)
    assert list(table.columns) == ["layer", "k", "run", "other", "value", "chance"] and len(table) == 6
    for row in table.itertuples():
        assert row.value == mutual_knn(Xs[row.run], Xs[row.other], 5) and row.chance == 5 / 59


def test_mutual_knn_refuses():
    X = random.normal(size=(20, 3))
    for arguments, match in (
        ((X, X, 20), "k: expected 1 to 19"),
        ((X, X, 0), "k: expected 1 to 19"),
        ((X, X[:-1], 3), "Y: expected 20 rows"),
        ((X, X * np.nan, 3), "Y: holds NaN"),
        ((X * 0, X, 3), "X: a row of zeros"),
        ((X, X, 3, "cosin"), "did you mean 'cosine'"),
        ((X[0], X, 3), r"X: expected \[n, d\]"),
    ):
        with pytest.raises(ValueError, match=match):
            mutual_knn(*arguments)


def test_participation_ratio_of_planted_spectra():
    for spectrum in ([1, 1, 1, 1], [5, 1, 0.2], [1], [2, 2, 0, 0]):
        frame = np.linalg.qr(random.normal(size=(80, 20)))[0]
        frame = np.linalg.qr(frame - frame.mean(0))[0][:, : len(spectrum)]
        X = frame * np.sqrt(spectrum)
        expected = np.sum(spectrum) ** 2 / np.sum(np.square(spectrum))
        assert participation_ratio(turned(X, 9)) == pytest.approx(expected)
        assert participation_ratio(turned(X, 200)) == pytest.approx(expected)
    X = random.normal(size=(50, 7)) * np.arange(1, 8)
    values = np.linalg.eigvalsh(np.cov(X.T))
    assert participation_ratio(X * 1e-200) == pytest.approx(values.sum() ** 2 / np.square(values).sum())


def by_tree(X, discard):
    """TwoNN written out."""
    distances = np.sort(cKDTree(X).query(X, 3)[0], axis=1)
    ratios = np.sort(distances[:, 2] / distances[:, 1])
    kept = round((1 - discard) * len(X))
    x, y = np.log(ratios[:kept]), -np.log(1 - np.arange(1, kept + 1) / len(X))
    return np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]


@pytest.mark.parametrize("d", [1, 2, 5])
def test_two_nn_of_planted_dimensions(d):
    X = random.uniform(size=(2000, d))
    found = two_nn(turned(X, 15))
    assert found == pytest.approx(by_tree(X, 0.1), rel=1e-6) and found == pytest.approx(d, rel=0.1)
    assert two_nn(X, discard=0.3) == pytest.approx(by_tree(X, 0.3))


def test_two_nn_sees_a_curved_surface():
    """A sheet rolled up has two dimensions, though its variance fills three."""
    t, h = random.uniform(3, 12, size=2500), random.uniform(0, 20, size=2500)
    X = np.stack([t * np.cos(t), t * np.sin(t), h], axis=1)
    assert two_nn(X) == pytest.approx(2, rel=0.1) and participation_ratio(X) > 2.5


def test_two_nn_counts_points_on_one_another_once():
    X = random.normal(size=(400, 3))
    assert two_nn(np.concatenate([X, X[:150]])) == pytest.approx(two_nn(X))
    assert two_nn(X + 1e6) == pytest.approx(two_nn(X), rel=1e-6)  # far from the origin


def test_dimensions_refuse():
    X = random.normal(size=(30, 3))
    for function in (participation_ratio, two_nn):
        for bad, match in ((X * np.nan, "NaN"), (X[0], r"\[n, d\]"), (np.zeros((30, 0)), r"\[n, d\]")):
            with pytest.raises(ValueError, match=match):
                function(bad)
    with pytest.raises(ValueError, match="all rows are equal"):
        participation_ratio(np.ones((5, 3)))
    with pytest.raises(ValueError, match="10 distinct points, got 1"):
        two_nn(np.ones((50, 3)))
    with pytest.raises(ValueError, match="as on a grid"):
        two_nn(np.stack(np.meshgrid(range(9), range(9)), -1).reshape(-1, 2), discard=0.0)
    with pytest.raises(ValueError, match="discard"):
        two_nn(X, discard=1)
    with pytest.raises(ValueError, match="b: .*10 distinct"):
        dimension_table({"a": X, "b": X[:5]})


def test_dimension_table():
    Xs = several()
    table = dimension_table(Xs, layer=6)
    assert list(table.columns) == ["run", "layer", "participation_ratio", "two_nn"] and list(table["run"]) == list(Xs)
    assert table["two_nn"][2] == two_nn(Xs["c"]) and table["participation_ratio"][2] == participation_ratio(Xs["c"])


def test_cka_table_holds_every_kind():
    Xs = several()
    table = cka_table(Xs, ("linear", "rbf"), (False, True), (0, 3), layer=5, step_share=1.0)
    columns = ["layer", "step_share", "kernel", "debiased", "components", "run", "other", "value"]
    assert list(table.columns) == columns and len(table) == 6 * 8
    for (kernel, debiased, k), part in table.groupby(["kernel", "debiased", "components"]):
        assert {(row.run, row.other) for row in part.itertuples()} == {*itertools.combinations(Xs, 2)}
        for row in part.itertuples():
            expected = cka(Xs[row.run], Xs[row.other], kernel, debiased, components=k or None)
            assert row.value == pytest.approx(expected, abs=1e-9)
    plain = cka_table(Xs)
    assert list(plain.columns) == columns[2:] and len(plain) == 6
    assert np.allclose(plain["value"], cka_matrix(list(Xs.values()))[np.triu_indices(4, 1)])


def test_a_debiased_value_that_is_undefined_is_no_error():
    """Rows that are all as far from each other are alike to the unbiased estimate: its own is 0."""
    a, c = random.normal(size=(2, 4, 3))
    table = cka_table({"a": a, "b": np.eye(4), "c": c}, "linear", True)
    assert list(table["value"].isna()) == [True, False, True]
    with pytest.raises(ValueError, match="undefined"):
        cka(np.eye(4), np.eye(4), debiased=True)


class Recorded:
    def __init__(self, steps, d=6):
        self.steps = steps
        self.arrays = {step: random.normal(size=(40, d)) for step in steps}

    def __getitem__(self, key):
        step, layer = key
        assert layer == 2
        return self.arrays[step]


def test_cka_over_training_compares_shares_not_steps():
    runs = {"short": Recorded([0, 5, 10]), "long": Recorded([0, 100, 200, 300, 400])}
    table = cka_over_training(runs, 2, (0.0, 0.5, 1.0))
    assert list(table["step_share"]) == [0.0, 0.5, 1.0] and (table["layer"] == 2).all()
    for value, steps in zip(table["value"], ((0, 0), (5, 200), (10, 400))):
        assert value == pytest.approx(cka(runs["short"][steps[0], 2], runs["long"][steps[1], 2]))
    use = np.arange(40) % 2 == 0
    some = cka_over_training(runs, 2, (1.0,), use=use)["value"][0]
    assert some == pytest.approx(cka(runs["short"][10, 2][use], runs["long"][400, 2][use]))


def test_cka_tables_refuse():
    Xs, runs = several(), {"a": Recorded([0, 5]), "b": Recorded([0, 5])}
    with pytest.raises(ValueError, match="b: .*NaN"):
        cka_table({"a": Xs["a"], "b": Xs["a"] * np.nan})
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        cka_table(Xs, "liner")
    with pytest.raises(ValueError, match="kernels: expected at least one"):
        cka_table(Xs, ())
    with pytest.raises(ValueError, match="shares: expected numbers from 0 to 1, got 5"):
        cka_over_training(runs, 2, (5,))
    with pytest.raises(ValueError, match="shares: expected at least one"):
        cka_over_training(runs, 2, ())
    with pytest.raises(ValueError, match="b: holds no activations"):
        cka_over_training({"a": runs["a"], "b": Recorded([])}, 2)
    with pytest.raises(ValueError, match="b: .*3 components|at least 3"):
        cka_table({"a": Xs["a"], "b": Xs["a"][:, :2]}, components=3)

"""CKA, probes and components against definitions written out, scikit-learn, and planted answers."""

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast.analysis.pca import pca_over_training
from worldfast.analysis.probe import held_out, linear_probe, probe_over_training

rng = np.random.default_rng(7)


def cka_reference(X, Y, debiased=False):
    """Float64, n x n, by the definitions."""
    X, Y = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    n = len(X)

    def hsic(A, B):
        if not debiased:
            H = np.eye(n) - 1 / n
            return np.trace(H @ A @ H @ B)
        A, B = A - np.diag(np.diag(A)), B - np.diag(np.diag(B))
        one = np.ones(n)
        middle = (one @ A @ one) * (one @ B @ one) / ((n - 1) * (n - 2))
        return (np.trace(A @ B) + middle - 2 / (n - 2) * (one @ A @ B @ one)) / (n * (n - 3))

    X, Y = X - X.mean(0), Y - Y.mean(0)
    K, L = X @ X.T, Y @ Y.T
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("n,d1,d2", [(5, 3, 2), (33, 7, 11), (101, 64, 33), (17, 101, 64), (8, 300, 3)])
@pytest.mark.parametrize("dtype,tolerance", [("float64", 1e-10), ("float32", 1e-5), ("float16", 1e-5)])
@pytest.mark.parametrize("offset,scale", [(0, 1), (1000, 1), (3, 1e4), (0, 1e-3)])
def test_linear_cka(n, d1, d2, dtype, tolerance, offset, scale, debiased):
    X = rng.normal(size=(n, d1)) * scale + offset
    Y = X @ rng.normal(size=(d1, d2)) + scale * rng.normal(size=(n, d2))
    X, Y = X.astype(dtype), np.clip(Y, -6e4, 6e4).astype(dtype)
    expected = cka_reference(X, Y, debiased)
    assert wf.cka(X, Y, debiased=debiased) == pytest.approx(expected, rel=tolerance, abs=1e-12)
    assert wf.cka(Y, X, debiased=debiased) == pytest.approx(expected, rel=tolerance, abs=1e-12)


def test_cka_takes_torch_strides_and_read_only_arrays():
    X, Y = rng.normal(size=(40, 12)), rng.normal(size=(40, 6))
    expected = cka_reference(X[:, ::2], Y)
    X.flags.writeable = False
    assert wf.cka(X[:, ::2], Y) == pytest.approx(expected, rel=1e-12)
    assert wf.cka(torch.tensor(X)[:, ::2], torch.tensor(Y, requires_grad=True)) == pytest.approx(expected, rel=1e-12)
    assert wf.cka(np.asfortranarray(X[:, ::2]), Y) == pytest.approx(expected, rel=1e-12)


def test_cka_is_invariant():
    X, Y = rng.normal(size=(60, 9)), rng.normal(size=(60, 5))
    Q = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    assert wf.cka(X, X @ Q * 17 + 3) == pytest.approx(1, abs=1e-12)
    assert wf.cka(X @ Q, Y) == pytest.approx(wf.cka(X, Y), abs=1e-12)


@pytest.mark.parametrize("n", [8, 64, 512])
def test_debiased_cka_of_independent_inputs_is_zero_on_average(n):
    values = [wf.cka(rng.normal(size=(n, 5)), rng.normal(size=(n, 4)), debiased=True) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert wf.cka(rng.normal(size=(n, 5)), rng.normal(size=(n, 4))) > 0


def test_cka_matrix():
    Xs = [rng.normal(size=(50, d)) for d in (3, 60, 8)]
    Xs.append(Xs[0] @ rng.normal(size=(3, 3)))
    matrix = wf.cka_matrix(Xs)
    assert np.array_equal(matrix, matrix.T) and np.array_equal(np.diagonal(matrix), np.ones(4))
    for i, X in enumerate(Xs):
        for j, Y in enumerate(Xs):
            assert matrix[i, j] == pytest.approx(cka_reference(X, Y), rel=1e-10)


@pytest.mark.parametrize(
    "X,message",
    [
        (np.full((5, 3), 7.1), "equal"),
        (np.full((5, 3), np.nan), "NaN"),
        (np.zeros(5), r"\[n, d\]"),
        (np.zeros((1, 5)), "2 rows"),
        (np.zeros((5, 0)), "equal"),
        (rng.normal(size=(6, 3)), "rows"),
    ],
)
def test_cka_refuses(X, message):
    Y = rng.normal(size=(5, 2))
    with pytest.raises(ValueError, match=message):
        wf.cka(X, Y)
    with pytest.raises(ValueError, match=message):
        wf.cka_matrix([Y, X])


def test_cka_refuses_names_and_types():
    X = rng.normal(size=(3, 2))
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        wf.cka(X, X, kernel="linaer")
    with pytest.raises(ValueError, match="at least 4"):
        wf.cka(X, X, debiased=True)
    with pytest.raises(ValueError, match="Xs"):
        wf.cka_matrix([])
    with pytest.raises(TypeError, match="X"):
        wf.cka(np.array([["a", "b"]] * 4), np.ones((4, 1)))


class Planted:
    """Activations whose map emerges from noise; the last step is an exact linear image of it."""

    steps = (0, 10, 20)

    def __init__(self, xy, d=12):
        signal = np.concatenate([xy / 500, rng.normal(size=(len(xy), d - 2)) / 3], axis=1)
        frame = np.linalg.qr(rng.normal(size=(d, d)))[0]
        noise = rng.normal(size=signal.shape)
        self.arrays = {0: noise, 10: (0.3 * signal + noise) @ frame, 20: signal @ frame + 5}

    def __getitem__(self, key):
        step, layer = key
        assert layer == 3
        return self.arrays[step]


@pytest.fixture
def xy():
    return rng.integers(-900, 900, size=(300, 2))


def test_probe_reads_a_planted_map(xy):
    test = held_out(300, 0.2, seed=1)
    assert test.sum() == 60 and np.array_equal(test, held_out(300, 0.2, seed=1))
    probes = probe_over_training(Planted(xy), 3, xy, test)
    assert np.all(probes[2].r2 > 1 - 1e-9) and probes[2].median_error < 1e-6
    assert np.all(probes[0].r2 < 0.1) and probes[0].mean_error > 300
    assert probes[0].r2.mean() < probes[1].r2.mean() < probes[2].r2.mean()
    assert np.allclose(probes[2].predicted, xy, atol=1e-2)


def test_probe_scores_only_cities_it_has_not_seen(xy):
    """Noise can be fitted, not predicted."""
    X = rng.normal(size=(300, 150))
    probe = linear_probe(X, xy, held_out(300))
    assert np.all(probe.r2 < 0)
    seen = ~held_out(300)
    assert np.corrcoef(probe.predicted[seen, 0], xy[seen, 0])[0, 1] > 0.6


def test_probe_is_least_squares(xy):
    X, test = rng.normal(size=(300, 5)) + xy[:, :1] / 300, held_out(300)
    design = np.concatenate([X, np.ones((300, 1))], axis=1)
    expected = design @ np.linalg.lstsq(design[~test], xy[~test], rcond=None)[0]
    probe = linear_probe(X, xy, test)
    assert np.allclose(probe.predicted, expected, atol=1e-2)
    residual = ((xy - expected)[test] ** 2).sum(0) / ((xy[test] - xy[test].mean(0)) ** 2).sum(0)
    assert np.allclose(probe.r2, 1 - residual)


def test_probe_refuses(xy):
    X, test = rng.normal(size=(300, 280)), held_out(300)
    with pytest.raises(ValueError, match="ridge"):
        linear_probe(X, xy, test)
    assert linear_probe(X, xy, test, ridge=10.0).r2.shape == (2,)
    with pytest.raises(ValueError, match="test"):
        linear_probe(X, xy, test.astype(int))
    with pytest.raises(ValueError, match="xy"):
        linear_probe(X, xy[:, :1], test)
    with pytest.raises(ValueError, match="NaN"):
        linear_probe(X * np.nan, xy, test)
    with pytest.raises(ValueError, match="share"):
        held_out(10, 1.5)


def test_components_share_one_frame(xy):
    planted = Planted(xy)
    for fit in ("last", "each"):
        found = pca_over_training(planted, 3, k=3, fit=fit)
        assert found.projected.shape == (3, 300, 3) and found.projected.dtype == np.float32
        assert np.all(np.diff(found.explained) <= 0) and 0 < found.explained.sum() <= 1
        # the map is what varies most at the end, so that the first two components are a turned map
        turned = linear_probe(found.projected[2], xy, held_out(300))
        assert np.all(turned.r2 > 0.95)
    each = pca_over_training(planted, 3, fit="each").projected
    overlap = np.abs(np.trace(each[1].T @ each[2])) / np.linalg.norm(each[1]) / np.linalg.norm(each[2])
    assert overlap > 0.1


def test_components_refuse(xy):
    with pytest.raises(ValueError, match="k"):
        pca_over_training(Planted(xy), 3, k=13)
    with pytest.raises(ValueError, match="did you mean 'each'"):
        pca_over_training(Planted(xy), 3, fit="eahc")

"""Probes and components against definitions written out, scikit-learn, and planted answers."""

import numpy as np
import pytest

from worldfast.analysis.pca import pca_over_training
from worldfast.analysis.probe import held_out, linear_probe, probe_over_training

rng = np.random.default_rng(7)


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
        linear_probe(X, xy[:, 0], test)
    assert linear_probe(X, xy[:, :1], test, ridge=10.0).r2.shape == (1,)
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

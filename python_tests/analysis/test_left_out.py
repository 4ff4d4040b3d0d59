"""Decoders that are tried on a region they were not fitted on, and single units, by other ways of computing them."""

import numpy as np
import pytest
import torch

from worldfast.analysis import adam_decoders, angles, left_out, mixed_selectivity, r2_of, sparsity

RANDOM = np.random.default_rng(0)
XY = RANDOM.random((400, 2)) - 0.5
REGIONS = (XY > 0) @ [2, 1]
TEST = np.arange(400) % 4 == 0
MIXED = np.linalg.qr(RANDOM.normal(size=(9, 9)))[0][:2]
FLAT = np.concatenate([XY @ MIXED, np.zeros((400, 3))], axis=1)  # a plane, and units that never vary


def test_a_map_holds_everywhere_and_a_list_of_regions_nowhere():
    whole = left_out(FLAT, XY, REGIONS, TEST, 1 / 12)
    np.testing.assert_allclose([whole.ood, whole.inside], 1, atol=1e-9)
    np.testing.assert_allclose(whole.angle, 90, atol=1e-6)
    apart = np.eye(4)[REGIONS] + 1e-3 * RANDOM.normal(size=(400, 4))  # the quadrant is all that is known
    listed = left_out(apart, XY, REGIONS, TEST, 1 / 12)
    np.testing.assert_allclose(listed.inside, 0.75, atol=0.06)
    assert (listed.ood < 0.5).all() and listed.regions.tolist() == [0, 1, 2, 3]
    nothing = r2_of(XY, np.zeros_like(XY), 1 / 12)
    assert float(nothing) == pytest.approx(0, abs=0.1)


def test_a_region_counts_only_where_it_is_left_out():
    """States of region 2 that say nothing spoil its own score alone."""
    X = FLAT.copy()
    X[REGIONS == 2] = 0
    found = left_out(X, XY, REGIONS, TEST, 1 / 12)
    assert found.ood[2] < 0.3 and found.inside[2] < 0.9 and found.ood[1] > found.ood[2]


def test_decoders_by_adam_are_those_of_torch():
    batches = RANDOM.integers(0, 400, (3, 50, 16))
    weight, bias = adam_decoders(FLAT, XY, batches, 3e-3, seed=4)
    first, first_bias = adam_decoders(FLAT, XY, batches[:, :0], seed=4)
    assert np.abs(first).max() <= 1 / np.sqrt(12)
    for f in range(3):
        layer = torch.nn.Linear(12, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(first[f].T))
            layer.bias.copy_(torch.from_numpy(first_bias[f]))
        optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
        for items in batches[f]:
            X, y = (torch.from_numpy(x[items]).float() for x in (FLAT, XY))
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(layer(X), y).backward()
            optimizer.step()
        np.testing.assert_allclose(weight[f], layer.weight.detach().numpy().T, atol=1e-5)
        np.testing.assert_allclose(bias[f], layer.bias.detach().numpy(), atol=1e-5)
    alone, _ = adam_decoders(FLAT, XY, batches[:1], 3e-3, seed=4)
    np.testing.assert_array_equal(alone[0], weight[0])


def test_decoders_by_adam_reach_least_squares():
    """Of a plane in 9 units the published learning rate finds the map in 2,000 batches."""
    weight, bias = adam_decoders(FLAT, XY, RANDOM.integers(0, 400, (1, 2000, 16)))
    assert float(r2_of(XY, FLAT @ weight[0] + bias[0], 1 / 12)) > 0.999


def scores(y, tried, weight, bias, X):
    return [float(r2_of(y[at], X[at] @ weight[f] + bias[f], 1 / 12)) for f, at in enumerate(tried)]


def test_the_published_decoder_agrees_with_least_squares():
    """Where states are a map behind noise, both find it in a region left out: a bowed one misleads both alike."""
    random = np.random.default_rng(1)
    y = random.random((4000, 2)) - 0.5
    regions, test = (y > 0) @ [2, 1], np.arange(4000) % 4 == 0
    tried = [test & (regions == q) for q in range(4)]
    batches = np.stack([random.choice(np.flatnonzero(~test & (regions != q)), (3000, 16)) for q in range(4)])
    features = np.column_stack([y, y.prod(1), y**2])
    for bow in (0.0, 2.0):
        X = features * [1, 1, bow, bow, bow] @ random.normal(size=(5, 12)) + 0.3 * random.normal(size=(4000, 12))
        exact = left_out(X, y, regions, test, 1 / 12)
        published = scores(y, tried, *adam_decoders(X, y, batches, seed=3), X)
        np.testing.assert_allclose(published, exact.ood, atol=0.08 if bow else 0.025)
        assert exact.ood.max() < 0.6 if bow else exact.ood.min() > 0.8


def test_whole_batches_end_at_least_squares():
    """To the digits of float32: the rule of published decoders has no other end."""
    random = np.random.default_rng(2)
    X = random.normal(size=(60, 3))
    y = X @ random.normal(size=(3, 2)) + 0.5 + 0.1 * random.normal(size=(60, 2))
    wanted = np.linalg.lstsq(np.column_stack([X, np.ones(60)]), y, rcond=None)[0]
    weight, bias = adam_decoders(X, y, np.tile(np.arange(60), (1, 2000, 1)))
    np.testing.assert_allclose(np.vstack([weight[0], bias]), wanted, atol=2e-5)


def test_angles_of_all_pairs():
    weight = np.array([[1.0, 0, 1], [0, 2, 1], [0, 0, 0]])
    np.testing.assert_allclose(angles(weight), [90, 45, 45])
    np.testing.assert_allclose(angles(np.array([[1.0, -3], [0, 0]])), [180])
    assert np.isnan(angles(np.zeros((3, 2)))).all() and np.isnan(angles(np.zeros((0, 3)))).all()


def test_sparsity_of_units():
    X = np.zeros((10, 4))
    X[:, 0], X[3, 1], X[:5, 2] = 7, 1e-200, 1
    np.testing.assert_allclose(sparsity(X), [0, 1, 5 / 9, 1])


def test_mixed_selectivity_of_units():
    a, b = np.meshgrid(np.arange(8.0), np.arange(5.0), indexing="ij")
    X = np.stack([a, -b, a + b, np.ones_like(a), (a - 3.5) ** 2], axis=-1).reshape(40, 5)
    np.testing.assert_allclose(mixed_selectivity(X, (8, 5)), [[1, 0], [0, -1], [1, 1], [0, 0], [0, 0]], atol=1e-9)


@pytest.mark.parametrize(
    "call,said",
    [
        (lambda: left_out(FLAT, XY, np.zeros(400, int), TEST, 1 / 12), "regions: expected at least 2"),
        (lambda: left_out(FLAT, XY, REGIONS, TEST & (REGIONS != 3), 1 / 12), "test: region 3 has no item to try"),
        (lambda: left_out(FLAT, XY, REGIONS, np.arange(400) >= 10, 1 / 12), "least-squares probe of 12 features"),
        (lambda: adam_decoders(FLAT, XY, np.zeros((2, 3), int)), r"batches: expected integers \[F, S, B\]"),
        (lambda: adam_decoders(FLAT, XY, np.full((1, 2, 3), -1)), "batches: expected items of X, 0 to 399, got -1"),
        (lambda: adam_decoders(FLAT, XY, np.full((1, 2, 3), 400)), "batches: expected items of X, 0 to 399, got 400"),
        (lambda: adam_decoders(FLAT, XY, np.zeros((1, 2, 0), int)), "batches: expected at least one item a batch"),
        (lambda: adam_decoders(FLAT, XY, np.zeros((1, 2, 3), int), 0), "learning_rate: expected a number above 0"),
        (lambda: left_out(FLAT, XY, REGIONS, TEST, 0), "variance: expected a number above 0, got 0"),
        (lambda: r2_of(XY, XY, -1), "variance: expected a number above 0, got -1"),
        (lambda: angles(np.ones((3, 1))), "weight: expected a column for each of at least 2 attributes"),
        (lambda: mixed_selectivity(FLAT, (8, 8)), "shape: expected a grid of 400 points"),
        (lambda: sparsity(FLAT[:1]), "X: expected at least 2 items, got 1"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(ValueError, match=said):
        call()

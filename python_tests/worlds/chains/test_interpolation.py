"""Nearest mixtures: those that were planted are found, by expectation maximisation as by another optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize

from worldfast.worlds.chains import interpolate
from worldfast.worlds.chains.predictors import divergence


def shares(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1])


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.15, 0.05), (1, 0, 0, 0), (0, 0, 0.02, 0.98)])
def test_a_planted_mixture_is_found(weights):
    parts = shares(4, 200, 2, 5)
    found = interpolate(np.einsum("a,anck->nck", weights, parts), parts)
    np.testing.assert_allclose(found.weights, [weights, weights], atol=0.01)
    assert (found.divergence < 2e-4).all() and (found.gap <= 1e-4).all() and found.weights.shape == (2, 4)


def test_the_nearest_mixture_is_that_of_another_optimiser():
    parts, model = shares(3, 40, 1, 4), shares(40, 1, 4, seed=1)
    found = interpolate(model, parts)

    def off(z):
        w = np.exp(z) / np.exp(z).sum()
        return divergence(model[:, 0], np.einsum("a,ank->nk", w, parts[:, :, 0])).mean()

    best = minimize(off, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert best.fun <= found.divergence[0] + 1e-9 and found.divergence[0] - best.fun <= found.gap[0] + 1e-9 < 2e-4
    np.testing.assert_allclose(found.weights[0], np.exp(best.x) / np.exp(best.x).sum(), atol=0.02)


def test_equal_predictors_share_their_weight_and_one_without_a_share_of_what_is_said_has_none():
    part = shares(50, 1, 5)
    found = interpolate(part, np.stack([part, part, np.full_like(part, 0.2)]))
    assert found.weights[0, 0] == found.weights[0, 1] > 0.48
    never = part.copy()
    never[..., 0] = 0
    never /= never.sum(-1, keepdims=True)
    found = interpolate(part, np.stack([never, np.full_like(part, 0.2)]))
    assert np.isfinite(found.divergence).all() and 0 < found.weights[0, 1] <= 1


ONE = shares(6, 2, 3)


@pytest.mark.parametrize(
    "model,predictors,error,said",
    [
        (ONE[0], ONE[None], ValueError, r"model: expected \[n, c, k\], got \[2, 3\]"),
        (ONE, ONE[None, :4], ValueError, r"predictors: expected \[A, 6, 2, 3\], got \[1, 4, 2, 3\]"),
        (ONE, ONE, ValueError, r"predictors: expected \[A, 6, 2, 3\], got \[6, 2, 3\]"),
        (ONE, np.zeros((0, 6, 2, 3)), ValueError, r"predictors: expected some shares, got shape \[0, 6, 2, 3\]"),
        (ONE * 2, ONE[None], ValueError, "model: expected shares .* that sum to 1 .*, theirs miss it by up to 1"),
        (ONE, ONE[None] - 0.5, ValueError, "predictors: expected shares of at least 0 .*, got -0.4"),
        (ONE * np.nan, ONE[None], ValueError, "model: holds NaN or infinity"),
        ("text", ONE[None], TypeError, "model: "),
        (np.eye(3)[[[0]]], np.eye(3)[[[[1]], [[2]]]], ValueError, "predictors: none has a share of state 0 in row 0"),
    ],
)
def test_bad_input(model, predictors, error, said):
    with pytest.raises(error, match=said):
        interpolate(model, predictors)

"""Losses by their formulas in NumPy, and added in float64."""

import numpy as np
import pytest
import torch

from worldfast.models.losses import position_losses, summed_loss

RANDOM = np.random.default_rng(0)
OUTPUTS = RANDOM.normal(size=(9, 4)) * 3
CLASSES = RANDOM.integers(0, 4, 9)
CHANCES = RANDOM.random((9, 4))
NUMBERS = RANDOM.normal(size=(9, 4))


def by_formula(loss):
    if loss == "cross_entropy":
        return CLASSES, np.log(np.exp(OUTPUTS).sum(1)) - OUTPUTS[np.arange(9), CLASSES]
    if loss == "binary_cross_entropy":
        yes = 1 / (1 + np.exp(-OUTPUTS))
        return CHANCES, -(CHANCES * np.log(yes) + (1 - CHANCES) * np.log(1 - yes)).sum(1)
    return NUMBERS, ((OUTPUTS - NUMBERS) ** 2).sum(1) / 2


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_square"])
def test_losses(loss):
    targets, expected = by_formula(loss)
    outputs, targets = torch.from_numpy(OUTPUTS), torch.from_numpy(targets)
    np.testing.assert_allclose(position_losses(loss, outputs, targets), expected, rtol=1e-12)
    weights = torch.linspace(-1, 1, 9)
    assert float(summed_loss(loss, outputs, targets)) == pytest.approx(expected.sum(), rel=1e-12)
    assert float(summed_loss(loss, outputs, targets, weights)) == pytest.approx((expected * weights.numpy()).sum())


def test_losses_are_added_in_float64():
    """2^25 + 1 is no number of float32."""
    outputs = torch.tensor([[2.0**13], [1.0], [1.0]])  # losses of 2^25, 1/2 and 1/2
    total = summed_loss("mean_square", outputs, torch.zeros(3, 1))
    assert total.dtype == torch.float64 and float(total) == 2**25 + 1


def test_bad_names():
    with pytest.raises(ValueError, match="unknown loss 'cross_entrpy': did you mean 'cross_entropy'"):
        position_losses("cross_entrpy", torch.zeros(1, 2), torch.zeros(1))

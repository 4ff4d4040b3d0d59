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
    return NUMBERS, (((np.tanh(OUTPUTS) if loss == "tanh_square" else OUTPUTS) - NUMBERS) ** 2).sum(1) / 2


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_square", "tanh_square"])
def test_losses(loss):
    targets, expected = by_formula(loss)
    outputs, targets = torch.from_numpy(OUTPUTS), torch.from_numpy(targets)
    np.testing.assert_allclose(position_losses(loss, outputs, targets), expected, rtol=1e-12)
    weights = torch.linspace(-1, 1, 9)
    assert float(summed_loss(loss, outputs, targets)) == pytest.approx(expected.sum(), rel=1e-12)
    assert float(summed_loss(loss, outputs, targets, weights)) == pytest.approx((expected * weights.numpy()).sum())


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mean_square", "tanh_square"])
def test_weights_of_outputs(loss):
    """An output with a weight of 0 is not learned."""
    targets, _ = by_formula(loss)
    kept = np.array([1, 0, 0.5, 0])[None] * np.ones((9, 1))
    each = [summed_loss(loss, *(torch.from_numpy(x[:, [k]]) for x in (OUTPUTS, targets))) for k in (0, 2)]
    found = summed_loss(loss, *map(torch.from_numpy, (OUTPUTS, targets, kept)))
    assert float(found) == pytest.approx(float(each[0] + each[1] / 2), rel=1e-12)


def test_losses_are_added_in_float64():
    """2^25 + 1 is no number of float32."""
    outputs = torch.tensor([[2.0**13], [1.0], [1.0]])  # losses of 2^25, 1/2 and 1/2
    total = summed_loss("mean_square", outputs, torch.zeros(3, 1))
    assert total.dtype == torch.float64 and float(total) == 2**25 + 1


def test_bad_names():
    with pytest.raises(ValueError, match="unknown loss 'cross_entrpy': did you mean 'cross_entropy'"):
        position_losses("cross_entrpy", torch.zeros(1, 2), torch.zeros(1))

"""Fixed points of maps whose points are known."""

import numpy as np
import pytest
import torch

from worldfast.analysis import fixed_points

STARTS = np.random.default_rng(0).normal(size=(30, 2)) * 2


def test_two_stable_points_and_one_between():
    """h -> tanh(3 h) along the first axis, to 0 along the second."""
    found = fixed_points(lambda h: torch.tanh(3 * h) * torch.tensor([1.0, 0.0]), STARTS, 300, 0.1)
    assert len(found.points) == 3 and found.starts.sum() == 30 and found.speed.max() < 1e-3
    order = np.argsort(found.points[:, 0])
    at = found.points[order, 0]
    np.testing.assert_allclose(at, [-0.99505, 0, 0.99505], atol=1e-3)
    slopes = 3 * (1 - np.tanh(3 * at) ** 2) - 1
    for i, slope in zip(order, slopes):
        np.testing.assert_allclose(found.eigenvalues[i], sorted([slope, -1.0], reverse=True), atol=5e-3)


def test_a_line_of_fixed_points_and_a_turn():
    line = fixed_points(lambda h: h * torch.tensor([1.0, 0.0]), STARTS, 200, 0.1, apart=0.1)
    assert len(line.points) > 5 and np.abs(line.eigenvalues[:, 0]).max() < 1e-9
    turn = torch.tensor([[0.0, -0.5], [0.5, 0.0]], dtype=torch.float64)
    spiral = fixed_points(lambda h: h @ turn.T, STARTS, 300, 0.1)
    np.testing.assert_allclose(spiral.points, [[0, 0]], atol=1e-3)
    np.testing.assert_allclose(sorted(spiral.eigenvalues[0], key=lambda z: z.imag), [-1 - 0.5j, -1 + 0.5j], atol=1e-9)


def test_bad_input():
    with pytest.raises(ValueError, match=r"step: expected states \[30, 2\], got \[30, 1\]"):
        fixed_points(lambda h: h[:, :1], STARTS)
    with pytest.raises(ValueError, match="apart: expected a number above 0, got 0"):
        fixed_points(lambda h: h, STARTS, apart=0)

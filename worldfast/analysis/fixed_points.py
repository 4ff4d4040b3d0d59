"""Fixed points of a map of states, such as a recurrent network's under a constant input, and what happens near them.

Source: Sussillo and Barak (2013), with the settings of arXiv 2407.11249.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast.analysis.left_out import ADAM
from worldfast.arrays import ArrayLike, numbers, plain
from worldfast.errors import positive, whole

__all__ = ["FixedPoints", "fixed_points", "steps_of_return"]


class FixedPoints(NamedTuple):
    """Distinct fixed points, the slowest first.

    Attributes
    ----------
    points : ndarray
        float64 [P, d].
    speed : ndarray
        float64 [P], length of F(h) - h at each: how nearly it is one.
    starts : ndarray
        int64 [P], how many starts ended near each.
    eigenvalues : ndarray
        complex128 [P, d], of the derivative of F(h) - h at each, by descending real part. Along directions of 0 nothing
        moves: two such are a plane of fixed points. With one of -1 a state returns at once.
    """

    points: np.ndarray
    speed: np.ndarray
    starts: np.ndarray
    eigenvalues: np.ndarray


def fixed_points(
    step: Callable[[Tensor], Tensor],
    starts: ArrayLike,
    iterations: int = 10_000,
    learning_rate: float = 0.01,
    apart: float = 0.5,
) -> FixedPoints:
    """Look for fixed points of a map from many starts.

    Parameters
    ----------
    step : callable
        F, from states, float64 [n, d], to states, each by itself; autograd passes through it.
    starts : array [n, d]
        States from which points are sought.
    iterations : int
        Steps of Adam on the mean of (F(h) - h)^2.
    learning_rate : float
    apart : float
        Ends that are nearer than this are one point: DBSCAN's eps. Of each the slowest end is kept.

    Returns
    -------
    FixedPoints

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the map gives states of another shape.
    """
    from sklearn.cluster import DBSCAN

    begin = numbers(starts, "starts").array()
    whole("iterations", iterations, 0)
    positive("learning_rate", learning_rate)
    positive("apart", apart)
    with torch.enable_grad():
        h = torch.from_numpy(begin).clone().requires_grad_()
        if (came := step(h)).shape != h.shape:
            raise ValueError(f"step: expected states {list(h.shape)}, got {list(came.shape)}")
        average, square = torch.zeros_like(h), torch.zeros_like(h)
        beta_1, beta_2, eps = ADAM
        for t in range(1, iterations + 1):  # not torch.optim, which takes seconds to import
            (slope,) = torch.autograd.grad((step(h) - h).square().mean(), h)
            with torch.no_grad():
                average.lerp_(slope, 1 - beta_1)
                square.mul_(beta_2).addcmul_(slope, slope, value=1 - beta_2)
                root = (square / (1 - beta_2**t)).sqrt_().add_(eps)
                h.addcdiv_(average, root, value=-learning_rate / (1 - beta_1**t))
        ends = h.detach()
        speeds = (step(ends) - ends).norm(dim=1).detach().numpy()
        labels = DBSCAN(eps=apart, min_samples=1).fit_predict(ends.numpy())
        kept = [min(np.flatnonzero(labels == label), key=lambda i: speeds[i]) for label in range(labels.max() + 1)]
        kept.sort(key=lambda i: speeds[i])
        at = ends[kept].requires_grad_()
        moved = step(at) - at
        slopes = [torch.autograd.grad(moved[:, j].sum(), at, retain_graph=True)[0] for j in range(at.shape[1])]
    values = np.linalg.eigvals(torch.stack(slopes, 1).numpy()).astype(np.complex128)  # of all points, [P, d]
    eigenvalues = np.take_along_axis(values, np.argsort(-values.real, axis=1, kind="stable"), axis=1)
    counts = np.array([(labels == labels[i]).sum() for i in kept])
    return FixedPoints(ends[kept].numpy(), speeds[kept], counts, eigenvalues)


def steps_of_return(eigenvalues: ArrayLike) -> np.ndarray:
    """Return the steps in which what is off a fixed point shrinks, or grows, by a factor of e along each direction.

    Parameters
    ----------
    eigenvalues : array
        Of the derivative of F(h) - h, any shape.

    Returns
    -------
    ndarray
        float64, of that shape: 1 / |ln |1 + eigenvalue||; infinite where nothing moves, 0 where it returns at once.

    Raises
    ------
    TypeError
        It is not of plain numbers, real or complex.
    """
    found = plain(eigenvalues, "eigenvalues")
    if found.dtype.kind != "c":
        found = numbers(eigenvalues, "eigenvalues", None).array(finite=False)
    with np.errstate(divide="ignore"):
        return 1 / np.abs(np.log(np.abs(1 + found)))

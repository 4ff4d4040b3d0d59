"""Single units: how seldom they are active, and what they respond to. Source: arXiv 2407.11249."""

from __future__ import annotations

import numpy as np

from worldfast.arrays import ArrayLike, numbers
from worldfast.display import count
from worldfast.errors import several, whole

__all__ = ["mixed_selectivity", "sparsity"]


def sparsity(X: ArrayLike) -> np.ndarray:
    """Return the sparseness of each unit's activity.

    (1 - mean(r)^2 / mean(r^2)) / (1 - 1 / n) of its activities r: 0 if it is equally active at all items, 1 if it is at
    one of them only, or never. Source: Vinje and Gallant (2000).

    Parameters
    ----------
    X : array [n, d]
        Activities, n of at least 2.

    Returns
    -------
    ndarray
        float64 [d], from 0 to 1.

    Raises
    ------
    ValueError
        X is not finite, or has fewer than 2 items.
    """
    X = numbers(X, "X").array()
    if len(X) < 2:
        raise ValueError(f"X: expected at least 2 items, got {len(X)}")
    size = np.abs(X).max(0)
    r = X / np.where(size > 0, size, 1)
    mean, square = r.mean(0), np.square(r).mean(0)
    found = (1 - np.divide(mean**2, square, out=np.zeros_like(mean), where=square > 0)) / (1 - 1 / len(X))
    return np.where(size > 0, found, 1.0)


def mixed_selectivity(X: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Return how each unit's activity goes with each coordinate of a grid, averaged over the other.

    Parameters
    ----------
    X : array [n, d]
        Activities at the points of a grid, the second coordinate fastest.
    shape : (int, int)
        Points along each coordinate, evenly spaced; n in all.

    Returns
    -------
    ndarray
        float64 [d, 2], Pearson correlations with the first and the second coordinate; 0 of a unit that does not vary.

    Raises
    ------
    ValueError
        X is not finite, or n is not that of the grid.
    """
    X = numbers(X, "X").array()
    rows, columns = (whole("shape", n) for n in several("shape", shape, "two integers"))
    if min(rows, columns) < 2 or len(X) != rows * columns:
        points = count(len(X), "point")
        raise ValueError(f"shape: expected a grid of {points}, 2 at least along each, got {tuple(shape)}")
    largest = np.abs(X).max(0)
    grid, found = (X / np.where(largest > 0, largest, 1)).reshape(rows, columns, -1), []
    for other in (1, 0):
        rate = grid.mean(other)
        at = np.linspace(-1, 1, len(rate))[:, None]
        rate = rate - rate.mean(0)
        size = np.sqrt(np.square(rate).sum(0) * np.square(at).sum())
        small = size <= 1e-12
        found.append(np.where(small, 0.0, (rate * at).sum(0) / np.where(small, 1, size)))
    return np.stack(found, axis=1)

"""Scale: what makes a statistic the same in any unit, and refuses what does not vary in any.

Squares and sums of values near float64's ends overflow or vanish, so statistics are computed on values that are divided
by a power of two. That is exact: where nothing would have overflowed, no bit of a result changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["CONSTANT", "centred", "lengths", "magnitude", "mean", "single", "varies"]

CONSTANT = 1e-14  # spread of a column, as a share of its largest value, at or below which it is rounding error


def magnitude(X: np.ndarray | torch.Tensor, axis: int | None = None) -> Any:
    """Return the power of two that brings the largest absolute value to from 1 to 2 (1 for NaN and infinity).

    Parameters
    ----------
    X : ndarray or Tensor
        float64 values.
    axis : int, optional
        Axis along which values share a unit; by default, all share one.

    Returns
    -------
    float, ndarray or Tensor
        Of the same number of dimensions as X if there is an axis; dividing by it is exact, even where its inverse is
        beyond float64.
    """
    largest = _largest(X, axis)
    found = np.ldexp(1.0, np.where(np.isfinite(largest), np.frexp(largest)[1], 1) - 1)
    if axis is None:
        return float(found)
    return found if isinstance(X, np.ndarray) else torch.from_numpy(found).to(X.device)


def varies(X: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return which columns of float64 [n, d] hold more than one value and its rounding errors: bool [d]."""
    return _largest(X - X[:1], 0)[0] > CONSTANT * _largest(X, 0)[0]


def centred(X: torch.Tensor, name: str, consequence: str) -> tuple[torch.Tensor, float]:
    """Return a representation in a unit near its own, with centred columns; those that do not vary are exactly 0.

    Parameters
    ----------
    X : Tensor
        float64 [n, d], n at least 1.
    name : str
        Name of X in messages.
    consequence : str
        What follows if all rows are equal, for the message.

    Returns
    -------
    Tensor
        float64 [n, d].
    float
        The unit, a power of two.

    Raises
    ------
    ValueError
        All rows are equal.
    """
    size = magnitude(X)
    X = X / size
    kept = torch.from_numpy(varies(X)).to(X.device)
    if not kept.any():
        raise ValueError(f"{name}: all rows are equal, {consequence}")
    return torch.where(kept, X - X.mean(0), 0.0), size


def lengths(X: Any) -> Any:
    """Return the Euclidean length of each row of float64 [n, d]: [n], of the same kind."""
    size = magnitude(X, 1)
    norm = np.linalg.norm if isinstance(X, np.ndarray) else torch.linalg.norm
    return norm(X / size, None, 1) * size[:, 0]


def mean(x: np.ndarray) -> float:
    """Return the mean of float64 [n], whose sum may be beyond float64."""
    size = magnitude(x)
    return float((x / size).mean()) * size


def single(values: np.ndarray) -> np.ndarray:
    """Return values as float32, or as they are if the largest is beyond the range in which float32 keeps its digits."""
    largest, limits = _largest(values), np.finfo(np.float32)
    fits = largest == 0 or 2.0**24 * limits.tiny <= largest <= limits.max
    return values.astype(np.float32) if fits else values


def _largest(X: np.ndarray | torch.Tensor, axis: int | None = None) -> np.ndarray:
    if isinstance(X, torch.Tensor):
        if not X.numel():
            return np.zeros(() if axis is None else [1 if i == axis else size for i, size in enumerate(X.shape)])
        return (X.abs().amax() if axis is None else X.abs().amax(axis, keepdim=True)).cpu().numpy()
    return np.abs(X).max(axis, keepdims=axis is not None, initial=0.0)

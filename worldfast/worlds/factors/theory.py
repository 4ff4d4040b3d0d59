"""What any observer of the trials can know: the best answers, and the point that follows from answers.

Of normal noise alike in every latent number, the mean m of t observations says all there is, and the Fisher information
of a latent number is t / sigma^2. The best answer to a half-space c . x > 0 of unit normal c is Phi(c . m sqrt(t) /
sigma), so that answers give m back: trilateration. Source: arXiv 2407.11249.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri_exp

__all__ = ["best_accuracy", "bound", "log_shares", "optimal", "trilaterated"]

GRID = 512  # points along each latent number over which accuracy is averaged; of more than two, as many random ones


def bound(sigma: float, t: int) -> float:
    """Return the R2 that no unbiased estimate of a point from t observations exceeds: 1 - 12 sigma^2 / t."""
    return 1 - 12 * sigma**2 / t


def unit(boundary: np.ndarray) -> np.ndarray:
    """Return boundaries [N, D] with normals of length 1."""
    return boundary / np.linalg.norm(boundary, axis=1, keepdims=True)


def optimal(m: np.ndarray, boundary: np.ndarray, sigma: float, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of the chances of yes and of no, float64 [n, N] each, of an observer of means m [n, D]."""
    z = m @ unit(boundary).T * (np.sqrt(t) / sigma)
    return log_ndtr(z), log_ndtr(-z)


def log_shares(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of the chances of yes and of no that logits stand for."""
    return -np.logaddexp(0, -logits), -np.logaddexp(0, logits)


def trilaterated(yes: np.ndarray, no: np.ndarray, boundary: np.ndarray, sigma: float, t: int) -> np.ndarray:
    """Return the points that follow from answers: (C'C)^-1 C' (sigma / sqrt(t)) Phi^-1(Y).

    Parameters
    ----------
    yes, no : ndarray
        [n, N], logarithms of the chances of yes and of no: of chances themselves near 0 or 1 too few digits are left.
    boundary : ndarray
        [N, D], half-spaces through the origin, of rank D.
    sigma, t : float, int
        Noise and number of observations.

    Returns
    -------
    ndarray
        float64 [n, D].
    """
    z = np.where(yes < no, ndtri_exp(np.minimum(yes, no)), -ndtri_exp(np.minimum(yes, no)))
    return (sigma / np.sqrt(t)) * z @ np.linalg.pinv(unit(boundary)).T


def best_accuracy(boundary: np.ndarray, sigma: float, t: int) -> float:
    """Return the largest share of right answers to half-spaces, for points that are uniform on the square or cube."""
    D = boundary.shape[1]
    if D == 2:
        at = (np.arange(GRID) + 0.5) / GRID - 0.5
        x = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        x = np.random.default_rng(0).random((GRID**2, D)) - 0.5
    return float(np.mean([ndtr(np.abs(x @ c) * (np.sqrt(t) / sigma)).mean() for c in unit(boundary)]))

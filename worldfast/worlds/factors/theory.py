"""Best answers that an observer of trials can give, and the point that follows from answers.

Of normal noise that is alike in every latent number and fresh at every step, the mean m of t observations says all
there is, and the Fisher information of a latent number is t / sigma^2. The best answer to a half-space c . x > 0 of
unit normal c is Phi(c . m sqrt(t) / sigma), so that answers give m back: trilateration. Source: arXiv 2407.11249.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri_exp

from worldfast.arrays import ArrayLike, numbers
from worldfast.errors import number, typed, whole
from worldfast.worlds.factors.questions import Questions
from worldfast.worlds.factors.trials import deviation

__all__ = ["best_accuracy", "best_answers", "bound", "log_chances", "trilaterated", "unit_normals"]

GRID = 512  # points along each latent number over which accuracy is averaged; of more than two, as many random ones


def bound(sigma: float, t: int) -> float:
    """Return the R2 that no unbiased estimate of a point exceeds: 1 - 12 sigma^2 / t, the Cramer-Rao bound.

    Estimates that use the prior of points are biased, and can be slightly better.

    Parameters
    ----------
    sigma : float
        Standard deviation of normal noise, or scale of Gumbel noise, alike in each latent number, as of a dataset; 0:
        none.
    t : int
        Observations, at least 1.

    Raises
    ------
    TypeError, ValueError
        An argument is no such number.
    """
    return 1 - 12 * (number("sigma", sigma) and deviation(sigma)) ** 2 / whole("t", t, 1)


def unit_normals(asked: Questions) -> np.ndarray:
    """Return the normals of half-spaces at length 1, float64 [N, D].

    Raises
    ------
    TypeError, ValueError
        `asked` is no Questions, or holds questions that are no half-spaces.
    """
    typed("asked", asked, Questions, "questions, such as factors.Dataset(n=6).asked")
    boundary = numbers(asked.boundary, "asked.boundary", ("N", "D")).array()
    if (numbers(asked.threshold, "asked.threshold", (len(boundary),)).array() >= 0).any():
        raise ValueError(
            "asked: expected half-spaces c . x > 0, got questions of products, which are true in one quadrant alone: "
            "their answers follow another rule"
        )
    length = np.linalg.norm(boundary, axis=1, keepdims=True)
    for q in np.flatnonzero(~((length > 0) & (length < np.inf))):
        raise ValueError(
            f"asked.boundary: question {q} has a normal of length {length[q, 0]:g}: no hyperplane through the points, "
            "so that its answer is the same everywhere"
        )
    return boundary / length


def _precision(sigma: float, t: int) -> float:
    """Return sqrt(t) / sigma."""
    return np.sqrt(whole("t", t, 1)) / deviation(sigma)


def best_answers(m: ArrayLike, asked: Questions, sigma: float, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the answers of the best observer, who knows the mean of the observations and what noise they had.

    Parameters
    ----------
    m : array [n, D]
        Means of t observations.
    asked : Questions
        Half-spaces through the origin, such as `Dataset.asked`.
    sigma, t : float, int
        Noise, as of a dataset, and number of observations.

    Returns
    -------
    yes, no : ndarray
        float64 [n, N], logarithms of the chances of yes and of no: Phi(c . m sqrt(t) / sigma) and the rest.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the questions are those of products.
    """
    normals = unit_normals(asked)
    z = numbers(m, "m", ("n", normals.shape[1])).array() @ normals.T * _precision(sigma, t)
    return log_ndtr(z), log_ndtr(-z)


def log_chances(logits: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the chances that logits stand for, as `trilaterated` takes them.

    Parameters
    ----------
    logits : array [n, N]
        What a net says before a logistic function. Where it says tanh z, from -1 to 1, logits are 2 z.

    Returns
    -------
    yes, no : ndarray
        float64 [n, N], logarithms of the chances of yes and of no.

    Raises
    ------
    TypeError, ValueError
        They are not finite real numbers of this shape.
    """
    z = numbers(logits, "logits", ("n", "N")).array()
    return -np.logaddexp(0, -z), -np.logaddexp(0, z)


def trilaterated(yes: ArrayLike, no: ArrayLike, asked: Questions, sigma: float, t: int) -> np.ndarray:
    """Return the points that follow from answers: (C'C)^-1 C' (sigma / sqrt(t)) Phi^-1(Y).

    Parameters
    ----------
    yes, no : array
        [n, N], finite logarithms of the chances of yes and of no, as of `log_chances` or `best_answers`: of chances
        themselves near 0 or 1 too few digits are left.
    asked : Questions
        Half-spaces through the origin, such as `Dataset.asked`, with normals that span all D latent numbers.
    sigma, t : float, int
        Noise, as of a dataset, and number of observations.

    Returns
    -------
    ndarray
        float64 [n, D].

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, the questions are those of products, or their normals do not span.

    Examples
    --------
    >>> from worldfast.worlds import factors
    >>> given = factors.Dataset(n=6).asked, 0.2, 20
    >>> seen = [[0.1, -0.2], [0.4, 0.3]]  # means of 20 observations
    >>> factors.trilaterated(*factors.best_answers(seen, *given), *given).round(6)
    array([[ 0.1, -0.2],
           [ 0.4,  0.3]])
    """
    normals = unit_normals(asked)
    if (rank := np.linalg.matrix_rank(normals)) < normals.shape[1]:
        raise ValueError(
            f"asked: expected normals that span {normals.shape[1]} dimensions, got {rank}: the point is not determined"
        )
    scale = 1 / _precision(sigma, t)
    yes = numbers(yes, "yes", ("n", len(normals))).array()
    no = numbers(no, "no", yes.shape).array()
    for name, chance in (("yes", yes), ("no", no)):
        if (chance > 0).any():
            raise ValueError(f"{name}: expected logarithms of chances, at most 0, got {chance.max():g}")
    rarer = ndtri_exp(np.minimum(yes, no))
    z = np.where(yes < no, rarer, -rarer)
    return scale * z @ np.linalg.pinv(normals).T


def best_accuracy(asked: Questions, sigma: float, t: int) -> float:
    """Return the largest expected share of right answers of any observer, for points uniform on the square or cube.

    Parameters
    ----------
    asked : Questions
        Half-spaces through the origin, such as `Dataset.asked`.
    sigma, t : float, int
        Noise, as of a dataset, and number of observations.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit, or the questions are those of products.
    """
    normals, precision = unit_normals(asked), _precision(sigma, t)
    D = normals.shape[1]
    if D == 2:
        at = (np.arange(GRID) + 0.5) / GRID - 0.5
        x = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        x = np.random.default_rng(0).random((GRID**2, D)) - 0.5
    return float(np.mean([ndtr(np.abs(x @ c) * precision).mean() for c in normals]))

"""Decoders that are fitted on some regions of a world and tried on the one that was left out.

Source: arXiv 2407.11249, where regions are the quadrants of a square: does a decoder hold beyond what it has seen?
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worldfast.analysis.probe import fit_map, located
from worldfast.arrays import ArrayLike, integers, labels, mask, numbers
from worldfast.errors import positive, whole

__all__ = ["LeftOut", "adam_decoders", "angles", "left_out", "r2_of"]

ADAM = (0.9, 0.999, 1e-8)


class LeftOut(NamedTuple):
    """Scores of decoders, one for each region that is left out.

    Attributes
    ----------
    regions : ndarray
        int64 [R], their labels, ascending.
    ood : ndarray
        float64 [R], R2 in a region of the decoder that was fitted on the others.
    inside : ndarray
        float64 [R], R2 in a region of the decoder that was fitted on all.
    angle : ndarray
        float64 [R], mean angle between the attributes' directions in the former, in degrees; NaN of one attribute.
    """

    regions: np.ndarray
    ood: np.ndarray
    inside: np.ndarray
    angle: np.ndarray


def r2_of(y: ArrayLike, predicted: ArrayLike, variance: float) -> np.ndarray:
    """Return 1 - mean squared error / variance, of a variance that is given rather than that of y.

    Parameters
    ----------
    y, predicted : array [..., n, k]
        True and decoded attributes.
    variance : float
        Variance of an attribute in the whole world, above 0: 1/12 on a square of side 1. A decoder that knows the
        region alone then has an R2 above 0, of a quadrant 0.75.

    Returns
    -------
    ndarray
        float64 [...].

    Raises
    ------
    TypeError, ValueError
        An array is not of plain real numbers, the last two axes of both are not alike, or the variance is not above 0.

    Examples
    --------
    >>> float(r2_of([[0.25, 0.25]], [[0.25, 0.0]], 1 / 12))
    0.625
    """
    y, predicted = (numbers(x, name, None).array(finite=False) for x, name in ((y, "y"), (predicted, "predicted")))
    if y.ndim < 2 or y.shape[-2:] != predicted.shape[-2:]:
        raise ValueError(f"predicted: expected [..., n, k] as y, {list(y.shape)}, got {list(predicted.shape)}")
    return 1 - np.square(y - predicted).mean((-1, -2)) / positive("variance", variance)


def angles(weight: ArrayLike) -> np.ndarray:
    """Return the angles between the directions along which a decoder reads its attributes.

    Parameters
    ----------
    weight : array [d, k]
        Decoder, k of at least 2.

    Returns
    -------
    ndarray
        float64 [k (k - 1) / 2], in degrees, 0 to 180, of all pairs; NaN of a direction of length 0.

    Raises
    ------
    TypeError, ValueError
        It is not of finite real numbers, or has fewer than 2 columns.

    Examples
    --------
    >>> angles([[1.0, 1.0], [0.0, 1.0]]).round(6)
    array([45.])
    """
    weight = numbers(weight, "weight").array()
    if weight.shape[1] < 2:
        raise ValueError(f"weight: expected a column for each of at least 2 attributes, got {list(weight.shape)}")
    largest = np.abs(weight).max(0, initial=0)
    there = largest > 0
    unit = weight / np.where(there, largest, 1)  # first, so that no square overflows or vanishes
    unit = unit / np.where(there, np.linalg.norm(unit, axis=0), 1)
    cosines = np.where(there & there[:, None], unit.T @ unit, np.nan)[np.triu_indices(len(there), 1)]
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def left_out(
    X: ArrayLike, y: ArrayLike, regions: ArrayLike, test: ArrayLike, variance: float, ridge: float | None = None
) -> LeftOut:
    """Leave each region out of a least-squares fit, and try the decoder there.

    Does a map hold where no decoder was fitted? A high `ood` says that it does; a high `inside` alone says that X holds
    the attributes, in a way that differs from region to region.

    Parameters
    ----------
    X : array [n, d]
        Representations.
    y : array [n, k]
        Attributes.
    regions : array of int [n]
        Region of each item: any labels, of at least 2 regions.
    test : array of bool [n]
        Items on which decoders are tried; they are fitted on others. Some of each region.
    variance : float
        Variance of an attribute in the whole world, as in `r2_of`.
    ridge : float, optional
        Penalty of a ridge regression on standardised features; by default, ordinary least squares.

    Returns
    -------
    LeftOut

    Raises
    ------
    TypeError, ValueError
        Shapes disagree, X is not finite, the variance is not above 0, a region has no item to try, all items are of one
        region, or as in `linear_probe`.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.random.default_rng(0).random((400, 2)) - 0.5
    >>> quadrants = (y > 0) @ [2, 1]
    >>> found = left_out(y @ [[1, 2, 0], [0, 1, 1]], y, quadrants, np.arange(400) % 4 == 0, variance=1 / 12)
    >>> found.ood.round(6)
    array([1., 1., 1., 1.])
    """
    X, y = located(X, y, "k")
    regions, test = labels(regions, "regions", len(X)), mask(test, "test", len(X))
    positive("variance", variance)
    known = np.unique(regions)
    if len(known) < 2:
        raise ValueError(f"regions: expected at least 2, got {known.tolist()}")
    for region in known:
        if not (test & (regions == region)).any():
            raise ValueError(f"test: region {region} has no item to try a decoder on")
    of_all = fit_map(X[~test], y[~test], ridge).predict(X)
    found = []
    for region in known:
        inside, tried = regions == region, test & (regions == region)
        fit = fit_map(X[~test & ~inside], y[~test & ~inside], ridge)
        pairs = angles(fit.slope) if y.shape[1] > 1 else np.array([np.nan])
        scores = r2_of(y[tried], fit.predict(X[tried]), variance), r2_of(y[tried], of_all[tried], variance)
        found.append((*scores, pairs.mean()))
    ood, inside, angle = np.array(found).T
    return LeftOut(known, ood, inside, angle)


def adam_decoders(
    X: ArrayLike, y: ArrayLike, batches: ArrayLike, learning_rate: float = 3e-3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Fit linear decoders by Adam on batches of items, as published: each as if it were alone.

    Parameters
    ----------
    X : array [n, d]
        Representations.
    y : array [n, k]
        Attributes.
    batches : array of int [F, S, B]
        Items, 0 to n - 1, of each of S steps of B items, for F decoders: what a decoder is not to see, such as the
        items of a region, is in none of its batches.
    learning_rate : float
        Above 0; by default, as published. At a constant rate a decoder ends near least squares rather than at it.
    seed : int
        Seed of initial weights, uniform up to 1 / sqrt(d) as in torch.nn.Linear.

    Returns
    -------
    weight : ndarray
        float32 [F, d, k].
    bias : ndarray
        float32 [F, k]. A decoder f places items at X @ weight[f] + bias[f].

    Raises
    ------
    TypeError, ValueError
        Shapes disagree, X is not finite, `batches` are empty, not integers or none of the items, or the learning rate
        is not above 0.

    Notes
    -----
    Source: the decoders of arXiv 2407.11249: mean square error, Adam with its usual betas, a constant learning rate.
    """
    X, y = (x.astype(np.float32) for x in located(X, y, "k"))
    batches = integers(batches, "batches", ("F", "S", "B"))
    if not batches.shape[2]:
        raise ValueError(f"batches: expected at least one item a batch, got {list(batches.shape)}")
    for item in batches[(batches < 0) | (batches >= len(X))][:1]:
        raise ValueError(f"batches: expected items of X, 0 to {len(X) - 1}, got {item}")
    seed, learning_rate = whole("seed", seed, 0), positive("learning_rate", learning_rate)
    (F, steps, size), (d, k) = batches.shape, (X.shape[1], y.shape[1])
    X = np.concatenate([X, np.ones((len(X), 1), np.float32)], axis=1)  # the bias is the weight of a 1
    drawn = np.random.default_rng(seed).uniform(-1, 1, (F, d + 1, k)) / np.sqrt(d)
    weight = drawn.astype(np.float32)
    average, square = np.zeros_like(weight), np.zeros_like(weight)
    beta_1, beta_2, eps = ADAM
    for step in range(steps):
        seen, wanted = X[batches[:, step]], y[batches[:, step]]  # [F, B, d + 1], [F, B, k]
        slope = seen.swapaxes(1, 2) @ (seen @ weight - wanted) * np.float32(2 / (size * k))
        average += (1 - beta_1) * (slope - average)
        square += (1 - beta_2) * (slope * slope - square)
        root = np.sqrt(square / (1 - beta_2 ** (step + 1))) + eps
        weight -= (learning_rate / (1 - beta_1 ** (step + 1))) * average / root
    return weight[:, :d], weight[:, d]

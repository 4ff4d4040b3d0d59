"""Principal components of a representation, in one frame over training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from worldfast.analysis.scale import centred, magnitude, single, varies
from worldfast.arrays import ArrayLike, ByStep, mask, numbers
from worldfast.display import count
from worldfast.errors import one_of, whole

__all__ = ["Components", "MixedView", "leading_components", "mixed_over_training", "pca_over_training"]


@dataclass(frozen=True)
class Components:
    """Principal components of a run over training.

    Attributes
    ----------
    projected : ndarray
        float32 [S, n, k], every step in one frame; float64 where they are beyond float32's range.
    explained : ndarray
        float64 [k], share of the variance at the last step.
    """

    projected: np.ndarray
    explained: np.ndarray


def pca_over_training(
    activations: ByStep, layer: int, k: int = 3, fit: str = "last", share: float = 0.6, seed: int = 0
) -> Components:
    """Return the first k principal components of every step of a run.

    Parameters
    ----------
    activations : Activations
        Or any object with `steps` and [step, layer] -> array [n, d].
    layer : int
        Layer to read.
    k : int
        Number of components.
    fit : {"last", "each"}
        "last" fits once, at the last step, on a random `share` of the items, as in the source. "each" fits at every
        step and maps the result onto the following step by the nearest rotation or reflection, so the view shows each
        step's own spread without jumps.
    share : float
        Share of the items to fit on.
    seed : int
        Seed for choosing them.

    Returns
    -------
    Components

    Raises
    ------
    ValueError
        k is larger than n or d, the fit is unknown, there are no steps, or all rows of the last are equal.

    Notes
    -----
    Source: the PCA views of arXiv 2602.00533.
    """
    from scipy.linalg import orthogonal_procrustes
    from sklearn.decomposition import PCA

    one_of("fit", fit, ("last", "each"))
    k, seed = whole("k", k, 0), whole("seed", seed, 0)
    steps, last = _last(activations, layer)
    n, d = last.shape
    chosen = np.random.default_rng(seed).permutation(n)[: max(k, round(share * n))]
    if not 1 <= k <= min(len(chosen), d):
        raise ValueError(f"k: expected 1 to {min(len(chosen), d)} components, got {k}")
    size = magnitude(last)
    last = last / size
    if not varies(last[chosen]).any():
        raise ValueError(f"activations[{steps[-1]}, {layer}]: all rows are equal, it has no components")
    pca = PCA(k, svd_solver="covariance_eigh").fit(last[chosen])
    projected = [pca.transform(last)]
    for step in reversed(steps[:-1]):
        X = _at(activations, step, layer, n, d) / size
        if fit == "last":
            projected.append(pca.transform(X))
        else:
            own = PCA(k, svd_solver="covariance_eigh").fit(X[chosen]).transform(X)
            projected.append(own @ orthogonal_procrustes(own, projected[-1])[0])
    return Components(single(np.stack(projected[::-1]) * size), pca.explained_variance_ratio_.astype(np.float64))


def _last(activations: ByStep, layer: int) -> tuple[list[int], np.ndarray]:
    """Return the steps of a run, and the array of the last."""
    steps = list(activations.steps)
    if not steps:
        raise ValueError("activations: expected at least one step, got none")
    return steps, _at(activations, steps[-1], layer)


def _at(activations: ByStep, step: int, layer: int, n: str | int = "n", d: str | int = "d") -> np.ndarray:
    """Return the float64 array [n, d] of a step and layer."""
    layer = whole("layer", layer, 0)
    return numbers(activations[step, layer], f"activations[{step}, {layer}]", (n, d)).array()


def leading_components(X: ArrayLike, k: int) -> torch.Tensor:
    """Return the first k principal components of a representation.

    Parameters
    ----------
    X : array [n, d]
        A representation.
    k : int
        Number of components.

    Returns
    -------
    Tensor
        float64 [n, k], on the device of X.

    Raises
    ------
    ValueError
        k is larger than n or d, or all rows are equal.
    """
    X = numbers(X, "X")
    if not len(X):
        raise ValueError(f"{X.name}: expected at least 1 row, got none")
    near, size = centred(X.tensor(), X.name, "it has no components")
    return leading_directions(near, k, X.name) * size


def leading_directions(X: torch.Tensor, k: int, name: str) -> torch.Tensor:
    """Return the first k principal components of columns that are centred already, in a unit near theirs."""
    k = whole("components", k, 0)
    if not 1 <= k <= min(X.shape):
        raise ValueError(
            f"{name}: expected [n, d] of at least {k} rows and columns for {count(k, 'component')}, got {list(X.shape)}"
        )
    if len(X) < X.shape[1]:  # the same result from the smaller matrix
        values, vectors = torch.linalg.eigh(X @ X.T)
        return vectors[:, -k:].flip(1) * values[-k:].flip(0).clamp(min=0).sqrt()
    return X @ torch.linalg.eigh(X.T @ X)[1][:, -k:].flip(1)


@dataclass(frozen=True)
class MixedView:
    """Every step of a run in the frame of its last: the directions of x and y, and the one of greatest remaining
    variance.

    Attributes
    ----------
    projected : ndarray
        float32 [S, n, 3], coordinates along the three directions, relative to the mean of the last step; float64 where
        they are beyond float32's range.
    directions : ndarray
        float64 [3, d], unit vectors. The third is orthogonal to the first two, which need not be orthogonal to each
        other.
    explained : ndarray
        float64 [3], share of the last step's variance along each; the first two may overlap.
    """

    projected: np.ndarray
    directions: np.ndarray
    explained: np.ndarray


def mixed_over_training(
    activations: ByStep, layer: int, xy: ArrayLike, fit_on: ArrayLike | None = None, ridge: float | None = None
) -> MixedView:
    """Return the "mixed" view: the unit probe directions of x and y, and the first principal component of the rest.

    A probe direction is the gradient of a least-squares probe's x or y; the rest is orthogonal to both. The sign of the
    third direction makes its largest entry positive.

    Parameters
    ----------
    activations : Activations
        Or any object with `steps` and [step, layer] -> array [n, d].
    layer : int
        Layer to read.
    xy : array [n, 2]
        Coordinates.
    fit_on : array of bool [n], optional
        Items to fit the directions on, at the last step; by default, all.
    ridge : float, optional
        As in `worldfast.analysis.linear_probe`.

    Returns
    -------
    MixedView

    Raises
    ------
    ValueError
        As in `fit_map`, or nothing of the last step remains besides the directions, or a coordinate is constant.

    Notes
    -----
    Source: the "mixed" view of arXiv 2602.00533.
    """
    from worldfast.analysis.probe import fit_map

    steps, last = _last(activations, layer)
    xy = numbers(xy, "xy", (len(last), 2)).array()
    fit_on = np.ones(len(last), dtype=bool) if fit_on is None else mask(fit_on, "fit_on", len(last))
    size = magnitude(last)
    last = last / size
    slope = fit_map(last[fit_on], xy[fit_on] / magnitude(xy, 0), ridge).slope  # [d, 2]
    lengths = np.linalg.norm(slope, axis=0)
    if not varies(xy[fit_on]).all() or not (lengths > 0).all():
        raise ValueError("xy: a coordinate is constant, it has no direction")
    read = (slope / lengths).T  # [2, d]
    middle = last[fit_on].mean(0)
    X = last[fit_on] - middle
    plane = np.linalg.qr(read.T)[0]  # [d, 2]
    left = X - X @ plane @ plane.T
    if np.linalg.norm(left) <= 1e-9 * np.linalg.norm(X):
        raise ValueError(f"layer {layer}: nothing is left besides the directions of x and y")
    third = np.linalg.eigh(left.T @ left)[1][:, -1]
    third *= np.sign(third[np.abs(third).argmax()])
    directions = np.concatenate([read, third[None]])
    projected = [(_at(activations, step, layer, *last.shape) / size - middle) @ directions.T for step in steps]
    explained = np.square(X @ directions.T).sum(0) / np.square(X).sum()
    return MixedView(single(np.stack(projected) * size), directions, explained)

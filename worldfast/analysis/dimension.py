"""Dimensionality of a representation: of its variance, and of the surface its points lie on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worldfast import frames as pd
from worldfast.analysis.knn import nearest
from worldfast.analysis.scale import centred, lengths, magnitude
from worldfast.arrays import ArrayLike, numbers
from worldfast.errors import typed, whole

__all__ = ["dimension_table", "participation_ratio", "two_nn"]


def participation_ratio(X: ArrayLike) -> float:
    """Return the participation ratio (sum of l)^2 / sum of l^2 of the eigenvalues l of the covariance.

    Equal variance along k directions and none along the others gives k. This is a linear measure: a curved surface
    counts every direction it bends through.

    Parameters
    ----------
    X : array [n, d]
        A representation.

    Returns
    -------
    float
        From 1 to d.

    Raises
    ------
    ValueError
        X is not [n, d], is constant, or holds NaN or infinity.

    Notes
    -----
    Source: Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017.
    """
    X, _ = centred(_checked(X, 2), "X", "its dimension is undefined")
    X = X / X.abs().max()
    product = X @ X.T if len(X) < X.shape[1] else X.T @ X  # the same nonzero eigenvalues
    return float(product.trace() ** 2 / product.square().sum())


def two_nn(X: ArrayLike, discard: float = 0.1) -> float:
    """Return the intrinsic dimension of points, estimated from the ratio of the distances to their two nearest
    neighbours.

    If the density is uniform over those neighbours, the ratio m has the distribution 1 - m^-dimension. The estimate is
    the slope of -log(1 - F) against log m, through the origin. Duplicate points are counted once, since a distance of 0
    has no ratio.

    Parameters
    ----------
    X : array [n, d]
        Points.
    discard : float
        Share of the largest ratios left out of the fit, from 0 to below 1; density is least uniform there.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        X is not [n, d], has fewer than 10 distinct points, or holds NaN or infinity.

    Notes
    -----
    Source: Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information", Scientific Reports 2017.
    """
    if not 0 <= discard < 1:
        raise ValueError(f"discard: expected a share from 0 to below 1, got {discard}")
    X = _checked(X, 1)
    X = torch.unique(X / magnitude(X), dim=0)
    if len(X) < 10:
        raise ValueError(f"X: expected at least 10 distinct points, got {len(X)}")
    near = nearest(X, 2)  # [n, 2]
    # Computed from differences: subtracting squared norms would lose the digits of close points.
    distances = torch.stack([lengths(X[near[:, i]] - X) for i in range(2)], 1).sort(1).values
    log_ratio = torch.log(distances[:, 1] / distances[:, 0]).sort().values
    n = len(log_ratio)
    kept = min(max(2, round((1 - discard) * n)), n - 1)  # the last has F = 1
    x = log_ratio[:kept]
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=x.dtype, device=x.device) / n)
    if not x.square().sum() > 0:
        raise ValueError("X: the two nearest neighbours of every point are equally near, as on a grid: no ratio")
    return float((x * y).sum() / x.square().sum())


def dimension_table(Xs: Mapping[str, object], layer: int | None = None, discard: float = 0.1) -> pd.DataFrame:
    """Return both estimates of every representation as a table.

    Parameters
    ----------
    Xs : mapping of str to array [n, d]
        Representations by name.
    layer : int, optional
        Value of a column of this name.
    discard : float
        As in `two_nn`.

    Returns
    -------
    DataFrame
        Columns run, layer (if given), participation_ratio, two_nn.

    Raises
    ------
    TypeError, ValueError
        As in `participation_ratio` and `two_nn`; the message names the representation.
    """
    rows, layer = [], None if layer is None else whole("layer", layer, 0)
    for name, X in typed("Xs", Xs, Mapping, "a mapping of name to array [n, d]").items():
        try:
            rows.append((name, layer, participation_ratio(X), two_nn(X, discard)))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    table = pd.DataFrame(rows, columns=["run", "layer", "participation_ratio", "two_nn"])
    return table.drop(columns="layer") if layer is None else table


def _checked(X: ArrayLike, least: int) -> torch.Tensor:
    X = numbers(X, "X")
    if len(X) < least or X.shape[1] == 0:
        raise ValueError(f"X: expected [n, d] with n at least {least}, got {list(X.shape)}")
    return X.tensor()

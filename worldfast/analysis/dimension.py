"""How many dimensions a representation has: of its variance, and of the surface its points lie on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from worldfast.analysis.gram import as_tensor
from worldfast.analysis.knn import nearest

if TYPE_CHECKING:
    import pandas

__all__ = ["dimension_table", "participation_ratio", "two_nn"]


def participation_ratio(X) -> float:
    """(sum of l)^2 / sum of l^2 for the eigenvalues l of the covariance of X [n, d]: from 1 to d.

    k directions of equal variance and no other give k. A linear measure: a curved surface counts all it bends through.
    ValueError where X is not [n, d], is constant, or holds NaN or infinity.
    Source: Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017.
    """
    X = _checked(X, 2)
    X = X - X.mean(0)
    largest = X.abs().max()
    if not largest > 0:
        raise ValueError("X: all rows are equal, its dimension is undefined")
    X = X / largest
    product = X @ X.T if len(X) < X.shape[1] else X.T @ X  # the same eigenvalues but for zeros
    return float(product.trace() ** 2 / product.square().sum())


def two_nn(X, discard: float = 0.1) -> float:
    """The intrinsic dimension of the points X [n, d] from the distances of their two nearest neighbours, as a ratio.

    If density is even over those neighbours, the ratio m has the distribution 1 - m^-dimension; the estimate is the
    slope, through the origin, of -log(1 - F) against log m.

    discard  the share of largest ratios left out of the fit, where density is least even; 0 to below 1

    Points that stand on one another are counted once, as a distance of 0 has no ratio. ValueError where X is not
    [n, d], fewer than 10 distinct points are left, or it holds NaN or infinity.
    Source: Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information", Scientific Reports 2017.
    """
    if not 0 <= discard < 1:
        raise ValueError(f"discard: expected a share from 0 to below 1, got {discard}")
    X = torch.unique(_checked(X, 1), dim=0)
    if len(X) < 10:
        raise ValueError(f"X: expected at least 10 distinct points, got {len(X)}")
    near = nearest(X, 2)  # [n, 2]
    # From differences: those of squared norms would lose the digits of points that are close.
    distances = torch.stack([(X[near[:, i]] - X).norm(dim=1) for i in range(2)], 1).sort(1).values
    log_ratio = torch.log(distances[:, 1] / distances[:, 0]).sort().values
    n = len(log_ratio)
    kept = min(max(2, round((1 - discard) * n)), n - 1)  # the last has F = 1
    x = log_ratio[:kept]
    y = -torch.log1p(-torch.arange(1, kept + 1, dtype=x.dtype, device=x.device) / n)
    if not x.square().sum() > 0:
        raise ValueError("X: every point has two neighbours as near, as on a grid: the ratio says nothing")
    return float((x * y).sum() / x.square().sum())


def dimension_table(Xs: Mapping[str, object], layer: int | None = None, discard: float = 0.1) -> pandas.DataFrame:
    """Both estimates of every representation: columns run, layer (where given), participation_ratio, two_nn.

    Xs       name -> [n, d]
    discard  as in `two_nn`
    """
    import pandas as pd

    rows = []
    for name, X in Xs.items():
        try:
            rows.append({"run": name, "participation_ratio": participation_ratio(X), "two_nn": two_nn(X, discard)})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    table = pd.DataFrame(rows, columns=["run", "participation_ratio", "two_nn"])
    if layer is not None:
        table.insert(1, "layer", layer)
    return table


def _checked(X, least: int) -> torch.Tensor:
    X = as_tensor(X)
    if X.ndim != 2 or len(X) < least or X.shape[1] == 0:
        raise ValueError(f"X: expected [n, d] with n at least {least}, got {list(X.shape)}")
    if not torch.isfinite(X).all():
        raise ValueError("X: holds NaN or infinity")
    return X

"""Procrustes disparity: what is left between two representations after the best shift, scaling and rotation.

Source: Gower, "Generalized Procrustes Analysis", Psychometrika 1975; defined as in scipy.spatial.procrustes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldfast.analysis.gram import as_tensor
from worldfast.analysis.pca import leading_components
from worldfast.analysis.tables import labelled, members, pair_table

if TYPE_CHECKING:
    import pandas

__all__ = ["procrustes", "procrustes_table"]


def procrustes(X, Y, components: int | None = 3) -> float:
    """The disparity of two representations of the same n things, on their first principal components.

    X, Y        [n, d1], [n, d2]; numpy, torch or cupy
    components  how many; None: all columns, the narrower padded with zeros

    Returns 1 - (sum of the singular values of A'B)^2 for the centred A and B of Frobenius norm 1: 0 where they are one
    figure up to shift, scaling, rotation and reflection, 1 at most. Symmetric.
    Raises ValueError where n differs, a representation is constant or holds NaN or infinity, or has too few columns.
    """
    return _disparity(_standard(X, components, "X"), _standard(Y, components, "Y"))


def procrustes_table(
    Xs: Mapping[str, object], components: int | None = 3, layer: int | None = None
) -> pandas.DataFrame:
    """The disparity of all pairs: columns layer (where given), components (0: all), run, other, disparity.

    Xs  name -> [n, d]. Each unordered pair once. Errors as in `procrustes`; one names the representation.
    """
    names = members(Xs)
    standard = [_standard(Xs[name], components, name) for name in names]
    matrix = np.zeros((len(names), len(names)))
    for i in range(len(names)):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = _disparity(standard[i], standard[j], names[i], names[j])
    return labelled(pair_table(names, matrix, "disparity"), layer=layer, components=components or 0)


def _standard(X, components, name) -> torch.Tensor:
    """The first principal components, centred, of Frobenius norm 1."""
    X = as_tensor(X)
    if X.ndim != 2 or len(X) < 2:
        raise ValueError(f"{name}: expected [n, d] with n at least 2, got {list(X.shape)}")
    if not torch.isfinite(X).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    centred = X - X.mean(0)
    if not centred.abs().max() > 0:
        raise ValueError(f"{name}: all rows are equal, the disparity is undefined")
    if components is not None:
        try:
            centred = leading_components(X, components)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return centred / torch.linalg.norm(centred)


def _disparity(A, B, first="X", second="Y") -> float:
    if len(A) != len(B):
        raise ValueError(f"{second}: expected {len(A)} rows as in {first}, got {len(B)}")
    alike = float(torch.linalg.svdvals(A.T @ B).sum())
    return max(0.0, 1.0 - alike**2)

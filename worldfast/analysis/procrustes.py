"""Procrustes disparity: the residual of two representations after the best translation, scaling and rotation.

Source: Gower, "Generalized Procrustes Analysis", Psychometrika 1975; defined as in scipy.spatial.procrustes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worldfast import frames as pd
from worldfast.analysis.pca import leading_directions
from worldfast.analysis.scale import centred
from worldfast.analysis.tables import labelled, members, pair_table
from worldfast.arrays import ArrayLike, numbers
from worldfast.display import count

__all__ = ["procrustes", "procrustes_table"]


def procrustes(X: ArrayLike, Y: ArrayLike, components: int | None = 3) -> float:
    """Return the Procrustes disparity of two representations of the same n items, on their first principal components.

    Parameters
    ----------
    X, Y : array [n, d1], array [n, d2]
        Of any kind that `worldfast.arrays` takes.
    components : int, optional
        Number of principal components; None for all columns, the narrower representation padded with zeros.

    Returns
    -------
    float
        1 - (sum of the singular values of A'B)^2 for the centred A and B of Frobenius norm 1. 0 if they are equal up to
        translation, scaling, rotation and reflection; 1 at most. Symmetric.

    Raises
    ------
    ValueError
        The numbers of rows differ, or a representation is constant, holds NaN or infinity, or has too few columns.
    """
    return _disparity(_standard(X, components, "X"), _standard(Y, components, "Y"))


def procrustes_table(Xs: Mapping[str, object], components: int | None = 3, layer: int | None = None) -> pd.DataFrame:
    """Return the disparity of all pairs as a table.

    Parameters
    ----------
    Xs : mapping of str to array [n, d]
        Representations by name.
    components : int, optional
        As in `procrustes`.
    layer : int, optional
        Value of a column of this name.

    Returns
    -------
    DataFrame
        Columns layer (if given), components (0 for all), run, other, disparity; each unordered pair once.

    Raises
    ------
    TypeError, ValueError
        As in `procrustes`; the message names the representation.
    """
    names = members(Xs)
    standard = [_standard(Xs[name], components, name) for name in names]

    def disparity(i: int, j: int) -> float:  # of the later beside the earlier, whose bits the other order may change
        return _disparity(standard[j], standard[i], names[j], names[i])

    return labelled(pair_table(names, disparity, "disparity"), layer=layer, components=components or 0)


def _standard(X: ArrayLike, components: int | None, name: str) -> torch.Tensor:
    """Return the first principal components, centred, scaled to Frobenius norm 1."""
    taken = numbers(X, name)
    if len(taken) < 2:
        raise ValueError(f"{name}: expected [n, d] with n at least 2, got {list(taken.shape)}")
    X, _ = centred(taken.tensor(), name, "the disparity is undefined")
    if components is not None:
        X = leading_directions(X, components, name)
    return X / torch.linalg.norm(X)


def _disparity(A: torch.Tensor, B: torch.Tensor, first: str = "X", second: str = "Y") -> float:
    if len(A) != len(B):
        raise ValueError(f"{second}: expected {count(len(A), 'row')} as in {first}, got {len(B)}")
    alike = float(torch.linalg.svdvals(A.T @ B).sum())
    return max(0.0, 1.0 - alike**2)

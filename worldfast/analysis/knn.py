"""Mutual nearest-neighbour alignment: do two representations put the same cities next to each other?

Where CKA weighs large distances, this looks at the nearest few alone.
Source: Huh, Cheung, Wang and Isola, "The Platonic Representation Hypothesis", ICML 2024, appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldfast.analysis.gram import as_tensor
from worldfast.analysis.tables import labelled, members, pair_table
from worldfast.errors import unknown_name

if TYPE_CHECKING:
    import pandas

__all__ = ["METRICS", "chance", "mutual_knn", "mutual_knn_table", "nearest"]

METRICS = ("cosine", "euclidean")
BLOCK = 512  # rows whose distances to all others are in memory at a time


def mutual_knn(X, Y, k: int = 10, metric: str = "cosine") -> float:
    """The share of a thing's k nearest neighbours that two representations agree on, averaged over n things.

    X, Y    [n, d1], [n, d2]; numpy, torch or cupy
    k       neighbours, 1 to n - 1; the thing itself is not among them. Of neighbours as near, any may be taken
    metric  "cosine", as in the source, or "euclidean"

    Returns 0 to 1; unrelated representations have k / (n - 1) on average, see `chance`.
    Raises ValueError where n differs, for k outside its range, an unknown metric, NaN or infinity, or a row of zeros
    under "cosine".
    """
    return _overlap(nearest(X, k, metric, "X"), nearest(Y, k, metric, "Y"))


def mutual_knn_table(
    Xs: Mapping[str, object], k: int = 10, metric: str = "cosine", layer: int | None = None
) -> pandas.DataFrame:
    """`mutual_knn` of all pairs: columns layer (where given), k, run, other, value, chance.

    Xs  name -> [n, d]. Each unordered pair once; neighbours are found once for each.
    """
    names = members(Xs)
    found = [nearest(Xs[name], k, metric, name) for name in names]
    matrix = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = _overlap(found[i], found[j], names[i], names[j])
    table = labelled(pair_table(names, matrix), layer=layer, k=k)
    table["chance"] = chance(len(found[0]), k)
    return table


def chance(n: int, k: int) -> float:
    """What unrelated representations of n things have on average: k / (n - 1)."""
    return k / (n - 1)


def nearest(X, k: int, metric: str = "euclidean", name: str = "X") -> torch.Tensor:
    """The k nearest other rows of every row, nearest first: int64 [n, k].

    Errors as in `mutual_knn`; `name` is what they call X.

    Computed in float64, a block of rows at a time: 2 n^2 d operations, no n x n matrix in memory.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    X = as_tensor(X)
    if X.ndim != 2 or len(X) < 2:
        raise ValueError(f"{name}: expected [n, d] with n at least 2, got {list(X.shape)}")
    if not 1 <= k < len(X):
        raise ValueError(f"k: expected 1 to {len(X) - 1} neighbours of {len(X)} rows of {name}, got {k}")
    if not torch.isfinite(X).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    if metric == "cosine":
        length = X.norm(dim=1, keepdim=True)
        if not (length > 0).all():
            raise ValueError(f"{name}: a row of zeros has no direction; metric='euclidean' needs none")
        X, half = X / length, None
    else:
        X = X - X.mean(0)  # what rows have in common would cost digits
        half = X.square().sum(1) / 2
    found = []
    for start in range(0, len(X), BLOCK):
        near = X[start : start + BLOCK] @ X.T  # [B, n], larger is nearer
        if half is not None:
            near -= half
        near.diagonal(start).fill_(-torch.inf)
        found.append(near.topk(k).indices)
    return torch.cat(found)


def _overlap(a: torch.Tensor, b: torch.Tensor, first="X", second="Y") -> float:
    """The share of entries that the rows of two [n, k] have in common."""
    if len(a) != len(b):
        raise ValueError(f"{second}: expected {len(a)} rows as in {first}, got {len(b)}")
    shared = 0
    for start in range(0, len(a), 4 * BLOCK):
        rows = slice(start, start + 4 * BLOCK)
        shared += int((a[rows, :, None] == b[rows, None, :]).sum())
    return shared / a.numel()

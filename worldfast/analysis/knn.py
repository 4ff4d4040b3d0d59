"""Mutual nearest-neighbour alignment: agreement of two representations on which items are next to each other.

CKA gives most weight to large distances; this measure uses only the nearest neighbours.
Source: Huh, Cheung, Wang and Isola, "The Platonic Representation Hypothesis", ICML 2024, appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from worldfast import frames as pd
from worldfast.analysis.scale import centred, magnitude
from worldfast.analysis.tables import labelled, members, pair_table
from worldfast.arrays import ArrayLike, numbers
from worldfast.display import count
from worldfast.errors import one_of, whole

__all__ = ["METRICS", "chance", "mutual_knn", "mutual_knn_table", "nearest"]

METRICS = ("cosine", "euclidean")
PARALLEL = 1e-8  # difference of directions at or below which cosines, which end near 1, cannot tell them apart
BLOCK = 512  # rows at a time for which the distances to all others are held


def mutual_knn(X: ArrayLike, Y: ArrayLike, k: int = 10, metric: str = "cosine") -> float:
    """Return the share of an item's k nearest neighbours that two representations have in common, averaged over items.

    Parameters
    ----------
    X, Y : array [n, d1], array [n, d2]
        Representations of the same n items, of any kind that `worldfast.arrays` takes.
    k : int
        Number of neighbours, 1 to n - 1, not counting the item itself. Ties are broken arbitrarily.
    metric : {"cosine", "euclidean"}
        Distance; "cosine" is that of the source.

    Returns
    -------
    float
        From 0 to 1. Unrelated representations have k / (n - 1) on average; see `chance`.

    Raises
    ------
    ValueError
        The numbers of rows differ, k is out of range, the metric is unknown, an array holds NaN or infinity, all of
        its rows are equal, or under "cosine" have the same direction, or a row is all zeros under "cosine".
    """
    return _overlap(nearest(X, k, metric, "X"), nearest(Y, k, metric, "Y"))


def mutual_knn_table(
    Xs: Mapping[str, object], k: int = 10, metric: str = "cosine", layer: int | None = None
) -> pd.DataFrame:
    """Return the `mutual_knn` of all pairs as a table; the neighbours of each representation are found once.

    Parameters
    ----------
    Xs : mapping of str to array [n, d]
        Representations by name.
    k, metric
        As in `mutual_knn`.
    layer : int, optional
        Value of a column of this name.

    Returns
    -------
    DataFrame
        Columns layer (if given), k, run, other, value, chance; each unordered pair once.

    Raises
    ------
    TypeError, ValueError
        As in `mutual_knn`; the message names the representation.
    """
    names, k = members(Xs), whole("k", k, 0)
    found = [nearest(Xs[name], k, metric, name) for name in names]
    table = pair_table(names, lambda i, j: _overlap(found[i], found[j], names[i], names[j]))
    return labelled(table, layer=layer, k=k).assign(chance=chance(len(found[0]), k))


def chance(n: int, k: int) -> float:
    """Return the expected `mutual_knn` of unrelated representations of n items: k / (n - 1)."""
    return k / (n - 1)


def nearest(X: ArrayLike, k: int, metric: str = "euclidean", name: str = "X") -> torch.Tensor:
    """Return the k nearest other rows of every row, nearest first.

    Computed in float64, a block of rows at a time: 2 n^2 d operations, without an n x n matrix in memory.

    Parameters
    ----------
    X : array [n, d]
        Points.
    k, metric
        As in `mutual_knn`.
    name : str
        Name of X in messages.

    Returns
    -------
    Tensor
        int64 [n, k].

    Raises
    ------
    ValueError
        As in `mutual_knn`.
    """
    one_of("metric", metric, METRICS)
    X = numbers(X, name)
    if len(X) < 2:
        raise ValueError(f"{name}: expected [n, d] with n at least 2, got {list(X.shape)}")
    k = whole("k", k, 0)
    if not 1 <= k < len(X):
        raise ValueError(f"k: expected 1 to {len(X) - 1} neighbours of {count(len(X), 'row')} of {name}, got {k}")
    X = X.tensor()
    if metric == "cosine":
        X = X / magnitude(X, 1)
        length = X.norm(dim=1, keepdim=True)
        if not (length > 0).all():
            raise ValueError(f"{name}: a row of zeros has no direction; metric='euclidean' needs none")
        X, half = X / length, None
        if not ((X - X[0]).abs() > PARALLEL).any():
            raise ValueError(f"{name}: all rows have the same direction, none is nearer than another")
    else:
        X, _ = centred(X, name, "none is nearer than another")  # a common offset would cost digits
        half = X.square().sum(1) / 2
    found = []
    for start in range(0, len(X), BLOCK):
        near = X[start : start + BLOCK] @ X.T  # [B, n]; larger means nearer
        if half is not None:
            near -= half
        near.diagonal(start).fill_(-torch.inf)
        found.append(near.topk(k).indices)
    return torch.cat(found)


def _overlap(a: torch.Tensor, b: torch.Tensor, first: str = "X", second: str = "Y") -> float:
    """Return the share of entries that the rows of two arrays [n, k] have in common."""
    if len(a) != len(b):
        raise ValueError(f"{second}: expected {count(len(a), 'row')} as in {first}, got {len(b)}")
    shared = 0
    for start in range(0, len(a), 4 * BLOCK):
        rows = slice(start, start + 4 * BLOCK)
        shared += int((a[rows, :, None] == b[rows, None, :]).sum())
    return shared / a.numel()

"""Centred kernel alignment: similarity of two representations of the same items, invariant to rotation and scale.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; the debiased estimate
from Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 5, as used by Nguyen et al., ICLR
2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldfast.analysis.gram import gram_blocks, gram_statistics
from worldfast.analysis.hsic import hsic_of_sums, normalised, rescaled
from worldfast.analysis.pca import leading_components
from worldfast.arrays import ArrayLike, permuted, same_length, sequence, sequence_of
from worldfast.errors import whole

GATHERED_BYTES = 1 << 30  # rows of all representations that are in memory at once, in the order of their batches

__all__ = ["cka", "cka_matrix", "cka_minibatch", "cka_standard_error"]


def cka(
    X: ArrayLike,
    Y: ArrayLike,
    kernel: str = "linear",
    debiased: bool = False,
    *,
    bandwidth: float | Sequence[float] = 1.0,
    components: int | None = None,
) -> float:
    """Return the CKA of two representations of the same n items.

    Parameters
    ----------
    X, Y : array [n, d1], array [n, d2]
        numpy, torch (any device), cupy, jax or an HDF5 dataset, of any float or integer dtype; bool, complex, masked
        and sparse arrays are refused (see `worldfast.arrays`).
    kernel : {"linear", "rbf"}
        "linear" is ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of the centred columns; "rbf" is the same ratio for the doubly
        centred Gram matrices exp(-|x_i - x_j|^2 / (2 sigma^2)).
    debiased : bool
        Use unbiased HSIC estimates. The ratio is then 0 on average for independent representations, for which the plain
        ratio is positive; it may be negative, and needs n >= 4.
    bandwidth : float or sequence of float
        Sigma as a multiple of the median distance, or one sigma per representation; see `gram_statistics`.
    components : int, optional
        Compare the first principal components only, this many of each representation.

    Returns
    -------
    float
        The plain ratio has a relative error below 1e-10 for float64 and integers, below 1e-5 for float32, bfloat16 and
        float16, at any bandwidth from a thousandth of the median distance up, given the bandwidth, unless outliers lie
        more than 1e3 times the median distance away. The debiased ratio errs by as much of the plain one, divided by
        the share of a representation's plain HSIC that is left when debiased: without bound where hardly any is.

    Raises
    ------
    TypeError
        An array that is not of plain real numbers; the message says what to do.
    ValueError
        The numbers of rows differ, or a representation is constant (CKA is then undefined) or holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> import worldfast as wf
    >>> X = np.random.default_rng(0).normal(size=(100, 8))
    >>> Y = 3 * X[:, ::-1] + 5
    >>> round(wf.cka(X, Y), 6)
    1.0
    """
    return float(_matrix([X, Y], ["X", "Y"], kernel, debiased, bandwidth, components)[0, 1])


def cka_matrix(
    Xs: Sequence[ArrayLike],
    kernel: str = "linear",
    debiased: bool = False,
    *,
    bandwidth: float | Sequence[float] = 1.0,
    components: int | None = None,
) -> np.ndarray:
    """Return the CKA of all pairs of M representations.

    The linear and the RBF matrix together, or the plain and the debiased one, come from a single
    `gram_statistics(Xs, ("linear", "rbf"))` and its method `cka`.

    Parameters
    ----------
    Xs : sequence of array [n, d_i]
        M representations of the same n items; kinds of array as in `cka`.
    kernel, debiased, bandwidth, components
        As in `cka`.

    Returns
    -------
    ndarray
        float64 [M, M], symmetric, with ones on the diagonal.

    Raises
    ------
    ValueError
        As in `cka`.

    Examples
    --------
    >>> import numpy as np
    >>> import worldfast as wf
    >>> random = np.random.default_rng(0)
    >>> X, Y = random.normal(size=(2, 100, 8))
    >>> matrix = wf.cka_matrix([X, Y, X + Y])
    >>> matrix.shape
    (3, 3)
    >>> bool(matrix[0, 2] > matrix[0, 1])
    True
    """
    return _matrix(Xs, None, kernel, debiased, bandwidth, components)


def _matrix(
    Xs: Sequence[ArrayLike],
    names: Sequence[str] | None,
    kernel: str,
    debiased: bool,
    bandwidth: float | Sequence[float],
    components: int | None,
) -> np.ndarray:
    if components is not None:
        Xs = [leading_components(X, components) for X in sequence(Xs, "Xs", names)]
    return gram_statistics(Xs, kernel, bandwidth, names=names).cka(kernel, debiased)


def cka_minibatch(
    Xs: Iterable[ArrayLike] | Iterable[Sequence[ArrayLike]],
    batch: int | None = None,
    kernel: str = "linear",
    *,
    bandwidth: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Return the CKA of all pairs, debiased, from unbiased HSIC estimates averaged over minibatches.

    Suited to streams: the n rows need not fit in memory, and the cost grows with n, not with n^2.

    Parameters
    ----------
    Xs : sequence of array [n, d_i], or iterable of sequences of array [b, d_i]
        M representations, as in `cka_matrix`, of which a keyed permutation makes the batches: the order of the rows
        makes no difference but that of another draw. Datasets are read from front to back, once for each GiB of their
        rows. Or an iterable of batches, such as a generator or a DataLoader, each a tuple or list of M arrays: (X, Y)
        pairs for two representations. Its rows must be in random order; it is read once.
    batch : int, optional
        Smallest number of rows in a batch, at least 4; by default 256. An iterable has batches of its own.
    kernel : {"linear", "rbf"}
        As in `cka`.
    bandwidth : float or sequence of float
        As in `cka`; a multiple of the median distance is taken of each batch's own median.
    seed : int
        Key of the permutation.

    Returns
    -------
    ndarray
        float64 [M, M], symmetric, with ones on the diagonal.

    Raises
    ------
    TypeError, ValueError
        A batch of fewer than 4 rows, or of another number of arrays than the first, or as in `cka`.

    Notes
    -----
    Source: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equation 3.
    Batches count by their rows, so that a short last one adds no more noise than its share.

    Examples
    --------
    >>> import numpy as np
    >>> import worldfast as wf
    >>> X = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    >>> wf.cka_minibatch([X, 2 * X], batch=100).round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    rest = iter(sequence_of(Xs, "Xs", "a sequence of arrays [n, d] or of batches"))
    first = list(islice(rest, 1))
    Xs = chain(first, rest)
    if any(isinstance(x, (tuple, list)) and all(len(getattr(y, "shape", ())) == 2 for y in x) for x in first):
        if batch is not None:
            raise ValueError(f"batch: an iterable of batches has its own, got {batch}")
        batches = _named(Xs)
    else:
        batches = _drawn(list(Xs), 256 if batch is None else batch, seed)
    hsic: Any = 0.0
    rows, scale = 0, None
    for Xs, names in batches:
        statistics = gram_statistics(Xs, kernel, bandwidth, names=names)
        if statistics.n < 4:
            raise ValueError(f"{statistics.names[0]}: expected a batch of at least 4 rows, got {statistics.n}")
        before = statistics.scale if scale is None else scale
        scale = np.minimum(before, statistics.scale)  # that of the largest values so far
        hsic = hsic * rescaled(kernel, scale / before) + statistics.n * statistics.hsic(kernel, True, scale)
        rows += statistics.n
    return normalised(hsic / rows, statistics.names)


def _named(batches: Iterable[Sequence]) -> Iterator[tuple[Sequence, list[str]]]:
    """Yield batches as they came, with names for messages; each has as many arrays as the first."""
    count = None
    for b, Xs in enumerate(batches):
        if not isinstance(Xs, (tuple, list)) or len(Xs) != (count or len(Xs)):
            what = f"{len(Xs)} arrays" if isinstance(Xs, (tuple, list)) else f"a {type(Xs).__name__}"
            raise TypeError(f"batches[{b}]: expected a tuple of {count or 'some'} arrays, got {what}")
        count = len(Xs)
        yield Xs, [f"batches[{b}][{a}]" for a in range(count)]


def _drawn(Xs: list, batch: int, seed: int) -> Iterator[tuple[list, list[str]]]:
    """Yield batches of `batch` rows or a few more, in the order of a permutation, with names for messages."""
    batch = whole("batch", batch, 4)
    if not Xs:
        raise ValueError("Xs: expected at least one representation, got none")
    Xs = sequence(Xs, "Xs")
    n, names, seed = same_length(*Xs), [X.name for X in Xs], whole("seed", seed)
    ends = np.arange(1, max(n // batch, 1) + 1) * n // max(n // batch, 1)
    together = max(1, GATHERED_BYTES // max(1, sum(X.row_bytes for X in Xs) * int(np.diff(ends, prepend=0).max())))
    order = permuted(n, seed)
    for first in range(0, len(ends), together):
        start, stops = int(ends[first - 1]) if first else 0, ends[first : first + together]
        gathered = [X.read(order[start : stops[-1]]) for X in Xs]
        for begin, end in zip([start, *stops[:-1]], stops):
            yield [X[begin - start : end - start] for X in gathered], names


def cka_standard_error(
    Xs: Sequence[ArrayLike], kernel: str = "linear", debiased: bool = False, *, bandwidth: float | Sequence[float] = 1.0
) -> np.ndarray:
    """Return the jackknife standard error over items of every entry of `cka_matrix`.

    The unit of replication is the item. Each one is left out in turn, exactly: the centring changes with it, the
    bandwidth stays that of all items. The cost is 2 M n^2 d multiply-adds in float64, about four times that of the
    matrix.

    Parameters
    ----------
    Xs : sequence of array [n, d_i]
        M representations, as in `cka_matrix`.
    kernel, debiased, bandwidth
        As in `cka`.

    Returns
    -------
    ndarray
        float64 [M, M], symmetric, with zeros on the diagonal.

    Raises
    ------
    ValueError
        Too few rows for a debiased estimate with one left out, or as in `cka`.

    Notes
    -----
    Source: Efron and Stein, "The Jackknife Estimate of Variance", Annals of Statistics 1981.

    Examples
    --------
    >>> import numpy as np
    >>> import worldfast as wf
    >>> X, Y = np.random.default_rng(0).normal(size=(2, 100, 8))
    >>> errors = wf.cka_standard_error([X, Y])
    >>> bool(0 < errors[0, 1] < 0.1)
    True
    """
    Xs = sequence(Xs, "Xs")
    statistics = gram_statistics(Xs, kernel, bandwidth)
    n, scale = statistics.n, statistics.scale
    near = (X.tensor() * s for X, s in zip(Xs, scale))
    centred = [x - x.mean(0) for x in near]
    device = centred[0].device
    gamma = None if statistics.bandwidth is None else 0.5 / (statistics.bandwidth * scale) ** 2
    whole = torch.from_numpy(statistics.cka(kernel, debiased)).to(device)  # [M, M]
    diagonal = torch.from_numpy(statistics.diagonal[kernel]).to(device)  # [M, n]
    sums = torch.from_numpy(statistics.row_sums[kernel]).to(device)  # [M, n]
    products = torch.from_numpy(statistics.products[kernel]).to(device)  # [M, M]
    if debiased:
        sums, products, diagonal = (sums - diagonal, products - diagonal @ diagonal.T, torch.zeros_like(diagonal))
    totals, row_products = sums.sum(1), sums @ sums.T  # [M], [M, M]
    first: Any = 0
    second: Any = 0  # sums of the differences from the whole, and of their squares
    for rows, K in gram_blocks(centred, kernel, gamma, statistics.level):  # K [M, B, n]
        own, left_out = diagonal[:, rows].T, sums[:, rows].T  # [B, M]
        if debiased:
            K.diagonal(rows.start, 1, 2).zero_()
        each = outer(own, own)
        shared = K.transpose(0, 1) @ K.permute(1, 2, 0)  # [B, M, M], the sum over j of K_a[i, j] K_b[i, j]
        weighted = (K @ sums.T).transpose(0, 1)  # [B, M, M], the sum over j of K_a[i, j] sums_b[j]
        crossed = weighted - outer(own, left_out)  # without j = i
        hsic = hsic_of_sums(
            n - 1,
            products - 2 * shared + each,
            row_products - outer(left_out, left_out) - crossed - crossed.mT + shared - each,
            outer(totals - 2 * left_out + own, totals - 2 * left_out + own),
            debiased,
        )  # [B, M, M]: one item left out in each
        alone = hsic.diagonal(0, 1, 2)  # [B, M]
        if not (alone > 0).all():
            raise ValueError(f"without one of the {n} rows the debiased CKA is undefined: too few for a standard error")
        difference = hsic / outer(alone, alone).sqrt() - whole
        first, second = first + difference.sum(0), second + difference.square().sum(0)
    variance = (n - 1) / n * (second - first.square() / n)
    return variance.clamp(min=0).fill_diagonal_(0).sqrt().cpu().numpy()


def outer(x: Tensor, y: Tensor) -> Tensor:
    """Return the outer product of each pair of rows: [B, M] and [B, M] -> [B, M, M]."""
    return x[:, :, None] * y[:, None, :]

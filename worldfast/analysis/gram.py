"""Gram matrices of representations, from whose sums every kind of centred kernel alignment is computed.

For representations X_a of the same n items with centred columns, K_a is X_a X_a' (linear) or
exp(-|x_i - x_j|^2 / (2 sigma_a^2)) (RBF). No n x n matrix is ever held in memory. The representations need not be in
memory either: HDF5 datasets are read in blocks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from worldfast._native import core, thread_count
from worldfast.analysis.hsic import GramStatistics, hsic_of_sums
from worldfast.arrays import Numbers, numbers, refuse, same_length, sampled, sequence
from worldfast.errors import one_of, several, typed, whole

__all__ = ["KERNELS", "gram_blocks", "gram_statistics", "kernel_names"]

KERNELS = ("linear", "rbf")
PANEL_BYTES = 128 << 20  # memory for the blocks of rows in use, laid out for the kernel
MEDIAN_ROWS = 2048  # rows at most that the median heuristic uses
HIGHEST = 4.0  # level above which nothing is taken off an RBF matrix: most of its entries are near 0 then
FLAT = 2.0**-40  # gamma d^2 below which exp(-gamma d^2) is 1 - gamma d^2, to 12 digits
LOST = 100.0  # factor on float32's rounding error in an RBF matrix, from which on the tiles are float64


def kernel_names(kernels: str | Sequence[str]) -> tuple[str, ...]:
    """Return kernels as a tuple.

    Raises
    ------
    TypeError
        It is neither a name nor a sequence of names.
    ValueError
        There is no kernel of that name.
    """
    found = (kernels,) if isinstance(kernels, str) else several("kernel", kernels, "'linear', 'rbf' or both")
    for kernel in found:
        one_of("kernel", typed("kernel", kernel, str, "'linear', 'rbf' or both"), KERNELS)
    return found


def gram_statistics(
    Xs: Sequence,
    kernels: str | Sequence[str] = ("linear",),
    bandwidth: float | Sequence[float] = 1.0,
    *,
    names: Sequence[str] | None = None,
    threads: int | None = None,
) -> GramStatistics:
    """Return the Gram statistics of M representations, for several kernels in one computation.

    Parameters
    ----------
    Xs : sequence of array [n, d_a]
        M representations with n at least 2, of any kind that `worldfast.arrays` takes: numpy, torch, cupy, jax, HDF5
        datasets; floats of any width and byte order, and integers. Tiles are computed in float32 if none has more than
        its digits, else in float64, as they are for bandwidths at which float32 would lose too many; sums over tiles
        are float64.
    kernels : str or sequence of str
        "linear", "rbf" or both.
    bandwidth : float or sequence of float
        A number is sigma of the RBF kernel as a multiple of the median distance between rows; of more than 2,048 rows,
        between 2,048 that a fixed permutation picks, which is within about 1% of that of all. M numbers are the sigma
        of each representation.
    names : sequence of str, optional
        [M], used in messages.
    threads : int, optional
        Number of threads; by default, torch's. Results do not depend on it.

    Returns
    -------
    GramStatistics

    Raises
    ------
    TypeError
        A representation is not an array of plain real numbers; see `worldfast.arrays`.
    ValueError
        A representation is not [n, d], differs from the first in n or device, holds NaN or infinity, or has equal rows.

    Examples
    --------
    >>> import numpy as np
    >>> import worldfast as wf
    >>> Xs = np.random.default_rng(0).normal(size=(3, 100, 8))
    >>> statistics = wf.gram_statistics(Xs, ("linear", "rbf"))
    >>> statistics.cka("rbf", debiased=True).shape
    (3, 3)
    """
    kernels = kernel_names(kernels)
    Xs = sequence(Xs, "Xs", names)
    if threads is not None:
        threads = whole("threads", threads, 1)
    if not Xs:
        raise ValueError("Xs: expected at least one representation, got none")
    first, n = Xs[0], same_length(*Xs)
    for X in Xs:
        if X.shape[1] == 0:
            raise ValueError(f"{X.name}: without columns all rows are equal, CKA is undefined")
        if X.device != first.device:
            raise ValueError(f"{X.name}: expected device {first.device} as {first.name}, got {X.device}")
    if n < 2:
        raise ValueError(f"{first.name}: expected at least 2 rows, got {n}")
    refuse(bandwidth, "bandwidth")
    try:
        widths = numbers(bandwidth, "bandwidth", None).array(finite=False)
    except (TypeError, ValueError):
        raise TypeError(
            f"bandwidth: expected a positive number, or one for each of {len(Xs)}, got {bandwidth!r}"
        ) from None
    if widths.shape not in ((), (len(Xs),)) or not (np.isfinite(widths) & (widths > 0)).all():
        raise ValueError(f"bandwidth: expected a positive number, or one for each of {len(Xs)}, got {widths}")
    if first.device == "cpu":
        return _on_cpu(Xs, kernels, widths, thread_count(threads))
    return _on_gpu(Xs, kernels, widths)


def _on_cpu(
    Xs: Sequence[Numbers], kernels: tuple[str, ...], bandwidth: np.ndarray, threads: int, single: bool | None = None
) -> GramStatistics:
    n, widths = len(Xs[0]), [X.shape[1] for X in Xs]
    threads = min(threads, 1 + (n * sum(widths) >> 18))  # for less work, starting a thread costs more than it saves
    single = all(X.single for X in Xs) if single is None else single
    means, scales = _centring(Xs, threads)
    squared_norms = np.empty((len(Xs), n))

    def panel(rows: slice | np.ndarray, models: slice = slice(None)) -> Any:
        kind = core.Panel32 if single else core.Panel64
        return kind([X.rows(rows) for X in Xs[models]], means[models], scales[models], threads)

    def few(models: slice) -> np.ndarray:  # the median distance and squared norm of some rows
        some = panel(sampled(n, MEDIAN_ROWS), models)
        norms = np.median(some.squared_norms, 1)
        return np.stack([core.median_distances(some, threads) if bandwidth.ndim == 0 else norms, norms])

    rbf = None
    if "rbf" in kernels:
        together = (slice(a, a + threads) for a in range(0, len(Xs), threads))
        rbf = _Widths(Xs, bandwidth, scales, *np.concatenate([few(models) for models in together], 1))
    blocks = _blocks(n, sum(widths) * (4 if single else 8))
    if kernels == ("linear",) and n * sum(widths) ** 2 < n**2 * sum(widths) + n**2 * len(Xs) ** 2 / 2:
        gram = (core.FeatureProducts32 if single else core.FeatureProducts64)(widths)
        for rows in blocks:
            squared_norms[:, rows] = gram.add([X.rows(rows) for X in Xs], means, scales, threads)
    else:
        kind = core.GramOfGrams32 if single else core.GramOfGrams64
        gram = kind(len(Xs), n, "linear" in kernels, rbf and rbf.gamma, rbf.level if rbf else [])
        for i, rows in enumerate(blocks):
            p = panel(rows)
            squared_norms[:, rows] = p.squared_norms
            gram.add(p, rows.start, p, rows.start, threads)
            for other in blocks[:i]:
                gram.add(p, rows.start, panel(other), other.start, threads)
    found = gram.rbf() if rbf else None
    if rbf and found and single and rbf.lost(squared_norms, *found) > LOST:
        return _on_cpu(Xs, kernels, bandwidth, threads, single=False)
    return _statistics(Xs, gram.linear() if "linear" in kernels else None, squared_norms, found, rbf, scales)


def _on_gpu(Xs: Sequence[Numbers], kernels: tuple[str, ...], bandwidth: np.ndarray) -> GramStatistics:
    """Compute the statistics with Triton for float16, bfloat16 and float32, else with float64 products."""
    n, widths = len(Xs[0]), [X.shape[1] for X in Xs]
    beside = torch.cat([X.tensor(finite=False) for X in Xs], 1)  # [n, sum of d]: one operation for all, not one each
    beside -= beside[0].clone()
    beside -= beside.mean(0)
    largest = torch.stack([x.abs().amax() for x in beside.split(widths, 1)])
    scales = _scales(Xs, largest.cpu().numpy())
    beside *= torch.from_numpy(np.repeat(scales, widths)).to(beside.device)
    centred = [x.contiguous() for x in beside.split(widths, 1)]
    squared_norms = torch.stack([x.square().sum(1) for x in centred]).cpu().numpy()  # [M, n]
    rbf = gamma = level = None
    if "rbf" in kernels:
        few = sampled(n, MEDIAN_ROWS)
        distances = None
        if bandwidth.ndim == 0:
            some = few if isinstance(few, slice) else torch.from_numpy(few).to(beside.device)
            distances = torch.stack([torch.pdist(x[some]).quantile(0.5) for x in centred]).cpu().numpy()
        rbf = _Widths(Xs, bandwidth, scales, distances, np.median(squared_norms[:, few], 1))
        gamma, level = (torch.from_numpy(x).to(beside.device) for x in (rbf.gamma, rbf.level))
    found = None
    if all(X.single for X in Xs) and not (rbf and rbf.lost(squared_norms) > LOST):
        from worldfast.kernels.gram import gram_statistics as kernel_statistics

        found = kernel_statistics([x.float() for x in centred], kernels, gamma, level)
        if rbf and rbf.lost(squared_norms, *(x.cpu().numpy() for x in found["rbf"])) > LOST:
            found = None
    if found is None:
        found = {kernel: _by_blocks(centred, kernel, gamma, level) for kernel in kernels}
    linear = found["linear"][0].cpu().numpy() if "linear" in found else None
    sums = tuple(x.cpu().numpy() for x in found["rbf"]) if rbf else None
    return _statistics(Xs, linear, squared_norms, sums, rbf, scales)


class _Widths:
    """Bandwidths of RBF kernels over scaled representations, such that sums over their entries keep their digits.

    Entries are exp(-gamma d^2) - exp(-level), with gamma d^2 = level at a typical distance d. A kernel wider than FLAT
    is computed at FLAT, in which it is proportional: its entries are `unit` times those.
    """

    def __init__(
        self, Xs: Sequence[Numbers], bandwidth: np.ndarray, scales: np.ndarray, distances: Any, norms: np.ndarray
    ) -> None:
        self.sigma = bandwidth * scales  # [M], in the units of scaled representations
        typical = 2 * norms
        if bandwidth.ndim == 0:
            self.sigma, typical = bandwidth * _positive(Xs, distances), distances**2
        with np.errstate(over="ignore", under="ignore"):
            gamma = np.minimum(0.5 / self.sigma / self.sigma, np.finfo(np.float64).max)
            furthest = 16.0 * np.array([X.shape[1] for X in Xs])  # no d^2 is larger: _scales
            self.gamma = np.maximum(gamma, FLAT / furthest)
            self.unit = gamma / self.gamma
            level = self.gamma * typical
            self.level = np.where(level > HIGHEST, np.inf, level)

    def lost(
        self, squared_norms: np.ndarray, products: np.ndarray | None = None, row_sums: np.ndarray | None = None
    ) -> float:
        """Return the largest factor by which the error of float32 tiles grows until it is one of HSIC.

        Exponents grow it where gamma |x|^2 is large, as among the neighbours of an outlier; sums, where centring leaves
        little of them (only if they are given).
        """
        factor = grown = np.maximum(1.0, self.gamma * squared_norms.max(1))
        if products is not None and row_sums is not None:
            n, own, itself = squared_norms.shape[1], products.diagonal(), -np.expm1(-self.level)
            for debiased in (False, True) if n >= 4 else (False,):
                size, sums = (own - n * itself**2, row_sums - itself[:, None]) if debiased else (own, row_sums)
                left = hsic_of_sums(n, size, np.square(sums).sum(1), sums.sum(1) ** 2, debiased)
                factor = np.maximum(factor, np.where(left > 0, grown * size / np.where(left > 0, left, 1), np.inf))
        return float(factor.max())


def gram_blocks(
    centred: Sequence[torch.Tensor], kernel: str, gamma: Any = None, level: Any = None, size: int = 64
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield blocks of rows of the Gram matrices of M tensors with centred columns.

    The plain reference: one matrix product per block, on the tensors' device and in their dtype.

    Parameters
    ----------
    centred : sequence of Tensor [n, d_a]
        M representations.
    kernel : {"linear", "rbf"}
        Kernel; "rbf" yields exp(-gamma_a |x_i - x_j|^2) - exp(-level_a).
    gamma, level : sequence of float, optional
        [M], needed for "rbf".
    size : int
        Rows in a block.

    Yields
    ------
    slice
        Rows of the block.
    Tensor
        [M, size, n].
    """
    norms = [x.square().sum(1) for x in centred]
    for start in range(0, len(centred[0]), size):
        rows = slice(start, start + size)
        K = torch.stack([x[rows] @ x.T for x in centred])
        if kernel == "rbf":
            for a, norm in enumerate(norms):
                exponent = ((2 * K[a] - norm - norm[rows, None]) * float(gamma[a])).clamp(max=0)
                exponent.diagonal(start).zero_()
                taken = math.isfinite(level[a])
                K[a] = torch.expm1(exponent + float(level[a])) * math.exp(-level[a]) if taken else exponent.exp()
        yield rows, K


def _by_blocks(
    centred: Sequence[torch.Tensor], kernel: str, gamma: Any, level: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    products, row_sums = 0, []
    for _, K in gram_blocks(centred, kernel, gamma, level):
        flat = K.flatten(1)
        products = products + flat @ flat.T
        row_sums.append(K.sum(2))
    return products, torch.cat(row_sums, 1)


def _statistics(
    Xs: Sequence[Numbers],
    linear: np.ndarray | None,
    squared_norms: np.ndarray,
    sums: tuple[np.ndarray, np.ndarray] | None,
    rbf: _Widths | None,
    scales: np.ndarray,
) -> GramStatistics:
    products, row_sums, diagonal = {}, {}, {}
    if linear is not None:
        products["linear"], diagonal["linear"] = linear, squared_norms
        row_sums["linear"] = np.zeros_like(squared_norms)  # the columns are centred
    if rbf is not None and sums is not None:
        unit = rbf.unit[:, None]
        products["rbf"], row_sums["rbf"] = sums[0] * unit * unit.T, sums[1] * unit
        diagonal["rbf"] = np.repeat(-np.expm1(-rbf.level)[:, None] * unit, len(Xs[0]), 1)
    bandwidth, level = (None, None) if rbf is None else (rbf.sigma / scales, rbf.level * rbf.unit)
    return GramStatistics(len(Xs[0]), tuple(X.name for X in Xs), scales, products, row_sums, diagonal, bandwidth, level)


def _positive(Xs: Sequence[Numbers], medians: np.ndarray) -> np.ndarray:
    for X, median in zip(Xs, medians, strict=True):
        if not median > 0:
            raise ValueError(
                f"{X.name}: most of its rows are equal, the median distance is 0; give a bandwidth for each"
            )
    return medians


def _blocks(n: int, row_bytes: int) -> list[slice]:
    """Return one slice of all rows, or blocks small enough that two fit in PANEL_BYTES."""
    size = n if n * row_bytes <= PANEL_BYTES else max(64, PANEL_BYTES // 2 // row_bytes // 64 * 64)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _centring(Xs: Sequence[Numbers], threads: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the column means, and for each representation the power of two that brings its values near 1."""
    n = len(Xs[0])
    first = [X.rows(slice(0, 1))[0] for X in Xs]  # with gaps, where X is transposed
    origins = [np.ascontiguousarray(x.double() if isinstance(x, torch.Tensor) else x, np.float64) for x in first]
    sums = [np.zeros(X.shape[1]) for X in Xs]
    largest = np.zeros(len(Xs))
    for rows in _blocks(n, sum(X.shape[1] for X in Xs) * 8):
        largest = np.maximum(largest, core.add_columns([X.rows(rows) for X in Xs], origins, sums, threads))
    return [origin + total / n for origin, total in zip(origins, sums, strict=True)], _scales(Xs, largest)


def _scales(Xs: Sequence[Numbers], largest: np.ndarray) -> np.ndarray:
    for X, size in zip(Xs, largest, strict=True):
        if not math.isfinite(size):
            raise ValueError(f"{X.name}: holds NaN or infinity, or values so large that their differences are infinite")
        if size == 0:
            raise ValueError(f"{X.name}: all rows are equal, CKA is undefined")
    return np.ldexp(1.0, np.minimum(1 - np.frexp(largest)[1], 1023))  # from 1 to 2, or less than 2**-1022 was

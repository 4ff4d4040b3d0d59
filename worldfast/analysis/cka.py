"""Centred kernel alignment: how alike two representations of the same cities are, up to rotation and scale.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; the debiased estimate from
Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 5, as used by Nguyen et al., ICLR 2021.
"""

import math

import numpy as np
import torch

from worldfast.errors import unknown_name

__all__ = ["cka", "cka_matrix"]

KERNELS = ("linear",)


def cka(X, Y, kernel="linear", debiased=False):
    """CKA of two representations of the same n things.

    X, Y      [n, d1], [n, d2]; numpy, torch (any device) or cupy; any float or integer dtype, computed in float64
    kernel    "linear": ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of the centred columns
    debiased  the ratio of unbiased HSIC estimates: 0 on average for independent representations, where the plain
              ratio is positive; may be negative; needs n >= 4

    Returns a float. Raises ValueError where n differs, where a representation is constant (CKA is then undefined) or
    holds NaN or infinity.
    """
    return float(_matrix([X, Y], ["X", "Y"], kernel, debiased)[0, 1])


def cka_matrix(Xs, kernel="linear", debiased=False):
    """CKA of all pairs of M representations: float64 [M, M], symmetric, ones on the diagonal.

    Xs is a sequence of [n, d_i]; arguments and errors as in `cka`.
    """
    Xs = list(Xs)
    if not Xs:
        raise ValueError("Xs: expected at least one representation, got none")
    return _matrix(Xs, [f"Xs[{i}]" for i in range(len(Xs))], kernel, debiased)


def _matrix(Xs, names, kernel, debiased):
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    Xs = [_centred(X, name) for X, name in zip(Xs, names, strict=True)]
    n = len(Xs[0])
    for X, name in zip(Xs, names, strict=True):
        if len(X) != n:
            raise ValueError(f"{name}: expected {n} rows as in {names[0]}, got {len(X)}")
    if debiased and n < 4:
        raise ValueError(f"the debiased estimate needs at least 4 rows, got {n}")
    alignment = torch.empty(len(Xs), len(Xs), dtype=torch.float64, device=Xs[0].device)
    for i, X in enumerate(Xs):
        for j, Y in enumerate(Xs[: i + 1]):
            alignment[i, j] = alignment[j, i] = _hsic(X, Y, debiased)
    alignment = alignment.cpu().numpy()
    scale = np.diagonal(alignment)
    for value, name in zip(scale, names, strict=True):
        if not value > 0:
            raise ValueError(f"{name}: its {'debiased ' if debiased else ''}self-similarity is {value:g}; CKA is undefined")
    matrix = alignment / np.sqrt(scale[:, None] * scale[None, :])
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _hsic(X, Y, debiased):
    """HSIC of centred X [n, d1] and Y [n, d2], up to a factor of n alone: ||X'Y||_F^2, or its unbiased estimate."""
    n = len(X)
    if X.shape[1] * Y.shape[1] <= n * (X.shape[1] + Y.shape[1]):
        total = (X.T @ Y).square().sum()  # feature space: [d1, d2]
    else:
        total = ((X @ X.T) * (Y @ Y.T)).sum()  # sample space: [n, n]
    if not debiased:
        return total
    # With the diagonals of K = XX' and L = YY' set to zero; the columns of K and L sum to zero before that.
    k, l = X.square().sum(1), Y.square().sum(1)  # [n]
    return total - (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k * l).sum()


def _centred(X, name):
    """X as a float64 tensor with columns of mean zero, scaled to a largest value of 1, on its own device."""
    if isinstance(X, torch.Tensor):
        X = X.detach()
    elif hasattr(X, "__cuda_array_interface__"):
        X = torch.from_dlpack(X)
    else:
        X = np.asarray(X)
        if X.dtype.kind not in "fiu":
            raise TypeError(f"{name}: expected numbers, got dtype {X.dtype}")
        X = torch.from_numpy(X.astype(np.float64))
    if X.ndim != 2:
        raise ValueError(f"{name}: expected shape [n, d], got {list(X.shape)}")
    if len(X) < 2:
        raise ValueError(f"{name}: expected at least 2 rows, got {len(X)}")
    X = X.to(torch.float64)
    if not torch.isfinite(X).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    size = float(X.abs().max()) if X.numel() else 0.0
    X = X - X.mean(0)
    largest = float(X.abs().max()) if X.numel() else 0.0
    if largest <= size * len(X) * math.ulp(1.0):
        raise ValueError(f"{name}: all rows are equal, CKA is undefined")
    return X / largest

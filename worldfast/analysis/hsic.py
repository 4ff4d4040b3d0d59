"""Statistics of Gram matrices, and the Hilbert-Schmidt independence criterion and CKA that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldfast.errors import one_of

__all__ = ["GramStatistics", "hsic_of_sums", "normalised", "rescaled"]

ROUNDING = 1e-12  # share of a sum of products, of which no digit is left when it is what remains of the sum


@dataclass(frozen=True)
class GramStatistics:
    """Statistics of the Gram matrices of M representations of n items.

    RBF matrices are stored without a constant of their own, near their mean, which centring would remove.

    Attributes
    ----------
    n : int
        Number of items.
    names : tuple of str
        [M], used in messages.
    scale : ndarray
        float64 [M], powers of two by which the representations were first multiplied.
    products : dict of str to ndarray
        By kernel, float64 [M, M]: the sum over all i, j of K_a[i, j] K_b[i, j].
    row_sums : dict of str to ndarray
        By kernel, float64 [M, n]: the sum over j of K_a[i, j].
    diagonal : dict of str to ndarray
        By kernel, float64 [M, n]: K_a[i, i].
    bandwidth : ndarray or None
        float64 [M], sigma of the RBF kernel in the units of the representations; None without an RBF kernel.
    level : ndarray or None
        float64 [M]: exp(-level) is the constant that RBF matrices are stored without; None likewise.
    """

    n: int
    names: tuple[str, ...]
    scale: np.ndarray
    products: dict[str, np.ndarray]
    row_sums: dict[str, np.ndarray]
    diagonal: dict[str, np.ndarray]
    bandwidth: np.ndarray | None
    level: np.ndarray | None

    def cka(self, kernel: str = "linear", debiased: bool = False) -> np.ndarray:
        """Return the centred kernel alignment of all pairs.

        Parameters
        ----------
        kernel : {"linear", "rbf"}
            One of the kernels that were computed.
        debiased : bool
            Use unbiased HSIC estimates; needs n >= 4.

        Returns
        -------
        ndarray
            float64 [M, M], symmetric, with ones on the diagonal.

        Raises
        ------
        ValueError
            A kernel that was not computed, or a representation whose own HSIC is not positive, as the debiased one of
            noise may be.
        """
        return normalised(self._hsic(kernel, debiased), self.names)

    def hsic(self, kernel: str = "linear", debiased: bool = False, scale: np.ndarray | None = None) -> np.ndarray:
        """Return the Hilbert-Schmidt independence criterion of all pairs.

        tr(K H L H) / (n - 1)^2 (Gretton et al., ALT 2005), or its unbiased estimate (Song et al., JMLR 2012, equation
        5).

        Parameters
        ----------
        kernel : {"linear", "rbf"}
            One of the kernels that were computed.
        debiased : bool
            Use the unbiased estimate; needs n >= 4.
        scale : ndarray, optional
            float64 [M], powers of two: HSIC of the representations times these. By default, of themselves, which may
            be beyond float64 where their values are far from 1.

        Returns
        -------
        ndarray
            float64 [M, M].
        """
        count = self.n * (self.n - 3) if debiased else (self.n - 1) ** 2
        factor = rescaled(kernel, (1.0 if scale is None else scale) / self.scale)
        return self._hsic(kernel, debiased) / count * factor

    def _hsic(self, kernel: str, debiased: bool) -> np.ndarray:
        one_of("kernel", kernel, self.products)
        products, rows, diagonal = self.products[kernel], self.row_sums[kernel], self.diagonal[kernel]
        if debiased:
            if self.n < 4:
                raise ValueError(f"the debiased estimate needs at least 4 rows, got {self.n}")
            products, rows = products - diagonal @ diagonal.T, rows - diagonal
        totals = rows.sum(1)
        found = hsic_of_sums(self.n, products, rows @ rows.T, totals[:, None] * totals, debiased)
        nothing = np.diagonal(found) <= ROUNDING * np.diagonal(self.products[kernel])  # all of it is rounding
        found[nothing, nothing] = 0.0
        return found


def hsic_of_sums(n: int, products: Any, row_products: Any, totals: Any, debiased: bool) -> Any:
    """Return HSIC, up to a factor that depends on n, from sums over uncentred Gram matrices K and L.

    Parameters
    ----------
    n : int
        Number of items.
    products : array
        Sums over all i, j of K[i, j] L[i, j].
    row_products : array
        Sums over i of the product of the row sums of K and L.
    totals : array
        Products of the totals of K and L.
    debiased : bool
        Use the unbiased estimate, for which K and L must have zeros on the diagonal.

    Returns
    -------
    array
        Same shape as the sums.
    """
    if debiased:
        return products - 2 / (n - 2) * row_products + totals / ((n - 1) * (n - 2))
    return products - 2 / n * row_products + totals / n**2


def rescaled(kernel: str, factor: np.ndarray) -> np.ndarray:
    """Return the factors on HSIC, [M, M], of factors on representations, [M]."""
    squares = factor**2 if kernel == "linear" else np.ones_like(factor)
    return squares[:, None] * squares


def normalised(hsic: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return CKA from HSIC, float64 [M, M].

    Raises
    ------
    ValueError
        An entry on the diagonal is not positive; the message has its name.
    """
    own = np.diagonal(hsic)
    for name, value in zip(names, own, strict=True):
        if not value > 0:
            raise ValueError(f"{name}: its alignment with itself is {value:g}; CKA is undefined")
    matrix = hsic / (np.sqrt(own)[:, None] * np.sqrt(own))
    np.fill_diagonal(matrix, 1.0)
    return matrix

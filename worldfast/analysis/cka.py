"""Centred kernel alignment: how alike two representations of the same cities are, up to rotation and scale.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; the debiased estimate
from Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 5, as used by Nguyen et al., ICLR
2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from worldfast.analysis.gram import as_tensor, gram_blocks, gram_statistics, hsic_of_sums, normalised
from worldfast.analysis.pca import leading_components
from worldfast.analysis.tables import labelled, members, pair_table

if TYPE_CHECKING:
    import pandas

__all__ = ["cka", "cka_matrix", "cka_minibatch", "cka_over_training", "cka_standard_error", "cka_table"]


def cka(X, Y, kernel="linear", debiased=False, *, bandwidth=1.0, components=None):
    """CKA of two representations of the same n things.

    X, Y        [n, d1], [n, d2]; numpy, torch (any device), cupy or an HDF5 dataset; any float or integer dtype
    kernel      "linear": ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of the centred columns
                "rbf": the same ratio for Gram matrices exp(-|x_i - x_j|^2 / (2 sigma^2)), doubly centred
    debiased    the ratio of unbiased HSIC estimates: 0 on average for independent representations, where the plain
                ratio is positive; may be negative; needs n >= 4
    bandwidth   sigma as a multiple of the median distance, or one sigma for each, see `gram_statistics`
    components  k: of the first k principal components of each

    Returns a float. Its relative error is below 1e-10 for float64 and integers, 1e-5 for float32, bfloat16 and float16.
    Raises ValueError where n differs, where a representation is constant (CKA is then undefined) or holds NaN or
    infinity.
    """
    return float(_matrix([X, Y], ["X", "Y"], kernel, debiased, bandwidth, components)[0, 1])


def cka_matrix(Xs, kernel="linear", debiased=False, *, bandwidth=1.0, components=None):
    """CKA of all pairs of M representations: float64 [M, M], symmetric, ones on the diagonal.

    Xs is a sequence of [n, d_i]; arguments and errors as in `cka`. The linear one and the RBF one together, or the
    plain and the debiased, come from one `gram_statistics(Xs, ("linear", "rbf"))` by its method `cka`.
    """
    return _matrix(Xs, None, kernel, debiased, bandwidth, components)


def _matrix(Xs, names, kernel, debiased, bandwidth, components):
    if components is not None:
        Xs = [leading_components(X, components) for X in Xs]
    return gram_statistics(Xs, kernel, bandwidth, names=names).cka(kernel, debiased)


def cka_minibatch(Xs, batch=256, kernel="linear", *, bandwidth=1.0):
    """Debiased CKA of all pairs from unbiased HSIC estimates of minibatches, averaged: float64 [M, M].

    For streams: each row is read once, n need not fit in memory, and the work grows with n, not n^2. `batch`, at least
    4, is the least number of rows in a batch; batch b of B is rows b, b + B, b + 2B ... Xs and the rest as in
    `cka_matrix`; with a `bandwidth` in medians each batch has its own.

    Source: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equation 3.
    """
    Xs = list(Xs)
    if batch < 4:
        raise ValueError(f"batch: expected at least 4 rows, got {batch}")
    batches = max(min(map(len, Xs), default=0) // batch, 1)
    hsic = 0
    for b in range(batches):
        statistics = gram_statistics([X[b::batches] for X in Xs], kernel, bandwidth)
        hsic = hsic + statistics.hsic(kernel, debiased=True)
    return normalised(hsic, statistics.names)


def cka_table(
    Xs: Mapping[str, object],
    kernels: str | Sequence[str] = "linear",
    debiased: bool | Sequence[bool] = False,
    components: int | Sequence[int] = 0,
    *,
    bandwidth: float = 1.0,
    layer: int | None = None,
    step_share: float | None = None,
) -> pandas.DataFrame:
    """CKA of all pairs of representations, of several kinds at once, as a table.

    Xs          name -> [n, d], as in `cka`
    kernels     "linear", "rbf" or both; plain and `debiased` and all kernels come from one pass over the data
    components  numbers of first principal components, each a pass; 0: the whole representation
    bandwidth   as in `cka`
    layer, step_share   for columns of those names

    Returns the columns layer, step_share, kernel, debiased, components, run, other, value: each unordered pair once,
    the diagonal left out. A debiased value is NaN where a representation's own estimate is not positive, as of rows
    that are all as far from each other. Errors as in `cka`; one names the representation.
    """
    import pandas as pd

    names = members(Xs)
    kernels = (kernels,) if isinstance(kernels, str) else tuple(kernels)
    debiased = (debiased,) if isinstance(debiased, bool) else tuple(debiased)
    components = (components,) if isinstance(components, int) else tuple(components)
    for name, given in (("kernels", kernels), ("debiased", debiased), ("components", components)):
        if not given:
            raise ValueError(f"{name}: expected at least one, got none")
    parts = []
    for k in components:
        chosen = [leading_components(X, k) if k else X for X in Xs.values()]
        statistics = gram_statistics(chosen, kernels, bandwidth, names=names)
        for kernel in kernels:
            for unbiased in debiased:
                hsic = statistics.hsic(kernel, unbiased)
                own = np.where(np.diagonal(hsic) > 0, np.diagonal(hsic), np.nan)
                table = pair_table(names, hsic / np.sqrt(own[:, None] * own))
                parts.append(labelled(table, kernel=kernel, debiased=unbiased, components=k))
    return labelled(pd.concat(parts, ignore_index=True), layer=layer, step_share=step_share)


def cka_over_training(
    activations: Mapping[str, Any],
    layer: int,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    kernels: str | Sequence[str] = "linear",
    debiased: bool | Sequence[bool] = False,
    components: int | Sequence[int] = 0,
    *,
    bandwidth: float = 1.0,
    use=None,
) -> pandas.DataFrame:
    """`cka_table` of runs at the same shares of their training, from 0.0, the first checkpoint, to 1.0, the last.

    activations  name -> Activations, or anything with .steps and [step, layer] -> [n, d]; the same cities for all
    shares       of each run's own last step; its nearest checkpoint stands for it, so that runs of unlike length
                 compare at the same stage and never at a fixed step
    use          bool [n] or indices, the cities to compare on; None: all

    Returns the columns of `cka_table`. ValueError as there, or for a share outside 0 to 1 or a run without steps.
    """
    import pandas as pd

    shares = list(shares)
    for share in shares:
        if not 0 <= share <= 1:
            raise ValueError(f"shares: expected numbers from 0 to 1, got {share}")
    if not shares:
        raise ValueError("shares: expected at least one, got none")
    for name, run in activations.items():
        if len(run.steps) == 0:
            raise ValueError(f"{name}: holds no activations")

    def at(run, share):
        steps = np.asarray(run.steps)
        first, last = int(steps[0]), int(steps[-1])
        step = int(steps[np.abs(steps - (first + share * (last - first))).argmin()])
        X = run[step, layer]
        return X if use is None else X[use]

    return pd.concat(
        [
            cka_table(
                {name: at(run, share) for name, run in activations.items()},
                kernels,
                debiased,
                components,
                bandwidth=bandwidth,
                layer=layer,
                step_share=float(share),
            )
            for share in shares
        ],
        ignore_index=True,
    )


def cka_standard_error(Xs, kernel="linear", debiased=False, *, bandwidth=1.0):
    """The standard error of every entry of `cka_matrix` over the cities, by the jackknife: float64 [M, M].

    Xs and the rest as in `cka_matrix`. The unit of replication is the city: each is left out in turn, exactly, with
    the centring that this changes and the bandwidth of all. Costs 2 M n^2 d multiply-adds in float64, about four times the matrix itself.

    Source: Efron and Stein, "The Jackknife Estimate of Variance", Annals of Statistics 1981.
    """
    statistics = gram_statistics(Xs, kernel, bandwidth)
    n, scale = statistics.n, statistics.scale
    centred = [(X - X.mean(0)) * s for X, s in zip(map(as_tensor, Xs), scale)]
    device = centred[0].device
    gamma = None if statistics.bandwidth is None else 0.5 / (statistics.bandwidth * scale) ** 2
    whole = torch.from_numpy(statistics.cka(kernel, debiased)).to(device)  # [M, M]
    diagonal = torch.from_numpy(statistics.diagonal[kernel]).to(device)  # [M, n]
    sums = torch.from_numpy(statistics.row_sums[kernel]).to(device)  # [M, n]
    products = torch.from_numpy(statistics.products[kernel]).to(device)  # [M, M]
    if debiased:
        sums, products, diagonal = (sums - diagonal, products - diagonal @ diagonal.T, torch.zeros_like(diagonal))
    totals, row_products = sums.sum(1), sums @ sums.T  # [M], [M, M]
    first = second = 0  # of the differences from the whole
    for rows, K in gram_blocks(centred, kernel, gamma):  # K [M, B, n]
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
        )  # [B, M, M], with one city left out
        alone = hsic.diagonal(0, 1, 2)  # [B, M]
        if not (alone > 0).all():
            raise ValueError(f"without one of the {n} rows the debiased CKA is undefined: too few for a standard error")
        difference = hsic / outer(alone, alone).sqrt() - whole
        first, second = first + difference.sum(0), second + difference.square().sum(0)
    variance = (n - 1) / n * (second - first.square() / n)
    return variance.clamp(min=0).fill_diagonal_(0).sqrt().cpu().numpy()


def outer(x, y):
    """[B, M] and [B, M] -> [B, M, M]."""
    return x[:, :, None] * y[:, None, :]

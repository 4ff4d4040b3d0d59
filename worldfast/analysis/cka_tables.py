"""Tables of the CKA of pairs of representations, for several variants at once and over training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from worldfast import frames as pd
from worldfast.analysis.gram import gram_statistics, kernel_names
from worldfast.analysis.pca import leading_components
from worldfast.analysis.tables import labelled, members, pair_table
from worldfast.arrays import ArrayLike, ByStep, numbers, selection
from worldfast.dataset import require_same_entities
from worldfast.errors import typed, whole

__all__ = ["cka_over_training", "cka_table"]


def cka_table(
    Xs: Mapping[str, object],
    kernels: str | Sequence[str] = "linear",
    debiased: bool | Sequence[bool] = False,
    components: int | Sequence[int] = 0,
    *,
    bandwidth: float = 1.0,
    layer: int | None = None,
    step_share: float | None = None,
) -> pd.DataFrame:
    """Return the CKA of all pairs of representations, for several variants at once, as a table.

    Parameters
    ----------
    Xs : mapping of str to array [n, d]
        Representations by name; kinds of array as in `cka`.
    kernels : str or sequence of str
        "linear", "rbf" or both. All kernels, plain and debiased, come from one pass over the data.
    debiased : bool or sequence of bool
        False for the plain ratio, True for the debiased one, or both.
    components : int or sequence of int
        Numbers of leading principal components to compare, one pass each; 0 for the whole representation.
    bandwidth : float or sequence of float
        As in `cka`.
    layer : int, optional
        Value of a column of this name.
    step_share : float, optional
        Value of a column of this name.

    Returns
    -------
    DataFrame
        Columns layer, step_share, kernel, debiased, components, run, other, value; each unordered pair once, without
        the diagonal. A debiased value is NaN if a representation's own estimate is not positive, as when all of its
        rows are equally far apart.

    Raises
    ------
    TypeError, ValueError
        As in `cka`; the message names the representation.
    """
    names = members(Xs)
    kernels = kernel_names(kernels)
    debiased = (debiased,) if isinstance(debiased, bool) else tuple(debiased)
    ks = components if isinstance(components, Iterable) and not isinstance(components, str) else (components,)
    components = tuple(whole("components", k, 0) for k in ks)
    for name, given in (("kernels", kernels), ("debiased", debiased), ("components", components)):
        if not given:
            raise ValueError(f"{name}: expected at least one, got none")
    parts = []
    for k in components:
        chosen = [leading_components(numbers(X, name), k) if k else X for name, X in Xs.items()]
        statistics = gram_statistics(chosen, kernels, bandwidth, names=names)
        for kernel in kernels:
            for unbiased in debiased:
                hsic = statistics.hsic(kernel, unbiased, statistics.scale)
                own = np.where(np.diagonal(hsic) > 0, np.diagonal(hsic), np.nan)
                cka = hsic / np.sqrt(own[:, None] * own)
                table = pair_table(names, cka.item)
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
    use: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return the `cka_table` of runs at the same shares of their training, from 0.0 (first checkpoint) to 1.0 (last).

    Parameters
    ----------
    activations : mapping of str to Activations
        Runs by name; or any objects with `steps` and [step, layer] -> array [n, d]. Those that state their `entities`,
        as Activations do, have to be read on the same ones in the same order.
    layer : int
        Layer to compare.
    shares : sequence of float
        Shares of each run's own training, from 0 to 1. The nearest checkpoint is used, so runs of different lengths are
        compared at the same stage rather than at the same step.
    kernels, debiased, components, bandwidth
        As in `cka_table`.
    use : array, optional
        bool [n] or int indices of the items to compare on; by default, all.

    Returns
    -------
    DataFrame
        Columns as in `cka_table`.

    Raises
    ------
    ValueError
        A share outside 0 to 1, no share, a run without steps, or as in `cka_table`.
    MismatchError
        Two runs were read on different entities, or on the same in another order: nothing is aligned.
    """
    shares, layer = list(shares), whole("layer", layer, 0)
    for share in shares:
        if not 0 <= share <= 1:
            raise ValueError(f"shares: expected numbers from 0 to 1, got {share}")
    if not shares:
        raise ValueError("shares: expected at least one, got none")
    for name, run in typed("activations", activations, Mapping, "a mapping of name to Activations").items():
        if len(run.steps) == 0:
            raise ValueError(f"{name}: holds no activations")

    require_same_entities({name: run.entities for name, run in activations.items() if hasattr(run, "entities")})

    def at(run: ByStep, share: float) -> Any:
        steps = np.asarray(run.steps)
        first, last = int(steps[0]), int(steps[-1])
        step = int(steps[np.abs(steps - (first + share * (last - first))).argmin()])
        X = run[step, layer]
        if use is None:
            return X
        X = numbers(X, "activations")
        return X.read(selection(use, "use", len(X)))

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

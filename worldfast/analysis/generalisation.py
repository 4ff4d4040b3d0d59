"""Probe generalisation: tests a map fitted on some items on others, and on items learned later.

The probe is fitted on items of the original world only. The place that it gives to new ones shows whether the model
added them to its existing map. Source: arXiv 2602.00533.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast import frames as pd
from worldfast.analysis.probe import fit_map, located
from worldfast.analysis.scale import lengths
from worldfast.analysis.tables import labelled
from worldfast.arrays import ArrayLike, labels, mask
from worldfast.errors import typed

__all__ = ["FITTED", "HELD_OUT", "probe_generalisation"]

FITTED, HELD_OUT = "fitted", "held out"


def probe_generalisation(
    X: ArrayLike,
    xy: ArrayLike,
    fit_on: ArrayLike,
    groups: Mapping[str, np.ndarray],
    *,
    items: ArrayLike | None = None,
    ridge: float | None = None,
    run: str | None = None,
    layer: int | None = None,
) -> pd.DataFrame:
    """Fit a probe of x and y on some items, and return the places it gives to these and to others.

    Parameters
    ----------
    X : array [n, d]
        Representations.
    xy : array [n, 2]
        Coordinates.
    fit_on : array of bool [n]
        Items to fit on; they form the group "fitted".
    groups : mapping of str to array of bool [n]
        Items to test on, by group; none may be among those fitted on.
    items : array of int [n], optional
        Index of each row in the world; by default, 0 to n - 1.
    ridge : float, optional
        Penalty of a ridge regression on standardised features; by default, ordinary least squares.
    run, layer : optional
        Values of columns of these names.

    Returns
    -------
    DataFrame
        A row per item and group: run, layer, item, group, x, y, predicted_x, predicted_y, and error, the distance
        between the two places in the unit of xy.

    Raises
    ------
    ValueError
        Shapes disagree; a group is empty, is called "fitted" or overlaps the fit; X is not finite; or the fit has no
        more items than features.

    Notes
    -----
    Source: the probe generalisation of arXiv 2602.00533.
    """
    X, xy = located(X, xy)
    if FITTED in typed("groups", groups, Mapping, "a mapping of name to array of bool [n]"):
        raise ValueError(f"groups: {FITTED!r} is the name of the items of fit_on, choose another")
    masks = {FITTED: mask(fit_on, "fit_on", len(X))}
    for name, group in groups.items():
        masks[name] = mask(group, f"groups[{name!r}]", len(X))
        if shared := int((masks[name] & masks[FITTED]).sum()):
            raise ValueError(f"groups[{name!r}]: {shared} of its items are among those of the fit")
    for name, group in masks.items():
        if not group.any():
            raise ValueError(f"{'fit_on' if name == FITTED else f'groups[{name!r}]'}: selects no item")
    items = np.arange(len(X)) if items is None else labels(items, "items", len(X))
    predicted = fit_map(X[masks[FITTED]], xy[masks[FITTED]], ridge).predict(X)
    error = lengths(predicted - xy)
    parts = [
        pd.DataFrame(
            {
                "item": items[group],
                "group": name,
                "x": xy[group, 0],
                "y": xy[group, 1],
                "predicted_x": predicted[group, 0],
                "predicted_y": predicted[group, 1],
                "error": error[group],
            }
        )
        for name, group in masks.items()
    ]
    return labelled(pd.concat(parts, ignore_index=True), run=run, layer=layer)

"""Probe generalisation: tests a map fitted on some cities on others, and on cities learned later.

The probe is fitted on cities of the original world only. The place it gives to Atlantis shows whether the model added
the new cities to its existing map. Source: arXiv 2602.00533, which fits ordinary least squares on 4,000 cities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from worldfast.analysis.probe import fit_map, located
from worldfast.analysis.tables import labelled
from worldfast.arrays import labels, mask
from worldfast.errors import whole

if TYPE_CHECKING:
    import pandas

__all__ = ["FITTED", "HELD_OUT", "choose_cities", "probe_generalisation"]

FITTED, HELD_OUT = "fitted", "held out"
PUBLISHED = (5075, 4000)  # cities of the published world, and how many of them the published probe is fitted on


def choose_cities(
    new, fit: int | None = None, held_out: int = 100, seed: int = 0, new_name: str = "Atlantis", use=None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Choose the cities to fit a probe on, and the groups to test it on.

    Parameters
    ----------
    new : array of bool [n]
        Cities learned later; may be none.
    fit : int, optional
        Number of the other cities to fit on; by default, 4,000 of 5,075 and the same share of any other number.
    held_out : int
        Number of the remaining cities to test on; all of them if there are fewer.
    seed : int
        Seed of the random choice.
    new_name : str
        Name of the group of new cities.
    use : array of bool [n], optional
        Cities to choose from, such as those whose id is at least 1000; by default, all.

    Returns
    -------
    fit_on : ndarray
        bool [n].
    groups : dict of str to ndarray
        bool [n] each: "held out", and "Atlantis" (or `new_name`) if there are new cities.

    Raises
    ------
    ValueError
        A mask of the wrong shape or dtype, or too few cities.
    """
    new = mask(new, "new")
    use = np.ones(len(new), dtype=bool) if use is None else mask(use, "use", len(new))
    old = np.flatnonzero(use & ~new)
    if fit is None:
        fit = round(len(old) * PUBLISHED[1] / PUBLISHED[0])
    if not 1 <= whole("fit", fit, 0) < len(old):
        raise ValueError(f"fit: expected 1 to {len(old) - 1} of the {len(old)} cities that are not new, got {fit}")
    whole("held_out", held_out, 1)
    order = np.random.default_rng(seed).permutation(old)
    fit_on, others = np.zeros(len(new), dtype=bool), np.zeros(len(new), dtype=bool)
    fit_on[order[:fit]] = True
    others[order[fit : fit + held_out]] = True
    groups = {HELD_OUT: others}
    if (use & new).any():
        groups[new_name] = use & new
    return fit_on, groups


def probe_generalisation(
    X,
    xy,
    fit_on,
    groups: Mapping[str, np.ndarray],
    *,
    cities=None,
    ridge: float | None = None,
    run: str | None = None,
    layer: int | None = None,
) -> pandas.DataFrame:
    """Fit a probe of x and y on some cities, and return the places it gives to these and to others.

    Parameters
    ----------
    X : array [n, d]
        Representations.
    xy : array [n, 2]
        Coordinates.
    fit_on : array of bool [n]
        Cities to fit on; they form the group "fitted".
    groups : mapping of str to array of bool [n]
        Cities to test on, by group; none may be among those fitted on.
    cities : array of int [n], optional
        Index of each row in the world; by default, 0 to n - 1.
    ridge : float, optional
        Penalty of a ridge regression on standardised features; by default, ordinary least squares.
    run, layer : optional
        Values of columns of these names.

    Returns
    -------
    DataFrame
        A row per city and group: run, layer, city, group, x, y, predicted_x, predicted_y, and error, the distance
        between the two places in the unit of xy.

    Raises
    ------
    ValueError
        Shapes disagree; a group is empty, is called "fitted" or overlaps the fit; X is not finite; or the fit has no
        more cities than features.

    Notes
    -----
    Source: the probe generalisation of arXiv 2602.00533.
    """
    import pandas as pd

    X, xy = located(X, xy)
    if FITTED in groups:
        raise ValueError(f"groups: {FITTED!r} is the name of the cities of fit_on, choose another")
    masks = {FITTED: mask(fit_on, "fit_on", len(X))}
    for name, group in groups.items():
        masks[name] = mask(group, f"groups[{name!r}]", len(X))
        if shared := int((masks[name] & masks[FITTED]).sum()):
            raise ValueError(f"groups[{name!r}]: {shared} of its cities are among those of the fit")
    for name, group in masks.items():
        if not group.any():
            raise ValueError(f"{'fit_on' if name == FITTED else f'groups[{name!r}]'}: selects no city")
    cities = np.arange(len(X)) if cities is None else labels(cities, "cities", len(X))
    predicted = fit_map(X[masks[FITTED]], xy[masks[FITTED]], ridge).predict(X)
    error = np.linalg.norm(predicted - xy, axis=1)
    parts = [
        pd.DataFrame(
            {
                "city": cities[group],
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

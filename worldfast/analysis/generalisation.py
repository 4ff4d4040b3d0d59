"""Probe generalisation: does a map that was fitted on some cities hold for others, and for those taught later?

A probe is fitted on cities of the world alone. Where it places Atlantis says whether the model put the new cities into
the map that it had. Source: arXiv 2602.00533, which fits ordinary least squares on 4,000 cities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from worldfast.analysis.probe import fit_map
from worldfast.analysis.tables import labelled

if TYPE_CHECKING:
    import pandas

__all__ = ["FITTED", "HELD_OUT", "choose_cities", "probe_generalisation"]

FITTED, HELD_OUT = "fitted", "held out"
PUBLISHED = (5075, 4000)  # cities of the published world, and those of them that the probe is fitted on


def choose_cities(
    new, fit: int | None = None, held_out: int = 100, seed: int = 0, new_name: str = "Atlantis", use=None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The cities a probe is fitted on, and the groups that it is tried on.

    new       bool [n], the cities taught later; may be none
    fit       how many of the others to fit on; None: 4,000 of 5,075, and as large a share of any other number
    held_out  of the rest, how many to try it on, or all of them where they are fewer
    seed      of the random choice
    new_name  the name of the group of new cities
    use       bool [n], the cities to choose from, such as those whose id is at least 1000; None: all

    Returns fit_on, bool [n], and {"held out": bool [n], "Atlantis": bool [n]}. ValueError where there are too few.
    """
    new = np.asarray(new)
    use = np.ones(len(new), dtype=bool) if use is None else np.asarray(use)
    for name, mask in (("new", new), ("use", use)):
        if mask.dtype != bool or mask.shape != new.shape or mask.ndim != 1:
            raise ValueError(f"{name}: expected a bool mask [n], got {mask.dtype} {list(mask.shape)}")
    old = np.flatnonzero(use & ~new)
    if fit is None:
        fit = round(len(old) * PUBLISHED[1] / PUBLISHED[0])
    if not 1 <= fit < len(old):
        raise ValueError(f"fit: expected 1 to {len(old) - 1} of the {len(old)} cities that are not new, got {fit}")
    if held_out < 1:
        raise ValueError(f"held_out: expected at least 1 city, got {held_out}")
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
    """Where a probe of x and y, fitted on some cities, places these and others.

    X, xy       [n, d], [n, 2]
    fit_on      bool [n]; they are the group "fitted"
    groups      name -> bool [n], the cities to try it on; none of them may be fitted on
    cities      int [n], the index of every row into the world; None: 0 to n - 1
    ridge       penalty of a ridge regression on standardised features; None: ordinary least squares
    run, layer  for columns of those names

    Returns a row for every city and group: run, layer, city, group, x, y, predicted_x, predicted_y, error, the distance
    between the two places in the unit of xy. Raises ValueError where shapes disagree, a group is empty, unnamed as
    "fitted" or overlaps the fit, X is not finite, or the fit has no more cities than features.
    Source: the probe generalisation of arXiv 2602.00533.
    """
    import pandas as pd

    X, xy = np.asarray(X, dtype=np.float64), np.asarray(xy, dtype=np.float64)
    if X.ndim != 2 or xy.shape != (len(X), 2):
        raise ValueError(f"expected X [n, d] and xy [n, 2], got {list(X.shape)} and {list(xy.shape)}")
    if FITTED in groups:
        raise ValueError(f"groups: {FITTED!r} is the name of the cities of fit_on, choose another")
    masks = {FITTED: np.asarray(fit_on)} | {name: np.asarray(mask) for name, mask in groups.items()}
    for name, mask in masks.items():
        what = "fit_on" if name == FITTED else f"groups[{name!r}]"
        if mask.dtype != bool or mask.shape != (len(X),):
            raise ValueError(f"{what}: expected a bool mask [{len(X)}], got {mask.dtype} {list(mask.shape)}")
        if not mask.any():
            raise ValueError(f"{what}: selects no city")
        if name != FITTED and (mask & masks[FITTED]).any():
            raise ValueError(f"{what}: {int((mask & masks[FITTED]).sum())} of its cities are among those of the fit")
    if not np.isfinite(X).all():
        raise ValueError("X: holds NaN or infinity")
    cities = np.arange(len(X)) if cities is None else np.asarray(cities)
    if cities.shape != (len(X),):
        raise ValueError(f"cities: expected [{len(X)}], got {list(cities.shape)}")
    predicted = fit_map(X[masks[FITTED]], xy[masks[FITTED]], ridge).predict(X)
    error = np.linalg.norm(predicted - xy, axis=1)
    parts = [
        pd.DataFrame(
            {
                "city": cities[mask],
                "group": name,
                "x": xy[mask, 0],
                "y": xy[mask, 1],
                "predicted_x": predicted[mask, 0],
                "predicted_y": predicted[mask, 1],
                "error": error[mask],
            }
        )
        for name, mask in masks.items()
    ]
    return labelled(pd.concat(parts, ignore_index=True), run=run, layer=layer)

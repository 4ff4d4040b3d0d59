"""Groups of cities that fine-tunes are taught apart from the rest of the world, read from the rows of runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from worldfast.analysis import FITTED, HELD_OUT
from worldfast.arrays import mask
from worldfast.errors import whole
from worldfast.run import Run
from worldfast.worlds.cities.world import ATLANTIS, NEW, OLD

STANDARD = "standard"  # in tables, rows of old cities alone
PUBLISHED = (5075, 4000)  # cities of the published world, and how many of them the published probe is fitted on


class Groups(NamedTuple):
    """Groups of cities that fine-tunes of a study are taught, and the cities that were there before.

    Attributes
    ----------
    taught : dict of str to str
        Names of groups to their expressions for World.select, in the order of the runs. Where no fine-tune is taught
        any, what all pretrained runs leave out.
    old : str
        Expression for the cities that pretraining may hold and that no fine-tune is taught.
    """

    taught: dict[str, str]
    old: str

    def of(self, run: Run) -> list[str]:
        """Names of the groups that a run knows: what a fine-tune is taught, or a pretrained run's rows may hold."""
        return (
            list(run.data.taught) if run.start else [name for name, group in self.taught.items() if holds(run, group)]
        )


def groups_of(runs: Sequence[Run]) -> Groups:
    """Groups of a study with these runs."""
    taught: dict[str, str] = {}
    for run in runs:
        for name, group in run.data.taught.items() if run.start else ():
            taught.setdefault(name, group)
    seen = dict.fromkeys(part.among for run in runs if not run.start for part in run.data.components)
    known = [] if None in seen or not seen else [any_of(seen)]
    if known and not taught:
        taught = {name_of(outside(known[0])): outside(known[0])}
    parts = list(dict.fromkeys([*known, *map(outside, taught.values())]))
    return Groups(taught, _joined("and", parts) if parts else "index >= 0")


def name_of(group: str) -> str:
    """Return the name of a group: "Arm C" for region == 'Arm C', otherwise its expression."""
    region = re.fullmatch(r"""\s*region == (['"])((?:(?!\1).)*)\1\s*""", group)
    return region[2] if region and region[2] not in ("", STANDARD, FITTED, HELD_OUT) else group


def outside(group: str) -> str:
    """Expression for all cities but those of a group."""
    for some, others in ((NEW, OLD), (OLD, NEW)):
        if group == some:
            return others
    inner = re.fullmatch(r"not \(([^()]*)\)", group)
    return inner[1] if inner else f"not ({group})"


def any_of(groups: Iterable[str]) -> str:
    """Expression for the cities of any of some groups, of which there is one at least."""
    return _joined("or", list(groups))


def choose_cities(
    new, fit: int | None = None, held_out: int = 100, seed: int = 0, new_name: str = ATLANTIS, use=None
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


def _joined(word: str, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f" {word} ".join(f"({part})" for part in parts)


def holds(run: Run, group: str) -> bool:
    """Return True if a row of the run may have a city of the group."""
    world = run.data.world.build()
    cities = world.select(group)
    return any(
        (cities if part.among is None else cities & world.select(part.among)).any() for part in run.data.components
    )

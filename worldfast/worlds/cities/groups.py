"""Groups of cities that models learn of apart from the rest of the world, read from what their rows must include."""

from __future__ import annotations

import re
from collections.abc import Sequence

from worldfast.run import Run

__all__ = ["groups_of"]


def groups_of(runs: Sequence[Run]) -> list[str]:
    """Names of the group that each run of a study was taught.

    Parameters
    ----------
    runs : sequence of Run
        All runs of the study: what one is taught, others may have had in pretraining.

    Returns
    -------
    list of str
        For a fine-tune, what its rows must include: "Atlantis" of region == 'Atlantis', otherwise the expression
        itself. For a pretrained run, groups that others are taught and that its own rows may hold. "" where there is
        none; several are joined by " and ".
    """
    every = dict.fromkeys(group for run in runs for group in _taught(run))
    found = (_taught(run) if run.start else [group for group in every if _may_hold(run, group)] for run in runs)
    return [" and ".join(map(_name, groups)) for groups in found]


def _taught(run: Run) -> list[str]:
    """What a fine-tune's rows must include, as expressions for World.select."""
    return list(dict.fromkeys(part.must_include for part in run.data.components if run.start and part.must_include))


def _may_hold(run: Run, group: str) -> bool:
    """True if a row of the run's may have a city of the group."""
    world = run.data.world.build()
    cities = world.select(group)
    return any(
        (cities if part.among is None else cities & world.select(part.among)).any() for part in run.data.components
    )


def _name(group: str) -> str:
    region = re.fullmatch(r"region == '([^']*)'", group)
    return region[1] if region else group

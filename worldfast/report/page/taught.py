"""Groups that models are taught after pretraining: which runs know them, and the two fine-tunes at the page's head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from worldfast.studies import RunResult, Scene, StudyResult

APART = 2  # times as far off as the other: below, two fine-tunes differ too little to be shown as in and out


def known_groups(result: StudyResult) -> list[tuple[str, ...]]:
    """Return the new groups that each run of the page was taught, from the column "group" of the table "runs"."""
    runs = result.tables.get("runs")
    if runs is None or "group" not in runs:
        return [result.world.new if run.kind == "ft" else () for run in result.runs]
    said = dict(zip(runs["run"], runs["group"]))
    return [tuple(name for name in result.world.new if _among(name, said.get(run.name, ""))) for run in result.runs]


def _among(name: str, said: str) -> bool:
    """Return True if a name is one of those that are joined by " and ", of which each may hold that word."""
    return f" and {name} and " in f" and {said} and "


def off(world: Scene, run: RunResult, groups: Sequence[str]) -> float:
    """Return the mean distance of groups' entities from where the probe puts them at the last checkpoint."""
    members = np.isin(world.group, list(groups))
    return float(np.mean(np.linalg.norm(run.predicted[-1][members] - world.xy[members], axis=1)))


def pair(world: Scene, runs: Sequence[RunResult], known: Sequence[Sequence[str]]) -> list[int]:
    """Return two fine-tunes: one that took its group into the map that was there, and one that left it out.

    They start from one run, and were taught the same groups by as many tasks. Of those that start from one run they are
    the nearest and the farthest; of several such pairs, as of several seeds, it is the one in the middle.

    Parameters
    ----------
    world : Scene
    runs : sequence of RunResult
    known : sequence of sequence of str
        Groups that each run was taught, as from `known_groups`.

    Returns
    -------
    list of int
        Indices of the two, the nearer first; empty if no two differ by a factor of APART, or distances have no unit.
    """
    if world.xy is None or not world.metric:
        return []
    siblings: dict[tuple, list[tuple[float, int]]] = {}
    for i, (run, groups) in enumerate(zip(runs, known, strict=True)):
        if run.kind == "ft" and groups:
            start = run.spec["start"]
            base = start.get("name") if isinstance(start, Mapping) else start
            siblings.setdefault((len(run.tasks), groups, str(base)), []).append((off(world, run, groups), i))
    ends: dict[tuple, list[tuple[float, int, int]]] = {}  # of as many tasks: how far apart, and which two
    for (size, groups, _), some in siblings.items():
        (near, one), (far, other) = min(some), max(some)
        if far >= APART * near and far > 0:
            ends.setdefault((size, groups), []).append((far / near if near else np.inf, one, other))
    middles = [sorted(some)[(len(some) - 1) // 2] for some in ends.values()]
    return list(max(middles)[1:]) if middles else []

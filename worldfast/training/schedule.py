"""Order of runs that start from each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from worldfast.run import Run


def base_of(run: Run, ids: Collection[str]) -> Run | None:
    """Return the run that a run starts from if its id is among `ids`, otherwise None."""
    base = run.start
    return base if isinstance(base, Run) and base.id in ids else None


def depth(run: Run, ids: Collection[str]) -> int:
    """Return how many of the runs with these ids must end, one after the other, before a run can begin."""
    base = base_of(run, ids)
    return 0 if base is None else 1 + depth(base, ids)


def levels(runs: Iterable[Run]) -> list[list[Run]]:
    """Return runs by their depth among each other: each level starts from runs of the levels before it.

    Examples
    --------
    >>> base = wf.Run(cities.Dataset("distance"))
    >>> tuned = cities.world_update(base, "angle")
    >>> [[run.name for run in level] for level in worldfast.training.levels([tuned, base])]
    [['pt-distance-s42'], ['ft-angle-s42']]
    """
    runs = list(runs)
    ids = {run.id for run in runs}
    found: dict[int, list[Run]] = {}
    for run in runs:
        found.setdefault(depth(run, ids), []).append(run)
    return [level for _, level in sorted(found.items())]

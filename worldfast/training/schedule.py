"""Order among runs: which of them start from which, and so which must end first."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from worldfast.run import Run

__all__ = ["base_of", "depth", "levels"]


def base_of(run: Run, ids: Collection[str]) -> Run | None:
    """Return the run that another starts from where its id is among these; None where it is not, or there is none."""
    base = run.start
    return base if isinstance(base, Run) and base.id in ids else None


def depth(run: Run, ids: Collection[str]) -> int:
    """Return how many of the runs with these ids must end before a run begins, one after the other."""
    base = base_of(run, ids)
    return 0 if base is None else 1 + depth(base, ids)


def levels(runs: Iterable[Run]) -> list[list[Run]]:
    """Return runs by their depth among each other: each level starts from the one before it."""
    runs = list(runs)
    ids = {run.id for run in runs}
    found: dict[int, list[Run]] = {}
    for run in runs:
        found.setdefault(depth(run, ids), []).append(run)
    return [level for _, level in sorted(found.items())]

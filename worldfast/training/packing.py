"""Packing of runs into ensembles for several places of training, such as the GPUs of a cluster.

A place trains one ensemble at a time. Each ensemble fits in a place's memory, and all places end at about the same
time. On a CPU results do not depend on how runs are packed; on a GPU the order of sums does.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from worldfast.errors import one_of, whole
from worldfast.run import Run
from worldfast.training.memory import plan
from worldfast.training.schedule import base_of, depth, levels

ROUNDS = 4  # most ensembles for each place and level that are tried beyond those that memory requires
HALVINGS = 40  # bisections in the search for the smallest largest ensemble


def pack(runs: Sequence[Run], places: int, limit: int, device: str = "cpu", threads: int = 1) -> list[list[Run]]:
    """Pack runs into ensembles, in the order in which these should begin.

    Runs of an ensemble have one shape and one matmul dtype, and wait for the same ensembles. Each level (runs that
    start from none of the others, runs that start from those, ...) is cut by itself: into the fewest ensembles whose
    longest is as short as possible, or a few times as many if that ends earlier. Runs that block the most work start
    first, so that a level's first ensembles hold what the next level needs. The same runs and places give the same
    ensembles.

    Parameters
    ----------
    runs : sequence of Run
        All different; a run that starts from another of them is in a later ensemble.
    places : int
        Number of equal places, each of which trains one ensemble at a time.
    limit : int
        Bytes of memory that an ensemble may take.
    device : {"cpu", "cuda"}
        Kind of place.
    threads : int
        CPU threads of a place.

    Returns
    -------
    list of list of Run

    Raises
    ------
    MemoryError
        One run alone does not fit.
    ValueError
        There is no place, the device is unknown, or a run is given twice.
    """
    places = whole("places", places, 1)
    one_of("device", device, ("cpu", "cuda"))
    by_id = {run.id: run for run in runs}
    if len(by_id) < len(runs):
        again = next(run for i, run in enumerate(runs) if run.id in {other.id for other in runs[:i]})
        raise ValueError(f"runs: {again.name!r} is there twice, with the id {again.id}")
    works = _works(runs)
    ranks = _ranks(by_id, works)
    ensembles: list[list[Run]] = []
    of_run: dict[str, int] = {}
    for level in levels(runs):
        groups: dict[tuple, list[Run]] = {}
        for run in sorted(level, key=lambda run: -ranks[run.id]):
            base = base_of(run, of_run)
            groups.setdefault((of_run[base.id] if base else None, run.family), []).append(run)
        fits = [_fit(group, limit, device, threads) for group in groups.values()]
        parts = _cut(list(groups.values()), fits, places, works)
        for part in sorted(parts, key=lambda part: -max(ranks[run.id] for run in part)):
            of_run.update({run.id: len(ensembles) for run in part})
            ensembles.append(part)
    return ensembles


def work(runs: Sequence[Run]) -> float:
    """Estimate the work of training an ensemble, in rows times parameters.

    It is the sum over members, plus once more the longest member for the fixed cost of each step (kernel launches on a
    GPU, joining threads on a CPU). The estimate only orders and balances ensembles.
    """
    return _total(list(_works(runs).values()))


def _total(works: Sequence[float]) -> float:
    return sum(works) + max(works)


def _works(runs: Sequence[Run]) -> dict[str, float]:
    """Return rows times parameters of each run, by its id."""
    return {run.id: float(run.epoch_rows * run.epochs) * run.model.parameters(run.shape) for run in runs}


def _ranks(by_id: dict[str, Run], works: dict[str, float]) -> dict[str, float]:
    """Return the work from a run's beginning to the end of the longest chain of runs that starts with it, by id."""
    ranks = dict(works)
    for run in sorted(by_id.values(), key=lambda run: -depth(run, by_id)):
        base = base_of(run, by_id)
        if base is not None:
            ranks[base.id] = max(ranks[base.id], works[base.id] + ranks[run.id])
    return ranks


def _fit(group: list[Run], limit: int, device: str, threads: int) -> int:
    """Return how many runs of a group fit in a place; raises MemoryError if none does."""
    need = plan(group, limit, device, threads).need
    return (limit - need.shared) // need.member


# ---- cutting ----


def _cut(groups: list[list[Run]], fits: list[int], places: int, works: dict[str, float]) -> list[list[Run]]:
    """Cut a level into ensembles: of several numbers of ensembles, each a multiple of the places, the one that ends
    first.
    """
    least = sum(-(-len(group) // fit) for group, fit in zip(groups, fits))
    first = -(-least // places)
    of_group = [[works[run.id] for run in group] for group in groups]
    ways = [_ends_of(of_group, fits, places * rounds) for rounds in range(first, first + ROUNDS)]
    best = min(ways, key=lambda ends: (_last(of_group, ends, places), sum(map(len, ends))))
    return [part for group, ends in zip(groups, best) for part in _between(group, ends)]


def _between(items: list, ends: list[int]) -> list[list]:
    return [items[a:b] for a, b in zip([0, *ends], ends)]


def _ends_of(works: list[list[float]], fits: list[int], count: int) -> list[list[int]]:
    """Return where the ensembles of each group end: at most `count` in all, the largest as small as possible."""
    low = 2 * max(max(each) for each in works)
    high = 2 * sum(sum(each) for each in works)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pieces = sum(len(_bounds(each, fit, middle)) for each, fit in zip(works, fits))
        low, high = (low, middle) if pieces <= count else (middle, high)
    ends = [_bounds(each, fit, high) for each, fit in zip(works, fits)]
    spare = count - sum(map(len, ends))
    for i in sorted(range(len(works)), key=lambda i: -sum(works[i]) / len(ends[i])):
        even = _even(works[i], min(len(works[i]), len(ends[i]) + spare), fits[i], high)
        if even is not None:
            spare -= len(even) - len(ends[i])
            ends[i] = even
    return ends


def _even(works: list[float], count: int, fit: int, largest: float) -> list[int] | None:
    """Return where `count` ensembles end that share the work evenly, or None if one of them is too large."""
    total, done, ends = sum(works), 0.0, []
    for i, one in enumerate(works):
        if i and done + one / 2 > total * (len(ends) + 1) / count and len(ends) < count - 1:
            ends.append(i)
        done += one
    ends.append(len(works))
    parts = _between(works, ends)
    good = len(ends) == count and all(len(part) <= fit and _total(part) <= largest for part in parts)
    return ends if good else None


def _bounds(works: list[float], fit: int, largest: float) -> list[int]:
    """Return where ensembles end that are filled in order, each with up to `fit` runs and the work `largest`."""
    ends, begin, total, longest = [], 0, 0.0, 0.0
    for i, one in enumerate(works):
        if i > begin and (i - begin == fit or total + one + max(longest, one) > largest):
            ends.append(i)
            begin, total, longest = i, 0.0, 0.0
        total, longest = total + one, max(longest, one)
    return [*ends, len(works)]


def _last(works: list[list[float]], ends: list[list[int]], places: int) -> float:
    """Return when the last place ends, if each takes the largest remaining ensemble as soon as it is free."""
    free = [0.0] * places
    parts = [part for each, stops in zip(works, ends) for part in _between(each, stops)]
    for one in sorted(map(_total, parts), reverse=True):
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)

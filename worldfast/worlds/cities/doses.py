"""Study of doses: how many rows it takes until new cities stand on the map that is there, and what keeps them off it.

A dose is the number of rows that a fine-tune has seen of each of its tasks; of tasks in unequal shares, of the one with
most. At a constant learning rate one fine-tune gives the whole curve, since its beginning is a shorter fine-tune. At a
rate that falls to 0 it is not, so each dose is a fine-tune of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from worldfast.errors import number, several, whole
from worldfast.run import Run
from worldfast.worlds.cities.components import require_noise
from worldfast.worlds.cities.groups import holds, name_of
from worldfast.worlds.cities.tasks import Task, one_or_more

__all__ = ["CONSTANT", "FALLING", "already_known", "design_of", "dose_at", "dose_runs", "grid"]

CONSTANT, FALLING = "constant", "linear"  # as Run.schedule calls them
APART = "distance"  # the task whose share and labels vary
CHECKPOINTS = 8  # of a fine-tune, after the one at dose 0: closer together where the curve is steep
DOSES = (1, 2, 4)  # epochs
SHARES = (0.1, 0.25, 0.5)
NOISE = (0.5, 0.9)
SHOWN = ("perimeter", "distance", "angle+perimeter", "distance+perimeter")


def grid(
    recipe: Any,
    bases: Sequence[Run],
    tasks: Sequence[str | Task],
    doses: Sequence[int] = DOSES,
    shares: Sequence[float] = SHARES,
    noise: Sequence[float] = NOISE,
) -> tuple[list[Run], list[str], list[str]]:
    """Return the fine-tunes of several bases, names of runs for the page, and the two that patching compares, if any.

    Parameters
    ----------
    recipe, tasks, doses, shares, noise
        As for `dose_runs`, whose errors it raises.
    bases : sequence of Run
        One for each seed.
    """
    runs = [run for base in bases for run in dose_runs(recipe, base, tasks, doses, shares, noise)]
    names = {run.name for run in runs}
    first = [name for label in SHOWN if (name := f"ft-{label}-{CONSTANT}-s{bases[0].seed}") in names]
    patched = [name for name in first if "+" in name]
    return runs, [bases[0].name, *first], patched if len(patched) == 2 else []


def dose_runs(
    recipe: Any,
    base: Run,
    tasks: Sequence[str | Task],
    doses: Sequence[int] = DOSES,
    shares: Sequence[float] = (),
    noise: Sequence[float] = (),
) -> list[Run]:
    """Return fine-tunes that teach a base the recipe's group at several doses.

    Parameters
    ----------
    recipe : Recipe
        Its rows of an epoch, group and rate.
    base : Run
        Run that they start from, which has not seen the group.
    tasks : sequence of str or Task
        Tasks by which the group is taught, alone and in pairs.
    doses : sequence of int
        Epochs of the fine-tunes at a falling rate; the largest is that of all others, and of pairs half of it.
    shares : sequence of float
        Rows of distance in a pair, as shares of the other task's: 0.01 to 0.99, each once to two digits.
    noise : sequence of float
        Label noise of distance in a pair, each once; see Component.

    Returns
    -------
    list of Run
        Names say what each is: "ft-angle-constant-s0", "ft-angle-linear2-s0" (2 epochs at a falling rate),
        "ft-distance+angle-share0.1-s0", "ft-distance+angle-noise0.5-s0".

    Raises
    ------
    ValueError
        There is no task or dose, a dose is 0, a share or noise is out of its range or given twice, or the base knows
        the group.
    """
    tasks, doses = one_or_more(tasks), several("doses", doses, "numbers of epochs")
    for dose in doses:
        if whole("doses", dose, 0) == 0:
            raise ValueError(
                "doses: expected epochs, at least 1, got 0: a dose of 0 is the base itself, which each fine-tune has "
                "as its step 0"
            )
    for what, given in (("tasks", tasks), ("doses", doses)):
        if not given:
            raise ValueError(f"{what}: expected at least one, got none")
    if holds(base, recipe.group):
        raise ValueError(
            f"group: {base.name!r} already knows {name_of(recipe.group)}: rows of its pretraining may hold it, so that "
            "no dose would teach it. Leave it out, as Recipe.pretrain does, or name another group"
        )
    shares = _each_once("shares", [_share(share) for share in several("shares", shares, "numbers")], ".2f")
    noise = _each_once("noise", [require_noise("noise", one) for one in several("noise", noise, "numbers")], "g")
    most, half = max(doses), max(1, max(doses) // 2)
    steady = {"schedule": CONSTANT, "checkpoints": CHECKPOINTS, "checkpoint_spacing": "sqrt"}
    pairs = list(combinations(tasks, 2))
    found = []

    def add(of: Sequence[str | Task], mark: str, **changes) -> Run:
        run = recipe.finetune(base, of, **changes)
        return replace(run, name=f"{run.name.rsplit('-', 1)[0]}-{mark}-s{base.seed}")

    found += [add([task], CONSTANT, epochs=most, **steady) for task in tasks]
    found += [add(pair, CONSTANT, epochs=half, keep="all", **steady) for pair in pairs]
    found += [
        add([task], f"{FALLING}{dose}", epochs=dose, checkpoints=1) for task in tasks for dose in sorted(set(doses))
    ]
    found += [add(pair, f"{FALLING}{half}", epochs=half, checkpoints=1) for pair in pairs]
    for pair in (pair for pair in pairs if APART in map(str, _names(base, pair))):
        whole_pair = add(pair, CONSTANT, epochs=half, **steady)
        found += [_changed(whole_pair, f"share{share:g}", share=share) for share in shares]
        found += [_changed(whole_pair, f"noise{one:g}", noise=one) for one in noise if one]
    return found


def _names(base: Run, tasks: Sequence[str | Task]) -> list[str]:
    return [base.data.task(task).name for task in tasks]


def _share(value: object) -> float:
    found = number("shares", value)
    if not 0 < found < 1:
        raise ValueError(f"shares: expected numbers above 0 and below 1, which a pair by itself has, got {value!r}")
    if not 0 < round(found, 2) < 1:
        raise ValueError(f"shares: expected 0.01 to 0.99, since tables round them to two digits, got {value!r}")
    return found


def _each_once(name: str, values: list[float], form: str) -> list[float]:
    """Return the values. ValueError if two are equal in the form in which tables or names of runs give them."""
    if len({f"{value:{form}}" for value in values}) < len(values):
        digits = " to two digits" if form == ".2f" else ""
        raise ValueError(f"{name}: expected each once{digits}, got {values}")
    return values


def _changed(run: Run, mark: str, share: float = 1.0, noise: float = 0.0) -> Run:
    """Return a pair with a share of distance's rows, or with noise in their answers."""
    own = 2 * len(run.data.tasks)  # the first parts of a mixture; after them come the rows that keep tasks alive
    mixture = tuple(
        replace(part, rows=max(1, round(part.rows * share)), noise=noise) if i < own and part.task == APART else part
        for i, part in enumerate(run.data.mixture)
    )
    name = run.name.replace(f"-{CONSTANT}-", f"-{mark}-")
    return replace(run, data=replace(run.data, mixture=mixture), name=name)


# ---- what a run is ----


def design_of(run: Run) -> dict:
    """Return what distinguishes a fine-tune from others of its base: tasks, schedule, share and noise.

    share is the rows of the task that has fewest over those of the one that has most, to two digits; noise the largest
    of its parts.
    """
    rows = _task_rows(run)
    return {
        "tasks": "+".join(run.data.tasks),
        "schedule": run.schedule,
        "share": round(min(rows.values()) / max(rows.values()), 2),
        "noise": max(part.noise for part in run.data.components),
    }


def dose_at(run: Run, step: int) -> int:
    """Return the rows that a fine-tune has seen at a step of its task with most rows, on average over orders."""
    return round(run.rows_at(step)[0] * max(_task_rows(run).values()) / run.epoch_rows)


def _task_rows(run: Run) -> Mapping[str, int]:
    rows: Counter = Counter()
    for part in run.data.components:
        rows[part.task] += part.rows
    return {task: rows[task] for task in run.data.tasks}


def already_known(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (run, group) of fine-tunes that were taught a group which their base's rows may hold."""
    return [
        (run.name, name)
        for run in runs
        if isinstance(run.start, Run)
        for name, group in run.data.taught.items()
        if holds(run.start, group)
    ]

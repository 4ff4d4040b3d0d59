"""Findings of a study of doses in plain sentences, each with its uncertainty, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import Mean, mean_and_error
from worldfast.display import count
from worldfast.report import Tasks, plain
from worldfast.studies import Findings, Study
from worldfast.worlds.cities.doses import APART, CONSTANT, already_known
from worldfast.worlds.cities.findings import of_failures
from worldfast.worlds.cities.patching import POSITIONS
from worldfast.worlds.cities.response import most_tasks, whole

Tables = Mapping[str, "pd.DataFrame"]
SCHEDULES = {CONSTANT: "at a constant learning rate", "linear": "at a rate that falls to 0"}
READ = 0.5  # R2 of a probe above which it reads a map
TOLD = 0.25  # largest standard error of a recovered share that is said


def findings(study: Study, tables: Tables, films: Sequence, cka: np.ndarray) -> Findings:
    """Return what a study of doses found, in sentences; errors are in degrees."""
    known = Tasks(tables["runs"].tasks)
    parts = [list(part(tables, known)) for part in (_of_levels, _over_pairs, _of_pairs)]
    said = [part[0] for part in parts if part]  # one of each first: the page shows three, and folds the others
    said += [sentence for part in parts for sentence in part[1:]]
    said += [*_of_shares(tables, known), *_of_place(tables), *_of_old(tables), *_of_pull(tables), *_of_patching(tables)]
    seeds = int(tables["response"].n.max())
    if seeds == 1:
        said.append("There is one seed of the base, so no standard error over seeds is given: nothing was repeated.")
    else:
        said.append(
            f"After \u00b1 stand standard errors over {seeds} seeds of the base, each with its own rows and weights."
        )
    said += of_failures(tables)
    for run, group in already_known(study.runs):
        said.append(f"{run} was taught {group}, which its base may have known: its dose-response says nothing.")
    return Findings(said)


def _bases(tables: Tables) -> str:
    """Say how many bases learned their tasks; "" if they were not asked."""
    bases = tables["runs"]
    bases = bases[(bases.kind == "pt") & (bases.status == "finished")]
    if not len(bases) or "evaluation" not in tables:
        return ""
    return f" Of {count(len(bases), 'base')}, {int(bases.learned.sum())} learned all tasks."


def _over_pairs(tables: Tables, known: Tasks) -> Iterator[str]:
    """Say what distance does beside other tasks, and these beside each other, on average over tasks."""
    if "beside_over_tasks" not in tables:
        return
    for (group, schedule), some in tables["beside_over_tasks"].groupby(["group", "schedule"], sort=False):
        rows = {row.beside: row for row in some.itertuples()}
        if APART in rows and len(rows) == 2:
            far, near = rows.pop(APART), *rows.values()
            yield (
                f"{SCHEDULES[schedule].capitalize()}, {APART} beside another task leaves {group} {_times(far)} as far "
                f"off as that task alone at as many rows of it, and another task in the place of {APART} "
                f"{_times(near)}: above 1 is worse (means over {count(far.n_tasks, 'task')}).{_bases(tables)}"
            )


def _of_pairs(tables: Tables, known: Tasks) -> Iterator[str]:
    """Say what distance leaves of another task's effect."""
    if "beside" not in tables:
        return
    table = whole(tables["beside"])
    for schedule, some in table.groupby("schedule", sort=False):
        ours = some[(some.beside == APART) & (some.task != APART)]
        for row in ours.sort_values("ratio", ascending=False).itertuples():
            yield (
                f"{SCHEDULES[schedule].capitalize()}, after {row.dose:,.0f} rows of each task, {known.label(row.task)} "
                f"alone leaves {row.group} {row.alone / 10:.1f} degrees off, and {known.label(row.task)} with {APART} "
                f"{row.together / 10:.1f}: {_times(row)}. Before, it was {row.start / 10:.1f} degrees off."
            )


def _times(row) -> str:
    """The ratio of two errors with its range of one standard error and its test."""
    times = f"{row.ratio:.2f} times"
    if row.n == 1:
        return times
    low, high = (np.exp(row.log_ratio + sign * row.standard_error) for sign in (-1, 1))
    sure = f"p {row.p:.2g}" if np.isfinite(row.p) else "all seeds equal"
    return f"{times} ({low:.2f} to {high:.2f} within one standard error, n = {row.n} seeds, {sure})"


def _of_levels(tables: Tables, known: Tasks) -> Iterator[str]:
    """Say where each task by itself levels off, and how many rows halve its error."""
    table = whole(tables["levels"])
    table = table[~table.tasks.str.contains("+", regex=False)]
    for (group, schedule), some in table.groupby(["group", "schedule"], sort=False):
        parts = []
        for row in some.sort_values("level").itertuples():
            half = f"halved after {row.half_dose:,.0f} rows" if row.reached else "never halved"
            if 0 < row.reached < row.n:
                half += f" in {row.reached} of {count(row.n, 'seed')}"
            parts.append(f"{known.label(row.tasks)} {_degrees(row.level, row.level_standard_error)}, {half}")
        yield (
            f"{SCHEDULES[schedule].capitalize()}, {group} levels off at so many degrees from its place (mean from half "
            f"of the rows on; more is worse), by the task that teaches it: {'; '.join(parts)}.{_bases(tables)}"
        )


def _degrees(mean: float, error: float) -> str:
    return f"{mean / 10:.1f}" + (f" \u00b1 {error / 10:.1f}" if np.isfinite(error) else "")


def _of_shares(tables: Tables, known: Tasks) -> Iterator[str]:
    """Say what fewer rows of distance do, and rows of it whose answers are wrong."""
    if "beside" not in tables:
        return
    table = tables["beside"]
    table = table[(table.beside == APART) & (table.task != APART) & (table.schedule == CONSTANT)]
    for task, some in table.groupby("task", sort=False):
        for column, what in (("share", "rows of distance for each of {}"), ("noise", "of distance's answers mistaken")):
            other = "noise" if column == "share" else "share"
            line = some[some[other] == (0 if other == "noise" else 1)].sort_values(column)
            if line[column].nunique() > 1:
                parts = [f"{row.ratio:.2f} with {getattr(row, column):g}" for row in line.itertuples()]
                untested = "" if line.n.max() == 1 else " (geometric means over seeds; the trend was not tested)"
                yield (
                    f"At equal rows of {known.label(task)}, the error beside {APART} is so many times that without it: "
                    f"{', '.join(parts)} {what.format(known.label(task))}{untested}."
                )


def _sides(tables: Tables, what: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield fine-tunes at a constant rate at their largest dose, with distance and without, in words and as rows.

    Those on most tasks of which there are both; all, if there are none.
    """
    table = whole(tables["doses"])
    table = table[(table.schedule == CONSTANT) & table[what].notna()]
    table = table.loc[table.groupby("run").dose.idxmax()]
    known = most_tasks(tables["contrast"])
    sizes = known[known.what == what].n_tasks
    if len(sizes):
        table = table[table.tasks.str.count(r"\+") + 1 == sizes.iloc[0]]
    yield from _with(table)


def _with(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    far = table.tasks.str.split("+").map(lambda tasks: APART in tasks)
    for words, some in ((f"taught with {APART}", table[far]), ("taught without it", table[~far])):
        if len(some):
            yield words, some


def _over_seeds(some: pd.DataFrame, what: str) -> Mean:
    return mean_and_error(some.groupby("seed")[what].mean(), "seed")


def _difference(tables: Tables, what: str) -> str:
    """Return by how much a measure differs with distance, with its test; "" of one seed."""
    table = most_tasks(tables["contrast"])
    for row in table[table.what == what].itertuples():
        if row.n > 1:
            sure = f"t-test over n = {row.n} seeds, p {row.p:.2g}"
            sure = sure if np.isfinite(row.p) else f"the same at each of {row.n} seeds"
            return (
                f" (difference {plain(row.difference, '+.2f')} \u00b1 {row.standard_error:.2f} of fine-tunes on "
                f"{count(row.n_tasks, 'task')}, {sure})"
            )
    return ""


def _of_place(tables: Tables) -> Iterator[str]:
    """Say if a group that the old map misplaces is somewhere else, or nowhere."""
    parts = []
    for words, some in _sides(tables, "alone_r2"):
        found = _over_seeds(some, "alone_r2")
        where = "a map of its own can be read" if found.mean > READ else "no map of it can be read"
        parts.append(f"{words}, R\u00b2 {plain(found.mean, '.2f')}{_and_error(found)}, {where}")
    group = tables["doses"].group.iloc[0]
    if parts:
        yield (
            f"A probe fitted on {group} alone, and tried on cities of it that were left out: {'; '.join(parts)}"
            f"{_difference(tables, 'alone_r2')}."
        )


def _and_error(found: Mean) -> str:
    return f" \u00b1 {found.standard_error:.2f}" if found.n > 1 else ""


MOVED = {
    "old_cka": "linear CKA of old cities before and after",
    "old_moved": "the way that old cities move, as a share of their spread",
    "moved_dimension": "the directions along which new cities move (participation ratio)",
}


def _of_old(tables: Tables) -> Iterator[str]:
    """Say what fine-tuning moved: the new cities, and the old map."""
    for what, said in MOVED.items():
        parts = []
        for words, some in _sides(tables, what):
            found = _over_seeds(some, what)
            parts.append(f"{found.mean:.2f}{_and_error(found)} {words}")
        if parts:
            yield f"{said[:1].upper()}{said[1:]}: {', '.join(parts)}{_difference(tables, what)}."


def _of_pull(tables: Tables) -> Iterator[str]:
    """Say if a pair's tasks pull the same way, at first and at last."""
    if "pull" not in tables:
        return
    table = tables["pull"]
    table = table[table.task != table.other].merge(tables["doses"][["run", "seed", "tasks"]].drop_duplicates())
    parts = []
    for words, some in _with(table):
        ends = [some.loc[some.groupby("run").dose.agg(which)] for which in ("idxmin", "idxmax")]
        first, last = (_over_seeds(end, "cosine") for end in ends)
        parts.append(
            f"{words}, {plain(first.mean, '+.2f')}{_and_error(first)} before and {plain(last.mean, '+.2f')}"
            f"{_and_error(last)} after"
        )
    if parts:
        yield (
            f"The cosine of the gradients of a pair's two tasks: {'; '.join(parts)}"
            f"{_difference(tables, 'cosine').replace('difference', 'difference after', 1)}."
        )


def _of_patching(tables: Tables) -> Iterator[str]:
    """Say how much of one fine-tune's knowledge another takes over with its states, on tasks that it lacks.

    All states of the last layer are all that answers are made of: that these bring all is not said.
    """
    if "patching" not in tables:
        return
    table = tables["patching"].dropna(subset=["recovered"])
    gained = table.source_value - table.target_value
    better = (gained > 0) == (table.metric == "accuracy")
    every = (table.positions == "all") & (table.layer == table.layer.max())
    parts = []
    for positions, some in table[better & ~every].groupby("positions", sort=False):
        some = some[some.standard_error <= TOLD]
        if len(some):
            best = some.loc[some.recovered.idxmax()]
            parts.append(
                f"at {POSITIONS[positions]} {plain(best.recovered, '.2f')} ({best.task}, layer "
                f"{best.layer}; standard error over rows {best.standard_error:.2f})"
            )
    if parts:
        row = tables["patching"].iloc[0]
        yield (
            f"On tasks that {row.source} does better, its states put into {row.target} bring answers so far at most, "
            f"over layers, from those of the second (0) to those of the first (1): {'; '.join(parts)}. These are one "
            f"pair of models and n = {count(int(row.n), 'row')} of each task."
        )

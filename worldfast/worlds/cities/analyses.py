"""The analyses of a study of cities: which runs each is of, and how its table is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import (
    HELD_OUT,
    cka_table,
    dimension_table,
    film_table,
    held_out,
    mutual_knn_table,
    penalty,
    probe_generalisation,
    probe_table,
    procrustes_table,
)
from worldfast.analysis import cka_over_training as table_over_training
from worldfast.dataset import require_same_entities
from worldfast.display import count
from worldfast.reading import activation_patching, gradient_agreement, represent
from worldfast.run import Run
from worldfast.studies import Analysis, Some, Study, Trained, pca, scored, shown
from worldfast.training import load
from worldfast.worlds.cities.evaluate import evaluate
from worldfast.worlds.cities.groups import STANDARD, any_of, choose_cities, groups_of
from worldfast.worlds.cities.patching import questions_of
from worldfast.worlds.cities.sampling import Stream
from worldfast.worlds.cities.selection import unknown_texts
from worldfast.worlds.cities.stream import task_stream
from worldfast.worlds.cities.tasks import BUILT_IN, TASKS, Task, in_python
from worldfast.worlds.cities.world import World

SHARES = (0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75)  # of training, for CKA over it; its end has a table of its own
NEIGHBOURS = 10
AGREEMENT_ROWS, AGREEMENT_GROUPS = 1024, 4  # of each task in a group
PATCHED_ROWS = 200  # at most
PATCHED_AT = ("included", "question", "all")


def world_of(one: Trained) -> World:
    return one.run.data.world.build()


def taught_cities(one: Trained, taught: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Groups of which some cities were captured, by name: bool [n]."""
    found = {name: world_of(one).select(group)[one.things] for name, group in taught.items()}
    return {name: cities for name, cities in found.items() if cities.any()}


def xy(one: Trained) -> np.ndarray:
    """Coordinates of the captured cities, int [n, 2], in 0.1 degree."""
    return world_of(one).xy[one.things]


def chosen(one: Trained, cities: str, name: str = "cities") -> np.ndarray:
    """Captured cities that an expression selects, bool [n]. ValueError where it selects none."""
    found = world_of(one).select(cities)[one.things]
    if not found.any():
        unknown = unknown_texts(cities, world_of(one).columns)
        raise ValueError(
            f"{name}: {cities!r} selects none of the {count(len(found), 'city', 'cities')} captured of {one.name!r}"
            f"{unknown}"
        )
    return found


def ridge_of(one: Trained, fitted: int) -> float | None:
    """Penalty of a probe that is fitted on so many cities, None where there are more of them than features."""
    last = one.activations.steps[-1]
    return penalty(fitted, max(one.activations[last, layer].shape[1] for layer in one.activations.layers))


def tried(one: Trained, taught: Mapping[str, str], old: str) -> tuple[np.ndarray, dict[str, np.ndarray], dict]:
    """Cities on which a probe of places is fitted, bool [n]; groups on which it is tried; other options of it."""
    fit_on, groups = choose_cities(~chosen(one, old, "old"))
    groups = {HELD_OUT: groups[HELD_OUT]} | taught_cities(one, taught)
    return fit_on, groups, {"ridge": ridge_of(one, int(fit_on.sum())), "items": one.things, "run": one.name}


# ---- of one run ----


def evaluation(
    trained: Sequence[Trained], rows: int, taught: Mapping[str, str], old: str, own: Sequence[Task]
) -> pd.DataFrame:
    """Built-in tasks, the run's and those of fine-tunes, on rows of old cities and rows that must include each group.

    Columns run, task, group, metric, unit, value, constant (what the best constant answer scores), n, unparsable.
    """
    (one,) = trained
    run, ensemble = load(one.folder)
    world = world_of(one)
    groups = {STANDARD: {"among": old}}
    groups |= {name: {"must_include": group} for name, group in taught.items() if world.select(group).any()}
    table = []
    for task in [*map(TASKS.get, BUILT_IN), *in_python((*run.data.own, *own))]:
        for group, where in groups.items():
            score = evaluate(ensemble, 0, world, task, rows, run.seed, vocabulary=run.data.vocabulary, **where)
            found = {"run": one.name, "task": task.name, "group": group, "metric": task.metric, "unit": task.unit}
            table.append(found | asdict(score))
    return pd.DataFrame(table)


def probes(trained: Sequence[Trained], old: str) -> pd.DataFrame:
    """A linear probe of every captured layer at every checkpoint, fitted and tried on old cities.

    Columns are those of `probe_table`, and ridge (the penalty; 0: none).
    """
    (one,) = trained
    use = chosen(one, old, "old")
    read = Some(one.activations, use)
    rows = [one.run.rows_at(step)[0] for step in read.steps]  # seen before the next
    test = held_out(int(use.sum()))
    ridge = ridge_of(one, int((~test).sum()))
    table = probe_table(read, read.layers, xy(one)[use], test, rows=rows, ridge=ridge, run=one.name)
    return table.assign(ridge=ridge or 0.0)


def generalisation(trained: Sequence[Trained], taught: Mapping[str, str], old: str) -> pd.DataFrame:
    """Places of old, other and taught cities by a probe fitted on old ones, in each layer at the last checkpoint.

    Of a fine-tune, the groups that it was taught; of a pretrained model, all.
    """
    (one,) = trained
    fit_on, groups, how = tried(one, one.run.data.taught if one.run.start else taught, old)
    last = one.activations.steps[-1]
    return pd.concat(
        [
            probe_generalisation(one.activations[last, layer], xy(one), fit_on, groups, **how, layer=layer)
            for layer in one.activations.layers
        ],
        ignore_index=True,
    )


def prompts(trained: Sequence[Trained], layer: int, old: str) -> pd.DataFrame:
    """Mean error on what a fine-tune was taught, of a layer read at the prompt of each task in its rows, at the end.

    The capture reads each model at its first task's prompt, as published: a difference between models of other tasks is
    partly one of prompts, unless it stands at every prompt. The probe is fitted on old cities, read at the same prompt.

    Columns run, prompt (a task), group, n, error (0.1 degree).
    """
    (one,) = trained
    _, ensemble = load(one.folder)
    fit_on, groups, how = tried(one, one.run.data.taught, old)
    options = {name: value for name, value in one.run.capture.readout if name != "prompt"}
    parts = []
    for task in dict.fromkeys(part.task for part in one.run.data.components):
        states = represent((one.run, ensemble), layers=(layer,), **options | {"task": task})[layer]
        found = probe_generalisation(states, xy(one), fit_on, groups, **how)
        found = found[found.group.isin(groups)].groupby(["run", "group"], sort=False).error.agg(["size", "mean"])
        parts.append(found.reset_index().rename(columns={"size": "n", "mean": "error"}).assign(prompt=task))
    return pd.concat(parts, ignore_index=True)[["run", "prompt", "group", "n", "error"]]


def films(trained: Sequence[Trained], layer: int, old: str) -> pd.DataFrame:
    """Film of a run on the page, as of `film_table`: a row for each city at each checkpoint, places in 0.1 degree.

    The probe is fitted on old cities alone: where it puts others was learned from answers.
    """
    (one,) = trained
    test = ~chosen(one, old, "old")
    fit_on = ~test
    fit = np.flatnonzero(fit_on)
    test[fit[held_out(len(fit))]] = True
    how = {"ridge": ridge_of(one, int((~test).sum())), "things": one.things, "run": one.name}
    return film_table(one.activations, layer, test, xy(one), fit_on, **how)


# ---- of several together ----


def last_states(trained: Sequence[Trained], layer: int, cities: str) -> dict[str, np.ndarray]:
    """Name -> [n, d], at the last checkpoint, of the cities that an expression selects: the same of each, or a
    MismatchError.
    """
    require_same_entities({one.name: one.entities[chosen(one, cities)] for one in trained})
    return {one.name: one.activations[one.activations.steps[-1], layer][chosen(one, cities)] for one in trained}


def cka(trained: Sequence[Trained], cities: str) -> pd.DataFrame:
    """CKA of all pairs at the last checkpoint, in every layer: linear and RBF, plain and debiased, of three parts."""
    parts = []
    for layer in trained[0].activations.layers:
        states = last_states(trained, layer, cities)
        parts.append(cka_table(states, ("linear", "rbf"), (False, True), layer=layer, step_share=1.0))
        parts.append(cka_table(states, "linear", False, 3, layer=layer, step_share=1.0))
    return pd.concat(parts, ignore_index=True)


def cka_shown(trained: Sequence[Trained], layer: int, cities: str) -> pd.DataFrame:
    """Linear CKA at the last checkpoint of a pair that the page shows and `cka` leaves out. Columns as in `cka`."""
    return cka_table(last_states(trained, layer, cities), "linear", False, layer=layer, step_share=1.0)


def cka_over_training(trained: Sequence[Trained], layer: int, cities: str) -> pd.DataFrame:
    """Linear CKA of all pairs at shares of their training."""
    read = {one.name: one.activations for one in trained}
    return table_over_training(read, layer, SHARES, use=chosen(trained[0], cities))


def procrustes(trained: Sequence[Trained], layer: int, cities: str) -> pd.DataFrame:
    return procrustes_table(last_states(trained, layer, cities), layer=layer)


def mutual_knn(trained: Sequence[Trained], layer: int, cities: str) -> pd.DataFrame:
    return mutual_knn_table(last_states(trained, layer, cities), NEIGHBOURS, layer=layer)


def dimension(trained: Sequence[Trained], layer: int, cities: str) -> pd.DataFrame:
    return dimension_table(last_states(trained, layer, cities), layer=layer)


# ---- what pulls and what carries ----


def streams_with(
    run: Run, group: str, tasks: Iterable[str | Task], rows: int, repeats: int
) -> tuple[dict[str, Stream], int]:
    """Streams of tasks on rows with cities of a group, and rows of each of `repeats` parts: fewer in a small world."""
    world = run.data.world.build()
    late, every = int(world.select(group).sum()), len(world)
    pairs = late * (2 * every - late - 1) // 2  # that distance and compass have to give, once each; 80% to train
    enough = min(rows, pairs * 8 // 10 // repeats)
    streams = {
        task.name: task_stream(run.data, task, enough * repeats, run.seed, must_include=group)
        for task in map(run.data.task, tasks)
    }
    return streams, enough


def agreement(trained: Sequence[Trained], taught: Mapping[str, str], own: Sequence[Task], rows: int) -> pd.DataFrame:
    """The cosine of tasks' gradients on rows with what fine-tunes are taught, at the model that they start from.

    Columns as of `gradient_agreement`, and group.
    """
    (one,) = trained
    world, run = world_of(one), one.run
    parts = []
    for name, group in taught.items():
        if not world.select(group).any():
            continue
        streams, enough = streams_with(run, group, [*BUILT_IN, *own], rows, AGREEMENT_GROUPS)
        found = gradient_agreement(one.folder, streams, rows=enough, repeats=AGREEMENT_GROUPS)
        parts.append(found.assign(group=name))
    return pd.concat(parts, ignore_index=True)


def patching(trained: Sequence[Trained], rows: int) -> pd.DataFrame:
    """The first run's hidden states put into the second, on rows that include what both were taught."""
    source, target = (one.run.data for one in trained)
    tasks = sorted(set(source.tasks) | set(target.tasks), key=list(TASKS).index)
    both = [group for name, group in target.taught.items() if name in source.taught]
    positions = [name for name in PATCHED_AT if both or name != "included"]
    include = any_of(both) if both else None
    asked = questions_of(trained[1].run, tasks, positions=positions, rows=rows, must_include=include)
    return activation_patching(*(one.folder for one in trained), asked)


# ---- of a study ----


def bases(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs that the canon's fine-tunes start from to learn of a group, and whose world has cities of one."""
    if not study.test_rows:
        return []
    started = {run.start.id for run in study.canon if isinstance(run.start, Run) and run.data.taught}
    taught = groups_of(study.runs).taught.values()
    bases = [run for run in finished if run.id in started]
    return [(run,) for run in bases if any(run.data.world.build().select(group).any() for group in taught)]


def fine_tuned(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs that were taught a group later."""
    return [(run,) for run in finished if run.start is not None and run.data.taught]


def patched(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    by_name = {run.name: run for run in finished}
    pair = tuple(by_name[name] for name in study.patched if name in by_name)
    return [pair] if len(pair) == 2 and study.test_rows else []


def alike(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """The canon's pretrained runs of one model and one world, together."""
    canon = {run.id for run in study.canon}
    runs = [run for run in finished if run.start is None and run.id in canon]
    runs = [run for run in runs if run.model == runs[0].model and run.data.digest == runs[0].data.digest]
    return [tuple(runs)] if len(runs) > 1 else []


def shown_pairs(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Pairs of runs that the page shows, but for those that are compared with all that are alike."""
    compared = {run.id for group in alike(study, finished) for run in group}
    pairs = combinations(study.shown_of(finished), 2)
    return [(a, b) for a, b in pairs if not {a.id, b.id} <= compared]


def own_of(study: Study) -> tuple[Task, ...]:
    """Return the tasks in Python of a study's fine-tunes."""
    return in_python(task for run in study.runs if run.start for task in run.data.own)


VALUES: dict[str, Callable[[Study], Any]] = {  # of a study by the names of options
    "layer": lambda study: study.layer,
    "cities": lambda study: study.cities,
    "old": lambda study: groups_of(study.runs).old,
    "taught": lambda study: groups_of(study.runs).taught,
    "own": own_of,
    "rows": lambda study: study.test_rows,
}


def given(*names: str, most: int | None = None) -> Callable[[Study], dict]:
    """Return the options of an analysis: a study's values of these names, and `most` of its test rows."""

    def options(study: Study) -> dict:
        rows = {} if most is None else {"rows": min(most, study.test_rows)}
        return {name: VALUES[name](study) for name in names} | rows

    return options


ANALYSES = (
    Analysis("probes", probes, options=given("old")),
    Analysis("generalisation", generalisation, options=given("taught", "old")),
    Analysis("prompts", prompts, fine_tuned, given("layer", "old")),
    Analysis("evaluation", evaluation, scored, given("rows", "taught", "old", "own")),
    Analysis("films", films, shown, given("layer", "old")),
    Analysis("pca", pca, shown, given("layer")),
    Analysis("agreement", agreement, bases, given("taught", "own", most=AGREEMENT_ROWS)),
    Analysis("patching", patching, patched, given(most=PATCHED_ROWS)),
    Analysis("cka", cka, alike, given("cities")),
    Analysis("cka_over_training", cka_over_training, alike, given("layer", "cities")),
    Analysis("cka_shown", cka_shown, shown_pairs, given("layer", "cities")),
    Analysis("procrustes", procrustes, alike, given("layer", "cities")),
    Analysis("mutual_knn", mutual_knn, alike, given("layer", "cities")),
    Analysis("dimension", dimension, alike, given("layer", "cities")),
)

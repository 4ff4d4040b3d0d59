"""Findings of a study in plain sentences, and its numbers beside the published ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import Mean, mean_and_error
from worldfast.display import count, first_of
from worldfast.report import Tasks, plain
from worldfast.studies import Comparison, Findings, RunResult, Study
from worldfast.worlds.cities import improvement, published
from worldfast.worlds.cities.groups import STANDARD
from worldfast.worlds.cities.scene import DEGREES
from worldfast.worlds.cities.tables import taught_errors
from worldfast.worlds.cities.tasks import BUILT_IN, TASKS
from worldfast.worlds.cities.world import ATLANTIS

Tables = Mapping[str, "pd.DataFrame"]
SETTLED = 0.9  # of the last R2
READ = 0.5  # R2 above which a probe reads a map


def taught(tasks: Sequence[str], known: Tasks) -> str:
    """Some of a study's tasks in words."""
    whole = 3 < len(tasks) == len(known.names)
    return known.count(len(tasks)) if whole else " and ".join(tasks)


# ---- sentences ----


def findings(study: Study, tables: Tables, films: Sequence[RunResult], cka: np.ndarray) -> Findings:
    """Return findings in plain sentences, and numbers beside the published ones."""
    return Findings(_sentences(study, tables, films, cka), tuple(comparisons(study, tables)))


def _sentences(study: Study, tables: Tables, films: Sequence[RunResult], cka: np.ndarray) -> list[str]:
    said = [*_of_taught(study, tables), *of_failures(tables)]
    if len(study.runs) > len(films):
        said += [*_of_many(study, tables), *_of_prediction(tables)]
    else:
        first, *rest = [*_of_films(films, cka, tables)] or [""]
        said = [first, *said[:1], *rest, *said[1:]]
    if tables["runs"].seed.nunique() == 1:
        said.append("There is one seed of each model, so no standard error is given: nothing was repeated.")
    return [sentence for sentence in said if sentence]


def _of_films(films: Sequence[RunResult], cka: np.ndarray, tables: Tables) -> Iterator[str]:
    """Yield sentences on a few models, one by one."""
    known = Tasks(tables["runs"].tasks)
    old = [i for i, run in enumerate(films) if not run.spec.get("start")]
    sets: dict[tuple[str, ...], list[RunResult]] = {}
    for i in old:
        sets.setdefault(tuple(films[i].tasks), []).append(films[i])
    order = sorted(sets.values(), key=lambda some: -np.mean([run.r2[-1].mean() for run in some]))
    if not order:
        return
    best, name = order[0], taught(order[0][0].tasks, known)
    if all(run.r2[-1].mean() > READ for run in best):
        models = f"each of {len(best)} models" if len(best) > 1 else "the model"
        within = _span([run.error[-1] / 10 for run in best], ".1f")
        yield (
            f"Without ever seeing a coordinate, {models} trained on {name} has learned a map: half of the cities a "
            f"linear probe was not fitted on lie within {within} degrees of where the probe puts them."
        )
    for some in order:
        yield f"{taught(some[0].tasks, known).capitalize()}{_seeds(some)}: {_map_of(some)}."
    pairs = [(cka[i, j], i, j) for i in old for j in old if j < i]
    if pairs and len(order) == 1:
        alike = _span([value for value, *_ in pairs], ".2f")
        yield f"Models of {len(best)} seeds arrange the cities alike: linear CKA {alike} ({count(len(pairs), 'pair')})."
    elif pairs:
        value, i, j = max(pairs)
        a, b = (taught(films[k].tasks, known) for k in (j, i))
        if len(pairs) > 1:
            yield (
                f"Of {len(pairs)} pairs of models, one of {a} and one of {b} arrange the cities most alike: linear CKA "
                f"{value:.2f}; the least alike pair has {min(pairs)[0]:.2f}."
            )
        else:
            yield f"The one pair of models, of {a} and of {b}, has linear CKA {value:.2f}."
    learned = set(tables["runs"].run[tables["runs"].learned])  # of others no average is given: of_failures
    if all(run.scores and run.name in learned for run in best):
        answers = _answers(
            {task: float(np.mean([run.scores[task] for run in best])) for task in best[0].scores}, tables
        )
        if len(best) > 1:
            yield f"Asked what they have not seen, the models of {name} answer, on average over {len(best)}: {answers}."
        else:
            yield f"Asked what it has not seen, the model of {name} answers: {answers}."


def _seeds(some: Sequence[RunResult]) -> str:
    return f" ({len(some)} seeds)" if len(some) > 1 else ""


def _span(values: Sequence[float], form: str) -> str:
    """Return a number, or the least and the largest of several."""
    return " to ".join(dict.fromkeys(f"{value:{form}}" for value in (min(values), max(values))))


def _map_of(some: Sequence[RunResult]) -> str:
    """Say how much of the map a linear probe reads in models of the same tasks, and how soon."""
    x, y = (_span([run.r2[-1][i] for run in some], ".2f") for i in (0, 1))
    said = f"R\u00b2 {x} for x and {y} for y, "
    read = [run for run in some if run.r2[-1].mean() > READ]
    if not read:
        return f"{said}no map that a linear probe can read"
    at = [run.steps[int(np.argmax(run.r2.mean(1) >= SETTLED * run.r2[-1].mean()))] / run.steps[-1] for run in read]
    without = f", and no map that a linear probe can read in {len(some) - len(read)} of {len(some)} seeds"
    return f"{said}nine tenths of it after {_span(at, '.0%')} of training" + (without if len(read) < len(some) else "")


def _answers(scores: Mapping[str, float], tables: Tables) -> str:
    """Scores by task, in words."""
    about = tables["evaluation"].drop_duplicates("task").set_index("task")
    return ", ".join(
        f"{name} {value:.0%} right"
        if about.metric[name] == "accuracy"
        else f"{name} off by {_in_degrees(value, about.unit[name])}"
        for name, value in scores.items()
    )


def _in_degrees(value: float, unit: str) -> str:
    """An error in the page's units: tenths of a degree are degrees."""
    factor, unit = DEGREES.get(unit, (1.0, unit))
    return f"{value * factor:,.1f} {unit}{'s' if unit.endswith('degree') else ''}"


def _of_taught(study: Study, tables: Tables) -> Iterator[str]:
    """Say if what was taught later is on the map that was there before."""
    known = Tasks(tables["runs"].tasks)
    for group, errors in taught_errors(study, tables).groupby("group", sort=False):
        by = {name: errors[errors.distance == name].error for name in (False, True)}
        world = errors.held_out.median()
        if len(by[True]) and len(by[False]):
            yield (
                f"Taught {group} without distance, models place it {by[False].mean() / 10:.1f} degrees off on average "
                f"({_fine_tunes(by[False])}){_range(by[False])}; with distance among the tasks, "
                f"{by[True].mean() / 10:.1f} degrees off ({_fine_tunes(by[True])}){_range(by[True])}. Held-out cities "
                f"of the old world are {world / 10:.1f} degrees off. The probe was fitted on old cities alone."
                + _of_each_seed(errors.merge(tables["runs"][["run", "seed"]]))
                + _of_prompts(tables, group, errors[["run", "distance"]])
            )
        order = errors.groupby("tasks", sort=False).error.mean().sort_values(kind="stable")
        if len(order) > 1:
            best, worst = (taught(order.index[end].split("+"), known) for end in (0, -1))
            several = len(errors) > len(order)
            yield (
                f"{group} lies best on the map of the model{'s' * several} taught it by {best} "
                f"({order.iloc[0] / 10:.1f} degrees off{', on average' * several}), and worst on that of {worst} "
                f"({order.iloc[-1] / 10:.1f} degrees)."
            )
    if "deviation" in tables:
        yield from _of_deviation(tables)


def _of_deviation(tables: Tables) -> Iterator[str]:
    """Say what two tasks teach beside the better of each alone, not clipped as published, and clipped."""
    said = []
    for name in ("deviation", "deviation_clipped"):
        over = _by_seed(tables[name], "deviation", improvement.deviation_summary) if name in tables else {}
        if len(over) == 2:
            near, far = (
                plain(found.mean, "+.2f") + (f" \u00b1 {found.standard_error:.2f}" if found.n > 1 else "")
                for found in (over["without distance"], over["with distance"])
            )
            said.append((far, near))
    if said:
        (far, near), *clipped = said
        also = "".join(f"; with both clipped to 0 to {improvement.CEILING:g}, {a} and {b}" for a, b in clipped)
        yield (
            "Two tasks together, beside the better of each alone: normalised improvement differs by "
            f"{far} with distance among them and by {near} without, not clipped, as published{also}"
            + (" (standard errors over seeds)." if "\u00b1" in far else ".")
        )


def _of_prediction(tables: Tables) -> Iterator[str]:
    """Say if gradients at the pretrained model foretold what fine-tunes did."""
    if "prediction" not in tables:
        return
    table = tables["prediction"].dropna(subset=["r"])
    parts = []
    for row in table.itertuples():
        apart = "" if row.what == "all tasks" else f", {row.what}"
        parts.append(f"{row.predicted}{apart}: r {plain(row.r, '+.2f')}, p {row.p:.2f}, {count(row.n, 'pair')}")
    if parts:
        yield (
            "How far the gradients of two tasks agree at the pretrained models, before any fine-tuning, against what "
            f"fine-tunes then did (Mantel's test over pairs of tasks): {'; '.join(parts)}."
        )


def _range(errors: pd.Series) -> str:
    """Return the least and the largest error, where there are several that differ."""
    span = _span((errors / 10).tolist(), ".1f")
    return f", from {span}" if " to " in span else ""


def _of_each_seed(errors: pd.DataFrame) -> str:
    """Say in how many seeds what was taught is nearer to its place without distance."""
    means = errors.groupby(["seed", "distance"]).error.mean().unstack().dropna()
    if len(means) < 2:
        return ""
    near = int((means[False] < means[True]).sum())
    return f" It is nearer to its place without distance in {near} of {len(means)} seeds."


def _of_prompts(tables: Tables, group: str, runs: pd.DataFrame) -> str:
    """Say how much farther off distance leaves what was taught where all models are read at one prompt."""
    if "prompts" not in tables:
        return ""
    found = tables["prompts"][tables["prompts"].group == group].merge(runs)
    means = found.groupby(["prompt", "distance"]).error.mean().unstack().dropna()
    if len(means) < 2 or len(means.columns) < 2:
        return ""
    return (
        " Models are read at the prompt of their first task; with all read at one, it is "
        f"{_span((means[True] / means[False]).tolist(), '.1f')} times as far off with distance as without "
        f"({count(len(means), 'prompt')})."
    )


def _fine_tunes(some: Sequence) -> str:
    return count(len(some), "fine-tune")


def _of_many(study: Study, tables: Tables) -> Iterator[str]:
    """Yield sentences on a grid of pretrained models."""
    if "trends" in tables:
        trends = tables["trends"][tables["trends"].layer == study.layer].set_index(["what", "n_tasks"])
        known = [n for n in (1, 2, 3) if ("same task", n) in trends.index and ("disjoint tasks", n) in trends.index]
        if known:
            parts = [
                f"{_mean(trends.loc[('same task', n)])} and {_mean(trends.loc[('disjoint tasks', n)])} "
                f"with {count(n, 'task')}"
                for n in known
            ]
            yield (
                f"Models become alike as they learn more tasks: linear CKA at layer {study.layer}, of models of the "
                "same tasks and of tasks none of which they share, is " + ", ".join(parts) + "."
            )
    runs = tables["runs"].set_index("run")
    last = _last_probes(study, tables).join(runs[["kind", "tasks", "n_tasks"]])
    alone = last[(last.kind == "pt") & (last.n_tasks == 1)].groupby("tasks").r2.mean().sort_values()
    if len(alone) > 1:
        yield (
            "A map can be read out of models of one task: R\u00b2 from "
            f"{alone.iloc[0]:.2f} ({alone.index[0]}) to {alone.iloc[-1]:.2f} ({alone.index[-1]})."
        )
    most = runs[runs.kind == "pt"].sort_values("n_tasks", kind="stable").tasks.iloc[-1:]
    for names in most.str.split("+"):
        scores = _scores_of_all(tables, names)
        if scores is not None:
            means = scores.groupby("task", sort=False).value.mean()
            said = Tasks(tables["runs"].tasks).count(len(names))
            yield f"Asked what they have not seen, models of {said} answer: {_answers(means, tables)}."


def _mean(row: pd.Series) -> str:
    """A mean and its standard error, where it has one."""
    return f"{row['mean']:.2f}" + (f" \u00b1 {row.standard_error:.2f}" if np.isfinite(row.standard_error) else "")


def _last_probes(study: Study, tables: Tables) -> pd.DataFrame:
    """The probe of the study's layer at each run's last checkpoint, by run."""
    probes = tables["probes"]
    return probes[probes.layer == study.layer].sort_values("step").groupby("run").last()


def _scores_of_all(tables: Tables, names: Sequence[str]) -> pd.DataFrame | None:
    """Return scores of models that learned all of these tasks, on rows without the group taught later, or None."""
    if "evaluation" not in tables:
        return None
    runs, scores = tables["runs"], tables["evaluation"]
    whole = runs.tasks.str.split("+").map(set) == set(names)
    every = runs[(runs.kind == "pt") & whole & runs.learned].run
    scores = scores[scores.run.isin(every) & (scores.group == STANDARD) & scores.task.isin(names)]
    return scores if len(scores) else None


def of_failures(tables: Tables) -> list[str]:
    """Name the pretrained runs that did not learn, with the tasks, and runs that did not finish."""
    runs = tables["runs"]
    done = runs.status == "finished"
    failed, lost = runs[(runs.kind == "pt") & ~runs.learned & done], runs[~done]
    said = []
    if len(failed) and "evaluation" in tables:
        names = [f"{row.run} ({row.unlearned.replace('+', ', ')})" for row in failed.itertuples()]
        said.append(
            f"Not learned, and left out of averages of scores and CKA over models: {first_of(names)}; an answer to "
            "such a task is less than a third of the way from the best constant answer to a perfect one."
            + (" Fine-tunes of such a model count in averages all the same." if (runs.kind == "ft").any() else "")
        )
    if len(lost):
        said.append(f"Did not finish: {first_of([f'{row.run} ({row.status})' for row in lost.itertuples()])}.")
    return said


# ---- beside the published ----


def comparisons(study: Study, tables: Tables) -> Iterator[Comparison]:
    """Yield every published number that the study has the runs for, beside ours.

    Ours are of this study's size, which its page says. There are none if a run's world, tasks or group are others than
    the published ones (the column `comparable` of the table "runs").
    """
    if not tables["runs"].comparable.all():
        return
    parts = (_evaluation(tables), _maps(study, tables), _trends(study, tables), _integration(tables))
    for one in chain(*parts, _generalisation(study, tables)):
        factor, unit = DEGREES.get(one.unit, (1.0, one.unit))
        numbers = {name: factor * getattr(one, name) for name in ("ours", "ours_error", "published", "published_error")}
        yield replace(one, unit=unit, **numbers)


def _beside(name: str, what: str, ours: Mean) -> Comparison:
    known = published.value(name)
    spread = "" if known.uncertainty is None else f"its +- {known.uncertainty:g} is the {known.uncertainty_is}"
    note = "; ".join(part for part in (known.note, spread) if part)
    return Comparison(
        what=what,
        ours=float(ours.mean),
        ours_error=float(ours.standard_error),
        ours_n=int(ours.n),
        unit=known.unit,
        published=known.value,
        published_error=math.nan,
        source=known.source,
        note=note,
        counted=ours.unit,
    )


def _evaluation(tables: Tables) -> Iterator[Comparison]:
    scores = _scores_of_all(tables, BUILT_IN)
    if scores is None:
        return
    for task in map(TASKS.get, BUILT_IN):
        found = mean_and_error(scores[scores.task == task.name].value, "model")
        yield _beside(f"evaluation_{task.name}", f"all seven tasks: {task.name}, {task.metric}", found)


def _maps(study: Study, tables: Tables) -> Iterator[Comparison]:
    runs, probes = tables["runs"], _last_probes(study, tables)
    for task in ("compass", "angle", "perimeter", "crossing"):
        names = runs[(runs.kind == "pt") & (runs.tasks == task)].run
        if len(names):
            found = mean_and_error(probes.loc[names].r2, "model")
            what = f"one task, {task}: R\u00b2 of a linear probe"
            yield _beside(f"probe_r2_{task}", what, found)


def _trends(study: Study, tables: Tables) -> Iterator[Comparison]:
    if "trends" not in tables:
        return
    table = tables["trends"][tables["trends"].layer == study.layer].set_index(["what", "n_tasks"])
    names = {
        ("same task", 1): "same_task_cka_1_corrected",
        ("cross task", 1): "cross_task_cka_1_corrected",
        ("same task", 2): "same_task_cka_2",
        ("same task", 3): "same_task_cka_3",
        ("disjoint tasks", 1): "disjoint_task_cka_1",
        ("disjoint tasks", 2): "disjoint_task_cka_2",
        ("disjoint tasks", 3): "disjoint_task_cka_3",
    }
    for (what, n), name in names.items():
        if (what, n) in table.index:
            row = table.loc[(what, n)]
            text = f"CKA, {what}, {count(n, 'task')}"
            yield _beside(name, text, Mean(row["mean"], row.standard_error, row.n, row.unit))


def _integration(tables: Tables) -> Iterator[Comparison]:
    if "improvement" in tables:
        table = tables["improvement"]
        several = table.tasks.str.contains("+", regex=False)
        for number, chosen in (("one", ~several), ("two", several)):
            if not chosen.any():
                continue
            for part, found in _by_seed(table[chosen], "improvement", improvement.summary).items():
                what = f"{number}-task fine-tunes: normalised improvement, {part}"
                yield _beside(f"{number}_task_fine_tune_{part}", what, found)
    if "deviation" in tables:
        for part, found in _by_seed(tables["deviation"], "deviation", improvement.deviation_summary).items():
            what = f"two-task fine-tunes: deviation from the best teacher, {part}"
            name = f"deviation_{part.replace(' ', '_')}"
            yield _beside(name, what, found)


def _by_seed(table: pd.DataFrame, value: str, summary) -> dict[str, Mean]:
    """A summary of each seed's own matrix, averaged over seeds: those are what was repeated, cells are not."""
    found: dict[str, list[float]] = {}
    for _, of_seed in table.groupby("seed"):
        for row in summary(improvement.seed_averaged(of_seed, value)).itertuples():
            if row.n:
                found.setdefault(row.what, []).append(row.mean)
    return {what: mean_and_error(values, "seed") for what, values in found.items()}


def _generalisation(study: Study, tables: Tables) -> Iterator[Comparison]:
    errors = taught_errors(study, tables)
    if not len(errors):
        return
    held = mean_and_error(errors.drop_duplicates("run").held_out, "fine-tune")
    text = "mean error of a probe fitted on the old world"
    yield _beside("probe_error_held_out", f"{text}: held-out cities", held)
    published_group = errors[errors.group == ATLANTIS]
    for distance, name in ((False, "without"), (True, "with")):
        chosen = published_group[published_group.distance == distance].error
        if len(chosen):
            found = mean_and_error(chosen, "fine-tune")
            what = f"{text}: {ATLANTIS}, fine-tunes {name} distance"
            yield _beside(f"probe_error_atlantis_{name}_distance", what, found)

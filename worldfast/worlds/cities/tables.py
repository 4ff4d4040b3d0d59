"""The tables of a study of cities: those that its analyses made, and those that follow from them.

runs            a row each: what it is, what group it was taught, how it ended, whether it learned its tasks, which of
                them it did not (`unlearned`), and whether published numbers may stand beside it (`comparable`)
curves          loss over training;  validation: scores over training
evaluation, probes, generalisation, prompts, cka, procrustes, mutual_knn, dimension   as in
                worldfast.worlds.cities.analyses
improvement, deviation, trends, matrix, transfer, prediction   as in worldfast.analysis, of the runs that they need
deviation_clipped   deviation of improvements that are clipped, which one answer of many digits does not carry
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import HELD_OUT, as_matrix, task_matrix, trends
from worldfast.run import Run
from worldfast.studies import Study, common_tables, metrics
from worldfast.worlds.cities import improvement, prediction, transfer
from worldfast.worlds.cities.groups import STANDARD, groups_of
from worldfast.worlds.cities.tasks import find
from worldfast.worlds.cities.world import ATLANTIS, World

LEARNED = 1 / 3  # of the way from the best constant answer to a perfect one, in each of a run's tasks
R2 = 0.5  # where answers were not scored


def tables(study: Study, out: Path, made: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """All tables of a study from those that its analyses made, by kind."""
    found = described(study, out, made)
    runs = found["runs"]
    canon = runs[runs.canon]
    if "evaluation" in found:
        known = set(found["evaluation"].run)
        tried = runs[runs.run.isin(known) & ((runs.kind == "pt") | runs.base.isin(known))]
        tried = tried.drop(columns="group").merge(_taught(study))
        if len(tried):
            found["improvement"] = improvement.improvement(found["evaluation"], tried)
            if _have_teachers(tried):
                found["deviation"] = improvement.deviation(found["improvement"], runs)
                found["deviation_clipped"] = improvement.deviation(found["improvement"], runs, clip=True)
    if "cka" in found and _have_pairs(found["cka"], runs):
        found["trends"] = trends(found["cka"], runs)
        found["matrix"] = task_matrix(found["cka"], runs)
        if "improvement" in found:
            points = _transfer(study, found, canon)
            if points is not None:
                found["transfer"] = points
    if "agreement" in found and "deviation" in found:
        found["prediction"] = _prediction(study, found, canon)
    return found


def described(study: Study, out: Path, made: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Tables that the analyses of a study made, its losses and scores, and its runs: what each is, if it learned."""
    found = common_tables(study, out, made)
    if "cka_over_training" in found:
        found["cka"] = pd.concat([found["cka"], found.pop("cka_over_training")], ignore_index=True)
    scores = _validation(study, out)
    if len(scores):
        found["validation"] = scores
    runs = found["runs"]
    groups = groups_of(study.runs)
    runs["group"] = [" and ".join(groups.of(run)) for run in study.runs]
    runs["comparable"] = comparable(study)
    done = [*zip(study.runs, runs.status == "finished")]
    runs["learned"] = [finished and learned(run, found) for run, finished in done]
    scored = "evaluation" in found
    runs["unlearned"] = ["+".join(unlearned(run, found)) if finished and scored else "" for run, finished in done]
    return found


def comparable(study: Study) -> bool:
    """Return True if published numbers are of this study's kind, however many rows, cities and parameters it has.

    They are of cities of `World.cities()`, of the built-in tasks, and of models that know every city but those of
    Atlantis, which fine-tunes teach.
    """
    groups = groups_of(study.runs)
    if set(groups.taught) - {ATLANTIS} or any(run.data.own for run in study.runs):
        return False
    for world in {run.data.world.build() for run in study.runs}:
        others = world.region != ATLANTIS
        if not (world.select(groups.old) & np.isin(world.entities, World.cities().entities))[others].all():
            return False
    return True


def _have_pairs(pairs: pd.DataFrame, runs: pd.DataFrame) -> bool:
    """Return True if two runs that learned have equally many tasks and were compared."""
    learned = runs[runs.learned & runs.run.isin([*pairs.run, *pairs.other])]
    return bool((learned.n_tasks.value_counts() > 1).any())


def _have_teachers(runs: pd.DataFrame) -> bool:
    """Return True if a fine-tune on several tasks has a teacher for each: one from its base, taught the same group."""
    alone = {(row.base, row.group, row.tasks) for row in runs.itertuples() if row.n_tasks == 1}
    several = [row for row in runs.itertuples() if row.n_tasks > 1]
    return any(all((row.base, row.group, task) in alone for task in row.tasks.split("+")) for row in several)


def _taught(study: Study) -> pd.DataFrame:
    """Run and group, a row for each group that a fine-tune was taught."""
    rows = [(run.name, group) for run in study.runs if run.start for group in run.data.taught]
    return pd.DataFrame(rows, columns=["run", "group"], dtype=str)


def taught_errors(study: Study, found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Errors of a probe of old cities on what the canon's fine-tunes were taught, at the study's layer.

    Columns run, tasks, group, error (mean over its cities), held_out (mean over held-out old cities), distance (is it
    among the tasks?); errors in 0.1 degree. A row for each fine-tune and group.
    """
    if "generalisation" not in found:
        return _taught(study).iloc[:0]
    table = found["generalisation"]
    means = table[table.layer == study.layer].groupby(["run", "group"], sort=False).error.mean().reset_index()
    held = means[means.group == HELD_OUT].rename(columns={"error": "held_out"})[["run", "held_out"]]
    runs = found["runs"][["run", "tasks"]]
    errors = runs[runs.run.isin([run.name for run in study.canon])].merge(_taught(study)).merge(means).merge(held)
    return errors.assign(distance=[("distance" in tasks.split("+")) for tasks in errors.tasks])


def _transfer(study: Study, found, canon: pd.DataFrame) -> pd.DataFrame | None:
    """CKA of one-task models against one-task improvement; None where the study has too few of either."""
    matrix = found["matrix"]
    layer = matrix[(matrix.layer == study.layer) & (matrix.n_tasks == 1)]
    alone = found["improvement"]
    alone = alone[~alone.tasks.str.contains("+", regex=False) & alone.run.isin(canon.run)]
    if len(layer) < 3 or alone.tasks.nunique() < 3:
        return None
    return transfer.transfer_points(as_matrix(layer), improvement.seed_averaged(alone))


def _prediction(study: Study, found, canon: pd.DataFrame) -> pd.DataFrame:
    """Agreement of gradients against what the canon's fine-tunes then did."""
    of_canon = {name: found[name][found[name].run.isin(canon.run)] for name in ("improvement", "deviation")}
    alone = of_canon["improvement"]
    alone = alone[~alone.tasks.str.contains("+", regex=False)]
    targets = {
        "transfer of one-task fine-tunes": improvement.seed_averaged(alone),
        "deviation of two-task fine-tunes": prediction.of_pairs(of_canon["deviation"], "deviation"),
    }
    for group, errors in taught_errors(study, found).groupby("group", sort=False):
        targets[f"{group} error of two-task fine-tunes"] = prediction.of_pairs(errors, "error")
    return prediction.prediction(prediction.square(found["agreement"]), targets)


def _validation(study: Study, out: Path) -> pd.DataFrame:
    """Scores over training from the lines of metrics."""
    scores = []
    for run in study.runs:
        for line in metrics(run, out):
            at = {"run": run.name, "step": line["step"], "rows": line["rows"]}
            for name in line:
                if name.startswith("validation/"):
                    task = find(name.removeprefix("validation/"))
                    value = {"task": task.name, "metric": task.metric, "value": line[name]}
                    scores.append(at | value | {"unparsable": line[f"unparsable/{task.name}"]})
    return pd.DataFrame(scores)


def learned(run: Run, found: Mapping[str, pd.DataFrame]) -> bool:
    """Return True if a run learned its tasks.

    It did if its answers to test rows of each task are at least a third of the way from the best constant answer to a
    perfect one; without scores, if a probe of one of its layers explains half of the variance of places.
    """
    if "evaluation" not in found:
        probes = found["probes"][found["probes"].run == run.name]
        return bool(probes[probes.step == probes.step.max()].r2.max() > R2)
    return not unlearned(run, found)


def unlearned(run: Run, found: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the tasks of a run to which its answers are less than a third of the way to perfect ones."""
    scores = found["evaluation"]
    scores = scores[(scores.run == run.name) & (scores.group == STANDARD)].set_index("task")

    def way(task: str) -> float:
        perfect, row = 1.0 if run.data.task(task).answers else 0.0, scores.loc[task]
        return (row.value - row.constant) / (perfect - row.constant)

    return [task for task in run.data.tasks if way(task) < LEARNED]

"""The tables of a study of cities: those that its analyses made, and those that follow from them.

runs            a row each: what it is, what group it was taught, how it ended, whether it learned its tasks
curves          loss over training;  validation: scores over training
evaluation, probes, generalisation, cka, procrustes, mutual_knn, dimension   as in worldfast.worlds.cities.analyses
improvement, deviation, trends, matrix, transfer, prediction   as in worldfast.analysis, where the study has the runs for them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldfast.analysis import trends
from worldfast.run import Run
from worldfast.studies import Study, common_tables, metrics
from worldfast.worlds.cities import integration, prediction, transfer
from worldfast.worlds.cities.groups import groups_of
from worldfast.worlds.cities.tasks import TASKS, find
from worldfast.worlds.cities.world import ATLANTIS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LEARNED", "learned", "tables"]

LEARNED = 1 / 3  # of the way from the best constant answer to a perfect one, in each of a run's tasks
R2 = 0.5  # where answers were not scored


def tables(study: Study, out: Path, made: Mapping[str, Sequence[DataFrame]]) -> dict[str, DataFrame]:
    """All tables of a study from those that its analyses made, by kind."""
    import pandas as pd

    found = common_tables(study, out, made)
    if "cka_over_training" in found:
        found["cka"] = pd.concat([found["cka"], found.pop("cka_over_training")], ignore_index=True)
    scores = _validation(study, out)
    if len(scores):
        found["validation"] = scores
    runs = found["runs"]
    runs.insert(4, "tasks", ["+".join(run.data.tasks) for run in study.runs])
    runs.insert(5, "n_tasks", [len(run.data.tasks) for run in study.runs])
    runs.insert(8, "width", [run.model.hidden for run in study.runs])
    runs.insert(9, "group", groups_of(study.runs))
    finished = runs.status == "finished"
    runs.insert(14, "learned", [done and learned(run, found) for run, done in zip(study.runs, finished)])
    canon = runs[runs.canon]
    if (runs.kind == "ft").any() and "evaluation" in found:
        known = set(found["evaluation"].run)
        tried = runs[runs.run.isin(known) & ((runs.kind == "pt") | runs.base.isin(known))]
        if (tried.kind == "ft").any():
            found["improvement"] = integration.improvement(found["evaluation"], tried)
            pairs = tried[(tried.kind == "ft") & (tried.n_tasks > 1)]
            if len(pairs) and _have_teachers(tried):
                found["deviation"] = integration.deviation(found["improvement"], tried)
    if "cka" in found and _comparable(found["cka"], runs):
        found["trends"] = trends.trends(found["cka"], runs)
        found["matrix"] = trends.task_matrix(found["cka"], runs)
        if "improvement" in found:
            points = _transfer(study, found, canon)
            if points is not None:
                found["transfer"] = points
    if "agreement" in found and "deviation" in found:
        found["prediction"] = _prediction(study, found, canon)
    return found


def _comparable(pairs: DataFrame, runs: DataFrame) -> bool:
    """Whether two runs that learned have as many tasks, and were compared."""
    learned = runs[runs.learned & runs.run.isin([*pairs.run, *pairs.other])]
    return bool((learned.n_tasks.value_counts() > 1).any())


def _have_teachers(runs: DataFrame) -> bool:
    """Whether there is a fine-tune on several tasks, each of which another one from its base was taught alone."""
    tuned = runs[runs.kind == "ft"]
    alone = {(row.base, row.tasks) for row in tuned.itertuples() if row.n_tasks == 1}
    several = [row for row in tuned.itertuples() if row.n_tasks > 1]
    return any(all((row.base, task) in alone for task in row.tasks.split("+")) for row in several)


def _transfer(study: Study, found, canon: DataFrame) -> DataFrame | None:
    """CKA of one-task models against one-task improvement; None where the study has too few of either."""
    matrix = found["matrix"]
    layer = matrix[(matrix.layer == study.layer) & (matrix.n_tasks == 1)]
    alone = found["improvement"]
    alone = alone[~alone.tasks.str.contains("+", regex=False) & alone.run.isin(canon.run)]
    if len(layer) < 3 or alone.tasks.nunique() < 3:
        return None
    return transfer.transfer_points(trends.as_matrix(layer), integration.seed_averaged(alone))


def _prediction(study: Study, found, canon: DataFrame) -> DataFrame:
    """Agreement of gradients against what the canon's fine-tunes then did."""
    of_canon = {
        name: found[name][found[name].run.isin(canon.run)] for name in ("improvement", "deviation", "generalisation")
    }
    alone = of_canon["improvement"]
    alone = alone[~alone.tasks.str.contains("+", regex=False)]
    errors = of_canon["generalisation"]
    errors = errors[(errors.group == ATLANTIS) & (errors.layer == study.layer)]
    errors = errors.merge(canon[["run", "tasks", "n_tasks"]], on="run").query("n_tasks == 2")
    targets = {
        "transfer of one-task fine-tunes": integration.seed_averaged(alone),
        "deviation of two-task fine-tunes": prediction.of_pairs(of_canon["deviation"], "deviation"),
        "Atlantis error of two-task fine-tunes": prediction.of_pairs(errors, "error"),
    }
    return prediction.prediction(prediction.square(found["agreement"]), targets)


def _validation(study: Study, out: Path) -> DataFrame:
    """Scores over training from the lines of metrics."""
    import pandas as pd

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


def learned(run: Run, found: Mapping[str, DataFrame]) -> bool:
    """Whether a run answers each of its tasks, on rows of its test set, a third of the way or more from the best
    constant answer to a perfect one. Without scores: whether a probe of one of its layers explains half of the places.
    """
    if "evaluation" not in found:
        probes = found["probes"][found["probes"].run == run.name]
        return bool(probes[probes.step == probes.step.max()].r2.max() > R2)
    scores = found["evaluation"]
    scores = scores[(scores.run == run.name) & (scores.group == "standard")].set_index("task")
    for task in run.data.tasks:
        perfect = 1.0 if TASKS[task].answers else 0.0
        row = scores.loc[task]
        if (row.value - row.constant) / (perfect - row.constant) < LEARNED:
            return False
    return True

"""Analyses of a study of doses, and the tables that follow from them (worldfast.worlds.cities.response)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import HELD_OUT, cka, participation_ratio, probe_alone, probe_generalisation
from worldfast.reading import gradient_agreement
from worldfast.run import Run
from worldfast.studies import Analysis, Study, Trained, shown
from worldfast.training import load
from worldfast.worlds.cities import analyses, response
from worldfast.worlds.cities.analyses import chosen, ridge_of, streams_with, taught_cities, xy
from worldfast.worlds.cities.doses import CONSTANT, design_of, dose_at
from worldfast.worlds.cities.groups import choose_cities
from worldfast.worlds.cities.tables import described

__all__ = ["ANALYSES", "tables"]

GRADIENT_ROWS, GRADIENT_GROUPS = 512, 4  # of each task in a group


def doses(trained: Sequence[Trained], layer: int, old: str) -> pd.DataFrame:
    """A fine-tune at each checkpoint: where the group is that it is taught, and what became of the old map.

    Columns run, group, step, rows, dose; error (of a probe of old cities on the group, 0.1 degree), held_out (on old
    cities that it was not fitted on); alone_r2, alone_error, constant_error (of a probe of the group alone, see
    `probe_alone`); old_cka (of old cities' states with those at step 0); and of the group's and of old cities' states
    since step 0: moved, old_moved (root mean square of the way, in that of states about their mean at step 0),
    moved_dimension, old_moved_dimension (participation ratio of the ways), NaN at step 0.
    """
    (one,) = trained
    is_old = chosen(one, old, "old")
    fit_on, groups = choose_cities(~is_old)
    places, lines = xy(one), []
    first = one.activations[one.activations.steps[0], layer].astype(np.float64)
    spread = _length(first - first.mean(0))
    for name, group in taught_cities(one, one.run.data.taught).items():
        tried = {HELD_OUT: groups[HELD_OUT], name: group}
        for step in one.activations.steps:
            X = one.activations[step, layer].astype(np.float64)
            found = probe_generalisation(X, places, fit_on, tried, ridge=ridge_of(one, int(fit_on.sum())))
            errors = found.groupby("group").error.mean()
            alone = probe_alone(X[group], places[group])
            at = {"run": one.name, "group": name, "step": step, "rows": one.run.rows_at(step)[0]}
            at |= {"dose": dose_at(one.run, step), "error": errors[name], "held_out": errors[HELD_OUT]}
            at |= {"alone_r2": alone.r2, "alone_error": alone.mean_error, "constant_error": alone.constant_error}
            at["old_cka"] = cka(X[is_old], first[is_old])
            for mark, cities in (("", group), ("old_", is_old)):
                way = X[cities] - first[cities]
                moves = bool(np.ptp(way, axis=0).max() > 0)
                at[f"{mark}moved"] = _length(way) / spread
                at[f"{mark}moved_dimension"] = participation_ratio(way) if moves else np.nan
            lines.append(at)
    return pd.DataFrame(lines)


def _length(ways: np.ndarray) -> float:
    return float(np.sqrt(np.square(ways).sum(1).mean()))


def pull(trained: Sequence[Trained]) -> pd.DataFrame:
    """Cosines of the gradients of a pair's two tasks on rows with the group, at each step whose weights it kept.

    Columns as of `gradient_agreement`, but for base; and run, step, rows, dose, group.
    """
    (one,) = trained
    run, parts = one.run, []
    for name, group in run.data.taught.items():
        streams, rows = streams_with(run, group, run.data.tasks, GRADIENT_ROWS, GRADIENT_GROUPS)
        for step in run.kept_steps:
            found = gradient_agreement(load(one.folder, step=step), streams, rows=rows, repeats=GRADIENT_GROUPS)
            at = {"run": one.name, "step": step, "rows": run.rows_at(step)[0], "dose": dose_at(run, step)}
            parts.append(found.drop(columns="base").assign(**at, group=name))
    return pd.concat(parts, ignore_index=True)


# ---- of a study ----


def tuned(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    return [(run,) for run in finished if run.start and run.data.taught]


def pairs_kept(study: Study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Pairs at a constant rate whose weights were kept."""
    ours = (run for (run,) in tuned(study, finished) if run.kept_steps and run.schedule == CONSTANT)
    return [(run,) for run in ours if len(run.data.tasks) == 2]


SHOWN = ("probes", "generalisation")  # of these, only of runs that the page shows: each is large
AS_EVER = ("evaluation", "films", "pca", "cka_shown", "agreement", "patching")
ANALYSES = (
    Analysis("doses", doses, tuned, analyses.given("layer", "old")),
    Analysis("pull", pull, pairs_kept),
    *(Analysis(one.kind, one.make, shown, one.options) for one in analyses.ANALYSES if one.kind in SHOWN),
    *(one for one in analyses.ANALYSES if one.kind in AS_EVER),
)


def tables(study: Study, out: Path, made: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """All tables of a study of doses: those that its analyses made, and what follows over seeds.

    Raises
    ------
    ValueError
        No fine-tune of it was taught a group.
    """
    found = described(study, out, made)
    if "doses" not in found:
        raise ValueError(
            f"study {study.name!r}: no finished run of it is a fine-tune that was taught a group: a dose is rows of "
            "fine-tuning. Add some, such as worldfast.worlds.cities.dose_runs(recipe, base, tasks)"
        )
    about = pd.DataFrame([{"run": run.name} | design_of(run) for run in study.runs if run.start])
    whole = found["runs"][["run", "base", "seed"]].merge(about).merge(found["doses"])
    found["doses"] = whole
    if "pull" in found:
        of_pairs = found["pull"][found["pull"].task != found["pull"].other]
        whole = whole.merge(of_pairs[["run", "group", "step", "cosine"]], how="left")
    found["response"] = response.response(whole)
    found["levels"] = response.levels(whole)
    found["contrast"] = response.contrast(whole)
    beside = response.beside(whole)
    if len(beside):
        found["beside"] = beside
        found["beside_over_tasks"] = response.beside_over_tasks(whole)
    return found

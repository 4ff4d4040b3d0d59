"""Analyses that suit any world: what a study computes of its runs when it names none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import combinations

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import (
    cka_over_training,
    film_table,
    held_out,
    linear_probe,
    participation_ratio,
    pca_over_training,
    penalty,
    probe_table,
)
from worldfast.dataset import scores_of
from worldfast.display import count
from worldfast.run import Run
from worldfast.studies.analyses import Analysis, Some, Trained, each, layer_of, scored, shown
from worldfast.studies.results import Findings, RunResult
from worldfast.training import load

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of training, for CKA over it


class Probe:
    """Split of a run's entities for probes, and the penalty of these."""

    def __init__(self, one: Trained, layer: int):
        self.attributes, self.columns = one.activations.attributes, one.activations.columns
        n = len(self.attributes)
        if n < 3:
            raise ValueError(f"{one.name}: a probe needs 3 entities at least, the readout has {n}")
        self.test = held_out(n, max(0.2, 2 / n))
        width = one.activations[one.activations.steps[-1], layer].shape[1]
        self.ridge = penalty(int((~self.test).sum()), width)


def probes(trained: Sequence[Trained]) -> pd.DataFrame:
    """A linear probe of every attribute in every captured layer at every checkpoint.

    Columns run, layer, step, rows, r2_<attribute>, r2 (their mean), n_fitted, n_held_out, ridge (the penalty; 0: none).
    """
    (one,) = trained
    parts, read = [], one.activations
    for layer in read.layers:
        how = Probe(one, layer)
        rows = [one.run.rows_at(step)[0] for step in read.steps]
        about = {"rows": rows, "ridge": how.ridge, "run": one.name, "columns": how.columns}
        parts.append(probe_table(read, [layer], how.attributes, how.test, **about).assign(ridge=how.ridge or 0.0))
    return pd.concat(parts, ignore_index=True).drop(columns=["mean_error", "median_error"])


def groups(trained: Sequence[Trained], layer: int) -> pd.DataFrame:
    """Errors of the probe at the last checkpoint on held-out entities of each group, beside those of the rest.

    Columns run, layer, group, attribute, error and rest (medians, in the attribute's unit; NaN of none), n, n_rest.
    """
    (one,) = trained
    how, last = Probe(one, layer), one.activations[one.activations.steps[-1], layer]
    off = np.abs(linear_probe(last, how.attributes, how.test, how.ridge).predicted - how.attributes)
    table = []
    for group, members in one.activations.groups.items():
        inside, outside = how.test & np.asarray(members), how.test & ~np.asarray(members)
        for k, name in enumerate(how.columns):
            error, rest = (float(np.median(off[of, k])) if of.any() else np.nan for of in (inside, outside))
            found = {"error": error, "rest": rest, "n": int(inside.sum()), "n_rest": int(outside.sum())}
            table.append({"run": one.name, "layer": layer, "group": group, "attribute": name} | found)
    return pd.DataFrame(table)


def evaluation(trained: Sequence[Trained], rows: int) -> pd.DataFrame:
    """Scores on test rows. Columns run, task, group, metric, unit, value, constant, n, unparsable."""
    (one,) = trained
    run, ensemble = load(one.folder)
    n = min(rows, run.stream("test").rows)
    scores = scores_of(run.data, ensemble, 0, n, seed=run.seed, split="test")
    about = {"group": "standard", "metric": "", "unit": ""}
    return pd.DataFrame([{"run": one.name, "task": name} | about | asdict(score) for name, score in scores.items()])


def films(trained: Sequence[Trained], layer: int, drawn: Sequence[int]) -> pd.DataFrame:
    """Film of a run on the page, as of `film_table`; `drawn` are the indices of two attributes, or none."""
    (one,) = trained
    how = Probe(one, layer)
    places = how.attributes[:, list(drawn)] if drawn else None
    how_run = {"ridge": how.ridge, "things": one.things, "run": one.name}
    return film_table(one.activations, layer, how.test, places, **how_run)


def pca(trained: Sequence[Trained], layer: int) -> pd.DataFrame:
    """Share of the variance along the three components of `films`, which the last checkpoint has.

    Columns run, layer, component, explained.
    """
    (one,) = trained
    last = Some(one.activations, steps=one.activations.steps[-1:])
    width = min(3, *last[last.steps[-1], layer].shape)
    explained = np.zeros(3)
    explained[:width] = pca_over_training(last, layer, width).explained
    return pd.DataFrame({"run": one.name, "layer": layer, "component": [1, 2, 3], "explained": explained})


def dimension(trained: Sequence[Trained], layer: int) -> pd.DataFrame:
    """Participation ratio of a layer over training; 0 where all states are equal."""
    (one,) = trained
    table = []
    for step in one.activations.steps:
        X = one.activations[step, layer]
        ratio = participation_ratio(X) if (X != X[0]).any() else 0.0
        at = {"run": one.name, "layer": layer, "step": step, "rows": one.run.rows_at(step)[0]}
        table.append(at | {"participation_ratio": ratio})
    return pd.DataFrame(table)


def cka(trained: Sequence[Trained], layer: int) -> pd.DataFrame:
    """Linear CKA of all pairs at shares of their training."""
    return cka_over_training({one.name: one.activations for one in trained}, layer, SHARES)


# ---- of a study ----


def probed(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    return [(run,) for run in finished if run.readout().columns]


def grouped(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    return [(run,) for run in finished if run.readout().columns and run.readout().groups]


def alike(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs that are read at the same entities as the first, together."""
    runs = study.of_one_world(finished)
    return [tuple(runs)] if len(runs) > 1 else []


def layer_and_axes(study) -> dict:
    return layer_of(study) | {"drawn": list(study.subject.columns_of(study.shown_runs[0].readout()))}


ANALYSES = (
    Analysis("evaluation", evaluation, scored, lambda study: {"rows": study.test_rows}),
    Analysis("probes", probes, probed),
    Analysis("groups", groups, grouped, layer_of),
    Analysis("films", films, shown, layer_and_axes),
    Analysis("pca", pca, shown, layer_of),
    Analysis("dimension", dimension, each, layer_of),
    Analysis("cka", cka, alike, layer_of),
)


# ---- in sentences ----


def findings(study, tables: Mapping[str, pd.DataFrame], films: Sequence[RunResult], matrix: np.ndarray) -> Findings:
    """Return what these analyses found, in plain sentences."""
    return Findings([*_read(films, study), *_scores(tables), *_groups(tables), *_alike(films, matrix, study)])


def _read(films: Sequence[RunResult], study) -> Iterator[str]:
    read = [run for run in films if run.columns and np.isfinite(run.fit[-1])]
    if not read:
        return
    best = max(read, key=lambda run: run.fit[-1])
    each = ", ".join(f"{name} {r2:.2f}" for name, r2 in zip(best.columns, best.r2[-1]))
    among = f"Of {len(read)} models, {best.name} holds most" if len(read) > 1 else f"{best.name}"
    yield (
        f"{among}: a linear probe of layer {study.layer} reads {each} (R² on {int(best.held_out.sum()):,} held-out "
        f"{study.subject.many}, after {count(int(best.rows[-1]), 'row')})."
    )


def _scores(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    if "evaluation" not in tables:
        return
    for task, scores in tables["evaluation"].groupby("task", sort=False):
        low, high = scores.value.min(), scores.value.max()
        between = f"{low:.3g} to {high:.3g}" if low < high else f"{low:.3g}"
        yield f"Asked {task}: {between} on test rows; the best constant answer has {scores.constant.mean():.3g}."


def _groups(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    if "groups" not in tables:
        return
    for group, part in tables["groups"].groupby("group", sort=False):
        ratio = (part.error / part.rest).replace([np.inf, -np.inf], np.nan).mean()
        if np.isfinite(ratio):
            yield f"{group}: the probe errs {ratio:.2f} times as far as on the rest."


def _alike(films: Sequence[RunResult], matrix: np.ndarray, study) -> Iterator[str]:
    pairs = [(matrix[i, j], films[i].name, films[j].name) for i, j in combinations(range(len(films)), 2)]
    pairs = [pair for pair in pairs if np.isfinite(pair[0])]
    if pairs:
        value, a, b = max(pairs)
        least = f"; the least alike pair has {min(pairs)[0]:.2f}" if len(pairs) > 1 else ""
        yield f"Linear CKA at layer {study.layer} of {a} and {b} is {value:.2f}{least}."


def pooled(study, kind_of: Callable[[Run], str], told: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each kind of runs of which means are taken, though more than their seeds differ.

    Parameters
    ----------
    study : Study
    kind_of : callable
        Run -> its kind, in words.
    told : sequence of str
        Fields of data and model by which kinds differ.
    """
    kinds: dict[str, list[Run]] = {}
    for run in study.runs:
        kinds.setdefault(kind_of(run), []).append(run)
    for kind, runs in kinds.items():
        of_data = {name for a in runs for name in _differing(a.data, runs[0].data)}
        of_model = {name for a in runs for name in _differing(a.model, runs[0].model)}
        if more := sorted((of_data | of_model) - {*told, "rows"}):
            yield (
                f"Runs of {kind} differ in more than their seed ({', '.join(more)}): what is said and drawn of them is "
                "their mean, while the tables have each run alone."
            )


def _differing(a, b) -> list[str]:
    """Return the fields in which two specs differ; of specs of two kinds, "model"."""
    if type(a) is not type(b):
        return ["model"]
    return [one.name for one in fields(a) if getattr(a, one.name) != getattr(b, one.name)]

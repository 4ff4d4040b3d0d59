"""Studies of walks on graphs: does a context's map form in a model, and beat nulls without one? arXiv 2501.00070."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldfast import studies
from worldfast.run import Run
from worldfast.studies import Analysis, Findings, RunResult, Scene, Subject, at_end, common_tables, pooled, whole_rows
from worldfast.worlds.walk_runs import model as of_walks
from worldfast.worlds.walk_runs import scaled
from worldfast.worlds.walks.analyses import ANALYSES
from worldfast.worlds.walks.dataset import Dataset

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PRESETS", "Study", "demo", "mini", "model", "paper"]

INIT = 0.02  # standard deviation of first weights: from larger ones recall of the context is learned later
QUESTION = (
    "A model reads walks on a graph whose nodes have names that mean nothing, or something else. Does the graph form "
    "in its states as it reads, and is there more of it than in sums of random vectors?"
)
TERMS = {
    "class mean": "the mean state of a node over its visits in the last names of a context",
    "spectral embedding": "the eigenvectors of the second and third eigenvalue of a graph’s Laplacian matrix",
    "recall of bigrams": "saying what came after the present name before, by how often; no model",
    "induction heads": "heads that attend to what came after the same name earlier",
    "previous-name heads": "heads that attend to the name before",
}
NOTES = (
    "Places follow from two principal components of the mean states of nodes, after whole rows with names of their own."
)


def draw(tables: Mapping, scene: Scene, layer: int) -> list:
    """Draw the figures of a study of walks, and return them with captions."""
    from worldfast.worlds.walks import figures  # imports matplotlib, so only for drawing

    return figures.draw(tables, scene, layer)


def tables(study: studies.Study, out: Path, made: Mapping[str, Sequence[DataFrame]]) -> dict[str, DataFrame]:
    """Return the tables of a study; that of runs also says which graph, names and depth they have."""
    found = common_tables(study, out, made)
    for name in ("graph", "fixed", "home", "length"):
        found["runs"][name] = [getattr(run.data, name) for run in study.runs]
    found["runs"]["named"] = [run.data.names for run in study.runs]
    found["runs"]["depth"] = [run.model.layers for run in study.runs]
    return found


def findings(study, tables: Mapping[str, DataFrame], films: Sequence[RunResult], matrix: np.ndarray) -> Findings:
    """Return what was found, in plain sentences."""
    means = pooled(study, _kind, ("graph", "fixed", "layers"))
    layer = study.layer
    return Findings([*_maps(tables, layer), *_homes(tables, layer), *_rule(tables), *_ablated(tables), *means])


@dataclass(frozen=True)
class Study(studies.Study):
    """Study of walks: all as in worldfast.studies.Study, with the analyses, figures and findings of this world."""

    analyses: tuple[Analysis, ...] = ANALYSES
    tables: Any = tables
    figures: Any = draw
    findings: Any = findings
    subject: Subject = field(default_factory=lambda: Subject("node", "nodes", question=QUESTION))

    def scene_of(self, run: Run) -> Scene:
        return replace(
            super().scene_of(run),
            title="The context’s graph inside the model",
            grouping=("part", "parts"),
            notes=NOTES,
            terms=TERMS,
            example=("the names of a walk", "the name of a neighbour"),
        )


# ---- in sentences ----


def _kind(run: Run) -> str:
    return f"{run.data.graph}, {run.model.layers} layers, {run.data.fixed:g} of rows fixed,"


def _each(table, tables: Mapping[str, DataFrame]) -> Iterator[tuple[str, DataFrame, DataFrame]]:
    """Yield (which runs, in words; their lines; those of their nulls), of whole rows at the end."""
    runs, beside = tables["runs"][["run", "graph", "fixed", "depth"]], whole_rows(tables["nulls"])
    table = table.merge(runs, on="run")
    for (graph, fixed, depth, names), part in table.groupby(["graph", "fixed", "depth", "names"], sort=False):
        rows = "rows with names of their own" if names == "own" else "rows with fixed names"
        null = beside[beside.run.isin(part.run) & (beside.names == names)]
        yield f"{graph}, {depth} layers, {fixed:g} of rows fixed; in {rows}", part, null.groupby("of")


def _maps(tables: Mapping[str, DataFrame], layer: int) -> Iterator[str]:
    if not {"geometry", "nulls"} <= tables.keys():
        return
    table = whole_rows(at_end(tables["geometry"]))
    for what, part, null in _each(table[table.layer == layer], tables):
        r2, ratio, cka = null.r2.mean(), null.ratio.mean(), null.cka.mean()
        most = r2.drop("names").max()
        beats = "more than any null" if part.r2.mean() > most else "no more than the best null, a sum without a model"
        yield (
            f"{what}, R² of places from two components of layer {layer} is {part.r2.mean():.2f}: {beats} (recall "
            f"{r2['recall']:.2f}, mixed with the name before {r2['mixed']:.2f}, with all neighbours "
            f"{r2['whole graph']:.2f}, names alone {r2['names']:.2f}). Neighbours are {part.ratio.mean():.2f} as far "
            f"apart as all pairs (nulls {ratio['recall']:.2f}, {ratio['mixed']:.2f}, {ratio['whole graph']:.2f}, "
            f"{ratio['names']:.2f}); CKA with the spectral embedding is {part.cka.mean():.2f} (nulls "
            f"{cka['recall']:.2f}, {cka['mixed']:.2f}, {cka['whole graph']:.2f}, {cka['names']:.2f})."
        )
        if part.sides.notna().any():
            of_null = null.sides.mean()
            yield (
                f"{what}, R² of the two sides of the graph, between which a walk goes to and fro, is "
                f"{part.sides.mean():.2f} from the same two components (nulls {of_null['recall']:.2f}, "
                f"{of_null['mixed']:.2f}, {of_null['whole graph']:.2f}, {of_null['names']:.2f})."
            )


def _homes(tables: Mapping[str, DataFrame], layer: int) -> Iterator[str]:
    if "geometry" not in tables:
        return
    table = at_end(tables["geometry"]).merge(tables["runs"][["run", "graph", "fixed", "depth"]], on="run")
    table = table[(table.layer == layer) & table.r2_home.notna()]
    for (graph, fixed, depth), part in table.groupby(["graph", "fixed", "depth"], sort=False):
        mean = part.groupby("context")[["r2", "r2_home"]].mean()
        first, last = mean.index[0], mean.index[-1]
        chance = ""
        if "nulls" in tables:
            null = tables["nulls"]
            null = null[null.run.isin(part.run) & (null.of == "names") & (null.names == "own")]
            chance = f"; random vectors have {whole_rows(null).r2_home.mean():.2f}"
        yield (
            f"{graph}, {depth} layers, {fixed:g} of rows fixed: where names are the row’s own, R² of the places that "
            f"they have elsewhere goes from {mean.r2_home[first]:.2f} after {first} names to {mean.r2_home[last]:.2f} "
            f"after {last}{chance}."
        )


def _rule(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if not {"rule", "nulls"} <= tables.keys():
        return
    for what, part, null in _each(whole_rows(at_end(tables["rule"])), tables):
        yield (
            f"{what}, a neighbour has {part.following.mean():.2f} of the next name after whole rows; recall of bigrams "
            f"gives {null.following.mean()['recall']:.2f}, and saying the name before would give 1."
        )


def _ablated(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "ablation" not in tables:
        return
    table = tables["ablation"]
    table = table[table.names == "own"]
    for run, part in table.groupby("run", sort=False):
        k = part[part["heads"].isin(("previous", "induction"))].k.max()
        if not k > 0:  # of fewer than four heads none are ablated
            continue
        mean = part[(part.k == k) | (part.k == 0)].groupby("heads")[["following", "r2"]].mean()
        each = ", ".join(
            f"{mean.following[kind]:.2f} and {mean.r2[kind]:.2f} without {words}"
            for kind, words in (
                ("induction", f"{k} induction heads"),
                ("previous", f"{k} previous-name heads"),
                ("others", f"{k} others"),
            )
            if kind in mean.index
        )
        yield (
            f"{run}: the share given to neighbours and R² of places are {mean.following['none']:.2f} and "
            f"{mean.r2['none']:.2f} with all heads, {each}."
        )


# ---- runs ----


def model(data: Dataset, seed: int, steps: int, checkpoints: int, *, layers: int = 2, **fields) -> Run:
    """Return a run on walks as `worldfast.worlds.walk_runs.model` makes it, warmed up, of small first weights
    unless `model` is given.

    Parameters
    ----------
    data : Dataset
    seed, steps, checkpoints, layers : int
    **fields
        Its others.
    """
    spec = fields.get("model")
    layers = layers if spec is None else getattr(spec, "layers", layers)
    given = {"warmup": 50, "name": f"{data.label}-{layers}layers-s{seed}"}
    run = of_walks(data, seed, steps, checkpoints, layers=layers, **given | fields)
    return run if spec is not None else replace(run, model=replace(run.model, init_std=INIT))


def demo(scale: float = 1.0) -> Study:
    """One small transformer of walks on a 4 x 4 grid whose nodes are named anew in each, and the nulls.

    Parameters
    ----------
    scale : float
        Factor of the batches that it sees.
    """
    run = model(Dataset("grid4"), 0, scaled(3000, scale), 12, hidden=32, batch=32)
    return Study("walks-demo", (run,), layer=2)


def mini(scale: float = 1.0) -> Study:
    """Share of fixed names, three graphs and two depths: which map do models hold, the names' or the context's?

    Parameters
    ----------
    scale : float
        Factor of the batches that each model sees.
    """
    runs = [
        model(Dataset(graph, fixed=fixed), 0, scaled(5000, scale), 10, hidden=32, batch=32, layers=layers)
        for graph in ("grid4", "ring10", "hexagonal2")
        for layers in (2, 4)
        for fixed in (0.0, 0.5, 0.9, 0.99)
    ]
    shown = [run.name for run in runs if run.data.graph == "grid4" and run.data.fixed in (0.0, 0.9)]
    return Study("walks-mini", tuple(runs), layer=2, shown=tuple(shown))


def paper(scale: float = 1.0) -> Study:
    """Rows of 1,400 names as published, larger graphs and models, and walks between cities: days of a GPU.

    Parameters
    ----------
    scale : float
        Factor of the batches that each model sees.
    """
    runs = [
        model(
            Dataset(graph, fixed=fixed, length=1400, names=128),
            seed,
            scaled(20_000, scale),
            20,
            hidden=128,
            batch=64,
            layers=4,
            learning_rate=1e-3,
        )
        for graph in ("grid4", "grid6", "ring10", "hexagonal3", "random16", "cities64")
        for fixed in (0.0, 0.5, 0.9, 0.99)
        for seed in range(2)
    ]
    shown = [run.name for run in runs if run.data.graph == "grid4" and run.seed == 0]
    return Study("walks", tuple(runs), layer=3, shown=tuple(shown))


PRESETS = {"walks-demo": demo, "walks-mini": mini, "walks": paper}

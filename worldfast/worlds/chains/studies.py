"""Studies of walks: when does a model look its chains up, and when does it infer from context? arXiv 2412.01003."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldfast import studies
from worldfast.run import Run
from worldfast.studies import Analysis, Findings, RunResult, Scene, Subject, at_end, common_tables, pooled, whole_rows
from worldfast.worlds.chains.analyses import ANALYSES
from worldfast.worlds.chains.dataset import Dataset
from worldfast.worlds.chains.predictors import NAMES
from worldfast.worlds.walk_runs import model, scaled

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PRESETS", "Study", "demo", "mini", "model", "paper"]

WORDS = {"trained": "chains that were trained on", "fresh": "chains never seen", "blocks": "chains of the other law"}
QUESTION = (
    "A model reads walks through one of N Markov chains. Does it look the chain up among those it was trained on, or "
    "does it infer the next state from its context, so that it holds for chains it has never seen?"
)
TERMS = {
    "Uni-Ret": "chains looked up by how often states came: the posterior mean of their stationary shares",
    "Bi-Ret": "chains looked up by their steps: the posterior mean of what follows the present state",
    "Uni-Inf": "how often states come in the long run, by the steps that were counted in the context",
    "Bi-Inf": "what came after the present state earlier, counted, and one more of each",
    "nearest mixture": "the weighted mean of the four predictors that is nearest to what a model says",
}
NOTES = "Contexts are rows of chains that no model was trained on, coloured by the state that they end in."


def draw(tables: Mapping, scene: Scene, layer: int) -> list:
    """Draw the figures of a study of walks, and return them with captions."""
    from worldfast.worlds.chains import figures  # imports matplotlib, so only for drawing

    return figures.draw(tables, scene, layer)


def tables(study: studies.Study, out: Path, made: Mapping[str, Sequence[DataFrame]]) -> dict[str, DataFrame]:
    """Return the tables of a study; that of runs also says how many chains and states there are."""
    found = common_tables(study, out, made)
    for name in ("chains", "states", "length", "permuted"):
        found["runs"][name] = [getattr(run.data, name) for run in study.runs]
    return found


def findings(study, tables: Mapping[str, DataFrame], films: Sequence[RunResult], matrix: np.ndarray) -> Findings:
    """Return what was found, in plain sentences."""
    means = pooled(study, lambda run: f"{run.data.chains:,} chains", ("chains",))
    return Findings(
        [*_mixtures(tables), *_transience(tables), *_untold(tables), *_order(tables), *_heads(tables), *means]
    )


@dataclass(frozen=True)
class Study(studies.Study):
    """Study of walks: all as in worldfast.studies.Study, with the analyses, figures and findings of this world."""

    analyses: tuple[Analysis, ...] = ANALYSES
    tables: Any = tables
    figures: Any = draw
    findings: Any = findings
    subject: Subject = field(default_factory=lambda: Subject("context", "contexts", axes=(), question=QUESTION))

    def scene_of(self, run: Run) -> Scene:
        scene = super().scene_of(run)
        return replace(
            scene,
            title="Contexts inside the model",
            grouping=("last state", "last states"),
            notes=NOTES,
            terms=TERMS,
            example=("the states of a walk", "the state that comes next"),
        )


# ---- in sentences ----


def _mixtures(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "weights" not in tables:
        return
    table = (
        at_end(whole_rows(tables["weights"]))
        .query("basis == 'predictors'")
        .merge(tables["runs"][["run", "chains"]], on="run")
    )
    off = at_end(whole_rows(tables["divergences"])) if "divergences" in tables else None
    for chains, part in table.groupby("chains"):
        said = []
        for of, title in (("trained", "its own chains"), ("fresh", "chains it has never seen")):
            mean = part[part.set == of][list(NAMES)].mean().dropna()
            said.append(f"{mean.max():.2f} {mean.idxmax()} on {title}")
        runs = "a model" if part.run.nunique() == 1 else f"{part.run.nunique()} models"
        words = f"Of {chains:,} chains {runs} ended as {' and '.join(said)} (weights of the nearest mixture)"
        if off is not None:
            truth = off[off.run.isin(part.run)].groupby("set").truth.mean()
            words += f"; truth is {truth['trained']:.3f} and {truth['fresh']:.3f} nats away"
        yield words + "."


def _transience(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    """Sentences on runs that had inferred what comes next in fresh chains, and did so less at the end."""
    if "divergences" not in tables:
        return
    table = tables["divergences"]
    whole = whole_rows(table).query("set == 'fresh'")
    for run, part in whole.groupby("run", sort=False):
        best, last, first = part.loc[part.truth.idxmin()], part.loc[part.step.idxmax()], part.loc[part.step.idxmin()]
        if best.truth < 0.6 * first.truth and last.truth > 1.2 * best.truth:
            yield (
                f"{run} was nearest to unseen chains after {int(best['rows']):,} rows ({best.truth:.3f} nats), and "
                f"ended {last.truth / best.truth:.1f} times as far ({last.truth:.3f})."
            )


def _untold(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "apart" not in tables:
        return
    table = tables["apart"].merge(tables["runs"][["run", "chains"]], on="run")
    table = whole_rows(table)
    table = table[table.alike & (table.of < table.to)]
    for (chains, a, b), part in table.groupby(["chains", "of", "to"]):
        where = ", ".join(WORDS[of] for of in dict.fromkeys(part.set))
        yield (
            f"With {chains:,} chains {a} and {b} are {part.divergence.mean():.4f} nats apart ({where}): what a "
            "model says does not tell which of them it is, nor do the weights."
        )


def _order(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "shuffled" not in tables:
        return
    table = tables["shuffled"].merge(tables["runs"][["run", "chains"]], on="run")
    for chains, part in table[table.set == "fresh"].groupby("chains"):
        off = part.groupby("kind").model.mean()
        yield (
            f"Of {chains:,} chains: on unseen ones a model is {off['in order']:.3f} nats from the truth, and "
            f"{off['all']:.3f} once the order of its context is shuffled."
        )


def _heads(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "attention" not in tables:
        return
    table = at_end(tables["attention"]).dropna(subset=["induction"])  # NaN of rows too short for a state to come again
    for run, part in table.groupby("run", sort=False):
        before, after = part.loc[part.previous.idxmax()], part.loc[(part.induction - part.chance).idxmax()]
        yield (
            f"{run}: head {int(before['head'])} of block {int(before.block)} attends to the state before with a "
            f"weight of {before.previous:.2f}; head {int(after['head'])} of block {int(after.block)} to states "
            f"that came after the present one earlier with {after.induction:.2f}, where even attention "
            f"has {after.chance:.2f}."
        )


# ---- runs ----


def _study(name: str, runs: Sequence[Run], shown: Sequence[int]) -> Study:
    names = [run.name for run in runs if run.seed == 0 and run.data.chains in shown]
    return Study(name, tuple(runs), layer=2, shown=tuple(names))


def demo(scale: float = 1.0) -> Study:
    """Two small transformers, of 4 chains and of 1,024: one looks its chains up, the other infers.

    Parameters
    ----------
    scale : float
        Factor of the batches that each model sees.
    """
    sets = [Dataset(n, states=5, length=100) for n in (4, 1024)]
    runs = [model(data, 0, scaled(1500, scale), 16, hidden=32, batch=32) for data in sets]
    return _study("chains-demo", runs, (4, 1024))


def mini(scale: float = 1.0) -> Study:
    """Transformers of 4 to 1,024 chains of 10 states, two seeds each: phases over chains and training, small.

    Parameters
    ----------
    scale : float
        Factor of the batches that each model sees.
    """
    runs = [
        model(Dataset(n), seed, scaled(4000, scale), 24, hidden=32, batch=128, learning_rate=1e-3)
        for n in (4, 16, 64, 256, 1024)
        for seed in range(2)
    ]
    return _study("chains-mini", runs, (4, 64, 1024))


def paper(scale: float = 1.0) -> Study:
    """Transformers of 4 to 2,048 chains as published, rows of 512 states, one seed: days of a GPU.

    Parameters
    ----------
    scale : float
        Factor of the batches that each model sees.
    """
    published = {"learning_rate": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 0.01}
    runs = [
        model(Dataset(2**n, length=512), 0, scaled(107_979, scale), 50, hidden=64, batch=128, **published)
        for n in range(2, 12)
    ]
    return _study("chains", runs, (4, 128, 2048))


PRESETS = {"chains-demo": demo, "chains-mini": mini, "chains": paper}

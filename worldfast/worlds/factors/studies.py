"""Studies of trials: how many yes-no questions force a map that holds where no decoder was fitted? arXiv 2407.11249."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldfast import studies
from worldfast.capture import Capture
from worldfast.display import count
from worldfast.errors import one_of, positive, whole
from worldfast.run import Run
from worldfast.studies import Analysis, Findings, RunResult, Scene, Subject, common_tables, layer_of
from worldfast.worlds.factors.analyses import ANALYSES
from worldfast.worlds.factors.dataset import SIGMA, Dataset
from worldfast.worlds.factors.kinds import FAMILIES, OF_RUN, kinds_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["FAMILIES", "PRESETS", "Study", "demo", "mini", "net", "paper"]

QUESTIONS = (2, 3, 6, 12, 24)
BATCH, BATCHES, GPT_BATCHES = 16, 100_000, 20_000
DURATIONS = (5, 10, 40)  # steps of stimulus, beside the published 20
QUESTION = (
    "A net answers yes-no questions about points that it sees through noise and a random encoder. How many does it "
    "take until a linear decoder of its states, fitted on three quadrants of the square, holds in the fourth?"
)
NOTES = (
    "Coloured by quadrant; held out of the decoder is quadrant 1, lower left. R² is 1 − MSE / (1/12), the variance of "
    "the whole square: who knows the quadrant alone has 0.75."
)


def draw(tables: Mapping, scene: Scene, layer: int) -> list:
    """Draw the figures of a study of trials, and return them with captions."""
    from worldfast.worlds.factors import figures  # imports matplotlib, so only for drawing

    return figures.draw(tables, scene, layer)


def tables(study: studies.Study, out: Path, made: Mapping[str, Sequence[DataFrame]]) -> dict[str, DataFrame]:
    """Return the tables of a study; that of runs also has what tells runs apart."""
    found = common_tables(study, out, made)
    for name, value_of in OF_RUN.items():
        found["runs"][name] = [value_of(run) for run in study.runs]
    return found


def findings(study, tables: Mapping[str, DataFrame], films: Sequence[RunResult], matrix: np.ndarray) -> Findings:
    """Return what was found, in plain sentences."""
    return Findings([*_maps(tables), *_answers(tables), *_angles(tables), *_attractors(tables)])


@dataclass(frozen=True)
class Study(studies.Study):
    """Study of trials: all as in worldfast.studies.Study, with the analyses, figures and findings of this world."""

    analyses: tuple[Analysis, ...] = ANALYSES
    tables: Any = tables
    figures: Any = draw
    findings: Any = findings
    subject: Subject = field(default_factory=lambda: Subject("trial", "trials", question=QUESTION))

    def scene_of(self, run: Run) -> Scene:
        scene = super().scene_of(run)
        return replace(scene, title="The square inside the net", grouping=("quadrant", "quadrants"), notes=NOTES)


# ---- in sentences ----


def _maps(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "decoders" not in tables:
        return
    table, kinds = tables["decoders"], kinds_of(tables["runs"])
    for kind, part in table.groupby(table.run.map(kinds), sort=False):
        low, middle, high = part.ood.quantile([0.25, 0.5, 0.75])
        nets = part.groupby("run").ood.median()
        of_nets = f"medians of its {len(nets)} nets {nets.min():.3f} to {nets.max():.3f}"
        limit = part["bound"].max()
        yield (
            f"{kind}: a decoder has a median R² of {middle:.3f} in the quadrant that it was not fitted on (quartiles "
            f"{low:.3f} to {high:.3f} over quadrants and fits, {of_nets if len(nets) > 1 else 'one net'}), and "
            f"{part.inside.median():.3f} when it was"
            f"{f'; no unbiased estimate exceeds {limit:.3f}' if np.isfinite(limit) else ''}."
            f"{_by_least_squares(tables, kinds[kinds == kind].index)}"
        )


def _by_least_squares(tables: Mapping[str, DataFrame], runs) -> str:
    """Return what decoders by least squares have at the end of training, in a quadrant and in a half left out."""
    said = ""
    if "left_out" in tables:
        ends = tables["left_out"].query("run in @runs")
        nets = ends[ends.step == ends.groupby("run").step.transform("max")].groupby("run").ood.median()
        said = f" By least squares it is {nets.median():.3f} (medians of nets {nets.min():.3f} to {nets.max():.3f})"
        if "half_spaces" in tables:
            halves = tables["half_spaces"].query("run in @runs").groupby("run").ood.median()
            said += f", and {halves.median():.3f} in a half of the square that is left out"
        said += "."
    return said


def _answers(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "observers" not in tables:
        return
    table = tables["observers"]
    for kind, part in table.groupby(table.run.map(kinds_of(tables["runs"])), sort=False):
        yield (
            f"{kind}: at the decision {part.accuracy.median():.3f} of the answers are right, where the best observer "
            f"has {part.best_accuracy.median():.3f}. From a net's answers alone the point follows with an R² of "
            f"{part.trilaterated.median():.3f}, from the best answers with {part.optimal.median():.3f} (medians of "
            f"{len(part)} {'net' if len(part) == 1 else 'nets'})."
        )


def _angles(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "decoders" not in tables:
        return
    table = tables["decoders"].dropna(subset="angle")
    family = tables["runs"].set_index("run").family
    for name, part in table.groupby(table.run.map(family), sort=False):
        low, middle, high = part.angle.quantile([0.25, 0.5, 0.75])
        yield (
            f"{name}: decoders read the latent numbers along directions {middle:.0f}° apart (median over "
            f"{count(part.run.nunique(), 'net')}, their quadrants and fits; quartiles {low:.0f}° to {high:.0f}°)."
        )


def _attractors(tables: Mapping[str, DataFrame]) -> Iterator[str]:
    if "attractor" not in tables:
        return
    table = tables["attractor"]
    nets = table.assign(moved=table.speed / table.length).groupby("run", sort=False)
    nets = nets[["moved", "directions", "unstable"]].median()
    for kind, part in nets.groupby(nets.index.map(kinds_of(tables["runs"])), sort=False):
        middle = part.median()
        yield (
            f"{kind}: at the slowest points under fixation that the search finds, a step moves a state by "
            f"{middle.moved:.1%} of its length. The number of directions that neither shrink nor grow there by more "
            f"than a tenth is {middle.directions:g}, that of those which grow faster {middle.unstable:g} (medians of "
            f"{len(part)} {'net' if len(part) == 1 else 'nets'}). On a plane of fixed points nothing would move, and "
            "the numbers be 2 and 0."
        )


# ---- runs ----


def net(family: str = "rnn", seed: int = 0, batches: int | None = None, checkpoints: int = 20, **fields) -> Run:
    """Return a run of the source: Adam at 1e-3, batches of 16 new trials, encoder and hyperplanes of its own.

    Parameters
    ----------
    family : {"rnn", "kept", "lstm", "gpt"}
        A ReLU network without a leak, as the published leak of dt / tau = 1 has it; one whose units keep their state;
        an LSTM; GPT-2.
    seed : int
    batches : int, optional
        Steps of training; by default, as published.
    checkpoints : int
    **fields
        Of the dataset.
    """
    one_of("family", family, FAMILIES)
    published = GPT_BATCHES if family == "gpt" else BATCHES
    batches = published if batches is None else whole("batches", batches, 1)
    data = Dataset(rows=batches * BATCH, draw=seed, **fields)
    marks = [f"{name}{value:g}" for name, value in fields.items() if name in ("sigma", "steps", "correlation")]
    marks += [data.encoder or "bare"] if data.encoder != "relu" else []
    return Run(
        data,
        seed=seed,
        name="-".join([family, data.label, *marks, f"s{seed}"]),
        model=FAMILIES[family],
        batch=BATCH,
        learning_rate=1e-3,
        warmup=0,
        schedule="constant",
        weight_decay=0.0,
        clip=None,
        checkpoints=checkpoints,
        capture=Capture(layers=(1,)),
    )


def study(
    name: str, runs: Sequence[Run], shown: Sequence[str], fits: int, batches: int = 0, points: tuple = (128, 10_000)
) -> Study:
    """Return a study with as many fits of published decoders, and batches of a fit; 0: as many as published. `points`
    are starts and steps of the search for fixed points.
    """
    given = {
        "decoders": lambda study: layer_of(study) | {"batches": batches, "fits": fits, "sigma": None},
        "decoders_at_default": lambda study: layer_of(study) | {"batches": batches, "fits": fits, "sigma": SIGMA},
        "attractor": lambda study: {"starts": points[0], "iterations": points[1]},
    }
    analyses = tuple(replace(one, options=given.get(one.kind, one.options)) for one in ANALYSES)
    return Study(name, tuple(runs), layer=1, shown=tuple(shown), analyses=analyses)


def _batches(number: int, scale: float) -> int:
    return max(20, round(number * positive("scale", scale)))


def demo(scale: float = 1.0) -> Study:
    """Six small RNNs that answer 2 or 24 questions: does the map reach into a quadrant that no decoder saw?

    Parameters
    ----------
    scale : float
        Factor of the batches that each net sees.
    """
    runs = [net("rnn", seed, _batches(5000, scale), 20, n=n) for n in (2, 24) for seed in range(3)]
    return study("factors-demo", runs, [run.name for run in runs if run.seed == 0], 1, 1000, points=(32, 4000))


def mini(scale: float = 1.0) -> Study:
    """RNN, LSTM and GPT, 2 to 24 questions, five nets each, at equal batches: arXiv 2407.11249, small.

    Parameters
    ----------
    scale : float
        Factor of the batches that each net sees.
    """
    batches = _batches(5000, scale)
    runs = [
        net(family, seed, batches, 10, n=n) for family in ("rnn", "lstm", "gpt") for n in QUESTIONS for seed in range(5)
    ]
    shown = [run.name for run in runs if run.seed == 0 and run.data.n in (2, 24)]
    return study("factors-mini", runs, shown, fits=1, batches=1000)


def paper(scale: float = 1.0) -> Study:
    """Sweeps of the figures of arXiv 2407.11249: questions, noise, dimension, duration, correlation; five nets a point.

    Questions of each family, with the squaring encoder (RNN) and at free reaction times (RNN); noise in training at 2,
    6 and 24 questions; questions by latent numbers (RNN, GPT), wherever questions are no fewer; duration, at free
    reaction times as in the source and at fixed ones; and correlation. Durations and correlations, and that both are at
    24 questions, are chosen here: the source at hand does not state them. At fixed reaction times nets learn by cross
    entropy; those of noise, duration and correlation learned tanh by mean square in the source (`output="tanh"`). Other
    kinds of noise and questions, and other recurrent weights, are in none of these sweeps.

    Parameters
    ----------
    scale : float
        Factor of the batches that each net sees.
    """
    points: list[tuple[str, dict]] = [(family, {"n": n}) for family in FAMILIES for n in QUESTIONS]
    points += [("rnn", {"n": n, "encoder": "square"}) for n in QUESTIONS]
    points += [("rnn", {"n": n, "sigma": s}) for n in (2, 6, 24) for s in (0.1, 0.3, 0.4, 0.6)]
    points += [(of, {"questions": "random", "n": n, "dims": d}) for of in ("rnn", "gpt") for n, d in _dimensions()]
    points += [("rnn", {"n": 24, "steps": steps}) for steps in DURATIONS]
    points += [("rnn", {"n": 24, "correlation": rho}) for rho in (0.25, 0.5, 0.75, 0.9)]
    points += [("rnn", {"n": n, "reaction": "free"}) for n in QUESTIONS]
    points += [("rnn", {"n": 24, "reaction": "free", "steps": steps}) for steps in DURATIONS]
    runs = []
    for family, fields in points:
        for seed in range(5):
            batches = _batches(GPT_BATCHES if family == "gpt" else BATCHES, scale)
            runs.append(net(family, seed, batches, 40, **fields))
    shown = [f"{family}-even{n}-s0" for family in ("rnn", "gpt") for n in (2, 24)]
    return study("factors", runs, shown, fits=5)


def _dimensions() -> list[tuple[int, int]]:
    """(N, D) of the sweep of dimensions, the source's; those of fewer questions than latent numbers place no point."""
    return [(n, d) for d in (2, 4, 6, 8, 10) for n in (3, 6, 9, 12) if n >= d]


PRESETS = {"factors-demo": demo, "factors-mini": mini, "factors": paper}

"""Analyses of models of trials: does the map of a decoder hold in the quadrant that it was not fitted on?

Source: arXiv 2407.11249.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from worldfast.analysis import adam_decoders, angles, film_table, held_out, left_out, linear_probe, r2_of
from worldfast.models import RecurrentSpec
from worldfast.run import Run
from worldfast.studies import ANALYSES as OF_ANY_WORLD
from worldfast.studies import Analysis, Trained, each, layer_of, shown
from worldfast.training import load
from worldfast.worlds.factors import theory
from worldfast.worlds.factors.dataset import SIGMA, Dataset, quadrants
from worldfast.worlds.factors.states import attractor, rates, read, spectrum, trajectories, units
from worldfast.worlds.factors.trials import Trials

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ANALYSES", "VARIANCE", "published_batches"]

VARIANCE = 1 / 12  # of a latent number
BATCH, TESTED, RATE = 16, 40 * 16, 3e-3  # trials of a batch and of a test, and learning rate of published decoders
BATCHES = {2: 3000, 3: 3000, 6: 2000, 12: 1000, 24: 1000}  # published, by the number of questions
LEFT = 1  # the quadrant that is left out of films: both of the last two latent numbers below 0
SHARE = 0.25  # of trials, on which decoders by least squares are tried


def published_batches(n: int) -> int:
    """Return the batches of a published decoder for n questions: of the nearest number that was published."""
    return BATCHES[min(BATCHES, key=lambda known: (abs(np.log(known / n)), known))]


def limit(data: Dataset, sigma: float, t: int) -> float:
    """Return the bound of `theory.bound` after t observations, NaN where there is none.

    It is for noise that is fresh at every step, alike in all latent numbers and before the encoder.
    """
    return theory.bound(sigma, t) if data.noise in ("isotropic", "gumbel") and t > 0 else np.nan


# ---- of captured states ----


def regions_of(one: Trained) -> np.ndarray:
    """Return the quadrant of each trial that a run is read at, int64 [n]."""
    return quadrants(one.activations.attributes)


def left_out_over_training(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Decoders by least squares at every checkpoint, tried in the quadrant that they were not fitted on.

    Columns run, layer, step, rows, quadrant, ood (R2 there, 1 - 12 MSE), inside (that of a decoder of all quadrants),
    angle (mean of the pairs of latent numbers' directions, degrees), bound (of `limit`, at the noise and the step of
    the trial at which the model is read), n_fitted, n_tried.
    """
    import pandas as pd

    (one,) = trained
    read, regions, table = one.activations, regions_of(one), []
    test, about, data = held_out(len(regions), SHARE), read.readout.about, one.run.data
    last = about["steps"][-1]
    bound = limit(data, about["sigma"], last + 1 if data.reaction == "free" else min(last, data.steps))
    for step in read.steps:
        found = left_out(read[step, layer], read.attributes, regions, test, VARIANCE)
        at = {"run": one.name, "layer": layer, "step": step, "rows": one.run.rows_at(step)[0]}
        for q, ood, inside, angle in zip(*found):
            counts = {"n_fitted": int((~test & (regions != q)).sum()), "n_tried": int((test & (regions == q)).sum())}
            table.append(at | {"quadrant": q, "ood": ood, "inside": inside, "angle": angle, "bound": bound} | counts)
    return pd.DataFrame(table)


def half_spaces(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Decoders by least squares at the last checkpoint, fitted where a latent number has one sign, tried in the rest.

    Columns run, layer, step, latent, side ("below" or "above": which half is left out), ood (R2 there, 1 - 12 MSE over
    all latent numbers), inside (that of a decoder of both halves), angle (degrees), n_fitted, n_tried.
    """
    import pandas as pd

    (one,) = trained
    read, y, table = one.activations, one.activations.attributes, []
    test, step = held_out(len(y), SHARE), read.steps[-1]
    for j, latent in enumerate(read.columns):
        above = y[:, j] > 0
        found = left_out(read[step, layer], y, above.astype(np.int64), test, VARIANCE)
        for side, ood, inside, angle in zip(("below", "above"), *found[1:]):
            left = above == (side == "above")
            counts = {"n_fitted": int((~test & ~left).sum()), "n_tried": int((test & left).sum())}
            at = {"run": one.name, "layer": layer, "step": step, "latent": latent, "side": side}
            table.append(at | {"ood": ood, "inside": inside, "angle": angle} | counts)
    return pd.DataFrame(table)


def probes(trained: Sequence[Trained]) -> DataFrame:
    """The decoder of the films at every checkpoint and layer: fitted on all quadrants but the first, and tried there.

    Columns run, layer, step, rows, r2_<attribute> (1 - 12 MSE), r2 (their mean), n_fitted, n_held_out, ridge (0: none).
    """
    import pandas as pd

    (one,) = trained
    read, y, table = one.activations, one.activations.attributes, []
    test = regions_of(one) == LEFT
    for layer in read.layers:
        for step in read.steps:
            predicted = linear_probe(read[step, layer], y, test).predicted[test]
            r2 = {
                name: float(r2_of(y[test][:, [k]], predicted[:, [k]], VARIANCE)) for k, name in enumerate(read.columns)
            }
            at = {"run": one.name, "layer": layer, "step": step, "rows": one.run.rows_at(step)[0]}
            at |= {f"r2_{name}": value for name, value in r2.items()} | {"r2": np.mean([*r2.values()])}
            table.append(at | {"n_fitted": int((~test).sum()), "n_held_out": int(test.sum()), "ridge": 0.0})
    return pd.DataFrame(table)


def films(trained: Sequence[Trained], layer: int) -> DataFrame:
    """The square as a model sees it, as of `film_table`: a decoder of three quadrants places the trials of all four.

    Of one latent number there is no square, and the film has components alone.
    """
    (one,) = trained
    latents = one.activations.attributes
    places = latents[:, -2:] if latents.shape[1] > 1 else None
    return film_table(one.activations, layer, regions_of(one) == LEFT, places, things=one.things, run=one.name)


# ---- of models ----


def decoders(trained: Sequence[Trained], layer: int, batches: int, fits: int, sigma: float | None) -> DataFrame:
    """Decoders as published, of the last checkpoint: by Adam, on new trials of three quadrants; tried in the fourth.

    `batches` of 16 trials; 0: as many as published for the number of questions. Points are uncorrelated; `sigma` is
    that of their noise, None: that of training. At free reaction times there is a step of stimulus more than in
    training, as in the source.

    Columns run, layer, quadrant, fit, sigma, steps (of stimulus), batches, ood (R2 there, 1 - 12 MSE), inside (of a
    decoder that was fitted on all four), angle (mean of the pairs of latent numbers, degrees), bound (of `limit`).
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    data, table = run.data, []
    data = replace(data, correlation=0.0, steps=data.steps + (data.reaction == "free"))
    stream = Trials(data, run.seed, "decoders", sigma)
    bound = limit(data, stream.sigma, data.steps)
    S = batches or published_batches(data.n)
    kinds = 1 << min(2, data.dims)
    pool = S * BATCH * kinds // (kinds - 1) * 11 // 10 + 64 * kinds  # of which a quadrant less holds enough
    tried, where = read(
        ensemble, data, stream, 0, TESTED * kinds * 5 // 4, layer
    )  # of each quadrant enough, beyond doubt
    for fit in range(fits):
        X, y = read(ensemble, data, stream, (1 << 24) * (fit + 1), pool, layer)
        regions = quadrants(y)
        chosen = [np.flatnonzero(regions != k + 1)[: S * BATCH] for k in range(kinds)] + [np.arange(S * BATCH)]
        weight, bias = adam_decoders(X, y, np.stack(chosen).reshape(kinds + 1, S, BATCH), RATE, seed=fit)
        for k in range(kinds):
            q = k + 1
            here = np.flatnonzero(quadrants(where) == q)[:TESTED]
            ood, inside = (float(r2_of(where[here], tried[here] @ weight[i] + bias[i], VARIANCE)) for i in (k, kinds))
            angle = angles(weight[k]).mean() if data.dims > 1 else np.nan
            at = {"run": one.name, "layer": layer, "quadrant": q, "fit": fit, "sigma": stream.sigma}
            at |= {"steps": data.steps, "batches": S, "ood": ood, "inside": inside, "angle": angle}
            table.append(at | {"bound": bound})
    return pd.DataFrame(table)


def observers(trained: Sequence[Trained], trials: int) -> DataFrame:
    """A model's answers at the decision beside what any observer could give, for half-spaces and normal noise.

    Columns run, sigma, steps, accuracy and best_accuracy; bound (1 - 12 sigma^2 / t), and the R2 (1 - 12 MSE) of points
    that follow from the model's answers (trilaterated) and from the best ones (optimal).
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    data = run.data
    stream, given = Trials(data.decorrelated, run.seed, "observers"), (data.asked, data.sigma, data.steps)
    drawn = stream.drawn(0, trials)
    rows = stream.packed(drawn.inputs, np.arange(1, trials + 1) * data.longest - 1)
    logits = ensemble.outputs(rows, 0).numpy(force=True).astype(np.float64)
    if data.squashed == "tanh":  # between -1 and 1: half of 1 + tanh z is the logistic function of 2 z
        logits *= 2
    right = (logits > 0) == (drawn.targets[:, -1] > 0.5)
    noise = np.random.default_rng(run.seed).normal(size=drawn.latents.shape)
    means = drawn.latents + noise * data.sigma / np.sqrt(data.steps)
    points = {
        "trilaterated": theory.trilaterated(*theory.log_chances(logits), *given),
        "optimal": theory.trilaterated(*theory.best_answers(means, *given), *given),
    }
    at = {"run": one.name, "sigma": data.sigma, "steps": data.steps, "accuracy": float(right.mean())}
    at |= {"best_accuracy": theory.best_accuracy(*given), "bound": theory.bound(data.sigma, data.steps)}
    return pd.DataFrame([at | {name: float(r2_of(drawn.latents, x, VARIANCE)) for name, x in points.items()}])


# ---- of a study ----


def recurrent(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs of RNNs of one layer at fixed reaction times."""
    plain = (run for run in finished if isinstance(run.model, RecurrentSpec) and run.data.reaction == "fixed")
    return [(run,) for run in plain if run.model.kind == "rnn" and run.model.layers == 1]


def drawn_recurrent(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Those of `recurrent` that the page shows."""
    some = {group[0].id for group in shown(study, finished)}
    return [group for group in recurrent(study, finished) if group[0].id in some]


def on_a_square(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs that the page shows, of two latent numbers."""
    return [group for group in shown(study, finished) if group[0].data.dims == 2]


def of_other_noise(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs that were trained with other noise than the default: the source does not say with which decoders were."""
    return [(run,) for run in finished if run.data.sigma != SIGMA and run.data.noise != "encoded"]


def answering(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs whose questions are half-spaces, answered at a decision under normal noise that is alike in all numbers."""
    alike = {"noise": "isotropic", "reaction": "fixed", "correlation": 0.0}
    return [
        (run,)
        for run in finished
        if run.data.questions in ("even", "random")
        and all(getattr(run.data, name) == value for name, value in alike.items())
    ]


ANALYSES = (
    *(one for one in OF_ANY_WORLD if one.kind in ("evaluation", "pca", "dimension", "cka")),
    Analysis("probes", probes),
    Analysis("films", films, shown, layer_of),
    Analysis("left_out", left_out_over_training, each, layer_of),
    Analysis("half_spaces", half_spaces, each, layer_of),
    Analysis("decoders", decoders, each, lambda study: layer_of(study) | {"batches": 0, "fits": 5, "sigma": None}),
    Analysis(
        "decoders_at_default",
        decoders,
        of_other_noise,
        lambda study: layer_of(study) | {"batches": 0, "fits": 5, "sigma": SIGMA},
    ),
    Analysis("observers", observers, answering, lambda study: {"trials": 20_000}),
    Analysis("units", units, each, layer_of),
    Analysis("rates", rates, on_a_square, layer_of),
    Analysis("trajectories", trajectories, drawn_recurrent),
    Analysis("spectrum", spectrum, drawn_recurrent),
    Analysis("attractor", attractor, recurrent, lambda study: {"starts": 128, "iterations": 10_000}),
)

"""Analyses of models of trials: does the map of a decoder hold in the quadrant that it was not fitted on?

Source: arXiv 2407.11249.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldfast.analysis import (
    adam_decoders,
    angles,
    film_table,
    fixed_points,
    held_out,
    left_out,
    linear_probe,
    mixed_selectivity,
    r2_of,
    sparsity,
    steps_of_return,
)
from worldfast.models import GPTSpec, RecurrentSpec
from worldfast.rows import Rows
from worldfast.run import Run
from worldfast.studies import ANALYSES as OF_ANY_WORLD
from worldfast.studies import Analysis, Trained, each, layer_of, shown
from worldfast.training import load
from worldfast.worlds.factors import theory
from worldfast.worlds.factors.dataset import SIGMA, Dataset, quadrants
from worldfast.worlds.factors.trials import Drawn, Trials

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ANALYSES", "VARIANCE", "published_batches"]

VARIANCE = 1 / 12  # of a latent number
BATCH, TESTED, RATE = 16, 40 * 16, 3e-3  # trials of a batch and of a test, and learning rate of published decoders
BATCHES = {2: 3000, 3: 3000, 6: 2000, 12: 1000, 24: 1000}  # published, by the number of questions
LEFT = 1  # the quadrant that is left out of films: both of the last two latent numbers below 0
SHARE = 0.25  # of trials, on which decoders by least squares are tried
TRIALS = 40  # without noise, from whose states fixed points are sought
QUIET = 1000  # trials without noise, for sparsity
GRID = 8  # points along each latent number, for mixed selectivity
NEUTRAL = 0.1  # share by which a state grows or shrinks in a step, up to which a direction counts as neutral
AT_ONCE = 4096  # trials that a model reads
DRAWN, SHARES = 3, 10  # components along which states are drawn, and those whose share of the variance is kept


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
    """The square as a model sees it, as of `film_table`: a decoder of three quadrants places the trials of all four."""
    (one,) = trained
    places = one.activations.attributes[:, -2:]
    return film_table(one.activations, layer, regions_of(one) == LEFT, places, things=one.things, run=one.name)


# ---- of models ----


def read(ensemble, data: Dataset, stream: Trials, start: int, n: int, layer: int, step: int | None = None):
    """Return a model's states in new trials, float32 [n, H], at a step or at the decision, and the latents [n, D]."""
    step = data.decision if step is None else step
    states, latents = [], []
    for at in range(start, start + n, AT_ONCE):
        drawn = stream.drawn(at, min(AT_ONCE, start + n - at))
        rows: Rows = stream.packed(drawn.inputs, np.arange(len(drawn.inputs)) * data.longest + step)
        states.append(ensemble.states(rows, 0, [layer])[0].numpy(force=True))
        latents.append(drawn.latents)
    return np.concatenate(states), np.concatenate(latents)


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


def units(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Units at the last step of the stimulus, without noise.

    Columns run, layer, unit, sparsity (over random points), x1 and x2: correlations of the last two latent numbers with
    its rate averaged over the other, on a grid; NaN of models whose latent numbers are not two. The latter of GPT are
    those of value vectors, as in the source.
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    data = run.data
    stream, last = Trials(data.decorrelated, run.seed, "units", 0.0), data.decision - (data.reaction == "fixed")
    X, _ = read(ensemble, data, stream, 0, QUIET, layer, last)
    mixed = np.full((X.shape[1], 2), np.nan)
    if data.dims == 2:
        mixed = mixed_selectivity(responses(run, ensemble, layer), (GRID, GRID))
    columns = {"unit": np.arange(X.shape[1]), "sparsity": sparsity(X), "x1": mixed[:, 0], "x2": mixed[:, 1]}
    return pd.DataFrame({"run": one.name, "layer": layer} | columns)


def rates(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Each unit's rate at each point of a grid, at the last step of the stimulus, without noise.

    Columns run, layer, unit, x1, x2, rate: of GPT, of its value vectors, as in `units`.
    """
    import pandas as pd

    (one,) = trained
    X, points = responses(*load(one.folder), layer), _grid()
    columns = {"unit": np.repeat(np.arange(X.shape[1]), len(points))}
    columns |= {f"x{k + 1}": np.tile(points[:, k], X.shape[1]) for k in range(2)}
    return pd.DataFrame({"run": one.name, "layer": layer} | columns | {"rate": X.T.ravel()})


def responses(run: Run, ensemble, layer: int) -> np.ndarray:
    """Return what units say of the points of the grid at the last step of the stimulus, without noise, [GRID^2, H]."""
    data, points = run.data, _grid()
    stream, last = Trials(data.decorrelated, run.seed, "units", 0.0), data.decision - (data.reaction == "fixed")
    inputs = stream.drawn(0, len(points), points).inputs
    rows = stream.packed(inputs, np.arange(len(inputs)) * data.longest + last)
    of_gpt = isinstance(run.model, GPTSpec)
    found = ensemble.values(rows, 0, max(layer, 1)) if of_gpt else ensemble.states(rows, 0, [layer])[0]
    return found.numpy(force=True)


def _grid() -> np.ndarray:
    at = (np.arange(GRID) + 0.5) / GRID - 0.5
    return np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def attractor(trained: Sequence[Trained], starts: int, iterations: int) -> DataFrame:
    """Fixed points of an RNN under fixation at x = 0, from states of noise-free trials with noise of 0 to 6 a unit.

    Where no fixed point is near a start, the search ends at a point that is merely slow: `speed` says how slow.

    Columns run, point, starts, length (of h), speed (length of F(h) - h), directions (eigenvalues of the derivative of
    F(h) - h of at most 0.1 in size: along them a state neither returns nor leaves within 10 steps), unstable (those
    along which it leaves: |1 + eigenvalue| above 1.1), eigenvalue_1 to 4 (real parts, descending), amplification_1 and
    2 (times along the first two directions in units of a unit's own, dt / |ln |1 + eigenvalue|| / tau, where the leak
    is dt / tau), component_1 to 3 (where the point lies in the frame of `trajectories`).
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    random = np.random.default_rng(run.seed)
    drawn, states = _quiet(run, ensemble)
    begin = states[random.integers(0, len(states), starts)] + random.uniform(0, 6, (starts, states.shape[1]))
    at_rest = torch.from_numpy(drawn.inputs[0, 0].copy())  # the step before the stimulus
    found = fixed_points(ensemble.step_of(0, at_rest), begin, iterations)
    columns = {"point": np.arange(len(found.points)), "starts": found.starts}
    columns |= {"length": np.linalg.norm(found.points, axis=1), "speed": found.speed}
    columns["directions"] = (np.abs(found.eigenvalues) <= NEUTRAL).sum(1)
    columns["unstable"] = (np.abs(1 + found.eigenvalues) > 1 + NEUTRAL).sum(1)
    columns |= {f"eigenvalue_{k + 1}": found.eigenvalues.real[:, k] for k in range(min(4, states.shape[1]))}
    columns |= {
        f"amplification_{k + 1}": run.model.leak * steps_of_return(found.eigenvalues[:, k])
        for k in range(min(2, states.shape[1]))
    }
    middle, axes, _ = _components(states)
    columns |= _along((found.points - middle) @ axes)
    return pd.DataFrame({"run": one.name} | columns)


def trajectories(trained: Sequence[Trained]) -> DataFrame:
    """States of an RNN at every step of trials without noise, along the principal components of them all.

    The trials are those from whose states `attractor` starts. Columns run, trial, step, quadrant (of the point),
    component_1 to 3.
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    drawn, states = _quiet(run, ensemble)
    middle, axes, _ = _components(states)
    T = run.data.longest
    columns = {"trial": np.repeat(np.arange(TRIALS), T), "step": np.tile(np.arange(T), TRIALS)}
    columns["quadrant"] = np.repeat(quadrants(drawn.latents), T)
    return pd.DataFrame({"run": one.name} | columns | _along((states - middle) @ axes))


def spectrum(trained: Sequence[Trained]) -> DataFrame:
    """Shares of the variance of the states of `trajectories`: columns run, component (from 1), share."""
    import pandas as pd

    (one,) = trained
    _, _, share = _components(_quiet(*load(one.folder))[1])
    share = share[:SHARES]
    return pd.DataFrame({"run": one.name, "component": np.arange(1, 1 + len(share)), "share": share})


def _quiet(run: Run, ensemble) -> tuple[Drawn, np.ndarray]:
    """Return trials without noise, and the states of an RNN at all their steps, [TRIALS steps, H]."""
    stream = Trials(run.data.decorrelated, run.seed, "attractor", 0.0)
    drawn = stream.drawn(0, TRIALS)
    rows = stream.packed(drawn.inputs, np.arange(TRIALS * run.data.longest))
    return drawn, ensemble.states(rows, 0, [1])[0].numpy(force=True)


def _components(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the middle of states [n, H], their first components [H, DRAWN], and the share of the variance of each.

    The largest weight of a component is above 0, so that whoever makes a frame of the same states makes the same.
    """
    X = states.astype(np.float64)
    middle = X.mean(0)
    _, size, ways = np.linalg.svd(X - middle, full_matrices=False)
    ways *= np.sign(ways[np.arange(len(ways)), np.abs(ways).argmax(1)])[:, None]
    axes = np.zeros((X.shape[1], DRAWN))  # of fewer units than components the rest are 0
    axes[:, : len(ways)] = ways[:DRAWN].T
    return middle, axes, size**2 / ((size**2).sum() or 1.0)


def _along(places: np.ndarray) -> dict[str, np.ndarray]:
    return {f"component_{k + 1}": places[:, k] for k in range(DRAWN)}


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

"""Analyses of what is inside models of trials: units over the square, states over a trial, fixed points.

Source: arXiv 2407.11249.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldfast.analysis import fixed_points, mixed_selectivity, sparsity, steps_of_return
from worldfast.models import GPTSpec
from worldfast.rows import Rows
from worldfast.run import Run
from worldfast.studies import Trained
from worldfast.training import load
from worldfast.worlds.factors.dataset import Dataset, quadrants
from worldfast.worlds.factors.trials import Drawn, Trials

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["attractor", "rates", "read", "spectrum", "trajectories", "units"]

TRIALS = 40  # without noise, from whose states fixed points are sought
QUIET = 1000  # trials without noise, for sparsity
GRID = 8  # points along each latent number, for mixed selectivity
NEUTRAL = 0.1  # share by which a state grows or shrinks in a step, up to which a direction counts as neutral
AT_ONCE = 4096  # trials that a model reads
DRAWN, SHARES = 3, 10  # components along which states are drawn, and those whose share of the variance is kept


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

"""Film of a model: what its states say of each thing, at every step."""

from __future__ import annotations

import numpy as np

from worldfast import frames as pd
from worldfast.analysis.pca import mixed_over_training, pca_over_training
from worldfast.analysis.probe import probe_over_training
from worldfast.arrays import ArrayLike, ByStep, labels, mask, numbers

__all__ = ["film_table"]


def film_table(
    activations: ByStep,
    layer: int,
    test: ArrayLike,
    places: ArrayLike | None = None,
    fit_on: ArrayLike | None = None,
    *,
    ridge: float | None = None,
    things: ArrayLike | None = None,
    run: str | None = None,
) -> pd.DataFrame:
    """Return a film of a layer: a row for each thing at each step.

    Parameters
    ----------
    activations : Activations
        Or any object with `steps` and [step, layer] -> array [n, d].
    layer : int
        Layer to read.
    test : array of bool [n]
        Things that the probe is not fitted on.
    places : array [n, 2], optional
        Two attributes of each thing that a probe reads; by default, none.
    fit_on : array of bool [n], optional
        Things that the directions of the mixed view are fitted on; by default, there is no such view.
    ridge : float, optional
        As in `worldfast.analysis.linear_probe`.
    things : array of int [n], optional
        Index of each thing; by default, 0 to n - 1.
    run : str, optional
        Value of the column "run".

    Returns
    -------
    DataFrame
        Columns run, step, thing, held_out (`test`); predicted_x and predicted_y, where a probe of that step places the
        thing; mixed_1 to 3, along the probe's first axis, its second, and what varies most beside; component_1 to 3,
        its principal components, 0 where the states have fewer.

    Raises
    ------
    TypeError, ValueError
        As in the functions that compute these.
    """
    test = mask(test, "test")
    steps, n = list(activations.steps), len(test)
    things = np.arange(n) if things is None else labels(things, "things", n)
    last = numbers(activations[steps[-1], layer], f"activations[{steps[-1]}, {layer}]")
    width = min(3, n, last.shape[1])
    found = []
    if places is not None:
        probes = probe_over_training(activations, layer, places, test, ridge)
        found.append(("predicted", np.stack([moment.predicted for moment in probes]), "xy"))
    components = pca_over_training(activations, layer, width).projected
    found.append(("component", np.pad(components, ((0, 0), (0, 0), (0, 3 - width))), "123"))
    if fit_on is not None:
        found.append(("mixed", mixed_over_training(activations, layer, places, fit_on, ridge).projected, "123"))
    columns = {
        "run": run,
        "step": np.repeat(steps, n),
        "thing": np.tile(things, len(steps)),
        "held_out": np.tile(test, len(steps)),
    }
    for name, values, ends in found:
        columns |= {f"{name}_{end}": values[:, :, i].ravel().astype(np.float32) for i, end in enumerate(ends)}
    return pd.DataFrame(columns)

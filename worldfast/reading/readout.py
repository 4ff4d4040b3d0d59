"""Hidden states of a model for each thing of a readout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.dataset import Readout
from worldfast.models import Ensemble


def states(readout: Readout, ensemble: Ensemble, member: int, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Return a member's hidden states of each thing.

    Parameters
    ----------
    readout : Readout
        n things, P positions each.
    ensemble : Ensemble
    member : int
        Index of the model in the ensemble.
    layers : sequence of int
        Layers to read, as in Hugging Face.

    Returns
    -------
    dict of int to ndarray
        By layer, float32 [n, P * D]: the states of the positions side by side.
    """
    arrays = (state.cpu().numpy() for state in ensemble.states(readout.rows, member, layers))  # [n * P, D] each
    ordered = (array if readout.order is None else array[readout.order] for array in arrays)
    return {layer: array.reshape(len(readout.things), -1) for layer, array in zip(layers, ordered, strict=True)}

"""A readout's states: what a model holds of each thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.dataset import Readout
from worldfast.models import Ensemble, Rows

__all__ = ["states"]


def states(readout: Readout, ensemble: Ensemble, member: int, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the things' hidden states in a member by layer, float32 [n, P * D]: positions side by side."""
    inputs, row_start, scored = readout.rows[:3]
    found = ensemble.hidden_states(Rows(inputs, row_start, (0, len(inputs)), scored), layers, [member])
    arrays = (state.cpu().numpy() for state in found)  # [n * P, D] each
    ordered = (array if readout.order is None else array[readout.order] for array in arrays)
    return {layer: array.reshape(len(readout.things), -1) for layer, array in zip(layers, ordered, strict=True)}

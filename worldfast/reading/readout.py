"""Hidden states of a model for each thing of a readout, and its answers to rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from worldfast.dataset import Readout
from worldfast.models import Ensemble
from worldfast.rows import Rows


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


def shares(ensemble: Ensemble, rows: Rows, n: int, **gain: Any) -> np.ndarray:
    """Return the shares that member 0 gives to each class: softmax of its outputs.

    Parameters
    ----------
    ensemble : Ensemble
    rows : Rows
        n rows, with c scored positions each.
    n : int
    **gain
        Option of the outputs of models with heads.

    Returns
    -------
    ndarray
        float64 [n, c, k].
    """
    logits = ensemble.outputs(rows, 0, **gain).to(torch.float64)
    return torch.softmax(logits, 1).numpy(force=True).reshape(n, -1, logits.shape[1])

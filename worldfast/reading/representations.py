"""Hidden states of a trained model for each thing, for any readout of its dataset and any layers.

Training captures one readout at every checkpoint (worldfast.reading.activations); this module reads any other from a
run's final model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldfast import files
from worldfast.dataset import entity_ids, require_options
from worldfast.errors import whole
from worldfast.folder import opened
from worldfast.models import Ensemble
from worldfast.reading import segment
from worldfast.reading.readout import states
from worldfast.run import Run

__all__ = ["Representations", "represent"]


@dataclass(frozen=True)
class Representations:
    """Hidden states of things, by [layer].

    Attributes
    ----------
    states : mapping of int to ndarray
        float32 [n, positions * D] for each layer.
    things : ndarray
        int32 [n], their indices in the world.
    about : mapping
        Facts of the readout, such as its prompt; and the step, if one was asked for.
    run : str
        Id of the run they come from.
    world : str
        Digest of the world's content.
    entities : ndarray
        str [n], what identifies the things in any world, as in `Activations.entities`.
    """

    states: Mapping[int, np.ndarray]
    things: np.ndarray
    about: Mapping[str, Any]
    run: str
    world: str
    entities: np.ndarray

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that were read."""
        return tuple(self.states)

    def __getitem__(self, layer: int) -> np.ndarray:
        """Return the hidden states of a layer, float32 [n, positions * D]; KeyError if it was not read."""
        if layer not in self.states:
            raise KeyError(f"layer {layer} was not read, known: {list(self.states)}")
        return self.states[layer]

    def save(self, path: str | os.PathLike) -> Path:
        """Write an HDF5 file, atomically: /layer_05 [n, d], /entity_index and /entity_id [n], and facts as
        attributes, as in worldfast.reading.segment.

        Parameters
        ----------
        path : path
            File to write.

        Returns
        -------
        Path

        Raises
        ------
        OSError
            The file cannot be written.
        """
        about = {**self.about, "run": self.run, "world": self.world, "origin": json.dumps(files.origin("cpu"))}
        path = Path(path)
        files.remove_partial(path.parent, path.name)
        return segment.write(path, self.states, self.things, self.entities, about | {"dtype": "float32"})


def represent(
    model: str | os.PathLike | tuple[Run, Ensemble],
    *,
    layers: Sequence[int] | None = None,
    step: int | None = None,
    **options: Any,
) -> Representations:
    """Return hidden states of a model for each thing that its dataset can be read about.

    Parameters
    ----------
    model : path or (Run, Ensemble)
        A run's folder, or a run and an ensemble whose member 0 is its model.
    layers : sequence of int, optional
        As in Hugging Face: 0 is the embeddings, the last is after the final norm. By default, all.
    step : int, optional
        Step of an earlier model, of a run that kept it (`Run.keep`); a run's folder only.
    **options
        Options of the dataset's `readout`, such as those of `worldfast.worlds.cities.Dataset.readout`.

    Returns
    -------
    Representations

    Raises
    ------
    ValueError
        An option does not fit, or the dataset's readout has no such option.
    FileNotFoundError
        The run kept no weights of this step; the message names the nearest that are there.
    IndexError
        The model has no such layer.

    Examples
    --------
    >>> import worldfast as wf
    >>> from worldfast.worlds import cities
    >>> data = cities.Dataset(("distance",), rows=64, world=wf.WorldSpec(largest=100))
    >>> model = wf.TransformerSpec(hidden=16, layers=2, heads=2)
    >>> capture = wf.Capture(layers=(1, 2))
    >>> run = wf.Run(data, batch=32, model=model, checkpoints=1, capture=capture)
    >>> [folder] = wf.train(run, device="cpu", progress=False)
    >>> found = wf.represent(folder, layers=(0, 2), prompt="dist({city},", positions=("city", -1))
    >>> found[2].shape
    (100, 32)
    """
    run, ensemble = opened(model, step=step)
    require_options(run.data, options, f"option of {type(run.data).__name__}.readout")
    readout = run.data.readout(**options)
    depth = run.model.layers
    layers = tuple(whole("layers", layer) for layer in (range(depth + 1) if layers is None else layers))
    world = run.data.digest
    found = states(readout, ensemble, 0, layers)
    about = dict(readout.about) if step is None else {**readout.about, "step": step}
    return Representations(found, readout.things, about, run.id, world, entity_ids(readout, world))

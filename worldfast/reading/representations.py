"""What a trained model holds of each city, for any prompt, layers and token positions.

Training captures the published prompt at every checkpoint (worldfast.reading.activations); this reads any other from a
run's last model.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldfast import files
from worldfast.models import Ensemble
from worldfast.run import Run
from worldfast.training.folder import opened
from worldfast.worlds.cities.prompts import Prompt, prompt_of
from worldfast.worlds.cities.tokens import Vocabulary

__all__ = ["PUBLISHED", "Representations", "represent"]

PUBLISHED = {"layers": (3, 4, 5, 6), "positions": ("city", "delimiter"), "cities": "city_id >= 1000"}


@dataclass(frozen=True)
class Representations:
    """float32 [n, positions x D] for each layer, by [layer]; `cities` int [n], their indices into the world; `run` the id
    of whose they are.
    """

    states: Mapping[int, np.ndarray]
    cities: np.ndarray
    prompt: str
    positions: tuple[int, ...]
    run: str

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.states)

    def __getitem__(self, layer: int) -> np.ndarray:
        if layer not in self.states:
            raise KeyError(f"layer {layer} was not read, known: {list(self.states)}")
        return self.states[layer]

    def save(self, path: str | os.PathLike) -> Path:
        """Writes an HDF5 file, whole or not at all: /layer_05 [n, d], /city_index [n], and what they are of as attributes.

        Errors: those of the file system.
        """
        import h5py

        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            for layer, states in self.states.items():
                file[f"layer_{layer:02d}"] = states
            file["city_index"] = self.cities
            file.attrs["prompt"] = self.prompt
            file.attrs["token_positions"] = self.positions
            file.attrs["run"] = self.run
            file.attrs["origin"] = json.dumps(files.origin("cpu"))
        return files.write_whole(Path(path), content.getvalue())


def represent(
    model: str | os.PathLike | tuple[Run, Ensemble],
    prompt: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str] = ("city", "delimiter"),
    cities: str | None = None,
) -> Representations:
    """Hidden states of a prompt about each city, those of its tokens side by side.

        represent("runs/pt-all-s42-...", "angle(c_0865,{city},", layers=(5,), positions=("city", -1))
        represent(folder, **PUBLISHED)    # as in arXiv 2602.00533

    model      a run's folder, or a run and an ensemble whose member 0 is its model
    prompt     what follows <bos>, with "{city}" where the city's name stands; None: that of the run's first task,
               "dist({city}," for distance
    layers     as in Hugging Face: 0 the embeddings, the last after the final norm; None: all
    positions  tokens, by name or number, see `worldfast.worlds.cities.prompts.Prompt`
    cities     an expression for World.select; None: all

    ValueError where no city is selected, a column is unknown, or prompt or positions do not fit; IndexError for a layer
    that the model does not have; those of `load`.
    """
    run, ensemble = opened(model)
    world = run.world.build()
    chosen = np.flatnonzero(world.select(cities)) if cities is not None else np.arange(len(world))
    if not len(chosen):
        raise ValueError(f"cities: {cities!r} selects none of {len(world):,}")
    text = prompt_of(run.tasks[0]) if prompt is None else prompt
    rows = Prompt(Vocabulary(run.vocabulary, world), text, chosen, positions)
    layers = range(run.model.layers + 1) if layers is None else layers
    return Representations(rows.read(ensemble, 0, tuple(layers)), chosen, rows.text, rows.positions, run.id)

"""What models hold of each city: captured while they train, streamed to HDF5, read back lazily.

The only place that knows the layout. A run's folder has one file for each checkpoint, whole or not there:

    activations/step-00001234.h5
        /layer_05     [n, 2 D] float32 or float16: the hidden states of the city's last token and of the
                      delimiter behind it, one beside the other; attribute crc32 of its bytes
        /city_index   int32 [n], indices into the world; attribute crc32
        attributes    step, run (hash of the spec), prompt, token_positions, dtype, spec and origin (JSON);
                      texts are UTF-8 of fixed length, which HDF5 checks itself, as it does all but the arrays

and spec.json names the layers and the steps that there should be, so that a missing file is an error and not
a gap. Source of the representation: arXiv 2602.00533.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldfast.errors import unknown_name
from worldfast.files import checksum, write_whole
from worldfast.model import Ensemble, Rows
from worldfast.tasks import find
from worldfast.tokens import BOS, Vocabulary

__all__ = ["Activations", "Capture", "Prompt", "Writer"]

DTYPES = ("float32", "float16")
CITY = "{city}"


@dataclass(frozen=True)
class Capture:
    """What of a model's activations is written at each checkpoint.

    layers   counted as in Hugging Face (0 the embeddings, the last after the final norm); None: the upper
             half, which is 3, 4, 5, 6 of six layers; (): nothing is written
    cities   an expression for World.select; None: all
    task     the task whose prompt is used, "dist(c_1234," for distance; None: the run's first
    dtype    "float32", or "float16" for half the space
    """

    layers: tuple[int, ...] | None = None
    cities: str | None = None
    task: str | None = None
    dtype: str = "float32"

    def __post_init__(self):
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            for layer in self.layers:
                if isinstance(layer, bool) or not isinstance(layer, int):
                    raise TypeError(f"capture.layers: expected integers, got {layer!r}")
        if self.cities is not None and not isinstance(self.cities, str):
            raise TypeError(f"capture.cities: expected an expression or None, got {self.cities!r}")
        if self.task is not None:
            find(self.task)
        if self.dtype not in DTYPES:
            raise unknown_name("capture.dtype", self.dtype, DTYPES)

    def of(self, depth: int) -> tuple[int, ...]:
        """The layers written of a model with `depth` layers. IndexError for one that it does not have."""
        if self.layers is None:
            return tuple(range(max(1, depth // 2), depth + 1))
        for layer in self.layers:
            if not 0 <= layer <= depth:
                raise IndexError(f"capture.layers: a model of {depth} layers has 0 to {depth}, got {layer}")
        return self.layers


class Prompt:
    """A prompt about each of some cities, as packed rows, and the tokens whose hidden states represent the city.

    vocabulary   Vocabulary
    text         what follows <bos>, with "{city}" once where the city's name stands: "dist({city},"
    cities       int [n], indices into the world
    positions    of tokens, by name ("city": the last of the city's; "delimiter": the one behind it; "last": the last
                 of the prompt) or number, from the front with <bos> as 0, or from the back, below 0

    .text is the prompt with c_dddd for the city; .positions the numbers of the tokens; .rows the packed rows, row i for
    cities[order[i]]. Those that begin alike stand together, and the model computes what they share once. ValueError
    for a text without "{city}" or with two, or a position that there is not.
    """

    def __init__(self, vocabulary: Vocabulary, text: str, cities: np.ndarray, positions=("city", "delimiter")):
        if text.count(CITY) != 1:
            raise ValueError(f"prompt: expected a text with {CITY} once, as in 'dist({CITY},', got {text!r}")
        before, behind = text.split(CITY)
        front, back = [BOS, *vocabulary.encode(before)], vocabulary.encode(behind)
        rows = [front + vocabulary.city_tokens(city) + back for city in cities]
        tokens = np.array(rows, dtype=np.int32)  # [n, T]
        n, length = tokens.shape
        self.order = np.lexsort(tokens.T[::-1])  # [n]
        self.text = text.replace(CITY, "c_dddd")
        named = {"city": length - len(back) - 1, "delimiter": length - len(back), "last": length - 1}
        self.positions = tuple(_position(at, named, length, self.text) for at in positions)
        starts = np.arange(0, n * length + 1, length, dtype=np.int32)
        read = np.unique(self.positions)
        self.places = np.searchsorted(read, self.positions)  # of each position among those that are read
        scored = (starts[:-1, None] + read).ravel()
        self.rows = Rows(
            torch.from_numpy(tokens[self.order].ravel()),
            torch.from_numpy(starts),
            (0, n * length),
            torch.from_numpy(scored.astype(np.int64)),
        )

    @staticmethod
    def of_task(vocabulary: Vocabulary, task: str, cities: np.ndarray) -> Prompt:
        """The published one: "dist({city},", read at the city's last token and the delimiter behind it."""
        return Prompt(vocabulary, prompt_of(task), cities)

    def read(self, ensemble: Ensemble, member: int, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """The cities' representations in a member, float32 [n, positions x D] for each layer."""
        states = ensemble.hidden_states(self.rows, layers, [member])  # [n x places, D] each
        n = len(self.order)
        found = {}
        for layer, state in zip(layers, states, strict=True):
            array = state.cpu().numpy().reshape(n, -1, state.shape[-1])[:, self.places].reshape(n, -1)
            found[layer] = np.empty_like(array)
            found[layer][self.order] = array
        return found


def prompt_of(task: str) -> str:
    """The published prompt of a task as a text: "dist({city},"."""
    task = find(task)
    return f"{task.prompt}({CITY}{task.delimiter}"


def _position(at: int | str, named: Mapping[str, int], length: int, text: str) -> int:
    if isinstance(at, str):
        if at not in named:
            raise unknown_name("position", at, named)
        number = named[at]
    else:
        number = at + length if at < 0 else at
    if not 0 <= number < length:
        raise ValueError(f"positions: {at!r} is not in the prompt {text!r}, which has {length} tokens with <bos>")
    return number


class Writer:
    """Writes segments on a thread of its own while training goes on."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "worldfast-activations")
        self._pending: list[Future] = []

    def put(
        self, folder: Path, step: int, layers: Mapping[int, np.ndarray], cities: np.ndarray, about: Mapping
    ) -> None:
        """Hands over one segment: arrays [n, d] by layer, int32 [n] city indices, and the attributes `about`
        them.

        `flush` says whether it could be written.
        """
        path = segment_path(folder, step)
        self._pending.append(self._thread.submit(_write_segment, path, step, layers, cities, about))

    def flush(self) -> None:
        """Returns when all segments are on disk; raises the error of the first that could not be written."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def close(self) -> None:
        """Ends the thread when what was put is written."""
        self._thread.shutdown()


def segment_path(folder: Path, step: int) -> Path:
    """Where a run's activations of a step stand."""
    return folder / "activations" / f"step-{step:08d}.h5"


def _write_segment(path, step, layers, cities, about):
    import h5py

    image = io.BytesIO()  # the file is made in memory: what reaches the disk is one write, which fails whole
    with h5py.File(image, "w", libver="latest") as file:
        arrays = {"city_index": np.ascontiguousarray(cities, dtype=np.int32)}
        for layer, array in layers.items():
            arrays[f"layer_{layer:02d}"] = _stored(array, about["dtype"], f"layer {layer} of step {step}")
        for name, array in arrays.items():
            file.create_dataset(name, data=array).attrs["crc32"] = np.uint32(checksum(array))
        for name, value in {**about, "step": step}.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
    write_whole(path, image.getbuffer())


def _stored(array, dtype, what):
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(stored).all() and np.isfinite(array).all():
        most = np.abs(array).max()
        raise ValueError(f"capture.dtype: {what} holds {most:.3g}, more than float16 can; use 'float32'")
    return stored


class Activations:
    """The activations of a run, read from its folder when asked for.

        activations = Activations("runs/pt-distance-s42-0123456789ab")
        activations.steps         # the checkpoints: all of a finished run's, those so far of another's
        activations.layers        # (3, 4, 5, 6)
        activations.cities        # int32 [n], indices into the world
        activations[step, layer]  # array [n, d], row i for city cities[i]

    A run of which nothing was captured has no steps. Raises FileNotFoundError where the folder is no run's,
    or naming a segment that is missing; ValueError naming one that is damaged; KeyError for a step or layer
    that the run does not have.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        try:
            spec = json.loads((self.folder / "spec.json").read_text())
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.folder} is not a run's folder: it has no spec.json") from None
        self.run = spec["id"]
        self.layers = tuple(spec["captured"]["layers"])
        self.prompt = spec["captured"]["prompt"]
        expected = spec["checkpoint_steps"] if self.layers else []
        done = self.folder / "done"
        if done.exists():
            last = json.loads(done.read_text())["step"]
            self.steps = [step for step in expected if step <= last]
        else:
            self.steps = [step for step in expected if segment_path(self.folder, step).exists()]

    @property
    def cities(self) -> np.ndarray:
        if not self.steps:
            raise ValueError(f"{self.folder} holds no activations")
        return self._read(self.steps[-1], "city_index")

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        if not isinstance(key, tuple) or len(key) != 2:
            raise TypeError(f"activations are read by [step, layer], got [{key!r}]")
        self._check(*key)
        return self._read(key[0], f"layer_{key[1]:02d}")

    def _check(self, step, layer):
        for what, value, known in (("step", step, self.steps), ("layer", layer, self.layers)):
            if value not in known:
                near = min(known, key=lambda other: abs(other - value), default=None)
                known = list(known)
                raise KeyError(f"{self.folder} has no {what} {value}: the nearest is {near}, known: {known}")

    def dataset(self, step: int, layer: int):
        """The same array unread: an HDF5 dataset [n, d], of which slices of rows are read when they are asked for.

        For what does not fit in memory, with `cka_matrix` or `cka_minibatch`. The checksum is not looked at. Errors as
        for [step, layer].
        """
        self._check(step, layer)
        import h5py

        try:
            return h5py.File(self._segment(step), "r")[f"layer_{layer:02d}"]
        except (OSError, KeyError) as error:
            raise ValueError(f"segment {segment_path(self.folder, step)} is damaged: {error}") from None

    def __repr__(self):
        return f"Activations({str(self.folder)!r}: {len(self.steps)} steps, layers {list(self.layers)})"

    def _segment(self, step: int) -> Path:
        path = segment_path(self.folder, step)
        if not path.exists():
            raise FileNotFoundError(f"segment {path} is missing: step {step} of this run was written there")
        return path

    def _read(self, step: int, name: str) -> np.ndarray:
        import h5py

        path = self._segment(step)
        try:
            with h5py.File(path, "r") as file:
                array, written, run = file[name][()], file[name].attrs["crc32"], file.attrs["run"].decode()
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(f"segment {path} is damaged: {error}") from None
        if checksum(array) != written:
            raise ValueError(f"segment {path} is damaged: the checksum of {name} does not fit its content")
        if run != self.run:
            raise ValueError(f"segment {path} belongs to run {run}, expected {self.run}")
        return array

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
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from worldfast.dataset import Readout
from worldfast.display import html_facts
from worldfast.files import checksum, write_whole
from worldfast.run import Run

__all__ = ["Activations", "Writer"]


class Writer:
    """Writes segments on a thread of its own while training goes on."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "worldfast-activations")
        self._pending: list[Future] = []

    def put(
        self, folder: Path, step: int, layers: Mapping[int, np.ndarray], things: np.ndarray, about: Mapping
    ) -> None:
        """Hands over one segment: arrays [n, d] by layer, int32 [n] indices of things, and the attributes `about`
        them.

        `flush` says whether it could be written.
        """
        path = segment_path(folder, step)
        self._pending.append(self._thread.submit(_write_segment, path, step, layers, things, about))

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


def _write_segment(path, step, layers, things, about):
    import h5py

    image = io.BytesIO()  # the file is made in memory: what reaches the disk is one write, which fails whole
    with h5py.File(image, "w", libver="latest") as file:
        arrays = {"city_index": np.ascontiguousarray(things, dtype=np.int32)}
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
        activations.things        # int32 [n], indices into the world
        activations[step, layer]  # array [n, d], row i for things[i]
        activations.attributes    # float64 [n, k], of which columns: for cities ("x", "y")
        activations.groups        # {"Oceania": bool [n], ...}

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

    @cached_property
    def readout(self) -> Readout:
        """What was read, as the run's dataset says it: attributes, columns and groups of the things, in their order.

        Raises
        ------
        ValueError
            The world is not the one that the run was trained in, or the run is of another version.
        """
        spec = json.loads((self.folder / "spec.json").read_text())
        run = Run.from_json(spec["run"])
        if run.data.digest != spec["world_sha256"]:
            raise ValueError(f"{self.folder}: the world of its run has changed: its file has other entities than then")
        readout = run.readout()
        if self.steps and not np.array_equal(readout.things, self.things):
            raise ValueError(f"{self.folder}: its segments are of other things than its spec selects")
        return readout

    @property
    def attributes(self) -> np.ndarray:
        """float64 [n, k], what the world says of each thing: `columns` names them."""
        return self.readout.attributes

    @property
    def columns(self) -> tuple[str, ...]:
        return self.readout.columns

    @property
    def groups(self) -> Mapping[str, np.ndarray]:
        """Masks bool [n] by name: the regions of cities, and what the run's rows had to include."""
        return self.readout.groups

    @property
    def things(self) -> np.ndarray:
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

    def _repr_html_(self) -> str:
        facts = {"run": self.run, "steps": list(self.steps), "layers": list(self.layers), "prompt": self.prompt}
        return html_facts(f"Activations of {self.folder}", facts)

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

"""Activations of models, captured during training, streamed to HDF5 and read back lazily.

This module alone knows the layout. A run's folder has one file per checkpoint, complete or absent:

    activations/step-00001234.h5
        /layer_05     [n, 2 D] float32 or float16: the hidden states of the city's last token and of the
                      delimiter after it, side by side; attribute crc32 of its bytes
        /city_index   int32 [n], indices into the world; attribute crc32
        attributes    step, run (hash of the spec), prompt, token_positions, dtype, spec and origin (JSON);
                      strings are UTF-8 of fixed length, which HDF5 itself checks, as it does all but the arrays

spec.json lists the expected layers and steps, so a missing file is an error rather than a gap. Source of the
representation: arXiv 2602.00533.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from worldfast.dataset import Readout
from worldfast.display import html_facts
from worldfast.files import checksum, read_json, write_whole
from worldfast.folder import done
from worldfast.run import Run

__all__ = ["Activations", "Writer"]


class Writer:
    """Writes segments on its own thread while training continues."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "worldfast-activations")
        self._pending: list[Future] = []

    def put(
        self, folder: Path, step: int, layers: Mapping[int, np.ndarray], things: np.ndarray, about: Mapping
    ) -> None:
        """Queue one segment for writing; `flush` raises an error if it could not be written.

        Parameters
        ----------
        folder : Path
            The run's folder.
        step : int
            Optimizer step of the checkpoint.
        layers : mapping of int to ndarray
            Arrays [n, d] by layer.
        things : ndarray
            int32 [n], indices of the entities in the world.
        about : mapping
            Attributes of the file; "dtype" is the dtype of the stored arrays.
        """
        path = segment_path(folder, step)
        self._pending.append(self._thread.submit(_write_segment, path, step, layers, things, about))

    def flush(self) -> None:
        """Wait until all segments are on disk.

        Raises
        ------
        OSError, ValueError
            The first error of a segment that could not be written.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def close(self) -> None:
        """End the thread once the queued segments are written."""
        self._thread.shutdown()


def segment_path(folder: Path, step: int) -> Path:
    """Return the file of a run's activations at a step."""
    return folder / "activations" / f"step-{step:08d}.h5"


def _write_segment(path, step, layers, things, about):
    import h5py

    image = io.BytesIO()  # built in memory, so the disk gets a single write that succeeds or fails as a whole
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
        raise ValueError(f"capture.dtype: {what} holds {most:.3g}, beyond the range of float16; use 'float32'")
    return stored


class Activations:
    """The activations of a run, read from its folder on demand.

    Parameters
    ----------
    folder : path
        A run's folder. A run that captured nothing has no steps.

    Attributes
    ----------
    steps : list of int
        Checkpoints: all of them for a finished run, those so far for any other.
    layers : tuple of int
        Captured layers.
    prompt : str
        Prompt at which the model was read.
    run : str
        Id of the run.

    Raises
    ------
    FileNotFoundError
        The folder is not a run's, or a segment is missing; the message names it.
    ValueError
        A segment is damaged; the message names it.
    KeyError
        The run does not have the step or layer.

    Examples
    --------
    >>> import worldfast as wf
    >>> from worldfast.worlds import cities
    >>> data = cities.Dataset(("distance",), rows=64, world=wf.WorldSpec(largest=100))
    >>> model = wf.TransformerSpec(hidden=16, layers=2, heads=2)
    >>> capture = wf.Capture(layers=(1, 2))
    >>> run = wf.Run(data, batch=32, model=model, checkpoints=1, capture=capture)
    >>> [folder] = wf.train(run, device="cpu", progress=False)
    >>> activations = wf.Activations(folder)
    >>> activations.steps, activations.layers
    ([0, 2], (1, 2))
    >>> activations[2, 1].shape  # row i belongs to activations.things[i]
    (100, 32)
    >>> activations.columns, activations.attributes.shape
    (('x', 'y'), (100, 2))
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        try:
            spec = read_json(self.folder / "spec.json")
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.folder} is not a run's folder: it has no spec.json") from None
        self.run = spec["id"]
        self.layers = tuple(spec["captured"]["layers"])
        self.prompt = spec["captured"].get("prompt")  # None: the world reads without one
        expected = spec["checkpoint_steps"] if self.layers else []
        if ending := done(self.folder, self.run):
            self.steps = [step for step in expected if step <= ending["step"]]
        else:
            self.steps = [step for step in expected if segment_path(self.folder, step).exists()]

    @cached_property
    def readout(self) -> Readout:
        """The readout of the run's dataset: attributes, columns and groups of the things, in their order.

        Raises
        ------
        ValueError
            The run was trained in another world, or was written by another version.
        """
        spec = read_json(self.folder / "spec.json")
        run = Run.from_json(spec["run"])
        if run.data.digest != spec["world_sha256"]:
            raise ValueError(
                f"{self.folder}: the world of its run has changed: its file holds other entities than at training"
            )
        readout = run.readout()
        if self.steps and not np.array_equal(readout.things, self.things):
            raise ValueError(f"{self.folder}: its segments are of other things than its spec selects")
        return readout

    @property
    def attributes(self) -> np.ndarray:
        """Attributes of each thing, float64 [n, k], named by `columns`."""
        return self.readout.attributes

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attributes, [k]; for cities ("x", "y")."""
        return self.readout.columns

    @property
    def groups(self) -> Mapping[str, np.ndarray]:
        """Masks bool [n] by name; for cities, the regions and the cities that the run's rows had to include."""
        return self.readout.groups

    @property
    def things(self) -> np.ndarray:
        """Indices of the things in the world, int32 [n].

        Raises
        ------
        ValueError
            The run has no activations.
        """
        if not self.steps:
            raise ValueError(f"{self.folder} holds no activations")
        return self._read(self.steps[-1], "city_index")

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        """Return the array [n, d] of a (step, layer); row i belongs to things[i]."""
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
        """Return the array of a (step, layer) unread, as an HDF5 dataset that reads slices of rows on demand.

        For arrays that do not fit in memory, with `cka_matrix` or `cka_minibatch`. The checksum is not verified.

        Parameters
        ----------
        step, layer : int
            As for [step, layer].

        Returns
        -------
        h5py.Dataset
            [n, d].

        Raises
        ------
        KeyError, FileNotFoundError, ValueError
            As for [step, layer].
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
            raise ValueError(f"segment {path} is damaged: the checksum of {name} does not match its content")
        if run != self.run:
            raise ValueError(f"segment {path} belongs to run {run}, expected {self.run}")
        return array

"""Activations of models, captured during training, streamed to HDF5 and read back lazily.

A run's folder has one file per checkpoint, complete or absent (worldfast.reading.segment). spec.json lists the expected
layers and steps, so a missing file is an error rather than a gap. Source of the representation: arXiv 2602.00533.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from worldfast.dataset import Readout, entity_ids
from worldfast.display import count, html_facts
from worldfast.errors import MismatchError, as_path, whole
from worldfast.files import require_folder, there
from worldfast.folder import spec_content
from worldfast.outcome import done
from worldfast.reading import segment
from worldfast.reading.segment import segment_path
from worldfast.run import Run

__all__ = ["Activations", "Writer"]


class Writer:
    """Writes segments on its own thread while training continues."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "worldfast-activations")
        self._pending: list[Future] = []

    def put(
        self,
        folder: Path,
        step: int,
        layers: Mapping[int, np.ndarray],
        things: np.ndarray,
        about: Mapping,
        ids: np.ndarray,
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
        ids : ndarray
            str [n], what identifies the entities (`worldfast.dataset.entity_ids`).
        """
        texts = {name: np.bytes_(value.encode()) for name, value in about.items() if isinstance(value, str)}
        facts = {**about, **texts, "step": step}
        path = segment_path(folder, step)
        self._pending.append(self._thread.submit(segment.write, path, layers, things, ids, facts))

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
    OSError
        A segment cannot be read, for want of a handle, of permission ...
    DamagedError, MismatchError, UnsafeError, VersionError
        A segment is damaged, is of another run, step or world, points to another file, or was written by an earlier
        version; the message names it.
    KeyError, TypeError
        The run does not have the step or layer, or it is no integer.

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

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = as_path("folder", folder)
        self._spec = spec_content(self.folder)
        captured = self._spec["captured"]
        self.run = self._spec["id"]
        self.layers = tuple(captured["layers"])
        self.prompt = captured.get("prompt")  # None: the world reads without one
        expected = self._spec["checkpoint_steps"] if self.layers else []
        require_folder(self.folder / "activations")
        if ending := done(self.folder, self.run):
            self.steps = [step for step in expected if step <= ending["step"]]
        else:
            self.steps = [step for step in expected if there(segment_path(self.folder, step))]

    @cached_property
    def readout(self) -> Readout:
        """The readout of the run's dataset: attributes, columns and groups of the things, in their order.

        Raises
        ------
        ValueError
            The run was trained in another world, or was written by another version.
        """
        try:
            run = Run.from_json(self._spec["run"])
        except MismatchError as error:
            raise MismatchError(f"{self.folder}: {error}") from None
        readout = run.readout()
        if self.steps and not np.array_equal(entity_ids(readout, run.data.digest), self.entities):
            raise MismatchError(f"{self.folder}: its segments are of other things than its spec selects")
        return readout

    @property
    def attributes(self) -> np.ndarray:
        """Attributes of each thing, float64 [n, k], named by `columns`."""
        return self.readout.attributes

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attributes, [k]."""
        return self.readout.columns

    @property
    def groups(self) -> Mapping[str, np.ndarray]:
        """Masks bool [n] by name, of which things belong to a group."""
        return self.readout.groups

    @property
    def things(self) -> np.ndarray:
        """Indices of the things in the world, int32 [n].

        Raises
        ------
        ValueError
            The run has no activations, or what `readout` raises: its world has changed, where an index is of another
            thing.
        """
        things = self._of_last(segment.INDEX)
        if not np.array_equal(things, self.readout.things):
            raise MismatchError(f"{self.folder}: its segments are of other things than its spec selects")
        return things

    @cached_property
    def entities(self) -> np.ndarray:
        """Ids of the things, str [n], which are the same in any world that has them.

        Two arrays of activations may be compared if these are equal (`worldfast.dataset.require_same_entities`).

        Raises
        ------
        ValueError
            The run has no activations.
        """
        return self._of_last(segment.ID)

    def _of_last(self, name: str) -> np.ndarray:
        if not self.steps:
            raise ValueError(f"{self.folder} holds no activations")
        return self._read(self.steps[-1], name)

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        """Return the array [n, d] of a (step, layer); row i belongs to things[i]."""
        if not isinstance(key, tuple) or len(key) != 2:
            raise TypeError(f"activations are read by [step, layer], got [{key!r}]")
        step, layer = self._checked(*key)
        return self._read(step, segment.layer_name(layer))

    def _checked(self, step: int, layer: int) -> tuple[int, int]:
        """Return a step and a layer as ints; raises a TypeError or KeyError if the run does not have them."""
        step, layer = whole("step", step), whole("layer", layer)
        for what, value, known in (("step", step, self.steps), ("layer", layer, self.layers)):
            if value not in known:
                near = min(known, key=lambda other: abs(other - value), default=None)
                known = list(known)
                raise KeyError(f"{self.folder} has no {what} {value}: the nearest is {near}, known: {known}")
        return step, layer

    def dataset(self, step: int, layer: int) -> segment.Unread:
        """Return the array of a (step, layer) unread: slices of its rows are read on demand.

        For arrays that do not fit in memory, with `cka_matrix` or `cka_minibatch`. The checksum is not verified. The
        file is open only while rows are read, so any number of these can be there, in other processes too.

        Parameters
        ----------
        step, layer : int
            As for [step, layer].

        Returns
        -------
        Unread
            With `shape` [n, d], `dtype`, and rows by [start:stop] and what else selects rows of an HDF5 dataset.

        Raises
        ------
        KeyError, OSError, DamagedError, MismatchError, UnsafeError, VersionError
            As for [step, layer].
        """
        step, layer = self._checked(step, layer)
        return segment.Unread(self._segment(step), segment.layer_name(layer), self._expected(step))

    def __repr__(self) -> str:
        return f"Activations({str(self.folder)!r}: {count(len(self.steps), 'step')}, layers {list(self.layers)})"

    def _repr_html_(self) -> str:
        facts = {"run": self.run, "steps": list(self.steps), "layers": list(self.layers), "prompt": self.prompt}
        return html_facts(f"Activations of {self.folder}", facts)

    def _segment(self, step: int) -> Path:
        path = segment_path(self.folder, step)
        require_folder(path.parent)  # a link may have been put there meanwhile
        if not there(path):
            raise FileNotFoundError(f"segment {path} is missing: step {step} of this run was written there")
        return path

    def _expected(self, step: int) -> segment.Expected:
        return segment.expected_by(self._spec, step)

    def _read(self, step: int, name: str) -> np.ndarray:
        return segment.read(self._segment(step), name, self._expected(step))

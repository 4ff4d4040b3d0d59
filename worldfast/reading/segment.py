"""HDF5 file of the activations of one run at one step.

This module alone knows the layout:

    activations/step-00001234.h5
        /layer_05      [n, P D] float32 or float16: hidden states of P tokens, side by side
        /entity_index  int32 [n], indices into the world
        /entity_id     UTF-8 [n], what identifies each entity in any world (`worldfast.dataset.entity_ids`)
        attributes     run (hash of the spec), step, dtype, world (digest of its content), spec and origin (JSON), and
                       facts of the readout: prompt, token_positions

Each array has the attributes name, its own, and crc32, the checksum of that name and its bytes, so that arrays which
changed places are found out. Each is contiguous and uncompressed; strings are of fixed length, which
HDF5 itself checks, as it does all but the arrays. A file may come from a stranger: nothing that points elsewhere is
followed, and no memory is taken before a size is found in the file's own bytes.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from worldfast.errors import OF_CONTENT, DamagedError, MismatchError, UnsafeError, VersionError
from worldfast.files import checksum, json_object, regular, version_of, write_whole

INDEX, ID = "entity_index", "entity_id"
ROOM = 16 << 20  # bytes that HDF5 takes for itself, and more
MEND = "put a whole one back, or train its run again"


class Expected(NamedTuple):
    """Contents that the spec of its run asks of a segment; None: the spec does not say.

    Attributes
    ----------
    run : str
        Id of the run.
    step : int
    layers : tuple of int
    dtype : str, optional
        Type of the stored states.
    things : int, optional
        Number of entities.
    world : str, optional
        Digest of the world's content.
    """

    run: str
    step: int
    layers: tuple[int, ...]
    dtype: str | None = None
    things: int | None = None
    world: str | None = None

    @property
    def names(self) -> set[str]:
        """Names of the file's arrays."""
        return {INDEX, ID, *map(layer_name, self.layers)}


def expected_by(spec: Mapping[str, Any], step: int) -> Expected:
    """Return what the segment of a step is by the spec.json of its run."""
    captured = spec["captured"]
    of = (captured.get("dtype"), captured.get("things"), spec.get("world_sha256"))
    return Expected(spec["id"], step, tuple(captured["layers"]), *of)


def segment_path(folder: Path, step: int) -> Path:
    """Return the file of a run's activations at a step."""
    return folder / "activations" / f"step-{step:08d}.h5"


def layer_name(layer: int) -> str:
    """Return the name of a layer's array."""
    return f"layer_{layer:02d}"


def write(
    path: Path, layers: Mapping[int, np.ndarray], things: np.ndarray, ids: np.ndarray, about: Mapping[str, Any]
) -> Path:
    """Write a segment, atomically.

    Parameters
    ----------
    path : Path
    layers : mapping of int to ndarray
        States [n, d] by layer.
    things : ndarray
        int32 [n], indices of the entities.
    ids : ndarray
        str [n], what identifies the entities.
    about : mapping
        Attributes; "dtype" is the type in which states are stored.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        A state is beyond the range of the dtype.
    MemoryError
        There is not enough memory to make the file in.
    """
    arrays = {INDEX: np.ascontiguousarray(things, dtype=np.int32), ID: np.char.encode(ids, "utf-8")}
    for layer, array in layers.items():
        arrays[layer_name(layer)] = _stored(array, about["dtype"], f"layer {layer} of step {about.get('step')}")
    size = sum(array.nbytes for array in arrays.values())
    image = io.BytesIO()  # built in memory, so the disk gets a single write that succeeds or fails as a whole
    with _hdf5(image, path, "w", 2 * size) as file:  # an image that grows is copied
        for name, array in arrays.items():
            of = file.create_dataset(name, data=array).attrs
            of["name"], of["crc32"] = np.bytes_(name.encode()), np.uint32(checksum(name.encode(), array))
        for name, value in about.items():
            file.attrs[name] = value
    return write_whole(path, image.getbuffer())


def _stored(array, dtype, what):
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(stored).all() and np.isfinite(array).all():
        most = np.abs(array).max()
        raise ValueError(f"capture.dtype: {what} holds {most:.3g}, beyond the range of float16; use 'float32'")
    return stored


# ---- reading ----


def read(path: Path, name: str, expected: Expected) -> np.ndarray:
    """Return an array of a segment: a layer's states, INDEX, or the ids, str [n].

    Raises
    ------
    OSError
        The file cannot be read: it is missing (FileNotFoundError), no descriptor is left ...
    DamagedError
        Its content is not what was written.
    MismatchError
        It is of another run, step, dtype, world or number of entities.
    UnsafeError
        It is no regular file, points to another one, or claims more than its bytes hold.
    VersionError
        An earlier version wrote it, whose checksums do not say of which array they are.
    """
    with _unread(path, name, expected) as dataset:
        array, written = dataset[()], int(_attribute(dataset, "crc32"))
        if checksum(name.encode(), array) != written:
            raise DamagedError(f"segment {path} is damaged: the checksum of {name} does not match its content: {MEND}")
        return np.char.decode(array, "utf-8") if name == ID else array


class Unread:
    """Array of a segment that stays on disk: each slice of rows opens the file, checks whose it is, and closes it.

    Between two reads nothing is held, so that a process may have any number of these, and hand them to others.

    Attributes
    ----------
    shape : tuple of int
        [n, d]
    dtype : numpy.dtype
    """

    def __init__(self, path: Path, name: str, expected: Expected) -> None:
        self._from = path, name, expected
        with _unread(*self._from) as dataset:
            self.shape, self.dtype = dataset.shape, dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return what `rows` selects, as it does of an HDF5 dataset: slices, integers, masks and lists of indices.

        Raises
        ------
        IndexError, TypeError, ValueError
            There are no such rows.
        OSError, DamagedError, MismatchError, UnsafeError, VersionError
            The file can no longer be read, or is not what it was.
        """
        with _unread(*self._from) as dataset:
            if (dataset.shape, dataset.dtype) != (self.shape, self.dtype):
                was, now = (f"{one.dtype} {list(one.shape)}" for one in (self, dataset))
                raise MismatchError(f"segment {self._from[0]}: {self._from[1]} was {was} when it was opened, is {now}")
            try:
                return dataset[rows]
            except (IndexError, TypeError, ValueError) as error:
                wrong = error  # of the rows, not of the file
        raise wrong

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[()], dtype=dtype)

    def __repr__(self) -> str:
        path, name, _ = self._from
        return f"Unread({name} of {str(path)!r}: {self.dtype} {list(self.shape)})"


@contextmanager
def _unread(path: Path, name: str, expected: Expected) -> Iterator[Any]:
    """Open an array of a segment for as long as the context lasts, after all checks but that of its checksum."""
    with _opened(path) as raw, _naming(path), _hdf5(raw, path) as file:
        _require(path, file, expected)
        yield _dataset(path, file, name, expected, os.fstat(raw.fileno()).st_size)


def check(path: Path, expected: Expected) -> None:
    """Read all arrays of a segment. Raises as `read` does for the first that is not as it should be."""
    for name in sorted(expected.names):
        read(path, name, expected)


def _opened(path: Path) -> BinaryIO:
    """Open a regular file: by Python, so a path may be any bytes, HDF5 takes no lock, and errors are the system's."""
    return open(path, "rb", opener=regular)


def _hdf5(raw: BinaryIO, path: Path, mode: str = "r", size: int = 0):
    """Open a file of HDF5 for which there is memory, and for `size` bytes of content.

    HDF5 reads and writes where it was given no memory, which ends the process, or takes the want of it for damage.
    """
    import h5py

    try:
        mmap.mmap(-1, ROOM + size).close()
    except OSError:
        raise MemoryError(f"segment {path}: no memory for {(ROOM + size) >> 20:,} MiB, which HDF5 may take") from None
    return h5py.File(raw, mode, libver="latest" if mode == "w" else None)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert errors of HDF5 into ones that name the file; those of the environment, which have a number, stay such."""
    try:
        yield
    except (*OF_CONTENT, MemoryError):
        raise
    except Exception as error:  # HDF5 has one for each kind of damage
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise DamagedError(f"segment {path} is damaged: HDF5 does not find in it what was written: {MEND}") from error


def _require(path: Path, file, expected: Expected) -> None:
    """Raise an error for a file that is not of what is expected."""
    import h5py

    if not set(file) >= {INDEX, ID}:
        raise DamagedError(
            f"segment {path} is damaged, or an earlier version wrote it: it has no {INDEX} and {ID}, "
            f"but {sorted(file)[:9]}"
        )
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise UnsafeError(f"segment {path}: {name!r} is a link to another place, which is not followed")
    for what in ("run", "step", "dtype", "world"):
        wanted = getattr(expected, what)
        if wanted is None and what != "dtype":
            continue
        found = _attribute(file, what)
        found = found.decode() if isinstance(found, bytes) else int(found)
        if wanted is not None and found != wanted:
            to = "belongs to" if what == "run" else "is of"
            raise MismatchError(f"segment {path} {to} {what} {found}, expected {wanted}")
    if set(file) != expected.names:
        raise MismatchError(f"segment {path} has {sorted(file)}, expected {sorted(expected.names)}")


def _of_an_earlier_version(path: Path, file) -> VersionError:
    """Return the error of a file whose arrays do not say which they are: two that changed places would be believed."""
    origin = _attribute(file, "origin") if "origin" in file.attrs else b"{}"
    version = version_of({"origin": json_object(path, origin)}) if isinstance(origin, bytes) else None
    return VersionError(
        f"segment {path} was written by an earlier version of worldfast{f', {version}' if version else ''}: its "
        "checksums do not cover the names of its arrays, so that two that changed places would not be found out: train "
        "its run again with this version, or read it with the one that wrote it"
    )


def _attribute(owner, name: str):
    """Return an attribute of fixed size; texts of variable length lie where HDF5 does not check."""
    found = owner.attrs.get_id(name)
    if found.dtype.kind not in "Siuf" or found.shape != () or found.get_storage_size() > 1 << 16:
        raise DamagedError(f"segment {owner.file.filename} is damaged: {name} is of {found.dtype} {found.shape}")
    return owner.attrs[name]


def _dataset(path: Path, file, name: str, expected: Expected, size: int):
    """Return an array unread, after checking that its bytes lie in this file, and are what they should be."""
    import h5py

    n = _checked(path, file, INDEX, size).shape
    dataset = _checked(path, file, name, size)
    shape, dtype = dataset.shape, dataset.dtype
    if expected.things is not None and n != (expected.things,):
        raise MismatchError(f"segment {path} is of {list(n)} entities, expected {expected.things}")
    if len(n) != 1 or shape[:1] != n or len(shape) != (1 if name in (INDEX, ID) else 2):
        raise DamagedError(f"segment {path} is damaged: {name} has the shape {list(shape)}, {INDEX} {list(n)}")
    if name == INDEX:
        fits = dtype == np.int32
    elif name == ID:
        fits = dtype.kind == "S" and h5py.check_string_dtype(dtype).encoding in ("ascii", "utf-8")
    else:
        fits = dtype == np.dtype(_attribute(file, "dtype").decode()) and dtype.kind == "f"
    if not fits:
        raise MismatchError(f"segment {path}: {name} is of {dtype}, but its attribute dtype says otherwise")
    return dataset


def _checked(path: Path, file, name: str, size: int):
    import h5py

    if file.get(name, getclass=True) is not h5py.Dataset:
        raise DamagedError(f"segment {path} is damaged: {name} is no array")
    dataset = file[name]
    how = dataset.id.get_create_plist()
    if how.get_layout() == h5py.h5d.VIRTUAL or how.get_external_count():
        raise UnsafeError(f"segment {path}: {name} lies in another file, which is not opened")
    if how.get_layout() != h5py.h5d.CONTIGUOUS or how.get_nfilters():
        raise UnsafeError(f"segment {path}: {name} is compressed or in parts; segments are written contiguous")
    if dataset.dtype.kind not in "Sif":
        raise UnsafeError(f"segment {path}: {name} is of {dataset.dtype}, expected numbers or texts of fixed length")
    offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
    if dataset.nbytes != stored or (stored and (offset is None or offset + stored > size)):
        raise UnsafeError(
            f"segment {path}: {name} claims {dataset.nbytes:,} bytes, {stored:,} are stored, the file has {size:,}"
        )
    if "name" not in dataset.attrs:
        raise _of_an_earlier_version(path, file)
    if (written := _attribute(dataset, "name")) != name.encode():
        other = written.decode(errors="replace") if isinstance(written, bytes) else written
        raise DamagedError(f"segment {path} is damaged: in the place of {name} stands {other!r:.100}: {MEND}")
    return dataset

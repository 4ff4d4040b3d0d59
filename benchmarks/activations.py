"""Writing activations to disk and reading them back, beside the ways that researchers use today.

    python benchmarks/activations.py [--steps 8] [--repeats 5] [--folder build/activations]

A step is 5,075 cities of 256 numbers in four layers, float32; all that is written is synced to the disk, by
everyone. The limit of writing is writing the same bytes to plain files; that of reading, reading the bytes of
that layer alone from them. Before writing, everyone removes what it wrote the time before. Reading is from
the system's cache. worldfast takes and checks a checksum of every array; the others do not.
"""

import os
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from harness import Contestant, Unit, arguments, run, threads

from worldfast.files import write_json
from worldfast.reading import Activations, Writer

WORLD = "0" * 64  # digest of none
SPEC = {"id": "bench", "run": {}, "world_sha256": WORLD, "origin": {}}
ABOUT = {"run": "bench", "world": WORLD, "dtype": "float32", "prompt": "", "token_positions": (2, 3)}
ABOUT |= {"spec": "{}", "origin": "{}"}


class Format:
    """A way to keep arrays by step and layer in a folder that is made anew for each writing."""

    def __init__(self, name, parent, write, read):
        self.name, self.folder, self._write, self.read = name, parent / name.replace(" ", "-"), write, read

    def write(self, data):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self._write(self.folder, data)

    def differences(self, data):
        """Count the numbers read that differ from those written."""
        return sum(
            int((array != data[step][layer]).sum())
            for layer in data[0]
            for step, array in enumerate(self.read(self.folder, layer, len(data)))
        )


def synced(path):
    """Waits until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


# Each writes data, a list over steps of {layer: array [n, d]}; each reads a layer of all steps, a list.


def write_worldfast(folder, data):
    (folder / "activations").mkdir()
    captured = {"layers": list(data[0]), "prompt": ""}
    spec = SPEC | {"steps": len(data), "checkpoint_steps": list(range(len(data))), "captured": captured}
    write_json(folder / "spec.json", spec)
    writer = Writer()
    cities = np.arange(len(next(iter(data[0].values()))), dtype=np.int32)
    ids = cities.astype(str)
    for step, layers in enumerate(data):
        writer.put(folder, step, layers, cities, ABOUT, ids)
    writer.flush()
    writer.close()


def read_worldfast(folder, layer, steps):
    activations = Activations(folder)
    return [activations[step, layer] for step in activations.steps]


def write_hdf5(folder, data, **options):
    path = folder / "all.h5"
    with h5py.File(path, "w") as file:
        for layer, array in data[0].items():
            file.create_dataset(f"layer_{layer}", (len(data), *array.shape), np.float32, **options)
        for step, layers in enumerate(data):
            for layer, array in layers.items():
                file[f"layer_{layer}"][step] = array
    synced(path)


def read_hdf5(folder, layer, steps):
    with h5py.File(folder / "all.h5") as file:
        return [file[f"layer_{layer}"][step] for step in range(steps)]


def write_numpy(folder, data):
    for step, layers in enumerate(data):
        for layer, array in layers.items():
            path = folder / f"{step}-{layer}.npy"
            np.save(path, array)
            synced(path)


def read_numpy(folder, layer, steps):
    return [np.load(folder / f"{step}-{layer}.npy") for step in range(steps)]


def write_torch(folder, data):
    for step, layers in enumerate(data):
        path = folder / f"{step}.pt"
        torch.save({layer: torch.from_numpy(array) for layer, array in layers.items()}, path)
        synced(path)


def read_torch(folder, layer, steps):
    return [torch.load(folder / f"{step}.pt", mmap=True)[layer].numpy().copy() for step in range(steps)]


def write_plain(folder, data):
    for step, layers in enumerate(data):
        path = folder / str(step)
        with open(path, "wb") as file:
            file.writelines(array.data for array in layers.values())
        synced(path)


def main():
    parser = arguments(__doc__, repeats=5, threads=[1])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "build" / "activations")
    options = parser.parse_args()
    steps, n, d = (2, 50, 8) if options.quick else (options.steps, 5_075, 256)
    random = np.random.default_rng(0)
    data = [{layer: random.normal(size=(n, d)).astype(np.float32) for layer in (3, 4, 5, 6)} for _ in range(steps)]
    layer, size = 5, steps * n * d * 4
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, threads(options.threads[0]):
        folder = Path(folder)

        def read_plain(place, layer, steps):
            skip = list(data[0]).index(layer) * n * d * 4
            paths = [place / str(step) for step in range(steps)]
            return [np.fromfile(path, np.float32, n * d, offset=skip).reshape(n, d) for path in paths]

        plain = Format("limit: plain files", folder, write_plain, read_plain)
        formats = [
            Format("worldfast", folder, write_worldfast, read_worldfast),
            Format("h5py, slices of one dataset", folder, write_hdf5, read_hdf5),
            Format(
                "h5py, slices, automatic chunks, gzip",
                folder,
                lambda *args: write_hdf5(*args, chunks=True, compression="gzip"),
                read_hdf5,
            ),
            Format("numpy.save, a file for each array", folder, write_numpy, read_numpy),
            Format("torch.save, a file for each step", folder, write_torch, read_torch),
        ]

        def contestant(form, action, *limits):
            return Contestant(form.name, lambda: action(form), lambda _: form.differences(data), limits=limits)

        for work, amount, action in (
            ("writing four layers", 4 * size, lambda form: form.write(data)),
            ("reading one layer of all steps", size, lambda form: form.read(form.folder, layer, steps)),
        ):
            limit = contestant(plain, action)
            unit = Unit("MB/s", lambda seconds, amount=amount: amount / seconds / 1e6)
            contestants = [contestant(form, action, limit) for form in formats]
            run("activations", f"{work}, {amount / 1e6:,.0f} MB", contestants, options, unit)


if __name__ == "__main__":
    main()

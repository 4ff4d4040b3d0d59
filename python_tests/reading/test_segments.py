"""Segments from strangers, of other steps and of other entities: each is refused by name, and nothing else is touched."""

import errno
import json
import mmap
import os
import resource
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from stand_ins import PassingOn

import worldfast as wf
from torture.forks import forked
from worldfast.analysis.cka_tables import cka_over_training
from worldfast.dataset import require_same_entities
from worldfast.errors import DamagedError, MismatchError, UnsafeError, VersionError
from worldfast.reading import Activations, segment
from worldfast.studies import Trained
from worldfast.training import audit
from worldfast.worlds import cities
from worldfast.worlds.cities import analyses

N, D = 50, 16
STATES = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
IDS = np.array([f"thing {i}" for i in range(N)])
EXPECTED = segment.Expected("abc", 10, (1,), "float32", N, "f" * 64)
ABOUT = {"run": np.bytes_(b"abc"), "step": 10, "dtype": np.bytes_(b"float32"), "world": np.bytes_(b"f" * 64)}


@pytest.fixture
def path(tmp_path):
    return segment.write(tmp_path / "s.h5", {1: STATES}, np.arange(N), IDS, ABOUT)


def test_what_was_written_is_read(path):
    assert np.array_equal(segment.read(path, "layer_01", EXPECTED), STATES)
    assert segment.read(path, "entity_id", EXPECTED).tolist() == IDS.tolist()
    assert np.array_equal(segment.Unread(path, "layer_01", EXPECTED)[3:7], STATES[3:7])
    segment.check(path, segment.Expected("abc", 10, (1,), world="f" * 64))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"step": 20}, "is of step 10, expected 20"),
        ({"run": "abd"}, "belongs to run abc, expected abd"),
        ({"dtype": "float16"}, "is of dtype float32, expected float16"),
        ({"world": "e" * 64}, "is of world f+, expected e+"),
        ({"things": N + 1}, r"is of \[50\] entities, expected 51"),
        ({"layers": (1, 2)}, "has .* expected .*layer_02"),
        ({"layers": ()}, "has .* expected "),
    ],
)
def test_a_file_of_something_else(path, changes, message):
    for door in (segment.read, segment.Unread):
        with pytest.raises(MismatchError, match=f"{path}.*{message}"):
            door(path, "entity_index", EXPECTED._replace(**changes))


def places_of(file, a, b):
    """The arrays under each other's names."""
    file.move(a, "meanwhile")
    file.move(b, a)
    file.move("meanwhile", b)


def contents_of(file, a, b):
    file[a][...], file[b][...] = file[b][()], file[a][()]


def contents_and_checksums_of(file, a, b):
    contents_of(file, a, b)
    file[a].attrs["crc32"], file[b].attrs["crc32"] = file[b].attrs["crc32"], file[a].attrs["crc32"]


@pytest.mark.parametrize("exchange", [places_of, contents_of, contents_and_checksums_of])
def test_layers_that_changed_places_are_found_out(tmp_path, exchange):
    path = segment.write(tmp_path / "s.h5", {1: STATES, 2: -STATES, 11: 2 * STATES}, np.arange(N), IDS, ABOUT)
    expected = EXPECTED._replace(layers=(1, 2, 11))
    with h5py.File(path, "a") as file:
        exchange(file, "layer_01", "layer_11")
    for name in ("layer_01", "layer_11"):
        with pytest.raises(DamagedError, match=f"{path} is damaged: .*{name}.*train its run again"):
            segment.read(path, name, expected)
    if exchange is places_of:  # nothing but names is read of an array that is left unread
        with pytest.raises(DamagedError, match=f"{path} is damaged: in the place of layer_11 stands 'layer_01'"):
            segment.Unread(path, "layer_11", expected)
    assert np.array_equal(segment.read(path, "layer_02", expected), -STATES)
    with pytest.raises(DamagedError, match=str(path)):
        segment.check(path, expected)


@pytest.mark.parametrize("origin, words", [({}, "worldfast: "), ({"worldfast": "0.2.0"}, "worldfast, 0.2.0: ")])
def test_a_file_whose_checksums_cover_no_names(tmp_path, origin, words):
    """As earlier versions wrote it: two of its arrays may have changed places, and nothing would tell."""
    about = ABOUT | {"origin": np.bytes_(json.dumps(origin).encode())}
    path = segment.write(tmp_path / "s.h5", {1: STATES}, np.arange(N), IDS, about)
    with h5py.File(path, "a") as file:
        for array in file.values():
            del array.attrs["name"]
            array.attrs["crc32"] = np.uint32(segment.checksum(array[()]))
    for door in (segment.read, segment.Unread):
        with pytest.raises(
            VersionError, match=f"{path} was written by an earlier version of {words}.*train its run again"
        ):
            door(path, "layer_01", EXPECTED)


def external_link(file, secret):
    file["layer_01"] = h5py.ExternalLink(secret, "secret")


def soft_link(file, secret):
    file["layer_01"] = h5py.SoftLink("/entity_index")


def virtual(file, secret):
    layout = h5py.VirtualLayout((N, D), "f4")
    layout[:] = h5py.VirtualSource(secret, "secret", shape=(N, D), dtype="f4")
    file.create_virtual_dataset("layer_01", layout)


def external_storage(file, secret):
    file.create_dataset("layer_01", (N, D), "f4", external=[(secret, 0, N * D * 4)])


def huge(file, secret):
    file.create_dataset("layer_01", (N, 10**13), "f4")


def bomb(file, secret):
    file.create_dataset("layer_01", (N, 1 << 20), "f4", compression="gzip", fillvalue=0, chunks=(1, 1 << 20))


def in_parts(file, secret):
    file.create_dataset("layer_01", data=STATES, chunks=(10, D))


def long_texts(file, secret):
    file.create_dataset("layer_01", data=["text"] * N, dtype=h5py.string_dtype())


def group(file, secret):
    file.create_group("layer_01")


HOSTILE = {
    external_link: "is a link to another place",
    soft_link: "is a link to another place",
    virtual: "lies in another file",
    external_storage: "lies in another file",
    huge: "claims 2,000,000,000,000,000 bytes, 0 are stored",
    bomb: "is compressed or in parts",
    in_parts: "is compressed or in parts",
    long_texts: "is of object, expected numbers",
    group: "is no array",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_what_points_elsewhere_or_claims_too_much(path, tmp_path, make):
    secret = str(tmp_path / "secret.h5")
    with h5py.File(secret, "w") as file:
        file["secret"] = STATES
    with h5py.File(path, "a") as file:
        del file["layer_01"]
        make(file, secret)
    for door in (segment.read, segment.Unread):
        for name in ("layer_01", "entity_index") if "link" in HOSTILE[make] else ("layer_01",):
            with pytest.raises((UnsafeError, DamagedError), match=f"{path}.*{HOSTILE[make]}") as caught:
                door(path, name, EXPECTED)
            assert make is group or caught.type is UnsafeError


def test_trouble_of_the_environment_is_no_damage(path, tmp_path, monkeypatch):
    for number in (errno.EMFILE, errno.EACCES, errno.EIO):

        def fails(*_, number=number, **__):
            raise OSError(number, os.strerror(number), str(path))

        with monkeypatch.context() as patch:
            patch.setattr(segment, "regular", fails)
            with pytest.raises(OSError, match=str(path)) as caught:
                segment.read(path, "layer_01", EXPECTED)
            assert caught.value.errno == number
    with pytest.raises(FileNotFoundError):
        segment.read(tmp_path / "none.h5", "layer_01", EXPECTED)
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    os.mkfifo(tmp_path / "fifo.h5")
    for other in (link, tmp_path / "fifo.h5", tmp_path):
        with pytest.raises(UnsafeError, match=str(other)):
            segment.read(other, "layer_01", EXPECTED)


def test_an_error_while_a_file_is_read_names_it(path, monkeypatch):
    """It comes out of HDF5, which has asked for more bytes."""

    class Failing(PassingOn):
        def __init__(self, *_, **__):
            super().__init__(open(path, "rb"))

        def readinto(self, buffer):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segment, "_opened", Failing)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'") as caught:
        segment.read(path, "layer_01", EXPECTED)
    assert caught.value.errno == errno.EIO


def test_a_segment_that_another_process_has_locked_is_read(path):
    """As where HDF5 in another process has it open to write: h5py would refuse to open it."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with h5py.File(path, "r+", locking=True):
                os.write(there, b"!")
                signal.pause()
        finally:
            os._exit(1)
    os.close(there)
    try:
        assert os.read(here, 1) == b"!"
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(path, "r", locking=True)
        assert np.array_equal(segment.read(path, "layer_01", EXPECTED), STATES)
        assert np.array_equal(segment.Unread(path, "layer_01", EXPECTED)[3:7], STATES[3:7])
        segment.check(path, EXPECTED)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(here)


def in_memory_of(room, job):
    """The name of the error in which a job ends, and its text, with so many bytes of memory left."""
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20) + room, resource.RLIM_INFINITY))
    spare, taken = mmap.mmap(-1, room), []
    for size in (1 << 20, 1 << 16, 1 << 12, 1 << 10):  # also what was freed before
        try:
            while True:
                taken.append(bytearray(size))
        except MemoryError:
            pass
    spare.close()
    try:
        job()
    except Exception as error:
        taken.clear()
        return type(error).__name__, str(error)
    return "", ""


def test_want_of_memory_is_no_damage_and_ends_no_process(path, tmp_path):
    """HDF5 would end some of these processes, and find damage in others."""
    assert np.array_equal(segment.read(path, "layer_01", EXPECTED), STATES)  # HDF5 is loaded
    read = partial(segment.read, path, "layer_01", EXPECTED)
    write = partial(segment.write, tmp_path / "w.h5", {1: STATES}, np.arange(N), IDS, ABOUT)
    for job, name in ((read, path), (write, tmp_path / "w.h5")):
        rooms = [int(2**14 * 1.2**i) for i in range(40)]  # to 20 MB
        for ended in forked([partial(in_memory_of, room, job) for room in rooms]):
            assert ended == ["", ""] or ended[0] == "MemoryError", ended
        ((kind, text),) = forked([partial(in_memory_of, segment.ROOM // 2, job)])
        assert kind == "MemoryError" and text.startswith(f"segment {name}: no memory for 16 MiB")
        assert list(forked([partial(in_memory_of, 2 * segment.ROOM, job)])) == [["", ""]]


def test_a_path_that_is_no_utf8(path):
    moved = os.fsencode(path.parent) + b"/\xff\xfe.h5"
    os.rename(path, moved)
    assert np.array_equal(segment.read(path.with_name(os.fsdecode(b"\xff\xfe.h5")), "layer_01", EXPECTED), STATES)


# ---- of runs ----


def world_file(path, first, reverse=False):
    lines = [f"{i % 37},{i}" for i in range(first, first + 20)]
    path.write_text("\n".join(["x,y", *(lines[::-1] if reverse else lines)]) + "\n")
    return wf.WorldSpec(str(path))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on 20 cities, on the same in another order and under other ids, and on 20 others."""
    out = tmp_path_factory.mktemp("runs")
    spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16)
    worlds = {"a": (0, False), "turned": (0, True), "b": (20, False)}
    made = [
        wf.Run(
            cities.Dataset("angle", rows=32, world=world_file(out / f"{name}.csv", *of)),
            batch=16,
            model=spec,
            checkpoints=2,
            name=name,
            capture=wf.Capture(layers=(1,)),
        )
        for name, of in worlds.items()
    ]
    made.append(replace(made[0], seed=1, name="again"))
    wf.train(made, out / "runs", progress=False)
    return {run.name: Trained(run, out) for run in made}


def test_entities_are_known_in_any_world(runs):
    ids = {name: one.entities for name, one in runs.items()}
    assert len({*ids["a"], *ids["b"]}) == 40 and np.array_equal(ids["a"], ids["again"])
    require_same_entities({name: ids[name] for name in ("a", "again")})
    shuffled = {"a": ids["a"], "turned": ids["a"][::-1]}
    with pytest.raises(MismatchError, match="'a' and 'turned' are .*the same in another order: put the rows of one"):
        require_same_entities(shuffled)
    found = wf.represent(runs["a"].folder, layers=(1,), among="index < 5")
    assert found.entities.tolist() == ids["a"][:5].tolist() and found.world == runs["a"].run.data.digest


@pytest.mark.parametrize("other", ["b", "turned"])
def test_runs_of_other_entities_are_not_compared(runs, other):
    pair = [runs["a"], runs[other]]
    message = f"'a' and '{other}' are of different entities, 20 and 20"
    with pytest.raises(MismatchError, match=message):
        cka_over_training({one.name: one.activations for one in pair}, 1)
    options = {"layer": 1, "cities": "index >= 0"}
    for make in (analyses.cka_over_training, analyses.cka_shown, analyses.procrustes, analyses.mutual_knn):
        with pytest.raises(MismatchError, match=message):
            make(pair, **options)
    with pytest.raises(MismatchError, match=message):
        analyses.cka(pair, "index >= 0")
    with pytest.raises(MismatchError, match=message):
        analyses.patching(pair, rows=4)


def test_runs_of_the_same_entities_are(runs):
    pair = [runs["a"], runs["again"]]
    assert len(cka_over_training({one.name: one.activations for one in pair}, 1)) == 5
    assert len(analyses.procrustes(pair, 1, "index >= 0")) == 1
    with pytest.raises(MismatchError, match="'a' and 'b' are of different entities"):  # some of both, too
        cka_over_training({"a": analyses.Some(pair[0].activations, [0, 1]), "b": runs["b"].activations}, 1)


def test_a_segment_in_the_place_of_another(runs, tmp_path):
    """Of another step of the run, and of another run at the same step; then the folder's check names it."""
    folder = shutil.copytree(runs["a"].folder, tmp_path / "a")
    first, last = (segment.segment_path(folder, step) for step in (0, 2))
    assert all(one.fine for one in audit(folder))
    for source, message in (
        (first, "is of step 0, expected 2"),
        (segment.segment_path(runs["b"].folder, 2), "belongs to run .*, expected"),
    ):
        shutil.copy(source, last)
        activations = Activations(folder)
        for read in (lambda: activations[2, 1], lambda: activations.things, lambda: activations.dataset(2, 1)):  # noqa: B023
            with pytest.raises(MismatchError, match=f"{last} {message}"):
                read()
        assert np.array_equal(activations[0, 1], runs["a"].activations[0, 1])
        assert [one.path for one in audit(folder) if not one.fine] == [last]
    last.unlink()
    assert [(one.path, one.state) for one in audit(folder) if not one.fine] == [(last, "missing")]


def test_a_file_says_of_what_world_it_is(runs):
    one = runs["a"]
    with h5py.File(segment.segment_path(one.folder, 2)) as file:
        assert file.attrs["world"].decode() == one.run.data.digest
        assert json.loads(file.attrs["spec"])["data"]["content"] == one.run.data.digests
        assert (
            file["entity_id"][0].decode() == one.entities[0] == f"c_{one.run.data.world.build().city_id[0]:04d} at 0,0"
        )

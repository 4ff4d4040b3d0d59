"""A disk that fills up, or cannot be written to: the error names the file, what was finished stays as it is,
and the same call goes on to the same bytes.
"""

import errno
import fcntl
import fnmatch
import itertools
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TINY

import worldfast as wf
from worldfast import checkpoint, files, locks
from worldfast.capture import Capture
from worldfast.training import memory, metrics, train
from worldfast.worlds.cities import Dataset

BASE = wf.Run(
    Dataset("distance", rows=96),
    seed=7,
    batch=16,
    learning_rate=0.003,
    warmup=5,
    checkpoints=3,
    name="long",
    model=TINY,
    capture=Capture(layers=(1,), readout={"among": "index < 50"}),
)
RUNS = [
    BASE,
    replace(BASE, seed=8, data=replace(BASE.data, rows=64), name="short"),
    replace(BASE, start=BASE, data=replace(BASE.data, rows=32), name="tuned"),
]


def one_at_a_time():
    need = memory.need(BASE, "cpu", 2)
    return dict(threads=2, memory=need.shared + need.member, progress=False)


def left(folder):
    """All that a run left, but for clock times."""
    kept = [checkpoint.read(path, folder.name[-12:]) for path in sorted((folder / "checkpoint").iterdir())]
    return {
        "files": sorted(path.name for path in folder.rglob("*")),
        "metrics": re.sub(r'"seconds": [^,]+, ', "", (folder / "metrics.jsonl").read_text()),
        "activations": {path.name: path.read_bytes() for path in (folder / "activations").iterdir()},
        "tensors": [(x.step, {name: t.numpy().tobytes() for name, t in x.tensors.items()}) for x in kept],
    }


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What RUNS leave on a disk with room."""
    return [left(folder) for folder in train(RUNS, tmp_path_factory.mktemp("whole"), **one_at_a_time())]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


KINDS = ["*/long-*/*.safetensors", "*/short-*/*.safetensors", "*/*.h5", "*/done", "*/metrics.jsonl"]


@pytest.mark.parametrize("pattern,number", [("*/spec.json", 1), *itertools.product(KINDS, (1, 2, 3))])
def test_a_disk_that_fills_up(whole, tmp_path, monkeypatch, pattern, number):
    """At the first, second, third time that a file of a kind is synced: runs train one after the other, so
    that some have ended by then.
    """
    real, count = os.fsync, 0

    def fsync(handle):
        nonlocal count
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        name = re.sub(rf"^\.(.+)\.\d+-\d+{files.PARTIAL}$", r"\1", path.name)
        if fnmatch.fnmatch(str(path.with_name(name)), pattern):
            count += 1
            if count >= number:
                full()
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=f"No space left on device: .*'{re.escape(str(tmp_path))}/.+'") as caught:
        train(RUNS, tmp_path, **one_at_a_time())
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC and fnmatch.fnmatch(caught.value.filename, pattern)
    assert not list(tmp_path.rglob(f"*{files.PARTIAL}"))
    ended = [path.parent for path in tmp_path.glob("*/done")]
    before = {folder: stamps(folder) for folder in ended}
    assert len(ended) == {"*/done": number - 1, "*/short-*/*.safetensors": 1}.get(pattern, 0)
    folders = train(RUNS, tmp_path, **one_at_a_time())
    assert [left(folder) for folder in folders] == whole
    assert {folder: stamps(folder) for folder in ended} == before


def denied(*_):
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_folders_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", denied)
    with pytest.raises(
        PermissionError, match=f"denied: out: the folder cannot be made: '{re.escape(str(tmp_path))}/runs'"
    ):
        train(RUNS, tmp_path / "runs", progress=False)
    monkeypatch.undo()
    assert not (tmp_path / "runs").exists()


def test_files_that_cannot_be_put_in_place(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError, match="denied: nothing was written: '.*/spec.json'"):
        train(RUNS, tmp_path, progress=False)
    monkeypatch.undo()
    assert [left(folder) for folder in train(RUNS, tmp_path, **one_at_a_time())] == whole


def test_a_lock_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "regular", lambda path, flags: os.open("/dev/full", os.O_RDWR))
    monkeypatch.setattr(locks, "_is_at", lambda path, file: True)
    with pytest.raises(OSError, match="the folder cannot be held: '.*lock'"):
        train(BASE, tmp_path, progress=False)


def test_a_folder_that_cannot_be_synced_after_its_file_was_written(tmp_path, monkeypatch):
    """The error does not say that nothing was written: the file is there, whole."""
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: full() if stat.S_ISDIR(os.fstat(handle).st_mode) else sync(handle))
    with pytest.raises(OSError) as told:
        files.write_whole(tmp_path / "a", b"new")
    assert str(told.value) == f"[Errno 28] No space left on device: the names of its files may be lost: '{tmp_path}'"
    assert (tmp_path / "a").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("file", ("spec.json", "metrics.jsonl", "done"))
def test_a_folder_that_cannot_be_synced(whole, tmp_path, monkeypatch, file):
    sync = files.sync_folder

    def failing(path):
        with monkeypatch.context() as patch:
            if (path / file).exists():
                patch.setattr(os, "fsync", full)
            sync(path)

    monkeypatch.setattr(files, "sync_folder", failing)
    monkeypatch.setattr(metrics, "sync_folder", failing)
    with pytest.raises(OSError, match=f"No space left on device: the names of its files may be lost.*{tmp_path}"):
        train(BASE, tmp_path, progress=False)
    monkeypatch.undo()
    assert [left(folder) for folder in train(RUNS, tmp_path, **one_at_a_time())] == whole


@pytest.mark.parametrize("what", ("open", "flock"))
def test_an_export_that_cannot_be_held(tmp_path, monkeypatch, what):
    (folder,) = train(BASE, tmp_path / "runs", progress=False)
    real = os.open

    def opened(path, flags, *more, **how):
        return denied() if flags & os.O_DIRECTORY and "partial" in str(path) else real(path, flags, *more, **how)

    monkeypatch.setattr(*{"open": (os, "open", opened), "flock": (fcntl, "flock", denied)}[what])
    with pytest.raises(
        PermissionError, match=f"denied: it cannot be held: '{re.escape(str(tmp_path))}/.open.*partial'"
    ):
        wf.export_huggingface(folder, tmp_path / "open")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_what_killed_processes_left_beside_folders_is_removed(tmp_path):
    """Files of holders that no lock names yet, and exports that were not finished; those in use stay."""
    from worldfast.locks import Holder

    (folder,) = train(BASE, tmp_path, progress=False)
    living = Holder(tmp_path)
    (tmp_path / f".holder-{'0' * 32}").touch()
    (tmp_path / ".open.abc.partial" / "open").mkdir(parents=True)
    (tmp_path / ".opened.abc.partial").mkdir()  # of another export
    train(replace(BASE, seed=9, name="other"), tmp_path, progress=False)
    wf.export_huggingface(folder, tmp_path / "open")
    hidden = sorted(path.name for path in tmp_path.glob(".*"))
    assert hidden == [living._path.name, ".opened.abc.partial"]
    assert (tmp_path / "open").stat().st_mode == (tmp_path / folder.name).stat().st_mode
    living.close()

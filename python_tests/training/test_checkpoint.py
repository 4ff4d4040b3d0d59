"""Checkpoints: whole or not there, and known when they are not what was written."""

import errno
import os
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from worldfast import checkpoint, files
from worldfast.checkpoint import Checkpoint
from worldfast.errors import DamagedError

RUN, ORIGIN = "0123456789ab", {"worldfast": "0"}


def make(step):
    tensors = {name: torch.arange(50.0) * step + i for i, name in enumerate(("parameters", "exp_avg", "exp_avg_sq"))}
    return Checkpoint(step, tensors, {"seconds": 1.5, "rows": step * 7, "pending": {"loss": 0.1 + 0.2, "steps": 3}})


def assert_same(a, b):
    assert (a.step, a.state) == (b.step, b.state) and a.tensors.keys() == b.tensors.keys()
    for name in a.tensors:
        assert torch.equal(a.tensors[name], b.tensors[name])


def test_round_trip_and_the_last_two_are_kept(tmp_path):
    assert checkpoint.newest(tmp_path, RUN) is None
    for step in (0, 9, 10, 100_000_000):
        path = checkpoint.save(tmp_path, make(step), RUN, ORIGIN)
        assert_same(checkpoint.newest(tmp_path, RUN), make(step))
    assert sorted(os.listdir(tmp_path)) == ["step-00000010.safetensors", path.name]
    assert_same(checkpoint.read(tmp_path / "step-00000010.safetensors", RUN), make(10))


def test_the_file_is_what_safetensors_would_write(tmp_path):
    path = checkpoint.save(tmp_path, make(3), RUN, ORIGIN)
    with safe_open(path, "pt") as file:
        expected = save({name: file.get_tensor(name) for name in file.keys()}, file.metadata())
    assert path.read_bytes() == expected


def test_every_damaged_byte_is_found(tmp_path):
    """A flipped bit anywhere, and a cut anywhere, is damage; the checkpoint before it is used and the file is
    named."""
    checkpoint.save(tmp_path, make(1), RUN, ORIGIN)
    path = checkpoint.save(tmp_path, make(2), RUN, ORIGIN)
    whole = path.read_bytes()
    chance = random.Random(0)
    places = [*range(64), *(chance.randrange(len(whole)) for _ in range(400)), len(whole) - 1]
    for place in places:
        flipped = whole[place] ^ (1 << chance.randrange(8))
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.raises(DamagedError, match=path.name):
            checkpoint.read(path, RUN)
    for length in [0, 1, 7, 8, 9, *(chance.randrange(len(whole)) for _ in range(50)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match=rf"{path.name} is damaged: .*the one before it, step-00000001.* is used"):
            assert_same(checkpoint.newest(tmp_path, RUN), make(1))
    path.write_bytes(whole)
    assert_same(checkpoint.newest(tmp_path, RUN), make(2))


def test_no_checkpoint_is_whole(tmp_path):
    checkpoint.save(tmp_path, make(1), RUN, ORIGIN).write_bytes(b"nothing")
    with pytest.raises(DamagedError, match="damaged.*none before it is left"):
        checkpoint.newest(tmp_path, RUN)


def test_a_damaged_checkpoint_takes_no_whole_ones_place(tmp_path):
    """Going on before it, the last two whole ones are kept, and it is not."""
    for step in (1, 2, 9):
        path = checkpoint.save(tmp_path, make(step), RUN, ORIGIN)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        assert checkpoint.newest(tmp_path, RUN).step == 2
    checkpoint.save(tmp_path, make(5), RUN, ORIGIN)
    assert sorted(os.listdir(tmp_path)) == ["step-00000002.safetensors", "step-00000005.safetensors"]


def test_another_run_is_refused(tmp_path):
    checkpoint.save(tmp_path, make(1), RUN, ORIGIN)
    with pytest.raises(ValueError, match=f"belongs to run {RUN}, expected ffff"):
        checkpoint.newest(tmp_path, "ffff")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, call):
    before = checkpoint.save(tmp_path, make(1), RUN, ORIGIN).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        full_file = open("/dev/full", "wb", buffering=0)
        monkeypatch.setattr(files, "open", lambda *_: full_file, raising=False)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device: nothing was written.*step-00000001") as caught:
        checkpoint.save(tmp_path, make(1), RUN, ORIGIN)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["step-00000001.safetensors"]
    assert (tmp_path / "step-00000001.safetensors").read_bytes() == before


def test_folders_that_are_files(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileExistsError, match="out: .* should be a folder, but .*file' is a file"):
            files.folder(path, "out")
    assert files.folder(tmp_path / "a" / "b", "out").is_dir()


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "below").mkdir()
    left = tmp_path / "below" / f".step-1.h5.77-1{files.PARTIAL}"
    left.write_text("half")
    files.remove_partial(tmp_path)
    assert not left.exists()

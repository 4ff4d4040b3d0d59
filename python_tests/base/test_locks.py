"""Folders that a process holds: one descriptor for any number, let go of when it ends, and by none of its forks."""

import errno
import os
import resource
import signal
import threading
from contextlib import suppress

import pytest

from worldfast import files, locks
from worldfast.errors import UnsafeError
from worldfast.locks import Holder, lock, locked


@pytest.fixture
def folders(tmp_path):
    return [files.folder(tmp_path / str(i), "out") for i in range(3)]


def held(folder):
    """True if nobody else may hold it now."""
    try:
        with lock(folder.parent, [folder]):
            return False
    except BlockingIOError as error:
        assert error.errno == errno.EWOULDBLOCK and "in use by process" in str(error) and str(folder) in str(error)
        return True


def test_folders_are_held_until_their_holder_ends(folders):
    a, b, c = folders
    with lock(a.parent, [a, b]) as holder:
        assert [locked(one) for one in folders] == [held(one) for one in folders] == [True, True, False]
        for one in (a, b):
            holder.check(one)
    assert not any(locked(one) or held(one) for one in folders)
    assert sorted(path.name for path in a.parent.iterdir()) == ["0", "1", "2"], "no file of a holder is left"


def test_threads_of_a_process_are_kept_apart(folders):
    found = []
    with lock(folders[0].parent, folders[:1]):
        thread = threading.Thread(target=lambda: found.append(held(folders[0])))
        thread.start()
        thread.join()
    assert found == [True]


def test_many_folders_take_one_descriptor(tmp_path):
    names = [files.folder(tmp_path / str(i), "out") for i in range(200)]
    there = [int(name) for name in os.listdir("/proc/self/fd")]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(there) + 5, limits[1]))
    try:
        with lock(tmp_path, names):
            assert all(locked(name) for name in names[::20]) and held(names[100])
            assert len(os.listdir("/proc/self/fd")) <= len(there) + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def fork(work):
    """A child process that does some work and ends at once."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_a_killed_process_holds_nothing_though_its_fork_lives(folders):
    ready, told = os.pipe()

    def descendant():
        os.write(told, f"{os.getpid()} ".encode())  # who writes has let go of what a fork inherits
        signal.pause()

    def owner():
        holder = Holder(folders[0].parent)
        holder.hold(folders[0])
        fork(descendant)
        signal.pause()

    child = fork(owner)
    grandchild = int(os.read(ready, 20))
    try:
        before = held(folders[0]), locked(folders[0])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.kill(grandchild, 0)  # it lives
        assert before == (True, True)
        assert not held(folders[0]) and not locked(folders[0])
    finally:
        os.kill(grandchild, signal.SIGKILL)
    assert not [path for path in folders[0].parent.iterdir() if path.name.startswith(".holder")]


def test_a_fork_neither_holds_nor_lets_go(folders):
    with lock(folders[0].parent, folders[:1]) as holder:

        def work():
            with suppress(BlockingIOError):
                holder.check(folders[0])
                os._exit(1)
            holder.close()
            os._exit(7)

        _, status = os.waitpid(fork(work), 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert held(folders[0])
        holder.check(folders[0])


def test_a_lock_that_somebody_removes(folders):
    """Its holder makes it again; if another came in between, the first writes nothing more."""
    a = folders[0]
    with lock(a.parent, [a]) as first:
        (a / "lock").unlink()
        first.check(a)
        assert held(a)
        (a / "lock").unlink()
        with lock(a.parent, [a]) as second:
            second.check(a)
            with pytest.raises(BlockingIOError, match="taken by process .*, nothing more is written there.*0/lock"):
                first.check(a)
        with pytest.raises(BlockingIOError, match="taken by process"):
            first.check(a)  # the other has ended, and has left things there


def test_a_lock_replaced_while_it_is_waited_for(folders, monkeypatch):
    """What is locked is the file at the path, not one that was there before."""
    a, real, seen = folders[0], locks.fcntl.flock, []

    def flock(file, how):
        real(file, how)
        if file.name == str(a / "lock") and not seen:
            seen.append(os.fstat(file.fileno()).st_ino)
            (a / "lock").rename(a / "old")  # its number stays in use

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with lock(a.parent, [a]):
        assert (a / "lock").stat().st_ino != seen[0] and held(a)


@pytest.mark.parametrize(
    "text", ["", "process 1 on x\n../../etc/passwd\n", "\x00\xff", "process 1 on x\n.holder-" + "0" * 32]
)
def test_a_lock_that_names_nobody(folders, text):
    a = folders[0]
    (a / "lock").write_bytes(text.encode("latin-1"))
    assert not locked(a) and not held(a)
    (a / "lock").unlink()
    (a / "lock").symlink_to("/dev/null")
    for call in (lambda: locked(a), lambda: held(a)):
        with pytest.raises(UnsafeError, match="lock' is a link, expected a file"):
            call()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES, errno.EIO])
def test_a_file_system_without_locks_is_named(folders, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with pytest.raises(OSError, match=f"{os.strerror(number)}: folders cannot be held.*{folders[0].parent}") as caught:
        held(folders[0])
    assert caught.value.errno == number


# ---- files that are being written ----


def test_what_dead_writers_left_is_removed_and_nothing_of_living_ones(tmp_path):
    dead = tmp_path / f".a.csv.77-1{files.PARTIAL}"
    dead.write_text("half")
    (tmp_path / f".b.csv.77-1{files.PARTIAL}").symlink_to(tmp_path / "elsewhere")
    ready, told = os.pipe()

    def writer():
        with files._begin(tmp_path / f".c.csv.{os.getpid()}-1{files.PARTIAL}") as file:
            file.write(b"half")
            os.write(told, b"x")
            signal.pause()

    child = fork(writer)
    os.read(ready, 1)
    files.remove_partial(tmp_path)
    files.remove_partial(tmp_path, "c.csv")
    there = sorted(path.name[:6] for path in tmp_path.iterdir())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    files.remove_partial(tmp_path, "d.csv")
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_partial(tmp_path, "c.csv")
    assert there == [".b.csv", ".c.csv"] and [path.name[:6] for path in tmp_path.iterdir()] == [".b.csv"]

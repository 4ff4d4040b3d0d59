"""Processes in which calls of the system fail, or that die in them: forks of one that has imported all, with faults.c
loaded before the C library.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from torture.forks import begin, status_of

__all__ = ["CALLS", "DEATHS", "Child", "Nursery", "arm", "nursery_of", "seen"]

CALLS = ("open", "write", "fsync", "rename", "mkdir", "unlink", "flock")  # in the order of faults.c
DEATHS = {"before": -1, "halfway": -2, "after": -3}
SOURCE = Path(__file__).with_name("faults.c")
PATIENCE = 300.0  # seconds until a process that has not ended hangs, and is killed
FOREVER = 1 << 40


def arm(call: str, first: int, how: int, below: str | os.PathLike, times: int = FOREVER) -> None:
    """Let calls on paths below a folder fail from the `first` on: with the errno `how`, or a death (DEATHS)."""
    arm_ = ctypes.CDLL(None).fault_arm
    arm_.argtypes = (ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_char_p)
    arm_(CALLS.index(call), first, times, how, os.fsencode(below))


def seen() -> dict[str, int]:
    """Return how many calls of each kind there were on paths below the folder since faults were armed."""
    return {call: ctypes.CDLL(None).fault_seen(number) for number, call in enumerate(CALLS)}


class Nursery:
    """Process that forks others, each of which calls one function of a module.

    Parameters
    ----------
    place : Path
        Folder for the compiled faults and for what processes print.
    warm : sequence
        Function, "module:name", and its arguments: called once before any fork, so that all is imported.
    environment : dict of str to str, optional
        Variables to set.

    Raises
    ------
    FileNotFoundError
        There is no C compiler.
    """

    def __init__(self, place: Path, warm: Sequence, environment: dict[str, str] | None = None):
        library = place / "faults.so"
        if not library.exists():
            subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        paths = os.pathsep.join([str(SOURCE.parents[1]), *filter(None, sys.path)])  # what is imported here is there
        loaded = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.log = open(place / "log", "ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torture.faults", json.dumps(warm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=loaded | (environment or {}),
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def start(self, function: str, *arguments) -> Child:
        """Fork a process that calls a function, "module:name", with arguments that JSON keeps."""
        self.process.stdin.write(json.dumps([function, *arguments]).encode() + b"\n")
        self.process.stdin.flush()
        return Child(self.process, int(self._line()))

    def call(self, function: str, *arguments) -> dict:
        """Start a process and wait for its end."""
        return self.start(function, *arguments).wait()

    def _line(self) -> bytes:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that forks others has ended: see {self.log.name}")
        return line


def nursery_of(there: Nursery | None, place: Path, warm: Sequence) -> AbstractContextManager[Nursery]:
    """Return the nursery that is there, to be left open, or a new one, to be closed."""
    return nullcontext(there) if there else Nursery(place, warm)


class Child:
    """Process of a nursery."""

    def __init__(self, nursery: subprocess.Popen, pid: int):
        self.nursery, self.pid = nursery, pid

    def alive(self, seconds: float = 0) -> bool:
        """Return False once it has ended, after waiting for that so long."""
        return not select.select([self.nursery.stdout], [], [], seconds)[0]

    def signal(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def wait(self) -> dict:
        """Return its ending: `status`, negative for a signal, `seen`, and `answer`, or `error`, `errno` and `text`."""
        if self.alive(PATIENCE):
            os.kill(self.pid, signal.SIGKILL)
        return json.loads(self.nursery.stdout.readline())


def _told(error: BaseException) -> dict:
    kind = type(error)
    names = [one.__name__ for one in kind.__mro__ if one not in (object, BaseException)]
    text = str(error).encode(errors="backslashreplace").decode()
    return {
        "error": names,
        "errno": getattr(error, "errno", None),
        "text": text,
        "trace": traceback.format_exc()[-1500:],
    }


def _call(function: str, *arguments):
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def _be_born(function: str, arguments: list, tell: int, pipe: int) -> int:
    """Call the function, tell its answer or its error through the pipe, and return the status."""
    os.close(tell)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        told = {"answer": _call(function, *arguments)}
    except BaseException as error:
        told = _told(error)
    told["seen"] = seen()
    arm(CALLS[0], FOREVER, 0, "/")
    os.write(pipe, json.dumps(told).encode())
    return int("error" in told)


def _serve(warm: Sequence) -> None:
    tell = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed
    _call(*warm)
    for line in sys.stdin.buffer:
        function, *arguments = json.loads(line)
        pid, read = begin(partial(_be_born, function, arguments, tell))
        os.write(tell, b"%d\n" % pid)
        with open(read, "rb") as pipe:
            told = json.loads(pipe.read() or b"{}")
        os.write(tell, json.dumps({"status": status_of(pid), **told}).encode() + b"\n")


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))

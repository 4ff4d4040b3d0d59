"""Python in a process of its own that has imported torch and the package when it begins: a fork of one that waits.

    done = python("-c", code, cwd=folder, PYTHONPATH=path)      # as of subprocess.run([sys.executable, "-c", code])
    done = python(script, "--quick")

To import torch takes three seconds of a processor. The process that waits computes nothing, so that it has no threads
that a fork would miss. What tests imports, or a fresh interpreter needs `subprocess`.
"""

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from types import ModuleType


def python(*arguments, cwd=None, check=False, **environment):
    """Return the exit status, standard output and standard error of Python with these arguments.

    Parameters
    ----------
    *arguments
        "-c" and code, or a script; and arguments of either.
    cwd : path, optional
        Folder that it starts in.
    check : bool
        Raise CalledProcessError for a status other than 0.
    **environment : str
        Variables beside those of this process.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        asked = {
            "arguments": list(map(str, arguments)),
            "cwd": str(cwd or os.getcwd()),
            "environment": {**os.environ, **environment},
            "files": [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)],
        }
        waiting = _waiting()
        print(json.dumps(asked), file=waiting.stdin, flush=True)
        status = int(waiting.stdout.readline())
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    done = subprocess.CompletedProcess(arguments, status, *said)
    if check:
        done.check_returncode()
    return done


@functools.cache
def _waiting() -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _serve(paths: list[str]) -> None:
    """Forks a process for each line of standard input, and answers with its exit status."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(_be(paths, **json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _be(paths: list[str], arguments: list[str], cwd: str, environment: dict[str, str], files: list[str]) -> int:
    """The exit status of this process as a fresh interpreter with these arguments."""
    for number, path in zip((0, 1, 2), (os.devnull, *files)):
        os.dup2(os.open(path, os.O_RDWR), number)
    opened = (open(number, mode, buffering=1, encoding="utf-8") for number, mode in zip(range(3), "rww"))
    sys.stdin, sys.stdout, sys.stderr = opened
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    first, *rest = arguments
    sys.orig_argv = [sys.executable, *arguments]
    sys.argv = ["-c", *rest[1:]] if first == "-c" else arguments
    beside = "" if first == "-c" else os.path.dirname(os.path.abspath(first))
    sys.path[:] = [beside, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *paths]
    try:
        if first == "-c":
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            runpy.run_path(first, run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code
        if not isinstance(status, int | None):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return status or 0


if __name__ == "__main__":
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    import worldfast.training
    import worldfast.worlds.cities  # noqa: F401

    _serve([path for path in sys.path[1:] if path not in given])

"""The native core under sanitizers: the environment of a process that loads it, and a build that also counts the places of
its code that were reached.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from torture.tally import Tally

__all__ = ["RUNTIMES", "build", "environment", "load", "sanitized"]

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "fuzz"
RUNTIMES = {"address,undefined": "libasan.so", "thread": "libtsan.so"}  # by the names of .ci/sanitize
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024:soft_rss_limit_mb=6144"
    ":alloc_dealloc_mismatch=0:quarantine_size_mb=8:handle_sigill=2:malloc_context_size=2",  # stacks are kept for ever
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": f"halt_on_error=1:exitcode=66:suppressions={ROOT / '.ci' / 'tsan.supp'}",
}


def build(tally: Tally) -> str | None:
    """Build the core and return its path, or None and a note of the reason."""
    if not (ROOT / "CMakeLists.txt").exists() or not all(map(shutil.which, ("cmake", "g++"))):
        tally.notes.append("no compiler or no sources: no sanitizers, and changes are blind to what they reach")
        return None
    import pybind11

    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    generator = ["-GNinja"] if shutil.which("ninja") else []
    options = [
        *("-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DPython_EXECUTABLE={sys.executable}", "-DWORLDFAST_CUDA=OFF"),
        *("-DWORLDFAST_SANITIZE=address,undefined", "-DWORLDFAST_COVERAGE=ON", f"-DWORLDFAST_OUTPUT={BUILD}"),
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]
    for command in (
        ["cmake", "-S", ROOT, "-B", BUILD / "cmake", *generator, *launcher, *options],
        ["cmake", "--build", BUILD / "cmake"],
    ):
        done = subprocess.run(command, env={**os.environ, "CCACHE_BASEDIR": str(ROOT)}, capture_output=True, text=True)
        if done.returncode != 0:
            tally.notes.append(f"no build with sanitizers: {(done.stdout + done.stderr)[-300:]}")
            return None
    return str(next(BUILD.glob("_core*.so")))


def environment(path: str | None) -> dict[str, str]:
    """Return the environment of a process that loads the core from this path."""
    found = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)),
    }
    return found if path is None else found | sanitized("address,undefined")


def sanitized(kind: str) -> dict[str, str]:
    """Return the variables of a process with a sanitizer, which is loaded before all else; OSError without a compiler."""
    libraries = [
        subprocess.check_output(["g++", f"-print-file-name={one}"], text=True).strip()
        for one in (RUNTIMES[kind], "libstdc++.so.6")
    ]
    return OPTIONS | {"LD_PRELOAD": " ".join(libraries)}


def load(path: str | None) -> Callable[[], int]:
    """Import the core from a file, where one is given, and return its count of places reached."""
    if path is None:
        return lambda: 0
    spec = importlib.util.spec_from_file_location("worldfast._core", path)
    assert spec and spec.loader
    sys.modules["worldfast._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["worldfast._core"])
    coverage = ctypes.CDLL(path).coverage
    coverage.restype = ctypes.c_int64
    return coverage

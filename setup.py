"""Hands the native build to CMake. Everything else about the package stands in pyproject.toml.

Environment: WORLDFAST_CUDA=ON|OFF (default: ON where nvcc is found), WORLDFAST_WERROR=ON, CMAKE_ARGS.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        ninja = shutil.which("ninja")
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DCMAKE_BUILD_TYPE=Release",
            *(["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
            *(f"-D{name}={os.environ[name]}" for name in ("WORLDFAST_CUDA", "WORLDFAST_WERROR") if name in os.environ),
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        # One build folder for each set of tools and options: an isolated build's tools are gone when the next one
        # starts, and what it left with them.
        for cache in ROOT.glob("build/cmake-*/CMakeCache.txt"):
            found = re.search(r"^pybind11_DIR:\w+=(.*)$", cache.read_text(), re.MULTILINE)
            if found and not Path(found[1]).exists():
                shutil.rmtree(cache.parent)
        folder = ROOT / "build" / ("cmake-" + hashlib.sha256("\n".join(options).encode()).hexdigest()[:12])
        folder.mkdir(parents=True, exist_ok=True)
        # The place of the result changes between `pip install .` and `-e .`; as a build option it recompiles nothing.
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, f"-DWORLDFAST_OUTPUT={target}", *options], check=True)
        subprocess.run(["cmake", "--build", folder, "--parallel"], check=True)


setup(
    packages=sorted({"worldfast.kernels", *find_packages(include=["worldfast", "worldfast.*"])}),
    ext_modules=[Extension("worldfast._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

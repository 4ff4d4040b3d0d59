"""The CUDA kernels as they were compiled, for every architecture: no local memory, whole words stored. Needs no GPU."""

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from worldfast._native import core

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
KERNELS = ("rectangle_kernel", "place_tiles_kernel", "pack_kernel", "label_kernel", "fault_kernel")


def find_cuobjdump():
    """On the path, or the one that comes with Triton."""
    triton = find_spec("triton")
    beside = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump" if triton else None
    return shutil.which("cuobjdump") or (str(beside) if beside and beside.exists() else None)


pytestmark = [
    pytest.mark.skipif(not core.cuda, reason="built without CUDA"),
    pytest.mark.skipif(find_cuobjdump() is None, reason="no cuobjdump"),
]


@cache
def dump(what):
    """What cuobjdump says of the module: [(architecture, its part)]."""
    run = subprocess.run([find_cuobjdump(), what, core.__file__], capture_output=True, text=True, check=True)
    parts = re.split(r"^arch = (sm_\d+)\w*$", run.stdout, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2]))


def kernel_of(mangled):
    return next((name for name in KERNELS if name in mangled), None)


def resources():
    """(architecture, mangled name) -> {"REG": registers, "STACK": bytes, "LOCAL": bytes, ...}."""
    found = {}
    for architecture, text in dump("--dump-resource-usage"):
        for name, numbers in re.findall(r"Function (\S+):\s*\n(.*)", text):
            found[architecture, name] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", numbers)}
    return found


def instructions():
    """(architecture, mangled name) -> its instructions, e.g. "STG.E.128"."""
    found = {}
    for architecture, text in dump("--dump-sass"):
        for part in re.split(r"Function : ", text)[1:]:
            name, _, body = part.partition("\n")
            found[architecture, name.strip()] = re.findall(
                r"^\s+/\*[0-9a-f]+\*/\s+(?:@\S+\s+)?([A-Z][\w.]*)", body, re.MULTILINE
            )
    return found


def test_every_kernel_is_there_for_every_architecture():
    found = {(architecture, kernel_of(name)) for architecture, name in resources()}
    assert found >= {(architecture, kernel) for architecture in ARCHITECTURES for kernel in KERNELS}


def test_nothing_is_kept_in_local_memory():
    for kernel, used in resources().items():
        assert used["STACK"] == used["LOCAL"] == 0, kernel
    for kernel, names in instructions().items():
        assert names, kernel
        assert not [name for name in names if name.startswith(("LDL", "STL"))], kernel


def test_blocks_have_registers_enough():
    """A block of 256 threads, two at a time on a multiprocessor, has 128 registers for each."""
    for (architecture, name), used in resources().items():
        assert used["REG"] <= 128, (architecture, name)


def test_tokens_are_stored_sixteen_bytes_at_a_time():
    kernels = {kernel: names for kernel, names in instructions().items() if "rectangle_kernel" in kernel[1]}
    assert len(kernels) >= 2 * len(ARCHITECTURES)  # a token is 1 byte or 4
    for kernel, names in kernels.items():
        assert any(name.startswith("STG") and name.endswith(".128") for name in names), kernel

"""What a Triton kernel compiles to, for a GPU that need not be there: instructions, registers, spills.

    [binary] = compiled([Build(kernel, {"x": "*bf16:16", "n": "i32"}, {"BLOCK": 64}, arch=90)])
    assert binary.count("HMMA") and not binary.spills

Kernels are compiled in a process of their own, since one that interprets kernels compiles none; all tests of a worker
share it. The environment variable WORLDFAST_TRITON names a folder with another release of Triton to compile with:
pip install --no-deps --target FOLDER triton==3.6.0
"""

import functools
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Build:
    kernel: Any  # a function of a module, under @triton.jit
    signature: dict[str, str]  # argument -> type: "*bf16", "i32", or "i32:16", known to be a multiple of 16
    constexprs: dict[str, Any]  # the other arguments -> value: a number, a text, a truth value or None
    arch: int  # 80: A100; 90: H100 and H200
    num_warps: int = 4
    num_stages: int = 1
    enable_fp_fusion: bool = True
    maxnreg: int | None = None  # registers of a thread at most


@dataclass(frozen=True)
class Binary:
    sass: str  # the processor's own instructions
    registers: int  # of a thread
    spills: int  # bytes of a thread's stack and local memory
    shared: int  # bytes of a program's shared memory
    warps: int  # of a program

    def count(self, opcode: str) -> int:
        """Instructions of this name, with any suffix: HMMA counts HMMA.16816.F32.BF16."""
        return len(re.findall(rf"\b{opcode}\b", self.sass))

    @property
    def ctas(self) -> int:
        """Programs that a multiprocessor of an H100 or H200 holds at once, counted from what they take."""
        registers = 32 * (-(-self.registers // 8) * 8)  # of a warp, in units of 256
        by_registers = 4 * (16_384 // registers) // self.warps  # 16,384 for the warps of each quarter
        by_shared = (228 << 10) // (-(-self.shared // 128) * 128 + 1024)  # 1 KB of each is the system's
        return min(by_registers, by_shared, 64 // self.warps, 32) if self.shared <= 227 << 10 else 0


def disassembler() -> str | None:
    """Triton's own cuobjdump, else the toolkit's."""
    triton = importlib.util.find_spec("triton")
    own = triton and Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(own) if own and own.exists() else shutil.which("cuobjdump")


needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("triton") is None or disassembler() is None,
    reason="no Triton for Linux, or no cuobjdump",
)


@functools.cache
def _compiler() -> subprocess.Popen:
    """The process that compiles: it answers a line of builds with one of binaries, and ends with its input."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    other = os.environ.get("WORLDFAST_TRITON")
    environment["PYTHONPATH"] = os.pathsep.join([other, *sys.path] if other else sys.path)
    command = [sys.executable, __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def compiled(builds: list[Build]) -> list[Binary]:
    """Each build's binary, in order. AssertionError with the compiler's own words where one is refused."""
    compiler = _compiler()
    print(json.dumps([vars(build) | {"kernel": _address(build.kernel)} for build in builds]), file=compiler.stdin)
    compiler.stdin.flush()
    answer = json.loads(compiler.stdout.readline() or '"the process that compiles has ended"')
    assert isinstance(answer, list), answer
    return [Binary(**result) for result in answer]


def _address(kernel) -> list[str]:
    return [kernel.fn.__module__, kernel.fn.__name__]


def _compile(job: dict) -> dict:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = job["kernel"]
    kernel = getattr(importlib.import_module(module), name)
    types, attributes = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in job["constexprs"]:
            types[argument] = "constexpr"
            continue
        types[argument], _, divisor = job["signature"][argument].partition(":")
        if divisor:
            attributes[(position,)] = [["tt.divisibility", int(divisor)]]
    binary = triton.compile(
        ASTSource(kernel, types, job["constexprs"], attributes),
        target=GPUTarget("cuda", job["arch"], 32),
        options={name: job[name] for name in ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([disassembler(), option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "sass": sass,
        "registers": used["REG"],
        "spills": used["STACK"] + used["LOCAL"],
        "shared": binary.metadata.shared,
        "warps": job["num_warps"],
    }


def _answer(jobs: list[dict]) -> list[dict] | str:
    try:
        return [_compile(job) for job in jobs]
    except Exception:  # whatever it is, it is said by the test that asked
        return traceback.format_exc()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)

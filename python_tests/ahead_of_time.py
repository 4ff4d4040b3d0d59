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
import itertools
import json
import os
import re
import shutil
import struct
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


def tool(name: str) -> str | None:
    """Triton's own cuobjdump or nvdisasm, else the toolkit's."""
    triton = importlib.util.find_spec("triton")
    own = triton and Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
    return str(own) if own and own.exists() else shutil.which(name)


needs_compiler = pytest.mark.skipif(
    sys.platform != "linux"
    or importlib.util.find_spec("triton") is None
    or not (tool("cuobjdump") and tool("nvdisasm")),
    reason="no Triton for Linux, or no cuobjdump and nvdisasm",
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


def _compile(job: dict):
    """Triton's compiled kernel."""
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
    return triton.compile(
        ASTSource(kernel, types, job["constexprs"], attributes),
        target=GPUTarget("cuda", job["arch"], 32),
        options={name: job[name] for name in ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")},
    )


def _said(name: str, content: bytes, *options: str) -> str:
    """What a tool says of a file with this content."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return subprocess.run([tool(name), *options, file.name], capture_output=True, text=True, check=True).stdout


def _code(cubin: bytes) -> bytes:
    """A kernel's instructions as they stand in an ELF file, 16 bytes each."""
    (at,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    sections = [struct.unpack_from("<I20xQQ", cubin, at + i * size) for i in range(count)]  # name, offset, size
    named = [(cubin[sections[names][1] + name :][:6], offset, length) for name, offset, length in sections]
    return b"".join(cubin[offset : offset + length] for name, offset, length in named if name == b".text.")


def _disassembled(codes: list[bytes], arch: int) -> list[str]:
    """The instructions of each, by one process: it takes half a second to begin, and little for each kernel."""
    lines = re.findall(r"^\s+/\*[0-9a-f]+\*/.*$", _said("nvdisasm", b"".join(codes), "-b", f"SM{arch}"), re.MULTILINE)
    counts = [len(code) // 16 for code in codes]
    assert len(lines) == sum(counts)
    taken = iter(lines)
    return ["\n".join(itertools.islice(taken, count)) for count in counts]


def _results(jobs: list[dict]) -> list[dict]:
    binaries = [_compile(job) for job in jobs]
    codes, sass = [_code(binary.asm["cubin"]) for binary in binaries], {}
    for arch in {job["arch"] for job in jobs}:
        here = [i for i, job in enumerate(jobs) if job["arch"] == arch]
        sass |= zip(here, _disassembled([codes[i] for i in here], arch))
    results = []
    for i, (job, binary) in enumerate(zip(jobs, binaries)):
        usage = _said("cuobjdump", binary.asm["cubin"], "--dump-resource-usage")
        used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
        about = {"registers": used["REG"], "spills": used["STACK"] + used["LOCAL"], "shared": binary.metadata.shared}
        results.append({"sass": sass[i], "warps": job["num_warps"], **about})
    return results


def _answer(jobs: list[dict]) -> list[dict] | str:
    try:
        return _results(jobs)
    except Exception:  # whatever it is, it is said by the test that asked
        return traceback.format_exc()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)

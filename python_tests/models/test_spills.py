"""Register tiles as they were compiled, for every width of vector: their sums stay in registers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from worldfast._native import core

ROOT = Path(__file__).resolve().parents[2]
# instances of a tile: products of a linear layer and of its gradient, Gram matrices from features, and the products
# of attention: scores, and sums of values over keys and over queries
ATTENTION = ("pair", "gather", "scatter")
TILES = {
    "x86_64": r"(work_(4|8|16)|work)\(.*(Multiplication|Sums)<|feature_tiles_(float|double)_(4|8|16)\("
    rf"|({'|'.join(ATTENTION)})_(4|8|16)\(",
    "aarch64": rf"work\(.*(Multiplication|Sums)<|({'|'.join(ATTENTION)})_4\(",
}
PRODUCT = re.compile(r"v?f(n?m(add|sub)\d+[ps]s|mla)$|v?f?mulp[sd]$|vf(n?)madd\d+p[sd]$|vdpbf16ps$|v?mulp[sd]$|fmla$")
LEAST = 2  # products of a loop that is a tile's: a tile of one row has one for each of two vectors


def functions(disassembly):
    """(name, its instructions as (address, operation, operands)) of each function that objdump shows."""
    for part in re.split(r"\n(?=[0-9a-f]+ <)", disassembly):
        name = re.match(r"[0-9a-f]+ <(.*)>:\n", part)
        if name:
            found = re.findall(r"^\s+([0-9a-f]+):\t(\S+)[ \t]*(.*)$", part, re.MULTILINE)
            yield name[1], [(int(address, 16), *rest) for address, *rest in found]


def innermost_loops(instructions):
    """The stretches from the target of a jump back to the jump that hold no other such stretch."""
    at = {address: i for i, (address, *_) in enumerate(instructions)}
    stretches = []
    for end, (address, operation, operands) in enumerate(instructions):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        if re.match(r"j|b\.|cbn?z|tbn?z|b$", operation) and target and int(target[1], 16) <= address:
            stretches.append((at.get(int(target[1], 16), end), end))
    for begin, end in stretches:
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in stretches):
            yield instructions[begin : end + 1]


def spills(disassembly, machine):
    """(function, products, vectors that go to the stack or come from it) of each tile's loop."""
    vector, stack = (r"%[xyz]mm", r"\(%rsp") if machine == "x86_64" else (r"\bq\d", r"\[(sp|x29)")
    for name, instructions in functions(disassembly):
        if not re.search(TILES[machine], name):
            continue
        for loop in innermost_loops(instructions):
            products = sum(bool(PRODUCT.match(operation)) for _, operation, _ in loop)
            if products >= LEAST:
                moved = [o for _, _, o in loop if re.search(vector, o) and re.search(stack, o)]
                yield name, products, len(moved)


def disassembled(objdump, file):
    command = [objdump, "-d", "-C", "--no-show-raw-insn", file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def require_none(found, names):
    for name in names:
        assert any(name in function for function, *_ in found), f"no tile of {name}"
    spilled = [row for row in found if row[2]]
    assert not spilled, spilled


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_sums_stay_in_registers():
    found = list(spills(disassembled("objdump", core.__file__), "x86_64"))
    widths = ("_16", "_8", "_4") if any("_16(" in name for name, *_ in found) else ("",)
    tiles = ("work", "feature_tiles_float", "feature_tiles_double", *ATTENTION)
    require_none(found, [f"{tile}{width}" for tile in tiles for width in widths])
    for tile in ATTENTION:  # of floats and of doubles, each two vectors wide and one
        assert sum(f"::{tile}_" in function for function, *_ in found) == 4 * len(widths), tile


COMPILER = "aarch64-linux-gnu-g++"


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}")
@pytest.mark.parametrize(("source", "tiles"), [("linear", ("work",)), ("attention", ATTENTION)])
def test_sums_stay_in_registers_of_neon(tmp_path, source, tiles):
    built = tmp_path / f"{source}.o"
    options = [
        "-O3",
        "-std=c++17",
        "-fPIC",
        "-fno-math-errno",
        f"-I{ROOT / 'csrc'}",
        "-c",
        ROOT / "csrc" / "transformer" / f"{source}.cpp",
        "-o",
        built,
    ]
    subprocess.run([COMPILER, *options], check=True)
    require_none(list(spills(disassembled("aarch64-linux-gnu-objdump", built), "aarch64")), tiles)


def test_a_spill_is_seen():
    """Of a loop with eight products and one vector that comes back from the stack."""
    lines = ["0000 <work_8(Sums<float> const&)>:"]
    lines += [f"    {16 + i:x}:\tvfmadd231ps\t%ymm5,%ymm3,%ymm{i}" for i in range(8)]
    lines += ["    20:\tvmovaps\t0x40(%rsp),%ymm9", "    24:\tjne    10 <work_8(Sums<float> const&)+0x10>"]
    assert list(spills("\n" + "\n".join(lines), "x86_64")) == [("work_8(Sums<float> const&)", 8, 1)]

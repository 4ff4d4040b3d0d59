"""Register tiles as they were compiled, for every width of vector: their sums stay in registers."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from worldfast._native import core

ROOT = Path(__file__).resolve().parents[2]
# tile: how many functions of one width have one, and how many products its loop has at least. Products of a linear layer
# and of its gradient; those of Gram matrices from features, of shares of their sums, and of distances; of attention,
# whose tile of one row has one for each of two vectors; of cached keys and values, one vector at a time.
ATTENTION = ("pair", "gather", "scatter")
LONG = ("pair_tiles", "gather_tiles", "scatter_tiles")
LINEAR = {"work": (3, 2)}
GRAM = {
    f"{tile}_{T}": (1, 4)
    for tile in ("feature_tiles", "tiles_of_shares", "squared_distances")
    for T in ("float", "double")
}
PAIRS = dict.fromkeys(ATTENTION, (2, 2)) | dict.fromkeys(LONG, (2, 4))  # of floats and of doubles
CACHED = {"attend": (1, 1)}
TILES = LINEAR | GRAM | PAIRS | CACHED
PRODUCT = re.compile(
    r"v?mulp[sd]"  # SSE2
    r"|vfn?m(add|sub)[0-9]+p[sd]|vdpbf16ps"  # AVX2, AVX-512
    r"|fmla"  # NEON
)
SHIFT = re.compile(r"v?psll[dq]|shl")  # 2^x is a polynomial, and its exponent is shifted: no product of a tile


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
    """(tile, function, products, vectors that go to the stack or come from it) of each tile's loop."""
    vector, stack = (r"%[xyz]mm", r"\(%rsp") if machine == "x86_64" else (r"\bq\d", r"\[(sp|x29)")
    for name, instructions in functions(disassembly):
        tile = re.match(r"(?:.*::)?(\w+?)((?:_(?:4|8|16))?)\(", name)
        if not tile or tile[1] not in TILES:
            continue
        for loop in innermost_loops(instructions):
            operations = [operation for _, operation, _ in loop]
            products = sum(bool(PRODUCT.fullmatch(operation)) for operation in operations)
            if products >= TILES[tile[1]][1] and not any(map(SHIFT.fullmatch, operations)):
                moved = [o for _, _, o in loop if re.search(vector, o) and re.search(stack, o)]
                yield tile[1] + tile[2], name, products, len(moved)


def disassembled(objdump, file):
    command = [objdump, "-d", "-C", "--no-show-raw-insn", file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def require_none(found, expected):
    """No spills, in so many functions of each tile: name -> their number."""
    assert {tile: len({row[1] for row in found if row[0] == tile}) for tile in expected} == expected
    spilled = [row for row in found if row[3]]
    assert not spilled, spilled


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's instructions")
def test_sums_stay_in_registers():
    found = list(spills(disassembled("objdump", core.__file__), "x86_64"))
    expected = {f"{tile}_{width}": count for tile, (count, _) in TILES.items() for width in (4, 8, 16)}
    require_none(found, expected | {"work": 3})  # pairs of bfloat16, which AVX-512 alone multiplies
    for tile in ATTENTION:  # of floats and of doubles, each two vectors wide and one
        assert sum(row[0].rsplit("_", 1)[0] == tile for row in found) == 4 * 3, tile


COMPILER = "aarch64-linux-gnu-g++"
OPTIONS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", f"-I{ROOT / 'csrc'}")  # of the build


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}")
@pytest.mark.parametrize(
    ("source", "tiles"),
    [
        ("transformer/linear", {"work": 3}),
        ("transformer/attention", {f"{tile}_4": 2 for tile in ATTENTION}),
        ("transformer/long_attention", {f"{tile}_4": 2 for tile in LONG}),
        ("transformer/decode", {"attend": 1}),
        ("gram/gram", dict.fromkeys(GRAM, 1)),
    ],
)
def test_sums_stay_in_registers_of_neon(tmp_path, source, tiles):
    built = tmp_path / "tiles.o"
    subprocess.run([COMPILER, *OPTIONS, "-c", ROOT / "csrc" / f"{source}.cpp", "-o", built], check=True)
    require_none(list(spills(disassembled("aarch64-linux-gnu-objdump", built), "aarch64")), tiles)


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("objdump") is None, reason="no g++ or no objdump")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's instructions")
@pytest.mark.parametrize("wider", [0, 2])
def test_two_rows_more_would_spill(tmp_path, wider):
    """Of the tile that is at its limit, the linear layer's for AVX2; compiled alone, in its gradient."""
    source = (ROOT / "csrc" / "transformer" / "linear.cpp").read_text()
    tiles, *_ = source.split("// ---- an instance for each instruction set ----")
    tiles, changed = re.subn(r"(: W == 8 \? )(\d+)", lambda found: f"{found[1]}{int(found[2]) + wider}", tiles)
    assert changed == 1
    alone = """__attribute__((target("avx2,fma"))) void work_8(const Sums<float>& s) { add_products_body<8>(s); }
void (*const made)(const Sums<float>&) = work_8;
}
const void* used() { return reinterpret_cast<const void*>(made); }
}
"""
    (tmp_path / "tile.cpp").write_text(tiles + alone)
    subprocess.run(["g++", *OPTIONS, "-c", tmp_path / "tile.cpp", "-o", tmp_path / "tile.o"], check=True)
    [(_, _, products, moved)] = spills(disassembled("objdump", tmp_path / "tile.o"), "x86_64")
    assert products == 2 * (6 + wider)
    assert bool(moved) == bool(wider)


def test_a_spill_is_seen():
    """Of a loop with eight products and one vector that comes back from the stack; 2^x is none of them."""
    lines = ["0000 <work_8(Sums<float> const&)>:"]
    lines += [f"    {16 + i:x}:\tvfmadd231ps\t%ymm5,%ymm3,%ymm{i}" for i in range(8)]
    lines += ["    20:\tvmovaps\t0x40(%rsp),%ymm9", "    24:\tjne    10 <work_8(Sums<float> const&)+0x10>"]
    found = list(spills("\n" + "\n".join(lines), "x86_64"))
    assert found == [("work_8", "work_8(Sums<float> const&)", 8, 1)]
    with pytest.raises(AssertionError):
        require_none(found, {"work_8": 1})
    with pytest.raises(AssertionError):
        require_none([], {"work_8": 1})
    require_none([(*found[0][:3], 0)], {"work_8": 1})
    lines.insert(-1, "    22:\tvpslld\t$0x17,%ymm1,%ymm1")
    assert not list(spills("\n" + "\n".join(lines), "x86_64"))

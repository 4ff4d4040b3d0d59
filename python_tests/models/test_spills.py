"""Register tiles as they were compiled, for every width of vector: their sums stay in registers."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from worldfast._native import core

ROOT = Path(__file__).resolve().parents[2]
# tile -> width of vector -> for each function that has one, how many products its innermost loops have: rows of the
# tile times its two vectors, and those of narrower tiles for what is left over. Each number is asserted, so a tile that
# is widened by two rows or cut down fails even where its sums still fit.
ONE, TWO = {8}, {8, 4}  # four rows by two vectors, and by one
LINEAR = {  # the gradient's; a product's, plain and of rounded numbers, whose last rows go by four and by one
    "work": {4: [{8}, *[{8, 2}] * 2], 8: [{12}, *[{12, 8, 2}] * 2], 16: [{16}, *[{16, 8, 2}] * 2]}
}
PAIRS_OF_BFLOAT16 = [{16}, *[{16, 8, 2}] * 2]  # which AVX-512 alone multiplies
GRAM = {}
for T in ("float", "double"):  # with AVX2 two tiles of six rows and one of four
    GRAM[f"feature_tiles_{T}"] = GRAM[f"squared_distances_{T}"] = {4: [{8}], 8: [{12, 8}], 16: [{16}]}
    # and sums of products of tiles: two by two models, four by two, four by four
    GRAM[f"tiles_of_shares_{T}"] = {4: [{8, 4}], 8: [{12, 8}], 16: [{16}]}
ATTENTION = {tile: {4: [TWO] * 2, 8: [TWO] * 2, 16: [TWO] * 2} for tile in ("pair", "gather", "scatter")}
LONG = {
    "pair_tiles": {4: [TWO] * 2, 8: [TWO] * 2, 16: [{16, 8}] * 2},
    "gather_tiles": {4: [ONE] * 2, 8: [ONE] * 2, 16: [{16}] * 2},
    "scatter_tiles": {4: [TWO] * 2, 8: [TWO] * 2, 16: [{16, 8}] * 2},
}
CACHED = {"attend": {4: [{1}], 8: [{1}], 16: [{1}]}}  # keys and values of a decoder, one vector at a time
TRIALS = {"run_layer": {8: [{10, 2}], 16: [{20, 10, 2, 1}]}}
EMULATED = "run_layer_4"  # SSE2 has no fused multiply-add: what stands in for it takes all registers
TILES = LINEAR | GRAM | ATTENTION | LONG | CACHED | TRIALS
LEAST = {tile: min(min(loops) for found in widths.values() for loops in found) for tile, widths in TILES.items()}
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


def stack_of(instructions, machine):
    """What an address on the stack looks like in a function: by its pointer, and by its frame where it has one."""
    if machine != "x86_64":
        return r"\[(sp|x29)"
    framed = any(operation.startswith("mov") and operands == "%rsp,%rbp" for _, operation, operands in instructions)
    return r"\(%r[sb]p" if framed else r"\(%rsp"  # without a frame %rbp is a register like another


def spills(disassembly, machine):
    """(tile, function, products, vectors that go to the stack or come from it) of each tile's loop."""
    vector = r"%[xyz]mm" if machine == "x86_64" else r"\b[qv]\d"
    for name, instructions in functions(disassembly):
        name = name.partition(" [clone")[0]  # of a constant argument
        tile = re.match(r"(?:.*::)?(\w+?)((?:_(?:4|8|16))?)\(", name)
        if not tile or tile[1] not in TILES:
            continue
        stack = stack_of(instructions, machine)
        for loop in innermost_loops(instructions):
            operations = [operation for _, operation, _ in loop]
            products = sum(bool(PRODUCT.fullmatch(operation)) for operation in operations)
            if products >= LEAST[tile[1]] and not any(map(SHIFT.fullmatch, operations)):
                moved = [o for _, _, o in loop if re.search(vector, o) and re.search(stack, o)]
                yield tile[1] + tile[2], name, products, len(moved)


def disassembled(objdump, file):
    command = [objdump, "-d", "-C", "--no-show-raw-insn", file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def require(found, expected):
    """Tile -> the products that the loops of each of its functions have: exactly these, and no spills among them."""
    loops = {tile: {} for tile in expected}
    for tile, function, products, _ in found:
        if tile in loops:
            loops[tile].setdefault(function, set()).add(products)
    for tile, products in expected.items():
        assert sorted(map(sorted, loops[tile].values())) == sorted(map(sorted, products)), tile
    spilled = [row for row in found if row[3]]
    assert not spilled, spilled


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's instructions")
def test_sums_stay_in_registers():
    found = [row for row in spills(disassembled("objdump", core.__file__), "x86_64") if row[0] != EMULATED]
    expected = {f"{tile}_{width}": loops for tile, widths in TILES.items() for width, loops in widths.items()}
    require(found, expected | {"work": PAIRS_OF_BFLOAT16})


COMPILER = "aarch64-linux-gnu-g++"
OPTIONS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", f"-I{ROOT / 'csrc'}")  # of the build


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no {COMPILER}")
@pytest.mark.parametrize(
    ("source", "tiles"),
    [
        ("transformer/linear", {"work": LINEAR["work"][16]}),  # eight rows: twice the registers of SSE2
        ("transformer/attention", {f"{tile}_4": ATTENTION[tile][4] for tile in ATTENTION}),
        ("transformer/long_attention", {f"{tile}_4": LONG[tile][4] for tile in LONG}),
        ("transformer/decode", {"attend": CACHED["attend"][4]}),
        ("gram/gram", {tile: GRAM[tile][4] for tile in GRAM}),
    ],
)
def test_sums_stay_in_registers_of_neon(tmp_path, source, tiles):
    built = tmp_path / "tiles.o"
    subprocess.run([COMPILER, *OPTIONS, "-c", ROOT / "csrc" / f"{source}.cpp", "-o", built], check=True)
    require(list(spills(disassembled("aarch64-linux-gnu-objdump", built), "aarch64")), tiles)


WIDTHS = {4: "", 8: '__attribute__((target("avx2,fma"))) ', 16: '__attribute__((target("avx512f,avx512vl,avx2,fma"))) '}
ALONE = {  # the linear layer's gradient, and products of features; what they are compiled from, to where
    "work": (
        "transformer/linear",
        "// ---- an instance for each instruction set ----",
        "void work_{width}(const Sums<float>& s) {{ add_products_body<{width}>(s); }}\n"
        "void (*const made)(const Sums<float>&) = work_{width};",
    ),
    "feature_tiles_float": (
        "gram/gram",
        "// ---- distances ----",
        "void feature_tiles_float_{width}(const FeatureWork<float>& work) {{ feature_tiles<{width}>(work); }}\n"
        "void (*const made)(const FeatureWork<float>&) = feature_tiles_float_{width};",
    ),
}
END = "\n}\nconst void* used() { return reinterpret_cast<const void*>(made); }\n}\n"


def compiled_alone(folder, tile, width, rows):
    """What `spills` finds in a tile of other rows."""
    source, end, instance = ALONE[tile]
    text = (ROOT / "csrc" / f"{source}.cpp").read_text().split(end)[0]
    header = ROOT / "csrc" / "gram" / "product.h"
    text = text.replace('#include "gram/product.h"', header.read_text().replace("#pragma once", ""))
    text, changed = re.subn(
        r"constexpr int tile_rows = W == 16[^;]*;", f"constexpr int tile_rows = W == {width} ? {rows} : 1;", text
    )
    assert changed == 1
    (folder / "tile.cpp").write_text(text + WIDTHS[width] + instance.format(width=width) + END)
    subprocess.run(["g++", *OPTIONS, "-c", folder / "tile.cpp", "-o", folder / "tile.o"], check=True)
    return list(spills(disassembled("objdump", folder / "tile.o"), "x86_64"))


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("objdump") is None, reason="no g++ or no objdump")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's instructions")
@pytest.mark.parametrize("tile", ALONE)
@pytest.mark.parametrize(("width", "more"), [(4, 2), (8, -2), (8, 0), (8, 2), (16, 2)])
def test_other_rows_are_seen(tmp_path, tile, width, more):
    """Two rows more or less; with AVX2, where the tiles are at their limit, two more would spill too."""
    as_written = TILES[tile][width][:1]
    rows = max(as_written[0]) // 2 + more
    found = compiled_alone(tmp_path, tile, width, rows)
    assert max(products for _, _, products, _ in found) == 2 * rows
    assert any(moved for _, _, _, moved in found) == ((width, more) == (8, 2))
    if not more:
        return require(found, {f"{tile}_{width}": as_written})
    with pytest.raises(AssertionError):
        require(found, {f"{tile}_{width}": as_written})


def disassembly(*lines, frame=False):
    """Of a function of eight products in a loop, and some more instructions."""
    shown = ["0000 <work_8(Sums<float> const&)>:", *["    1:\tmov    %rsp,%rbp"] * frame]
    shown += [f"    {16 + i:x}:\tvfmadd231ps\t%ymm5,%ymm3,%ymm{i}" for i in range(8)]
    shown += [f"    {32 + i:x}:\t{line}" for i, line in enumerate(lines)]
    return "\n" + "\n".join([*shown, "    40:\tjne    10 <work_8(Sums<float> const&)+0x10>"])


def test_a_spill_is_seen():
    """A vector that comes back from the stack, by its pointer or by a frame; 2^x has no tile."""
    name = "work_8(Sums<float> const&)"
    found = list(spills(disassembly("vmovaps\t0x40(%rsp),%ymm9"), "x86_64"))
    assert found == [("work_8", name, 8, 1)]
    with pytest.raises(AssertionError):
        require(found, {"work_8": [{8}]})
    with pytest.raises(AssertionError):
        require([], {"work_8": [{8}]})
    require([(*found[0][:3], 0)], {"work_8": [{8}]})
    by_frame = "vmovaps\t%ymm9,-0x40(%rbp)"
    assert [*spills(disassembly(by_frame, frame=True), "x86_64")] == found
    assert [*spills(disassembly("vmovups\t(%rbp,%rax,4),%ymm9"), "x86_64")] == [
        (*found[0][:3], 0)
    ]  # no frame: an array
    assert not list(spills(disassembly("vmovaps\t0x40(%rsp),%ymm9", "vpslld\t$0x17,%ymm1,%ymm1"), "x86_64"))


@pytest.mark.parametrize("products", [4, 6, 10])
def test_a_tile_of_other_rows_is_seen(products):
    """Also beside loops that are as they were, and where only one of two functions has changed."""
    good = [("work_8", "a", 8, 0), ("work_8", "a", 2, 0), ("work_8", "b", 8, 0), ("work_8", "b", 2, 0)]
    require(good, {"work_8": [{8, 2}] * 2})
    with pytest.raises(AssertionError, match="work_8"):
        require([("work_8", "a", products, 0), *good[1:]], {"work_8": [{8, 2}] * 2})
    with pytest.raises(AssertionError, match="work_8"):
        require(good[:2], {"work_8": [{8, 2}] * 2})

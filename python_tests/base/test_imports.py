"""Imports go down: a room of the package imports only from rooms of lower ranks, and through their doors."""

import ast
import functools
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import worldfast

ROOT = Path(worldfast.__file__).parent
# From below, a rank on each line. A module without a folder is a room of its own.
RANKS = """
errors files locks display log processes syntax frames _native arrays
classes rows dataset
models analysis run checkpoint folder
reading training
studies
report verify options
worlds
doctor study_cli cli __init__
__main__
"""
RANK = {room: rank for rank, rooms in enumerate(RANKS.strip().splitlines()) for room in rooms.split()}
# What a room imports from its own rank. An entry that nothing needs any more fails too.
BESIDE = """
_native -> errors
arrays -> _native
cli -> doctor
cli -> study_cli
dataset -> classes
dataset -> rows
files -> errors
folder -> checkpoint
folder -> models
folder -> run
locks -> errors
locks -> files
run -> models
training -> reading
"""
CALL_KERNELS = (
    "models.attention",
    "analysis.gram",
    "models.gpu_transformer",
    "models.gpu",
    "models.fused",
    "training.gpu_step",
)


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(("worlds.cities.data", "kernels")):
            yield name, path


MODULES = dict(modules())


def room(module):
    return module.split(".")[0]


def imported(path):
    """Modules of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "worldfast":
            parent = node.module.removeprefix("worldfast").lstrip(".")
            for alias in node.names:
                child = f"{parent}.{alias.name}".lstrip(".")
                is_module = child in MODULES and alias.name not in names_of(parent)
                yield child if is_module or child.split(".")[0] == "kernels" else parent
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("worldfast."):
                    yield alias.name.removeprefix("worldfast.")


@functools.cache
def names_of(door):
    """Names that a door exports; some are functions in a module of the same name."""
    return getattr(importlib.import_module(f"worldfast.{door}".rstrip(".")), "__all__", ())


@functools.cache
def imports():
    """(module, what it imports) of all pairs, kernels and the package's own names left out."""
    pairs = {(name, other) for name, path in MODULES.items() for other in imported(path)}
    return sorted(pair for pair in pairs if pair[1] not in ("", "_core") and room(pair[1]) != "kernels")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_room(name):
    assert room(name) in RANK, f"{name} has no rank"


def test_imports_go_down():
    """To a lower rank; to another room of the same rank only where that is listed, and in no circle."""
    between = [(a, b) for a, b in imports() if room(a) != room(b)]
    up = [f"{a} -> {b}" for a, b in between if RANK[room(b)] > RANK[room(a)]]
    assert up == [], "imports that go upward"
    beside = {(room(a), room(b)) for a, b in between if RANK[room(b)] == RANK[room(a)]}
    assert sorted(f"{a} -> {b}" for a, b in beside) == BESIDE.split("\n")[1:-1], "imports within a rank"
    graph = {a: {b for other, b in beside if other == a} for a, _ in beside}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_worlds_are_imported_by_the_top_alone():
    importing = {room(a) for a, b in imports() if room(b) == "worlds" != room(a)}
    assert importing == set(RANKS.strip().splitlines()[-2].split())  # all of it but __main__, which calls cli


def test_only_doors_are_imported_from_outside():
    past = [f"{a} -> {b}" for a, b in imports() if room(a) != room(b) and "." in b and b not in DOORS]
    assert past == [], "imports past the door of another room"


@pytest.mark.parametrize("name", sorted({room(name) for name in MODULES}))
def test_no_circle_in_a_room(name):
    graph = {module: set() for module in MODULES if room(module) == name}
    for a, b in imports():
        if room(a) == room(b) == name and a not in DOORS and b not in DOORS:
            graph[a].add(b)
    tuple(graphlib.TopologicalSorter(graph).static_order())


DOORS = [name for name, path in MODULES.items() if path.name == "__init__.py"]


def test_kernels_are_called_by_few():
    callers = {name for name, path in MODULES.items() for other in imported(path) if room(other) == "kernels"}
    assert callers == set(CALL_KERNELS)


def test_only_native_imports_the_compiled_module():
    importers = [name for name, path in MODULES.items() if "_core" in path.read_text()]
    assert importers == ["_native"]


def test_no_test_imports_a_test():
    """What two share lies at the top of python_tests."""
    importing = re.compile(r"^\s*(from|import) test_", re.MULTILINE)
    tests = Path(__file__).parents[1].rglob("test_*.py")
    assert [str(path) for path in tests if importing.search(path.read_text())] == []


# A world's own words, and those of the world that came first: below it, only the examples of docstrings have them.
OWN = re.compile(r"(?i)\b(city|cities|atlantis|longitude|latitude|regions?|geonames)\b")


def test_the_report_and_studies_speak_of_no_world():
    said = []
    for path in sorted(path for name in ("report", "studies") for path in (ROOT / name).rglob("*.*")):
        if path.suffix not in (".py", ".js", ".html", ".css"):
            continue
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if OWN.search(line) and not line.lstrip().startswith((">>>", "#")):
                said.append(f"{path.relative_to(ROOT)}:{at}: {line.strip()}")
    assert said == []


def test_import_is_light():
    """numpy and torch are all that `import worldfast` brings in."""
    heavy = "h5py pandas sklearn matplotlib safetensors tyro scipy ray transformers triton".split()
    code = f"import sys, worldfast; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_public_names_are_what_is_listed():
    """Not the modules that stand beside them; each is there."""
    listed = [name for name in dir(worldfast) if not name.startswith("__")]
    assert listed == sorted(worldfast.__all__) and all(hasattr(worldfast, name) for name in listed)
    assert {"Study", "run_study", "task", "RecurrentSpec"} <= set(listed)

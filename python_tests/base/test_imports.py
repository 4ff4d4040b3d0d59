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
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
# From below, a rank on each line. A module without a folder is a room of its own.
RANKS = """
errors doors files locks display log processes syntax frames _native arrays
classes rows dataset
models analysis capture run checkpoint outcome folder
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
arrays -> display
cli -> doctor
cli -> study_cli
dataset -> classes
dataset -> rows
files -> display
files -> errors
folder -> checkpoint
folder -> models
folder -> outcome
folder -> run
locks -> errors
locks -> files
log -> files
outcome -> run
run -> capture
run -> models
training -> reading
"""
# Worlds that import another one, through its door.
WORLDS_BESIDE = """
walks -> cities
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
        if not name.startswith(("worlds.cities.data.", "kernels")):
            yield name, path


MODULES = dict(modules())


def room(module):
    return module.split(".")[0]


def imported(path, behind=False):
    """Modules of the package that a file imports, at its top or inside a function; `behind`: those behind doors."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "worldfast":
            parent = node.module.removeprefix("worldfast").lstrip(".")
            for alias in node.names:
                child = f"{parent}.{alias.name}".lstrip(".")
                is_module = child in MODULES and alias.name not in names_of(parent)
                if behind and not is_module and parent in DOORS:
                    found = getattr(importlib.import_module(f"worldfast.{parent}".rstrip(".")), alias.name)
                    yield getattr(found, "__module__", "").removeprefix("worldfast.")
                    continue
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


def test_contributors_read_the_ranks_that_are_tested():
    """CONTRIBUTING.md: a row for each rank, from above."""
    table = re.findall(r"^\| (`worldfast/.*?) \|", CONTRIBUTING.read_text("utf-8"), re.MULTILINE)
    rows = [set(re.findall(r"(?:worldfast/|`)(\w+)(?:\.py|/)?`", row)) for row in table]
    assert rows[::-1] == [set(rank.split()) for rank in RANKS.strip().splitlines()]


def test_worlds_are_imported_by_the_top_alone():
    importing = {room(a) for a, b in imports() if room(b) == "worlds" != room(a)}
    assert importing == set(RANKS.strip().splitlines()[-2].split())  # all of it but __main__, which calls cli


def test_only_doors_are_imported_from_outside():
    past = [f"{a} -> {b}" for a, b in imports() if room(a) != room(b) and "." in b and b not in DOORS]
    assert past == [], "imports past the door of another room"


def world(module):
    """Return the folder of a world that a module lies in; None of all others, such as those that worlds share."""
    name = ".".join(module.split(".")[:2])
    return name.removeprefix("worlds.") if room(name) == "worlds" != name and name in DOORS else None


def test_worlds_import_each_other_only_where_listed_and_through_doors():
    """What two of them share is a module beside them, which imports neither."""
    between = [(a, b) for a, b in imports() if room(a) == "worlds" and world(b) not in (None, world(a))]
    past = [f"{a} -> {b}" for a, b in between if b not in DOORS]
    assert past == [], "imports past the door of another world"
    assert sorted({f"{world(a)} -> {world(b)}" for a, b in between}) == WORLDS_BESIDE.split("\n")[1:-1]


# Two things that are each made of the other: what is in the first part names all that is in the second when it is called.
CIRCLES = {
    "models": {  # a spec builds its ensembles, which are of that spec
        ("models.transformer", "models.cpu models.gpu models.plain"),
        ("models.recurrent", "models.cpu_recurrent"),
    },
    "worlds": {("worlds.cities.dataset", "worlds.cities.stream")},  # a dataset makes its streams, which are of it
}


@pytest.mark.parametrize("name", sorted({room(name) for name in MODULES}))
def test_no_circle_in_a_room(name):
    """Names that are imported through a door are those of the module behind it; the circles that there are, are listed."""
    graph = {module: set() for module in MODULES if room(module) == name and module not in DOORS}
    for a in graph:
        for b in imported(MODULES[a], behind=True):
            if b in graph and b != a:
                graph[a].add(b)
    for first, others in CIRCLES.get(name, ()):
        met = {other for other in others.split() if other in graph[first]}
        assert met == set(others.split()), f"{first} names no longer all of {others}"
        graph[first] -= met
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


# A world's own words, and those of the world that came first: below worlds/, only the examples of docstrings have them,
# and a message that says where a world is to be had.
OWN = re.compile(r"(?i)\b(city|cities|atlantis|longitude|latitude|geonames|trianglearea)\b")
SHOWN = re.compile(OWN.pattern.replace("city", "regions?|city"))  # in analysis a region is any part of a space
THERE = re.compile(r"worldfast\.worlds\.cities[.\w]*")
TOP = ["__init__.py", "_native.py", "cli.py", "worlds"]  # what may name a world


def test_the_instrument_speaks_of_no_world():
    said = []
    for path in sorted(ROOT.rglob("*.*")):
        part = path.relative_to(ROOT).parts[0]
        if path.suffix not in (".py", ".js", ".html", ".css") or part in TOP:
            continue
        own = SHOWN if part in ("report", "studies") else OWN
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if own.search(THERE.sub("", line)) and not line.lstrip().startswith((">>>", "#")):
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

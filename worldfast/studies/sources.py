"""Source code behind a function's numbers, found by following imports without running anything, and its digest.

In the function's own file only the definitions that it needs count; modules of the package that it imports, directly or
not, count as a whole. Comments, docstrings and line breaks do not change a digest.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from worldfast._native import core
from worldfast.syntax import canonical

PACKAGE = "worldfast"
ROOT = Path(__file__).parents[1]
KERNELS = Path(str(find_spec(f"{PACKAGE}.kernels").origin)).parent  # beside the package in a checkout
NATIVE = "csrc"
MODELS = f"{PACKAGE}.models"
ENSEMBLE = f"{MODELS}.ensemble"
LOADS = ((f"{PACKAGE}.training", "load"), (f"{PACKAGE}.studies", "models_of"))  # whoever takes one has models compute
# Rooms that carry, store or show numbers but do not compute any: they are neither counted nor followed.
WITHOUT_NUMBERS = frozenset(
    "errors files log display syntax frames _native classes dataset capture run checkpoint outcome folder".split()
    + ["training", "studies", "report", "options", "cli", "study_cli"]
)


class Code(NamedTuple):
    """Code that computes a function's numbers.

    Attributes
    ----------
    digest : str
        SHA-256, in hexadecimal.
    modules : tuple of str
        Modules that count as a whole, sorted; "csrc/gram" is a room of the native core.
    """

    digest: str
    modules: tuple[str, ...]


def code_of(function: Callable) -> Code:
    """Return the code that computes a function's result.

    Parameters
    ----------
    function : callable
        A function at the top level of a file. Imports are followed inside worldfast, and to files beside its own.

    Returns
    -------
    Code

    Raises
    ------
    ValueError
        The function has no source file, or is defined inside another one.
    """
    name = getattr(function, "__name__", repr(function))
    file = _file(function)
    folder = file.parent
    tree = _tree(file)
    if name not in _definitions(tree):
        raise ValueError(f"{name}: expected a function that is defined at the top level of {file}")
    needed = _needed(tree, name)
    modules: set[str] = set()
    ahead = _imported(needed.values(), tree, folder)
    while ahead:
        modules |= ahead
        ahead = {more for one in ahead for more in _imported_by_all_of(one, folder)} - modules
    parts = [f"{key} {canonical(node)}" for key, node in sorted(needed.items())]
    parts += [f"{one} {_digest_of_module(one, folder)}" for one in modules]
    return Code(_digest("\n".join(sorted(parts))), tuple(sorted(modules)))


def _file(function: Callable) -> Path:
    module = getattr(function, "__module__", "") or ""
    if module.partition(".")[0] == PACKAGE:
        return _path(module, ROOT)
    file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
    if file is None or not Path(file).exists():
        raise ValueError(f"{function!r} has no source file: define it in a file, so that its tables can be kept")
    return Path(file).resolve()


# ---- one file ----


@cache
def _tree(path: Path) -> ast.Module:
    """Return a file's syntax tree without docstrings and without imports for annotations only."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
        if isinstance(node, ast.Module):
            node.body = [each for each in node.body if not _for_annotations(each)]
    return tree


def _for_annotations(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_native(module: str) -> bool:
    return module.startswith(f"{NATIVE}/")


def _digest_of_module(module: str, folder: Path) -> str:
    if _is_native(module):
        return core.sources[module.removeprefix(f"{NATIVE}/")]
    return _digest_of_all(_path(module, folder))


@cache
def _digest_of_all(path: Path) -> str:
    return _digest(str(canonical(_tree(path))))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return the top-level statements by the names that they define, except imports."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found |= {each.id: node for each in ast.walk(target) if isinstance(each, ast.Name)}
    return found


def _needed(tree: ast.Module, name: str) -> dict[str, ast.stmt]:
    """Return a definition and those of the same file that it needs, by name."""
    definitions, needed, ahead = _definitions(tree), {}, {name}
    while ahead:
        needed |= {each: definitions[each] for each in ahead}
        ahead = {each for node in needed.values() for each in _names(node) if each in definitions} - needed.keys()
    return needed


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


# ---- from file to file ----


def _path(module: str, folder: Path) -> Path | None:
    """Return the file of a module of this package, or of one beside the function's own file; None for all others."""
    package, *parts = module.split(".")
    if package != PACKAGE:
        base = folder.joinpath(package, *parts)
    elif parts[:1] == ["kernels"]:
        base = KERNELS.joinpath(*parts[1:])
    else:
        base = ROOT.joinpath(*parts)
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.exists()), None)


@cache
def _imported_by_all_of(module: str, folder: Path) -> frozenset[str]:
    if _is_native(module):
        return frozenset()
    if module == ENSEMBLE:  # a run's spec says which family computes: all of them count
        stems = (path.stem for path in ROOT.joinpath("models").glob("[!_]*.py"))
        return frozenset(f"{MODELS}.{stem}" for stem in stems if stem != "check")
    tree = _tree(_path(module, folder))
    return frozenset(_imported([tree], tree, folder))


def _imported(nodes: Iterable[ast.AST], tree: ast.Module, folder: Path) -> set[str]:
    """Return the modules that some statements of a file use, through the file's imports or their own."""
    inside = [each for node in nodes for each in ast.walk(node)]
    names = {each.id for each in inside if isinstance(each, ast.Name)}
    used: dict[str, set[str]] = {}  # attributes, by the name that they are taken from
    for each in inside:
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            used.setdefault(each.value.id, set()).add(each.attr)
    at_top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    within = [each for each in inside if isinstance(each, (ast.Import, ast.ImportFrom))]
    found: set[str] = set()
    for node in {id(node): node for node in (*at_top, *within)}.values():
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            if bound not in names:
                continue
            if isinstance(node, ast.ImportFrom):
                module = _provider(node.module or "", alias.name, folder)
            else:
                module = alias.name
            through = used.get(bound, ())
            if module == NATIVE:
                found |= {f"{NATIVE}/{core.rooms[name]}" for name in through if name in core.rooms}
                continue
            path = module and _path(module, folder)
            if path and path.name == "__init__.py":  # a door: follow the names used through it
                found |= {_provider(module, name, folder) for name in through}
            elif path:
                found.add(module)
    return {module for module in found if module and _counts(module)}


def _counts(module: str) -> bool:
    package, *parts = module.split(".")
    return package != PACKAGE or not parts or parts[0] not in WITHOUT_NUMBERS


def _provider(module: str, name: str, folder: Path) -> str | None:
    """Return the module that defines a name imported from another one; None outside the package."""
    if (module, name) == (f"{PACKAGE}._native", "core"):
        return NATIVE
    if (module, name) in LOADS:
        return ENSEMBLE
    if _path(f"{module}.{name}", folder):
        return f"{module}.{name}"
    path = _path(module, folder)
    if path is None:
        return None
    if path.name == "__init__.py":
        for source, known in _behind(_tree(path), module):
            if known == name:
                return _provider(source, name, folder)
    return module


def _behind(door: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for what a door re-exports: by imports, or by a dict _DOOR of names and the door's own
    modules.
    """
    for node in door.body:
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Assign) and _names(node.targets[0]) == {"_DOOR"}:
            yield from ((f"{module}.{within}", name) for name, within in ast.literal_eval(node.value).items())

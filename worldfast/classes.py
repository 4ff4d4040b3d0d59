"""Classes by their paths, the Python files that define them, and their fields by name: how a spec on disk is read."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from worldfast.errors import CodeError, one_of, typed, unknown_name

N = TypeVar("N", bound="Named")


class Named:
    """Base of the dataclasses that users make: a misspelt keyword argument is said with the nearest field.

    Python does so by itself from 3.13 on, for functions too.
    """

    def __new__(cls: type[N], *args: Any, **given: Any) -> N:
        if unknown := [name for name in given if name not in getattr(cls, "__dataclass_fields__", ())]:
            known = inspect.signature(cls).parameters
            if unknown[0] not in known and not any(one.kind is one.VAR_KEYWORD for one in known.values()):
                raise TypeError(str(unknown_name(f"argument of {cls.__name__}", unknown[0], known)))
        return super().__new__(cls)


def known_fields(kind: type, content: Mapping) -> dict:
    """Return `content` as keyword arguments for a dataclass; raises ValueError for a name that is not a field."""
    names = [f.name for f in fields(kind)]
    for name in typed(kind.__name__, content, Mapping, "its fields by name"):
        one_of(f"field of {kind.__name__}", name, names)
    return dict(content)


def fields_to_json(owner: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields by name as JSON keeps them; raises a TypeError naming the first that it does not keep."""
    found = {}
    for name, value in content.items():
        try:
            found[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            raise TypeError(
                f"{owner}.{name}: expected a value that JSON keeps, such as a finite number, a text or a tuple, "
                f"got {value!r:.100}, a {type(value).__name__}"
            ) from None
    return found


def path_of(kind: type) -> str:
    """Return the path of a class, "worldfast.worlds.cities.Dataset": of a world's class, through its package.

    A class of the script that is running has the path that it has where the script is imported: "ring.Dataset" in
    ring.py.

    Raises
    ------
    ValueError
        The class is defined inside a function or a class, where nothing finds it again.
    """
    if "." in kind.__qualname__:
        raise ValueError(f"class {kind.__qualname__}: define it at the top level of a file, where it is found again")
    module = _main() if kind.__module__ == "__main__" else kind.__module__
    if module.startswith(("worldfast.worlds.", "worldfast.models.")):
        module = ".".join(module.split(".")[: 3 if "worlds" in module else 2])
    return f"{module}.{kind.__qualname__}"


def _main() -> str:
    """Name under which the script that is running could be imported; "__main__" in a notebook or a prompt."""
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return spec.name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


LOADED: dict[str, Path] = {}  # files that `load_file` has executed, by the names under which they are imported
GIVEN: set[Path] = set()  # folders of the files that it was given


def load_file(path: str | os.PathLike, name: str = "load") -> ModuleType:
    """Execute a Python file as if it were imported from its own folder, and return it as a module.

    It stays imported under its own name, "ring" for ring.py, so that its classes are found by the paths that runs'
    folders hold, and its tasks by their names. A file that is loaded again is executed again.

    Parameters
    ----------
    path : path
    name : str
        Name of the argument, for errors.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        It is not a Python file, or a module of another file has its name.
    Exception
        Any error of the file itself.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise ValueError(f"{name}: expected a Python file, got '{path}'")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file '{path}'")
    path, before = path.resolve(), sys.modules.get(path.stem)
    if before and path.stem not in LOADED:
        if getattr(before, "__file__", None) == str(path):
            return before
        raise ValueError(f"{name}: '{path}' has the name of the module {path.stem}, which is imported: rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader  # a file of this suffix has one
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    GIVEN.add(path.parent)
    sys.path.insert(0, str(path.parent))  # as if it were run as a script
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(path.stem), LOADED.pop(path.stem, None)
        raise
    finally:
        sys.path.remove(str(path.parent))
    LOADED[path.stem] = path
    return module


def place_of(error: BaseException | None) -> str:
    """Return where in a user's file an error came up, "ring.py:42 in batch"; "" if in none.

    A user's file is one that `load_file` was given or that lies beside one. What it calls counts as the place of the
    call, unless worldfast itself raises the error.
    """
    if isinstance(error, SyntaxError) and Path(error.filename or "").parent in GIVEN:
        return ""  # its text says it
    while error is not None:
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
            if path.parent in GIVEN:
                return f"{path.name}:{line}" + ("" if name == "<module>" else f" in {name}")
            if path.is_relative_to(Path(__file__).parent):
                break
        error = error.__context__  # which a room may have put into its own words
    return ""


def load_defined(path: str | os.PathLike, name: str, kind: type, example: str) -> Any:
    """Return what a Python file defines under a name.

    Parameters
    ----------
    path : path
        A Python file, as for `load_file`.
    name : str
    kind : type
        Class of which it is an instance.
    example : str
        Expression that makes one, for errors.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        It is not a Python file, has the name of a module that is imported, or does not define the name.
    TypeError
        What it defines is of another type.
    """
    module = load_file(path, name)
    if not hasattr(module, name):
        near = [key for key, value in vars(module).items() if isinstance(value, kind)]
        there = f"; {near[0]!r} is one: call it `{name}`" if near else ""
        raise ValueError(f"{name}: '{path}' defines no `{name}`, such as {name} = {example}{there}")
    found = getattr(module, name)
    if not isinstance(found, kind):
        raise TypeError(f"{name}: that of '{path}' should be a {kind.__name__}, it is of type {type(found).__name__}")
    return found


def class_at(path: str, what: str, fits: Callable[[type], bool]) -> type:
    """Return the dataclass at a path.

    A path comes from a file, which anyone may have written. So only packages of worldfast are imported; a class of
    another module is found if that module is already imported.

    Parameters
    ----------
    path : str
        As from `path_of`.
    what : str
        Expected kind of class, in words.
    fits : callable
        Predicate for a class of that kind.

    Raises
    ------
    CodeError
        The path leads to no such dataclass.
    """
    module, _, name = str(path).rpartition(".")
    ours = re.fullmatch(r"worldfast\.(worlds\.[A-Za-z]\w*|models)", module)
    if ours:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            raise CodeError(f"class {path!r}: this version of worldfast has no {module}") from None
    elif module == _main():
        module = "__main__"
    elif module not in sys.modules:
        raise CodeError(
            f"class {path!r}: {module or 'its module'} is not imported: import it first, then read its runs; "
            f"on the command line, --load {module.rpartition('.')[2] or 'FILE'}.py"
        )
    found = getattr(sys.modules[module], name, None) if ours else vars(sys.modules[module]).get(name)
    if not (isinstance(found, type) and is_dataclass(found) and fits(found)):
        advice = "; define it here as it was, or in a file that is imported" if module == "__main__" else ""
        raise CodeError(f"class {path!r}: {module} has no dataclass {name!r} that is {what}{advice}")
    return found

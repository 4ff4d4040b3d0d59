"""Identity of a Python function: a hash of its source and of all that it reads from outside.

Names are those of the source, nested code included, as Python's own symbol tables sort them into local and global: so
the identity is the same in every version of Python, wherever it compiles comprehensions to.
"""

import ast
import builtins
import copy
import functools
import hashlib
import inspect
import json
import symtable
import sys
import sysconfig
import textwrap
import types
from pathlib import Path

import numpy as np

from worldfast import files
from worldfast.syntax import canonical
from worldfast.worlds.cities.tasks import Task

PLAIN = (int, float, complex, str, bytes, range, type(None))


def rule_of(function):
    """Return a function's identity, 16 hexadecimal digits.

    Raises
    ------
    ValueError
        Its source, or the content of what it reads, cannot be known. The message is a clause about the function.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not isinstance(_statement(code), ast.FunctionDef):
        raise ValueError("has no source that can be read, as at a prompt, in exec or as a lambda")
    content = json.dumps(_Reader().named("itself", function), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _Reader:
    """Content of values as lists and texts. A function that was met before, as in a recursion, is its number."""

    def __init__(self):
        self.met = []

    def named(self, name, value):
        """Return the content of a value that is read by a name; raises ValueError if it cannot be known."""
        try:
            return self._value(value)
        except (TypeError, RecursionError):
            raise ValueError(f"reads {name}, a {type(value).__name__}, whose content cannot be known") from None

    def _value(self, value):
        """Return the content of a value; raises TypeError if it has none that is known."""
        if isinstance(value, np.generic | np.ndarray):
            return ["array", value.dtype.str, files.digest(value)]
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, list | tuple):
            return [type(value).__name__, *map(self._value, value)]
        if isinstance(value, set | frozenset):
            return [type(value).__name__, *sorted(json.dumps(self._value(one)) for one in value)]
        if isinstance(value, dict):
            return [type(value).__name__, *([self._value(key), self._value(one)] for key, one in value.items())]
        if isinstance(value, Task):
            return ["task", value.to_json() if hasattr(value, "rule") else value.name]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, types.MethodType):
            return ["method", self._value(value.__func__), self._value(value.__self__)]
        if name := _installed_name(value):
            return ["installed", name]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if hasattr(value, "__wrapped__"):  # as functools.cache makes them
            return [type(value).__name__, self._value(value.__wrapped__)]
        raise TypeError

    def _function(self, function):
        """Return the content of a function: its source, and by name what it reads and its defaults."""
        if function in self.met:
            return ["function", self.met.index(function)]
        self.met.append(function)
        statement = _statement(function.__code__)
        if statement is None:
            raise TypeError
        values = {name: self.named(name, value) for name, value in _outside(function, statement)}
        defaults = [self.named("a default", value) for value in function.__defaults__ or ()]
        named = {name: self.named(name, value) for name, value in (function.__kwdefaults__ or {}).items()}
        if isinstance(statement, ast.FunctionDef):
            statement.name = ""
        return [canonical(statement), values, *(more for more in (defaults, named) if more)]


def _statement(code):
    """Return the statement that defines a function, without docstring and decorators; None if there is no source."""
    try:
        [statement] = ast.parse(textwrap.dedent(inspect.getsource(code))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if isinstance(statement, ast.FunctionDef):
        if ast.get_docstring(statement) is not None:
            del statement.body[0]
        statement.decorator_list = []
    return statement


def _outside(function, statement):
    """Yield name and value of what a function and the code nested in it read from outside, save what Python has."""
    code, empty = function.__code__, object()
    values = dict(function.__globals__)
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            values[name] = cell.cell_contents
        except ValueError:
            values[name] = empty
    for name in sorted(_names(statement, code.co_freevars) - {getattr(statement, "name", None)}):
        if values.get(name, empty) is not empty:
            yield name, values[name]
        elif name in code.co_freevars or not hasattr(builtins, name):
            raise ValueError(f"reads {name}, which has no value yet")


def _names(statement, closure):
    """Return the names that code inside a statement reads from outside, where those of `closure` are variables."""
    text = textwrap.indent(ast.unparse(_Bare().visit(copy.deepcopy(statement))), " ")
    [around] = symtable.symtable(f"def _({', '.join(closure)}):\n{text}\n", "", "exec").get_children()
    found, scopes = set(), around.get_children()
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        for symbol in scope.get_symbols():
            name = symbol.get_name()
            if symbol.is_referenced() and (symbol.is_global() or (symbol.is_free() and name in closure)):
                found.add(name)
    return found


class _Bare(ast.NodeTransformer):
    """Removes annotations, which decide nothing, and which versions of Python look up in different ways."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


@functools.cache
def _installed():
    """Folders of Python's own modules and of installed packages."""
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def _installed_name(value):
    """Return the path of a function or class of Python or of an installed package, such as "numpy.ptp", or None."""
    name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
    path = getattr(value, "__module__", None) or ("numpy" if isinstance(value, np.ufunc) else "")
    module = sys.modules.get(path)
    if module is None or getattr(module, name, None) is not value:
        return None
    file = getattr(module, "__file__", None)
    inside = file and any(Path(file).resolve().is_relative_to(folder) for folder in _installed())
    ours = path.partition(".")[0] in ("worldfast", *sys.builtin_module_names)
    return f"{path}.{name}" if inside or ours else None

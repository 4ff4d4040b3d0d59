"""Selection language: rows of a table by an expression over its columns, "region != 'Atlantis' and x > 0".

It walks Python's own syntax tree, whitelisted node by node, on whole columns at a time.
"""

from __future__ import annotations

import ast
import difflib
import functools
import operator
from collections.abc import Mapping

import numpy as np

from worldfast.errors import one_of

ALLOWED = (
    "allowed are columns, numbers, strings, comparisons, and, or, not, in and not in a literal list, "
    "+ - * / and unary minus, as in \"region != 'Atlantis' and 0 < x <= 450\""
)
BOOLEANS = {ast.And: np.logical_and, ast.Or: np.logical_or}
ARITHMETIC = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide}
COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
KINDS = {"b": "a condition", "f": "a number", "U": "a string"}


def select(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows that an expression over columns selects.

    Parameters
    ----------
    expression : str
    columns : mapping of str to ndarray
        float64 [N] or str [N].

    Returns
    -------
    ndarray
        bool [N].

    Raises
    ------
    ValueError
        The expression has anything outside the language of ALLOWED.
    """
    n = len(next(iter(columns.values())))
    try:
        tree = ast.parse(expression.strip(), filename="selection", mode="eval")
        with np.errstate(all="ignore"):
            chosen = np.asarray(_evaluate(tree.body, columns))
    except (SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"cannot read the selection {expression!r:.100}: {error}; {ALLOWED}") from None
    if chosen.dtype != bool or chosen.shape != (n,):
        raise ValueError(f"{expression!r:.100} is no condition on {', '.join(columns)}; {ALLOWED}")
    return chosen


def named(which: object) -> str:
    """Return how an error names a selection: an expression as it was given, an array as a mask."""
    return repr(which) if isinstance(which, str) else "a mask"


def unknown_texts(which: object, columns: Mapping[str, np.ndarray]) -> str:
    """Return what to say of texts in an expression that no row has: "; no region is 'Ocenia': did you mean 'Oceania'?".

    Parameters
    ----------
    which : str or array
        An expression for `select`, or a mask, of which there is nothing to say.
    columns : mapping of str to ndarray
        Columns [N]; those of str count.

    Returns
    -------
    str
        "" if every text is there.
    """
    said: dict[str, None] = {}  # in order, each once
    compared = ast.walk(ast.parse(which.strip(), mode="eval")) if isinstance(which, str) else ()
    for parts in (list(ast.walk(node)) for node in compared if isinstance(node, ast.Compare)):
        texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        names = [part.id for part in parts if isinstance(part, ast.Name) and part.id in columns]
        for name in (name for name in names if columns[name].dtype.kind == "U"):
            known = {text.lower(): text for text in columns[name].tolist() if text}
            for text in texts:
                if text not in known.values():
                    near = difflib.get_close_matches(text.lower(), known, n=1)
                    hint = f": did you mean {known[near[0]]!r}?" if near else ""
                    said[f"; no {name} is {text!r}{hint}"] = None
    return "".join(said)


def _evaluate(node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the value of one node: bool, float64 or str, [N], or [] for a constant."""
    match node:
        case ast.Name(id=name):
            return columns[one_of("column", name, columns)]
        case ast.Constant(value=str() as text):
            return np.asarray(text)
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return np.asarray(float(number))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return np.logical_not(_operand("b", operand, columns))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return np.negative(_operand("f", operand, columns))
        case ast.BoolOp(op=op, values=values):
            return functools.reduce(BOOLEANS[type(op)], [_operand("b", value, columns) for value in values])
        case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_operand("f", left, columns), _operand("f", right, columns))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            links = zip([left, *rights[:-1]], ops, rights, strict=True)
            return functools.reduce(np.logical_and, [_compare(*link, columns) for link in links])
    raise ValueError(f"a selection cannot hold {ast.unparse(node)!r:.100}; {ALLOWED}")


def _operand(kind: str, node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    value = _evaluate(node, columns)
    if value.dtype.kind != kind:
        came = KINDS[value.dtype.kind]
        raise ValueError(f"{ast.unparse(node)!r:.100} is {came}, {KINDS[kind]} was expected; {ALLOWED}")
    return value


def _compare(left: ast.expr, link: ast.cmpop, right: ast.expr, columns: Mapping) -> np.ndarray:
    value = _evaluate(left, columns)
    kind = value.dtype.kind
    if type(link) in COMPARISONS:
        return COMPARISONS[type(link)](value, _operand(kind, right, columns))
    if isinstance(link, (ast.In, ast.NotIn)) and isinstance(right, (ast.List, ast.Tuple, ast.Set)):
        elements = [_operand(kind, element, columns) for element in right.elts]
        if all(element.ndim == 0 for element in elements):
            literals = np.array([element.item() for element in elements], dtype=str if kind == "U" else float)
            return np.isin(value, literals, invert=isinstance(link, ast.NotIn))
    link_text = ast.unparse(ast.Compare(left, [link], [right]))
    raise ValueError(f"a selection cannot hold {link_text!r:.100}; {ALLOWED}")

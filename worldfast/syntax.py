"""Syntax trees without layout: what identities of Python code are made of."""

from __future__ import annotations

import ast
from typing import Any


def canonical(node: Any) -> Any:
    """Return a syntax tree as lists and texts that depend neither on Python's version nor on the file's layout."""
    if isinstance(node, ast.AST):
        fields = [(key, value) for key, value in ast.iter_fields(node) if key not in ("ctx", "kind", "type_comment")]
        return [type(node).__name__, *([key, canonical(value)] for key, value in fields if value not in (None, []))]
    return [canonical(part) for part in node] if isinstance(node, list) else repr(node)

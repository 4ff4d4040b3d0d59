"""The package's code as text: no function stands in two places, and docstrings begin with a noun or a verb."""

import ast
from collections import defaultdict
from pathlib import Path

import worldfast

ROOT = Path(worldfast.__file__).parent
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}
SHORT = 150  # letters of a tree, up to which a body may come again: a call or two


def test_no_function_stands_twice():
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                places[ast.dump(ast.Module(body, []))].append(f"{name}: {node.name}")
    assert [where for body, where in places.items() if len(where) > 1 and len(body) > SHORT] == []


def test_docstrings_begin_with_a_noun_or_a_verb():
    begin = ("What ", "How ", "Of ", "Where ", "Whether ", "Whose ", "Who ", "Which ", "Why ", "When ", "If ")
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    nodes = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kinds)]
    said = [f"{name}: {text}" for name, node in nodes if (text := ast.get_docstring(node) or "").startswith(begin)]
    assert said == []

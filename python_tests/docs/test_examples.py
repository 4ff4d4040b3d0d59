"""Examples in docstrings run and give what they show."""

import ast
import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast import models, training
from worldfast.worlds import chains, cities, factors, walks
from worldfast.worlds.cities import tasks

# Public names whose examples import all that they use.
PUBLIC = "cka cka_matrix cka_minibatch cka_standard_error gram_statistics Activations represent Study run_study".split()
OTHERS = ("worldfast.analysis.left_out", "worldfast.capture", "worldfast.dataset", "worldfast.rows", "worldfast.run")
KNOWN = {"wf": wf, "worldfast": wf, "cities": cities, "np": np, "torch": torch}


def examples():
    """Return the examples of each docstring that has some."""
    modules = list(OTHERS)
    for package in (chains, cities, factors, models, training, walks):
        modules += [part.name for part in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    finder = doctest.DocTestFinder()
    found = [test for name in modules for test in finder.find(importlib.import_module(name), extraglobs=KNOWN)]
    return [pytest.param(test, id=test.name.removeprefix("worldfast.")) for test in found if test.examples]


def run(test):
    shown = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    runner.run(test, out=shown.append)
    assert not runner.failures, "".join(shown)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_examples_stand_alone(name, folder, monkeypatch):
    monkeypatch.chdir(folder)  # shared: a run that two examples train is trained once
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(wf, name), name, globs={})
    assert test.examples
    run(test)


def test_every_public_name_has_an_example_that_runs():
    runs = {one.values[0].name for one in examples()}
    finder = doctest.DocTestFinder(recurse=False)
    for name in sorted({*wf.__all__} - {*PUBLIC, "TASKS"}):
        thing = getattr(wf, name)
        (test,) = finder.find(thing, f"{thing.__module__}.{name}", globs={})
        assert test.examples and test.name in runs, name


def test_the_example_of_the_tasks():
    """A docstring below the name, as a mapping has none of its own."""
    body = ast.parse(inspect.getsource(tasks)).body
    names = [getattr(node, "targets", [node])[0] for node in body]
    below = body[1 + next(i for i, node in enumerate(names) if getattr(node, "id", "") == "TASKS")]
    test = doctest.DocTestParser().get_doctest(ast.literal_eval(below.value), {"wf": wf}, "TASKS", None, None)
    assert test.examples
    run(test)


@pytest.mark.parametrize("test", examples())
def test_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(test)

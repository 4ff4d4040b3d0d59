"""Examples in docstrings run and give what they show."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast import models, training
from worldfast.worlds import chains, cities, factors, walks

# Public names whose examples import all that they use.
PUBLIC = "cka cka_matrix cka_minibatch cka_standard_error gram_statistics Activations represent Study run_study".split()
OTHERS = ("worldfast.dataset", "worldfast.rows", "worldfast.run")
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


@pytest.mark.parametrize("test", examples())
def test_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(test)

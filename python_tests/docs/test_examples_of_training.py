"""Examples in the docstrings of training, models, the cities and kernels run and give what they show."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch

import worldfast
from worldfast import models, training
from worldfast.worlds import cities

OTHERS = ("worldfast.dataset", "worldfast.rows", "worldfast.run")
KNOWN = {"wf": worldfast, "worldfast": worldfast, "cities": cities, "np": np, "torch": torch}


def examples():
    """Return the examples of each docstring that has some."""
    modules = list(OTHERS)
    for package in (cities, models, training):
        modules += [part.name for part in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    finder = doctest.DocTestFinder()
    found = [test for name in modules for test in finder.find(importlib.import_module(name), extraglobs=KNOWN)]
    return [pytest.param(test, id=test.name.removeprefix("worldfast.")) for test in found if test.examples]


@pytest.mark.parametrize("test", examples())
def test_example(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    runner.run(test, out=shown.append)
    assert not runner.failures, "".join(shown)

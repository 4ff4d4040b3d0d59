"""Examples in the docstrings of public names run as they stand."""

import doctest

import pytest

import worldfast as wf
from worldfast.studies import Study
from worldfast.studies.engine import run_study

EXAMPLES = {
    "cka": wf.cka,
    "cka_matrix": wf.cka_matrix,
    "cka_minibatch": wf.cka_minibatch,
    "cka_standard_error": wf.cka_standard_error,
    "gram_statistics": wf.gram_statistics,
    "Activations": wf.Activations,
    "represent": wf.represent,
    "Study": Study,
    "run_study": run_study,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name, folder, monkeypatch):
    monkeypatch.chdir(folder)  # shared: a run that two examples train is trained once
    (test,) = (test for test in doctest.DocTestFinder(recurse=False).find(EXAMPLES[name], name, globs={}))
    assert test.examples
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0

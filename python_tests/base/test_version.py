"""The version is stated once, in worldfast/__init__.py; what repeats it agrees."""

import re
from pathlib import Path

import pytest

import worldfast as wf

ROOT = Path(__file__).parents[2]


def test_every_statement_of_the_version_agrees():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project and 'version = { attr = "worldfast.__version__" }' in project
    assert not re.search(r'(?m)^version = "', project), "a second version, beside the package's own"
    (cited,) = re.findall(r"(?m)^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited == wf.__version__


@pytest.mark.parametrize("file", ["setup.py", "CMakeLists.txt"])
def test_a_file_that_builds_states_no_version_of_the_package(file):
    assert wf.__version__ not in (ROOT / file).read_text(encoding="utf-8")


def test_changes_of_this_version_are_told():
    assert re.search(rf"(?m)^## .*{re.escape(wf.__version__)}", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))

"""Docstrings: every public name has one that names its arguments and renders, and the reference builds of them."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urldefrag

import docstring_parser
import pytest

import worldfast
from worldfast import analysis

DOCS = Path(__file__).parents[2] / "docs"

ELSEWHERE = [
    f"worldfast.worlds.cities.{name}" for name in ("improvement", "patching", "prediction", "response", "transfer")
]
ELSEWHERE += ["worldfast.reading.gradients", "worldfast.reading.patching"]


def public():
    """(module, name) of what the package and its analyses offer."""
    yield from (("worldfast", name) for name in worldfast.__all__)
    parts = [part.name for part in pkgutil.walk_packages(analysis.__path__, analysis.__name__ + ".")]
    for inner in ("gram", "hsic"):  # their public part is among the package's own names
        parts.remove(f"worldfast.analysis.{inner}")
    for part in [*parts, *ELSEWHERE]:
        yield from ((part, name) for name in getattr(importlib.import_module(part), "__all__", ()))


def value(module, name):
    return getattr(importlib.import_module(module), name)


CALLABLE = [(module, name) for module, name in public() if callable(value(module, name))]


def named(thing):
    """Return the names in the Parameters and Attributes of a docstring."""
    found = docstring_parser.parse(inspect.getdoc(thing) or "", docstring_parser.DocstringStyle.NUMPYDOC)
    return {name.strip("* ") for param in found.params for name in param.arg_name.split(",")}


# ---- docstrings ----


@pytest.mark.parametrize("module,name", CALLABLE, ids=lambda part: part)
def test_every_public_name_is_documented(module, name):
    thing = value(module, name)
    text = inspect.getdoc(thing) or ""
    assert text and not text.startswith(f"{name}("), f"{module}.{name} has no docstring"
    parameters = [parameter for parameter in inspect.signature(thing).parameters if parameter != "self"]
    known = named(thing)
    if dataclasses.is_dataclass(thing) and "# " in inspect.getsource(thing):
        known |= set(re.findall(r"(?m)^    (\w+): .*  # ", inspect.getsource(thing)))  # said beside the field
    missing = [parameter for parameter in parameters if parameter not in known]
    # One argument or two may be said in a sentence that does not name them: "of a representation [n, d]".
    assert not missing or len(parameters) < 3, f"{module}.{name} says nothing of {missing}"


# ---- the pages ----


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("pdoc")
    out = tmp_path_factory.mktemp("docs") / "docs"
    command = [sys.executable, "-W", "error", str(DOCS / "build.py"), str(out)]
    built = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return out


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(DOCS.parent)}


def test_every_public_name_has_a_place(pages):
    for module, name in public():
        page = (pages / (module.replace(".", "/") + ".html")).read_text()
        assert f'id="{name}"' in page or inspect.ismodule(value(module, name)), f"{module}.{name}"
    assert (pages / "worldfast" / "worlds" / "cities" / "studies.html").exists()


def test_every_link_leads_somewhere(pages):
    found = 0
    for page in pages.rglob("*.html"):
        for link in re.findall(
            r'(?:href|src)="([^"#][^"]*)"', re.sub(r"(?s)<script.*?</script>", "", page.read_text())
        ):
            if not re.match(r"https?:|data:|mailto:", link):
                target = page.parent / urldefrag(link).url
                assert target.exists(), f"{page.relative_to(pages)}: {link}"
                found += 1
    assert found > 100


def test_guides_and_notebooks_are_reachable(pages):
    index = (pages / "index.html").read_text()
    for source in DOCS.glob("*.md"):
        assert f'href="guides/{source.stem}.html"' in index
    for source in DOCS.glob("notebooks/*.ipynb"):
        assert f'href="notebooks/{source.stem}.html"' in index
        assert "data:image/png;base64," in (pages / "notebooks" / f"{source.stem}.html").read_text()


def test_a_page_shows_its_tables_and_signs(pages):
    cka = (pages / "worldfast" / "analysis" / "cka.html").read_text()
    assert "<strong>bandwidth</strong>" in cka
    assert "||Y'X||_F^2" in "".join(re.findall(r'(?s)<div class="docstring">.*?</div>', cka))
    assert "&lt;bos&gt;" in (pages / "worldfast.html").read_text()
    assert "/work/" not in cka

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

import pytest

import worldfast
from worldfast import analysis

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))
import docstrings  # noqa: E402

sys.path.pop(0)


ELSEWHERE = [f"worldfast.worlds.cities.{name}" for name in ("integration", "prediction", "transfer")]
ELSEWHERE += ["worldfast.reading.gradients", "worldfast.reading.patching"]


def public():
    """(module, name) of what the package and its analyses offer."""
    yield from (("worldfast", name) for name in worldfast.__all__)
    parts = [part.name for part in pkgutil.walk_packages(analysis.__path__, analysis.__name__ + ".")]
    parts.remove("worldfast.analysis.gram")  # its public part is among the package's own names
    for part in [*parts, *ELSEWHERE]:
        yield from ((part, name) for name in getattr(importlib.import_module(part), "__all__", ()))


def value(module, name):
    return getattr(importlib.import_module(module), name)


CALLABLE = [(module, name) for module, name in public() if callable(value(module, name))]


def explained(thing, module, seen=()):
    """The docstring of a thing, and those it names, which the reference links: "the rest as in `cka_matrix`"."""
    text = inspect.getdoc(thing) or ""
    for name in re.findall(r"`(\w+)`", text):
        other = getattr(importlib.import_module(module), name, None) or getattr(worldfast, name, None)
        if callable(other) and name not in seen:
            text += "\n" + explained(other, module, (*seen, name))
    return text


# ---- docstrings ----


@pytest.mark.parametrize("module,name", CALLABLE, ids=lambda part: part)
def test_every_public_name_is_documented(module, name):
    thing = value(module, name)
    text = inspect.getdoc(thing) or ""
    assert text and not text.startswith(f"{name}("), f"{module}.{name} has no docstring"
    words = set(re.findall(r"\w+", explained(thing, module)))
    parameters = [parameter for parameter in inspect.signature(thing).parameters if parameter != "self"]
    if dataclasses.is_dataclass(thing) and "# " in inspect.getsource(thing):
        words |= set(re.findall(r"(?m)^    (\w+): .*  # ", inspect.getsource(thing)))  # said beside the field
    missing = [parameter for parameter in parameters if parameter not in words]
    # One argument or two may be said in a sentence that does not name them: "of a representation [n, d]".
    assert not missing or len(parameters) < 3, f"{module}.{name} says nothing of {missing}"


@pytest.mark.parametrize("module,name", CALLABLE, ids=lambda part: part)
def test_every_docstring_renders(module, name):
    thing = value(module, name)
    methods = [method for key, method in vars(thing).items() if key[0] != "_"] if inspect.isclass(thing) else []
    for documented in (thing, *methods):
        text = inspect.getdoc(documented) or ""
        for lines in docstrings._blocks(docstrings.SECTION.split(text)[0]):
            if not docstrings._block(lines).startswith("<pre>"):
                prose = lines[: docstrings._table_start(lines)]  # to the end, where there is no table
                aligned = [line for line in prose if re.search(r"\S {3,}\S", line) and not line.startswith("...")]
                assert not aligned, f"a table that is read as prose: {aligned}"
        rendered = docstrings.to_html(text)
        plain = re.sub(r"<br>", " ", rendered)
        plain = re.sub(r"</?(?:p|pre|table|tr|th|td|code|var)\b[^>]*>", " ", plain)
        assert not re.search(r"[<>]", plain)  # all else is escaped
        import html

        assert re.findall(r"\w+", html.unescape(plain)) == re.findall(r"\w+", text)  # and nothing is lost


def test_a_table():
    text = """Sentence one
    goes on here with `code` & <bos>.

    X, Y      [n, d]; of
              two lines
    kernel    "linear": this
              "rbf": that
    """
    assert docstrings.to_html(inspect.cleandoc(text)) == (
        "<p>Sentence one goes on here with <code>code</code> &amp; &lt;bos&gt;.</p>\n"
        '<table class="arguments">'
        "<tr><th><var>X</var>, <var>Y</var></th><td>[n, d]; of two lines</td></tr>"
        "<tr><th><var>kernel</var></th><td>&quot;linear&quot;: this<br>&quot;rbf&quot;: that</td></tr></table>"
    )


def test_an_indented_block_stands_as_it_is():
    assert docstrings.to_html("A:\n\n    x  = 1\n\n      y <2\n\nB.") == (
        "<p>A:</p>\n<pre>x  = 1\n\n  y &lt;2</pre>\n<p>B.</p>"
    )
    assert docstrings.to_html("A:\n    x   y\nB `c.") == "<p>A:</p>\n<pre>x   y</pre>\n<p>B `c.</p>"


def test_a_sentence_may_lead_to_a_table():
    assert docstrings.to_html("Returns a line\nfor each:\nrun, layer\nvalue  of it\n       all") == (
        '<p>Returns a line for each:</p>\n<table class="arguments">'
        "<tr><th><var>run</var>, <var>layer</var></th><td></td></tr>"
        "<tr><th><var>value</var></th><td>of it all</td></tr></table>"
    )


def test_sections_in_numpy_style():
    text = "One.\n\nParameters\n----------\nX, Y : array [n, d]\n    Two\n    lines.\n\nExamples\n--------\n>>> 1 < 2\nTrue"
    assert docstrings.to_html(text) == (
        '<p>One.</p>\n<p>Parameters</p>\n<table class="arguments">'
        "<tr><th><var>X</var>, <var>Y</var></th><td>array [n, d] Two lines.</td></tr></table>\n"
        "<p>Examples</p>\n<pre>&gt;&gt;&gt; 1 &lt; 2\nTrue</pre>"
    )


def test_prose_is_no_table():
    assert docstrings.table_rows(["one", "two"]) is None
    assert docstrings.table_rows(["a  b", "one sentence"]) is None
    assert docstrings.table_rows(["  a  b"]) is None
    assert docstrings.to_html("") == ""


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
    assert "<th><var>bandwidth</var></th>" in cka
    assert "||Y&#39;X||_F^2" in cka or "||Y&#x27;X||_F^2" in cka
    assert "&lt;bos&gt;" in (pages / "worldfast.html").read_text()
    assert "/work/" not in cka

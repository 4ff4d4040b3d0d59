"""Builds the documentation: `make docs`, or `python docs/build.py FOLDER`.

    index.html                     the README
    guides/*.html                  docs/*.md
    notebooks/*.html               docs/notebooks/*.ipynb with their outputs
    worldfast.html worldfast/**    the reference, from docstrings

pdoc makes the reference from docstrings in NumPy style, its frame and its search; templates/ has what differs from
pdoc's own pages.
"""

import base64
import dataclasses
import html
import importlib
import json
import pkgutil
import re
import shutil
import sys
import warnings
from pathlib import Path

import markdown2
import pdoc.doc
import pdoc.render
from pdoc.render_helpers import markdown_extensions
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import worldfast

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# What scripts and notebooks import by name; an entry stands for its submodules too.
MODULES = (
    "worldfast",
    "worldfast.capture",
    "worldfast.run",
    "worldfast.models.spec",
    "worldfast.models.ensemble",
    "worldfast.models.transformer",
    "worldfast.analysis",
    "worldfast.reading.activations",
    "worldfast.reading.gradients",
    "worldfast.reading.patching",
    "worldfast.reading.representations",
    "worldfast.folder",
    "worldfast.outcome",
    "worldfast.studies.analyses",
    "worldfast.studies.scene",
    "worldfast.studies.study",
    "worldfast.studies.engine",
    "worldfast.report.report",
    "worldfast.report.figures",
    "worldfast.worlds.cities.dose_analyses",
    "worldfast.worlds.cities.doses",
    "worldfast.worlds.cities.evaluate",
    "worldfast.worlds.cities.figures",
    "worldfast.worlds.cities.improvement",
    "worldfast.worlds.cities.patching",
    "worldfast.worlds.cities.prediction",
    "worldfast.worlds.cities.prompts",
    "worldfast.worlds.cities.recipe",
    "worldfast.worlds.cities.response",
    "worldfast.worlds.cities.studies",
    "worldfast.worlds.cities.tasks",
    "worldfast.worlds.cities.tokens",
    "worldfast.worlds.cities.transfer",
    "worldfast.worlds.cities.world",
    "worldfast.worlds.cities.world_spec",
)


def modules():
    """Names of the modules in the reference."""
    found = []
    for name in MODULES:
        found.append(name)
        path = getattr(importlib.import_module(name), "__path__", ()) if name != "worldfast" else ()
        found += [part.name for part in pkgutil.walk_packages(path, name + ".")]
    return found


def build(out):
    """Writes all pages into a folder, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    guides = {path: f"guides/{path.stem}.html" for path in sorted(DOCS.glob("*.md"))}
    notebooks = {path: f"notebooks/{path.stem}.html" for path in sorted(DOCS.glob("notebooks/*.ipynb"))}
    names = modules()

    env = pdoc.render.env
    footer = f"worldfast {worldfast.__version__}"
    pdoc.render.configure(template_directory=DOCS / "templates", docformat="numpy", footer_text=footer)
    env.filters["to_html"] = _verbatim
    env.globals["is_field"] = _is_field
    env.globals["pages"] = {
        "Guides": [("index.html", "README"), *((page, _title(path)) for path, page in guides.items())],
        "Notebooks": [(page, _title(path)) for path, page in notebooks.items()],
        "Reference": [(name.replace(".", "/") + ".html", name) for name in names],
    }
    _reference(names, out)
    for path, page in {ROOT / "README.md": "index.html", **guides}.items():
        _write(out, page, _title(path), _linked(_markdown(path.read_text()), page))
    for path, page in notebooks.items():
        _write(out, page, _title(path), _linked(_notebook(path), page))
    for image in DOCS.rglob("*.png"):
        copy = out / "guides" / image.relative_to(DOCS)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(image, copy)


def _reference(names, out):
    # Not pdoc.pdoc(...): it takes worldfast.training.train, whose name a public function has, for a public module.
    found = {name: pdoc.doc.Module.from_name(name) for name in names}
    with warnings.catch_warnings():
        # pdoc looks for the types of a NamedTuple's fields in the wrong module, and shows them all the same.
        warnings.filterwarnings("ignore", "Error parsing type annotation ForwardRef")
        for name, module in found.items():
            page = out / (name.replace(".", "/") + ".html")
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(pdoc.render.html_module(module, found))
        (out / "search.js").write_text(pdoc.render.search_index(found))


def _is_field(doc):
    """Return True for a field of a dataclass, which the tables of its class and constructor already describe."""
    module = sys.modules[doc.modulename]
    owner = getattr(module, doc.qualname.rpartition(".")[0], None)
    return dataclasses.is_dataclass(owner) and doc.name in [field.name for field in dataclasses.fields(owner)]


def _write(out, page, title, content):
    target = out / page
    target.parent.mkdir(parents=True, exist_ok=True)
    template = pdoc.render.env.get_template("guide.html.jinja2")
    target.write_text(template.render(title=title, content=content, root="../" * page.count("/"), page=page))


def _title(path):
    """The first heading of a page or notebook."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    return re.search(r"^# (.+)$", text, re.MULTILINE)[1].replace("`", "")


def _markdown(text):
    extras = {name: about for name, about in markdown_extensions.items() if name not in ("link-patterns", "mermaid")}
    return str(markdown2.markdown(text, extras=extras))


def _verbatim(text):
    """Markdown of a docstring as HTML: <bos> and the like are text, not tags."""
    extras = {name: about for name, about in markdown_extensions.items() if name not in ("link-patterns", "mermaid")}
    return markdown2.markdown(text, extras=extras, safe_mode="escape")


def _linked(content, page):
    """Links to files of the repository as links between pages."""
    root = "../" * page.count("/")

    def target(name):
        name = name.removeprefix("docs/").removeprefix("../")
        if name.startswith("notebooks/"):
            return root + name.replace(".ipynb", ".html")
        return f"{root}guides/{name}".replace(".md", ".html")

    named = r"((?:docs/|\.\./)?(?:notebooks/\w+\.ipynb|\w+\.md|\w+\.png))"
    content = re.sub(rf'(href|src)="{named}"', lambda found: f'{found[1]}="{target(found[2])}"', content)
    in_prose = r"(?<!<pre>)<code>(docs/(?:notebooks/\w+\.ipynb|\w+\.md))</code>"
    return re.sub(in_prose, lambda found: f'<a href="{target(found[1])}">{found[0]}</a>', content)


def _notebook(path):
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_markdown(source))
        else:
            parts.append(highlight(source, PythonLexer(), HtmlFormatter(cssclass="pdoc-code codehilite")))
            parts += [_output(output) for output in cell["outputs"]]
    return "\n".join(parts)


def _output(output):
    """One output of a cell: a picture, or text."""
    shown = output.get("data", {})
    if "image/png" in shown:
        data = base64.b64encode(base64.b64decode("".join(shown["image/png"]))).decode()
        return f'<p><img alt="figure" src="data:image/png;base64,{data}"></p>'
    text = "".join(output.get("text", shown.get("text/plain", "")))
    return f'<pre class="output">{html.escape(text)}</pre>'


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    build(folder)
    print(f"open {folder / 'index.html'}")

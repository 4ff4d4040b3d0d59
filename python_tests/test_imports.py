"""Imports go one way: a module of the package may import only from those before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import worldfast

ROOT = Path(worldfast.__file__).parent
ORDER = """
errors files selection _native world tasks tokens sampling layers ops gram transformer footprint decoding model batched gpu narrow
activations checkpoint run metrics evaluate huggingface lockstep gpu_lockstep memory progress start member train packing jobs cluster
representations published analysis.tables analysis.stats analysis.probe analysis.pca analysis.cka analysis.procrustes analysis.alignment
analysis.dimension analysis.generalisation analysis.integration analysis.trends analysis.transfer analysis.prediction analysis.agreement analysis.patching
study readings results assemble findings engine planning colours
figures.style figures.canvas figures.tables figures.maps figures.views figures.drawings figures.atlantis figures.matrices
figures.curves figures.trends figures.histograms figures.patching figures.captions figures.saving figures.catalogue figures
page.markup page.films page.gallery page.comparison page.models page.provenance report options cli
""".split()
CALL_KERNELS = ("ops", "gram", "batched", "gpu", "narrow", "gpu_lockstep")


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.endswith("__init__") and not name.startswith("data."):
            yield name, path


def imported(path):
    """Modules of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("worldfast"):
            parent = node.module.removeprefix("worldfast").lstrip(".")
            for alias in node.names:
                child = f"{parent}.{alias.name}".lstrip(".")
                yield child if (ROOT / (child.replace(".", "/") + ".py")).exists() else parent
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("worldfast."):
                    yield alias.name.removeprefix("worldfast.")


@pytest.mark.parametrize("name,path", list(modules()))
def test_imports_go_one_way(name, path):
    assert name in ORDER, f"{name} has no place in the order"
    for other in imported(path):
        if other in ("", "_core"):
            continue  # the package's version; the compiled module, of which _native is the only importer
        if other.split(".")[0] == "kernels":
            assert name in CALL_KERNELS, f"{name} calls a GPU kernel past {CALL_KERNELS}"
            continue
        assert ORDER.index(other) < ORDER.index(name), f"{name} imports {other}"


def test_only_native_imports_the_compiled_module():
    importers = [name for name, path in modules() if "_core" in path.read_text()]
    assert importers == ["_native"]


def test_import_is_light():
    """numpy and torch are all that `import worldfast` brings in."""
    heavy = "h5py pandas sklearn matplotlib safetensors tyro scipy ray transformers triton".split()
    code = f"import sys, worldfast; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"

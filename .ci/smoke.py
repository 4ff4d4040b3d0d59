"""What an installed package must do without its sources or a compiler: `python .ci/smoke.py`, from any folder."""

import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import worldfast as wf
from worldfast.report import report
from worldfast.worlds.cities import Dataset, published

place = Path(wf.__file__).parent
assert Path(__file__).resolve().parents[1] not in place.resolve().parents, f"{place} is the checkout, not a package"
assert version("worldfast") == wf.__version__
assert find_spec("worldfast.kernels").origin and (place / "py.typed").exists()
assert {path.suffix for path in report.PAGE.iterdir()} >= {".css", ".html", ".js"}
assert published.matrices()

print(wf.sample(wf.World.cities(), "inside", n=1).text(0))
run = wf.Run(
    Dataset("distance", rows=640, loss="answer"),
    batch=64,
    model=wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16, outputs=98),
)
with tempfile.TemporaryDirectory() as out:
    [folder] = wf.train([run], out=out, progress=False)
    assert (folder / "done").exists() and run.steps == 10
command = shutil.which("worldfast", path=str(Path(sys.executable).parent))
subprocess.run([command, "doctor"], check=True)

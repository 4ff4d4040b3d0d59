"""A tiny study that is trained, read, exported and drawn, as what is killed, damaged and troubled; and all that it leaves."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import worldfast as wf
from torture import faults
from worldfast import checkpoint
from worldfast.capture import Capture
from worldfast.studies.engine import run_study
from worldfast.worlds import cities
from worldfast.worlds.cities.analyses import ANALYSES
from worldfast.worlds.cities.recipe import world_update
from worldfast.worlds.cities.studies import Study
from worldfast.worlds.cities.world import OLD

__all__ = ["PARTS", "differences", "left", "study", "towns", "work"]

PARTS = ("train", "read", "export", "draw")
KINDS = ("probes", "films", "pca")  # of tables: those that a page needs


def towns(path: Path, seed: int = 3) -> Path:
    """Write a world of 80 places."""
    places = np.random.default_rng(seed).integers(-900, 900, (80, 2))
    rows = [f"{i},{x},{y},{'north' if y > 0 else 'south'}" for i, (x, y) in enumerate(places)]
    path.write_text("city_id,x,y,region\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def study(world: str | Path, seed: int = 42) -> Study:
    """Return a study of two models of one task and a fine-tune of the first."""
    spec = wf.WorldSpec(str(world), atlantis=20)
    data = cities.Dataset(("distance",), rows=192, loss="answer", among=OLD, vocabulary="entity", world=spec)
    model = wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=16, outputs=98)
    how = {"batch": 16, "learning_rate": 3e-3, "warmup": 5, "checkpoints": 3, "validation": 1}
    one = wf.Run(data, seed=seed, model=model, capture=Capture(layers=(1, 2)), **how)
    other = replace(one, data=replace(data, tasks=("angle",)), name="")
    tuned = world_update(one, "angle", standard=8, included=40, alive=4, epochs=2, learning_rate=1e-3)
    return Study(
        "tiny",
        (one, other, tuned),
        layer=1,
        test_rows=4,
        shown=(one.name,),
        analyses=tuple(analysis for analysis in ANALYSES if analysis.kind in KINDS),
        figures=lambda *_: [],
    )


def work(world: str, out: str, parts: Sequence[str] = PARTS, fault: Sequence = (), seed: int = 42) -> None:
    """Do what is left to do of the study, as its owner would by calling the same again."""
    import matplotlib.pyplot as plt

    from worldfast.report import report
    from worldfast.report.figures.saving import save

    if fault:
        faults.arm(*fault)
    place, mine = Path(out), study(world, seed)
    runs = place / "runs"
    if "train" in parts:
        wf.train(mine.runs, runs, device="cpu", progress=False)
    folder = runs / mine.runs[0].folder_name
    if "export" in parts:
        wf.represent(folder, layers=(1,)).save(place / "states.h5")
        if not (place / "open").exists():
            wf.export_huggingface(folder, place / "open")
    if "read" in parts:
        result = run_study(mine, place, device="cpu", progress=False)
        if "draw" in parts:
            shown = [replace(run, seconds=0.0, folder="") for run in result.runs]  # no times on the page
            tables = result.tables | {"runs": result.tables["runs"].assign(seconds=0.0)}
            timeless = replace(result, runs=shown, seconds=0.0, tables=tables)
            figure, axes = plt.subplots(figsize=(2, 1))
            axes.set_axis_off()  # ticks and their labels take longest
            axes.plot(tables["curves"].rows, tables["curves"].loss)
            save(figure, place / "studies" / mine.name / "figures", "losses", mine.name)
            plt.close(figure)
            report.write(timeless, place / "studies" / mine.name / "report.html")


def left(out: Path) -> dict[str, str]:
    """Return a digest of every file below a folder by its path, of all that it says but for times.

    Of two checkpoints of a run the last counts: the one before it may be of the step at which training was stopped.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name != "lock":
            name = path.relative_to(out).as_posix()
            if path.parent.name == "checkpoint" and "partial" not in name:
                name = f"{path.parent.relative_to(out).as_posix()}/last"
            found[name] = hashlib.sha256(_content(path)).hexdigest()[:16]
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> str:
    """Return the files that differ, in words; "" if none does."""
    said = {"missing": expected.keys() - found.keys(), "too many": found.keys() - expected.keys()}
    said["other content"] = {name for name in found.keys() & expected.keys() if found[name] != expected[name]}
    return "; ".join(f"{what}: {', '.join(sorted(names)[:4])}" for what, names in said.items() if names)


def _content(path: Path) -> bytes:
    if path.parent.name == "checkpoint":
        run = json.loads((path.parents[1] / "spec.json").read_text())["id"]
        found = checkpoint.read(path, run)
        tensors = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(found.tensors.items()))
        return json.dumps([found.step, found.state["rows"], found.state["pending"]]).encode() + tensors
    content = path.read_bytes()
    reader = READERS.get(path.name)
    return reader(content) if reader else content


def _csv_without(content: bytes, columns: Sequence[str]) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode())))
    kept = [i for i, name in enumerate(rows[0]) if name not in columns]
    return json.dumps([[row[i] for i in kept] for row in rows]).encode()


def _json_without(content: bytes, names: Sequence[str], lined: bool = False) -> bytes:
    lines = [json.loads(line) for line in (content.splitlines() if lined else [content])]
    return json.dumps([{name: value for name, value in line.items() if name not in names} for line in lines]).encode()


def _page(content: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\d", b"", content)  # the day


TIMES = ("seconds", "metrics", "crc32")  # and checksums of what holds them
READERS = {
    "done": partial(_json_without, names=TIMES),
    "metrics.jsonl": partial(_json_without, names=TIMES, lined=True),
    "study.json": partial(_json_without, names=("tables", "crc32")),  # digests, of runs.csv too
    "runs.csv": partial(_csv_without, columns=TIMES),
    "report.html": _page,
}

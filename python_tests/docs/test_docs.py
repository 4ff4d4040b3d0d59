"""The page on training: its code runs as it stands there, but for the sizes that it names in capitals."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch

import worldfast as wf
from worldfast.worlds.cities.studies import demo

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def blocks(name="training.md"):
    return re.findall(r"```python\n(.*?)```", (PAGE.parent / name).read_text(), re.DOTALL)


FINE_TUNES = next(block for block in blocks() if "fine_tune" in block)


def execute(block, small, monkeypatch, tmp_path):
    """Runs a block of the page with its first line of sizes replaced; returns its names."""
    monkeypatch.chdir(tmp_path)
    scaled, found = re.subn(r"^ROWS.* = .*$", small, block, count=1, flags=re.MULTILINE)
    assert found == 1
    names = {}
    exec(compile(scaled, str(PAGE), "exec"), names)
    return names


def test_a_grid(tmp_path, monkeypatch, capsys):
    block = blocks()[0]
    sizes = re.search(r"^ROWS, SEEDS = ([\d_]+), (\d+)", block, re.MULTILINE)
    assert int(sizes[2]) * 10 == 100
    assert len([line for line in block.splitlines() if line and not line.startswith("import")]) <= 10
    names = execute(block, "ROWS, SEEDS = 8, 1", monkeypatch, tmp_path)
    assert len({run.id for run in names["runs"]}) == 10
    assert capsys.readouterr().out.splitlines() == [f"{run.folder_name} finished" for run in names["runs"]]


def test_fine_tunes(tmp_path, monkeypatch):
    names = execute(FINE_TUNES, "ROWS, KEPT = 10, 1", monkeypatch, tmp_path)
    statuses = [json.loads((folder / "done").read_text())["status"] for folder in names["folders"]]
    assert statuses == ["finished"] * 8
    assert names["fine_tune"]("angle").epoch_rows == 2 + 10 + 7


def test_the_published_proportions():
    """At the page's own size, its fine-tune has the rows of arXiv 2602.00533."""
    source = FINE_TUNES.partition("folders =")[0]
    names = {}
    exec(source, names)
    assert names["fine_tune"]("distance").epoch_rows == 121_792


def test_the_model_of_the_page_is_that_of_the_demo():
    names = {}
    exec(blocks()[0].partition("pairs =")[0], names)
    assert names["model"] == demo().runs[0].model


@pytest.mark.parametrize("command", re.findall(r"^worldfast train (.+)$", PAGE.read_text(), re.MULTILINE))
def test_commands(command, tmp_path, capsys, monkeypatch):
    from worldfast import cli

    (tmp_path / "midpoint.py").write_text(
        "import worldfast as wf\n\n\n"
        '@wf.task("mid", cities=2, unit="0.1 degree")\n'
        "def middle(xy):\n    return (xy[:, 0, 0] + xy[:, 1, 0]) // 2\n"
    )
    monkeypatch.chdir(tmp_path)
    small = ["--rows", "2", "--hidden", "16", "--layers", "1", "--checkpoints", "1"]
    small += [] if "--kind" in command else ["--heads", "2"]
    words = re.sub(r"--rows \d+|#.*", "", command).split()
    seeds = re.search(r"--seeds ([\d ]+)", command)
    assert cli.main(["train", *words, *small, "--out", str(tmp_path), "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == (len(seeds[1].split()) if seeds else 1)


# ---- docs/studies.md ----


def test_a_study_of_ones_own(tmp_path, monkeypatch):
    text = (PAGE.parent / "studies.md").read_text()
    block, analysis, doses, stream = blocks("studies.md")
    exec(analysis, {})
    exec(doses, {})
    exec(stream, {"torch": torch, "wf": wf, "X": torch.randn(512, 3), "Y": torch.randn(512, 4)})
    block = re.sub(r"=1000, included=5000, alive=100", "=8, included=40, alive=4", block)
    block = block.replace("test_rows=500", "test_rows=20")
    names = execute(block, "ROWS = 256", monkeypatch, tmp_path)
    assert names["result"].tables["runs"].run.tolist() == [
        "pt-distance+angle-s1",
        "pt-distance+angle-s2",
        "ft-angle-s1",
        "ft-angle-s2",
        "ft-asia-s1",
    ]
    assert (tmp_path / "out" / "studies" / "mine" / "report.html").stat().st_size > 50_000
    tables = {
        line.split("`")[i]
        for line in text.splitlines()
        if line.startswith("| `")
        for i in (1, 3, 5, 7)
        if i < len(line.split("`"))
    }
    assert set(names["result"].tables) <= tables


# ---- docs/tasks.md ----


def test_a_task_of_ones_own(tmp_path, monkeypatch, capsys):
    """From a file, as a function is known by its source."""
    text = (PAGE.parent / "tasks.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    (tmp_path / "own.py").write_text(block.replace("ROWS = 20_000", "ROWS = 30"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("own.py")
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name == names["run"].folder_name and names["data"].tasks == ("mid", "near", "distance")
    said = capsys.readouterr().out.splitlines()[0]
    assert said == re.search(r"# (mid\(.*)$", text, re.MULTILINE)[1]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"validation/mid", "validation/near", "validation/distance"} <= set(lines[-1])


def test_tests_that_a_guide_names_are_there():
    """docs/gpu.md: each row of what was mended names them by file and function."""
    there = "\n".join(path.read_text() for path in PAGE.parents[1].glob("python_tests/**/test_*.py"))
    named = re.findall(r"`(test_\w+)`", (PAGE.parent / "gpu.md").read_text())
    assert len(named) > 20
    assert not [name for name in named if f"def {name}(" not in there]
    files = re.findall(r"`(\w+/test_\w+\.py)`", (PAGE.parent / "gpu.md").read_text())
    assert files and all((PAGE.parents[1] / "python_tests" / file).exists() for file in files)

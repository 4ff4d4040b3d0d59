"""The notebooks run from top to bottom, at a tenth of their size, and what is stored in them is from a whole run."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def load_execute():
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(name, expressions, monkeypatch):
    """What expressions in a notebook's own names are worth at its end, at a tenth of its size."""
    pytest.importorskip("transformers")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    asked = ", ".join(f"{key!r}: {code}" for key, code in expressions.items())
    notebook = load_execute().execute(FOLDER / name, scale=0.1, then=f"import json; print(json.dumps({{{asked}}}))")
    return json.loads(notebook.cells[-1].outputs[-1].text)


def test_a_new_task(monkeypatch):
    it = found(
        "a_new_task.ipynb",
        dict(
            rows="ROWS",
            wrong="[wrong, grid_wrong, int(ties.sum())]",
            second="batch.label.mean().item()",
            tasks="list(wf.TASKS)",
            cleaned="not runs_folder.exists()",
            spec="runs[0].data.to_json()['own'][0]",
            refused="'away' in wf.TASKS",
            scores="{' '.join(key): value for key, value in scores.items()}",
            r2="{name: [probes[0].r2.mean(), probes[-1].r2.mean()] for name, probes in probes.items()}",
            matrix="matrix.tolist()",
            chance="chance",
        ),
        monkeypatch,
    )
    assert it["rows"] == 24_000 and it["cleaned"]
    assert it["wrong"][:2] == [0, 0] and it["wrong"][2] > 1000
    assert 0.49 < it["second"] < 0.51
    assert it["tasks"][-1] == "nearer" and len(it["tasks"]) == 8
    assert it["spec"]["name"] == "nearer" and not it["refused"]
    assert sorted(it["scores"]) == sorted(
        f"pt-{what} {task}"
        for what, task in (
            ("nearer-s1", "nearer"),
            ("distance-s2", "distance"),
            ("nearer+distance-s3", "nearer"),
            ("nearer+distance-s3", "distance"),
        )
    )
    before, after = it["r2"]["pt-distance-s2"]
    assert before < 0.05 and after > 0.2
    assert abs(it["chance"]) < 0.1 and [it["matrix"][i][i] for i in range(3)] == [1, 1, 1]


def test_someone_elses_model(monkeypatch):
    it = found(
        "someone_elses_model.ipynb",
        dict(
            shapes="[layer.shape for layer in trained]",
            probes="{f'{key}': probe.r2.mean() for key, probe in found.items()}",
            refusal="refusal",
            noise="[wf.cka(*random.standard_normal((2, 30, 96))), wf.cka(*random.standard_normal((2, 800, 96)))]",
            chance="[agreement['random weights 1'], 10 / (len(xy) - 1)]",
            agreement="agreement['trained 1']",
        ),
        monkeypatch,
    )
    assert it["shapes"] == [[800, 48]] * 3
    assert it["probes"]["('trained', 1)"] > 0.2
    assert it["probes"]["('random weights', 1)"] < 0.05
    assert it["probes"]["name, country"] > it["probes"]["name"] + 0.2  # the prompt gives the place away
    assert "needs more than 97 items, got 72" in it["refusal"]
    assert it["noise"][0] > 0.6 and it["noise"][1] < 0.2
    assert it["agreement"] > 0.03 and abs(it["chance"][0] - it["chance"][1]) < 0.01


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestStored:
    def test_outputs_are_of_this_code_at_full_size(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        about = notebook.metadata["worldfast"]
        assert about["executed"] == load_execute().code_hash(notebook), "make notebooks"
        assert about["scale"] == 1
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        for cell in code:
            shows = re.search(r"^ *print\(|^plt\.show|^figures\.", cell.source, re.MULTILINE)
            assert not shows or cell.outputs, cell.source

    def test_pictures(self, path):
        outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", ())]
        assert any("image/png" in output.get("data", {}) for output in outputs)

    def test_no_warnings_and_no_traces_of_a_machine(self, path):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", ()):
                assert output.output_type != "error"
                assert output.get("name") != "stderr", output.text
                text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
                assert not re.search(r"Warning|/(work|tmp|home|root|usr|Users)\b|site-packages", text), text

    def test_cells_are_short(self, path):
        for cell in nbformat.read(path, as_version=4).cells:
            assert len(cell.source.splitlines()) <= 30, cell.source
            assert max(map(len, cell.source.splitlines())) <= 120, cell.source

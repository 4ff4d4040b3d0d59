"""A tiny study from end to end: trained, read, compared, written down; and the command line around it."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import worldfast as wf
from worldfast import cli, report, study
from worldfast.activations import Capture
from worldfast.engine import run_study

MODEL = wf.ModelSpec(hidden=16, layers=2, heads=2, intermediate=16, head_size=98)


@pytest.fixture
def tiny(tmp_path):
    rng = np.random.default_rng(3)
    rows = [f"{i},{x},{y},{'north' if y > 0 else 'south'}" for i, (x, y) in enumerate(rng.integers(-900, 900, (80, 2)))]
    path = tmp_path / "towns.csv"
    path.write_text("city_id,x,y,region\n" + "\n".join(rows) + "\n")
    run = wf.Run(
        ("distance",), world=wf.WorldSpec(source=str(path)), rows=64, batch=32, loss="answer", vocabulary="entity",
        model=MODEL, checkpoints=2, capture=Capture(layers=(1,)),
    )  # fmt: skip
    return study.Study("tiny", (run, replace(run, tasks=("angle", "inside"), name="")), layer=1, test_rows=7)


def test_a_study_from_end_to_end(tiny, tmp_path, capsys):
    result = run_study(tiny, tmp_path, progress=False)
    assert [run.name for run in result.runs] == ["pt-distance-s42", "pt-angle+inside-s42"]
    assert result.cka.shape == (2, 2) and result.cka[0, 0] == 1
    for run, spec in zip(result.runs, tiny.runs, strict=True):
        activations = wf.Activations(run.folder)
        assert run.steps.tolist() == list(activations.steps) == [0, spec.steps // 2, spec.steps]
        assert run.rows.tolist() == [0, 32 * (spec.steps // 2), 64 * len(spec.tasks)]
        assert run.predicted.shape == (3, 80, 2) and set(run.scores) == set(spec.tasks)
    last = [wf.Activations(run.folder) for run in result.runs]
    assert result.cka[0, 1] == pytest.approx(wf.cka(*(a[a.steps[-1], 1] for a in last)))
    assert "no map" in result.findings[0]

    folder = tmp_path / "studies" / "tiny"
    table = list(csv.DictReader((folder / "probe.csv").open()))
    assert len(table) == 6 and float(table[2]["r2_x"]) == pytest.approx(result.runs[0].r2[2, 0], rel=1e-5)
    assert len(list(csv.DictReader((folder / "cka.csv").open()))) == 4
    assert len(list(csv.DictReader((folder / "scores.csv").open()))) == 3
    page = report.write(result, folder / "report.html")
    assert "pt-angle+inside-s42" in page.read_text()
    assert capsys.readouterr() == ("", "")


def test_what_is_done_is_not_done_again(tiny, tmp_path):
    first = run_study(tiny, tmp_path, progress=False)
    done = [tmp_path / "runs" / run.folder_name / "done" for run in tiny.runs]
    before = [path.stat().st_mtime_ns for path in done]
    again = run_study(tiny, tmp_path, progress=False)
    assert [path.stat().st_mtime_ns for path in done] == before
    assert np.array_equal(first.cka, again.cka) and first.findings == again.findings
    assert again.seconds >= max(run.seconds for run in again.runs)


def test_a_run_that_diverged_is_left_out(tiny, tmp_path):
    run_study(tiny, tmp_path, progress=False)
    done = tmp_path / "runs" / tiny.runs[0].folder_name / "done"
    done.write_text(json.dumps(json.loads(done.read_text()) | {"status": "diverged"}))
    assert [run.name for run in run_study(tiny, tmp_path, progress=False).runs] == ["pt-angle+inside-s42"]


def test_studies_refuse(tiny):
    with pytest.raises(ValueError, match="two runs are named"):
        replace(tiny, runs=(tiny.runs[0], replace(tiny.runs[0], seed=1)))
    with pytest.raises(ValueError, match="another world"):
        replace(tiny, runs=(tiny.runs[0], replace(tiny.runs[1], world=wf.WorldSpec())))
    with pytest.raises(ValueError, match="captures layers"):
        replace(tiny, layer=2)
    with pytest.raises(ValueError, match="at least one"):
        replace(tiny, runs=())


def test_the_demo_is_what_it_says():
    demo = study.demo()
    assert [run.tasks for run in demo.runs] == [("distance",), ("angle",), tuple(wf.TASKS)]
    assert all(run.vocabulary == "entity" and run.loss == "answer" for run in demo.runs)
    assert [run.epoch_rows for run in study.demo(0.01).runs] == [3_000, 3_000, 9_800]
    assert len(demo.runs[0].world.build()) == 5075


def test_command_line(capsys, tmp_path):
    assert cli.main(["sample", "distance", "--n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    batch = wf.sample(wf.World.cities(), "distance", n=3)
    assert lines == [batch.text(i) for i in range(3)]
    assert cli.main(["sample", "distnace"]) == 1
    assert "did you mean 'distance'" in capsys.readouterr().err
    assert cli.main(["doctor"]) == 0
    assert "native core" in capsys.readouterr().out
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli.main(["demo", "--out", str(blocked)]) == 1
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["demo", "--sclae", "5"])
    assert "--scale" in capsys.readouterr().err

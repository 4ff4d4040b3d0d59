"""A tiny study from end to end with both engines: trained, read, put together, drawn; and the command line around it."""

import importlib.util
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import worldfast as wf
from torture.cluster import spoil
from worldfast import _native, cli, files, locks, study_cli, worlds
from worldfast import folder as run_folder
from worldfast.analysis.pca import pca_over_training
from worldfast.analysis.probe import held_out, linear_probe
from worldfast.capture import Capture
from worldfast.report import report
from worldfast.studies import engine, load_study, planning, standing
from worldfast.studies.analyses import compute, made, tables_of
from worldfast.studies.engine import run_study
from worldfast.training.jobs import Outcome
from worldfast.worlds import chains, factors, walks
from worldfast.worlds.cities import Dataset, evaluate, studies
from worldfast.worlds.cities.recipe import world_update
from worldfast.worlds.cities.studies import Study
from worldfast.worlds.cities.world import OLD

MODEL = wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=16, outputs=98)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two one-task models and one of all tasks, and three fine-tunes of that on an Atlantis of 20."""
    rng = np.random.default_rng(3)
    rows = [f"{i},{x},{y},{'north' if y > 0 else 'south'}" for i, (x, y) in enumerate(rng.integers(-900, 900, (80, 2)))]
    path = tmp_path_factory.mktemp("world") / "towns.csv"
    path.write_text("city_id,x,y,region\n" + "\n".join(rows) + "\n")
    one = wf.Run(
        Dataset(
            ("distance",),
            world=wf.WorldSpec(str(path), atlantis=20),
            rows=64,
            loss="answer",
            among=OLD,
            vocabulary="entity",
        ),
        batch=32,
        model=MODEL,
        checkpoints=2,
        validation=3,
        capture=Capture(layers=(1, 2)),
    )
    base = replace(one, data=replace(one.data, tasks=tuple(wf.TASKS)), name="")
    few = {"standard": 8, "included": 40, "alive": 4, "epochs": 1, "learning_rate": 1e-3}
    tuned = [world_update(base, tasks, **few) for tasks in ("distance", "angle", ("distance", "angle"))]
    shown = ("pt-all-s42", "ft-angle-s42")
    return Study(
        "tiny",
        (one, replace(one, data=replace(one.data, tasks=("angle",)), name=""), base, *tuned),
        layer=1,
        test_rows=7,
        shown=shown,
        patched=("ft-angle-s42", "ft-distance-s42"),
    )


@pytest.fixture(scope="module")
def ran(tiny, tmp_path_factory):
    """Where it was run, and what it found."""
    out = tmp_path_factory.mktemp("ran")
    return out, run_study(tiny, out, progress=False)


def test_every_table_is_there(ran, tiny):
    out, result = ran
    names = [run.name for run in tiny.runs]
    tables = result.tables
    assert tables["runs"].run.tolist() == names
    assert tables["runs"].rows.tolist() == [run.epochs * run.epoch_rows for run in tiny.runs]
    assert (tables["runs"].status == "finished").all() and tables["runs"].base.tolist() == [""] * 3 + ["pt-all-s42"] * 3
    assert len(tables["evaluation"]) == 6 * 7 * 2 and len(tables["probes"]) == 6 * 3 * 2
    assert set(tables["generalisation"].group) == {"fitted", "held out", "Atlantis"}
    assert len(tables["cka"][(tables["cka"].step_share == 1) & (tables["cka"].layer == 1)]) == 3 * 5
    assert len(tables["improvement"]) == 3 * 7 and len(tables["deviation"]) == 7
    assert len(tables["agreement"]) == 28 and set(tables["patching"].layer) == {0, 1, 2}
    assert len(tables["validation"]) == 3 * (1 + 1 + 7 + 1 + 1 + 2)
    for name, table in tables.items():
        written = pd.read_csv(out / "studies" / "tiny" / f"{name}.csv", keep_default_na=False, na_values=["nan"])
        assert list(written) == list(table) and len(written) == len(table)


def test_tables_say_what_the_runs_hold(ran, tiny):
    out, result = ran
    run = tiny.runs[0]
    folder = out / "runs" / run.folder_name
    states, world = wf.Activations(folder), run.data.world.build()
    old = world.select(OLD)
    probe = linear_probe(states[states.steps[1], 2][old], world.xy[old], held_out(80))
    table = result.tables["probes"]
    row = table[(table.run == run.name) & (table.layer == 2) & (table.step == states.steps[1])].iloc[0]
    assert (row.r2_x, row.median_error) == pytest.approx((probe.r2[0], probe.median_error), rel=1e-8)
    assert row.rows == 32 * states.steps[1] and row.n_fitted == 64
    _, ensemble = run_folder.load(folder)
    table = result.tables["evaluation"]
    for group, where in {"standard": {"among": OLD}, "Atlantis": {"must_include": "region == 'Atlantis'"}}.items():
        score = evaluate.evaluate(ensemble, 0, world, "angle", 7, run.seed, vocabulary="entity", **where)
        row = table[(table.run == run.name) & (table.task == "angle") & (table.group == group)].iloc[0]
        assert (row.value, row.unparsable) == pytest.approx((score.value, score.unparsable))
    last = [wf.Activations(out / "runs" / one.folder_name) for one in tiny.runs[:2]]
    cka = wf.cka(*(each[each.steps[-1], 1][old] for each in last))
    table = result.tables["cka"].query("layer == 1 and step_share == 1 and kernel == 'linear' and not debiased")
    row = table[(table.components == 0) & (table.run == tiny.runs[0].name) & (table.other == tiny.runs[1].name)]
    assert row.value.item() == pytest.approx(cka)


def test_films_and_findings(ran, tiny):
    _, result = ran
    assert [run.name for run in result.runs] == list(tiny.shown)
    film = result.runs[1]
    assert film.predicted.shape == (3, 100, 2) and film.mixed.shape == (3, 100, 3)
    assert film.held_out[80:].all()  # where the probe puts Atlantis, it was not fitted on
    assert "Taught Atlantis without distance" in result.findings[0]
    assert any(sentence.startswith("Not learned") for sentence in result.findings)
    assert not result.published  # whose numbers are of all 5,075 cities


def test_what_is_done_is_not_done_again(ran, tiny):
    out, first = ran
    kept = [path for part in ("runs", "tables") for path in sorted((out / part).rglob("*")) if path.name != "lock"]
    before = [path.stat().st_mtime_ns for path in kept if path.is_file()]
    again = run_study(tiny, out, progress=False)
    assert [path.stat().st_mtime_ns for path in kept if path.is_file()] == before
    assert np.array_equal(first.cka, again.cka) and first.findings == again.findings
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])


def test_a_report_refits_nothing(ran, tiny, monkeypatch):
    """The page, its films and its matrix of CKA among it, comes from tables that are there."""
    out, first = ran

    def refuse(*_, **__):
        raise AssertionError("computed again")

    for part in ("probe.linear_probe", "pca.pca_over_training", "pca.mixed_over_training", "cka.gram_statistics"):
        module, name = part.split(".")
        monkeypatch.setattr(importlib.import_module(f"worldfast.analysis.{module}"), name, refuse)
    monkeypatch.setattr("worldfast.studies.analyses.make", refuse)
    monkeypatch.setattr("worldfast.studies.engine.make", refuse)
    again = run_study(tiny, out, progress=False, train_missing=False)
    for one, other in zip(first.runs, again.runs):
        for name in ("predicted", "components", "explained", "mixed"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_page_shows_what_the_runs_hold(ran, tiny):
    """Films by way of their tables are those of the activations to the bit, CKA to rounding."""
    _, result = ran
    world = tiny.runs[0].data.world.build()
    film = result.runs[0]
    states = wf.Activations(film.folder)
    probe = linear_probe(states[states.steps[1], 1], world.xy, film.held_out)
    assert np.array_equal(film.predicted[1], probe.predicted)
    whole = pca_over_training(states, 1)
    assert np.array_equal(film.components, whole.projected) and film.explained == pytest.approx(whole.explained)
    old = world.select(OLD)
    last = [wf.Activations(run.folder) for run in result.runs]
    value = wf.cka(*(each[each.steps[-1], 1][old] for each in last))
    assert result.cka == pytest.approx(np.array([[1, value], [value, 1]]), rel=1e-12)
    assert len(result.tables["cka_shown"]) == 1  # of a fine-tune, which no other table compares


MINE = """
import pandas as pd
from worldfast import Run
from worldfast.studies import Analysis, Study
from worldfast.worlds.cities import Dataset


def norm(trained, layer):
    (one,) = trained
    last = one.activations[one.activations.steps[-1], layer]
    return pd.DataFrame({"run": [one.name], "norm": [float((last.astype(float) ** 2).sum())]})


analysis = Analysis("norm", norm, options=lambda study: {"layer": study.layer})
study = Study("mine", [Run(Dataset("angle", rows=64))], analyses=[analysis])
"""


def test_an_analysis_of_ones_own(ran, tiny, tmp_path):
    out, _ = ran
    (tmp_path / "mine.py").write_text(MINE)
    mine = replace(tiny, analyses=(*tiny.analyses, *load_study(tmp_path / "mine.py").analyses))
    table = run_study(mine, out, progress=False, train_missing=False).tables["norm"]
    assert table.run.tolist() == [run.name for run in tiny.runs]
    states = wf.Activations(out / "runs" / tiny.runs[2].folder_name)
    assert table.norm[2] == pytest.approx(np.square(states[states.steps[-1], 1].astype(float)).sum())
    assert len(list((out / "tables").glob("norm-*.csv"))) == 6


def test_editing_one_thing_redoes_what_depends_on_it(ran, tiny):
    out, _ = ran
    here = {table.id for table in tables_of(tiny, tiny.runs)}
    other = replace(tiny.canon[1], learning_rate=1e-3)
    changed = replace(tiny, canon=tuple(other if run is tiny.canon[1] else run for run in tiny.canon))
    new = [one for one in tables_of(changed, changed.runs) if one.id not in here]
    assert {one.kind for one in new if other not in one.runs} == set()
    assert {one.kind for one in new} == {
        "probes",
        "generalisation",
        "evaluation",
        "cka",
        "cka_over_training",
        "procrustes",
        "mutual_knn",
        "dimension",
    }
    rows = replace(tiny, test_rows=8)
    assert {one.kind for one in tables_of(rows, rows.runs) if one.id not in here} == {
        "evaluation",
        "patching",
        "agreement",
    }


def test_a_run_that_diverges_is_marked(tiny, tmp_path):
    bad = replace(tiny.canon[2], learning_rate=1e30, name="bad")
    tuned = replace(tiny.canon[3], start=bad, name="ft-bad")
    made = Study("bad", (tiny.canon[0], bad, tuned), layer=1, test_rows=2)
    result = run_study(made, tmp_path, progress=False)
    assert result.tables["runs"].status.tolist() == ["finished", "diverged", "barred"]
    assert not result.tables["runs"].learned.iloc[1]
    assert any("Did not finish: bad (diverged), ft-bad (barred)" in sentence for sentence in result.findings)
    found = {one.name: one for one in standing.status(tmp_path / "studies" / "bad")}
    assert found["bad"].state == "diverged" and "not finite" in found["bad"].why
    assert found["ft-bad"].state == "barred"
    with pytest.raises(RuntimeError, match="no run finished"):
        run_study(Study("worse", (replace(bad, seed=1, name="worse"),), layer=1), tmp_path, progress=False)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_finds_the_same(ran, tiny, tmp_path):
    _, local = ran
    clustered = run_study(tiny, tmp_path, engine="ray", address="local", threads=1, progress=False)
    for name, table in local.tables.items():
        pd.testing.assert_frame_equal(
            table.drop(columns="seconds", errors="ignore"),
            clustered.tables[name].drop(columns="seconds", errors="ignore"),
        )
    assert clustered.findings == local.findings


def test_the_page_and_its_figures(ran, tiny):
    out, result = ran
    page = report.publish(tiny, result, out / "studies" / "tiny")
    text = page.read_text()
    assert "ft-distance+angle-s42" in text and "data:image/" in text
    drawn = {path.stem for path in (out / "studies" / "tiny" / "figures").glob("*.png")}
    assert {"world", "tasks", "map-pt-all-s42", "views-ft-angle-s42"} <= drawn
    assert {path.stem for path in (out / "studies" / "tiny" / "figures").glob("*.svg")} == drawn


# ---- plan and status ----


def test_a_plan_counts_what_there_is(tiny):
    families = {one.name: one for one in planning.plan_study(tiny, threads=1)}
    assert {name: one.runs for name, one in families.items()} == {
        "pretrained, 1 task": 2,
        "pretrained, 7 tasks": 1,
        "fine-tuned, 1 task": 2,
        "fine-tuned, 2 tasks": 1,
    }
    one = families["pretrained, 1 task"]
    assert one.rows == 128 and one.steps == 4 and one.waves == 1 and 0 < one.seconds < 60


def test_families_that_would_have_one_name_are_called_by_their_first_runs():
    """Those of a study whose runs all have one task, of nets and rows that differ."""
    runs = [factors.net(of, seed, 10, 1, n=n) for of in ("rnn", "gpt") for n in (2, 3) for seed in (0, 1)]
    found = list(planning.plan_study(wf.Study("nets", tuple(runs)), memory="1GiB", threads=1, measure=False))
    assert [one.name for one in found] == [run.name for run in runs if run.seed == 0]
    assert [one.runs for one in found] == [2] * 4


def test_what_a_run_leaves_is_what_the_plan_says(ran, tiny):
    out, _ = ran
    folders = [out / "runs" / run.folder_name for run in tiny.runs]
    left = sum(
        path.stat().st_size
        for folder in folders
        for part in ("checkpoint", "activations")
        for path in (folder / part).iterdir()
    )
    planned = sum(one.disk for one in planning.plan_study(tiny, threads=1, measure=False))
    assert planned == pytest.approx(left, rel=0.35)  # headers weigh much where arrays are this small


def test_where_a_study_stands(ran, tiny, tmp_path, capsys):
    out, _ = ran
    assert {one.state for one in standing.status(out / "studies" / "tiny")} == {"finished"}
    folder = files.folder(tmp_path / "studies" / "tiny", "out")
    (folder / "study.json").write_text((out / "studies" / "tiny" / "study.json").read_text())
    expected = ["waiting" if run.start else "open" for run in tiny.runs]
    assert [one.state for one in standing.status(folder)] == expected and {"open", "waiting"} == {*expected}
    run = tmp_path / "runs" / tiny.runs[0].folder_name
    files.folder(run, "out")
    (run / "metrics.jsonl").write_text('{"step": 1, "rows": 32, "loss": 2.0}\n{"step": 2, "ro')
    first = standing.status(folder)[0]
    assert (first.state, first.step, first.rows, first.all_rows) == ("stopped", 1, 32, 64)
    with locks.lock(run.parent, [run]):
        assert standing.status(folder)[0].state == "running"
    jobs = files.folder(tmp_path / "runs" / "failed", "out")
    files.write_json(jobs / "job.json", {"about": [run.name], "error": "OSError: no space"})
    first = standing.status(folder)[0]
    assert (first.state, first.why) == ("failed", "OSError: no space")
    standing.print_status(folder)
    n = expected.count("waiting")
    assert f"1 failed, {5 - n} open, {n} waiting" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="not a study's folder"):
        standing.status(tmp_path)


# ---- what is refused ----


def test_bad_input(tiny, ran, tmp_path):
    out, _ = ran
    with pytest.raises(ValueError, match="unknown engine 'rya': did you mean 'ray'"):
        run_study(tiny, tmp_path, engine="rya")
    for cities, message in {"x > 99999": "selects none", "reigon == 'a'": "did you mean 'region'"}.items():
        table = next(one for one in tables_of(replace(tiny, cities=cities), tiny.runs) if one.kind == "procrustes")
        with pytest.raises(ValueError, match=message):
            compute(table, out)
        assert not made(table, out)
    some = replace(tiny.canon[0], capture=Capture(layers=(1,), readout={"among": "index < 30"}))
    few = Study("few", (tiny.canon[0], replace(some, name="few")), layer=1, test_rows=0, shown=("pt-distance-s42",))
    few = replace(few, analyses=tuple(one for one in few.analyses if one.kind in ("probes", "pca", "films")))
    ridge = run_study(few, tmp_path, progress=False).tables["probes"].groupby("run").ridge.unique()
    assert ridge["few"].tolist() == [1] and ridge["pt-distance-s42"].tolist() == [0], (
        "penalised: 24 cities, 32 features"
    )
    with pytest.raises(
        ValueError, match="every city, but 'pt-distance-s42' leaves 70 out: .* name other runs in `shown`"
    ):
        Study("few", (some,), layer=1)


def test_a_folder_of_another_version(ran, tiny, tmp_path):
    out, _ = ran
    content = files.read_json(out / "runs" / tiny.runs[0].folder_name / "spec.json")
    files.write_json(tmp_path / "spec.json", content | {"id": "0" * 12})
    with pytest.raises(ValueError, match="written by worldfast .* as run 000000000000.*train it again"):
        run_folder.spec_of(tmp_path)
    content["run"]["lerning_rate"] = 1
    files.write_json(tmp_path / "spec.json", content)
    with pytest.raises(ValueError, match="written by worldfast .* cannot read it: unknown field"):
        run_folder.spec_of(tmp_path)


# ---- the command line ----


def test_the_demo_is_what_it_says():
    demo = studies.demo()
    assert [run.data.tasks for run in demo.runs] == [
        *3 * [tuple(wf.TASKS)],
        *3 * [("angle", "perimeter")],
        *3 * [("distance", "perimeter")],
    ]
    assert [run.seed for run in demo.runs] == 3 * [0, 1, 2]
    assert [run.start for run in demo.runs[3:]] == 2 * list(demo.runs[:3])
    assert all(run.data.vocabulary == "entity" and run.data.loss == "answer" for run in demo.runs)
    assert [run.checkpoints for run in demo.runs] == 3 * [40] + 6 * [20]
    small = studies.demo(0.01).runs
    assert [run.epoch_rows for run in small[:3]] == 3 * [9_800] and {run.checkpoints for run in small} == {4}
    assert [run.checkpoints for run in studies.demo(0.5).runs] == 3 * [20] + 6 * [10]
    assert len(demo.runs[0].data.world.build()) == 5175


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


def test_a_study_of_fewer_rows_is_asked_for_by_name(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(study_cli, "run_and_publish", lambda spec, out, command, **how: asked.append((spec, command)))
    assert cli.main(["study", "run", "paper", "--scale", "0.05", "--out", str(tmp_path)]) == 0
    assert asked == [(studies.paper(0.05), f"worldfast study run paper --scale 0.05 --out {tmp_path}")]
    monkeypatch.setattr(cli, "run_and_publish", study_cli.run_and_publish)
    assert cli.main(["demo", "--scale", "0.01", "--seed", "2", "--out", str(tmp_path)]) == 0
    assert asked[1:] == [(studies.demo(0.01, 2), f"worldfast demo --scale 0.01 --seed 2 --out {tmp_path}")]


def test_study_commands(capsys, tmp_path):
    assert cli.main(["study", "plan", "mini", "--threads", "1", "--scale", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "study mini: 100 runs of the canon, 0 more"
    assert re.match(r"pretrained, 1 task +14 +84,000 ", lines[3]) and re.match(r"in all +100 ", lines[9])
    few = studies.mini(0.01).runs[:1]
    planning.print_plan(Study("few", few, layer=1, test_rows=0, shown=[few[0].name]), threads=1, measure=False)
    assert re.search(rf"in all +1 +{few[0].epochs * few[0].epoch_rows:,} ", capsys.readouterr().out)
    assert cli.main(["study", "plan", "minni"]) == 1
    assert "did you mean 'mini'" in capsys.readouterr().err
    assert cli.main(["study", "status", "mini", "--out", str(tmp_path)]) == 1
    assert "not a study's folder" in capsys.readouterr().err


IN_A_FILE = """
import worldfast as wf
from worldfast.worlds.cities import Dataset, Study
model = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=24)
study = Study("mine", [wf.Run(Dataset("distance", rows=32), seed=seed, batch=16, model=model) for seed in (1, 2)])
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_a_study_of_which_runs_failed_on_a_cluster_is_not_done(damaged, monkeypatch, tmp_path, capsys):
    """The others are analysed, and the exit status says that not all is; a report, which trains nothing, is done."""
    path, ends = tmp_path / "mine.py", Outcome((), {}, {})
    path.write_text(
        IN_A_FILE.replace("Dataset, Study", "Dataset")
        .replace("Study(", "wf.Study(")
        .replace("2)])", "2)], analyses=())")
    )
    failing = {"train-1": "OSError: no space"}
    trains = []

    def some(runs, out, *, address, device, memory, progress):
        trains.append(wf.train(runs[: None if damaged else 1] if failing else runs, out, progress=False))
        if failing and damaged:
            spoil(out / runs[1].folder_name)
        return ends._replace(failed=failing)

    monkeypatch.setattr(engine, "connected", lambda address: nullcontext())
    monkeypatch.setattr(engine, "train_on_cluster", some)
    monkeypatch.setattr(engine, "run_jobs", lambda jobs, **how: ends)
    run = ["study", "run", str(path), "--engine", "ray", "--out", str(tmp_path)]
    assert cli.main(run) == study_cli.UNDONE == 3
    said = capsys.readouterr()
    assert "train-1 failed: OSError: no space" in said.err
    assert "worldfast: 1 of 2 runs have not ended: pt-distance-s2 (see " in said.err and "The tables" in said.out
    assert cli.main(["study", "report", str(path), "--out", str(tmp_path)]) == 0
    failing.clear()
    if damaged:
        shutil.rmtree(trains[0][1])
    assert cli.main(run) == 0 and len(trains) == 2


@pytest.mark.parametrize("command", ["report", "status"])
def test_of_a_study_that_was_never_run_nothing_is_written(command, monkeypatch, tmp_path, capsys):
    path, out = tmp_path / "mine.py", tmp_path / "out"
    path.write_text(IN_A_FILE)
    assert cli.main(["study", command, str(path), "--out", str(out)]) == 1
    assert capsys.readouterr().err.endswith(f"; to run it: worldfast study run {path} --out {out}\n")
    assert [one.name for one in tmp_path.iterdir() if one.name != "__pycache__"] == ["mine.py"]
    assert cli.main(["study", command, "mini", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(f"; to run it: worldfast study run mini --out {tmp_path}\n")
    assert cli.main(["study", "status", "minni", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("minni is not a study's folder: it has no study.json\n")


def test_a_study_of_a_file_is_asked_for_as_a_preset_is(monkeypatch, tmp_path, capsys):
    path = tmp_path / "my study.py"
    path.write_text(IN_A_FILE)
    asked = []
    monkeypatch.setattr(
        study_cli, "run_and_publish", lambda spec, out, command, **how: asked.append((spec.name, command))
    )
    assert cli.main(["study", "run", str(path)]) == cli.main(["study", "report", str(path)]) == 0
    assert asked == [("mine", f"worldfast study run '{path}'")] * 2
    assert cli.main(["study", "plan", str(path), "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("study mine: 2 runs of the canon, 0 more") and out.endswith("time: not measured\n")
    assert cli.main(["study", "status", str(path), "--out", str(tmp_path)]) == 1
    assert f"{tmp_path}/studies/mine is not a study's folder" in capsys.readouterr().err
    assert cli.main(["study", "plan", str(path), "--scale", "0.1"]) == 1
    assert "scale: only presets have one" in capsys.readouterr().err
    path.write_text(IN_A_FILE.replace("study =", "mine ="))
    assert cli.main(["study", "plan", str(path)]) == 1
    assert "'mine' is one: call it `study`" in capsys.readouterr().err
    assert cli.main(["study", "run", str(tmp_path / "none.py")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_presets_are_listed_with_a_line_each(capsys, monkeypatch):
    assert cli.main(["study", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    of = {"chains": chains.PRESETS, "cities": studies.PRESETS, "factors": factors.PRESETS, "walks": walks.PRESETS}
    expected = [(name, world) for world, presets in of.items() for name in presets]
    assert [tuple(line.split()[:2]) for line in lines] == expected
    assert all(len(line.split()) > 5 for line in lines)
    assert cli.main(["study", "plan", "width", "--scale", "0.1"]) == 1
    assert "scale: the preset 'width' has no such option" in capsys.readouterr().err
    assert cli.main(["study", "pln", "demo"]) == 2
    assert "unknown study command 'pln': did you mean 'plan'" in capsys.readouterr().err
    twice = {"cities.demo": studies.demo, "graphs.demo": lambda: Study("another", studies.demo().canon)}
    monkeypatch.setattr(worlds, "presets", lambda: twice)
    assert worlds.preset("graphs.demo").name == "another"
    with pytest.raises(ValueError, match="several worlds: say cities.demo or graphs.demo"):
        worlds.preset("demo")


def test_a_plan_says_what_is_counted_before_it_measures(tiny, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(planning, "_rate", lambda *_: seen.append(capsys.readouterr().out) or 16.0)
    planning.print_plan(tiny, threads=1)
    rest = capsys.readouterr().out
    assert re.search(r"^in all +6 ", seen[0], re.MULTILINE) and "measured on 1 thread here, " in seen[0]
    assert seen[0].splitlines()[-1].endswith(_native.instructions())
    assert len(seen) > 1 and seen[1].startswith("pretrained, 1 task") and seen[1].endswith(" 8 s\n")
    assert rest.splitlines()[-1].startswith("in all")


def test_a_plan_for_gpus_that_are_not_here(tiny, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    planning.print_plan(tiny, device="cuda", gpus=2, memory="8GiB")
    out = capsys.readouterr().out
    assert "counted from operations and bytes, not measured" in out and "\n2 GPUs: " in out
    one, two = (
        sum(one.seconds for one in planning.plan_study(tiny, device="cuda", memory=at)) for at in ("8GiB", "9GiB")
    )
    assert one == two > 0, "memory does not change the time"
    with pytest.raises(ValueError, match="no GPU here to ask"):
        planning.print_plan(tiny, device="cuda")
    with pytest.raises(ValueError, match="gpus: 2 of the device 'cpu'"):
        planning.print_plan(tiny, gpus=2)
    with pytest.raises(ValueError, match="unknown device 'cdua': did you mean 'cuda'"):
        planning.print_plan(tiny, device="cdua")


def test_a_study_on_gpus_ends_when_its_last_ensemble_does():
    base, tune = (wf.Run(Dataset("distance", rows=rows), seed=rows) for rows in (3, 4))
    tune = replace(tune, start=base, data=replace(base.data, rows=2))
    other = replace(base, data=replace(base.data, rows=4))
    parts, per_row = [[base], [other], [tune]], {run.id: 1.0 for run in (base, other, tune)}
    assert planning._ends(parts, 2, per_row) == (4.0, 5.0)
    assert planning._ends(parts, 1, per_row) == (7.0, 9.0)

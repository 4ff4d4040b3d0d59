"""Studies that teach a group of their own, from end to end: tables, findings and the page speak of it alone."""

from dataclasses import replace

import numpy as np
import pytest

import worldfast as wf
from worldfast.report.report import publish
from worldfast.studies.engine import run_study
from worldfast.worlds.cities.groups import groups_of
from worldfast.worlds.cities.recipe import Recipe, world_update
from worldfast.worlds.cities.studies import Study

ARM = "region == 'Arm C'"
FEW = {"standard": 40, "included": 80, "alive": 8, "epochs": 1, "learning_rate": 1e-3}


def midx():
    """An eighth task."""

    @wf.task("midx", cities=2, unit="0.1 degree", digits=5)
    def middle(xy):
        return (xy[:, 0, 0] + xy[:, 1, 0]) // 2

    return middle


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Arms A and B of 30 cities each, and Arm C of 20 that pretraining leaves out."""
    rng = np.random.default_rng(5)
    rows = [
        f"{i},{x},{y},Arm {'AAABBBCC'[i % 8]},{'JP KR CN'.split()[i % 3]}"
        for i, (x, y) in enumerate(rng.integers(-900, 900, (80, 2)))
    ]
    path = tmp_path_factory.mktemp("world") / "arms.csv"
    path.write_text("city_id,x,y,region,country\n" + "\n".join(rows) + "\n")
    return Recipe(
        world=wf.WorldSpec(str(path)),
        model=wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=16, outputs=98),
        group=ARM,
        amount={1: (128, 1)},
        settings=dict(vocabulary="entity", loss="answer", batch=32, checkpoints=1, capture=wf.Capture(layers=(1, 2))),
    )


def page_of(study, out):
    result = run_study(study, out, progress=False)
    publish(study, result, out / "page")
    return result, (out / "page" / "report.html").read_text(encoding="utf-8")


def test_arm_c_is_taught_from_end_to_end(recipe, tmp_path):
    base = recipe.pretrain(("distance", "angle"), 1)
    tuned = [world_update(base, tasks, ARM, **FEW) for tasks in ("distance", "angle", ("distance", "angle"), midx())]
    names = [run.name for run in tuned]
    study = Study("arms", [base, *tuned], layer=1, test_rows=6, patched=names[:2])
    assert study.cities == f"not ({ARM})"
    result, page = page_of(study, tmp_path)
    tables = result.tables
    assert (tables["probes"].ridge == 0).all()
    assert dict(zip(tables["runs"].run, tables["runs"].group)) == {base.name: ""} | dict.fromkeys(names, "Arm C")
    assert set(tables["evaluation"].group) == {"standard", "Arm C"}
    assert {*wf.TASKS} >= set(tables["evaluation"].task) >= {"midx", "inside"}
    assert (tables["evaluation"].groupby("run").size() == 2 * 8).all()  # seven, and one of a fine-tune, at its base too
    places = tables["generalisation"]
    arm = np.flatnonzero(base.data.world.build().region == "Arm C")
    assert set(places.group) == {"fitted", "held out", "Arm C"}
    assert set(places[places.group == "Arm C"]["item"]) == set(arm) and len(arm) == 20
    assert not set(places[places.group != "Arm C"]["item"]) & set(arm)
    asked = tables["prompts"]
    assert set(asked.run) == set(names) and set(asked.group) == {"held out", "Arm C"}
    assert set(asked[asked.run == names[0]].prompt) == {"distance", "angle"}  # its own, and what keeps the other alive
    own = asked[asked.prompt == asked.run.map({run.name: run.data.tasks[0] for run in tuned})]
    captured = places[places.layer == 1].groupby(["run", "group"]).error.mean()  # at each one's first task's prompt
    assert own.set_index(["run", "group"]).error.to_dict() == pytest.approx(
        captured.loc[names].drop("fitted", level=1).to_dict()
    )
    assert asked.groupby(["run", "group"]).error.nunique().min() > 1
    assert (tables["probes"].n_fitted == 48).all()  # four fifths of the 60 old cities
    assert set(tables["agreement"].group) == {"Arm C"} and "midx" in set(tables["agreement"].task)
    assert set(tables["patching"].positions) == {"included", "question", "all"}
    assert set(tables["improvement"].group) == {"Arm C"} and set(tables["improvement"].run) == set(names)
    assert set(tables["deviation"].run) == {names[2]}
    assert "Arm C error of two-task fine-tunes" in set(tables["prediction"].predicted)
    assert any(sentence.startswith("Taught Arm C without distance") for sentence in result.findings)
    assert "Diamonds are the cities of Arm C" in page and "Arm C, mean error" in page
    said = [page, *result.findings, *(one.what for one in result.published)]
    said += [table.to_csv() for table in tables.values()]
    assert not any("Atlantis" in text for text in said)


def test_two_groups_of_one_study_are_told_apart(recipe, tmp_path):
    """As in docs/studies.md: one fine-tune is taught by an expression, another a region."""
    base = recipe.pretrain(("distance", "angle"), 1)
    group = "country in ['JP'] and region == 'Arm A'"
    moved = world_update(base, "distance", group, name="ft-east", **FEW)
    arm = recipe.finetune(base, ("distance",), standard=40, included=80, alive=8, epochs=1)
    study = Study("two", [base, moved, arm], layer=1, test_rows=6)
    world = base.data.world.build()
    assert np.array_equal(world.select(study.cities), ~(world.select(group) | world.select(ARM)))
    unseen = world.select(ARM)
    for part in moved.data.mixture:  # a fine-tune sees no more of the world than its base and what it is taught
        assert not (unseen & world.select(part.among)).any()
    result, page = page_of(study, tmp_path)
    tables = result.tables
    assert tables["runs"].group.tolist() == [group, group, "Arm C"]  # pretraining had the first
    assert set(tables["evaluation"].group) == {"standard", group, "Arm C"}
    improvement = tables["improvement"].groupby("run").group.unique().map(list).to_dict()
    assert improvement == {"ft-east": [group], arm.name: ["Arm C"]}
    places = tables["generalisation"].groupby("run").group.agg(set).to_dict()
    assert places["ft-east"] == {"fitted", "held out", group} and places[arm.name] == {"fitted", "held out", "Arm C"}
    assert "Atlantis" not in page and "country in [" in page and "Arm C" in page


def test_a_world_without_a_taught_group(recipe, tmp_path):
    """And with more features than cities, where probes are penalised."""
    recipe = replace(recipe, model=replace(recipe.model, hidden=96))
    bases = [recipe.pretrain((task,), 1, among=None) for task in ("distance", "angle")]
    study = Study("plain", bases, layer=1, test_rows=6)
    assert groups_of(study.runs).taught == {}
    result, page = page_of(study, tmp_path)
    assert set(result.tables["evaluation"].group) == {"standard"} and (result.tables["runs"].group == "").all()
    assert set(result.tables["generalisation"].group) == {"fitted", "held out"}
    assert not {"agreement", "improvement", "deviation"} & set(result.tables)
    assert (result.tables["probes"].ridge == 1).all() and result.tables["probes"].r2.notna().all()
    assert "Atlantis" not in page

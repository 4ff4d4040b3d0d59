"""Specs: the canon as the paper lists it, fine-tunes of any group by any task, and what depends on what."""

from dataclasses import replace
from itertools import combinations

import pytest

import worldfast as wf
from worldfast import worlds
from worldfast.studies import ANALYSES, load_study
from worldfast.worlds.cities import Dataset, WorldSpec, studies
from worldfast.worlds.cities.recipe import world_update
from worldfast.worlds.cities.studies import cyclic
from worldfast.worlds.cities.world import NEW, OLD

SHORT = {
    "distance": "D",
    "trianglearea": "T",
    "angle": "A",
    "compass": "Co",
    "inside": "I",
    "perimeter": "P",
    "crossing": "Cr",
}


@pytest.fixture(scope="module")
def paper():
    return studies.paper()


def short(tasks):
    return "".join(SHORT[task] for task in tasks)


def test_the_pairings_of_the_canon():
    assert [short(tasks) for tasks in cyclic(2)] == "DT ACo IP CrD TA CoI PCr".split()
    assert [short(tasks) for tasks in cyclic(3)] == "DTA CoIP CrDT ACoI PCrD TACo IPCr".split()


def test_the_canon_is_179_models(paper):
    kinds = {}
    for run in paper.canon:
        kinds[run.start is not None, len(run.data.tasks)] = (
            kinds.get((run.start is not None, len(run.data.tasks)), 0) + 1
        )
    assert kinds == {(False, 1): 21, (False, 2): 21, (False, 3): 21, (False, 7): 4, (True, 1): 28, (True, 2): 84}
    assert len(paper.canon) == 179 and len({run.name for run in paper.runs}) == len(paper.runs)
    assert {"pt-distance-s42", "pt-all-s45", "ft-distance+perimeter-s42", "pt-crossing+distance-s44"} <= {
        run.name for run in paper.canon
    }
    steps = {(run.start is not None, len(run.data.tasks)): run.steps for run in paper.canon}
    assert steps[False, 7] == 328_128 and steps[False, 1] == 328_146
    assert (steps[False, 2], steps[False, 3]) == (328_125, 328_132)
    assert (steps[True, 1], steps[True, 2]) == (28_560, 56_670)
    for run in paper.canon:
        assert run.learning_rate == (1e-5 if run.start else 3e-4)
        assert run.data.world.atlantis == 100 and (run.start is None) == (run.data.among == OLD)
        assert run.start is None or (
            run.start in paper.canon and run.start.seed == run.seed and len(run.start.data.tasks) == 7
        )


def test_fine_tuning_rows_are_the_published(paper):
    run = next(run for run in paper.canon if run.name == "ft-angle+compass-s42")
    assert run.epoch_rows == 241_792 and run.epochs == 30
    assert sum(part.rows for part in run.data.mixture if part.must_include == NEW) == 200_000 + 7 * 256
    three = studies.Recipe().finetune(run.start, ("distance", "angle", "inside"))
    assert (three.epoch_rows, three.steps) == (361_792, 56_540)


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.4, 2.0])
def test_a_paper_of_fewer_rows(paper, scale):
    """The same runs in shape and number, with `scale` times the steps, of which as few as can be see a row again."""
    scaled = studies.paper(scale)
    assert [run.name for run in scaled.runs] == [run.name for run in paper.runs]
    for run, whole in zip(scaled.runs, paper.runs):
        assert run.steps == pytest.approx(scale * whole.steps, rel=5e-3)
        assert run.epochs == max(1, round(scale * whole.epochs))
        assert len(run.checkpoint_steps) == 41 and run.learning_rate == whole.learning_rate
        for name in ("seed", "model", "matmul_dtype", "capture", "batch", "validation"):
            assert getattr(run, name) == getattr(whole, name), name
        for name in ("tasks", "vocabulary", "world"):
            assert getattr(run.data, name) == getattr(whole.data, name), name
        if run.data.mixture:
            parts = [part.rows * run.epochs for part in run.data.mixture]
            assert parts == pytest.approx([scale * part.rows * whole.epochs for part in whole.data.mixture], rel=0.02)
    assert (scaled.layer, scaled.cities, scaled.patched) == (paper.layer, paper.cities, paper.patched)


def test_a_paper_at_full_scale_is_the_paper(paper):
    assert worlds.preset("paper", scale=1.0) == paper


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales(scale):
    with pytest.raises(ValueError, match="scale: expected a (number above 0|finite number)"):
        studies.paper(scale)


def test_the_extensions(paper):
    alone = [run for run in paper.runs if run.start is None and run.seed == 42 and run.model == wf.TransformerSpec()]
    for n, count in ((2, 21), (3, 35)):
        assert {frozenset(run.data.tasks) for run in alone if len(run.data.tasks) == n} == set(
            map(frozenset, combinations(wf.TASKS, n))
        )
        assert sum(len(run.data.tasks) == n for run in alone) == count
    assert next(run for run in paper.runs if run.name == "pt-all-atlantis-s42").data.among is None
    scattered = [run for run in paper.runs if run.data.world.layout == "scattered"]
    assert len(scattered) == 29 and all("scattered" in run.name for run in scattered)
    for wide, steps in {64: 656_256, 256: 164_064, 512: 164_064}.items():
        runs = [run for run in paper.runs if run.model.hidden == wide]
        assert len(runs) == 29 and runs[0].steps == steps and runs[0].start is None
    assert [run.model.heads for run in studies.width().runs if run.start is None] == [4, 2, 8, 16]


def test_mini_is_the_canon_in_shape():
    runs = studies.mini().canon
    assert len(runs) == 44 + 56
    assert {(run.data.tasks, run.seed) for run in runs if run.start is None} == {
        (tasks, seed) for tasks in (*cyclic(1), *cyclic(2), *cyclic(3), tuple(wf.TASKS)) for seed in (42, 43)
    }
    assert studies.mini(0.01).runs[0].data.rows == 3000


def test_what_depends_on_what(paper):
    """Another base, and its fine-tunes are others; nothing else is."""
    base = next(run for run in paper.canon if run.name == "pt-all-s43")
    other = replace(base, learning_rate=2e-4)
    changed = [replace(run, start=other) if run.start == base else other if run == base else run for run in paper.canon]
    differ = [old.name for old, new in zip(paper.canon, changed) if old.id != new.id]
    assert len(differ) == 29 and set(differ) == {
        run.name for run in paper.canon if run.seed == 43 and (run == base or run.start == base)
    }


def test_any_group_is_taught_by_any_task():
    base = wf.Run(Dataset(("distance", "angle"), among="region != 'Oceania'"))
    run = world_update(
        base, "inside", "region == 'Oceania'", standard=5, included=7, alive=3, epochs=2, learning_rate=1e-4
    )
    assert [(part.task, part.rows, part.among, part.must_include, part.first) for part in run.data.mixture] == [
        ("inside", 5, "not (region == 'Oceania')", None, 0),
        ("inside", 7, None, "region == 'Oceania'", 0),
        ("distance", 3, None, "region == 'Oceania'", 0),
        ("angle", 3, None, "region == 'Oceania'", 0),
    ]
    assert run.name == "ft-inside-s42" and run.start == base and run.epochs == 2 and run.capture == base.capture
    rest = world_update(base, "angle", "x > 0", standard=5, included=0, alive=3, alive_among="rest")
    assert [(part.task, part.rows, part.among, part.first) for part in rest.data.mixture] == [
        ("angle", 5, "not (x > 0)", 0),
        ("distance", 3, "not (x > 0)", 0),
        ("angle", 3, "not (x > 0)", 5),
    ]
    with pytest.raises(ValueError, match="unknown alive_among 'groop': did you mean 'group'"):
        world_update(base, "angle", alive_among="groop")
    with pytest.raises(ValueError, match="did you mean 'angle'"):
        world_update(base, "angel")


def test_studies_refuse():
    run = wf.Run(Dataset("distance", rows=64))
    make = lambda *runs, **more: studies.Study("tiny", runs, **{"layer": 5} | more)  # noqa: E731
    with pytest.raises(ValueError, match="canon is empty"):
        make()
    with pytest.raises(ValueError, match="two runs are named 'pt-distance-s42'"):
        make(run, replace(run, data=replace(run.data, rows=65)))
    with pytest.raises(ValueError, match="'other' is the same run as 'pt-distance-s42'"):
        make(run, replace(run, name="other"))
    with pytest.raises(ValueError, match="captures layers"):
        make(run, layer=2)
    with pytest.raises(ValueError, match="starts from 'pt-distance-s42' .* not in the study: add it"):
        make(replace(run, start=run, name="ft"))
    with pytest.raises(ValueError, match="unknown run 'pt-distanc-s42': did you mean 'pt-distance-s42'"):
        make(run, shown=("pt-distanc-s42",))
    with pytest.raises(ValueError, match="patched: expected the names of two runs"):
        make(run, patched=(run.name,))
    with pytest.raises(ValueError, match="unknown study 'minni': did you mean 'mini'"):
        worlds.preset("minni")
    extended = studies.Study("tiny", (run,), (replace(run, start=run, name="ft"),))  # a base may be in either part
    assert [one.name for one in extended.runs] == ["pt-distance-s42", "ft"]


def test_rows_that_no_world_has_are_refused_before_anything_begins():
    """The error says how many there are, in a mixture too and of cities that are few; exactly as many are fine."""
    small = WorldSpec(largest=20)  # 190 pairs, a tenth of them for validation and a tenth for the test
    for data in (
        Dataset("distance", rows=153, world=small),
        Dataset("distance", mixture=[wf.Component("distance", 100, first=53)], world=small),
        Dataset("distance", rows=153, among="index < 20"),
    ):
        with pytest.raises(ValueError, match="task distance never repeats a pair.* holds 152 pairs; rows up to 153"):
            wf.Study("many", [wf.Run(Dataset("angle")), wf.Run(data)])
    with pytest.raises(ValueError, match="holds 10,300,221 pairs; rows up to 1,000,000,000 were"):
        wf.Study("many", [wf.Run(Dataset("distance", rows=10**9))])
    wf.Study("all", [wf.Run(Dataset("distance", rows=152, world=small))])


def test_a_task_may_stand_alone():
    recipe = studies.Recipe()
    base = recipe.pretrain("distance", 1)
    assert base == recipe.pretrain(("distance",), 1)
    assert recipe.finetune(base, "angle") == recipe.finetune(base, ("angle",))
    for make in (recipe.pretrain, studies.Recipe(settings={"batch": 64}).pretrain):
        with pytest.raises(ValueError, match="unknown task 'north': .*known: distance, "):
            make("north", 1)
    with pytest.raises(ValueError, match="unknown task 'north'"):
        recipe.finetune(base, "north")
    with pytest.raises(ValueError, match="tasks: expected at least one"):
        recipe.pretrain((), 1)
    with pytest.raises(TypeError, match=r"data: expected a dataset of a world, such as .*Dataset.*, got 'north'$"):
        wf.Run("north")


def test_notebooks_show_runs_and_studies_escaped():
    base = wf.Run(Dataset("distance", rows=1000, among="x < 5"), name="base")
    tune = replace(base, start=base, seed=1, name="tune")
    shown = tune._repr_html_()
    assert f"<th>start</th><td>base-{base.id}</td>" in shown and "among=&#x27;x &lt; 5&#x27;" in shown
    assert base.id in base._repr_html_() and "<th>start</th>" not in base._repr_html_()
    study = studies.Study("a<b", (base,), (tune,))._repr_html_()
    assert "Study a&lt;b" in study and "1 of the canon, 1 more" in study and "base, tune" in study


def test_the_command_that_makes_a_page_again_is_true(tmp_path):
    """A preset's for a preset, a file's for a file; what a user made by hand, or changed, no command makes."""
    demo = worlds.preset("demo")
    assert demo.command == "worldfast study run demo"
    assert worlds.preset("cities.demo", scale=0.05).command == "worldfast study run cities.demo --scale 0.05"
    by_hand = "worldfast.run_study(study), in the Python code that makes the study 'demo'"
    assert worlds.preset("demo", seed=3).command == replace(demo, test_rows=1).command == by_hand
    path = tmp_path / "my demo.py"
    path.write_text("from worldfast.worlds import cities\nstudy = cities.demo(0.01)\n")
    assert load_study(path).command == f"worldfast study run '{path}'"


def test_films_without_what_they_are_shown_with_are_refused():
    """Before anything is trained."""
    some = tuple(one for one in ANALYSES if one.kind != "pca")
    run = wf.Run(Dataset("distance", rows=64), model=wf.RecurrentSpec(hidden=8))
    with pytest.raises(ValueError, match="analyses: 'films' needs 'pca' beside it, .* got .*films.*: add that of"):
        wf.Study("bare", [run], analyses=some)


def test_a_study_of_any_world_has_tables_and_no_page(tmp_path):
    """Without analyses: runs and their curves. A page shows films, so it is refused."""
    from worldfast.report import publish

    data = Dataset("distance", rows=64, world=wf.WorldSpec(largest=60))
    model = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16)
    run = wf.Run(data, batch=32, model=model, checkpoints=1, capture=wf.Capture(layers=(1,)))
    study = wf.Study("plain", [run], layer=1, analyses=())
    result = wf.run_study(study, tmp_path, device="cpu", progress=False)
    assert result.runs == [] and result.cka.shape == (0, 0)
    assert result.command == "worldfast.run_study(study), in the Python code that makes the study 'plain'"
    assert result.tables["runs"].status.tolist() == ["finished"] and len(result.tables["curves"])
    assert sorted(path.name for path in (tmp_path / "studies" / "plain").glob("*.csv")) == ["curves.csv", "runs.csv"]
    with pytest.raises(ValueError, match="no analysis of the study is of the kind 'films'"):
        publish(study, result, tmp_path / "page")

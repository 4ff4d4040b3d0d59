"""A study of other tasks than the table's, or of another region than Atlantis, is drawn whole and told in its own words."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sight import texts
from synthetic import SEVEN, evaluation, run_result, study_result, tables

from worldfast.report import Tasks, report
from worldfast.report.colours import INK, NEW
from worldfast.worlds.cities import figures, findings
from worldfast.worlds.cities.figures import draw_study
from worldfast.worlds.cities.scene import region_colours
from worldfast.worlds.cities.studies import draw
from worldfast.worlds.cities.tasks import TASKS
from worldfast.worlds.cities.world import World

EIGHT = (*SEVEN, "midpoint")


def of_region(name: str) -> World:
    """The bundled world with its new region under another name."""
    world = World.cities().with_atlantis()
    return replace(world, **{of: np.char.replace(getattr(world, of), "Atlantis", name) for of in ("region", "name")})


@pytest.fixture(scope="module")
def eight() -> dict:
    return tables(World.cities().with_atlantis(), names=EIGHT)


@pytest.fixture(scope="module")
def drawn_eight(eight) -> dict:
    return {one.name: one for one in draw_study(eight, World.cities().with_atlantis(), 5)}


@pytest.fixture(scope="module")
def arm() -> tuple[World, dict]:
    world = of_region("Arm C")
    return world, tables(world, seeds=(0,), group="Arm C")


@pytest.fixture(scope="module")
def drawn_arm(arm) -> dict:
    world, found = arm
    return {one.name: one for one in draw_study(found, world, 5)}


def test_a_study_of_eight_tasks_is_drawn_whole(eight, drawn_eight):
    assert len(drawn_eight) == 27  # as of a study of seven
    assert [one.name for one in drawn_eight.values() if one.figure is None] == [
        "patching"
    ]  # of which there is no table
    assert drawn_eight["training-all-tasks"].caption.startswith("Models of all eight tasks: ")
    assert "all eight tasks" in drawn_eight["dimension"].caption
    assert "all 8 tasks" in texts(drawn_eight["probes-by-layer"].figure)
    assert "eight tasks" in texts(drawn_eight["training-all-tasks"].figure)
    assert len(drawn_eight["improvement-one-task"].figure.axes[0].get_xticks()) == 8
    assert "(n = 8 cells)" in drawn_eight["improvement-one-task"].caption
    everything = " ".join(texts(one.figure) + one.caption for one in drawn_eight.values() if one.figure)
    assert "seven" not in everything.replace("Seven questions", "").lower() and "all 7" not in everything
    assert drawn_eight["tasks"].caption.endswith("Not drawn, because the study's rules for them are its own: midpoint.")


def test_an_eighth_task_has_a_colour_and_letters_of_its_own(eight, drawn_eight):
    tasks = Tasks(eight["runs"].tasks)
    others = {tasks.colour(name) for name in tasks.names if name != "midpoint"}
    assert tasks.colour("midpoint") not in {INK, *others} and tasks.letters["midpoint"] == "M"
    strong = {line.get_color() for line in drawn_eight["training-one-task"].figure.axes[1].lines}
    assert strong == set(tasks.colours.values()) and len(strong) == 8
    several = Tasks(["mean", "median", "mid", "me"])
    assert list(several.letters.values()) == ["Mea", "Med", "Mi", "me"] and len(set(several.colours.values())) == 4


def test_as_many_tasks_are_drawn_as_there_are():
    more = (*TASKS.values(), TASKS["compass"])
    figure, caption = figures.task_drawings(World.cities(), more)
    titles = [axes.get_title(loc="left").split(":")[0] for axes in figure.axes]
    assert titles[:8] == [*SEVEN, "compass"] and titles[8:] == [""]
    assert "Eight questions" in texts(figure) and "Not drawn" not in caption


def test_a_region_of_another_name_is_drawn_and_told_by_its_own(arm, drawn_arm):
    assert [one.name for one in drawn_arm.values() if one.figure is None] == ["patching"]
    assert drawn_arm["arm-c-maps"].title == "Arm C maps" and "arm-c-with-distance" in drawn_arm
    assert "Fine-tunes with distance place Arm C " in drawn_arm["arm-c-maps"].caption
    assert "improvement on Arm C is" in drawn_arm["improvement-one-task"].caption
    assert "rows with Arm C is" in drawn_arm["gradient-agreement"].caption
    assert "Arm C after fine-tunes with distance" in drawn_arm["errors"].caption
    assert "the 100 cities of Arm C" in drawn_arm["arm-c-with-distance"].caption
    assert "Arm C, where it is" in texts(drawn_arm["arm-c-with-distance"].figure)
    assert not any("tlantis" in one.name + one.title + one.caption for one in drawn_arm.values())
    assert not any("tlantis" in texts(one.figure) for one in drawn_arm.values() if one.figure)
    world, _ = arm
    assert region_colours(world, ["Arm C"])["Arm C"] == NEW
    diamonds = [c for c in drawn_arm["world"].figure.axes[0].collections if len(c.get_offsets()) == 100]
    assert len(diamonds) == 1 and len(np.unique(diamonds[0].get_facecolor(), axis=0)) == 1


def test_a_kind_of_fine_tune_that_is_not_there_is_said(arm):
    world, found = arm
    near = {name: found[name][~found[name].run.str.contains("distance")] for name in ("runs", "generalisation")}
    said = {one.name: one for one in draw_study(near, world)}
    assert said["arm-c-without-distance"].figure is not None
    assert said["arm-c-with-distance"].figure is None
    assert "has no Arm C of such a fine-tune at layer 5" in said["arm-c-with-distance"].caption


def test_what_is_not_drawn_is_logged_and_on_the_page(small, tmp_path, caplog):
    study = SimpleNamespace(figures=draw)
    path = report.publish(study, study_result(small, [run_result(small)]), tmp_path)
    page = path.read_text(encoding="utf-8")
    (line,) = (one.getMessage() for one in caplog.records if "not drawn" in one.getMessage())
    missing = [one.title for one in draw_study({}, small) if one.figure is None]
    assert len(missing) > 9 and line.startswith(f"{len(missing)} figures not drawn, the page says why: {missing[0]}, ")
    assert line.endswith(f"{missing[2]} and {len(missing) - 3} more")
    assert "<li>Deviation, Deviation histogram: the study has no table &#x27;deviation&#x27;</li>" in page
    assert (tmp_path / "figures" / "world.png").exists() and not (tmp_path / "figures" / "deviation.png").exists()


def test_patching_speaks_of_what_its_runs_were_taught(arm):
    _, found = arm
    rows = [(2, "included", "angle", "ft-angle-s0", "ft-distance-s0", 0.9, 0.01, 200)]
    columns = ["layer", "positions", "task", "source", "target", "recovered", "standard_error", "n"]
    drawn = draw_study({"patching": pd.DataFrame(rows, columns=columns), "runs": found["runs"]}, of_region("Arm C"), 2)
    (caption,) = (one.caption for one in drawn if one.name == "patching")
    assert caption.startswith("Rows that include Arm C, answered by ft-distance-s0")


def test_two_regions_are_told_together():
    world = World.cities().with_atlantis()
    names = np.where(world.region == "Oceania", "Arm C", world.region)
    both = replace(world, region=names)
    one, other = tables(both, (0,)), tables(both, (0,), group="Arm C")
    runs = pd.concat([one["runs"], other["runs"].assign(run="arm-" + other["runs"].run)], ignore_index=True)
    places = pd.concat(
        [one["generalisation"], other["generalisation"].assign(run="arm-" + other["generalisation"].run)]
    )
    figure, caption = figures.taught_maps(both, places, runs, names=["ft-angle-s0", "arm-ft-angle-s0"])
    assert "Atlantis and Arm C: where they are (black)" in texts(figure) and "without it" in caption
    alone, _ = figures.taught_map(both, places, "arm-ft-angle-s0")
    assert "Arm C, where it is" in texts(alone) and "Atlantis, where" not in texts(alone)


def test_the_page_speaks_of_the_studys_tasks_and_region(arm):
    world, _ = arm
    runs = [run_result(world, tasks, 0) for tasks in (("midpoint",), EIGHT)]
    of_eight = tables(world, seeds=(0,), names=EIGHT, group="Arm C") | {"evaluation": evaluation()}
    page = report.page(study_result(world, runs, tables=of_eight, cka_layer=5))
    assert "Diamonds are the cities of Arm C:" in page and "Arm C, mean error" in page
    assert "all 8 tasks" in page and "<td>all eight</td>" in page
    colour = Tasks(of_eight["runs"].tasks).colour("midpoint")
    assert page.count(f"--c:{colour}") >= 2  # in the tables of those shown and of all runs
    assert "tlantis" not in page.replace("world.atlantis", "")  # the specification's


def test_sentences_count_the_studys_tasks(eight):
    known = Tasks(eight["runs"].tasks)
    assert (
        findings.taught(EIGHT, known) == "all eight tasks"
        and findings.taught(SEVEN[:2], known) == "distance and trianglearea"
    )
    scores = eight["evaluation"].assign(run="pt-all-s0")
    assert set(findings._scores_of_all(eight | {"evaluation": scores}, EIGHT).task) == set(EIGHT)
    assert findings._scores_of_all(eight | {"evaluation": scores}, SEVEN) is None  # no model of the seven alone
    said = findings._answers({"midpoint": 120.0, "inside": 0.5}, {"evaluation": scores})
    assert said == "midpoint off by 12.0 degrees, inside 50% right"

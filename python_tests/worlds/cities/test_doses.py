"""Dose and response: the study `integration`, its tables from planted curves, and a small study from end to end."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sight import beyond, unread

import worldfast as wf
from worldfast import worlds
from worldfast.analysis import probe_alone
from worldfast.report import report
from worldfast.report.figures import LacksRuns, numbers
from worldfast.studies import run_study
from worldfast.worlds import cities
from worldfast.worlds.cities import dose_analyses, dose_findings, response
from worldfast.worlds.cities import doses as doses_module
from worldfast.worlds.cities.doses import design_of, dose_at, dose_runs
from worldfast.worlds.cities.figures import CATALOGUE
from worldfast.worlds.cities.figures import doses as figures
from worldfast.worlds.cities.scene import read_at, taught_by
from worldfast.worlds.cities.studies import integration


def test_the_study_has_every_task_and_pair_at_several_doses():
    study = worlds.preset("integration", seeds=(1,))
    assert len({run.id for run in study.runs}) == len(study.runs) == 1 + 7 + 21 + 21 + 21 + 6 * (3 + 2)
    default = integration(tasks="angle")
    assert [run.seed for run in default.runs if not run.start] == [0, 1, 2] and len(default.runs) == 3 * (1 + 1 + 3)
    of_seed = [run for run in study.runs if run.seed == 1 and run.start]
    about = pd.DataFrame([design_of(run) | {"steps": run.steps, "keep": run.keep} for run in of_seed])
    one = about[~about.tasks.str.contains("+", regex=False)]
    assert (one[one.schedule == "constant"].groupby("tasks").size() == 1).all() and one.tasks.nunique() == 7
    assert (one[one.schedule == "linear"].groupby("tasks").steps.nunique() == 3).all()
    whole = about[(about.share == 1) & (about.noise == 0)]
    assert (whole.query("schedule == 'constant'").tasks.str.contains("+", regex=False)).sum() == 21
    assert sorted(about.share.unique()) == [0.1, 0.25, 0.5, 1] and sorted(about.noise.unique()) == [0, 0.5, 0.9]
    assert set(about[(about.share < 1) | (about.noise > 0)].tasks.str.contains("distance")) == {True}
    assert all(run.checkpoint_steps[:2] == (0, round(run.steps / 64)) for run in of_seed if run.schedule == "constant")


def test_models_are_read_at_one_prompt_where_asked_else_each_at_that_of_its_own_first_task():
    small = {"seeds": (0,), "tasks": ("perimeter", "angle"), "doses": (1,)}
    studies = integration(**small), integration(**small, read_at="angle")
    published, one = (
        {run.name: run.readout().about["prompt"] for run in study.runs if not run.start or "constant" in run.name}
        for study in studies
    )
    assert set(one.values()) == {"angle(c_dddd,"} and len(one) == 4
    assert published == {
        "pt-all-s0": "dist(c_dddd,",
        "ft-perimeter-constant-s0": "perimeter(c_dddd,",
        "ft-angle-constant-s0": "angle(c_dddd,",
        "ft-perimeter+angle-constant-s0": "perimeter(c_dddd,",
    }
    published, one = studies
    said = "Each model is read at the prompt of the first of its own tasks, such as \u201cdist(c_dddd,\u201d."
    assert read_at(published.runs) == said and published.scene_of(published.runs[0]).notes.endswith(said)
    assert read_at(one.runs) == "Models are read at the prompt \u201cangle(c_dddd,\u201d."
    assert (
        read_at([*one.runs, *published.runs]) == "Models are read at 3 prompts, the first at \u201cangle(c_dddd,\u201d."
    )


def test_the_page_says_of_which_rows_fine_tunes_learn():
    base = cities.Recipe().pretrain(("distance", "angle"))
    tuned, alone = (cities.Recipe(alive=alive).finetune(base, "angle") for alive in (256, 0))
    assert taught_by([base, tuned]) == (
        "each from rows of its own tasks and, in every epoch, 256 of each other task of its base, which have new cities "
        "too"
    )
    assert taught_by([base, alone]) == "each from rows of its own tasks alone" and taught_by([base]) == ""
    scene = cities.Study("one", [base, tuned], layer=5).scene_of(base)
    assert scene.taught_by == taught_by([base, tuned])


def test_a_dose_is_rows_of_each_task():
    """Shares take rows from distance alone: the dose of the other task, and its rows, stay."""
    study = integration(scale=0.1, seeds=(4,), tasks=("distance", "angle"), doses=(2,))
    by_name = {run.name: run for run in study.runs}
    pair, few = by_name["ft-distance+angle-constant-s4"], by_name["ft-distance+angle-share0.25-s4"]
    noisy = by_name["ft-distance+angle-noise0.9-s4"]
    assert pair.keep == "all" and few.keep == () and pair.epochs == 1 and by_name["ft-angle-linear2-s4"].epochs == 2
    rows = [{(p.task, p.must_include): p.rows for p in run.data.mixture[:4]} for run in (pair, few)]
    assert rows[0]["angle", None] == rows[1]["angle", None] == 4 * rows[1]["distance", None] == 2000
    assert abs(dose_at(pair, pair.steps) - dose_at(few, few.steps)) <= 1 and dose_at(pair, pair.steps) == 12_026
    assert [part.noise for part in noisy.data.mixture[:4]] == [0.9, 0, 0.9, 0]
    assert sum(part.noise for part in noisy.data.mixture[4:]) == 0 and noisy.data.epoch_rows == pair.data.epoch_rows


def test_what_is_refused():
    for given, message in {
        "doses=(0, 1)": "doses: expected epochs, at least 1, got 0: a dose of 0 is the base itself",
        "doses=()": "doses: expected at least one, got none",
        "seeds=()": "seeds: expected at least one, each once",
        "seeds=(1, 1)": "seeds: expected at least one, each once",
        "tasks=()": "tasks: expected at least one, got none",
        "tasks='angel'": "unknown task 'angel': did you mean 'angle'",
        "shares=(1,)": "shares: expected numbers above 0 and below 1",
        "shares=(0.5, 0.5)": r"shares: expected each once to two digits, got \[0.5, 0.5\]",
        "shares=(0.101, 0.104)": "shares: expected each once to two digits",
        "shares=(0.004,)": "shares: expected 0.01 to 0.99, since tables round them to two digits, got 0.004",
        "shares=(0.996,)": "shares: expected 0.01 to 0.99",
        "noise=(1,)": "noise",
        "noise=(0.5, 0.5)": r"noise: expected each once, got \[0.5, 0.5\]",
        "read_at='distence'": "unknown read_at 'distence': did you mean 'distance'",
        "scale=0": "scale: expected a number above 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            eval(f"integration({given})")
    with pytest.raises(TypeError, match="doses: expected an integer, got 1.5"):
        integration(doses=(1.5,))
    knows = cities.Recipe().pretrain("distance", among=None)
    with pytest.raises(
        ValueError, match="group: 'pt-distance-s42' already knows Atlantis: rows of its pretraining may"
    ):
        dose_runs(cities.Recipe(), knows, ("angle",))


# ---- tables ----


def planted(seeds=(0, 1, 2), doses=(0, 10, 20, 40)):
    """Angle halves every 10 rows down to 100, distance stays at 800, beside distance angle has twice the error."""
    lines = []
    for seed in seeds:
        for tasks, share, noise, error in (
            ("angle", 1, 0, [800, 400, 200, 100]),
            ("distance", 1, 0, [800, 800, 800, 800]),
            ("distance+angle", 1, 0, [800, 600, 400, 200]),
            ("distance+angle", 0.1, 0, [800, 500, 300, 110]),
            ("distance+angle", 1, 0.9, [800, 500, 300, 100]),
        ):
            for step, (dose, one) in enumerate(zip(doses, error)):
                scale = 1 + 0.1 * (seed - 1) if "+" in tasks else 1
                run = f"{tasks}-{share}-{noise}-s{seed}"
                where = (run, f"base-s{seed}", seed, "Atlantis", tasks, "constant", share, noise, step, dose)
                lines.append((*where, one * scale, 30.0, 0.9 if "distance" not in tasks else 0.7, 0.99, 0.2, 8.0))
    columns = "run base seed group tasks schedule share noise step dose error held_out alone_r2 old_cka old_moved"
    return pd.DataFrame(lines, columns=[*columns.split(), "moved_dimension"])


def test_responses_are_means_over_seeds_with_errors():
    table = response.response(planted()).set_index(["tasks", "share", "noise", "dose", "what"])
    row = table.loc[("distance+angle", 1, 0, 20, "error")]
    assert (row["mean"], row.n, row.unit) == (400, 3, "seed") and row.standard_error == pytest.approx(40 / 3**0.5)
    assert np.isnan(response.response(planted(seeds=(1,))).standard_error).all()


def test_at_a_falling_rate_only_the_end_is_a_dose():
    table = planted().assign(schedule="linear")
    assert sorted(response.response(table).dose.unique()) == [0, 40]


def test_levels_and_the_rows_to_half_of_the_error():
    table = response.levels(planted()).set_index(["tasks", "share", "noise"])
    angle, distance = table.loc[("angle", 1, 0)], table.loc[("distance", 1, 0)]
    assert (angle.start, angle.level, angle.half_dose, angle.reached, angle.n) == (800, 150, 10, 3, 3)
    assert distance.reached == 0 and np.isnan(distance.half_dose) and distance.level == 800
    pair = table.loc[("distance+angle", 1, 0)]
    assert pair.half_dose == 20 and pair.level_standard_error == pytest.approx(30 / 3**0.5)  # scaled, start and all


def test_what_is_left_beside_another_task_at_equal_rows():
    table = response.beside(planted())
    rows = table.set_index(["task", "beside", "share", "noise"])
    full = rows.loc[("angle", "distance", 1, 0)]
    assert full.alone == 100 and full.together == pytest.approx(200) and full.n == 3 and full.dose == 40
    expected = np.log([1.8, 2.0, 2.2])
    assert full.log_ratio == pytest.approx(expected.mean())
    assert full.standard_error == pytest.approx(expected.std(ddof=1) / 3**0.5)
    assert 0 < full.p < 0.05 and "t-test" in full.test
    assert full.kept == pytest.approx(np.mean(np.log([4.0 * 0.9 / 0.9] * 3) / np.log([7.2, 8, 8.8])))
    assert rows.loc[("angle", "distance", 0.1, 0)].ratio == pytest.approx(1.1 * np.prod([0.9, 1, 1.1]) ** (1 / 3))
    assert ("distance", "angle", 0.1, 0) not in rows.index and ("distance", "angle", 1, 0) in rows.index
    one = response.beside(planted(seeds=(1,))).iloc[0]
    assert np.isnan(one.standard_error) and np.isnan(one.p) and one.test == "none: one seed, and nothing was repeated"
    longer = planted(doses=(0, 10, 20, 40))
    longer.loc[longer.tasks.str.contains("+", regex=False), "dose"] *= 2
    assert not len(response.beside(longer))  # nothing alone at that dose


def three_tasks(seeds=(0, 1, 2), of_task=(1, 1), of_seed=(1, 1, 1)):
    """Angle and perimeter by themselves, and in pairs: with distance 2 times as far off, times a factor for the task
    and one for the seed, beside each other half as far.
    """
    lines = []
    for seed in seeds:
        pairs = {f"distance+{task}": 2 * by * of_seed[seed] for task, by in zip(("angle", "perimeter"), of_task)}
        ends = {"angle": 1, "perimeter": 1, "distance": 8, "angle+perimeter": 0.5} | pairs
        for tasks, end in ends.items():
            for dose, error in ((0, 800), (20, 120 * end), (40, 100 * end)):
                where = (
                    f"{tasks}-s{seed}",
                    f"base-s{seed}",
                    seed,
                    "Atlantis",
                    tasks,
                    "constant",
                    1,
                    0,
                    dose // 20,
                    dose,
                )
                lines.append((*where, error))
    columns = "run base seed group tasks schedule share noise step dose error"
    measured = {"alone_r2": 0.9, "old_cka": 0.99, "old_moved": 0.2, "moved_dimension": 8.0}
    return pd.DataFrame(lines, columns=columns.split()).assign(**measured)


def test_over_tasks_the_error_is_that_of_seeds():
    """Ratios of 1, 2 and 4 in three seeds, alike for both tasks, are uncertain; other ratios for each task, alike in
    all seeds, are not.
    """
    varied = response.beside_over_tasks(three_tasks(of_seed=(0.5, 1, 2))).set_index("beside").loc["distance"]
    assert varied.ratio == pytest.approx(2) and (varied.n, varied.unit, varied.n_tasks) == (3, "seed", 2)
    assert varied.standard_error == pytest.approx(np.log(2) / 3**0.5)
    assert varied.p == pytest.approx(0.225, abs=1e-3)
    alike = response.beside_over_tasks(three_tasks(of_task=(0.5, 2))).set_index("beside")
    assert alike.ratio.to_dict() == pytest.approx({"distance": 2, "another task": 0.5})
    assert alike.standard_error.max() < 1e-9 and set(alike.test) == {"none: all seeds are equal"}
    lacking = three_tasks(of_seed=(0.5, 1, 2))
    lacking = lacking[lacking.run != "distance+angle-s0"]  # a seed without one of the tasks is no mean over tasks
    assert response.beside_over_tasks(lacking).set_index("beside").n.to_dict() == {"distance": 2, "another task": 3}
    assert not len(response.beside_over_tasks(planted().query("tasks == 'angle'")))


def test_seeds_that_are_equal_up_to_rounding_have_no_test():
    found = response.tested([0.1 + 0.2, 0.3, 0.3])
    assert found["standard_error"] > 0 and np.isnan(found["p"]) and found["test"] == "none: all seeds are equal"
    assert response.tested([0.1, 0.3, 0.3])["p"] > 0


def test_at_a_falling_rate_nothing_between_two_fine_tunes_counts():
    """A longer run is not a shorter one continued, so that a straight line between them says nothing."""
    table = planted().assign(schedule="linear")
    assert set(response.beside(table).dose) == {40}
    half = planted(doses=(0, 5, 10, 20)).assign(schedule="linear")
    pairs = table.tasks.str.contains("+", regex=False)
    assert not len(response.beside(pd.concat([table[~pairs], half[pairs]])))
    assert len(response.beside(pd.concat([planted()[~pairs], planted(doses=(0, 5, 10, 20))[pairs]])))


def test_measures_with_distance_and_without_are_compared_among_fine_tunes_on_as_many_tasks():
    table = planted()
    table.loc[table.tasks == "distance", "alone_r2"] += 0.1 * table.seed - 0.1
    rows = response.contrast(table).set_index(["n_tasks", "what"])
    assert set(rows.index.get_level_values(0)) == {1}  # no pair is without distance
    row = rows.loc[(1, "alone_r2")]
    assert (row.apart, row.rest, row.difference) == pytest.approx((0.7, 0.9, -0.2))
    assert (row.n, row.unit) == (3, "seed") and row.standard_error == pytest.approx(0.1 / 3**0.5)
    assert row.p == pytest.approx(0.0742, abs=1e-3) and row.test == "two-sided, t-test that the difference is 0"
    assert rows.loc[(1, "error")].difference == 700 and rows.loc[(1, "error")].test == "none: all seeds are equal"
    without = table[table.tasks == "distance+angle"].assign(tasks="angle+inside", run="other", alone_r2=0.8)
    both = response.contrast(pd.concat([table, without], ignore_index=True))
    assert set(both.n_tasks) == {1, 2} and set(response.most_tasks(both).n_tasks) == {2}
    assert not len(response.contrast(table[table.tasks == "angle"]))


def test_tables_say_what_they_lack():
    with pytest.raises(ValueError, match="doses: it has no rows: no fine-tune was taught a group"):
        response.response(planted().iloc[:0])
    with pytest.raises(ValueError, match="doses.*lacks.*schedule|schedule"):
        response.levels(planted().drop(columns="schedule"))


def tables_of(table) -> dict:
    runs = table.drop_duplicates("run")[["run", "tasks"]].assign(kind="ft", base="base", group="Atlantis")
    runs = runs.assign(learned=True, status="finished")
    tables = {"runs": runs, "doses": table, "response": response.response(table), "levels": response.levels(table)}
    over_tasks = {"beside_over_tasks": response.beside_over_tasks(table), "contrast": response.contrast(table)}
    return tables | {"beside": response.beside(table)} | over_tasks


def pull_of(table) -> pd.DataFrame:
    """Rows of a table "response" on a pair's gradients, as if they were what another measure is."""
    pairs = table.tasks.str.contains("+", regex=False) & (table.what == "alone_r2")
    return table[pairs].assign(what="cosine")


def said(table, **more) -> str:
    study = integration(scale=0.01, seeds=(0,), tasks="angle", doses=(1,))
    return " ".join(dose_findings.findings(study, tables_of(table) | more, [], np.eye(0)).sentences)


def test_findings_have_uncertainties_or_say_why_not():
    text = said(planted())
    assert "angle alone leaves Atlantis 10.0 degrees off, and angle with distance 20.0: 1.99 times (" in text
    assert "n = 3 seeds, p 0.0" in text and "angle 15.0 ± 0.0, halved after 10 rows; distance 80.0" in text
    assert "distance 80.0 ± 0.0, never halved" in text
    assert "1.10 with 0.1, 1.99 with 1 rows of distance for each of angle" in text
    assert "1.99 with 0, 1.00 with 0.9 of distance's answers mistaken" in text
    varied = planted()
    varied["old_cka"] -= 0.01 * varied.seed * (varied.tasks == "distance")
    text = said(varied)
    assert (
        "before and after: 0.98 \u00b1 0.01 taught with distance, 0.99 \u00b1 0.00 taught without it (difference"
        in text
    )
    assert "\u22120.01 \u00b1 0.01 of fine-tunes on 1 task, t-test over n = 3 seeds, p 0.23)." in text
    assert (
        "%" not in text and "angle with distance 20.0: 1.99 times" in text and "Before, it was 80.0 degrees off" in text
    )
    alone = said(planted(seeds=(1,)))
    assert "There is one seed of the base, so no standard error over seeds is given: nothing was repeated." in alone
    assert "±" not in alone and "p nan" not in alone and "nan" not in alone


def test_findings_lead_with_where_curves_level_off_and_say_what_is_worse():
    study = integration(scale=0.01, seeds=(0,), tasks="angle", doses=(1,))
    table = three_tasks(of_seed=(0.5, 1, 2))
    first, second, *_ = dose_findings.findings(study, tables_of(table), [], np.eye(0)).sentences
    assert first.startswith("At a constant learning rate, Atlantis levels off at so many degrees from its place (")
    assert "more is worse" in first and "angle 11.0 ± 0.0, halved after" in first
    assert second == (
        "At a constant learning rate, distance beside another task leaves Atlantis 2.00 times (1.34 to 2.98 within one "
        "standard error, n = 3 seeds, p 0.23) as far off as that task alone at as many rows of it, and another task in "
        "the place of distance 0.50 times (0.50 to 0.50 within one standard error, n = 3 seeds, all seeds equal): above "
        "1 is worse (means over 2 tasks)."
    )


def test_one_seed_has_no_range_and_patching_has_errors_over_rows():
    text = said(three_tasks(seeds=(0,), of_task=(1, 3)), patching=patched())
    assert (
        "no standard error over seeds is given" in text
        and "distance beside another task leaves Atlantis 3.46 times as" in text
    )
    assert "±" not in text and "within one standard error" not in text and "nan" not in text
    assert "standard error over rows 0.07" in text


def test_runs_that_failed_are_named():
    lines = [
        ("pt-all-s0", "pt", "distance+angle", False, "angle", "finished"),
        ("pt-all-s1", "pt", "distance+angle", True, "", "finished"),
        ("ft-angle-s0", "ft", "angle", False, "", "diverged"),
    ]
    runs = pd.DataFrame(lines, columns=["run", "kind", "tasks", "learned", "unlearned", "status"])
    study = integration(scale=0.01, seeds=(0,), tasks="angle", doses=(1,))
    tables = tables_of(planted()) | {"runs": runs, "evaluation": None}
    first, *others = dose_findings.findings(study, tables, [], np.eye(0)).sentences
    assert first.endswith(" Of 2 bases, 1 learned all tasks.")
    text = " ".join(others)
    assert "Not learned, and left out of averages of scores and CKA over models: pt-all-s0 (angle);" in text
    assert "Fine-tunes of such a model count in averages all the same." in text
    assert "Did not finish: ft-angle-s0 (diverged)." in text
    del tables["evaluation"]  # without scores, what a base learned is not known
    assert "earned" not in " ".join(dose_findings.findings(study, tables, [], np.eye(0)).sentences)


def patched():
    lines = [
        (1, "included", "angle", 0.3, 0.07, 7, 38),
        (2, "included", "angle", 0.2, 0.05, 7, 38),
        (1, "included", "distance", 0.8, 0.05, 34, 12),  # on which the source is worse
        (1, "included", "crossing", 0.6, 0.05, 0.5, 0.9),
        (1, "all", "angle", 2.0, 0.9, 7, 38),  # not measured
        (2, "all", "angle", 1.0, 0.0, 7, 38),  # all that answers are made of
    ]
    names = "layer positions task recovered standard_error source_value target_value"
    table = pd.DataFrame(lines, columns=names.split()).assign(source="near", target="far", n=200)
    table["metric"] = np.where(table.task == "crossing", "accuracy", "absolute error")
    return table


def test_what_patching_recovers_is_said_with_its_error():
    table = patched()
    text = said(planted(), patching=table)
    assert (
        "On tasks that near does better, its states put into far bring" in text and "n = 200 rows of each task" in text
    )
    assert "at most, over layers," in text and "one pair of models" in text
    assert "the tokens of new cities 0.30 (angle, layer 1; standard error over rows 0.07)." in text
    table["source_value"], table["target_value"] = table.target_value, table.source_value
    text = said(planted(), patching=table)
    assert "tokens of new cities 0.80 (distance, layer 1; standard error over rows 0.05)." in text


def test_no_title_of_a_figure_is_cut_and_its_curves_can_be_pointed_at():
    varied = planted()
    pairs = varied.tasks.str.contains("+", regex=False)
    varied.loc[pairs, ["alone_r2", "old_cka", "moved_dimension"]] *= 0.9  # pairs are drawn in the colour of distance
    tables = tables_of(varied)
    tables["response"]["group"] = "country in ['JP'] and region == 'Arm A' or country in ['KR', 'CN']"
    tables["response"] = pd.concat([tables["response"], pull_of(tables["response"])], ignore_index=True)
    drawn = {"dose_response": ["response"], "beside_distance": ["beside"], "what_moves": ["response", "contrast"]}
    for draw, names in drawn.items():
        figure, _ = getattr(figures, draw)(*(tables[name] for name in names), tables["runs"])
        assert not beyond(figure)
        assert numbers.chart(figure) or draw == "beside_distance"
        assert not unread(figure)
    gradients = figure.axes[-1]  # a panel of pairs alone names them
    assert gradients.get_title(loc="left") == "Gradients of two tasks" and "D A" in [
        t.get_text() for t in gradients.texts
    ]
    assert "; A: angle; D: distance" in gradients.figure.get_supxlabel()
    assert "; A: angle; D: distance" in figures.dose_response(tables["response"], tables["runs"])[0].get_supxlabel()
    (one, two) = numbers.chart(figures.dose_response(tables["response"], tables["runs"])[0])
    angle = next(line for line in one["lines"] if line["name"] == "angle")
    assert angle["x"] == [0, 10, 20, 40] and angle["y"] == [80, 40, 20, 10] and two["title"] == "Two tasks"
    pair = next(line for line in two["lines"] if line["name"] == "distance + angle")
    assert pair["error"] == pytest.approx([80 * 0.1 / 3**0.5, 60 * 0.1 / 3**0.5, 40 * 0.1 / 3**0.5, 20 * 0.1 / 3**0.5])
    alone = tables_of(planted((1,)))
    for panel in numbers.chart(figures.dose_response(alone["response"], alone["runs"])[0]):
        assert all(line["error"] is None for line in panel["lines"])  # one seed


def test_what_distance_does_has_ticks_within_a_decade_and_bars_alone():
    tables = tables_of(planted())
    figure, _ = figures.beside_distance(tables["beside"], tables["runs"])
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    ticks = {tick.label1.get_text() for tick in axis.get_major_ticks() if tick.label1.get_text()}
    assert {"1", "1.5", "2"} <= ticks and "bars: standard errors over 3 seeds" in figure.get_supxlabel()
    assert "bands" not in figure.get_supxlabel()
    ratios = 1 + np.arange(len(tables["beside"])) / 100
    near = tables["beside"].assign(ratio=ratios, log_ratio=np.log(ratios), standard_error=0.001)
    axis = figures.beside_distance(near, tables["runs"])[0].axes[0].yaxis
    low, high = axis.get_view_interval()
    assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) > 2
    moves, _ = figures.what_moves(tables["response"], tables["contrast"], tables["runs"])
    assert moves.get_supxlabel() == "bands: standard errors over 3 seeds"


def test_figures_say_what_bands_are():
    for seeds, words in (((0, 1, 2), "standard errors over 3 seeds"), ((1,), "one seed: there is no standard error")):
        tables = tables_of(planted(seeds))
        _, caption = figures.dose_response(tables["response"], tables["runs"])
        assert words in caption.lower().replace("\n", " ") and "angle 10.0, distance + angle 20.0" in caption
    _, caption = figures.beside_distance(tables["beside"], tables["runs"])
    assert "angle 2.00. Above 1 distance does harm." in caption
    _, caption = figures.what_moves(tables["response"], tables["contrast"], tables["runs"])
    assert "a map of its own 0.70 and 0.90 (one task)" in caption
    _, caption = figures.what_moves(tables["response"], tables["contrast"].iloc[:0], tables["runs"])
    assert caption.startswith("Thick lines are single tasks")
    falling = response.response(planted().assign(schedule="linear"))
    with pytest.raises(LacksRuns, match="at a constant rate has more than one dose"):
        figures.what_moves(falling, tables["contrast"], tables["runs"])
    with pytest.raises(LacksRuns, match="no fine-tune of the study has more than one dose"):
        figures.dose_response(falling[falling.dose > 0], tables["runs"])


# ---- a probe of some items alone ----


def test_a_map_elsewhere_is_found_and_none_is_not():
    random = np.random.default_rng(0)
    xy = random.normal(size=(60, 2)) * 30
    there = xy @ random.normal(size=(2, 100)) + 5 * random.normal(size=(60, 100))
    found, nowhere = probe_alone(there, xy), probe_alone(random.normal(size=(60, 100)), xy)
    assert found.r2 > 0.8 and found.mean_error < 0.5 * found.constant_error and found.n == 60
    assert nowhere.r2 < 0.1 and nowhere.mean_error > 0.9 * nowhere.constant_error
    with pytest.raises(ValueError, match="X: expected at least 10 items, one for each fold, got 9"):
        probe_alone(there[:9], xy[:9])


# ---- from end to end ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of 60 old cities and 20 new ones, and where it ran."""
    out = tmp_path_factory.mktemp("doses")
    random = np.random.default_rng(5)
    places = random.integers(-900, 900, (80, 2))
    rows = [f"{i},{x},{y},{'Old' if i % 4 else 'Atlantis'},JP" for i, (x, y) in enumerate(places)]
    (out / "world.csv").write_text("city_id,x,y,region,country\n" + "\n".join(rows) + "\n")
    recipe = cities.Recipe(
        world=wf.WorldSpec(str(out / "world.csv")),
        model=wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=16, outputs=98),
        amount={1: (128, 1)},
        standard=16,
        included=64,
        alive=8,
        update_rate=1e-3,
        settings=dict(vocabulary="entity", loss="answer", batch=16, checkpoints=1, capture=wf.Capture(layers=(1,))),
    )
    bases = [recipe.pretrain(("distance", "angle"), seed) for seed in (0, 1)]
    tasks = ("distance", "angle")
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(doses_module, "CHECKPOINTS", 2)
        runs = dose_runs(recipe, bases[0], tasks, (1,), (0.5,), (0.5,)) + dose_runs(recipe, bases[1], tasks, (1,))
    study = cities.Study(
        "doses",
        [*bases, *runs],
        layer=1,
        test_rows=4,
        shown=[bases[0].name, "ft-distance+angle-constant-s0"],
        analyses=dose_analyses.ANALYSES,
        tables=dose_analyses.tables,
        figures=figures.draw_doses,
        findings=dose_findings.findings,
    )
    return study, out, run_study(study, out, device="cpu", progress=False)


def test_a_small_study_from_end_to_end(small):
    study, out, result = small
    tables = result.tables
    doses = tables["doses"]
    assert set(doses.run) == {run.name for run in study.runs if run.start} and set(doses.group) == {"Atlantis"}
    first = doses[doses.step == 0]
    assert (first.old_cka.round(9) == 1).all() and first.moved_dimension.isna().all() and (first.moved == 0).all()
    last = doses[doses.step == doses.groupby("run").step.transform("max")]
    assert (last.moved > 0).all() and last.moved_dimension.between(1, 32).all() and (last.old_cka < 1).all()
    pull = tables["pull"]
    pairs = [run for run in study.runs if run.keep == "all"]
    assert len(pairs) == 2 and sorted(pull.step.unique()) == sorted(pairs[0].checkpoint_steps)
    assert set(pull.columns) >= {"run", "dose", "task", "other", "cosine", "corrected", "group"}
    of_pairs = tables["response"][tables["response"].what == "cosine"]
    assert (
        set(of_pairs.tasks) == {"distance+angle"} and set(of_pairs.dose) == set(pull.dose) and (of_pairs.n == 2).all()
    )
    assert set(tables["contrast"].n_tasks) == {1} and (tables["contrast"].n == 2).all()
    assert set(tables["beside"].schedule) == {"constant", "linear"} and (tables["response"].n <= 2).all()
    assert set(tables["generalisation"].run) == {run.name for run in study.shown_runs}
    text = " ".join(result.findings)
    assert "standard errors over 2 seeds" in text and "nan" not in text
    page = report.publish(study, result, out / "page")
    assert "ft-distance+angle-constant-s0" in page.read_text()
    drawn = {path.stem for path in (out / "page" / "figures").glob("*.png")}
    assert drawn >= {"dose-response", "beside-distance", "what-moves", "atlantis-maps", "tasks", "gradient-agreement"}
    assert [entry.name for entry in figures.DOSES.entries] == ["dose-response", "beside-distance", "what-moves"]
    assert set(figures.REUSED) <= {entry.name for entry in CATALOGUE.entries}


def test_a_study_without_a_fine_tune_says_so(small):
    study, out, _ = small
    alone = replace(study, name="alone", canon=study.canon[:1], shown=())
    with pytest.raises(ValueError, match="study 'alone': no finished run of it is a fine-tune that was taught a group"):
        run_study(alone, out, device="cpu", progress=False)

"""Normalised improvement, best teacher and deviation against worked examples and a plain loop."""

import math

import numpy as np
import pandas as pd
import pytest

from worldfast.worlds.cities.improvement import (
    deviation,
    deviation_summary,
    improvement,
    normalised_improvement,
    seed_averaged,
    summary,
)

random = np.random.default_rng(3)
METRIC = {"distance": "mean absolute error", "angle": "mean absolute error", "inside": "accuracy"}


def study(seeds=(1, 2)):
    """Two bases, each fine-tuned on every task and pair; Atlantis values drawn at random."""
    sets = ["distance", "angle", "inside", "distance+angle", "distance+inside", "angle+inside"]
    runs, evaluation = [], []
    for seed in seeds:
        base = f"pt-s{seed}"
        runs.append((base, "pt", "distance+angle+inside", seed, ""))
        for task, metric in METRIC.items():
            errors = (0.6, 0.98) if metric == "accuracy" else (300.0, 3.0)
            for group, value in zip(("Atlantis", "standard"), errors):
                evaluation.append((base, task, group, metric, value * random.uniform(0.95, 1.05)))
        for tasks in sets:
            run = f"ft-{tasks}-s{seed}"
            runs.append((run, "ft", tasks, seed, base))
            for task, metric in METRIC.items():
                value = random.uniform(0.5, 1) if metric == "accuracy" else random.uniform(1, 500)
                evaluation += [(run, task, "Atlantis", metric, value), (run, task, "standard", metric, 1.0)]
    return (
        pd.DataFrame(evaluation, columns=["run", "task", "group", "metric", "value"]),
        pd.DataFrame(runs, columns=["run", "kind", "tasks", "seed", "base"]),
    )


def by_hand(metric, v, atlantis, standard):
    if metric == "accuracy":
        return (v - atlantis) / (standard - atlantis)
    return math.log(atlantis / v) / math.log(atlantis / standard)


def test_worked_examples():
    assert normalised_improvement(10, 100, 1) == pytest.approx(0.5)
    assert normalised_improvement(100, 100, 1) == 0 and normalised_improvement(1, 100, 1) == 1
    assert normalised_improvement(1000, 100, 1) == 0
    assert normalised_improvement(1000, 100, 1, clip=False) == pytest.approx(-0.5)
    assert normalised_improvement(1e-9, 100, 1) == 1.5 and normalised_improvement(0, 100, 1) == 1.5
    assert normalised_improvement(0.9, 0.5, 1.0, "accuracy") == pytest.approx(0.8)
    assert normalised_improvement(0.4, 0.5, 1.0, "accuracy") == 0
    assert normalised_improvement(0.4, 0.5, 1.0, "accuracy", clip=False) == pytest.approx(-0.2)
    assert np.allclose(normalised_improvement([10, 1], 100, [1, 10]), [0.5, 1.5])


def test_no_way_to_go_is_undefined():
    assert math.isnan(normalised_improvement(5, 2, 3)) and math.isnan(normalised_improvement(5, 3, 3))
    assert math.isnan(normalised_improvement(5, 3, 0))
    assert math.isnan(normalised_improvement(0.9, 0.9, 0.9, "accuracy"))
    assert math.isnan(normalised_improvement(0.9, 0.95, 0.9, "accuracy"))


def test_bad_values():
    with pytest.raises(ValueError, match="base_standard: an error cannot be negative"):
        normalised_improvement(1, 2, -3)
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        normalised_improvement(1, 2, 3, "acuracy")


def test_improvement_is_against_the_model_it_started_from():
    evaluation, runs = study()
    table = improvement(evaluation, runs)
    assert len(table) == 2 * 6 * 3 and set(table["run"]) == set(runs.loc[runs["kind"] == "ft", "run"])
    values = evaluation.set_index(["run", "task", "group"])["value"]
    for row in table.itertuples():
        base = f"pt-s{row.seed}"
        atlantis, standard = values[base, row.task, "Atlantis"], values[base, row.task, "standard"]
        expected = by_hand(METRIC[row.task], values[row.run, row.task, "Atlantis"], atlantis, standard)
        assert row.improvement == pytest.approx(min(max(expected, 0), 1.5))
        assert (row.base_group, row.base_standard) == (atlantis, standard)
        assert row.trained == (row.task in row.tasks)


def test_deviation_is_from_the_better_teacher():
    evaluation, runs = study()
    table = deviation(improvement(evaluation, runs), runs)
    assert len(table) == 2 * 3 * 3 and table.attrs["left_out"] == []
    values = evaluation.set_index(["run", "task", "group"])["value"]
    for row in table.itertuples():
        base, metric = f"pt-s{row.seed}", METRIC[row.task]
        bases = values[base, row.task, "Atlantis"], values[base, row.task, "standard"]
        first, second = (values[f"ft-{task}-s{row.seed}", row.task, "Atlantis"] for task in row.tasks.split("+"))
        best = max(first, second) if metric == "accuracy" else min(first, second)
        expected = by_hand(metric, best, *bases)
        actual = by_hand(metric, values[row.run, row.task, "Atlantis"], *bases)
        assert row.expected == pytest.approx(expected) and row.actual == pytest.approx(actual)
        assert row.deviation == pytest.approx(actual - expected)
        assert row.distance == ("distance" in row.tasks) and row.trained == (row.task in row.tasks.split("+"))
    clipped = deviation(improvement(evaluation, runs), runs, clip=True)
    assert clipped[["actual", "expected"]].to_numpy().min() == 0 > table["actual"].min()


def test_runs_without_teachers_are_named():
    evaluation, runs = study(seeds=(1,))
    whole = improvement(evaluation, runs)
    table = deviation(whole[whole["tasks"] != "inside"], runs)
    assert set(table["tasks"]) == {"distance+angle"}
    assert table.attrs["left_out"] == ["ft-distance+inside-s1", "ft-angle+inside-s1"]
    with pytest.raises(ValueError, match="without all of their teachers: ft-distance"):
        deviation(whole[whole["tasks"].str.contains("+", regex=False)], runs)
    with pytest.raises(ValueError, match="no fine-tune on several tasks"):
        deviation(whole[~whole["tasks"].str.contains("+", regex=False)], runs)
    with pytest.raises(ValueError, match="which is the teacher"):
        deviation(pd.concat([whole, whole]), runs)


def test_a_teacher_is_of_the_same_base():
    evaluation, runs = study()
    whole = improvement(evaluation, runs)
    table = deviation(whole[(whole["seed"] == 1) | whole["tasks"].str.contains("+", regex=False)], runs)
    assert set(table["seed"]) == {1} and all(run.endswith("s2") for run in table.attrs["left_out"])


def test_seed_average_and_summary():
    evaluation, runs = study()
    table = improvement(evaluation, runs)
    matrix = seed_averaged(table)
    assert list(matrix.columns) == list(METRIC) and matrix.index[3] == "distance+angle"
    cell = table[(table["tasks"] == "distance+inside") & (table["task"] == "angle")]["improvement"]
    assert matrix.loc["distance+inside", "angle"] == pytest.approx(cell.mean())
    errors = seed_averaged(table, statistic="standard_error")
    assert errors.loc["distance+inside", "angle"] == pytest.approx(cell.std(ddof=1) / math.sqrt(2))
    assert (seed_averaged(table, statistic="n") == 2).to_numpy().all()
    one = seed_averaged(table[table["seed"] == 1], statistic="standard_error")
    assert one.isna().to_numpy().all()

    trained = [matrix.loc[a, b] for a in matrix.index for b in matrix.columns if b in a.split("+")]
    found = summary(matrix).set_index("what")
    assert found.loc["trained", "n"] == 9 == len(trained) and found.loc["transfer", "n"] == 9
    assert found.loc["trained", "mean"] == pytest.approx(np.mean(trained))
    assert found.loc["trained", "standard_deviation"] == pytest.approx(np.std(trained))
    matrix.iloc[0, 0] = np.nan
    assert summary(matrix)["n"].to_list() == [8, 9]
    apart = seed_averaged(deviation(table, runs), "deviation")
    sets = deviation_summary(apart, "inside").set_index("what")
    assert sets.loc["without inside", "mean"] == pytest.approx(apart.loc["distance+angle"].mean())
    assert sets["n"].to_list() == [6, 3]


def test_undefined_cells_are_left_out_of_averages():
    evaluation, runs = study()
    flat = (evaluation["run"] == "pt-s1") & (evaluation["task"] == "angle")
    evaluation.loc[flat, "value"] = 5.0
    table = improvement(evaluation, runs)
    assert table.loc[(table["seed"] == 1) & (table["task"] == "angle"), "improvement"].isna().all()
    assert (seed_averaged(table, statistic="n")["angle"] == 1).all()
    assert seed_averaged(table)["angle"].notna().all()


def test_each_fine_tune_is_told_of_what_it_was_taught():
    evaluation, runs = study(seeds=(1,))
    other = evaluation[evaluation["group"] == "Atlantis"].assign(group="Arm C", value=lambda table: table["value"] / 2)
    both = pd.concat([evaluation, other], ignore_index=True)
    runs["group"] = [
        "" if kind == "pt" else "Arm C" if "angle" in tasks else "Atlantis"
        for kind, tasks in zip(runs.kind, runs.tasks)
    ]
    table = improvement(both, runs)
    assert len(table) == 6 * 3
    alone = improvement(evaluation, runs[runs["group"] != "Arm C"])
    pd.testing.assert_frame_equal(table[~table["tasks"].str.contains("angle")].reset_index(drop=True), alone)
    halved = table[(table["tasks"] == "angle") & (table["task"] == "distance")].iloc[0]
    base = both[(both["run"] == "pt-s1") & (both["task"] == "distance")].set_index("group")["value"]
    assert halved["base_group"] == base["Arm C"] == base["Atlantis"] / 2


def test_clear_errors():
    evaluation, runs = study()
    with pytest.raises(ValueError, match="evaluation: unknown column 'metric'"):
        improvement(evaluation.drop(columns="metric"), runs)
    with pytest.raises(ValueError, match="none is a fine-tune"):
        improvement(evaluation, runs[runs["kind"] == "pt"])
    with pytest.raises(ValueError, match="started from 'pt-s1', which lacks"):
        improvement(evaluation[evaluation["run"] != "pt-s1"], runs)
    with pytest.raises(ValueError, match="two values for distance"):
        improvement(pd.concat([evaluation, evaluation]), runs)
    with pytest.raises(ValueError, match="what fine-tunes were taught, only has"):
        improvement(evaluation[evaluation["group"] == "standard"], runs)
    with pytest.raises(ValueError, match="holds no value of any of the fine-tunes in runs on what it was taught"):
        improvement(evaluation[~evaluation["run"].str.startswith("ft")], runs)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        seed_averaged(improvement(evaluation, runs), statistic="meen")

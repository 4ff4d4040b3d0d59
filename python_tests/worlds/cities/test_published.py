"""The published numbers: what is there, and that the summaries follow from the matrices."""

import numpy as np
import pytest

from worldfast.worlds.cities import published
from worldfast.worlds.cities.improvement import deviation_summary, summary
from worldfast.worlds.cities.tasks import TASKS


def means(table):
    return dict(zip(table["what"], table["mean"]))


def test_every_matrix_is_named_by_tasks():
    for name in published.matrices():
        matrix = published.matrix(name)
        assert np.isfinite(matrix.to_numpy()).all() and matrix.attrs["source"].startswith("arXiv 2602.00533")
        assert {task for tasks in matrix.index for task in tasks.split("+")} <= set(TASKS)
        assert matrix.index.is_unique and matrix.attrs["what"]
    for layer in (3, 4, 5, 6):
        cka = published.matrix(f"cka_pt1_L{layer}")
        assert list(cka.index) == list(cka.columns) == list(TASKS) and np.array_equal(cka, cka.T)
    pairs = published.matrix("ftwb2_minus_best_teacher")
    assert len({frozenset(tasks.split("+")) for tasks in pairs.index}) == 21 and list(pairs.columns) == list(TASKS)
    assert published.matrix("ftwb1_NI").loc["angle", "perimeter"] == 0.74
    assert published.matrix("ftwb1_NI").loc["perimeter", "angle"] == 0.44


def test_published_averages_follow_from_the_matrices():
    found = summary(published.matrix("ftwb1_NI"))
    assert list(found["what"]) == ["trained", "transfer"] and list(found["n"]) == [7, 42]
    assert round(found["mean"][0], 3) == 0.839 and round(found["mean"][1], 3) == 0.474
    assert list(found["standard_deviation"].round(3)) == [0.136, 0.292]
    for name, part in (("one_task_fine_tune_trained", 0), ("one_task_fine_tune_transfer", 1)):
        one = published.value(name)
        assert abs(one.value - found["mean"][part]) < 0.001
        assert abs(one.uncertainty - found["standard_deviation"][part]) < 0.001
    assert list(summary(published.matrix("wide_ftwb1_NI"))["mean"].round(3)) == [0.803, 0.491]


def test_published_deviations_follow_from_the_matrix():
    found = deviation_summary(published.matrix("ftwb2_minus_best_teacher"))
    assert list(found["what"]) == ["with distance", "without distance"] and list(found["n"]) == [42, 105]
    assert list(found["mean"].round(3)) == [-0.185, 0.077]
    assert published.value("deviation_with_distance").value == -0.185
    assert published.value("deviation_without_distance").value == 0.077


def test_two_task_averages_follow_from_teachers_and_deviations():
    """Best teacher and deviation give the two-task fine-tunes back, so that the rows have the right pairs."""
    one, apart = published.matrix("ftwb1_NI"), published.matrix("ftwb2_minus_best_teacher")
    actual = apart.copy()
    for tasks in apart.index:
        actual.loc[tasks] += one.loc[tasks.split("+")].max()
    found = means(summary(actual))
    assert abs(found["trained"] - published.value("two_task_fine_tune_trained").value) < 0.005
    assert abs(found["transfer"] - published.value("two_task_fine_tune_transfer").value) < 0.005


def test_corrected_likeness_follows_from_the_matrix():
    cka = published.matrix("cka_pt1_L5").drop(index="crossing", columns="crossing").to_numpy()
    off = ~np.eye(6, dtype=bool)
    assert round(np.diag(cka).mean(), 3) == published.value("same_task_cka_1_corrected").value
    assert round(cka[off].mean(), 3) == published.value("cross_task_cka_1_corrected").value


def test_values():
    one = published.value("evaluation_distance")
    assert (one.value, one.unit, one.uncertainty) == (2.38, "0.1 degree", None)
    assert published.value("evaluation_crossing").value == 0.9766
    table = published.values()
    assert table["name"].is_unique and table["source"].str.len().min() > 10 and table["unit"].str.len().min() > 0
    assert (table["uncertainty"].notna() == (table["uncertainty_is"] != "")).all()
    assert table["name"].map(lambda name: published.value(name).value).equals(table["value"])


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'ftwb1_NI'"):
        published.matrix("ftwb1_Ni")
    with pytest.raises(ValueError, match="did you mean 'deviation_with_distance'"):
        published.value("deviation_wth_distance")


def test_a_matrix_is_the_callers_own():
    matrix = published.matrix("ftwb1_NI")
    matrix.iloc[0, 0] = 9
    assert published.matrix("ftwb1_NI").iloc[0, 0] == 0.54

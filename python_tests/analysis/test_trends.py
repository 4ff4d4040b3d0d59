"""Trends and transfer against plain loops, SciPy, and the published matrices."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from worldfast.analysis.trends import as_matrix, task_matrix, trends
from worldfast.worlds.cities import published
from worldfast.worlds.cities.transfer import likeness_against_transfer, transfer_points

random = np.random.default_rng(5)
SETS = ["distance", "angle", "inside", "distance+angle", "angle+inside", "inside+perimeter", "distance+angle+inside"]


def study(seeds=3, layers=(4, 5)):
    runs = pd.DataFrame(
        [(f"pt-{tasks}-s{s}", tasks, tasks.count("+") + 1, s, True) for tasks in SETS for s in range(seeds)],
        columns=["run", "tasks", "n_tasks", "seed", "learned"],
    )
    names = list(runs["run"])
    random.shuffle(names)  # the order in a pair says nothing
    rows = [
        (layer, share, kernel, False, 0, a, b, random.random())
        for layer in layers
        for share in (0.5, 1.0)
        for kernel in ("linear", "rbf")
        for a, b in itertools.combinations(names, 2)
    ]
    columns = ["layer", "step_share", "kernel", "debiased", "components", "run", "other", "value"]
    return pd.DataFrame(rows, columns=columns), runs


def lookup(pairs, layer=5, share=1.0, kernel="linear"):
    kept = pairs[(pairs["layer"] == layer) & (pairs["step_share"] == share) & (pairs["kernel"] == kernel)]
    return {frozenset((row.run, row.other)): row.value for row in kept.itertuples()}


def seeds_of(tasks, seeds=3):
    return [f"pt-{tasks}-s{s}" for s in range(seeds)]


def cell(values, a, b, drop=()):
    pairs = {frozenset((x, y)) for x in seeds_of(a) for y in seeds_of(b) if x != y and not {x, y} & {*drop}}
    return np.mean([values[pair] for pair in pairs])


def jackknife(left_out):
    n = len(left_out)
    return math.sqrt((n - 1) / n * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))


def test_cells_are_means_over_pairs_of_seeds():
    pairs, runs = study()
    table, values = task_matrix(pairs, runs), lookup(pairs)
    assert set(table["layer"]) == {4, 5} and table.attrs["left_out"] == []
    found = table[table["layer"] == 5]
    assert len(found) == 6 + 6 + 1  # unordered pairs of sets of 1, 2, 3 tasks, the diagonal in
    for row in found.itertuples():
        assert row.mean == pytest.approx(cell(values, row.tasks, row.other))
        assert row.n_tasks == row.tasks.count("+") + 1 == row.other.count("+") + 1
        assert (row.pairs, row.n) == ((3, 3) if row.tasks == row.other else (9, 6))
        if row.tasks == row.other:  # one sample
            expected = jackknife([cell(values, row.tasks, row.other, [run]) for run in seeds_of(row.tasks)])
        else:  # two
            parts = [
                jackknife([cell(values, row.tasks, row.other, [run]) for run in seeds_of(side)])
                for side in (row.tasks, row.other)
            ]
            expected = math.hypot(*parts)
        assert row.standard_error == pytest.approx(expected)
    square = as_matrix(found[found["n_tasks"] == 1])
    assert list(square.index) == list(square.columns) == SETS[:3] and np.array_equal(square, square.T)
    assert square.loc["inside", "distance"] == pytest.approx(cell(values, "inside", "distance"))


def test_other_rows_are_chosen_by_name():
    pairs, runs = study()
    values = lookup(pairs, share=0.5, kernel="rbf")
    table = task_matrix(pairs, runs, step_share=0.5, kernel="rbf")
    row = table[(table["layer"] == 5) & (table["n_tasks"] == 1)].iloc[1]
    assert row["mean"] == pytest.approx(cell(values, row["tasks"], row["other"]))
    with pytest.raises(ValueError, match="none has kernel 'cosine', only"):
        task_matrix(pairs, runs, kernel="cosine")
    with pytest.raises(ValueError, match="unknown column to choose by 'kernl'"):
        task_matrix(pairs, runs, kernl="rbf")


def test_trends_average_cells():
    pairs, runs = study()
    values, found = lookup(pairs), trends(pairs, runs)
    found = found[found["layer"] == 5].set_index(["what", "n_tasks"])

    def mean(cells, drop=None):
        return np.mean([cell(values, a, b) for a, b in cells if drop not in (a, b)])

    for n, sets in ((1, SETS[:3]), (2, SETS[3:6])):
        same = [(a, a) for a in sets]
        cross = list(itertools.combinations(sets, 2))
        for what, cells in (("same task", same), ("cross task", cross)):
            row = found.loc[what, n]
            assert row["mean"] == pytest.approx(mean(cells)) and (row["n"], row["unit"]) == (3, "set of tasks")
            assert row["standard_error"] == pytest.approx(jackknife([mean(cells, one) for one in sets]))
        diagonal = [cell(values, a, a) for a in sets]
        assert found.loc["same task", n]["standard_error"] == pytest.approx(np.std(diagonal, ddof=1) / math.sqrt(3))
    assert found.loc["disjoint tasks", 1]["mean"] == found.loc["cross task", 1]["mean"]
    apart = found.loc["disjoint tasks", 2]
    assert apart["mean"] == pytest.approx(cell(values, "distance+angle", "inside+perimeter"))
    assert math.isnan(apart["standard_error"]) and apart["n"] == 2
    alone = found.loc["same task", 3]  # one set of tasks: over its runs
    assert alone["unit"] == "run" and alone["n"] == 3 and alone["standard_error"] > 0
    assert ("cross task", 3) not in found.index


def test_failed_runs_are_left_out_and_named():
    pairs, runs = study()
    failed = "pt-inside-s1"
    runs.loc[runs["run"] == failed, "learned"] = False
    values = lookup(pairs)
    table = task_matrix(pairs, runs)
    row = table[(table["layer"] == 5) & (table["tasks"] == "inside") & (table["other"] == "inside")].iloc[0]
    assert row["pairs"] == 1 and row["mean"] == values[frozenset(("pt-inside-s0", "pt-inside-s2"))]
    assert math.isnan(row["standard_error"])
    assert table.attrs["left_out"] == [failed] == trends(pairs, runs).attrs["left_out"]
    whole = task_matrix(pairs, runs, failed=True)
    assert whole.attrs["left_out"] == [] and (whole[whole["n_tasks"] == 1]["pairs"] >= 3).all()


def test_other_pair_tables_do_too():
    pairs, runs = study(layers=(5,))
    plain = pairs[(pairs["kernel"] == "linear") & (pairs["step_share"] == 1.0)]
    plain = plain[["run", "other", "value"]].rename(columns={"value": "disparity"})
    found = trends(plain, runs, value="disparity")
    assert "layer" not in found.columns
    expected = trends(pairs, runs).drop(columns="layer")
    pd.testing.assert_frame_equal(found, expected)


def test_trend_errors():
    pairs, runs = study(layers=(5,))
    with pytest.raises(ValueError, match="occur twice"):
        task_matrix(pd.concat([pairs, pairs]), runs)
    with pytest.raises(ValueError, match="not among the runs"):
        task_matrix(pairs, runs.iloc[1:])
    with pytest.raises(ValueError, match="with itself"):
        task_matrix(pairs.assign(other=pairs["run"]), runs)
    with pytest.raises(ValueError, match="runs: unknown column 'n_tasks'"):
        task_matrix(pairs, runs.drop(columns="n_tasks"))
    with pytest.raises(ValueError, match="none is left"):
        task_matrix(pairs, runs.assign(learned=False))
    with pytest.raises(ValueError, match="occurs twice"):
        as_matrix(task_matrix(pairs.assign(layer=4), runs).pipe(lambda t: pd.concat([t, t])))


def test_published_correlation_and_the_corrected_one():
    likeness, gain = published.matrix("cka_pt1_L5"), published.matrix("ftwb1_NI")
    # The published way: every ordered pair as if independent, so that each symmetric value counts twice.
    tasks = [task for task in likeness.index if task != "crossing"]
    off = ~np.eye(len(tasks), dtype=bool)
    r, p = stats.pearsonr(likeness.loc[tasks, tasks].to_numpy()[off], gain.loc[tasks, tasks].to_numpy()[off])
    # two decimals of every entry leave the published 0.188 and 0.017 within reach
    assert abs(r * r - published.value("cka_generalisation_r2").value) < 0.004 and off.sum() == 30
    assert abs(p - published.value("cka_generalisation_p").value) < 0.002
    points = transfer_points(likeness, gain, ("crossing",))
    assert len(points) == 15 and points["distance"].sum() == 5
    first = points.iloc[0]
    assert (first["task"], first["other"]) == ("distance", "trianglearea")
    assert first["likeness"] == 0.49 and first["improvement"] == pytest.approx((0.02 + 0.44) / 2)
    found = likeness_against_transfer(likeness, gain).set_index("what")
    assert found.loc["all tasks", "r"] == pytest.approx(stats.pearsonr(points["likeness"], points["improvement"])[0])
    rest = points[~points["distance"]]
    assert found.loc["without distance", "r"] == pytest.approx(stats.pearsonr(rest["likeness"], rest["improvement"])[0])
    assert list(found["n"]) == [15, 10] and found["test"].str.contains("Mantel.*all orders").all()
    # most of it is distance
    assert found.loc["all tasks", "r2"] > 0.8 and found.loc["without distance", "r2"] < 0.25
    assert found.loc["all tasks", "p"] >= 1 / 720 and found.loc["without distance", "p"] > 0.05


def test_correlation_that_cannot_be_told_says_so():
    likeness, gain = published.matrix("cka_pt1_L5"), published.matrix("ftwb1_NI")
    few = likeness_against_transfer(likeness.iloc[:4, :4], gain).set_index("what")
    assert np.isfinite(few.loc["all tasks", "r"]) and math.isnan(few.loc["without distance", "r"])
    assert few.loc["without distance", "test"].startswith("none: expected likeness")
    gain.iloc[2, 3] = np.nan
    gaps = likeness_against_transfer(likeness, gain)
    assert gaps["p"].isna().all() and gaps["test"].str.contains("improvement: holds NaN").all()
    with pytest.raises(ValueError, match="square"):
        transfer_points(likeness.iloc[:3], gain)
    with pytest.raises(ValueError, match="at least 2 tasks"):
        transfer_points(likeness.iloc[:1, :1], gain)

"""Figures of a study's tables: what is drawn is what the tables hold, and what they lack is named."""

import io
import re

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from sight import apart, beyond, boxes_of, texts, unread
from synthetic import SEVEN, run_result, tables

from worldfast.report import colours, figures
from worldfast.report.figures import numbers, style, views
from worldfast.report.figures.catalogue import SECTIONS
from worldfast.report.figures.tables import pairs
from worldfast.worlds.cities import figures as city_figures
from worldfast.worlds.cities.figures import CATALOGUE, draw_study, drawings
from worldfast.worlds.cities.figures.effects import over_seeds
from worldfast.worlds.cities.figures.histograms import error_groups
from worldfast.worlds.cities.scene import scene_of
from worldfast.worlds.cities.world import ATLANTIS, World


@pytest.fixture(scope="module")
def atlantis() -> World:
    return World.cities().with_atlantis()


@pytest.fixture(scope="module")
def study(atlantis) -> dict:
    return tables(atlantis)


@pytest.fixture(scope="module")
def of_study(study, atlantis) -> list:
    return draw_study(study, atlantis)


@pytest.fixture(scope="module")
def drawn(of_study) -> dict:
    return figures_of(of_study)


def figures_of(drawn) -> dict:
    """Name -> (figure, caption) of those that were drawn."""
    return {one.name: (one.figure, one.caption) for one in drawn if one.figure is not None}


def cells(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array().filled(np.nan))


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def frames(figure) -> set[tuple[int, int]]:
    """(row, column) of the framed cells of a matrix."""
    middles = [
        (patch.get_y() + patch.get_height() / 2, patch.get_x() + patch.get_width() / 2)
        for patch in figure.axes[0].patches
        if isinstance(patch, Rectangle)
    ]
    return {(round(y), round(x)) for y, x in middles}


def mean_of_pairs(study, table, value, one, other, **wanted) -> float:
    """The mean over pairs of runs, by hand: runs that learned, pretrained on exactly these tasks."""
    runs = study["runs"]
    able = runs[(runs.kind == "pt") & runs.learned]
    tasks = dict(zip(able.run, able.tasks))
    rows = study[table]
    for column, want in wanted.items():
        rows = rows[rows[column] == want]
    values = [
        row[value]
        for _, row in rows.iterrows()
        if sorted([tasks.get(row["run"], ""), tasks.get(row["other"], "")]) == sorted([one, other])
    ]
    return float(np.mean(values)) if values else np.nan


PLAIN = {"layer": 5, "step_share": 1.0, "kernel": "linear", "debiased": False, "components": 0}


def test_a_cka_matrix_holds_the_means_over_pairs_of_runs(study):
    figure, _ = figures.similarity("cka", study["cka"], study["runs"])
    values = cells(figure)
    assert np.allclose(values, values.T, equal_nan=True)
    assert values[0, 0] == pytest.approx(mean_of_pairs(study, "cka", "value", "distance", "distance", **PLAIN))
    assert values[1, 5] == pytest.approx(mean_of_pairs(study, "cka", "value", "trianglearea", "perimeter", **PLAIN))
    # One seed of inside did not learn: one run is left, and no pair of it.
    assert np.isnan(values[4, 4])
    assert values[0, 4] == pytest.approx(mean_of_pairs(study, "cka", "value", "distance", "inside", **PLAIN))
    # No seed of crossing did: it is shown, with a star.
    assert values[6, 6] == pytest.approx(
        study["cka"]
        .query("run == 'pt-crossing-s0' and other == 'pt-crossing-s1' and layer == 5")
        .query("step_share == 1 and kernel == 'linear' and not debiased and components == 0")["value"]
        .item()
    )
    assert ticks(figure.axes[0].yaxis)[6] == "crossing*" == ticks(figure.axes[0].xaxis)[6]
    assert f"{values[0, 1]:.2f}" in texts(figure) and "layer 5" in texts(figure)


@pytest.mark.parametrize(
    "options", [{"kernel": "rbf"}, {"debiased": True}, {"components": 3}, {"layer": 3}, {"n_tasks": 2}]
)
def test_other_kinds_of_cka_are_other_rows_of_the_table(study, options):
    values = cells(figures.similarity("cka", study["cka"], study["runs"], **options)[0])
    n = options.get("n_tasks", 1)
    one, other = ("distance", "angle") if n == 1 else ("distance+trianglearea", "inside+perimeter")
    wanted = {**PLAIN, **{name: value for name, value in options.items() if name != "n_tasks"}}
    assert values[0, 2] == pytest.approx(mean_of_pairs(study, "cka", "value", one, other, **wanted))


def test_standard_errors_are_written_where_there_are_some(study):
    figure, _ = figures.similarity("cka", study["cka"], study["runs"])
    found = pairs(
        study["cka"], study["runs"], "value", 1, 5, step_share=1.0, kernel="linear", debiased=False, components=0
    )
    written = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("±")]
    assert written and len(written) == np.isfinite(found.error).sum() < found.error.size
    assert f"± {found.error[0, 1]:.2f}" in written


def test_procrustes_and_neighbours_hold_their_tables_means(study):
    for table, value in (("procrustes", "disparity"), ("mutual_knn", "value")):
        values = cells(figures.similarity(table, study[table], study["runs"], layer=4)[0])
        assert values[0, 2] == pytest.approx(mean_of_pairs(study, table, value, "distance", "angle", layer=4))


def test_other_widths_and_fine_tunes_stay_out_of_similarity(study):
    runs = study["runs"].copy()
    wide = runs[(runs.run == "pt-angle-s0")].assign(run="pt-angle-wide-s0", width=512)
    table = study["cka"]
    more = table[table.run == "pt-angle-s0"].assign(run="pt-angle-wide-s0", value=0.0)
    import pandas

    both, _ = figures.similarity("cka", pandas.concat([table, more]), pandas.concat([runs, wide]))
    assert np.array_equal(cells(both), cells(figures.similarity("cka", table, runs)[0]), equal_nan=True)


@pytest.mark.parametrize("n_tasks,rows", [(1, 7), (2, 21)])
def test_improvement_is_averaged_over_seeds_and_trained_cells_are_framed(study, n_tasks, rows):
    figure, _ = city_figures.improvement(study["improvement"], study["runs"], n_tasks)
    table = study["improvement"]
    values = cells(figure)
    assert values.shape == (rows, 7)
    names = [name.replace(" + ", "+") for name in ticks(figure.axes[0].yaxis)]
    for i, j in ((0, 0), (3, 5), (rows - 1, 6)):
        mean = table[(table.tasks == names[i]) & (table.task == SEVEN[j])]["improvement"].mean()
        assert values[i, j] == pytest.approx(mean)
    assert frames(figure) == {(i, j) for i in range(rows) for j in range(7) if SEVEN[j] in names[i].split("+")}


def test_improvement_of_some_runs_alone(study):
    table, runs = study["improvement"], study["runs"]
    figure, _ = city_figures.improvement(table, runs[runs.run.isin(["ft-angle-s1", "ft-inside-s1"])])
    assert ticks(figure.axes[0].yaxis) == ["angle", "inside"]
    rows = table[table.run == "ft-angle-s1"].set_index("task")["improvement"]
    assert np.allclose(cells(figure)[0], rows[list(SEVEN)])


def test_deviation_puts_distance_first_and_is_centred_on_paper(study):
    figure, _ = city_figures.deviation(study["deviation"])
    names = ticks(figure.axes[0].yaxis)
    assert ["distance" in name for name in names] == [True] * 6 + [False] * 15
    table = study["deviation"]
    mean = table[(table.tasks == "distance+angle") & (table.task == "inside")]["deviation"].mean()
    assert cells(figure)[names.index("distance + angle"), 4] == pytest.approx(mean)
    image = figure.axes[0].images[0]
    grey = np.ptp([int(to_hex(image.cmap(image.norm(0.0)))[i : i + 2], 16) for i in (1, 3, 5)])
    assert grey < 20 and image.norm(0.0) == pytest.approx(0.5)
    assert "-" not in "".join(text.get_text() for text in figure.axes[0].texts)  # minus signs, and no −0.00
    assert "−0.00" not in texts(figure)


def test_the_deviation_histogram_counts_every_cell_once(study):
    figure, _ = city_figures.deviation_histogram(study["deviation"])
    counts = [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes]
    assert counts == [42, 105]
    table = study["deviation"]
    far = table[table.distance].groupby(["tasks", "task"])["deviation"].mean().mean()
    assert f"mean {far:+.3f}".replace("-", "−") in texts(figure.axes[0])


def test_no_histogram_has_all_but_a_few_cells_in_two_bins(study):
    """One answer of far too many digits is a deviation of hundreds: the others are seen all the same."""
    table = study["deviation"].copy()
    table.loc[table.index[3], "deviation"] = -400.0
    figure, _ = city_figures.deviation_histogram(table)
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert np.count_nonzero(heights) > 8 and max(heights) < 0.4 * sum(heights)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 42  # none is left out
    assert "1 cell beyond this scale" in texts(figure) and not beyond(figure)
    few, _ = city_figures.deviation_histogram(table[table.tasks.isin(["distance+angle", "angle+inside"])])
    assert [len(axes.patches) for axes in few.axes] == [0, 0]  # seven cells each: dots
    assert [len(axes.lines[0].get_xdata()) for axes in few.axes] == [7, 7]


def test_errors_are_in_degrees_where_the_world_is_the_globe(study, atlantis):
    table = study["generalisation"]
    far = table[(table.group == "Atlantis") & table.run.str.contains("distance")].error.mean()
    figure, caption = city_figures.error_histograms(table, study["runs"], atlantis)
    assert f"mean {far / 10:,.1f}" in texts(figure.axes[2]) and "place, degrees" in texts(figure)
    assert f"{far / 10:.1f} ±" in caption and "in degrees" in caption


def test_error_histograms_hold_all_cities_and_the_mean_over_runs(study):
    figure, _ = city_figures.error_histograms(study["generalisation"], study["runs"])
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert sum(patch.get_height() for patch in axes.patches) == pytest.approx(100)
    table = study["generalisation"]
    far = table[(table.group == "Atlantis") & table.run.str.contains("distance")]
    assert f"mean {far.error.mean():,.1f}" in texts(figure.axes[2]) and "14 runs" in texts(figure.axes[2])


def test_atlantis_of_pretraining_is_a_group_of_its_own(study):
    runs, table = study["runs"].copy(), study["generalisation"].copy()
    for part in (runs, table):
        part["run"] = part["run"].replace("ft-angle-s0", "pt-all-atlantis-s0")
    runs.loc[runs.run == "pt-all-atlantis-s0", "kind"] = "pt"
    runs.loc[runs.run == "pt-all-atlantis-s0", "group"] = "Atlantis"
    found = {part.title: part.rows for part in error_groups(table, runs)}
    assert len(found) == 4
    assert found["Atlantis, there in pretraining"].run.unique().tolist() == ["pt-all-atlantis-s0"]
    assert len(city_figures.error_histograms(table, runs)[0].axes) == 4


def test_atlantis_is_drawn_where_it_is_and_where_the_probe_puts_it(study, atlantis):
    figure, _ = city_figures.taught_map(atlantis, study["generalisation"], "ft-distance+angle-s1")
    new = study["generalisation"].query("run == 'ft-distance+angle-s1' and group == 'Atlantis'")
    diamonds = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert np.allclose(diamonds[0].get_xydata(), new[["x", "y"]])
    assert np.allclose(diamonds[1].get_xydata(), new[["predicted_x", "predicted_y"]])
    assert f"Atlantis is {new.error.mean() / 10:,.1f}° off" in texts(figure)
    world_cities = figure.axes[0].collections[0].get_offsets()
    assert len(world_cities) == 300


def test_small_maps_are_one_a_set_of_tasks_with_its_mean_error(study, atlantis):
    figure, _ = city_figures.taught_maps(atlantis, study["generalisation"], study["runs"])
    assert len(figure.axes) == 28
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    table = study["generalisation"].query("run == 'ft-distance+angle-s0' and group == 'Atlantis'")
    assert f"distance + angle: {table.error.mean() / 10:,.1f}°" in titles
    assert [title.split(":")[0] for title in titles[:7]] == list(SEVEN)
    assert all("distance" in title for title in titles[7:13])
    names = ["ft-angle-s1", "ft-distance-s0"]
    pair, _ = city_figures.taught_maps(atlantis, study["generalisation"], study["runs"], names=names)
    assert [axes.get_title(loc="left").split(":")[0] for axes in pair.axes] == ["ft-angle-s1", "ft-distance-s0"]


def test_training_curves_end_where_the_tables_do(study):
    figure, _ = figures.over_training(study["curves"], study["validation"], study["probes"], study["runs"])
    loss, r2, accuracy, error = figure.axes
    strong = [line for line in r2.lines if line.get_alpha() is None]
    probes = study["probes"].query("layer == 5")
    expected = {
        task: probes[probes.run.isin([f"pt-{task}-s0", f"pt-{task}-s1"])].groupby("rows")["r2"].mean() for task in SEVEN
    }
    for line in strong:
        task = SEVEN[colours.TASK_HUES.index(line.get_color())]
        assert np.allclose(line.get_ydata(), expected[task])
    assert len(strong) == 7 and len(r2.lines) == 7 + 14
    assert len([line for line in accuracy.lines if line.get_alpha() is None]) == 3
    assert all(line.get_ydata()[0] == pytest.approx(1) for line in error.lines)
    assert loss.get_yscale() == error.get_yscale() == "log"
    last = study["curves"].query("run == 'pt-angle-s0'")["loss"]
    assert any(len(line.get_ydata()) == 60 and np.allclose(line.get_ydata(), last) for line in loss.lines)


def test_probes_by_layer_are_the_last_checkpoints_means(study):
    figure, _ = figures.probes_by_layer(study["probes"], study["runs"])
    values = cells(figure)
    assert values.shape == (22, 4)
    last = study["probes"].sort_values("step").groupby(["run", "layer"])["r2"].last()
    assert values[2, 2] == pytest.approx((last["pt-angle-s0", 5] + last["pt-angle-s1", 5]) / 2)
    assert ticks(figure.axes[0].yaxis)[21] == "all 7 tasks"


def test_dimension_is_averaged_over_sets_of_runs_that_learned(study):
    figure, _ = figures.dimension(study["dimension"], study["runs"])
    table = study["dimension"][study["dimension"].layer == 3]
    able = study["runs"].query("kind == 'pt' and n_tasks == 1 and learned").set_index("run")["tasks"]
    sets = table[table.run.isin(able.index)].groupby(table.run.map(able))["participation_ratio"].mean()
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(sets.mean())
    assert all(name in texts(figure) for name in ("one task", "two tasks", "three tasks", "all seven tasks"))


def test_trends_are_the_tables_lines_with_published_values_beside(study):
    table = study["trends"]
    figure, _ = figures.cka_trends(
        table, study["runs"], published={("same task", 1): 0.123, ("disjoint tasks", 3): 0.456}
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"Layer {layer}" for layer in (3, 4, 5, 6)]
    lines = [line for line in figure.axes[2].lines if len(line.get_ydata()) == 3]
    wanted = table[(table.layer == 5) & (table.what == "same task")].sort_values("n_tasks")["mean"]
    assert any(np.allclose(line.get_ydata(), wanted) for line in lines)
    hollow = {
        tuple(line.get_ydata())
        for axes in figure.axes
        for line in axes.lines
        if line.get_fillstyle() == "none" and line.get_marker() not in ("_", "|")
    }
    assert hollow == {(0.123,), (0.456,)}
    assert not any(line.get_fillstyle() == "none" for line in figure.axes[1].lines)
    assert "as published" not in texts(figures.cka_trends(table, study["runs"])[0])


def test_cka_over_training_leaves_out_runs_that_did_not_learn(study):
    figure, _ = figures.cka_over_training(study["cka"], study["runs"])
    one = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 5]
    assert [line.get_xdata().tolist() for line in one] == [[0, 0.05, 0.15, 0.4, 1]] * 2
    same = [
        mean_of_pairs(study, "cka", "value", task, task, **{**PLAIN, "step_share": 0.15})
        for task in ("distance", "trianglearea", "angle", "compass", "perimeter")
    ]
    assert one[0].get_ydata()[2] == pytest.approx(np.mean(same))


def test_cka_against_improvement_has_each_pair_once(study):
    figure, _ = city_figures.cka_against_improvement(study["cka"], study["improvement"], study["runs"])
    points = np.concatenate([line.get_xydata() for line in figure.axes[0].lines])
    assert len(points) == 15  # pairs of 6 tasks, without crossing
    table = study["improvement"]
    carried = {
        (a, b): table[(table.tasks == a) & (table.task == b)]["improvement"].mean()
        for a, b in (("angle", "compass"), ("compass", "angle"))
    }
    point = (mean_of_pairs(study, "cka", "value", "angle", "compass", **PLAIN), np.mean(list(carried.values())))
    assert np.isclose(points, point).all(1).sum() == 1


def test_agreement_takes_a_pair_once_or_in_both_orders(study):
    table = study["agreement"]
    values = cells(city_figures.agreement(table, study["runs"])[0])
    assert values[0, 2] == pytest.approx(table.query("task == 'distance' and other == 'angle'")["cosine"].mean())
    order = {task: i for i, task in enumerate(SEVEN)}
    once = table[table.task.map(order) <= table.other.map(order)]
    half = cells(city_figures.agreement(once, study["runs"])[0])
    assert np.isfinite(half).all() and half[0, 2] == half[2, 0] == values[0, 2]
    alone = cells(city_figures.agreement(table, study["runs"], base="pt-all-s1")[0])
    assert (
        alone[0, 2] == table.query("base == 'pt-all-s1' and task == 'distance' and other == 'angle'")["cosine"].item()
    )


def test_every_task_is_drawn_with_a_row_and_its_answer(atlantis):
    import worldfast as wf

    figure, _ = city_figures.task_drawings(atlantis)
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes[:7]] == list(SEVEN)
    assert (
        figure.axes[4].get_title(loc="left")
        == "inside: TRUE"
        == figure.axes[6].get_title(loc="left").replace("crossing", "inside")
    )
    ids = {int(city_id): i for i, city_id in enumerate(atlantis.city_id)}
    for axes, name in zip(figure.axes, SEVEN):
        question, answer = axes.get_xlabel().replace("\n", "").split("=")
        cities = [ids[int(digits)] for digits in re.findall(r"c_(\d{4})", question)]
        label = int(wf.label(name, atlantis, np.array([cities], dtype=np.int32))[0])
        assert answer == wf.TASKS[name].answer(label)
        dots = np.concatenate([c.get_offsets() for c in axes.collections[1:3]])
        assert {tuple(xy) for xy in dots} == {tuple(xy) for xy in atlantis.xy[cities].astype(float)}


def test_a_world_without_a_row_of_some_task_says_so():
    line = World.from_array(np.stack([np.arange(50)] * 2, axis=1).astype(np.int32))
    with pytest.raises(figures.LacksRuns, match="task inside cannot be drawn in this world: row 0"):
        city_figures.task_drawings(line)
    few = World.from_array(np.arange(8, dtype=np.int32).reshape(4, 2) ** 2)
    with pytest.raises(figures.LacksRuns, match="cannot be drawn in this world"):
        city_figures.task_drawings(few)


def test_areas_and_lengths_in_words():
    assert drawings.in_words(769, "0.1 degree") == "76.9°"
    assert drawings.in_words(97037, "0.01 square degree") == "970 deg²"
    assert drawings.in_words(54, "degree") == "54°"


def test_views_over_training_turn_the_components(small):
    run = run_result(small)
    figure = figures.views_over_training(scene_of(small), run, moments=3)
    assert len(figure.axes) == 9
    points = run.components[-1]
    assert np.allclose(views.turned(points, 0, 90), points[:, :2], atol=1e-6)
    assert np.allclose(views.turned(points, 0, 0), points[:, [0, 2]], atol=1e-6)
    assert np.allclose(views.turned(points, 90, 0), points[:, [1, 2]], atol=1e-6)
    with pytest.raises(ValueError, match="moments must be at least 2, not 1"):
        figures.views_over_training(scene_of(small), run, moments=1)


def test_spread_moves_as_little_as_it_can():
    assert style.spread([0.5], 1).tolist() == [0.5]
    assert style.spread([0, 10, 5], 1).tolist() == [0, 10, 5]
    assert np.allclose(style.spread([3, 3, 3], 2), [1, 3, 5])
    assert np.allclose(style.spread([0, 0.5, 10], 1), [-0.25, 0.75, 10])
    assert len(style.spread([], 1)) == 0
    # what is moved from a bound moves nothing that has room
    assert np.allclose(style.spread([0, 0, 5, 9.5, 10], 1, 0, 10), [0, 1, 5, 9, 10])
    assert np.allclose(style.spread([1, 1, 1], 2, 0, 3), [0, 2, 4])


def test_labels_of_lines_stay_beside_their_axes():
    axes = style.paper(4, 3).subplots()
    axes.set_ylim(0, 1)
    style.end_labels(axes, [(0.97, "a", "k"), (0.98, "b", "k"), (0.99, "c", "k"), (np.nan, "d", "k")], height=2)
    style.end_labels(axes, [(0.0, "x", "k"), (0.01, "y", "k")], height=2)
    places = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert places["a"] < places["b"] < places["c"] == pytest.approx(1) and "d" not in places
    assert places["x"] == pytest.approx(0.03) and places["y"] > places["x"] + 0.06


def test_a_study_is_drawn_whole_and_each_figure_has_a_sentence(of_study, drawn):
    assert [(one.name, one.caption) for one in of_study if one.figure is None] == [
        ("patching", "the study has no table 'patching'")
    ]
    assert len({one.name for one in of_study}) == len(of_study) == len(drawn) + 1
    sections = [one.section for one in of_study]
    assert list(dict.fromkeys(sections)) == list(SECTIONS) and sections == sorted(sections, key=list(SECTIONS).index)
    for name, (_, caption) in drawn.items():
        assert caption[0].isupper() and caption.endswith("."), name
        assert "nan" not in caption and "  " not in caption, (name, caption)


def test_captions_are_computed_from_the_tables(study, drawn):
    caption = {name: text for name, (_, text) in drawn.items()}
    table = study["generalisation"]
    new = table[table.group == "Atlantis"]
    far = new.run.str.contains("distance")
    with_distance, without = new[far].error.mean(), new[~far].error.mean()
    assert f"with distance place Atlantis {with_distance / 10:.1f}° off" in caption["atlantis-maps"]
    assert f"without it {without / 10:.1f}° off (42 runs)" in caption["atlantis-maps"]
    trained = over_seeds(study["improvement"], "improvement", 1)
    inside = trained.mean[trained.marked]
    assert f"{inside.mean():.2f} ± {inside.std():.2f} where trained (n = 7 cells)" in caption["improvement-one-task"]
    one = cells(drawn["cka-one-task"][0])[:6, :6]
    assert f"{np.nanmean(np.diag(one)):.2f} between seeds of the same set of tasks (n = 5)" in caption["cka-one-task"]
    assert f"{one[np.triu_indices(6, 1)].mean():.2f} between different sets (n = 15 pairs)" in caption["cka-one-task"]
    assert "did not learn: pt-inside-s1" in caption["cka-one-task"]


def test_captions_own_up_to_the_published_errors(drawn):
    caption = {name: text for name, (_, text) in drawn.items()}
    assert "wrong cells" in caption["cka-one-task"] and "0.838 against 0.699" in caption["cka-one-task"]
    assert "wrong cells" not in caption["cka-rbf"]
    assert "failed to learn" in caption["cka-trends"]
    assert (
        "15 symmetric values twice" in caption["cka-against-improvement"]
        and "0.188" in caption["cka-against-improvement"]
    )
    assert "fixed step" in caption["cka-over-training"]


def test_captions_of_another_world_know_no_published_number(study):
    """Nor of tasks of one's own, of another group, or of runs of which nothing says it."""
    for runs in (study["runs"].assign(comparable=False), study["runs"].drop(columns="comparable")):
        of = {
            "cka": city_figures.cka(study["cka"], runs, n_tasks=1),
            "trends": city_figures.cka_trends(study["trends"], runs),
            "over training": city_figures.cka_over_training(study["cka"], runs),
            "transfer": city_figures.cka_against_improvement(study["cka"], study["improvement"], runs),
        }
        for name, (figure, caption) in of.items():
            assert "published" not in caption + texts(figure) and "paper" not in texts(figure), name


def test_no_text_stands_on_another_or_beyond_the_page(drawn):
    alike = {"cka-two-tasks", "cka-debiased", "cka-rbf", "procrustes", "mutual-knn", "atlantis-with-distance"}
    for name, (figure, _) in drawn.items():
        if name in alike:  # laid out as another that is looked at
            continue
        boxes, page = boxes_of(figure), figure.bbox
        for text, box in boxes:
            assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, (name, text)
            assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, (name, text)
        for i, (text, box) in enumerate(boxes):
            for other, there in boxes[i + 1 :]:
                wide = min(box.x1, there.x1) - max(box.x0, there.x0)
                high = min(box.y1, there.y1) - max(box.y0, there.y0)
                assert wide <= 1 or high <= 2, (name, text, other)


def test_no_panel_is_empty(drawn):
    for name, (figure, _) in drawn.items():
        for axes in figure.axes:
            parts = [*axes.lines, *axes.collections, *axes.images, *axes.patches, *axes.texts]
            assert parts, (name, axes.get_title("left"))


def test_the_numbers_of_a_figure_are_those_that_it_draws(study, drawn):
    """As a reader saves them: a matrix by its rows and columns, lines by name with their errors, bars, dots."""
    table = pd.read_csv(io.StringIO(numbers.as_csv(drawn["improvement-one-task"][0])))
    expected = study["improvement"].query("tasks == 'angle' and task == 'perimeter'")["improvement"].mean()
    cell = table.query("series == 'angle' and x == 'perimeter'")
    assert len(table) == 49 and cell["y"].item() == pytest.approx(expected, rel=1e-4)
    table = pd.read_csv(io.StringIO(numbers.as_csv(drawn["cka-trends"][0])))
    row = study["trends"].query("layer == 5 and what == 'same task' and n_tasks == 2").iloc[0]
    points = table.query("panel == 'Layer 5' and series == 'same task'").sort_values("x").dropna(subset="error")
    assert (points["y"].iloc[1], points["error"].iloc[1]) == pytest.approx((row["mean"], row.standard_error), rel=1e-4)
    table = pd.read_csv(io.StringIO(numbers.as_csv(drawn["deviation-histogram"][0])))
    assert table.groupby("panel")["y"].sum().tolist() == [42, 105]
    assert len(pd.read_csv(io.StringIO(numbers.as_csv(drawn["cka-against-improvement"][0])))) == 15


def test_every_figure_has_its_numbers(drawn):
    assert {name: off for name, (figure, _) in drawn.items() if (off := unread(figure))} == {}


def test_curves_are_those_that_a_reader_can_point_at(study, drawn):
    charts = {name: numbers.chart(figure) for name, (figure, _) in drawn.items()}
    assert {name for name, chart in charts.items() if chart} == {
        "training-one-task",
        "training-all-tasks",
        "dimension",
        "cka-trends",
        "cka-over-training",
    }
    loss, r2, accuracy, error = charts["training-one-task"]
    assert [line["name"] for line in r2["lines"] if line["name"]] == list(SEVEN) and loss["log"] == [False, True]
    angle = next(line for line in r2["lines"] if line["name"] == "angle")
    probes = study["probes"].query("layer == 5 and run.str.startswith('pt-angle-s')")
    assert np.allclose(angle["y"], probes.groupby("rows")["r2"].mean(), rtol=1e-4)
    over = charts["cka-over-training"][0]
    band = next(line for line in over["lines"] if line["name"] == "same task")
    assert over["percent"] and len(band["error"]) == 5 and max(band["error"]) > 0
    assert charts["cka-trends"][0]["names"] == [(0, "1"), (1, "2"), (2, "3")] and over["names"] == []


def test_what_is_drawn_is_read_whatever_its_shape():
    """Areas, cells that are told, levels and verticals, names of places; and what is not read is noticed."""
    figure = style.paper(4, 3)
    left, right, third = figure.subplots(1, 3)
    for axes, name in zip(figure.axes, ("left", "right", "")):
        axes.set_title(name)
    left.stackplot([1, 2], [[0.25, 0.5], [0.75, 0.5]], labels=["a", "b"], colors=["#ff0000", "#0000ff"])
    left.axhline(0.5, color="#00ff00", label="half")
    left.axvline(2, color="#00ff00")
    cell = right.fill_between([0, 1], 0, 1, color="#ff0000")
    numbers.tell(cell, "N = 4", 30, 0.9)
    third.plot([0, 1.1], [3, 4], label="line")
    third.plot([0, 0.9], [5, 6], "--", label="other")
    third.axhline(3.5, color="#00ff00", linestyle=":", label="null")
    third.set_xticks([0, 1], ["in order", "all"])
    table = pd.read_csv(io.StringIO(numbers.as_csv(figure)), dtype=str, keep_default_na=False)
    assert list(table[["series", "x", "y"]].itertuples(index=False, name=None)) == [
        *(("a", "1", "0.25"), ("a", "2", "0.5"), ("b", "1", "0.75"), ("b", "2", "0.5")),
        *(("#00ff00", "2", ""), ("half", "", "0.5"), ("N = 4", "30", "0.9")),
        *(("line", "in order", "3"), ("line", "all", "4"), ("other", "in order", "5"), ("other", "all", "6")),
        ("null", "", "3.5"),
    ]
    assert unread(figure) == [] and numbers.chart(figure) == []
    third.set_xticks([0, 1], ["64", "1,024"])
    figure.delaxes(left)
    figure.delaxes(right)
    (panel,) = numbers.chart(figure)
    null = panel["lines"][-1]
    assert panel["names"] == [(0, "64"), (1, "1,024")]
    assert (null["name"], null["x"], null["y"], null["dash"]) == ("null", [0, 1.1], [3.5, 3.5], "1.5 4")
    third.vlines([0.5], 0, 1)
    assert unread(figure) == [("", "LineCollection")]


def test_of_lines_of_one_colour_each_has_its_own_band():
    """Pairs of tasks are drawn in two colours: the error of one is not that of another."""
    axes = style.paper(4, 3).subplots()
    for name, y, error in (("one", [9, 5], [1, 2]), ("two", [8, 4], [3, 0.5]), ("none", [30, 20], None)):
        axes.plot([0, 1], y, color="#0072b2", label=name)
        if error:
            axes.fill_between([0, 1], np.subtract(y, error), np.add(y, error), color="#0072b2")
    found = {line.name: line.error for line in numbers.lines(axes)}
    assert found["one"].tolist() == [1, 2] and found["two"].tolist() == [3, 0.5] and found["none"] is None


def test_panels_of_a_grid_are_named_by_their_column_and_row():
    """Titles stand above columns and labels beside rows: each panel is told by both, in its CSV and on the page."""
    figure = style.paper(4, 3)
    grid = figure.subplots(2, 2)
    for axes in grid.flat:
        axes.plot([1, 2], [3, 4], label="line")
    grid[0, 0].set(title="N = 4", ylabel="nats,\ntrained")
    grid[0, 1].set(title="N = 8")
    grid[1, 0].set(ylabel="nats,\nfresh")
    expected = ["N = 4, nats, trained", "N = 8, nats, trained", "N = 4, nats, fresh", "N = 8, nats, fresh"]
    assert list(numbers.panels(figure).values()) == expected
    found = [(panel["title"], panel["y"]) for panel in numbers.chart(figure)]
    assert found == [(a, f"nats,\n{b}") for b in ("trained", "fresh") for a in ("N = 4", "N = 8")]


def test_no_figure_is_wider_than_a_page_or_smaller_printed_than_can_be_read(drawn):
    for name, (figure, _) in drawn.items():
        assert figure.get_size_inches()[0] <= 10.5, name
        sizes = [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip()]
        assert min(sizes) >= 6.5, name


def test_a_study_without_tables_draws_its_world_alone(study, small):
    assert list(figures_of(draw_study({}, small))) == ["world", "tasks"]
    two = study["runs"].query("n_tasks == 2")
    found = draw_study({"cka": study["cka"], "runs": two}, small)
    assert list(figures_of(found)) == ["cka-two-tasks", "cka-over-training", "world", "tasks"]
    said = {one.name: one.caption for one in found if one.figure is None}
    assert said["procrustes"] == "the study has no table 'procrustes'"
    assert said["cka-rbf"] == "the study has no pretrained runs on one task"


def test_a_study_without_fine_tunes_says_so(study, small):
    """In English, once for all figures of fine-tunes; a figure's title begins with a capital."""
    bases = study["runs"].query("kind == 'pt' and n_tasks == 2").assign(group="")
    tables = {"runs": bases, "curves": study["curves"], "world": small}
    missing = [one for one in draw_study(tables, small) if one.figure is None]
    of_tuning = [one for one in missing if one.section == "tuning"]
    assert len(of_tuning) > 7 and {one.caption for one in of_tuning} == {"the study has no fine-tunes"}
    assert "What was taught maps" in [one.title for one in of_tuning]
    said = {one.name: one.caption for one in missing}
    assert said["training"] == "no run was scored while it trained (their `validation` is 0)"
    assert said["cka-trends"].startswith("too few pretrained runs learned their tasks")


def test_a_layer_is_chosen_for_all_figures(study, atlantis):
    some = {name: study[name] for name in ("cka", "procrustes", "runs", "generalisation")}
    found = {name: figure for name, (figure, _) in figures_of(draw_study(some, atlantis, layer=3)).items()}
    assert "layer 3" in texts(found["cka-one-task"]) and "layer 3" in texts(found["procrustes"])
    assert not {"errors", "atlantis-maps"} & set(found)  # the generalisation table has layer 5 alone


def test_one_seed_alone_has_no_diagonal_and_no_errors(atlantis):
    one = tables(atlantis, seeds=(0,))
    figure, caption = figures.similarity("cka", one["cka"], one["runs"])
    values = cells(figure)
    assert np.isnan(np.diag(values)).all() and np.isfinite(values[0, 1])
    assert "±" not in texts(figure)
    assert caption.startswith("Mean CKA: 0.6") and "One seed of each." in caption


def test_values_that_are_not_there_leave_gaps(study):
    curves, improvement = study["curves"].copy(), study["improvement"].copy()
    curves.loc[curves.run == "pt-angle-s0", "loss"] = np.nan
    improvement.loc[improvement.task == "angle", "improvement"] = np.nan
    figure, _ = figures.over_training(curves, study["validation"], study["probes"], study["runs"])
    assert figure.axes[0].get_yscale() == "log"
    figure, text = city_figures.improvement(improvement, study["runs"])
    assert np.isnan(cells(figure)[:, 2]).all()
    assert "(n = 6 cells)" in text and "(n = 36 cells)" in text and "nan" not in text
    figure, _ = city_figures.cka_against_improvement(study["cka"], improvement, study["runs"])
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 10
    with pytest.raises(figures.LacksRuns, match="no pair of tasks has both"):
        city_figures.cka_against_improvement(study["cka"], improvement.assign(improvement=np.nan), study["runs"])


def test_a_matrix_too_large_for_numbers_has_a_scale():
    import itertools

    import pandas

    sets = ["+".join(three) for three in itertools.combinations(SEVEN, 3)]
    runs = pandas.DataFrame({"run": sets, "tasks": sets})
    runs = runs.assign(kind="pt", n_tasks=3, seed=0, width=128, learned=True)
    rows = [{**PLAIN, "run": a, "other": b, "value": 0.5} for a, b in itertools.combinations(sets, 2)]
    figure, _ = figures.similarity("cka", pandas.DataFrame(rows), runs, n_tasks=3)
    assert cells(figure).shape == (35, 35) and not figure.axes[0].texts
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["0.0", "0.5", "1.0"]


def test_a_broken_table_is_not_passed_over(study, small):
    with pytest.raises(ValueError, match="table 'cka': unknown column 'kernel': known: layer"):
        draw_study({"runs": study["runs"], "cka": study["cka"].drop(columns="kernel")}, small)


def test_figures_say_which_runs_a_study_lacks(study, atlantis):
    runs, table, places = study["runs"], study["cka"], study["generalisation"]
    lacks = figures.LacksRuns
    assert issubclass(lacks, ValueError)
    with pytest.raises(lacks, match="no pretrained runs on 4 tasks"):
        figures.similarity("cka", table, runs, n_tasks=4)
    with pytest.raises(lacks, match="no layer 9: it has 3, 4, 5, 6"):
        figures.similarity("cka", table, runs, layer=9)
    with pytest.raises(lacks, match="no pairs in table of values with layer 5.*components 7"):
        figures.similarity("cka", table, runs, components=7)
    with pytest.raises(lacks, match="compares no pretrained runs on one task with each other"):
        figures.similarity("cka", table[~table.run.isin(runs[runs.n_tasks == 1].run)], runs)
    with pytest.raises(lacks, match="table 'cka' has no rows"):
        figures.similarity("cka", table[:0], runs)
    with pytest.raises(lacks, match="^the study has no pretrained runs$"):
        figures.similarity("cka", table, runs[runs.kind == "ft"])
    with pytest.raises(lacks, match="no fine-tunes on three tasks"):
        city_figures.improvement(study["improvement"], runs, 3)
    with pytest.raises(lacks, match="no fine-tunes on one task"):
        city_figures.improvement(study["improvement"], runs[runs.run == "ft-nobody"])
    with pytest.raises(lacks, match="table 'deviation' has no rows"):
        city_figures.deviation(study["deviation"][:0])
    with pytest.raises(lacks, match="table 'deviation' has no rows"):
        city_figures.deviation_histogram(study["deviation"][:0])
    with pytest.raises(lacks, match="no Atlantis of run 'ft-nobody' at layer 5"):
        city_figures.taught_map(atlantis, places, "ft-nobody")
    with pytest.raises(lacks, match="no Atlantis of ft-nobody at layer 5"):
        city_figures.taught_maps(atlantis, places, runs, names=["ft-angle-s0", "ft-nobody"])
    with pytest.raises(lacks, match="no Atlantis of any run"):
        city_figures.taught_maps(atlantis, places[places.group != ATLANTIS], runs)
    with pytest.raises(lacks, match="holds no run that knows Atlantis"):
        city_figures.error_histograms(places[places.group != ATLANTIS], runs)
    with pytest.raises(lacks, match="at 1 moment of training, expected 2 or more"):
        figures.cka_over_training(table[table.step_share == 1], runs)
    with pytest.raises(lacks, match="at 0 moments of training"):
        figures.cka_over_training(table, runs.assign(learned=False))
    with pytest.raises(lacks, match="no gradient agreement with base pt-nobody"):
        city_figures.agreement(study["agreement"], runs, base="pt-nobody")
    with pytest.raises(lacks, match="table 'validation' holds no pretrained runs on one task"):
        asked = study["validation"]
        few = asked[asked.run.str.startswith("pt-all")]
        figures.over_training(study["curves"], few, study["probes"], runs)
    with pytest.raises(lacks, match="table 'probes' holds no pretrained runs"):
        figures.probes_by_layer(study["probes"].assign(run="x"), runs)
    with pytest.raises(lacks, match="no pretrained run that learned"):
        figures.dimension(study["dimension"], runs.assign(learned=False))
    with pytest.raises(lacks, match="fewer than two tasks"):
        one = study["improvement"].query("tasks == 'angle'")
        city_figures.cka_against_improvement(table, one, runs)
    with pytest.raises(ValueError, match="the table has city .*, the world has 60 cities"):
        small = World.from_array(np.arange(120, dtype=np.int32).reshape(60, 2))
        city_figures.taught_map(small, places, "ft-angle-s0")


def test_a_catalogue_knows_its_sections():
    with pytest.raises(ValueError, match="unknown section 'knows': did you mean 'know'"):
        figures.Catalogue().figure("a", "knows", "runs")
    assert all(entry.draw.__doc__ for entry in CATALOGUE.entries)


def test_sets_of_tasks_have_names_and_colours():
    seven = colours.Tasks(SEVEN)
    assert seven.label("distance+angle") == "distance + angle"
    assert seven.label("+".join(SEVEN)) == "all 7 tasks" and seven.label("+".join(SEVEN), short=True) == "all"
    assert seven.label("compass+inside", short=True) == "Co I"
    assert seven.label("a+b+c+d") == "4 tasks"
    assert seven.colour("angle") == colours.TASK_HUES[SEVEN.index("angle")]
    assert seven.colour("angle+inside") == colours.INK == seven.colour("mytask")
    assert len(set(seven.letters.values())) == 7 == len(set(seven.colours.values()))
    assert [seven.count(n) for n in (1, 3, 4, 7)] == ["one task", "three tasks", "4 tasks", "all seven tasks"]


@pytest.mark.parametrize("vision", ["full", "protanopia", "deuteranopia", "tritanopia"])
def test_signs_and_kinds_can_be_told_apart(vision):
    from worldfast.report.figures.trends import KINDS

    low, _, paper, _, high = colours.DIVERGING_STOPS
    assert min(apart(low, high, vision), apart(low, paper, vision), apart(high, paper, vision)) > 0.15
    kinds = [colour for colour, _, _ in KINDS.values()]
    assert min(apart(kinds[i], kinds[j], vision) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.07
    assert len({marker for _, marker, _ in KINDS.values()}) == 3


def test_numbers_on_cells_stand_out():
    for value in np.linspace(0, 1, 21):
        ground = colours.ramp(value)
        assert colours.legible_on(ground) in ("#ffffff", colours.INK)
    assert colours.legible_on("#ffffff") == colours.INK and colours.legible_on("#000000") == "#ffffff"


def test_study_figures_repeat_bit_for_bit(study, atlantis, tmp_path):
    for folder in "ab":
        figures.save(
            city_figures.taught_map(atlantis, study["generalisation"], "ft-angle-s0")[0], tmp_path / folder, "map"
        )
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_patching_draws_what_can_be_told():
    rows = [
        (layer, positions, task, "a", "b", 0.25 * layer + (positions == "all"), 0.05 if task == "angle" else 9.0, 200)
        for task in ("angle", "distance")
        for positions in ("included", "all")
        for layer in (0, 1, 2, 3)
    ]
    names = ["layer", "positions", "task", "source", "target", "recovered", "standard_error", "n"]
    table = pd.DataFrame(rows, columns=names)
    runs = pd.DataFrame({"run": ["a", "b"], "tasks": ["distance", "angle"], "group": ["", "Atlantis"]})
    figure, said = figures.patching(table, runs)
    assert [axes.get_title("left") for axes in figure.axes] == ["angle"]  # distance: noise
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 4]
    assert [line.get_ydata().tolist() for line in lines] == [[0, 0.25, 0.5, 0.75], [1, 1.25, 1.5, 1.75]]
    assert "half of the way at layer 2" in said and "n = 200" in said and "standard errors over rows" in said
    assert "Above 1, answers go past the source's" in said
    below = table.assign(recovered=table.recovered / 2)
    assert "Above 1" not in figures.patching(below, runs)[1]
    legend = city_figures.patching(table, runs)[0].axes[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "the tokens of new cities",
        "the question and the answer so far",
    ]
    table.loc[0, "standard_error"] = 9.0  # of one layer and position; the others tell
    assert [axes.get_title("left") for axes in figures.patching(table, runs)[0].axes] == ["angle"]
    with pytest.raises(figures.LacksRuns, match="too little"):
        figures.patching(table[table.task == "distance"], runs)
    with pytest.raises(figures.LacksRuns, match="no rows"):
        figures.patching(table[:0], runs)


def test_a_study_of_which_one_run_learned_is_drawn(study):
    """Three models as in the demo, one of which did not learn: no two that learned have as many tasks."""
    names = ["pt-distance-s0", "pt-angle-s0", "pt-all-s0"]
    runs = study["runs"][study["runs"].kind == "pt"].drop_duplicates("n_tasks").head(1)
    runs = pd.concat([runs] * 3, ignore_index=True).assign(
        run=names, tasks=["distance", "angle", "+".join(SEVEN)], n_tasks=[1, 1, 7], learned=[True, False, True]
    )
    rows = [
        (1, share, "linear", False, 0, a, b, 0.5)
        for share in (0.0, 0.5, 1.0)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
    columns = ["layer", "step_share", "kernel", "debiased", "components", "run", "other", "value"]
    cka = pd.DataFrame(rows, columns=columns)
    world = World.from_array(np.arange(40, dtype=np.int32).reshape(20, 2))
    drawn = draw_study({"runs": runs, "cka": cka}, world, 1)
    assert "world" in figures_of(drawn)
    said = {one.name: one.caption for one in drawn if one.figure is None}
    assert said["cka-over-training"] == "of the pretrained runs that learned, no two have the same number of tasks"
    with pytest.raises(figures.LacksRuns, match="no two have the same number of tasks"):
        figures.cka_over_training(cka, runs, 1)

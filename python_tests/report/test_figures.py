"""Figures: each draws for one model and several, says what it shows, and the colours can be told apart."""

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from sight import VISION, apart, beyond, difference, lab, oklab, texts
from synthetic import SEVEN, run_result, study_result

from worldfast.report import colours, figures
from worldfast.report.figures import style
from worldfast.worlds.cities.scene import REGION_COLOURS, region_colours, scene_of
from worldfast.worlds.cities.world import ATLANTIS, World

NEIGHBOURS = [
    ("North America", "Middle America"),
    ("Middle America", "South America"),
    ("Western Europe", "Eastern Europe"),
    ("Western Europe", "North Africa"),
    ("North Africa", "West and Central Africa"),
    ("North Africa", "East and Southern Africa"),
    ("North Africa", "Western Asia"),
    ("West and Central Africa", "East and Southern Africa"),
    ("Eastern Europe", "Western Asia"),
    ("Eastern Europe", "Central Asia"),
    ("Eastern Europe", "East Asia"),
    ("Western Asia", "Central Asia"),
    ("Western Asia", "South Asia"),
    ("Central Asia", "South Asia"),
    ("Central Asia", "East Asia"),
    ("South Asia", "East Asia"),
    ("South Asia", "Southeast Asia"),
    ("East Asia", "Southeast Asia"),
    ("Southeast Asia", "Oceania"),
]


def test_every_region_of_the_bundled_world_has_its_own_colour(world):
    regions = region_colours(world.with_atlantis())
    assert len(regions) == 15 and regions == REGION_COLOURS
    assert list(region_colours(world)) == list(REGION_COLOURS)[:14]


def neighbours(world: World) -> list[tuple[str, str]]:
    """Regions of which several cities lie within five degrees of the other's."""
    trees = {region: cKDTree(world.xy[world.region == region]) for region in dict.fromkeys(world.region.tolist())}
    near = {(a, b): (trees[b].query(trees[a].data)[0] <= 50).sum() for a in trees for b in trees if a != b}
    return [(a, b) for a, b in near if a < b and min(near[a, b], near[b, a]) > 1]


def test_differences_of_colours_are_those_of_their_source():
    """Pairs 1, 17 and 25 of the table of Sharma, Wu and Dalal."""
    for one, other, expected in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ):
        assert difference(np.array(one, float), np.array(other, float)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
def test_neighbours_on_the_map_differ_by_ten_at_least(vision, world):
    """As CIEDE2000 has it, on a map of the bundled cities; what is taught later differs from every region."""
    found = neighbours(world)
    assert len(found) > 18 and ("Eastern Europe", "Western Europe") in found
    pairs = found + [(ATLANTIS, region) for region in REGION_COLOURS if region != ATLANTIS]
    far = {pair: difference(*(lab(REGION_COLOURS[one], vision) for one in pair)) for pair in pairs}
    assert min(far.values()) >= 10, min(far, key=far.get)


@pytest.mark.parametrize("vision", VISION)
def test_regions_can_be_told_apart(vision):
    table = REGION_COLOURS
    assert all(apart(table[a], table[b], vision) >= 0.095 for a, b in NEIGHBOURS)
    assert all(apart(a, b, vision) >= 0.045 for a, b in itertools.combinations(table.values(), 2))


@pytest.mark.parametrize("vision", VISION)
def test_tasks_can_be_told_apart(vision):
    assert len(colours.TASK_HUES) > len(SEVEN)
    assert all(apart(a, b, vision) >= 0.07 for a, b in itertools.combinations(colours.TASK_HUES, 2))


def test_unknown_regions_get_free_colours_from_west_to_east():
    xy = np.array([[900, 0], [-900, 0], [0, 0], [1, 1]], dtype=np.int32)
    found = region_colours(World.from_array(xy, region=["right", "left", "Oceania", ATLANTIS]))
    assert list(found) == ["Oceania", ATLANTIS, "left", "right"]
    assert len(set(found.values())) == 4
    assert region_colours(World.from_array(xy)) == {"": colours.INK}


def test_more_regions_than_colours_still_have_one_each():
    xy = np.arange(80, dtype=np.int32).reshape(40, 2)
    found = region_colours(World.from_array(xy, region=[f"r{i}" for i in range(40)]))
    assert len(found) == 40


def test_runs_are_named_by_tasks_and_by_name_where_that_is_not_enough(small):
    mix = [("distance",), ("angle",), SEVEN, ("angle", "inside"), ("inside",), ("inside",)]
    styles = colours.run_styles([run_result(small, tasks, seed) for seed, tasks in enumerate(mix)])
    labels = [label for label, _, _ in styles]
    assert labels == ["distance", "angle", "all 7 tasks", "angle + inside", "pt-inside-s4", "pt-inside-s5"]
    assert styles[0][1] == colours.TASK_HUES[0] and styles[2][1] == colours.INK
    assert len({(colour, dashes) for _, colour, dashes in styles}) == len(styles)


def test_the_ramp_darkens_evenly_and_clips():
    lightness = [oklab(colours.ramp(value), "full")[0] for value in np.linspace(0, 1, 11)]
    steps = -np.diff(lightness)
    assert (steps > 0).all() and steps.max() < 2.5 * steps.min()
    assert colours.ramp(-1) == colours.CKA_STOPS[0] and colours.ramp(7) == colours.CKA_STOPS[-1]


@pytest.mark.parametrize("models", [1, 3])
def test_every_figure_draws_and_says_its_numbers(world, models, tmp_path):
    tasks = [("distance",), ("angle",), SEVEN][:models]
    runs = [run_result(world, t, seed) for seed, t in enumerate(tasks)]
    result = study_result(world, runs)
    names = [label for label, _, _ in colours.run_styles(runs)]
    drawn = {
        "world": figures.world_map(scene_of(world))[0],
        "training": figures.training(scene_of(world), runs),
        "learned": figures.learned_map(scene_of(world), runs[-1]),
        "film": figures.learned_map(scene_of(world), runs[-1], moments=4),
        "cka": figures.cka_matrix(result.cka, names, result.cka_layer),
        "pca": figures.pca(scene_of(world), runs[-1]),
    }
    held = f"{runs[-1].held_out.sum():,}"
    assert "5,075 cities in 14 regions" in texts(drawn["world"])
    assert held in texts(drawn["training"]) and all(name in texts(drawn["training"]) for name in names)
    assert f"R² {runs[-1].r2[-1].mean():.2f}" in texts(drawn["learned"]) and held in texts(drawn["learned"])
    assert f"{runs[-1].error[-1] / 10:.1f}°" in texts(drawn["learned"])
    assert len(drawn["film"].axes) == 4 and "0 rows" in texts(drawn["film"]) and "400k rows" in texts(drawn["film"])
    assert texts(drawn["cka"]).count("1.00") == models and "layer 2" in texts(drawn["cka"])
    assert "component 1 (40%)" in texts(drawn["pca"])
    for name, figure in drawn.items():
        png, svg = figures.save(figure, tmp_path / "figures", name, origin="run & <seed> 42")
        assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        ElementTree.parse(svg)
    assert len(list((tmp_path / "figures").iterdir())) == 2 * len(drawn)  # and no partial file


LONG = "country in [JP] and region == Arm A or population > 1_000_000 and not region == The Far Side"


def test_no_title_is_cut_however_long_the_names(small):
    long = run_result(small, ("distance_with_a_long_name", "angle_with_a_long_name", "another_long_name"), name=LONG)
    runs, scene = [long, replace(long, tasks=("angle",))], replace(scene_of(small), many="settlements of all kinds")
    for figure in (
        figures.world_map(scene)[0],
        figures.learned_map(scene, long),
        figures.learned_map(scene, long, moments=3),
        figures.views_over_training(scene, long, moments=2),
        figures.aligned_maps(scene, runs)[0],
        figures.pca(scene, long),
    ):
        assert not beyond(figure)


def test_a_text_is_broken_where_it_is_too_wide():
    assert style.fitted("a few words", 9, 12) == "a few words"
    lines = style.fitted("word " * 30 + "x" * 80, 3, 12).split("\n")
    assert len(lines) > 5 and "".join(lines).replace(" ", "") == "word" * 30 + "x" * 80
    assert all(style._inches(line, 12) <= 3.05 for line in lines)


def test_saved_figures_carry_their_origin_and_repeat_bit_for_bit(small, tmp_path):
    from PIL import Image

    first = figures.save(figures.world_map(scene_of(small))[0], tmp_path / "a", "map", origin="spec 123, commit abc")
    again = figures.save(figures.world_map(scene_of(small))[0], tmp_path / "b", "map", origin="spec 123, commit abc")
    assert Image.open(first[0]).text["Description"] == "spec 123, commit abc"
    assert "spec 123, commit abc" in first[1].read_text()
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_figures_leave_the_callers_style_alone(small):
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0, "axes.titlelocation": "right"}):
        figure = figures.world_map(scene_of(small))[0]
        assert matplotlib.rcParams["font.size"] == 31.0
    assert figure.axes[0].get_title(loc="left").startswith("The world: 60 cities")


def test_a_window_shows_every_city_and_is_the_same_for_truth_and_prediction(small):
    truth, learned = figures.learned_map(scene_of(small), run_result(small)).axes
    assert truth.get_xlim() == learned.get_xlim() and truth.get_ylim() == learned.get_ylim()
    assert truth.get_xlim()[0] < small.xy[:, 0].min() and small.xy[:, 1].max() < truth.get_ylim()[1]


def test_other_planes_speak_no_degrees():
    plane = World.from_array(np.array([[0, 0], [2**20, 5], [9, -(2**20)]], dtype=np.int32))
    assert scene_of(plane).distance(41.3) == "41" and scene_of(plane).distance(np.nan) == "–"
    assert scene_of(World.cities()).distance(41.3) == "4.1°"
    assert "°" not in texts(figures.learned_map(scene_of(plane), run_result(plane)))


def test_a_run_that_failed_is_drawn_with_gaps(small):
    broken = run_result(small, loss=np.full(100, np.nan), r2=np.full((9, 2), np.nan), error=np.full(9, np.nan))
    assert "distance" in texts(figures.training(scene_of(small), [broken, run_result(small, ("angle",))]))
    assert "median error –" in texts(figures.learned_map(scene_of(small), broken))


def test_running_mean_keeps_levels_and_flattens_noise():
    assert np.allclose(figures.running_mean(np.full(200, 3.0)), 3)
    noisy = np.random.default_rng(0).normal(size=4000)
    assert figures.running_mean(noisy).std() < 0.2
    assert figures.running_mean(np.array([5.0])).tolist() == [5.0]
    assert len(figures.running_mean(np.zeros(0))) == 0


def test_short_count():
    assert [figures.short_count(v) for v in (0, 950, 46_080, 1_843_200, 2e9)] == ["0", "950", "46.1k", "1.84M", "2B"]


def test_what_figures_refuse(small, tmp_path):
    run = run_result(small)
    with pytest.raises(ValueError, match="runs is empty"):
        figures.training(scene_of(small), [])
    with pytest.raises(ValueError, match="names is empty"):
        figures.cka_matrix(np.zeros((0, 0)), [])
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(3, 3\)"):
        figures.cka_matrix(np.eye(2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="moments must be at least 1, not 0"):
        figures.learned_map(scene_of(small), run, moments=0)
    with pytest.raises(IndexError, match="checkpoint 9 of a run with 9"):
        figures.pca(scene_of(small), run, checkpoint=9)
    for draw in (figures.learned_map, figures.pca):
        with pytest.raises(ValueError, match="has 60 cities, the world has 5075"):
            draw(scene_of(World.cities()), run)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="folder"):
        figures.save(figures.world_map(scene_of(small))[0], tmp_path / "file", "map")

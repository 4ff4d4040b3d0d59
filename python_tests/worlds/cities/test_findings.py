"""What is said of a study, and what stands beside the published numbers, from planted tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import SEVEN, evaluation, run_result

import worldfast as wf
from worldfast.report import report
from worldfast.worlds.cities import Dataset, findings, studies
from worldfast.worlds.cities.scene import scene_of
from worldfast.worlds.cities.tables import comparable, learned, taught_errors, unlearned
from worldfast.worlds.cities.tasks import TASKS


def scores(run, **values):
    rows = [(run, task, "standard", value, 0.5 if TASKS[task].answers else 300.0) for task, value in values.items()]
    return {"evaluation": pd.DataFrame(rows, columns=["run", "task", "group", "value", "constant"])}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"distance": 199, "inside": 0.68}, True),  # a third of the way in both
        ({"distance": 201, "inside": 0.68}, False),
        ({"distance": 199, "inside": 0.66}, False),
    ],
)
def test_a_run_has_learned_when_it_answers_each_of_its_tasks(values, expected):
    run = wf.Run(Dataset(("distance", "inside")))
    assert learned(run, scores(run.name, angle=999, **values)) is expected  # angle is none of its tasks


def test_the_tasks_that_a_run_did_not_learn_are_named():
    run = wf.Run(Dataset(("distance", "inside", "angle")))
    assert unlearned(run, scores(run.name, distance=201, inside=0.68, angle=250)) == ["distance", "angle"]
    assert unlearned(run, scores(run.name, distance=199, inside=0.68, angle=150)) == []


def test_without_answers_a_map_is_what_counts():
    run = wf.Run(Dataset("distance"))
    columns = ["run", "layer", "step", "r2"]
    probes = pd.DataFrame([(run.name, 5, 0, 0.9), (run.name, 5, 9, 0.4), (run.name, 6, 9, 0.6)], columns=columns)
    assert learned(run, {"probes": probes})
    assert not learned(run, {"probes": probes[probes.layer == 5]})  # at the last checkpoint


def test_the_best_constant_answer():
    assert TASKS["distance"].constant(np.array([0, 10, 100])) == pytest.approx(100 / 3)  # 10, the median
    assert TASKS["inside"].constant(np.array([1, 1, 0, 1])) == 0.75


@pytest.fixture(scope="module")
def planted():
    """The canon's fine-tunes at two seeds; Atlantis 100 off without distance, 500 off with it, old cities 20."""
    spec = studies.mini()
    runs = pd.DataFrame(
        [
            (
                run.name,
                "ft" if run.start else "pt",
                "+".join(run.data.tasks),
                len(run.data.tasks),
                run.seed,
                "finished",
                True,
            )
            for run in spec.runs
        ],
        columns=["run", "kind", "tasks", "n_tasks", "seed", "status", "learned"],
    )
    rows = []
    for run in spec.runs:
        for group, error in (
            ("fitted", 1.0),
            ("held out", 20.0),
            ("Atlantis", 500.0 if "distance" in run.data.tasks else 100.0),
        ):
            layer = spec.layer
            rows += [(run.name, layer, group, error - 1), (run.name, layer, group, error + 1)]
            rows.append((run.name, layer + 1, group, 9999.0))
    table = pd.DataFrame(rows, columns=["run", "layer", "group", "error"])
    deviation = [
        (run.name, "+".join(run.data.tasks), run.seed, task, -0.2 if "distance" in run.data.tasks else 0.1)
        for run in spec.runs
        if run.start and len(run.data.tasks) == 2
        for task in TASKS
    ]
    deviation = pd.DataFrame(deviation, columns=["run", "tasks", "seed", "task", "deviation"])
    return spec, {"runs": runs, "generalisation": table, "deviation": deviation}


def test_atlantis_with_and_without_distance(planted):
    spec, tables = planted
    errors = taught_errors(spec, tables)
    assert len(errors) == 56 and errors.distance.sum() == 2 * (1 + 6)
    assert set(errors[errors.distance].error) == {500} and set(errors[~errors.distance].error) == {100}
    first, second, third = findings._of_taught(spec, tables)
    assert "10.0 degrees off on average (42 fine-tunes)" in first and "50.0 degrees off (14 fine-tunes)" in first
    assert "Held-out cities of the old world are 2.0 degrees off" in first
    assert "by \u22120.20 \u00b1 0.00 with distance among them and by +0.10 \u00b1 0.00 without, not clipped" in third
    assert "clipped to" not in third
    both = tables | {"deviation_clipped": tables["deviation"].assign(deviation=tables["deviation"].deviation / 2)}
    (said,) = findings._of_deviation(both)
    assert (
        "with both clipped to 0 to 1.5, \u22120.10 \u00b1 0.00 and +0.05 \u00b1 0.00 (standard errors over seeds)"
        in said
    )
    (said,) = findings._of_deviation({"deviation": tables["deviation"].query("seed == 42")})
    assert said.endswith("by \u22120.20 with distance among them and by +0.10 without, not clipped, as published.")


def test_the_best_and_the_worst_set_of_tasks_are_those_of_means_over_seeds(planted):
    """One seed of perimeter is the best fine-tune of all, and one of angle the worst: neither is the best set."""
    spec, tables = planted
    table = tables["generalisation"].copy()
    moved = {"ft-perimeter-s42": -90, "ft-perimeter-s43": 390, "ft-angle-s42": 500, "ft-angle-s43": -50}
    late = table.group == "Atlantis"
    table.loc[late, "error"] += table.run[late].map(moved).fillna(0) - table.run[late].eq("ft-inside-s42") * 20
    _, order, *_ = findings._of_taught(spec, tables | {"generalisation": table})
    assert order.startswith(
        "Atlantis lies best on the map of the models taught it by inside (9.0 degrees off, on average)"
    )
    only = tables["runs"].tasks == "perimeter"
    alone = tables | {"runs": tables["runs"][only], "generalisation": table}
    assert not [
        one for one in findings._of_taught(spec, {k: alone[k] for k in ("runs", "generalisation")}) if "best" in one
    ]


def test_one_fine_tune_is_one(planted):
    assert findings._fine_tunes([1.0]) == "1 fine-tune" and findings._fine_tunes([]) == "0 fine-tunes"


def test_beside_the_published(planted):
    spec, tables = planted
    found = {one.what: one for one in findings._generalisation(spec, tables)}
    one = found["mean error of a probe fitted on the old world: Atlantis, fine-tunes with distance"]
    assert (one.ours, one.ours_n, one.counted) == (500, 14, "fine-tune") and one.published == 508.3
    found = {one.what: one for one in findings._integration(tables)}
    one = found["two-task fine-tunes: deviation from the best teacher, with distance"]
    assert (one.ours, one.ours_n, one.counted) == (
        pytest.approx(-0.2),
        2,
        "seed",
    )  # seeds were repeated, cells were not
    assert one.published == -0.185 and one.difference == pytest.approx(-0.015)


def in_another_world(path):
    """Every city of the bundled world, one of them moved by 0.1 degree, in a file."""
    world = wf.World.cities()
    rows = zip(world.xy.tolist(), world.city_id.tolist(), world.region.tolist())
    lines = [f"{x + (city_id == 8132)},{y},{city_id},{region}" for (x, y), city_id, region in rows]
    path.write_text("\n".join(["x,y,city_id,region", *lines]))
    return wf.WorldSpec(str(path), atlantis=100)


@wf.task("westward", cities=2)
def westward(xy):
    return abs(xy[:, 0, 0] - xy[:, 1, 0])


def test_published_numbers_stand_beside_a_study_of_their_kind_alone(planted, tmp_path):
    """Another world, a task of one's own, another group, or a pretrained model that never saw Oceania: none."""
    recipe = studies.Recipe(amount={1: (1000, 1)})
    base = recipe.pretrain("distance", 0)
    alike = [
        [base],
        [base, recipe.finetune(base, "angle")],
        [recipe.pretrain("distance", 0, among=None)],
        [recipe.pretrain("distance", 0, world=wf.WorldSpec(largest=500))],
    ]
    moved = in_another_world(tmp_path / "world.csv")
    unlike = [
        [recipe.pretrain("distance", 0, world=moved)],
        [base, recipe.pretrain(westward, 0)],
        [base, recipe.finetune(base, "angle", group="region == 'Oceania'")],
        [recipe.pretrain("distance", 0, among="region != 'Oceania'")],
    ]
    for i, runs in enumerate([*alike, *unlike]):
        study = studies.Study("one", runs, layer=5)
        assert comparable(study) is (i < len(alike)), runs
    spec, tables = planted
    assert comparable(spec)
    assert not list(findings.comparisons(spec, tables | {"runs": tables["runs"].assign(comparable=False)}))


def test_the_page_names_geonames_as_the_source_of_its_own_cities_alone(tmp_path):
    ours, theirs = wf.World.cities().with_atlantis(), wf.World.from_array(np.arange(8, dtype=np.int32).reshape(4, 2))
    of = {world: "".join(text for text, _ in scene_of(world).sources) for world in (ours, theirs)}
    assert "GeoNames" in of[ours] and "GeoNames" not in of[theirs]
    assert all(text.endswith("arXiv 2602.00533.") for text in of.values())


def test_failures_are_named(planted):
    _, tables = planted
    runs = tables["runs"].copy().assign(unlearned="")
    runs.loc[0, ["learned", "unlearned"]] = False, "distance+inside"
    runs.loc[1, ["learned", "status"]] = False, "diverged"
    said = findings.of_failures({"runs": runs, "evaluation": None})
    assert "pt-distance-s42 (distance, inside);" in said[0] and "pt-distance-s43 (diverged)" in said[1]
    assert "pt-distance-s43" not in said[0] and said[0].endswith("count in averages all the same.")
    assert "Fine-tunes" not in findings.of_failures({"runs": runs[runs.kind == "pt"], "evaluation": None})[0]


def test_figures_are_of_the_canon():
    runs = pd.DataFrame({"run": ["a", "b", "c"], "canon": [True, True, False]})
    pairs = pd.DataFrame({"run": ["a", "a", "b"], "other": ["b", "c", "c"], "value": [1.0, 2.0, 3.0]})
    agreement = pd.DataFrame({"base": ["a"], "task": ["angle"], "other": ["inside"]})  # other is no run here
    kept = report._canon({"runs": runs, "cka": pairs, "agreement": agreement, "probes": runs})
    assert (
        kept["cka"].value.tolist() == [1.0] and kept["runs"].run.tolist() == ["a", "b"] == kept["probes"].run.tolist()
    )
    assert len(kept["agreement"]) == 1
    assert list(report._canon({"cka": pairs})) == ["cka"]


def of_seeds(world, n, **changes):
    """Films of models of all tasks, one a seed; the last one's R2 and error as given."""
    films = [run_result(world, SEVEN, seed, checkpoints=3) for seed in range(n)]
    films = [replace(film, scores={"compass": 0.9 + film.spec["seed"] / 50}) for film in films]
    runs = pd.DataFrame({"run": [film.name for film in films], "tasks": "+".join(SEVEN), "learned": True})
    tables = {"runs": runs, "evaluation": evaluation()}
    return [*films[:-1], replace(films[-1], **changes)], 0.5 * np.eye(n) + 0.5, tables


def test_seeds_of_one_model_are_said_as_ranges(small):
    films, cka, tables = of_seeds(
        small, 3, r2=np.array([[0, 0], [0.8, 0.9], [0.81, 0.97]]), error=np.array([9, 9, 42.0])
    )
    films[0] = replace(films[0], r2=np.array([[0, 0], [0.1, 0.2], [0.91, 0.93]]), error=np.array([9, 9, 31.0]))
    films[1] = replace(films[1], r2=np.array([[0, 0], [0.1, 0.2], [0.85, 0.95]]), error=np.array([9, 9, 35.0]))
    map_, r2, alike, answers = findings._of_films(films, cka, tables)
    assert "each of 3 models trained on all seven tasks has learned a map" in map_
    assert "lie within 3.1 to 4.2 degrees" in map_
    assert r2 == (
        "All seven tasks (3 seeds): R² 0.81 to 0.91 for x and 0.93 to 0.97 for y, nine tenths of it after 50% to 100% of "
        "training."
    )
    assert alike == "Models of 3 seeds arrange the cities alike: linear CKA 0.50 (3 pairs)."
    assert "on average over 3: compass 92% right" in answers
    tables["runs"].loc[1, "learned"] = False  # which is left out of averages
    assert [*findings._of_films(films, cka, tables)] == [map_, r2, alike]


def test_one_pair_is_no_pairs(small):
    """Two models of other tasks are one pair, and two seeds of one are; three models of other tasks are three pairs."""
    films, cka, tables = of_seeds(small, 2)
    assert any(one.endswith(": linear CKA 0.50 (1 pair).") for one in findings._of_films(films, cka, tables))
    films = [replace(film, tasks=SEVEN[i : i + 2]) for i, film in enumerate(of_seeds(small, 3)[0])]
    (said,) = (one for one in findings._of_films(films[:2], cka, tables) if "CKA" in one)
    assert said.startswith("The one pair of models, ") and said.endswith(", has linear CKA 0.50.")
    (said,) = (one for one in findings._of_films(films, 0.5 * np.eye(3) + 0.5, tables) if "CKA" in one)
    assert (
        said.startswith("Of 3 pairs of models, ")
        and "arrange the cities most alike: linear CKA 0.50; the least" in said
    )


def test_no_sentence_on_seeds_contradicts_another(small):
    """One of two seeds without a map: there is no sentence that says all have one, and it is counted."""
    blind = np.full((3, 2), 0.1)
    films, cka, tables = of_seeds(small, 2, r2=blind)
    said = list(findings._of_films(films, cka, tables))
    assert not any("learned a map" in one for one in said)
    assert "no map that a linear probe can read in 1 of 2 seeds" in said[0]
    alone = list(findings._of_films([replace(films[0], r2=blind)], np.eye(1), tables))
    assert "no map that a linear probe can read." in alone[0] and "seeds" not in alone[0]


def test_taught_by_several_seeds(planted):
    spec, tables = planted
    table = tables["generalisation"].copy()
    of = dict(zip(tables["runs"].run, tables["runs"].seed))
    late = (table.group == "Atlantis") & (table.run.map(of) == 43)
    table.loc[late, "error"] += 50
    first = next(findings._of_taught(spec, tables | {"generalisation": table}))
    assert "12.5 degrees off on average (42 fine-tunes), from 10.0 to 15.0; with distance among the tasks" in first
    assert "52.5 degrees off (14 fine-tunes), from 50.0 to 55.0." in first
    assert first.endswith("It is nearer to its place without distance in 2 of 2 seeds.")


def test_taught_at_one_prompt(planted):
    """At another prompt distance leaves what was taught only twice as far off; one prompt alone says nothing."""
    spec, tables = planted
    errors = taught_errors(spec, tables)
    held = errors.assign(group="held out", error=9999.0)
    prompts = [
        errors.assign(prompt=one, error=errors.error / (1 + errors.distance * share))
        for one, share in (("distance", 0.0), ("angle", 1.5))
    ]
    prompts = pd.concat([*prompts, held.assign(prompt="angle")])[["run", "prompt", "group", "error"]]
    first = next(findings._of_taught(spec, tables | {"prompts": prompts}))
    assert first.endswith("it is 2.0 to 5.0 times as far off with distance as without (2 prompts).")
    alone = next(findings._of_taught(spec, tables | {"prompts": prompts[prompts.prompt == "distance"]}))
    assert alone == next(findings._of_taught(spec, tables))

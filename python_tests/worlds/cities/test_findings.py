"""What is said of a study, and what stands beside the published numbers, from planted tables."""

import numpy as np
import pandas as pd
import pytest

import worldfast as wf
from worldfast.report import report
from worldfast.worlds.cities import Dataset, findings, studies
from worldfast.worlds.cities.tables import learned, taught_errors
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
            rows += [(run.name, 2, group, error - 1), (run.name, 2, group, error + 1), (run.name, 3, group, 9999.0)]
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
    assert "by -0.20 with distance among them and by +0.10 without" in third


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


def test_failures_are_named(planted):
    _, tables = planted
    runs = tables["runs"].copy()
    runs.loc[0, "learned"] = False
    runs.loc[1, "status"] = "diverged"
    said = findings._of_failures({"runs": runs, "evaluation": None})
    assert "pt-distance-s42" in said[0] and "pt-distance-s43 (diverged)" in said[1]


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

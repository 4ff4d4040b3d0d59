"""Runs that start from others: the right weights, one ensemble, the right order, and what is said of a start
that does not fit.
"""

import json
from dataclasses import fields, replace

import pytest
import torch
from tiny import TINY, UNREAD

import worldfast as wf
from worldfast import checkpoint, errors, files
from worldfast.outcome import outcome
from worldfast.run import OpenCheckpoint
from worldfast.training import train
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.components import Component

BASE = replace(UNREAD, data=Dataset("angle", rows=64), seed=3, name="")  # 4 steps
DATA = {field.name for field in fields(Dataset)}
OLD, NEW = "region != 'Atlantis'", "region == 'Atlantis'"


def fine_tune(base, *tasks, **changes):
    """As the fine-tunes of arXiv 2602.00533, a thousandth of the rows."""
    mixture = [
        Component(task, n, among, group) for task in tasks for n, among, group in ((20, OLD, None), (100, None, NEW))
    ]
    mixture += [Component(task, 2, None, NEW, first=100) for task in wf.TASKS]
    world = wf.WorldSpec(atlantis=100)
    about = {"tasks": tasks, "rows": Dataset.rows, "world": world, "mixture": tuple(mixture)}
    about |= {name: changes.pop(name) for name in ("vocabulary",) if name in changes}
    options = dict(start=base, batch=64, learning_rate=1e-3, name="")
    return replace(base, data=replace(base.data, **about), **(options | changes))


TUNES = [fine_tune(BASE, "distance"), fine_tune(BASE, "distance", "inside"), fine_tune(BASE, "compass", seed=4)]


def last(folder, step=None):
    """The tensors of a run's last checkpoint."""
    run = json.loads((folder / "spec.json").read_text())["id"]
    return checkpoint.newest(folder / "checkpoint", run).tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def first_weights(folder):
    return checkpoint.of_step(folder / "checkpoint", 0, folder.name[-12:]).tensors["parameters"]


def test_fine_tunes_of_a_base_are_one_ensemble_and_each_is_as_if_alone(tmp_path):
    """The base is trained first, wherever it stands in the list; the fine-tunes begin with its last weights,
    fresh moments and the bits that each has when it is trained alone, later.
    """
    folders = train([TUNES[0], BASE, *TUNES[1:]], tmp_path, progress=False)
    base = folders.pop(1)
    for folder, run in zip(folders, TUNES):
        assert folder.name.startswith("ft-")
        assert torch.equal(first_weights(folder), last(base)["parameters"])
        assert not checkpoint.of_step(folder / "checkpoint", 0, run.id).tensors["exp_avg"].any()
        assert not torch.equal(last(folder)["parameters"], last(base)["parameters"])
    train(BASE, tmp_path / "alone", progress=False)
    for folder, run in zip(folders, TUNES):
        (alone,) = train(run, tmp_path / "alone", progress=False)
        assert same(last(alone), last(folder))


def test_a_start_is_found_by_what_it_is_not_by_its_name(tmp_path):
    train(replace(BASE, name="renamed"), tmp_path, progress=False)
    (folder,) = train(TUNES[0], tmp_path, progress=False)
    assert torch.equal(first_weights(folder), last(tmp_path / f"renamed-{BASE.id}")["parameters"])


def test_a_chain_of_starts(tmp_path):
    again = fine_tune(TUNES[0], "crossing")
    folders = train([again, TUNES[0], BASE], tmp_path, progress=False)
    assert torch.equal(first_weights(folders[0]), last(folders[1])["parameters"])


def test_an_open_checkpoint_as_a_start(tmp_path):
    """The same weights by either way, and an identity that is the content's: the folder may move."""
    (base,) = train(BASE, tmp_path, progress=False)
    folder = wf.export_huggingface(base, tmp_path / "open")
    run = fine_tune(BASE, "distance", start=OpenCheckpoint(folder))
    moved = fine_tune(BASE, "distance", start=OpenCheckpoint(folder.rename(tmp_path / "moved")))
    assert run.id == moved.id != TUNES[0].id and run.name == "ft-distance-s3"
    assert wf.Run.from_json(json.loads(json.dumps(moved.to_json()))) == moved
    by_run, by_folder = train([TUNES[0], moved], tmp_path, progress=False)
    assert same(last(by_run), last(by_folder))


# ---- identity ----


def test_a_start_is_part_of_the_identity_and_its_name_is_not():
    other = fine_tune(replace(BASE, seed=9), "distance")
    assert len({run.id for run in (*TUNES, other)}) == 4
    assert fine_tune(replace(BASE, name="mine"), "distance").id == TUNES[0].id
    assert [run.name for run in TUNES] == ["ft-distance-s3", "ft-distance+inside-s3", "ft-compass-s4"]
    for run in TUNES:
        back = wf.Run.from_json(json.loads(json.dumps(run.to_json())))
        assert back == run and back.id == run.id and hash(back) == hash(run)


def test_the_mixture_of_a_published_fine_tune():
    """121,792 rows x 30 epochs are 28,560 steps; rows to keep the tasks alive are none of those that
    teach.
    """
    mixture = (
        Component("distance", 20_000, OLD),
        Component("distance", 100_000, None, NEW),
        *(Component(task, 256, None, NEW, 100_000) for task in wf.TASKS),
    )
    run = wf.Run(Dataset("distance", mixture=mixture, world=wf.WorldSpec(atlantis=100)), epochs=30)
    assert (run.epoch_rows, run.steps) == (121_792, 28_560)
    batch = run.stream().rectangle(0, run.epoch_rows)
    atlantis = run.data.world.build().select(NEW)
    includes = (atlantis[batch.cities] & (batch.cities >= 0)).any(1)
    assert includes.sum() == 100_000 + 7 * 256
    distance = batch.cities[batch.task == wf.TASKS["distance"].index][:, :2]
    assert len({tuple(sorted(pair)) for pair in distance.tolist()}) == 120_256


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"mixture": ("distance",)}, TypeError, "mixture: expected Components, got 'distance'"),
        (
            {"mixture": lambda: (Component("distance", 0),)},
            ValueError,
            "mixture: rows of distance: expected at least 1, got 0",
        ),
        (
            {"mixture": lambda: (Component("distance", 2.0),)},
            TypeError,
            "mixture: rows of distance: expected an integer",
        ),
        (
            {"mixture": lambda: (Component("distance", 2, first=-1),)},
            ValueError,
            "mixture: first of distance: .*got -1",
        ),
        (
            {"mixture": (Component("distance", 2, among=[True]),)},
            TypeError,
            "mixture: among of distance: expected an exp",
        ),
        ({"mixture": (Component("distnace", 2),)}, ValueError, "unknown task 'distnace': did you mean 'distance'"),
        ({"mixture": (Component("angle", 2),)}, ValueError, "mixture: it has no rows of distance"),
        ({"mixture": (Component("distance", 2),), "rows": 5}, ValueError, "rows and among: a mixture says"),
        ({"mixture": (Component("distance", 2),), "among": OLD}, ValueError, "rows and among: a mixture says"),
        ({"start": "runs/base"}, TypeError, "start: expected a Run, an OpenCheckpoint or None, got 'runs/base'"),
        ({"start": BASE}, ValueError, "start: 'pt-angle-s3' has model.hidden 16, this run 128"),
        (
            {"start": BASE, "model": TINY, "vocabulary": "entity"},
            ValueError,
            "start: 'pt-angle-s3' has the vocabulary 'character', this run 'entity'",
        ),
    ],
)
def test_runs_that_do_not_fit(options, error, message):
    options = dict(options)
    with pytest.raises(error, match=message):
        about = {name: options.pop(name) for name in DATA if name in options}
        about = {name: value() if callable(value) else value for name, value in about.items()}
        wf.Run(Dataset("distance", **about), **options)


@pytest.mark.parametrize("options", [{"rows": -4}, {"rows": 2, "first": -1}, {"rows": 2, "noise": 1.0}])
def test_a_component_is_refused_where_it_is_made(options):
    name, value = list(options.items())[-1]
    with pytest.raises(ValueError, match=f"mixture: {name} of distance: expected .*, got {value}"):
        Component("distance", **options)


# ---- starts that cannot be ----


def untouched(out, *runs):
    return not any((out / run.folder_name).exists() for run in runs)


def test_a_start_that_is_not_trained(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"start: 'pt-angle-s3' .* from which 'ft-distance-s3' starts, .*train it first"
    ):
        train([replace(BASE, seed=8), TUNES[0]], tmp_path, progress=False)
    assert untouched(tmp_path, replace(BASE, seed=8), TUNES[0])


def test_a_start_with_other_entities(tmp_path):
    """Characters are the same in every world; with a token a city, worlds must have as many."""
    entities = replace(BASE, data=replace(BASE.data, vocabulary="entity"))
    with pytest.raises(
        ValueError, match="'pt-angle-s3' has a vocabulary of 5,173 tokens, 'ft-distance-s3' one of 5,273"
    ):
        train([entities, fine_tune(entities, "distance")], tmp_path, progress=False)
    assert untouched(tmp_path, entities)


def test_a_start_that_diverged(tmp_path):
    """In one call its fine-tunes wait to the end, when all others have ended; then it is said at once."""
    wild = replace(BASE, learning_rate=1e30)
    stuck = fine_tune(wild, "distance")
    with pytest.raises(
        RuntimeError, match="all other runs have ended, but .*diverged: 'ft-distance-s3' from 'pt-angle-s3'"
    ):
        train([wild, stuck, BASE, TUNES[1]], tmp_path, progress=False)
    for run in (BASE, TUNES[1]):
        assert json.loads((tmp_path / run.folder_name / "done").read_text())["status"] == "finished"
    assert not (tmp_path / stuck.folder_name / "done").exists()
    with pytest.raises(ValueError, match="start: 'pt-angle-s3', from which 'ft-distance-s3' starts, diverged"):
        train(stuck, tmp_path, progress=False)


def test_how_far_a_run_has_come(tmp_path):
    """One question for all: what waits, what may begin, what never can, along a chain of starts."""
    first = fine_tune(BASE, "distance")
    last = fine_tune(first, "angle")
    asked = lambda: [outcome(run, tmp_path).status for run in (BASE, first, last)]  # noqa: E731
    assert asked() == ["open", "waiting", "waiting"]
    folder = tmp_path / f"renamed-{BASE.id}"
    folder.mkdir()
    record = {"run": BASE.id, "seconds": 0.5, "metrics": {"bytes": 0, "crc32": 0}}
    files.write_json(folder / "done", record | {"status": "finished", "step": 3})
    assert asked() == ["open", "open", "waiting"]  # a start is known by its id, a run by its own folder
    folder = folder.rename(tmp_path / BASE.folder_name)
    assert outcome(BASE, tmp_path) == ("finished", 3, 0.5)
    files.write_json(folder / "done", record | {"status": "diverged", "step": 2})
    assert asked() == ["diverged", "barred", "barred"]
    assert [outcome(run, tmp_path).settled for run in (BASE, first, last)] == [True] * 3


def test_a_start_whose_checkpoint_is_damaged(tmp_path):
    """An older checkpoint of it would be another start: this is an error, not a warning."""
    (base,) = train(BASE, tmp_path, progress=False)
    newest = max((base / "checkpoint").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(errors.DamagedError, match=newest.name):
        train(TUNES[0], tmp_path, progress=False)


def test_open_checkpoints_that_do_not_fit(tmp_path):
    (base,) = train(BASE, tmp_path, progress=False)
    start = OpenCheckpoint(wf.export_huggingface(base, tmp_path / "open"))
    with pytest.raises(ValueError, match="start: '.*open' has model.layers 1, this run 2"):
        train(fine_tune(BASE, "angle", start=start, model=replace(TINY, layers=2)), tmp_path, progress=False)
    with pytest.raises(ValueError, match="start: '.*open' has a vocabulary of 98 tokens, 'ft-angle-s3' one of 5,273"):
        train(fine_tune(BASE, "angle", start=start, vocabulary="entity"), tmp_path, progress=False)
    run = fine_tune(BASE, "angle", start=start)
    path = tmp_path / "open" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="model.safetensors has changed: SHA-256"):
        train(run, tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        OpenCheckpoint(tmp_path / "nowhere")

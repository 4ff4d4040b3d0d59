"""Gradient agreement: gradients against transformers' autograd in float64, cosines against ones written out."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from qwen import qwen2

import worldfast as wf
from worldfast.capture import Capture
from worldfast.folder import opened as opened_
from worldfast.reading import gradients
from worldfast.reading.gradients import _jackknife
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.stream import task_stream

SPEC = wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=48, init_std=0.2)
NEW = "region == 'Atlantis'"


def model(vocabulary="character", spec=SPEC, seed=3, loss="all"):
    data = Dataset(("distance", "angle"), world=wf.WorldSpec(atlantis=30), vocabulary=vocabulary, loss=loss)
    run = wf.Run(data, model=spec)
    ensemble = spec.build(run.shape, threads=1)
    ensemble.initialise(0, seed)
    return run, ensemble


def streams_of(model, tasks, rows, *, seed=None, split="train", must_include=None, world=None, loss=None):
    """Rows of tasks by name, of the model's run but for what is given."""
    run = opened_(model)[0]
    data = replace(run.data, world=world or run.data.world, loss=loss or run.data.loss)
    where, seed = {"split": split, "must_include": must_include}, run.seed if seed is None else seed
    return {task: task_stream(data, task, rows, seed, **where) for task in tasks}


def gradient_agreement(model, tasks, *, rows, repeats, parameters="model.layers.*", **which):
    streams = streams_of(model, tasks, max(1, int(rows * repeats)), **which)
    return gradients.gradient_agreement(model, streams, rows=rows, repeats=repeats, parameters=parameters)


def task_gradients(model, task, *, rows, repeats=1, **which):
    [stream] = streams_of(model, [task], rows * repeats, **which).values()
    return gradients.task_gradients(model, stream, rows=rows, repeats=repeats)


def reference(run, ensemble, batch, loss):
    """The mean gradient by transformers in float64, row by row, by Hugging Face name."""
    qwen = qwen2(ensemble, 0, torch.float64)
    total, count = 0.0, 0
    for i in range(len(batch)):
        row = torch.tensor(batch.tokens[i, : batch.length[i]].astype(np.int64))
        first = 1 if loss == "all" else int(batch.answer_start[i])
        logits = qwen(row[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[first - 1 : -1], row[first:], reduction="sum")
        count += len(row) - first
    (total / count).backward()
    return {name: parameter.grad for name, parameter in qwen.named_parameters()}


@pytest.mark.parametrize("loss", ["all", "answer"])
@pytest.mark.parametrize("task", ["distance", "inside"])
def test_gradients_are_those_of_autograd_in_float64(task, loss):
    run, ensemble = model()
    found = task_gradients((run, ensemble), task, rows=8, repeats=2, must_include=NEW, loss=loss)
    assert found.shape == (2, ensemble.parameters.shape[1]) and found.dtype == torch.float32
    for k in range(2):
        batch = wf.sample(run.data.world.build(), task, 8, run.seed, start=8 * k, must_include=NEW)
        expected = reference(run, ensemble, batch, loss)
        assert expected.keys() == ensemble.offsets().keys()
        for name, place in ensemble.offsets().items():
            near = expected[name].flatten()
            assert torch.allclose(found[k, place].double(), near, rtol=1e-3, atol=2e-5 * near.abs().max()), name


def test_rows_are_added_up_over_calls(monkeypatch):
    run, ensemble = model()
    whole = task_gradients((run, ensemble), "perimeter", rows=50)
    monkeypatch.setattr("worldfast.reading.gradients.TOGETHER", 16)
    parts = task_gradients((run, ensemble), "perimeter", rows=50)
    assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("parameters", ["*", "model.layers.*", ("*.mlp.*", "lm_head.weight")])
def test_the_table_is_the_mean_cosine_over_different_groups(parameters):
    opened = model()
    tasks, repeats = ("distance", "inside", "compass"), 3
    table = gradient_agreement(opened, tasks, rows=24, repeats=repeats, must_include=NEW, parameters=parameters)
    places = opened[1].offsets()
    kept = [
        place
        for name, place in places.items()
        if parameters == "*"
        or (parameters == "model.layers.*" and name.startswith("model.layers."))
        or (isinstance(parameters, tuple) and (".mlp." in name or name == "lm_head.weight"))
    ]
    groups = {
        task: [
            np.concatenate([g[place].double().numpy() for place in kept])
            for g in task_gradients(opened, task, rows=24, repeats=repeats, must_include=NEW)
        ]
        for task in tasks
    }

    def mean(a, b):
        return np.mean(
            [
                x @ y / np.linalg.norm(x) / np.linalg.norm(y)
                for i, x in enumerate(groups[a])
                for j, y in enumerate(groups[b])
                if i != j
            ]
        )

    assert list(zip(table.task, table.other)) == [(t, t) for t in tasks[:1]] + [
        ("distance", "inside"),
        ("distance", "compass"),
        ("inside", "inside"),
        ("inside", "compass"),
        ("compass", "compass"),
    ]
    assert set(table.base) == {opened[0].name}
    for line in table.itertuples():
        cosine, ceiling = (
            mean(line.task, line.other),
            np.sqrt(mean(line.task, line.task) * mean(line.other, line.other)),
        )
        assert np.isclose(line.cosine, cosine, atol=1e-9) and np.isclose(line.ceiling, ceiling, atol=1e-9)
        assert np.isclose(line.corrected, cosine / ceiling, atol=1e-9)
        assert line.n == (3 if line.task == line.other else 6) and 0 < line.standard_error < 0.5
    assert np.allclose(table[table.task == table.other].corrected, 1)


def test_of_two_groups_there_is_no_standard_error():
    table = gradient_agreement(model(), ("distance", "angle"), rows=8, repeats=2)
    assert table.standard_error.isna().all() and table.cosine.notna().all()


def test_the_jackknife_leaves_out_a_group_of_both_tasks():
    """Without group 0, 1 or 2 the means are 3, 2 and 1."""
    assert np.isclose(_jackknife(np.array([[9.0, 1, 2], [1, 9, 3], [2, 3, 9]])), np.sqrt(4 / 3))


def test_a_planted_direction_is_found(monkeypatch):
    """Gradients are a direction and noise: the cosine is what the signal leaves of it, corrected it is the angle's."""
    truth = {"distance": (1, 0), "angle": (0.6, 0.8), "compass": (-1, 0)}
    opened = model()

    def planted(_, stream, *, repeats, rows):
        task = stream._components[0].name
        random = np.random.default_rng(list(truth).index(task))
        noise = random.normal(size=(repeats, opened[1].parameters.shape[1])) / np.sqrt(opened[1].parameters.shape[1])
        noise[:, :2] += truth[task]
        return torch.tensor(noise, dtype=torch.float32)

    monkeypatch.setattr("worldfast.reading.gradients.task_gradients", planted)
    table = gradient_agreement(opened, list(truth), rows=8, repeats=8, parameters="*").set_index(["task", "other"])
    for (a, b), line in table.iterrows():
        cosine = np.dot(truth[a], truth[b])
        assert abs(line.cosine - cosine / 2) < 0.05 and abs(line.corrected - cosine) < 0.1
        assert abs(line.cosine - cosine / 2) < 6 * line.standard_error + 1e-3


def test_a_task_is_unlike_none_of_its_own_rows_and_groups_are_disjoint():
    """Were groups the same rows, a task would agree with itself entirely."""
    table = gradient_agreement(model(), ("distance", "inside"), rows=16, repeats=3)
    own = table[table.task == table.other].cosine
    assert ((0.1 < own) & (own < 0.9999)).all()
    more = gradient_agreement(model(), ("distance", "inside"), rows=256, repeats=3)
    assert (more[more.task == more.other].cosine.to_numpy() > own.to_numpy()).all()


def test_a_folder_a_seed_and_a_world(tmp_path):
    run = wf.Run(Dataset("angle", rows=64), batch=32, model=SPEC, checkpoints=1, capture=Capture(layers=()))
    [folder] = wf.train(run, tmp_path, progress=False, device="cpu")
    options = dict(tasks=("angle", "distance"), rows=16, repeats=2)
    from worldfast.training import load

    assert gradient_agreement(folder, **options).equals(gradient_agreement(load(folder), **options))
    assert not gradient_agreement(folder, **options, seed=5).equals(gradient_agreement(folder, **options))
    with pytest.raises(ValueError, match="must_include: .* selects no city"):
        gradient_agreement(folder, **options, must_include=NEW)
    table = gradient_agreement(folder, **options, must_include=NEW, world=wf.WorldSpec(atlantis=100))
    assert list(table.columns) == ["base", "task", "other", "cosine", "standard_error", "ceiling", "corrected", "n"]
    assert set(table.base) == {"pt-angle-s42"}
    json.loads(table.to_json())


def test_the_model_is_not_changed():
    run, ensemble = model("entity", wf.TransformerSpec(16, 1, 2, 24, outputs=98), loss="answer")
    before = ensemble.parameters.clone()
    table = gradient_agreement((run, ensemble), ("distance", "crossing"), rows=8, repeats=2, parameters="*")
    assert torch.equal(ensemble.parameters, before) and np.isfinite(table.cosine).all()


def test_places_are_all_parameters_once():
    _, ensemble = model()
    ensemble.parameters[0] = torch.arange(ensemble.parameters.shape[1])
    for name, tensor in ensemble.to_huggingface(0).items():
        place = ensemble.offsets()[name]
        assert tensor.flatten().tolist() == list(range(place.start, place.stop)), name
    for a, b in combinations(ensemble.offsets().values(), 2):
        assert a.stop <= b.start or b.stop <= a.start


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"tasks": ("distnace",)}, ValueError, "unknown task 'distnace': did you mean 'distance'"),
        ({"tasks": ()}, ValueError, "streams: expected rows of at least one task"),
        ({"rows": 0}, ValueError, "rows: expected at least 1, got 0"),
        ({"rows": 2.5}, TypeError, "rows: expected an integer, got 2.5"),
        ({"repeats": 1}, ValueError, "repeats: expected at least 2, got 1"),
        ({"repeats": True}, TypeError, "repeats: expected an integer, got True"),
        ({"loss": "answers"}, ValueError, "unknown loss 'answers': did you mean 'answer'"),
        ({"split": "tset"}, ValueError, "unknown split 'tset'"),
        ({"parameters": "lm_hed.weight"}, ValueError, "unknown parameters 'lm_hed.weight': did you mean 'lm_head.wei"),
        ({"parameters": ()}, ValueError, "parameters: expected at least one pattern"),
        ({"must_include": "reign == 'Atlantis'"}, ValueError, "unknown column 'reign': did you mean 'region'"),
        ({"rows": 10**7}, ValueError, "never repeats a pair"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        gradient_agreement(model(), **{"tasks": ("distance",), "rows": 4, "repeats": 2, **options})


def test_what_is_no_model(tmp_path):
    for bad in (3, (model()[0],), (1, 2, 3)):
        with pytest.raises(TypeError, match="model: expected a run's folder or"):
            gradients.gradient_agreement(bad, {})
    with pytest.raises(FileNotFoundError, match="is not a run's folder"):
        gradients.gradient_agreement(tmp_path, {})


def test_a_world_of_other_entities():
    with pytest.raises(ValueError, match=r"streams: expected rows of .* got Shape\(inputs=5173"):
        gradient_agreement(model("entity"), ("angle",), rows=4, repeats=2, world=wf.WorldSpec())


def test_groups_are_disjoint_or_refused():
    run, ensemble = model()
    few = streams_of((run, ensemble), ("angle",), 7)
    with pytest.raises(ValueError, match="rows: 2 groups of 4 rows are disjoint in 8, got 7"):
        gradients.gradient_agreement((run, ensemble), few, rows=4, repeats=2)


def test_a_stream_of_fewer_rows_is_named(monkeypatch):
    run, ensemble = model()
    streams = streams_of((run, ensemble), ("angle",), 8)
    batch = streams["angle"].batch
    monkeypatch.setattr(streams["angle"], "batch", lambda start, n: batch(start, n - 1))
    with pytest.raises(ValueError, match=r"batch\(0, 4\) of LearnedStream: expected 4 rows, got 3"):
        gradients.task_gradients((run, ensemble), streams["angle"], rows=4, repeats=2)


def test_a_gradient_of_nothing():
    run, ensemble = model()
    ensemble.parameters.zero_()
    with pytest.raises(ValueError, match="the gradient of angle at 'pt-distance.angle-s42' is 0 or not finite"):
        gradient_agreement((run, ensemble), ("angle",), rows=4, repeats=2)


def test_a_recurrent_model_is_named():
    """Its gradients are there, but not the names by which `parameters` are chosen."""
    run = wf.Run(Dataset("angle"), model=wf.RecurrentSpec(hidden=8, layers=1))
    ensemble = run.model.build(run.shape)
    ensemble.initialise(0, 1)
    streams = {"angle": run.stream()}
    with pytest.raises(TypeError, match="model: 'pt-angle-.*' is a RecurrentSpec; .*names of a TransformerSpec"):
        gradients.gradient_agreement((run, ensemble), streams, rows=4, repeats=2)
    found = gradients.task_gradients((run, ensemble), streams["angle"], rows=4, repeats=2)
    assert found.shape == (2, ensemble.parameters.shape[1]) and found.any(1).all()

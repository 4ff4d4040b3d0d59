"""Representations of any prompt, layers and positions: against transformers and against what training captured."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from qwen import qwen2

import worldfast as wf
from worldfast import cli
from worldfast.capture import Capture
from worldfast.reading import represent
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.prompts import PUBLISHED
from worldfast.worlds.cities.tokens import Vocabulary

RUN = wf.Run(
    Dataset(("distance",), rows=64, world=wf.WorldSpec(largest=300)),
    batch=32,
    model=wf.TransformerSpec(hidden=16, layers=3, heads=2, intermediate=24),
    checkpoints=1,
    capture=Capture(layers=(1, 3), readout={"among": "index < 90"}),
)


@pytest.fixture(scope="module", params=["character", "entity"])
def model(request):
    run = replace(RUN, data=replace(RUN.data, vocabulary=request.param))
    ensemble = run.model.build(run.shape)
    ensemble.initialise(0, 3)
    return run, ensemble


def test_any_prompt_as_transformers_has_it(model):
    run, ensemble = model
    theirs = qwen2(ensemble)
    text = "angle(c_0865,{city},"
    found = represent(model, prompt=text, layers=(0, 2, 3), positions=("city", 1, -1), among="x > 1000")
    world = run.data.world.build()
    assert found.things.tolist() == np.flatnonzero(world.xy[:, 0] > 1000).tolist() and found.layers == (0, 2, 3)
    assert found.about["prompt"] == "angle(c_0865,c_dddd,"
    vocabulary = Vocabulary(run.data.vocabulary, world)
    for i in (0, len(found.things) // 2, len(found.things) - 1):
        text = f"angle(c_0865,c_{world.city_id[found.things[i]]:04d},"
        tokens = [2, *vocabulary.encode(text)]
        with torch.no_grad():
            states = theirs(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        for layer in found.layers:
            want = torch.cat([states[layer][0, at] for at in (len(tokens) - 2, 1, len(tokens) - 1)])
            np.testing.assert_allclose(found[layer][i], want.numpy(), atol=2e-5)


def test_the_default_is_what_training_captures(tmp_path):
    (folder,) = wf.train(RUN, tmp_path, progress=False)
    captured = wf.Activations(folder)
    found = represent(folder, among="index < 90", layers=(1, 3))
    for layer in (1, 3):
        assert np.array_equal(found[layer], captured[captured.steps[-1], layer])
    assert represent(folder).layers == (0, 1, 2, 3)


def test_extract_writes_the_same(tmp_path, capsys):
    (folder,) = wf.train(RUN, tmp_path, progress=False)
    words = ["--prompt", "inside(c_0001;{city},", "--layers", "2", "--positions", "city", "-1", "--among", "x > 0"]
    assert cli.main(["extract", str(folder), "--out", str(tmp_path / "a.h5"), *words]) == 0
    found = wf.represent(folder, layers=(2,), prompt="inside(c_0001;{city},", positions=("city", -1), among="x > 0")
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["layer_02"], found[2]) and np.array_equal(file["entity_index"], found.things)
        assert (file.attrs["prompt"], file.attrs["run"]) == ("inside(c_0001;c_dddd,", RUN.id)
        assert tuple(file.attrs["token_positions"]) == found.about["token_positions"]


def test_the_published_defaults(model):
    run, ensemble = model
    wide = replace(run, model=replace(run.model, layers=6), capture=Capture())
    ensemble = wide.model.build(wide.shape)
    ensemble.initialise(0, 1)
    found = represent((wide, ensemble), **PUBLISHED)
    assert found.layers == (3, 4, 5, 6) and found[5].shape == (len(found.things), 32)
    assert (wide.data.world.build().city_id[found.things] >= 1000).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": "dist("}, ValueError, "expected a text with {city} once"),
        ({"prompt": "dist({city},{city})"}, ValueError, "once"),
        ({"positions": ("delimeter",)}, ValueError, "did you mean 'delimiter'"),
        ({"prompt": "dist({city}", "positions": ("delimiter",)}, ValueError, "'delimiter' is not in the prompt"),
        ({"positions": (99,)}, ValueError, "99 is not in the prompt"),
        ({"positions": (-99,)}, ValueError, "-99 is not in the prompt"),
        ({"among": "x > 99999"}, ValueError, "selects none of 300"),
        ({"among": "reigon == 'a'"}, ValueError, "did you mean 'region'"),
        ({"layers": (4,)}, IndexError, "layer"),
    ],
)
def test_bad_input(model, arguments, error, message):
    with pytest.raises(error, match=message):
        represent(model, **arguments)


def test_a_layer_that_was_not_read(model):
    with pytest.raises(KeyError, match="layer 1 was not read"):
        represent(model, layers=(2,), among="index < 3")[1]

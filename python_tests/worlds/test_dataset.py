"""Datasets: what a world hands the instrument, its identity, and specs that strangers wrote."""

import json
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

import worldfast as wf
from worldfast import dataset
from worldfast.errors import VersionError
from worldfast.folder import spec_of
from worldfast.reading import Activations
from worldfast.rows import DeviceStream, Stream
from worldfast.run import Run
from worldfast.worlds import cities
from worldfast.worlds.cities.evaluate import evaluate

TINY = wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=24)
OWN = "region == 'Here'"


@dataclass(frozen=True)
class Elsewhere(cities.Dataset):
    """A dataset of a world that is no part of the package."""

    more: int = 3


@dataclass(frozen=True)
class Unfinished(dataset.Dataset):
    @property
    def label(self):
        return "none"

    def stream(self, seed, split="train"): ...

    def score(self, ensemble, member, n, *, seed, split="validation"): ...


def world_file(folder, n=60):
    path = folder / "towns.csv"
    lines = [f"{i},{i * i % 70},{'Here' if i % 3 else 'There'}" for i in range(n)]
    path.write_text("\n".join(["x,y,region", *lines]))
    return path


# ---- what it gives ----


def test_a_stream_is_what_the_instrument_expects():
    data = cities.Dataset(("distance", "inside"), rows=50, vocabulary="entity", loss="answer")
    stream = data.stream(3)
    assert isinstance(stream, Stream) and isinstance(stream, DeviceStream)
    assert (stream.shape, stream.rows, stream.longest) == (data.shape, data.epoch_rows, data.longest)
    assert data.shape.inputs == 98 + 5075 and data.epoch_rows == 100
    rows = stream.batch(7, 9)
    assert np.diff(rows.row_start).max() <= stream.longest and len(rows.row_start) == 10
    whole = data.stream(3).batch(0, 100)
    begin, end = whole.row_start[7], whole.row_start[16]
    assert rows.inputs.equal(whole.inputs[begin:end])
    assert not rows.inputs.equal(data.stream(3, "test").batch(7, 9).inputs[: len(rows.inputs)])


def test_scores_are_those_of_its_own_rows(tmp_path):
    world = wf.WorldSpec(str(world_file(tmp_path)))
    mixture = (
        cities.Component("angle", 5),
        cities.Component("angle", 50, must_include=OWN),
        cities.Component("inside", 9),
    )
    data = cities.Dataset(("angle", "inside"), mixture=mixture, world=world)
    ensemble = TINY.build(data.shape, 2)
    ensemble.initialise(1, 0)
    found = data.score(ensemble, 1, 20, seed=5, split="test")
    assert list(found) == ["angle", "inside"]
    for task, must in (("angle", OWN), ("inside", None)):
        assert found[task] == evaluate(ensemble, 1, world.build(), task, 20, 5, must_include=must)


def test_a_readout_says_of_what_it_is(tmp_path):
    world = wf.WorldSpec(str(world_file(tmp_path)))
    data = cities.Dataset("angle", world=world)
    found = data.readout(among="index >= 10", positions=("delimiter", "city"))
    xy = world.build().xy
    assert found.things.dtype == np.int32 and found.things.tolist() == list(range(10, 60))
    assert found.columns == ("x", "y") and np.array_equal(found.attributes, xy[10:]) and found.attributes.dtype == float
    assert found.groups.keys() == {"Here", "There"} and np.array_equal(found.groups["Here"], np.arange(10, 60) % 3 > 0)
    assert found.about["prompt"] == "angle(c_dddd,"
    last, before = found.about["token_positions"]
    assert last == before + 1 and len(found.rows.scored) == 100


def test_what_a_fine_tune_teaches_is_a_group(tmp_path):
    """Read from the mixture: the expression that most rows must include."""
    world = wf.WorldSpec(str(world_file(tmp_path)))
    base = wf.Run(cities.Dataset("angle", rows=64, world=world), batch=32, model=TINY, checkpoints=1)
    for group, name in ((OWN, "Here"), ("x > 30", "x > 30")):
        tuned = cities.world_update(base, "angle", group, standard=5, included=20, alive=2)
        assert tuned.data.taught == {name: group} and base.data.taught == {}
        mask = tuned.readout().groups[name]
        assert np.array_equal(mask, world.build().select(group))
    assert "x > 30" not in base.readout().groups


def test_activations_know_their_things(tmp_path):
    path = world_file(tmp_path)
    data = cities.Dataset("angle", rows=64, world=wf.WorldSpec(str(path)))
    capture = wf.Capture(layers=(1,), readout={"among": OWN})
    run = wf.Run(data, batch=32, model=TINY, checkpoints=1, capture=capture)
    (folder,) = wf.train(run, tmp_path / "runs", progress=False)
    found = Activations(folder)
    assert found.columns == ("x", "y") and np.array_equal(found.attributes[:, 0], found.things)
    assert found.groups["Here"].all() and not found.groups["There"].any()
    path.write_text(path.read_text().replace("59,", "58,"))
    for name in ("things", "attributes"):
        with pytest.raises(ValueError, match="the world of its run has changed"):
            getattr(Activations(folder), name)


def test_options_of_a_readout_that_do_not_fit(tmp_path):
    data = cities.Dataset("angle", rows=64)
    with pytest.raises(ValueError, match="unknown option of capture.readout 'amnog': did you mean 'among'"):
        wf.Run(data, capture=wf.Capture(readout={"amnog": "x > 0"}))
    for options, message in (
        ({"among": "x > 99999"}, "capture.readout: among: .* selects none of 5,075 cities"),
        ({"task": "distnace"}, "capture.readout: unknown task 'distnace': did you mean 'distance'"),
        ({"among": "reigon == 'a'"}, "capture.readout: .*did you mean 'region'"),
    ):
        run = wf.Run(data, model=TINY, capture=wf.Capture(readout=options))
        with pytest.raises(ValueError, match=message):
            wf.train(run, tmp_path / "runs", progress=False)
    assert not any((tmp_path / "runs").iterdir())


# ---- identity, and specs that strangers wrote ----


def test_a_run_needs_a_dataset():
    for wrong in ("distance", ("distance",), {"tasks": ("distance",)}, cities.Dataset):
        with pytest.raises(TypeError, match="data: expected a dataset of a world, such as worldfast.worlds.cities"):
            wf.Run(wrong)


def test_a_dataset_without_a_method_of_the_protocol():
    with pytest.raises(TypeError, match="readout"):
        Unfinished()


@pytest.mark.parametrize("own", ("distance", ("distance",), (b"angle", None), 3, ({"name": "angle"},)))
def test_tasks_of_its_own_that_are_none(own):
    with pytest.raises(TypeError, match="own: expected Tasks"):
        cities.Dataset("angle", own=own)


@dataclass(frozen=True)
class Mute(cities.Dataset):
    """A dataset that has no tokenizer."""

    def tokenizer(self):
        return None


def test_a_dataset_may_have_no_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    run = wf.Run(Mute("angle", rows=16), batch=16, model=TINY, checkpoints=1, capture=wf.Capture(layers=()))
    (folder,) = wf.train(run, tmp_path / "runs", progress=False)
    opened = wf.export_huggingface(folder, tmp_path / "open")
    assert {path.name for path in opened.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    assert "bos_token_id" not in json.loads((opened / "config.json").read_text())
    assert wf.import_huggingface(opened).parameters.equal(wf.training.load(folder)[1].parameters)


def test_a_dataset_from_elsewhere_is_found_where_it_is_imported(monkeypatch):
    run = wf.Run(Elsewhere("angle", more=4), model=TINY)
    content = json.loads(json.dumps(run.to_json()))
    assert content["data"]["class"] == f"{__name__}.Elsewhere"
    assert Run.from_json(content) == run and Run.from_json(content).id == run.id
    assert run.id != wf.Run(cities.Dataset("angle"), model=TINY).id != wf.Run(Elsewhere("angle"), model=TINY).id
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(ValueError, match=f"class '{__name__}.Elsewhere': {__name__} is not imported: import it first"):
        Run.from_json(content)


@pytest.mark.parametrize(
    "path,message",
    [
        ("antigravity.Dataset", "antigravity is not imported"),
        ("os.system", "os has no dataclass 'system' that is a Dataset"),
        ("worldfast.run.Run", "worldfast.run has no dataclass 'Run' that is a Dataset"),
        ("worldfast.worlds.cities.World", "has no dataclass 'World' that is a Dataset"),
        ("worldfast.worlds.cities.__import__", "has no dataclass '__import__' that is a Dataset"),
        ("worldfast.worlds.chians.Dataset", "this version of worldfast has no worldfast.worlds.chians"),
        ("worldfast.worlds.cities.data.make_cities.Dataset", "is not imported"),
        ("worldfast.worlds...Dataset", "is not imported"),
        ("Dataset", "its module is not imported"),
        ("", "its module is not imported"),
        (None, "its module is not imported"),
    ],
)
def test_a_spec_runs_no_code_of_strangers(path, message):
    content = wf.Run(cities.Dataset("angle"), model=TINY).to_json()
    content["data"]["class"] = path
    before = set(sys.modules)
    with pytest.raises(ValueError, match=message):
        Run.from_json(content)
    assert {name for name in set(sys.modules) - before if not name.startswith("worldfast")} == set()


def test_the_class_of_a_model_is_kept_too():
    content = wf.Run(cities.Dataset("angle"), model=TINY).to_json()
    assert content["model"]["class"] == "worldfast.models.TransformerSpec"
    with pytest.raises(ValueError, match="worldfast.models has no dataclass 'Ensemble' that is a spec of models"):
        Run.from_json(content | {"model": {"class": "worldfast.models.Ensemble"}})
    with pytest.raises(ValueError, match="expected the fields of a spec of models and its class"):
        Run.from_json(content | {"model": {"hidden": 16}})


def test_a_folder_of_version_0_1(tmp_path):
    spec = {"id": "0123456789ab", "run": {"tasks": ["angle"], "seed": 1, "rows": 64}, "origin": {"worldfast": "0.1.0"}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(VersionError, match=r"written by worldfast 0.1.0: make it again .* or read it with 0.1.0$"):
        spec_of(tmp_path)
    with pytest.raises(ValueError, match=r"a run of worldfast 0.1, whose tasks stand beside its seed"):
        Run.from_json(spec["run"])


def test_runs_of_one_family_differ_in_all_but_shape():
    data = cities.Dataset("angle", rows=64)
    run = wf.Run(data, model=TINY)
    alike = [replace(run, seed=2, batch=9), replace(run, data=replace(data, loss="answer", tasks=("inside",)))]
    unlike = [
        replace(run, matmul_dtype="bfloat16"),
        replace(run, model=replace(TINY, layers=1)),
        replace(run, data=replace(data, vocabulary="entity")),
    ]
    assert {one.family for one in alike} == {run.family}
    assert len({one.family for one in unlike} | {run.family}) == 4

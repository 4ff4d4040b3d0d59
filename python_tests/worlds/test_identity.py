"""A run is of the world that it was trained on: content is its identity, wherever a file lies."""

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import worldfast as wf
from worldfast.errors import MismatchError
from worldfast.reading.patching import activation_patching
from worldfast.training import load
from worldfast.worlds import cities

TINY = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16)
LINES = [f"{i},{i * i % 70},{i},town {i},{'east' if i % 3 else 'west'},{'AB'[i % 2] * 2},{i * 7}" for i in range(40)]
HEADER = "x,y,city_id,name,region,country,population"


def write(path, lines=LINES, header=HEADER):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def run_of(path, **more):
    data = cities.Dataset("angle", rows=32, among="region == 'east'", world=wf.WorldSpec(str(path)))
    return wf.Run(data, batch=16, model=TINY, checkpoints=1, capture=wf.Capture(layers=(1,)), **more)


def changed(column, value="9"):
    """Rows whose first city has another value in a column."""
    cells = LINES[0].split(",")
    cells[HEADER.split(",").index(column)] = value
    return [",".join(cells), *LINES[1:]]


def test_one_file_is_one_run_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "again.csv").write_bytes(write(tmp_path / "w.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    paths = ["w.csv", "./w.csv", "deep/../w.csv", str(tmp_path / "w.csv"), "deep/again.csv"]
    assert len({run_of(path).id for path in paths}) == 1
    [folder] = wf.train(run_of("w.csv"), "runs", progress=False)
    assert wf.train(run_of("./w.csv"), "runs", progress=False) == [folder]
    with pytest.raises(ValueError, match="runs: 1 is 0 again"):
        wf.train([run_of("w.csv"), run_of("./w.csv", name="other")], "runs", progress=False)


def test_what_no_run_may_use_does_not_count(tmp_path):
    plain = run_of(write(tmp_path / "a.csv")).id
    more = write(tmp_path / "b.csv", [f"{line},remark" for line in LINES], HEADER + ",remark")
    assert run_of(more).id == plain
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert run_of(tmp_path / "c.csv").id == plain


CHANGES = {column: changed(column, "99" if column == "city_id" else "9") for column in HEADER.split(",")}
CHANGES |= {"order": LINES[::-1], "two of them": [LINES[1], LINES[0], *LINES[2:]], "fewer": LINES[:-1]}


@pytest.mark.parametrize("what", CHANGES)
def test_every_column_and_the_order_count(tmp_path, what):
    before = run_of(write(tmp_path / "w.csv")).id
    assert run_of(write(tmp_path / "w.csv", CHANGES[what])).id != before


def test_what_is_made_of_a_file_counts_too(tmp_path):
    write(tmp_path / "w.csv")
    specs = [wf.WorldSpec(str(tmp_path / "w.csv"), *rest) for rest in ((), (3,), (3, "scattered"), (3, "scattered", 1))]
    runs = [replace(run_of(tmp_path / "w.csv"), data=cities.Dataset("angle", world=spec)) for spec in specs]
    assert len({run.id for run in runs}) == 4 and len({run.data.digest for run in runs}) == 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, its folder, and its file."""
    folder = tmp_path_factory.mktemp("world")
    run = run_of(write(folder / "w.csv"))
    return run, *wf.train(run, folder / "runs", progress=False), folder / "w.csv"


OPENED = {
    "load": load,
    "represent": wf.represent,
    "things": lambda folder: wf.Activations(folder).things,
    "attributes": lambda folder: wf.Activations(folder).attributes,
    "groups": lambda folder: wf.Activations(folder).groups,
    "export": lambda folder: wf.export_huggingface(folder, Path(tempfile.mkdtemp()) / "open"),
    "patching": lambda folder: activation_patching(folder, folder, cities.questions_of(load(folder)[0], rows=4)),
}


@pytest.mark.parametrize("name", OPENED)
@pytest.mark.parametrize("what", ["order", "region"])
def test_whoever_opens_a_finished_run_sees_that_its_world_has_changed(trained, name, what):
    _, folder, path = trained
    columns = {"order": "city_id, country, name, population, xy", "region": "region"}[what]
    try:
        write(path, CHANGES[what])
        with pytest.raises(
            MismatchError, match=f"the world of its run has changed since it was trained: {columns} of "
        ):
            OPENED[name](folder)
    finally:
        write(path)
    OPENED[name](folder)


def test_a_run_is_not_taken_for_one_of_the_new_file(trained, monkeypatch):
    """Neither that of before, which is refused, nor one that is made anew, which is another."""
    run, folder, path = trained
    try:
        write(path, LINES[::-1])
        assert run_of(path).folder_name != folder.name and run.folder_name == folder.name
        with pytest.raises(MismatchError, match="world_sha256 is .*, but that of this run is .*: put its world back"):
            wf.train(run, folder.parent, progress=False)
        with pytest.raises(MismatchError, match="world_sha256"):
            wf.run_study(cities.Study("late", [run], layer=1), folder.parents[1], device="cpu", progress=False)
    finally:
        write(path)
    monkeypatch.setattr(sys.modules["worldfast.training.train"], "_train_wave", None)  # nothing is left to train
    assert wf.train(run_of(path), folder.parent, progress=False) == [folder]


def test_a_file_that_changes_before_training_is_refused(tmp_path):
    run = run_of(write(tmp_path / "w.csv"))
    assert run.id
    write(tmp_path / "w.csv", LINES[::-1])
    with pytest.raises(MismatchError, match="has changed since its id was computed: city_id, country"):
        wf.train(run, tmp_path / "runs", progress=False)
    assert not any((tmp_path / "runs").iterdir())


def test_a_file_that_keeps_its_time_is_read_again(tmp_path):
    path = write(tmp_path / "w.csv")
    times = path.stat()
    before = run_of(path).id
    write(path, LINES[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run_of(path).id != before


def test_a_start_counts_by_its_world(tmp_path):
    base = run_of(write(tmp_path / "w.csv"))
    tuned = replace(base, start=base, seed=1)
    content = json.loads(json.dumps(tuned.to_json()))
    assert wf.Run.from_json(content).id == tuned.id
    content["start"]["data"]["content"]["xy"] = "0" * 16
    with pytest.raises(MismatchError, match="since it was trained: xy of"):
        wf.Run.from_json(content)


def test_digests_are_of_values(tmp_path):
    """The same on every machine: whatever the width and order of bytes, and how texts are held."""
    world = wf.WorldSpec(str(write(tmp_path / "w.csv"))).build()
    swapped = {
        name: column.astype(column.dtype.newbyteorder()) if column.dtype.kind == "i" else column.astype(object)
        for name, column in world.columns.items()
    }
    assert wf.World(**swapped).digests == world.digests
    assert wf.World(**{**swapped, "name": np.roll(world.name, 1)}).digests != world.digests

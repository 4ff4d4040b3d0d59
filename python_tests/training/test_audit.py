"""`audit`, file by file: which file is blamed, that none hides another, and what lies there besides."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny

import worldfast as wf
from worldfast import __version__, checkpoint, files
from worldfast.errors import MismatchError, UnsafeError, VersionError
from worldfast.folder import metrics, spec_of
from worldfast.reading import segment_path
from worldfast.training import audit, load, train

RUN = replace(tiny.RUN, name="same", keep="all")
OTHER = replace(RUN, learning_rate=2 * RUN.learning_rate)
LAST = "checkpoint/step-00000004.safetensors"
READERS = (load, wf.Activations, metrics, spec_of)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    train([RUN, OTHER], out, device="cpu", progress=False)
    return out


@pytest.fixture
def both(trained, tmp_path):
    """Folders of both runs, which may be changed."""
    out = shutil.copytree(trained, tmp_path / "runs")
    return out / RUN.folder_name, out / OTHER.folder_name


def states(folder, *, fine=("whole",)):
    """State of each file that is not of such a state, by its path in the folder; each file is named once."""
    found = [(one.path.relative_to(folder).as_posix(), one.state) for one in audit(folder)]
    assert len(found) == len({name for name, _ in found})
    return {name: state for name, state in found if state not in fine}


def test_a_folder_under_the_name_of_another_run(both, tmp_path):
    ours, theirs = both
    taken = shutil.copytree(theirs, tmp_path / "q" / ours.name)
    for read in READERS:
        with pytest.raises(MismatchError, match=f"spec.json' is of run {OTHER.id}, but the name of its folder ends in"):
            read(taken)
    found = states(taken)
    assert found["spec.json"] == found["done"] == found[LAST] == "mistaken"
    renamed = theirs.rename(tmp_path / "renamed")
    assert states(renamed) == {} and load(renamed)[0] == OTHER and wf.Activations(renamed).run == OTHER.id


def of_an_earlier_version(folder):
    """The folder as worldfast 0.1 left one: JSON without checksums, a run of other fields."""
    run = {"tasks": ["distance"], "rows": 32, "seed": 42}
    spec = {"id": RUN.id, "run": run, "captured": {"layers": []}, "origin": {"worldfast": "0.1.0", "commit": ""}}
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "done").write_text(json.dumps({"status": "finished", "step": 4}))
    return folder


def test_a_folder_of_an_earlier_version_is_not_damaged(both):
    """Whatever reads it names both versions and says what to do."""
    old = of_an_earlier_version(both[0])
    for read in READERS:
        with pytest.raises(
            VersionError, match=f"spec.json' was written by worldfast 0.1.0: make it again.*{__version__}"
        ):
            read(old)
    rest = ("done", "metrics.jsonl", "checkpoint", "activations", "weights")
    assert states(old) == {"spec.json": "foreign"} | dict.fromkeys(rest, "unchecked")
    spec = json.loads((old / "spec.json").read_text())
    files.write_json(old / "spec.json", spec)
    for version, error in (("0.1.0", VersionError), (__version__, ValueError)):  # with a checksum
        files.write_json(old / "spec.json", spec | {"origin": {"worldfast": version}})
        with pytest.raises(ValueError, match="cannot read it") as caught:
            spec_of(old)
        assert type(caught.value) is error
    (old / "spec.json").write_text(json.dumps(spec | {"origin": "?"}))
    assert states(old)["spec.json"] == "damaged"


def test_an_exchanged_mark_is_blamed_alone(both):
    ours, theirs = both
    shutil.copy(theirs / "done", ours / "done")
    assert states(ours) == {"done": "mistaken"}
    with pytest.raises(MismatchError, match="done' belongs to run"):
        metrics(ours)
    (ours / "done").write_text("{}")
    assert states(ours) == {"done": "damaged"}


def test_an_exchanged_spec_is_blamed_and_the_rest_is_checked_by_the_folders_name(both):
    ours, theirs = both
    shutil.copy(theirs / "spec.json", ours / "spec.json")
    shutil.copy(theirs / LAST, ours / LAST)
    unchecked = {f"activations/step-0000000{step}.h5": "unchecked" for step in (0, 2, 4)}
    assert states(ours) == {"spec.json": "mistaken", LAST: "mistaken"} | unchecked
    (ours / "spec.json").unlink()
    assert states(ours) == {"spec.json": "missing", LAST: "mistaken"} | unchecked


def test_an_exchanged_checkpoint_is_named_once(both):
    ours, theirs = both
    shutil.copy(theirs / LAST, ours / LAST)
    assert states(ours) == {LAST: "mistaken"}
    (ours / LAST).unlink()
    assert states(ours) == {LAST: "missing"}


@pytest.mark.parametrize("name", ["activations", "checkpoint", "weights"])
def test_a_folder_that_leads_elsewhere(both, tmp_path, name):
    ours, _ = both
    (ours / name).rename(tmp_path / "elsewhere")
    opened = wf.Activations(ours) if name != "activations" else None
    (ours / name).symlink_to(tmp_path / "elsewhere")
    assert states(ours) == {name: "unsafe"}
    if name == "activations":
        with pytest.raises(UnsafeError, match="activations' is a link"):
            wf.Activations(ours)
    else:
        assert opened.steps == [0, 2, 4]
        with pytest.raises(UnsafeError, match=f"{name}' is a link"):
            load(ours, step=0)


def test_a_folder_that_becomes_a_link_after_it_was_opened(both, tmp_path):
    ours, _ = both
    opened = wf.Activations(ours)
    (ours / "activations").rename(tmp_path / "elsewhere")
    (ours / "activations").symlink_to(tmp_path / "elsewhere")
    for read in (lambda: opened[4, 1], lambda: opened.dataset(4, 1), lambda: opened.things):
        with pytest.raises(UnsafeError, match="activations' is a link"):
            read()


def test_what_else_lies_there(both):
    """Of the run's naming: mistaken. Anything else: said, and no more."""
    ours, _ = both
    first = (ours / "activations/step-00000000.h5").read_bytes()
    mistaken = ["activations/step-00000033.h5", "activations/step-00000003.h5", "weights/step-00000003.safetensors"]
    other = ["activations/step-0000000x.h5", "activations/foo.txt", "foo.txt", "checkpoint/step-x.safetensors"]
    other += [f"weights/.a.7-1{files.PARTIAL}"]
    weights = checkpoint.of_step(ours / "checkpoint", 2, RUN.id, ours / "weights")
    checkpoint.save_weights(ours / "weights", replace(weights, step=3), RUN.id, {})
    for name in (*mistaken[:2], *other):
        (ours / name).write_bytes(first)
    assert states(ours) == dict.fromkeys(mistaken, "mistaken") | dict.fromkeys(other, "other")
    for name in mistaken:
        (ours / name).unlink()
    assert all(one.fine for one in audit(ours))
    (ours / "done").unlink()
    assert train([RUN], ours.parent, device="cpu", progress=False) and all((ours / name).exists() for name in other[:4])


def test_what_goes_on_after_the_newest_checkpoint(both):
    """A run that was killed there looks alike, so it is said and is no error."""
    ours, _ = both
    (ours / "done").unlink()
    (ours / LAST).unlink()
    found = [one for one in audit(ours) if one.state == "beyond"]
    assert [one.path for one in found] == [ours / "metrics.jsonl", segment_path(ours, 4)]
    assert all("the newest checkpoint is of step 2" in one.why and one.fine for one in found)
    assert "to step 4" in found[0].why and states(ours, fine=("whole", "beyond")) == {"done": "absent"}


def test_an_earlier_segment_that_is_gone_from_a_run_that_has_not_ended(both):
    ours, _ = both
    (ours / "done").unlink()
    segment_path(ours, 0).unlink()
    assert states(ours) == {"done": "absent", "activations/step-00000000.h5": "missing"}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"[]", b"\xff", b'{"a": 1', b"\x08" + bytes(7) + b"[[[[[[[["])
def test_damage_is_said_in_plain_words(both, content):
    ours, _ = both
    for name in ("spec.json", LAST):
        (ours / name).write_bytes(content)
    why = {one.path.name: one.why for one in audit(ours) if one.state == "damaged"}
    assert "spec.json' is damaged: expected a JSON object in UTF-8" in why["spec.json"]
    assert (
        "is damaged: expected the length, the JSON header and the float32 tensors" in why["step-00000004.safetensors"]
    )

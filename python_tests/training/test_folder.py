"""A run's folder as everything reads it: its own last step or an error that names the file, whatever became of it."""

import errno
import importlib
import os
import random
import resource
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
from elsewhere import KINDS, content_of, exchange
from tiny import RUN
from unseen import unseen

import worldfast as wf
from worldfast import checkpoint, files
from worldfast.errors import DamagedError, MismatchError, UnsafeError
from worldfast.folder import SPEC, metrics, saved, spec_of
from worldfast.locks import locked
from worldfast.outcome import done, outcome
from worldfast.reading import segment_path
from worldfast.studies.analyses import Analysis, compute, made, tables_of
from worldfast.studies.tables import metrics as lines_of
from worldfast.training import audit, load, start, train
from worldfast.training.cluster import _goes_on as goes_on

OTHER = replace(RUN, seed=7, name="")
TUNED = replace(RUN, start=RUN, name="tuned")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    train([RUN, OTHER], out, device="cpu", progress=False)
    return out


@pytest.fixture
def out(trained, tmp_path):
    """A copy of the folders of both runs, which have ended."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def folder(out):
    return out / RUN.folder_name


def go_on(out):
    return train(RUN, out, device="cpu", progress=False)


def last_loss(trained):
    """Table of an analysis that loads a model."""
    import pandas as pd

    return pd.DataFrame({"sum": [load(one.folder)[1].parameters.sum().item() for one in trained]})


def table(out):
    study = wf.Study("one", [RUN], analyses=(Analysis("sums", last_loss),))
    (found,) = tables_of(study, [RUN])
    return found


# ---- what is gone ----


def test_a_spec_that_is_gone_is_named_and_written_anew(out, folder):
    """Whatever needs it says what to do, that is so, and no other run is touched."""
    whole = (folder / "spec.json").read_bytes()
    (folder / "spec.json").unlink()
    other = {path: path.stat().st_mtime_ns for path in (out / OTHER.folder_name).rglob("*")}
    for read in (load, wf.Activations, lambda _: train(TUNED, out, device="cpu", progress=False)):
        with pytest.raises(FileNotFoundError) as caught:
            read(folder)
        assert f"{folder} is not a run's folder: it has no spec.json; a run was trained there: put" in str(caught.value)
    go_on(out)
    assert (folder / "spec.json").read_bytes() == whole
    assert outcome(TUNED, out).step == 0 and train(TUNED, out, device="cpu", progress=False) and done(folder)
    assert other == {path: path.stat().st_mtime_ns for path in (out / OTHER.folder_name).rglob("*")}


def test_a_spec_that_vanishes_while_it_trains_is_there_at_the_end(trained, tmp_path):
    def vanish(run, line):
        if run == RUN:
            (tmp_path / RUN.folder_name / "spec.json").unlink(missing_ok=True)

    train([RUN, TUNED], tmp_path, device="cpu", progress=False, log=vanish)
    specs = [(out / RUN.folder_name / "spec.json").read_bytes() for out in (trained, tmp_path)]
    assert specs[0] == specs[1]


def test_a_base_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"start: {RUN.name!r} .* is not trained below '{tmp_path}'"):
        start.weights(TUNED, tmp_path)


def test_a_run_goes_on_with_all_of_its_activations(out, folder, trained):
    """Those of its newest checkpoint are made again; earlier ones are missed, and made only from the beginning."""
    newest, first = (segment_path(folder, step) for step in (4, 0))
    (folder / "done").unlink(), newest.unlink()
    go_on(out)
    assert newest.exists()
    (folder / "done").unlink(), first.unlink()
    with pytest.raises(FileNotFoundError, match="step-00000000.h5 is missing, and the run has gone on to step 4: put"):
        go_on(out)
    shutil.rmtree(folder / "checkpoint")
    go_on(out)
    for path in (newest, first):
        assert path.read_bytes() == (trained / path.relative_to(out)).read_bytes()


# ---- the last step, or none ----

READERS = {
    "load": load,
    "saved": saved,
    "represent": wf.represent,
    "export": lambda folder: wf.export_huggingface(folder, folder.parent / "open"),
    "a fine-tune": lambda folder: train(TUNED, folder.parent, device="cpu", progress=False),
    "an analysis": lambda folder: compute(table(folder.parent), folder.parents[1]),
}


def lose(folder, last, before):
    last.unlink()


def cut(folder, last, before):
    last.write_bytes(last.read_bytes()[:-9])


def flip(folder, last, before):
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    last.write_bytes(content)


def take_the_older(folder, last, before):
    shutil.copy(before, last)


def take_anothers(folder, last, before):
    shutil.copy(folder.parent / OTHER.folder_name / "checkpoint" / last.name, last)


def link(folder, last, before):
    last.unlink()
    last.symlink_to(before)


@pytest.mark.parametrize(
    "harm,error,message",
    [
        (lose, FileNotFoundError, "no checkpoint of step 4.*has ended at step 4: put its checkpoint back"),
        (cut, DamagedError, "step-00000004.safetensors is damaged.*has ended at step 4: put its checkpoint back"),
        (flip, DamagedError, "step-00000004.safetensors is damaged.*checksum"),
        (take_the_older, MismatchError, "step-00000004.safetensors is of step 2"),
        (take_anothers, MismatchError, f"belongs to run {OTHER.id}, expected {RUN.id}"),
        (link, UnsafeError, "step-00000004.safetensors' is a link"),
    ],
)
def test_a_finished_run_is_read_at_its_last_step_or_not_at_all(folder, harm, error, message):
    before, last = checkpoint.paths(folder / "checkpoint")
    harm(folder, last, before)
    there = sorted(path for path in folder.parent.parent.rglob("*") if path.name != "lock")
    for name, read in READERS.items():
        with pytest.raises(error, match=message):
            read(folder)
        if name != "a fine-tune":
            assert sorted(path for path in folder.parent.parent.rglob("*") if path.name != "lock") == there, name
        else:
            shutil.rmtree(folder.parent / TUNED.folder_name)
    assert not made(table(folder.parent), folder.parents[1])


def test_an_open_run_is_read_at_its_newest_whole_checkpoint(folder):
    (folder / "done").unlink()
    assert saved(folder)[1].step == 4
    cut(folder, checkpoint.paths(folder / "checkpoint")[-1], None)
    with pytest.warns(UserWarning, match="damaged.*step-00000002.safetensors, is used"):
        assert saved(folder)[1].step == 2


def test_a_run_that_is_not_the_one_of_its_folder(out):
    """Files of another run, whole as they are, under this run's name."""
    ours, theirs = (out / run.folder_name for run in (RUN, OTHER))
    shutil.copy(theirs / "done", ours / "done")
    for read in (lambda: outcome(RUN, out), lambda: load(ours), lambda: wf.Activations(ours), lambda: go_on(out)):
        with pytest.raises(MismatchError, match=f"done' belongs to run {OTHER.id}, expected {RUN.id}"):
            read()
    shutil.copy(theirs / "spec.json", ours / "spec.json")
    with pytest.raises(MismatchError, match=f"belongs to run {OTHER.id}, expected {RUN.id}"):
        outcome(RUN, out)
    with pytest.raises(MismatchError, match=f"belongs to run {RUN.id}, expected {OTHER.id}"):
        load(ours.parent / shutil.copytree(ours / "checkpoint", theirs / "checkpoint", dirs_exist_ok=True).parent)


@pytest.mark.parametrize("names", [("parameters", "exp_avg", "exp_avg"), ("parameters",), ("weights", "a", "b")])
def test_a_checkpoint_of_other_tensors(folder, names):
    found = checkpoint.of_step(folder / "checkpoint", 4, RUN.id)
    tensors = {name: found.tensors["parameters"] for name in names}
    checkpoint.save(folder / "checkpoint", replace(found, tensors=tensors), RUN.id, {})
    with pytest.raises(MismatchError, match="expected exp_avg, exp_avg_sq, parameters"):
        load(folder)


def test_a_checkpoint_of_another_size(folder):
    found = checkpoint.of_step(folder / "checkpoint", 4, RUN.id)
    tensors = {name: tensor[:-8].clone() for name, tensor in found.tensors.items()}
    checkpoint.save(folder / "checkpoint", replace(found, tensors=tensors), RUN.id, {})
    for read in (load, READERS["export"]):
        with pytest.raises(MismatchError, match=r"exp_avg has shape \[\d+\], expected \[\d+\]"):
            read(folder)


@pytest.mark.parametrize("step", [-1, 5, 10**9])
def test_a_step_that_the_run_does_not_have(folder, step):
    """Whole and of this run by its own word: training must not go on from it, which would never end."""
    files.write_json(folder / "done", files.read_json(folder / "done") | {"step": step})
    with pytest.raises(MismatchError, match=f"done' is of step {step}, but its run has 4 steps"):
        load(folder)
    (folder / "done").unlink()
    found = checkpoint.of_step(folder / "checkpoint", 4, RUN.id)
    for path in checkpoint.paths(folder / "checkpoint"):
        path.unlink()
    checkpoint.save(folder / "checkpoint", replace(found, step=step), RUN.id, {})
    with pytest.raises(MismatchError, match=f"a checkpoint of step {step} is none of a run of 4"):
        go_on(folder.parent)


@pytest.mark.parametrize(
    "name,value", [("step", "4"), ("status", None), ("status", "well"), ("metrics", []), ("metrics", {"bytes": "9"})]
)
def test_a_mark_of_another_kind(folder, name, value):
    """Whole by its checksum, but no record of a run."""
    files.write_json(folder / "done", files.read_json(folder / "done") | {name: value})
    with pytest.raises(
        DamagedError, match=f"(done.*no {name}|done.*'well' is no end|metrics.jsonl: nothing says how long)"
    ):
        metrics(folder)


@pytest.mark.parametrize("name", SPEC)
@pytest.mark.parametrize("value", [None, 3, "text", ["text"]])
def test_a_spec_of_another_kind(folder, name, value):
    """Whole by its checksum, which a stranger computes too, and without what each has, or with something else there."""
    spec = files.read_json(folder / "spec.json")
    if name in ("id", "world_sha256", "steps") and isinstance(value, SPEC[name]):
        return
    files.write_json(folder / "spec.json", spec | {name: value})
    for read in (load, metrics, lambda at: wf.Activations(at).steps):
        with pytest.raises(ValueError, match="spec.json"):
            read(folder)
    expected = ["mistaken"] if name == "id" else ["damaged"], ["foreign"]
    assert [one.state for one in audit(folder) if one.path.name == "spec.json"] in expected


@pytest.mark.parametrize("layers", [None, "12", [None], [True], {"1": 1}])
def test_layers_of_another_kind(folder, layers):
    spec = files.read_json(folder / "spec.json")
    files.write_json(folder / "spec.json", spec | {"captured": spec["captured"] | {"layers": layers}})
    with pytest.raises(DamagedError, match="spec.json' was not written by this version of worldfast: no captured"):
        wf.Activations(folder)
    assert any(one.state == "damaged" and one.path.name == "spec.json" for one in audit(folder))


def test_a_run_in_a_run_in_a_run(folder):
    """Deeper than Python calls functions."""
    spec = files.read_json(folder / "spec.json")
    for _ in range(300):
        spec["run"] = spec["run"] | {"start": spec["run"]}
    files.write_json(folder / "spec.json", spec)
    with pytest.raises(ValueError, match="spec.json"):
        load(folder)
    (state,) = [one.state for one in audit(folder) if one.path.name == "spec.json"]
    assert state in ("damaged", "mistaken"), "whether Python's depth is enough differs"


@pytest.mark.parametrize(
    "state", [{}, {"pending": 3}, {"pending": {}}, {"pending": {"loss": "a", "steps": 1}}, {"metrics": [3]}]
)
def test_the_state_of_a_checkpoint_of_another_kind(folder, state):
    found = checkpoint.of_step(folder / "checkpoint", 4, RUN.id)
    (folder / "done").unlink()
    checkpoint.save(folder / "checkpoint", replace(found, state=found.state | state if state else {}), RUN.id, {})
    for read in (metrics, lambda at: go_on(at.parent)) if "pending" not in state else (lambda at: go_on(at.parent),):
        with pytest.raises(DamagedError, match="was not written by this version|nothing says how long"):
            read(folder)
    assert all(isinstance(one.state, str) for one in audit(folder))


# ---- bits ----


@pytest.mark.parametrize("name", ["done", "spec.json", "metrics.jsonl"])
def test_bytes_of_every_file_count_or_do_not(folder, name):
    """A flipped bit in one byte of few, and a cut at many: the error names the file, or what is read is the same."""
    read = {"done": done, "metrics.jsonl": metrics, "spec.json": lambda at: files.read_json(at / "spec.json")}[name]
    path, chance, found = folder / name, random.Random(0), 0
    whole, expected = path.read_bytes(), read(folder)
    places = range(0, len(whole), 1 + len(whole) // 400)
    harmed = [bytes([*whole[:i], whole[i] ^ 1 << chance.randrange(8), *whole[i + 1 :]]) for i in places]
    harmed += [whole[:length] for length in range(0, len(whole), 37)] + [whole + b"{}", whole + whole]
    for content in harmed:
        path.write_bytes(content)
        try:
            assert read(folder) == expected
        except DamagedError as error:
            found += name in str(error)
        else:
            found += 1
    assert found == len(harmed)
    path.write_bytes(whole[: len(whole) // 2])
    assert [one.state for one in audit(folder) if one.path == path] == ["damaged"]


def test_a_flipped_spec_is_not_blamed_on_a_version(folder):
    path = folder / "spec.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"seed": 42', b'"seed": 43'))
    with pytest.raises(DamagedError, match="spec.json' is damaged: its checksum"):
        spec_of(folder)
    files.write_json(path, files.read_json(folder.parent / OTHER.folder_name / "spec.json") | {"id": "0" * 12})
    with pytest.raises(MismatchError, match="by worldfast of this version as run 0+; .*has changed"):
        spec_of(folder)


# ---- what is gone ----


def test_metrics_that_are_gone_are_an_error_and_are_not_made_anew(folder):
    path = folder / "metrics.jsonl"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics.jsonl is missing, but had \d+ bytes when the run ended: put"):
        metrics(folder)
    (folder / "done").unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"metrics.jsonl is missing, but had \d+ bytes at the checkpoint"):
            go_on(folder.parent)
    assert not path.exists() and not (folder / "done").exists()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_metrics_that_go_while_a_run_trains(tmp_path, how):
    def harm(run, line):
        if line["step"] == 2:
            path = tmp_path / RUN.folder_name / "metrics.jsonl"
            path.unlink()
            if how == "replaced":
                path.write_text("{}\n")

    with pytest.raises((FileNotFoundError, DamagedError), match="metrics.jsonl"):
        train(RUN, tmp_path, device="cpu", progress=False, log=harm)
    assert not (tmp_path / RUN.folder_name / "done").exists()


def test_without_its_mark_a_run_is_ended_by_its_last_checkpoint(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "lock"}
    expected = load(folder)[1].parameters
    (folder / "done").unlink()
    go_on(folder.parent)
    now = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "lock"}
    assert now.keys() == before.keys() and now["metrics.jsonl"] == before["metrics.jsonl"]
    assert outcome(RUN, folder.parent).step == 4 and (load(folder)[1].parameters == expected).all()


# ---- links and the like ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lock", "metrics.jsonl", "done", "spec.json", "checkpoint", "activations"])
def test_nothing_leads_out_of_a_runs_folder(folder, tmp_path, name, kind):
    """Named at once, without waiting for a FIFO; what is elsewhere stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    if name != "done":
        (folder / "done").unlink()
    exchange(folder / name, kind, outside)
    content = content_of(outside)
    with pytest.raises(UnsafeError, match=f"{name}' is a (link|FIFO|folder|file), expected a f"):
        go_on(folder.parent)
    readers = {"done": load, "spec.json": load, "metrics.jsonl": metrics, "checkpoint": load}
    if read := readers.get(name):
        with pytest.raises(UnsafeError, match=name):
            read(folder)
    assert content_of(outside) == content


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_leads_elsewhere(folder, tmp_path, kind):
    """The newest one is named by whoever reads it; an older one, which nobody reads, is in nobody's way."""
    (older, newest), outside = checkpoint.paths(folder / "checkpoint"), tmp_path / "outside"
    outside.mkdir()
    exchange(newest, kind, outside)
    content = content_of(outside)
    for act in (load, lambda folder: go_on(folder.parent)):
        with pytest.raises(UnsafeError, match=f"{newest}' is a (link|FIFO|folder), expected a file"):
            act(folder)
        (folder / "done").unlink(missing_ok=True)
    assert content_of(outside) == content
    newest.rmdir() if kind == "other" else newest.unlink()
    (outside / newest.name).rename(newest)
    exchange(older, kind, outside)
    content = content_of(outside)
    assert go_on(folder.parent) == [folder] and outcome(RUN, folder.parent).finished
    assert content_of(outside) == content


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_kept_go_nowhere_else(tmp_path, kind):
    folder, outside = tmp_path / "runs" / RUN.folder_name, tmp_path / "outside"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "step-00000000.safetensors").write_text("another's")
    outside.mkdir()
    exchange(folder / "weights", kind, outside)
    content = content_of(outside)
    with pytest.raises(UnsafeError, match="weights' is a (link|FIFO|file), expected a folder"):
        train(replace(RUN, keep="all"), folder.parent, device="cpu", progress=False)
    assert content_of(outside) == content and not (folder / "checkpoint").exists()


def test_a_folder_that_the_user_links_is_as_good_as_any(folder, tmp_path):
    (tmp_path / "linked").symlink_to(folder.parent)
    assert load(tmp_path / "linked" / folder.name)[0] == RUN
    (folder / "done").unlink()
    go_on(tmp_path / "linked")
    assert outcome(RUN, folder.parent).finished


# ---- the environment ----


def test_a_path_that_is_not_utf8(tmp_path):
    out = tmp_path / os.fsdecode(b"r\xff\xfens")
    (folder,) = train(RUN, out, device="cpu", progress=False)
    (folder / "done").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert go_on(out) == [folder]
    expected = load(folder)[1].parameters
    opened = wf.import_huggingface(wf.export_huggingface(folder, out / "open"))
    assert (opened.parameters == expected).all()
    assert wf.Activations(folder)[4, 1].shape[0] == 9
    assert all(one.fine for one in audit(folder))


@contextmanager
def no_descriptors():
    """No file can be opened: all descriptors that the process may have are in use."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_descriptors_is_no_damage(folder):
    paths = checkpoint.paths(folder / "checkpoint")
    (folder / "done").unlink()
    for read in (
        lambda: checkpoint.newest(folder / "checkpoint", RUN.id),
        lambda: checkpoint.read(paths[-1], RUN.id),
        lambda: done(folder),
        lambda: load(folder),
    ):
        with no_descriptors(), pytest.raises(OSError, match=str(folder)) as caught:
            read()
        assert caught.value.errno == errno.EMFILE
    assert checkpoint.paths(folder / "checkpoint") == paths


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(folder, monkeypatch, number):
    """Nothing begins anew in it, and nothing that is there is said to be missing."""
    (folder / "done").unlink()
    before, real = content_of(folder), os.listdir
    for name, act in (
        ("checkpoint", go_on),
        ("checkpoint", lambda out: load(folder)),
        (folder.parent.name, lambda out: train(TUNED, out, device="cpu", progress=False)),
    ):

        def fail(path, name=name):
            if os.path.basename(path) == name:
                raise OSError(number, os.strerror(number), path)
            return real(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", fail)
            with pytest.raises(OSError, match=f"{os.strerror(number)}: what is in it cannot be listed: .*{name}'"):
                act(folder.parent)
        assert content_of(folder) == before | {"lock": (folder / "lock").read_bytes()}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_cannot_be_looked_at_is_not_absent(folder, tmp_path, number):
    """Nothing is made in its place, and nothing is read as if it were not there."""
    (folder / "done").unlink()
    (tmp_path / "open").mkdir()
    before, activations = content_of(folder), wf.Activations(folder)
    for name, act in (
        ("step-00000000.h5", go_on),
        ("step-00000004.h5", go_on),
        ("step-00000004.h5", lambda out: wf.Activations(folder)),
        ("step-00000004.h5", lambda out: activations[4, 1]),
        (folder.name, lambda out: list(lines_of(RUN, out.parent))),
        ("open", lambda out: wf.export_huggingface(folder, tmp_path / "open")),
    ):
        with unseen(name, number), pytest.raises(OSError, match=f"{name}'") as caught:
            act(folder.parent)
        assert caught.value.errno == number
        assert content_of(folder) == before | {"lock": (folder / "lock").read_bytes()}
    assert goes_on(RUN, folder.parent)
    with unseen("checkpoint", number):
        assert not goes_on(RUN, folder.parent)
    assert not any((tmp_path / "open").iterdir())


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR])
def test_what_is_absent(folder, number):
    with unseen("spec.json", number):
        assert not files.there(folder / "spec.json") and not files.is_folder(folder / "spec.json")
    (folder / "dangling").symlink_to("nowhere")
    assert files.there(folder / "dangling") and not files.is_folder(folder / "dangling")
    assert files.there(folder / "spec.json") and not files.is_folder(folder / "spec.json")
    assert files.there(folder) and files.is_folder(folder)
    assert not files.there(folder / "spec.json" / "inside") and not files.is_folder(folder / "nowhere" / "inside")


def test_many_pending_runs_take_few_descriptors(tmp_path, monkeypatch):
    """All are held until they have trained, though the process may open only a few files more."""
    pending = [replace(RUN, seed=seed, name=f"s{seed}") for seed in range(60)]
    waves = []

    def train_wave(runs, *_):
        waves.append(len(runs))
        assert all(locked(folder) for folder in runs)

    monkeypatch.setattr(importlib.import_module("worldfast.training.train"), "_train_wave", train_wave)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 16, limits[1]))
    try:
        train(pending, tmp_path, device="cpu", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sum(waves) == len(pending) and not any(locked(folder) for folder in tmp_path.iterdir())


def test_what_killed_studies_left_half_written_is_removed(tmp_path):
    left = [tmp_path / "tables" / f".a.csv.77-1{files.PARTIAL}"]
    left += [tmp_path / "studies" / "one" / part / f".b.77-1{files.PARTIAL}" for part in ("", "figures")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with pytest.raises(RuntimeError, match="no run finished"):
        wf.run_study(wf.Study("one", [RUN]), tmp_path, train_missing=False, progress=False)
    assert not any(path.exists() for path in left)


def test_tables_that_are_elsewhere_are_left_alone(tmp_path):
    kept = tmp_path / "elsewhere" / f".a.csv.77-1{files.PARTIAL}"
    kept.parent.mkdir()
    kept.write_text("half")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tables").symlink_to(kept.parent)
    with pytest.raises(UnsafeError, match="tables"):
        wf.run_study(wf.Study("one", [RUN]), tmp_path / "out", train_missing=False, progress=False)
    assert kept.exists()


def test_studies_that_are_elsewhere_are_left_alone(tmp_path):
    (tmp_path / "elsewhere" / "one").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "studies").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeError, match="studies"):
        wf.run_study(wf.Study("one", [RUN]), tmp_path / "out", train_missing=False, progress=False)
    assert not list((tmp_path / "elsewhere" / "one").iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOMEM, errno.ENOLCK, errno.ENFILE])
def test_trouble_of_the_environment_is_never_called_damage(folder, monkeypatch, number):
    """Whatever file cannot be opened: an OSError that names it; no checkpoint is skipped or removed for that."""
    (folder / "done").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    for name in ("lock", "spec.json", "step-00000004.safetensors", "metrics.jsonl"):
        real = os.open

        def fail(path, *rest, name=name, real=real, **how):
            if os.path.basename(path) == name:
                raise OSError(number, os.strerror(number), path)
            return real(path, *rest, **how)

        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("error")
            patch.setattr(os, "open", fail)
            with pytest.raises(OSError, match=name) as caught:
                go_on(folder.parent)
        assert caught.value.errno == number and caught.value.filename.endswith(name)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
        assert after == before, name
    go_on(folder.parent)
    assert outcome(RUN, folder.parent).finished


# ---- file by file ----


def test_a_folder_is_checked_file_by_file(folder):
    names = ["spec.json", "done", "metrics.jsonl", "step-00000002.safetensors", "step-00000004.safetensors"]
    names += ["checkpoint", "step-00000000.h5", "step-00000002.h5", "step-00000004.h5"]
    assert [(one.path.name, one.state) for one in audit(folder)] == [(name, "whole") for name in names]
    before, last = checkpoint.paths(folder / "checkpoint")
    take_the_older(folder, last, before)
    (folder / "activations" / "step-00000002.h5").unlink()
    (folder / "metrics.jsonl").unlink()
    found = {one.path.name: one.state for one in audit(folder) if not one.fine}
    assert found == {"metrics.jsonl": "missing", last.name: "mistaken", "step-00000002.h5": "missing"}

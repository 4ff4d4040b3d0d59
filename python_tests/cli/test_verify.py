"""`worldfast verify`: a run, a study, a folder of many; a line a file, and 0 only where all is whole."""

import errno
import json
import os
import shutil

import pytest
from tiny import TINY
from unseen import unseen

import worldfast as wf
from worldfast import cli
from worldfast.verify import verify
from worldfast.worlds.cities import Dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    model = TINY
    data = Dataset("distance", rows=32, world=wf.WorldSpec(largest=20))
    runs = [wf.Run(data, batch=16, checkpoints=1, model=model, seed=seed) for seed in (0, 1)]
    wf.run_study(wf.Study("small", tuple(runs), analyses=()), out, device="cpu", progress=False)
    return out


@pytest.fixture
def out(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "out")


def call(capsys, *arguments):
    """Exit status and lines."""
    status = cli.main(["verify", *map(str, arguments)])
    return status, capsys.readouterr().out.splitlines()


def test_whole_folders_of_every_kind(out, capsys):
    run, other = sorted((out / "runs").iterdir())
    for folder, files in ((run, 6), (out / "runs", 12), (out / "studies" / "small", 2), (out, 14)):
        status, lines = call(capsys, folder)
        assert status == 0 and lines[-1] == f"{len(lines) - 1} files, all whole" and len(lines) > files
        assert all(line.startswith("whole ") for line in lines[:-1])
    assert sum(str(run) in line for line in lines) == sum(str(other) in line for line in lines) > 5
    assert call(capsys, out, "--quiet") == (0, [])


def test_what_is_not_whole_is_named(out, capsys):
    run = sorted((out / "runs").iterdir())[0]
    segment = next((run / "activations").glob("*.h5"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 255
    segment.write_bytes(content)
    (run / "metrics.jsonl").unlink()
    table = next((out / "studies" / "small").glob("*.csv"))
    table.write_bytes(table.read_bytes() + b"1")
    status, lines = call(capsys, out, "--quiet")
    said = {line.split(": ")[0].split()[1]: line.split()[0] for line in lines[:-1]}
    assert status == 1 and said == {
        str(segment): "damaged",
        str(run / "metrics.jsonl"): "missing",
        str(table): "damaged",
    }
    assert lines[-1].endswith("files, 3 of them not whole")


@pytest.mark.parametrize("lost", ["spec.json", "done", "checkpoint", "activations", "metrics.jsonl"])
def test_a_run_that_lost_a_file(lost, out, capsys):
    run = sorted((out / "runs").iterdir())[0]
    there = run / lost
    shutil.rmtree(there) if there.is_dir() else there.unlink()
    status, lines = call(capsys, run, "--quiet")
    if lost == "done":  # it is open: it can go on from its checkpoint
        assert (status, lines) == (0, [])
    else:
        assert status == 1 and any(line.startswith(("missing", "damaged")) and lost in line for line in lines)


def test_one_that_is_mistaken_hides_no_other(out, capsys):
    """An exchanged `done` is blamed alone, and later folders are checked."""
    run, other = sorted((out / "runs").iterdir())
    shutil.copy(other / "done", run / "done")
    (other / "metrics.jsonl").unlink()
    status, lines = call(capsys, out, "--quiet")
    assert status == 1 and [line.split(": ")[0].split() for line in lines[:-1]] == [
        ["mistaken", str(run / "done")],
        ["missing", str(other / "metrics.jsonl")],
    ]


def test_what_is_not_of_a_run_is_named_and_is_no_error(out, capsys):
    run = sorted((out / "runs").iterdir())[0]
    strays = [run / "activations" / "foo.txt", out / "studies" / "small" / "mine.txt", out / "tables" / "note"]
    for path in strays:
        path.parent.mkdir(exist_ok=True)
        path.write_text("a")
    status, lines = call(capsys, out, "--quiet")
    assert status == 0 and {line.split(": ")[0] for line in lines} == {f"other      {path}" for path in strays}


@pytest.mark.parametrize("name", ["tables", "studies", "studies/small", "studies/small/figures"])
def test_a_folder_of_a_study_that_leads_elsewhere(out, tmp_path, name, capsys):
    place = out / name
    place.mkdir(exist_ok=True)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    status, lines = call(capsys, out, "--quiet")
    assert status == 1 and lines[0].startswith(f"unsafe     {place}: ") and len(lines) == 2


@pytest.mark.parametrize(
    "name", ["", "runs", "tables", "studies/small", "RUN", "RUN/checkpoint", "RUN/activations"]
)  # RUN: a run's folder
def test_a_folder_that_cannot_be_listed_hides_no_other(out, name, monkeypatch, capsys):
    """It is named once, as unreadable, and everything else is checked."""
    run, other = sorted((out / "runs").iterdir())
    (out / "tables").mkdir()
    place, real = out / name.replace("RUN", f"runs/{run.name}"), os.listdir
    (other / "metrics.jsonl").unlink()

    def listed(path):
        if os.fspath(path) == str(place):
            raise PermissionError(13, "Permission denied", str(place))
        return real(path)

    monkeypatch.setattr(os, "listdir", listed)
    status, lines = call(capsys, out, "--quiet")
    assert status == 1 and [line.split(": ")[0].split() for line in lines if line.startswith("unreadable")] == [
        ["unreadable", str(place)]
    ]
    assert any(str(other / "metrics.jsonl") in line for line in lines) == (name not in ("", "runs"))


@pytest.mark.parametrize("name", ["OUT", "runs", "RUN"])  # RUN: a run's folder
def test_a_folder_that_cannot_be_looked_at_hides_no_other(out, name, capsys):
    run, other = sorted((out / "runs").iterdir())
    (other / "metrics.jsonl").unlink()
    name = {"OUT": out.name, "RUN": run.name}.get(name, name)
    with unseen(name, errno.EACCES):
        status, lines = call(capsys, out, "--quiet")
    if name == out.name:
        assert status and not any("is no folder" in line for line in lines)
        return
    place = out / "runs" / (run.name if name == run.name else "")
    assert status == 1 and [line.split(": ")[0].split() for line in lines if line.startswith("unreadable")] == [
        ["unreadable", str(place)]
    ]
    assert any(str(other / "metrics.jsonl") in line for line in lines) == (name == run.name)


def test_a_study_under_another_name(out, capsys):
    shutil.copytree(out / "studies" / "small", out / "studies" / "large")
    status, lines = call(capsys, out, "--quiet")
    spec = out / "studies" / "large" / "study.json"
    assert status == 1 and lines[0] == (
        f"mistaken   {spec}: '{spec}' is of the study 'small', expected 'large', as its folder is called"
    )


def test_a_study_that_lost_its_spec(out, capsys):
    (out / "studies" / "small" / "study.json").unlink()
    status, lines = call(capsys, out, "--quiet")
    assert status == 1 and lines[0].startswith("missing ") and "study.json" in lines[0]


def test_folders_with_nothing_to_check(tmp_path, capsys):
    for folder, message in ((tmp_path, "holds no run, no study"), (tmp_path / "nowhere", "is no folder")):
        assert cli.main(["verify", str(folder)]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(TypeError, match="folder: expected a path"):
        next(verify(5))


def test_no_circle_of_links(tmp_path, out):
    (out / "again").symlink_to(out)
    (out / "runs" / "again").symlink_to(out)
    assert all(one.fine for one in verify(out))


def test_a_name_writes_no_escape_sequence(out, capsys):
    run = sorted((out / "runs").iterdir())[0]
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    (run / "spec.json").write_text(json.dumps(spec | {"id": "\x1b[2J"}), encoding="utf-8")
    run.rename(run.with_name("a\x1b[31m"))
    status, lines = call(capsys, out)
    assert status == 1 and any("a\\x1b[31m" in line for line in lines) and "\x1b" not in "".join(lines)

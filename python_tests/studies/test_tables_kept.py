"""Cached tables and a study's files: what was written is read, and anything else is named, made again or refused."""

import errno
import json
import os
import re
import resource
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from elsewhere import KINDS, content_of, exchange
from synthetic import run_result, study_result

import worldfast as wf
from worldfast import files
from worldfast.errors import DamagedError, MismatchError, UnsafeError
from worldfast.folder import spec_of
from worldfast.outcome import done
from worldfast.report import write
from worldfast.studies import Analysis, analyses, audit_study, audit_tables, standing
from worldfast.studies.analyses import compute, made, tables_of
from worldfast.verify import verify
from worldfast.worlds import cities

RUN = wf.Run(
    cities.Dataset("angle", rows=32, world=wf.WorldSpec(largest=50)),
    batch=16,
    model=wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16),
    checkpoints=1,
    name="one",
)
MADE = []  # times that the table was made


def numbers(trained):
    MADE.append(trained[0].name)
    return pd.DataFrame(
        {"run": trained[0].name, "value": np.linspace(0, 1, 20) / 3, "text": ["", "nan", "a,b", "é"] * 5}
    )


STUDY = wf.Study("kept", [RUN], layer=1, analyses=(Analysis("numbers", numbers),))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("kept")
    return out, wf.run_study(STUDY, out, device="cpu", progress=False)


@pytest.fixture
def table(ran):
    """The table of the study, as it is at the start of each test."""
    out, _ = ran
    [table] = tables_of(STUDY, [RUN])
    whole = {path: path.read_bytes() for path in (table.path(out), table.path(out).with_suffix(".json"))}
    MADE.clear()
    yield table, out
    for path, content in whole.items():
        path.write_bytes(content)


def test_a_table_is_made_once(table):
    one, out = table
    found = compute(one, out)
    assert made(one, out) and not MADE and found["text"].tolist()[::4] == [""] * 5
    pd.testing.assert_frame_equal(pd.read_csv(one.path(out)), pd.read_csv(one.path(out)))  # without this package, too


def test_a_flipped_bit_anywhere_is_named_and_made_again(table):
    """In the table and in what stands beside it: not one is taken."""
    one, out = table
    expected, random = compute(one, out), np.random.default_rng(0)
    for path in (one.path(out), one.path(out).with_suffix(".json")):
        whole = path.read_bytes()
        for place in random.choice(len(whole), 15, replace=False):
            flipped = whole[place] ^ (1 << random.integers(8))
            path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
            MADE.clear()
            with pytest.warns(UserWarning, match=f"'{path}'.*; the table is made again"):
                pd.testing.assert_frame_equal(compute(one, out), expected)
            assert MADE == ["one"] and made(one, out)
            path.write_bytes(whole)


@pytest.mark.parametrize("what", ["cut", "empty", "swapped", "alone", "older"])
def test_a_table_that_is_not_what_was_written(table, what):
    one, out = table
    path, beside = one.path(out), one.path(out).with_suffix(".json")
    if what in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 40 if what == "cut" else 0])
    elif what == "swapped":
        about = json.loads(beside.read_text())
        analyses.files.write_json(beside, {name: about[name] for name in about if name != "crc32"} | {"id": "0" * 12})
    elif what == "alone":
        beside.unlink()
    else:
        beside.write_text("{}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compute(one, out)
    assert MADE == ["one"] and (what == "alone" or str(path.parent) in str(caught[0].message))


def test_a_studys_folder_is_checked_file_by_file(ran, tmp_path):
    folder = shutil.copytree(ran[0] / "studies" / "kept", tmp_path / "studies" / "kept")
    names = ["study.json", "runs.csv", "numbers.csv", "curves.csv"]
    assert [(one.path.name, one.state) for one in audit_study(folder)] == [(name, "whole") for name in names]
    for name, state in (("runs.csv", "damaged"), ("curves.csv", "missing"), ("study.json", "damaged")):
        whole = (folder / name).read_bytes()
        if state == "missing":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(whole[:30] + bytes([whole[30] ^ 1]) + whole[31:])
        [bad] = [one for one in audit_study(folder) if not one.fine]
        assert (bad.path, bad.state) == (folder / name, state) and str(folder / name) in bad.why
        if name == "study.json":
            with pytest.raises(DamagedError, match=f"'{folder / name}' is damaged"):
                standing.status(folder)
        (folder / name).write_bytes(whole)


def flips(path, count):
    """The content of a file with one bit flipped, at `count` places from its beginning to its end, a bit of each."""
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in np.unique(np.linspace(0, len(whole) - 1, count).astype(int)).tolist():
        yield whole[:place] + bytes([whole[place] ^ 1 << random.integers(8)]) + whole[place + 1 :]


@pytest.mark.parametrize("name", ["study.json", "runs.csv", "curves.csv"])
def test_a_flipped_bit_anywhere_in_a_studys_file_is_named(ran, tmp_path, name):
    """By whoever reads it: a status reads no table, and of the study's spec both say the same."""
    out = tmp_path / "out"
    folder = shutil.copytree(ran[0] / "studies" / "kept", out / "studies" / "kept")
    shutil.copytree(ran[0] / "runs", out / "runs")
    path, expected = folder / name, standing.status(folder)
    for content in flips(path, 200):
        path.write_bytes(content)
        if name == "study.json":
            with pytest.raises(DamagedError, match=f"'{path}' (is damaged|has no checksum)"):
                standing.status(folder)
        else:
            assert standing.status(folder) == expected
        assert [(bad.path, bad.state) for bad in audit_study(folder) if not bad.fine] == [(path, "damaged")]


@pytest.mark.parametrize("how", ["finished", "diverged", "open", "failed"])
def test_a_flipped_bit_in_a_runs_file_is_named_by_the_status(ran, tmp_path, how):
    """Or without effect, where a run has ended; the last line of one that is at work is of no checkpoint yet."""
    out = shutil.copytree(ran[0], tmp_path / "out")
    run, study = out / "runs" / RUN.folder_name, out / "studies" / "kept"
    done, failure = run / "done", out / "failed" / "a.json"
    if how == "diverged":
        files.write_json(done, files.read_json(done) | {"status": how, "step": 1})
    elif how != "finished":
        done.unlink()
        if how == "failed":
            files.write_json(files.folder(failure.parent, "out") / failure.name, {"about": [run.name], "error": "full"})
    expected = standing.status(study)
    assert [one.state for one in expected] == ["stopped" if how == "open" else how] and expected[0].rows
    for path in (done, run / "metrics.jsonl", failure):
        if not path.exists():
            continue
        whole, found = path.read_bytes(), 0
        for flipped in flips(path, 100):
            path.write_bytes(flipped)
            try:
                assert standing.status(study) == expected or how in ("open", "failed")
            except DamagedError as error:
                assert str(path) in str(error)
                found += 1
        path.write_bytes(whole)
        assert (found > 0) == (path.name != "metrics.jsonl" or how != "finished")


def exchanged(table, tmp_path, place, kind):
    """A copy of the folder of the study, with this in the place of one of its files or folders, and what was there."""
    out, outside = shutil.copytree(table[1], tmp_path / "out"), tmp_path / "outside"
    outside.mkdir()
    if place.endswith("figures"):
        files.folder(out / place, "out")
    if (out / place).is_dir():
        (out / place / f".a.7-1{files.PARTIAL}").write_text("half")
    exchange(out / place, kind, outside)
    return out, outside


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["studies/kept", "tables"])
def test_folders_of_a_study_that_lead_elsewhere(table, tmp_path, place, kind):
    out, outside = exchanged(table, tmp_path, place, kind)
    before = content_of(outside)
    acts = [lambda: wf.run_study(STUDY, out, device="cpu", progress=False)]
    acts += [lambda: compute(table[0], out)] if place == "tables" else []
    for act in acts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a table is made again
            with pytest.raises(UnsafeError, match=f"{place}' is a (link|FIFO|file), expected a folder"):
                act()
    if place == "tables":
        assert [(one.path, one.state) for one in audit_tables(out)] == [(out / place, "unsafe")]
    elif kind != "link":  # the user's own link to a study is as good as any
        with pytest.raises((FileNotFoundError, NotADirectoryError), match=place):
            standing.status(out / place)
    assert content_of(outside) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["studies/kept/study.json", "studies/kept/runs.csv", "tables/.csv", "tables/.json"])
def test_files_of_a_study_that_lead_elsewhere(table, tmp_path, place, kind):
    """Whoever reads one names it; whoever writes it puts it in the place of what is there, and follows nothing."""
    place = place.replace("/.", f"/{table[0].name}.")
    out, outside = exchanged(table, tmp_path, place, kind)
    before, study = content_of(outside), out / "studies" / "kept"
    if place.endswith("study.json"):
        with pytest.raises(UnsafeError, match=f"{place}' is a (link|FIFO|folder), expected a file"):
            standing.status(study)
    else:
        assert [one.state for one in standing.status(study)] == ["finished"]
    [bad] = [one for one in [*audit_study(study), *audit_tables(out)] if not one.fine]
    assert bad.state == "unsafe" and f"'{out / place}' is a" in bad.why
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a table is made again
        if kind == "other":
            with pytest.raises(IsADirectoryError, match=place):
                wf.run_study(STUDY, out, device="cpu", progress=False)
        else:
            wf.run_study(STUDY, out, device="cpu", progress=False)
            assert all(one.fine for one in [*audit_study(study), *audit_tables(out)])
    assert content_of(outside) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["spec.json", "metrics.jsonl", "done", "failed"])
def test_files_that_a_status_reads_lead_nowhere(ran, tmp_path, name, kind):
    out = shutil.copytree(ran[0], tmp_path / "out")
    place, outside = out / "runs" / RUN.folder_name / name, tmp_path / "outside"
    outside.mkdir()
    if name == "failed":
        place = files.folder(out / "failed", "out") / "a.json"
        files.write_json(place, {"about": ["a"], "error": "full"})
    elif name != "done":
        (place.parent / "done").unlink()
    exchange(place, kind, outside)
    if name == "spec.json":
        assert [one.state for one in standing.status(out / "studies" / "kept")] == ["stopped"]
    else:
        with pytest.raises(UnsafeError, match=f"{place}' is a (link|FIFO|folder), expected a file"):
            standing.status(out / "studies" / "kept")


def test_a_study_below_a_path_that_is_not_utf8(tmp_path):
    """And a world of a file there: all is made, read again, checked, told, exported, and shown."""
    out = tmp_path / os.fsdecode(b"caf\xe9 \xff\xfe")
    out.mkdir()
    world = out / os.fsdecode(b"towns\xff.csv")
    world.write_text("\n".join(["x,y", *(f"{37 * i % 101},{53 * i % 97}" for i in range(20))]))
    run = replace(RUN, data=cities.Dataset("angle", rows=32, world=wf.WorldSpec(world)), name="")
    study = wf.Study("kept", [run], layer=1, analyses=STUDY.analyses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            result = wf.run_study(study, out, device="cpu", progress=False)
        assert set(result.tables["numbers"].run) == {run.name}
        assert [one.state for one in standing.status(out / "studies" / "kept")] == ["finished"]
        assert all(one.fine for one in verify(out))
        folder = out / "runs" / run.folder_name
        assert spec_of(folder).data.world.source == str(world)
        wf.import_huggingface(wf.export_huggingface(folder, out / "open", step="all") / "step-00000002")
        shown = study_result(run.data.world.build(), [run_result(run.data.world.build(), spec=run.to_json())])
        page = write(replace(shown, command=f"worldfast study run '{world}'"), out / "page" / "report.html")
    assert "towns\\udcff.csv" in page.read_text(encoding="utf-8")
    for name, content, error in (
        (b"none\xff.csv", None, FileNotFoundError),
        (b"bad\xff.csv", "x,y\n1,q\n", ValueError),
    ):
        path = out / os.fsdecode(name)
        if content:
            path.write_text(content)
        with pytest.raises(error, match=re.escape(str(path))):
            wf.WorldSpec(path).build()


@contextmanager
def failing(monkeypatch, number, path):
    """No file of this name can be opened; or, with EMFILE, none at all."""
    real = os.open

    def fail(at, *rest, **how):
        if os.path.basename(os.fspath(at)) == path.name:
            raise OSError(number, os.strerror(number), at)
        return real(at, *rest, **how)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with monkeypatch.context() as patch:
        if number == errno.EMFILE:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        else:
            patch.setattr(os, "open", fail)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOLCK])
def test_trouble_of_the_environment_is_no_damage_of_a_study(table, tmp_path, monkeypatch, number):
    """Whoever reads a file says so by the system's own error, which names it; nothing is made again or removed."""
    one, out = table[0], shutil.copytree(table[1], tmp_path / "out")
    study, run = out / "studies" / "kept", out / "runs" / RUN.folder_name
    opened, world = wf.export_huggingface(run, tmp_path / "open"), tmp_path / "world.csv"
    world.write_text("x,y\n1,2\n3,4\n")
    path, before = one.path(out), content_of(out)
    again = lambda: wf.run_study(STUDY, out, device="cpu", progress=False)  # noqa: E731
    for file, acts in {
        path: [lambda: made(one, out), lambda: compute(one, out), again],
        path.with_suffix(".json"): [lambda: made(one, out), lambda: compute(one, out), again],
        study / "study.json": [lambda: standing.status(study)],
        study / "curves.csv": [lambda: analyses.read_known(study / "curves.csv", "0" * 64)],
        run / "done": [lambda: done(run), lambda: standing.status(study), again],
        run / "spec.json": [lambda: spec_of(run), again],
        opened / "config.json": [lambda: wf.import_huggingface(opened)],
        opened / "model.safetensors": [lambda: wf.import_huggingface(opened), lambda: wf.OpenCheckpoint(opened)],
        world: [lambda: wf.WorldSpec(world).build()],
    }.items():
        for act in acts:
            if number == errno.EMFILE and act is again:
                continue  # it begins with other files
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with failing(monkeypatch, number, file), pytest.raises(OSError) as caught:
                    act()
            assert caught.value.errno == number and str(tmp_path) in str(caught.value), file
            if number != errno.EMFILE:
                assert str(file) in str(caught.value)
        changed = {name for name, content in content_of(out).items() if before.get(name) != content}
        assert changed <= {"studies/kept/study.json"}  # that it runs is said first
    assert not [name for name in before if not (out / name).exists()]


def test_a_studys_file_is_not_believed_beside_another_studys_tables(ran, tmp_path):
    """A study of the same name is told by its tables, and a run's end by its id; one edited table is only damaged."""
    out = shutil.copytree(ran[0], tmp_path / "out")
    folder, run = out / "studies" / "kept", out / "runs" / RUN.folder_name
    content = files.read_json(folder / "study.json")
    (folder / "runs.csv").write_text("")
    assert [one.state for one in standing.status(folder)] == ["finished"]
    other = {name: sha256[::-1] for name, sha256 in content["tables"].items()}
    files.write_json(folder / "study.json", content | {"tables": other})
    with pytest.raises(MismatchError, match=f"'{folder / 'study.json'}' is of other tables than runs.csv, .*another"):
        standing.status(folder)
    assert [(one.path.name, one.state) for one in audit_study(folder)] == [("study.json", "mistaken")]
    files.write_json(folder / "study.json", content | {"tables": None})  # as while it runs
    assert [one.state for one in standing.status(folder)] == ["finished"]
    files.write_json(run / "done", files.read_json(run / "done") | {"run": "0" * 12})
    with pytest.raises(MismatchError, match="done' belongs to run 000000000000"):
        standing.status(folder)


def test_cached_tables_are_checked_file_by_file(table):
    one, out = table
    path, beside = one.path(out), one.path(out).with_suffix(".json")
    assert [(found.path, found.state) for found in audit_tables(out)] == [(path, "whole")]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"0", b"1", 1))
    assert [(found.path, found.state) for found in audit_tables(out)] == [(path, "damaged")]
    path.unlink()
    assert [(found.path, found.state) for found in audit_tables(out)] == [(path, "missing")]
    path.write_bytes(whole)
    shutil.move(path, path.with_name("other-0.csv")), shutil.copy(beside, beside.with_name("other-0.json"))
    assert [found.state for found in audit_tables(out)] == ["missing", "mistaken"]
    for other in path.parent.glob("other-*"):
        other.unlink()


def test_the_table_of_other_runs_is_no_answer(table):
    one, out = table
    with pytest.raises(MismatchError, match="is of table .*, expected"):
        other = analyses.Table(one.kind, one.make, one.runs, {"more": 1}, one.code)
        for suffix in (".csv", ".json"):
            shutil.copy(one.path(out).with_suffix(suffix), other.path(out).with_suffix(suffix))
        try:
            analyses.read_table(other, out)
        finally:
            for suffix in (".csv", ".json"):
                other.path(out).with_suffix(suffix).unlink()

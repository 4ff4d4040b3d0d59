"""Names under which files are written, and names that a terminal shows."""

import pytest

import worldfast as wf
from worldfast import files
from worldfast.errors import DamagedError, file_name, shown, unknown_name
from worldfast.report.figures import save
from worldfast.studies import Analysis, standing
from worldfast.training.jobs import Job, read_failures
from worldfast.worlds import cities

RUN = wf.Run(cities.Dataset("angle", rows=64))
WRONG = [
    "../../x",
    "",
    ".",
    "..",
    ".hidden",
    "-rf",
    "a/b",
    "/etc/x",
    "a\\b",
    "a\nb",
    "a\0b",
    "a\x1b[31mb",
    "a\u202eb",  # shown from right to left
    "\ud800",
    " a",
    "a ",
    "a" * 201,
    "é" * 101,
]
DOORS = {
    "study": lambda name: wf.Study(name, [RUN]),
    "cities' study": lambda name: cities.Study(name, [RUN]),
    "analysis": lambda name: Analysis(name, len),
    "job": lambda name: Job(name, len, (), len),
    "figure": lambda name: save(None, "nowhere", name),
    "name": lambda name: file_name("name", name),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", WRONG, ids=lambda name: ascii(name)[:14])
def test_a_name_that_is_no_files_name(door, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="expected (a name of 1 to 200 bytes|letters, digits)") as caught:
        DOORS[door](name)
    assert str(caught.value).isprintable() and not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in WRONG if name])  # without one it is derived
def test_a_run_of_such_a_name(name):
    with pytest.raises(ValueError, match="name: expected (a name of 1 to 200 bytes|letters, digits)"):
        wf.Run(RUN.data, name=name)


@pytest.mark.parametrize("name", [None, 3, b"a", ["a"]])
def test_what_is_no_text(name):
    with pytest.raises(TypeError, match="name: expected a text, got"):
        wf.Study(name, [RUN])


@pytest.mark.parametrize("name", ["a", "mine 2", "Zürich", "a<b", "a" * 200, "é" * 100, "x..y", "CON"])
def test_names_that_files_may_have(name, tmp_path):
    assert wf.Study(name, [RUN]).name == name
    assert files.write_whole(tmp_path / f"{name}.json", b"1").read_bytes() == b"1"


@pytest.mark.parametrize("field,value", [("folder", "../../secret"), ("folder", "/etc"), ("name", "\x1b]0;mine\x07")])
def test_a_study_from_a_stranger(field, value, tmp_path):
    """Its folders stay in their place, and its names are shown as they are."""
    folder = files.folder(tmp_path / "studies" / "x", "out")
    run = {"name": "a", "folder": "a-1", "start": "", "steps": 1, "rows": 1}
    files.write_json(folder / "study.json", {"name": "x", "layer": 1, "runs": [run | {field: value}], "tables": None})
    with pytest.raises(ValueError, match=f"study.json: {field} of a run: expected a name"):
        standing.status(folder)


@pytest.mark.parametrize("content", [{}, {"name": "x", "tables": None, "runs": [{}]}, {"name": 3, "runs": 3}])
def test_a_study_that_is_none(content, tmp_path):
    """Whole by its checksum, but nothing that a study writes; a record of a failure likewise."""
    folder = files.folder(tmp_path / "studies" / "x", "out")
    files.write_json(folder / "study.json", content)
    with pytest.raises(
        DamagedError, match="study.json' was not written by this version of worldfast: it is no list of"
    ):
        standing.status(folder)
    files.write_json(folder / "a.json", content)
    (folder / "study.json").unlink()
    with pytest.raises(DamagedError, match="a.json' was not written by this version of worldfast: it is no record of"):
        read_failures(folder)


def test_texts_of_strangers_move_no_cursor(tmp_path):
    assert shown("a\x1b[2Jb\r\n") == "a\\x1b[2Jb\\r\\n" and shown("Zürich, 東京") == "Zürich, 東京"
    assert str(unknown_name("region", "a\x1b", ["b\x1b[2J"])).isprintable()
    folder = files.folder(tmp_path / "failed", "out")
    files.write_json(folder / "x.json", {"about": ["a-1"], "error": "bad\x1b[2J"})
    assert read_failures(folder) == {"a-1": "bad\\x1b[2J"}

"""docs/worlds.md as a reader follows it: the file is saved, the rest runs beside it, and another program reads the runs."""

import json
import os
import re
from pathlib import Path

import h5py
import pytest
import warm

import worldfast

GUIDE = Path(worldfast.__file__).parents[1] / "docs" / "worlds.md"
BLOCKS = re.findall(r"```python(?: file=(\S+))?\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
WORLD = dict(BLOCKS)["ring.py"]
FOLLOWS = "\n".join(code for name, code in BLOCKS if not name)


def python(folder, code, **more):
    return warm.python("-c", code, cwd=folder, PYTHONPATH=f"{GUIDE.parents[1]}{os.pathsep}{folder}", **more)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which it was done, and what was printed."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "ring.py").write_text(WORLD)
    return folder, python(folder, FOLLOWS, check=True).stdout


def test_the_world_is_of_about_60_lines():
    assert len(WORLD.splitlines()) <= 70


def test_the_ring_is_read_out_of_what_learned_its_answers(followed):
    folder, printed = followed
    r2 = [float(value) for value in re.findall(r"[-\d.]+(?=[,\s\])])", printed)]
    assert "'x', 'y'" in printed and len(r2) == 2 and min(r2) > 0.8, printed
    [run] = (folder / "runs").glob("*-s0-*")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line["validation/sides"] for line in lines if "validation/sides" in line]
    assert first < 0.8 < 0.9 < last


def test_the_line_of_the_guide_writes_the_states(followed):
    """`worldfast extract FOLDER --out states.h5 --load ring.py`; options of cities are refused by their names."""
    folder, _ = followed
    [run] = (folder / "runs").glob("*-s0-*")
    [line] = re.findall(r"`worldfast (extract FOLDER [^`]*)`", GUIDE.read_text(encoding="utf-8"))
    words = line.replace("FOLDER", f"runs/{run.name}").split()
    command = "import sys; from worldfast.cli import main; sys.exit(main({}))"
    done = python(folder, command.format(words))
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "states.h5") as file:
        assert file["layer_01"].shape == (200, 32) and file["entity_index"][:].tolist() == list(range(200))
    done = python(folder, command.format([*words, "--prompt", "x{city}"]))
    said = "worldfast: unknown option of Ring.readout 'prompt': the readout of Ring has no options"
    assert done.returncode == 1 and said in done.stderr


def test_the_commands_of_the_guide(followed):
    """The runs are those that Python trained, so that nothing is left to do; each row is printed with its answers."""
    folder, _ = followed
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    found = re.findall(r"^worldfast ((?:sample|train) .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    calls = "".join(f"main({words.split()}); " for words in found)
    done = python(folder, f"from worldfast.cli import main; {calls}", check=True)
    *rows, first, second = done.stdout.splitlines()
    numbers = r"(-?[\d.]+(e-\d+)? ){15}-?[\d.]+(e-\d+)?"
    assert len(rows) == 3 and all(
        re.fullmatch(rf"({numbers}; ){{3}}{numbers} -> [01]( [01]){{3}}", row) for row in rows
    )
    assert "pt-ring-s0-" in first and "finished at step" in second
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}.keys() == before.keys()


def test_a_run_names_the_class_and_an_error_says_how_it_is_found(followed):
    folder, _ = followed
    [run] = (folder / "runs").glob("*-s1-*")
    assert json.loads((run / "spec.json").read_text())["run"]["data"]["class"] == "ring.Ring"
    found = python(folder, f"from worldfast.training import load; load({str(run)!r})")
    assert found.returncode and "class 'ring.Ring': ring is not imported: import it first" in found.stderr
    python(folder, f"import ring; from worldfast.training import load; load({str(run)!r})", check=True)


def test_a_script_and_who_imports_it_mean_one_class(followed):
    """The id of a run is the same; the folder of either is read by the other."""
    folder, _ = followed
    [run] = (folder / "runs").glob("*-s1-*")
    end = f"""
if __name__ == "__main__":
    import worldfast as wf
    from worldfast.training import load
    read, _ = load({str(run)!r})
    assert type(read.data) is Ring
    print(wf.Run(Ring(), seed=3).id)
"""
    (folder / "ring.py").write_text(WORLD + end)
    script = warm.python("ring.py", cwd=folder, PYTHONPATH=str(GUIDE.parents[1]))
    assert not script.returncode, script.stderr
    imported = python(folder, "import worldfast as wf, ring; print(wf.Run(ring.Ring(), seed=3).id)", check=True)
    assert script.stdout == imported.stdout


def test_a_class_of_a_prompt_is_found_only_there(followed):
    folder, _ = followed
    code = WORLD + "\nimport json, worldfast as wf\nprint(json.dumps(wf.Run(Ring()).to_json()))"
    content = python(folder, code, check=True).stdout
    assert json.loads(content)["data"]["class"] == "__main__.Ring"
    found = python(folder, f"import json, worldfast as wf; wf.Run.from_json(json.loads({content!r}))")
    assert "__main__ has no dataclass 'Ring' that is a Dataset; define it here as it was" in found.stderr

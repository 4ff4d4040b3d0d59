"""docs/worlds.md as a reader follows it: the files are saved, the rest runs beside them, and other programs read the runs.

Programs share what does not need a process of its own: importing is most of what each takes.
"""

import json
import os
import re
from pathlib import Path

import h5py
import pytest
import warm

import worldfast

GUIDE = Path(worldfast.__file__).parents[1] / "docs" / "worlds.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python(?: file=(\S+))?\n(.*?)```", TEXT, re.DOTALL)
FILES = {name: code for name, code in BLOCKS if name}
WORLD = FILES["ring.py"]
FOLLOWS = "\n".join(code for name, code in BLOCKS if not name)
COMMAND = re.findall(r"`worldfast (study run \S+)`", TEXT)[0]
CALL = "\nfrom worldfast.cli import main\nassert main({}) == 0\n"
AS_SCRIPT = """
if __name__ == "__main__":
    import sys
    import worldfast as wf
    from worldfast.training import load
    read, _ = load(sys.argv[1])
    assert type(read.data) is Ring
    print(wf.Run(Ring(), seed=3).id)
"""
AS_PROMPT = WORLD + "\nimport json, worldfast as wf\nprint(json.dumps(wf.Run(Ring()).to_json()))"
# A program that knows the folder alone, and then imports the world; what came is printed.
READER = """
import json, sys
from contextlib import redirect_stderr
from io import StringIO
import worldfast as wf
from worldfast.cli import main
from worldfast.training import load

def error(call, *arguments):
    with redirect_stderr(StringIO()) as said:
        try:
            status = call(*arguments)
        except ValueError as raised:
            return str(raised)
    return [status, said.getvalue()]

run, prompt, words = {}
said = dict(before=error(load, run), prompt=error(wf.Run.from_json, json.loads(prompt)))
said |= dict(extracted=error(main, words), option=error(main, [*words, "--prompt", "x{{city}}"]))
import ring
load(run)
print(json.dumps(said | dict(id=wf.Run(ring.Ring(), seed=3).id)))
"""


def python(folder, *arguments):
    done = warm.python(*arguments, cwd=folder, PYTHONPATH=f"{GUIDE.parents[1]}{os.pathsep}{folder}")
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which it was done, and what was printed; the command of the guide runs last."""
    folder = tmp_path_factory.mktemp("guide")
    for name, code in FILES.items():
        (folder / name).write_text(code + (AS_SCRIPT if name == "ring.py" else ""))
    return folder, python(folder, "-c", FOLLOWS + CALL.format([*COMMAND.split(), "--out", "."]))


@pytest.fixture(scope="module")
def read(followed):
    """What other programs print of the run of seed 1: a prompt's spec, and what READER says."""
    folder, _ = followed
    [run] = (folder / "runs").glob("*-s1-*")
    [line] = re.findall(r"`worldfast (extract FOLDER [^`]*)`", TEXT)
    prompt = python(folder, "-c", AS_PROMPT)
    words = line.replace("FOLDER", f"runs/{run.name}").split()
    said = json.loads(python(folder, "-c", READER.format((str(run), prompt, words))).splitlines()[-1])
    return {"run": run, "spec": json.loads(prompt), **said}


def test_the_world_is_of_about_60_lines():
    assert len(WORLD.splitlines()) <= 70


def test_the_ring_is_read_out_of_what_learned_its_answers(followed):
    folder, printed = followed
    r2 = [float(value) for value in re.findall(r"[-\d.]+(?=[,\s\])])", printed.splitlines()[0])]
    assert "'x', 'y'" in printed and len(r2) == 2 and min(r2) > 0.8, printed
    [run] = (folder / "runs").glob("*-s0-*")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line["validation/sides"] for line in lines if "validation/sides" in line]
    assert first < 0.8 < 0.9 < last


def test_the_study_of_the_guide_ends_with_a_page_of_its_points(followed):
    """The runs are those that were trained before; the page has every part and speaks of points."""
    folder, printed = followed
    assert "The page: studies/rings/report.html" in printed and len(list((folder / "runs").glob("*-s?-*"))) == 2
    page = (folder / "studies" / "rings" / "report.html").read_text(encoding="utf-8")
    assert "Each dot is one of 200 points" in page and "hidden attributes (x, y)" in page
    assert "held-out points" in page and "best constant answer" in page and 'id="cka-title"' in page
    names = set(re.findall(r'id="figure-([\w-]+)"', page))
    assert {"attributes-over-training", "groups", "cka-over-training", "aligned-maps", "world"} <= names
    assert "Figures that were not drawn" not in page and COMMAND in page
    assert "upper half: the probe errs" in page and not re.search(r"\b(city|cities|Atlantis)\b", page)


def test_the_line_of_the_guide_writes_the_states(followed, read):
    """`worldfast extract FOLDER --out states.h5 --load ring.py`; options of cities are refused by their names."""
    assert read["extracted"][0] == 0, read
    with h5py.File(followed[0] / "states.h5") as file:
        assert file["layer_01"].shape == (200, 32) and file["entity_index"][:].tolist() == list(range(200))
    said = "worldfast: unknown option of Ring.readout 'prompt': the readout of Ring has no options"
    assert read["option"][0] == 1 and said in read["option"][1]


def test_the_commands_of_the_guide(followed):
    """The runs are those that Python trained, so that nothing is left to do; each row is printed with its answers."""
    folder, _ = followed
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    found = re.findall(r"^worldfast ((?:sample|train) .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    calls = "".join(f"main({words.split()}); " for words in found)
    *rows, first, second = python(folder, "-c", f"from worldfast.cli import main; {calls}").splitlines()
    numbers = r"(-?[\d.]+(e-\d+)? ){15}-?[\d.]+(e-\d+)?"
    assert len(rows) == 3 and all(
        re.fullmatch(rf"({numbers}; ){{3}}{numbers} -> [01]( [01]){{3}}", row) for row in rows
    )
    assert "pt-ring-s0-" in first and "finished at step" in second
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}.keys() == before.keys()


def test_a_run_names_the_class_and_an_error_says_how_it_is_found(read):
    assert json.loads((read["run"] / "spec.json").read_text())["run"]["data"]["class"] == "ring.Ring"
    assert "class 'ring.Ring': ring is not imported: import it first" in read["before"]


def test_a_script_and_who_imports_it_mean_one_class(followed, read):
    """The id of a run is the same; the folder of either is read by the other."""
    assert python(followed[0], "ring.py", str(read["run"])).strip() == read["id"]


def test_a_class_of_a_prompt_is_found_only_there(read):
    assert read["spec"]["data"]["class"] == "__main__.Ring"
    assert "__main__ has no dataclass 'Ring' that is a Dataset; define it here as it was" in read["prompt"]

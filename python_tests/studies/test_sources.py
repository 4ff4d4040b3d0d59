"""The code that a table is made with: found by imports, whatever the text's layout, and that alone is in its identity."""

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from worldfast.studies import Study, load_study, sources
from worldfast.studies.sources import code_of
from worldfast.worlds import handed
from worldfast.worlds.cities.analyses import ANALYSES

KINDS = {one.kind for one in ANALYSES}
OF_PAIRS = {"cka", "cka_over_training", "cka_shown"}
ANSWER = {"evaluation", "agreement", "patching", "prompts"}  # the kinds for which a model computes
CAPTURED = {  # of other worlds, the kinds for which none does: of states that are kept, or of the world alone
    "chains": {"probes", "films", "pca", "dimension", "cka", "apart"},
    "factors": {"films", "pca", "dimension", "cka"},
    "walks": {"probes", "films", "pca", "cka"},
}


def once_a_text(function):
    """What a file comes to, worked out once for each text that it has had."""
    found = {}

    def of(path):
        about = path.stat()
        key = path, about.st_mtime_ns, about.st_size
        if key not in found:
            found[key] = function(path)
        return found[key]

    return of


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Patches of `sources` by which the package's Python files lie in another place, and each is parsed once."""

    def only_python(folder, names):
        return [name for name in names if not (name.endswith(".py") or os.path.isdir(os.path.join(folder, name)))]

    root = tmp_path_factory.mktemp("twin") / "worldfast"
    shutil.copytree(sources.ROOT, root, ignore=only_python)
    shutil.copytree(sources.KERNELS, root / "kernels", ignore=only_python, dirs_exist_ok=True)
    read = {name: once_a_text(getattr(sources, name).__wrapped__) for name in ("_tree", "_digest_of_all")}
    return {"ROOT": root, "KERNELS": root / "kernels", **read}


@pytest.fixture
def copy(twin, monkeypatch):
    """The package's Python files where they may be edited; nothing there is run."""
    use(twin, monkeypatch)
    texts = {path: path.read_bytes() for path in twin["ROOT"].rglob("*.py")}
    forget()
    yield twin["ROOT"]
    for path, text in texts.items():
        if path.read_bytes() != text:
            path.write_bytes(text)
    forget()


@pytest.fixture(scope="module")
def before(twin):
    """Digests of the files as they are."""
    with pytest.MonkeyPatch.context() as patch:
        use(twin, patch)
        return digests()


def use(twin, patch):
    for name, other in twin.items():
        patch.setattr(sources, name, other)


def forget():
    for kept in (sources._tree, sources._digest_of_all, sources._imported_by_all_of):
        getattr(kept, "cache_clear", lambda: None)()


def digests():
    forget()
    return {one.kind: code_of(one.make).digest for one in ANALYSES}


def changed(before):
    now = digests()
    return {kind for kind in KINDS if now[kind] != before[kind]}


def with_other_words(text):
    """A file with its docstrings and comments changed, and lines broken elsewhere."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            line = lines[first.lineno - 1]
            at = line.index('"""') + 3
            lines[first.lineno - 1] = f"{line[:at]}Other words. {line[at:]}"
    return "# A comment.\n" + "".join(lines).replace("\ndef ", "\n\n\n\ndef ") + "\n\n\n# The end.\n"


def test_words_and_layout_do_not_count(copy, before):
    for name in ("analysis/probe.py", "analysis/gram.py", "worlds/cities/world.py", "worlds/cities/analyses.py"):
        path = copy / name
        text = path.read_text()
        path.write_text(with_other_words(text))
        assert path.read_text() != text
    assert changed(before) == set()


@pytest.mark.parametrize(
    "name, kinds",
    {
        "analysis/procrustes.py": {"procrustes"},
        "analysis/dimension.py": {"dimension"},
        "analysis/cka_tables.py": OF_PAIRS,
        "analysis/gram.py": OF_PAIRS,
        "analysis/hsic.py": OF_PAIRS,
        "kernels/gram.py": OF_PAIRS,
        "models/cpu.py": ANSWER,
        "models/decoding.py": ANSWER,
        "reading/gradients.py": {"agreement"},
        "reading/patching.py": {"patching"},
        "worlds/cities/patching.py": {"patching"},
        "worlds/cities/evaluate.py": {"evaluation"},
        "worlds/cities/transfer.py": set(),  # makes no table that is kept
        "studies/engine.py": set(),
        "report/report.py": set(),
        "files.py": set(),
    }.items(),
)
def test_code_that_is_edited_remakes_what_it_makes(copy, before, name, kinds):
    with open(copy / name, "a") as file:
        file.write("\nEDITED = 1\n")
    assert changed(before) == kinds


def test_of_its_own_file_only_what_an_analysis_needs_counts(copy, before):
    path = copy / "worlds/cities/analyses.py"
    text = path.read_text()
    for edit, kinds in {
        ("NEIGHBOURS = 10", "NEIGHBOURS = 11"): {"mutual_knn"},
        ("PATCHED_ROWS = 200", "PATCHED_ROWS = 100"): set(),  # an option, which is in the identity by itself
        ("    return dimension_table(", "    return 2 * dimension_table("): {"dimension"},
        ("    return world_of(one).xy[one.things]", "    return world_of(one).xy[one.things] + 1"): {
            "probes",
            "generalisation",
            "prompts",
            "films",
        },
    }.items():
        assert edit[0] in text
        path.write_text(text.replace(*edit))
        assert changed(before) == kinds, edit


def test_native_code_counts_where_it_computes(copy, before, monkeypatch):
    """Room by room: a kernel of attention remakes no CKA."""
    digests = sources.core.sources
    assert {*sources.core.rooms.values()} < {*digests} and all(len(digest) == 64 for digest in digests.values())
    for room, kinds in {"gram": OF_PAIRS, "transformer": ANSWER, "rows": ANSWER, "base": set()}.items():
        monkeypatch.setattr(sources.core, "sources", digests | {room: "other"})
        assert changed(before) == kinds, room
    assert "csrc/gram" in code_of(next(one.make for one in ANALYSES if one.kind == "cka")).modules


def test_a_native_room_counts_with_what_it_includes_and_what_binds_it(tmp_path):
    """base lies below all; a comment changes nothing."""
    csrc = tmp_path / "csrc"
    shutil.copytree(Path(__file__).parents[2] / "csrc", csrc)

    def digests():
        made = tmp_path / "made.cpp"
        script = [f"-DSOURCES={csrc}", f"-DOUTPUT={made}", "-P", csrc / "sources.cmake"]
        subprocess.run(["cmake", *map(str, script)], check=True)
        words = made.read_text().split('"')[1].split()
        return dict(zip(words[::2], words[1::2]))

    first = digests()
    assert {*first} == {"base", "gram", "recurrent", "rows", "transformer"}
    for name, rooms in {
        "gram/gram.cpp": {"gram"},
        "bind/bind_gram.cpp": {"gram"},
        "transformer/linear.cpp": {"transformer", "recurrent"},
        "base/simd.h": {*first},
    }.items():
        with open(csrc / name, "a") as file:
            file.write("// said\n")
        assert digests() == first, name
        text = (csrc / name).read_text()
        (csrc / name).write_text(text + "int edited;\n")
        now = digests()
        assert {room for room in first if now[room] != first[room]} == rooms, name
        (csrc / name).write_text(text)


# ---- anyone's file ----

STUDY = """
import helper
from worldfast import Run
from worldfast.studies import Analysis, Study
from worldfast.worlds import cities


def mean(trained):
    return helper.table(trained[0].activations)


def other(trained):
    return cities.label(trained)


run = Run(cities.Dataset("angle", rows=64))
study = Study("mine", [run], analyses=[Analysis("mean", mean), Analysis("other", other)])
"""


def test_a_study_of_any_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(STUDY)
    (tmp_path / "helper.py").write_text("import json\n\n\ndef table(activations):\n    return json\n")
    study = load_study(path)
    assert isinstance(study, Study) and study.name == "mine" and study.layer == 5
    mean, other = (code_of(one.make) for one in study.analyses)
    assert mean.modules == ("helper",) and "worldfast.worlds.cities.tasks" in other.modules
    (tmp_path / "helper.py").write_text("def table(activations):\n    return 2\n")
    forget()
    again = load_study(str(path))
    assert code_of(again.analyses[0].make).digest != mean.digest
    assert code_of(again.analyses[1].make) == other


def test_files_that_hold_no_study(tmp_path):
    path = tmp_path / "mine.py"
    with pytest.raises(FileNotFoundError, match="there is no file '.*mine.py'"):
        load_study(path)
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match="mine.py' defines no `study`, such as study = Study"):
        load_study(path)
    path.write_text(STUDY.replace("import helper\n", "").replace("study = ", "my_study = "))
    with pytest.raises(ValueError, match="'my_study' is one: call it `study`"):
        load_study(path)
    path.write_text("study = [1]\n")
    with pytest.raises(TypeError, match="should be a Study, it is of type list"):
        load_study(path)
    with pytest.raises(ValueError, match="expected a Python file, got '.*mine.toml'"):
        load_study(tmp_path / "mine.toml")
    path.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_study(path)


def test_functions_whose_code_cannot_be_found():
    def inside(trained):
        return trained

    with pytest.raises(ValueError, match="inside: expected a function that is defined at the top level"):
        code_of(inside)
    with pytest.raises(ValueError, match="expected a function that is defined at the top level"):
        code_of(lambda trained: trained)
    space = {}
    exec("def typed(trained): return trained", space)
    with pytest.raises(ValueError, match="typed at .* has no source file: define it in a file"):
        code_of(space["typed"])


@pytest.mark.parametrize("world", CAPTURED)
def test_tables_count_the_models_that_compute_them_and_no_other_world(world):
    modules = {one.kind: code_of(one.make).modules for one in handed("ANALYSES")[world]}
    assert {kind for kind, some in modules.items() if "worldfast.models.cpu" not in some} == CAPTURED[world]
    others = tuple(f"worldfast.worlds.{other}." for other in CAPTURED if other != world)
    assert not [name for some in modules.values() for name in some if name.startswith(others)]

"""Text files are UTF-8 whatever the locale, and no output ends a program because a terminal lacks a letter."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import worldfast

ROOT = Path(worldfast.__file__).parent
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if "kernels" not in path.parts]
TEXT = {
    "read_text",
    "write_text",
    "open",
    "fdopen",
    "FileHandler",
    "TextIOWrapper",
    "read_csv",
    "to_csv",
    "NamedTemporaryFile",
}
TEXT |= {"run", "Popen", "check_output"}  # of subprocess, with text=True


def lacks_encoding(call):
    """Truth of a call that reads or writes text in the encoding of the locale."""
    of = call.func.value if isinstance(call.func, ast.Attribute) else None
    name = call.func.attr if of is not None else getattr(call.func, "id", "")
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if name not in TEXT or "encoding" in named:
        return False
    if name in ("run", "Popen", "check_output"):
        return ast.unparse(of or call) == "subprocess" and bool({"text", "universal_newlines"} & named.keys())
    if name in ("open", "fdopen", "NamedTemporaryFile"):
        if ast.unparse(of or call) == "os" and name == "open":
            return False
        own = of is not None and ast.unparse(of) not in ("io", "os", "tempfile", "gzip")  # path.open(mode)
        place = 0 if own or name == "NamedTemporaryFile" else 1
        mode = named.get("mode", call.args[place] if len(call.args) > place else None)
        return "b" not in (ast.unparse(mode) if mode else "'w+b'" if name == "NamedTemporaryFile" else "'r'")
    if name == "to_csv":  # without a path it returns text
        return bool(call.args) or "path_or_buf" in named
    if name == "read_csv":  # of pandas; of bytes, it takes UTF-8 unless told otherwise
        return ast.unparse(of or call) in ("pd", "pandas") and "BytesIO" not in ast.unparse(call)
    return True


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("open(path)", True),
        ("open(path, 'w', opener=regular)", True),
        ("open(path, mode='rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("path.open()", True),
        ("path.open('rb')", False),
        ("path.read_text()", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("table.to_csv(path)", True),
        ("table.to_csv(index=False)", False),
        ("pd.read_csv(path)", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
        ("plain.run(rows)", False),
    ],
)
def test_what_lacks_an_encoding(code, lacks):
    assert lacks_encoding(ast.parse(code).body[0].value) is lacks


def test_every_text_file_is_read_and_written_as_utf8():
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and lacks_encoding(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


CODE = """
import locale, sys
from pathlib import Path
import pandas as pd
from worldfast import cli, files
from worldfast.worlds.cities import World

out = Path(sys.argv[1])
(out / "w.csv").write_bytes("lat;lng;city\\n35.7;139.7;T\\u014dky\\u014d\\n".encode("utf-8"))
name = str(World.from_csv(out / "w.csv").name[0])
files.write_whole(out / "t.csv", pd.DataFrame({"name": [name]}).to_csv(index=False).encode())
files.write_json(out / "s.json", {"name": name})
assert files.read_json(out / "s.json") == {"name": name}
assert (out / "t.csv").read_bytes() == "name\\nT\\u014dky\\u014d\\n".encode("utf-8")

def say() -> None:
    print(name)
    print(name, file=sys.stderr)
    raise ValueError(name)

cli.COMMANDS["say"] = say
print(locale.getpreferredencoding(False), sys.stdout.encoding)
sys.exit(cli.main(["say"]))
"""


def test_a_locale_without_the_letters_of_a_name(tmp_path):
    """ASCII, from LC_ALL=C: what it has, every other locale has too."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    environment = os.environ | ascii_only | {"PYTHONWARNDEFAULTENCODING": "1"}
    command = [sys.executable, "-c", CODE, tmp_path]
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    first, name = ended.stdout.decode("ascii").splitlines()
    assert first == "ANSI_X3.4-1968 ascii"
    assert name == r"T\u014dky\u014d"
    errors = ended.stderr.decode("ascii")
    assert errors.splitlines()[-2:] == [r"T\u014dky\u014d", r"worldfast: T\u014dky\u014d"]
    assert f"{ROOT}{os.sep}" not in errors, "a file without an encoding"  # EncodingWarning names it
    assert ended.returncode == 1

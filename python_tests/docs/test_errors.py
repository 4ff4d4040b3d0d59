"""The catalogue of errors: every class is in it, and every exit status is what the command line returns."""

import builtins
import inspect
import re
import signal
from pathlib import Path

import pytest

import worldfast as wf
from worldfast import cli, errors, study_cli

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (?:`(\w+)` )?\|", PAGE, re.MULTILINE))
STATUSES = [int(status) for status in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]


def raised():
    """Python's classes that the package raises for a user, and OSError for those that are one; of `wf` a missing
    attribute, and of PyTorch's kernels what they do not implement, are errors of the code that asks.
    """
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(wf.__file__).parent.rglob("*.py")))
    found = {getattr(builtins, name, None) for name in re.findall(r"\braise (\w+Error)\(", text)} - {None}
    of_code = {AssertionError, AttributeError, NotImplementedError, OverflowError}
    kinds = (OSError, ImportError)
    return {next((kind for kind in kinds if issubclass(one, kind)), one).__name__ for one in found - of_code}


def test_every_class_is_in_the_catalogue_with_its_base():
    own = {name: kind.__base__.__name__ for name, kind in inspect.getmembers(errors, inspect.isclass)}
    own = {name: base for name, base in own.items() if getattr(errors, name).__module__ == errors.__name__}
    assert len(own) == 7 and own == {name: base for name, base in ROWS.items() if base}
    assert {name for name, base in ROWS.items() if not base} == raised() | {"KeyboardInterrupt"}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            assert len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5 and all(cells[2:])


def test_errors_are_reached_without_an_import_of_their_own():
    assert wf.errors is errors


def status_of(raised, monkeypatch):
    """Exit status of a command that raises this, or whose function returns it."""

    def command() -> int:
        if isinstance(raised, BaseException):
            raise raised
        return raised

    monkeypatch.setitem(cli.COMMANDS, "verify", command)
    return cli.main(["verify"])


def stopped(signum):
    ended = KeyboardInterrupt("stopped")
    ended.signum = signum
    return ended


def test_every_status_is_what_the_command_line_returns(monkeypatch, capsys):
    found = {status_of(None, monkeypatch), status_of(0, monkeypatch)}
    assert found == {0}
    for error in (
        errors.DamagedError("a"),
        errors.DeviceError("cuda", "none"),
        OSError("a"),
        TypeError("a"),
        ImportError("a"),
        1,
    ):
        found.add(status_of(error, monkeypatch))
    assert found == {0, 1}
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", "distance", "--nn", "5"])
    found.add(ended.value.code)
    for signum in (signal.SIGHUP, signal.SIGTERM):
        found.add(status_of(stopped(signum), monkeypatch))
    found.add(status_of(KeyboardInterrupt(), monkeypatch))
    found.add(status_of(BrokenPipeError(), monkeypatch))
    found.add(study_cli.UNDONE)  # returned, by studies/test_engine.py
    assert sorted(found) == STATUSES

"""Log of long work: quiet until someone listens, and never said twice."""

import logging
import re
import sys

import pytest
from elsewhere import KINDS, content_of, exchange
from tiny import TINY

import worldfast as wf
from worldfast import cli
from worldfast.errors import UnsafeError
from worldfast.log import LOG, logged_to, tell
from worldfast.worlds import cities

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
SMALL = "--rows 32 --batch 16 --hidden 16 --layers 1 --heads 2 --intermediate 24 --checkpoints 2".split()


def test_nothing_listens_by_default(capsys):
    assert LOG.handlers == [] and LOG.level == logging.NOTSET
    tell("shown")
    tell("hidden", shown=False)
    assert capsys.readouterr().err == "shown\n"


@pytest.mark.parametrize("whose", ["worldfast", None])
def test_a_line_that_a_handler_shows_is_not_printed_again(whose, capsys, monkeypatch):

    logger, handler = logging.getLogger(whose), logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logger, "handlers", [handler])
    tell("above the level")
    assert capsys.readouterr().err == "above the level\n", "printed: the level is WARNING"
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        tell("once")
        handler.setLevel(logging.ERROR)
        tell("printed")
    finally:
        logger.setLevel(level)
    assert capsys.readouterr().err == "once\nprinted\n"


def test_a_file_is_written_to_its_end_with_times(tmp_path):
    path = tmp_path / "logs" / "job.log"
    for text in ("erste Zeile: ü", "second"):
        with logged_to(path):
            tell(text, shown=False)
    tell("later", shown=False)
    assert re.fullmatch(rf"{TIME} erste Zeile: ü\n{TIME} second\n", path.read_text(encoding="utf-8"))
    assert LOG.handlers == [] and LOG.level == logging.NOTSET


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["logs", "logs/job.log"])
def test_a_log_that_is_elsewhere_is_left_alone(part, kind, tmp_path):
    """A cluster's jobs write below the folder of a study, which may be a stranger's: nothing outside, and no FIFO."""
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "logs" / "job.log").write_text("before\n")
    (tmp_path / "elsewhere").mkdir()
    exchange(tmp_path / "out" / part, kind, tmp_path / "elsewhere")
    before = content_of(tmp_path / "elsewhere")
    with pytest.raises(UnsafeError, match=f"{part}'? is "), logged_to(tmp_path / "out" / "logs" / "job.log"):
        tell("outside", shown=False)
    assert content_of(tmp_path / "elsewhere") == before and LOG.handlers == []


def test_a_path_that_is_not_utf8_is_logged(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("worldfast"), "propagate", False)  # to pytest, which does not pass it on
    with logged_to(tmp_path / "logs" / "job.log"):
        tell("/tmp/\udcff", shown=False)
    assert (tmp_path / "logs" / "job.log").read_text(encoding="utf-8").endswith(" /tmp/\\udcff\n")
    assert capsys.readouterr().err == ""


def test_training_is_logged_where_nothing_is_shown(tmp_path, capsys, caplog):
    model = TINY
    run = wf.Run(cities.Dataset("distance", rows=32), batch=16, checkpoints=1, model=model)
    with caplog.at_level(logging.INFO, "worldfast"):
        wf.train(run, tmp_path, device="cpu", progress=False)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("1 of 1 fit in ") and said[1].startswith("training pt-distance-s42 on the CPU")
    assert said[-1].startswith("32 of 32 rows  ") and capsys.readouterr().err == ""


def test_the_command_line_logs_with_times(tmp_path, capsys):
    words = ["train", "--tasks", "angle", *SMALL, "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and all(re.match(rf"{TIME} ", line) for line in lines)
    assert sum("training pt-angle-s42 on the CPU" in line for line in lines) == 1
    assert cli.main([*words, "--seeds", "7", "--quiet"]) == 0
    assert capsys.readouterr().err == "" and LOG.handlers == []

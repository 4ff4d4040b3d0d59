"""A few tries of each row of the table of promises; and rows notice when the code is broken. Many tries: `make torture`.
The fast part of the row "cluster" is training/test_cluster.py; here is what it says of exit statuses, without Ray.
"""

import errno
import json
import locale
import math
import os
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))  # the folder torture stands beside the package

import worldfast as wf
from torture import (
    cluster,
    damage,
    everywhere,
    faults,
    flat,
    forks,
    fuzz,
    hand_made,
    hostile,
    invariance,
    kills,
    simulations,
    trouble,
)
from torture.__main__ import ROWS, table
from torture.faults import Nursery
from torture.tally import Tally
from torture.work import towns
from worldfast import checkpoint
from worldfast._native import core
from worldfast.studies import load_study

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="faults are compiled by cc")


def tried(row, target, place, seed=0, **how):
    """Tally of a row after so many tries."""
    tally = Tally(target, 300, place, seed)
    row.run(tally, **how)
    assert tally.tried >= target
    return tally


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A process that forks others, in which calls fail."""
    place = tmp_path_factory.mktemp("nursery")
    with Nursery(
        place, ("torture.work:work", str(towns(place / "towns.csv")), str(place / "warm"), ("train",))
    ) as found:
        yield found


@needs_compiler
def test_kills(tmp_path, there):
    tally = tried(kills, 5, tmp_path, parts=("train",), there=there)
    assert not tally.failed, tally.examples
    assert any(kind.startswith("in a save") for kind in tally.held)


@needs_compiler
def test_kills_notice_files_written_in_place(tmp_path, there, monkeypatch):
    monkeypatch.setattr(kills, "SAVING", ("write",))
    monkeypatch.setattr(kills, "DEEP", 6)  # among the first that a run writes
    how = dict(parts=("train",), does="broken:in_place", there=there)
    places = [tmp_path / str(seed) for seed in range(8)]
    for place in places:
        place.mkdir()
    assert any(tried(kills, 5, place, seed, **how).failed for seed, place in enumerate(places))  # until one notices


@needs_compiler
def test_what_hangs_under_a_fault_is_killed(there, monkeypatch):
    monkeypatch.setattr(faults, "PATIENCE", 0.1)
    assert there.call("time:sleep", 60)["status"] == -signal.SIGKILL
    monkeypatch.undo()
    assert there.call("time:sleep", 0)["status"] == 0


def test_jobs_of_which_some_die(monkeypatch):
    """Each is told, the others go on, and no process is left."""
    monkeypatch.setattr(forks, "SECONDS", 0.5)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    jobs = [lambda: 1, lambda: os._exit(3), lambda: [2], lambda: time.sleep(9), lambda: {}]
    assert list(forks.forked(jobs)) == [1, "died with status 3", [2], "hung for 0.5 s", {}]
    assert children.read_text() == before


TRAINED = ("checkpoint", "done", "metrics.jsonl", "segment", "spec.json", "world.csv")  # kinds of files of training


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two studies that can be damaged, as long as each file is put back."""
    return damage.made(tmp_path_factory.mktemp("studies"), ("train",))


def test_damage(tmp_path, studies):
    tally = tried(damage, 60, tmp_path, there=studies, kinds=TRAINED)
    assert not tally.failed, tally.examples


def test_damage_notices_a_process_that_dies(tmp_path, studies, monkeypatch):
    """The file is put back, and the others go on."""
    here, read = os.getpid(), damage.activations

    def activations(folder, *steps):
        if steps and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(folder, *steps)

    monkeypatch.setattr(damage, "activations", activations)
    whole = {path: path.read_bytes() for place in studies[0] for path in place.rglob("*.h5")}
    tally = tried(damage, 12, tmp_path, there=studies, kinds=TRAINED)
    assert {kind.partition(",")[0] for kind in tally.failed} == {"segment"} and "status -9" in str(tally.failed)
    assert whole == {path: path.read_bytes() for path in whole}


def test_damage_notices_a_missing_checksum(tmp_path, studies, monkeypatch):
    monkeypatch.setattr(checkpoint, "_checksum", lambda header, tensors: ANY)  # equal to whatever a file says
    monkeypatch.setattr(damage, "DAMAGES", ("bit flipped",))
    tally = tried(damage, 90, tmp_path, there=studies, kinds=TRAINED)
    assert {kind.partition(",")[0] for kind in tally.failed} == {"checkpoint"}


def test_damage_misses_kinds_of_files(tmp_path, studies, monkeypatch):
    tally = tried(damage, 6, tmp_path, there=studies, kinds=(*TRAINED[1:], "table"))
    assert tally.failed == {"kinds of files": 2}
    assert tally.examples["kinds of files"] == ["checkpoint: not expected", "table: not there"]
    monkeypatch.setattr(damage, "OFTEN", 1)
    tally = tried(damage, 6, tmp_path, there=studies, kinds=TRAINED)
    assert tally.failed == {"kinds of files": 6} and "damaged 1 times, expected " in str(tally.examples)


def test_damage_wants_the_right_file_named(studies):
    """One of the same name in another run's folder is not it, nor is the run."""

    def elsewhere(folder, step):
        try:
            return damage.activations(folder, step)
        except ValueError as error:
            raise type(error)(str(error).replace(folder.name, f"{folder.name}-2")) from None

    subject = next(one for one in damage.subjects(*studies) if one.kind == "segment")
    subject = subject._replace(read=lambda: elsewhere(subject.path.parents[1], int(subject.path.stem[5:])))
    held, word, said = damage.attempt(subject, damage.EXCHANGED, "", 1)
    assert (held, word) == (False, "not named") and subject.path.name in said


def test_invariance_notices_what_is_beyond_the_stated_error(tmp_path, monkeypatch):
    """Batches of rows as they come, which follow a period."""
    within = invariance.STATISTICS["cka_minibatch"].within
    assert callable(within) and 0.02 < within(*invariance.pair(np.random.default_rng(0))) < 0.15

    def in_order(X, Y):
        return np.mean([wf.cka(X[a : a + 64], Y[a : a + 64], debiased=True) for a in range(0, len(X), 64)])

    wrong = invariance.STATISTICS["cka_minibatch"]._replace(of=in_order)
    monkeypatch.setattr(invariance, "STATISTICS", {"in order": wrong})
    assert "in order, sorted" in tried(invariance, 60, tmp_path).failed


def test_layers_that_changed_places_in_a_segment(studies):
    for subject in (one for one in damage.subjects(*studies) if one.kind == "segment"):
        assert damage.attempt(subject, damage.EXCHANGED, "", 1)[:2] == (True, "named")


def test_what_verify_blames(tmp_path, studies, monkeypatch):
    """What was exchanged, linked or deleted, and nothing besides; an exchange that is not noticed is."""
    found = dict(damage.blame(studies[0][0], tmp_path / "out", seed) for seed in range(14))
    assert len(found) > 4 and not any(found.values()), found
    monkeypatch.setattr(damage, "exchanged", lambda *_: ("nothing", {"done"}))
    assert damage.blame(studies[0][0], tmp_path / "out", 0) == ("nothing", "blamed [], expected ['done']")


@pytest.fixture(scope="module")
def troubles(tmp_path_factory, there):
    """Troubles of a study, with a tally that each test replaces."""
    place = tmp_path_factory.mktemp("troubles")
    return trouble.Troubles(Tally(0, 0, place), there, str(towns(place / "towns.csv")), ("train",))


@needs_compiler
def test_trouble(troubles):
    tally = troubles.tally = Tally(6, 300, troubles.tally.place)
    trouble.go_through(troubles)
    assert tally.tried >= 6 and not tally.failed, tally.examples


@needs_compiler
def test_trouble_that_does_not_come_does_not_count(troubles):
    tally = troubles.tally = Tally(6, 300, troubles.tally.place)
    quiet, (of, calls) = troubles.quiet, *troubles.calls.items()
    troubles.failing(of, "mkdir", calls["mkdir"] + 1, errno.ENOSPC, 1)
    assert tally.tried == 0 and troubles.quiet == quiet + 1
    troubles.failing(of, "mkdir", calls["mkdir"], errno.ENOSPC, 1)
    assert tally.held == {"mkdir fails: ENOSPC": 1} and troubles.quiet == quiet + 1
    troubles.one("a limit far away", (errno.EFBIG,), "torture.trouble:with_limit", "size", 1 << 30)
    assert tally.tried == 1 and troubles.quiet == quiet + 2


@needs_compiler
def test_trouble_notices_an_error_that_names_no_file(troubles, monkeypatch):
    """Even where no fault came."""
    monkeypatch.setattr(trouble, "as_expected", lambda *_: "it names no file")
    tally = troubles.tally = Tally(6, 300, troubles.tally.place)
    troubles.failing(*troubles.calls, "mkdir", 1 << 30, errno.ENOSPC, 1)
    assert tally.failed == {"mkdir fails: ENOSPC": 1}


def test_locales_are_there(tmp_path, monkeypatch):
    """A process in a locale that is not installed would have that of C, unnoticed."""
    tally = Tally(6, 300, tmp_path)
    if trouble.make_locale(tally, "Turkish"):
        monkeypatch.setenv("LOCPATH", str(tmp_path))
        before = locale.setlocale(locale.LC_ALL)
        assert locale.setlocale(locale.LC_ALL, "tr_TR.UTF-8") and not tally.notes
        locale.setlocale(locale.LC_ALL, before)
    monkeypatch.setenv("PATH", "")
    assert not trouble.make_locale(Tally(6, 300, tmp_path / "none"), "Latin-1")


FEW = (
    "checkpoint: a tensor of 10^15",
    "checkpoint: a pickle",
    "segment: an external link",
    "spec: a class of the system",
)


@needs_compiler
def test_hostile(tmp_path, there):
    tally = tried(hostile, len(FEW), tmp_path, names=FEW, parts=("train",), there=there)
    assert not tally.failed, tally.examples


@pytest.mark.parametrize(
    "row,target,how", [(everywhere, 12_000, {"make": False}), (invariance, 90, {}), (simulations, 30, {})]
)
def test_others(row, target, how, tmp_path):
    tally = tried(row, target, tmp_path, **how)
    assert not tally.failed, tally.examples


@pytest.mark.parametrize("asked", [0.5, 7200])
def test_flat(asked, tmp_path, monkeypatch):
    """All kinds of work are judged, and as held only after the time that is promised."""
    judged = {}
    monkeypatch.setattr(flat, "RUN", replace(flat.RUN, data=replace(flat.RUN.data, rows=320)))
    monkeypatch.setattr(flat, "EACH", 0.02)
    monkeypatch.setattr(flat, "ASKED", asked)
    monkeypatch.setattr(flat.Young, "begin", lambda young: None)
    monkeypatch.setattr(flat.Young, "rate", lambda young, what: 1.0)
    monkeypatch.setattr(flat.Pulse, "judge", lambda pulse, tally, *how: judged.update({how: len(pulse.lines)}))
    tally = Tally(flat.TARGET, 0.5, tmp_path)
    flat.run(tally)
    whole = asked < 1
    assert set(judged) == {(what, whole) for what in ("generation", "short calls", "one long call")}
    assert all(judged.values()) and tally.elapsed >= 0.5 and not list(tmp_path.iterdir())
    assert ("nothing counts as held: that takes the whole time" in tally.notes) == (not whole)


def test_the_long_run_of_flat_repeats_its_rows_rather_than_want_more_than_there_are(tmp_path):
    run = flat.long_run(Tally(flat.TARGET, 1, tmp_path), 1e7)
    assert run.epochs * run.epoch_rows > 10**8  # there are 20 million pairs of cities to train on
    run.stream().batch(0, 64)
    assert not list(tmp_path.iterdir())


def test_flat_compares_with_young_processes(tmp_path, monkeypatch):
    """Each does the same work, a piece when it is asked and none before, and makes way for another in an empty folder."""
    monkeypatch.setattr(flat, "YOUTH", 4)
    run = replace(flat.RUN, data=replace(flat.RUN.data, rows=320))
    with flat.Young(partial(flat.many_calls, run, 0.01), tmp_path / "young") as young:
        rates = [young.rate(what) for _ in range(2) for what in (flat.GENERATION, flat.SHORT)]
        first = young.process.pid
        assert young.did == {flat.GENERATION: 4, flat.SHORT: 4}
        rates.append(young.rate(flat.GENERATION))
        assert young.process.pid not in (first, os.getpid()) and young.did == {flat.GENERATION: 3, flat.SHORT: 2}
        assert not young.pipe.poll(0.3)
        last = young.process
        assert last.is_alive() and (tmp_path / "young").is_dir()
    assert all(0 < rate < float("inf") for rate in rates) and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="closed"):
        last.is_alive()


@pytest.mark.parametrize(
    "growth,slower,more,noise,failed",
    [
        (0, 0, 0, 0, ""),
        (0.05, 0, 0, 0, "memory"),
        (0, 0.2, 0, 0, "rate"),
        (0, 0, 5, 0, "descriptors and threads"),
        (0, 0, 0, 0.9, "rate"),
    ],
)
def test_flat_notices(growth, slower, more, noise, failed, tmp_path):
    pulse = flat.Pulse()
    pulse.lines = [
        (
            10.0 * i,
            1e8 * (1 + growth * i / 99),
            5 + more * i // 99,
            4,
            1 - slower * i / 99 + i % 7 / 1000 + noise * (i * 37 % 11 / 10 - 0.5),
        )
        for i in range(100)
    ]
    tally, short = Tally(9, 9, tmp_path), Tally(9, 9, tmp_path)
    pulse.judge(tally, "it", whole=True)
    assert set(tally.failed) == ({f"it: {failed}"} if failed else set()) and tally.tried == 3
    pulse.judge(short, "it", whole=False)
    assert not short.held and short.failed == ({} if noise else tally.failed)


@pytest.mark.parametrize("beats", [3, 25])
def test_flat_does_not_hold_what_it_could_not_judge(beats, tmp_path):
    tally, pulse = Tally(9, 9, tmp_path), flat.Pulse()
    pulse.lines = [(float(i), 1e8, 5, 4, 1.0) for i in range(beats)]
    pulse.judge(tally, "it", whole=True)
    assert tally.failed and not tally.held


@pytest.mark.parametrize("status, held", [(3, True), (0, False), (1, False)])
def test_the_status_of_the_command_on_a_cluster_is_judged(status, held, tmp_path, monkeypatch):
    """The first run fails, as its checkpoints are damaged, and is removed; then all is done."""
    out = tmp_path / "study-0" / "runs"
    monkeypatch.setattr(cluster, "two_nodes", lambda: nullcontext("here"))
    statuses = [status, 0, 0]

    def until_it_ends(killer, start, runs):
        mine = load_study(tmp_path / "study.py").runs
        if len(statuses) == 3:
            with pytest.raises(ValueError, match="checkpoint.*to begin again"):
                wf.train(mine, runs, progress=False)
        else:
            wf.train(mine, runs, progress=False)
        return statuses.pop(0), 1

    monkeypatch.setattr(cluster.Killer, "until_it_ends", until_it_ends)
    tally = Tally(0, 300, tmp_path)
    cluster.run(tally, count=2, rows=64)
    kind = "exit status 0 where all is done, 3 where runs failed"
    assert tally.held[kind] == (2 if held else 1) and tally.failed == ({} if held else {kind: 1}), tally.examples
    assert len(list(out.glob("*/done"))) == 3 and not statuses


def called(known, times, place):
    """What a process of the row reports after so many calls, made in this one."""
    width = core.vector_width()
    fuzz.go_on(width=width, seed=0, seconds=300, calls=times, place=str(place), path=None, known=known, hang=20)
    core.limit_vector_width(width)
    return json.loads((place / "now").read_text())


@pytest.mark.parametrize("known", fuzz.KNOWN)
def test_fuzz(known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for function, arguments in fuzz.calls_of(known).values():
        function(*arguments)
    report = called(known, 300, tmp_path)
    assert not report["wrong"]
    assert report["counts"]["answered"] > 30 and report["counts"]["refused"] > 30


@pytest.mark.parametrize("known, words", [("crash", "a crash"), ("hang", "a hang")])
def test_fuzz_notices(known, words, tmp_path, monkeypatch):
    """And says how to make the call again."""
    monkeypatch.setattr(fuzz, "WIDTHS", (4,))
    how = dict(guided=False, known=(f"broken_calls:{known}",), by_hand=False, hang=0.2)
    (kind,) = tried(fuzz, 1, tmp_path, **how).failed
    assert kind.startswith(words)


def test_fuzz_notices_errors_and_lost_memory(tmp_path):
    report = called("broken_calls:error", 10, tmp_path)
    assert "python -m torture.fuzz --known broken_calls:error 'error' " in report["wrong"][0]
    assert fuzz.grown(called("broken_calls:leak", 60, tmp_path)["held"]) > fuzz.LEAK


def test_memory_that_is_taken_once_is_no_leak():
    once = [0, 1, 1, 2, 30 << 20, 30 << 20, 30 << 20, 40 << 20]
    assert fuzz.grown(once) < fuzz.LEAK < fuzz.grown([i * 2 << 20 for i in range(9)]) and not fuzz.grown([7])


def test_cases_written_by_hand(tmp_path):
    (tmp_path / "test_one.py").write_text("def test_holds(): pass\ndef test_not():\n    raise ValueError('here')\n")
    tally = Tally(2, 300, tmp_path)
    hand_made.count(tally, None, 4, (str(tmp_path / "test_one.py"),))
    (kind,) = tally.held
    assert tally.held[kind] == 1 and "here" in tally.examples[kind][0]


def test_simulations_count_every_number_that_is_judged(tmp_path, monkeypatch):
    """Of a standard error, that of the value and that of the error."""

    def error(random):
        yield simulations.Seen("a mean: value", random.normal(), math.nan)
        yield simulations.Seen("a mean: squared error", 1.1, math.nan)

    monkeypatch.setattr(simulations, "CHECKS", {error: 1})
    assert tried(simulations, 2 * simulations.FEWEST, tmp_path).held == {
        "a mean: standard error": 2 * simulations.FEWEST
    }


def test_simulations_notice_a_wrong_rate(tmp_path, monkeypatch):
    def wrong(random):
        yield simulations.Seen("a rate of 1 in 4, said to be 1 in 20", bool(random.random() < 0.25), 0.05)

    monkeypatch.setattr(simulations, "CHECKS", {wrong: 1})
    assert tried(simulations, 400, tmp_path).failed


def test_the_table(tmp_path):
    """Every row says what it promises, how much shows it, and what did not hold."""
    tally = Tally(3, 1, tmp_path)
    tally.hold("this", 2)
    tally.fail("that", "a | b\nc")
    about = dict(date="", processor="a processor", worldfast="0", commit="", python="3", torch="2")
    row = dict(promise="exact resume", target=3, tried=3, held=dict(tally.held), failed=dict(tally.failed))
    text = table({"kills": row | about | dict(examples=tally.examples, notes=["one"], seconds=60.0)})
    assert "| exact resume | `python -m torture kills` | 3 | 3 | 2 | 1.0 |" in text
    assert "that: 1 did **not** hold\n  - a \\| b c\n- one" in text
    assert {path.stem for path in Path(kills.__file__).parent.glob("*.py")} >= set(ROWS)

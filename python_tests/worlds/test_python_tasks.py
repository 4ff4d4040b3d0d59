"""Tasks in Python: the rows and labels of built-in tasks where the rule is theirs, rows by position, identity, errors."""

import json
import os
import runpy
import subprocess
import sys
import textwrap
import threading
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import TINY

import worldfast as wf
from worldfast.errors import TaskError
from worldfast.report.report import publish
from worldfast.studies.engine import run_study
from worldfast.training import load
from worldfast.worlds.cities import Dataset, components, sampling, tasks
from worldfast.worlds.cities.evaluate import evaluate
from worldfast.worlds.cities.recipe import Recipe, world_update
from worldfast.worlds.cities.rule import rule_of
from worldfast.worlds.cities.studies import Study, demo, paper
from worldfast.worlds.cities.tasks import BUILT_IN, task_from_json

ROOT = Path(__file__).parents[1]


def mid(**options):
    @wf.task("mid", cities=2, unit="0.1 degree", **options)
    def midpoint(xy):
        return (xy[:, 0, 0] + xy[:, 1, 0]) // 2

    return midpoint


def east(**options):
    @wf.task("east", cities=2, choices=("FALSE", "TRUE"), balanced=True, **options)
    def is_east(xy):
        return xy[:, 1, 0] - xy[:, 0, 0] > 900

    return is_east


def spread(**options):
    @wf.task("spread", cities=(2, 5), **options)
    def widest(xy):
        return np.ptp(xy[:, :, 1], axis=1) - 700

    return widest


# ---- rules of built-in tasks, written again in NumPy ----


def distance(xy):
    difference = (xy[:, 1] - xy[:, 0]).astype(np.int64)
    return np.rint(np.sqrt((difference**2).sum(1))).astype(np.int64)


def compass(xy):
    dx, dy = (xy[:, 1] - xy[:, 0]).T.astype(np.int64)
    square = (abs(dx) + abs(dy)) ** 2
    along_x, along_y = square < 2 * dx**2, square < 2 * dy**2
    diagonal = np.where(dx > 0, np.where(dy > 0, 1, 7), np.where(dy > 0, 3, 5))
    sector = np.where(along_x, np.where(dx > 0, 0, 4), np.where(along_y, np.where(dy > 0, 2, 6), diagonal))
    return np.where(square == 0, 2, sector)


def perimeter(xy):
    sides = np.roll(xy, -1, axis=1).astype(np.int64) - xy
    lengths = np.sqrt((sides**2).sum(2).astype(np.float64))
    total = np.zeros(len(xy))
    for side in range(xy.shape[1] - (xy.shape[1] == 2)):
        total = total + lengths[:, side]
    return np.rint(total).astype(np.int64)


def inside(xy):
    def turn(a, b, c):
        return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])

    corners = np.moveaxis(xy.astype(np.int64), 1, 0)
    t, h = corners[0], corners[1:]
    found = np.zeros(len(xy), bool)
    for i in range(len(h)):
        for j in range(i):
            for k in range(j):
                area = turn(h[i], h[j], h[k])
                sides = [turn(h[a], h[b], t) * np.sign(area) for a, b in ((i, j), (j, k), (k, i))]
                found |= (area != 0) & (np.min(sides, axis=0) >= 0)
    return found


AGAIN = {
    "distance": (distance, dict(cities=2, digits=4)),
    "compass": (compass, dict(cities=2, choices=("E", "NE", "N", "NW", "W", "SW", "S", "SE"))),
    "perimeter": (perimeter, dict(cities=(2, 5), digits=5)),
    "inside": (inside, dict(cities=(4, 6), choices=("FALSE", "TRUE"), balanced=True, semicolon=0)),
}


def again(name):
    """A built-in task, made in Python, with its word in the text."""
    function, options = AGAIN[name]
    return replace(wf.task(f"{name[:4]}_again", **options)(function), prompt=wf.TASKS[name].prompt)


@pytest.mark.parametrize("name", AGAIN)
def test_labels_of_a_built_in_task(name, world):
    task, random = again(name), np.random.default_rng(3)
    for count in range(task.min_cities, task.max_cities + 1):
        for reach in (3, 40, 1800):  # coinciding, on one line, anywhere
            xy = random.integers(-reach, reach + 1, (4000, count, 2), dtype=np.int32)
            expected = wf.label(name, xy=xy)
            assert np.array_equal(wf.label(task, xy=xy), expected)
            assert np.array_equal(expected, oracle.label(name, xy, np.full(4000, count, np.int32)))
    batch = wf.sample(world, name, n=20_000)
    assert np.array_equal(wf.label(task, world, batch.cities), batch.label)


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("noise", [0, 0.3])
@pytest.mark.parametrize("name", AGAIN)
def test_rows_of_a_built_in_task(name, noise, vocabulary, world, monkeypatch):
    """Where the random numbers are those of its name: cities, answers, noise and text."""
    task, key = again(name), components.key_of
    monkeypatch.setattr(
        components, "key_of", lambda *parts: key(*(name if part == task.name else part for part in parts))
    )
    chosen = dict(seed=5, start=11, noise=noise, vocabulary=vocabulary, among="index < 900", must_include="index < 90")
    rows, expected = (wf.sample(world, which, 9000, **chosen) for which in (task, name))
    assert np.array_equal(rows.cities, expected.cities)
    assert np.array_equal(rows.label, expected.label)
    assert np.array_equal(rows.length, expected.length)
    assert np.array_equal(rows.answer_start, expected.answer_start)
    width = expected.tokens.shape[1]
    assert np.array_equal(rows.tokens[:, :width], expected.tokens) and not rows.tokens[:, width:].any()


# ---- rows ----


def test_text_and_parts_of_a_row(world):
    rows = wf.sample(world, [mid(), "inside", spread()], 3000)
    assert rows.tasks == (*BUILT_IN, "mid", "spread")
    assert [rows.tasks[number] for number in rows.task[:3]] == ["mid", "inside", "spread"]
    assert rows.label[::3].min() < 0 < rows.label[::3].max()
    for i in range(0, 300, 3):
        first, second = world.city_id[rows.cities[i, :2]]
        assert rows.text(i) == f"mid(c_{first:04d},c_{second:04d})={rows.label[i]}"
        assert wf.TASKS["mid"].question([first, second]) + str(rows.label[i]) == rows.text(i)
    assert sorted(set((rows.cities[2::3] >= 0).sum(1))) == [2, 3, 4, 5]
    counts = np.bincount((wf.sample(world, spread(), 40_000).cities >= 0).sum(1))[2:]
    assert (abs(counts - 10_000) < 400).all()
    assert "(" in wf.sample(world, wf.task("x", cities=1)(lambda_of_x), 1).text(0)


def lambda_of_x(xy):
    return xy[:, 0, 0]


def test_answers_that_are_balanced(world):
    @wf.task("third", cities=3, choices=("WEST", "MIDDLE", "EAST"), balanced=True)
    def third(xy):
        return np.digitize(xy[:, 0, 0], (-1200, 1000))

    rows = wf.sample(world, third, 60_000)
    assert (abs(np.bincount(rows.label) - 20_000) < 600).all()
    assert np.array_equal(rows.label, third(world.xy[rows.cities]))


def test_choices_as_long_and_as_many_as_there_is_room_for(world):
    words = [f"{i:04d}>~!W"[:8] for i in range(32)]

    @wf.task("a" * 14, cities=2, choices=words)
    def remainder(xy):
        return xy[:, 0, 0] % 32

    for vocabulary in ("character", "entity"):
        rows = wf.sample(world, remainder, 500, vocabulary=vocabulary)
        assert [rows.text(i).partition("=")[2] for i in range(500)] == [words[label] for label in rows.label]


def test_numbers_as_long_as_was_declared(world):
    edge = [10**15 - 1, 1 - 10**15, 0, -1, 10**14, 9999, 10_000, -10_000]

    @wf.task("far", cities=2, digits=15)
    def far(xy):
        return np.array(edge)[(xy[:, 0, 0] + 9000) % len(edge)]

    rows = wf.sample(world, far, 500)
    assert set(rows.label) == set(edge)
    assert [rows.text(i).partition("=")[2] for i in range(500)] == [str(label) for label in rows.label]
    assert [far.parse(str(label)) for label in edge] == edge


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 20_000), st.integers(0, 700), st.sampled_from(["character", "entity"]), st.booleans())
def test_rows_are_the_same_however_they_are_batched(world, start, n, vocabulary, shuffle):
    """Alone, among others, across blocks, across epochs, packed or not, with noise and without."""
    parts = [
        wf.Component(mid(), 4000, noise=0.2),
        wf.Component("inside", 700),
        wf.Component(east(), 3000, noise=0.1),
        wf.Component(spread(), 900, must_include="index < 50"),
    ]
    stream = sampling.Stream(world, parts, seed=2, vocabulary=vocabulary, shuffle=shuffle)
    assert stream.rows == 8600
    rows, packed = stream.rectangle(start, n), stream.pack(start, n)
    for i in {0, n // 2, n - 1} & set(range(n)):
        alone = stream.rectangle(start + i, 1)
        for name in ("tokens", "length", "answer_start", "cities", "label", "task"):
            assert np.array_equal(getattr(alone, name)[0], getattr(rows, name)[i]), name
    for i in range(n):
        text = rows.tokens[i, : rows.length[i]]
        assert np.array_equal(packed.tokens[packed.row_start[i] : packed.row_start[i + 1]], text)
    whole = stream.rectangle(max(0, start - 4500), min(start, 4500) + n)
    assert np.array_equal(whole.tokens[min(start, 4500) :], rows.tokens)


def test_an_epoch_has_each_row_once_in_an_order_of_its_own(world):
    parts = [wf.Component(mid(), 300), wf.Component("distance", 200), wf.Component(east(), 100)]
    stream = sampling.Stream(world, parts, seed=1)
    ordered = sampling.Stream(world, parts, seed=1, shuffle=False).rectangle(0, 600)
    epochs = [stream.rectangle(first, 600) for first in (0, 600)]
    texts = [sorted(rows.text(i) for i in range(600)) for rows in (ordered, *epochs)]
    assert texts[0] == texts[1] == texts[2]
    assert not np.array_equal(epochs[0].tokens, epochs[1].tokens)


def test_splits_share_no_pair_and_no_split_repeats_one(small):
    pairs = len(small) * (len(small) - 1) // 2
    seen = []
    for split, share in (("train", pairs - 2 * (pairs // 10)), ("validation", pairs // 10), ("test", pairs // 10)):
        cities = wf.sample(small, mid(), share, split=split).cities
        seen += [tuple(sorted(row)) for row in cities.tolist()]
        with pytest.raises(ValueError, match=f"task mid never repeats a pair.*holds {share:,} pairs"):
            wf.sample(small, mid(), share + 1, split=split)
    assert len(seen) == len(set(seen)) == pairs


def test_seeds_and_splits_of_other_tasks_give_other_rows(world):
    made = [
        wf.sample(world, east(), 500, seed=seed, split=split)
        for seed, split in ((1, "train"), (2, "train"), (1, "test"))
    ]
    assert len({rows.cities.tobytes() for rows in made}) == 3


def test_a_task_of_a_name_that_is_made_again_is_another(world):
    """Also where its identity is the same, as of a version that somebody forgot to change."""

    def made(shift):
        return wf.task("shifted", cities=2, version="1")(lambda xy: xy[:, 0, 0] + shift)

    first, second = (wf.sample(world, made(shift), 50).label for shift in (0, 1))
    assert np.array_equal(first + 1, second)


def test_a_world_with_hardly_an_answer(small):
    @wf.task("never", cities=2, choices=("NO", "YES"), balanced=True)
    def never(xy):
        return np.zeros(len(xy), np.int64)

    with pytest.raises(ValueError, match="row 0: no never row with the wanted answer.* each of the choices"):
        wf.sample(small, never, 100, seed=next(s for s in range(9) if wanted(small, never, s)))


def test_a_task_of_one_answer_is_refused(world, small):
    """Its rows teach nothing; but the answers of one region, and those of every number of cities, may be alike."""

    def asked(rule, cities=2, **options):
        made = wf.task("alike", cities=cities, version="1")(rule)
        return wf.sample(small, made, 20, **options).label

    with pytest.raises(TaskError, match="task 'alike': its function gave 7 to each of 16,384 rows of random cities"):
        asked(lambda xy: np.full(len(xy), 7))
    with pytest.raises(TaskError, match="gave 0 to each .* integers in 0.1 degree"):
        asked(lambda xy: (abs(xy[:, :, 0]).max(1) > 18_000).astype(np.int64))
    assert set(asked(lambda xy: np.full(len(xy), xy.shape[1]), cities=(2, 3))) == {2, 3}
    north = asked(
        lambda xy: (xy[:, 0, 1] > small.xy[:, 1].mean()).astype(int), among=small.xy[:, 1] > np.median(small.xy[:, 1])
    )
    assert len(north) == 20


def wanted(world, task, seed):
    """Does row 0 want the answer that never comes? Then one row fails."""
    try:
        wf.sample(world, task, 1, seed=seed)
    except ValueError:
        return True
    return False


def test_labels_of_given_points(world):
    task, rows = spread(), wf.sample(world, spread(), 9000)
    assert np.array_equal(wf.label(task, world, rows.cities), rows.label)
    assert np.array_equal(wf.label("spread", world, rows.cities), rows.label)
    count = (rows.cities >= 0).sum(1).astype(np.int32)
    assert np.array_equal(wf.label(task, xy=world.xy[rows.cities], count=count), rows.label)
    with pytest.raises(ValueError, match="task spread takes 2 to 5 cities, got 1 in row 0"):
        wf.label(task, xy=world.xy[rows.cities[:, :1]])
    with pytest.raises(ValueError, match="city 7 is repeated in row 1"):
        wf.label(mid(), world, np.array([[1, 2], [7, 7]], np.int32))
    bad = wf.label(mid(), world, np.array([[1, 2], [7, 7]], np.int32), check=False)
    assert bad[1] == -1 and bad[0] == mid()(world.xy[[[1, 2]]])[0]
    assert len(wf.label(task, xy=np.zeros((0, 3, 2), np.int32))) == 0


# ---- errors ----

BAD = {
    "floats": (lambda xy: xy[:, 0, 0] / 2, dict(), r"has to give integers, got float64"),
    "bools": (lambda xy: xy[:, 0, 0] > 2, dict(), r"has to give integers, got bool"),
    "words": (lambda xy: ["E"] * len(xy), dict(), r"has to give integers, got <U1"),
    "nothing": (lambda xy: None, dict(), r"returned None, expected integers \[n\]: does it end with return\?"),
    "shape": (lambda xy: xy[:, 0], dict(), r"shape \[1024\], got \[1024, 2\]"),
    "a scalar": (lambda xy: 3, dict(), r"shape \[1024\], got \[\]"),
    "squeezed": (lambda xy: np.squeeze(xy[:, 0, 0]), dict(), r"shape \[1\], got \[\]"),
    "masked": (lambda xy: np.ma.masked_less(xy[:, 0, 0], 0), dict(), r"got a masked array"),
    "negative": (lambda xy: xy[:, 0, 0] % 2 - 1, dict(choices=("A", "B")), r"gave -1, but its 2 choices are 0 to 1"),
    "no choice": (lambda xy: xy[:, 0, 0] % 3, dict(choices=("A", "B")), r"gave 2, but its 2 choices are 0 to 1"),
    "long": (
        lambda xy: xy[:, 0, 0] * 1000,
        dict(digits=6),
        r"gave -?1\d{6}, which has more than 6 digits: declare digits=7",
    ),
    "too long": (
        lambda xy: xy[:, 0, 0].astype(np.int64) * 10**12,
        dict(),
        r"more than 9 digits: 15 are the most, so take a larger unit",
    ),
    "raises": (lambda xy: xy[:, 2, 0], dict(), r"raised IndexError: index 2 is out of bounds"),
    "writes": (lambda xy: np.subtract(xy, 1, out=xy)[:, 0, 0], dict(), r"writes into its input"),
    "assigns": (lambda xy: xy.__setitem__(0, 1), dict(), r"writes into its input"),
    "chance": (lambda xy: np.random.default_rng().integers(0, 900, len(xy)), dict(), r"not deterministic: asked twice"),
    "neighbours": (lambda xy: xy[:, 0, 0] - xy[:, 0, 0].min(), dict(), r"looks at other rows.*among 1,024 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_functions_that_are_no_rule(case):
    function, options, message = BAD[case]
    with pytest.raises(TaskError, match=rf"^task 'bad': its function .*{message}"):
        wf.task("bad", cities=2, version="1", **options)(function)
    assert "bad" not in tasks.TASKS


OPTIONS = {
    "Mid": (dict(), "name: expected"),
    "a" * 15: (dict(), "name: expected at most 14"),
    "": (dict(), "name: expected"),
    "dist": (dict(), "name: expected one that no built-in task"),
    "inside": (dict(), "name: expected one that no built-in task"),
    "a": (dict(cities=0), "cities: expected a number from 1 to 6.*got 0"),
    "b": (dict(cities=7), "cities: "),
    "c": (dict(cities=(3, 2)), r"cities: .*got \(3, 2\)"),
    "d": (dict(cities=2.0), "cities: "),
    "e": (dict(choices=("A",)), "choices: expected 2 to 32"),
    "f": (dict(choices=("A", "A")), "choices: expected 2 to 32 different"),
    "g": (dict(choices=("A", "NORTHWEST")), "choices: expected words of 1 to 8.*'NORTHWEST'"),
    "h": (dict(choices=("A", "ü")), "choices: expected words"),
    "i": (dict(balanced=True), "balanced: expected choices beside it"),
    "j": (dict(choices=("A", "B"), unit="km"), "unit: choices have none"),
    "k": (dict(digits=16), "digits: expected 1 to 15"),
    "l": (dict(failure=-1), "failure: expected a number above 0"),
    "m": (dict(choices=("A", "B"), failure=1.0), "failure: an answer that is none of the choices scores 0"),
    "n": (dict(semicolon=1), "semicolon: .*got 1"),
    "o": (dict(version=""), "version: expected text"),
    "long_names": (dict(cities=6, digits=15), "rows of at most 64 tokens.*got 72"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_do_not_fit(name):
    options, message = OPTIONS[name]
    with pytest.raises(TaskError, match=f"^task {name!r}: {message}"):
        wf.task(name, **{"cities": 2, "version": "1", **options})(lambda xy: xy[:, 0, 0] % 2)
    with pytest.raises(TaskError, match="expected a function"):
        wf.task("p", cities=2)(3)


def test_what_a_function_does_with_cities_of_a_world_it_was_not_tried_on(small, tmp_path):
    """Found when a stream is opened where it shows in any row, else when it happens; the rows after it are not made."""

    @wf.task("near", cities=2, digits=4)
    def near(xy):
        return xy[:, 0, 0] * 2

    wf.sample(small, near, 10)
    far = wf.World.from_array(np.array([[9000, 0], [9000, 1], [9001, 5]], np.int32))
    with pytest.raises(TaskError, match="task 'near': its function gave 1800[02], which has more than 4 digits"):
        wf.sample(far, near, 1)
    once = {"raise": False}

    @wf.task("later", cities=2)
    def later(xy):
        if once["raise"]:
            raise ZeroDivisionError("now")
        return xy[:, 0, 0]

    run = wf.Run(Dataset((later, "distance"), rows=64), seed=1, model=TINY)
    stream = run.data.stream(1)
    stream.pack(0, 8)
    once["raise"] = True
    for make in (stream.pack, stream.rectangle):
        with pytest.raises(TaskError, match="task 'later': its function raised ZeroDivisionError: now") as found:
            make(8, 100)
        assert isinstance(found.value.__cause__, ZeroDivisionError)
    with pytest.raises(TaskError, match="later"):
        wf.train([run], tmp_path, progress=False)


def test_two_tasks_of_a_name(small):
    other = wf.task("mid", cities=2, version="other")(lambda xy: xy[:, 0, 0])
    with pytest.raises(TaskError, match="task 'mid': expected one task of a name"):
        wf.sample(small, [mid(), other], 4)
    with pytest.raises(TaskError, match="task 'mid': expected one task of a name"):
        Dataset((mid(),), mixture=(wf.Component(other, 8), wf.Component("distance", 8)))


def test_names_that_are_not_there(small):
    mid()
    with pytest.raises(ValueError, match="unknown task 'midd': did you mean 'mid'"):
        wf.sample(small, "midd", 4)
    with pytest.raises(TypeError, match="task: expected a name or a task, got 3"):
        wf.label(3, small, np.zeros((1, 2), np.int32))


# ---- identity ----


SOURCE = """
    LIMIT = 900

    @wf.task("far", cities=2, choices=("NO", "YES"))
    def made(xy):
        return abs(xy[:, 0, 0] - xy[:, 1, 0]) > LIMIT
"""
SAME = [
    SOURCE.replace("def made(xy):", 'def made(xy):\n        "A docstring."\n        # and a comment'),
    SOURCE.replace("> LIMIT", "   >   LIMIT"),
]
OTHER = [
    SOURCE.replace("> LIMIT", ">= LIMIT"),
    SOURCE.replace("LIMIT = 900", "LIMIT = 901"),
    SOURCE.replace('"far"', '"away"'),
    SOURCE.replace('"NO", "YES"', '"no", "yes"'),
    SOURCE.replace("cities=2", "cities=2, balanced=True"),
    SOURCE.replace("cities=2", 'cities=2, version="1"'),
]
ASK = """
import json, runpy, sys
import worldfast as wf
from worldfast.worlds.cities import Dataset
for path in sys.argv[1:]:
    task = runpy.run_path(path)["made"]
    print(json.dumps([task.to_json(), wf.Run(Dataset(("distance", task)), seed=3).id]))
"""


def asked(folder, texts):
    """Identities of the task `made` of each text, and of a run, in a new process."""
    folder.mkdir()
    paths = [folder / f"{number}.py" for number in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_text("import worldfast as wf\n" + textwrap.dedent(text), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(len(texts))}
    command = [sys.executable, "-c", ASK, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_identity_is_content(tmp_path):
    """The same in another process and file; another for every change that changes rows."""
    [first] = asked(tmp_path / "alone", [SOURCE])
    assert first[0]["rule"] == "ce9f445ba77ed297"  # as it was, and as other versions of Python must have it
    texts = [*SAME, *OTHER]
    found = asked(tmp_path / "beside", [SOURCE, *texts])
    assert found[: 1 + len(SAME)] == [first] * (1 + len(SAME))
    assert len({run for _, run in found}) == 1 + len(OTHER)


READS = {
    "comprehension": ("K = 2", "return np.array([x * K for x in xy[:, 0, 0]])"),
    "inner comprehension": ("K = 2", "return np.array([sum(x * K for x in row) for row in xy[:, 0]])"),
    "lambda": ("K = 2", "return (lambda x: x * K)(xy[:, 0, 0])"),
    "nested": ("K = 2", "def inner(x):\n        return x * K\n    return inner(xy[:, 0, 0])"),
    "default of a lambda": ("K = 2", "return (lambda x, k=K: x * k)(xy[:, 0, 0])"),
    "default": ("K = 2\ndef made(xy, k=K): return xy[:, 0, 0] * k", ""),
    "keyword-only": ("K = 2\ndef made(xy, *, k=K): return xy[:, 0, 0] * k", ""),
    "list": ("K = 2", "return xy[:, 0, 0] * L[0]"),
    "dict of sets": ("K = 2", "return xy[:, 0, 0] * max(D['a'])"),
    "array": ("K = 2", "return xy[:, 0, 0] * A[1]"),
    "number of NumPy": ("K = 2", "return xy[:, 0, 0] * N"),
    "helper": ("K = 2\ndef times(x):\n    return [one * K for one in x]", "return np.array(times(xy[:, 0, 0]))"),
    "helper's helper": (
        "K = 2\ndef two(x): return x * K\ndef one(x): return two(x) if len(x) else one(x)",
        "return one(xy[:, 0, 0])",
    ),
    "kept helper": ("import functools\nK = 2\n@functools.cache\ndef k(): return K", "return xy[:, 0, 0] * k()"),
    "lambda outside": ("K = 2\ntimes = lambda x: x * K", "return times(xy[:, 0, 0])"),
    "closure": (
        "def around(k):\n  def made(xy):\n    return np.array([x * k for x in xy[:, 0, 0]])\n  return made\n"
        "K = 2\nmade = around(K)",
        "",
    ),
    "decorator": (
        "K = 2\ndef by(f):\n  def made(xy): return f(xy) * K\n  return made\n@by\ndef made(xy): return xy[:, 0, 0]",
        "",
    ),
    "other task": ("K = 2\n@wf.task('times', cities=1)\ndef times(xy): return xy[:, 0, 0] * K", "return times(xy)"),
}  # what stands before the function, and its body


def executed(path, before, body):
    """Module of a file with a function `made`, or with this body of it."""
    names = "\nL, D, A, N = [K, 1], {'a': {K, 0}}, np.array([0, K]), np.float32(K)\n"
    function = f"def made(xy):\n    {body}\n" if body else ""
    path.write_text(f"import numpy as np\nimport worldfast as wf\n{before}{names}{function}", encoding="utf-8")
    return runpy.run_path(str(path))


@pytest.mark.parametrize("before,body", READS.values(), ids=READS)
def test_what_a_function_reads_is_part_of_its_identity(tmp_path, before, body):
    xy, found = np.ones((1, 1, 2), np.int32), {}
    for name, text in {"two": before, "same": before, "three": before.replace("K = 2", "K = 3")}.items():
        made = executed(tmp_path / f"{name}.py", text, body)["made"]
        found[name] = rule_of(made), int(made(xy)[0])
    assert found["same"] == found["two"] and found["three"][0] != found["two"][0]
    assert (found["two"][1], found["three"][1]) == ((2, 3) if "sum(" not in body else (4, 6))


def test_identities_are_those_of_every_version_of_python(tmp_path):
    kept = {
        "comprehension": "4550e688a065505b",
        "keyword-only": "f198d16d0808f3dd",
        "array": "6463a51c85b50dbe",
        "helper's helper": "30828608db486b93",
    }
    assert {name: rule_of(executed(tmp_path / "rule.py", *READS[name])["made"]) for name in kept} == kept


@pytest.mark.parametrize(
    "before,reads",
    [
        ("class Sphere: r = 2\nX = Sphere()", "X, a Sphere"),
        ("import threading\nX = [threading.Lock()]", "X, a list"),
        ("X = np.random.default_rng(0)", "X, a Generator"),
        ("X = np.random.default_rng(0).random", "X, a "),
        ("X = np.array([None])", "X, a ndarray"),
        ("X = np.frompyfunc(lambda x: x, 1, 1)", "X, a ufunc"),
        ("Y = {1: object()}\ndef X(): return Y", "Y, a dict"),
        ("", "X, which has no value yet"),
    ],
)
def test_what_cannot_be_known_needs_a_version(tmp_path, before, reads):
    made = executed(tmp_path / "rule.py", f"K = 2\n{before}", "return [X for _ in xy][:0] or xy[:, 0, 0]")["made"]
    with pytest.raises(TaskError, match=f"task 'reading': .* reads {reads}.* give version='1'"):
        wf.task("reading", cities=1)(made)


def test_a_name_that_is_also_outside_is_the_functions_own(tmp_path):
    """Variables, parameters and what comprehensions count with are not read from outside, nor is what is installed."""
    body = "row = [k for k in xy[:, 0, 0]]\n    return ptp(np.array(row)[:, None], axis=1)"
    texts = [f"from numpy import ptp\nK, row, k, xy = 2, {value}, {value}, {value}" for value in ("1", "object()")]
    one, other = (rule_of(executed(tmp_path / f"{i}.py", text, body)["made"]) for i, text in enumerate(texts))
    assert one == other


def test_the_name_of_the_function_is_no_part_of_it():
    def rule(xy):
        return xy[:, 0, 0]

    first = wf.task("first", cities=2)(rule)

    def other(xy):
        return xy[:, 0, 0]

    assert wf.task("first", cities=2)(other) == first


def test_a_function_that_is_no_task_is_named(world):
    def middle(xy):
        return xy[:, 0, 0]

    for call in (Dataset, lambda task: Dataset(("angle", task)), lambda task: wf.sample(world, task, 1), wf.label):
        with pytest.raises(
            TypeError, match="^task: expected a name or a task, got the function 'middle': put @wf.task"
        ):
            call(middle)


def test_a_run_in_a_new_process_needs_the_function_again(tmp_path):
    run = wf.Run(Dataset(("distance", mid()), rows=32), seed=3, model=TINY)
    assert wf.Run.from_json(json.loads(json.dumps(run.to_json()))) == run
    assert run.data.tasks == ("distance", "mid") and run.name == "pt-distance+mid-s3"
    assert replace(run.data, rows=4).own == run.data.own == (mid(),)
    content = run.data.to_json()["own"][0]
    assert task_from_json(content) == mid() and task_from_json("angle") is wf.TASKS["angle"]
    mid(digits=5)
    with pytest.raises(TaskError, match="task 'mid': its options are not those .*digits 9, here 5"):
        wf.Run.from_json(run.to_json())
    assert [run.data.task("mid").digits, Dataset("mid").task("mid").digits] == [9, 5]
    wf.task("mid", cities=2, unit="0.1 degree", version="2")(lambda xy: xy[:, 0, 0])
    with pytest.raises(TaskError, match="task 'mid': its function is not the one .*rule .*here 'version 2'"):
        wf.Run.from_json(run.to_json())
    del tasks._by_name["mid"]
    with pytest.raises(TaskError, match="task 'mid' is made in Python.*run or import the code that makes it"):
        wf.Run.from_json(run.to_json())


def test_a_function_without_source_needs_a_version():
    names = {"wf": wf}
    text = 'make = wf.task("typed", cities=2{})\n@make\ndef typed(xy):\n    return xy[:, 0, 0]\n'
    with pytest.raises(TaskError, match="task 'typed': .*has no source that can be read, as at a prompt.*version='1'"):
        exec(text.format(""), names)
    exec(text.format(', version="1"'), names)
    assert names["typed"].rule == "version 1"
    with pytest.raises(TaskError, match="^task 'short': its function '<lambda>' has no source .* as a lambda"):
        wf.task("short", cities=2)(lambda xy: xy[:, 0, 0])


def test_built_in_studies_and_runs_are_what_they_are_whatever_was_made():
    before = [study().runs for study in (demo, paper)], wf.Run(Dataset(BUILT_IN)).name
    mid()
    assert list(tasks.TASKS)[-1] == "mid" and tasks.TASKS["mid"] == mid()
    assert ([study().runs for study in (demo, paper)], wf.Run(Dataset(BUILT_IN)).name) == before
    assert wf.Run(Dataset(BUILT_IN)).name == "pt-all-s42"
    assert "own" not in Dataset("distance").to_json()


# ---- training and evaluation ----


def weights(folder):
    run, ensemble = load(folder)
    return ensemble.parameters.numpy().tobytes(), [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_a_run_that_was_stopped_has_the_bits_of_one_that_was_not(tmp_path):
    calls = {"left": np.inf}

    @wf.task("mid", cities=2)
    def midpoint(xy):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise OSError("stopped")
        return (xy[:, 0, 0] + xy[:, 1, 0]) // 2

    run = wf.Run(
        Dataset((midpoint, east(), "distance"), rows=300, vocabulary="entity", loss="answer"),
        seed=4,
        batch=18,
        learning_rate=3e-3,
        model=TINY,
        checkpoints=5,
        validation=8,
    )
    assert run.steps == 50
    calls["left"] = many = 1000
    [whole] = wf.train([run], tmp_path / "whole", progress=False)
    calls["left"] = (many - calls["left"]) * 2 // 3
    with pytest.raises(TaskError, match="stopped"):
        wf.train([run], tmp_path / "stopped", progress=False)
    assert not (tmp_path / "stopped" / run.folder_name / "done").exists()
    assert sorted((tmp_path / "stopped" / run.folder_name / "checkpoint").iterdir())
    calls["left"] = np.inf
    [stopped] = wf.train([run], tmp_path / "stopped", progress=False)
    (expected, lines), (found, others) = weights(whole), weights(stopped)
    assert found == expected
    for line in (*lines, *others):
        line.pop("seconds", None)
    assert lines == others
    assert {"validation/mid", "validation/east", "validation/distance"} <= set(lines[-1])


def test_a_score_is_the_error_of_the_answers(small):
    """An ensemble that answers with what is given here: right, wrong, and not a number."""
    task = mid()
    rows = wf.sample(small, task, 40, seed=42, split="test")
    answers = [str(label) for label in rows.label]
    answers[0], answers[1], answers[2] = str(rows.label[0] - 250), "--3", ""
    encoded = [np.array(rows.vocabulary.encode(text), np.int32) for text in answers]
    ensemble = SimpleNamespace(answer=lambda *given, end: [encoded])
    score = evaluate(ensemble, 0, small, task, 40)
    assert score.unparsable == 2 and score.n == 40
    assert score.value == pytest.approx((250 + 2 * task.failure) / 40)
    assert task.failure == 3407.0 and mid(failure=50).failure == 50.0
    assert (rows.label < 0).any()


def test_choices_are_scored_by_accuracy(small):
    task = east()
    assert (task.metric, task.kind, task.failure) == ("accuracy", "choice", 0)
    scores, unparsable = task.score(np.array([0, 1, 1]), ["FALSE", "TRUE", "-1"])
    assert scores.tolist() == [1, 1, 0] and unparsable == 1
    assert wf.TASKS["distance"].parse("-3") is None and mid().parse("-3") == -3


# ---- rows for a GPU, whose place torch's memory on the CPU takes ----


@pytest.fixture
def as_if_on_a_gpu(monkeypatch):
    monkeypatch.setattr(sampling, "on_gpu", lambda array: isinstance(array, torch.Tensor))


def as_tensors(made):
    names = [field.name for field in fields(made) if field.name not in ("vocabulary", "tasks")]
    return replace(made, **{name: torch.from_numpy(np.array(getattr(made, name))) for name in names})


def test_rows_are_made_ahead_and_uploaded(world, as_if_on_a_gpu):
    makers = []

    @wf.task("mid", cities=2)
    def midpoint(xy):
        makers.append(threading.current_thread().name.partition("_")[0])
        return (xy[:, 0, 0] + xy[:, 1, 0]) // 2

    parts = [wf.Component(midpoint, 300), wf.Component(east(), 300), wf.Component("angle", 100)]
    stream, plain = (sampling.Stream(world, parts, seed=1) for _ in range(2))
    stretches = [(0, 60), (60, 60), (120, 60), (180, 40), (500, 300), (800, 300), (0, 10), (10, 10)]
    ahead = 0
    for start, n in stretches:
        out = as_tensors(plain.empty_pack(n))
        out.failed.fill_(-1)
        makers.clear()
        stream.pack(start, n, out=out, check=False)
        ahead += makers.count("MainThread") == 0
        stream._ahead._coming[2].result()
        expected = plain.pack(start, n)
        assert np.array_equal(out.row_start, expected.row_start)
        assert np.array_equal(out.tokens[: out.row_start[-1]], expected.tokens)
        assert np.array_equal(out.answer_start, expected.answer_start) and out.failed[0] == -1
    assert ahead == 4  # those that follow on stretches as long
    rows = stream.rectangle(5, 50, out=as_tensors(plain.empty_batch(50)))
    assert np.array_equal(rows.tokens, plain.rectangle(5, 50).tokens) and isinstance(rows.label, torch.Tensor)
    packed = stream.pack(5, 50, out=as_tensors(plain.empty_pack(50)))
    assert np.array_equal(packed.tokens, plain.pack(5, 50).tokens)
    with pytest.raises(TypeError, match="start: rows of task 'mid' are made on the CPU"):
        stream.pack(torch.zeros(1, dtype=torch.int64), 3, out=out, check=False)


def test_what_goes_wrong_ahead_is_said_when_its_rows_are_asked_for(small, as_if_on_a_gpu):
    once = {"raise": False}

    @wf.task("later", cities=2, choices=("NO", "YES"), balanced=True)
    def later(xy):
        if once["raise"]:
            raise ZeroDivisionError("now")
        return np.zeros(len(xy), np.int64) if once["raise"] is None else xy[:, 0, 0] > 0

    stream = sampling.Stream(small, [wf.Component(later, 100)], seed=1)
    out = as_tensors(stream.empty_pack(20))
    out.failed.fill_(-1)
    stream.pack(0, 20, out=out, check=False)
    stream._ahead._coming[2].result()
    once["raise"] = True
    stream.pack(20, 20, out=out, check=False)
    with pytest.raises(TaskError, match="raised ZeroDivisionError: now"):
        stream.pack(40, 20, out=out, check=False)
    once["raise"] = None
    stream.pack(40, 20, out=out, check=False)
    assert 40 <= out.failed[0] < 60
    with pytest.raises(ValueError, match="no later row with the wanted answer"):
        stream.pack(40, 20, out=out)


def test_steps_on_a_gpu_take_the_rows_that_were_uploaded(monkeypatch):
    """The rows of each step, two steps ahead, are those that a stream gives; the steps themselves are left out."""
    pytest.importorskip("triton")
    from worldfast.models import GpuTransformer
    from worldfast.training import gpu_step

    monkeypatch.setattr(gpu_step, "MOST_STEPS", 2)
    monkeypatch.setattr(sampling, "on_gpu", lambda array: isinstance(array, torch.Tensor))
    run = wf.Run(Dataset((mid(), "inside"), rows=20, loss="answer"), seed=4, batch=8, model=TINY)
    assert run.steps == 5
    lockstep = gpu_step.GpuLockstep(GpuTransformer(TINY, run.shape, 1, device="cpu"), [run])
    monkeypatch.setattr(lockstep, "_take", lambda places: lockstep._at.add_(1))
    for step in range(run.steps):
        lockstep.step([0])
        first, n = lockstep._rows[int(lockstep._at) - 1, 0].tolist()
        bounds = lockstep._row_start[0, first : first + n + 1]
        expected = run.data.stream(4).pack(*run.rows_at(step))
        assert np.array_equal(bounds - bounds[0], expected.row_start)
        assert np.array_equal(lockstep._made[0, bounds[0] : bounds[-1]], expected.tokens)
        assert np.array_equal(lockstep._answer_start[0, first : first + n], expected.answer_start)


# ---- studies ----

RECIPE = Recipe(
    world=wf.WorldSpec(atlantis=20, largest=300),
    model=TINY,
    amount={1: (64, 1)},
    settings=dict(vocabulary="entity", loss="answer", batch=32, checkpoints=1, capture=wf.Capture(layers=(1,))),
)


def test_a_fine_tune_by_a_task_in_python():
    base = RECIPE.pretrain((mid(), "angle"), 1)
    amounts = dict(standard=8, included=40, alive=4)
    taught = world_update(base, mid(), **amounts)
    assert taught.data.own == base.data.own == (mid(),)
    assert [(part.task, part.rows, part.first) for part in taught.data.components] == [
        ("mid", 8, 0),
        ("mid", 40, 0),
        ("mid", 4, 40),  # other rows than those by which it is taught
        ("angle", 4, 0),
    ]
    assert world_update(base, "mid", **amounts) == taught
    assert wf.Run.from_json(json.loads(json.dumps(taught.to_json()))) == taught
    also = world_update(base, (east(), "angle"), **amounts)
    assert {task.name for task in also.data.own} == {"east", "mid"} and also.data.tasks == ("east", "angle")


def test_a_study_and_its_page(tmp_path):
    study = Study("own", [RECIPE.pretrain((mid(),), 1), RECIPE.pretrain(("distance",), 1)], layer=1, test_rows=8)
    result = run_study(study, tmp_path, device="cpu", progress=False)
    found = result.tables["evaluation"].set_index(["run", "task"])
    assert set(found.loc[[("pt-mid-s1", "mid")]].unit) == {"0.1 degree"}
    assert set(found.loc["pt-distance-s1"].index) == set(BUILT_IN)
    publish(study, result, tmp_path / "page")
    html = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "mid<br>mean absolute error<br>degree" in html

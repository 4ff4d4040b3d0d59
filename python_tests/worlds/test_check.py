"""What every world must pass, and what is said of one that does not."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast.dataset import Dataset, Readout, Score
from worldfast.rows import Rows, Shape
from worldfast.worlds import chains, cities, factors, walks
from worldfast.worlds.check import check_world

N = 20  # entities
SMALL = {"model": wf.RecurrentSpec(hidden=8), "batch": 32, "checkpoints": 1}


def rows_of(entities):
    """Rows of 1 to 3 times an entity; the answer is whether its number is even."""
    lengths = np.array([1 + entity % 3 for entity in entities])
    ends = np.cumsum(lengths)
    arrays = np.repeat(np.array(entities, dtype=np.int32), lengths), np.r_[0, ends], ends - 1, np.array(entities) % 2
    return Rows(*map(torch.from_numpy, arrays))


class Numbers:
    shape, rows, longest = Shape(N, 2), 100, 3

    def __init__(self, *key):
        self.key = key

    def entity(self, i):
        return int(np.random.Generator(np.random.Philox(key=self.key, counter=i)).integers(N))

    def batch(self, start, n):
        return rows_of([self.entity(i) for i in range(start, start + n)])


@dataclass(frozen=True)
class World(Dataset):
    more: int = 1
    label = "numbers"

    def stream(self, seed, split="train"):
        return Numbers(seed, ("train", "validation", "test").index(split))

    def content(self):
        return {"entities": N}

    def readout(self):
        things, groups = np.arange(N, dtype=np.int32), {"low": np.arange(N) < 5}
        return Readout(rows_of(range(N)), things, np.arange(N)[:, None] / N, ("number",), groups, {})

    def score(self, ensemble, member, n, *, seed, split="validation"):
        rows = self.stream(seed, split).batch(0, n)
        right = ensemble.outputs(rows, member).argmax(1) == rows.targets
        return {"even": Score(float(right.float().mean()), 0.5, n, 0)}


def stream_with(**changes):
    kind = type("Changed", (Numbers,), changes)
    return lambda self, seed, split="train": kind(seed, ("train", "validation", "test").index(split))


def readout_with(sound=World.readout, **changes):
    return lambda self: sound(self)._replace(**changes)


def counted(self, start, n, calls=[0]):  # noqa: B006
    calls[0] += 1
    return rows_of([(calls[0] + i) % N for i in range(start, start + n)])


def test_a_world_in_python_passes():
    check_world(World())


def batch_of(**dtypes):
    """Batches whose tensors, those that are named, are of these types."""

    def batch(self, start, n):
        rows = Numbers.batch(self, start, n)._replace(weights=torch.ones(n))
        return rows._replace(**{name: getattr(rows, name).to(dtype) for name, dtype in dtypes.items()})

    return batch


@pytest.mark.parametrize("spec", [wf.TransformerSpec(8, 1, 1, 8), wf.RecurrentSpec(hidden=8)], ids=["native", "torch"])
def test_whatever_integers_and_floats_rows_are_of_they_are_learned_alike(spec):
    """Fields in every type that is accepted: the same weights, and the check passes."""
    found = []
    for whole, real in ((torch.int32, torch.float32), (torch.int64, torch.float64)):
        dtypes = dict.fromkeys(("inputs", "row_start", "scored", "targets"), whole) | {"weights": real}
        kind = type("World", (World,), {"stream": stream_with(batch=batch_of(**dtypes))})
        kind.__module__ = World.__module__
        check_world(kind())
        ensemble = spec.build(kind().shape)
        ensemble.initialise(0, 0)
        loss = ensemble.learn([kind().stream(0).batch(0, 20)], [0])
        found.append((loss, ensemble.gradients))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1]) and found[0][1].any()


def test_a_transformer_learns_a_step_where_rows_are_tokens(monkeypatch):
    def learn(*_):
        raise TypeError("expected other targets")

    monkeypatch.setattr("worldfast.models.cpu.CpuTransformer.learn", learn)
    with pytest.raises(ValueError, match="learn: it raises TypeError: expected other targets"):
        check_world(World())


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
def test_cities_pass(vocabulary, tmp_path):
    path = tmp_path / "towns.csv"
    path.write_text("x,y\n" + "\n".join(f"{i},{i * i % 70}" for i in range(60)))
    data = cities.Dataset(("angle", "inside"), rows=40, vocabulary=vocabulary, world=wf.WorldSpec(str(path)))
    check_world(data)
    check_world(replace(data, loss="answer"), wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"stream": stream_with(batch=counted)}, "stream: its rows are others when they are made after other rows"),
        (
            {"stream": stream_with(batch=lambda self, start, n: rows_of([self.entity(n)] * n))},
            "others when they are made one at a time",
        ),
        ({"stream": stream_with(batch=lambda *_: 3)}, "stream: it raises "),
        ({"stream": lambda self, seed, split="train": Numbers(seed, 0)}, "its validation rows are its train rows"),
        ({"stream": lambda self, seed, split="train": Numbers(0, len(split))}, "the same for the seeds 0 and 1"),
        (
            {"stream": lambda self, seed, split="train": Numbers(seed, len(split))},
            "it takes the split 'vaildation': refuse what is in no split, as worldfast.rows.require_split does",
        ),
        ({"stream": stream_with(longest=2)}, "a row has 3 inputs, more than longest, 2"),
        ({"stream": stream_with(shape=Shape(5, 2))}, "stream: it raises ValueError: inputs: expected 0 to 4"),
        ({"stream": lambda *_: [1, 2]}, r"stream: expected shape, rows, longest and batch\(start, n\), got a list"),
        ({"longest": 9}, "its longest is 3, that of the dataset 9"),
        ({"readout": readout_with(things=np.arange(N) - 1)}, "things: expected indices of entities, from 0 on"),
        (
            {"readout": readout_with(things=np.arange(N) + 1000)},
            "things: entity 1019 of 20 is not there.*`entity_count`",
        ),
        ({"entity_count": N - 1}, "things: entity 19 is not there: the world has 19, 0 to 18"),
        ({"entity_count": "many"}, "entity_count: expected an integer"),
        ({"readout": readout_with(things=np.arange(3))}, r"attributes: expected finite numbers \[3, 1\]"),
        ({"readout": readout_with(columns=("x", "y"))}, r"attributes: expected finite numbers \[20, 2\]"),
        ({"readout": readout_with(groups={"low": np.ones(3, bool)})}, r"groups: 'low': expected bool \[20\]"),
        ({"readout": readout_with(rows=rows_of(range(3)))}, "as many scored positions for each of 20 things, got 3"),
        ({"readout": readout_with(order=np.zeros(N, int))}, "order: expected each of 0 to 19 once"),
        ({"readout": readout_with(rows=tuple(rows_of(range(N))))}, "rows: expected worldfast.rows.Rows"),
        ({"readout": lambda self: 3}, "readout: it raises TypeError: readout: expected a worldfast.dataset.Readout"),
        ({"score": lambda *_, **__: {"even": 0.5}}, "score: 'even': expected a worldfast.dataset.Score, got 0.5"),
        ({"score": lambda *_, **__: {}}, "score: expected a Score by name"),
        ({"content": Dataset.content}, "content: it states nothing"),
        ({"content": lambda self: {"drawn": np.random.default_rng().random()}}, "content: it is another when it is"),
        ({"content": lambda self: {"texts": [None]}}, "content: it raises TypeError: content: texts: expected numbers"),
        ({"content": lambda self: {"x": np.ma.array([1], mask=[True])}}, "content: x: expected numbers.*MaskedArray"),
        ({"to_json": lambda self: {}}, "to_json: from_json gives another dataset"),
    ],
)
def test_what_does_not_hold_is_said(changes, message):
    kind = type("World", (World,), changes)
    kind.__module__ = World.__module__
    with pytest.raises(ValueError, match=f"(?s)World does not pass:\n.*{message}"):
        check_world(kind(more=2))


def test_what_is_no_dataset():
    class Some:
        label = "some"

        def stream(self, seed, split="train"): ...

    lacks = "readout, score, the base class worldfast.dataset.Dataset"
    with pytest.raises(ValueError, match=f"Some is no dataset: it lacks {lacks}"):
        check_world(Some())
    with pytest.raises(TypeError, match=f"data: expected a dataset of a world.*which lacks {lacks}"):
        wf.Run(Some())


def test_a_run_needs_an_identity():
    plain = type("Plain", (Dataset,), {name: getattr(World, name) for name in ("label", "stream", "readout", "score")})
    with pytest.raises(TypeError, match="data: expected a frozen dataclass, got a Plain"):
        wf.Run(plain())

    @dataclass(frozen=True)
    class Inside(World): ...

    with pytest.raises(ValueError, match="Inside: define it at the top level of a file"):
        _ = wf.Run(Inside()).id


def test_a_readout_of_some_entities_is_one_of_a_world_that_says_how_many_it_has():
    kind = type("World", (World,), {"readout": readout_with(things=2 * np.arange(N)), "entity_count": 2 * N})
    kind.__module__ = World.__module__
    check_world(kind())


WORLDS = {
    "cities": cities.Dataset("angle", world=wf.WorldSpec(largest=60)),
    "chains": chains.Dataset(chains=3, states=5, length=20),
    "factors": factors.Dataset(steps=4),
    "walks": walks.Dataset("grid3", length=20),
}


@pytest.mark.parametrize("name", WORLDS)
def test_no_world_takes_an_unknown_split(name):
    said = "unknown split 'vaildation': did you mean 'validation'. known: train, validation, test"
    with pytest.raises(ValueError, match=said):
        WORLDS[name].stream(0, "vaildation")
    with pytest.raises(ValueError, match="unknown split 7: known: train, validation, test"):
        WORLDS[name].stream(0, 7)
    with pytest.raises(ValueError, match=said):
        WORLDS[name].score(None, 0, 2, seed=0, split="vaildation")


def half_of(self, start, n):
    return Numbers.batch(self, start, n // 2)


def without(name):
    kind = type("Lacking", (), {key: value for key, value in vars(Numbers).items() if key not in (name, "__dict__")})
    return lambda self, seed, split="train": kind(seed, 0)


def score_with(sound=World.score, **changes):
    return lambda *given, **how: {name: replace(score, **changes) for name, score in sound(*given, **how).items()}


@pytest.mark.parametrize(
    "changes,error,message",
    [
        ({"stream": stream_with(batch=half_of)}, ValueError, r"^batch\(0, 32\) of Changed: expected 32 rows, got 16$"),
        (
            {"stream": stream_with(batch=lambda self, start, n: Numbers.batch(self, start, n + 1))},
            ValueError,
            r"batch\(0, 32\) of Changed: expected 32 rows, got 33",
        ),
        (
            {"stream": stream_with(batch=lambda self, start, n: tuple(Numbers.batch(self, start, n)))},
            TypeError,
            r"batch\(0, 32\) of Changed: rows: expected worldfast.rows.Rows",
        ),
        (
            {"stream": stream_with(batch=lambda self, start, n: Numbers.batch(self, start, n)._replace(targets=None))},
            ValueError,
            "rows of 'pt-numbers-s42': expected scored positions with targets, World gives none",
        ),
        (
            {"stream": without("rows")},
            TypeError,
            r"stream of World: expected shape, rows, .* got a Lacking, which lacks rows",
        ),
        ({"stream": lambda *_: [1, 2]}, TypeError, "stream of World: .* got a list, which lacks shape, rows, longest,"),
        ({"stream": stream_with(shape=(N, 2))}, TypeError, "stream of World: shape: expected a worldfast.rows.Shape"),
        ({"stream": stream_with(longest=None)}, TypeError, "stream of World: longest: expected an integer"),
        ({"score": lambda *_, **__: {"x": 1.0}}, TypeError, "score of World: 'x': expected a worldfast.dataset.Score"),
        ({"score": lambda *_, **__: 1.0}, TypeError, "score of World: expected a Score by name, got 1.0"),
        ({"score": score_with(n=5)}, ValueError, "score of World: 'even': expected 9 rows of validation, got 5"),
        (
            {"score": score_with(value=torch.tensor(0.5))},
            TypeError,
            r"score of World: 'even': value: expected a number, got tensor\(0.5",
        ),
        ({"label": "my ring"}, ValueError, "^label: expected letters, digits, .* got 'my ring'"),
        ({"label": ""}, ValueError, "^label: expected letters, digits, .* got ''"),
        ({"label": 7}, TypeError, "^label: expected a text, as an attribute or a property of the dataset, got 7"),
        ({"label": lambda self: "ring"}, TypeError, "^label: expected a text, as an attribute or a property"),
    ],
)
def test_what_a_world_lacks_is_said_before_anything_is_written(changes, error, message, tmp_path):
    kind = type("World", (World,), changes)
    kind.__module__ = World.__module__
    with pytest.raises(error, match=message):
        wf.train(wf.Run(kind(), **SMALL, validation=9), tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    "more,message",
    [
        (np.ones(3), r"^World.more: expected a value that JSON keeps, .* got array\(.*, a ndarray"),
        (float("nan"), "^World.more: expected a value that JSON keeps, .* got nan"),
        ([1], "^data: expected fields that cannot change, such as a tuple, got World.*unhashable type: 'list'"),
    ],
)
def test_a_field_that_is_no_part_of_an_identity_is_named(more, message):
    with pytest.raises(TypeError, match=message):
        wf.Run(World(more), **SMALL)


@pytest.mark.parametrize("batch", [8, 3000])
def test_a_stream_that_ends_early_ends_training_where_its_rows_are_due(batch, tmp_path, monkeypatch):
    """Of batches that are drawn ahead and of those that are not; no step is taken on fewer rows."""
    end = 2 * batch + batch // 2
    ends = stream_with(rows=4 * batch, batch=lambda self, start, n: Numbers.batch(self, start, min(n, end - start)))
    monkeypatch.setattr(World, "stream", ends)
    run = wf.Run(World(), **SMALL | {"batch": batch, "checkpoints": 4})
    said = rf"batch\({2 * batch}, {batch}\) of Changed: expected {batch:,} rows, got {batch // 2:,}"
    with pytest.raises(ValueError, match=said):
        wf.train(run, tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / run.folder_name / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["rows"] == 2 * batch


@pytest.mark.parametrize(
    "things,message",
    [
        (np.arange(N) - 1, "expected indices of entities, from 0 on"),
        (np.arange(N) + 1000, "entity 1019 of 20 is not there"),
    ],
)
def test_a_readout_of_what_is_not_there_ends_before_anything_is_written(things, message, tmp_path, monkeypatch):
    monkeypatch.setattr(World, "readout", readout_with(things=things))
    with pytest.raises(ValueError, match=f"readout of World: things: {message}"):
        wf.train(wf.Run(World(), model=wf.RecurrentSpec(hidden=8)), tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())

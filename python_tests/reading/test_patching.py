"""Activation patching: nothing where nothing changes, everything where everything is replaced, and transformers with
hooks in between."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from qwen import qwen2

import worldfast as wf
from worldfast.capture import Capture
from worldfast.folder import opened
from worldfast.models import PlainTransformer
from worldfast.reading import Questions, patching
from worldfast.reading.patching import _ratio
from worldfast.rows import Rows, Shape
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.evaluate import decode
from worldfast.worlds.cities.patching import POSITIONS, questions_of, token_positions

SPEC = wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=48, init_std=0.3)
ANSWERS = replace(SPEC, outputs=98)  # of no city
NEW = "region == 'Atlantis'"
VOCABULARIES = ("character", "entity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CSV of a small world; with 10 cities of Atlantis it has 50."""
    xy = np.random.default_rng(5).integers(-900, 900, size=(40, 2))
    path = tmp_path_factory.mktemp("world") / "towns.csv"
    path.write_text("x,y\n" + "\n".join(f"{x},{y}" for x, y in xy))
    return path


def model(folder, vocabulary, seed, spec=SPEC, loss="all"):
    world = wf.WorldSpec(str(folder), 10)
    run = wf.Run(Dataset("angle", world=world, vocabulary=vocabulary, loss=loss), seed=seed, model=spec)
    ensemble = spec.build(run.shape, threads=1)
    ensemble.initialise(0, seed)
    return run, ensemble


def batch_of(run, task, n=12):
    world = run.data.world.build()
    return wf.sample(world, task, n, run.seed, must_include=NEW, vocabulary=run.data.vocabulary, split="test")


def patched_answers(source, target, batch, *patch, **options):
    asked = Questions(batch.tokens, batch.answer_start, {}, None, end=3)
    return patching.patched_answers(source, target, asked, *patch, **options)


def activation_patching(source, target, tasks=None, *, layers=None, longest=16, **rows):
    """Of the tasks of both, unless some are named."""
    (of_source, _), (run, _) = opened(source, "source"), opened(target, "target")
    both = dict.fromkeys((*of_source.data.tasks, *run.data.tasks))
    asked = questions_of(run, both if tasks is None else tasks, **rows)
    return patching.activation_patching(source, target, asked, layers=layers, longest=longest)


def included(run):
    return run.data.world.build().select(NEW)


def same(answers, others):
    return len(answers) == len(others) and all(np.array_equal(a, b) for a, b in zip(answers, others))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_without_a_patch_it_is_the_model(vocabulary, folder):
    run, ensemble = model(folder, vocabulary, 1)
    for task in ("inside", "distance"):
        batch = batch_of(run, task)
        assert same(patched_answers(ensemble, ensemble, batch, longest=6), decode(ensemble, 0, batch, longest=6))
    packed = run.stream().pack(0, 9)
    tokens, starts = torch.from_numpy(packed.tokens), torch.from_numpy(packed.row_start)
    rows, plain = Rows(tokens, starts, torch.arange(len(tokens))), PlainTransformer.of(ensemble)
    for layer, expected in enumerate(ensemble.states(rows, 0, range(SPEC.layers + 1))):
        found = plain.run(rows, read=[plain.name_of_layer(layer)])[plain.name_of_layer(layer)]
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_models_own_states_change_nothing(vocabulary, folder):
    run, ensemble = model(folder, vocabulary, 1)
    batch = batch_of(run, "perimeter")
    expected = patched_answers(ensemble, ensemble, batch, longest=6)
    for group in POSITIONS:
        at = token_positions(batch, "perimeter", group, included(run))
        for layer in range(3):
            found = patched_answers(ensemble, ensemble, batch, layer, at, longest=6, answer=group == "all")
            assert same(found, expected), (group, layer)
    both = (run, ensemble), (run, ensemble)
    table = activation_patching(*both, rows=5, positions=POSITIONS, must_include=NEW, longest=2)
    assert (table.value == table.target_value).all() and (table.value == table.source_value).all()
    assert table.recovered.isna().all() and len(table) == 3 * len(POSITIONS)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_all_states_of_the_last_layer_are_the_others_answers(vocabulary, folder):
    """Where heads are equal. With the question's states alone, the first token is the other's."""
    (run, source), (_, target) = model(folder, vocabulary, 1), model(folder, vocabulary, 2)
    target.weights[0].head.copy_(source.weights[0].head)
    for task in ("angle", "inside"):
        batch = batch_of(run, task)
        theirs, mine = (patched_answers(one, one, batch, longest=6) for one in (source, target))
        assert not same(theirs, mine)
        at = token_positions(batch, task, "all")
        assert same(patched_answers(source, target, batch, 2, at, longest=6, answer=True), theirs)
        first = patched_answers(source, target, batch, 2, at, longest=1)
        assert same(first, [answer[:1] for answer in theirs])


def test_what_is_recovered(folder, monkeypatch):
    """Of made-up scores, since models that learned nothing answer nothing: the share of the gap, row by row."""

    def scores(task, batch, answers):
        return np.array([len(answer) + float(answer[:1].sum()) for answer in answers]), 4

    monkeypatch.setattr("worldfast.worlds.cities.patching._scores", scores)
    (run, source), (_, target) = model(folder, "character", 1), model(folder, "character", 2)
    groups = ("entity", "all")
    table = activation_patching((run, source), (run, target), rows=20, positions=groups, must_include=NEW, longest=3)
    batch = batch_of(run, "angle", 20)
    theirs, mine = (scores(0, 0, patched_answers(one, one, batch, longest=3))[0] for one in (source, target))
    assert theirs.mean() != mine.mean()
    for line in table.itertuples():
        at = token_positions(batch, "angle", line.positions)
        found = patched_answers(source, target, batch, line.layer, at, longest=3, answer=line.positions == "all")
        value = scores(0, 0, found)[0]
        share = (value.mean() - mine.mean()) / (theirs.mean() - mine.mean())
        assert np.isclose(line.recovered, share) and np.isclose(line.value, value.mean()) and line.unparsable == 4
        assert np.isclose(line.standard_error, _ratio(value - mine, theirs - mine)[1])
    assert table.recovered.between(0.02, 0.98).any()
    target.weights[0].head.copy_(source.weights[0].head)
    table = activation_patching((run, source), (run, target), rows=20, positions="all", layers=[2], longest=3)
    assert table.recovered.tolist() == [1.0] and table.standard_error.tolist() == [0.0]


def test_other_heads_read_the_others_states(folder):
    """Behind the states that are replaced, weights are the target's."""
    (run, source), (_, target) = model(folder, "character", 1), model(folder, "character", 2)
    batch = batch_of(run, "angle")
    at = token_positions(batch, "angle", "all")
    head = source.weights[0].head.clone()
    found = patched_answers(source, target, batch, 2, at, longest=6, answer=True)
    source.weights[0].head.copy_(target.weights[0].head)
    assert same(found, patched_answers(source, source, batch, longest=6))
    source.weights[0].head.copy_(head)
    assert not same(found, patched_answers(source, source, batch, longest=6))


def test_new_cities_are_in_their_embeddings_where_only_those_differ(folder):
    """A target that is the source but for what it knows of Atlantis: what is replaced there brings all of it back."""
    (run, source), (_, target) = (model(folder, "entity", 1, spec=ANSWERS, loss="answer") for _ in range(2))
    new = torch.from_numpy(98 + np.flatnonzero(included(run)))
    target.weights[0].embed[new] = torch.randn(len(new), 32, generator=torch.Generator().manual_seed(0))
    batch = batch_of(run, "angle", 20)
    theirs, mine = (patched_answers(one, one, batch, longest=6) for one in (source, target))
    assert not same(theirs, mine)
    for group, expected in (("included", theirs), ("entity", theirs), ("question", theirs), ("equals", mine)):
        at = token_positions(batch, "angle", group, included(run))
        assert same(patched_answers(source, target, batch, 0, at, longest=6), expected), group
    # behind the first block the other tokens have seen the new city's
    at = token_positions(batch, "angle", "included", included(run))
    assert not same(patched_answers(source, target, batch, 2, at, longest=6), theirs)


def hooked_answer(giving, taking, row, length, layer, at, longest):
    """One greedy answer by transformers, each token computed anew, with a hook where states are replaced."""

    def place(qwen):
        body = qwen.model
        return body.norm if layer == 2 else body.layers[layer - 1] if layer else body.embed_tokens

    tokens = torch.tensor(row[:length].astype(np.int64))[None]
    with torch.no_grad():
        states = giving(tokens, output_hidden_states=True).hidden_states[layer][0, :length]
    where = torch.from_numpy(np.flatnonzero(at[:length]))

    def replace(module, inputs, output):
        whole = output[0] if isinstance(output, tuple) else output
        whole[0, where] = states[where]
        return output

    handle = place(taking).register_forward_hook(replace)
    answer = []
    with torch.no_grad():
        while len(answer) < longest:
            token = int(taking(tokens).logits[0, -1].argmax())
            if token == 3:
                break
            answer.append(token)
            tokens = torch.cat([tokens, torch.tensor([[token]])], 1)
    handle.remove()
    return answer


def test_answers_are_those_of_transformers_with_hooks(folder):
    (run, source), (_, target) = model(folder, "character", 1), model(folder, "character", 2)
    qwens = qwen2(source), qwen2(target)
    batch = batch_of(run, ("inside"), 5)
    alone = patched_answers(target, target, batch, longest=4)
    for layer in range(3):
        for group in ("entity", "last", "question"):
            at = token_positions(batch, "inside", group)
            found = patched_answers(source, target, batch, layer, at, longest=4)
            for i, answer in enumerate(found):
                expected = hooked_answer(*qwens, batch.tokens[i], int(batch.answer_start[i]), layer, at[i], 4)
                assert answer.tolist() == expected, (layer, group, i)
            if layer < 2:
                assert not same(found, alone), (layer, group)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("task", list(wf.TASKS))
def test_positions_are_the_tokens_that_they_say(task, vocabulary, folder):
    run, _ = model(folder, vocabulary, 1)
    world, batch = run.data.world.build(), batch_of(run, task, 30)
    at = {group: token_positions(batch, task, group, included(run)) for group in POSITIONS}
    for i in range(len(batch)):
        said = {group: batch.vocabulary.decode(batch.tokens[i][mask[i]]) for group, mask in at.items()}
        cities = batch.cities[i][batch.cities[i] >= 0]
        names = [f"c_{world.city_id[city]:04d}" for city in cities]
        question = wf.TASKS[task].question(world.city_id[cities])
        assert said["entity"] == "".join(names) and said["equals"] == "="
        assert said["included"] == "".join(
            name for name, city in zip(names, cities) if world.region[city] == "Atlantis"
        )
        assert said["question"] == said["all"] == question and at["question"][i, 0]
        behind = [question[question.index(name) + 6] for name in names]
        ends = names if vocabulary == "entity" else [name[-1] for name in names]
        assert said["last"] == "".join(end + mark for end, mark in zip(ends, behind))


def test_the_table(folder, tmp_path):
    """From folders: values are the scores of the patched answers."""
    base = wf.Run(
        Dataset(("distance", "inside"), rows=64, world=wf.WorldSpec(str(folder), 10)),
        batch=32,
        model=SPEC,
        checkpoints=1,
        learning_rate=0.01,
        warmup=0,
        capture=Capture(layers=()),
    )
    other = wf.Run(
        Dataset(("inside", "angle"), rows=64, world=base.data.world),
        batch=32,
        model=SPEC,
        checkpoints=1,
        seed=7,
        capture=Capture(layers=()),
    )
    folders = wf.train([base, other], tmp_path, progress=False, device="cpu")
    table = activation_patching(*folders, rows=8, must_include=NEW, positions=("entity", "all"), longest=5)
    assert list(table.columns) == [
        "layer",
        "positions",
        "task",
        "source",
        "target",
        "metric",
        "value",
        "recovered",
        "standard_error",
        "n",
        "source_value",
        "target_value",
        "unparsable",
    ]
    assert len(table) == 3 * 2 * 3 and list(dict.fromkeys(table.task)) == ["distance", "inside", "angle"]
    assert set(table.source) == {base.name} and set(table.target) == {other.name} and set(table.n) == {8}
    from worldfast.training import load

    source, target = load(folders[0])[1], load(folders[1])[1]
    for line in table.itertuples():
        task = wf.TASKS[line.task]
        batch = wf.sample(base.data.world.build(), line.task, 8, 7, split="test", must_include=NEW)
        at = token_positions(batch, task, line.positions)

        def score(answers, task=task, batch=batch):
            return task.score(batch.label, [batch.vocabulary.decode(answer) for answer in answers])

        found, unparsable = score(
            patched_answers(source, target, batch, line.layer, at, longest=5, answer=line.positions == "all")
        )
        theirs, mine = (score(decode(one, 0, batch, longest=5))[0].mean() for one in (source, target))
        assert np.allclose((line.value, line.source_value, line.target_value), (found.mean(), theirs, mine))
        assert line.unparsable == unparsable and line.metric == task.metric
    json.loads(table.to_json())


def test_a_share_and_its_standard_error():
    assert _ratio(np.array([1.0, 2]), np.array([2.0, 4])) == (0.5, 0.0)
    assert _ratio(np.array([1.0, 0]), np.array([1.0, 1])) == (0.5, 0.5)  # of two rows, 1 and 0
    assert np.isnan(_ratio(np.ones(3), np.zeros(3))).all() and np.isnan(_ratio(np.ones(1), np.ones(1))[1])
    random = np.random.default_rng(0)
    whole = random.normal(5, 1, (4000, 100))
    part = 0.3 * whole + random.normal(0, 2, whole.shape)
    found = np.array([_ratio(*rows) for rows in zip(part, whole)])
    assert abs(found[:, 0].mean() - 0.3) < 0.005
    assert abs(found[:, 1].mean() / found[:, 0].std() - 1) < 0.05


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"tasks": "distnace"}, ValueError, "unknown task 'distnace': did you mean 'distance'"),
        ({"positions": "entiy"}, ValueError, "unknown positions 'entiy': did you mean 'entity'"),
        (
            {"positions": ("entity", "included")},
            ValueError,
            "positions: 'included' are tokens of cities from must_incl",
        ),
        ({"layers": [3]}, IndexError, "layers: expected 0 to 2, got 3"),
        ({"layers": [-1]}, IndexError, "layers: expected 0 to 2, got -1"),
        ({"rows": 0}, ValueError, "rows: expected at least 1, got 0"),
        ({"longest": 1.5}, TypeError, "longest: expected an integer, got 1.5"),
        ({"must_include": "x > 5000"}, ValueError, "must_include: 'x > 5000' selects no city"),
        ({"split": "tset"}, ValueError, "unknown split 'tset'"),
        ({"source": 3}, TypeError, "source: expected a run's folder or \\(run, ensemble\\), got 3"),
        ({"target": (1, 2)}, TypeError, "target: expected a run's folder or"),
        ({"target": "nowhere"}, FileNotFoundError, "nowhere is not a run's folder"),
    ],
)
def test_bad_input(options, error, message, folder):
    both = model(folder, "character", 1)
    with pytest.raises(error, match=message):
        activation_patching(**{"source": both, "target": both, "rows": 4, "longest": 2, **options})


def test_models_that_are_unlike(folder):
    character, entity = model(folder, "character", 1), model(folder, "entity", 1)
    with pytest.raises(ValueError, match="source: 'pt-angle-s1' has the vocabulary 'entity' of 148 tokens, the target"):
        activation_patching(entity, character)
    narrow = model(folder, "character", 2, spec=wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=48))
    with pytest.raises(ValueError, match="source: 'pt-angle-s2' has model.hidden 16, the target 'pt-angle-s1' 32"):
        activation_patching(narrow, character)
    with pytest.raises(ValueError, match="world: its vocabulary has 5,173 tokens, that of 'pt-angle-s1' 148"):
        activation_patching(entity, entity, world=wf.World.cities())


def recurrent():
    run = wf.Run(Dataset("angle"), model=wf.RecurrentSpec(hidden=8, layers=1))
    return run, run.model.build(run.shape)


def test_a_recurrent_model_is_named(folder):
    """Whichever of the two it is, and where answers are asked for directly."""
    both, other = model(folder, "character", 1), recurrent()
    asked = questions_of(both[0], rows=2)
    for name, pair in (("source", (other, both)), ("target", (both, other))):
        with pytest.raises(
            TypeError, match=f"{name}: 'pt-angle-.*' is a RecurrentSpec .* in a TransformerSpec that reads"
        ):
            patching.activation_patching(*pair, asked)
    with pytest.raises(TypeError, match="ensemble: expected one of a TransformerSpec, got one of a RecurrentSpec"):
        patching.patched_answers(other[1], both[1], asked["angle"])


def test_a_model_of_vectors_is_named():
    spec, shape = replace(SPEC, engine="plain"), Shape(5, 3, vectors=True)
    run = recurrent()[0]
    with pytest.raises(
        TypeError, match="source: .* is a TransformerSpec that reads vectors; states can be replaced in"
    ):
        patching.activation_patching(*[(run, spec.build(shape))] * 2, {})


def test_questions_of_any_world(folder):
    """Tokens of no city: what is replaced is what the mask says, under the name that the caller gave it."""
    both = model(folder, "character", 1), model(folder, "character", 2)
    tokens = np.random.default_rng(0).integers(4, 98, (6, 5)).astype(np.int32)
    at = {"first": np.arange(5) < np.ones((6, 1), bool), "whole": np.ones((6, 5), bool)}

    def score(answers):
        return np.array([float(len(answer)) for answer in answers]), 1

    asked = Questions(tokens, np.full(6, 5, np.int32), at, score, 3, "tokens", ("whole",))
    table = patching.activation_patching(*both, {"any": asked}, layers=[2], longest=4)
    assert table.positions.tolist() == ["first", "whole"] and set(table.metric) == {"tokens"} and set(table.n) == {6}
    one = patching.activation_patching(*both, {"any": asked}, layers=[2], longest=4, positions="whole")
    assert one.equals(table[1:].reset_index(drop=True))
    answers = patching.patched_answers(both[0][1], both[1][1], asked, 2, at["whole"], longest=4, answer=True)
    assert table.value[1] == score(answers)[0].mean()


def asked_with(**other):
    whole = Questions(np.full((2, 3), 4, np.int32), np.full(2, 3), {"all": np.ones((2, 3), bool)}, None, 3)
    return {"any": whole._replace(**other)}


@pytest.mark.parametrize(
    "asked,error,message",
    [
        (7, TypeError, "questions: expected a mapping of tasks' names to Questions, got 7"),
        ({"any": 7}, TypeError, "questions: expected a mapping of tasks' names to Questions"),
        ({}, ValueError, "questions: expected those of at least one task"),
        (asked_with(tokens=np.zeros(3, np.int32)), ValueError, r"tokens \[n, T\] and answer_start \[n\], got \[3\]"),
        (asked_with(answer_start=np.array([3])), ValueError, r"answer_start \[n\], got \[2, 3\] and \[1\]"),
        (asked_with(answer_start=np.array([3, 4])), ValueError, "expected answer_start from 1 to 3"),
        (asked_with(answer_start=np.array([0, 3])), ValueError, "expected answer_start from 1 to 3"),
        (asked_with(tokens=np.full((2, 3), 98)), ValueError, "expected tokens below 98, got 98"),
        (asked_with(positions={"a": np.ones((2, 2), bool)}), ValueError, r"positions 'a': expected bool \[2, 3\]"),
        (asked_with(positions={"a": np.ones((2, 3))}), ValueError, r"positions 'a': expected bool .* float64"),
    ],
)
def test_questions_that_do_not_fit(asked, error, message, folder):
    both = model(folder, "character", 1)
    with pytest.raises(error, match=message):
        patching.activation_patching(both, both, asked)


def test_positions_that_the_questions_lack(folder):
    both = model(folder, "character", 1)
    with pytest.raises(ValueError, match="unknown positions 'entiy': did you mean 'entity'"):
        patching.activation_patching(both, both, questions_of(both[0], rows=2), positions=("all", "entiy"))

"""Rows as token ids, the two vocabularies, and answers read back."""

import numpy as np
import oracle
import pytest

import worldfast as wf
from worldfast.worlds.cities.tokens import Vocabulary

# The 94 characters as the specification lists them.
LISTED = "!\"#$%&'()*+,-./:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~0123456789"

DISTANCE = [2, 61, 66, 76, 77, 11, 60, 56, 88, 96, 94, 93, 15, 60, 56, 92, 96, 95, 97, 12, 22, 95, 94, 97, 3]
CROSSING = [
    2,
    60,
    75,
    72,
    76,
    76,
    11,
    60,
    56,
    88,
    88,
    88,
    89,
    15,
    60,
    56,
    88,
    88,
    88,
    90,
    20,
    60,
    56,
    88,
    88,
    88,
    91,
    15,
    60,
    56,
    88,
    88,
    88,
    92,
    12,
    22,
    45,
    43,
    46,
    30,
    3,
]
COMPASS = [2, 60, 72, 70, 73, 58, 76, 76, 11, 60, 56, 97, 97, 97, 97, 15, 60, 56, 88, 88, 88, 88, 12, 22, 44, 48, 3]


@pytest.fixture(scope="module")
def cities():
    return wf.World.cities()


def world_of(points_by_id):
    points = np.array(list(points_by_id.values()), np.int32)
    return wf.World.from_array(points, city_id=np.array(list(points_by_id), np.int32))


def row_with(cities, batch):
    """The first row of a batch with these cities in this order."""
    return np.flatnonzero((batch.cities[:, : len(cities)] == cities).all(1))[0]


# ---------------------------------------------------------------------------------------------- ids by hand


@pytest.mark.parametrize(
    "task, world, text, ids, entity_ids",
    [
        (
            "distance",
            {865: (0, 0), 4879: (769, 0)},
            "dist(c_0865,c_4879)=769",
            DISTANCE,
            [2, 61, 66, 76, 77, 11, 98, 15, 99, 12, 22, 95, 94, 97, 3],
        ),
        (
            "crossing",
            {1: (0, 0), 2: (2, 2), 3: (0, 2), 4: (2, 0)},
            "cross(c_0001,c_0002;c_0003,c_0004)=TRUE",
            CROSSING,
            [2, 60, 75, 72, 76, 76, 11, 98, 15, 99, 20, 100, 15, 101, 12, 22, 45, 43, 46, 30, 3],
        ),
        (
            "compass",
            {9999: (5, 5), 0: (1, 2)},
            "compass(c_9999,c_0000)=SW",
            COMPASS,
            [2, 60, 72, 70, 73, 58, 76, 76, 11, 98, 15, 99, 12, 22, 44, 48, 3],
        ),
    ],
    ids=["distance", "crossing", "compass"],
)
def test_rows_written_by_hand(task, world, text, ids, entity_ids):
    world = world_of(world)
    n = len(world)
    for vocabulary, expected in (("character", ids), ("entity", entity_ids)):
        rows = 1 if n == 2 else 400
        batches = (wf.sample(world, task, n=rows, seed=seed, vocabulary=vocabulary) for seed in range(50))
        batch = next(b for b in batches if (b.cities[:, :n] == np.arange(n)).all(1).any())
        i = row_with(np.arange(n), batch)
        assert batch.tokens[i, : batch.length[i]].tolist() == expected
        assert (batch.tokens[i, batch.length[i] :] == 0).all()
        assert batch.text(i) == text
        assert batch.answer_start[i] == expected.index(22) + 1
        assert Vocabulary(vocabulary, world).encode(text) == expected[1:-1]


# ------------------------------------------------------------------------------------------------ many rows


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
@pytest.mark.parametrize("task", oracle.TASKS)
def test_tokens_are_those_of_the_text(task, vocabulary, cities):
    batch = wf.sample(cities, task, n=3000, seed=8, vocabulary=vocabulary)
    index_of_id = {city_id: i for i, city_id in enumerate(cities.city_id.tolist())}
    assert batch.tokens.dtype == (np.uint8 if vocabulary == "character" else np.int32)
    for i in range(3000):
        ids = cities.city_id[batch.cities[i][batch.cities[i] >= 0]]
        text = oracle.text(task, ids, batch.label[i])
        expected = oracle.token_ids(text, index_of_id if vocabulary == "entity" else None)
        assert batch.tokens[i].tolist() == expected + [oracle.PAD] * (batch.tokens.shape[1] - len(expected))
        assert batch.length[i] == len(expected)
        assert batch.answer_start[i] == expected.index(oracle.TOKEN["="]) + 1
        assert batch.text(i) == text


def test_the_vocabulary_changes_nothing_but_tokens(cities):
    for task in oracle.TASKS:
        character, entity = (wf.sample(cities, task, n=500, vocabulary=v) for v in ("character", "entity"))
        for field in ("cities", "label", "task"):
            assert np.array_equal(getattr(character, field), getattr(entity, field))
        used = (character.cities >= 0).sum(1)
        assert np.array_equal(character.length - 5 * used, entity.length)


def test_lengths(cities):
    distance = wf.sample(cities, "distance", n=5000)
    digits = np.char.str_len(distance.label.astype(str))
    assert set(digits) >= {2, 3, 4}
    assert (distance.length == 22 + digits).all()
    inside = wf.sample(cities, "inside", n=5000)
    assert inside.length.max() == 57 and inside.length.min() == 42
    mixed = wf.sample(cities, oracle.TASKS, n=140_000)
    assert abs(mixed.length.mean() - 36.3) < 0.2
    assert mixed.length.max() == 57


def test_numbers_of_every_width_are_written_whole():
    """Powers of ten and their neighbours, and the largest area, of 13 digits."""
    for reach in (1, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 99_999, 100_000, 999_999, 1_000_000):
        world = world_of({1: (0, 0), 2: (reach, 0)})
        assert wf.sample(world, "distance", n=1).text(0).endswith(f"={reach}")
    far = 2**20
    world = world_of({1: (-far, -far), 2: (far, -far), 3: (far, far)})
    assert wf.sample(world, "trianglearea", n=1).text(0).endswith(f"={2**41}")


def test_ids_keep_their_leading_zeros():
    world = world_of({0: (0, 0), 7: (1, 0)})
    assert set(wf.sample(world, "distance", n=1).text(0)[5:18].split(",")) == {"c_0000", "c_0007"}


# --------------------------------------------------------------------------------------------- vocabularies


def test_character_vocabulary(cities):
    vocabulary = Vocabulary("character", cities)
    assert vocabulary.size == 98
    assert oracle.CHARACTERS == LISTED
    assert vocabulary.encode(LISTED) == list(range(4, 98))
    assert vocabulary.decode(range(4, 98)) == LISTED
    assert vocabulary.encode("") == [] and vocabulary.decode([]) == ""
    assert vocabulary.encode("é d") == [1, 1, 61]  # unknown, and so is the space
    index = 17
    assert list(vocabulary.city_tokens(index)) == oracle.token_ids(f"c_{cities.city_id[index]:04d}")[1:-1]


def test_entity_vocabulary(cities):
    vocabulary = Vocabulary("entity", cities)
    assert vocabulary.size == 98 + len(cities)
    for index in (0, 17, len(cities) - 1):
        name = f"c_{cities.city_id[index]:04d}"
        assert list(vocabulary.city_tokens(index)) == vocabulary.encode(name) == [98 + index]
        assert vocabulary.decode([98 + index]) == name
    assert vocabulary.encode(LISTED) == list(range(4, 98))


@pytest.mark.parametrize("name", ["character", "entity"])
def test_decode_undoes_encode(name, cities):
    vocabulary = Vocabulary(name, cities)
    for task in oracle.TASKS:
        batch = wf.sample(cities, task, n=50, vocabulary=name)
        for i in range(50):
            row = batch.tokens[i, : batch.length[i]].tolist()
            assert vocabulary.decode(row) == vocabulary.decode(batch.tokens[i].tolist()) == batch.text(i)
            assert vocabulary.encode(batch.text(i)) == row[1:-1]


# ------------------------------------------------------------------------------------------- the task table


def test_the_task_table():
    assert tuple(wf.TASKS) == oracle.TASKS
    for index, (name, task) in enumerate(wf.TASKS.items()):
        assert task.name == name and task.index == index and task.prompt == oracle.PROMPT[name]
        assert (task.min_cities, task.max_cities) == oracle.ARITY[name]
        assert task.kind == ("choice" if name in oracle.ANSWERS else "number")
        assert tuple(task.answers or ()) == oracle.ANSWERS.get(name, ())
        assert task.delimiter == (";" if name == "inside" else ",")
    failures = [task.failure for task in wf.TASKS.values()]
    assert failures == pytest.approx([(3600**2 + 1800**2) ** 0.5, 3600 * 1800 / 2, 180, 0, 0, 20_000, 0])


@pytest.mark.parametrize("task", oracle.TASKS)
def test_answers_are_read_back(task, cities):
    batch = wf.sample(cities, task, n=500)
    for i in range(500):
        tokens = batch.tokens[i, batch.answer_start[i] : batch.length[i] - 1]
        text = Vocabulary("character", cities).decode(tokens)
        assert wf.TASKS[task].parse(text) == oracle.parse(task, text) == batch.label[i]
    for text in ("", " ", "=", "5.0", "-", "--5", "5-", "TRUEE", "E ", "ne", "1e3", "1_0", "٣", "²", "NNE"):
        assert wf.TASKS[task].parse(text) is None, text
    assert (wf.TASKS[task].parse("TRUE") == 1) == (task in ("inside", "crossing"))


def test_scores():
    scores, unparsable = wf.TASKS["angle"].score([5, 90, 7], ["5", "80", "N"])
    assert np.asarray(scores).tolist() == [0, 10, 180] and unparsable == 1
    scores, unparsable = wf.TASKS["inside"].score([0, 1, 1], ["FALSE", "FALSE", "5"])
    assert np.asarray(scores).tolist() == [1, 0, 0] and unparsable == 1

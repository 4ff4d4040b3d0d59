"""The representation of a city, and segments that are whole or named."""

import pickle

import h5py
import numpy as np
import pytest
import torch
import warm

import worldfast as wf
from worldfast import files
from worldfast.capture import Capture
from worldfast.errors import DamagedError, MismatchError
from worldfast.models import TransformerSpec
from worldfast.reading import Activations, Writer
from worldfast.reading.readout import states
from worldfast.reading.segment import segment_path
from worldfast.rows import Rows, Shape
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.prompts import Prompt
from worldfast.worlds.cities.tasks import TASKS
from worldfast.worlds.cities.tokens import Vocabulary
from worldfast.worlds.cities.world import World

ENDED = {"run": "abc", "seconds": 1.0, "metrics": {"bytes": 0, "crc32": 0}}
WORLD, PROMPT = "f" * 64, "dist(c_dddd,"
SPEC = {"id": "abc", "run": {}, "world_sha256": WORLD, "steps": 40, "origin": {}}
ABOUT = {"run": "abc", "world": WORLD, "prompt": PROMPT, "token_positions": (2, 3), "spec": "{}", "origin": "{}"}
IDS = np.array(["c_0007 at 1,2", "c_0001 at 3,-4", "Zürich"])


@pytest.mark.parametrize("depth,layers", [(1, (1,)), (2, (1, 2)), (5, (2, 3, 4, 5)), (6, (3, 4, 5, 6))])
def test_the_upper_half_by_default(depth, layers):
    assert Capture().of(depth) == layers
    assert Capture(layers=[0, depth]).of(depth) == (0, depth)
    assert Capture(layers=()).of(depth) == ()


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"layers": (1.0,)}, TypeError, "capture.layers: expected an integer, got 1.0"),
        ({"dtype": "float61"}, ValueError, "unknown capture.dtype 'float61': did you mean 'float16'"),
        ({"readout": 3}, TypeError, "capture.readout: expected options by name, got 3"),
    ],
)
def test_captures_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        Capture(**options)


def test_a_layer_the_model_does_not_have():
    with pytest.raises(IndexError, match="a model of 6 layers has 0 to 6, got 7"):
        Capture(layers=(5, 7)).of(6)


@pytest.mark.parametrize("name", ["character", "entity"])
@pytest.mark.parametrize("task", TASKS)
def test_prompts_stop_behind_the_first_city(task, name):
    world = World.cities()
    vocabulary = Vocabulary(name, world)
    prompt = Prompt.of_task(vocabulary, task, np.array([3, 0, 5074]))
    assert prompt.rows.inputs.reshape(3, -1).tolist() == sorted(prompt.rows.inputs.reshape(3, -1).tolist())
    delimiter = ";" if task == "inside" else ","
    assert prompt.text == f"{TASKS[task].prompt}(c_dddd{delimiter}"
    for row, city in enumerate(np.array([3, 0, 5074])[prompt.order]):
        begin, end = prompt.rows.row_start[row : row + 2].tolist()
        tokens = prompt.rows.inputs[begin:end].tolist()
        assert tokens[0] == 2
        text = f"{TASKS[task].prompt}(c_{world.city_id[city]:04d}{delimiter}"
        assert vocabulary.decode(tokens) == text
        at = prompt.rows.scored[2 * row : 2 * row + 2] - begin
        assert at.tolist() == list(prompt.positions) == [len(tokens) - 2, len(tokens) - 1]
        last = [98 + city] if name == "entity" else vocabulary.encode(text[-2])
        assert [tokens[i] for i in at] == last + vocabulary.encode(delimiter)


def test_a_representation_is_two_hidden_states_side_by_side():
    """Each city on its own, by the model's plain interface, against all of them at once."""
    vocabulary = Vocabulary("character", World.cities())
    spec, shape = TransformerSpec(hidden=16, layers=3, heads=2, intermediate=24), Shape(*[vocabulary.size] * 2)
    ensemble = spec.build(shape, 2)
    ensemble.initialise(1, seed=4)
    cities = np.arange(0, 5075, 70)
    readout = Dataset("inside").readout(among="index / 70 in " + str(list(range(73))))
    assert readout.things.tolist() == cities.tolist()
    read = states(readout, ensemble, 1, (0, 2, 3))
    for row, city in enumerate(cities):
        tokens = torch.tensor(
            [2, *vocabulary.encode("inside("), *vocabulary.city_tokens(city), *vocabulary.encode(";")]
        )
        n = len(tokens)
        ends = torch.tensor([0, n], dtype=torch.int32)
        alone = ensemble.states(Rows(tokens.int(), ends, torch.tensor([n - 2, n - 1])), 1, (0, 2, 3))
        for layer, state in zip((0, 2, 3), alone):
            np.testing.assert_allclose(read[layer][row], state.ravel(), rtol=1e-5, atol=1e-5)


def test_prompts_share_all_they_can_with_the_row_above():
    """Of 13 tokens a city adds 2.3 to those of the row above: each beginning of all prompts comes once."""
    prompt = Prompt.of_task(Vocabulary("character", World.cities()), "distance", np.arange(5075))
    rows = prompt.rows.inputs.reshape(5075, -1).numpy()
    alike = np.cumprod(rows[1:] == rows[:-1], axis=1).sum()
    beginnings = {tuple(row[:length]) for row in rows.tolist() for length in range(1, len(row) + 1)}
    assert rows.size - alike == len(beginnings) < 2.4 * len(rows)


@pytest.fixture
def folder(tmp_path):
    """A run's folder with three segments of the four that there should be."""
    captured = {"layers": [3, 5], "prompt": "dist(c_dddd,"}
    spec = SPEC | {"checkpoint_steps": [0, 10, 20, 30], "captured": captured}
    files.write_json(tmp_path / "spec.json", spec)
    (tmp_path / "activations").mkdir()
    writer = Writer()
    for step in (0, 10, 20):
        writer.put(tmp_path, step, arrays(step), np.array([7, 1, 4]), ABOUT | {"dtype": "float32"}, IDS)
    writer.flush()
    writer.close()
    return tmp_path


def arrays(step):
    return {layer: np.random.default_rng([step, layer]).normal(size=(3, 8)).astype(np.float32) for layer in (3, 5)}


def test_round_trip(folder):
    activations = Activations(folder)
    shown = activations._repr_html_()
    assert f"<caption>Activations of {folder}</caption>" in shown and activations.run in shown
    assert (activations.steps, activations.layers, activations.prompt) == ([0, 10, 20], (3, 5), "dist(c_dddd,")
    for step in (0, 10, 20):
        for layer in (3, 5):
            assert np.array_equal(activations[step, layer], arrays(step)[layer])
    with h5py.File(segment_path(folder, 10)) as file:  # the layout, for other readers
        assert set(file) == {"layer_03", "layer_05", "entity_index", "entity_id"} and file["layer_03"].shape == (3, 8)
        assert file["entity_index"][()].tolist() == [7, 1, 4] and file["entity_index"].dtype == np.int32
        assert file.attrs["step"] == 10 and file.attrs["run"] == b"abc" and file.attrs["dtype"] == b"float32"
        assert set(ABOUT) < set(file.attrs)
    assert sorted(path.name for path in (folder / "activations").iterdir()) == [
        f"step-{step:08d}.h5" for step in (0, 10, 20)
    ]


def test_a_layer_is_read_in_slices(folder):
    activations = Activations(folder)
    unread = activations.dataset(10, 5)
    assert unread.shape == (3, 8) and unread.dtype == np.float32 and np.array_equal(unread[1:], arrays(10)[5][1:])
    assert wf.cka(unread, activations.dataset(20, 5)) == wf.cka(activations[10, 5], activations[20, 5])
    with pytest.raises(KeyError, match="has no layer 4"):
        activations.dataset(10, 4)
    segment_path(folder, 0).write_bytes(b"")
    with pytest.raises(ValueError, match="step-00000000.h5 is damaged"):
        activations.dataset(0, 5)


MANY = """
import os, resource, sys
import numpy as np
import worldfast as wf

activations, steps = wf.Activations(sys.argv[1]), (0, 10, 20)
opened = lambda: len(os.listdir("/proc/self/fd"))
wf.cka(activations.dataset(0, 3), activations.dataset(0, 5))  # what is imported opens files
before = opened()
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 3,) * 2)
unread = [activations.dataset(steps[i % 3], 3 + i % 2 * 2) for i in range(300)]
assert opened() == before
for i in range(0, 300, 7):
    assert np.array_equal(unread[i][1:], activations[steps[i % 3], 3 + i % 2 * 2][1:])
assert (wf.cka_matrix(unread[:12])[:6, :6] == wf.cka_matrix([unread[i][:] for i in range(6)])).all()
try:
    unread[0]["of no row"]
except (TypeError, ValueError) as error:
    assert "damaged" not in str(error)
assert opened() == before
"""


def test_hundreds_of_layers_unread_take_no_descriptors(folder):
    """The process may open three files more, and has opened none when all is done."""
    done = warm.python("-c", MANY, folder)
    assert not done.returncode, done.stderr


def test_what_becomes_of_a_file_that_is_unread(folder):
    """It is looked at again whenever rows are read, in another process too."""
    unread = Activations(folder).dataset(10, 5)
    here, there = arrays(10)[5], pickle.loads(pickle.dumps(unread))
    for same in (unread, there):
        assert len(same) == 3 and "layer_05" in repr(same)
        for rows in (slice(None), slice(1, 3), 2, -1, [0, 2], np.array([True, False, True]), (slice(None), 4)):
            assert np.array_equal(same[rows], here[rows])
        assert np.array_equal(np.asarray(same, np.float64), here)
    for rows in (3, "rows", [0, 9], 1.5):
        with pytest.raises((IndexError, TypeError, ValueError)) as caught:
            unread[rows]
        assert not isinstance(caught.value, DamagedError)
    path = segment_path(folder, 10)
    whole, other = path.read_bytes(), segment_path(folder, 20).read_bytes()
    for content, error, message in (
        (other, MismatchError, "is of step 20, expected 10"),
        (whole[:500], DamagedError, "is damaged"),
        (None, FileNotFoundError, "No such file"),
    ):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(error, match=message) as caught:
            unread[:]
        assert str(path) in str(caught.value)
    wide = {layer: np.repeat(array, 2, 1) for layer, array in arrays(10).items()}
    writer = Writer()
    writer.put(folder, 10, wide, np.array([7, 1, 4]), ABOUT | {"dtype": "float32"}, IDS)
    writer.flush()
    with pytest.raises(MismatchError, match=r"layer_05 was float32 \[3, 8\] when it was opened, is float32 \[3, 16\]"):
        unread[:]
    path.write_bytes(whole)
    assert np.array_equal(unread[:], here)


def test_half_the_space(tmp_path, folder):
    writer = Writer()
    writer.put(folder, 30, arrays(30), np.array([7, 1, 4]), ABOUT | {"dtype": "float16"}, IDS)
    writer.flush()
    got = Activations(folder)[30, 5]
    assert got.dtype == np.float16 and np.array_equal(got, arrays(30)[5].astype(np.float16))
    writer.put(folder, 30, {3: np.array([[1e5]])}, np.array([0]), ABOUT | {"dtype": "float16"}, IDS[:1])
    with pytest.raises(ValueError, match="layer 3 of step 30 holds 1e.05, beyond the range of float16"):
        writer.flush()
    assert np.array_equal(Activations(folder)[30, 5], got)


def test_unknown_steps_and_layers(folder):
    activations = Activations(folder)
    with pytest.raises(KeyError, match="has no step 11: the nearest is 10"):
        activations[11, 3]
    with pytest.raises(KeyError, match=r"has no layer 4: .*known: \[3, 5\]"):
        activations[10, 4]
    with pytest.raises(TypeError, match=r"read by \[step, layer\], got \[10\]"):
        activations[10]


def test_a_missing_segment_of_a_finished_run_is_named(folder):
    files.write_json(folder / "done", ENDED | {"status": "finished", "step": 30})
    activations = Activations(folder)
    assert activations.steps == [0, 10, 20, 30]
    with pytest.raises(FileNotFoundError, match="step-00000030.h5 is missing"):
        activations[30, 3]


def test_a_diverged_run_has_the_steps_it_took(folder):
    files.write_json(folder / "done", ENDED | {"status": "diverged", "step": 17})
    assert Activations(folder).steps == [0, 10]


def test_damage_is_named(folder):
    path = segment_path(folder, 10)
    whole = path.read_bytes()
    at = whole.index(arrays(10)[5].tobytes())
    path.write_bytes(whole[: at + 4] + bytes([whole[at + 4] ^ 1]) + whole[at + 5 :])
    activations = Activations(folder)
    with pytest.raises(ValueError, match="step-00000010.h5 is damaged: the checksum of layer_05"):
        activations[10, 5]
    assert np.array_equal(activations[10, 3], arrays(10)[3])  # what is whole can be read
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="step-00000010.h5 is damaged"):
            activations[10, 5]
    path.write_bytes(whole)
    with h5py.File(path, "a") as file:
        file.attrs["run"] = np.bytes_(b"another")
    with pytest.raises(ValueError, match="belongs to run another, expected abc"):
        activations[10, 5]


def test_a_flipped_bit_anywhere_is_named_or_changes_nothing(folder):
    """In the arrays and in all else. HDF5 does not check where it keeps texts of variable length: one bit there,
    and it may never return."""
    path = segment_path(folder, 10)
    whole = path.read_bytes()
    assert b"GCOL" not in whole  # what such texts are kept in
    expected = {3: arrays(10)[3], 5: arrays(10)[5]}
    random = np.random.default_rng(0)
    named = 0
    for place in random.choice(len(whole), 150, replace=False):
        flipped = whole[place] ^ (1 << random.integers(8))
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        activations = Activations(folder)
        for layer, array in expected.items():
            try:
                assert np.array_equal(activations[10, layer], array)
            except ValueError as error:
                assert f"segment {path} is damaged" in str(error)
                named += 1
    assert named > 100


def test_no_run_and_no_activations(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run's folder"):
        Activations(tmp_path)
    spec = SPEC | {"checkpoint_steps": [0, 10], "captured": {"layers": [], "prompt": ""}}
    files.write_json(tmp_path / "spec.json", spec)
    assert Activations(tmp_path).steps == []
    with pytest.raises(ValueError, match="holds no activations"):
        _ = Activations(tmp_path).things


def test_a_writer_that_cannot_write_says_so(tmp_path):
    writer = Writer()
    writer.put(
        tmp_path, 0, arrays(0), np.array([7, 1, 4]), ABOUT | {"dtype": "float32"}, IDS
    )  # no folder "activations"
    with pytest.raises(FileNotFoundError, match="step-00000000.h5"):
        writer.flush()
    assert list(tmp_path.iterdir()) == []

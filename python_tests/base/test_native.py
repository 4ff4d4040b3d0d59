"""Entries of the native core called with anything: an error that says what came, or the right answer."""

import functools
import re

import numpy as np
import pytest
import torch
from native_calls import (
    NUMBERS,
    REFUSALS,
    calls,
    component,
    drawn,
    floats,
    given,
    in_place_of,
    ints,
    longs,
    panel,
    recurrent_rows,
    shape,
    stream_arguments,
    tile,
    trials,
)

from worldfast._native import core

ENTRIES = list(calls())


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_call_that_others_are_made_from_works(entry):
    function, arguments = calls()[entry]
    function(*arguments)


@pytest.mark.parametrize("entry", ENTRIES)
def test_anything_in_place_of_an_argument(entry):
    width = core.vector_width()
    function, arguments = calls()[entry]
    tried = refused = 0
    for at, value in enumerate(arguments):
        others = [("of another argument", other) for other in arguments if isinstance(other, np.ndarray)]
        for words, one in (*in_place_of(value), *others):
            tried += 1
            try:
                function(*arguments[:at], one, *arguments[at + 1 :])
            except REFUSALS as error:
                refused += 1
                assert str(error), (at, words)
            except (RuntimeError, ZeroDivisionError) as error:  # a rule's own, or a build without CUDA
                assert "division" in str(error) or "CUDA" in str(error), (at, words, error)
    core.limit_vector_width(width)
    assert refused > tried / 10 or not arguments


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_wrong_number_of_arguments(entry):
    function, arguments = calls()[entry]
    if entry in ("Transformer", "Recurrent"):
        return
    for wrong in ([*arguments, None, None], arguments[: len(arguments) // 2], [None] * len(arguments)):
        if arguments:
            with pytest.raises(TypeError):
                function(*wrong)


def stream(**changes):
    return core.Stream(
        *{**dict(zip(("xy", "id", "entity", "given", "parts", "order", "key"), stream_arguments())), **changes}.values()
    )


LAST = 2**62

# What is refused, with the words of its error: the name of the argument, and what came or was expected.
REFUSED = [
    ("label", {0: 7}, "task: expected 0 to 6, got 7"),
    ("label", {0: -1}, "task: expected 0 to 6, got -1"),
    ("label", {1: np.zeros((), np.int32)}, r"xy: expected shape \[any, any, 2\], got shape \[\]"),
    ("label", {4: np.broadcast_to(np.int64(0), 3)}, "out: expected a (writable|contiguous) array"),
    ("trials", {6: -1}, "n: expected 0 to"),
    ("trials", {5: LAST}, f"start: expected 0 to {LAST - 6}, got {LAST}"),
    ("trials", {0: {}}, "rule: expected the field key"),
    ("trials", {1: [floats(2, 16)]}, "encoder: expected weight and bias of 3 layers, got 1 arrays"),
    ("trials", {1: [floats(3, 16), *trials()[1][1:]]}, "encoder: expected a layer that reads the 2 before it"),
    ("trials", {2: np.zeros((4, 65))}, "latents: expected 1 to 64, got 65"),
    ("trials", {7: floats(6, 5, 18)}, "inputs: expected as many numbers as the observation has, and 1"),
    ("walks", {1: np.zeros((2, 3), np.int64)}, r"table: expected shape \[any, any, any\], got shape \[2, 3\]"),
    ("walks", {1: np.zeros((2, 2, 2), np.int64)}, r"table: expected shape \[2, 3, 2\], got shape \[2, 2, 2\]"),
    ("walks", {1: np.zeros((2, 2, 1), np.int64)}, "states: expected 2 to 4096, got 1"),
    ("walks", {1: np.zeros((0, 3, 2), np.int64)}, "chains: expected 1 to"),
    ("walks", {1: np.zeros((2, 3, 2))}, "table: expected dtype int64, got dtype float64"),
    ("walks", {2: longs(1, 2, 3)}, r"prior: expected shape \[2\], got shape \[3\]"),
    ("walks", {3: 1}, "drawn_names: expected 2 to 65536, got 1"),
    ("walks", {4: longs(1, 2, 3)}, r"renamed: expected shape \[2\], got shape \[3\]"),
    ("walks", {6: -1}, "n: expected 0 to"),
    ("walks", {5: LAST}, f"start: expected 0 to {LAST - 6}, got {LAST}"),
    ("walks", {7: np.zeros((6, 2049), np.int32)}, "length: expected 1 to 2048, got 2049"),
    ("walks", {9: np.zeros((6, 3), np.int32)}, r"names: expected shape \[6, 2\], got shape \[6, 3\]"),
    ("trials of products", {2: np.zeros((4, 1)), 4: np.zeros(1)}, "correlation: expected 0 of one latent number"),
    ("rectangle", {1: -1}, "n: expected 0 to"),
    ("rectangle", {1: 2**63 - 1}, "n: expected 0 to"),
    ("rectangle", {0: -1}, "start: expected 0 to"),
    ("rectangle", {0: LAST}, f"start: expected 0 to {LAST - 5}, got {LAST}"),
    ("rectangle", {0: longs(LAST)}, f"start: expected 0 to {LAST - 5}"),
    ("rectangle in tiles", {0: 2**40}, "start: expected 0 to"),  # beyond the pairs that there are
    ("packed", {1: -1}, "n: expected 0 to"),
    ("packed", {0: LAST}, "start: expected 0 to"),
    ("packed_room", {0: -1}, "n: expected 0 to"),
    ("packed_scratch", {0: 2**62}, "n: .* more than int32 can count"),
    ("Stream", {5: 3}, "order: expected 0 to 2, got 3"),
    ("Stream", {5: -1}, "order: expected 0 to 2, got -1"),
    ("Stream", {4: []}, "components: a stream needs at least one"),
    ("Stream", {4: [component(task=8)]}, "task: no such index"),
    ("Stream", {4: [component(pool=ints(3))]}, "world is too small"),
    ("Stream", {4: [component(pool=ints(3, 3, 3), pair_count=3)]}, "pool: city 3 is repeated"),
    ("Stream", {4: [component(pool=ints(0, 20))]}, "pool: index outside the world"),
    ("Stream", {4: [component(pair_count=0)]}, "pair_count: expected 1 to 190, got 0"),
    ("Stream", {4: [component(pair_count=191)]}, "pair_count: expected 1 to 190, got 191"),
    ("Stream", {4: [component(pair_offset=171)]}, r"first \+ rows: expected 1 to 19, got 20"),
    ("Stream", {4: [component(pair_offset=-1)]}, "pair_offset: expected 0 to 190, got -1"),
    ("Stream", {4: [component(rows=0)]}, "rows: expected 1 to"),
    ("Stream", {4: [component(rows=-1)]}, "rows: expected 1 to"),
    ("Stream", {4: [component(first=-1)]}, "first: expected 0 to"),
    ("Stream", {4: 4 * [component(task=2, rows=LAST, pair_count=0)]}, "rows of all components: expected 1 to"),
    ("Stream", {4: 2 * [component(task=2, rows=LAST, pair_count=0)]}, "rows of all components: expected 1 to"),
    ("Stream", {4: [component(task=2, first=5, rows=LAST, pair_count=0)]}, "rows: expected 1 to"),
    ("Stream", {3: [given() | {"digits": -5}]}, "mid: digits: expected 1 to 15, got -5"),
    ("Stream", {3: [given() | {"semicolon": -5}]}, "task: mid has more cities or other text"),
    ("Stream", {3: [given() | {"prompt": ""}]}, "task: mid has more cities or other text"),
    ("Stream", {3: [given() | {"max_cities": 7}]}, "task: mid has more cities"),
    ("Stream", {3: [given() | {"answers": ["no", 3]}]}, "Unable to cast"),
    ("attention_forward", {3: np.int32(9)}, "cu_seqlens: expected an array"),
    ("attention_forward", {3: np.array(9, np.int32)}, r"cu_seqlens: expected shape \[any\], got shape \[\]"),
    ("attention_forward", {3: ints(9)}, "cu_seqlens: expected to start at 0, got 9"),
    ("attention_forward", {3: ints(0, 9, 4, 9)}, "cu_seqlens: expected rows of 0 to 2048"),
    ("attention_cached", {0: floats(6, 3, 2, 0), 6: floats(2, 2, 0), 1: floats(4, 0)}, "cache: expected a head size"),
    ("attention_cached", {5: 2**63 - 1}, "first: expected 0 to 6"),
    ("Transformer", {2: 0}, "heads: expected 1 to 16, got 0"),
    ("Transformer", {2: 3}, "heads: expected a head size that is a multiple of 8"),
    ("Transformer", {0: 0}, "hidden: expected 1 to"),
    ("Transformer", {1: 2**62}, "layers: expected 1 to"),
    ("Transformer", {1: 3}, "offsets: expected 24 for so many layers, got 17"),
    ("Transformer", {5: 2**40}, "outputs: expected 1 to"),
    ("Transformer", {8: [-1, *shape()["offsets"][1:]]}, "offsets: expected 0 to"),
    ("pack", {0: drawn(100)}, "parameters: expected at least"),
    ("Transformer", {8: [2**62 - 1, *shape()["offsets"][1:]]}, "offsets: expected 0 to"),
    (
        "pack",
        {1: np.zeros(calls()["pack"][1][1].size + 1, np.uint8)[1:]},
        "packed: expected memory that begins at a multiple",
    ),
    ("learn", {0: drawn(2**20)[:100]}, "parameters: expected at least"),
    ("learn", {2: tile()[:3]}, "index out of range"),
    ("learn", {2: (*tile()[:5], None, None)}, "targets: expected an array, got None"),
    ("learn", {2: (tile()[0], ints(0, 7, 3, 9), *tile()[2:])}, "row_start: expected offsets that ascend from 0"),
    ("learn", {2: (tile()[0], ints(), *tile()[2:])}, "row_start: expected at least one entry"),
    ("learn", {2: (*tile()[:2], ints(0, 1, 2, 0, 1, 3, 3, 5, 6), *tile()[3:])}, "place: expected a place of no other"),
    (
        "learn",
        {2: (*tile()[:2], ints(0, 1, 2, 0, 6, 3, 4, 5, 6), *tile()[3:])},
        "place: expected a place of an earlier",
    ),
    ("learn", {2: (ints(*range(8)), *tile()[1:]), 4: floats(8, 16)}, "place: expected each of the tokens in a row"),
    ("learn", {2: (*tile()[:4], longs(7), longs(1), None)}, "sources: expected places among 7"),
    ("read", {4: []}, "states: expected one for each of 2 layers, got 0"),
    ("read", {3: [0, 3]}, "layers: expected 0 to 2, got 3"),
    ("read", {3: [0, -1]}, "layers: expected 0 to 2, got -1"),
    ("extend", {8: 2**63 - 1}, "first: expected room for 2 tokens"),
    (
        "extend",
        {5: np.array([[0, 1, 2, 9], [0, 2, 4, 5]], np.int32), 6: ints(3, 4), 7: ints(0, 2)},
        "fresh: expected at",
    ),
    ("extend", {7: ints(0, 2)}, "path: expected a place before 4"),
    ("Recurrent", {0: 0}, "inputs: expected 1 to"),
    ("Recurrent", {1: 2**40}, "hidden: expected 1 to"),
    ("Recurrent", {2: 2}, "offsets: expected 10 of so many layers, got 6"),
    ("Recurrent", {10: 4}, "loss: expected 0 to 3, got 4"),
    ("Recurrent", {11: [-1, 1, 2, 3, 4, 5]}, "offsets: expected 0 to"),
    ("learn recurrent", {0: drawn(2, 223)}, "parameters: expected at least 224 numbers, got 223"),
    (
        "learn recurrent",
        {2: [recurrent_rows()[:5], recurrent_rows()]},
        "rows: expected inputs, row_start, scored, .*, got 5 arrays",
    ),
    ("learn recurrent", {2: [recurrent_rows(targets=None), recurrent_rows()]}, "targets: expected an array, got None"),
    (
        "learn recurrent",
        {2: [recurrent_rows(targets=drawn(4, 3)), recurrent_rows()]},
        r"targets: expected shape \[4, 4\]",
    ),
    (
        "learn recurrent",
        {2: [recurrent_rows(inputs=drawn(8, 4)), recurrent_rows()]},
        r"inputs: expected shape \[any, 3\]",
    ),
    (
        "learn recurrent",
        {2: [recurrent_rows(row_start=ints(0, 4, 3, 8)), recurrent_rows()]},
        "row_start: expected offsets that ascend",
    ),
    (
        "learn recurrent",
        {2: [recurrent_rows(row_start=ints(0, 4)), recurrent_rows()]},
        "row_start: expected the number of inputs, 8",
    ),
    (
        "learn recurrent",
        {2: [recurrent_rows(scored=longs(1, 2, 3, 8)), recurrent_rows()]},
        "scored: expected 0 to 7, got 8",
    ),
    (
        "learn recurrent",
        {2: [recurrent_rows(noise=drawn(8, 5)), recurrent_rows()]},
        "noise: expected None of an LSTM, got an array",
    ),
    ("learn recurrent", {1: [0, 0]}, "members: expected numbers from 0 to 1, each once, got 0"),
    ("learn recurrent", {1: [0, 2]}, "members: expected numbers from 0 to 1, each once, got 2"),
    ("learn recurrent", {2: [recurrent_rows()]}, "rows: expected those of 2 members, got 1"),
    ("learn recurrent", {3: floats(1, 224)}, r"gradients: expected shape \[2, 224\]"),
    ("learn recurrent", {4: []}, "arenas: expected one for each thread"),
    ("read recurrent", {2: [0, 2]}, "layers: expected 0 to 1, got 2"),
    ("read recurrent", {3: []}, "states: expected one for each of 2 layers, got 0"),
    ("linear", {0: np.zeros((), np.float32)}, "x: expected at least 1 dimensions"),
    ("linear", {2: np.broadcast_to(np.float32(0), (5, 3))}, "out: expected a writable array"),
    ("swiglu_forward", {0: floats(5, 0), 1: floats(5, 0)}, "gate_up: expected an even number"),
    ("cross_entropy", {0: floats(3, 0), 4: floats(3, 0)}, "logits: expected at least one class"),
    ("cross_entropy", {2: np.array(1)}, r"targets: expected shape \[any\], got shape \[\]"),
    ("gather_gradient", {0: [np.zeros((), np.float32)]}, "lanes: expected at least 1 dimensions"),
    ("gather_gradient", {0: []}, "lanes: expected at least one"),
    ("gradient_norm", {0: floats(3, 0)}, "grad: expected at least one parameter"),
    ("gradient_norm", {1: [1, 0]}, "members: expected ascending numbers from 0 to 1, got 0"),
    ("gradient_norm", {1: [2]}, "members: expected ascending numbers from 0 to 1, got 2"),
    ("adamw", {5: [0, 0]}, "members: expected ascending numbers from 0 to 1, got 0"),
    ("adamw", {5: [1]}, "learning_rate: expected one for each of 1 members, got 2"),
    ("limit_vector_width", {0: 0}, "width: expected 4, 8 or 16 floats, got 0"),
    ("add_columns", {2: [np.zeros(4), [0.0, 0.0, 0.0]]}, "sums: expected an array"),
    ("add_columns", {2: [np.zeros(4), np.zeros(4)]}, r"sums: expected shape \[3\]"),
    ("GramOfGrams32", {0: -1, 3: None}, "models: expected 0 to"),
    ("GramOfGrams32", {0: 2**32, 3: None}, "models: expected 0 to"),
    ("GramOfGrams32", {1: 2**62}, "n: expected 0 to"),
    ("GramOfGrams32.add", {1: 2**63 - 1}, "the panels are not of these"),
    ("FeatureProducts32", {0: [-1]}, "widths: expected 0 to"),
    ("FeatureProducts32", {0: [2**62]}, "widths: expected 0 to"),
    ("median_distances", {0: panel(1)}, "rows of a panel: expected 2 to"),
    ("median_distances", {0: panel(0)}, "rows of a panel: expected 2 to"),
]


@pytest.mark.parametrize("entry, changes, words", REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_refusals(entry, changes, words):
    function, arguments = calls()[entry]
    for at, value in changes.items():
        arguments[at] = value
    with pytest.raises(REFUSALS, match=f"(?s){words}"):
        function(*arguments)


UNWRITTEN = ("Stream", "Transformer", "Recurrent", "packed_room")


@functools.cache
def outputs(entry):
    """Places of the arguments that an entry writes: those that it refuses where they are read-only."""
    found = []
    for at in range(len(calls()[entry][1])):
        function, arguments = calls()[entry]
        if isinstance(arguments[at], np.ndarray):
            arguments[at] = read_only(arguments[at])
            try:
                function(*arguments)
            except ValueError as error:
                assert "expected a writable array, got a read-only one" in str(error)
                found.append(at)
    return found


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_written_is_asked_to_be_writable(entry):
    function, arguments = calls()[entry]
    arrays = {at: one for at, one in enumerate(arguments) if isinstance(one, np.ndarray)}
    for at in outputs(entry):
        if not arrays[at].any():
            arrays[at].view(np.uint8)[...] = 3  # so that zeros that are written show
    before = {at: one.tobytes() for at, one in arrays.items()}
    function(*arguments)
    assert {at for at, one in arrays.items() if one.tobytes() != before[at]} <= set(outputs(entry))


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry not in ("Stream", "Transformer", "Recurrent")])
def test_inputs_of_any_layout_give_the_same_answer(entry):
    """With gaps and backwards: refused or read right."""
    _, arguments = calls()[entry]
    for at in range(len(arguments)):
        if not isinstance(arguments[at], np.ndarray) or at in outputs(entry):
            continue
        answers = []
        for layout in (np.copy, read_only, with_gaps, backwards):
            function, arguments = calls()[entry]
            arguments[at] = layout(arguments[at])
            try:
                found = function(*arguments)
            except REFUSALS:
                continue
            arrays = [a.tobytes() for i, a in enumerate(arguments) if isinstance(a, np.ndarray) and i != at]
            answers.append((arrays, found if isinstance(found, float | int | list) else None))
        assert all(answer == answers[0] for answer in answers[1:]), at


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def with_gaps(x):
    return np.repeat(x, 2, 0)[::2]


def backwards(x):
    return x[::-1].copy()[::-1]


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry not in UNWRITTEN])
def test_what_is_written_lies_apart(entry):
    """An output that is also another argument is refused, but where the core says that it may be."""
    if entry == "cross_entropy":
        return  # the gradient may be the logits
    for at in outputs(entry):
        function, arguments = calls()[entry]
        for other, value in enumerate(arguments):
            same = isinstance(value, np.ndarray) and value.nbytes and other != at
            if same and value.dtype == arguments[at].dtype and value.shape == arguments[at].shape:
                with pytest.raises(ValueError, match="memory (apart from|that they share)"):
                    function(*arguments[:at], value, *arguments[at + 1 :])


def test_slices_that_lie_between_one_another_are_apart():
    for axis in (1, 2):  # heads side by side, or queries, keys and values of a head
        fused = drawn(9, *((3, 2) if axis == 1 else (2, 3)), 8)
        out = np.zeros_like(fused)
        parts = [np.take_along_axis(fused, np.full([1] * 4, i), axis) for i in range(3)]
        views = [fused[:, i] if axis == 1 else fused[:, :, i] for i in range(3)]
        into = [out[:, i] if axis == 1 else out[:, :, i] for i in range(3)]
        core.attention_backward(drawn(9, 2, 8), *views, ints(0, 4, 9), 1e4, *into, 1)
        plain = [np.zeros((9, 2, 8), np.float32) for _ in range(3)]
        core.attention_backward(drawn(9, 2, 8), *map(np.ascontiguousarray, views), ints(0, 4, 9), 1e4, *plain, 1)
        assert all((a == b).all() for a, b in zip(into, plain))
        with pytest.raises(ValueError, match="grad_q: expected memory apart from that of grad_k"):
            core.attention_backward(drawn(9, 2, 8), *views, ints(0, 4, 9), 1e4, into[0], into[0], into[2], 1)
        assert len(parts) == 3


@pytest.mark.parametrize("threads", [-(2**31), -1, 0, 1, 10**9, 2**31 - 1])
@pytest.mark.parametrize("entry", ["rectangle", "attention_forward", "swiglu_forward", "FeatureProducts32.add"])
def test_any_number_of_threads_gives_the_same(entry, threads):
    found = []
    for n in (1, threads):
        function, arguments = calls()[entry]
        arguments[-2 if entry == "rectangle" else -1] = n
        function(*arguments)
        found.append([a.tobytes() for a in arguments if isinstance(a, np.ndarray)])
    assert found[0] == found[1]


def test_answers_of_a_rule_that_are_none():
    for rule in ("\x02" * 8, "\xff" * 8):

        def wrong(points, labels, count, rule=rule):
            labels[:] = rule.encode("latin1") * (len(labels) // 8)

        parts = [given() | {"rule": wrong, "balanced": False}]
        made = stream(given=parts, parts=[component(task=7, pair_count=0)])
        function, arguments = made.rectangle, calls()["rectangle"][1]
        arguments[2], arguments[5] = np.zeros((5, made.width), np.uint8), np.zeros((5, made.cities_width), np.int32)
        with pytest.raises(ValueError, match="mid: expected 0 to 1"):
            function(*arguments)


def test_memory_that_a_rule_keeps_is_taken_back():
    kept = []

    def keeps(points, labels, count):
        kept.append(points)

    function, arguments = calls()["label of a given task"]
    function(given() | {"rule": keeps}, *arguments[1:])
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


def test_an_arena_has_one_user_at_a_time():
    import threading

    function, arguments = calls()["learn"]
    errors = []

    def learn():
        mine = calls()["learn"][1]
        for _ in range(200):
            try:
                function(*mine[:-2], arguments[-2], 1)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=learn) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"arena: another thread is using it"}


def test_torch_tensors_go_through_the_same_door():
    out = torch.zeros(5, 3)
    core.linear(torch.ones(5, 4), torch.ones(3, 4), out)
    assert out.tolist() == [[4.0] * 3] * 5
    for bad in (torch.zeros(5, 4).expand(5, 4).t(), torch.ones(5, 4, requires_grad=True), torch.ones(5, 4).to_sparse()):
        with pytest.raises(REFUSALS):
            core.linear(bad, torch.ones(3, 4), out)
    with pytest.raises(ValueError, match="out: expected each element in memory of its own"):
        core.linear(torch.ones(5, 4), torch.ones(3, 4), torch.zeros(1, 3).expand(5, 3))


def test_enough_cases_are_made_by_hand():
    assert sum(len(arguments) for _, arguments in calls().values()) * len(NUMBERS) > 300
    assert all(re.compile(words) for *_, words in REFUSED)

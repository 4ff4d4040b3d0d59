"""The ensemble against transformers' Qwen2 in float64, and against itself alone."""

import functools

import numpy as np
import pytest
import torch
from qwen import qwen2

from worldfast.models import TransformerSpec, cpu, tiles
from worldfast.rows import Rows, Shape

SHAPES = {
    "D64-L2-H4-F96-V300-head98": (TransformerSpec(hidden=64, layers=2, heads=4, intermediate=96, outputs=98), 300),
    "D32-L3-H2-F72-V98": (TransformerSpec(hidden=32, layers=3, heads=2, intermediate=72), 98),
    "D24-L1-H3-F40-V111": (TransformerSpec(hidden=24, layers=1, heads=3, intermediate=40, rope_base=500.0), 111),
    "no positions": (TransformerSpec(hidden=32, layers=2, heads=2, intermediate=40, rope_base=None), 98),
    "paper": (TransformerSpec(), 98),
}
BEGINNINGS = ([2, 7, 9, 11, 4], [2, 7, 9], [2, 30, 31, 32, 33, 34, 35])  # rows of one "task" begin alike


def ensemble_of(spec, vocabulary, members, **options):
    """An ensemble whose biases and norms are not those of the beginning."""
    ensemble = spec.build(Shape(vocabulary, vocabulary), members, **options)
    for member in range(members):
        ensemble.initialise(member, seed=member)
        random = torch.Generator().manual_seed(member)
        for view in ensemble._huggingface(member).values():
            if view.ndim == 1:
                view += 0.2 * torch.randn(view.shape, generator=random)
    return ensemble


def rows_of(spec, vocabulary, counts, share_scored=0.4, seed=0):
    """For each member rows of 1 to 31 tokens, as many as its count, that begin alike in three groups; some positions
    scored."""
    random = np.random.default_rng(seed)
    found = []
    for count in counts:
        pieces, starts = [np.zeros(0, int)], [0]
        for i in range(count):
            begin = BEGINNINGS[3 * i // count]
            row = random.integers(0, vocabulary, random.integers(1, 32))
            row[: len(begin)] = begin[: len(row)]
            if i % 7 == 3:
                row[len(row) // 2] = 50  # leaves the common beginning early, or not at all
            pieces.append(row)
            starts.append(starts[-1] + len(row))
        scored = np.flatnonzero(random.random(starts[-1]) < share_scored)
        targets = random.integers(0, spec.outputs or vocabulary, len(scored))
        tokens, starts = (torch.tensor(np.array(x), dtype=torch.int32) for x in (np.concatenate(pieces), starts))
        found.append(Rows(tokens, starts, torch.tensor(scored), torch.tensor(targets)))
    return found


def run_qwen2(theirs, rows, outputs, told=True):
    """(logits, hidden states by layer, loss) at the scored positions, row by row without any packing; if not told
    positions, as if all tokens stood at 0."""
    logits, states = [], []
    for begin, end in zip(rows.row_start[:-1].tolist(), rows.row_start[1:].tolist()):
        zeros = torch.zeros(1, end - begin, dtype=torch.long)
        at_zero = {} if told else {"position_ids": zeros, "attention_mask": zeros + 1}
        out = theirs(rows.inputs[begin:end][None].long(), output_hidden_states=True, **at_zero)
        at = rows.scored[(rows.scored >= begin) & (rows.scored < end)] - begin
        logits.append(out.logits[0, at, :outputs])
        states.append(torch.stack(out.hidden_states)[:, 0, at])
    logits, states = torch.cat(logits), torch.cat(states, 1)
    return logits, states, torch.nn.functional.cross_entropy(logits, rows.targets, reduction="none")


@pytest.mark.parametrize("name", SHAPES)
def test_equals_transformers(name):
    """Logits and hidden states within 1e-5 of transformers in float32, of the largest where that is above 1
    (in the paper's shape transformers itself is 1e-5 from float64), and gradients; none further from float64
    than twice what transformers in float32 is."""
    spec, vocabulary = SHAPES[name]
    ensemble = ensemble_of(spec, vocabulary, members=2)
    ensemble._tile = 200  # several tiles for each lane
    rows = rows_of(spec, vocabulary, counts=(50, 31))
    losses = ensemble.learn(rows, [0, 1])
    for member, part in enumerate(rows):
        logits, states = ensemble.outputs(part, member), ensemble.states(part, member, range(spec.layers + 1))
        plain, exact = (qwen2(ensemble, member, dtype) for dtype in (torch.float32, torch.float64))
        ours = logits, torch.stack(states), losses[member]
        results = [run_qwen2(theirs, part, ensemble.shape.outputs, spec.rope_base) for theirs in (plain, exact)]
        for _, _, loss in results:
            loss.sum().backward()
        for got, plain_value, exact_value in list(zip(ours, *results))[:2]:
            assert (got - plain_value).abs().max() < 1e-5 * max(1.0, exact_value.abs().max())
            assert (got - exact_value).abs().max() < 2 * (plain_value - exact_value).abs().max() + 1e-6
        assert losses[member] == pytest.approx(results[1][2].sum().item(), rel=1e-6)
        ensemble.parameters.copy_(ensemble.gradients)  # gradients under the same names
        gradients = ensemble.to_huggingface(member)
        for (key, want), (_, near) in zip(exact.named_parameters(), plain.named_parameters()):
            got = gradients[key]
            want, near = want.grad[: len(got)], near.grad[: len(got)]
            if spec.rope_base is None and key.endswith("k_proj.bias"):
                assert got.abs().max() < 1e-6  # it moves all scores of a row alike: 0 but for rounding
                continue
            assert (got - want).abs().max() < 2 * (near - want).abs().max() + 1e-6 * want.abs().max(), key
        for other in range(2):
            ensemble.from_huggingface(other, ensemble_of(spec, vocabulary, 2).to_huggingface(other))


@pytest.mark.parametrize("name", SHAPES)
def test_learning_in_bfloat16_errs_less_than_twice_what_autocast_does(name):
    """In the root mean square over each parameter's gradient, and in the loss."""
    spec, vocabulary = SHAPES[name]
    ensemble = ensemble_of(spec, vocabulary, members=1, matmul_dtype="bfloat16")
    [rows] = rows_of(spec, vocabulary, counts=(40,))
    exact, plain = (qwen2(ensemble, 0, dtype) for dtype in (torch.float64, torch.float32))
    loss = run_qwen2(exact, rows, ensemble.shape.outputs, spec.rope_base)[2].sum()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run_qwen2(plain, rows, ensemble.shape.outputs, spec.rope_base)[2].sum()
    for each in (loss, rounded):
        each.backward()
    ours = ensemble.learn([rows], [0])[0]
    assert abs(ours - loss) < 2 * abs(rounded - loss) + 1e-3 * abs(loss)
    ensemble.parameters.copy_(ensemble.gradients)
    gradients = ensemble.to_huggingface(0)
    for (key, want), (_, near) in zip(exact.named_parameters(), plain.named_parameters()):
        got = gradients[key]
        want, near = want.grad[: len(got)], near.grad[: len(got)]
        assert (got - want).norm() < 2 * (near - want).norm() + 1e-3 * want.norm(), key
        assert (got - want).norm() > 1e-5 * want.norm(), key  # it did round


def test_every_position_scored():
    spec, vocabulary = SHAPES["D32-L3-H2-F72-V98"]
    ensemble = ensemble_of(spec, vocabulary, members=1)
    [rows] = rows_of(spec, vocabulary, counts=(20,), share_scored=2.0)
    assert len(rows.scored) == len(rows.inputs)
    exact = qwen2(ensemble, 0, torch.float64)
    logits, _, loss = run_qwen2(exact, rows, vocabulary)
    assert (ensemble.outputs(rows, 0) - logits).abs().max() < 1e-5
    assert ensemble.learn([rows], [0])[0] == pytest.approx(loss.sum().item(), rel=1e-6)


def test_common_beginnings_are_shared_and_change_nothing(monkeypatch):
    spec, vocabulary = SHAPES["D64-L2-H4-F96-V300-head98"]
    ensemble = ensemble_of(spec, vocabulary, members=1)
    [rows] = rows_of(spec, vocabulary, counts=(60,))
    computed, _ = ensemble._cut(rows)
    shared = ensemble.outputs(rows, 0), ensemble.learn([rows], [0]), ensemble.gradients.clone()
    monkeypatch.setattr(tiles, "alike_together", lambda x: (np.arange(len(x)), np.zeros(len(x), np.int32)))
    everything, _ = ensemble._cut(rows)
    alone = ensemble.outputs(rows, 0), ensemble.learn([rows], [0]), ensemble.gradients
    assert len(computed) < 0.85 * len(everything) and len(everything) == len(rows.inputs)
    for a, b in zip(shared, alone):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


def test_shared_beginnings_by_hand():
    """Rows 5 6 8 9, 5 6 8, 5, 5 6 8 9 1 and 5 6 7 in two tiles: each sorted, each with a beginning of its own."""
    tokens = torch.tensor([5, 6, 8, 9, 5, 6, 8, 5, 5, 6, 8, 9, 1, 5, 6, 7], dtype=torch.int32)
    starts = torch.tensor([0, 4, 7, 8, 13, 16], dtype=torch.int32)
    rows = Rows(tokens, starts, torch.tensor([3, 6, 7, 8, 13, 15]), torch.tensor([10, 20, 30, 40, 50, 60]))
    computed, (a, b) = tiles.cut(rows, size=8, lanes=1)
    assert computed.tolist() == [5, 6, 7, 8, 9, 5, 6, 8, 9, 1]
    assert (a.tile.tokens.tolist(), a.computed) == ([5, 6, 7, 8, 9], slice(0, 5))  # of 5, 5 6 7, 5 6 8 and 5 6 8 9
    assert a.tile.row_start.tolist() == [0, 1, 4, 7, 11] and a.tile.shared.tolist() == [0, 1, 2, 3]
    assert a.tile.place.tolist() == [0, 0, 1, 2, 0, 1, 3, 0, 1, 3, 4]
    assert a.scored.tolist() == [2, 4, 5, 1, 0]
    assert a.tile.sources.tolist() == [0, 0, 2, 3, 4] and a.tile.targets.tolist() == [30, 50, 60, 20, 10]
    assert (b.tile.tokens.tolist(), b.computed) == ([5, 6, 8, 9, 1], slice(5, 10))
    assert b.tile.row_start.tolist() == [0, 5] and b.tile.shared.tolist() == [0]
    assert b.tile.place.tolist() == [0, 1, 2, 3, 4]
    assert b.scored.tolist() == [3] and b.tile.sources.tolist() == [0] and b.tile.targets.tolist() == [40]


@pytest.mark.parametrize("matmul_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["D64-L2-H4-F96-V300-head98", "paper"])
def test_a_member_has_the_bits_it_would_have_alone(name, matmul_dtype):
    spec, vocabulary = SHAPES[name]
    rows = rows_of(spec, vocabulary, counts=(40, 3, 97))
    together = ensemble_of(spec, vocabulary, members=3, threads=2, matmul_dtype=matmul_dtype)
    losses = together.learn(rows, [0, 1, 2])
    for member, part in enumerate(rows):
        alone = ensemble_of(spec, vocabulary, members=3, threads=1, matmul_dtype=matmul_dtype)
        assert torch.equal(alone.outputs(part, member), together.outputs(part, member))
        assert torch.equal(alone.learn([part], [member]), losses[member : member + 1])
        assert torch.equal(alone.gradients[member], together.gradients[member])
        assert not alone.gradients[[other for other in range(3) if other != member]].any()
        for a, b in zip(alone.states(part, member, [0, 1]), together.states(part, member, [0, 1])):
            assert torch.equal(a, b)


def learned(threads, lane_limit):
    """Losses and gradients of two members."""
    spec, vocabulary = SHAPES["D64-L2-H4-F96-V300-head98"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "LANE_LIMIT", lane_limit)
        ensemble = ensemble_of(spec, vocabulary, 2, threads=threads)
        return ensemble.learn(rows_of(spec, vocabulary, counts=(300, 200)), [0, 1]), ensemble.gradients


learned_by_one_thread = functools.cache(functools.partial(learned, 1))


@pytest.mark.parametrize("lane_limit", [cpu.LANE_LIMIT, 0])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_bits_do_not_depend_on_threads(threads, lane_limit):
    """Neither where lanes are parted among them nor where operations are."""
    assert all(map(torch.equal, learned(threads, lane_limit), learned_by_one_thread(lane_limit)))


def test_a_large_model_is_one_lane(monkeypatch):
    """Threads then work inside operations: the same numbers but for rounding."""
    spec, vocabulary = SHAPES["D64-L2-H4-F96-V300-head98"]
    rows = rows_of(spec, vocabulary, counts=(300, 200))
    small = ensemble_of(spec, vocabulary, 2)
    monkeypatch.setattr(cpu, "LANE_LIMIT", 0)
    large = ensemble_of(spec, vocabulary, 2, threads=2)
    assert (small._lanes, large._lanes) == (4, 1)
    torch.testing.assert_close(large.learn(rows, [0, 1]), small.learn(rows, [0, 1]))
    torch.testing.assert_close(large.gradients, small.gradients, rtol=1e-4, atol=1e-4)


def test_first_weights_are_a_function_of_the_seed():
    spec, vocabulary = SHAPES["paper"]
    shape = Shape(vocabulary, vocabulary)
    ensemble, alone = spec.build(shape, 3), spec.build(shape)
    for member, seed in enumerate((5, 6, 5)):
        ensemble.initialise(member, seed)
    alone.initialise(0, 6)
    assert torch.equal(ensemble.parameters[0], ensemble.parameters[2])
    assert torch.equal(ensemble.parameters[1], alone.parameters[0])
    tensors = alone.to_huggingface(0)
    assert sum(tensor.numel() for tensor in tensors.values()) == spec.parameters(shape) == 1_601_920
    drawn = torch.cat([tensor.ravel() for tensor in tensors.values() if tensor.ndim == 2])
    assert drawn.std().item() == pytest.approx(0.1, rel=2e-3) and abs(drawn.mean().item()) < 3e-4
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            assert (tensor == ("norm" in name)).all(), name


def test_weight_decay_spares_biases_norms_and_gaps():
    spec, vocabulary = SHAPES["D24-L1-H3-F40-V111"]
    ensemble = spec.build(Shape(vocabulary, vocabulary))
    ensemble.parameters.copy_(ensemble.decayed[None])
    for name, tensor in ensemble.to_huggingface(0).items():
        assert (tensor == (tensor.ndim == 2)).all(), name
    assert ensemble.decayed.sum() == sum(t.numel() for t in ensemble.to_huggingface(0).values() if t.ndim == 2)


def test_huggingface_names_round_trip_and_refuse_others():
    spec, vocabulary = SHAPES["D32-L3-H2-F72-V98"]
    ensemble, other = ensemble_of(spec, vocabulary, 2), ensemble_of(spec, vocabulary, 1)
    tensors = ensemble.to_huggingface(1)
    other.from_huggingface(0, tensors)
    assert torch.equal(other.parameters[0], ensemble.parameters[1])
    with pytest.raises(ValueError, match="'model.norm.weight' is missing"):
        other.from_huggingface(0, {name: t for name, t in tensors.items() if name != "model.norm.weight"})
    with pytest.raises(ValueError, match="'extra' is no weight of this model"):
        other.from_huggingface(0, tensors | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'lm_head.weight' has shape \[2, 2\], expected \[98, 32\]"):
        other.from_huggingface(0, tensors | {"lm_head.weight": torch.zeros(2, 2)})
    assert torch.equal(other.parameters[0], ensemble.parameters[1])


def test_hidden_states_of_chosen_layers():
    spec, vocabulary = SHAPES["D32-L3-H2-F72-V98"]
    ensemble, [rows] = ensemble_of(spec, vocabulary, 1), rows_of(spec, vocabulary, (9,))
    everything = ensemble.states(rows, 0, range(4))
    assert len(everything) == 4
    for got, layer in zip(ensemble.states(rows, 0, [3, 0, 2]), [3, 0, 2]):
        assert torch.equal(got, everything[layer])
    with pytest.raises(IndexError, match="expected 0 to 3, got 4"):
        ensemble.states(rows, 0, [4])


@pytest.mark.parametrize(
    "field,value,error,message",
    [
        ("hidden", 100, ValueError, "multiple of 8, got 100 / 4 = 25"),
        ("heads", 3, ValueError, "got 128 / 3"),
        ("layers", 0, ValueError, "model.layers: expected at least 1, got 0"),
        ("layers", 2.0, TypeError, "model.layers: expected an integer, got 2.0"),
        ("outputs", 0, ValueError, "model.outputs"),
        ("init_std", float("nan"), ValueError, "model.init_std: expected a finite number, got nan"),
        ("rope_base", 0, ValueError, "model.rope_base: expected a number above 0, got 0"),
        ("norm_eps", "1e-6", TypeError, "model.norm_eps: expected a number"),
    ],
)
def test_shapes_that_do_not_fit(field, value, error, message):
    with pytest.raises(error, match=message):
        TransformerSpec(**{field: value})


def test_ensembles_that_do_not_fit():
    with pytest.raises(ValueError, match="outputs: expected at most the vocabulary's 98, got 99"):
        TransformerSpec(outputs=99).build(Shape(98, 98))
    with pytest.raises(ValueError, match="members: expected at least 1, got 0"):
        TransformerSpec().build(Shape(98, 98), 0)
    for shape in (Shape(3, 98, vectors=True), Shape(98, 98, loss="mean_square")):
        with pytest.raises(ValueError, match="model.engine: 'native' takes (tokens, not vectors|the loss)"):
            TransformerSpec(engine="native").build(shape)


def test_rows_that_do_not_fit():
    spec, vocabulary = SHAPES["D24-L1-H3-F40-V111"]
    ensemble = ensemble_of(spec, vocabulary, 2)
    rows = rows_of(spec, vocabulary, (2, 2))
    with pytest.raises(ValueError, match="members: 1 named, but the rows are those of 2"):
        ensemble.learn(rows, [0])
    with pytest.raises(ValueError, match="rows: member 1 has none"):
        ensemble.learn(rows_of(spec, vocabulary, (2, 0)), [0, 1])
    with pytest.raises(ValueError, match="rows: member 1 has none"):
        ensemble.outputs(rows_of(spec, vocabulary, (2, 0))[1], 1)
    with pytest.raises(ValueError, match=r"members: expected each at most once, got \[1, 1\]"):
        ensemble.learn(rows, [1, 1])
    with pytest.raises(IndexError, match="members: expected 0 to 1, got 2"):
        ensemble.outputs(rows[0], 2)
    with pytest.raises(ValueError, match="rows: those of member 1 have no targets"):
        ensemble.learn([rows[0], rows[1]._replace(targets=None)], [0, 1])
    for scored in ([0, len(rows[0].inputs)], [-1, 0], [1, 0], [0, 0]):
        with pytest.raises(ValueError, match="scored: expected (0 to|ascending positions)"):
            ensemble.outputs(rows[0]._replace(scored=torch.tensor(scored)), 0)

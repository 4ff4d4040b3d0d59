"""Walks: every number beside a second statement of them, their distribution, their bits in every batch, and bad fields."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from walks_by_hand import walk

import worldfast as wf
from worldfast._native import core
from worldfast.training import plan
from worldfast.worlds import chains
from worldfast.worlds.chains import laws
from worldfast.worlds.check import check_world

DATA = chains.Dataset(chains=7, states=5, length=40, rows=5000)
TWO = ((0.5, 0.5), (1.0, 0.0)), ((0.25, 0.75), (0.1, 0.9))
KINDS = {
    "drawn": DATA,
    "two states": chains.Dataset(chains=1, states=2, length=2, rows=400, prior="equal"),
    "blocks": chains.Dataset(chains=33, states=10, length=17, law="blocks", rows=400),
    "permuted": replace(DATA, states=13, concentration=3, permuted=True),
    "given": chains.Dataset(transitions=TWO, length=30, rows=400),
}


def made(given, names, renamed, start, n, length, threads=1):
    key, table, prior = given
    out = [np.empty(shape, np.int32) for shape in ((n, length), n, (n, table.shape[2]))]
    core.walks(key, table, prior, names, np.full(len(prior), renamed), start, n, *out, threads)
    return out


@pytest.mark.parametrize("name", KINDS)
def test_a_walk_by_hand(name):
    data = KINDS[name]
    stream = data.stream(3)
    walked, (key, table, prior, names, renamed) = stream.drawn(5, 30), stream._given
    for i in range(30):
        found = walk(key, table.tolist(), prior.tolist(), names, renamed.tolist(), data.length, 5 + i)
        assert (walked.tokens[i].tolist(), walked.chain[i], walked.names[i].tolist()) == found
    assert (walked.names.argsort(1).argsort(1) == walked.names).all()
    np.testing.assert_array_equal(np.take_along_axis(walked.names, walked.states, 1), walked.tokens)


def test_names_out_of_more_tokens_in_some_of_the_rows():
    key, table, prior, *_ = DATA.stream(0)._given
    tokens, chain, names = made((key, table, prior), 9, 2**52, 0, 400, 6)
    plain = (names == np.arange(5)).all(1)
    assert 0.4 < plain.mean() < 0.6 and names.max() == 8 and all(len(set(row)) == 5 for row in names.tolist())
    for row in range(40):
        found = walk(key, table.tolist(), prior.tolist(), 9, [2**52] * 7, 6, row)
        assert (tokens[row].tolist(), chain[row], names[row].tolist()) == found
    first = np.bincount(names[~plain][:, 0], minlength=9)
    assert stats.chisquare(first).pvalue > 1e-3


def test_each_chain_says_how_many_of_its_rows_have_drawn_names():
    key, table, prior, *_ = DATA.stream(0)._given
    shares = np.array([0, 2**53, 2**52, 0, 2**53, 2**51, 0])
    out = [np.empty(shape, np.int32) for shape in ((900, 6), 900, (900, 5))]
    core.walks(key, table, prior, 9, shares, 0, 900, *out, 1)
    tokens, chain, names = out
    assert (chain == made((key, table, prior), 9, 0, 0, 900, 6)[1]).all()
    plain = (names == np.arange(5)).all(1)
    for n, share in enumerate(shares / 2**53):
        rows = plain[chain == n]
        assert len(rows) > 20 and (rows.mean() == 1 - share if share in (0, 1) else abs(1 - share - rows.mean()) < 0.15)
    for row in range(40):
        found = walk(key, table.tolist(), prior.tolist(), 9, shares.tolist(), 6, row)
        assert (tokens[row].tolist(), chain[row], names[row].tolist()) == found


@pytest.mark.parametrize("name", KINDS)
def test_a_world_that_passes(name):
    check_world(replace(KINDS[name], rows=100))


def test_a_row_has_the_same_bits_in_every_batch_at_every_width_and_on_every_number_of_threads():
    key, table, prior, *_ = KINDS["permuted"].stream(0)._given
    one = made((key, table, prior), 13, 2**53, 0, 300, 2048 // 8)
    width = core.vector_width()
    for limit in (4, 8, 16):
        core.limit_vector_width(limit)
        for threads, cuts in ((1, (0, 1, 7, 300)), (3, (0, 300)), (64, (0, 150, 300))):
            parts = [made((key, table, prior), 13, 2**53, a, b - a, 256, threads) for a, b in zip(cuts, cuts[1:])]
            for whole, pieces in zip(one, zip(*parts)):
                np.testing.assert_array_equal(np.concatenate(pieces), whole)
    core.limit_vector_width(width)
    longest = made((key, table, prior), 13, 2**53, 0, 5, 2048)
    np.testing.assert_array_equal(longest[0][:, :256], one[0][:5])


def test_chains_steps_and_first_states_are_distributed_as_stated():
    data = replace(DATA, length=30, rows=100_000)
    walked, of = data.stream(0).drawn(0, 40_000), data.set_of("trained")
    count = np.bincount(walked.chain, minlength=7)
    assert stats.chisquare(count, of.prior * 40_000).pvalue > 1e-3
    for n in range(7):
        rows = walked.tokens[walked.chain == n]
        first = np.bincount(rows[:, 0], minlength=5)
        assert stats.chisquare(first, of.stationary[n] * len(rows)).pvalue > 1e-4
        steps = np.zeros((5, 5))
        np.add.at(steps, (rows[:, :-1], rows[:, 1:]), 1)
        expected = steps.sum(1, keepdims=True) * of.transitions[n]
        assert stats.chi2.sf(((steps - expected) ** 2 / expected).sum(), 20) > 1e-4
    last = np.bincount(walked.tokens[:, -1], minlength=5)
    assert stats.chisquare(last, (of.prior @ of.stationary) * 40_000).pvalue > 1e-4  # stationary from the first on


def test_transitions_may_be_an_array():
    assert chains.Dataset(transitions=np.array(TWO), length=30, rows=400) == KINDS["given"]
    assert chains.Dataset(transitions=[*np.array(TWO)], length=30, rows=400) == KINDS["given"]
    whole = chains.Dataset(transitions=[[[0, 1], [1, 0]]])  # whole numbers and others that are equal have one identity
    assert wf.Run(whole).id == wf.Run(chains.Dataset(transitions=[[[0.0, 1.0], [1.0, 0.0]]])).id


def test_steps_are_never_taken_that_have_no_share():
    walked = KINDS["given"].stream(0).drawn(0, 400)
    rows = walked.tokens[walked.chain == 0]
    assert len(rows) > 20 and not ((rows[:, :-1] == 1) & (rows[:, 1:] == 1)).any()
    split = laws.Chains(np.array([[[0, 0.5, 0.5, 0]] * 4]), np.array([[0, 0.5, 0.5, 0]]), np.ones(1))
    table, prior = split.thresholds()
    assert table[0, 0].tolist() == [0, 2**52, 2**53, 2**53] and prior.tolist() == [2**53]


def test_drawn_transitions_follow_their_law():
    """Shares of a Dirichlet distribution are beta distributed, and rows do not depend on each other."""
    for fields, within, outside, total in (
        ({}, 1, 1, 10),
        ({"concentration": 3}, 3, 3, 30),
        ({"law": "blocks"}, 5, 1, 30),
    ):
        P = chains.Dataset(chains=300, states=10, **fields).set_of("trained").transitions
        np.testing.assert_allclose(P.sum(-1), 1, atol=1e-15)
        assert stats.kstest(P[:, 6, 8], stats.beta(within, total - within).cdf).pvalue > 1e-3
        assert stats.kstest(P[:, 6, 2], stats.beta(outside, total - outside).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(P[:, 0, 0], P[:, 1, 0])[0, 1]) < 0.2


def test_stationary_shares():
    P = chains.Dataset(chains=50, states=8).set_of("trained").transitions
    pi = laws.stationary(P)
    np.testing.assert_allclose(np.einsum("ni,nij->nj", pi, P), pi, atol=1e-15)
    values, vectors = np.linalg.eig(P[3].T)
    own = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(pi[3], own / own.sum(), atol=1e-12)
    np.testing.assert_allclose(laws.stationary(np.array([[0.0, 1.0], [1.0, 0.0]])), 0.5)


def test_chains_of_fewer_are_the_first_of_more_and_those_tried_are_no_others():
    few, many = (chains.Dataset(chains=n, states=5) for n in (4, 1024))
    np.testing.assert_array_equal(few.set_of("trained").transitions, many.set_of("trained").transitions[:4])
    np.testing.assert_array_equal(few.set_of("fresh").transitions, many.set_of("fresh").transitions)
    assert few.digests["fresh"] == many.digests["fresh"] and few.digest != many.digest
    assert not (few.set_of("fresh").transitions[:, None] == many.set_of("trained").transitions[:99]).any()
    other = replace(few, draw=1)
    assert not (other.set_of("trained").transitions == few.set_of("trained").transitions).any()
    assert len({wf.Run(data).id for data in (few, many, other)}) == 3


def test_memory_of_chains_is_planned_before_it_is_taken(monkeypatch):
    data = chains.Dataset(chains=40_000, states=10, draw=99)
    monkeypatch.setattr("worldfast.training.limit_of", lambda memory, device: 200 << 20)
    with pytest.raises(
        MemoryError, match="40,000 of 10 states take 259.4 MiB .* there are 200.0 MiB: take fewer chains"
    ):
        data.stream(0)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "n,states,law,numbers", [(2000, 10, "dirichlet", 10), (30_000, 2, "dirichlet", 2), (700, 10, "blocks", 30)]
)
def test_memory_that_chains_take_is_below_what_is_planned(n, states, law, numbers):
    tracemalloc.start()
    made = laws.drawn.__wrapped__(n, states, law, 1, "random", (99,))
    made.thresholds()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.2 < most / (n * states * numbers * laws.SHARE_BYTES) < 1


def test_the_table_of_a_stream_is_part_of_the_plan_of_memory():
    few, many = (wf.Run(replace(DATA, chains=n)) for n in (7, 5000))
    table, prior = many.data.stream(0)._given[1:3]
    assert many.data.stream_bytes == table.nbytes + prior.nbytes == 5000 * 31 * 8
    needs = [plan([run], 2**40, "cpu", 1).need for run in (few, many)]
    assert needs[1].member - needs[0].member == many.data.stream_bytes - few.data.stream_bytes
    with pytest.raises(MemoryError, match="1.2 MiB are what its rows are drawn from"):
        plan([many], 2**20, "cpu", 1)


def test_truth_follows_the_names_of_a_row():
    data = replace(KINDS["permuted"], length=20)
    stream = data.stream(0)
    walked, of = stream.drawn(0, 6), data.set_of("trained")
    truth = stream.truth(walked, np.array([0, 19]))
    for i in range(6):
        for p, t in enumerate((0, 19)):
            named = {int(walked.names[i, s]): s for s in range(13)}
            here = named[int(walked.tokens[i, t])]
            expected = [of.transitions[walked.chain[i], here, named[token]] for token in range(13)]
            np.testing.assert_array_equal(truth[i, p], expected)


def test_readouts():
    one = DATA.readout(walks=50)
    other = replace(DATA, chains=90).readout(walks=50)
    assert one.entities.tolist() == other.entities.tolist() and torch.equal(one.rows.inputs, other.rows.inputs)
    np.testing.assert_allclose(one.attributes.sum(1), 1)
    early = DATA.readout(walks=50, of="trained", position=3)
    assert early.rows.row_start.tolist() == list(range(0, 204, 4)) and early.rows.scored.tolist()[:2] == [3, 7]
    assert sum(early.groups.values()).tolist() == [1] * 50
    assert (early.groups["at 2"] == (early.rows.inputs[early.rows.scored].numpy() == 2)).all()


@pytest.mark.parametrize(
    "fields,error,said",
    [
        ({"length": 1}, ValueError, "length: expected at least 2, got 1"),
        ({"length": 2049}, ValueError, "length: expected at most 2,048, got 2049"),
        ({"states": 1}, ValueError, "states: expected at least 2, got 1"),
        ({"chains": 0}, ValueError, "chains: expected at least 1, got 0"),
        ({"chains": 2.5}, TypeError, "chains: expected an integer, got 2.5"),
        ({"chains": 10**8}, ValueError, "chains: 100,000,000 chains of 10 states take .* numbers, more than .*: take"),
        (
            {"states": 1000},
            ValueError,
            "states: 256 chains of 1,000 states take .*: take fewer states .256 chains that",
        ),
        ({"concentration": 0.5}, TypeError, "concentration: expected an integer, got 0.5"),
        ({"law": "block"}, ValueError, "unknown law 'block': did you mean 'blocks'"),
        ({"law": "blocks", "states": 7}, ValueError, "states: expected a multiple of 5, the states of a block, got 7"),
        ({"prior": "uniform"}, ValueError, "unknown prior 'uniform': known: random, equal"),
        ({"permuted": 1}, TypeError, "permuted: expected True or False, got 1"),
        ({"transitions": [[[1, 0], [0.5, 0.5]]]}, ValueError, "transitions: chain 0 cannot leave state 0"),
        ({"transitions": [[[1, 1e-25], [0.5, 0.5]]]}, ValueError, "chain 0 cannot leave state 0: what a model reads"),
        ({"transitions": np.eye(3)[None]}, ValueError, "transitions: chain 0 cannot leave state 0"),
        (
            {"transitions": [[[1e-20, 1], [0.5, 0.5]], [[0, 1], [1e-20, 1]]]},
            ValueError,
            "chain 1 does not lead to every state",
        ),
        ({"transitions": np.ma.array([[[0.5, 0.5], [1, 0]]])}, TypeError, "transitions: expected an array without a"),
        (
            {"transitions": [[[0, 1, 0], [1, 0, 0], [0.5, 0, 0.5]]]},
            ValueError,
            "chain 0 does not lead to every state from state 0, such as 2",
        ),
        ({"transitions": [[[0.5, 0.6], [1, 0]]]}, ValueError, r"sum to 1, got \[0.5, 0.6\] from state 0 of chain 0"),
        ({"transitions": [[[0.5, 0.5], [1]]]}, ValueError, "transitions: expected a square of numbers for each chain"),
        ({"transitions": [[0.5, 0.5]]}, ValueError, r"transitions: expected shape \[chains, states, states\]"),
        ({"transitions": [["a", "b"]]}, ValueError, "transitions: expected a square of numbers for each chain"),
        ({"transitions": 4}, TypeError, "transitions: expected matrices, got 4"),
        ({"transitions": [[[0.5, 0.5], [1, 0]]], "states": 7}, ValueError, "states: transitions have 2, got 7"),
        ({"transitions": [[[0.5, 0.5], [1, 0]]], "chains": 3}, ValueError, "chains: transitions have 1, got 3"),
        ({"transitions": [4]}, ValueError, r"transitions: expected shape \[chains, states, states\], got \[1\]"),
    ],
)
def test_bad_fields(fields, error, said):
    with pytest.raises(error, match=said):
        chains.Dataset(**fields)


@pytest.mark.parametrize(
    "options,error,said",
    [
        ({"of": "new"}, ValueError, "unknown set 'new': known: trained, fresh, blocks"),
        ({"position": 40}, ValueError, "position: expected at most 39, got 40"),
        ({"walks": 0}, ValueError, "walks: expected at least 1, got 0"),
    ],
)
def test_bad_readouts(options, error, said):
    with pytest.raises(error, match=said):
        DATA.readout(**options)
    with pytest.raises(ValueError, match="model.outputs: expected 5, the states, or None, got 4"):
        wf.Run(DATA, model=wf.TransformerSpec(outputs=4))
    with pytest.raises(ValueError, match="set: 'blocks' is for multiples of 5 states, got 2"):
        KINDS["given"].set_of("blocks")

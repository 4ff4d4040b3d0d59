"""Rows: every number beside a second statement of them, their distribution, and fields that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from walks_by_hand import walk

import worldfast as wf
from worldfast.worlds import walks
from worldfast.worlds.check import check_world
from worldfast.worlds.walks.dataset import contexts

DATA = walks.Dataset("grid3", fixed=0.3, length=40, rows=5000)
KINDS = {
    "mixture": DATA,
    "own names": walks.Dataset("ring10", length=12, rows=300, names=25),
    "fixed names": walks.Dataset("grid4", fixed=1.0, length=9, rows=300),
    "another home": walks.Dataset("ring5", fixed=0.5, home="hexagonal2", length=20, rows=300),
    "smaller home": walks.Dataset("grid4", fixed=0.9, home="ring6", length=20, rows=300, names=40),
    "random": walks.Dataset("random9", draw=3, length=2, rows=300),
    "cities": walks.Dataset("cities12", fixed=0.5, length=30, rows=300),
    "two nodes": walks.Dataset(adjacency=[[0, 1], [1, 0]], length=5, rows=300),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_walk_by_hand(name):
    data = KINDS[name]
    stream = data.stream(3)
    walked, (key, table, prior, names, renamed) = stream.drawn(5, 30), stream._given
    for i in range(30):
        found = walk(key, table.tolist(), prior.tolist(), names, renamed.tolist(), data.length, 5 + i)
        assert (walked.tokens[i].tolist(), walked.chain[i], walked.names[i].tolist()) == found
    np.testing.assert_array_equal(np.take_along_axis(walked.names, walked.states, 1), walked.tokens)


@pytest.mark.parametrize("name", KINDS)
def test_a_world_that_passes(name):
    check_world(replace(KINDS[name], rows=100))


@pytest.mark.parametrize("name", KINDS)
def test_steps_go_to_neighbours_in_every_row(name):
    data = KINDS[name]
    walked = data.stream(0).drawn(0, 300)
    for kind, of in enumerate(("fixed", "own")):
        A, rows = data.graph_of(of).adjacency, walked.chain == kind
        nodes = walked.states[rows]
        assert A[nodes[:, :-1], nodes[:, 1:]].all()
        assert of == "own" or (walked.names[rows] == np.arange(walked.names.shape[1])).all()
    assert {0: 0, 1: 300}.get(data.fixed, (walked.chain == 0).sum()) == (walked.chain == 0).sum()


def test_shares_nodes_steps_and_names_are_distributed_as_stated():
    data = replace(DATA, length=20, rows=100_000, names=11)
    walked, A = data.stream(0).drawn(0, 30_000), data.graph_of("own").adjacency
    fixed = walked.chain == 0
    assert stats.binomtest(int(fixed.sum()), 30_000, 0.3).pvalue > 1e-3
    for rows in (fixed, ~fixed):
        nodes = walked.states[rows]
        assert stats.chisquare(np.bincount(nodes[:, 0], minlength=9)).pvalue > 1e-3
        steps = np.zeros((9, 9))
        np.add.at(steps, (nodes[:, :-1], nodes[:, 1:]), 1)
        expected = steps.sum(1, keepdims=True) * A / A.sum(1, keepdims=True)
        seen = expected > 0
        assert (steps[~seen] == 0).all()
        over = ((steps - expected)[seen] ** 2 / expected[seen]).sum()
        assert stats.chi2.sf(over, seen.sum() - 9) > 1e-3
    for node in range(9):
        assert stats.chisquare(np.bincount(walked.names[~fixed][:, node], minlength=11)).pvalue > 1e-4
    pairs = np.zeros((11, 11))
    np.add.at(pairs, (walked.names[~fixed][:, 0], walked.names[~fixed][:, 1]), 1)
    assert (np.diag(pairs) == 0).all() and stats.chisquare(pairs[~np.eye(11, dtype=bool)]).pvalue > 1e-4


def test_identities():
    other = walks.Dataset("random9", draw=4, length=2, rows=300)
    ids = {wf.Run(data).id for data in [*KINDS.values(), other]}
    assert len(ids) == len(KINDS) + 1
    assert [KINDS[name].label for name in ("mixture", "own names", "another home", "two nodes")] == [
        "grid3-fixed0.3",
        "ring10",
        "ring5-fixed0.5-on-hexagonal2",
        "given",
    ]


# ---- readings ----


def test_a_readout_of_nodes_is_of_their_last_visits():
    readout = DATA.readout(walks=30)
    read = contexts(DATA, "own", 0, "readout", 1, 30)
    P = len(readout.rows.scored) // 9
    assert 1 <= P <= 16 and readout.entities[4] == "2, 2 of grid3"
    at = readout.rows.scored.numpy()[readout.order].reshape(9, P)
    nodes = read.nodes[0].ravel()
    for node in range(9):
        assert (nodes[at[node]] == node).all() and len(set(at[node] // 40)) == P
        for position in at[node]:
            assert not (nodes[position + 1 : (position // 40 + 1) * 40] == node).any()
    tokens = readout.rows.inputs.numpy()
    assert (tokens == np.array(readout.about["named"])[nodes]).all()
    np.testing.assert_array_equal(readout.attributes, DATA.graph_of("own").places)
    assert sum(readout.groups.values()).tolist() == [1] * 9


def test_a_readout_of_positions_has_the_labels_of_each_row():
    readout = DATA.readout(at="positions", walks=3, context=7, names="fixed")
    assert len(readout.things) == 21 and readout.rows.row_start.tolist() == [0, 7, 14, 21]
    places = DATA.graph_of("fixed").places[readout.rows.inputs.numpy()]  # of fixed names
    np.testing.assert_array_equal(readout.attributes, places)


def test_what_is_read_is_the_same_for_every_share():
    one, other = DATA.readout(walks=40), replace(DATA, fixed=0.0, rows=7).readout(walks=40)
    assert one.entities.tolist() == other.entities.tolist() and torch.equal(one.rows.inputs, other.rows.inputs)


def test_scores_of_models_that_are_known():
    """One that says the present name's fixed neighbour, one that says one name, and one that says the one before."""
    data = replace(DATA, fixed=0.5)
    A = data.graph_of("fixed").adjacency

    class Says:
        def __init__(self, say):
            self.say = say

        def outputs(self, rows, member):
            said = self.say(rows.inputs.numpy())[rows.scored.numpy()]
            return torch.nn.functional.one_hot(torch.from_numpy(said.astype(np.int64)), 9).float()

    fixed = data.score(Says(lambda tokens: A.argmax(1)[tokens]), 0, 50, seed=0)
    assert fixed["fixed"].value == 1 and 0.2 < fixed["own"].value < 0.6
    centre = data.score(Says(lambda tokens: np.full(len(tokens), 4)), 0, 50, seed=0)
    assert centre["fixed"].value == centre["fixed"].constant > centre["own"].constant
    back = data.score(Says(lambda tokens: np.roll(tokens, 1)), 0, 50, seed=0)
    assert back["own"].value > 0.95  # all but the first of each row


@pytest.mark.parametrize(
    "fields,error,said",
    [
        ({"length": 1}, ValueError, "length: expected at least 2, got 1"),
        ({"length": 2049}, ValueError, "length: expected at most 2,048, got 2049"),
        ({"names": 15}, ValueError, "names: expected at least 16, one for each node of 'grid4', got 15"),
        (
            {"home": "ring20", "names": 16},
            ValueError,
            "names: expected at least 20, one for each node of 'ring20', got",
        ),
        ({"names": 70_000}, ValueError, "names: expected at most 65,536, got 70000"),
        ({"fixed": 1.5}, ValueError, "fixed: expected a share from 0 to 1, got 1.5"),
        ({"fixed": "half"}, TypeError, "fixed: expected a number, got 'half'"),
        ({"fixed": float("nan")}, ValueError, "fixed: expected a share from 0 to 1, got nan"),
        ({"home": "sphere3"}, ValueError, "unknown kind of graph 'sphere'"),
        ({"home": 3}, TypeError, "home: expected the name of a graph, or '', got 3"),
        ({"adjacency": [[0, 1], [1, 0]], "graph": "ring7"}, ValueError, "graph: expected none beside .*, got 'ring7'"),
        ({"adjacency": 3}, TypeError, "adjacency: expected a square of 0 and 1, got 3"),
        ({"draw": -1}, ValueError, "draw: expected at least 0, got -1"),
        ({"rows": 0}, ValueError, "rows: expected at least 1, got 0"),
    ],
)
def test_bad_fields(fields, error, said):
    with pytest.raises(error, match=said):
        walks.Dataset(**fields)


@pytest.mark.parametrize(
    "options,error,said",
    [
        ({"context": 41}, ValueError, "context: expected at most 40, got 41"),
        ({"context": 2, "walks": 1}, ValueError, "walks: none of 1 of 2 names comes to node .*: take more walks"),
        ({"at": "node"}, ValueError, "unknown at 'node': did you mean 'nodes'"),
        ({"names": "all"}, ValueError, "unknown names 'all': known: fixed, own"),
        ({"walks": 0}, ValueError, "walks: expected at least 1, got 0"),
    ],
)
def test_bad_readouts(options, error, said):
    with pytest.raises(error, match=said):
        DATA.readout(**options)
    with pytest.raises(ValueError, match="unknown rows 'new': known: all, fixed, own"):
        walks.Walks(DATA, 0, of="new")


def test_equal_adjacency_matrices_have_one_identity():
    of = [walks.Dataset(adjacency=np.ones((3, 3), kind) - np.eye(3, dtype=kind)) for kind in (int, float)]
    of.append(walks.Dataset(adjacency=~np.eye(3, dtype=bool)))
    assert len({wf.Run(data).id for data in of}) == 1 and of[0].graph == "given"


def test_what_a_model_cannot_say_is_said_before_training():
    with pytest.raises(ValueError, match="model.outputs: expected 16, the names, or None, got 8"):
        wf.Run(walks.Dataset(), model=wf.TransformerSpec(outputs=8))

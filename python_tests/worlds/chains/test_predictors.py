"""Predictors beside sums over everything that could have happened, on small chains; divergences by closed form."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from worldfast.worlds import chains
from worldfast.worlds.chains import laws
from worldfast.worlds.chains.dataset import Walks
from worldfast.worlds.chains.predictors import NAMES, divergence, predict

DATA = chains.Dataset(chains=3, states=3, length=9)


def by_hand(of, row):
    """The four predictions after a row, a factor after the other."""
    N, k = of.stationary.shape
    seen, moved, counts = of.prior.copy(), of.prior * of.stationary[:, row[0]], np.ones((k, k))
    for n in range(N):
        for state in row:
            seen[n] *= of.stationary[n, state]
        for a, b in zip(row, row[1:]):
            moved[n] *= of.transitions[n, a, b]
    for a, b in zip(row, row[1:]):
        counts[a, b] += 1
    matrix = counts / counts.sum(1, keepdims=True)
    rest = np.linalg.matrix_power(matrix, 4096)[0]
    looked = [sum(w[n] * shares[n] for n in range(N)) / w.sum() for w, shares in
              ((seen, of.stationary), (moved, of.transitions[:, row[-1]]))]  # fmt: skip
    return dict(zip(NAMES, (*looked, rest, matrix[row[-1]])))


@pytest.mark.parametrize("positions", [range(9), (0, 4), (8,)])
def test_predictors_by_hand(positions):
    of, tokens = DATA.set_of("trained"), DATA.stream(0).drawn(0, 12).tokens
    found = predict(of, tokens, positions)
    assert list(found) == list(NAMES)
    for i in range(12):
        for p, t in enumerate(positions):
            for name, expected in by_hand(of, tokens[i, : t + 1]).items():
                np.testing.assert_allclose(found[name][i, p], expected, atol=1e-12, err_msg=name)
    assert list(predict(of, tokens, positions, ("Bi-Inf",))) == ["Bi-Inf"]


def test_looking_up_by_steps_is_what_follows_from_all_walks():
    """Bi-Ret is P(next | context): the shares of all walks that begin so, by enumeration."""
    of, context = DATA.set_of("trained"), (2, 0, 0, 1)

    def share(row):
        start = of.prior * of.stationary[:, row[0]]
        return float(np.prod([of.transitions[:, a, b] for a, b in zip(row, row[1:])], axis=0) @ start)

    shares = np.array([share((*context, j)) for j in range(3)])
    found = predict(of, np.array([context]), [3])["Bi-Ret"][0, 0]
    np.testing.assert_allclose(found, shares / shares.sum(), atol=1e-14)


def test_inference_from_steps_is_the_mean_of_chains_drawn_by_their_law():
    """(c + 1) / (c + k) is the posterior mean of a row that is Dirichlet(1, ..., 1): over many chains Bi-Ret comes near."""
    many = chains.Dataset(chains=60_000, states=2, prior="equal").set_of("trained")
    context = np.array([[0, 1, 1, 0, 1, 0, 0, 1, 1, 1]])
    flat = many._replace(stationary=np.full_like(many.stationary, 0.5))  # Bi-Inf does not ask how the walk began
    found = predict(flat, context, [9], ("Bi-Ret", "Bi-Inf"))
    np.testing.assert_allclose(found["Bi-Ret"], found["Bi-Inf"], atol=0.01)
    np.testing.assert_allclose(found["Bi-Inf"][0, 0], [(2 + 1) / (5 + 2), (3 + 1) / (5 + 2)])


def test_a_chain_that_a_step_rules_out():
    one, other = [[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [0.1, 0.9]]
    of = chains.Dataset(transitions=(one, other)).set_of("trained")
    found = predict(of, np.array([[0, 1, 1]]), [2])["Bi-Ret"][0, 0]
    np.testing.assert_allclose(found, other[1])


def test_divergences_of_what_are_no_shares():
    for p, q, said in (
        ([0.5, 0.5], [1.5, -0.5], "p, q: expected shares of at least 0"),
        (0.5, 0.5, "p, q: expected shares of at least 0"),
        (np.ones((2, 3)), np.ones((4, 3)), r"p, q: expected shapes that fit each other, got \[2, 3\] and \[4, 3\]"),
    ):
        with pytest.raises(ValueError, match=said):
            chains.divergence(p, q)


def test_a_context_that_no_chain_can_make_is_looked_up_where_the_fewest_steps_are_missing():
    one, other = (
        [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]],
    )
    of = chains.Dataset(transitions=(one, other)).set_of("trained")
    rows = np.array([[0, 0, 1, 2, 0], [1, 1, 1, 0, 2]])  # the first lacks a step of `other`, the second two of `one`
    found = predict(of, rows, [1, 4])
    assert all(np.isfinite(shares).all() for shares in found.values())
    np.testing.assert_array_equal(found["Bi-Ret"][:, 1], [other[0], one[2]])
    tiny = of._replace(transitions=np.maximum(of.transitions, 1e-12))
    np.testing.assert_allclose(found["Bi-Ret"], predict(tiny, rows, [1, 4])["Bi-Ret"], atol=1e-9)


def test_long_contexts_of_many_chains_in_pieces(monkeypatch):
    data = chains.Dataset(chains=40, states=4, length=300)
    of, tokens = data.set_of("trained"), data.stream(0).drawn(0, 9).tokens
    whole = predict(of, tokens, (10, 299))
    monkeypatch.setattr("worldfast.worlds.chains.predictors.AT_ONCE", 1)
    for name, one in predict(of, tokens, (10, 299)).items():
        np.testing.assert_allclose(one, whole[name], atol=1e-12)
        np.testing.assert_allclose(one.sum(-1), 1)
    chain = data.stream(0).drawn(0, 9).chain  # by 300 steps it is known
    np.testing.assert_allclose(whole["Bi-Ret"][:, 1], of.transitions[chain, tokens[:, 299]], atol=0.05)


@pytest.mark.parametrize("positions", [range(11), (4, 10), (10,)])
def test_predictions_in_pieces_have_the_same_bits(positions, monkeypatch):
    """Of nine rows, more states than a sum has lanes, and chains that are weighed a few at a time."""
    data = chains.Dataset(chains=40, states=19, length=11)
    of, tokens = data.set_of("trained"), data.stream(0).drawn(0, 9).tokens
    asked = [(tokens, NAMES), (tokens[:1], NAMES)]  # a row of all chains at a time, as of very many
    monkeypatch.setattr("worldfast.worlds.chains.predictors.AT_ONCE", 11 * 40)
    expected = [predict(of, rows, positions, NAMES[:2]) for rows, _ in asked]
    monkeypatch.setattr("worldfast.worlds.chains.predictors.AT_ONCE", 2**22)
    expected = [found | predict(of, rows, positions, NAMES[2:]) for found, (rows, _) in zip(expected, asked)]
    for numbers in (1, 8 * 19**2 * 5):
        monkeypatch.setattr("worldfast.worlds.chains.predictors.AT_ONCE", numbers)
        for found, whole in zip((predict(of, rows, positions, names) for rows, names in asked), expected):
            of_inference = NAMES if numbers == 1 else NAMES[2:]  # larger products of posteriors may round otherwise
            for name in of_inference:
                np.testing.assert_array_equal(found[name], whole[name], err_msg=name)


@pytest.mark.parametrize(
    "names,states,count,length,positions,whole",
    [
        (NAMES[2:], 48, 2, 40, range(40), 3 * 40 * 48**2),  # all matrices of counts, [n, p, k, k]
        (NAMES[:2], 3, 20_000, 300, [298, 299], 300 * 20_000),  # all that a row says of chains, [l, N]
    ],
    ids=["inference", "retrieval"],
)
def test_predictors_take_no_table_as_a_whole(names, states, count, length, positions, whole, monkeypatch):
    monkeypatch.setattr("worldfast.worlds.chains.predictors.AT_ONCE", 2**17)
    data = chains.Dataset(chains=count, states=states, length=length)
    of, tokens = data.set_of("trained"), data.stream(0).drawn(0, 3).tokens
    tracemalloc.start()
    try:
        predict(of, tokens, positions, names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * whole / 2, f"{peak:,}"


@pytest.mark.parametrize(
    "given,error,said",
    [
        ({"positions": [9]}, ValueError, r"positions: expected ascending ones of a row, 0 to 8, got \[9\]"),
        ({"positions": [-1]}, ValueError, "positions: expected ascending ones of a row"),
        ({"positions": [5, 2]}, ValueError, "positions: expected ascending ones of a row"),
        ({"positions": []}, ValueError, "expected rows of tokens .* and some positions"),
        ({"positions": [0.5]}, TypeError, "positions: expected integers, got float64"),
        ({"tokens": np.full((2, 9), 3)}, ValueError, "tokens: expected states of the chains, 0 to 2, got 3"),
        ({"tokens": np.full((2, 9), -1)}, ValueError, "tokens: expected states of the chains, 0 to 2, got -1"),
        ({"tokens": np.zeros(9, int)}, ValueError, r"rows of tokens \[n, l\] .*, got shapes \[9\] and \[1\]"),
        ({"tokens": np.zeros((2, 9))}, TypeError, "tokens: expected integers, got float64"),
        ({"names": ("BiInf",)}, ValueError, "unknown predictor 'BiInf': did you mean 'Bi-Inf'"),
        ({"names": "Bi-Inf"}, TypeError, "names: expected names of predictors, got 'Bi-Inf'"),
        ({"chains": DATA}, TypeError, "chains: expected a set of chains, as `set_of` of a dataset returns it, got"),
    ],
)
def test_bad_input(given, error, said):
    asked = {"chains": DATA.set_of("trained"), "tokens": np.zeros((2, 9), int), "positions": [3]}
    with pytest.raises(error, match=said):
        predict(**asked | given)


def test_divergences():
    p, q = np.array([[0.2, 0.8], [1.0, 0.0]]), np.array([0.5, 0.5])
    np.testing.assert_allclose(divergence(p, q), stats.entropy(p.T, np.array([q, q]).T))
    assert divergence(p, p).tolist() == [0, 0] and divergence(q, p[1]) == np.inf
    assert (divergence(laws.stationary(np.ones((3, 3)) / 3), np.ones(3) / 3) < 1e-15).all()


def test_no_predictor_comes_nearer_to_truth_than_looking_up_by_steps_in_walks_that_were_trained_on():
    data = chains.Dataset(chains=6, states=4, length=60)
    off = {}
    for of in ("trained", "fresh"):
        stream = Walks(data, 0, "test", of)
        walked = stream.drawn(0, 400)
        truth = stream.truth(walked, np.array([59]))
        found = predict(data.set_of("trained"), walked.tokens, [59])
        off[of] = {name: float(divergence(truth, one).mean()) for name, one in found.items()}
    assert min(off["trained"], key=off["trained"].get) == "Bi-Ret" and off["trained"]["Bi-Ret"] < 0.02
    assert min(off["fresh"], key=off["fresh"].get) == "Bi-Inf" and off["fresh"]["Bi-Inf"] < 0.1

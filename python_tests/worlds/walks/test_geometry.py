"""Measures beside SciPy and closed forms, and nulls beside what was measured of them and what they are in the limit."""

import numpy as np
import pytest
from scipy.sparse.csgraph import laplacian
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from worldfast.worlds.walks.dataset import Dataset, Walks
from worldfast.worlds.walks.geometry import (
    class_means,
    energy,
    following,
    measures,
    mixed,
    null_states,
    placed,
    r2_of,
    recall,
    wide_limit,
)
from worldfast.worlds.walks.graphs import graph_of, sides

GRAPHS = ("grid3", "grid4", "ring10", "hexagonal2", "random16")


def states(n, D=7, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)) + 3


def bipartite(graph):
    """The eigenvalues of a bipartite graph, and of no other connected one, are those of its negative."""
    values = np.linalg.eigvalsh(graph.adjacency)
    return np.allclose(values, -values[::-1])


@pytest.mark.parametrize("name", GRAPHS)
def test_energies_are_those_of_the_laplacian(name):
    graph = graph_of(name)
    A, X = graph.adjacency.astype(float), states(len(graph.adjacency))
    expected = 2 * np.trace(X.T @ laplacian(A) @ X)
    np.testing.assert_allclose(energy(X, graph.adjacency), expected, rtol=1e-12)
    found = measures(X, graph)
    np.testing.assert_allclose(found["energy"], expected, rtol=1e-12)
    n = len(A)
    all_pairs = 2 * np.trace(X.T @ laplacian(np.ones((n, n)) - np.eye(n)) @ X)
    np.testing.assert_allclose(found["ratio"], expected / A.sum() / (all_pairs / (n * (n - 1))), rtol=1e-12)
    smaller = measures(X / 1000, graph)  # shrinking is no learning
    np.testing.assert_allclose([smaller[k] for k in ("ratio", "r2", "cka")], [found[k] for k in ("ratio", "r2", "cka")])


@pytest.mark.parametrize("name", GRAPHS)
def test_r2_is_that_of_a_regression_on_two_components(name):
    places = graph_of(name).places
    X = states(len(places))
    two = PCA(2, svd_solver="full").fit_transform(X)
    expected = LinearRegression().fit(two, places).predict(two)
    r2 = 1 - np.square(places - expected).sum(0) / np.square(places - places.mean(0)).sum(0)
    np.testing.assert_allclose(r2_of(X, places), r2.mean(), rtol=1e-9)


def test_places_themselves_and_their_turns_are_read_whole():
    graph = graph_of("grid4")
    turn = np.linalg.qr(states(6))[0][:2]
    found = measures(graph.places @ turn, graph)
    assert found["r2"] > 1 - 1e-9 and found["cka"] > 0.97 and found["nodes"] == 16
    np.testing.assert_allclose(placed(graph.places @ turn, graph.places), graph.places, atol=1e-9)


@pytest.mark.parametrize("name", GRAPHS)
def test_sides_are_those_between_which_a_walk_alternates(name):
    graph = graph_of(name)
    found = sides(graph.adjacency)
    X = states(len(graph.adjacency))
    if not bipartite(graph):
        assert np.isnan(found).all() and np.isnan(measures(X, graph)["sides"])
        return
    assert (found[:, None] != found)[graph.adjacency].all() and set(found) == {1, -1}
    assert measures(X + 1e5 * found[:, None], graph)["sides"] > 1 - 1e-6  # of nothing else
    two = PCA(2, svd_solver="full").fit_transform(X)
    expected = LinearRegression().fit(two, found).score(two, found)
    np.testing.assert_allclose(measures(X, graph)["sides"], expected, rtol=1e-9)


def test_nodes_without_a_state_are_left_out():
    graph = graph_of("grid4")
    X = states(16)
    X[[0, 5]] = np.nan
    found = measures(X, graph)
    kept = np.setdiff1d(np.arange(16), [0, 5])
    A = graph.adjacency[np.ix_(kept, kept)].astype(float)
    assert found["nodes"] == 14
    np.testing.assert_allclose(found["energy"], 2 * np.trace(X[kept].T @ laplacian(A) @ X[kept]))
    X[3:] = np.nan
    assert measures(X, graph)["nodes"] == 2 and np.isnan(measures(X, graph)["r2"])
    assert np.isnan(measures(np.ones((16, 3)), graph)["ratio"])
    assert np.isnan(placed(X, graph.places)).all()


@pytest.mark.filterwarnings("error")
def test_bad_input_and_no_states_at_all():
    graph = graph_of("grid4")
    assert measures(np.full((16, 3), np.nan), graph)["nodes"] == 0
    with pytest.raises(ValueError, match=r"X: expected \[16, D\], got \[15, 7\]"):
        measures(states(15), graph)
    with pytest.raises(ValueError, match=r"X: expected \[16, D\], got \[16\]"):
        measures(states(16)[:, 0], graph)
    with pytest.raises(TypeError, match="graph: expected a Graph, as `graph_of` returns it, got 'grid4'"):
        measures(states(16), "grid4")


NODES = np.array([[0, 1, 0, 2, 1], [1, 0, 1, 0, 2]])
X = np.arange(10.0).reshape(2, 5, 1)


def test_class_means_by_hand():
    nodes = NODES
    assert class_means(X, nodes, 4, 5, 5)[:, 0].tolist()[:3] == [(0 + 2 + 6 + 8) / 4, (1 + 4 + 5 + 7) / 4, (3 + 9) / 2]
    assert np.isnan(class_means(X, nodes, 4, 5, 5)[3, 0])
    late = class_means(X, nodes, 4, 4, 2)[:, 0]  # positions 2 and 3
    assert late[:3].tolist() == [(2 + 8) / 2, 7, 3]
    first = class_means(X, nodes, 4, 1, 32)[:, 0]
    assert first[:2].tolist() == [0, 5] and np.isnan(first[2:]).all()


@pytest.mark.parametrize(
    "call,error,said",
    [
        (lambda: class_means(X[:, 1:], NODES, 4, 5, 5), ValueError, r"states: expected \[2, 5, D\], got \[2, 4, 1\]"),
        (lambda: class_means(X, NODES, 2, 5, 5), ValueError, "nodes: expected 0 to 1, got 2"),
        (lambda: class_means(X, NODES[0], 4, 5, 5), ValueError, r"nodes: expected integers \[w, T\], got \[5\]"),
        (lambda: class_means(X, NODES, 4, 6, 5), ValueError, "context: expected at most 5, got 6"),
        (lambda: class_means(X, NODES, 4, 5, 0), ValueError, "window: expected at least 1, got 0"),
        (lambda: class_means(X, NODES, 513, 5, 5), ValueError, "n: expected at most 512, got 513"),
        (
            lambda: following(np.ones((2, 5, 8)) / 8, NODES, graph_of("grid3")),
            ValueError,
            r"said: expected \[2, 5, 9\]",
        ),
        (
            lambda: following(np.ones(9) / 9, np.array(-1), graph_of("grid3")),
            ValueError,
            "nodes: expected 0 to 8, got -1",
        ),
        (lambda: following(np.ones(9) / 9, np.array(0), None), TypeError, "graph: expected a Graph"),
        (lambda: recall(NODES, 3, 2), ValueError, "names: expected at least 3, got 2"),
        (lambda: recall(NODES * 1.0, 3, 3), TypeError, "nodes: expected integers, got float64"),
        (lambda: recall(-NODES, 3, 3), ValueError, "nodes: expected 0 to 2, got -1"),
        (lambda: null_states("mix", NODES, states(3), 3), ValueError, "unknown null 'mix': did you mean 'mixed'"),
        (lambda: null_states("names", NODES, states(2), 3), ValueError, "nodes: expected 0 to 1, got 2"),
        (lambda: null_states("names", NODES, states(3) * np.nan, 3), ValueError, "vectors: holds NaN or infinity"),
        (lambda: mixed(states(3), graph_of("grid4")), ValueError, r"vectors: expected \[16, D\], got \[3, 7\]"),
        (
            lambda: mixed(states(16), "grid4"),
            TypeError,
            "graph: expected a Graph, as `graph_of` returns it, got 'grid4'",
        ),
    ],
)
def test_arrays_that_do_not_fit(call, error, said):
    with pytest.raises(error, match=said):
        call()


# ---- nulls ----


def mean_of(count, draw):
    found = [draw(np.random.default_rng(seed)) for seed in range(count)]
    return {name: np.mean([one[name] for one in found]) for name in found[0]}


@pytest.mark.parametrize("name", GRAPHS)
def test_random_vectors_have_a_ratio_of_1_and_two_of_n_minus_1_directions(name):
    graph = graph_of(name)
    n = len(graph.adjacency)
    found = mean_of(300, lambda random: measures(random.normal(size=(n, 64)), graph))
    assert abs(found["ratio"] - 1) < 0.02 and abs(found["r2"] - 2 / (n - 1)) < 0.02


def test_one_round_of_mixing_has_the_measured_numbers_on_a_4_by_4_grid():
    graph = graph_of("grid4")
    narrow = mean_of(100, lambda random: measures(mixed(random.normal(size=(16, 64)), graph), graph))
    assert abs(narrow["r2"] - 0.76) < 0.03 and abs(narrow["ratio"] - 0.57) < 0.01
    wide = mean_of(12, lambda random: measures(mixed(random.normal(size=(16, 4096)), graph), graph))
    assert abs(wide["r2"] - 0.965) < 0.01
    before = mean_of(12, lambda random: measures(random.normal(size=(16, 4096)), graph))
    assert abs(before["r2"] - 0.11) < 0.06


@pytest.mark.parametrize("name", GRAPHS)
def test_wide_mixing_approaches_its_limit(name):
    graph = graph_of(name)
    n, limit = len(graph.adjacency), wide_limit(graph)
    wide = mean_of(4, lambda random: measures(mixed(random.normal(size=(n, 8192)), graph) / np.sqrt(8192), graph))
    for measure in ("energy", "ratio", "r2", "cka", "sides"):
        if measure == "sides" and not bipartite(graph):
            assert np.isnan(limit[measure])
            continue
        np.testing.assert_allclose(wide[measure], limit[measure], rtol=0.03, atol=1e-3)
    P = np.eye(n) + graph.adjacency / graph.adjacency.sum(1, keepdims=True)
    gram = P @ P.T
    expected = sum(
        graph.adjacency[i, j] * (gram[i, i] + gram[j, j] - 2 * gram[i, j]) for i in range(n) for j in range(n)
    )
    np.testing.assert_allclose(limit["energy"], expected)


@pytest.mark.parametrize("name,expected", [("grid4", 0.65), ("grid3", 0.88)])
def test_mixing_with_names_seen_in_one_walk_has_the_measured_numbers(name, expected):
    graph = graph_of(name)
    n, found = len(graph.adjacency), []
    nodes = Walks(Dataset(name), 0, "test", "own").drawn(0, 100).states
    for i, walk in enumerate(nodes):
        vectors = np.random.default_rng(i).normal(size=(n, 64))
        X = class_means(null_states("mixed", walk[None], vectors, n), walk[None], n, 128, 128)
        found.append(measures(X, graph)["r2"])
    assert abs(np.nanmean(found) - expected) < 0.05


def test_recall_by_hand():
    nodes = np.array([[0, 1, 0, 2, 0, 1]])
    said = recall(nodes, 3, 5)[0]
    expected = [[0.2] * 3, [0.2] * 3, [0, 1, 0], [0.2] * 3, [0, 0.5, 0.5], [1, 0, 0]]
    np.testing.assert_allclose(said, expected)
    vectors = states(3)
    np.testing.assert_allclose(null_states("recall", nodes, vectors, 5)[0], said @ vectors)
    np.testing.assert_allclose(null_states("mixed", nodes, vectors, 5)[0, 3], vectors[2] + vectors[0])
    np.testing.assert_allclose(null_states("mixed", nodes, vectors, 5)[0, 0], vectors[0])
    np.testing.assert_allclose(null_states("names", nodes, vectors, 5)[0], vectors[nodes[0]])


@pytest.mark.parametrize("name,seen", [("grid3", (0.70, 0.92, 0.99)), ("grid4", (0.50, 0.71, 0.92))])
def test_the_next_step_was_taken_before_as_often_as_measured(name, seen):
    """At 32, 64 and 127 names: recall gives it a share above 0, and not the one that it gives to all."""
    n = len(graph_of(name).adjacency)
    nodes = Walks(Dataset(name), 1, "test", "own").drawn(0, 600).states
    said = recall(nodes, n, 10**6)[:, :-1]
    of_next = np.take_along_axis(said, nodes[:, 1:, None], 2)[..., 0]
    for t, share in zip((32, 64, 127), seen):
        assert abs((of_next[:, t - 1] > 1e-3).mean() - share) < 0.05

"""Graphs beside networkx-like statements of them by hand, and bad ones, which are refused before anything is trained."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import laplacian as scipy_laplacian

from worldfast.worlds import cities, walks
from worldfast.worlds.walks import graphs
from worldfast.worlds.walks.graphs import given, graph_of

NAMES = (
    "grid2",
    "grid4",
    "ring3",
    "ring10",
    "hexagonal1",
    "hexagonal2",
    "hexagonal5",
    "random3",
    "random16",
    "cities40",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_graph_is_undirected_connected_and_without_loops(name):
    A, places, titles = graph_of(name)
    assert (A == A.T).all() and not np.diag(A).any() and connected_components(A)[0] == 1
    assert places.shape == (len(A), 2) and len(set(titles)) == len(A)
    np.testing.assert_allclose(graph_of(name).steps.sum(1), 1)
    assert not A.flags.writeable and not places.flags.writeable


@pytest.mark.parametrize(
    "name,nodes,edges,degrees",
    [
        ("grid4", 16, 24, {2, 3, 4}),
        ("ring10", 10, 10, {2}),
        ("hexagonal1", 6, 6, {2}),
        ("hexagonal2", 16, 19, {2, 3}),
        ("hexagonal3", 30, 38, {2, 3}),
        ("random16", 16, 24, None),
    ],
)
def test_nodes_and_edges(name, nodes, edges, degrees):
    A = graph_of(name).adjacency
    assert (len(A), A.sum() // 2) == (nodes, edges)
    assert degrees is None or set(A.sum(1).tolist()) == degrees


def test_neighbours_are_a_step_apart_where_places_are_drawn():
    for name, step in (("grid4", 1), ("hexagonal3", 1), ("ring10", 2 * np.sin(np.pi / 10))):
        A, places, _ = graph_of(name)
        far = np.linalg.norm(places[:, None] - places, axis=2)
        np.testing.assert_allclose(far[A], step)
        assert far[~A & ~np.eye(len(A), dtype=bool)].min() > step + 1e-9


def test_cities_are_neighbours_if_no_third_is_in_the_circle_between_them():
    world = cities.World.cities().largest(40)
    A, xy = graph_of("cities40").adjacency, world.xy.astype(float)
    for i in range(40):
        for j in range(i + 1, 40):
            middle, radius = (xy[i] + xy[j]) / 2, np.linalg.norm(xy[i] - xy[j]) / 2
            inside = np.linalg.norm(xy - middle, axis=1) < radius - 1e-6
            inside[[i, j]] = False
            assert A[i, j] == (not inside.any())


def test_random_graphs_are_drawn_by_their_seed():
    one, other = graph_of("random40", 0).adjacency, graph_of("random40", 1).adjacency
    assert (one == graph_of("random40").adjacency).all() and (one != other).any()
    assert one.sum() == other.sum() == 2 * 60


@pytest.mark.parametrize("name", ["grid4", "random16", "cities40"])
def test_the_laplacian_and_its_eigenvectors(name):
    A = graph_of(name).adjacency
    L = scipy_laplacian(A.astype(float))
    np.testing.assert_allclose(graphs.laplacian(A), L)
    two, values = graphs.spectral(A), np.linalg.eigvalsh(L)
    np.testing.assert_allclose(L @ two, two * values[1:3], atol=1e-9)
    np.testing.assert_allclose(two.T @ two, np.eye(2), atol=1e-9)


def test_a_grid_has_its_coordinates_as_spectral_embedding():
    graph = graph_of("grid4")
    two, y = graphs.spectral(graph.adjacency), graph.places - graph.places.mean(0)
    assert (np.square(two.T @ y).sum(0) / np.square(y).sum(0) > 0.97).all()


def test_a_given_graph():
    A = [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert (given(tuple(map(tuple, A))).adjacency == graph_of("ring4").adjacency).all()
    data = walks.Dataset(adjacency=np.array(A))
    assert data.graph == "given" and data.names == 4 and data == walks.Dataset(adjacency=A)


@pytest.mark.parametrize(
    "adjacency,said",
    [
        ([[0, 1, 0], [1, 0, 1], [1, 1, 0]], "undirected graph, .*: 2 leads to 0, and 0 not to 2; .*chains"),
        ([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], "connected graph: no walk leads from node 0 to 2"),
        ([[1, 1], [1, 0]], "no node that is its own neighbour, such as 0"),
        ([[0, 2], [2, 0]], "a square of 0 and 1"),
        ([[0, 1, 1], [1, 0, 1]], r"a square of 0 and 1, .* got shape \[2, 3\]"),
        ([[0, 1], [1]], "a square of 0 and 1"),
        ([["a", "b"], ["c", "d"]], "a square of 0 and 1"),
        ([[0]], "expected 2 to 512 nodes, got 1"),
        ([4], "a square of 0 and 1"),
    ],
)
def test_bad_given_graphs(adjacency, said):
    with pytest.raises(ValueError, match=f"adjacency: expected .*{said}|adjacency: {said}"):
        walks.Dataset(adjacency=adjacency)


def test_sparse_and_masked_graphs_are_refused_by_name():
    A = graph_of("ring5").adjacency
    with pytest.raises(
        TypeError, match="adjacency: expected a dense array, got a sparse csr_.*: pass adjacency.toarray"
    ):
        walks.Dataset(adjacency=csr_array(A))
    with pytest.raises(TypeError, match="adjacency: expected an array without a mask"):
        walks.Dataset(adjacency=np.ma.array(A))


@pytest.mark.parametrize(
    "name,error,said",
    [
        ("grid", ValueError, "graph: expected a kind and its size, such as 'grid4' or 'ring10', got 'grid'"),
        ("gird4", ValueError, "unknown kind of graph 'gird': did you mean 'grid'"),
        ("grid1", ValueError, "graph: size of a 'grid': expected at least 2, got 1"),
        ("ring1000", ValueError, "graph: size of a 'ring': expected at most 512, got 1000"),
        ("grid-4", ValueError, "graph: expected a kind and its size"),
        (4, TypeError, "graph: expected a kind and its size, .* got 4"),
    ],
)
def test_bad_names(name, error, said):
    with pytest.raises(error, match=said):
        walks.Dataset(name)

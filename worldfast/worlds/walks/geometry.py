"""Measures of the states of nodes beside their graph, and nulls that need no model.

Source: arXiv 2501.00070, and the critique of it (the ICLR 2026 blog post by Arditi) after which the nulls are modelled.

D numbers of a state, n nodes, w walks of T names with common names.
"""

from __future__ import annotations

import numpy as np

from worldfast.analysis import cka
from worldfast.arrays import integers, numbers, plain
from worldfast.errors import one_of, typed, whole
from worldfast.worlds.walks.graphs import MOST, Graph, sides, spectral

__all__ = ["LEAST", "MEASURES", "NULLS", "class_means", "components", "energy", "following", "measures", "mixed"]
__all__ += ["null_states", "placed", "r2_of", "recall", "wide_limit"]

MEASURES = ("energy", "ratio", "r2", "cka", "sides")
NULLS = ("names", "recall", "mixed")
LEAST = 4  # nodes, of fewer of which nothing is measured


# ---- measures ----


def class_means(states: np.ndarray, nodes: np.ndarray, n: int, context: int, window: int) -> np.ndarray:
    """Return the mean state of each node over its visits among the last `window` of the first `context` names.

    Source: arXiv 2501.00070.

    Parameters
    ----------
    states : ndarray
        [w, T, D], at each position of the walks.
    nodes : ndarray
        Integers [w, T], 0 to n - 1.
    n : int
        Nodes of the graph, at most 512.
    context, window : int
        Positions, the former at most T.

    Returns
    -------
    ndarray
        float64 [n, D]; NaN of nodes that are not visited there. `measures` takes it.

    Raises
    ------
    TypeError, ValueError
        The arrays are none of numbers and of nodes in shapes that fit each other, or an integer is out of range.
    """
    n = whole("n", n, 1, MOST)
    nodes = _visited(nodes, n)
    numbers(states, "states", (*nodes.shape, "D"))
    context = whole("context", context, 1, nodes.shape[1])
    part = slice(max(0, context - whole("window", window, 1)), context)
    states = numbers(plain(states, "states")[:, part], "states", None).array(finite=False)
    here = nodes[:, part].ravel() == np.arange(n)[:, None]  # [n, w times window]
    visits = here.sum(axis=1, keepdims=True)
    sums = here @ states.reshape(here.shape[1], -1)
    return np.divide(sums, visits, out=np.full_like(sums, np.nan), where=visits > 0)


def _visited(nodes: np.ndarray, n: int, shape: tuple[str, ...] | None = ("w", "T")) -> np.ndarray:
    """Return walks over n nodes, checked, int64; of any shape where that is None."""
    nodes = integers(nodes, "nodes", shape)
    if len(outside := nodes[(nodes < 0) | (nodes >= n)]):
        raise ValueError(f"nodes: expected 0 to {n - 1}, got {outside[0]}")
    return nodes


def energy(X: np.ndarray, adjacency: np.ndarray) -> float:
    """Return the Dirichlet energy of states [n, D], sum_ij A_ij ||x_i - x_j||^2 = 2 tr(X' L X)."""
    return float((_apart(X) * adjacency).sum())


def _apart(X: np.ndarray) -> np.ndarray:
    X = X - X.mean(axis=0)
    own = np.square(X).sum(axis=1)
    return np.maximum(own[:, None] + own - 2 * X @ X.T, 0)


def components(X: np.ndarray) -> np.ndarray:
    """Return the first two principal components of states [n, D], float64 [n, 2], with their scale."""
    left, sizes, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    found = left[:, :2] * sizes[:2]
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def r2_of(X: np.ndarray, places: np.ndarray) -> float:
    """Return R2 of places [n, d] from two principal components of states [n, D] by least squares, mean of coordinates.

    NaN if a coordinate is constant, or the states are equal.
    """
    two, y = components(X), places - places.mean(axis=0)
    lengths = np.linalg.norm(two, axis=0)
    whole = np.square(y).sum(axis=0)
    if not lengths[0] > 0 or not (whole > 0).all():
        return np.nan
    axes = two[:, lengths > 1e-9 * lengths[0]] / lengths[lengths > 1e-9 * lengths[0]]
    return float((np.square(axes.T @ y).sum(axis=0) / whole).mean())


def measures(X: np.ndarray, graph: Graph) -> dict[str, float]:
    """Measure states of nodes beside their graph.

    Parameters
    ----------
    X : ndarray
        [n, D]; NaN of nodes without a state, which are left out.
    graph : Graph

    Returns
    -------
    dict of str to float
        "nodes", those that have a state; "energy", the Dirichlet energy; "ratio", mean squared distance of neighbours
        over that of all pairs, so that states which shrink are no nearer: 1 of random ones; "r2", of places from two
        principal components; "cka", linear CKA with the spectral embedding of the graph; "sides", R2 of the sides of a
        bipartite graph from two principal components. NaN of fewer than 4 nodes, or if all states are equal; "sides"
        also of other graphs.

    Raises
    ------
    TypeError, ValueError
        There is no such array with a row for each node, or no graph.
    """
    X = numbers(X, "X", (len(_graph(graph).adjacency), "D")).array(finite=False)
    seen = np.isfinite(X).all(axis=1)
    X, adjacency, n = X[seen], graph.adjacency[np.ix_(seen, seen)], int(seen.sum())
    if n < LEAST or not adjacency.any() or not (apart := _apart(X)).max() > 0:
        return {"nodes": n} | dict.fromkeys(MEASURES, np.nan)
    near = float((apart * adjacency).sum())
    return {
        "nodes": n,
        "energy": near,
        "ratio": near / float(adjacency.sum()) / (float(apart.sum()) / (n * (n - 1))),
        "r2": r2_of(X, graph.places[seen]),
        "cka": float(cka(X, spectral(graph.adjacency)[seen])),
        "sides": r2_of(X, sides(graph.adjacency)[seen, None]),
    }


def following(said: np.ndarray, nodes: np.ndarray, graph: Graph) -> np.ndarray:
    """Return the share of the next node that falls to neighbours of the present one: how well the rule is followed.

    Source: the critique of arXiv 2501.00070.

    Parameters
    ----------
    said : ndarray
        [..., n], shares of the next node.
    nodes : ndarray
        Integers [...], the present one.
    graph : Graph

    Returns
    -------
    ndarray
        float64 [...].

    Raises
    ------
    TypeError, ValueError
        The arrays are none of numbers and of nodes in shapes that fit the graph and each other, or there is no graph.
    """
    n = len(_graph(graph).adjacency)
    nodes = _visited(nodes, n, None)
    said = numbers(said, "said", (*nodes.shape, n)).array(finite=False)
    return (said * graph.adjacency[nodes]).sum(axis=-1)


def _graph(graph: Graph) -> Graph:
    return typed("graph", graph, Graph, "a Graph, as `graph_of` returns it")


def placed(X: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return two principal components, turned, mirrored and scaled to lie on places as well as they can: [n, 2].

    Of nodes without a state NaN.
    """
    from scipy.linalg import orthogonal_procrustes

    seen, found = np.isfinite(X).all(axis=1), np.full(places.shape, np.nan)
    if seen.sum() < LEAST:
        return found
    two, y = components(X[seen]), places[seen] - places[seen].mean(axis=0)
    turn, sizes = orthogonal_procrustes(two, y)
    scale = sizes / max(np.square(two).sum(), np.finfo(float).tiny)
    found[seen] = two @ turn * scale + places[seen].mean(axis=0)
    return found


# ---- nulls ----


def recall(nodes: np.ndarray, n: int, names: int) -> np.ndarray:
    """Return what recall of bigrams says of the next node: those that came after the present one before, by how often;
    where there were none, all names alike. Source: the critique of arXiv 2501.00070.

    Parameters
    ----------
    nodes : ndarray
        Integers [w, T], 0 to n - 1.
    n, names : int
        Nodes, at most 512, and names, as many or more: those that no node has are said too where nothing is recalled.

    Returns
    -------
    ndarray
        float64 [w, T, n]. `following` takes it.

    Raises
    ------
    TypeError, ValueError
        There are no such walks, or fewer names than nodes.
    """
    n = whole("n", n, 1, MOST)
    nodes, names = _visited(nodes, n), whole("names", names, n)
    w, T = nodes.shape
    row, counts, said = np.arange(w), np.zeros((w, n, n)), np.empty((w, T, n))
    for t in range(T):
        if t:
            counts[row, nodes[:, t - 1], nodes[:, t]] += 1
        after = counts[row, nodes[:, t]]
        sums = after.sum(axis=1, keepdims=True)
        said[:, t] = np.divide(after, sums, out=np.full_like(after, 1 / names), where=sums > 0)
    return said


def null_states(kind: str, nodes: np.ndarray, vectors: np.ndarray, names: int) -> np.ndarray:
    """Return the states of a null at every position, of a random vector for the name of each node.

    "mixed" is the critique's null (worldfast.worlds.walks.geometry) within a walk, "recall" that of bigrams as states.

    Parameters
    ----------
    kind : {"names", "recall", "mixed"}
        The vector of the present name; the mean of the vectors that recall of bigrams says; or one round of mixing with
        the neighbour before, the vectors of the present name and of the one before it together.
    nodes : ndarray
        Integers [w, T], 0 to n - 1.
    vectors : ndarray
        [n, D], as wide as the states that the null stands beside.
    names : int
        As of `recall`.

    Returns
    -------
    ndarray
        float64 [w, T, D]. `class_means` takes it.

    Raises
    ------
    TypeError, ValueError
        The null is unknown, or there are no such walks, vectors or names.
    """
    one_of("null", kind, NULLS)
    vectors = numbers(vectors, "vectors", ("n", "D")).array()
    nodes, names = _visited(nodes, len(vectors)), whole("names", names, len(vectors))
    if kind == "recall":
        return recall(nodes, len(vectors), names) @ vectors
    states = vectors[nodes]
    if kind == "mixed":
        states[:, 1:] += vectors[nodes[:, :-1]]
    return states


def mixed(vectors: np.ndarray, graph: Graph) -> np.ndarray:
    """Return vectors of nodes after one round of mixing over the whole graph: each with the mean of its neighbours'.

    This alone puts random vectors on the map of a graph. Source: the critique of arXiv 2501.00070.

    Parameters
    ----------
    vectors : ndarray
        [n, D].
    graph : Graph

    Returns
    -------
    ndarray
        float64 [n, D]. `measures` takes it; `wide_limit` is what comes of it for random vectors.

    Raises
    ------
    TypeError, ValueError
        There is no such array with a row for each node, or no graph.
    """
    steps = _graph(graph).steps
    vectors = numbers(vectors, "vectors", (len(steps), "D")).array()
    return vectors + steps @ vectors


def wide_limit(graph: Graph) -> dict[str, float]:
    """Return the measures of random vectors after one round of mixing over the whole graph, once they are wide.

    Normal vectors e of D numbers have E'E / D = 1 in the limit, so that their mixture has the Gram matrix (1 + P)(1 +
    P)', P the steps of a walk, which 1 + P has itself. `energy` is that for a variance of 1 / D.

    Examples
    --------
    >>> from worldfast.worlds import walks
    >>> round(walks.wide_limit(walks.graph_of("grid4"))["ratio"], 2)
    0.57
    """
    return measures(np.eye(len(graph.adjacency)) + graph.steps, graph)

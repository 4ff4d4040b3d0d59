"""Graphs that walks go over: grids, rings, hexagonal lattices, random graphs, neighbouring cities, and given ones.

A graph is undirected, connected and without loops. Which nodes are neighbours follows from whole numbers and draws of a
counter-based generator, so that it is the same on every machine; places are for reading and figures alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from worldfast.errors import one_of, whole
from worldfast.rows import key_of

__all__ = ["KINDS", "MOST", "Graph", "given", "graph_of", "laplacian", "sides", "spectral"]

MOST = 512  # nodes
EACH = 3  # neighbours of a node of a random graph, on average
KINDS = {  # least and most of the size of each
    "grid": (2, 22),
    "ring": (3, MOST),
    "hexagonal": (1, 15),
    "random": (3, MOST),
    "cities": (3, MOST),
}


class Graph(NamedTuple):
    """A graph of n nodes.

    Attributes
    ----------
    adjacency : ndarray
        bool [n, n].
    places : ndarray
        float64 [n, 2], where its nodes are; of graphs without places, the spectral embedding.
    titles : tuple of str
        What its nodes are called in figures, each once: rows and columns, numbers, or cities.
    """

    adjacency: np.ndarray
    places: np.ndarray
    titles: tuple[str, ...]

    @property
    def steps(self) -> np.ndarray:
        """Shares of the next node of a walk, float64 [n, n]: the same for all neighbours."""
        return self.adjacency / self.adjacency.sum(axis=1, keepdims=True)


@lru_cache(maxsize=64, typed=True)  # a draw of 1.0 or True is an error also where 1 has been made
def graph_of(name: str, draw: int = 0) -> Graph:
    """Return the graph of a name: its kind, and its size.

    Parameters
    ----------
    name : str
        "grid4", a square of 4 x 4; "ring10", of 10 nodes; "hexagonal2", a honeycomb of 2 x 2 hexagons, 16 nodes;
        "random16", a connected graph of 16 nodes with 3 neighbours each on average; "cities32", the 32 most populous
        cities, of which two are neighbours if no third is in the circle that has them at its ends (Gabriel's graph).
    draw : int
        Seed of a random graph.

    Raises
    ------
    TypeError, ValueError
        The name is none, or the size is out of range.
    """
    if not isinstance(name, str) or not (found := re.fullmatch(r"([a-z]+)([0-9]{1,9})", name)):
        error = TypeError if not isinstance(name, str) else ValueError
        raise error(f"graph: expected a kind and its size, such as 'grid4' or 'ring10', got {name!r}")
    kind = one_of("kind of graph", found[1], KINDS)
    size = whole(f"graph: size of a {kind!r}", int(found[2]), *KINDS[kind])
    draw = whole("draw", draw)
    made = {"grid": _grid, "ring": _ring, "hexagonal": _hexagonal, "cities": _cities}
    adjacency, places, titles = made[kind](size) if kind in made else _random(size, draw)
    return _graph(adjacency, places, titles)


def _graph(adjacency: np.ndarray, places: np.ndarray | None, titles=None) -> Graph:
    places = spectral(adjacency) if places is None else places
    titles = tuple(map(str, range(len(adjacency)))) if titles is None else tuple(titles)
    for array in (adjacency, places):
        array.flags.writeable = False
    return Graph(adjacency, np.asarray(places, np.float64), titles)


def _linked(n: int, pairs) -> np.ndarray:
    adjacency = np.zeros((n, n), dtype=bool)
    a, b = np.asarray(pairs, np.int64).reshape(-1, 2).T
    adjacency[a, b] = adjacency[b, a] = True
    return adjacency


def _grid(m: int):
    at = np.stack(np.divmod(np.arange(m * m), m), axis=1)  # row and column
    adjacency = abs(at[:, None] - at).sum(axis=-1) == 1
    return adjacency, at[:, ::-1] * [1.0, -1.0], [f"{row + 1}, {column + 1}" for row, column in at.tolist()]


def _ring(n: int):
    angle = 2 * np.pi * np.arange(n) / n
    return _linked(n, [(i, (i + 1) % n) for i in range(n)]), np.stack([np.sin(angle), np.cos(angle)], axis=1), None


def _hexagonal(m: int):
    """A wall of bricks, m rows of m: the same neighbours as a honeycomb, without the two nodes that end nowhere."""
    at = [(i, j) for i in range(m + 1) for j in range(2 * m + 2)]
    alone = {(0, 2 * m + 1), (m, 0 if m % 2 == 0 else 2 * m + 1)}
    at = [one for one in at if one not in alone]
    index = {one: k for k, one in enumerate(at)}
    after = [((i, j), (i, j + 1)) for i, j in at] + [((i, j), (i + 1, j)) for i, j in at if (i + j) % 2 == 0]
    pairs = [(index[a], index[b]) for a, b in after if b in index]
    places = [(j * np.sqrt(3) / 2, -1.5 * i - (0.25 if (i + j) % 2 == 0 else -0.25)) for i, j in at]
    return _linked(len(at), pairs), np.array(places), None


def _random(n: int, draw: int):
    """A node after the other is linked to one before it, then pairs at random; nothing but uniform numbers is drawn."""
    random = np.random.Generator(np.random.Philox(key_of("graph", n, draw)))
    before = np.floor(random.random(n) * np.arange(n)).astype(np.int64)
    adjacency = _linked(n, [(i, before[i]) for i in range(1, n)])
    pairs = np.argwhere(np.triu(~adjacency, 1))
    more = min(len(pairs), EACH * n // 2 - (n - 1))
    chosen = np.argsort(random.random(len(pairs)), kind="stable")[: max(0, more)]
    return adjacency | _linked(n, pairs[chosen]), None, None


def _cities(n: int):
    from worldfast.worlds.cities import World

    world = World.cities().largest(n)
    xy = world.xy.astype(np.int64)
    far = np.square(xy[:, None] - xy).sum(axis=-1)  # [n, n]
    adjacency = np.zeros((n, n), dtype=bool)
    for i in range(n):
        inside = far[i][:, None] + far < far[i]  # [third, j]
        adjacency[i] = ~inside.any(axis=0)
    np.fill_diagonal(adjacency, False)
    titles = [f"{name}, c_{city_id:04d}" for name, city_id in zip(world.name, world.city_id.tolist())]
    return adjacency, xy.astype(np.float64), titles


@lru_cache(maxsize=64)
def given(adjacency: tuple) -> Graph:
    """Return the graph of an adjacency matrix, as nested tuples of 0 and 1.

    Raises
    ------
    ValueError
        It is no square of 0 and 1, or the graph is directed, has loops, is not connected, or is too small or large.
    """
    try:
        found = np.array(adjacency, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("adjacency: expected a square of 0 and 1, a row for each node") from None
    n = len(found)
    if found.shape != (n, n) or not np.isin(found, (0, 1)).all():
        raise ValueError(f"adjacency: expected a square of 0 and 1, a row for each node, got shape {list(found.shape)}")
    if not 2 <= n <= MOST:
        raise ValueError(f"adjacency: expected 2 to {MOST} nodes, got {n}")
    linked = found.astype(bool)
    if (loops := np.flatnonzero(np.diag(linked))).size:
        raise ValueError(f"adjacency: expected no node that is its own neighbour, such as {loops[0]}")
    if (one_way := np.argwhere(linked & ~linked.T)).size:
        i, j = one_way[0]
        raise ValueError(
            f"adjacency: expected an undirected graph, in which neighbours are each other's: {i} leads to {j}, and {j} "
            f"not to {i}; a directed one is a Markov chain, see worldfast.worlds.chains"
        )
    reached = _reached(linked)
    if not reached.all():
        raise ValueError(
            f"adjacency: expected a connected graph: no walk leads from node 0 to {np.flatnonzero(~reached)[0]}"
        )
    return _graph(linked, None)


def _reached(linked: np.ndarray) -> np.ndarray:
    """Return which nodes a walk from the first one comes to, bool [n]."""
    reached = np.arange(len(linked)) == 0
    while (more := linked[reached].any(axis=0) | reached).sum() > reached.sum():
        reached = more
    return reached


def laplacian(adjacency: np.ndarray) -> np.ndarray:
    """Return L = D - A, float64 [n, n]."""
    return np.diag(adjacency.sum(axis=1)).astype(np.float64) - adjacency


def sides(adjacency: np.ndarray) -> np.ndarray:
    """Return which side each node of a bipartite graph is on, 1 or -1, float64 [n]; NaN of a graph that is not one.

    A walk on a bipartite graph, such as a grid, goes from one side to the other at every step.
    """
    from scipy.sparse.csgraph import shortest_path

    side = 1 - 2 * (shortest_path(adjacency, unweighted=True)[0] % 2)
    within = adjacency & (side[:, None] == side)
    return np.full(len(side), np.nan) if within.any() else side


def spectral(adjacency: np.ndarray) -> np.ndarray:
    """Return the spectral embedding, float64 [n, 2]: the eigenvectors of the second and third eigenvalue of L.

    Of all places with that variance it has the least Dirichlet energy. A graph of two nodes has one such eigenvector.
    """
    vectors = np.linalg.eigh(laplacian(adjacency))[1][:, 1:3]
    return np.pad(vectors, ((0, 0), (0, 2 - vectors.shape[1])))

"""Answers and states of a model at every position of walks, with the labels of each walk's own nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.reading import shares
from worldfast.rows import Rows
from worldfast.worlds.walks.dataset import Contexts, Dataset, Walks
from worldfast.worlds.walks.geometry import LEAST, class_means, measures, r2_of

__all__ = ["at_home", "in_context", "packed", "said_by", "states_of", "to_nodes"]


def packed(data: Dataset, read: Contexts, scored: np.ndarray) -> Rows:
    """Return walks as rows, each scored at the same positions [c]."""
    tokens = read.tokens.reshape(-1, data.length).astype(np.int32)
    at = (np.arange(len(tokens))[:, None] * data.length + scored).ravel()
    return Walks(data, 0, "reading").packed(tokens, at)


def to_nodes(said: np.ndarray, read: Contexts) -> np.ndarray:
    """Return what shares of the next name [g, w, c, names] give to each node's: float64 [g, w, c, n]."""
    names = read.names[:, None, None, :]
    return np.take_along_axis(said, np.broadcast_to(names, (*said.shape[:3], names.shape[-1])), axis=3)


def said_by(ensemble, data: Dataset, read: Contexts, at: np.ndarray, **gain) -> np.ndarray:
    """Return what a model says of the next name after positions, float64 [g, w, c, names]."""
    g, w = read.nodes.shape[:2]
    return shares(ensemble, packed(data, read, at), g * w, **gain).reshape(g, w, len(at), -1)


def states_of(ensemble, data: Dataset, read: Contexts, layers: Sequence[int], **gain) -> list[np.ndarray]:
    """Return a model's states at every position, [g, w, T, D] of each layer."""
    found = ensemble.states(packed(data, read, np.arange(data.length)), 0, layers, **gain)
    return [state.numpy(force=True).reshape(*read.nodes.shape, -1) for state in found]


def at_home(X: np.ndarray, names: np.ndarray, data: Dataset, of: str) -> float:
    """Return R2 of the places that names have where they are fixed, from states of nodes [n, D] with names [n].

    NaN of rows with fixed names, where none are trained on, and of fewer than 4 names that have such a place.
    """
    home = data.graph_of("fixed").places
    known = np.isfinite(X).all(axis=1) & (names < len(home)) & bool(of == "own" and data.fixed)
    return r2_of(X[known], home[names[known]]) if known.sum() >= LEAST else np.nan


def in_context(
    states: np.ndarray, data: Dataset, of: str, read: Contexts, at: Sequence[int], window: int
) -> list[dict]:
    """Measure class means of states [g, w, T, D] after some numbers of names: means over the g sets of names.

    "r2_home" is that of `at_home`; "error" is the standard error of "r2".
    """
    graph, found = data.graph_of(of), []
    for context in at:
        each_set = []
        for g, names in enumerate(read.names):
            X = class_means(states[g], read.nodes[g], len(graph.adjacency), context, window)
            each_set.append(measures(X, graph) | {"r2_home": at_home(X, names, data, of)})
        table = {name: np.array([one[name] for one in each_set], float) for name in each_set[0]}
        error = table["r2"].std(ddof=1) / np.sqrt(len(each_set)) if len(each_set) > 1 else np.nan
        found.append({"context": int(context)} | {k: float(v.mean()) for k, v in table.items()} | {"error": error})
    return found

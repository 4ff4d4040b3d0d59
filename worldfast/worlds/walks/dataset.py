"""Walks on graphs as a dataset: a model reads names of nodes, and learns which comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from worldfast import dataset
from worldfast.arrays import refuse
from worldfast.dataset import Readout, Score, nested
from worldfast.errors import number, one_of, several, typed, whole
from worldfast.rows import LAST_ROW, MOST_INPUTS, Shape, key_of, require_split
from worldfast.worlds.walk_rows import LIMITS, WHOLE, Sampler, thresholds
from worldfast.worlds.walks.graphs import Graph, given, graph_of

__all__ = ["ROWS_OF", "Contexts", "Dataset", "Walks", "contexts"]

ROWS_OF = ("all", "fixed", "own")  # rows as they are trained on; of fixed names; of names of their own
PARTS = 4  # groups of nodes, from left to right
VISITS = 16  # at most, whose states stand side by side in a readout


@dataclass(frozen=True)
class Dataset(dataset.Dataset):
    """Walks on a graph that a model never sees: from a node, drawn evenly, to neighbours, drawn evenly. Source: arXiv
    2501.00070, where a language model read such rows; here models are trained on them.

    In some of the rows each node has a fixed name, so that names have a map that can be learned; in the others names
    are given to nodes anew, so that a map of theirs can come from the context alone. A name is a token. There are no
    tokens for begin and end, and the loss is that of all next names.

    Parameters
    ----------
    graph : str
        Graph of the rows with names of their own: "grid4", "ring10", "hexagonal2", "random16", "cities32"; see
        worldfast.worlds.walks.graph_of.
    fixed : float
        Share of the rows with fixed names.
    home : str
        Graph of those; "" means the same.
    length : int
        Names of a row.
    rows : int
        Rows of an epoch; those of later epochs are the same again.
    names : int
        Tokens, of which the nodes of a row have some; 0 means as many as there are nodes. Node i of `home` has the
        fixed name i.
    draw : int
        Seed of random graphs.
    adjacency : sequence, optional
        Adjacency matrix [n, n] of a graph of one's own, of 0 and 1, in place of `graph`.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> from worldfast.worlds import walks
    >>> data = walks.Dataset("grid4", fixed=0.5, rows=2000)
    >>> rows = data.stream(seed=0).batch(0, 32)
    >>> rows.inputs.shape, rows.targets.shape
    (torch.Size([4096]), torch.Size([4064]))
    """

    graph: str = "grid4"
    fixed: float = 0.0
    home: str = ""
    length: int = 128
    rows: int = 1_000_000
    names: int = 0
    draw: int = 0
    adjacency: tuple = ()

    def __post_init__(self):
        for name, (least, most) in {
            "length": (2, LIMITS["length"]),
            "rows": (1, LAST_ROW),
            "draw": (0, 2**63 - 1),
        }.items():
            self._set(name, whole(name, getattr(self, name), least, most))
        refuse(self.adjacency, "adjacency")
        self._set("adjacency", nested(several("adjacency", self.adjacency, "a square of 0 and 1")))
        if self.adjacency:
            self._set("adjacency", nested(given(self.adjacency).adjacency.astype(int)))  # equal ones have one identity
            if self.graph not in (Dataset.graph, "given"):
                raise ValueError(f"graph: expected none beside an adjacency matrix, got {self.graph!r}")
            self._set("graph", "given")
        typed("home", self.home, str, "the name of a graph, or ''")
        nodes = {of: len(self.graph_of(of).adjacency) for of in ("own", "fixed")}
        self._set("fixed", number("fixed", self.fixed))
        if not 0 <= self.fixed <= 1:
            raise ValueError(f"fixed: expected a share from 0 to 1, got {self.fixed}")
        largest = max(nodes, key=nodes.__getitem__)
        self._set("names", whole("names", self.names, 0, LIMITS["names"]) or nodes[largest])
        if self.names < nodes[largest]:
            graph = self.home if largest == "fixed" and self.home else self.graph
            raise ValueError(
                f"names: expected at least {nodes[largest]}, one for each node of {graph!r}, got {self.names}"
            )

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    # ---- what it is ----

    def graph_of(self, of: str) -> Graph:
        """Return the graph of the rows with names of their "own", or of those with "fixed" names."""
        if of == "fixed" and self.home:
            return graph_of(self.home, self.draw)
        return given(self.adjacency) if self.adjacency else graph_of(self.graph, self.draw)

    @property
    def label(self) -> str:
        share = f"-fixed{self.fixed:g}" if self.fixed else ""
        return f"{self.graph}{share}{f'-on-{self.home}' if share and self.home else ''}"

    @property
    def vocabulary(self) -> str:  # type: ignore[override]  # that of its names
        return f"{self.names} names"

    @property
    def shape(self) -> Shape:
        return Shape(self.names, self.names)

    @property
    def epoch_rows(self) -> int:
        return self.rows

    @cached_property
    def longest(self) -> int:
        return self.length

    def content(self) -> Mapping[str, Any]:
        own, fixed = (self.graph_of(of).adjacency.astype(np.int8) for of in ("own", "fixed"))
        walks = "to even neighbours from an even node, a word of SplitMix64 a step; names drawn or fixed by the row"
        return {"walks": walks, "neighbours": own, "neighbours of fixed names": fixed}

    def check(self, model) -> None:
        """Raise ValueError if a model of this spec cannot say every name."""
        if getattr(model, "outputs", None) not in (None, self.names):
            raise ValueError(f"model.outputs: expected {self.names}, the names, or None, got {model.outputs}")

    # ---- what it gives ----

    def stream(self, seed: int, split: str = "train") -> Walks:
        return Walks(self, seed, require_split(split))

    def readout(  # type: ignore[override]  # the options of this world by name
        self, at: str = "nodes", walks: int = 64, names: str = "own", context: int | None = None
    ) -> Readout:
        """Return walks with common names, at whose positions a model is read.

        Walks and names are the same for every share of rows with fixed names, so that models of all are read alike.

        Parameters
        ----------
        at : {"nodes", "positions"}
            Things are the nodes, each read where it was last in some of the walks, as many for each node and at most
            16, whose states stand side by side; or every position of every walk.
        walks : int
        names : {"own", "fixed"}
            Names of the nodes: drawn for these walks, or the fixed ones.
        context : int, optional
            Names of each walk that are read; by default, all.

        Returns
        -------
        Readout
            Attributes are x and y of the node that has the name, in its walk. Groups are four parts of the graph from
            left to right.

        Raises
        ------
        ValueError
            The context is longer than a row, or some node is in none of the walks.
        """
        one_of("at", at, ("nodes", "positions"))
        one_of("names", names, ROWS_OF[1:])
        n = whole("walks", walks, 1, MOST_INPUTS // self.length)
        T = self.length if context is None else whole("context", context, 1, self.length)
        graph, read = self.graph_of(names), contexts(self, names, 0, "readout", 1, n)
        tokens, nodes = read.tokens[0, :, :T], read.nodes[0, :, :T]
        N = len(graph.adjacency)
        if at == "positions":
            things, scored, order = nodes.ravel(), np.arange(n * T), None
            titles = [f"walk {i} at {t}, {graph.titles[nodes[i, t]]}" for i in range(n) for t in range(T)]
        else:
            visits = _last_visits(nodes, N)
            things, scored = np.arange(N), np.sort(visits, axis=None)
            order = np.searchsorted(scored, visits.ravel())
            titles = [
                f"{title} of {self.graph if names == 'own' else self.home or self.graph}" for title in graph.titles
            ]
        part = np.argsort(np.argsort(graph.places[:, 0], kind="stable")) * PARTS // N  # of each node
        return Readout(
            rows=Walks(self, 0, "readout", names).packed(tokens, scored),
            things=np.arange(len(things), dtype=np.int32),
            attributes=graph.places[things],
            columns=("x", "y"),
            groups={f"part {p + 1} of {PARTS}": part[things] == p for p in range(PARTS)},
            about={"at": at, "walks": n, "names": names, "context": T, "named": read.names[0].tolist()},
            order=order,
            entities=np.array(titles),
        )

    def score(self, ensemble, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        """Score a member's most likely next names in n rows with fixed names and with names of their own.

        The value is the share that are neighbours of the present node; the constant answer is the best single name.
        """
        found = {}
        for of in self.tried:
            stream, adjacency = Walks(self, seed, require_split(split), of), self.graph_of(of).adjacency
            walked, N = stream.drawn(0, n), len(adjacency)
            nodes, names = walked.states[:, :-1], walked.names[:, :N].astype(np.int64)
            scored = np.arange(n * self.length).reshape(n, -1)[:, :-1].ravel()
            said = ensemble.outputs(stream.packed(walked.tokens, scored), member).numpy(force=True).argmax(1)
            named = np.full((n, self.names), N)  # the node that has each name; N: none
            np.put_along_axis(named, names, np.arange(N)[None], axis=1)
            said = np.take_along_axis(named, said.reshape(n, -1), axis=1)
            right = np.pad(adjacency, ((0, 0), (0, 1)))[nodes, said]
            visits, answers = np.zeros((n, N)), np.zeros(self.names)
            np.add.at(visits, (np.arange(n)[:, None], nodes), 1)
            np.add.at(answers, names, visits @ adjacency)  # positions at which each name would be right
            found[of] = Score(float(right.mean()), float(answers.max() / right.size), n, unparsable=0)
        return found

    @property
    def tried(self) -> tuple[str, ...]:
        """Rows that models are tried on: of fixed names only where some are trained on."""
        return ROWS_OF[1:] if self.fixed else ROWS_OF[2:]


def _last_visits(nodes: np.ndarray, n: int) -> np.ndarray:
    """Return where each node was last, in as many of the walks [w, T] for each: positions of all, int64 [n, p]."""
    w, T = nodes.shape
    back = nodes[:, ::-1, None] == np.arange(n)
    last = np.where(back.any(axis=1), T - 1 - back.argmax(axis=1), -1)  # [w, n]
    fewest = (last >= 0).sum(axis=0)
    if (never := np.flatnonzero(fewest == 0)).size:
        raise ValueError(
            f"walks: none of {w} of {T} names comes to node {never[0]}: take more walks or a longer context"
        )
    first = np.argsort(last < 0, axis=0, kind="stable")[: min(VISITS, fewest.min())]  # walks that come there
    return (first * T + np.take_along_axis(last, first, axis=0)).T


class Contexts(NamedTuple):
    """Walks for reading: g times w of them, of which w have common names.

    Attributes
    ----------
    tokens, nodes : ndarray
        int64 [g, w, T].
    names : ndarray
        int64 [g, n], the token of each node.
    """

    tokens: np.ndarray
    nodes: np.ndarray
    names: np.ndarray


@lru_cache(maxsize=8)
def contexts(data: Dataset, of: str, seed: int, split: str, g: int, w: int) -> Contexts:
    """Draw walks for reading, with fixed names or with g sets of names of their own; the same for every share."""
    n = len(data.graph_of(of).adjacency)
    nodes = Walks(data, seed, split, of).drawn(0, g * w).states.reshape(g, w, -1)
    names = np.broadcast_to(np.arange(n), (g, n))
    if of == "own":
        random = np.random.Generator(np.random.Philox(key_of("names for reading", seed, split)))
        names = np.argsort(random.random((g, data.names)), axis=1, kind="stable")[:, :n]
    tokens = np.take_along_axis(names, nodes.reshape(g, -1), axis=1).reshape(nodes.shape)
    return Contexts(tokens, nodes, names)


class Walks(Sampler):
    """Walks of a dataset, seed and split: a worldfast.rows.Stream.

    Of two chains, the first one's rows have fixed names, and the second one's have names of their own.

    Parameters
    ----------
    data : Dataset
    seed : int
    split : str
    of : {"all", "fixed", "own"}
        Rows as models are trained on, or of one kind alone.
    """

    def __init__(self, data: Dataset, seed: int, split: str = "train", of: str = "all"):
        one_of("rows", of, ROWS_OF)
        graphs = [data.graph_of(kind) for kind in ROWS_OF[1:]]
        S = max(len(graph.adjacency) for graph in graphs)
        steps, first = np.zeros((2, S, S)), np.zeros((2, S))
        for i, graph in enumerate(graphs):
            n = len(graph.adjacency)
            steps[i, :n, :n], first[i, :n] = graph.steps, 1 / n
        fixed = {"all": data.fixed, "fixed": 1.0, "own": 0.0}[of]
        followed = thresholds(steps, first, np.array([fixed, 1 - fixed]))
        key = key_of("walks on graphs", whole("seed", seed), split, of)
        renamed = np.array([0, WHOLE], np.int64)
        super().__init__(key, *followed, data.names, renamed, data.length, data.rows)

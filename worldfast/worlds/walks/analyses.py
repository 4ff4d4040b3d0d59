"""Analyses of models of walks: does the map of a context form in their states, and does it beat nulls without a model?

Source: arXiv 2501.00070. What is measured of states is in worldfast.worlds.walks.geometry. Every null is read in the
same walks, at the same positions, as the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldfast.analysis import (
    cka_over_training,
    film_table,
    held_out,
    linear_probe,
    pca_over_training,
    probe_over_training,
)
from worldfast.run import Run
from worldfast.studies import ANALYSES as OF_ANY_WORLD
from worldfast.studies import Analysis, Trained, each, layer_of, models_of, shown, with_heads
from worldfast.training import load
from worldfast.worlds.walk_rows import contexts_of
from worldfast.worlds.walks.dataset import contexts
from worldfast.worlds.walks.geometry import (
    NULLS,
    class_means,
    components,
    following,
    measures,
    mixed,
    null_states,
    placed,
    recall,
)
from worldfast.worlds.walks.heads import ablation, heads
from worldfast.worlds.walks.reading import at_home, in_context, said_by, states_of, to_nodes

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ANALYSES"]

DRAWS = 16  # sets of random vectors, over which nulls of places are averaged
SHARE, PLACED = 0.5, 8  # of nodes, on which the places that a page draws are tried; and the least number of nodes
READ = {"namings": 8, "walks": 32, "window": 32}


def geometry(trained: Sequence[Trained], layers: Sequence[int], namings: int, walks: int, window: int) -> DataFrame:
    """The map of a context in a model's states, over training, layers and context.

    Columns run, step, rows, layer, names ("own", or "fixed"), context, nodes (visited in the window, mean), energy,
    ratio, r2, cka, sides (as of geometry.measures), r2_home, error.
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    at = contexts_of(data.length)
    for step, ensemble in models_of(one):
        for of in data.tried:
            read = contexts(data, of, one.run.seed, "reading", namings, walks)
            for layer, states in zip(layers, states_of(ensemble, data, read, layers)):
                about = one.where(step) | {"layer": layer, "names": of}
                table += [about | found for found in in_context(states, data, of, read, at, window)]
    return pd.DataFrame(table)


def rule(trained: Sequence[Trained], namings: int, walks: int) -> DataFrame:
    """Share of the next name that a model gives to neighbours, which the rule asks for, over training and context.

    Columns run, step, rows, names, context, following.
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    counts = contexts_of(data.length)
    for step, ensemble in models_of(one):
        for of in data.tried:
            read, graph = contexts(data, of, one.run.seed, "reading", namings, walks), data.graph_of(of)
            said = to_nodes(said_by(ensemble, data, read, counts - 1), read)
            mass = following(said, read.nodes[:, :, counts - 1], graph).mean(axis=(0, 1))
            about = one.where(step) | {"names": of}
            table += [about | {"context": int(c), "following": float(f)} for c, f in zip(counts, mass)]
    return pd.DataFrame(table)


def nulls(trained: Sequence[Trained], namings: int, walks: int, window: int) -> DataFrame:
    """The same measures without a model, of random vectors as wide as the run's states, in the same walks.

    Columns run, names, of ("names": vectors alone; "recall" of bigrams; "mixed" with the name before; "whole graph":
    mixed with all neighbours, at every context), context, nodes, measures as of `geometry`, r2_home (what chance gives:
    nulls know nothing of fixed names), error, following: the share that recall gives to neighbours; of mixed states the
    share whose nearest other name is that of a neighbour.
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    counts, width = contexts_of(data.length), one.run.model.hidden
    random = np.random.default_rng(one.run.seed)
    for of in data.tried:
        graph, read = data.graph_of(of), contexts(data, of, one.run.seed, "reading", namings, walks)
        n, nodes = len(graph.adjacency), read.nodes
        vectors = random.normal(size=(namings, n, width))
        said = np.stack([recall(of_set, n, data.names)[:, counts - 1] for of_set in nodes])
        mass = {"recall": following(said, nodes[:, :, counts - 1], graph).mean(axis=(0, 1))}
        for kind in NULLS:
            states = np.stack([null_states(kind, *pair, data.names) for pair in zip(nodes, vectors)])
            if kind == "mixed":
                mass[kind] = nearest(states[:, :, counts - 1], vectors, nodes[:, :, counts - 1], graph.adjacency)
            for i, found in enumerate(in_context(states, data, of, read, counts, window)):
                follows = float(mass[kind][i]) if kind in mass else np.nan
                table.append({"run": one.name, "names": of, "of": kind} | found | {"following": follows})
        whole = np.stack([mixed(of_set, graph) for of_set in vectors])
        each_set = pd.DataFrame(
            [measures(X, graph) | {"r2_home": at_home(X, names, data, of)} for X, names in zip(whole, read.names)]
        )
        all_nodes = np.broadcast_to(np.arange(n), (namings, 1, n))
        follows = float(nearest(whole[:, None], vectors, all_nodes, graph.adjacency).mean())
        rest = {"error": each_set["r2"].std() / np.sqrt(namings), "following": follows}
        about = {"run": one.name, "names": of, "of": "whole graph"}
        table += [about | {"context": int(c)} | dict(each_set.mean()) | rest for c in counts]
    return pd.DataFrame(table)


def nearest(states: np.ndarray, vectors: np.ndarray, nodes: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """Return the share of states that are nearest to a neighbour's name, besides that of their own node: float64 [c].

    Parameters
    ----------
    states : ndarray
        [g, w, c, D].
    vectors : ndarray
        [g, n, D], of names.
    nodes : ndarray
        Integers [g, w, c].
    adjacency : ndarray
        bool [n, n].
    """
    near = np.einsum("gwcd,gnd->gwcn", states, vectors)
    np.put_along_axis(near, nodes[..., None], -np.inf, axis=3)
    return adjacency[nodes, near.argmax(axis=3)].mean(axis=(0, 1))


# ---- maps ----


def maps(trained: Sequence[Trained], layer: int, walks: int, window: int) -> DataFrame:
    """Two principal components of class means at the end, and those of nulls, at four contexts, laid on the graph.

    Columns run, names, of ("model", "recall", "mixed"), context, node, x, y (NaN: not visited), neighbours (nodes,
    separated by spaces). One set of names.
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    data, table = run.data, []
    for of in data.tried:
        graph, read = data.graph_of(of), contexts(data, of, run.seed, "reading", 1, walks)
        n = len(graph.adjacency)
        vectors = np.random.default_rng(run.seed).normal(size=(n, run.model.hidden))
        states = {"model": states_of(ensemble, data, read, [layer])[0][0]}
        states |= {kind: null_states(kind, read.nodes[0], vectors, data.names) for kind in NULLS[1:]}
        neighbours = [" ".join(map(str, np.flatnonzero(line))) for line in graph.adjacency]
        for kind, found in states.items():
            for context in contexts_of(data.length)[-4:]:
                xy = placed(class_means(found, read.nodes[0], n, context, window), graph.places)
                about = {"run": one.name, "names": of, "of": kind, "context": int(context), "node": np.arange(n)}
                table.append(pd.DataFrame(about | {"x": xy[:, 0], "y": xy[:, 1], "neighbours": neighbours}))
    return pd.concat(table, ignore_index=True)


# ---- of captured states, for the page ----


class Means:
    """Activations of nodes whose visits stand side by side: their mean, or its first two principal components."""

    def __init__(self, one: Trained, two: bool = False):
        self.read, self.two, self.width = one.activations, two, one.run.model.hidden
        self.steps, self.layers, self.entities = self.read.steps, self.read.layers, self.read.entities

    def __getitem__(self, key) -> np.ndarray:
        X = self.read[key]
        X = X.reshape(len(X), -1, self.width).astype(np.float64).mean(axis=1)
        return components(X) if self.two else X


def probes(trained: Sequence[Trained]) -> DataFrame:
    """Places that follow from two principal components of nodes, at every checkpoint and layer, tried on half of them.

    Columns run, layer, step, rows, r2_x, r2_y, r2 (their mean), n_fitted, n_held_out, ridge (the penalty; 0: none), and
    "null names", "null recall", "null mixed", "null whole graph": R2 of those nulls (`nulls`) in the same walks.
    """
    import pandas as pd

    (one,) = trained
    read, places, table = Means(one, two=True), one.activations.attributes, []
    test = held_out(len(places), SHARE)
    beside = placed_nulls(one.run, places, test)
    for layer in read.layers:
        for step, found in zip(read.steps, probe_over_training(read, layer, places, test)):
            off = np.square(found.predicted - places)[test].sum(axis=0)
            x, y = 1 - off / np.square(places[test] - places[test].mean(axis=0)).sum(axis=0)
            at = {"run": one.name, "layer": layer, "step": step, "rows": one.run.rows_at(step)[0]}
            counts = {"n_fitted": int((~test).sum()), "n_held_out": int(test.sum()), "ridge": 0.0}
            table.append(at | {"r2_x": x, "r2_y": y, "r2": (x + y) / 2} | counts | beside)
    return pd.DataFrame(table)


def placed_nulls(run: Run, places: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return R2 of places that follow from two components of nulls, where a run's own states are read.

    Parameters
    ----------
    run : Run
    places : ndarray
        float64 [n, 2], of the things of its readout.
    test : ndarray
        bool [n], things that the places are not fitted on.

    Returns
    -------
    dict of str to float
        "null " and the name of a null -> mean over x, y and DRAWS sets of random vectors as wide as the states.
    """
    readout = run.readout()
    how, scored = readout.about, readout.rows.scored.numpy(force=True)
    graph = run.data.graph_of(how["names"])
    nodes = contexts(run.data, how["names"], 0, "readout", 1, how["walks"]).nodes[0, :, : how["context"]]
    visits = (scored if readout.order is None else scored[readout.order]).reshape(len(places), -1)  # [n, visits]
    random, found = np.random.default_rng(run.seed), {}
    for kind in (*NULLS, "whole graph"):
        each_set = []
        for _ in range(DRAWS):
            vectors = random.normal(size=(len(graph.adjacency), run.model.hidden))
            if kind == "whole graph":
                X = mixed(vectors, graph)[nodes.ravel()[visits[:, 0]]]
            else:
                states = null_states(kind, nodes, vectors, run.data.names)
                X = states.reshape(nodes.size, -1)[visits].mean(axis=1)
            each_set.append(float(linear_probe(components(X), places, test).r2.mean()))
        found[f"null {kind}"] = float(np.mean(each_set))
    return found


def films(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Nodes as a model has them after whole rows, over training, as of `film_table`: their first components, and the
    places that follow from two of them.
    """
    (one,) = trained
    places = one.activations.attributes
    test = held_out(len(places), SHARE)
    found = film_table(Means(one), layer, test, things=one.things, run=one.name)
    moments = probe_over_training(Means(one, two=True), layer, places, test)
    predicted = np.concatenate([moment.predicted for moment in moments]).astype(np.float32)
    return found.assign(predicted_x=predicted[:, 0], predicted_y=predicted[:, 1])


def pca(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Share of the variance along the three components of `films`. Columns run, layer, component, explained."""
    import pandas as pd

    (one,) = trained
    explained = pca_over_training(Means(one), layer, 3).explained
    return pd.DataFrame({"run": one.name, "layer": layer, "component": [1, 2, 3], "explained": explained})


def cka(trained: Sequence[Trained], layer: int) -> DataFrame:
    """Linear CKA of all pairs at shares of their training, of the mean states of nodes."""
    return cka_over_training({one.name: Means(one) for one in trained}, layer)


# ---- of a study ----


def mapped(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs of graphs of enough nodes that half of them can be placed by the others."""
    return [(run,) for run in finished if len(run.data.graph_of("own").adjacency) >= PLACED]


def mapped_and_shown(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    return mapped(study, [run for (run,) in shown(study, finished)])


def layers_of(study) -> dict:
    """Return the layers that every model has."""
    return {"layers": list(range(1, min(run.model.layers for run in study.runs) + 1))}


def read_by(*names: str, **more):
    """Return options by which models are read, and further ones."""
    return lambda study: {name: READ[name] for name in names} | {k: v(study) for k, v in more.items()}


OF: Mapping[str, Analysis] = {one.kind: one for one in OF_ANY_WORLD}
ALL = ("namings", "walks", "window")
ANALYSES = (
    OF["evaluation"],
    Analysis("probes", probes, mapped),
    Analysis("films", films, mapped_and_shown, layer_of),
    Analysis("pca", pca, mapped_and_shown, layer_of),
    Analysis("cka", cka, OF["cka"].runs_of, layer_of),
    Analysis("rule", rule, each, read_by("namings", "walks")),
    Analysis("geometry", geometry, each, lambda study: READ | layers_of(study)),
    Analysis("nulls", nulls, each, read_by(*ALL)),
    Analysis("heads", heads, with_heads),
    Analysis("ablation", ablation, with_heads, lambda study: READ | {"namings": 4} | layer_of(study)),
    Analysis("maps", maps, shown, lambda study: {name: READ[name] for name in ALL[1:]} | layer_of(study)),
)

"""A call that works of every public entry that takes numbers, arrays, texts or specs: torture/fuzz.py changes them.

Entries that train, draw figures or write files stand in base/test_entries.py, where each is called wrongly: a call with
other numbers that is right may take hours.
"""

import numpy as np
import torch

import worldfast as wf
from worldfast import analysis
from worldfast.models import GPTSpec
from worldfast.worlds import chains, cities, factors, walks

random = np.random.default_rng(7)
X, Y = (random.normal(size=(24, width)).astype(np.float32) for width in (5, 3))
XY = random.normal(size=(24, 2))
TEST = np.arange(24) % 4 == 0
WORLD = wf.World.from_array(random.integers(-200, 200, (30, 2)).astype(np.int32), region=["Here", "There"] * 15)
MODEL = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=24)
DATA = cities.Dataset("distance", rows=32)
TRIALS = factors.Dataset(n=4, steps=3, rows=64).stream(0)
CHAINS = chains.Dataset(chains=3, states=5, length=12, rows=64)
WALKS = walks.Dataset("ring10", length=40, rows=64)
SHARES = random.dirichlet(np.ones(5), (3, 6, 2))
ENSEMBLE = MODEL.build(CHAINS.shape)
ENSEMBLE.initialise(0, seed=0)


def made(kind, *names):
    """Return a function of values by position, for a class or function that takes them by name."""
    return lambda *values: kind(**dict(zip(names, values)))


def spec(kind, **fields):
    """Return (function, arguments) that make a spec of these fields."""
    return made(kind, *fields), [*fields.values()]


def taken(stream, start, n):
    return stream.pack(start, min(n, 64)) if isinstance(n, int) else stream.pack(start, n)


def few(n):
    """Return a number that is at most 64: more of them would only take longer."""
    return min(n, 64) if isinstance(n, int) else n


def drawn(prompts, longest, draws, temperature, top_k, seed, end):
    how = dict(draws=few(draws), temperature=temperature, top_k=top_k, seed=seed, end=end)
    return ENSEMBLE.sample(prompts, few(longest), **how)


def calls():
    """Return {name: (function, arguments)}."""
    vocabulary = cities.Vocabulary("character", WORLD)
    stream = cities.Stream(WORLD, [wf.Component("distance", 40), wf.Component("angle", 30)], seed=1)
    q = [torch.from_numpy(random.normal(size=(9, 2, 8)).astype(np.float32)) for _ in range(3)]
    task, sampled = cities.TASKS["distance"], [WORLD, "distance", 5]
    return {
        "cka": (wf.cka, [X, Y, "linear", False]),
        "cka rbf": (made(wf.cka, "X", "Y", "kernel", "bandwidth"), [X, Y, "rbf", 1.0]),
        "cka of components": (made(wf.cka, "X", "Y", "components"), [X, Y, 2]),
        "cka_matrix": (wf.cka_matrix, [[X, Y, X], "linear", True]),
        "cka_minibatch": (wf.cka_minibatch, [[X, Y], 8]),
        "cka_standard_error": (wf.cka_standard_error, [[X, Y]]),
        "gram_statistics": (lambda *given: wf.gram_statistics(*given).hsic(), [[X, Y]]),
        "procrustes": (analysis.procrustes, [X, Y, 2]),
        "mutual_knn": (analysis.mutual_knn, [X, Y, 5, "cosine"]),
        "participation_ratio": (analysis.participation_ratio, [X]),
        "two_nn": (analysis.two_nn, [X, 0.1]),
        "linear_probe": (analysis.linear_probe, [X, XY, TEST, 0.1]),
        "probe_generalisation": (analysis.probe_generalisation, [X, XY, ~TEST, {"rest": TEST}]),
        "held_out": (analysis.held_out, [24, 0.2, 3]),
        "mean_and_error": (analysis.mean_and_error, [XY[:, 0], "seed"]),
        "jackknife_error": (analysis.jackknife_error, [XY[:, 0]]),
        "left_out": (analysis.left_out, [X, XY, np.arange(24) % 3, TEST, 0.5, 1.0]),
        "adam_decoders": (analysis.adam_decoders, [X, XY, np.arange(24).reshape(2, 3, 4), 1e-2, 3]),
        "angles": (analysis.angles, [X[:, :3]]),
        "r2_of": (analysis.r2_of, [XY, XY + 1, 0.5]),
        "sparsity": (analysis.sparsity, [X]),
        "mixed_selectivity": (analysis.mixed_selectivity, [X, (4, 6)]),
        "attention": (wf.attention, [*q, torch.tensor([0, 4, 9], dtype=torch.int32), 1e4]),
        "label": (wf.label, ["distance", WORLD, np.arange(6, dtype=np.int32).reshape(3, 2)]),
        "label of points": (made(wf.label, "task", "xy"), ["crossing", np.arange(16, dtype=np.int32).reshape(2, 4, 2)]),
        "sample": (made(wf.sample, "world", "task", "n", "seed"), [*sampled, 3]),
        "sample of tasks": (made(wf.sample, "world", "task", "n", "noise"), [WORLD, ["distance", "angle"], 5, 0.2]),
        "sample somewhere": (made(wf.sample, "world", "task", "n", "start", "split"), [*sampled, 4, "test"]),
        "sample of a vocabulary": (made(wf.sample, "world", "task", "n", "vocabulary"), [*sampled, "entity"]),
        "Stream": (made(cities.Stream, "world", "components", "seed"), [WORLD, [wf.Component("distance", 40)], 3]),
        "pack of a stream": (lambda *given: taken(stream, *given), [2, 5]),
        "Component": (wf.Component, ["distance", 40]),
        "World.from_array": (wf.World.from_array, [WORLD.xy, WORLD.city_id, WORLD.name.tolist()]),
        "World.select": (lambda which: WORLD.select(which), ['region == "Here" and x < 10']),
        "World.largest": (lambda n: WORLD.largest(n), [10]),
        "World.with_atlantis": (lambda *given: WORLD.with_atlantis(*given), [3, 42, "clustered"]),
        "WorldSpec": spec(wf.WorldSpec, source="cities", atlantis=3, layout="clustered", atlantis_seed=42, largest=9),
        "encode": (vocabulary.encode, ["distance(c_0001,c_0002)=5"]),
        "decode": (vocabulary.decode, [[1, 2, 3, 4]]),
        "score of a task": (task.score, [np.arange(3), ["1", "2", "x"]]),
        "parse of a task": (task.parse, ["12"]),
        "Dataset": spec(cities.Dataset, tasks=("distance", "angle"), rows=32, loss="answer", vocabulary="entity"),
        "readout": (made(DATA.readout, "among", "prompt"), ["index < 5", "dist({city},"]),
        "TransformerSpec": spec(wf.TransformerSpec, hidden=16, layers=1, heads=2, intermediate=24),
        "RecurrentSpec": spec(wf.RecurrentSpec, hidden=16, layers=1),
        "GPTSpec": spec(GPTSpec, hidden=16, layers=1, heads=2, intermediate=24, dropout=0.1),
        "factors.Dataset": spec(factors.Dataset, questions="even", n=4, rows=32, sigma=0.2, steps=3, correlation=0.5),
        "factors.Dataset of products": spec(factors.Dataset, questions="products", n=8, thresholds=(0.1, 0.2)),
        "rows of factors": (lambda start, n: TRIALS.batch(start, min(n, 64) if isinstance(n, int) else n), [2, 5]),
        "readout of factors": (made(TRIALS.data.readout, "trials", "positions", "sigma"), [64, (0, 3), 0.1]),
        "chains.Dataset": spec(chains.Dataset, chains=4, states=10, length=9, law="blocks", prior="equal", draw=1),
        "chains.Dataset of matrices": spec(chains.Dataset, transitions=(((0.5, 0.5), (0.9, 0.1)),), rows=9),
        "rows of chains": (lambda start, n: CHAINS.stream(0).batch(start, few(n)), [2, 5]),
        "readout of chains": (lambda n, *given: CHAINS.readout(few(n), *given), [8, "fresh", 3]),
        "predict": (chains.predict, [CHAINS.set_of("trained"), random.integers(0, 5, (4, 9)), [0, 8], ["Bi-Ret"]]),
        "divergence": (chains.divergence, [SHARES[0], SHARES[0]]),
        "interpolate": (chains.interpolate, [SHARES[0], SHARES]),
        "walks.Dataset": spec(walks.Dataset, graph="grid4", fixed=0.5, home="ring10", length=9, names=20, draw=1),
        "walks.Dataset of a graph": spec(walks.Dataset, adjacency=((0, 1, 0), (1, 0, 1), (0, 1, 0)), rows=9),
        "rows of walks": (lambda start, n: WALKS.stream(0).batch(start, few(n)), [2, 5]),
        "readout of walks": (lambda at, n, *given: WALKS.readout(at, few(n), *given), ["nodes", 32, "own", 40]),
        "class_means": (walks.class_means, [random.normal(size=(2, 7, 3)), random.integers(0, 5, (2, 7)), 5, 7, 4]),
        "following": (walks.following, [SHARES[0], random.integers(0, 5, (6, 2)), walks.graph_of("ring5")]),
        "mixed": (walks.mixed, [random.normal(size=(10, 3)), WALKS.graph_of("own")]),
        "null_states": (walks.null_states, ["recall", random.integers(0, 5, (2, 7)), random.normal(size=(5, 3)), 6]),
        "recall": (walks.recall, [random.integers(0, 5, (2, 7)), 5, 6]),
        "measures": (walks.measures, [random.normal(size=(10, 3)), WALKS.graph_of("own")]),
        "sample of a model": (drawn, [(random.integers(0, 5, (2, 3)), np.array([3, 2])), 4, 2, 0.8, 3, 1, None]),
        "Capture": spec(wf.Capture, layers=(1,), readout={"among": "index < 5"}),
        "Run": (
            lambda *given: (
                made(wf.Run, "data", "model", "seed", "name", "batch", "learning_rate", "checkpoints")(*given).id
            ),
            [DATA, MODEL, 3, "x", 16, 1e-3, 4],
        ),
        "Run.from_json": (wf.Run.from_json, [wf.Run(DATA, model=MODEL, batch=16).to_json()]),
    }

"""Every public argument that is an integer: NumPy's of any width mean what Python's do, and nothing else is one."""

import dataclasses
import inspect
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from stand_ins import OneCheckpoint
from tiny import RUN, TINY

import worldfast as wf
from worldfast import analysis, training
from worldfast.errors import TaskError
from worldfast.models import GPTSpec
from worldfast.rows import Rows, Shape
from worldfast.worlds import chains, cities, factors, walks

random = np.random.default_rng(3)
X, Y = random.normal(size=(40, 6)), random.normal(size=(40, 4))
XY, TEST, INDEX = random.normal(size=(40, 2)), np.arange(40) % 4 == 0, np.arange(40)
STEPS = OneCheckpoint(X)
WORLD = wf.World.cities()
SHAPE = Shape(10, 10)
PARTS = [wf.Component("angle", 9)]
STREAM = cities.Stream(WORLD, PARTS, seed=0)
CHAINS = chains.Dataset(chains=2, states=4, length=8)
WALKS = walks.Dataset(length=40)
NODES = np.array([[0, 1, 2, 0]])
TRIALS = factors.Dataset(n=6)
ASKED = (np.array([[3, 1, 4], [1, 5, 0]]), np.array([3, 2]))
NET = {"seed": 0, "steps": 8, "checkpoints": 2, "hidden": 32, "batch": 8}
LOGS = np.full((3, 6), -0.75)
QKV = torch.arange(32.0).reshape(4, 1, 8)
ENDS = torch.tensor([0, 4], dtype=torch.int32)
ROWS = Rows(*(torch.tensor(x) for x in (np.int32([3, 1, 4]), np.int32([0, 3]), [1, 2], [4, 5])))


def built(family=TINY, members=1, **options):
    ensemble = family.build(SHAPE, members, **options)
    for member in range(members):
        ensemble.initialise(member, 5)
    return ensemble


def sampled(**options):
    return built().sample(ASKED, **{"longest": 2} | options)


def rule(xy):
    return abs(xy[:, 0, 0] - xy[:, 1, 0])


def free():
    return FOLDER[0].parent / f"free{next(COUNT)}"


def integration(**options):
    few = {"seeds": [0], "tasks": ["angle"], "doses": [1], "shares": (), "noise": ()}
    return cities.integration(0.01, **few | options)


def batch(data, seed=0):
    return data.stream(seed).batch(0, 3)


SQUARE = np.abs(np.add.outer(XY[:9, 0], XY[:9, 0]))
BASE = wf.Run(cities.Dataset("angle", rows=99, world=wf.WorldSpec(atlantis=20), among="region != 'Atlantis'"))
COUNT, FOLDER = itertools.count(), []  # of a finished run


# "entry.argument": an integer that it takes, and the entry with it
INTEGERS = {
    "Activations.dataset.step": (2, lambda n: wf.Activations(FOLDER[0]).dataset(n, 1)[:]),
    "Activations.dataset.layer": (1, lambda n: wf.Activations(FOLDER[0]).dataset(2, n)[:]),
    "Activations.__getitem__.step": (2, lambda n: wf.Activations(FOLDER[0])[n, 1]),
    "Activations.__getitem__.layer": (1, lambda n: wf.Activations(FOLDER[0])[2, n]),
    "Batch.text.i": (1, lambda n: wf.sample(WORLD, "angle", 3).text(n)),
    "Capture.layers": (1, lambda n: wf.Capture(layers=[n])),
    "Capture.of.depth": (2, lambda n: wf.Capture().of(n)),
    "Component.rows": (5, lambda n: wf.Component("angle", n)),
    "Component.first": (5, lambda n: wf.Component("angle", 9, first=n)),
    "RecurrentSpec.hidden": (8, lambda n: wf.RecurrentSpec(hidden=n)),
    "RecurrentSpec.layers": (2, lambda n: wf.RecurrentSpec(layers=n)),
    "RecurrentSpec.outputs": (2, lambda n: wf.RecurrentSpec(outputs=n)),
    "TransformerSpec.hidden": (64, lambda n: wf.TransformerSpec(hidden=n)),
    "TransformerSpec.layers": (2, lambda n: wf.TransformerSpec(layers=n)),
    "TransformerSpec.heads": (2, lambda n: wf.TransformerSpec(heads=n)),
    "TransformerSpec.intermediate": (64, lambda n: wf.TransformerSpec(intermediate=n)),
    "TransformerSpec.outputs": (9, lambda n: wf.TransformerSpec(outputs=n)),
    "GPTSpec.hidden": (32, lambda n: GPTSpec(hidden=n)),
    "GPTSpec.layers": (2, lambda n: GPTSpec(layers=n)),
    "GPTSpec.heads": (4, lambda n: GPTSpec(heads=n)),
    "GPTSpec.intermediate": (64, lambda n: GPTSpec(intermediate=n)),
    "GPTSpec.outputs": (9, lambda n: GPTSpec(outputs=n)),
    "GPTSpec.positions": (9, lambda n: GPTSpec(positions=n)),
    **{
        f"Run.{name}": (n, lambda n, name=name: dataclasses.replace(RUN, **{name: n}))
        for name, n in dict(seed=3, epochs=2, batch=8, warmup=3, checkpoints=1, validation=9, keep=2).items()
        if name != "keep"
    },
    "Run.keep": (2, lambda n: dataclasses.replace(RUN, keep=(n,))),
    "Run.rows_at.step": (2, lambda n: RUN.rows_at(n)),
    "Run.learning_rate_at.step": (2, lambda n: RUN.learning_rate_at(n)),
    "Study.layer": (1, lambda n: wf.Study("a", [RUN], layer=n).layer),
    "Study.test_rows": (7, lambda n: wf.Study("a", [RUN], test_rows=n).test_rows),
    "World.with_atlantis.n": (7, lambda n: WORLD.with_atlantis(n).xy[-9:]),
    "World.with_atlantis.seed": (7, lambda n: WORLD.with_atlantis(3, n).xy[-9:]),
    "World.largest.n": (7, lambda n: WORLD.largest(n).xy),
    "WorldSpec.atlantis": (7, lambda n: wf.WorldSpec(atlantis=n)),
    "WorldSpec.atlantis_seed": (7, lambda n: wf.WorldSpec(atlantis_seed=n)),
    "WorldSpec.largest": (7, lambda n: wf.WorldSpec(largest=n)),
    "attention.max_seqlen": (4, lambda n: wf.attention(QKV, QKV, QKV, ENDS, max_seqlen=n)),
    "cka.components": (2, lambda n: wf.cka(X, Y, components=n)),
    "cka_matrix.components": (2, lambda n: wf.cka_matrix([X, Y], components=n)),
    "cka_minibatch.batch": (10, lambda n: wf.cka_minibatch([X, Y], n)),
    "cka_minibatch.seed": (3, lambda n: wf.cka_minibatch([X, Y], 10, seed=n)),
    "export_huggingface.step": (
        2,
        lambda n: (wf.export_huggingface(FOLDER[0], free(), n) / "config.json").read_bytes(),
    ),
    "gram_statistics.threads": (2, lambda n: wf.gram_statistics([X, Y], threads=n).hsic()),
    "label.threads": (2, lambda n: wf.label("distance", WORLD, np.array([[0, 1]]), threads=n)),
    "represent.layers": (1, lambda n: wf.represent(FOLDER[0], layers=[n]).states),
    "represent.step": (2, lambda n: wf.represent(FOLDER[0], step=n).states),
    "load.step": (2, lambda n: training.load(FOLDER[0], step=n)[1].parameters),
    "train.threads": (1, lambda n: [path.name for path in wf.train(RUN, FOLDER[0].parent, threads=n, progress=False)]),
    "train.memory": (
        2**30,
        lambda n: [path.name for path in wf.train(RUN, FOLDER[0].parent, memory=n, progress=False)],
    ),
    "sample.n": (3, lambda n: wf.sample(WORLD, "angle", n).label),
    "sample.seed": (3, lambda n: wf.sample(WORLD, "angle", 3, n).label),
    "sample.start": (3, lambda n: wf.sample(WORLD, "angle", 3, start=n).label),
    "sample.threads": (2, lambda n: wf.sample(WORLD, "angle", 3, threads=n).label),
    "task.cities": (2, lambda n: wf.task("whole", cities=n)(rule).to_json()),
    "task.semicolon": (0, lambda n: wf.task("whole", cities=2, semicolon=n)(rule).to_json()),
    "task.digits": (4, lambda n: wf.task("whole", cities=2, digits=n)(rule).to_json()),
    # analyses
    "adam_decoders.seed": (3, lambda n: analysis.adam_decoders(X, XY, INDEX.reshape(1, 2, 20), seed=n)),
    "bootstrap.resamples": (30, lambda n: analysis.bootstrap(XY[:, 0], resamples=n)),
    "bootstrap.seed": (3, lambda n: analysis.bootstrap(XY[:, 0], resamples=30, seed=n)),
    "cka_over_training.layer": (1, lambda n: analysis.cka_over_training({"a": STEPS, "b": STEPS}, n)),
    "cka_over_training.components": (
        2,
        lambda n: analysis.cka_over_training({"a": STEPS, "b": STEPS}, 1, components=n),
    ),
    "cka_table.components": (2, lambda n: analysis.cka_table({"a": X, "b": Y}, components=[n])),
    "cka_table.layer": (2, lambda n: analysis.cka_table({"a": X, "b": Y}, layer=n)),
    "correlation.permutations": (30, lambda n: analysis.correlation(*XY.T, permutations=n)),
    "correlation.seed": (3, lambda n: analysis.correlation(*XY.T, permutations=30, seed=n)),
    "dimension_table.layer": (2, lambda n: analysis.dimension_table({"a": X}, n)),
    "film_table.layer": (1, lambda n: analysis.film_table(STEPS, n, TEST)),
    "fixed_points.iterations": (2, lambda n: analysis.fixed_points(lambda h: h / 2, X[:4], n)),
    "held_out.n": (9, lambda n: analysis.held_out(n)),
    "held_out.seed": (9, lambda n: analysis.held_out(20, seed=n)),
    "mantel.permutations": (30, lambda n: analysis.mantel(SQUARE, SQUARE**2, permutations=n)),
    "mantel.seed": (3, lambda n: analysis.mantel(SQUARE, SQUARE**2, permutations=30, seed=n)),
    "mixed_over_training.layer": (1, lambda n: analysis.mixed_over_training(STEPS, n, XY).explained),
    "mixed_selectivity.shape": (4, lambda n: analysis.mixed_selectivity(X, (n, 10))),
    "mutual_knn.k": (5, lambda n: analysis.mutual_knn(X, Y, n)),
    "mutual_knn_table.k": (5, lambda n: analysis.mutual_knn_table({"a": X, "b": Y}, n)),
    "mutual_knn_table.layer": (5, lambda n: analysis.mutual_knn_table({"a": X, "b": Y}, layer=n)),
    "pca_over_training.layer": (1, lambda n: analysis.pca_over_training(STEPS, n).explained),
    "pca_over_training.k": (2, lambda n: analysis.pca_over_training(STEPS, 1, n).explained),
    "pca_over_training.seed": (2, lambda n: analysis.pca_over_training(STEPS, 1, 2, seed=n).explained),
    "penalty.items": (9, lambda n: analysis.penalty(n, 7)),
    "penalty.features": (8, lambda n: analysis.penalty(9, n)),
    "probe_alone.folds": (2, lambda n: analysis.probe_alone(X, XY, n)),
    "probe_alone.seed": (2, lambda n: analysis.probe_alone(X, XY, 2, n)),
    "probe_generalisation.layer": (2, lambda n: analysis.probe_generalisation(X, XY, ~TEST, {"t": TEST}, layer=n)),
    "probe_over_training.layer": (1, lambda n: analysis.probe_over_training(STEPS, n, XY, TEST)),
    "probe_table.layers": (1, lambda n: analysis.probe_table(STEPS, [n], XY, TEST)),
    "probe_table.rows": (100, lambda n: analysis.probe_table(STEPS, [1], XY, TEST, rows=[n])),
    "probe_table.steps": (0, lambda n: analysis.probe_table(STEPS, [1], XY, TEST, steps=[n])),
    "procrustes.components": (2, lambda n: analysis.procrustes(X, Y, n)),
    "procrustes_table.components": (2, lambda n: analysis.procrustes_table({"a": X, "b": Y}, n)),
    "procrustes_table.layer": (2, lambda n: analysis.procrustes_table({"a": X, "b": Y}, layer=n)),
    # models
    "Spec.build.members": (2, lambda n: built(members=n).parameters),
    "Spec.build.threads": (2, lambda n: built(threads=n).parameters),
    "Spec.build.longest": (9, lambda n: built(longest=n).parameters),
    "Ensemble.initialise.member": (0, lambda n: (one := built()).initialise(n, 2) or one.parameters),
    "Ensemble.initialise.seed": (3, lambda n: (one := built()).initialise(0, n) or one.parameters),
    "Ensemble.answer.longest": (2, lambda n: built().answer([ASKED], n, end=0)),
    "Ensemble.answer.members": (0, lambda n: built().answer([ASKED], 2, [n], end=0)),
    "Ensemble.answer.end": (4, lambda n: built().answer([ASKED], 2, end=n)),
    "Ensemble.outputs.member": (0, lambda n: built().outputs(ROWS, n)),
    "Ensemble.states.member": (0, lambda n: built().states(ROWS, n, [1])),
    "Ensemble.states.layers": (1, lambda n: built().states(ROWS, 0, [n])),
    "Ensemble.learn.members": (0, lambda n: built().learn([ROWS], [n])),
    **{
        f"Ensemble.sample.{name}": (n, lambda n, name=name: sampled(**{name: n}))
        for name, n in dict(longest=3, member=0, draws=2, top_k=2, seed=3, first=3, end=4).items()
    },
    # worlds
    **{
        f"chains.Dataset.{name}": (n, lambda n, name=name: chains.Dataset(**{"chains": 2, name: n}))
        for name, n in dict(chains=3, states=5, length=9, rows=99, draw=3).items()
    },
    "chains.Dataset.stream.seed": (3, lambda n: batch(CHAINS, n).inputs),
    "chains.Dataset.readout.walks": (9, lambda n: CHAINS.readout(walks=n).attributes),
    "chains.Dataset.readout.position": (5, lambda n: CHAINS.readout(walks=9, position=n).attributes),
    "chains.Walks.seed": (3, lambda n: chains.Walks(CHAINS, n).batch(0, 3).inputs),
    **{
        f"chains.model.{name}": (n, lambda n, name=name: chains.model(CHAINS, **NET | {name: n}))
        for name, n in dict(seed=3, steps=100, checkpoints=2, hidden=64, batch=9, layers=2).items()
    },
    "chains.predict.positions": (1, lambda n: chains.predict(CHAINS.set_of("trained"), np.zeros((2, 3), int), [n])),
    **{
        f"walks.Dataset.{name}": (n, lambda n, name=name: walks.Dataset(**{name: n}))
        for name, n in dict(length=40, rows=99, names=40, draw=3).items()
    },
    "walks.Dataset.stream.seed": (3, lambda n: batch(WALKS, n).inputs),
    "walks.Dataset.readout.walks": (9, lambda n: WALKS.readout(walks=n).rows.inputs),
    "walks.Dataset.readout.context": (9, lambda n: WALKS.readout(walks=9, context=n).rows.inputs),
    "walks.Walks.seed": (3, lambda n: walks.Walks(WALKS, n).batch(0, 3).inputs),
    "walks.class_means.n": (3, lambda n: walks.class_means(np.ones((1, 4, 2)), NODES, n, 4, 4)),
    "walks.class_means.context": (3, lambda n: walks.class_means(np.ones((1, 4, 2)), NODES, 3, n, 4)),
    "walks.class_means.window": (3, lambda n: walks.class_means(np.ones((1, 4, 2)), NODES, 3, 4, n)),
    "walks.null_states.names": (3, lambda n: walks.null_states("recall", NODES, np.ones((3, 2)), n)),
    "walks.recall.n": (3, lambda n: walks.recall(NODES, n, 4)),
    "walks.recall.names": (3, lambda n: walks.recall(NODES, 3, n)),
    "walks.graph_of.draw": (3, lambda n: walks.graph_of("grid4", n).adjacency),
    **{
        f"walks.model.{name}": (n, lambda n, name=name: walks.model(WALKS, **NET | {name: n}))
        for name, n in dict(seed=3, steps=9, checkpoints=2, layers=2).items()
    },
    **{
        f"factors.Dataset.{name}": (n, lambda n, name=name: factors.Dataset(**{name: n}))
        for name, n in dict(n=6, dims=2, rows=99, steps=9, draw=3).items()
    },
    "factors.Dataset.block": (5, lambda n: factors.Dataset(questions="context", n=2, block=n)),
    "factors.Dataset.stream.seed": (3, lambda n: batch(TRIALS, n).inputs),
    "factors.Dataset.readout.trials": (9, lambda n: TRIALS.readout(trials=n).attributes),
    "factors.Dataset.readout.positions": (2, lambda n: TRIALS.readout(trials=9, positions=[n]).rows.scored),
    "factors.Trials.seed": (3, lambda n: factors.Trials(TRIALS, n).batch(0, 3).inputs),
    "factors.Trials.drawn.start": (3, lambda n: TRIALS.stream(0).drawn(n, 2)),
    "factors.Trials.drawn.n": (3, lambda n: TRIALS.stream(0).drawn(0, n)),
    "factors.Trials.batch.start": (3, lambda n: TRIALS.stream(0).batch(n, 2).inputs),
    "factors.Trials.batch.n": (3, lambda n: TRIALS.stream(0).batch(0, n).inputs),
    "factors.best_accuracy.t": (2, lambda n: factors.best_accuracy(TRIALS.asked, 1.0, n)),
    "factors.best_answers.t": (2, lambda n: factors.best_answers([[0.1, 0.2]], TRIALS.asked, 1.0, n)),
    "factors.bound.t": (2, lambda n: factors.bound(0.1, n)),
    **{
        f"factors.net.{name}": (n, lambda n, name=name: factors.net(**{name: n}))
        for name, n in dict(seed=3, batches=9, checkpoints=2).items()
    },
    "factors.trilaterated.t": (2, lambda n: factors.trilaterated(LOGS, LOGS, TRIALS.asked, 1.0, n)),
    "cities.Dataset.rows": (9, lambda n: cities.Dataset("angle", rows=n)),
    "cities.Dataset.stream.seed": (3, lambda n: batch(cities.Dataset("angle", rows=9), n).inputs),
    "cities.Dataset.readout.positions": (-1, lambda n: RUN.data.readout(positions=[n]).rows.scored),
    **{
        f"cities.Recipe.{name}": (n, lambda n, name=name: cities.Recipe(**{name: n}))
        for name, n in dict(standard=9, included=9, alive=9).items()
    },
    "cities.Recipe.pretrain.seed": (3, lambda n: cities.Recipe().pretrain("angle", n)),
    "cities.Stream.seed": (3, lambda n: cities.Stream(WORLD, PARTS, seed=n).rectangle(0, 3).label),
    "cities.Stream.empty_batch.n": (3, lambda n: len(STREAM.empty_batch(n))),
    "cities.Stream.empty_pack.n": (3, lambda n: len(STREAM.empty_pack(n).answer_start)),
    "cities.Stream.rectangle.start": (3, lambda n: STREAM.rectangle(n, 3).label),
    "cities.Stream.rectangle.n": (3, lambda n: STREAM.rectangle(0, n).label),
    "cities.Stream.rectangle.threads": (3, lambda n: STREAM.rectangle(0, 3, threads=n).label),
    "cities.Stream.pack.start": (3, lambda n: STREAM.pack(n, 3).tokens),
    "cities.Stream.pack.n": (3, lambda n: STREAM.pack(0, n).tokens),
    "cities.Task.question.city_ids": (7, lambda n: wf.TASKS["angle"].question([n, 2, 3])),
    "cities.Task.answer.label": (1, lambda n: [wf.TASKS[name].answer(n) for name in ("angle", "compass")]),
    "cities.demo.seed": (1, lambda n: cities.demo(seed=n).canon),
    "cities.dose_runs.doses": (1, lambda n: cities.dose_runs(cities.Recipe(), BASE, ["angle"], doses=[n])),
    "cities.integration.seeds": (1, lambda n: integration(seeds=[n]).canon),
    "cities.integration.doses": (1, lambda n: integration(doses=[n]).extensions),
    "cities.questions_of.rows": (2, lambda n: len(cities.questions_of(RUN, rows=n)["distance"].tokens)),
    "cities.questions_of.seed": (2, lambda n: cities.questions_of(RUN, rows=2, seed=n)["distance"].tokens),
    "cities.width.seeds": (1, lambda n: cities.width([n]).canon),
    **{
        f"cities.world_update.{name}": (n, lambda n, name=name: cities.world_update(BASE, "angle", **{name: n}))
        for name, n in dict(standard=9, included=9, alive=9, epochs=2).items()
    },
}


# Of records and of other files' machinery, and those that pass a number on to an entry above.
ELSEWHERE = re.compile(
    r"(RecurrentSpec|TransformerSpec|GPTSpec)\.(cpu_bytes|on_gpu)\.|run_study\.|Mean\.n|\.Study\.|score\.|"
    r"cities\.(PythonTask|Task)\.(index|m|semi|dig)|cities\.Recipe\.(amount|updates)|Dataset\.concentration|Data\."
)
TEXTS = ("train.memory", "cities.Dataset.readout.positions")  # also "16GiB" and "last"
KINDS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def arguments():
    """Yield "entry.argument" of each public function or method, by whose annotation it is an integer or several."""
    for module in (wf, analysis, chains, cities, factors, walks):
        world = "" if module in (wf, analysis) else module.__name__.split(".")[-1] + "."
        for name in module.__all__:
            thing = getattr(module, name)
            if module is cities and thing is getattr(wf, name, None):
                continue
            entries = {name: thing}
            if isinstance(thing, type):
                entries |= {f"{name}.{own}": getattr(thing, own) for own in vars(thing) if not own.startswith("_")}
            for path, entry in entries.items():
                if callable(entry) and not isinstance(entry, property):
                    for argument, how in inspect.signature(entry).parameters.items():
                        if re.search(r"\bint\b", str(how.annotation)) and "Annotated" not in str(how.annotation):
                            yield f"{world}{path}.{argument}"


def test_every_public_argument_that_is_an_integer_is_in_the_table():
    found = {path for path in arguments() if not ELSEWHERE.search(path)}
    assert len(found) > 100
    assert not found - set(INTEGERS)


def plain(found):
    """Return an answer as what two can be compared by, and JSON keeps: an integer of NumPy's in a spec is an error."""
    if isinstance(found, wf.Run):
        return [found.id, json.dumps(found.to_json())]
    if isinstance(found, pd.DataFrame):
        return found.to_csv()
    if isinstance(found, torch.Tensor):
        return [str(found.dtype), found.numpy().tolist()]
    if isinstance(found, np.ndarray):
        return [str(found.dtype), found.tolist()]
    if hasattr(found, "to_json"):
        return json.dumps(found.to_json())
    if dataclasses.is_dataclass(found):
        fields = {one.name: getattr(found, one.name) for one in dataclasses.fields(found)}
        return {name: plain(value) for name, value in fields.items()}
    if isinstance(found, dict):
        return {str(name): plain(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [plain(part) for part in found]
    assert found is None or type(found) in (int, float, str, bool, bytes, np.float64), type(found)
    return found


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    FOLDER[:] = wf.train(RUN, tmp_path_factory.mktemp("runs"), device="cpu", progress=False)


def test_integers_of_numpy_mean_what_pythons_do():
    for i, (entry, (n, call)) in enumerate(INTEGERS.items()):
        expected = plain(call(n))
        fits = [kind for kind in KINDS if np.iinfo(kind).min <= n <= np.iinfo(kind).max]
        narrow = np.uint8 if np.uint8 in fits else fits[0]  # in which a sign or a product would be lost
        for kind in {narrow, fits[i % len(fits)]}:
            assert plain(call(kind(n))) == expected, f"{entry}: {kind.__name__}"


def test_nothing_else_is_an_integer():
    """A bool is an answer, a float a measurement, and a text not yet read."""
    for entry, (n, call) in INTEGERS.items():
        for wrong in (float(n), np.float64(n), bool(n), np.bool_(n), str(n)):
            if not (isinstance(wrong, str) and entry in TEXTS):
                with pytest.raises((TypeError, TaskError), match=r"expected|takes|must be"):
                    pytest.fail(f"{entry} took {wrong!r}: {call(wrong)}")

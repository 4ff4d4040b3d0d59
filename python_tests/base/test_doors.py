"""Every public argument that takes an array: all are in one table, and each refuses what would be read wrongly."""

import dataclasses
import functools
import inspect
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from stand_ins import OneCheckpoint

import worldfast as wf
from worldfast import analysis, arrays, dataset
from worldfast.rows import Shape
from worldfast.worlds import chains, cities, factors, walks
from worldfast.worlds.cities.improvement import normalised_improvement

random = np.random.default_rng(3)
X = (random.integers(-100, 100, (40, 6)) / 8).astype(np.float32)  # bfloat16 holds these
Y = np.float32(X[:, :4].round() + random.integers(-9, 10, (40, 4)))
XY = (random.integers(-100, 100, (40, 2)) / 8).astype(np.float32)
TEST, INDEX, NAMES = np.arange(40) % 4 == 0, np.arange(40), np.array([f"n{i}" for i in range(40)])
GROUPS = INDEX % 4
PLACES = (XY * 8).astype(np.int32)
PAIRS = np.array([[0, 1], [2, 3], [4, 5]], np.int32)
POINTS = PLACES[:6].reshape(3, 2, 2)
SQUARE = np.abs(np.add.outer(XY[:8, 0], XY[:8, 0])).round()
RUN = OneCheckpoint(X)
WORLD = wf.World.cities()
CHOSEN = np.arange(len(WORLD)) < 50
CHAINS = chains.Dataset(chains=2, states=4)
TRIALS = factors.Dataset(n=6)
TOKENS = cities.Vocabulary("character", WORLD)
MODEL = wf.Run(cities.Dataset("distance", rows=32))
QKV = torch.zeros(4, 1, 8)
ENDS = torch.tensor([0, 4], dtype=torch.int32)
LOGS = np.full((3, 6), -0.75, np.float32)
SHARES = np.full((3, 2, 4), 0.25, np.float32)
WALKED, VISITS = np.array([[0, 1, 2, 5], [4, 3, 0, 1]]), X[:8].reshape(2, 4, 6)


@functools.cache
def python_task():
    """Return a task in Python, made on first use: tests are collected for the tasks that are there by then."""

    @wf.task("apart_x", cities=2)
    def apart_x(xy):
        return abs(xy[:, 0, 0] - xy[:, 1, 0])

    return apart_x


def sampled(prompts):
    ensemble = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16).build(Shape(10, 10))
    ensemble.initialise(0, 0)
    return ensemble.sample(prompts, longest=2)


def answered(prompts):
    ensemble = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16).build(Shape(10, 10))
    ensemble.initialise(0, 0)
    return ensemble.answer([prompts], longest=2, end=0)


def stepped(h):
    return h / 2


class Door(NamedTuple):
    given: Any  # an array that is taken
    call: Any  # the entry, with an array in that place
    named: str | None = None  # pattern of its name in messages; by default, the argument's own


PROMPTS = (np.array([[3, 1, 4], [1, 5, 0]]), np.array([3, 2]))
DOORS = {
    "cka.X": Door(X, lambda x: wf.cka(x, Y)),
    "cka.Y": Door(Y, lambda x: wf.cka(X, x, "rbf")),
    "cka_matrix.Xs": Door(X, lambda x: wf.cka_matrix([Y, x]), r"Xs\[1\]"),
    "cka_minibatch.Xs": Door(X, lambda x: wf.cka_minibatch([Y, x], 8), r"Xs\[1\]"),
    "cka_minibatch.Xs, a stream": Door(X, lambda x: wf.cka_minibatch(iter([(Y, x)])), r"batches\[0\]\[1\]"),
    "cka_standard_error.Xs": Door(X, lambda x: wf.cka_standard_error([x, Y]), r"Xs\[0\]"),
    "gram_statistics.Xs": Door(X, lambda x: wf.gram_statistics([x, Y]).hsic(), r"Xs\[0\]"),
    "gram_statistics.bandwidth": Door(np.float32([2, 3]), lambda x: wf.gram_statistics([X, Y], "rbf", x).hsic("rbf")),
    "attention.q": Door(QKV, lambda x: wf.attention(x, QKV, QKV, ENDS)),
    "attention.k": Door(QKV, lambda x: wf.attention(QKV, x, QKV, ENDS)),
    "attention.v": Door(QKV, lambda x: wf.attention(QKV, QKV, x, ENDS)),
    "attention.cu_seqlens": Door(ENDS, lambda x: wf.attention(QKV, QKV, QKV, x)),
    "label.cities": Door(PAIRS, lambda x: wf.label("distance", WORLD, x)),
    "label.xy": Door(POINTS, lambda x: wf.label("distance", xy=x)),
    "label.count": Door(np.full(3, 2, np.int32), lambda x: wf.label("perimeter", xy=POINTS, count=x)),
    "label.out": Door(np.zeros(3, np.int64), lambda x: wf.label("distance", xy=POINTS, out=x)),
    "sample.among": Door(CHOSEN, lambda x: wf.sample(WORLD, "distance", 3, among=x).label, "mask"),
    "sample.must_include": Door(CHOSEN, lambda x: wf.sample(WORLD, "distance", 3, must_include=x).label, "mask"),
    "Component.among": Door(
        CHOSEN, lambda x: cities.Stream(WORLD, [wf.Component("distance", 9, among=x)], seed=0).rows, "mask"
    ),
    "Component.must_include": Door(
        CHOSEN, lambda x: cities.Stream(WORLD, [wf.Component("distance", 9, must_include=x)], seed=0).rows, "mask"
    ),
    "World.from_array.xy": Door(PLACES, lambda x: wf.World.from_array(x).xy),
    "World.from_array.city_id": Door(INDEX, lambda x: wf.World.from_array(PLACES, x).city_id),
    "World.from_array.name": Door(NAMES, lambda x: wf.World.from_array(PLACES, name=x).name),
    "World.from_array.region": Door(NAMES, lambda x: wf.World.from_array(PLACES, region=x).region),
    "World.select.which": Door(CHOSEN, WORLD.select, "mask"),
    "adam_decoders.X": Door(X, lambda x: analysis.adam_decoders(x, XY, INDEX.reshape(1, 2, 20))),
    "adam_decoders.y": Door(XY, lambda x: analysis.adam_decoders(X, x, INDEX.reshape(1, 2, 20)), "xy"),
    "adam_decoders.batches": Door(INDEX.reshape(1, 2, 20), lambda x: analysis.adam_decoders(X, XY, x)),
    "angles.weight": Door(X, analysis.angles),
    "bootstrap.values": Door(XY[:, 0], lambda x: analysis.bootstrap(x, resamples=10)),
    "bootstrap.groups": Door(GROUPS, lambda x: analysis.bootstrap(XY[:, 0], groups=x, resamples=10)),
    "cka_over_training.activations": Door(
        X, lambda x: analysis.cka_over_training({"a": OneCheckpoint(x), "b": OneCheckpoint(Y)}, 1), "a"
    ),
    "cka_over_training.use": Door(TEST, lambda x: analysis.cka_over_training({"a": RUN, "b": RUN}, 1, use=x)),
    "cka_table.Xs": Door(X, lambda x: analysis.cka_table({"a": x, "b": Y}), "a"),
    "correlation.x": Door(XY[:, 0], lambda x: analysis.correlation(x, XY[:, 1], permutations=10)),
    "correlation.y": Door(XY[:, 1], lambda x: analysis.correlation(XY[:, 0], x, permutations=10)),
    "dimension_table.Xs": Door(X, lambda x: analysis.dimension_table({"a": x}), "a: X"),
    "film_table.activations": Door(X, lambda x: analysis.film_table(OneCheckpoint(x), 1, TEST), r"activations\[0, 1\]"),
    "film_table.test": Door(TEST, lambda x: analysis.film_table(RUN, 1, x)),
    "film_table.places": Door(XY, lambda x: analysis.film_table(RUN, 1, TEST, x), "xy"),
    "film_table.fit_on": Door(TEST, lambda x: analysis.film_table(RUN, 1, TEST, XY, x)),
    "film_table.things": Door(INDEX, lambda x: analysis.film_table(RUN, 1, TEST, things=x)),
    "fixed_points.starts": Door(X[:5], lambda x: analysis.fixed_points(stepped, x, 2)),
    "jackknife_error.left_out": Door(XY[:, 0], analysis.jackknife_error),
    "left_out.X": Door(X, lambda x: analysis.left_out(x, XY, GROUPS // 2, INDEX % 3 == 0, 1.0)),
    "left_out.y": Door(XY, lambda x: analysis.left_out(X, x, GROUPS // 2, INDEX % 3 == 0, 1.0), "xy"),
    "left_out.regions": Door(GROUPS // 2, lambda x: analysis.left_out(X, XY, x, INDEX % 3 == 0, 1.0)),
    "left_out.test": Door(INDEX % 3 == 0, lambda x: analysis.left_out(X, XY, GROUPS // 2, x, 1.0)),
    "linear_probe.X": Door(X, lambda x: analysis.linear_probe(x, XY, TEST)),
    "linear_probe.xy": Door(XY, lambda x: analysis.linear_probe(X, x, TEST)),
    "linear_probe.test": Door(TEST, lambda x: analysis.linear_probe(X, XY, x)),
    "mantel.A": Door(SQUARE, lambda x: analysis.mantel(x, SQUARE + 1, permutations=10)),
    "mantel.B": Door(SQUARE, lambda x: analysis.mantel(SQUARE + 1, x, permutations=10)),
    "mean_and_error.values": Door(XY[:, 0], lambda x: analysis.mean_and_error(x, "seed")),
    "mixed_over_training.activations": Door(
        X, lambda x: analysis.mixed_over_training(OneCheckpoint(x), 1, XY), r"activations\[0, 1\]"
    ),
    "mixed_over_training.xy": Door(XY, lambda x: analysis.mixed_over_training(RUN, 1, x)),
    "mixed_over_training.fit_on": Door(TEST, lambda x: analysis.mixed_over_training(RUN, 1, XY, x)),
    "mixed_selectivity.X": Door(X, lambda x: analysis.mixed_selectivity(x, (4, 10))),
    "mutual_knn.X": Door(X, lambda x: analysis.mutual_knn(x, Y, 5)),
    "mutual_knn.Y": Door(Y, lambda x: analysis.mutual_knn(X, x, 5)),
    "mutual_knn_table.Xs": Door(X, lambda x: analysis.mutual_knn_table({"a": x, "b": Y}, 5), "a"),
    "participation_ratio.X": Door(X, analysis.participation_ratio),
    "pca_over_training.activations": Door(
        X, lambda x: analysis.pca_over_training(OneCheckpoint(x), 1), r"activations\[0, 1\]"
    ),
    "probe_alone.X": Door(X, lambda x: analysis.probe_alone(x, XY, 2)),
    "probe_alone.xy": Door(XY, lambda x: analysis.probe_alone(X, x, 2)),
    "probe_generalisation.X": Door(X, lambda x: analysis.probe_generalisation(x, XY, ~TEST, {"t": TEST})),
    "probe_generalisation.xy": Door(XY, lambda x: analysis.probe_generalisation(X, x, ~TEST, {"t": TEST})),
    "probe_generalisation.fit_on": Door(~TEST, lambda x: analysis.probe_generalisation(X, XY, x, {"t": TEST})),
    "probe_generalisation.groups": Door(
        TEST, lambda x: analysis.probe_generalisation(X, XY, ~TEST, {"t": x}), r"groups\['t'\]"
    ),
    "probe_generalisation.items": Door(
        INDEX, lambda x: analysis.probe_generalisation(X, XY, ~TEST, {"t": TEST}, items=x)
    ),
    "probe_over_training.activations": Door(
        X, lambda x: analysis.probe_over_training(OneCheckpoint(x), 1, XY, TEST)[0], "X"
    ),
    "probe_over_training.xy": Door(XY, lambda x: analysis.probe_over_training(RUN, 1, x, TEST)[0]),
    "probe_over_training.test": Door(TEST, lambda x: analysis.probe_over_training(RUN, 1, XY, x)[0]),
    "probe_table.activations": Door(X, lambda x: analysis.probe_table(OneCheckpoint(x), [1], XY, TEST), "X"),
    "probe_table.xy": Door(XY, lambda x: analysis.probe_table(RUN, [1], x, TEST)),
    "probe_table.test": Door(TEST, lambda x: analysis.probe_table(RUN, [1], XY, x)),
    "procrustes.X": Door(X, lambda x: analysis.procrustes(x, Y)),
    "procrustes.Y": Door(Y, lambda x: analysis.procrustes(X, x)),
    "procrustes_table.Xs": Door(X, lambda x: analysis.procrustes_table({"a": x, "b": Y}), "a"),
    "r2_of.y": Door(XY, lambda x: analysis.r2_of(x, XY + 1, 1.0)),
    "r2_of.predicted": Door(XY, lambda x: analysis.r2_of(XY + 1, x, 1.0)),
    "sparsity.X": Door(X, analysis.sparsity),
    "steps_of_return.eigenvalues": Door(XY, analysis.steps_of_return),
    "two_nn.X": Door(X, analysis.two_nn),
    "divergence.p": Door(SHARES, lambda x: chains.divergence(x, SHARES)),
    "divergence.q": Door(SHARES, lambda x: chains.divergence(SHARES, x)),
    "interpolate.model": Door(SHARES, lambda x: chains.interpolate(x, np.repeat(SHARES[None], 2, 0))),
    "interpolate.predictors": Door(np.repeat(SHARES[None], 2, 0), lambda x: chains.interpolate(SHARES, x)),
    "predict.tokens": Door(
        np.zeros((2, 3), int), lambda x: list(chains.predict(CHAINS.set_of("trained"), x, [1]).values())
    ),
    "predict.positions": Door(
        np.array([1, 2]), lambda x: list(chains.predict(CHAINS.set_of("trained"), np.zeros((2, 3), int), x).values())
    ),
    "class_means.states": Door(VISITS, lambda x: walks.class_means(x, WALKED, 6, 4, 3)),
    "class_means.nodes": Door(WALKED, lambda x: walks.class_means(VISITS, x, 6, 4, 3)),
    "following.said": Door(
        np.full((2, 4, 9), 0.125, np.float32), lambda x: walks.following(x, WALKED, walks.graph_of("grid3"))
    ),
    "following.nodes": Door(WALKED, lambda x: walks.following(np.full((2, 4, 9), 0.125), x, walks.graph_of("grid3"))),
    "mixed.vectors": Door(X[:16], lambda x: walks.mixed(x, walks.graph_of("grid4"))),
    "null_states.nodes": Door(WALKED, lambda x: walks.null_states("mixed", x, X[:6], 6)),
    "null_states.vectors": Door(X[:6], lambda x: walks.null_states("recall", WALKED, x, 6)),
    "recall.nodes": Door(WALKED, lambda x: walks.recall(x, 6, 9)),
    "measures.X": Door(X[:16], lambda x: list(walks.measures(x, walks.graph_of("grid4")).values())),
    "Questions.answers.x": Door(XY, lambda x: TRIALS.asked.answers(x)),
    "Trials.drawn.points": Door(XY[:3], lambda x: TRIALS.stream(0).drawn(0, 3, x)),
    "best_answers.m": Door(XY[:, :2], lambda x: factors.best_answers(x, TRIALS.asked, 1.0, 2)),
    "log_chances.logits": Door(LOGS, factors.log_chances),
    "trilaterated.yes": Door(LOGS, lambda x: factors.trilaterated(x, LOGS + 0.5, TRIALS.asked, 1.0, 2)),
    "trilaterated.no": Door(LOGS, lambda x: factors.trilaterated(LOGS - 0.5, x, TRIALS.asked, 1.0, 2)),
    "Dataset.decode.tokens": Door(INDEX[4:9], lambda x: [ord(c) for c in cities.Dataset("angle").decode(x)], "ids"),
    "Vocabulary.decode.ids": Door(INDEX[4:9], lambda x: [ord(c) for c in TOKENS.decode(x)]),
    "Prompt.cities": Door(INDEX, lambda x: cities.Prompt(TOKENS, "angle({city},", x).rows.inputs),
    "Prompt.of_task.cities": Door(INDEX, lambda x: cities.Prompt.of_task(TOKENS, "angle", x).rows.inputs),
    "PythonTask.labels.xy": Door(POINTS, lambda x: python_task().labels(x)),
    "PythonTask.check.xy": Door(POINTS, lambda x: python_task().check(x)),
    "Stream.rectangle.start": Door(
        np.array([7]), lambda x: cities.Stream(WORLD, [wf.Component("angle", 9)], seed=0).rectangle(x, 2).label
    ),
    "questions_of.among": Door(CHOSEN, lambda x: len(cities.questions_of(MODEL, rows=2, among=x)), "mask"),
    "questions_of.must_include": Door(
        CHOSEN, lambda x: len(cities.questions_of(MODEL, rows=2, must_include=x)), "mask"
    ),
    "Task.score.labels": Door(INDEX[:2], lambda x: wf.TASKS["distance"].score(x, ["1", "2"])),
    "Task.constant.labels": Door(INDEX[:2], wf.TASKS["distance"].constant),
    "improvement.base_standard": Door(np.abs(XY[:, 0]) + 4, lambda x: normalised_improvement(20.0, 32.0, x)),
    "improvement.value": Door(np.abs(XY[:, 0]), lambda x: normalised_improvement(x, 16.0, 1.0)),
    "improvement.base_group": Door(np.abs(XY[:, 0]) + 4, lambda x: normalised_improvement(2.0, x, 1.0)),
    "Ensemble.sample.prompts": Door(PROMPTS[0], lambda x: sampled((x, PROMPTS[1])), "prompts: tokens"),
    "Ensemble.sample.prompts, lengths": Door(PROMPTS[1], lambda x: sampled((PROMPTS[0], x)), "prompts: length"),
    "Ensemble.answer.prompts": Door(PROMPTS[0], lambda x: answered((x, PROMPTS[1])), "prompts: tokens"),
}


# called by a world's own code, or by a study, with what it has just made
INNER = {"Trials.packed", "Walks.packed", "Walks.truth", "Study.findings"}
KINDS = re.compile(r"ArrayLike|ByStep|Mapping\[str, object\]|ndarray|Tensor|\barrays?\b")


def documented(entry):
    """Return the kind of each argument that a docstring states."""
    part = re.search(r"^Parameters\n-+\n(.*?)(?=^\w.*\n---|\Z)", inspect.getdoc(entry) or "", re.M | re.S)
    lines = re.findall(r"^(\w[\w, ]*) : (.+)$", part[1], re.M) if part else []
    return {name.strip(): kind for names, kind in lines for name in names.split(",")}


def arguments():
    """Yield "function.argument" of each public function, or method, by whose annotation or docstring it is an array."""
    for module in (wf, analysis, chains, cities, factors, walks):
        for name in module.__all__:
            thing = getattr(module, name)
            entries = {name: thing}
            if isinstance(thing, type):
                entries = {f"{name}.{own}": getattr(thing, own) for own in vars(thing) if not own.startswith("_")}
                if not (dataclasses.is_dataclass(thing) or issubclass(thing, tuple)):  # a record holds what it is given
                    entries[name] = thing
            for path, entry in entries.items():
                if path not in INNER and callable(entry) and not isinstance(entry, property):
                    said = documented(entry)
                    for argument, how in inspect.signature(entry).parameters.items():
                        annotation = "" if how.annotation is how.empty else str(how.annotation)
                        if KINDS.search(annotation.split("Callable")[0]) or KINDS.search(said.get(argument, "")):
                            yield f"{path}.{argument}"


def test_every_public_argument_that_is_an_array_is_in_the_table():
    found = set(arguments())
    assert len(found) > 70
    assert not found - set(DOORS)


def masked(array):
    return np.ma.MaskedArray(array, mask=np.arange(np.size(array)).reshape(np.shape(array)) == 1)


def sparse(array):
    return scipy.sparse.coo_array(np.atleast_2d(array.reshape(len(array), -1)))


UNWANTED = {
    "masked": (masked, "without a mask, got a MaskedArray"),
    "nothing hidden": (np.ma.asarray, "without a mask, got a MaskedArray"),
    "scipy": (sparse, r"a dense array, got a sparse coo_array: pass .*\.toarray\(\)"),
    "torch": (lambda x: torch.as_tensor(x).to_sparse(), r"a dense array, got a sparse Tensor: pass .*\.to_dense\(\)"),
}


@pytest.mark.parametrize("kind", UNWANTED)
def test_every_argument_refuses_masks_and_sparse_arrays_by_name(kind):
    """What a mask hides would count, and a sparse array would be an object: of every kind of element."""
    made, said = UNWANTED[kind]
    for path, door in DOORS.items():
        given = np.asarray(door.given)
        if given.dtype.kind == "U" and kind != "masked" and kind != "nothing hidden":
            continue  # neither library has sparse texts
        named = door.named or path.split(".")[-1].split(",")[0]
        with pytest.raises(TypeError, match=rf"^{named}: expected .*{said}"):
            pytest.fail(f"{path} took it: {door.call(made(given))}")


def flat(found):
    """Return all numbers of an answer: of arrays, tables, records and lists of these."""
    if isinstance(found, pd.DataFrame):
        found = found.select_dtypes("number").to_numpy()
    if dataclasses.is_dataclass(found):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
    if isinstance(found, list | tuple):
        return np.concatenate([flat(part) for part in found])
    found = np.asarray(found)
    return found.ravel() if found.dtype.kind in "fiubc" else np.empty(0)


class Jax:
    """An array as jax has them: bfloat16 is a dtype of NumPy's from another library, and DLPack knows it too."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._array, dtype=dtype)

    def __dlpack__(self, **options):
        return torch.tensor(self._array.astype(np.float32)).bfloat16().__dlpack__(**options)

    def __dlpack_device__(self):
        return torch.zeros(1).__dlpack_device__()


@pytest.mark.parametrize("made", [Jax, np.asarray, np.asfortranarray], ids=lambda made: made.__name__)
def test_bfloat16_of_other_libraries(made):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16  # what jax makes it with
    doors = {path: door for path, door in DOORS.items() if getattr(door.given, "dtype", None) == np.float32}
    assert len(doors) > 50
    for path, door in doors.items():
        given = door.given.astype(bfloat16)
        assert (given == door.given).all(), path
        expected, found = flat(door.call(door.given)), flat(door.call(made(given)))
        assert len(expected), path
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_door_of_numbers_takes_nothing_else():
    """Masks select and do not count, an imaginary part would be dropped, and texts would be read."""
    for path, door in DOORS.items():
        given = door.given
        if isinstance(given, np.ndarray) and given.dtype == np.float32:
            for wrong in (given > 0, given + 0j, given.astype(str), given.astype(object)):
                if "eigenvalues" in path and wrong.dtype.kind == "c":
                    continue
                with pytest.raises((TypeError, ValueError), match="expected"):
                    pytest.fail(f"{path} took {wrong.dtype}: {door.call(wrong)}")


@pytest.mark.parametrize("field", ["things", "attributes", "entities", "order", "groups"])
def test_readouts_refuse_masks(field):
    data = cities.Dataset("distance", world=wf.WorldSpec(largest=20))
    readout = data.readout()
    dataset.require_readout(readout, data)
    if field == "groups":
        wrong = readout._replace(groups={"some": masked(np.ones(20, bool))})
    else:
        wrong = readout._replace(**{field: masked(np.arange(20) if (x := getattr(readout, field)) is None else x)})
    with pytest.raises(TypeError, match=f"^{field}.*without a mask"):
        dataset.require_readout(wrong, data)


def test_arrays_of_integers():
    for given in (
        [1, 2],
        np.array([1, 2], ">i2"),
        np.array([1, 2], np.uint64),
        torch.tensor([1, 2]),
        pd.Series([1, 2]),
    ):
        found = arrays.integers(given, "steps")
        assert found.dtype == np.int64 and found.tolist() == [1, 2]
    assert arrays.integers([], "steps").tolist() == []
    for wrong in ([1.0], [True], ["1"], torch.tensor([1.0]).bfloat16()):
        with pytest.raises(TypeError, match="steps: expected integers, got "):
            arrays.integers(wrong, "steps")
    with pytest.raises(ValueError, match=r"steps: expected integers \[n\], got \[1, 2\]"):
        arrays.integers([[1, 2]], "steps")
    with pytest.raises(ValueError, match=r"steps: expected integers below 2\*\*63, got 9223372036854775808"):
        arrays.integers(np.array([2**63], np.uint64), "steps")


def test_a_decoders_r2_is_of_arrays_that_are_alike():
    assert analysis.r2_of(XY, np.stack([XY, XY + 1]), 2.0).tolist() == [1.0, 0.5]
    for predicted in (XY[:, :1], XY[:1], XY.T, XY[:, 0]):
        with pytest.raises(ValueError, match="predicted: expected .* as y"):
            analysis.r2_of(XY, predicted, 1.0)

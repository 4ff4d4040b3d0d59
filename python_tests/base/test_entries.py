"""Public entries that are called wrongly: each says which argument, what came and what was expected."""

import re
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

import worldfast as wf
from worldfast import analysis
from worldfast.errors import number, positive, whole
from worldfast.studies.planning import print_plan
from worldfast.worlds import cities

DATA = cities.Dataset("distance", rows=32)
RUN = wf.Run(DATA, batch=16, model=TINY, capture=wf.Capture(layers=(1,)))
RECIPE = cities.Recipe()
WORLD = wf.World.cities()


def study(*positional, **fields):
    return wf.Study(*(positional or ("a", [RUN])), **fields)


WRONG = {
    "a study of texts": (lambda: study("a", ["x"]), "canon[0]: expected a worldfast.Run, got 'x'"),
    "a study of a text": (lambda: study("a", "x"), "canon: expected a sequence of worldfast.Run, got 'x'"),
    "a study of a run": (lambda: study("a", RUN), "canon: expected a sequence of worldfast.Run, got Run("),
    "a study of no name": (lambda: study(3, [RUN]), "name: expected a text, got 3"),
    "its extensions": (lambda: study(extensions=[3]), "extensions[0]: expected a worldfast.Run, got 3"),
    "its layer": (lambda: study(layer="x"), "layer: expected an integer, got 'x'"),
    "its shown": (lambda: study(shown="all"), "shown: expected names of runs, got 'all'"),
    "its test_rows": (lambda: study(test_rows=1.5), "test_rows: expected an integer, got 1.5"),
    "its analyses": (lambda: study(analyses=["cka"]), "analyses[0]: expected a worldfast.studies.Analysis, got 'cka'"),
    "its tables": (lambda: study(tables=3), "tables: expected a function or None, got 3"),
    "its cities": (
        lambda: cities.Study("a", [RUN], cities=3),
        "cities: expected an expression for World.select or None",
    ),
    "its patched": (lambda: cities.Study("a", [RUN], patched=3), "patched: expected names of two runs, got 3"),
    "a preset by name": (
        lambda: wf.run_study("demo"),
        "study: expected a worldfast.Study, got 'demo'; worldfast.worlds.preset('demo') makes",
    ),
    "runs for a study": (lambda: wf.run_study([RUN]), "study: expected a worldfast.Study, got [Run("),
    "no command": (lambda: wf.run_study(study(), command=3), "command: expected a text, got 3"),
    "no threads": (lambda: wf.run_study(study(), threads="2"), "threads: expected an integer, got '2'"),
    "no out": (lambda: wf.run_study(study(), 3), "out: expected a path, got 3"),
    "a bare decorator": (
        lambda: wf.task(study),
        "task: expected a name and a number of cities before the function, as in @wf.task('mid', cities=2), got 'study'",
    ),
    "an empty decorator": (lambda: wf.task(), "task: expected name and cities, as in @wf.task('mid', cities=2)"),
    "a field of a spec": (
        lambda: wf.TransformerSpec(hiden=64),
        "unknown argument of TransformerSpec 'hiden': did you mean 'hidden'? known: hidden, layers, ",
    ),
    "a field of a run": (lambda: wf.Run(DATA, sed=3), "unknown argument of Run 'sed': did you mean 'seed'?"),
    "a field of a dataset": (
        lambda: cities.Dataset("distance", rws=10),
        "unknown argument of Dataset 'rws': did you mean 'rows'?",
    ),
    "a field of a study": (lambda: study(lyer=1), "unknown argument of Study 'lyer': did you mean 'layer'?"),
    "a field of a component": (
        lambda: wf.Component("distance", 10, nois=0.5),
        "unknown argument of Component 'nois': did you mean 'noise'?",
    ),
    "no cities": (lambda: wf.task("mid"), "task: expected cities, as in @wf.task('mid', cities=2)"),
    "choices of letters": (lambda: wf.task("mid", cities=2, choices="ab"), "choices: expected words, got 'ab'"),
    "data by name": (lambda: wf.Run("north"), "data: expected a dataset of a world, such as worldfast.worlds.cities."),
    "one beta": (lambda: wf.Run(DATA, betas=0.9), "betas: expected two numbers, got 0.9"),
    "a name of no text": (lambda: wf.Run(DATA, name=3), "name: expected a text, got 3"),
    "a run of no fields": (lambda: wf.Run.from_json("x"), "content: expected the fields of a run by name, got 'x'"),
    "no layers": (lambda: wf.Capture(3), "capture.layers: expected integers, got 3"),
    "no folder": (lambda: wf.OpenCheckpoint(3), "folder: expected a path, got 3"),
    "no digest": (lambda: wf.OpenCheckpoint("x", 3), "sha256: expected a text, got 3"),
    "no task": (lambda: RECIPE.pretrain("north"), "unknown task 'north': known: distance, "),
    "no tasks": (lambda: RECIPE.pretrain(3), "tasks: expected names or tasks, one or several, got 3"),
    "no field": (lambda: RECIPE.pretrain("angle", lerning_rate=1), "did you mean 'learning_rate'?"),
    "no base": (lambda: RECIPE.finetune("north", "angle"), "base: expected a worldfast.Run, got 'north'"),
    "no group": (lambda: cities.world_update(RUN, "angle", 3), "group: expected an expression for World.select, got 3"),
    "no rows": (lambda: cities.world_update(RUN, "angle", alive="x"), "alive: expected an integer, got 'x'"),
    "no world": (lambda: cities.Recipe(world="cities"), "world: expected a WorldSpec, got 'cities'"),
    "no amount": (lambda: cities.Recipe(amount=3), "amount: expected (rows, epochs) by the number of tasks, got 3"),
    "runs of a text": (lambda: wf.train("x"), "runs: expected worldfast.Run, or several, got 'x'"),
    "runs of none": (lambda: wf.train(None), "runs: expected worldfast.Run, or several, got None"),
    "an out of a number": (lambda: wf.train(RUN, 3), "out: expected a path, got 3"),
    "no model": (lambda: wf.represent(3), "model: expected a run's folder or (run, ensemble), got 3"),
    "no run's folder": (lambda: wf.Activations(RUN), "folder: expected a path, got Run("),
    "no run to export": (lambda: wf.export_huggingface(None, "x"), "run: expected a path, got None"),
    "no open folder": (lambda: wf.import_huggingface(3), "folder: expected a path, got 3"),
    "tasks of a number": (lambda: cities.Dataset(3), "tasks: expected names or tasks, one or several, got 3"),
    "a mixture of a number": (lambda: cities.Dataset("angle", mixture=3), "mixture: expected Components, got 3"),
    "positions of a number": (
        lambda: DATA.readout(positions=3),
        "positions: expected names or numbers of tokens, got 3",
    ),
    "a prompt of a number": (lambda: DATA.readout(prompt=3), "prompt: expected a text with {city} once, as in"),
    "a stream of a text": (
        lambda: cities.Stream(WORLD, "angle", seed=1),
        "components: expected Components, got 'angle'",
    ),
    "a stream of texts": (
        lambda: cities.Stream(WORLD, ["angle"], seed=1),
        "components[0]: expected a Component, got 'angle'",
    ),
    "threads of labels": (
        lambda: wf.label("distance", WORLD, np.zeros((1, 2), np.int32), threads="2"),
        "threads: expected an integer, got '2'",
    ),
    "a task in the table": (lambda: wf.TASKS["distnace"], "unknown task 'distnace': did you mean 'distance'?"),
    "an answer of a number": (lambda: wf.TASKS["distance"].parse(3), "text: expected a text, got 3"),
    "an answer of nothing": (lambda: wf.TASKS["inside"].parse(None), "text: expected a text, got None"),
    "answers of a text": (lambda: wf.TASKS["inside"].score([0], "1"), "texts: expected a sequence of texts, got '1'"),
    "answers of numbers": (lambda: wf.TASKS["angle"].score([0], [1]), "text: expected a text, got 1"),
    "groups of an array": (
        lambda: analysis.probe_generalisation(np.eye(9), np.ones((9, 2)), np.arange(9) < 3, np.ones(9)),
        "groups: expected a mapping of name to array of bool [n], got array(",
    ),
    "dimensions of a list": (lambda: analysis.dimension_table([np.eye(9)]), "Xs: expected a mapping of name to array"),
    "activations of a list": (
        lambda: analysis.cka_over_training(["a"], 1),
        "activations: expected a mapping of name to Activations, got ['a']",
    ),
    "a selection of a number": (lambda: WORLD.select(3), "a selection is an expression or a bool mask [N], not 3"),
    "a scale of a text": (lambda: cities.demo("x"), "scale: expected a number, got 'x'"),
    "a scale below 0": (lambda: cities.mini(-1), "scale: expected a number above 0, got -1"),
    "seeds of a number": (lambda: cities.width(3), "seeds: expected integers, got 3"),
    "a vocabulary of a number": (lambda: cities.Vocabulary("entity", 3), "world: expected a World, got 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_entry_that_is_called_wrongly_teaches(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, said = WRONG[name]
    with pytest.raises((TypeError, ValueError, KeyError), match=re.escape(said)):
        call()
    assert not list(Path().iterdir())


def test_a_plan_for_a_gpu_that_is_not_here(monkeypatch, capsys):
    """An error before anything is printed."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"memory: expected what training may use of a GPU, such as 72GiB .* got None"):
        print_plan(study(), device="cuda")
    with pytest.raises(ValueError, match="72GiB.* of one with 80 GB, 21GiB with 24 GB, 126GiB with 141 GB"):
        print_plan(study(), device="cuda")
    with pytest.raises(ValueError, match="gpus: expected at least 1, got 0"):
        print_plan(study(), device="cuda", memory="72GiB", gpus=0)
    assert capsys.readouterr().out == ""
    print_plan(study(), device="cuda", memory="21GiB")
    assert "time on one GPU, an H200 with 21.0 GiB for training: counted" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [np.int16, np.uint64, np.float32, np.float64, int, float])
def test_numbers_are_of_any_kind(kind):
    """NumPy's as Python's; what is kept is Python's, which JSON keeps."""
    found = positive("x", kind(2))
    assert found == number("x", kind(2)) == 2 and type(found) is float
    assert wf.Run(RUN.data, learning_rate=kind(2), eps=kind(2)).learning_rate == 2
    if np.issubdtype(kind, np.integer):
        assert type(whole("x", kind(2), 0)) is int
        assert wf.Capture(layers=[kind(2)]) == wf.Capture(layers=(2,))
        assert wf.WorldSpec(largest=kind(50)) == wf.WorldSpec(largest=50)
    else:
        with pytest.raises(TypeError, match=r"x: expected an integer, got .*2\.0"):
            whole("x", kind(2), 0)


@pytest.mark.parametrize("value", [True, "2", None, np.bool_(True), np.ones(2), [2]])
def test_what_is_no_number(value):
    for check, expected in ((whole, "an integer"), (number, "a number"), (positive, "a number")):
        with pytest.raises(TypeError, match=f"x: expected {expected}, got {re.escape(repr(value))}"):
            check("x", value)

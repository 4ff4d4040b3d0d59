"""Rows of a run's own data that its model continues: in Python and by `worldfast generate`, for every world of tokens."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import RUN, TINY

import worldfast as wf
from worldfast import cli
from worldfast.models import GPTSpec
from worldfast.reading import continuations
from worldfast.training import load
from worldfast.worlds import chains, factors, walks

WORLDS = {
    "chains": chains.Dataset(chains=3, states=5, length=20),
    "walks": walks.Dataset("grid3", fixed=0.5, length=20),
    "cities": RUN.data,
    "cities, answers": replace(RUN.data, loss="answer"),
}


def model_of(data, spec=TINY):
    """A run of no steps: what is drawn is a matter of rows, not of what a model knows."""
    ensemble = spec.build(data.shape, 1, longest=data.longest)
    ensemble.initialise(0, 3)
    return wf.Run(data, model=spec, capture=wf.Capture(layers=())), ensemble


def half_of(batch):
    """A method `batch` that gives half of the rows."""
    return lambda self, start, n: batch(self, start, n // 2)


@pytest.mark.parametrize("world", WORLDS)
def test_rows_are_continued_as_sample_does(world):
    """Each alone and by hand; the same whatever rows and draws stand beside it."""
    run, ensemble = model_of(WORLDS[world])
    how = {"temperature": 0.7, "top_k": 6, "seed": 5}
    found = continuations((run, ensemble), 4, 2, draws=3, **how)
    rows, end = run.data.stream(5, "test").batch(2, 4), 3 if "cities" in world else None
    for i, (row, first, last) in enumerate(zip(found, rows.row_start.tolist(), rows.row_start.tolist()[1:])):
        scored = [at for at in rows.scored.tolist() if first <= at < last]
        np.testing.assert_array_equal(row.given, rows.inputs[first : scored[0] + 1])
        longest = run.data.longest + 1 - len(row.given)
        prompt = row.given[None], np.array([len(row.given)])
        expected = ensemble.sample(prompt, longest, draws=3, **how, first=2 + i, end=end)[0].tolist()
        cut = [said[: said.index(end)] if end in said else said for said in expected]
        assert [said.tolist() for said in row.drawn] == cut
    alone = continuations((run, ensemble), 1, 4, longest=4, **how)[0].drawn[0]
    np.testing.assert_array_equal(alone, found[2].drawn[0][:4])
    assert len(found[0].given) == 1 or "answers" in world


def test_so_many_tokens_are_given_and_drawn():
    model = model_of(WORLDS["chains"])
    rows = model[0].data.stream(0, "validation").batch(0, 5).inputs.reshape(5, 20)
    for row, one in zip(rows, continuations(model, 5, given=12, longest=30, split="validation")):
        np.testing.assert_array_equal(one.given, row[:12])
        assert [len(said) for said in one.drawn] == [30]  # beyond what a row of the data has
    greedy = continuations(model, 2, temperature=0, draws=2)
    assert all((one.drawn[0] == one.drawn[1]).all() and len(one.drawn[0]) == 20 for one in greedy)


def test_a_model_with_learned_positions_has_room_for_a_row():
    data = WORLDS["walks"]
    model = model_of(data, GPTSpec(hidden=16, heads=2, positions=20, dropout=0))
    assert len(continuations(model, 1)[0].drawn[0]) == 20
    with pytest.raises(ValueError, match="model.positions: expected at least 21, the inputs of a row, got 20"):
        continuations(model, 1, longest=21)


def test_what_is_refused(monkeypatch):
    model, trials = model_of(WORLDS["chains"]), factors.Dataset()
    with pytest.raises(ValueError, match="given: row 3 has 20 tokens, expected at most so many, got 21"):
        continuations(model, 2, 3, given=21)
    for wrong, said in (
        ({"n": 0}, "n: expected at least 1, got 0"),
        ({"start": -1}, "start: expected at least 0"),
        ({"given": 0}, "given: expected at least 1"),
        ({"longest": 0}, "longest: expected at least 1"),
        ({"top_k": 0}, "top_k: expected at least 1"),
        ({"temperature": -1}, "temperature: expected a number of at least 0"),
        ({"draws": 0}, "draws: expected at least 1"),
        ({"split": "tests"}, "unknown split 'tests': did you mean 'test'"),
    ):
        with pytest.raises(ValueError, match=said):
            continuations(model, **wrong)
    monkeypatch.setattr(chains.Walks, "batch", half_of(chains.Walks.batch))
    with pytest.raises(ValueError, match=r"batch\(0, 8\) of Walks: expected 8 rows, got 4"):
        continuations(model)
    net = wf.RecurrentSpec(hidden=8)
    with pytest.raises(ValueError, match="only rows of tokens can be continued; those of .* have vectors, not tokens"):
        continuations((wf.Run(trials, model=net), net.build(trials.shape)))


def test_the_command(tmp_path, capsys):
    """A line for each draw, as text where the dataset has some."""
    data = replace(WORLDS["chains"], rows=32)
    runs = [wf.Run(of, batch=16, model=TINY, checkpoints=1, capture=wf.Capture(layers=())) for of in (data, RUN.data)]
    folders = wf.train(runs, tmp_path, device="cpu", progress=False)
    asked = "--n 3 --start 1 --draws 2 --temperature 0.5 --top-k 3 --seed 7".split()
    for folder, given in zip(folders, (8, 12)):
        capsys.readouterr()
        assert cli.main(["generate", str(folder), *asked, "--given", str(given)]) == 0
        run, ensemble = load(folder)
        rows = continuations((run, ensemble), 3, 1, given=given, draws=2, temperature=0.5, top_k=3, seed=7)
        text = run.data.decode
        expected = [f"{text(row.given)} -> {text(said)}\n" for row in rows for said in row.drawn]
        assert capsys.readouterr().out == "".join(expected) and len(expected) == 6
    assert expected[0].startswith("dist(c_")
    assert cli.main(["generate", str(folders[0]), "--given", "21"]) == 1
    assert "given: row 0 has 20 tokens" in capsys.readouterr().err
    assert cli.main(["generate", str(folders[0]), "--step", "1"]) == 1
    assert "step" in capsys.readouterr().err
    assert cli.main(["generate", str(tmp_path)]) == 1

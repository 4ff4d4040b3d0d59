"""Studies of trials, small: every table, figure, sentence and part of the page."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sight import unread

import worldfast as wf
from worldfast import worlds
from worldfast.analysis import held_out
from worldfast.capture import Capture
from worldfast.report import publish
from worldfast.worlds.factors import figures
from worldfast.worlds.factors.analyses import half_spaces, published_batches
from worldfast.worlds.factors.figures import lines_of
from worldfast.worlds.factors.kinds import OF_RUN, kinds_of
from worldfast.worlds.factors.studies import net, study

FEW = {"observers": lambda study: {"trials": 300}, "attractor": lambda study: {"starts": 9, "iterations": 20}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of five tiny nets of two families, its result and its folder."""
    out = tmp_path_factory.mktemp("factors")
    runs = [net(of, seed, 10, 2, n=n) for of, n, seed in (("rnn", 2, 0), ("rnn", 24, 0), ("rnn", 24, 1), ("gpt", 2, 0))]
    runs = [replace(run, capture=Capture(layers=(1,), readout={"trials": 400})) for run in runs]
    tiny = study("tiny", runs, [runs[0].name], fits=2, batches=20)
    analyses = (replace(one, options=FEW.get(one.kind, one.options)) for one in tiny.analyses)
    tiny = replace(tiny, analyses=tuple(analyses), test_rows=50)
    result = wf.run_study(tiny, out, threads=1)
    return tiny, result, out


def test_tables(made):
    _, result, _ = made
    tables = result.tables
    assert set(tables["runs"].family) == {"rnn", "gpt"} and tables["runs"].stimulus.eq(20).all()
    decoders = tables["decoders"]
    assert len(decoders) == 4 * 4 * 2 and decoders.ood.between(-20, 1).all() and decoders.angle.between(0, 180).all()
    left = tables["left_out"]
    assert len(left) == 4 * 3 * 4 and (left.ood < 1).all() and left.inside.gt(0).any()
    assert (left.groupby(["run", "step"]).n_tried.sum() == 100).all()
    halves = tables["half_spaces"]
    assert len(halves) == 4 * 2 * 2 and (halves.ood < 1).all() and (halves.step == 10).all()
    assert (halves.groupby(["run", "latent"]).n_tried.sum() == 100).all()
    seen = tables["observers"]
    assert seen.bound.eq(1 - 0.48 / 20).all() and seen.optimal.between(0.96, 0.99).all()
    assert (seen.accuracy < seen.best_accuracy).all()
    points = tables["attractor"]
    assert set(points.run) == set(tables["runs"].run[:3]) and (points.groupby("run").starts.sum() == 9).all()
    assert (points.directions + points.unstable).between(0, 64).all() and (points.length > 0).all()
    units = tables["units"]
    assert len(units) == 4 * 64 and units.sparsity.between(0, 1).all() and units.x1.abs().max() <= 1


def test_the_film_leaves_the_first_quadrant_out(made):
    tiny, result, _ = made
    first = result.runs[0]
    x = tiny.runs[0].readout().attributes
    np.testing.assert_array_equal(first.held_out, (x < 0).all(1))
    assert first.columns == ("x1", "x2") and np.isfinite(first.error).all()
    predicted = first.predicted[-1][first.held_out] - x[first.held_out]
    assert first.fit[-1] == pytest.approx(1 - 12 * (predicted**2).mean(), abs=1e-4)


def test_sentences(made):
    _, result, _ = made
    said = " ".join(result.findings)
    decoders = result.tables["decoders"]
    of_24 = decoders[decoders.run.str.contains("rnn-even24")]
    nets = of_24.groupby("run").ood.median()
    assert f"rnn, even24: a decoder has a median R² of {of_24.ood.median():.3f} in the quadrant" in said
    assert f"medians of its 2 nets {nets.min():.3f} to {nets.max():.3f}" in said
    last = result.tables["left_out"].query("step == 10 and run.str.contains('rnn-even24')").groupby("run").ood.median()
    halves = result.tables["half_spaces"].query("run.str.contains('rnn-even24')").groupby("run").ood.median()
    assert f"By least squares it is {last.median():.3f} (medians of nets {last.min():.3f} to {last.max():.3f})" in said
    assert f", and {halves.median():.3f} in a half of the square that is left out." in said
    assert "no unbiased estimate exceeds 0.976" in said and "gpt, even2: a decoder" in said and "one net" in said
    assert "the best observer" in said and "rnn: decoders read" in said and "apart" in said
    points = result.tables["attractor"].query("run.str.contains('rnn-even2-')")
    moved = f"a step moves a state by {(points.speed / points.length).median():.1%} of its length"
    assert f"rnn, even2: at the slowest points under fixation that the search finds, {moved}" in said
    assert "gpt, even2: at the slowest" not in said


def test_figures_and_page(made):
    tiny, result, out = made
    drawn = tiny.figures(result.tables, result.world, result.cka_layer)
    names = {one.name for one in drawn if one.figure is not None}
    assert {"left-out-by-n", "angles-by-n", "left-out-over-training-rnn", "left-out-over-training-gpt"} < names
    assert {"observers", "sparsity", "attractor", "alike-by-left-out", "world"} < names
    labels = [axes.get_ylabel() for one in drawn if one.figure for axes in one.figure.axes]
    assert any("held-out trials" in label for label in labels)
    few = replace(tiny, figures=lambda *_: [one for one in drawn if one.name in ("left-out-by-n", "attractor")])
    page = publish(few, result, out / "page").read_text(encoding="utf-8")
    assert re.findall(r'id="figure-([\w-]+)"', page) == ["left-out-by-n", "attractor"]
    assert "The square inside the net" in page and "quadrant 1" in page
    assert "What fine-tuning does" not in page  # of worlds that have none
    assert {one.name: off for one in drawn if one.figure is not None and (off := unread(one.figure))} == {}


def test_presets():
    names = ("factors-demo", "factors-mini", "factors")
    found = {name: worlds.preset(name) for name in names}
    assert [len(one.runs) for one in found.values()] == [6, 75, 425]
    demo, mini, paper = found.values()
    assert {run.data.n for run in demo.runs} == {2, 24}
    assert len({run.steps for run in mini.runs}) == 1  # equal batches
    published = {run.name: run for run in paper.runs}
    rnn = published["rnn-even24-s3"]
    assert (rnn.steps, rnn.batch, rnn.learning_rate, rnn.clip, rnn.weight_decay) == (100_000, 16, 1e-3, None, 0)
    assert rnn.learning_rate_at(0) == rnn.learning_rate_at(99_999) == 1e-3 and rnn.data.draw == 3
    assert published["gpt-even24-s0"].steps == 20_000
    assert rnn.model.parameters(rnn.shape) == 8408
    assert worlds.preset("factors-demo", scale=0.01).runs[0].steps == 50


def test_batches_of_published_decoders():
    assert [published_batches(n) for n in (2, 3, 6, 12, 24, 9, 48)] == [3000, 3000, 2000, 1000, 1000, 1000, 1000]


def test_analyses_of_other_datasets(tmp_path):
    """More latent numbers, free reaction times and correlated points have those analyses that are about them."""
    fields = [{"questions": "random", "n": 4, "dims": 3}, {"n": 3, "reaction": "free"}, {"n": 2, "correlation": 0.5}]
    fields += [{"n": 2}, {"n": 2, "sigma": 0.4}]
    runs = [net("rnn", 0, 5, 1, **one) for one in fields]
    kinds = ("decoders", "decoders_at_default", "observers", "units", "left_out")
    some = study("others", runs, [], fits=1, batches=10)
    some = replace(some, analyses=tuple(one for one in some.analyses if one.kind in kinds), test_rows=0)
    tables = wf.run_study(some, tmp_path, threads=1).tables
    assert set(tables["observers"].run) == {runs[0].name, runs[3].name, runs[4].name}
    again = tables["decoders_at_default"]
    assert set(again.run) == {runs[4].name} and (again.sigma == 0.2).all() and (again.bound == 0.976).all()
    own = tables["decoders"].set_index("run").loc[runs[4].name]
    assert (own.sigma == 0.4).all() and own.bound.to_numpy() == pytest.approx(1 - 12 * 0.16 / 20)
    free = tables["decoders"].set_index("run").loc[runs[1].name]
    assert free.bound.to_numpy() == pytest.approx(1 - 0.48 / 21)  # evidence of a step more
    drawn = {one.name: one for one in figures.CATALOGUE.draw(tables, None)}
    assert f"{again.ood.median():.3f} at 0.4" in drawn["left-out-at-default-noise"].caption
    assert set(tables["decoders"].run) == set(tables["units"].run) == {run.name for run in runs}
    units = tables["units"].set_index("run")
    assert units.loc[runs[0].name].x1.isna().all() and units.loc[runs[1].name].x1.notna().all()


class Folded:
    """Activations in which the left half of the square lies on the right one: (-|x1|, x2)."""

    steps, columns = [0, 7], ("x1", "x2")

    def __init__(self):
        self.attributes = np.random.default_rng(0).random((400, 2)) - 0.5

    def __getitem__(self, key):
        assert key == (7, 1)  # the last checkpoint
        return np.column_stack([-abs(self.attributes[:, 0]), self.attributes[:, 1]])


def test_decoders_of_half_the_square():
    """One that is exact on either side of x1 = 0 has the wrong sign on the other."""
    folded = Folded()
    found = half_spaces([SimpleNamespace(activations=folded, name="folded")], 1).set_index(["latent", "side"])
    test, x1 = held_out(400, 0.25), folded.attributes[:, 0]
    for side, sign in (("below", -1), ("above", 1)):
        left = test & (sign * x1 > 0)
        one = found.loc["x1", side]
        assert one.ood == pytest.approx(1 - 12 * (4 * x1[left] ** 2).mean() / 2, abs=1e-9)
        assert one.n_tried == left.sum() and one.n_fitted == (~test & (sign * x1 <= 0)).sum()
        assert found.ood["x2", side] > one.ood


def test_equal_labels():
    """Twelve times the questions have as many labels after a twelfth of the trials."""
    runs = runs_table({"n": 2}, {"n": 24})
    at = [(run, step, rows) for run in runs.run for step, rows in ((0, 0), (1, 1000), (2, 12_000))]
    table = pd.DataFrame(at, columns=["run", "step", "rows"]).assign(quadrant=1, inside=1.0)
    table["ood"] = np.where(table.run.str.contains("even24"), 0.1, 0.5) + table.rows / 40_000
    drawn = {one.name: one for one in figures.CATALOGUE.draw({"runs": runs, "left_out": table}, None)}
    one = drawn["left-out-over-labels"]
    assert one.figure is not None
    assert "nearest to 24,000 labels" in one.caption and "even24 0.12 (24,000)" in one.caption
    assert "even2 0.80 (24,000)" in one.caption


def runs_table(*fields):
    """The table of runs of two seeds each of nets with some fields, as studies make it."""
    runs = [net(seed=seed, **{"n": 6} | one) for one in fields for seed in range(2)]
    table = pd.DataFrame({"run": [run.name for run in runs], "tasks": [run.data.label for run in runs]})
    return table.assign(kind="pt", **{name: [of(run) for run in runs] for name, of in OF_RUN.items()})


def test_nets_that_differ_are_never_of_one_kind():
    """By whatever they differ: encoders and families too, of which labels say nothing."""
    fields = [{}, {"n": 2}, {"sigma": 0.3}, {"encoder": "square"}, {"encoder": None}, {"noise": "gumbel"}]
    fields += [{"steps": 5}, {"target": "decision"}, {"output": "tanh"}, {"reaction": "free"}, {"family": "kept"}]
    fields += [{"reaction": "free", "truncated": False}, {"batches": 7}, {"correlation": 0.5}]
    runs = runs_table(*fields)
    kinds = kinds_of(runs)
    assert kinds.groupby(kinds).size().eq(2).all() and kinds.nunique() == len(fields)
    assert "rnn, even6, sigma 0.3" in kinds.iloc[4] and "encoder square" in kinds.iloc[6]
    assert [name for name, members in lines_of(runs, "n")] == ["rnn"]
    (line,) = lines_of(runs, "sigma")
    assert sorted(line[1]) == sorted(runs.run[[0, 1, 4, 5]])
    assert kinds_of(runs_table({}, {"family": "gpt"})).nunique() == 2
    alike = kinds_of(runs_table({}))
    assert alike.tolist() == ["rnn, even6"] * 2


def test_a_net_of_no_family_or_no_batches():
    with pytest.raises(ValueError, match="unknown family 'rnnn': did you mean 'rnn'"):
        net("rnnn")
    with pytest.raises(ValueError, match="batches: expected at least 1, got 0"):
        net(batches=0)
    assert net("gpt").steps == 20_000 and net().steps == 100_000

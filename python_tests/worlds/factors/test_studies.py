"""Studies of trials, small: every table, figure, sentence and part of the page."""

import re
from dataclasses import replace

import numpy as np
import pytest

import worldfast as wf
from worldfast import worlds
from worldfast.report import publish
from worldfast.run import Capture
from worldfast.worlds.factors.analyses import published_batches
from worldfast.worlds.factors.studies import net, study

FEW = {
    "observers": lambda study: {"trials": 300},
    "attractor": lambda study: {"layer": 1, "starts": 9, "iterations": 20},
}


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
    seen = tables["observers"]
    assert seen.bound.eq(1 - 0.48 / 20).all() and seen.optimal.between(0.96, 0.99).all()
    assert (seen.accuracy < seen.best_accuracy).all()
    points = tables["attractor"]
    assert set(points.run) == set(tables["runs"].run[:3]) and (points.groupby("run").starts.sum() == 9).all()
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
    assert "rnn, even24: a decoder has an R² of" in said and "2 nets" in said and "no estimate exceeds 0.976" in said
    assert "the best observer" in said and "apart" in said


def test_figures_and_page(made):
    tiny, result, out = made
    drawn = tiny.figures(result.tables, result.world, result.cka_layer)
    names = {one.name for one in drawn if one.figure is not None}
    assert {"left-out-by-n", "angles-by-n", "left-out-over-training"} < names
    assert {"observers", "sparsity", "attractor", "world"} < names
    labels = [axes.get_ylabel() for one in drawn if one.figure for axes in one.figure.axes]
    assert any("held-out trials" in label for label in labels)
    few = replace(tiny, figures=lambda *_: [one for one in drawn if one.name in ("left-out-by-n", "attractor")])
    page = publish(few, result, out / "page").read_text(encoding="utf-8")
    assert re.findall(r'id="figure-([\w-]+)"', page) == ["left-out-by-n", "attractor"]
    assert "The square inside the net" in page and "quadrant 1" in page


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
    runs = [net("rnn", 0, 5, 1, **one) for one in fields]
    kinds = ("decoders", "observers", "units", "left_out")
    some = study("others", runs, [], fits=1, batches=10)
    some = replace(some, analyses=tuple(one for one in some.analyses if one.kind in kinds), test_rows=0)
    tables = wf.run_study(some, tmp_path, threads=1).tables
    assert set(tables["observers"].run) == {runs[0].name}
    assert set(tables["decoders"].run) == set(tables["units"].run) == {run.name for run in runs}
    units = tables["units"].set_index("run")
    assert units.loc[runs[0].name].x1.isna().all() and units.loc[runs[1].name].x1.notna().all()

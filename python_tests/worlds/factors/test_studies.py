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
from worldfast.worlds.factors import figures, inside
from worldfast.worlds.factors.analyses import films, half_spaces, left_out_over_training, published_batches
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
    rates = tables["rates"]
    assert len(rates) == 64 * 64 and (rates.run == tables["runs"].run[0]).all() and rates.rate.min() >= 0
    over_x2 = rates.groupby(["unit", "x1"]).rate.mean().unstack()
    moving = over_x2.std(axis=1) > 1e-6
    own = units[units.run == rates.run[0]].x1.to_numpy()[moving]
    np.testing.assert_allclose(
        [np.corrcoef(rate, rate.index)[0, 1] for _, rate in over_x2[moving].iterrows()], own, atol=1e-4
    )


def test_trajectories_and_fixed_points_are_in_one_frame(made):
    """Components are uncorrelated, as large as the spectrum says, and rest begins and ends all trials at one state."""
    tables = made[1].tables
    states, share = tables["trajectories"], tables["spectrum"].share
    assert len(states) == 40 * 22 and states.groupby("trial").quadrant.nunique().eq(1).all()
    along = states[[f"component_{k}" for k in (1, 2, 3)]].to_numpy()
    np.testing.assert_allclose(along.mean(0), 0, atol=1e-5)
    moments = along.T @ along
    np.testing.assert_allclose(moments / moments[0, 0], np.diag(share[:3] / share[0]), atol=1e-4)
    assert share.is_monotonic_decreasing and len(share) == 10 and share.sum() <= 1 + 1e-9
    first = along[states.step == 0]
    np.testing.assert_allclose(first, first[:1].repeat(40, axis=0), atol=1e-6)
    points = tables["attractor"]
    assert np.isfinite(points[[f"component_{k}" for k in (1, 2, 3)]]).all().all()


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
    assert {"mixed-selectivity-rnn", "mixed-selectivity-gpt", "left-out-over-labels-rnn"} < names
    assert {"rates", "trajectories"} < names
    caption = {one.name: one.caption for one in drawn}
    size = result.tables["rates"].groupby("unit").rate.max()
    assert f"{tiny.runs[0].name} {(size > 0).sum()} of 64" in caption["rates"]
    assert (
        f"{result.tables['spectrum'].share[:2].sum():.0%} of the variance along two components"
        in caption["trajectories"]
    )
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
    assert [len(one.runs) for one in found.values()] == [6, 75, 390]
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
    assert worlds.preset("factors", scale=0.01).runs[0].steps == 1000


def test_the_sweeps_of_the_paper():
    """Those of its figures: every N of the source by every D that as many questions can place, and the others."""
    runs = worlds.preset("factors").runs
    of = lambda **given: [run for run in runs if all(getattr(run.data, name) == x for name, x in given.items())]  # noqa: E731
    for family in ("rnn", "gpt"):
        swept = {(run.data.n, run.data.dims) for run in of(questions="random") if run.name.startswith(family)}
        assert swept == {(n, d) for n in (3, 6, 9, 12) for d in (2, 4, 6, 8, 10) if n >= d}
    assert {run.data.sigma for run in of(questions="even", n=6)} == {0.1, 0.2, 0.3, 0.4, 0.6}
    for reaction in ("free", "fixed"):
        assert {run.data.steps for run in of(n=24, reaction=reaction)} == {5, 10, 20, 40}
    assert {run.data.correlation for run in of(n=24)} == {0, 0.25, 0.5, 0.75, 0.9}
    assert (
        {run.data.n for run in of(encoder="square")} == {run.data.n for run in of(reaction="free")} == {2, 3, 6, 12, 24}
    )
    assert len({run.name for run in runs}) == len({run.id for run in runs}) == len(runs)


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


def test_a_film_of_one_latent_number_has_no_square():
    states = np.random.default_rng(1).normal(size=(2, 50, 3))
    x = np.linspace(-0.49, 0.49, 50)[:, None]

    class Line:
        steps, attributes = [0, 1], x

        def __getitem__(self, key):
            return states[key[0]]

    found = films([SimpleNamespace(activations=Line(), name="line", things=np.arange(50))], 1)
    assert len(found) == 100 and "predicted_x" not in found and found.component_1.abs().max() > 0
    np.testing.assert_array_equal(found.held_out, np.tile(x[:, 0] < 0, 2))


def test_equal_labels():
    """Twelve times the questions have as many labels after a twelfth of the trials."""
    runs = runs_table({"n": 2}, {"n": 24})
    at = [(run, step, rows) for run in runs.run for step, rows in ((0, 0), (1, 1000), (2, 12_000))]
    table = pd.DataFrame(at, columns=["run", "step", "rows"]).assign(quadrant=1, inside=1.0, bound=0.976)
    table["ood"] = np.where(table.run.str.contains("even24"), 0.1, 0.5) + table.rows / 40_000
    drawn = {one.name: one for one in figures.CATALOGUE.draw({"runs": runs, "left_out": table}, None)}
    one = drawn["left-out-over-labels"]
    assert one.figure is not None
    assert "nearest to 24,000 labels" in one.caption and "even24 0.12 (24,000)" in one.caption
    assert "even2 0.80 (24,000)" in one.caption


def texts(figure):
    """The words in the axes of a figure."""
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


def test_the_bound_is_in_every_figure_of_decoders():
    """With its value: at equal labels and over training as a level, beside CKA as a limit of R2."""
    runs = runs_table({"n": 2}, {"n": 24})
    at = [(run, step, rows) for run in runs.run for step, rows in ((0, 0), (1, 1000), (2, 12_000))]
    table = pd.DataFrame(at, columns=["run", "step", "rows"]).assign(quadrant=1, inside=0.9, ood=0.5, bound=0.976)
    few = pd.DataFrame({"run": runs.run, "ood": 0.5, "bound": 0.976}).assign(quadrant=1, fit=0, inside=0.9, angle=90.0)
    few = few.assign(batches=10)
    pairs = pd.DataFrame({"step_share": 1.0, "run": runs.run[0], "other": runs.run[1:], "value": 0.3})
    given = {"runs": runs, "left_out": table, "decoders": few, "cka": pairs}
    drawn = {one.name: one for one in figures.CATALOGUE.draw(given, None) if one.figure}
    for name, panels in (("left-out-over-training", 2), ("left-out-over-labels", 1), ("alike-by-left-out", 1)):
        found = [said for said in texts(drawn[name].figure) if "bound 0.976" in said]
        assert len(found) == panels and "no unbiased estimate exceeds: 0.976" in drawn[name].caption
        way = "get_xdata" if name == "alike-by-left-out" else "get_ydata"
        for axes in drawn[name].figure.axes:
            assert any(set(getattr(line, way)()) == {0.976} for line in axes.lines)
    unbounded = given | {"left_out": table.assign(bound=np.nan), "decoders": few.assign(bound=np.nan)}
    for one in figures.CATALOGUE.draw(unbounded, None):
        assert one.figure is None or not any("bound" in text for said in texts(one.figure) for text in said)
        assert "exceeds" not in one.caption


@pytest.mark.parametrize(
    "fields,about,expected",
    [
        ({}, {"sigma": 0.2, "steps": [21]}, 0.976),
        ({}, {"sigma": 0.4, "steps": [21]}, 1 - 12 * 0.16 / 20),
        ({}, {"sigma": 0.2, "steps": [3]}, 1 - 0.48 / 3),
        ({}, {"sigma": 0.2, "steps": [0]}, None),  # nothing is seen yet
        ({"reaction": "free"}, {"sigma": 0.2, "steps": [19]}, 0.976),
        ({"noise": "ar1"}, {"sigma": 0.2, "steps": [21]}, None),
    ],
)
def test_the_bound_of_states_is_that_at_their_noise_and_step(fields, about, expected):
    read = Folded()
    read.steps = [7]
    read.readout = SimpleNamespace(about=about)
    run = net(**{"n": 6, "batches": 7} | fields)
    found = left_out_over_training([SimpleNamespace(activations=read, name="folded", run=run)], 1).bound
    assert found.isna().all() if expected is None else found.to_numpy() == pytest.approx(expected)


def test_mixed_selectivity_is_counted():
    """Of units, and a median over nets; those of more latent numbers have none."""
    runs = runs_table({})
    units = pd.DataFrame({"run": np.repeat(runs.run.to_numpy(), 4), "unit": [0, 1, 2, 3] * 2, "sparsity": 0.5})
    units["x1"], units["x2"] = [0.9, -0.6, 0.9, 0.0] * 2, [0.5, 0.8, 0.1, 0.0] * 2
    units.loc[7, ["x1", "x2"]] = -1.0  # of the second net three units
    drawn = {one.name: one for one in inside.CATALOGUE.draw({"runs": runs, "units": units}, None)}
    one = drawn["mixed-selectivity"]
    assert "2 nets in all, even6 62%" in one.caption and len(one.figure.axes) == 1
    x, y = one.figure.axes[0].lines[0].get_data()
    np.testing.assert_array_equal(np.stack([x, y], 1), units[["x1", "x2"]])
    none = {one.name: one for one in inside.CATALOGUE.draw({"runs": runs, "units": units.assign(x1=np.nan)}, None)}
    assert none["mixed-selectivity"].figure is None and "two latent numbers" in none["mixed-selectivity"].caption


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

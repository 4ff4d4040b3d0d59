"""Studies of walks, small: every table, figure, sentence and part of the page."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sight import unread

import worldfast as wf
from worldfast import worlds
from worldfast.models import GPTSpec
from worldfast.reading import induction, scores_of_heads, shares
from worldfast.report import publish
from worldfast.studies import pooled
from worldfast.training import load
from worldfast.worlds import chains
from worldfast.worlds.chains import analyses
from worldfast.worlds.chains.analyses import least, shuffled_rows, tried, untold
from worldfast.worlds.chains.predictors import NAMES, divergence
from worldfast.worlds.chains.studies import Study, model
from worldfast.worlds.walk_rows import contexts_of

SMALL = chains.Dataset(states=5, length=16)
PERMUTED = replace(SMALL, chains=8, permuted=True)
GPT = GPTSpec(hidden=32, layers=2, heads=4, intermediate=64, positions=16)  # learned positions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of three tiny models, of two families, its result and its folder."""
    out = tmp_path_factory.mktemp("chains")
    sets = {replace(SMALL, chains=3): None, replace(SMALL, chains=50): None, PERMUTED: GPT}
    runs = [model(data, 0, 12, 1, hidden=32, batch=8, model=spec, validation=8) for data, spec in sets.items()]
    options = {"attention": lambda study: {"walks": 3}}
    some = tuple(
        replace(one, options=options.get(one.kind, lambda study: {"walks": 24}))
        if one.kind in ("divergences", "apart", "weights", "shuffled", "nearness", "attention")
        else one
        for one in chains.ANALYSES
    )
    study = Study("tiny", tuple(runs), layer=2, shown=(runs[0].name, runs[1].name), analyses=some, test_rows=20)
    return study, wf.run_study(study, out, threads=1), out


def test_tables(made):
    study, result, out = made
    tables = result.tables
    assert tables["runs"].chains.tolist() == [3, 50, 8] and tables["runs"].permuted.sum() == 1
    off, steps = tables["divergences"], len(study.runs[0].checkpoint_steps)
    assert len(off) == 3 * steps * 3 * 5 and set(off.context) == {1, 2, 5, 10, 16}
    assert set(off["set"]) == {"trained", "fresh", "blocks"} and (off.truth > 0).all()
    named = off[off.run != study.runs[2].name]
    assert named[[f"from {name}" for name in NAMES]].notna().all().all()
    own = named[(named["set"] == "trained") & (named.context == 16)]
    assert (own["truth to Bi-Ret"] < own["truth to Bi-Inf"]).all()
    assert off[off.run == study.runs[2].name]["to Bi-Ret"].isna().all()
    weights = tables["weights"]
    assert np.allclose(weights[[*NAMES, *analyses.CONTROLS]].sum(axis=1), 1)
    assert (weights.divergence <= weights.transferred + weights.gap + 1e-9).all()
    assert set(weights.basis) == {"predictors", "with controls", "controls"}
    alike = tables["apart"].query("alike and of < to").groupby(["run", "set", "context"])
    for at, pairs in alike:
        told = weights.query("basis == 'predictors'").set_index(["run", "set", "context"]).untold
        if at in told.index:
            assert set(told[at]) == {"not told apart: " + ", ".join(f"{a} and {b}" for a, b in zip(pairs.of, pairs.to))}
    assert (weights.untold == "all are told apart").any() and len(alike)
    near = tables["nearness"]
    assert set(near.run) == {run.name for run in study.runs[:2]} and near.share.between(0, 1).all()
    heads = tables["attention"]
    assert set(heads.run) == {run.name for run in study.runs}  # of every family with heads
    assert len(heads) == 3 * steps * 2 * 4 and heads.previous.between(0, 1).all()
    assert heads.chance.nunique() == 1  # the same walks, of other names at most
    told = tables["shuffled"]
    assert len(told) == 3 * 2 * 4
    same = told.groupby(["run", "set"])["Uni-Inf"]
    assert same.apply(np.ptp).max() < 0.5


def test_a_model_is_no_distance_from_itself_and_divergences_are_those_of_its_outputs(made):
    study, result, out = made
    run = study.runs[1]
    _, ensemble = load(out / "runs" / run.folder_name)
    found = tried(run.data, "fresh", run.seed, 24)
    said = shares(ensemble, found.rows, 24)
    assert said.shape == (24, 5, 5) and np.allclose(said.sum(-1), 1)
    assert (divergence(said, said) == 0).all()
    table = result.tables["divergences"].query("run == @run.name and set == 'fresh' and step == @run.steps")
    np.testing.assert_allclose(table.truth, (found.truth * np.log(found.truth / said)).sum(-1).mean(0), rtol=1e-9)
    bi = found.predicted["Bi-Inf"]
    np.testing.assert_allclose(table["to Bi-Inf"], (said * np.log(said / bi)).sum(-1).mean(0), rtol=1e-9)


def test_sentences_and_page(made):
    study, result, out = made
    said = " ".join(result.findings)
    assert "Of 3 chains a model ended as" in said and "Of 50 chains a model ended as" in said
    assert "once the order of its context is shuffled" in said and "attends to the state before" in said
    drawn = study.figures(result.tables, result.world, result.cka_layer)
    page = publish(replace(study, figures=lambda *_: drawn), result, out / "page").read_text(encoding="utf-8")
    names = set(re.findall(r'id="figure-([\w-]+)"', page))
    own = {
        "weights",
        "phases-on-trained",
        "phases-on-fresh",
        "divergences",
        "context",
        "shuffled",
        "nearness",
        "attention",
    }
    assert own | {"controls"} <= names
    assert "the posterior mean of what follows the present state" in page and "the state that comes next" in page
    assert "Contexts inside the model" in page and "held-out contexts" in page
    assert {one.name: off for one in drawn if one.figure is not None and (off := unread(one.figure))} == {}


def test_presets():
    found = {name: worlds.preset(name) for name in ("chains-demo", "chains-mini", "chains")}
    assert [len(one.runs) for one in found.values()] == [2, 10, 10]
    demo, mini, paper = found.values()
    run = demo.runs[1]
    assert (run.data.chains, run.data.states, run.data.length, run.model.hidden) == (1024, 5, 100, 32)
    assert run.epoch_rows == run.steps * run.batch and run.kept_steps == run.checkpoint_steps  # no row comes twice
    assert {run.data.chains for run in mini.runs} == {4, 16, 64, 256, 1024} and mini.runs[0].data.length == 128
    assert paper.runs[-1].data.chains == 2048 and paper.runs[0].clip == 0.01
    assert worlds.preset("chains-demo", scale=0.1).runs[0].steps == 150


def test_means_over_more_than_seeds_are_said():
    of = [
        (SMALL, 0, 32),
        (SMALL, 1, 32),
        (replace(SMALL, chains=8), 0, 32),
        (replace(SMALL, chains=8, length=20), 0, 64),
    ]
    runs = tuple(
        model(data, seed, 12, 1, hidden=hidden, batch=8, name=str(i)) for i, (data, seed, hidden) in enumerate(of)
    )
    (said,) = pooled(Study("mixed", runs), lambda run: f"{run.data.chains} chains", ("chains",))
    assert said.startswith("Runs of 8 chains differ in more than their seed (hidden, intermediate, length): ")
    for name in ("chains-mini", "walks-mini", "chains-demo", "walks-demo", "chains", "walks"):
        study = worlds.preset(name)
        assert not any("differ in more than their seed" in one for one in study.findings(study, {}, (), None).sentences)


def test_what_is_shuffled():
    tokens = np.arange(24).reshape(1, 24)
    for kind, kept in zip(analyses.KINDS, (slice(None), slice(0), slice(14, None), slice(0, 14))):
        found = shuffled_rows(tokens, kind, 0)
        assert sorted(found[0]) == list(range(24)) and (found[:, kept] == tokens[:, kept]).all()
        assert (found != tokens).any() == (kind != "in order")


def test_scores_of_heads():
    """A head that looks one back, one that looks at what came after the present token, and one that looks evenly."""
    tokens = np.array([0, 1, 2, 0, 1, 0])
    back = np.eye(6, k=-1)
    back[0, 0] = 1
    after = np.eye(6)
    after[3], after[4], after[5] = np.eye(6)[1], np.eye(6)[2], (np.eye(6)[1] + np.eye(6)[4]) / 2
    even = np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]
    found = induction(tokens, np.stack([back, after, even]))
    np.testing.assert_allclose(found["previous"], [1, (0 + 0 + 0 + 0 + 0.5) / 5, even[range(1, 6), range(5)].mean()])
    np.testing.assert_allclose(found["induction"][1:], [1, (1 / 4 + 1 / 5 + 2 / 6) / 3])
    np.testing.assert_allclose(found["chance"], (1 / 4 + 1 / 5 + 2 / 6) / 3)
    assert np.isnan(induction(np.arange(4), np.stack([np.eye(4)]))["induction"]).all()


def test_scores_of_heads_leave_out_rows_in_which_no_state_comes_again():
    ensemble = wf.TransformerSpec(hidden=32, layers=1, heads=2).build(SMALL.shape)
    ensemble.initialise(0, seed=0)

    def scores(*rows):
        tokens = np.array(rows, np.int32)
        packed = SMALL.stream(0).packed(tokens, np.arange(1, len(rows) + 1) * 4 - 1)
        return scores_of_heads(ensemble, packed, tokens)

    once, again = [0, 1, 2, 3], [0, 1, 0, 2]
    both, alone = scores(once, again), scores(again)
    np.testing.assert_allclose(both["induction"], alone["induction"])
    assert (both["previous"] != alone["previous"]).all() and np.isnan(scores(once)["induction"]).all()


def test_predictors_that_are_equal_are_said_not_to_be_told_apart():
    some = np.random.default_rng(0).dirichlet(np.ones(3), (20, 2))
    other = some.copy()
    other[:, 1] = 1 / 3
    assert untold({"a": some, "b": other, "c": some}) == [
        "not told apart: a and b, a and c, b and c",
        "not told apart: a and c",
    ]


def test_the_nearest_chain():
    of = replace(SMALL, chains=9).set_of("trained")
    found = least(of.transitions[[4, 2]], of)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    one = of._replace(transitions=of.transitions[:1], stationary=of.stationary[:1])
    P, Q = of.transitions[4], of.transitions[0]
    expected = sum(of.stationary[0, i] * P[i, j] * np.log(P[i, j] / Q[i, j]) for i in range(5) for j in range(5))
    np.testing.assert_allclose(least(of.transitions[[4]], one), expected)


def test_contexts():
    assert contexts_of(2).tolist() == [1, 2] and contexts_of(100).tolist() == [1, 2, 5, 10, 20, 50, 100]
    assert contexts_of(128).tolist() == [1, 2, 5, 10, 20, 50, 100, 128]

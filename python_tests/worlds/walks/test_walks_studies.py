"""Studies of walks on graphs, small: every table, figure, sentence and part of the page."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sight import unread

import worldfast as wf
from worldfast import worlds
from worldfast.models import GPTSpec
from worldfast.reading import induction
from worldfast.report import publish
from worldfast.report.figures.numbers import lines
from worldfast.training import load
from worldfast.worlds import walks
from worldfast.worlds.walks.analyses import DRAWS, layers_of, placed_nulls
from worldfast.worlds.walks.dataset import contexts
from worldfast.worlds.walks.geometry import class_means, following, measures
from worldfast.worlds.walks.heads import repeated
from worldfast.worlds.walks.reading import said_by, states_of, to_nodes
from worldfast.worlds.walks.studies import Study, model

SMALL = walks.Dataset("grid3", length=24)
GPT = GPTSpec(hidden=32, layers=2, heads=4, intermediate=64, positions=24)  # learned positions
READ = {"namings": 2, "walks": 4, "window": 12}
LESS = {  # options of analyses
    "rule": ("namings", "walks"),
    "geometry": ("namings", "walks", "window"),
    "nulls": ("namings", "walks", "window"),
    "ablation": ("namings", "walks", "window"),
    "maps": ("walks", "window"),
}


def smaller(one):
    if one.kind not in LESS:
        return one
    less = {name: READ[name] for name in LESS[one.kind]}
    return replace(one, options=lambda study, of=one.options: {**of(study), **less})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of three tiny models, of two families, its result and its folder."""
    out = tmp_path_factory.mktemp("walks")
    runs = [
        model(replace(SMALL, fixed=fixed), 0, 12, 1, hidden=32, batch=8, layers=2, model=spec, validation=8)
        for fixed, spec in {0.0: None, 0.5: None, 0.9: GPT}.items()
    ]
    names = (runs[0].name, runs[1].name)
    study = Study("tiny", tuple(runs), layer=2, shown=names, analyses=tuple(map(smaller, walks.ANALYSES)), test_rows=20)
    return study, wf.run_study(study, out, threads=1), out


def test_runs_of_models_of_any_kind_and_depth():
    deep, flat = (model(SMALL, 0, 12, 1, hidden=32, batch=8, layers=layers) for layers in (3, 2))
    spec = wf.RecurrentSpec(hidden=16, layers=1)
    other = model(SMALL, 0, 12, 1, batch=8, model=spec)
    assert other.model == spec and other.capture.layers == (1,) and other.name == "grid3-1layers-s0"
    own = wf.TransformerSpec(hidden=32, layers=1, heads=2, init_std=0.1)
    assert model(SMALL, 0, 12, 1, batch=8, model=own).model == own  # as it was given, first weights too
    assert deep.capture.layers == (1, 2, 3) and layers_of(Study("mixed", (deep, flat), layer=2)) == {"layers": [1, 2]}


def test_tables(made):
    study, result, out = made
    tables, steps = result.tables, len(study.runs[0].checkpoint_steps)
    assert tables["runs"].fixed.tolist() == [0, 0.5, 0.9] and set(tables["runs"].depth) == {2}
    found = tables["geometry"]
    assert set(found.context) == {1, 2, 5, 10, 20, 24}
    contexts_read = 6
    assert len(found) == 5 * steps * 2 * contexts_read  # kinds of names of three runs, layers
    late = found[found.context == 24]
    assert late[["ratio", "r2", "cka"]].notna().all().all() and late.r2.between(0, 1).all()
    assert found[(found.names == "fixed") | (found.run == study.runs[0].name)].r2_home.isna().all()
    assert (
        found[(found.names == "own") & (found.run == study.runs[1].name) & (found.context == 24)].r2_home.notna().all()
    )
    null = tables["nulls"]
    chance = null[(null.run != study.runs[0].name) & (null.names == "own") & (null.context == 24)].r2_home
    assert chance.notna().all() and chance.lt(0.9).all() and null[null.names == "fixed"].r2_home.isna().all()
    assert set(null.of) == {"names", "recall", "mixed", "whole graph"} and len(null) == 5 * 4 * contexts_read
    assert null[null.of == "whole graph"].groupby(["run", "names"]).r2.nunique().eq(1).all()
    assert null[(null.of == "mixed") & (null.context > 1)].following.min() > 0.9  # the name before
    assert null[null.of == "names"].following.isna().all()
    assert len(tables["rule"]) == 5 * steps * contexts_read and tables["rule"].following.between(0, 1).all()
    heads = tables["heads"]
    assert set(heads.run) == {run.name for run in study.runs}  # of every family with heads
    assert len(heads) == 3 * steps * 2 * 4 and heads.previous.between(0, 1).all()
    np.testing.assert_allclose(heads.chance, np.mean([1 / (t + 1) for t in range(9, 18)]))  # of nine names, twice
    gone = tables["ablation"]
    assert set(gone["heads"]) == {"none", "induction", "previous", "others"} and set(gone.k) == {0, 1, 2}
    for of, some in gone[gone.names == "own"].groupby("run"):  # of every family, and a head less is another model
        assert set(some.k) == {0, 1, 2} and some.following.nunique() > 1, of
    assert set(gone.run) == set(heads.run)
    assert set(tables["maps"].of) == {"model", "recall", "mixed"}
    placed = tables["probes"]
    assert placed.r2.le(1).all() and set(placed.layer) == {1, 2}
    of_nulls = [f"null {kind}" for kind in ("names", "recall", "mixed", "whole graph")]
    assert placed.groupby("run")[of_nulls].nunique().eq(1).all().all() and placed[of_nulls].lt(1).all().all()
    assert [run.nulls.keys() for run in result.runs] == [{"names", "recall", "mixed", "whole graph"}] * 2


def test_nulls_of_places_are_those_of_random_vectors_read_where_models_are():
    """By hand, a walk and a visit at a time; and names alone are read no better than a constant is."""
    run = replace(
        model(replace(SMALL, length=40), 3, 12, 1, hidden=32, batch=8), capture=wf.Capture(readout={"walks": 9})
    )
    readout, n = run.data.readout(walks=9), 9
    places, test = readout.attributes, np.isin(np.arange(n), [0, 4, 5, 6])
    found = placed_nulls(run, places, test)
    assert found == placed_nulls(run, places, test) and set(found) == {
        f"null {kind}" for kind in ("names", "recall", "mixed", "whole graph")
    }
    named = {token: node for node, token in enumerate(readout.about["named"])}
    tokens, at = readout.rows.inputs.numpy(), readout.rows.scored.numpy()[readout.order].reshape(n, -1)
    walked = [[named[token] for token in tokens[k // 40 * 40 : k + 1].tolist()] for k in at.ravel()]  # each to a visit
    visits = [(walk, [b for a, b in zip(walk, walk[1:]) if a == walk[-1]]) for walk in walked]
    assert [walk[-1] for walk in walked] == np.repeat(range(n), at.shape[1]).tolist()
    sums = {kind: np.zeros((n, n)) for kind in ("names", "recall", "mixed")}  # of which vectors states are
    for walk, after in visits:
        sums["names"][walk[-1], walk[-1]] += 1
        for node in walk[-2:]:
            sums["mixed"][walk[-1], node] += 1
        for node in after or range(n):
            sums["recall"][walk[-1], node] += 1 / len(after or range(n))
    random = np.random.default_rng(run.seed)
    for kind, of_kind in sums.items():
        scores = []
        for _ in range(DRAWS):
            X = of_kind @ random.normal(size=(n, 32))
            X = X - X.mean(0)
            two = np.column_stack([X @ np.linalg.svd(X)[2][:2].T, np.ones(n)])
            off = two @ np.linalg.lstsq(two[~test], places[~test], rcond=None)[0] - places
            scores.append(1 - ((off[test] ** 2).sum(0) / ((places - places[test].mean(0))[test] ** 2).sum(0)).mean())
        assert found[f"null {kind}"] == pytest.approx(np.mean(scores))
    assert found["null names"] < 0 < found["null whole graph"]


def test_measures_are_those_of_the_models_states(made):
    study, result, out = made
    run = study.runs[1]
    _, ensemble = load(out / "runs" / run.folder_name)
    read, graph = contexts(run.data, "own", run.seed, "reading", 2, 4), run.data.graph_of("own")
    (states,) = states_of(ensemble, run.data, read, [1])
    flat = np.concatenate(read.tokens)  # walk after walk
    rows = walks.Walks(run.data, 0).packed(flat.astype(np.int32), np.arange(flat.size))
    np.testing.assert_array_equal(states.reshape(flat.size, -1), ensemble.states(rows, 0, [1])[0].numpy())
    table = result.tables["geometry"].query("run == @run.name and names == 'own' and layer == 1 and context == 24")
    expected = [measures(class_means(states[g], read.nodes[g], 9, 24, 12), graph) for g in range(2)]
    last = table[table.step == run.steps].iloc[0]
    for name in ("energy", "ratio", "r2", "cka"):
        np.testing.assert_allclose(last[name], np.mean([one[name] for one in expected]), rtol=1e-9)
    said = said_by(ensemble, run.data, read, np.array([23]))
    by_hand = np.mean(
        [
            sum(said[g, w, 0, read.names[g, j]] for j in np.flatnonzero(graph.adjacency[read.nodes[g, w, 23]]))
            for g in range(2)
            for w in range(4)
        ]
    )
    rule = result.tables["rule"].query("run == @run.name and names == 'own' and context == 24 and step == @run.steps")
    np.testing.assert_allclose(rule.following.item(), by_hand, rtol=1e-9)


def test_what_is_ablated_gives_nothing(made):
    study, result, out = made
    run = study.runs[0]
    _, ensemble = load(out / "runs" / run.folder_name)
    read = contexts(run.data, "own", run.seed, "reading", 2, 4)
    before = said_by(ensemble, run.data, read, np.array([23]))
    gain = np.ones((2, 4))
    gain[1] = 0
    after = said_by(ensemble, run.data, read, np.array([23]), gain=gain)
    ensemble.weights[0].blocks[1].output.zero_()
    np.testing.assert_allclose(said_by(ensemble, run.data, read, np.array([23])), after, atol=1e-6)
    assert not np.allclose(before, after, atol=1e-6)


def test_sentences_and_page(made):
    study, result, out = made
    said = " ".join(result.findings)
    assert "grid3, 2 layers, 0.5 of rows fixed; in rows with names of their own, R²" in said
    assert "mixed with the name before" in said and "saying the name before would give 1" in said
    assert "of the places that they have elsewhere" in said and "without 2 induction heads" in said
    drawn = study.figures(result.tables, result.world, result.cka_layer)
    page = publish(replace(study, figures=lambda *_: drawn), result, out / "page").read_text(encoding="utf-8")
    names = set(re.findall(r'id="figure-([\w.-]+)"', page))
    of_graph = {
        f"{name}-grid3-{kind}" for name in ("context", "learned", "layers", "ablation") for kind in ("own", "fixed")
    }
    assert of_graph | {"homes-grid3", "rule-grid3", "heads", "shares-grid3"} <= names
    assert {f"maps-{run.name}-own".replace(".", "-") for run in study.runs[:2]} <= names
    (over,) = [one.figure for one in drawn if one.name == "attributes-over-training"]
    of_nulls = [line for line in lines(over.axes[0]) if line.level]
    assert [line.name for line in of_nulls] == ["names", "recall", "mixed", "whole graph"]
    probes = result.tables["probes"]
    assert of_nulls[1].y[0] == pytest.approx(probes[probes.layer == 1]["null recall"].mean())
    assert "Dashed: what the same probe reads of the shown model’s nulls" in page and '"nulls":[["names",' in page
    assert "graph inside the model" in page and "saying what came after the present name before" in page
    assert {one.name: off for one in drawn if one.figure is not None and (off := unread(one.figure))} == {}


def test_presets():
    demo, mini, paper = (worlds.preset(name) for name in ("walks-demo", "walks-mini", "walks"))
    assert [len(one.runs) for one in (demo, mini, paper)] == [1, 24, 48]
    (run,) = demo.runs
    assert (run.data.graph, run.data.fixed, run.data.length, run.model.hidden) == ("grid4", 0, 128, 32)
    assert run.epoch_rows == run.steps * run.batch and run.kept_steps == run.checkpoint_steps  # no row comes twice
    assert {run.data.fixed for run in mini.runs} == {0, 0.5, 0.9, 0.99} and {r.model.layers for r in mini.runs} == {
        2,
        4,
    }
    assert {run.data.graph for run in mini.runs} == {"grid4", "ring10", "hexagonal2"}
    assert {run.data.length for run in paper.runs} == {1400}
    assert worlds.preset("walks-demo", scale=0.1).runs[0].steps == 300


def test_scores_of_heads():
    """A head that looks one back, one that looks at what came after the same name, and one that looks evenly."""
    T = 8
    back, after = np.eye(T, k=-1), np.eye(T)
    for t in range(4, T):
        after[t] = np.eye(T)[t - 3]
    even = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    found = induction(np.arange(T) % 4, np.stack([back, after, even]))
    np.testing.assert_allclose(found["previous"], [1, 0, (1 / np.arange(2, 9)).mean()])
    np.testing.assert_allclose(found["induction"], [0, 1, (1 / np.arange(5, 9)).mean()])
    tokens = repeated(replace(SMALL, names=40, length=40), 0)
    assert tokens.shape == (16, 40) and (tokens[:, :20] == tokens[:, 20:]).all()
    assert all(len(set(row)) == 20 for row in tokens.tolist())
    assert repeated(SMALL, 0).shape == (16, 18)  # nine names


def test_who_gives_all_to_neighbours_follows_the_rule():
    data = replace(SMALL, names=14)
    read, graph = contexts(data, "own", 0, "reading", 3, 5), data.graph_of("own")
    A = graph.adjacency
    at = np.array([0, 23])
    said = np.zeros((3, 5, 2, 14))
    for g in range(3):
        for w in range(5):
            for c, t in enumerate(at):
                beside = np.flatnonzero(A[read.nodes[g, w, t]])
                said[g, w, c, read.names[g, beside]] = 1 / len(beside)
    nodes = read.nodes[:, :, at]
    np.testing.assert_allclose(following(to_nodes(said, read), nodes, graph), 1)
    even = np.full_like(said, 1 / 14)
    np.testing.assert_allclose(following(to_nodes(even, read), nodes, graph), A.sum(1)[nodes] / 14)

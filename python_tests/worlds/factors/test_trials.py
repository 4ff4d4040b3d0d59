"""Trials: their numbers beside a second statement of them, their distribution, their bits in every batch, and bad fields."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from trials_by_hand import encoded, trial

import worldfast as wf
from worldfast._native import core
from worldfast.errors import MismatchError
from worldfast.worlds import factors
from worldfast.worlds.check import check_world
from worldfast.worlds.factors import questions
from worldfast.worlds.factors.dataset import quadrants

DATA = factors.Dataset(n=6, rows=2000)
KINDS = {
    "even": DATA,
    "an odd number": factors.Dataset(n=3, noise="gumbel"),
    "random": factors.Dataset("random", n=7, dims=5, draw=3, encoder="square"),
    "products": factors.Dataset("products", correlation=0.8, noise="anisotropic"),
    "context": factors.Dataset("context", n=2, block=3, noise="encoded", sigma=0.1),
    "no encoder": factors.Dataset(n=4, encoder=None, steps=7, noise="ar1"),
    "decision": factors.Dataset("random", n=4, target="decision", correlation=-0.5),
    "free": factors.Dataset(n=5, reaction="free", encoder=None),
    "free, not truncated": factors.Dataset("random", n=5, dims=3, reaction="free", truncated=False, steps=60),
}


def by_hand(data, seed, row):
    rule, layers, boundary, threshold, _ = data.stream(seed)._given
    found = {name: getattr(data, name) for name in ("dims", "steps", "sigma", "noise", "correlation", "channels")}
    found |= dict(layers=layers, square=data.encoder == "square", free=data.reaction == "free", block=rule["block"])
    return trial(rule["key"], row, boundary=boundary, threshold=threshold, **found)


@pytest.mark.parametrize("name", KINDS)
def test_a_trial_by_hand(name):
    data = KINDS[name]
    drawn = data.stream(4).drawn(11, 9)
    assert drawn.inputs.shape[1:] == (data.longest, data.shape.inputs)
    for i in range(9):
        inputs, targets, x = by_hand(data, 4, 11 + i)
        np.testing.assert_allclose(drawn.latents[i], x, atol=1e-7)
        np.testing.assert_allclose(drawn.inputs[i], inputs, rtol=2e-5, atol=2e-6)
        if data.target == "decision":
            targets = targets[-1:]
        if data.reaction == "free" and data.truncated:
            near = np.abs(targets - np.round(targets)) < 1e-5  # which float32 observations may put on either side
            assert (near | (drawn.targets[i] == np.trunc(targets))).all() and near.mean() < 0.7
            assert (drawn.targets[i] % 1 == 0).all()
        else:
            np.testing.assert_allclose(drawn.targets[i], targets, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_world_that_passes(name):
    data = replace(KINDS[name], rows=100, steps=4)
    check_world(data)
    drawn = data.stream(0).drawn(0, 8)
    if data.questions != "context" and data.reaction == "fixed":
        np.testing.assert_array_equal(drawn.targets[:, -1] > 0.5, data.asked.answers(drawn.latents.astype(float)))


def test_a_trial_has_the_same_bits_at_every_width_and_on_every_number_of_threads():
    width, bits = core.vector_width(), []
    for name in ("even", "random", "free"):
        (rule, *given), shape = KINDS[name].stream(0)._given, KINDS[name].stream(0).drawn(0, 70)
        for limit in (4, 8, 16):
            core.limit_vector_width(limit)
            for threads in (1, 3):
                made = [np.empty_like(x) for x in shape]
                core.trials(rule | {"given": False}, *given, 0, 70, *made, threads)
                bits.append([x.tobytes() for x in made] == [x.tobytes() for x in shape])
        core.limit_vector_width(width)
    assert all(bits)


def test_points_and_noise_are_distributed_as_stated():
    def seen(**fields):
        data = factors.Dataset(n=4, encoder=None, **fields)
        drawn = data.stream(0).drawn(0, 4000)
        return drawn.latents, drawn.inputs[:, 1:-1, 1:] - drawn.latents[:, None]

    x, noise = seen()
    assert stats.kstest(x.ravel() + 0.5, "uniform").pvalue > 1e-3
    assert stats.kstest(noise.ravel() / 0.2, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.05 and abs(np.corrcoef(noise[:, 0].T)[0, 1]) < 0.05
    _, noise = seen(noise="anisotropic")
    np.testing.assert_allclose(noise.std((0, 1)), [0.2, 0.4], rtol=0.02)
    _, noise = seen(noise="gumbel")
    assert noise.mean() == pytest.approx(0.115, abs=0.005)  # Euler's constant times 0.2, not removed
    _, noise = seen(noise="ar1")
    np.testing.assert_allclose(noise.std(0), 0.2, rtol=0.06)  # stationary from the first step on
    assert np.corrcoef(noise[:, 3, 0], noise[:, 4, 0])[0, 1] == pytest.approx(0.7, abs=0.04)
    x, _ = seen(correlation=0.9)
    assert stats.kstest(x[:, 1] + 0.5, "uniform").pvalue > 1e-3
    assert np.corrcoef(stats.norm.ppf(x.T + 0.5))[0, 1] == pytest.approx(0.9, abs=0.02)


def test_every_answer_is_yes_half_the_time():
    for name in ("even", "an odd number", "random", "context"):
        yes = KINDS[name].stream(1).drawn(0, 8000).targets[:, -1].mean(0)
        np.testing.assert_allclose(yes, 0.5, atol=0.03, err_msg=name)


def test_encoder_and_hyperplanes_are_those_of_the_draw():
    one, other = (factors.Dataset("random", n=8, draw=draw) for draw in (0, 1))
    layers = questions.encoder(2, 0)
    assert [x.shape for x in layers] == [(2, 112), (112,), (100, 112), (112,), (100, 48), (48,)]
    for weight, bias, units in zip(layers[::2], layers[1::2], (100, 100, 40)):
        bound = 1 / np.sqrt(len(weight))
        for x in (weight, bias):
            assert not x[..., units:].any() and 0.85 * bound < np.abs(x).max() <= bound
    assert np.abs(np.linalg.norm(one.asked.boundary, axis=1) - 1).max() < 1e-12
    assert one.digest != other.digest and wf.Run(one).id != wf.Run(other).id
    rows = one.stream(3).batch(5, 2)
    assert not torch.equal(rows.inputs, other.stream(3).batch(5, 2).inputs)
    np.testing.assert_allclose(rows.inputs[0, 1:], encoded(np.zeros(2), layers, False)[:40], atol=1e-6)


def test_a_run_of_another_encoder_is_refused(monkeypatch):
    """Its content, which a run's folder states, is another."""
    content = wf.Run(DATA).to_json()
    monkeypatch.setattr(questions, "HIDDEN", 101)
    questions.encoder.cache_clear()
    with pytest.raises(MismatchError, match="encoder of Dataset"):
        wf.Run.from_json(content)
    questions.encoder.cache_clear()


def test_readouts():
    every, last, some = (DATA.readout(trials=40, positions=p) for p in ("every", "decision", (0, 3)))
    assert len(every.rows.scored) == 40 * 22 and last.rows.scored.tolist() == list(range(21, 40 * 22, 22))
    assert some.rows.scored[:4].tolist() == [0, 3, 22, 25] and some.about["steps"] == [0, 3]
    np.testing.assert_array_equal(sum(last.groups.values()), 1)
    assert (last.groups["quadrant 3"] == ((last.attributes[:, 0] > 0) & (last.attributes[:, 1] < 0))).all()
    other = factors.Dataset("random", n=9, draw=5, correlation=0.9).readout(trials=40)
    assert other.entities.tolist() == last.entities.tolist()
    quiet = replace(DATA, encoder=None).readout(trials=40, sigma=0)
    seen = quiet.rows.inputs.reshape(40, 22, 3)[:, 1:-1, 1:].numpy()
    np.testing.assert_array_equal(seen, np.repeat(quiet.attributes[:, None].astype(np.float32), 20, 1))


@pytest.mark.parametrize("name", KINDS)
def test_given_points_have_the_noise_of_drawn_ones(name):
    """A trial of the point that it draws has the same bits; of another point, the noise and rule of the drawn one."""
    stream = KINDS[name].stream(2)
    drawn = stream.drawn(3, 12)
    assert all(map(np.array_equal, stream.drawn(3, 12, drawn.latents), drawn))
    moved = replace(KINDS[name], encoder=None, noise="gumbel", rows=100).stream(2)
    x = np.full((12, moved.data.dims), 0.25)
    here, there = moved.drawn(3, 12, x), moved.drawn(3, 12)
    np.testing.assert_array_equal(here.latents, x)
    away = np.zeros_like(here.inputs)
    first = moved.data.reaction == "fixed"
    away[:, first : moved.longest - first, first : first + moved.data.dims] = (x - there.latents)[:, None]
    np.testing.assert_allclose(here.inputs - there.inputs, away, atol=1e-6)


def test_noise_after_the_encoder_is_that_of_the_source():
    """N(0, 0.1^2) in place of 0.2 before it; a sigma that is given counts."""
    assert factors.Dataset(noise="encoded").sigma == 0.1 and factors.Dataset().sigma == 0.2
    assert factors.Dataset(noise="encoded", sigma=0.3).sigma == 0.3
    stream = factors.Dataset(noise="encoded").stream(0)
    quiet = factors.Trials(stream.data, 0, sigma=0).drawn(0, 300)
    noise = (stream.drawn(0, 300).inputs - quiet.inputs)[:, 1:-1, 1:]
    assert stats.kstest(noise.ravel() / 0.1, "norm").pvalue > 1e-3


def test_the_least_noise_is_still_what_it_says():
    """Observations have it to 2%, and what the encoder makes of them in float32 is within 4% of what it would be."""
    points = KINDS["even"].readout(trials=300).attributes
    bare = factors.Dataset(n=2, encoder=None, sigma=1e-5).stream(0).drawn(0, 300, points)
    noise = (bare.inputs[:, 1:-1, 1:] - bare.latents[:, None].astype(np.float64)) / 1e-5
    assert noise.std() == pytest.approx(1, abs=0.02) and stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    data = factors.Dataset(n=2, sigma=1e-5)
    seen = [factors.Trials(data, 0, sigma=sigma).drawn(0, 300, points).inputs[:, 1:-1, 1:] for sigma in (1e-5, 0)]
    exact = [encoded(x, questions.encoder(2, 0), False)[..., :40] for x in (bare.inputs[:, 1:-1, 1:], points[:, None])]
    moved, wanted = seen[0].astype(np.float64) - seen[1], exact[0] - exact[1]
    assert (moved - wanted).std() < 0.04 * wanted.std()


def test_the_most_noise_is_learned_from():
    """A gradient of what it makes of a squaring encoder is finite, and so is its square, which Adam keeps."""
    data = factors.Dataset(n=2, sigma=1e3, noise="anisotropic", encoder="square", rows=64)
    ensemble = wf.RecurrentSpec(hidden=64, nonlinearity="relu", init="fan_in").build(data.shape)
    ensemble.initialise(0, 0)
    assert np.isfinite(float(ensemble.learn([data.stream(0).batch(0, 16)], [0])[0]))
    assert torch.isfinite(ensemble.gradients**2).all()


@pytest.mark.parametrize("deviation", [1e-6, -0.2, 1e9, float("nan")])
def test_the_core_refuses_noise_beyond_its_limits(deviation):
    rule, *given, scale = DATA.stream(0)._given
    made = DATA.stream(0).drawn(0, 2)
    with pytest.raises(ValueError, match="scale: expected a number from"):
        core.trials(rule | {"given": False}, *given, np.full_like(scale, deviation), 0, 2, *made, 1)


@pytest.mark.parametrize(
    "points,said",
    [(np.zeros((3, 5)), r"points: expected \[3, 2\], got \[3, 5\]"), ([[np.nan] * 2] * 3, "points: holds NaN")],
)
def test_bad_points(points, said):
    with pytest.raises(ValueError, match=said):
        DATA.stream(0).drawn(0, 3, points)


def test_a_folder_of_another_encoder_is_not_trained_on(tmp_path):
    """Of two draws runs have two folders; where one holds the files of the other, training stops before a step."""
    run = replace(factors.net(batches=2, checkpoints=1, n=3), capture=wf.Capture(layers=()))
    other = replace(run, data=replace(run.data, draw=run.data.draw + 1))
    (folder,) = wf.train([run], tmp_path, threads=1)
    assert folder.name == run.folder_name != other.folder_name
    folder.rename(tmp_path / other.folder_name)
    with pytest.raises(MismatchError, match=f"id is {run.id}, but that of this run is {other.id}"):
        wf.train([other], tmp_path, threads=1)


def test_quadrants_are_every_fourth_orthant():
    orthants = np.array(np.meshgrid(*[[-1, 1]] * 4, indexing="ij")).reshape(4, -1).T  # last coordinate fastest
    np.testing.assert_array_equal(quadrants(orthants), np.arange(16) % 4 + 1)


def test_the_loss_before_training_and_below_which_it_never_falls():
    """A mean over batch, steps and questions, as published: 0.694; (21 ln 2 + 0.0904) / 22 = 0.66575 of 24 questions."""
    data = factors.Dataset(rows=2000)
    ensemble = wf.RecurrentSpec(hidden=64, nonlinearity="relu", init="fan_in").build(data.shape)
    ensemble.initialise(0, 0)
    rows = data.stream(0).batch(0, 200)
    assert float(ensemble.learn([rows], [0])[0]) / len(rows.scored) == pytest.approx(0.694, abs=0.003)


@pytest.mark.parametrize("squash", [("fixed", "tanh"), ("free", None), ("free", "linear")])
def test_losses_of_numbers_by_hand(squash):
    """A mean square over batch, steps and questions: of tanh to -1, 0 and 1, of 5 tanh to evidence, or of neither."""
    reaction, output = squash
    data = factors.Dataset(n=6, reaction=reaction, output=output, rows=64)
    ensemble = wf.RecurrentSpec(hidden=8).build(data.shape)
    ensemble.initialise(0, 0)
    rows, drawn = data.stream(0).batch(0, 5), data.stream(0).drawn(0, 5).targets.reshape(-1, 6).astype(float)
    z = ensemble.outputs(rows, 0).numpy().astype(float)
    if reaction == "fixed":
        assert set(np.unique(drawn)) == {0, 0.5, 1}
        away = np.tanh(z) - np.select([drawn == 0, drawn == 1], [-1, 1])
    else:
        away = (z if output else 5 * np.tanh(z)) - drawn
    assert float(ensemble.learn([rows], [0])[0]) / len(z) == pytest.approx((away**2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "fields,error,said",
    [
        ({"n": 1}, ValueError, "n: expected at least dims, 2, got 1: fewer questions do not place a point"),
        ({"questions": "evn"}, ValueError, "unknown questions 'evn': did you mean 'even'"),
        ({"dims": 3}, ValueError, "dims: expected 2 with questions='even', got 3: other numbers of latents need"),
        ({"questions": "random", "dims": 3, "correlation": 0.5}, ValueError, "dims: expected 2 with correlation=0.5"),
        ({"questions": "random", "dims": 1, "noise": "anisotropic"}, ValueError, "dims: expected 2 with noise='ani"),
        ({"noise": "encoded", "encoder": None}, ValueError, "noise: 'encoded' is added to the encoder's outputs"),
        ({"reaction": "free", "target": "decision"}, ValueError, "target: expected 'every' with reaction='free', got"),
        ({"truncated": False}, ValueError, "truncated: False is for reaction='free'"),
        ({"block": 8}, ValueError, "block: 8 rows share a question of questions='context' only; 'even' rows are asked"),
        ({"sigma": 0}, ValueError, "sigma: expected a number above 0, got 0: without noise every answer is certain"),
        ({"sigma": -0.1}, ValueError, "sigma: expected a number from 1e-05 to 1,000, got -0.1"),
        ({"sigma": 1e-50}, ValueError, "got 1e-50: what a model reads is float32, in which smaller noise is lost"),
        ({"sigma": 1e30}, ValueError, "got 1e.30: .* and larger noise hides the points"),
        ({"sigma": float("nan")}, ValueError, "sigma: expected a number from 1e-05 to 1,000, got nan"),
        ({"questions": "random", "n": 4, "dims": 5}, ValueError, "n: expected at least dims, 5, got 4"),
        ({"correlation": 1}, ValueError, "correlation: expected a number from -0.999999 to 0.999999, got 1.0"),
        ({"correlation": "high"}, TypeError, "correlation: expected a number, got 'high'"),
        ({"steps": 2**17}, ValueError, "steps: expected at most 65,536, got 131072"),
        ({"noise": "ar2"}, ValueError, "unknown noise 'ar2': did you mean 'ar1'"),
        ({"encoder": "tanh"}, ValueError, "unknown encoder 'tanh': known: relu, square"),
        ({"noise": ["ar1"]}, ValueError, r"unknown noise \['ar1'\]: .*known: isotropic"),
        ({"output": ["tanh"]}, ValueError, r"unknown output \['tanh'\]: "),
        ({"questions": "products", "thresholds": [5] * 6}, ValueError, "thresholds: expected 0 to below 1/4, .* got 5"),
        (
            {"questions": "products", "n": 4, "thresholds": [0.2499]},
            ValueError,
            "thresholds: expected at most 0.2429, got 0.2499: .* a share of 2.0e-08 of the square, so that next to no",
        ),
        ({"questions": "products", "n": 12}, ValueError, "n: expected 24 or 48, got 12"),
        ({"questions": "products", "n": 12, "thresholds": [0.1]}, ValueError, "thresholds: expected n / 4 for each"),
        ({"thresholds": [0.1]}, ValueError, "thresholds: those are of 'products', not of 'even'"),
        ({"questions": "products", "reaction": "free"}, ValueError, "reaction: 'free' is for questions that are half"),
        ({"questions": "context", "n": 3}, ValueError, "n: expected 2 questions of 'context', got 3"),
        ({"truncated": 1}, TypeError, "truncated: expected True or False, got 1"),
        (
            {"output": "linear"},
            ValueError,
            "output: expected 'logistic' or 'tanh' at fixed reaction times, got 'linear'",
        ),
        ({"output": "tahn"}, ValueError, "unknown output 'tahn': did you mean 'tanh'"),
        ({"target": "last"}, ValueError, "unknown target 'last': known: every, decision"),
    ],
)
def test_bad_fields(fields, error, said):
    with pytest.raises(error, match=said):
        factors.Dataset(**fields)


@pytest.mark.parametrize(
    "options,error,said",
    [
        ({"trials": 3}, ValueError, "trials: quadrant . has none of 3: take more"),
        ({"positions": "last"}, ValueError, "unknown positions 'last': known: every, decision"),
        ({"positions": [22]}, ValueError, "positions: expected at most 21, got 22"),
        ({"positions": [3, 1]}, ValueError, "positions: expected ascending steps, each once"),
        ({"sigma": -1}, ValueError, "sigma: expected a number from 1e-05 to 1,000, got -1"),
        ({"sigma": 1e-50}, ValueError, "sigma: expected a number from 1e-05 to 1,000, got 1e-50"),
    ],
)
def test_bad_readouts(options, error, said):
    with pytest.raises(error, match=said):
        DATA.readout(**options)


def test_a_model_too_long_for_memory_is_refused_before_training(tmp_path):
    data = replace(DATA, steps=20_000, rows=64)
    with pytest.raises(ValueError, match="trials: 1,600 of 20,002 steps are 1,312,131,200 numbers, .* take fewer"):
        data.readout()
    capture = wf.Capture(layers=(), readout={"trials": 9})
    run = wf.Run(data, batch=64, model=wf.RecurrentSpec(hidden=8), capture=capture)
    with pytest.raises(MemoryError, match="memory: .* alone needs .* take a smaller model, batch or capture"):
        wf.train(run, tmp_path, memory="16MiB")


class Knows:
    """A model that gives the evidence, or the answers, as the trials have them."""

    def __init__(self, data):
        data = replace(data, truncated=False) if data.reaction == "free" else data
        self.drawn = data.stream(5, "validation").drawn(0, 400)

    def outputs(self, rows, member):
        return torch.from_numpy(self.drawn.targets[:, -1]) - (0.5 if self.drawn.targets.max() <= 1 else 0)


@pytest.mark.parametrize("name", ["even", "context", "free"])
def test_who_knows_the_answers_is_right(name):
    """Evidence between -1 and 1 is truncated to 0, but has a sign; of context the question that is not asked is none."""
    score = KINDS[name].score(Knows(KINDS[name]), 0, 400, seed=5)["answers"]
    assert score.value == 1 and 0.5 <= score.constant < 0.6

"""Drawn answers: distributed as the model says, a function of (seed, row, draw, place), the same with a cache as without."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import worldfast as wf
from worldfast.models import GPTSpec, PlainTransformer, RecurrentSpec
from worldfast.models.ensemble import Ensemble
from worldfast.models.sampling import Choice, uniform
from worldfast.rows import Rows, Shape

SHAPE = Shape(7, 7)
SPEC = wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=24, init_std=0.25)
FAMILIES = {
    "native": SPEC,
    "plain": replace(SPEC, engine="plain"),
    "gpt": GPTSpec(hidden=16, layers=1, heads=2, intermediate=24, dropout=0.0, init_std=0.5),
    "lstm": RecurrentSpec("lstm", hidden=12),
}
PROMPTS = np.array([[3, 1, 4, 1], [5, 0, 0, 0], [3, 1, 6, 0], [3, 1, 4, 1]]), np.array([4, 1, 3, 4])


def built(spec, members=1, shape=SHAPE, **options):
    ensemble = spec.build(shape, members, **options)
    for member in range(members):
        ensemble.initialise(member, member)
    return ensemble


def logits_after(ensemble, row, member=0):
    rows = Rows(torch.tensor(row, dtype=torch.int32), torch.tensor([0, len(row)]), torch.tensor([len(row) - 1]))
    return ensemble.outputs(rows, member)[0].double().numpy()


def by_hand(ensemble, prompts, longest, draws, choice, end, first=0, member=0):
    found = np.full((len(prompts[1]), draws, longest), end)
    for i, (row, length) in enumerate(zip(*prompts)):
        for draw in range(draws):
            seen = row[:length].tolist()
            for place in range(longest):
                logits = logits_after(ensemble, seen, member)
                likely = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[: choice.top_k]
                shares = np.zeros(len(logits))
                shares[likely] = np.exp(logits[likely] / choice.temperature)
                u = uniform(choice.seed, np.array([first + i]), np.array([draw]), place)[0]
                token = int((np.cumsum(shares) <= u * shares.sum()).sum())
                found[i, draw, place] = token
                seen.append(token)
                if token == end:
                    break
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_by_hand(name):
    ensemble = built(FAMILIES[name], 2)
    for choice, end in ((Choice(1.0, None, 5), -1), (Choice(0.6, 3, 8), 2)):
        given = {"temperature": choice.temperature, "top_k": choice.top_k, "seed": choice.seed, "first": 11}
        found = ensemble.sample(PROMPTS, 5, 1, draws=3, end=None if end < 0 else end, **given)
        np.testing.assert_array_equal(found, by_hand(ensemble, PROMPTS, 5, 3, choice, end, 11, 1))
    assert found.dtype == np.int32 and (found[0] != found[3]).any()  # equal prompts are rows of their own


@pytest.mark.parametrize("name", FAMILIES)
def test_no_temperature_is_greedy(name):
    ensemble = built(FAMILIES[name])
    found = ensemble.sample(PROMPTS, 6, temperature=0, draws=2, end=1)
    for row, answer in zip(found, ensemble.answer([PROMPTS], 6, end=1)[0]):
        for draw in row.tolist():
            assert draw == answer.tolist() + [1] * (6 - len(answer))
    np.testing.assert_array_equal(ensemble.sample(PROMPTS, 6, top_k=1, end=1)[:, 0], found[:, 0])


def test_a_draw_is_a_function_of_seed_row_draw_and_place():
    ensemble = built(SPEC, threads=1)
    random = np.random.default_rng(0)
    prompts = random.integers(0, 7, (60, 5)), random.integers(1, 6, 60)
    whole = ensemble.sample(prompts, 8, draws=4, seed=3)
    assert (ensemble.sample(prompts, 8, draws=2, seed=3) == whole[:, :2]).all()
    assert (ensemble.sample(prompts, 5, draws=4, seed=3) == whole[:, :, :5]).all()
    parts = [ensemble.sample([x[a : a + 20] for x in prompts], 8, draws=4, seed=3, first=a) for a in (0, 20, 40)]
    assert (np.concatenate(parts) == whole).all()
    assert (built(SPEC, threads=3).sample(prompts, 8, draws=4, seed=3) == whole).all()
    other = ensemble.sample(prompts, 8, draws=4, seed=4)
    assert 0.05 < (other == whole).mean() < 0.6 and 0.05 < (whole[:, 0] == whole[:, 1]).mean() < 0.6
    plain = Ensemble._sample(ensemble, prompts, np.arange(60), 4, 8, 0, Choice(seed=3), -1)  # each row computed anew
    assert (plain == whole).mean() > 0.99  # but for rounding


def test_draws_are_distributed_as_the_model_says():
    ensemble, row = built(SPEC), [3, 1, 4]
    prompts = np.array([row]), np.array([3])
    for temperature, top_k in ((1.0, None), (2.0, None), (0.5, 4)):
        drawn = ensemble.sample(prompts, 2, draws=4000, temperature=temperature, top_k=top_k, seed=2)[0]
        logits = logits_after(ensemble, row) / temperature
        shares = np.exp(logits - logits.max())
        shares[np.argsort(-logits)[top_k or 7 :]] = 0
        count, shares = np.bincount(drawn[:, 0], minlength=7), shares / shares.sum()
        assert not count[shares == 0].any()
        assert stats.chisquare(count[shares > 0], 4000 * shares[shares > 0]).pvalue > 1e-3
    u = uniform(3, np.repeat(np.arange(300), 30), np.tile(np.arange(30), 300), 2)
    assert stats.kstest(u, "uniform").pvalue > 1e-3 and abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(u, uniform(3, np.repeat(np.arange(300), 30), np.tile(np.arange(30), 300), 3))[0, 1]) < 0.05


def test_equal_tokens_of_top_k_are_those_of_the_lowest_index():
    choice, n = Choice(top_k=2), np.arange(200)
    assert set(choice.tokens(np.zeros((200, 5), np.float32), n, n, 0)) == {0, 1}
    steep = np.array([[0.0, -1e30, 5000.0, -np.inf]] * 200, np.float32)
    assert set(Choice().tokens(steep, n, n, 0)) == {2}


def test_an_ensemble_of_another_engine_draws_the_same():
    native, plain = built(SPEC), built(FAMILIES["plain"])
    assert isinstance(plain, PlainTransformer)
    plain.parameters.copy_(native.parameters)
    assert (plain.sample(PROMPTS, 9, draws=20) == native.sample(PROMPTS, 9, draws=20)).mean() > 0.97


@pytest.mark.parametrize(
    "options,error,said",
    [
        ({"temperature": -1}, ValueError, "temperature: expected a number of at least 0, got -1"),
        ({"temperature": float("nan")}, ValueError, "temperature: expected"),
        ({"temperature": "hot"}, TypeError, "temperature: expected a number, got 'hot'"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"draws": 0}, ValueError, "draws: expected at least 1, got 0"),
        ({"longest": 0}, ValueError, "longest: expected at least 1, got 0"),
        ({"end": 7}, ValueError, "end: expected at most 6, got 7"),
        ({"member": 1}, IndexError, "members: expected 0 to 0, got 1"),
    ],
)
def test_bad_input(options, error, said):
    ensemble = built(SPEC)
    with pytest.raises(error, match=said):
        ensemble.sample(PROMPTS, **options)
    assert ensemble.sample((np.zeros((0, 3), int), np.zeros(0, int)), 4, draws=2).shape == (0, 2, 4)
    with pytest.raises(ValueError, match="prompts: token 8 is outside"):
        ensemble.sample((PROMPTS[0] + 5, PROMPTS[1]))

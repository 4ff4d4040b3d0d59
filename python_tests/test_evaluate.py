"""Greedy answers against transformers' generate, and their scores by hand."""

import numpy as np
import pytest
import torch

import worldfast as wf
from worldfast.evaluate import decode, evaluate, load
from worldfast.model import Ensemble

SPEC = wf.ModelSpec(hidden=32, layers=2, heads=2, intermediate=48, init_std=0.3)


@pytest.fixture(scope="module")
def world():
    return wf.World.from_array(np.random.default_rng(5).integers(-900, 900, size=(40, 2), dtype=np.int32))


@pytest.fixture(scope="module")
def ensemble(world):
    ensemble = Ensemble(SPEC, 98, members=2)
    for member in range(2):
        ensemble.initialise(member, seed=member)
    return ensemble


def test_answers_are_those_of_generate(world, ensemble):
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        vocab_size=98, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48, rope_theta=10_000.0, rms_norm_eps=1e-6, tie_word_embeddings=False,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.load_state_dict(ensemble.to_huggingface(1))
    batch = wf.sample(world, ("distance", "inside", "perimeter"), n=12)
    answers = decode(ensemble, 1, batch, longest=6)
    for i, answer in enumerate(answers):
        prompt = torch.tensor(batch.tokens[i, : batch.answer_start[i]][None].astype(np.int64))
        with torch.no_grad():
            expected = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :].tolist()
        expected = expected[: expected.index(3)] if 3 in expected else expected
        assert answer.tolist() == expected


def test_a_row_that_has_ended_leaves(world):
    """A model that always answers <eos> answers nothing; one that never does is cut off."""
    ensemble = Ensemble(wf.ModelSpec(hidden=16, layers=1, heads=2, intermediate=16), 98)
    batch = wf.sample(world, "distance", n=5)
    for token, answer in ((3, []), (90, [90] * 4)):
        ensemble.parameters.zero_()
        ensemble.weights[0].norm.fill_(1)
        ensemble.weights[0].embed.fill_(1)
        ensemble.weights[0].head[token] = 1
        assert [a.tolist() for a in decode(ensemble, 0, batch, longest=4)] == [answer] * 5


def test_an_answer_that_says_nothing_scores_the_failure_value(world, ensemble):
    for task in ("distance", "inside"):
        score = evaluate(ensemble, 0, world, task, n=30)
        assert (score.n, score.unparsable) == (30, 30)
        assert score.value == pytest.approx(wf.TASKS[task].failure)


def test_scores():
    distance, compass = wf.TASKS["distance"], wf.TASKS["compass"]
    scores, unparsable = distance.score([10, 20, 30], ["13", "20", "3x"])
    assert scores.tolist() == [3, 0, distance.failure] and unparsable == 1
    scores, unparsable = compass.score([0, 1, 2], ["E", "E", "?"])
    assert scores.tolist() == [1, 0, 0] and unparsable == 1
    assert wf.TASKS["inside"].score([0, 1], ["TRUE", "TRUE"])[0].tolist() == [0, 1]


def test_load_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="spec.json"):
        load(tmp_path)

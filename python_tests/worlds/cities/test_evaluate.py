"""Greedy answers against transformers' generate and a transformer in float64, and their scores by hand."""

import numpy as np
import pytest
import torch
from qwen import qwen2

import worldfast as wf
from worldfast._native import core
from worldfast.rows import Rows, Shape
from worldfast.training import load
from worldfast.worlds.cities.evaluate import decode, evaluate
from worldfast.worlds.cities.tokens import EOS

SPEC = wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=48, init_std=0.3)


@pytest.fixture(scope="module")
def world():
    return wf.World.from_array(np.random.default_rng(5).integers(-900, 900, size=(40, 2), dtype=np.int32))


@pytest.fixture(scope="module")
def ensemble(world):
    ensemble = SPEC.build(Shape(98, 98), members=2)
    for member in range(2):
        ensemble.initialise(member, seed=member)
    return ensemble


def test_answers_are_those_of_generate(world, ensemble):
    model = qwen2(ensemble, 1, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    batch = wf.sample(world, ("distance", "inside", "perimeter"), n=12)
    answers = decode(ensemble, 1, batch, longest=6)
    for i, answer in enumerate(answers):
        prompt = torch.tensor(batch.tokens[i, : batch.answer_start[i]][None].astype(np.int64))
        with torch.no_grad():
            expected = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :].tolist()
        expected = expected[: expected.index(3)] if 3 in expected else expected
        assert answer.tolist() == expected


def reference(ensemble, member, prompt, longest):
    """The answer to one prompt in float64, everything computed anew for each token."""
    spec, w = ensemble.spec, {name: x.double() for name, x in ensemble.to_huggingface(member).items()}

    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + spec.norm_eps).sqrt() * w[weight]

    def turned(x):  # [heads, T, size]: dimensions d and d + size / 2 are a complex number
        if spec.rope_base is None:
            return x
        half = x.shape[2] // 2
        angle = torch.arange(x.shape[1])[:, None] * spec.rope_base ** (-torch.arange(half).double() / half)
        z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], -1)

    tokens = prompt.tolist()
    while len(tokens) < len(prompt) + longest:
        x = w["model.embed_tokens.weight"][tokens]  # [T, D]
        past = torch.ones(len(tokens), len(tokens)).tril().bool()
        for layer in range(spec.layers):
            at = f"model.layers.{layer}."
            h = norm(x, at + "input_layernorm.weight")
            q, k, v = (
                (h @ w[at + f"self_attn.{part}_proj.weight"].T + w[at + f"self_attn.{part}_proj.bias"])
                .unflatten(-1, (spec.heads, -1))
                .transpose(0, 1)  # [heads, T, size]
                for part in "qkv"
            )
            score = turned(q) @ turned(k).mT / q.shape[2] ** 0.5
            mixed = score.where(past, -torch.inf).softmax(-1) @ v
            x = x + mixed.transpose(0, 1).flatten(1) @ w[at + "self_attn.o_proj.weight"].T
            h = norm(x, at + "post_attention_layernorm.weight")
            gate, up = (h @ w[at + f"mlp.{part}_proj.weight"].T for part in ("gate", "up"))
            x = x + (gate.sigmoid() * gate * up) @ w[at + "mlp.down_proj.weight"].T
        following = int((w["lm_head.weight"] @ norm(x[-1], "model.norm.weight")).argmax())
        if following == 3:
            break
        tokens.append(following)
    return tokens[len(prompt) :]


def random_prompts(n, vocabulary, longest, seed):
    """Prompts of 1 to `longest` tokens; many begin alike, some are a beginning of another or equal to it."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, vocabulary, size=(n, longest))
    for i in range(1, n):
        kept = random.integers(0, longest + 1)
        tokens[i, :kept] = tokens[random.integers(i), :kept]
    return tokens, random.integers(1, longest + 1, size=n)


@pytest.mark.parametrize(
    "spec",
    [
        wf.TransformerSpec(hidden=24, layers=3, heads=3, intermediate=17, init_std=0.4),  # heads of 8
        wf.TransformerSpec(hidden=48, layers=1, heads=2, intermediate=32, init_std=0.4, rope_base=100.0),  # of 24
        wf.TransformerSpec(hidden=32, layers=2, heads=1, intermediate=8, init_std=0.4, outputs=5),
        wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=16, init_std=0.4, rope_base=None),
    ],
)
@pytest.mark.parametrize("n", [1, 37])
def test_answers_are_those_of_a_transformer_in_float64(spec, n):
    """In tiles of a few rows and in one, members together. With few tokens, rows end at different times."""
    ensemble = spec.build(Shape(9, 9), members=3)
    for member in range(3):
        ensemble.initialise(member, seed=member)
    members, prompts = [2, 0], [random_prompts(n, 9, 21, seed) for seed in range(2)]
    expected = [
        [reference(ensemble, member, row[:length], longest=5) for row, length in zip(*of_member)]
        for member, of_member in zip(members, prompts)
    ]
    if n > 1:
        assert {len(answer) for answer in expected[0]} >= {0, 1, 5}
    for ensemble._tile in (1, 30, 1024):
        for longest in (5, 1):
            answers = ensemble.answer(prompts, longest, members, end=EOS)
            found = [[answer.tolist() for answer in of_member] for of_member in answers]
            assert found == [[answer[:longest] for answer in of_member] for of_member in expected]


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
def test_answers_to_rows_of_tasks(world, vocabulary):
    size = 98 if vocabulary == "character" else 98 + len(world)
    ensemble = SPEC.build(Shape(size, size))
    ensemble.initialise(0, seed=7)
    batch = wf.sample(world, wf.TASKS, n=25, vocabulary=vocabulary)
    for i, answer in enumerate(decode(ensemble, 0, batch, longest=3)):
        assert answer.dtype == np.int32
        prompt = batch.tokens[i, : batch.answer_start[i]].astype(np.int64)
        assert answer.tolist() == reference(ensemble, 0, prompt, longest=3)


def test_no_rows_have_no_answers(ensemble):
    assert ensemble.answer([(np.zeros((0, 4), np.uint8), np.zeros(0, np.int32))], members=[1], end=EOS) == [[]]


def test_bfloat16_rounds_what_is_multiplied(ensemble):
    """Of weights 1 and 1 + 2^-10 float32 knows the larger; rounded, they are equal, and the first wins."""
    plain = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16).build(Shape(98, 98))
    plain.weights[0].norm.fill_(1)
    plain.weights[0].embed.fill_(1)
    plain.weights[0].head[10] = 1
    plain.weights[0].head[20] = 1 + 2**-10
    prompt = [(np.full((1, 3), 2), np.array([3]))]
    assert plain.answer(prompt, 2, end=EOS)[0][0].tolist() == [20, 20]
    assert plain.answer(prompt, 2, matmul_dtype="bfloat16", end=EOS)[0][0].tolist() == [10, 10]
    assert plain.answer(prompt, 2, end=EOS)[0][0].tolist() == [20, 20]  # the model's own weights stay as they are


def test_bfloat16_changes_close_decisions_alone(world, ensemble):
    batch = wf.sample(world, "angle", n=200)
    exact, rounded = (decode(ensemble, 0, batch, 1, matmul_dtype) for matmul_dtype in ("float32", "bfloat16"))
    starts = np.concatenate([[0], np.cumsum(batch.answer_start)]).astype(np.int32)
    tokens = np.concatenate([row[:n] for row, n in zip(batch.tokens, batch.answer_start)]).astype(np.int32)
    rows = Rows(*map(torch.from_numpy, (tokens, starts)), torch.from_numpy(starts[1:] - 1).long())
    best, second = ensemble.outputs(rows, 0).topk(2).values.T
    clear = (best - second > 0.05 * best).tolist()
    same = [a.tolist() == b.tolist() for a, b in zip(exact, rounded)]
    assert clear.count(True) > 100
    assert all(same[i] for i in range(200) if clear[i])


def test_answer_refuses(world, ensemble):
    def prompts(tokens=((2, 5),), length=(2,), members=2):
        return [(np.array(tokens), np.array(length))] * members

    def refuses(error, message, *arguments, **named):
        with pytest.raises(error, match=message):
            ensemble.answer(*arguments, **named, end=EOS)

    refuses(ValueError, "members: 2 named, but the prompts are those of 1", prompts(members=1))
    refuses(IndexError, "members: expected 0 to 1, got 2", prompts(), members=[0, 2])
    refuses(TypeError, "longest: expected an integer, got 2.0", prompts(), 2.0)
    refuses(ValueError, "longest: expected at least 1, got 0", prompts(), 0)
    refuses(ValueError, "unknown matmul_dtype 'bfloat': did you mean 'bfloat16'", prompts(), matmul_dtype="bfloat")
    refuses(ValueError, r"got shapes \[2\] and \[1\]", prompts(tokens=(2, 5)))
    refuses(ValueError, r"got shapes \[1, 2\] and \[2\]", prompts(length=(2, 2)))
    refuses(TypeError, "prompts: tokens: expected integers, got float64", prompts(tokens=((2.0, 5.0),)))
    for length in (0, 3):
        refuses(ValueError, f"prompts: expected a length of 1 to 2, got {length}", prompts(length=(length,)))
    for token in (-1, 98):
        refuses(ValueError, f"token {token} is outside the model's vocabulary of 98", prompts(((2, token),)))
    with pytest.raises(ValueError, match="outside the model's vocabulary of 98"):
        decode(ensemble, 0, wf.sample(world, "distance", n=3, vocabulary="entity"))


# ---- attention over the cache ----


def cached(size, heads=2, seed=0):
    """Rows a cache of 40 places holds: one that is there but for its last token, two new, one in part new."""
    random = np.random.default_rng(seed)
    path = np.zeros((4, 33), dtype=np.int32)
    path[0, :33] = [*random.permutation(20), *random.permutation(12), 20]
    path[1, :3] = [21, 22, 23]
    path[2, :18] = [21, 22, *range(24, 40)]
    length, fresh = (np.array(x, dtype=np.int32) for x in ([33, 3, 18, 0], [1, 3, 16, 0]))
    cache = random.normal(size=(40, 3, heads, size)).astype(np.float32)
    angle = random.normal(size=(33, size // 2))
    turn = np.concatenate([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    return cache, turn, path, length, fresh, 20, np.full((20, heads, size), np.nan, np.float32)


@pytest.mark.parametrize("size", [8, 24, 32, 128])
def test_attention_over_a_cache(vector_width, size):
    cache, turn, path, length, fresh, first, out = cached(size)
    expected, half = cache.astype(np.float64), size // 2
    for row in range(4):
        for i in range(length[row] - fresh[row], length[row]):
            at = expected[path[row, i], :2]  # queries and keys
            z = (at[..., :half] + 1j * at[..., half:]) * (turn[i, :half] + 1j * turn[i, half:])
            expected[path[row, i], :2] = np.concatenate([z.real, z.imag], -1)
    many = cache.copy(), out.copy()
    core.attention_cached(cache, turn, path, length, fresh, first, out, 1)
    core.attention_cached(many[0], turn, path, length, fresh, first, many[1], 3)
    np.testing.assert_array_equal(cache, many[0])
    np.testing.assert_array_equal(out, many[1])
    np.testing.assert_allclose(cache, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(cache[:first], many[0][:first])
    for row in range(4):
        for i in range(length[row] - fresh[row], length[row]):
            place = path[row, i]
            q, k, v = expected[place, 0], *expected[path[row, : i + 1], 1:].swapaxes(0, 1)
            weight = np.exp(np.einsum("hd,thd->ht", q, k) / np.sqrt(size))
            weight /= weight.sum(1, keepdims=True)
            np.testing.assert_allclose(out[place - first], np.einsum("ht,thd->hd", weight, v), atol=2e-6)


@pytest.mark.parametrize(
    "at, value, message",
    [
        (2, (0, 0, -1), "path: expected a place before 20 in row 0, got -1"),
        (2, (0, 0, 20), "path: expected a place before 20 in row 0, got 20"),
        (2, (1, 1, 23), "path: expected place 22 of 40 in row 1, got 23"),
        (3, (0, 34), "length: expected 0 to 33 tokens in row 0, got 34"),
        (3, (2, -1), "length: expected 0 to 33 tokens in row 2, got -1"),
        (4, (1, 4), "fresh: expected 0 to 3 new tokens in row 1, got 4"),
        (4, (2, 15), "path: expected a place before 24 in row 2, got 24"),
        (5, 21, "path: expected place 21 of 40 in row 0, got 20"),
        (5, -1, "first: expected 0 to 40, got -1"),
        (6, None, "out: expected room for the 20 new tokens, got 19"),
        (0, None, "path: expected place 39 of 39 in row 2, got 39"),
        (1, None, "length: expected 0 to 32 tokens in row 0, got 33"),
    ],
)
def test_attention_over_a_cache_refuses(at, value, message):
    arguments = list(cached(8))
    match value:
        case None:
            arguments[at] = arguments[at][:-1].copy()
        case int():
            arguments[at] = value
        case *index, entry:
            arguments[at][tuple(index)] = entry
    before = arguments[0].copy()
    with pytest.raises(ValueError, match=message):
        core.attention_cached(*arguments, 1)
    np.testing.assert_array_equal(arguments[0], before)


# ---- scores ----


def test_a_row_that_has_ended_leaves(world):
    """A model that always answers <eos> answers nothing; one that never does is cut off."""
    ensemble = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16).build(Shape(98, 98))
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

"""The transformer in PyTorch beside transformers' Qwen2 in float64, its inner values beside hooks, and the native one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from qwen import qwen2

from worldfast.models import CpuTransformer, PlainTransformer, RecurrentSpec, TransformerSpec, attention_weights
from worldfast.models.check import family_of, near
from worldfast.rows import Rows, Shape

SPEC = TransformerSpec(hidden=32, layers=2, heads=2, intermediate=40, init_std=0.3)
SHAPE = Shape(17, 17)
LENGTHS = (150, 1, 7, 300, 128, 2)


def plain_of(spec=SPEC, shape=SHAPE, dtype=torch.float64):
    """One with biases and norms that are not those of the beginning."""
    plain = PlainTransformer(spec, shape, dtype=dtype)
    plain.initialise(0, 1)
    noise = torch.randn(plain.parameters.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain.parameters += 0.1 * noise.to(dtype)
    return plain


def rows_of(lengths=LENGTHS, scored=2.0, shape=SHAPE):
    return family_of(SPEC, shape).rows(lengths, scored=scored)


def hook_points(theirs):
    """Where transformers has the values of each name: (module, whether it is what goes in)."""
    found = {"embed": (theirs.model.embed_tokens, False), "norm": (theirs.model.norm, False)}
    for k, block in enumerate(theirs.model.layers, 1):
        found |= {
            f"block.{k}.query": (block.self_attn.q_proj, False),
            f"block.{k}.key": (block.self_attn.k_proj, False),
            f"block.{k}.value": (block.self_attn.v_proj, False),
            f"block.{k}.heads": (block.self_attn.o_proj, True),
            f"block.{k}.attention": (block.self_attn.o_proj, False),
            f"block.{k}.middle": (block.post_attention_layernorm, True),
            f"block.{k}.neurons": (block.mlp.down_proj, True),
            f"block.{k}.mlp": (block.mlp, False),
            f"block.{k}": (block, False),
        }
    return found | {"outputs": (theirs.lm_head, False)}


def change(theirs, name, use):
    """Hooks `use` where transformers has the values of a name; it may return others."""
    module, goes_in = hook_points(theirs)[name]
    if goes_in:
        return module.register_forward_pre_hook(lambda _, inputs: use(inputs[0]))

    def after(_, inputs, output):
        if not isinstance(output, tuple):
            return use(output)
        found = use(output[0])
        return None if found is None else (found, *output[1:])

    return module.register_forward_hook(after)


@pytest.mark.filterwarnings("ignore:attention")
def test_rows_of_any_length_are_those_of_transformers():
    """Outputs, states, losses and gradients, as nearly as their angles, float32's, allow at 300 positions."""
    plain, rows = plain_of(), rows_of()
    theirs, outputs, states = qwen2(plain, 0, torch.float64), [], []
    for begin, end in zip(rows.row_start.tolist(), rows.row_start.tolist()[1:]):
        out = theirs(rows.inputs[begin:end][None].long(), output_hidden_states=True)
        outputs.append(out.logits[0])
        states.append(torch.stack(out.hidden_states)[:, 0])
    outputs = torch.cat(outputs)
    assert near(plain.outputs(rows, 0), outputs.detach(), 3e-5)
    for found, expected in zip(plain.states(rows, 0, range(3)), torch.cat(states, 1).detach()):
        assert near(found, expected, 3e-5)
    loss = torch.nn.functional.cross_entropy(outputs, rows.targets, reduction="sum")
    loss.backward()
    assert float(plain.learn([rows], [0])[0]) == pytest.approx(loss.item(), rel=1e-5)
    plain.parameters[0] = plain.gradients[0]
    gradients = plain.to_huggingface(0)
    for name, parameter in theirs.named_parameters():
        assert near(gradients[name], parameter.grad, 1e-4), name


def test_inner_values_are_those_of_hooks():
    plain, rows = plain_of(), rows_of((9,))
    found, theirs, expected = plain.run(rows, read=plain.names), qwen2(plain, 0, torch.float64), {}
    for name in hook_points(theirs):
        change(theirs, name, lambda value, name=name: expected.update({name: value[0]}))
    with torch.no_grad():
        theirs(rows.inputs[None].long())
    assert tuple(found) == plain.names and set(found) == set(expected)
    for name, value in expected.items():
        assert near(found[name], value, 1e-6), name


@pytest.mark.parametrize("name", [name for name in PlainTransformer(SPEC, SHAPE).names if "middle" not in name])
def test_a_replaced_value_does_what_a_hook_does(name):
    """And what is read under the same name is what was put in its place."""
    plain, rows = plain_of(), rows_of((9,))
    theirs, at = qwen2(plain, 0, torch.float64), torch.tensor([2, 5])
    new = torch.randn(2, plain.run(rows, read=[name])[name].shape[1], dtype=torch.float64)

    def use(value):
        value = value.clone()
        value[0, at] = new
        return value

    change(theirs, name, use)
    with torch.no_grad():
        expected = theirs(rows.inputs[None].long()).logits[0]
    before = plain.run(rows)["outputs"]
    found = plain.run(rows, read=[name, "outputs"], replace={name: (at, new)})
    assert near(found["outputs"], expected, 1e-6) and not near(found["outputs"], before, 1e-3)
    assert torch.equal(found[name][at], new)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[at] = True
    assert torch.equal(plain.run(rows, replace={name: (mask, new)})["outputs"], found["outputs"])
    by_function = plain.run(rows, replace={name: lambda value: use(value[None])[0]})["outputs"]
    assert torch.equal(by_function, found["outputs"])
    assert torch.equal(plain.run(rows)["outputs"], before)  # nothing is left behind


def test_a_values_own_replacement_changes_nothing():
    plain, rows = plain_of(), rows_of((5, 9, 2))
    found = plain.run(rows, read=plain.names)
    everywhere = torch.arange(16)
    again = plain.run(rows, read=plain.names, replace={name: (everywhere, value) for name, value in found.items()})
    assert all(torch.equal(again[name], value) for name, value in found.items())


def test_the_stream_in_the_middle_is_what_attention_was_added_to():
    plain, rows = plain_of(), rows_of((9,))
    new = torch.randn(9, 32, dtype=torch.float64)
    found = plain.run(rows, replace={"block.2.middle": lambda x: new})["outputs"]
    before = plain.run(rows, read=["block.1"])["block.1"]
    assert near(plain.run(rows, replace={"block.2.attention": lambda x: new - before})["outputs"], found, 1e-12)


def test_nothing_is_computed_after_what_is_read():
    plain, rows = plain_of(), rows_of((5,))

    def never(value):
        raise AssertionError

    found = plain.run(rows, read=["block.1"], replace={"block.2.query": never})
    assert list(found) == ["block.1"]
    with pytest.raises(AssertionError):
        plain.run(rows, read=["block.2"], replace={"block.2.query": never})


def test_gradients_at_inner_values():
    """Through a function that gives what requires gradients: those of the outputs after block 1, by differences."""
    plain, rows = plain_of(), rows_of((6,))
    leaf = plain.run(rows, read=["block.1"])["block.1"].requires_grad_()
    total = plain.run(rows, replace={"block.1": lambda _: leaf})["outputs"].sin().sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    direction = torch.randn(leaf.shape, dtype=torch.float64)
    ends = [
        plain.run(rows, replace={"block.1": lambda x, h=h: x + h * direction})["outputs"].sin().sum()
        for h in (1e-5, -1e-5)
    ]
    assert float((ends[0] - ends[1]) / 2e-5) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_unit_vectors_are_tokens():
    tokens, rows = plain_of(), rows_of((5, 9, 2))
    vectors = PlainTransformer(SPEC, SHAPE._replace(vectors=True), dtype=torch.float64)
    vectors.parameters.copy_(tokens.parameters)
    unit = rows._replace(inputs=torch.eye(17)[rows.inputs.long()])
    assert torch.equal(tokens.outputs(rows, 0), vectors.outputs(unit, 0))


def test_without_positions_a_row_is_a_bag_to_its_last_token():
    """With them it is not."""
    for base, same in ((None, True), (10_000.0, False)):
        spec = TransformerSpec(hidden=32, layers=1, heads=2, intermediate=40, init_std=0.3, rope_base=base)
        plain, rows = plain_of(spec), rows_of((9,))
        other = rows._replace(inputs=torch.cat([rows.inputs[:8].flip(0), rows.inputs[8:]]))
        assert near(plain.outputs(other, 0)[-1], plain.outputs(rows, 0)[-1], 1e-9) == same


def test_parameters_of_another_ensemble():
    one = plain_of(dtype=torch.float32)
    other = PlainTransformer.of(one)
    assert torch.equal(other.outputs(rows_of((4,)), 0), one.outputs(rows_of((4,)), 0))
    one.parameters.zero_()
    assert not other.parameters.any()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"read": ["block.1.atention"]}, "unknown inner value 'block.1.atention': did you mean 'block.1.attention'"),
        ({"read": ["block.3"]}, "unknown inner value 'block.3'"),
        ({"replace": {"emebd": (0, 0)}}, "unknown inner value 'emebd': did you mean 'embed'"),
        ({"replace": {"embed": lambda x: x[1:]}}, r"'embed' has shape \[5, 32\], what the function returned \[4, 32\]"),
        ({"replace": {"embed": lambda x: None}}, r"'embed' has shape \[5, 32\], what the function returned NoneType"),
    ],
)
def test_bad_names_and_values(options, message):
    with pytest.raises(ValueError, match=message):
        plain_of().run(rows_of((5,)), **options)


def test_first_weights_are_those_of_the_native_transformer():
    native, plain = SPEC.build(SHAPE), PlainTransformer(SPEC, SHAPE)
    native.initialise(0, 5), plain.initialise(0, 5)
    assert torch.equal(native.parameters, plain.parameters) and torch.equal(native.decayed, plain.decayed)
    assert all(torch.equal(x, plain.to_huggingface(0)[name]) for name, x in native.to_huggingface(0).items())


def test_the_engine_is_chosen_openly():
    """By name, or the native one where it will do; what was chosen instead is said."""
    assert type(SPEC.build(SHAPE, longest=128)) is CpuTransformer and SPEC.build(SHAPE).about == ""
    named = replace(SPEC, engine="plain").build(SHAPE)
    assert type(named) is PlainTransformer and named.about == "models in PyTorch"
    for shape, longest, lacks in (
        (SHAPE, 2049, "rows of at most 2,048 tokens, not 2,049"),
        (SHAPE._replace(vectors=True), None, "tokens, not vectors"),
        (SHAPE._replace(loss="mean_square"), None, "the loss 'cross_entropy', not 'mean_square'"),
    ):
        built = SPEC.build(shape, longest=longest)
        assert type(built) is PlainTransformer
        assert built.about == f"models in PyTorch (the native engine takes {lacks})"
        with pytest.raises(ValueError, match=f"model.engine: 'native' takes {lacks}; use 'plain'"):
            replace(SPEC, engine="native").build(shape, longest=longest)
    with pytest.raises(ValueError, match="matmul_dtype: PlainTransformer multiplies in 'float32' only"):
        SPEC.build(SHAPE, matmul_dtype="bfloat16", longest=2049)
    with pytest.raises(ValueError, match="unknown model.engine 'pytorch'"):
        replace(SPEC, engine="pytorch")


def test_answers_are_those_of_the_native_transformer():
    native = family_of(SPEC, SHAPE).build(2)
    plain, random = PlainTransformer.of(native), np.random.default_rng(0)
    prompts = [(random.integers(0, 17, (n, 9)), random.integers(1, 10, n)) for n in (20, 7)]
    found = plain.answer(prompts, 6, end=3)
    for mine, theirs in zip(found, native.answer(prompts, 6, end=3), strict=True):
        assert [x.tolist() for x in mine] == [x.tolist() for x in theirs]
    assert {len(answer) for answers in found for answer in answers} > {6}
    assert plain.answer([prompts[1]], 6, [1], end=3)[0][2].tolist() == found[1][2].tolist()
    with pytest.raises(ValueError, match="matmul_dtype: PlainTransformer multiplies in 'float32' only"):
        plain.answer(prompts, matmul_dtype="bfloat16", end=3)


def test_rows_need_be_no_tensors_of_one_dtype():
    plain = plain_of()
    rows = rows_of((5, 3))
    other = Rows(*(x.long() for x in rows[:4]))
    assert torch.equal(plain.outputs(rows, 0), plain.outputs(other, 0))
    assert np.isfinite(float(plain.learn([other], [0])[0]))


@pytest.mark.parametrize("rope_base", [1e4, None])
def test_weights_of_attention_mix_values_as_the_heads_do(rope_base):
    spec = TransformerSpec(hidden=16, layers=2, heads=2, intermediate=24, rope_base=rope_base, init_std=0.5)
    ensemble = spec.build(Shape(9, 9), 2)
    ensemble.initialise(1, 3)
    rows = Rows(torch.arange(12, dtype=torch.int32) % 9, torch.tensor([0, 5, 12]), torch.tensor([4, 11]))
    names = [f"block.{k}.{part}" for k in (1, 2) for part in ("value", "heads")]
    inner = PlainTransformer.of(ensemble).run(rows, 1, names)
    for k, of_rows in enumerate(attention_weights(ensemble, rows, 1), 1):
        for part, weights in zip((slice(0, 5), slice(5, 12)), of_rows):
            assert weights.shape[0] == 2 and not weights.triu(1).any()
            torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[:, :, 0]))
            value = inner[f"block.{k}.value"][part].reshape(-1, 2, 8).double()
            mixed = torch.einsum("hij,jhd->ihd", weights, value).reshape(-1, 16)
            torch.testing.assert_close(mixed.float(), inner[f"block.{k}.heads"][part], atol=1e-5, rtol=1e-4)
    with pytest.raises(TypeError, match="ensemble: expected models with heads, .* got those of RecurrentSpec"):
        attention_weights(RecurrentSpec(hidden=4).build(Shape(9, 9)), rows)


# ---- gains of heads ----


def without_heads(plain, heads, factor=0.0):
    """The outputs and states of a model whose output matrices do not read some heads (block, head), both from 0."""
    other = PlainTransformer(plain.spec, plain.shape, dtype=plain.parameters.dtype)
    other.parameters[0] = plain.parameters[0]
    width = SPEC.hidden // SPEC.heads
    for block, head in heads:
        other.weights[0].blocks[block].output[:, head * width : (head + 1) * width] *= factor
    return other


@pytest.mark.parametrize("heads", [[(0, 1)], [(1, 0), (1, 1)], []])
def test_a_gain_of_0_is_a_head_whose_columns_of_the_output_matrix_are_0(heads):
    plain, rows, layers = plain_of(), rows_of((9, 1, 40)), (0, 1, 2)
    gain = np.ones((2, 2))
    for at in heads:
        gain[at] = 0
    other = without_heads(plain, heads)
    expected = [other.outputs(rows, 0), *other.states(rows, 0, layers)]
    found = [plain.outputs(rows, 0, gain=gain), *plain.states(rows, 0, layers, gain=gain)]
    for x, y in zip(found, expected):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    assert torch.equal(plain.outputs(rows, 0), found[0]) == (not heads)
    native = CpuTransformer(SPEC, SHAPE, 2, threads=1)
    native.parameters[1] = plain.parameters[0].float()
    before = native.parameters.clone()
    for x, y in zip([native.outputs(rows, 1, gain=gain), *native.states(rows, 1, layers, gain=gain)], expected):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-4)
    assert torch.equal(native.parameters, before)
    assert near(native.outputs(rows, 1).double(), plain.outputs(rows, 0), 1e-4)  # the next reading has no gain


def test_a_gain_is_a_factor_and_must_fit():
    plain, rows = plain_of(), rows_of((9, 1, 40))
    gain = torch.tensor([[1.0, 2.5], [1.0, 1.0]])
    expected = without_heads(plain, [(0, 1)], 2.5).outputs(rows, 0)
    torch.testing.assert_close(plain.outputs(rows, 0, gain=gain), expected, rtol=1e-12, atol=1e-12)
    native = CpuTransformer(SPEC, SHAPE, threads=1)
    for model in (plain, native):
        with pytest.raises(ValueError, match=r"gain: expected \[2, 2\], got \[1, 2\]"):
            model.outputs(rows, 0, gain=gain[:1])
        with pytest.raises((TypeError, ValueError), match="gain: "):
            model.states(rows, 0, [1], gain=[["a", "b"]] * 2)
        with pytest.raises(ValueError, match="gain: "):
            model.outputs(rows, 0, gain=gain * np.nan)

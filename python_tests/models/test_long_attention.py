"""Rows of more than 128 tokens, of which the native core computes attention in tiles, and transformers that read them."""

import numpy as np
import pytest
import torch
from attention_oracle import assert_as_good, both_ways, exactly, ops, packed
from qwen import qwen2

from worldfast.models import CpuTransformer, PlainTransformer, TransformerSpec, tiles
from worldfast.models.check import family_of, near
from worldfast.rows import Rows, Shape

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LENGTHS = (129, 130, 191, 192, 193, 255, 257, 513)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("size", [8, 16, 24, 32, 64])
def test_against_the_exact(length, size):
    assert_as_good(*packed([length], heads=1, head_dim=size))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("size", [8, 24, 32])
def test_other_types(size, dtype):
    assert_as_good(*packed([129, 257], heads=1, head_dim=size, dtype=dtype))


@pytest.mark.parametrize("length", [1400, 2048])
def test_the_longest(length):
    assert_as_good(*packed([length], heads=1, head_dim=8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows_among_short_ones(dtype):
    """Short ones have the bits that they have without the long ones."""
    lengths = [3, 129, 1, 0, 128, 200, 140, 5]
    qkv, grad_out, cu_seqlens = packed(lengths, head_dim=16, dtype=dtype)
    assert_as_good(qkv, grad_out, cu_seqlens)
    out, grad = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    is_short = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths)) <= 128
    short = torch.tensor([0, *(n for n in lengths if n <= 128)]).cumsum(0).int()
    alone = both_ways(ops.attention, qkv[is_short], grad_out[is_short], short)
    assert torch.equal(out[is_short], alone[0]) and torch.equal(grad[is_short], alone[1])


@pytest.mark.parametrize("rope_base", [None, 100.0])
def test_rope_base(rope_base):
    assert_as_good(*packed([300], head_dim=16), rope_base)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 5.0, 40.0])
def test_flat_and_sharp_scores(scale):
    qkv, grad_out, cu_seqlens = packed([300, 129], head_dim=16)
    qkv[:, :2] *= scale
    assert_as_good(qkv, grad_out, cu_seqlens)


def test_scores_that_rise_from_tile_to_tile(vector_width):
    """Each tile's largest score is above all before, or below: 2^(score - largest) neither overflows nor is lost."""
    for slope in (1.0, -1.0):
        qkv, grad_out, cu_seqlens = packed([400], heads=1, head_dim=8)
        qkv[:, 0, 0, 0] = qkv[:, 0, 0, 0].abs() + 1
        qkv[:, 1, 0, 0] += slope * torch.arange(400) / 4
        found = both_ways(ops.attention, qkv, grad_out, cu_seqlens, None)
        for came, exact in zip(found, exactly(qkv, grad_out, cu_seqlens, None)):
            assert near(came, torch.from_numpy(exact), 1e-5)


def test_strides(vector_width):
    qkv, grad_out, cu_seqlens = packed([33, 257, 2], dtype=torch.bfloat16)
    expected = both_ways(ops.attention, qkv, grad_out, cu_seqlens)

    def elsewhere(x):  # heads outermost, and a gap between tokens
        return torch.stack([x, x], 2).permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)[:, :, 0]

    q, k, v, g = (elsewhere(x) for x in (*qkv.unbind(1), grad_out))
    out = ops.attention_forward(q, k, v, cu_seqlens, out=elsewhere(torch.zeros_like(grad_out)))
    assert torch.equal(out, expected[0]) and not out.is_contiguous()
    grad = torch.full_like(qkv, torch.nan)
    grad_q, grad_k, grad_v = grad.unbind(1)
    ops.attention_backward(g, q, k, v, cu_seqlens, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
    assert torch.equal(grad, expected[1])


def test_rows_alone_and_threads(vector_width):
    """A row's bits depend on nothing but the row, and not on the number of threads."""
    lengths = [257, 25, 130, 1, 200]
    qkv, grad_out, cu_seqlens = packed(lengths, heads=3, head_dim=8)
    q, k, v = qkv.unbind(1)
    expected = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    for threads in (1, 2, 5):
        out, grad = torch.full_like(grad_out, torch.nan), torch.full_like(qkv, torch.nan)
        grads = dict(zip(("grad_q", "grad_k", "grad_v"), grad.unbind(1)))
        ops.attention_forward(q, k, v, cu_seqlens, out=out, threads=threads)
        ops.attention_backward(grad_out, q, k, v, cu_seqlens, **grads, threads=threads)
        assert torch.equal(out, expected[0]) and torch.equal(grad, expected[1]), f"{threads} threads"
    for row, length in enumerate(lengths):
        part = slice(int(cu_seqlens[row]), int(cu_seqlens[row + 1]))
        alone = both_ways(ops.attention, qkv[part], grad_out[part], torch.tensor([0, length]).int())
        assert torch.equal(alone[0], expected[0][part]) and torch.equal(alone[1], expected[1][part])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_row_stays_alone(poison, vector_width):
    qkv, grad_out, cu_seqlens = packed([150, 25, 260, 129], head_dim=8)
    clean = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    bad, good = slice(175, 435), [slice(0, 175), slice(435, None)]
    qkv[175] = poison
    grad_out[434] = poison
    out, grad = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    assert out[bad].isnan().all() and grad[bad].isnan().any()
    for part in good:
        assert torch.equal(out[part], clean[0][part]) and torch.equal(grad[part], clean[1][part])


def test_causal():
    qkv, grad_out, cu_seqlens = packed([300])
    out = ops.attention(*qkv.unbind(1), cu_seqlens)
    qkv[170:] += 1
    changed = ops.attention(*qkv.unbind(1), cu_seqlens)
    assert torch.equal(out[:170], changed[:170]) and not torch.equal(out[170:], changed[170:])


def test_gradients_are_those_of_differences():
    qkv, _, cu_seqlens = packed([130], heads=1, head_dim=8, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: ops.attention(*x.unbind(1), cu_seqlens), qkv.requires_grad_(), fast_mode=True
    )


def test_vmap_and_grad():
    qkv, grad_out, cu_seqlens = packed([3, 140], head_dim=8)
    batch = torch.stack([qkv, 2 * qkv], 1)  # [L, B, 3, H, D]
    gradients = torch.func.vmap(
        torch.func.grad(lambda x: (ops.attention(*x.unbind(1), cu_seqlens) * grad_out).sum()), in_dims=1
    )(batch)
    for i in range(2):
        assert torch.equal(gradients[i], both_ways(ops.attention, batch[:, i], grad_out, cu_seqlens)[1])


# ---- transformers ----

SPEC, SHAPE = TransformerSpec(hidden=32, layers=2, heads=2, intermediate=40, init_std=0.3), Shape(17, 17)
MIXED = (300, 1, 7, 129, 128, 2)


def built(threads=1, matmul_dtype="float32", members=1, **options):
    """Native, with biases and norms that are not those of the beginning."""
    ensemble = SPEC.build(SHAPE, members, threads=threads, matmul_dtype=matmul_dtype, longest=300, **options)
    assert type(ensemble) is CpuTransformer
    for member in range(members):
        ensemble.initialise(member, member)
        random = torch.Generator().manual_seed(member)
        ensemble.parameters[member] += 0.1 * torch.randn(ensemble.parameters[0].shape, generator=random)
    return ensemble


def rows_of(lengths=MIXED, scored=2.0, beginning=()):
    rows = family_of(SPEC, SHAPE).rows(lengths, scored=scored)
    for start, end in zip(rows.row_start.tolist(), rows.row_start.tolist()[1:]):
        rows.inputs[start : min(end, start + len(beginning))] = torch.tensor(beginning[: end - start]).int()
    return rows


@pytest.mark.parametrize("scored", [2.0, 0.02])
@pytest.mark.parametrize("beginning", [(), (3, 1, 4, 1, 5)])
def test_a_transformer_of_long_rows_is_that_of_pytorch(scored, beginning, monkeypatch):
    """Loss, gradients, outputs and states, in float64; long rows and short ones may share their beginnings."""
    native, rows = built(), rows_of(scored=scored, beginning=beginning)
    if beginning:
        shared = np.concatenate([piece.tile.shared for piece in native._cut(rows)[1]])
        assert (shared >= 2).sum() >= 3
    exact = PlainTransformer(SPEC, SHAPE, dtype=torch.float64)
    exact.parameters[0] = native.parameters[0].double()
    assert near(native.learn([rows], [0]), exact.learn([rows], [0]), 1e-5)
    assert near(native.gradients[0], exact.gradients[0], 1e-4)
    assert near(native.outputs(rows, 0), exact.outputs(rows, 0), 1e-4)
    for found, expected in zip(native.states(rows, 0, range(3)), exact.states(rows, 0, range(3))):
        assert near(found, expected, 1e-4)


def test_a_transformer_of_long_rows_is_that_of_transformers():
    native, rows = built(), rows_of((300,))
    theirs = qwen2(native, 0, torch.float64)
    out = theirs(rows.inputs[None].long()).logits[0]
    loss = torch.nn.functional.cross_entropy(out, rows.targets, reduction="sum")
    assert near(native.outputs(rows, 0), out.detach(), 1e-4)
    assert float(native.learn([rows], [0])[0]) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("matmul_dtype", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_threads_or_on_other_members(matmul_dtype, monkeypatch):
    monkeypatch.setattr("worldfast.models.cpu.TILE", 1 << 12)
    rows = rows_of(MIXED * 3, beginning=(3, 1, 4, 1, 5))
    alone = built(matmul_dtype=matmul_dtype)
    loss = alone.learn([rows], [0])
    for threads in (2, 3):
        many = built(threads=threads, matmul_dtype=matmul_dtype, members=2)
        losses = many.learn([rows_of((130, 5)), rows], [1, 0])
        assert losses[1] == loss[0] and torch.equal(many.gradients[0], alone.gradients[0])
        assert torch.equal(many.outputs(rows, 0), alone.outputs(rows, 0))


def test_bfloat16_errs_by_its_rounding():
    rows, exact = rows_of(), built()
    exact.learn([rows], [0])
    rounded = built(matmul_dtype="bfloat16")
    rounded.learn([rows], [0])
    error = (rounded.gradients - exact.gradients).norm() / exact.gradients.norm()
    assert 1e-4 < error < 0.1


def test_answers_after_long_prompts_are_those_of_pytorch():
    native, random = built(), np.random.default_rng(0)
    plain = PlainTransformer.of(native)
    prompts = [(random.integers(0, 17, (5, 150)), np.array([150, 127, 128, 129, 140]))]
    for found, expected in zip(native.answer(prompts, 6, end=3)[0], plain.answer(prompts, 6, end=3)[0]):
        assert found.tolist() == expected.tolist()


def test_a_row_beyond_the_limit():
    for engine, longest in (("native", 2049), ("native", 2**20)):
        with pytest.raises(
            ValueError, match=f"'native' takes rows of at most 2,048 tokens, not {longest:,}; use 'plain'"
        ):
            TransformerSpec(hidden=8, heads=1, layers=1, intermediate=8, engine=engine).build(SHAPE, longest=longest)
    with pytest.raises(ValueError, match="rows of at most 128 tokens on a GPU, not 129"):
        TransformerSpec(engine="native").build(SHAPE, device="cuda", longest=129)
    native, start = built(), torch.tensor([0, 3, 2052], dtype=torch.int32)
    rows = Rows(torch.zeros(2052, dtype=torch.int32), start, torch.arange(2052), torch.zeros(2052, dtype=torch.int64))
    for call in (lambda: native.learn([rows], [0]), lambda: native.outputs(rows, 0)):
        with pytest.raises(
            ValueError,
            match="rows: the native engine takes rows of at most 2,048 tokens, got 2,049 in row 1; engine='plain'",
        ):
            call()


def test_memory_of_a_tile_with_long_rows():
    """A tile may end a row late."""
    spec = TransformerSpec(hidden=128, heads=4, layers=1, intermediate=512)
    rows = family_of(spec, SHAPE).rows((2000,) * 8)
    ensemble = spec.build(SHAPE, threads=1)
    longest = max(len(piece.tile.tokens) for piece in tiles.cut(rows, ensemble._tile, ensemble._lanes)[1])
    bound = spec.cpu_bytes(SHAPE, 16_000, 1, "float32", 2000).shared
    ensemble.initialise(0, 0)
    ensemble.learn([rows], [0])
    [taken] = ensemble._threads.run(lambda _, scratch: scratch.arena.bytes, [None])
    assert longest >= 2000 and taken < bound

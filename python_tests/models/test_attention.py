"""`ops.attention` in every dtype against float64, beside PyTorch's own, on every instruction set at hand.

Where float64 itself is tested, the measure is numpy's longer double.
"""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from attention_oracle import assert_as_good, attention_reference, both_ways, longer_double, ops, packed
from torch._subclasses import FakeTensorMode

from worldfast._native import core

ROWS = {str(n): [n] * max(4, 64 // n) for n in (1, 2, 31, 33, 57, 64, 127, 128)}
ROWS["mixed"] = [25, 1, 57, 0, 33, 128, 2, 40, 31, 17]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def test_the_longer_double_agrees_with_the_reference():
    inputs = packed([33, 2, 57], dtype=torch.float64)
    for base in (None, 1e4):
        for a, b in zip(longer_double(*inputs, base), both_ways(attention_reference, *inputs, base)):
            np.testing.assert_allclose(a.astype(float), b, atol=1e-12)


@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_against_the_exact(lengths, head_dim, dtype):
    assert_as_good(*packed(lengths, head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("head_dim", range(8, 136, 8))
def test_every_head_size(head_dim, dtype):
    assert_as_good(*packed([41, 9, 57], heads=1, head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("rope_base", [None, 100.0, 1e6])
def test_rope_base(rope_base, dtype):
    assert_as_good(*packed([41, 57, 100], dtype=dtype), rope_base)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 5.0])
def test_flat_and_sharp_scores(scale, dtype):
    qkv, grad_out, cu_seqlens = packed([41, 57, 128] * 4, dtype=dtype)
    qkv[:, :2] *= scale
    assert_as_good(qkv, grad_out, cu_seqlens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_are_read_exactly_and_rounded_to_nearest_even(dtype, vector_width):
    """A row of one token gives its values back; one of two, with q = k = 0, their average. All are tried."""
    every = torch.arange(2**16).sub(2**15).to(torch.int16).view(dtype)
    v = torch.stack([every, every[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))]], 1)
    v = v.view(-1, 1, 128)  # [L, 1, D]
    nothing = torch.zeros_like(v)
    alone = ops.attention(nothing, nothing, v, torch.arange(len(v) + 1, dtype=torch.int32))
    pairs = ops.attention(nothing, nothing, v, torch.arange(0, len(v) + 1, 2, dtype=torch.int32))
    average = (v[::2].float() / 2 + v[1::2].float() / 2).to(dtype)
    for came, expected in ((alone, v), (pairs[1::2], average)):
        torch.testing.assert_close(came, expected, atol=0, rtol=0, equal_nan=True)


def test_against_the_definition():
    """Two tokens by hand: one head of size 8, where only dimension 0 and its partner 4 are used."""
    q, k, v = (torch.zeros(2, 1, 8) for _ in range(3))
    q[1, 0, 0], k[0, 0, 0], k[1, 0, 4] = 3.0, 2.0, 5.0
    v[0], v[1] = 1.0, 2.0
    out = ops.attention(q, k, v, torch.tensor([0, 2], dtype=torch.int32))
    cos = torch.tensor(1.0, dtype=torch.float64).cos()
    score = torch.stack([6 * cos, torch.zeros(())]) / 8**0.5  # q is turned by 1 radian against k[0]
    p = score.softmax(0)
    torch.testing.assert_close(out[1, 0], (p[0] + 2 * p[1]).float().expand(8))
    torch.testing.assert_close(out[0, 0], torch.ones(8))


# ---- layouts ----


def test_strides(dtype, vector_width):
    qkv, grad_out, cu_seqlens = packed([33, 57, 2], dtype=dtype)
    q, k, v = qkv.unbind(1)
    expected = both_ways(ops.attention, qkv, grad_out, cu_seqlens)

    def elsewhere(x):  # heads outermost, and a gap between tokens
        return torch.stack([x, x], 2).permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)[:, :, 0]

    q, k, v, g = (elsewhere(x) for x in (q, k, v, grad_out))
    assert q.stride(-1) == 1 and not q.is_contiguous()
    out = ops.attention_forward(q, k, v, cu_seqlens, out=elsewhere(torch.zeros_like(grad_out)))
    assert torch.equal(out, expected[0])
    fused = torch.full_like(qkv, torch.nan)
    grad_q, grad_k, grad_v = fused.unbind(1)
    ops.attention_backward(g, q, k, v, cu_seqlens, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
    assert torch.equal(fused, expected[1])
    every_other = torch.zeros(92, 2, 64, dtype=dtype)[..., ::2].copy_(q)
    assert torch.equal(ops.attention(every_other, k, v, cu_seqlens), expected[0])  # copied
    with pytest.raises(ValueError, match="unit stride"):
        ops.attention_forward(every_other, k, v, cu_seqlens)


def test_gradient_of_a_sum():
    """The gradient that comes in is an expanded scalar, without strides."""
    qkv, grad_out, cu_seqlens = packed([33, 5])
    x = qkv.clone().requires_grad_()
    ops.attention(*x.unbind(1), cu_seqlens).sum().backward()
    assert torch.equal(x.grad, both_ways(ops.attention, qkv, torch.ones_like(grad_out), cu_seqlens)[1])


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 3]], ids=str)
def test_empty(lengths):
    qkv, grad_out, cu_seqlens = packed(lengths)
    out, grad = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    assert out.shape == grad_out.shape and grad.shape == qkv.shape


# ---- each row by itself ----


def test_rows_alone_and_threads(dtype, vector_width):
    """A row's bits depend on nothing but the row, and not on the number of threads."""
    lengths = [25, 57, 1, 33, 128, 40] * 15  # tokens enough for eight threads
    qkv, grad_out, cu_seqlens = packed(lengths, dtype=dtype)
    q, k, v = qkv.unbind(1)
    expected = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    for threads in (1, 2, 3, 8):
        out, grad = torch.full_like(grad_out, torch.nan), torch.full_like(qkv, torch.nan)
        grad_q, grad_k, grad_v = grad.unbind(1)
        ops.attention_forward(q, k, v, cu_seqlens, out=out, threads=threads)
        ops.attention_backward(
            grad_out, q, k, v, cu_seqlens, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v, threads=threads
        )
        assert torch.equal(out, expected[0]) and torch.equal(grad, expected[1]), f"{threads} threads"
    for row in range(6):
        part = slice(int(cu_seqlens[row]), int(cu_seqlens[row + 1]))
        alone = both_ways(ops.attention, qkv[part], grad_out[part], torch.tensor([0, lengths[row]]).int())
        assert torch.equal(alone[0], expected[0][part]) and torch.equal(alone[1], expected[1][part])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_row_stays_alone(poison, dtype, vector_width):
    qkv, grad_out, cu_seqlens = packed([25, 57, 33, 128, 33, 2, 1, 40], dtype=dtype)
    clean = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    for row in (1, 3, 5):
        qkv[cu_seqlens[row]] = poison
        grad_out[cu_seqlens[row + 1] - 1] = poison
    out, grad = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    for row in range(8):
        part = slice(int(cu_seqlens[row]), int(cu_seqlens[row + 1]))
        if row in (1, 3, 5):
            assert out[part].isnan().all() and grad[part].isnan().any()
        else:
            assert torch.equal(out[part], clean[0][part]) and torch.equal(grad[part], clean[1][part])


def test_causal():
    qkv, grad_out, cu_seqlens = packed([57])
    out = ops.attention(*qkv.unbind(1), cu_seqlens)
    qkv[40:] += 1
    changed = ops.attention(*qkv.unbind(1), cu_seqlens)
    assert torch.equal(out[:40], changed[:40]) and not torch.equal(out[40:], changed[40:])


# ---- under PyTorch's transforms ----


def test_gradcheck():
    qkv, _, cu_seqlens = packed([3, 7, 1, 12], heads=1, head_dim=8, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: ops.attention(*x.unbind(1), cu_seqlens), qkv.requires_grad_(), check_batched_grad=True
    )


@pytest.mark.parametrize("max_seqlen", [None, 50])
def test_opcheck(dtype, max_seqlen):
    qkv, grad_out, cu_seqlens = packed([3, 40], dtype=dtype)
    for op, tensors in (
        (torch.ops.worldfast.attention.default, qkv.unbind(1)),
        (torch.ops.worldfast.attention_backward.default, (grad_out, *qkv.unbind(1))),
    ):
        torch.library.opcheck(op, (*tensors, cu_seqlens, 1e4, max_seqlen))


def test_shapes_without_numbers(dtype):
    x, cu_seqlens = (torch.empty(6, 2, 16, device="meta", dtype=dtype, requires_grad=True), rows(0, 2, 6).to("meta"))
    out = ops.attention(x, x, x, cu_seqlens)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert out.shape == grad.shape == x.shape and out.dtype == grad.dtype == dtype
    with FakeTensorMode():
        x, cu_seqlens = (torch.empty(y.shape, dtype=y.dtype, device="cuda") for y in (x, cu_seqlens))
        out = torch.ops.worldfast.attention(x, x, x, cu_seqlens, 1e4, None)
        grad = torch.ops.worldfast.attention_backward(x, x, x, x, cu_seqlens, 1e4, None)
    assert (out.shape, grad.shape, out.dtype, grad.dtype) == (x.shape, (6, 3, 2, 16), dtype, dtype)
    assert out.is_cuda and grad.is_cuda


@pytest.mark.parametrize("max_seqlen", [None, 40])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dtype, dynamic, max_seqlen):
    qkv, grad_out, cu_seqlens = packed([3, 40], dtype=dtype)

    def function(q, k, v):
        return ops.attention(q, k, v, cu_seqlens, max_seqlen=max_seqlen)

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for a, b in zip(*(both_ways(f, qkv, grad_out) for f in (function, compiled))):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:attention. rows of more than 2048")
def test_autocast_changes_nothing():
    inputs = packed([3, 40, 129, 2049], heads=1, head_dim=8)
    expected = both_ways(ops.attention, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(both_ways(ops.attention, *inputs), expected):
            assert torch.equal(a, b)


def test_vmap_and_grad(dtype):
    qkv, grad_out, cu_seqlens = packed([3, 40, 17], dtype=dtype)
    batch = torch.stack([qkv, 2 * qkv, qkv + 1], 1)  # [L, B, 3, H, D]

    def loss(x, rows):
        return (ops.attention(*x.unbind(1), rows) * grad_out).sum()

    other_rows = torch.tensor([0, 20, 20, 60], dtype=torch.int32)
    rows = torch.stack([cu_seqlens, cu_seqlens, other_rows])
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(1, 0))(batch, rows)
    outputs = torch.func.vmap(lambda x: ops.attention(*x.unbind(1), cu_seqlens), in_dims=1)(batch)
    for i in range(3):
        assert torch.equal(gradients[i], both_ways(ops.attention, batch[:, i], grad_out, rows[i])[1])
        assert torch.equal(outputs[i], ops.attention(*batch[:, i].unbind(1), cu_seqlens))
    with pytest.raises(ValueError, match="expected 60, the number of tokens, as last entry"):
        torch.func.vmap(loss, in_dims=(1, 0))(batch, rows[:, :-1])


def test_no_second_derivative():
    qkv, _, cu_seqlens = packed([5])
    qkv.requires_grad_()
    loss = ops.attention(*qkv.unbind(1), cu_seqlens).square().sum()
    (grad,) = torch.autograd.grad(loss, qkv, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()


def test_rows_beyond_the_limit_go_to_pytorch_and_say_so():
    ops._say_long.cache_clear()
    qkv, grad_out, cu_seqlens = packed([3, 2049, 1, 0, 17, 200], heads=1, head_dim=8)
    with pytest.warns(UserWarning, match="2048 tokens go to PyTorch's own attention"):
        out, grad = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    exact = both_ways(attention_reference, qkv.double(), grad_out.double(), cu_seqlens)
    for came, expected in zip((out, grad), exact):
        torch.testing.assert_close(came.double(), expected, atol=1e-5, rtol=1e-5)
    others = slice(2052, None), cu_seqlens[2:] - 2052
    behind = both_ways(ops.attention, qkv[others[0]], grad_out[others[0]], others[1])
    assert torch.equal(out[others[0]], behind[0]) and torch.equal(grad[others[0]], behind[1])
    with pytest.raises(ValueError, match="offsets that ascend from 0 to 2269, the tokens of q"):
        ops.attention(*qkv[:-1].unbind(1), cu_seqlens)


# ---- on a GPU: which kernel is called, and how; a stand-in for it computes on the CPU ----


@pytest.fixture
def gpu(monkeypatch):
    """Tensors of the CPU stand for those of a GPU; the list of max_seqlen that kernels were launched with."""
    launched = []

    def forward(q, k, v, cu_seqlens, rope_base, longest, out):
        launched.append(longest)
        core.attention_forward(q, k, v, cu_seqlens, rope_base, out, 1)

    def backward(grad_out, q, k, v, cu_seqlens, rope_base, longest, grad_q, grad_k, grad_v):
        launched.append(longest)
        core.attention_backward(grad_out, q, k, v, cu_seqlens, rope_base, grad_q, grad_k, grad_v, 1)

    kernels = ModuleType("worldfast.kernels.attention")
    kernels.attention_forward, kernels.attention_backward = forward, backward
    monkeypatch.setitem(sys.modules, "worldfast.kernels.attention", kernels)
    monkeypatch.setattr("worldfast.kernels.attention", kernels, raising=False)
    monkeypatch.setattr(ops, "_on_gpu", lambda x: True)
    return launched


@pytest.mark.parametrize("rope_base", [None, 1e4])
@pytest.mark.parametrize("max_seqlen,longest", [(None, 57), (100, 100)])
def test_launches(gpu, rope_base, max_seqlen, longest):
    qkv, grad_out, cu_seqlens = packed([33, 57, 2])

    def attention(*args):
        return ops.attention(*args, max_seqlen=max_seqlen)

    out, grad = both_ways(attention, qkv, grad_out, cu_seqlens, rope_base)
    assert gpu == [longest, longest]
    exact = both_ways(attention_reference, qkv.double(), grad_out.double(), cu_seqlens, rope_base)
    for a, b in zip((out, grad), exact):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=0)


def test_nothing_waits_where_the_caller_vouches(gpu, monkeypatch):
    qkv, grad_out, cu_seqlens = packed([33, 57, 2])

    def read(*args, **kwargs):
        raise AssertionError("cu_seqlens is read")

    for name in ("numpy", "cpu", "tolist", "item", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, read)
    ops.attention(*qkv.unbind(1), cu_seqlens, max_seqlen=57)
    torch.func.vmap(lambda x: ops.attention(*x.unbind(1), cu_seqlens, max_seqlen=57))(torch.stack([qkv, qkv]))
    assert gpu == [57, 57]
    with pytest.raises(AssertionError, match="is read"):
        ops.attention(*qkv.unbind(1), cu_seqlens)


@pytest.mark.filterwarnings("ignore:attention. rows of more than 128")
def test_long_rows_on_a_gpu(gpu):
    qkv, grad_out, cu_seqlens = packed([33, 129, 2])
    for max_seqlen in (None, 200):
        gpu.clear()
        ops.attention(*qkv.unbind(1), cu_seqlens, max_seqlen=max_seqlen)
        assert gpu == [128, 128]


def test_what_a_gpu_lacks(gpu, monkeypatch):
    with pytest.raises(TypeError, match="q: expected float32, bfloat16 or float16 on a GPU, got torch.float64"):
        ops.attention(*[X.double()] * 3, rows(0, 6))
    with pytest.raises(ValueError, match="q: expected a head size that is a multiple of 8 from 8 to 128, got 12"):
        ops.attention(*[X[..., :12]] * 3, rows(0, 6))
    with pytest.raises(ValueError, match="max_seqlen: expected 0 to 128, the longest row's tokens, got None"):
        ops.attention_forward(X, X, X, rows(0, 6))
    for module in ("worldfast.kernels", "worldfast.kernels.attention"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr("worldfast.kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match="needs Triton"):
        ops.attention(X, X, X, rows(0, 6))


# ---- bad input ----


def rows(*starts):
    return torch.tensor(starts, dtype=torch.int32)


X = torch.zeros(6, 2, 16)
BAD = {
    "not a tensor": (TypeError, "q: expected a torch.Tensor, got list", dict(q=[1.0])),
    "dtype": (TypeError, "k: expected torch.float32, got torch.float64", dict(k=X.double())),
    "dimensions": (ValueError, r"q: expected 3 dimensions, got shape \[6, 32\]", dict(q=X.flatten(1))),
    "shape": (ValueError, r"v: expected the shape of q, \[6, 2, 16\], got \[5, 2, 16\]", dict(v=X[:5])),
    "head size": (ValueError, "multiple of 8 from 8 to 128, got 12", dict(q=X[..., :12], k=X[..., :12], v=X[..., :12])),
    "no rows": (ValueError, "cu_seqlens: expected an entry more than there are rows", dict(cu_seqlens=rows())),
    "rows' dtype": (TypeError, "cu_seqlens: expected torch.int32, got torch.int64", dict(cu_seqlens=rows(0, 6).long())),
    "start": (ValueError, r"cu_seqlens: .* ascend from 0 to 6.* got \[1 6\]", dict(cu_seqlens=rows(1, 6))),
    "end": (ValueError, r"cu_seqlens: .* ascend from 0 to 6.* got \[0 5\]", dict(cu_seqlens=rows(0, 5))),
    "descending": (ValueError, r"cu_seqlens: .* got \[0 4 2 6\]", dict(cu_seqlens=rows(0, 4, 2, 6))),
    "a longer row": (ValueError, "max_seqlen: expected at least 4, .* got 3", dict(max_seqlen=3)),
    "max_seqlen": (ValueError, "max_seqlen: expected at least 0, got -1", dict(max_seqlen=-1)),
    "base": (ValueError, "rope_base: expected a positive number, or None", dict(rope_base=-1.0)),
    "infinite base": (ValueError, "rope_base", dict(rope_base=float("inf"))),
    "device": (ValueError, "k: expected the device of q, meta, got cpu", dict(q=X.to("meta"))),
    "rows' device": (
        ValueError,
        "cu_seqlens: expected the device of q, cpu, got meta",
        dict(cu_seqlens=rows(0, 6).to("meta")),
    ),
}


@pytest.mark.parametrize("error,message,change", BAD.values(), ids=BAD)
def test_bad_input(error, message, change):
    with pytest.raises(error, match=message):
        ops.attention(**(dict(q=X, k=X, v=X, cu_seqlens=rows(0, 4, 6)) | change))


def test_bad_input_of_the_halves():
    long = torch.zeros(2051, 1, 8)
    with pytest.raises(ValueError, match="rows of 0 to 2048 tokens, got 2049 in row 1"):
        ops.attention_forward(long, long, long, rows(0, 2, 2051))
    with pytest.raises(ValueError, match=r"out: expected shape \[6, 2, 16\], got shape \[5, 2, 16\]"):
        ops.attention_forward(X, X, X, rows(0, 6), out=X[:5])
    with pytest.raises(TypeError, match="grad_k: expected dtype float32, got dtype float64"):
        ops.attention_backward(X, X, X, X, rows(0, 6), grad_q=X, grad_k=X.double(), grad_v=X)
    with pytest.raises(TypeError, match="q: expected dtype float32, bfloat16, float16 or float64, got dtype int32"):
        ops.attention_forward(X.int(), X, X, rows(0, 6))
    for start, message in (
        (rows(1, 6), "cu_seqlens: expected to start at 0, got 1"),
        (rows(0, 5), "cu_seqlens: expected the number of tokens, 6, as last entry, got 5"),
        (rows(0, 4, 2, 6), "cu_seqlens: expected rows of 0 to 2048 tokens, got -2 in row 1"),
        (rows(), "cu_seqlens: expected the number of tokens, 6, as last entry, got no entry"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.attention_forward(X, X, X, start)

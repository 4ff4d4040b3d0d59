"""`ops.attention` against float64, beside PyTorch's own float32, on every instruction set at hand."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from worldfast import ops
from worldfast._native import core

ROWS = {str(n): [n] * max(4, 256 // n) for n in (1, 2, 31, 33, 57, 64, 127, 128)}
ROWS["mixed"] = [25, 1, 57, 0, 33, 128, 2, 40, 31, 17]
WIDTHS = [width for width in (4, 8, 16) if core.limit_vector_width(width) == width]
core.limit_vector_width(16)


@pytest.fixture(params=WIDTHS)
def vector_width(request):
    core.limit_vector_width(request.param)
    yield request.param
    core.limit_vector_width(16)


def packed(lengths, heads=2, head_dim=32, seed=0):
    """qkv float32 [L, 3, H, D], grad_out [L, H, D], cu_seqlens"""
    random = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    qkv = torch.randn(int(cu_seqlens[-1]), 3, heads, head_dim, generator=random)
    return qkv, torch.randn(len(qkv), heads, head_dim, generator=random), cu_seqlens


def rotate(x, base):
    """RoPE of one row [T, H, D], Hugging Face's rotate_half."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x)).double()[:, None] / base ** (torch.arange(half).double() / half)  # [T, D/2]
    angle = torch.cat([angle, angle], -1)[:, None]  # [T, 1, D]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def attention_reference(q, k, v, cu_seqlens, rope_base=10_000.0):
    """Row by row through PyTorch's math path, in the dtype of q."""
    out = []
    for begin, end in zip(cu_seqlens[:-1], cu_seqlens[1:]):
        row = [x[begin:end] for x in (q, k, v)]
        if rope_base:
            row[:2] = (rotate(x, rope_base) for x in row[:2])
        row = [x.transpose(0, 1) for x in row]  # [H, T, D]
        with sdpa_kernel(SDPBackend.MATH):
            out.append(scaled_dot_product_attention(*row, is_causal=True).transpose(0, 1))
    return torch.cat(out)


def both_ways(attention, qkv, grad_out, *args):
    """Output [L, H, D] and gradient [L, 3, H, D]."""
    qkv = qkv.clone().requires_grad_()
    out = attention(*qkv.unbind(1), *args)
    out.backward(grad_out.to(out.dtype))
    return out.detach(), qkv.grad


def assert_as_good(attention, qkv, grad_out, *args):
    """Output and gradients err at most twice what PyTorch errs in float32, or by the result's rounding."""
    exact = both_ways(attention_reference, qkv.double(), grad_out.double(), *args)
    plain, ours = (both_ways(f, qkv, grad_out, *args) for f in (attention_reference, attention))
    for name, e, p, o in zip(
        ("out", "grad_q", "grad_k", "grad_v"), *((x[0], *x[1].unbind(1)) for x in (exact, plain, ours))
    ):
        error, allowed = (o - e).abs().max(), 2 * (p - e).abs().max() + 2**-24 * e.abs().max()
        assert error <= allowed, f"{name}: errs by {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_against_float64(lengths, head_dim, vector_width):
    assert_as_good(ops.attention, *packed(lengths, head_dim=head_dim))


@pytest.mark.parametrize("head_dim", range(8, 136, 8))
def test_every_head_size(head_dim, vector_width):
    assert_as_good(ops.attention, *packed([41, 9, 57], heads=1, head_dim=head_dim))


@pytest.mark.parametrize("rope_base", [None, 100.0, 1e6])
def test_rope_base(rope_base, vector_width):
    assert_as_good(ops.attention, *packed([41, 57, 100]), rope_base)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 5.0])
def test_flat_and_sharp_scores(scale, vector_width):
    qkv, grad_out, cu_seqlens = packed([41, 57, 128] * 4)
    qkv[:, :2] *= scale
    assert_as_good(ops.attention, qkv, grad_out, cu_seqlens)


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


def test_strides(vector_width):
    qkv, grad_out, cu_seqlens = packed([33, 57, 2])
    q, k, v = qkv.unbind(1)
    expected = both_ways(ops.attention, qkv, grad_out, cu_seqlens)

    def elsewhere(x):  # heads outermost, and a gap between tokens
        return torch.stack([x, x], 2).permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)[:, :, 0]

    q, k, v, g = (elsewhere(x) for x in (q, k, v, grad_out))
    assert q.stride(-1) == 1 and not q.is_contiguous()
    out = ops.attention_forward(q, k, v, cu_seqlens, out=elsewhere(torch.zeros(92, 2, 32)))
    assert torch.equal(out, expected[0])
    fused = torch.full((92, 3, 2, 32), torch.nan)
    grad_q, grad_k, grad_v = fused.unbind(1)
    ops.attention_backward(g, q, k, v, cu_seqlens, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
    assert torch.equal(fused, expected[1])
    every_other = torch.zeros(92, 2, 64)[..., ::2].copy_(q)
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


def test_rows_alone_and_threads(vector_width):
    """A row's bits depend on nothing but the row, and not on the number of threads."""
    lengths = [25, 57, 1, 33, 128, 40] * 20
    qkv, grad_out, cu_seqlens = packed(lengths, heads=4)
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
def test_a_poisoned_row_stays_alone(poison, vector_width):
    qkv, grad_out, cu_seqlens = packed([25, 57, 33, 128, 33, 2, 1, 40])
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
    qkv, _, cu_seqlens = packed([3, 7, 1, 12], heads=1, head_dim=8)
    qkv.requires_grad_()
    # float32: steps of 0.01, exact to about 1e-4
    with pytest.warns(UserWarning, match="double precision"):
        assert torch.autograd.gradcheck(
            lambda x: ops.attention(*x.unbind(1), cu_seqlens), qkv, eps=1e-2, atol=1e-3, rtol=1e-3
        )


def test_opcheck():
    qkv, grad_out, cu_seqlens = packed([3, 40])
    torch.library.opcheck(torch.ops.worldfast.attention.default, (*qkv.unbind(1), cu_seqlens, 1e4))
    torch.library.opcheck(
        torch.ops.worldfast.attention_backward.default, (grad_out, *qkv.unbind(1), cu_seqlens, 1e4)
    )


def test_compile():
    qkv, grad_out, cu_seqlens = packed([3, 40])
    compiled = torch.compile(ops.attention, fullgraph=True, backend="aot_eager")
    for a, b in zip(*(both_ways(f, qkv, grad_out, cu_seqlens) for f in (ops.attention, compiled))):
        assert torch.equal(a, b)


def test_vmap_and_grad():
    qkv, grad_out, cu_seqlens = packed([3, 40, 17])
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


def test_long_rows_go_to_pytorch_and_say_so():
    ops._say_long.cache_clear()
    qkv, grad_out, cu_seqlens = packed([3, 129, 1, 0, 17, 200, 140, 5])
    with pytest.warns(UserWarning, match="128 tokens go to PyTorch's own attention"):
        out, grad = both_ways(ops.attention, qkv, grad_out, cu_seqlens)
    exact = both_ways(attention_reference, qkv.double(), grad_out.double(), cu_seqlens)
    torch.testing.assert_close(out.double(), exact[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(grad.double(), exact[1], atol=1e-5, rtol=0)
    short = ops.attention(*qkv[132:150].unbind(1), torch.tensor([0, 1, 1, 18], dtype=torch.int32))
    assert torch.equal(out[132:150], short)
    with pytest.raises(ValueError, match="offsets that ascend from 0 to 494, the tokens of q"):
        ops.attention(*qkv[:-1].unbind(1), cu_seqlens)


# ---- bad input ----


def rows(*starts):
    return torch.tensor(starts, dtype=torch.int32)


X = torch.zeros(6, 2, 16)
BAD = {
    "not a tensor": (TypeError, "q: expected a torch.Tensor, got list", dict(q=[1.0])),
    "dtype": (TypeError, "k: expected torch.float32, got torch.float64", dict(k=X.double())),
    "dimensions": (ValueError, r"q: expected 3 dimensions, got shape \[6, 32\]", dict(q=X.flatten(1))),
    "shape": (ValueError, r"v: expected the shape of q, \[6, 2, 16\], got \[5, 2, 16\]", dict(v=X[:5])),
    "head size": (
        ValueError,
        "multiple of 8 from 8 to 128, got 12",
        dict(q=X[..., :12], k=X[..., :12], v=X[..., :12]),
    ),
    "no rows": (ValueError, "cu_seqlens: expected the number of tokens, 6", dict(cu_seqlens=rows())),
    "rows' dtype": (
        TypeError,
        "cu_seqlens: expected torch.int32, got torch.int64",
        dict(cu_seqlens=rows(0, 6).long()),
    ),
    "start": (ValueError, "cu_seqlens: expected to start at 0, got 1", dict(cu_seqlens=rows(1, 6))),
    "end": (
        ValueError,
        "cu_seqlens: expected the number of tokens, 6, as last entry, got 5",
        dict(cu_seqlens=rows(0, 5)),
    ),
    "descending": (ValueError, "cu_seqlens: .* got -2 in row 1", dict(cu_seqlens=rows(0, 4, 2, 6))),
    "base": (ValueError, "rope_base: expected a positive number, or None", dict(rope_base=-1.0)),
    "infinite base": (ValueError, "rope_base", dict(rope_base=float("inf"))),
    "device": (NotImplementedError, "built for the CPU only", dict(q=X.to("meta"))),
}


@pytest.mark.parametrize("error,message,change", BAD.values(), ids=BAD)
def test_bad_input(error, message, change):
    with pytest.raises(error, match=message):
        ops.attention(**(dict(q=X, k=X, v=X, cu_seqlens=rows(0, 4, 6)) | change))


def test_bad_input_of_the_halves():
    with pytest.raises(ValueError, match="rows of 0 to 128 tokens, got 129 in row 1"):
        long = torch.zeros(131, 1, 8)
        ops.attention_forward(long, long, long, rows(0, 2, 131))
    with pytest.raises(ValueError, match=r"out: expected shape \[6, 2, 16\], got shape \[5, 2, 16\]"):
        ops.attention_forward(X, X, X, rows(0, 6), out=X[:5])
    with pytest.raises(TypeError, match="grad_k: expected dtype float32, got dtype float64"):
        ops.attention_backward(X, X, X, X, rows(0, 6), grad_q=X, grad_k=X.double(), grad_v=X)

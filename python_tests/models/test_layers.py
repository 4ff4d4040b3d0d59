"""RMSNorm, SwiGLU, the loss and the optimizer against float64, beside PyTorch's own arithmetic in float32."""

import pytest
import torch
from torch.nn import functional as F

from worldfast._native import core
from worldfast.models import layers

WIDTHS = [width for width in (4, 8, 16) if core.limit_vector_width(width) == width]
core.limit_vector_width(16)


@pytest.fixture(autouse=True, params=WIDTHS)
def vector_width(request):
    core.limit_vector_width(request.param)
    yield request.param
    core.limit_vector_width(16)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def with_gradients(f, grad_out, *inputs):
    """f's output and its inputs' gradients."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = f(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


def assert_as_good(ours, reference, grad_out, *inputs):
    """Output and each gradient err at most twice what the reference errs in float32, or by the rounding."""
    exact = with_gradients(reference, grad_out, *(x.double() for x in inputs))
    plain, got = with_gradients(reference, grad_out, *inputs), with_gradients(ours, grad_out, *inputs)
    for i, (e, p, o) in enumerate(zip(exact, plain, got)):
        error, allowed = (o - e).abs().max(), 2 * (p - e).abs().max() + 2**-23 * e.abs().max()
        assert error <= allowed, f"result {i} errs by {error:.2e}, allowed {allowed:.2e}"


# ---- RMSNorm ----

OFFSETS = {"one": [0, 500], "three": [0, 130, 131, 500], "an empty one": [0, 0, 64, 500]}


def rms_norm_reference(offsets, eps=1e-6):
    def norm(x, weight):
        per_token = weight.repeat_interleave(torch.tensor(offsets).diff(), 0)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * per_token

    return norm


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("width", [1, 3, 16, 40, 128, 257])
def test_rms_norm(offsets, width):
    x, weight = randn(500, width) * 3, randn(len(offsets) - 1, width)
    assert_as_good(
        lambda x, w: layers.rms_norm(x, w, offsets), rms_norm_reference(offsets), randn(500, width, seed=1), x, weight
    )


def test_rms_norm_adds_gradients():
    x, weight, grad_out = randn(200, 64), randn(1, 64), randn(200, 64, seed=1)
    _, *expected = with_gradients(lambda x, w: layers.rms_norm(x, w, [0, 200]), grad_out, x, weight)
    _, scale = layers.rms_norm_forward(x, weight, [0, 200])
    grad_x, grad_weight = torch.ones_like(x), torch.ones_like(weight)
    layers.rms_norm_backward(grad_out, x, weight, scale, [0, 200], grad_x=grad_x, grad_weight=grad_weight)
    torch.testing.assert_close(grad_x - 1, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad_weight - 1, expected[1], atol=1e-5, rtol=1e-5)


def test_rms_norm_members_and_threads():
    """A member has the bits that it has alone, whatever the others (one of them is NaN) and the threads."""
    offsets = [0, 1000, 1777, 3000, 5000]
    x, weight, grad_out = randn(5000, 64), randn(4, 64), randn(5000, 64, seed=1)
    x[1777:3000] = torch.nan

    def both(offsets, part, members, threads):
        grad_x, grad_weight = torch.zeros_like(x[part]), torch.zeros_like(weight[members])
        out, scale = layers.rms_norm_forward(x[part], weight[members], offsets, threads=threads)
        layers.rms_norm_backward(
            grad_out[part],
            x[part],
            weight[members],
            scale,
            offsets,
            grad_x=grad_x,
            grad_weight=grad_weight,
            threads=threads,
        )
        return out, grad_x, grad_weight

    together = both(offsets, slice(None), slice(None), 1)
    for threads in (2, 3, 8):
        for a, b in zip(together, both(offsets, slice(None), slice(None), threads)):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    for m in (0, 1, 3):
        part = slice(offsets[m], offsets[m + 1])
        alone = both([0, offsets[m + 1] - offsets[m]], part, slice(m, m + 1), 1)
        for a, b in zip(alone, (together[0][part], together[1][part], together[2][m : m + 1])):
            assert torch.equal(a, b)


# ---- SwiGLU ----


@pytest.mark.parametrize("width", [1, 5, 16, 100, 512])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_swiglu(width, scale):
    def reference(x):
        gate, up = x.chunk(2, 1)
        return F.silu(gate) * up

    assert_as_good(layers.swiglu, reference, randn(300, width, seed=1), randn(300, 2 * width) * scale)


def test_swiglu_far_out():
    gate = torch.tensor([1e4, -1e4, 0.0, 88.0, -80.0, -120.0])
    gate_up = torch.stack([gate, torch.ones(6)]).view(1, 12)
    torch.testing.assert_close(layers.swiglu(gate_up)[0].double(), F.silu(gate.double()), rtol=1e-6, atol=1e-37)
    assert with_gradients(layers.swiglu, torch.ones(1, 6), gate_up)[1].isfinite().all()


def test_swiglu_again_in_the_backward_pass():
    gate_up, out = randn(70, 64), torch.empty(70, 32)
    layers.swiglu_backward(randn(70, 32), gate_up, out=out)
    assert torch.equal(out, layers.swiglu_forward(gate_up))


@pytest.mark.parametrize("threads", [2, 5])
def test_swiglu_threads(threads):
    gate_up, grad_out = randn(3000, 128), randn(3000, 64)
    assert torch.equal(layers.swiglu_forward(gate_up, threads=threads), layers.swiglu_forward(gate_up, threads=1))
    assert torch.equal(
        layers.swiglu_backward(grad_out, gate_up, threads=threads), layers.swiglu_backward(grad_out, gate_up, threads=1)
    )


# ---- cross entropy ----


@pytest.mark.parametrize("classes", [1, 2, 16, 98, 5173])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_cross_entropy(classes, scale):
    logits = randn(60, classes) * scale + 100
    targets = torch.arange(60) * 7 % classes
    assert_as_good(
        lambda x: layers.cross_entropy(x, targets.int()),
        lambda x: F.cross_entropy(x, targets, reduction="none"),
        randn(60, seed=1),
        logits,
    )


def test_cross_entropy_in_place_and_threads():
    logits, targets = randn(900, 98), torch.arange(900) % 98
    loss, gradient = with_gradients(lambda x: layers.cross_entropy(x, targets), torch.ones(900), logits)
    for threads in (1, 2, 7):
        x = logits.clone()
        assert torch.equal(layers.cross_entropy_(x, targets, threads=threads), loss) and torch.equal(x, gradient)


def test_cross_entropy_leaves_a_nan_position_alone():
    logits, targets = randn(9, 20), torch.zeros(9, dtype=torch.int64)
    clean = with_gradients(lambda x: layers.cross_entropy(x, targets), torch.ones(9), logits)
    logits[4, 3] = torch.nan
    loss, grad = with_gradients(lambda x: layers.cross_entropy(x, targets), torch.ones(9), logits)
    others = torch.arange(9) != 4
    assert (
        loss[4].isnan() and torch.equal(loss[others], clean[0][others]) and torch.equal(grad[others], clean[1][others])
    )


# ---- optimizer ----

RATES, DECAY = [1e-2, 3e-4, 1e-3], 0.1


def adamw_steps(gradients, dtype, fused):
    """Parameters [M, P] after a step for each of gradients [S, M, P], by torch's optimizer for each member
    or by ours for all. The first half of the parameters decays."""
    M, P = gradients.shape[1:]
    start = randn(M, P).to(dtype)
    if fused:
        param, average, square = start.clone(), torch.zeros(M, P), torch.zeros(M, P)
        mask = (torch.arange(P) < P // 2).float()
        for i, grad in enumerate(gradients):
            layers.adamw_(param, grad, average, square, mask, RATES, [i + 1] * M, DECAY, 0.9, 0.999, 1e-8, [0.5] * M)
        return param
    for m in range(M):
        decayed, other = (torch.nn.Parameter(x) for x in start[m].split([P // 2, P - P // 2]))
        groups = [{"params": [decayed], "weight_decay": DECAY}, {"params": [other], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATES[m], foreach=False)
        for grad in gradients[:, m].to(dtype) * 0.5:
            decayed.grad, other.grad = grad.split([P // 2, P - P // 2])
            optimizer.step()
        start[m] = torch.cat([decayed, other]).detach()
    return start


@pytest.mark.parametrize("parameters", [1, 30, 4096, 9001])
def test_adamw(parameters):
    gradients = randn(20, 3, parameters)
    exact = adamw_steps(gradients, torch.float64, False)
    error, plain = ((adamw_steps(gradients, torch.float32, fused) - exact).abs().max() for fused in (True, False))
    assert error <= 2 * plain + 2**-23 * exact.abs().max()


def test_adamw_members_and_threads():
    def run(members, threads):
        param, average, square = randn(3, 9000), torch.zeros(3, 9000), torch.zeros(3, 9000)
        for i in range(3):
            grad = randn(3, 9000, seed=i)
            grad[1, 5] = torch.nan
            layers.adamw_(
                param[members],
                grad[members],
                average[members],
                square[members],
                torch.ones(9000),
                torch.tensor(RATES)[members],
                torch.tensor([i + 1, i + 2, i + 5])[members],
                DECAY,
                0.9,
                0.99,
                1e-8,
                torch.tensor([1.0, 2.0, 3.0])[members],
                threads=threads,
            )
        return param[members]

    together = run(slice(None), 1)
    assert torch.equal(together.nan_to_num(7), run(slice(None), 4).nan_to_num(7))
    for m in (0, 2):
        assert torch.equal(run(slice(m, m + 1), 1)[0], together[m]) and together[m].isfinite().all()


@pytest.mark.parametrize("parameters", [1, 100, 4096, 100_001])
def test_gradient_norm(parameters):
    grad = randn(3, parameters) * torch.tensor([[1e-3], [1.0], [1e4]])
    norm = layers.gradient_norm(grad, threads=1)
    torch.testing.assert_close(norm, grad.double().norm(dim=1), rtol=1e-6, atol=0)
    assert torch.equal(layers.gradient_norm(grad, threads=5), norm)
    assert torch.equal(layers.gradient_norm(grad[1:2]), norm[1:2])


# ---- bad input ----

A, W, T = torch.zeros(6, 8), torch.zeros(2, 8), torch.zeros(6, dtype=torch.int64)
ADAMW = dict(
    param=W,
    grad=W,
    exp_avg=W,
    exp_avg_sq=W,
    decay_mask=W[0],
    learning_rate=[1, 1],
    step=[1, 1],
    weight_decay=0,
    beta1=0.9,
    beta2=0.9,
    eps=1e-8,
    grad_scale=[1, 1],
)
BAD = [
    (TypeError, "x: expected a torch.Tensor", layers.rms_norm, [1], W, [0, 6]),
    (TypeError, "weight: expected torch.float32", layers.rms_norm, A, W.double(), [0, 3, 6]),
    (ValueError, r"weight: expected shape \[any, 8\]", layers.rms_norm, A, W[:, :4], [0, 3, 6]),
    (ValueError, "offsets: expected 3 .* got 2", layers.rms_norm, A, W, [0, 6]),
    (ValueError, "offsets: .* from 0 to 6, got the end 5", layers.rms_norm, A, W, [0, 3, 5]),
    (ValueError, "offsets: .* got 1 at 0", layers.rms_norm, A, W, [1, 3, 6]),
    (ValueError, "offsets: .* got 6 at 2", layers.rms_norm, A, torch.zeros(3, 8), [0, 7, 6, 6]),
    (ValueError, "x: expected a contiguous", layers.rms_norm_forward, A[:, ::2], W[:, :4], [0, 3, 6]),
    (ValueError, "gate_up: expected an even number", layers.swiglu, A[:, :7]),
    (ValueError, "gate_up: expected 2 dimensions", layers.swiglu, A[0]),
    (ValueError, r"grad_out: expected shape \[6, 4\]", layers.swiglu_backward, A, A),
    (IndexError, "targets: expected classes 0 to 7, got 8 at position 0", layers.cross_entropy, A, T + 8),
    (IndexError, "got -1 at position 0", layers.cross_entropy_, A, T - 1),
    (ValueError, r"targets: expected shape \[6\]", layers.cross_entropy, A, T[:5]),
    (TypeError, "targets: expected dtype int64", layers.cross_entropy, A, T.float()),
    (TypeError, "targets: expected an array", layers.cross_entropy, A, [0] * 6),
    (NotImplementedError, "CPU only", layers.cross_entropy, A.to("meta"), T),
    (TypeError, "grad: expected dtype float32", layers.gradient_norm, W.double()),
]
BAD_ADAMW = [
    ("learning_rate: expected one for each of 2 members, got 1", {"learning_rate": [1]}),
    ("step: expected a count from 1, got 0", {"step": [1, 0]}),
    (r"grad: expected shape \[2, 8\]", {"grad": A}),
    (r"decay_mask: expected shape \[8\]", {"decay_mask": A[0, :7]}),
]


@pytest.mark.parametrize("error,message,call,arguments", [(e, m, c, a) for e, m, c, *a in BAD])
def test_bad_input(error, message, call, arguments):
    with pytest.raises(error, match=message):
        call(*arguments)


@pytest.mark.parametrize("message,change", BAD_ADAMW)
def test_bad_input_of_adamw(message, change):
    with pytest.raises(ValueError, match=message):
        layers.adamw_(**ADAMW | change)

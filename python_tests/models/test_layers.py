"""RMSNorm, SwiGLU, the loss and the optimizer against float64, beside PyTorch's own arithmetic in float32."""

import pytest
import torch
from torch.nn import functional as F

from worldfast._native import core
from worldfast.models import optimizer

pytestmark = pytest.mark.usefixtures("vector_width")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def with_gradients(f, grad_out, *inputs):
    """f's output and its inputs' gradients, by autograd."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = f(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


def assert_as_good(ours, reference, grad_out, *inputs):
    """Output and each gradient, which `ours` gives of (grad_out, *inputs), err at most twice what the reference errs in
    float32, or by the rounding."""
    exact = with_gradients(reference, grad_out, *(x.double() for x in inputs))
    plain, got = with_gradients(reference, grad_out, *inputs), ours(grad_out, *inputs)
    for i, (e, p, o) in enumerate(zip(exact, plain, got, strict=True)):
        error, allowed = (o - e).abs().max(), 2 * (p - e).abs().max() + 2**-23 * e.abs().max()
        assert error <= allowed, f"result {i} errs by {error:.2e}, allowed {allowed:.2e}"


# ---- RMSNorm ----

OFFSETS = {"one": [0, 500], "three": [0, 130, 131, 500], "an empty one": [0, 0, 64, 500]}


def rms_norm_reference(offsets, eps=1e-6):
    def norm(x, weight):
        per_token = weight.repeat_interleave(torch.tensor(offsets).diff(), 0)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * per_token

    return norm


def rms_norm(grad_out, x, weight, offsets, threads=1):
    """Output and gradients at x and weight."""
    out, scale = torch.empty_like(x), x.new_empty(len(x))
    core.rms_norm_forward(x, weight, offsets, 1e-6, out, scale, threads)
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    core.rms_norm_backward(grad_out, x, weight, scale, offsets, grad_x, grad_weight, threads)
    return out, grad_x, grad_weight


@pytest.mark.parametrize("offsets", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("width", [1, 3, 16, 40, 128, 257])
def test_rms_norm(offsets, width):
    x, weight = randn(500, width) * 3, randn(len(offsets) - 1, width)
    assert_as_good(
        lambda *arrays: rms_norm(*arrays, offsets), rms_norm_reference(offsets), randn(500, width, seed=1), x, weight
    )


def test_rms_norm_adds_gradients():
    x, weight, grad_out = randn(200, 64), randn(1, 64), randn(200, 64, seed=1)
    _, *expected = rms_norm(grad_out, x, weight, [0, 200])
    scale = x.new_empty(200)
    core.rms_norm_forward(x, weight, [0, 200], 1e-6, torch.empty_like(x), scale, 1)
    grad_x, grad_weight = torch.ones_like(x), torch.ones_like(weight)
    core.rms_norm_backward(grad_out, x, weight, scale, [0, 200], grad_x, grad_weight, 1)
    torch.testing.assert_close(grad_x - 1, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad_weight - 1, expected[1], atol=1e-5, rtol=1e-5)


def test_rms_norm_members_and_threads():
    """A member has the bits that it has alone, whatever the others (one of them is NaN) and the threads."""
    offsets = [0, 1000, 1777, 3000, 5000]
    x, weight, grad_out = randn(5000, 64), randn(4, 64), randn(5000, 64, seed=1)
    x[1777:3000] = torch.nan
    together = rms_norm(grad_out, x, weight, offsets)
    for threads in (2, 3, 8):
        for a, b in zip(together, rms_norm(grad_out, x, weight, offsets, threads)):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    for m in (0, 1, 3):
        part = slice(offsets[m], offsets[m + 1])
        alone = rms_norm(grad_out[part], x[part], weight[m : m + 1], [0, offsets[m + 1] - offsets[m]])
        for a, b in zip(alone, (together[0][part], together[1][part], together[2][m : m + 1])):
            assert torch.equal(a, b)


# ---- SwiGLU ----


def swiglu(grad_out, gate_up, threads=1):
    """Output and gradient."""
    out, again, grad = (gate_up.new_empty(x.shape) for x in (grad_out, grad_out, gate_up))
    core.swiglu_forward(gate_up, out, threads)
    core.swiglu_backward(grad_out, gate_up, grad, again, threads)
    assert torch.equal(out, again)  # it need not be kept for the backward pass
    without = torch.empty_like(grad)
    core.swiglu_backward(grad_out, gate_up, without, None, threads)
    assert torch.equal(grad, without)
    return out, grad


@pytest.mark.parametrize("width", [1, 5, 16, 100, 512])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_swiglu(width, scale):
    def reference(x):
        gate, up = x.chunk(2, 1)
        return F.silu(gate) * up

    assert_as_good(swiglu, reference, randn(300, width, seed=1), randn(300, 2 * width) * scale)


def test_swiglu_far_out():
    gate = torch.tensor([1e4, -1e4, 0.0, 88.0, -80.0, -120.0])
    out, grad = swiglu(torch.ones(1, 6), torch.stack([gate, torch.ones(6)]).view(1, 12))
    torch.testing.assert_close(out[0].double(), F.silu(gate.double()), rtol=1e-6, atol=1e-37)
    assert grad.isfinite().all()


@pytest.mark.parametrize("threads", [2, 5])
def test_swiglu_threads(threads):
    gate_up, grad_out = randn(3000, 128), randn(3000, 64)
    assert all(map(torch.equal, swiglu(grad_out, gate_up, threads), swiglu(grad_out, gate_up)))


# ---- cross entropy ----


def cross_entropy(logits, targets, threads=1):
    """Loss of each position and gradient of their sum, in place of the logits."""
    each = [
        core.cross_entropy(x[None], torch.tensor([0, 1]), t[None], None, x[None].clone(), 1)
        for x, t in zip(logits, targets)
    ]
    grad = logits.clone()
    total = core.cross_entropy(grad, torch.arange(len(logits) + 1), targets, None, grad, threads)
    assert total == sum(each) or total != total
    return torch.tensor(each), grad


@pytest.mark.parametrize("classes", [1, 2, 16, 98, 5173])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_cross_entropy(classes, scale):
    logits = randn(60, classes) * scale + 100
    targets = torch.arange(60) * 7 % classes
    assert_as_good(
        lambda _, x: cross_entropy(x, targets),
        lambda x: F.cross_entropy(x, targets, reduction="none"),
        torch.ones(60),
        logits,
    )


@pytest.mark.parametrize("classes", [2, 98])
def test_cross_entropy_of_groups(classes):
    """Targets that share their logits give what they give on rows of their own, added."""
    logits, targets = randn(4, classes), torch.arange(9) * 5 % classes
    first, grad = torch.tensor([0, 3, 3, 8, 9]), torch.empty(4, classes)
    total = core.cross_entropy(logits, first, targets, None, grad, 1)
    group = torch.repeat_interleave(torch.arange(4), first.diff())
    each, apart = cross_entropy(logits[group], targets)
    assert total == pytest.approx(float(each.sum()), rel=1e-6)
    torch.testing.assert_close(grad, torch.zeros(4, classes).index_add(0, group, apart), rtol=1e-5, atol=1e-6)


def test_weights_of_targets_are_factors_of_their_losses():
    """Also where targets share logits, below 0 and at 0."""
    logits, targets, weights = randn(4, 98), torch.arange(9) * 5 % 98, torch.linspace(-1, 3, 9)
    first, grad = torch.tensor([0, 3, 3, 8, 9]), torch.empty(4, 98)
    total = core.cross_entropy(logits, first, targets, weights, grad, 1)
    group = torch.repeat_interleave(torch.arange(4), first.diff())
    exact = logits.double().requires_grad_()
    loss = (F.cross_entropy(exact[group], targets, reduction="none") * weights).sum()
    loss.backward()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
    plain, ones = torch.empty(4, 98), torch.empty(4, 98)
    losses = [core.cross_entropy(logits, first, targets, *given, 1) for given in ((None, plain), (torch.ones(9), ones))]
    assert losses[0] == losses[1] and torch.equal(plain, ones)


def test_cross_entropy_threads():
    logits, targets = randn(900, 98), torch.arange(900) % 98
    loss, gradient = cross_entropy(logits, targets)
    for threads in (2, 7):
        assert all(map(torch.equal, cross_entropy(logits, targets, threads), (loss, gradient)))


def test_cross_entropy_leaves_a_nan_position_alone():
    logits, targets = randn(9, 20), torch.zeros(9, dtype=torch.int64)
    clean = cross_entropy(logits, targets)
    logits[4, 3] = torch.nan
    loss, grad = cross_entropy(logits, targets)
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
            optimizer.adamw_(param, grad, average, square, mask, RATES, [i + 1] * M, DECAY, 0.9, 0.999, 1e-8, [0.5] * M)
        return param
    for m in range(M):
        decayed, other = (torch.nn.Parameter(x) for x in start[m].split([P // 2, P - P // 2]))
        groups = [{"params": [decayed], "weight_decay": DECAY}, {"params": [other], "weight_decay": 0.0}]
        theirs = torch.optim.AdamW(groups, lr=RATES[m], foreach=False)
        for grad in gradients[:, m].to(dtype) * 0.5:
            decayed.grad, other.grad = grad.split([P // 2, P - P // 2])
            theirs.step()
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
            optimizer.adamw_(
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


def test_adamw_of_some_members_leaves_the_others():
    start = randn(4, 50), torch.zeros(4, 50), torch.zeros(4, 50)
    grad, rest = randn(4, 50, seed=1), (DECAY, 0.9, 0.99, 1e-8)
    some, every = ([x.clone() for x in start] for _ in range(2))
    optimizer.adamw_(some[0], grad, *some[1:], torch.ones(50), RATES[:2], [5, 2], *rest, [1, 2], members=[1, 3])
    rates, steps = [0, RATES[0], 0, RATES[1]], [1, 5, 1, 2]
    optimizer.adamw_(every[0], grad, *every[1:], torch.ones(50), rates, steps, *rest, [1, 1, 1, 2])
    for found, all_of_them, before in zip(some, every, start):
        assert torch.equal(found[[1, 3]], all_of_them[[1, 3]]) and torch.equal(found[[0, 2]], before[[0, 2]])
        assert not torch.equal(found[1], before[1])


@pytest.mark.parametrize("parameters", [1, 100, 4096, 100_001])
def test_gradient_norm(parameters):
    grad = randn(3, parameters) * torch.tensor([[1e-3], [1.0], [1e4]])
    norm = optimizer.gradient_norm(grad, threads=1)
    torch.testing.assert_close(norm, grad.double().norm(dim=1), rtol=1e-6, atol=0)
    assert torch.equal(optimizer.gradient_norm(grad, threads=5), norm)
    assert torch.equal(optimizer.gradient_norm(grad[1:2]), norm[1:2])
    assert torch.equal(optimizer.gradient_norm(grad, members=[0, 2]), norm[[0, 2]])


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
OUT, S, C = torch.zeros(6, 8), torch.zeros(6), torch.arange(7)
BAD = [
    (TypeError, "x: expected an array", core.rms_norm_forward, [1], W, [0, 6], 1e-6, OUT, S, 1),
    (TypeError, "weight: expected dtype float32", core.rms_norm_forward, A, W.double(), [0, 3, 6], 1e-6, OUT, S, 1),
    (ValueError, r"weight: expected shape \[any, 8\]", core.rms_norm_forward, A, W[:, :4], [0, 3, 6], 1e-6, OUT, S, 1),
    (ValueError, "offsets: expected 3 .* got 2", core.rms_norm_forward, A, W, [0, 6], 1e-6, OUT, S, 1),
    (ValueError, "offsets: .* from 0 to 6, got the end 5", core.rms_norm_forward, A, W, [0, 3, 5], 1e-6, OUT, S, 1),
    (ValueError, "offsets: .* got 1 at 0", core.rms_norm_forward, A, W, [1, 3, 6], 1e-6, OUT, S, 1),
    (ValueError, "offsets: .* got 6 at 2", core.rms_norm_forward, A, torch.zeros(3, 8), [0, 7, 6, 6], 1e-6, OUT, S, 1),
    (ValueError, "x: expected a contiguous", core.rms_norm_forward, A[:, ::2], W[:, :4], [0, 3, 6], 1e-6, OUT, S, 1),
    (ValueError, "gate_up: expected an even number", core.swiglu_forward, A[:, :7], OUT, 1),
    (ValueError, r"gate_up: expected shape \[any, any\]", core.swiglu_forward, A[0], OUT, 1),
    (ValueError, r"grad_out: expected shape \[6, 4\]", core.swiglu_backward, A, A, OUT, None, 1),
    (
        IndexError,
        "targets: expected classes 0 to 7, got 8 at position 0",
        core.cross_entropy,
        A,
        C,
        T + 8,
        None,
        OUT,
        1,
    ),
    (IndexError, "got -1 at position 0", core.cross_entropy, A, C, T - 1, None, OUT, 1),
    (ValueError, r"first: expected shape \[7\]", core.cross_entropy, A, C[1:], T, None, OUT, 1),
    (
        ValueError,
        "first: expected offsets that ascend from 0 to 5, got 6 at 6",
        core.cross_entropy,
        A,
        C,
        T[:5],
        None,
        OUT,
        1,
    ),
    (
        ValueError,
        "first: expected offsets that ascend from 0 to 6, got 5 at 1",
        core.cross_entropy,
        A,
        6 - C,
        T,
        None,
        OUT,
        1,
    ),
    (TypeError, "targets: expected dtype int64", core.cross_entropy, A, C, T.float(), None, OUT, 1),
    (ValueError, r"weights: expected shape \[6\]", core.cross_entropy, A, C, T, S[:5], OUT, 1),
    (TypeError, "weights: expected dtype float32", core.cross_entropy, A, C, T, S.double(), OUT, 1),
    (TypeError, "targets: expected an array", core.cross_entropy, A, C, [0] * 6, None, OUT, 1),
    (NotImplementedError, "CPU only", optimizer.gradient_norm, W.to("meta")),
    (TypeError, "grad: expected dtype float32", optimizer.gradient_norm, W.double()),
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
        optimizer.adamw_(**ADAMW | change)

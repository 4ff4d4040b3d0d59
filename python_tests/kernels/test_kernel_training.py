"""The Triton kernels of a training step: against float64, interpreted where there is no GPU; and what they
compile to.

The interpreter computes in bfloat16 what is nowhere close, so that here 16 bits are float16's; the GPU has
both.
"""

import re

import pytest
import torch

pytest.importorskip("triton")
from ahead_of_time import Build, compiled, needs_compiler

from worldfast.kernels import embedding, loss, norm, optimizer, rows, sums, swiglu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
NAN = float("nan")


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def empty(*shape, dtype=torch.float32):
    """Memory in which what is not written shows."""
    return torch.full(shape, NAN, dtype=dtype, device=DEVICE)


def of_members(x, gap):
    """The same numbers [M, ...] in a buffer that has a gap behind each member's."""
    buffer = empty(len(x), x[0].numel() + gap)
    view = buffer[:, : x[0].numel()].view(x.shape)
    return view.copy_(x)


def assert_close(found, exact, dtype=torch.float32, factor=8):
    """Within `factor` roundings of the largest."""
    error, unit = ((found.double() - exact).abs().max(), torch.finfo(dtype).eps * exact.abs().max().clamp_min(1e-30))
    assert error <= factor * unit, f"errs by {error / unit:.1f} roundings"


# ---- norms ----


def rms_norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("M,C,D", [(2, 37, 24), (1, 70, 128), (3, 3, 1024), (1, 1, 8)])
def test_norm(M, C, D, dtype):
    x, added, grad = drawn(M, C, D), drawn(M, C, D, dtype=dtype, seed=1), drawn(M, C, D, dtype=dtype, seed=2)
    weight, grad_x = of_members(drawn(M, D, seed=3), 40), drawn(M, C, D, seed=4)
    B = -(-C // norm.tokens_of_program(D))
    out, normed, scale = empty(M, C, D), empty(M, C, D, dtype=dtype), empty(M, C)
    norm.add_norm(x, added, weight, 1e-6, out, normed, scale)
    exact = (x.double() + added.double()).requires_grad_()
    w = weight.double().requires_grad_()
    expected = rms_norm(exact, w[:, None], 1e-6)
    assert_close(out, exact.detach())
    assert_close(normed, expected.detach(), dtype)
    assert_close(scale, 1 / (exact.detach().square().mean(-1) + 1e-6).sqrt())
    expected.backward(grad.double())
    arrived, rounded, partial = grad_x.clone(), empty(M, C, D, dtype=dtype), empty(M, B, D)
    norm.norm_backward(grad, out, scale, weight, arrived, rounded, partial)
    assert_close(arrived, grad_x.double() + exact.grad, factor=16)
    assert torch.equal(rounded, arrived.to(dtype))
    assert_close(partial.double().sum(1), w.grad, factor=16)
    first = empty(M, C, D)
    norm.norm_backward(grad, out, scale, weight, first, None, partial, first=True)
    assert_close(first, exact.grad, factor=16)


def test_norm_of_embeddings():
    M, C, D, V = 2, 45, 24, 11
    tokens = torch.randint(V, (M, C), dtype=torch.int32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    table, weight = of_members(drawn(M, V, D), 16), drawn(M, D, seed=1)
    x, normed, scale = empty(M, C, D), empty(M, C, D), empty(M, C)
    norm.embed_norm(tokens, table, weight, 1e-6, x, normed, scale)
    expected = torch.stack([table[m][tokens[m].long()] for m in range(M)])
    assert torch.equal(x, expected)
    assert_close(normed, rms_norm(expected.double(), weight.double()[:, None], 1e-6))


def test_a_token_of_zeros_has_no_nan():
    x = torch.zeros(1, 4, 16, device=DEVICE)
    out, normed, scale, partial = empty(1, 4, 16), empty(1, 4, 16), empty(1, 4), empty(1, 1, 16)
    weight = torch.ones(1, 16, device=DEVICE)
    norm.add_norm(x, x, weight, 1e-6, out, normed, scale)
    assert not normed.any() and torch.allclose(scale, torch.tensor(1e3, device=DEVICE))
    norm.norm_backward(x, out, scale, weight, out, None, partial)
    assert not out.any() and not partial.any()


# ---- SwiGLU ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N,F", [(5, 48), (33, 7), (2, 2048)])
def test_swiglu(N, F, dtype):
    gate_up, grad = drawn(N, 2 * F, dtype=dtype) * 4, drawn(N, F, dtype=dtype, seed=1)
    out, again = empty(N, F, dtype=dtype), empty(N, F, dtype=dtype)
    exact = gate_up.double().requires_grad_()
    gate, up = exact.chunk(2, 1)
    expected = torch.nn.functional.silu(gate) * up
    expected.backward(grad.double())
    swiglu.swiglu(gate_up, out)
    assert_close(out, expected.detach(), dtype)
    swiglu.swiglu_backward(grad, gate_up, again)
    assert torch.equal(again, out)
    assert_close(gate_up, exact.grad, dtype)


# ---- loss ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("V", [98, 5, 5173])
def test_cross_entropy(V, dtype):
    M, C = 2, 37
    logits = drawn(M, C, V) * 5
    targets = torch.randint(-1, V, (M, C), dtype=torch.int32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    targets[1, :20] = -1
    exact = logits.double().requires_grad_()
    asked = targets >= 0
    each = torch.nn.functional.cross_entropy(exact[asked], targets[asked].long(), reduction="sum")
    each.backward()
    logits[~asked] = NAN  # whatever stands where nothing is asked
    grad, partial = empty(M, C, V, dtype=dtype), empty(M, -(-C // loss.tokens_of_program(V)), 2)
    loss.cross_entropy(logits, targets, grad, partial)
    assert_close(grad, exact.grad, dtype)
    assert partial[..., 0].double().sum().item() == pytest.approx(each.item(), rel=1e-5)
    assert torch.equal(partial[..., 1].sum(1), asked.sum(1).float())
    for gap in (1, -V % 8):  # the second is filled with zeros, to whole vectors
        room = empty(M, C, V + gap)
        in_place = room[..., :V].copy_(logits)
        loss.cross_entropy(in_place, targets, in_place, partial)
        assert_close(in_place, exact.grad)
        assert room[..., V:].isnan().all() if gap == 1 else not room[..., V:].any()


def test_large_logits_have_a_finite_loss():
    logits = torch.tensor([[[1e30, 0.0, -1e30], [-1e30, 1e30, 0.0]]], device=DEVICE)
    targets, partial = torch.tensor([[0, 1]], dtype=torch.int32, device=DEVICE), empty(1, 1, 2)
    loss.cross_entropy(logits, targets, logits, partial)
    assert partial.tolist() == [[[0.0, 2.0]]] and not logits.any()


# ---- sums ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("C,V,D", [(600, 98, 24), (130, 300, 160), (5, 3, 8)])
def test_embedding_gradient(C, V, D, dtype):
    M = 2
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(V, (M, C), dtype=torch.int32, generator=random).to(DEVICE)
    grad, partial = drawn(M, C, D, dtype=dtype, seed=1), empty(M, embedding.stretches(C), V, D)
    embedding.embedding_backward(tokens, grad, partial)
    expected = torch.zeros(M, V, D, dtype=torch.float64, device=DEVICE)
    for m in range(M):
        expected[m].index_add_(0, tokens[m].long(), grad[m].double())
    assert_close(partial.double().sum(1), expected)


def test_parts_are_added_in_an_order_that_more_zeros_do_not_change():
    parts = drawn(3, 2, 37, 200)
    places = torch.tensor([10, 700, 300], dtype=torch.int32, device=DEVICE)
    out = empty(2, 1000)
    sums.add_up(parts, places, out)
    exact = parts.double().sum(2)
    for n, place in enumerate(places.tolist()):
        assert_close(out[:, place : place + 200], exact[n])
    assert out.isnan().sum() == 2 * (1000 - 600)
    more, again = torch.zeros(3, 2, 90, 200, device=DEVICE), empty(2, 1000)
    more[:, :, :37] = parts
    sums.add_up(more, places, again)
    assert torch.equal(again.nan_to_num(), out.nan_to_num())


# ---- the optimizer ----


def step_of(M, P, **changes):
    """Arguments of a step in which members 0 and 1 of three have rows, and what they are."""
    given = {
        "losses": torch.tensor([[[6.0, 2.0], [3.0, 1.0]], [[1.0, 4.0], [0, 0]], [[0, 0], [0, 0]]]),
        "rows": torch.tensor([[[0, 9]] * M, [[0, 2], [7, 3], [0, 0]]], dtype=torch.int32),
        "schedule": torch.tensor([[[NAN] * 3] * M, [[0.02, 1e-2, 1.5], [0.0, 2e-2, 1.2], [1.0, 1.0, 1.0]]]),
        "constants": torch.tensor([[1.0, 0.9, 0.99, 1e-8], [0.5, 0.8, 0.999, 1e-6], [1.0, 0.9, 0.99, 1e-8]]),
        "step": torch.tensor([1], dtype=torch.int32),
        "alive": torch.ones(M, dtype=torch.int32),
        "tally": torch.tensor([[1.5, 1, 7], [0, 0, 3], [0, 0, 0]], dtype=torch.float64),
    }
    return {name: x.to(DEVICE) for name, x in (given | changes).items()}


def take(state, parameters, grad, moments, decayed, rounded=None):
    squares, update = empty(len(grad), optimizer.blocks(grad.shape[1])), empty(len(grad), 5)
    optimizer.square_sums(grad, squares)
    optimizer.decide(
        state["losses"],
        squares,
        state["rows"],
        state["schedule"],
        state["constants"],
        state["step"],
        state["alive"],
        state["tally"],
        update,
    )
    optimizer.adamw(parameters, grad, *moments, decayed, update, state["constants"], rounded)
    return update


def test_step():
    """Clipping and AdamW by their definitions in float64; a member without rows stays as it is."""
    M, P = 3, 5000
    parameters, grad, average, square = (drawn(M, P, seed=seed) for seed in range(4))
    square.abs_()
    decayed = (drawn(P, seed=5) > 0).float()
    state, rounded = step_of(M, P), empty(M, P, dtype=torch.float16)
    before = [x.double() for x in (parameters, average, square)]
    update = take(state, parameters, grad, (average, square), decayed, rounded)
    assert update[:, 0].tolist() == [1, 1, 0] and state["alive"].tolist() == [1, 1, 1]
    assert state["tally"].tolist() == [[1.5 + 3.0, 2, 8], [0.25, 1, 4], [0, 0, 0]]
    for m, count in enumerate((3, 4)):
        clip, beta1, beta2, eps = state["constants"][m].double()
        decay, rate, root_correction = state["schedule"][1, m].double()
        g = grad[m].double() / count
        g = g * (clip / (g.norm() + 1e-6)).clamp(max=1)
        p, a, q = (x[m] for x in before)
        a, q = beta1 * a + (1 - beta1) * g, beta2 * q + (1 - beta2) * g * g
        p = p * (1 - decay * decayed) - rate * a / (q.sqrt() * root_correction + eps)
        for found, exact in ((parameters[m], p), (average[m], a), (square[m], q)):
            assert_close(found, exact, factor=16)
        assert torch.equal(rounded[m], parameters[m].half())
    for found, exact in zip((parameters, average, square), before):
        assert torch.equal(found[2].double(), exact[2])
    assert rounded[2].isnan().all()


@pytest.mark.parametrize("what", ["loss", "gradient", "dead"])
def test_a_member_that_diverges_is_frozen(what):
    M, P = 3, 3000
    parameters, grad, average, square = (drawn(M, P, seed=seed) for seed in range(4))
    square.abs_()
    state = step_of(M, P)
    if what == "loss":
        state["losses"][1, 0, 0] = NAN
    elif what == "gradient":
        grad[1, 2999] = float("inf")
    else:
        state["alive"][1] = 0
    before = [x.clone() for x in (parameters, average, square, state["tally"])]
    take(state, parameters, grad, (average, square), torch.ones(P, device=DEVICE))
    assert state["alive"].tolist() == [1, 0, 1]
    for x, old in zip((parameters, average, square, state["tally"]), before):
        assert torch.equal(x[1:], old[1:]) and not torch.equal(x[0], old[0])
    assert parameters.isfinite().all()


# ---- rows ----


def test_rows_of_a_step():
    """Row by row in Python: inputs, targets of the whole row or of its answer, padding, members without
    rows."""
    lengths = [[5, 4, 7, 4, 6], [4, 4, 9, 5, 4], [6, 6, 6, 6, 6]]
    M, C, R = 3, 128, 4
    made = torch.randint(1, 90, (M, 64), dtype=torch.int32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    row_start = torch.tensor([[0, *row] for row in lengths]).cumsum(1).int().to(DEVICE)
    answers = torch.tensor([[3, 2, 4, 3, 4], [2, 3, 6, 2, 3], [4] * 5], dtype=torch.int32, device=DEVICE)
    plan = torch.tensor([[[0, 0]] * M, [[1, 3], [0, 4], [2, 3]]], dtype=torch.int32, device=DEVICE)
    step, alive = (torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in ([1], [1, 1, 0]))
    answer_only = torch.tensor([0, 1, 0], dtype=torch.int32, device=DEVICE)
    out = [torch.full(shape, -7, dtype=torch.int32, device=DEVICE) for shape in ((M, C), (M, C), (M, R), (M, R))]
    rows.take_rows(made, row_start, answers, plan, step, alive, answer_only, 16, *out)
    tokens, targets, starts, ends = (x.tolist() for x in out)
    for m, (first, count) in enumerate([(1, 3), (0, 4), (2, 0)]):
        expected, asked, bounds = [], [], []
        for r in range(first, first + count):
            row = made[m, row_start[m, r] : row_start[m, r + 1]].tolist()
            bounds.append((m * C + len(expected), m * C + len(expected) + len(row) - 1))
            expected += row[:-1]
            begin = int(answers[m, r]) if m == 1 else 1
            asked += [token if j >= begin else -1 for j, token in enumerate(row) if j]
        end = m * C + len(expected)
        assert tokens[m] == expected + [0] * (C - len(expected))
        assert targets[m] == asked + [-1] * (C - len(asked))
        assert list(zip(starts[m], ends[m])) == bounds + [(end, end)] * (R - count)


def test_padding_is_cleared_and_nothing_else():
    """Rows in any order and rows that are not there, members without padding and without rows."""
    M, C, W = 4, 150, 24
    x = empty(M, C, W, dtype=torch.float16)
    ends = [[40, 90, 0], [300, 200, 0], [300, 300, 300], [593, 451, 500]]
    ends = torch.tensor(ends, dtype=torch.int32, device=DEVICE)
    rows.clear_padding(x, ends)
    for m, used in enumerate((90, 150, 0, 143)):
        assert x[m, :used].isnan().all() and (x[m, used:] == 0).all()


# ---- compiled ahead of time ----


def build(kernel, types, constexprs, arch=90, **options):
    types = {name: types.get(name, "i32") for name in kernel.arg_names if name not in constexprs}
    return Build(kernel, types, constexprs, arch, **options)


F32, B16, I32 = "*fp32:16", "*bf16:16", "*i32:16"
NORM = {"D": 128, "WIDTH": 128, "TOKENS": 32}
NORM_TYPES = {"x": F32, "added": B16, "weight": F32, "out": F32, "normed": B16, "scale": F32, "eps": "fp32"}
NORM_TYPES |= {"grad": B16, "grad_x": F32, "rounded": B16, "partial": F32, "weight_member": "i32:16"}
OPTIMIZER = {name: F32 for name in ("parameters", "average", "square", "decayed", "update", "constants", "grad")}
TAKE_ROWS_COUNTS = ("made_member", "made_rows", "capacity", "most_rows", "WIDTH", "PADDING")
BUILDS = {
    "add_norm": build(norm._forward, NORM_TYPES, NORM | {"tokens": None, "embedding": None}),
    "norm_backward": build(norm._backward, NORM_TYPES, NORM | {"FIRST": False}),
    "norm_backward, wide": build(norm._backward, NORM_TYPES, dict(D=1024, WIDTH=1024, TOKENS=4, FIRST=False)),
    "swiglu": build(swiglu._forward, {"gate_up": B16, "out": B16}, dict(F=512, BLOCK=512, TOKENS=4)),
    "swiglu_backward": build(
        swiglu._backward, {"grad": B16, "gate_up": B16, "out": B16}, dict(F=512, BLOCK=512, TOKENS=4)
    ),
    "cross_entropy": build(
        loss._cross_entropy,
        {"logits": F32, "targets": I32, "grad": B16, "partial": F32},
        dict(LOGITS=104, GRAD=104, V=98, TAKEN=104, WIDTH=128, TOKENS=16),
    ),
    "embedding": build(
        embedding._embedding_backward,
        {"tokens": I32, "grad": B16, "partial": F32},
        dict(D=128, WIDTH=128, STRETCH=512, TILE=64, VOCABULARY=64),
    ),
    "add_up": build(sums._add_up, {"partial": F32, "places": I32, "out": F32}, dict(PARTS=16, BLOCK=128)),
    "square_sums": build(
        optimizer._square_sums, {"grad": F32, "partial": F32, "parameters": "i32:16"}, dict(BLOCK=2048)
    ),
    "decide": build(
        optimizer._decide,
        {name: F32 for name in ("losses", "squares", "schedule", "constants", "update")}
        | {name: I32 for name in ("rows", "step", "alive")}
        | {"tally": "*fp64:16"},
        dict(READ=128),
    ),
    "take_rows": build(
        rows._take_rows,
        {name: I32 for name in rows._take_rows.arg_names if name not in TAKE_ROWS_COUNTS},
        dict(WIDTH=64, PADDING=1024),
        num_warps=1,
    ),
    "clear_padding": build(rows._clear_padding, {"x": B16, "ends": I32}, dict(WIDTH=384, BLOCK=2048, READ=128)),
    "adamw": build(optimizer._adamw, OPTIMIZER | {"rounded": B16, "count": "i32:16"}, dict(BLOCK=2048)),
}


NOT_ALIGNED = ("add_up", "decide", "take_rows")  # what they read begins anywhere


@needs_compiler
def test_instructions_and_registers():
    """Nothing leaves the registers, there are no atomics, and what is read in bulk is read 16 bytes at a
    time."""
    for (name, _), binary in zip(BUILDS.items(), compiled(list(BUILDS.values()))):
        assert binary.spills == binary.count("STL") == binary.count("LDL") == 0, name
        assert not binary.count("ATOM") and not binary.count("RED") and not binary.count("ATOMG"), name
        bulk = "STG.E.128" if name == "clear_padding" else "LDG.E.128"
        assert bulk in binary.sass or name in NOT_ALIGNED, name
        assert bool(binary.count("HGMMA")) == (name == "embedding"), name
        if name == "cross_entropy":  # the gradient too; sums are single numbers
            stores = re.findall(r"\bSTG\.E\S*", binary.sass)
            assert sum("128" not in store for store in stores) <= 2, stores

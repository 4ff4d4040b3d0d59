"""The Triton attention: against float64, interpreted where there is no GPU; and what it compiles to."""

import pytest
import torch

pytest.importorskip("triton")
from ahead_of_time import Build, compiled, needs_compiler

from worldfast.kernels import attention as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter computes in bfloat16 what is nowhere close; the GPU has it.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
LENGTHS = {str(n): [n] for n in (1, 2, 31, 33, 57, 64, 127, 128)}
LENGTHS["mixed"] = [25, 1, 57, 0, 33, 32, 2, 64, 40, 31, 17]
# A GPU's float32 exp2 is ex2.approx, which errs up to 2^-22 of its result, and its quotient div.full, up to 2 ulp; those of
# IEEE, as in PyTorch's softmax and in the interpreter, err 2^-24. An output has one of each: 2^-21 of the largest of what
# is found, in root mean square, is their sum. Products rounded to tf32 err 2^-12, 500 times as much.
APPROXIMATE = {torch.float32: 2.0**-21} if DEVICE == "cuda" else {}
NAMES = ["out", "grad_q", "grad_k", "grad_v"]


def packed(lengths, dtype=torch.float32, heads=2, size=32, seed=0):
    """qkv [L, 3, H, D], grad_out [L, H, D], cu_seqlens"""
    random = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int().to(DEVICE)
    qkv = torch.randn(sum(lengths), 3, heads, size, generator=random).to(DEVICE, dtype)
    return qkv, torch.randn(sum(lengths), heads, size, generator=random).to(DEVICE, dtype), cu_seqlens


def attention(qkv, grad_out, cu_seqlens, rope_base=10_000.0):
    """The kernels' output [L, H, D] and gradient [L, 3, H, D], written over NaN."""
    out, grad = torch.full_like(grad_out, torch.nan), torch.full_like(qkv, torch.nan)
    longest = int(cu_seqlens.diff().max()) if len(cu_seqlens) > 1 else 0
    inputs = *qkv.unbind(1), cu_seqlens, rope_base, longest
    kernels.attention_forward(*inputs, out)
    kernels.attention_backward(grad_out, *inputs, *grad.unbind(1))
    return out, grad


def reference(qkv, grad_out, cu_seqlens, rope_base=10_000.0):
    """Row by row as PyTorch's math path has it, and its gradient by autograd, all in the dtype of qkv."""
    qkv = qkv.clone().requires_grad_()
    size = qkv.shape[-1]
    outs = [qkv[:0, 0]]  # of no rows
    for row in qkv.split(cu_seqlens.diff().tolist()):
        q, k, v = row.permute(1, 2, 0, 3)  # [H, T, D]
        if rope_base:
            rate = rope_base ** -(torch.arange(size // 2, device=qkv.device).double() * 2 / size)
            angle = torch.arange(len(row), device=qkv.device).double()[:, None] * rate  # [T, D/2]
            cos, sin = (torch.cat([f(angle)] * 2, 1).to(qkv.dtype) for f in (torch.cos, torch.sin))
            halves = ((x, *x.chunk(2, -1)) for x in (q, k))
            q, k = (x * cos + torch.cat([-b, a], -1) * sin for x, a, b in halves)
        later = torch.ones(len(row), len(row), dtype=torch.bool, device=qkv.device).triu(1)
        score = (q * size**-0.25) @ (k * size**-0.25).mT  # [H, T, T]
        outs.append((score.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    out = torch.cat(outs)
    out.backward(grad_out)
    return out.detach(), qkv.grad


def assert_as_good(*inputs):
    """Output and gradients err at most twice what PyTorch errs in their dtype, in root mean square, and what a GPU's
    approximate functions do."""
    exact = reference(*(x.double() for x in inputs[:2]), *inputs[2:])
    plain, ours = (f(*inputs) for f in (reference, attention))
    exact, plain, ours = ((x[0], *x[1].unbind(1)) for x in (exact, plain, ours))
    rounding = APPROXIMATE.get(inputs[0].dtype, 0.0) * max(x.norm() for x in exact)
    for name, e, p, o in zip(NAMES, exact, plain, ours):
        error, allowed = (o - e).norm(), 2 * (p - e).norm() + rounding
        assert error <= allowed, f"{name}: errs by {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_against_float64(lengths, dtype):
    assert_as_good(*packed(lengths, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128])
def test_head_sizes(size, dtype):
    assert_as_good(*packed([25, 9], dtype, heads=1, size=size))


@pytest.mark.parametrize("rope_base", [0.0, 100.0, 1e6])
def test_rope_base(rope_base):
    assert_as_good(*packed([57, 100], heads=1), rope_base)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 5.0])
def test_flat_and_sharp_scores(scale):
    qkv, grad_out, cu_seqlens = packed([41, 57], heads=1)
    qkv[:, :2] *= scale
    assert_as_good(qkv, grad_out, cu_seqlens)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 3, 0]], ids=str)
def test_empty(lengths):
    assert_as_good(*packed(lengths))


def test_any_strides():
    """Heads outermost, a gap between tokens and no alignment, both in and out."""
    qkv, grad_out, cu_seqlens = packed([33, 2, 17])
    out, grad = attention(qkv, grad_out, cu_seqlens)

    def elsewhere(x):
        _, heads, size = x.shape
        room = torch.full((heads, len(x), size + 3), torch.nan, device=DEVICE)
        return room[..., 1:-2].transpose(0, 1).copy_(x)  # a view of the room

    inputs = *(elsewhere(x) for x in qkv.unbind(1)), cu_seqlens, 10_000.0, 33
    others = [elsewhere(torch.zeros_like(grad_out)) for _ in range(4)]
    kernels.attention_forward(*inputs, others[0])
    kernels.attention_backward(elsewhere(grad_out), *inputs, *others[1:])
    for name, x, expected in zip(NAMES, others, (out, *grad.unbind(1))):
        assert x.stride() != expected.stride()
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=0, msg=name)
        assert x._base[..., 0].isnan().all() and x._base[..., -2:].isnan().all(), name


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's numpy
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_row_stays_alone(poison):
    qkv, grad_out, cu_seqlens = packed([25, 57, 33, 1, 40], heads=1)
    clean = attention(qkv, grad_out, cu_seqlens)
    rows = [slice(a, b) for a, b in zip(cu_seqlens.tolist(), cu_seqlens[1:].tolist())]
    for row in (1, 3):
        qkv[rows[row]] = grad_out[rows[row]] = poison
    out, grad = attention(qkv, grad_out, cu_seqlens)
    for number, row in enumerate(rows):
        if number in (1, 3):
            assert out[row].isnan().any() and grad[row].isnan().any()
        else:
            assert torch.equal(out[row], clean[0][row]) and torch.equal(grad[row], clean[1][row])


class OneLaunch:
    """A kernel of which only the launch of this number is carried out."""

    def __init__(self, kernel, number):
        self.kernel, self.number, self.launched = kernel, number, 0

    def __getitem__(self, grid):
        self.launched += 1
        return self.kernel[grid] if self.launched == self.number else lambda *args, **options: None


def written(monkeypatch, number, lengths):
    """What each token's output, queries, keys and values got from one launch of each kernel: bool [L, 4]."""
    only = [OneLaunch(kernel, number) for kernel in (kernels._forward, kernels._backward)]
    with monkeypatch.context() as patch:
        for name, kernel in zip(("_forward", "_backward"), only):
            patch.setattr(kernels, name, kernel)
        out, grad = attention(*packed(lengths, heads=1, size=8))
    assert [kernel.launched for kernel in only] == [1 + (max(lengths) > 32)] * 2
    found = torch.cat([out[:, None], grad], 1).isfinite()  # [L, 4, H, D]
    assert torch.equal(found.any((2, 3)), found.all((2, 3)))
    return found.all((2, 3)).cpu()


ACROSS = [[0, 1, 31, 32, 33, 57, 64], [100, 32, 128, 33], [33, 34], [32, 0, 7]]


@pytest.mark.parametrize("lengths", ACROSS, ids=str)
def test_each_row_is_written_by_one_launch(lengths, monkeypatch):
    """Of at most 32 tokens by the first, longer ones by the second; where none is longer, there is one."""
    short = torch.tensor(lengths).le(32).repeat_interleave(torch.tensor(lengths))[:, None]
    assert torch.equal(written(monkeypatch, 1, lengths), short.expand(-1, 4))
    assert torch.equal(written(monkeypatch, 2, lengths), ~short.expand(-1, 4))


def test_a_row_has_the_same_bits_among_any_others():
    """Beside rows of all lengths, before and behind it, as long as the longest may have 64 tokens."""
    qkv, grad_out, cu_seqlens = packed([32, 64, 1, 33, 17, 57], heads=1)
    together = attention(qkv, grad_out, cu_seqlens)
    for begin, end in zip(cu_seqlens.tolist(), cu_seqlens[1:].tolist()):
        bounds = torch.tensor([0, end - begin], dtype=torch.int32, device=DEVICE)
        inputs = *qkv[begin:end].unbind(1), bounds, 10_000.0, 64
        out, grad = torch.empty_like(grad_out[begin:end]), torch.empty_like(qkv[begin:end])
        kernels.attention_forward(*inputs, out)
        kernels.attention_backward(grad_out[begin:end], *inputs, *grad.unbind(1))
        assert torch.equal(out, together[0][begin:end]) and torch.equal(grad, together[1][begin:end])


@pytest.mark.parametrize("size", [8, 32])
def test_the_last_query_alone_in_rows_with_gaps(size, monkeypatch):
    """A step of decoding, in one launch: rows that begin and end anywhere; nothing but the place of their last
    token is written."""
    qkv, grad_out, _ = packed([100], size=size)
    bounds = [3, 5, 40, 96], [4, 38, 57, 100]
    starts, ends = (torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in bounds)
    expected = torch.full_like(grad_out, torch.nan)
    for begin, end in zip(starts.tolist(), ends.tolist()):
        row = torch.tensor([0, end - begin], device=DEVICE)
        out, _ = reference(qkv[begin:end].double(), grad_out[begin:end].double(), row)
        expected[end - 1] = out[-1].float()
    out = torch.full_like(grad_out, torch.nan)
    only = OneLaunch(kernels._forward, 1)
    monkeypatch.setattr(kernels, "_forward", only)
    kernels.attention_forward(*qkv.unbind(1), (starts, ends), 10_000.0, 33, out, last_only=True)
    assert only.launched == 1
    torch.testing.assert_close(out, expected, equal_nan=True)


def test_the_future_is_not_seen():
    qkv, grad_out, cu_seqlens = packed([57], heads=1)
    out, _ = attention(qkv, grad_out, cu_seqlens)
    qkv[40:] += 1
    changed, _ = attention(qkv, grad_out, cu_seqlens)
    assert torch.equal(out[:40], changed[:40]) and not torch.equal(out[40:], changed[40:])


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
def test_deterministic_and_in_a_cuda_graph():
    qkv, grad_out, cu_seqlens = packed([25, 57, 33, 1, 40] * 400, torch.bfloat16)
    expected = attention(qkv, grad_out, cu_seqlens)
    out, grad = torch.empty_like(grad_out), torch.empty_like(qkv)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        inputs = *qkv.unbind(1), cu_seqlens, 10_000.0, 57
        kernels.attention_forward(*inputs, out)
        kernels.attention_backward(grad_out, *inputs, *grad.unbind(1))
    for _ in range(20):
        graph.replay()
        assert torch.equal(out, expected[0]) and torch.equal(grad, expected[1])


# ---- compiled ahead of time ----

MATRIX_UNITS = [("bf16", size, 64, arch) for size in (8, 16, 32, 64) for arch in (80, 90)]
MATRIX_UNITS += [("fp16", 32, 64, 90), ("bf16", 32, 32, 90), ("bf16", 32, 128, 90)]
ALL = [*MATRIX_UNITS, ("fp32", 32, 64, 90)]


def build(kernel, dtype, size, longest, arch, launch=-1):
    options = kernels.launches({"fp32": torch.float32}.get(dtype), size, longest)[launch]
    types = {"starts": "*i32", "ends": "*i32", "angles": "*fp32:16", "tokens": "i32", "heads": "i32"}
    types |= {name: f"*{dtype}:16" for name in ("q", "k", "v", "grad_out", *NAMES)}
    types |= {name: "i32:16" for name in kernel.arg_names if name.endswith(("_token", "_head"))}
    options |= {"LAST_ONLY": False}
    tiles = {name: value for name, value in options.items() if name in kernel.arg_names}
    return Build(kernel, types, tiles, arch, options["num_warps"], options["num_stages"])


def test_nothing_beyond_the_tokens_is_touched():
    """A cu_seqlens that lies: the rows that are not there are not read, nor what stands behind them written."""
    qkv, grad_out, _ = packed([20, 20, 20])
    inside = slice(20, 40)
    out, grad = torch.full_like(grad_out, torch.nan), torch.full_like(qkv, torch.nan)
    cu_seqlens = torch.tensor([-7, 20, 60], dtype=torch.int32, device=DEVICE)
    inputs = *qkv[inside].unbind(1), cu_seqlens, 10_000.0, 20
    kernels.attention_forward(*inputs, out[inside])
    kernels.attention_backward(grad_out[inside], *inputs, *grad[inside].unbind(1))
    for x in (out, grad):
        assert x[:20].isnan().all() and x[40:].isnan().all() and x[inside].isfinite().all()


@needs_compiler
def test_instructions_and_registers():
    """Products of 16 bits go to matrix units, those of float32 do not, and nothing leaves the registers."""
    builds = [build(kernel, *case) for case in ALL for kernel in (kernels._forward, kernels._backward)]
    for case, binary in zip((case for case in ALL for _ in range(2)), compiled(builds)):
        dtype, _, longest, arch = case
        assert binary.spills == binary.count("STL") == binary.count("LDL") == 0, case
        products = "HGMMA" if arch == 90 and longest == 64 else "HMMA"
        assert bool(binary.count(products)) == (dtype != "fp32"), case
        assert not binary.count("ATOM") and not binary.count("RED"), case


@needs_compiler
def test_the_launch_of_short_rows():
    """Tiles of 32 tokens where rows may have 64: no spills, and twice the programs of a tile of 64 at once."""
    cases = [(kernels._forward, 32, 10), (kernels._backward, 32, 6), (kernels._backward, 64, 4)]
    binaries = compiled([build(kernel, "bf16", size, 64, 90, launch=0) for kernel, size, _ in cases])
    for (kernel, size, at_once), binary in zip(cases, binaries):
        assert binary.spills == binary.count("STL") == binary.count("LDL") == 0, (kernel, size)
        assert binary.count("HMMA") and binary.warps == 2, (kernel, size)
        assert binary.ctas >= at_once, (kernel, size, binary.registers, binary.shared)

"""The kernels of a block in one tile: against float64, interpreted where there is no GPU; and what they
compile to.

The interpreter computes in bfloat16 what is nowhere close, so that here 16 bits are float16's; the GPU has
both.
"""

import pytest
import torch

pytest.importorskip("triton")
from ahead_of_time import Binary, Build, compiled, needs_compiler

from worldfast.kernels import fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16
EPS = 1e-6


def drawn(*shape, scale=1.0, dtype=torch.float32, seed=0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(DEVICE, dtype)


def empty(*shape, dtype=torch.float32):
    """Memory in which what is not written shows."""
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


class Case:
    """Weights of M members, of which each has a gap behind its own, and a stream."""

    def __init__(self, M, C, D, F):
        shapes = {"qkv": (3 * D, D), "bias": (3 * D,), "output": (D, D), "gate_up": (2 * F, D), "down": (D, F)}
        sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        buffer = empty(M, sum(sizes) + 16, dtype=DTYPE)
        for seed, (name, part) in enumerate(zip(shapes, buffer[:, :-16].split(sizes, 1))):
            view = part.unflatten(1, shapes[name])
            setattr(self, name, view.copy_(drawn(*view.shape, scale=D**-0.5, seed=seed)))
        self.norm = empty(M, D + 16)[:, :D].copy_(drawn(M, D, seed=9))
        self.x, self.mixed = drawn(M, C, D, seed=10), drawn(M, C, D, dtype=DTYPE, seed=11)
        self.M, self.C, self.D, self.F = M, C, D, F
        self.B = -(-C // fused.tokens_of_program(M, C, torch.device(DEVICE)))

    def exact(self, *names):
        """These as float64, whose gradients are wanted."""
        return [getattr(self, name).double().requires_grad_() for name in names]


def rms_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight[:, None]


def mlp(x, norm, gate_up, down):
    gate, up = (rms_norm(x, norm) @ gate_up.mT).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up) @ down.mT


def assert_close(found, exact, factor=4.0):
    """In root mean square within `factor` roundings of 16 bits."""
    error = (found.double() - exact).norm() / exact.norm()
    assert error <= factor * torch.finfo(DTYPE).eps, f"errs by {error / torch.finfo(DTYPE).eps:.1f} roundings"


SHAPES = [(2, 128, 16, 24), (1, 128, 64, 256), (2, 256, 128, 80)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_project(shape):
    case = Case(*shape)
    M, C, D, _ = shape
    out = empty(M, C, 3 * D, dtype=DTYPE)
    fused.project(case.x, case.norm, case.qkv, case.bias, EPS, out)
    x, norm, qkv, bias = case.exact("x", "norm", "qkv", "bias")
    normed = rms_norm(x, norm)
    expected = normed @ qkv.mT + bias[:, None]
    assert_close(out, expected.detach())
    grad_qkv, grad = drawn(M, C, 3 * D, dtype=DTYPE, seed=20), drawn(M, C, D, seed=21)
    expected.backward(grad_qkv.double())
    before, rounded, again = grad.double(), *(empty(M, C, D, dtype=DTYPE) for _ in range(2))
    partial, biases = empty(M, case.B, D), empty(M, case.B, 3 * D)
    fused.project_backward(grad_qkv, case.x, case.norm, case.qkv, EPS, grad, rounded, again, partial, biases)
    assert_close(grad.double() - before, x.grad)
    assert torch.equal(rounded, grad.to(DTYPE))
    assert_close(again, normed.detach())
    assert_close(partial.sum(1), norm.grad)
    assert_close(biases.sum(1), bias.grad, factor=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block(shape):
    case = Case(*shape)
    M, C, D, F = shape
    middle, out = empty(M, C, D), empty(M, C, D)
    weights = case.output, case.norm, case.gate_up, case.down
    fused.block(case.x, case.mixed, *weights, EPS, middle, out)
    x, mixed, output, norm, gate_up, down = case.exact("x", "mixed", "output", "norm", "gate_up", "down")
    between = x + mixed @ output.mT
    assert_close(middle, between.detach(), factor=1e-2)
    expected = between + mlp(between, norm, gate_up, down)
    assert_close(out, expected.detach())
    # backward, from the stream that was kept
    grad = drawn(M, C, D, seed=20)
    expected.backward(grad.double())
    kept = middle.double().requires_grad_()
    normed = rms_norm(kept, norm.detach())
    both = normed.detach() @ gate_up.detach().mT
    both.requires_grad_()
    gate, up = both.chunk(2, -1)
    product = torch.nn.functional.silu(gate) * up
    (product @ down.detach().mT).backward(grad.double())
    rounded, grad_mixed, again = (empty(M, C, D, dtype=DTYPE) for _ in range(3))
    gated, grad_gate_up, partial = (empty(M, C, F, dtype=DTYPE), empty(M, C, 2 * F, dtype=DTYPE), empty(M, case.B, D))
    fused.block_backward(grad, middle, *weights, EPS, rounded, grad_mixed, again, gated, grad_gate_up, partial)
    assert_close(grad, x.grad)
    assert torch.equal(rounded, grad.to(DTYPE))
    assert_close(grad_mixed, mixed.grad)
    assert_close(again, normed.detach())
    assert_close(gated, product.detach())
    assert_close(grad_gate_up, both.grad)
    assert_close(partial.sum(1), norm.grad)


def test_programs_have_more_tokens_where_there_are_many():
    cpu = torch.device("cpu")
    found = [fused.tokens_of_program(members, 4_736, cpu) for members in (1, 2, 4, 8, 32)]
    assert found == [32, 32, 64, 64, 64]
    for members in range(1, 64):
        assert 128 % fused.tokens_of_program(members, 128, cpu) == 0


@pytest.mark.parametrize("capability,tokens", [((8, 0), 32), ((8, 9), 32), ((9, 0), 64), ((10, 0), 64), ((12, 0), 32)])
def test_programs_have_no_more_tokens_than_registers_hold(capability, tokens, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fused.tokens_of_program(32, 4_736, torch.device("cuda", 0)) == tokens
    assert fused.tokens_of_program(1, 4_736, torch.device("cuda", 0)) == 32


# ---- compiled ahead of time ----

KERNELS = (fused._project, fused._block, fused._block_backward, fused._project_backward)
BACKWARD = KERNELS[2:]
FLOAT32 = ("x", "norm", "middle", "grad", "partial", "bias_partial")


def build(kernel, D, tokens, arch):
    options = fused.plan(tokens, backward=kernel in BACKWARD)
    most = fused.BACKWARD if kernel is fused._block_backward else fused.FORWARD
    constexprs = {"D": D, "F": 4 * D, "PART": fused.part(4 * D, most), "TOKENS": tokens}
    constexprs = {name: value for name, value in constexprs.items() if name in kernel.arg_names}
    types = {}
    for name in set(kernel.arg_names) - set(constexprs):
        is_count = name == "count" or name.endswith("_member")
        wide = name in FLOAT32 or name == "out" and kernel is fused._block
        types[name] = "fp32" if name == "eps" else "i32:16" if is_count else "*fp32:16" if wide else "*bf16:16"
    return Build(kernel, types, constexprs, arch, options["num_warps"], options["num_stages"])


@pytest.mark.parametrize(
    "registers,shared,warps,ctas",
    [
        (168, 56 << 10, 4, 3),
        (169, 56 << 10, 4, 2),
        (255, 0, 4, 2),
        (128, 0, 8, 2),
        (129, 0, 8, 1),
        (32, 0, 8, 8),
        (32, 0, 1, 32),
        (32, 75 << 10, 4, 3),
        (32, 76 << 10, 4, 2),
        (32, 227 << 10, 4, 1),
        (32, 228 << 10, 4, 0),
    ],
)
def test_programs_of_a_multiprocessor(registers, shared, warps, ctas):
    """As CUDA's occupancy calculator has it for compute capability 9.0."""
    assert Binary("", registers, 0, shared, warps).ctas == ctas


@needs_compiler
def test_instructions_and_registers():
    """All products by matrix units, of Hopper's own where a program has 64 tokens; nothing leaves the
    registers, on an A100 neither; of those programs a multiprocessor holds three forward and two backward."""
    cases = [(k, D, T, 90) for k in KERNELS for D in fused.WIDTHS for T in (32, 64)]
    cases += [(k, 128, 32, 80) for k in KERNELS]
    for case, binary in zip(cases, compiled([build(*case) for case in cases])):
        kernel, _, T, _ = case
        assert binary.spills == binary.count("STL") == binary.count("LDL") == 0, case
        assert binary.count("HGMMA" if T == 64 else "HMMA"), case
        at_once = 1 if T == 32 else 2 if kernel in BACKWARD else 3
        assert binary.ctas >= at_once, (case, binary.registers, binary.shared)
        assert not binary.count("ATOM") and not binary.count("ATOMG") and not binary.count("RED"), case

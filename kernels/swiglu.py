"""SwiGLU: silu(gate) * up, and its gradient, from gate and up side by side.

A token of F numbers moves 3 F forward. Backward it moves 3 F in and 3 F out: the gradient overwrites gate and up, and
the result is recomputed for the product that needs it, since storing it would cost F in memory for each layer.

N tokens, F numbers of gate and as many of up.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # most numbers of a token in a program
PROGRAM = 2048  # numbers in a program's tile


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """Compute silu(gate) * up.

    Parameters
    ----------
    gate_up : Tensor
        float32 or bfloat16 [..., 2 F], contiguous, gate first.
    out : Tensor
        [..., F], contiguous, written.
    """
    _launch(_forward, out, gate_up, out)


def swiglu_backward(grad: Tensor, gate_up: Tensor, out: Tensor) -> None:
    """Replace gate_up by its gradient, and recompute the result.

    Parameters
    ----------
    grad : Tensor
        [..., F], gradient of the result.
    gate_up : Tensor
        [..., 2 F], overwritten by its gradient.
    out : Tensor
        [..., F], set to the result.
    """
    _launch(_backward, out, grad, gate_up, out)


def _launch(kernel, like, *arrays):
    F = like.shape[-1]
    N, block = like.numel() // F, min(BLOCK, triton.next_power_of_2(F))
    tokens = PROGRAM // block
    with torch.cuda.device_of(like):
        kernel[(triton.cdiv(N, tokens), triton.cdiv(F, block))](
            *arrays, N, F=F, BLOCK=block, TOKENS=tokens, num_warps=4
        )


@triton.jit
def _gate_and_up(gate_up, count, F: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr):
    """Load gates and ups [T, BLOCK] in float32; also return the addresses of gates, the offsets of results, and a
    mask.
    """
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None]
    f = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    there = (token < count) & (f < F)
    token = token.to(tl.int64)
    source = gate_up + token * (2 * F) + f
    gate = tl.load(source, there, 0.0).to(tl.float32)
    return gate, tl.load(source + F, there, 0.0).to(tl.float32), source, token * F + f, there


@triton.jit(do_not_specialize=["count"])
def _forward(gate_up, out, count, F: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr):
    gate, up, _, place, there = _gate_and_up(gate_up, count, F, BLOCK, TOKENS)
    tl.store(out + place, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), there)


@triton.jit(do_not_specialize=["count"])
def _backward(grad, gate_up, out, count, F: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr):
    gate, up, source, place, there = _gate_and_up(gate_up, count, F, BLOCK, TOKENS)
    g = tl.load(grad + place, there, 0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    silu = gate * share
    tl.store(out + place, (silu * up).to(out.dtype.element_ty), there)
    tl.store(source, (g * up * (share + silu * (1 - share))).to(gate_up.dtype.element_ty), there)
    tl.store(source + F, (g * silu).to(gate_up.dtype.element_ty), there)

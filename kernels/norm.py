"""RMSNorm of an ensemble's residual stream, fused with the operation before it: the embedding, or a block's addition.

The stream x is float32; operands of the next product are in the matmul dtype. With bfloat16 products a token of D
numbers moves 2 D (added) + 4 D (x) bytes in and 4 D + 2 D (x, normed) out; separate kernels for addition and norm would
move 4 D more. Backward it moves 2 D + 4 D + 4 D in and 4 D + 2 D out: the stream's gradient is also written in the
matmul dtype.

Each program handles some tokens of one member, and sums of the weight's gradient go to a separate row for each program:
without atomics results are reproducible.

M members, C tokens of each, D numbers in a token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAM = 4096  # numbers in a program's tile


def tokens_of_program(width: int) -> int:
    """Return how many tokens, of `width` numbers each, a program handles: a power of 2."""
    return max(1, min(32, PROGRAM // triton.next_power_of_2(width)))


def embed_norm(
    tokens: Tensor,
    embedding: Tensor,
    weight: Tensor,
    eps: float,
    x: Tensor,
    normed: Tensor | None,
    scale: Tensor | None,
) -> None:
    """Set x to the tokens' embeddings, and `normed` and `scale` as `add_norm` does.

    Parameters
    ----------
    tokens : Tensor
        int32 [M, C].
    embedding : Tensor
        float32 [M, V, D], contiguous for each member.
    weight, eps
        As for `add_norm`.
    x : Tensor
        float32 [M, C, D], written.
    normed, scale : Tensor, optional
        As for `add_norm`; None skips them.
    """
    _launch_forward(None, None, tokens, embedding, weight, eps, x, normed, scale)


def norm(x: Tensor, weight: Tensor, eps: float, normed: Tensor, scale: Tensor) -> None:
    """Set `normed` and `scale` as `add_norm` does, with nothing added."""
    _launch_forward(x, None, None, None, weight, eps, None, normed, scale)


def add_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float, out: Tensor, normed: Tensor, scale: Tensor) -> None:
    """Set out to x + added, scale to 1 / rms(out) and normed to out / rms(out) * weight.

    Parameters
    ----------
    x, out : Tensor
        float32 [M, C, D], contiguous.
    added, normed : Tensor
        float32 or bfloat16 [M, C, D], contiguous.
    weight : Tensor
        float32 [M, D], contiguous for each member.
    eps : float
        Epsilon of RMSNorm.
    scale : Tensor
        float32 [M, C].
    """
    _launch_forward(x, added, None, None, weight, eps, out, normed, scale)


def _launch_forward(x, added, tokens, embedding, weight, eps, out, normed, scale):
    M, C, D = (x if out is None else out).shape
    T = tokens_of_program(D)
    with torch.cuda.device_of(weight):
        _forward[(triton.cdiv(C, T), M)](
            x,
            added,
            tokens,
            embedding,
            weight,
            out,
            normed,
            scale,
            C,
            weight.stride(0),
            embedding.stride(0) if embedding is not None else 0,
            eps,
            D=D,
            WIDTH=triton.next_power_of_2(D),
            TOKENS=T,
            num_warps=4,
        )


def norm_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    weight: Tensor,
    grad_x: Tensor,
    rounded: Tensor | None,
    partial: Tensor,
    first: bool = False,
) -> None:
    """Add to grad_x the gradient through the norm; with `first`, set it.

    Parameters
    ----------
    grad : Tensor
        float32 or bfloat16 [M, C, D], gradient at `normed`.
    x, scale, weight
        As for `add_norm`; x is its `out`.
    grad_x : Tensor
        float32 [M, C, D].
    rounded : Tensor, optional
        [M, C, D], set to grad_x in its own dtype; None skips it.
    partial : Tensor
        float32 [M, B, D] for B programs, set to partial sums of the weight's gradient, to be added in order.
    first : bool
        Set grad_x instead of adding to it.
    """
    M, C, D = x.shape
    T = tokens_of_program(D)
    with torch.cuda.device_of(x):
        _backward[(triton.cdiv(C, T), M)](
            grad,
            x,
            scale,
            weight,
            grad_x,
            rounded,
            partial,
            C,
            weight.stride(0),
            partial.stride(0),
            D=D,
            WIDTH=triton.next_power_of_2(D),
            TOKENS=T,
            FIRST=first,
            num_warps=4,
        )


@triton.jit
def _tile(tokens, D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr):
    """Return a program's tokens [T] among all members' with their mask, and the offsets of their numbers [T, WIDTH]
    with theirs.
    """
    i = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    d = tl.arange(0, WIDTH)
    token = tl.program_id(1).to(tl.int64) * tokens + i  # [T]
    there = (i < tokens)[:, None]
    if WIDTH != D:
        there = there & (d < D)[None, :]
    return token, i < tokens, token[:, None] * D + d[None, :], there


@triton.jit
def _vector(x, stride, D: tl.constexpr, WIDTH: tl.constexpr):
    """Load a member's weights [WIDTH]."""
    d = tl.arange(0, WIDTH)
    return tl.load(x + tl.program_id(1).to(tl.int64) * stride + d, d < D, 0.0)


@triton.jit(do_not_specialize=["count"])
def _forward(
    x,
    added,
    tokens,
    embedding,
    weight,
    out,
    normed,
    scale,
    count,
    weight_member,
    embedding_member,
    eps,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token, real, place, there = _tile(count, D, WIDTH, TOKENS)
    if tokens is not None:
        row = embedding + tl.program_id(1).to(tl.int64) * embedding_member
        id = tl.load(tokens + token, real, 0).to(tl.int64)
        value = tl.load(row + id[:, None] * D + tl.arange(0, WIDTH)[None, :], there, 0.0)  # [T, D]
    else:
        value = tl.load(x + place, there, 0.0)
    if added is not None:
        value += tl.load(added + place, there, 0.0).to(tl.float32)
    if out is not None:
        tl.store(out + place, value, there)
    if normed is not None:
        rate = 1 / tl.sqrt(tl.sum(value * value, 1) / D + eps)  # [T]
        tl.store(scale + token, rate, real)
        result = value * rate[:, None] * _vector(weight, weight_member, D, WIDTH)[None, :]
        tl.store(normed + place, result.to(normed.dtype.element_ty), there)


@triton.jit(do_not_specialize=["count", "partial_member"])
def _backward(
    grad,
    x,
    scale,
    weight,
    grad_x,
    rounded,
    partial,
    count,
    weight_member,
    partial_member,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    FIRST: tl.constexpr,
):
    token, real, place, there = _tile(count, D, WIDTH, TOKENS)
    rate = tl.load(scale + token, real, 0.0)[:, None]
    unit = tl.load(x + place, there, 0.0) * rate  # [T, D]
    g = tl.load(grad + place, there, 0.0).to(tl.float32)
    d = tl.arange(0, WIDTH)
    row = tl.program_id(1).to(tl.int64) * partial_member + tl.program_id(0) * D
    tl.store(partial + row + d, tl.sum(g * unit, 0), d < D)
    g *= _vector(weight, weight_member, D, WIDTH)[None, :]
    result = rate * (g - unit * (tl.sum(g * unit, 1) / D)[:, None])
    if not FIRST:
        result += tl.load(grad_x + place, there, 0.0)
    tl.store(grad_x + place, result, there)
    if rounded is not None:
        tl.store(rounded + place, result.to(rounded.dtype.element_ty), there)

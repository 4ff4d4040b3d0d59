"""The embedding's gradient: for each token of the vocabulary the sum over where it stands, without atomics.

A program has a block of the vocabulary and a stretch of a member's tokens, and multiplies a matrix of zeros
and ones, which token stands where, with the gradients there; tiles of tokens in which nothing of the block
stands are passed over. Sums of stretches are added up in order. The matrix units do 2 x 64 D operations for a
token and each block of 64 that the vocabulary has: of 98 characters a hundredth of what the model does for
it.

M members, C tokens of each, V tokens in the vocabulary, D numbers in a token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

STRETCH = 512  # tokens of a program
TILE = 64  # tokens
VOCABULARY = 64  # a program's block of it


def stretches(tokens: int) -> int:
    """How many programs share a member's tokens."""
    return triton.cdiv(tokens, STRETCH)


def embedding_backward(tokens: Tensor, grad: Tensor, partial: Tensor) -> None:
    """Sums for each stretch of tokens.

    tokens    int32 [M, C]
    grad      float32 or bfloat16 [M, C, D], contiguous; bfloat16 are added up in float32
    partial   float32 [M, S, V, D], S of `stretches`: set to the sums
    """
    M, C, D = grad.shape
    V = partial.shape[2]
    width = max(16, min(128, triton.next_power_of_2(D)))
    blocks = triton.cdiv(V, VOCABULARY) * triton.cdiv(D, width)
    with torch.cuda.device_of(grad):
        _embedding_backward[(blocks, stretches(C), M)](
            tokens,
            grad,
            partial,
            C,
            V,
            partial.stride(0),
            D=D,
            WIDTH=width,
            STRETCH=STRETCH,
            TILE=TILE,
            VOCABULARY=VOCABULARY,
            num_warps=4,
            num_stages=1,
        )


@triton.jit(do_not_specialize=["count", "partial_member"])
def _embedding_backward(
    tokens,
    grad,
    partial,
    count,
    vocabulary,
    partial_member,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    STRETCH: tl.constexpr,
    TILE: tl.constexpr,
    VOCABULARY: tl.constexpr,
):
    parts: tl.constexpr = (D + WIDTH - 1) // WIDTH
    member = tl.program_id(2).to(tl.int64)
    v = tl.program_id(0) // parts * VOCABULARY + tl.arange(0, VOCABULARY)
    d = tl.program_id(0) % parts * WIDTH + tl.arange(0, WIDTH)
    begin = tl.program_id(1) * STRETCH
    total = tl.zeros([VOCABULARY, WIDTH], tl.float32)
    for start in range(begin, tl.minimum(begin + STRETCH, count), TILE):
        i = start + tl.arange(0, TILE)
        token = tl.load(tokens + member * count + i, i < count, -1)  # [T]
        here = v[:, None] == token[None, :]  # [V, T]
        if tl.max(here.to(tl.int32).reshape(VOCABULARY * TILE), 0) > 0:
            place = (member * count + i)[:, None] * D + d[None, :]
            g = tl.load(grad + place, (i < count)[:, None] & (d < D)[None, :], 0.0)  # [T, D]
            total = tl.dot(here.to(g.dtype), g, total, input_precision="ieee")
    row = member * partial_member + (tl.program_id(1) * vocabulary + v).to(tl.int64)[:, None] * D
    tl.store(partial + row + d[None, :], total, (v < vocabulary)[:, None] & (d < D)[None, :])

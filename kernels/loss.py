"""Cross entropy at the positions that have a target, and its gradient, in one pass over the logits.

A position of V logits moves 4 V bytes in and, with bfloat16 products, 2 V out. Sums go to a separate place for each
program.

M members, C tokens of each, V logits of a token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAM = 2048  # logits in a program's tile, if a token has no more


def tokens_of_program(outputs: int) -> int:
    """Return how many tokens, of `outputs` logits each, a program handles: a power of 2."""
    return max(1, min(32, PROGRAM // triton.next_power_of_2(outputs)))


def cross_entropy(logits: Tensor, targets: Tensor, grad: Tensor, partial: Tensor) -> None:
    """Compute the summed loss -log softmax(logits)[target] and its gradient, softmax(logits) - one_hot(target).

    Parameters
    ----------
    logits : Tensor
        float32 [M, C, V]; a gap of equal size may follow the logits of each token.
    targets : Tensor
        int32 [M, C], -1 for no target: no loss, and a gradient of 0.
    grad : Tensor
        float32 or bfloat16 [M, C, V], written, with gaps of its own; a gap up to a multiple of 8 is set to 0, since
        whole vectors are written.
    partial : Tensor
        float32 [M, B, 2] for B programs, set to their sums of losses and numbers of targets.
    """
    M, C, V = logits.shape
    width, T, whole = triton.next_power_of_2(V), tokens_of_program(V), V + -V % 8
    strides = logits.stride(1), grad.stride(1)
    with torch.cuda.device_of(logits):
        _cross_entropy[(triton.cdiv(C, T), M)](
            logits,
            targets,
            grad,
            partial,
            C,
            partial.stride(0),
            *strides,
            V=V,
            TAKEN=whole if strides == (whole, whole) else V,
            WIDTH=width,
            TOKENS=T,
            num_warps=min(16, max(4, width // 1024)),
        )


@triton.jit(do_not_specialize=["count", "partial_member"])
def _cross_entropy(
    logits,
    targets,
    grad,
    partial,
    count,
    partial_member,
    LOGITS: tl.constexpr,
    GRAD: tl.constexpr,
    V: tl.constexpr,
    TAKEN: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    i = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    v = tl.arange(0, WIDTH)[None, :]
    member = tl.program_id(1).to(tl.int64)
    token = member * count + i
    target = tl.load(targets + token, i < count, -1)  # [T]
    asked = target >= 0
    there = (i < count)[:, None] & (v < TAKEN)
    x = tl.load(logits + token[:, None] * LOGITS + v, there, 0.0)  # [T, V]
    x = tl.where(asked[:, None], x, 0.0)  # logits without a target may be NaN
    x = tl.where(v < V, x, float("-inf"))
    x -= tl.max(x, 1)[:, None]
    e = tl.exp(x)
    total = tl.sum(e, 1)  # [T]
    hit = v == target[:, None]
    loss = tl.log(total) - tl.sum(tl.where(hit, x, 0.0), 1)
    value = tl.where(asked[:, None], e / total[:, None] - tl.where(hit, 1.0, 0.0), 0.0)
    tl.store(grad + token[:, None] * GRAD + v, value.to(grad.dtype.element_ty), there)
    sums = partial + member * partial_member + tl.program_id(0) * 2
    tl.store(sums, tl.sum(tl.where(asked, loss, 0.0), 0))
    tl.store(sums + 1, tl.sum(asked.to(tl.float32), 0))

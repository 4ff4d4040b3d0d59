"""Final pass of sums of which programs computed parts: the parts are added in order, in float32.

The order depends only on the index of a part: additional parts that are zero change no bit.

N sums, M members, B parts of each, W numbers in each, P parameters.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 16  # read at once
BLOCK = 128  # numbers of a program


def add_up(partial: Tensor, places: Tensor, out: Tensor) -> None:
    """Set out[m, places[n] + w] to the sum over b of partial[n, m, b, w].

    Parameters
    ----------
    partial : Tensor
        float32 [N, M, B, W], contiguous.
    places : Tensor
        int32 [N].
    out : Tensor
        float32 [M, P], contiguous for each member; written.
    """
    N, M, B, W = partial.shape
    with torch.cuda.device_of(out):
        _add_up[(triton.cdiv(W, BLOCK), N, M)](
            partial, places, out, M, B, W, out.stride(0), PARTS=PARTS, BLOCK=BLOCK, num_warps=4
        )


@triton.jit(do_not_specialize=["parts"])
def _add_up(partial, places, out, members, parts, width, out_member, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    n, member = tl.program_id(1), tl.program_id(2)
    w = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b = tl.arange(0, PARTS)[:, None]
    source = partial + (n * members + member).to(tl.int64) * parts * width
    total = tl.zeros([PARTS, BLOCK], tl.float32)
    for start in range(0, parts, PARTS):
        there = (start + b < parts) & (w < width)[None, :]
        total += tl.load(source + (start + b).to(tl.int64) * width + w[None, :], there, 0.0)
    target = out + member.to(tl.int64) * out_member + tl.load(places + n)
    tl.store(target + w, tl.sum(total, 0), w < width)

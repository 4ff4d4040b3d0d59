"""Rows of a step, taken from those made ahead: each member's inputs and targets, from the beginning of its places.

The last token of a row predicts nothing and is left out. The remaining places are padding outside all rows: token 0
without a target.

M members, n prepared rows of each, R rows of a step at most, C places of a member, S steps of a plan.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PADDING = 1024  # tokens that a program writes at once
CLEARED = 2048  # numbers that a program sets to 0 at once


def take_rows(
    made: Tensor,
    row_start: Tensor,
    answer_start: Tensor,
    rows: Tensor,
    step: Tensor,
    alive: Tensor,
    answer_only: Tensor,
    longest: int,
    tokens: Tensor,
    targets: Tensor,
    starts: Tensor,
    ends: Tensor,
) -> None:
    """Set tokens, targets, starts and ends to the rows of a step.

    Parameters
    ----------
    made : Tensor
        int32 [M, .], rows end to end; row i begins at row_start[:, i].
    row_start : Tensor
        int32 [M, n + 1].
    answer_start : Tensor
        int32 [M, n].
    rows : Tensor
        int32 [S, M, 2], a member's first row and number of rows in each step.
    step : Tensor
        int32 [1], index of the step among the S.
    alive : Tensor
        int32 [M], 0: the member has no rows.
    answer_only : Tensor
        int32 [M], 1: only tokens of the answer are targets.
    longest : int
        Upper bound on the tokens of a row.
    tokens, targets : Tensor
        int32 [M, C], written; a target is -1 if there is none.
    starts, ends : Tensor
        int32 [M, R], written: bounds of rows among all M C places; an absent row has no tokens.
    """
    M, C = tokens.shape
    R = starts.shape[1]
    with torch.cuda.device_of(tokens):
        _take_rows[(R + 1, M)](
            made,
            row_start,
            answer_start,
            rows,
            step,
            alive,
            answer_only,
            tokens,
            targets,
            starts,
            ends,
            made.stride(0),
            answer_start.shape[1],
            C,
            R,
            WIDTH=triton.next_power_of_2(longest),
            PADDING=PADDING,
            num_warps=1,
        )


def clear_padding(x: Tensor, ends: Tensor) -> None:
    """Set x to 0 at the places after each member's last row.

    Parameters
    ----------
    x : Tensor
        [M, C, W], contiguous.
    ends : Tensor
        int32 [M, R], ends of rows among all M C places.
    """
    M, C, W = x.shape
    with torch.cuda.device_of(x):
        _clear_padding[(16, M)](x, ends, C, ends.shape[1], WIDTH=W, BLOCK=CLEARED, READ=128, num_warps=4)


@triton.jit(do_not_specialize=["capacity"])
def _take_rows(
    made,
    row_start,
    answer_start,
    rows,
    step,
    alive,
    answer_only,
    tokens,
    targets,
    starts,
    ends,
    made_member,
    made_rows,
    capacity,
    most_rows,
    WIDTH: tl.constexpr,
    PADDING: tl.constexpr,
):
    r, member, members = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    plan = rows + (tl.load(step) * members + member) * 2
    first, count = tl.load(plan), tl.load(plan + 1) * tl.load(alive + member)
    row_start += member * (made_rows + 1) + first
    made += member.to(tl.int64) * made_member
    target_row = member.to(tl.int64) * capacity
    tokens += target_row
    targets += target_row
    row = tl.minimum(r, count)
    begin = tl.load(row_start + row)
    place = begin - tl.load(row_start) - row  # each earlier row lost its last token
    if r < most_rows:
        length = tl.where(r < count, tl.load(row_start + tl.minimum(r + 1, count)) - begin - 1, 0)
        at = starts + member * most_rows + r
        tl.store(at, member * capacity + place)
        tl.store(ends + member * most_rows + r, member * capacity + place + length)
        j = tl.arange(0, WIDTH)
        there = (j < length) & (place + j < capacity)
        asked = tl.load(answer_start + member * made_rows + first + row, r < count, 0) - 1
        asked *= tl.load(answer_only + member)
        tl.store(tokens + place + j, tl.load(made + begin + j, there, 0), there)
        target = tl.load(made + begin + j + 1, there & (j >= asked), -1)
        tl.store(targets + place + j, target, there)
    else:
        for start in range(place, capacity, PADDING):
            j = start + tl.arange(0, PADDING)
            tl.store(tokens + j, tl.zeros([PADDING], tl.int32), j < capacity)
            tl.store(targets + j, tl.full([PADDING], -1, tl.int32), j < capacity)


@triton.jit(do_not_specialize=["capacity", "most_rows"])
def _clear_padding(x, ends, capacity, most_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr, READ: tl.constexpr):
    member = tl.program_id(1)
    last = member * capacity
    for start in range(0, most_rows, READ):
        r = start + tl.arange(0, READ)
        last = tl.maximum(last, tl.max(tl.load(ends + member * most_rows + r, r < most_rows, 0), 0))
    x += last.to(tl.int64) * WIDTH
    count = ((member + 1) * capacity - last) * WIDTH
    for start in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(x + i, tl.zeros([BLOCK], x.dtype.element_ty), i < count)

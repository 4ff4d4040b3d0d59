"""End of a step: each member's gradient norm, a check that it is finite, clipping, and AdamW with decoupled decay.

Inputs and results stay on the device, so that nothing waits for it. A parameter moves 4 bytes for the norm, then 20 in
(parameter, gradient, two moments, decay) and 12 out, and 2 more for a bfloat16 copy: 38 bytes, without a separate pass
for the cast. Members that take no step move nothing.

M members, P parameters, B programs, S steps of a plan.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # parameters of a program
READ = 128  # partial sums read at once


def blocks(parameters: int) -> int:
    """Return the number of programs for a member's parameters."""
    return triton.cdiv(parameters, BLOCK)


def square_sums(grad: Tensor, partial: Tensor) -> None:
    """Compute partial sums of squares of each member's gradient.

    Parameters
    ----------
    grad : Tensor
        float32 [M, P].
    partial : Tensor
        float32 [M, B] with B of `blocks`, written.
    """
    M, P = grad.shape
    with torch.cuda.device_of(grad):
        _square_sums[(blocks(P), M)](grad, partial, P, blocks(P), BLOCK=BLOCK, num_warps=4)


def decide(
    losses: Tensor,
    squares: Tensor,
    rows: Tensor,
    schedule: Tensor,
    constants: Tensor,
    step: Tensor,
    alive: Tensor,
    tally: Tensor,
    update: Tensor,
) -> None:
    """Decide the update of each member in this step.

    A member without rows takes no step; one whose loss or gradient is not finite takes none from now on.

    Parameters
    ----------
    losses : Tensor
        float32 [M, B, 2], partial sums of the loss and of the number of its positions.
    squares : Tensor
        float32 [M, B], partial sums of squares of that loss's gradient.
    rows : Tensor
        int32 [S, M, 2], a member's first row and number of rows in each step.
    schedule : Tensor
        float32 [S, M, 3]: learning rate times weight decay; learning rate over 1 - beta1^t; and 1 / sqrt(1 - beta2^t),
        for step t counted from 1.
    constants : Tensor
        float32 [M, 4]: clip, beta1, beta2, eps.
    step : Tensor
        int32 [1], index of the step among the S.
    alive : Tensor
        int32 [M], set to 0 if the loss or the gradient is not finite.
    tally : Tensor
        float64 [M, 3]: if a step is taken, the mean loss is added to the first, and 1 to the second and third.
    update : Tensor
        float32 [M, 5], written for `adamw`: 1 if a step is taken, the schedule, and the factor of the gradient.
    """
    M = len(losses)
    with torch.cuda.device_of(losses):
        _decide[(M,)](
            losses,
            squares,
            rows,
            schedule,
            constants,
            step,
            alive,
            tally,
            update,
            M,
            losses.shape[1],
            squares.shape[1],
            READ=READ,
            num_warps=4,
        )


def adamw(
    parameters: Tensor,
    grad: Tensor,
    average: Tensor,
    square: Tensor,
    decayed: Tensor,
    update: Tensor,
    constants: Tensor,
    rounded: Tensor | None,
) -> None:
    """Take one AdamW step, as torch.optim.AdamW does, of each member that `decide` allows.

    Parameters
    ----------
    parameters, average, square : Tensor
        float32 [M, P], contiguous, updated.
    grad : Tensor
        float32 [M, P].
    decayed : Tensor
        float32 [P], 1 where weight decay applies, otherwise 0.
    update : Tensor
        float32 [M, 5], from `decide`.
    constants : Tensor
        float32 [M, 4], as for `decide`.
    rounded : Tensor, optional
        [M, P], set to the parameters in its own dtype; None skips it.
    """
    M, P = parameters.shape
    with torch.cuda.device_of(parameters):
        _adamw[(blocks(P), M)](
            parameters, grad, average, square, decayed, update, constants, rounded, P, BLOCK=BLOCK, num_warps=4
        )


@triton.jit
def _square_sums(grad, partial, parameters, blocks, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    member = tl.program_id(1)
    g = tl.load(grad + member.to(tl.int64) * parameters + i, i < parameters, 0.0)
    tl.store(partial + member * blocks + tl.program_id(0), tl.sum(g * g, 0))


@triton.jit
def _total(partial, count, stride, READ: tl.constexpr):
    """Return the sum of `count` float32 in float64, in an order that additional zeros do not change."""
    i = tl.arange(0, READ)
    total = tl.zeros([READ], tl.float64)
    for start in range(0, count, READ):
        total += tl.load(partial + (start + i) * stride, start + i < count, 0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["loss_blocks"])
def _decide(
    losses,
    squares,
    rows,
    schedule,
    constants,
    step,
    alive,
    tally,
    update,
    members,
    loss_blocks,
    blocks,
    READ: tl.constexpr,
):
    member = tl.program_id(0)
    at = tl.load(step) * members + member
    asked = (tl.load(rows + at * 2 + 1) > 0) & (tl.load(alive + member) > 0)
    count = tl.maximum(_total(losses + member * loss_blocks * 2 + 1, loss_blocks, 2, READ), 1.0)
    loss = _total(losses + member * loss_blocks * 2, loss_blocks, 2, READ) / count
    norm = tl.sqrt(_total(squares + member * blocks, blocks, 1, READ)) / count
    finite = (loss - loss == 0.0) & (norm - norm == 0.0)
    takes = asked & finite
    tl.store(alive + member, 0, asked & (finite == 0))
    mine = tally + member * 3
    tl.store(mine, tl.load(mine) + loss, takes)
    tl.store(mine + 1, tl.load(mine + 1) + 1, takes)
    tl.store(mine + 2, tl.load(mine + 2) + 1, takes)
    out = update + member * 5
    tl.store(out, takes.to(tl.float32))
    for i in tl.static_range(3):
        tl.store(out + 1 + i, tl.load(schedule + at * 3 + i))
    clip = tl.load(constants + member * 4).to(tl.float64)
    tl.store(out + 4, (tl.minimum(clip / (norm + 1e-6), 1.0) / count).to(tl.float32))


@triton.jit
def _adamw(parameters, grad, average, square, decayed, update, constants, rounded, count, BLOCK: tl.constexpr):
    member = tl.program_id(1)
    update += member * 5
    constants += member * 4
    if tl.load(update) > 0:
        decay, rate, root_correction = tl.load(update + 1), tl.load(update + 2), tl.load(update + 3)
        keep_average, keep_square = tl.load(constants + 1), tl.load(constants + 2)
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < count
        place = member.to(tl.int64) * count + i
        g = tl.load(grad + place, there, 0.0) * tl.load(update + 4)
        a = tl.load(average + place, there, 0.0)
        a += (1 - keep_average) * (g - a)
        q = tl.load(square + place, there, 0.0) * keep_square + (1 - keep_square) * g * g
        p = tl.load(parameters + place, there, 0.0) * (1 - decay * tl.load(decayed + i, there, 0.0))
        p -= rate * (a / (tl.sqrt(q) * root_correction + tl.load(constants + 3)))
        tl.store(average + place, a, there)
        tl.store(square + place, q, there)
        tl.store(parameters + place, p, there)
        if rounded is not None:
            tl.store(rounded + place, p.to(rounded.dtype.element_ty), there)

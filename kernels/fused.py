"""Operations of a block besides attention, for widths at which a token's D numbers fit in one tile of a program: four
kernels a layer.

::

    project           queries, keys, values of the normed residual stream
    block             the stream after attention's projection, and after the MLP
    block_backward    back through both of these, to the output of attention
    project_backward  back through the projection to the stream before the block

Between them only the stream (float32) and attention's operands go through memory. Gates, ups and normed tokens are
recomputed in the backward pass, which costs two more products and saves their memory traffic. A token of the paper's
shape (D 128, F 512, bfloat16) moves 24 D bytes a layer forward, 3.1 KB, whereas separate products and kernels move 100
D; backward 104 D instead of 166 D. Of these, 40 D are read for the weight gradients, which are separate products over
all tokens.

The MLP's operands of those products, gated and grad_gate_up, are 12 F bytes that are written and read, 6.1 KB. Programs
that recomputed them, each for a part of F with its sums in registers, would need three more products. Counted, not
measured, for 152,000 tokens, 6 layers and an H200, this gains nothing: the bytes take 1.3 ms; sums of 64 of F leave too
few registers under Triton (every form that was compiled spills), and with sums of 32 of F each token is read by 16
programs, 7.5 GB or 1.3 ms of the L2 cache, besides 0.45 ms more of products.

Sums over tokens go to a separate place for each program. Products are in 16 bits, accumulated in float32.

M members, C places for tokens of each, D hidden, F intermediate, B programs of a member.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDTHS = (16, 32, 64, 128)
PROCESSORS = 132  # multiprocessors that should all have work
ROOMY = (9, 10)  # major compute capabilities whose products of 64 tokens take their operands from shared memory


def tokens_of_program(members: int, places: int, device: torch.device) -> int:
    """Return the tokens of a program: more tokens read the weights less often, fewer keep all multiprocessors busy.

    64 is the largest number at which two or three programs fit into a multiprocessor of compute capability 9.0, so
    that one loads while another multiplies; with 128 only one fits. On GPUs whose products read registers alone, 64
    tokens of the way back would spill 900 bytes, and 32 spill none.
    """
    roomy = device.type != "cuda" or torch.cuda.get_device_capability(device)[0] in ROOMY
    return 64 if roomy and members * places // 64 >= 2 * PROCESSORS else 32


def project(x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Set out to rms_norm(x) * norm @ weight' + bias.

    Parameters
    ----------
    x : Tensor
        float32 [M, C, D], contiguous.
    norm : Tensor
        float32 [M, D]; contiguous for each member, as are all weights.
    weight, bias : Tensor
        16 bits, [M, 3 D, D] and [M, 3 D].
    eps : float
        Epsilon of RMSNorm.
    out : Tensor
        16 bits [M, C, 3 D], written.
    """
    M, C, D = x.shape
    T = tokens_of_program(M, C, x.device)
    with torch.cuda.device_of(x):
        _project[(C // T, M)](
            x, norm, weight, bias, out, C, norm.stride(0), weight.stride(0), eps, D=D, TOKENS=T, **plan(T)
        )


def block(
    x: Tensor,
    mixed: Tensor,
    output: Tensor,
    norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
    eps: float,
    middle: Tensor,
    out: Tensor,
) -> None:
    """Set middle to x + mixed @ output' and out to middle + mlp(rms_norm(middle) * norm).

    Parameters
    ----------
    x : Tensor
        float32 [M, C, D].
    mixed : Tensor
        16 bits [M, C, D], output of attention.
    output, gate_up, down : Tensor
        16 bits, [M, D, D], [M, 2 F, D] and [M, D, F].
    norm : Tensor
        float32 [M, D].
    eps : float
        Epsilon of RMSNorm.
    middle, out : Tensor
        float32 [M, C, D], written.
    """
    M, C, D = x.shape
    F = down.shape[2]
    T = tokens_of_program(M, C, x.device)
    with torch.cuda.device_of(x):
        _block[(C // T, M)](
            x,
            mixed,
            output,
            norm,
            gate_up,
            down,
            middle,
            out,
            C,
            norm.stride(0),
            output.stride(0),
            eps,
            D=D,
            F=F,
            PART=part(F, FORWARD),
            TOKENS=T,
            **plan(T),
        )


def block_backward(
    grad: Tensor,
    middle: Tensor,
    output: Tensor,
    norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
    eps: float,
    rounded: Tensor,
    grad_mixed: Tensor,
    normed: Tensor,
    gated: Tensor,
    grad_gate_up: Tensor,
    partial: Tensor,
) -> None:
    """Propagate grad from the stream after a block to the stream before its MLP, and on to the output of attention.

    Parameters
    ----------
    grad : Tensor
        float32 [M, C, D], updated.
    middle, output, norm, gate_up, down, eps
        As for `block`.
    rounded : Tensor
        [M, C, D], set to grad in 16 bits.
    grad_mixed : Tensor
        [M, C, D], set to the gradient at the output of attention.
    normed, gated : Tensor
        [M, C, D] and [M, C, F], recomputed for the weight gradients.
    grad_gate_up : Tensor
        [M, C, 2 F], written.
    partial : Tensor
        float32 [M, B, D] with B programs of `tokens_of_program`, set to partial sums of the norm's gradient.
    """
    M, C, D = middle.shape
    F = down.shape[2]
    T = tokens_of_program(M, C, middle.device)
    with torch.cuda.device_of(middle):
        _block_backward[(C // T, M)](
            grad,
            middle,
            output,
            norm,
            gate_up,
            down,
            rounded,
            grad_mixed,
            normed,
            gated,
            grad_gate_up,
            partial,
            C,
            norm.stride(0),
            output.stride(0),
            partial.stride(0),
            eps,
            D=D,
            F=F,
            PART=part(F, BACKWARD),
            TOKENS=T,
            **plan(T, backward=True),
        )


def project_backward(
    grad_qkv: Tensor,
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    eps: float,
    grad: Tensor,
    rounded: Tensor,
    normed: Tensor,
    partial: Tensor,
    bias_partial: Tensor,
) -> None:
    """Propagate grad from the stream after a block's attention to the stream before the block.

    Parameters
    ----------
    grad_qkv : Tensor
        16 bits [M, C, 3 D].
    x, norm, weight, eps
        As for `project`.
    grad : Tensor
        float32 [M, C, D], updated.
    rounded, normed : Tensor
        As for `block_backward`.
    partial : Tensor
        float32 [M, B, D], set to partial sums of the norm's gradient.
    bias_partial : Tensor
        float32 [M, B, 3 D], set to partial sums of grad_qkv.
    """
    M, C, D = x.shape
    T = tokens_of_program(M, C, x.device)
    with torch.cuda.device_of(x):
        _project_backward[(C // T, M)](
            grad_qkv,
            x,
            norm,
            weight,
            grad,
            rounded,
            normed,
            partial,
            bias_partial,
            C,
            norm.stride(0),
            weight.stride(0),
            partial.stride(0),
            bias_partial.stride(0),
            eps,
            D=D,
            TOKENS=T,
            **plan(T, backward=True),
        )


def part(F: int, most: int) -> int:
    """Return how many numbers of the MLP a program handles at a time; those beyond F are zeros."""
    return min(most, max(16, triton.next_power_of_2(F)))


def plan(tokens: int, backward: bool = False) -> dict:
    """Return launch settings that avoid register spills (checked in the code compiled for 8.0 and 9.0). 32 tokens are
    used when a multiprocessor has only one or two programs, which then prefetch by themselves, or has no room for 64.
    """
    few = tokens == 32
    warps, stages = 8 if few and backward else 4, 2 if few else 1
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


FORWARD, BACKWARD = 32, 16  # most numbers of the MLP at a time


@triton.jit
def _matrix(x, first, rows: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, at):
    """Load rows first .. first + ROWS - 1 and columns at .. at + COLUMNS - 1 of a matrix [rows, columns].

    first and at are multiples of ROWS and COLUMNS; numbers beyond the matrix are zeros.
    """
    r = first + tl.arange(0, ROWS)[:, None]
    c = at + tl.arange(0, COLUMNS)[None, :]
    place = x + r * columns + c
    if rows % ROWS != 0:  # at most one mask: two would take more registers than there are
        return tl.load(place, (r < rows) & (c < columns), 0.0)
    elif columns % COLUMNS != 0:
        return tl.load(place, c < columns, 0.0)
    return tl.load(place)


@triton.jit
def _first(count, TOKENS: tl.constexpr):
    """Return this program's first token among all members'."""
    return tl.program_id(1).to(tl.int64) * count + tl.program_id(0) * TOKENS


@triton.jit
def _tile(TOKENS: tl.constexpr, STRIDE: tl.constexpr, WIDTH: tl.constexpr):
    """Return the offsets of [T, WIDTH] numbers from the first token on, for tokens of STRIDE numbers."""
    return tl.arange(0, TOKENS)[:, None] * STRIDE + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _unit(x, eps, D: tl.constexpr):
    """Return x over its root mean square, and the reciprocal of that."""
    rate = 1 / tl.sqrt(tl.sum(x * x, 1) / D + eps)
    return x * rate[:, None], rate


@triton.jit
def _through_norm(grad, unit, rate, weight, D: tl.constexpr):
    """Return the gradient before a norm, given the one after it, [T, D]; and sums [D] of the weight's gradient."""
    sums = tl.sum(grad * unit, 0)
    grad *= weight[None, :]
    return rate[:, None] * (grad - unit * (tl.sum(grad * unit, 1) / D)[:, None]), sums


@triton.jit
def _project(x, norm, weight, bias, out, count, norm_member, weight_member, eps, D: tl.constexpr, TOKENS: tl.constexpr):
    member = tl.program_id(1).to(tl.int64)
    d, first = tl.arange(0, D), _first(count, TOKENS)
    unit, _ = _unit(tl.load(x + first * D + _tile(TOKENS, D, D)), eps, D)
    normed = (unit * tl.load(norm + member * norm_member + d)[None, :]).to(out.dtype.element_ty)
    weight += member * weight_member
    bias += member * weight_member
    target = out + first * (3 * D) + _tile(TOKENS, 3 * D, D)
    for i in tl.static_range(3):
        w = _matrix(weight, i * D, 3 * D, D, D, D, 0)  # [D, D]
        result = tl.dot(normed, w.T) + tl.load(bias + i * D + d)[None, :].to(tl.float32)
        tl.store(target + i * D, result.to(out.dtype.element_ty))


@triton.jit
def _block(
    x,
    mixed,
    output,
    norm,
    gate_up,
    down,
    middle,
    out,
    count,
    norm_member,
    weight_member,
    eps,
    D: tl.constexpr,
    F: tl.constexpr,
    PART: tl.constexpr,
    TOKENS: tl.constexpr,
):
    member = tl.program_id(1).to(tl.int64)
    first, place = _first(count, TOKENS) * D, _tile(TOKENS, D, D)
    output += member * weight_member
    gate_up += member * weight_member
    down += member * weight_member
    stream = tl.load(x + first + place)
    stream += tl.dot(tl.load(mixed + first + place), _matrix(output, 0, D, D, D, D, 0).T)
    tl.store(middle + first + place, stream)
    unit, _ = _unit(stream, eps, D)
    normed = (unit * tl.load(norm + member * norm_member + tl.arange(0, D))[None, :]).to(mixed.dtype.element_ty)
    for f in range(0, F, PART):
        gate = tl.dot(normed, _matrix(gate_up, f, F, D, PART, D, 0).T)  # [T, PART]
        up = tl.dot(normed, _matrix(gate_up + F * D, f, F, D, PART, D, 0).T)
        gated = (gate * tl.sigmoid(gate) * up).to(mixed.dtype.element_ty)
        stream = tl.dot(gated, _matrix(down, 0, D, F, D, PART, f).T, stream)
    tl.store(out + first + place, stream)


@triton.jit
def _block_backward(
    grad,
    middle,
    output,
    norm,
    gate_up,
    down,
    rounded,
    grad_mixed,
    normed,
    gated,
    grad_gate_up,
    partial,
    count,
    norm_member,
    weight_member,
    partial_member,
    eps,
    D: tl.constexpr,
    F: tl.constexpr,
    PART: tl.constexpr,
    TOKENS: tl.constexpr,
):
    member = tl.program_id(1).to(tl.int64)
    first, place = _first(count, TOKENS), _tile(TOKENS, D, D)
    dtype: tl.constexpr = rounded.dtype.element_ty
    middle += first * D
    grad += first * D
    rounded += first * D
    grad_mixed += first * D
    normed += first * D
    gated += first * F
    grad_gate_up += first * (2 * F)
    output += member * weight_member
    gate_up += member * weight_member
    down += member * weight_member
    norm += member * norm_member + tl.arange(0, D)
    unit, rate = _unit(tl.load(middle + place), eps, D)
    tokens = (unit * tl.load(norm)[None, :]).to(dtype)  # [T, D]
    tl.store(normed + place, tokens)
    arrived = tl.load(grad + place).to(dtype)  # [T, D]
    back = tl.zeros([TOKENS, D], tl.float32)
    for f in range(0, F, PART):
        gates = _matrix(gate_up, f, F, D, PART, D, 0)  # [PART, D]
        ups = _matrix(gate_up + F * D, f, F, D, PART, D, 0)
        gate, up = tl.dot(tokens, gates.T), tl.dot(tokens, ups.T)  # [T, PART]
        g = tl.dot(arrived, _matrix(down, 0, D, F, D, PART, f))
        share = tl.sigmoid(gate)
        silu = gate * share
        there = (f + tl.arange(0, PART) < F)[None, :]
        tl.store(gated + f + _tile(TOKENS, F, PART), (silu * up).to(dtype), there)
        grad_gate = (g * up * (share + silu * (1 - share))).to(dtype)
        grad_up = (g * silu).to(dtype)
        target = grad_gate_up + f + _tile(TOKENS, 2 * F, PART)
        tl.store(target, grad_gate, there)
        tl.store(target + F, grad_up, there)
        back = tl.dot(grad_gate, gates, back)
        back = tl.dot(grad_up, ups, back)
    unit = tl.load(middle + place) * rate[:, None]  # loaded again, so that registers are free until here
    through, sums = _through_norm(back, unit, rate, tl.load(norm), D)
    tl.store(partial + member * partial_member + tl.program_id(0) * D + tl.arange(0, D), sums)
    through += tl.load(grad + place)
    tl.store(grad + place, through)
    tl.store(rounded + place, through.to(dtype))
    back = tl.dot(through.to(dtype), _matrix(output, 0, D, D, D, D, 0))
    tl.store(grad_mixed + place, back.to(dtype))


@triton.jit
def _project_backward(
    grad_qkv,
    x,
    norm,
    weight,
    grad,
    rounded,
    normed,
    partial,
    bias_partial,
    count,
    norm_member,
    weight_member,
    partial_member,
    bias_member,
    eps,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
):
    member = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)
    dtype: tl.constexpr = rounded.dtype.element_ty
    first, place = _first(count, TOKENS), _tile(TOKENS, D, D)
    x += first * D
    grad += first * D
    rounded += first * D
    normed += first * D
    grad_qkv += first * (3 * D)
    back = tl.zeros([TOKENS, D], tl.float32)
    weight += member * weight_member
    bias_sums = bias_partial + member * bias_member + tl.program_id(0) * (3 * D) + d
    for i in tl.static_range(3):
        g = tl.load(grad_qkv + i * D + _tile(TOKENS, 3 * D, D))  # [T, D]
        tl.store(bias_sums + i * D, tl.sum(g.to(tl.float32), 0))
        back = tl.dot(g, _matrix(weight, i * D, 3 * D, D, D, D, 0), back)
    scale = tl.load(norm + member * norm_member + d)
    unit, rate = _unit(tl.load(x + place), eps, D)
    tl.store(normed + place, (unit * scale[None, :]).to(dtype))
    through, sums = _through_norm(back, unit, rate, scale, D)
    tl.store(partial + member * partial_member + tl.program_id(0) * D + d, sums)
    through += tl.load(grad + place)
    tl.store(grad + place, through)
    tl.store(rounded + place, through.to(dtype))

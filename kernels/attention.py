"""Causal attention within packed rows of at most 128 tokens, RoPE inside, forward and backward.

Each program handles one row. Head after head it reads the row's queries, keys and values once and writes its results
once, while those of the next head are being loaded. Scores live in registers, and the backward pass recomputes them, so
that nothing is stored between the two. Keys and values are one tile of 16, 32, 64 or 128 tokens, and queries one or
several.

If rows may have more than 32 tokens there are two launches: one with tiles of 32 tokens, which skips longer rows, and
one with tiles as long as the longest row, which skips the others. Nearly half of the paper's rows have at most 32
tokens, and a tile of 64 takes four times the scores. Lengths are read on the device; a row's tile depends on its length
and `longest` alone.

Every sum has a fixed order, hence one result, and a program touches only the tokens of its row. Products are
accumulated in float32. In 16 bits rotated queries and keys, probabilities and the gradients of scores are rounded
before they are multiplied, as in FlashAttention-2 (arXiv 2307.08691). Float32 products follow IEEE, without matrix
units: the error of tf32 is a thousand times larger.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_ROW = 128
SHORT_ROW = 32  # tokens; if rows may be longer, those up to this length have a launch of their own
LOG2_E = tl.constexpr(1.4426950408889634)

Rows = Tensor | tuple[Tensor, Tensor]  # cu_seqlens, or starts and ends


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, rows: Rows, rope_base: float, longest: int, out: Tensor, last_only: bool = False
) -> None:
    """Set out to softmax(q k' / sqrt(D)) v over a row's tokens up to each, with q and k rotated by RoPE.

    Runs on the current stream and never waits for the device, except on the first call for a base, head size and
    device, which copies a table there: a CUDA graph can be captured from the second call on.

    Parameters
    ----------
    q, k, v, out : Tensor
        float32, bfloat16 or float16 [L, H, D], of one dtype; D is a multiple of 8 from 8 to 128; any strides with a
        last one of 1.
    rows : Tensor or (Tensor, Tensor)
        cu_seqlens, int32 [R + 1], from 0 to L: row r is tokens cu_seqlens[r]:cu_seqlens[r + 1]. Or starts and ends,
        int32 [R] each: row r is tokens starts[r]:ends[r]; tokens outside all rows are not written.
    rope_base : float
        Base of RoPE, which pairs dimensions d and d + D/2; 0 means no RoPE.
    longest : int
        Tokens of the longest row, at most 128; the result for a longer row is wrong. No memory beyond the L tokens is
        accessed, whatever the values in rows.
    last_only : bool
        Only the last token of each row is a query and is written: a step of decoding.
    """
    plans = launches(q.dtype, q.shape[2], longest, last_only)
    _launch(_forward, (q, k, v), rows, rope_base, longest, (out,), plans, LAST_ONLY=last_only)


def attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Rows,
    rope_base: float,
    longest: int,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
) -> None:
    """Set the gradients of `attention_forward` with respect to q, k and v.

    Parameters
    ----------
    grad_out : Tensor
        Gradient of `out`, like q.
    q, k, v, rows, rope_base, longest
        As for `attention_forward`.
    grad_q, grad_k, grad_v : Tensor
        Written; like q.
    """
    plans = launches(q.dtype, q.shape[2], longest)
    _launch(_backward, (grad_out, q, k, v), rows, rope_base, longest, (grad_q, grad_k, grad_v), plans)


def _launch(kernel, inputs, rows, rope_base, longest, outputs, plans, **constants) -> None:
    tokens, heads, size = inputs[0].shape
    starts, ends = (rows[:-1], rows[1:]) if isinstance(rows, Tensor) else rows
    if not len(starts) or not longest:
        return
    strides = [stride for x in (*inputs, *outputs) for stride in x.stride()[:2]]
    angles = _angles(rope_base, size, inputs[0].device) if rope_base else None
    with torch.cuda.device_of(inputs[0]):
        for each in plans:
            kernel[(len(starts),)](
                *inputs, starts, ends, angles, *outputs, tokens, heads, *strides, **each, **constants
            )


def launches(dtype: torch.dtype, size: int, longest: int, last_only: bool = False) -> list[dict]:
    """Return the plans of the launches for rows of up to `longest` tokens; exactly one of them computes a given row."""
    whole = plan(dtype, size, longest)
    if last_only:  # decoding is bound by launches: a second one would take longer than it saves
        return [whole | {"QUERIES": 16}]
    if longest <= SHORT_ROW:
        return [whole]
    return [plan(dtype, size, SHORT_ROW) | {"HIGHEST": SHORT_ROW}, whole | {"LOWEST": SHORT_ROW + 1}]


def plan(dtype: torch.dtype, size: int, longest: int) -> dict:
    """Return launch settings that avoid register spills (checked in the compiled code), for all rows.

    Matrix units work best with 16 tokens for each warp; float32 has plain multiplications, all unrolled, and needs more
    threads. Queries come 16 at a time if scores or results of all of them would not fit.
    """
    tokens, width = max(16, triton.next_power_of_2(longest)), max(16, triton.next_power_of_2(size))
    if dtype == torch.float32:
        warps, stages = min(16, tokens * width // 256), 1
    else:
        warps, stages = min(8, tokens // 16 * (2 if width > 64 else 1)), 2 if tokens * width <= 64 * 64 else 1
    return {
        "D": size,
        "WIDTH": width,
        "TOKENS": tokens,
        "QUERIES": 16 if tokens * max(64, width) > 64 * 64 else tokens,
        "LOWEST": None,
        "HIGHEST": None,
        "num_warps": warps,
        "num_stages": stages,
        "enable_fp_fusion": True,
    }


@functools.cache
def _angles(rope_base: float, size: int, device: torch.device) -> Tensor:
    """Return cosines and sines at each position, rounded once: float32 [128, 2, D/2]."""
    rate = rope_base ** -(torch.arange(size // 2, dtype=torch.float64, device="cpu") / (size // 2))  # [D/2]
    angle = torch.arange(LONGEST_ROW, dtype=torch.int64, device="cpu")[:, None] * rate  # [T, D/2]
    return torch.stack([angle.cos(), angle.sin()], 1).float().to(device)


@triton.jit
def _row(starts, ends, tokens):
    """Return the beginning and length of this program's row, clamped to the existing tokens."""
    begin = tl.minimum(tl.maximum(tl.load(starts + tl.program_id(0)), 0), tokens)
    end = tl.minimum(tl.load(ends + tl.program_id(0)), tokens)
    return begin.to(tl.int64), end - begin


@triton.jit
def _left_out(length, LOWEST: tl.constexpr, HIGHEST: tl.constexpr):
    """Return True if another launch has the row: fewer tokens than LOWEST, or more than HIGHEST; None means no
    bound.
    """
    if LOWEST is not None:
        return length < LOWEST
    elif HIGHEST is not None:
        return length > HIGHEST
    else:
        return False


@triton.jit
def _load(x, i, token_stride, length, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Load the first SIZE numbers of tokens i; zeros up to WIDTH, and for absent tokens."""
    d = tl.arange(0, WIDTH)
    there = (i < length)[:, None]
    if WIDTH != SIZE:
        there = there & (d < SIZE)
    return tl.load(x + i[:, None] * token_stride + d, there, 0.0)  # [I, WIDTH]


@triton.jit
def _store(x, i, token_stride, length, value, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    d = tl.arange(0, WIDTH)
    there = (i < length)[:, None]
    if WIDTH != SIZE:
        there = there & (d < SIZE)
    tl.store(x + i[:, None] * token_stride + d, value.to(x.dtype.element_ty), there)


@triton.jit
def _load_turned(x, i, token_stride, length, angles, D: tl.constexpr, WIDTH: tl.constexpr):
    """Load rotated queries or keys with dimensions d and d + D/2 interleaved: a scalar product does not depend on the
    order of dimensions.
    """
    a = _load(x, i, token_stride, length, D // 2, WIDTH // 2)
    b = _load(x + D // 2, i, token_stride, length, D // 2, WIDTH // 2)
    if angles is not None:
        cos = _load(angles, i, D, length, D // 2, WIDTH // 2)
        sin = _load(angles + D // 2, i, D, length, D // 2, WIDTH // 2)
        # A reduction over an axis of two: with an elementwise sum, the compiler would convert a and b to the layout of
        # the matrix products first, and rotate them there once for each warp that uses them.
        a, b = (tl.sum(tl.join(a * cos, -b * sin), 2).to(a.dtype), tl.sum(tl.join(b * cos, a * sin), 2).to(b.dtype))
    return tl.join(a, b).reshape(i.shape[0], WIDTH)  # [I, D]


@triton.jit
def _store_turned_back(x, i, token_stride, length, value, angles, D: tl.constexpr, WIDTH: tl.constexpr):
    a, b = value.reshape(i.shape[0], WIDTH // 2, 2).split()
    if angles is not None:
        cos = _load(angles, i, D, length, D // 2, WIDTH // 2)
        sin = _load(angles + D // 2, i, D, length, D // 2, WIDTH // 2)
        a, b = a * cos + b * sin, b * cos - a * sin
    _store(x, i, token_stride, length, a, D // 2, WIDTH // 2)
    _store(x + D // 2, i, token_stride, length, b, D // 2, WIDTH // 2)


@triton.jit
def _probabilities(score, i, j, scale):
    """Return unnormalised probabilities over keys j for each query i, the largest 1, and their sums [Q]."""
    score = tl.where(i[:, None] >= j, score, float("-inf"))  # [Q, T]
    p = tl.exp2(score * scale - (tl.max(score, 1) * scale)[:, None])
    return p, tl.sum(p, 1)


@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=["starts", "ends"])
def _forward(
    q,
    k,
    v,
    starts,
    ends,
    angles,
    out,
    tokens,
    heads,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    out_token,
    out_head,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    QUERIES: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    LAST_ONLY: tl.constexpr,
):
    begin, length = _row(starts, ends, tokens)
    if _left_out(length, LOWEST, HIGHEST):
        return
    q += begin * q_token
    k += begin * k_token
    v += begin * v_token
    out += begin * out_token
    j = tl.arange(0, TOKENS)
    for _ in range(heads):
        keys = _load_turned(k, j, k_token, length, angles, D, WIDTH)  # [T, D]
        values = _load(v, j, v_token, length, D, WIDTH)  # [T, D]
        first = (length - 1) // QUERIES * QUERIES if LAST_ONLY else 0
        for start in range(first, length if LAST_ONLY or QUERIES != TOKENS else TOKENS, QUERIES):
            i = start + tl.arange(0, QUERIES)
            queries = _load_turned(q, i, q_token, length, angles, D, WIDTH)  # [Q, D]
            score = tl.dot(queries, keys.T, input_precision="ieee")  # [Q, T]
            p, total = _probabilities(score, i, j, D**-0.5 * LOG2_E)
            o = tl.dot(p.to(values.dtype), values, input_precision="ieee")  # [Q, D]
            written = tl.where(i == length - 1, i, length) if LAST_ONLY else i
            _store(out, written, out_token, length, o * (1 / total)[:, None], D, WIDTH)
        q += q_head
        k += k_head
        v += v_head
        out += out_head


@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=["starts", "ends"])
def _backward(
    grad_out,
    q,
    k,
    v,
    starts,
    ends,
    angles,
    grad_q,
    grad_k,
    grad_v,
    tokens,
    heads,
    grad_out_token,
    grad_out_head,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    grad_q_token,
    grad_q_head,
    grad_k_token,
    grad_k_head,
    grad_v_token,
    grad_v_head,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    QUERIES: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
):
    begin, length = _row(starts, ends, tokens)
    if _left_out(length, LOWEST, HIGHEST):
        return
    grad_out += begin * grad_out_token
    q += begin * q_token
    k += begin * k_token
    v += begin * v_token
    grad_q += begin * grad_q_token
    grad_k += begin * grad_k_token
    grad_v += begin * grad_v_token
    j = tl.arange(0, TOKENS)
    for _ in range(heads):
        keys = _load_turned(k, j, k_token, length, angles, D, WIDTH)  # [T, D]
        values = _load(v, j, v_token, length, D, WIDTH)  # [T, D]
        grad_keys = tl.zeros([TOKENS, WIDTH], tl.float32)
        grad_values = tl.zeros([TOKENS, WIDTH], tl.float32)
        for start in range(0, TOKENS if QUERIES == TOKENS else length, QUERIES):
            i = start + tl.arange(0, QUERIES)
            queries = _load_turned(q, i, q_token, length, angles, D, WIDTH)  # [Q, D]
            grads = _load(grad_out, i, grad_out_token, length, D, WIDTH)  # [Q, D]
            score = tl.dot(queries, keys.T, input_precision="ieee")  # [Q, T]
            p, total = _probabilities(score, i, j, D**-0.5 * LOG2_E)
            p *= (1 / total)[:, None]
            grad_values = tl.dot(p.to(keys.dtype).T, grads, grad_values, input_precision="ieee")
            grad_p = tl.dot(grads, values.T, input_precision="ieee")  # [Q, T]
            grad_score = (p * (grad_p - tl.sum(p * grad_p, 1)[:, None])).to(keys.dtype)
            grad_keys = tl.dot(grad_score.T, queries, grad_keys, input_precision="ieee")
            grad_queries = tl.dot(grad_score, keys, input_precision="ieee") * D**-0.5  # [Q, D]
            _store_turned_back(grad_q, i, grad_q_token, length, grad_queries, angles, D, WIDTH)
        _store(grad_v, j, grad_v_token, length, grad_values, D, WIDTH)
        _store_turned_back(grad_k, j, grad_k_token, length, grad_keys * D**-0.5, angles, D, WIDTH)
        grad_out += grad_out_head
        q += q_head
        k += k_head
        v += v_head
        grad_q += grad_q_head
        grad_k += grad_k_head
        grad_v += grad_v_head

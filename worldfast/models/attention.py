"""Causal attention within packed rows, as a standalone torch operation.

`attention` is differentiable and works under every transform of torch. `attention_forward` and `attention_backward` are
its halves, for gradients that are written by hand: they write to given arrays and record nothing.

The native core computes on a CPU, Triton on a GPU (`pip install triton`, which torch for CUDA brings with it). Results
do not depend on the number of threads. threads=None means torch's number of threads.

L tokens, R rows, H heads, D numbers in a head.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worldfast._native import core, expect, thread_count
from worldfast.arrays import refuse
from worldfast.errors import whole

LONGEST_ON_GPU = 128  # tokens of a row, limit of the GPU's kernels; the CPU's is core.attention_row_limit

# ---- attention ----


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    rope_base: float | None = 10_000.0,
    *,
    max_seqlen: int | None = None,
) -> Tensor:
    """Causal attention within packed rows, with rotary position embedding (RoPE). Differentiable in q, k, v.

    Arithmetic is in float32, or in float64 for float64; on the CPU results are rounded once, to nearest even. Rows of
    more than 2,048 tokens, on a GPU of more than 128, go to PyTorch's own attention; the first time, a warning says so.

    Parameters
    ----------
    q, k, v : Tensor
        float32, bfloat16, float16 or float64 [L, H, D], of one dtype and device; D is a multiple of 8 from 8 to 128. On
        a GPU not float64. Slices of one fused [L, 3, H, D] are not copied, and their gradients are slices of one
        tensor.
    cu_seqlens : Tensor
        int32 [R + 1], from 0 to L: row r is tokens cu_seqlens[r]:cu_seqlens[r + 1].
    rope_base : float, optional
        Base of RoPE as in Hugging Face's Qwen2: position p of a row rotates dimensions d and d + D/2 by p * rope_base
        ** (-2 d / D). None means no RoPE.
    max_seqlen : int, optional
        Upper bound on the tokens of a row. None reads it from cu_seqlens, for which the CPU waits for the GPU.

    Returns
    -------
    Tensor
        [L, H, D] of q's dtype: softmax(q k' / sqrt(D)) v over the tokens of a row up to each.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or device, or cu_seqlens does not ascend from 0 to L. On a GPU with a
        max_seqlen of at most 128, cu_seqlens is never read back: the caller guarantees that it ascends from 0 to L in
        steps of at most max_seqlen.
    NotImplementedError
        The device is neither a CPU nor a CUDA GPU.

    Examples
    --------
    >>> q, k, v = torch.randn(3, 5, 2, 16).unbind(0)  # five tokens, two heads of 16
    >>> rows = torch.tensor([0, 2, 5], dtype=torch.int32)  # of two rows
    >>> out = wf.attention(q, k, v, rows)
    >>> out.shape
    torch.Size([5, 2, 16])
    >>> torch.equal(out[2], v[2])  # the first token of a row sees itself alone
    True
    """
    for name, x in (("q", q), ("k", k), ("v", v), ("cu_seqlens", cu_seqlens)):
        refuse(x, name)
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect(name, x, _DTYPES if x is q else [q.dtype], 3)
        if x.shape != q.shape:
            raise ValueError(f"{name}: expected the shape of q, {list(q.shape)}, got {list(x.shape)}")
        if x.device != q.device:
            raise ValueError(f"{name}: expected the device of q, {q.device}, got {x.device}")
    expect("cu_seqlens", cu_seqlens, [torch.int32], 1)
    if cu_seqlens.device != q.device:
        raise ValueError(f"cu_seqlens: expected the device of q, {q.device}, got {cu_seqlens.device}")
    if len(cu_seqlens) == 0:
        raise ValueError("cu_seqlens: expected an entry more than there are rows, got none")
    max_seqlen = None if max_seqlen is None else whole("max_seqlen", max_seqlen, 0)
    if q.dtype == torch.float64 and _on_gpu(q):
        raise TypeError("q: expected float32, bfloat16 or float16 on a GPU, got torch.float64")
    if (size := q.shape[2]) % 8 or not 8 <= size <= 128:
        raise ValueError(f"q: expected a head size that is a multiple of 8 from 8 to 128, got {size}")
    _base(rope_base)
    return _Attention.apply(q, k, v, cu_seqlens, rope_base, max_seqlen)


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    rope_base: float | None = 10_000.0,
    *,
    out: Tensor | None = None,
    max_seqlen: int | None = None,
    threads: int | None = None,
) -> Tensor:
    """Compute `attention` into `out`, without recording a gradient.

    Parameters
    ----------
    q, k, v, cu_seqlens, rope_base
        As for `attention`; q, k and v may have any strides with a last one of 1.
    out : Tensor, optional
        [L, H, D], set to the result; None allocates it.
    max_seqlen : int, optional
        Upper bound on the tokens of a row; required on a GPU, and at most 128 there.
    threads : int, optional
        CPU threads.

    Returns
    -------
    Tensor
        `out`.

    Raises
    ------
    ValueError
        A row has more than 2,048 tokens, or max_seqlen is missing on a GPU or above 128.
    """
    out = q.new_empty(q.shape) if out is None else out
    if _on_gpu(q):
        kernels = _triton(max_seqlen)
        kernels.attention_forward(q, k, v, cu_seqlens, _base(rope_base), max_seqlen, out)
    else:
        core.attention_forward(q, k, v, cu_seqlens, _base(rope_base), out, thread_count(threads))
    return out


def attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    rope_base: float | None = 10_000.0,
    *,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    max_seqlen: int | None = None,
    threads: int | None = None,
) -> None:
    """Set grad_q, grad_k and grad_v to the gradients of `attention`; only its inputs are needed, not its result.

    Parameters
    ----------
    grad_out : Tensor
        [L, H, D], gradient of the result.
    q, k, v, cu_seqlens, rope_base, max_seqlen, threads
        As for `attention_forward`.
    grad_q, grad_k, grad_v : Tensor
        [L, H, D], written.
    """
    inputs, grads = (grad_out, q, k, v, cu_seqlens, _base(rope_base)), (grad_q, grad_k, grad_v)
    if _on_gpu(q):
        _triton(max_seqlen).attention_backward(*inputs, max_seqlen, *grads)
    else:
        core.attention_backward(*inputs, *grads, thread_count(threads))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, rope_base: float | None, max_seqlen: int | None
    ) -> Tensor:
        return torch.ops.worldfast.attention(q, k, v, cu_seqlens, rope_base, max_seqlen)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.rope_base, ctx.max_seqlen = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        grad = _AttentionBackward.apply(grad_out, *ctx.saved_tensors, ctx.rope_base, ctx.max_seqlen)
        return *grad.unbind(1), None, None, None  # of [L, 3, H, D]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        out = _Attention.apply(*_fold(info.batch_size, in_dims, inputs))
        return out.unflatten(0, (info.batch_size, -1)), 0


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens: Tensor,
        rope_base: float | None,
        max_seqlen: int | None,
    ) -> Tensor:
        return torch.ops.worldfast.attention_backward(grad_out, q, k, v, cu_seqlens, rope_base, max_seqlen)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        raise NotImplementedError("attention: second derivatives are not implemented")

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Tensor, int]:
        grad = _AttentionBackward.apply(*_fold(info.batch_size, in_dims, inputs))
        return grad.unflatten(0, (info.batch_size, -1)), 0


def _fold(batch: int, in_dims: tuple, inputs: tuple) -> list:
    """Fold a batch dimension into the rows: [B, L, ...] -> [B L, ...], with one cu_seqlens for all."""
    *tensors, rope_base, max_seqlen = inputs
    *tensors, cu_seqlens = (
        x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, in_dims)
    )
    tokens = tensors[0].shape[1]
    if not _vouched(cu_seqlens, max_seqlen) and (cu_seqlens[:, -1] != tokens).any():
        raise ValueError(f"cu_seqlens: expected {tokens}, the number of tokens, as last entry of each")
    first = torch.arange(batch, dtype=torch.int32, device=cu_seqlens.device)[:, None] * tokens
    last = torch.full((1,), batch * tokens, dtype=torch.int32, device=cu_seqlens.device)
    cu_seqlens = torch.cat([(cu_seqlens[:, :-1] + first).flatten(), last])  # [B R + 1]
    return [*(x.flatten(0, 1) for x in tensors), cu_seqlens, rope_base, max_seqlen]


def _attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, rope_base: float | None, max_seqlen: int | None
) -> Tensor:
    out = q.new_empty(q.shape)
    for rows, part, longest in _stretches(cu_seqlens, len(q), max_seqlen):
        of_q, of_k, of_v = (_readable(x[part]) for x in (q, k, v))
        if rows is None:
            out[part] = attention_of_row(of_q, of_k, of_v, rope_base)
        else:
            attention_forward(of_q, of_k, of_v, rows, rope_base, out=out[part], max_seqlen=longest)
    return out


def _attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    rope_base: float | None,
    max_seqlen: int | None,
) -> Tensor:
    grad = q.new_empty(len(q), 3, *q.shape[1:])
    for rows, part, longest in _stretches(cu_seqlens, len(q), max_seqlen):
        given, of_q, of_k, of_v = (_readable(x[part]) for x in (grad_out, q, k, v))
        if rows is None:
            grad[part] = torch.stack(_row_backward(given, of_q, of_k, of_v, rope_base), 1)
        else:
            grads = dict(zip(("grad_q", "grad_k", "grad_v"), grad[part].unbind(1)))
            attention_backward(given, of_q, of_k, of_v, rows, rope_base, **grads, max_seqlen=longest)
    return grad


def _vouched(cu_seqlens: Tensor, max_seqlen: int | None) -> bool:
    """Return True if rows are taken on trust, so that nothing waits for a GPU."""
    return _on_gpu(cu_seqlens) and max_seqlen is not None and max_seqlen <= LONGEST_ON_GPU


def _stretches(
    cu_seqlens: Tensor, tokens: int, max_seqlen: int | None
) -> Iterator[tuple[Tensor | None, slice, int | None]]:
    """Yield (cu_seqlens from 0, its tokens, its longest row) for each stretch of rows that the device's kernels take,
    and (None, its tokens, their number) for each longer row.
    """
    cu_seqlens, limit = cu_seqlens.contiguous(), LONGEST_ON_GPU if _on_gpu(cu_seqlens) else core.attention_row_limit
    if _vouched(cu_seqlens, max_seqlen):
        yield cu_seqlens, slice(None), max_seqlen
        return
    starts = cu_seqlens.numpy(force=True)
    lengths = np.diff(starts)
    if starts[0] != 0 or starts[-1] != tokens or lengths.min(initial=0) < 0:
        raise ValueError(
            f"cu_seqlens: expected token offsets that ascend from 0 to {tokens}, the tokens of q, got "
            f"{np.array2string(starts, threshold=12)}"
        )
    longest = int(lengths.max(initial=0))
    if max_seqlen is not None and longest > max_seqlen:
        raise ValueError(f"max_seqlen: expected at least {longest}, the longest row's tokens, got {max_seqlen}")
    if longest <= limit:  # as nearly always
        yield cu_seqlens, slice(None), longest
        return
    _say_long(limit)
    first = 0
    for row in [*np.flatnonzero(lengths > limit).tolist(), len(lengths)]:
        begin, end = int(starts[first]), int(starts[row])
        yield cu_seqlens[first : row + 1] - begin, slice(begin, end), limit
        if row < len(lengths):
            yield None, slice(end, int(starts[row + 1])), int(lengths[row])
        first = row + 1


def attention_of_row(q: Tensor, k: Tensor, v: Tensor, rope_base: float | None) -> Tensor:
    """Compute causal attention of one row by PyTorch, in the dtype of its arguments, [T, H, D] each."""
    q, k = _rotated(q, k, rope_base)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, T, D]
    with torch.autocast(q.device.type, enabled=False):
        return scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)


def weights_of_row(q: Tensor, k: Tensor, rope_base: float | None) -> Tensor:
    """Return the weights of causal attention of one row, of queries and keys [T, H, D]: float64 [H, T, T]."""
    q, k = _rotated(q.double(), k.double(), rope_base)
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[2])
    later = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(2)


def _rotated(q: Tensor, k: Tensor, rope_base: float | None) -> Sequence[Tensor]:
    if not rope_base:
        return q, k
    half = q.shape[2] // 2
    position = torch.arange(max(half, len(q)), dtype=torch.float64, device=q.device)
    rate = position[:half].div(-half).mul(math.log(rope_base)).exp()
    angle = position[: len(q), None, None] * rate  # [T, 1, D/2]
    cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
    pairs = (x.split(half, -1) for x in (q, k))
    return [torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in pairs]


def _row_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, rope_base: float | None) -> Sequence[Tensor]:
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        return torch.autograd.grad(attention_of_row(q, k, v, rope_base), (q, k, v), grad_out)


@functools.cache
def _say_long(limit: int) -> None:
    warnings.warn(f"attention: rows of more than {limit} tokens go to PyTorch's own attention", stacklevel=2)


def _readable(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.stride(-1) == 1 else x.contiguous()


_library = torch.library.Library("worldfast", "DEF")
_inputs = "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, float? rope_base, SymInt? max_seqlen"
_library.define(f"attention({_inputs}) -> Tensor")
_library.define(f"attention_backward(Tensor grad_out, {_inputs}) -> Tensor")
for _device in ("CPU", "CUDA"):
    _library.impl("attention", _attention, _device)
    _library.impl("attention_backward", _attention_backward, _device)


@torch.library.register_fake("worldfast::attention", lib=_library)
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, rope_base: float | None, max_seqlen: int | None) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.register_fake("worldfast::attention_backward", lib=_library)
def _(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    rope_base: float | None,
    max_seqlen: int | None,
) -> Tensor:
    return q.new_empty(q.shape[0], 3, *q.shape[1:])


# ---- checks beyond those of the native core ----

_DTYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64


def _base(rope_base: float | None) -> float:
    if rope_base is None:
        return 0.0
    if not 0 < rope_base < math.inf:
        raise ValueError(f"rope_base: expected a positive number, or None for no RoPE, got {rope_base}")
    return float(rope_base)


def _on_gpu(x: Tensor) -> bool:
    if x.device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(f"{x.device.type}: attention is built for the CPU and CUDA; move its tensors")
    return x.device.type == "cuda"


def _triton(max_seqlen: int | None) -> Any:
    """Return the GPU kernels, for rows of at most max_seqlen tokens."""
    if max_seqlen is None or not 0 <= max_seqlen <= LONGEST_ON_GPU:
        raise ValueError(f"max_seqlen: expected 0 to {LONGEST_ON_GPU}, the longest row's tokens, got {max_seqlen}")
    from worldfast.kernels import attention as kernels

    return kernels

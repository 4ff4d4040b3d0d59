"""Operations for torch that others may want by themselves.

    attention                                differentiable, under every transform of torch
    attention_forward  attention_backward    its halves, for a gradient that is written out by hand: they
                                             write where they are told to and record nothing

Float32 on the CPU; a tensor on another device is a NotImplementedError until its kernel is there. Results do
not depend on the number of threads. threads=None is torch's number of threads.

L tokens, R rows, H heads, D a head's size.
"""

from __future__ import annotations

import functools
import math
import warnings

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from worldfast._native import core, expect, thread_count

__all__ = ["attention", "attention_backward", "attention_forward"]


# ---- attention ----


def attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, rope_base: float | None = 10_000.0
) -> Tensor:
    """Causal attention within packed rows, with rotary position embedding (RoPE). Differentiable in q, k, v.

    q, k, v      float32 [L, H, D]; D a multiple of 8 from 8 to 128. Slices of one fused [L, 3, H, D] are not
                 copied, and their gradients are slices of one
    cu_seqlens   int32 [R + 1], from 0 to L: row r is tokens cu_seqlens[r]:cu_seqlens[r + 1]
    rope_base    base of RoPE as in Hugging Face's Qwen2: position p of a row turns dimensions d and d + D/2
                 by p * rope_base ** (-2 d / D). None: no RoPE
    returns      float32 [L, H, D]: softmax(q k' / sqrt(D)) v over a row's tokens up to each

    Rows of more than 128 tokens go to PyTorch's own attention; the first time, a warning says so.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect(name, x, [torch.float32], 3)
        _cpu(x)
        if x.shape != q.shape:
            raise ValueError(f"{name}: expected the shape of q, {list(q.shape)}, got {list(x.shape)}")
    if q.shape[2] % 8 or not 8 <= q.shape[2] <= 128:
        raise ValueError(f"q: expected a head size that is a multiple of 8 from 8 to 128, got {q.shape[2]}")
    expect("cu_seqlens", cu_seqlens, [torch.int32], 1)
    _cpu(cu_seqlens)
    _base(rope_base)
    return _Attention.apply(q, k, v, cu_seqlens, rope_base)


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, rope_base: float | None = 10_000.0, *,
    out: Tensor | None = None, threads: int | None = None,
) -> Tensor:  # fmt: skip
    """`attention` into `out` [L, H, D]; a row of more than 128 tokens is a ValueError.

    Arrays may have any strides with a last one of 1.
    """
    _cpu(q)
    out = q.new_empty(q.shape) if out is None else out
    core.attention_forward(q, k, v, cu_seqlens, _base(rope_base), out, thread_count(threads))
    return out


def attention_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, rope_base: float | None = 10_000.0,
    *, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, threads: int | None = None,
) -> None:  # fmt: skip
    """Sets grad_q, grad_k, grad_v [L, H, D]. Of the forward pass nothing is needed but its inputs."""
    grads = grad_q, grad_k, grad_v
    _cpu(q)
    core.attention_backward(grad_out, q, k, v, cu_seqlens, _base(rope_base), *grads, thread_count(threads))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, cu_seqlens, rope_base):
        return torch.ops.worldfast.attention(q, k, v, cu_seqlens, rope_base)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.rope_base = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad_out):
        grad = _AttentionBackward.apply(grad_out, *ctx.saved_tensors, ctx.rope_base)  # [L, 3, H, D]
        return *grad.unbind(1), None, None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        out = _Attention.apply(*_fold(info.batch_size, in_dims, inputs))
        return out.unflatten(0, (info.batch_size, -1)), 0


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(grad_out, q, k, v, cu_seqlens, rope_base):
        return torch.ops.worldfast.attention_backward(grad_out, q, k, v, cu_seqlens, rope_base)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("attention: second derivatives are not implemented")

    @staticmethod
    def vmap(info, in_dims, *inputs):
        grad = _AttentionBackward.apply(*_fold(info.batch_size, in_dims, inputs))
        return grad.unflatten(0, (info.batch_size, -1)), 0


def _fold(batch: int, in_dims, inputs) -> list:
    """A batch of packed rows is packed rows: [B, L, ...] -> [B L, ...], with one cu_seqlens for all."""
    *tensors, rope_base = inputs
    *tensors, cu_seqlens = (
        x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, in_dims)
    )
    tokens = tensors[0].shape[1]
    if (cu_seqlens[:, -1] != tokens).any():
        raise ValueError(f"cu_seqlens: expected {tokens}, the number of tokens, as last entry of each")
    first = torch.arange(batch, dtype=torch.int32, device=cu_seqlens.device)[:, None] * tokens
    last = torch.full((1,), batch * tokens, dtype=torch.int32, device=cu_seqlens.device)
    cu_seqlens = torch.cat([(cu_seqlens[:, :-1] + first).flatten(), last])  # [B R + 1]
    return [*(x.flatten(0, 1) for x in tensors), cu_seqlens, rope_base]


def _attention(q, k, v, cu_seqlens, rope_base):
    out = q.new_empty(q.shape)
    for rows, part, short in _stretches(cu_seqlens, len(q)):
        inputs = [_readable(x[part]) for x in (q, k, v)]
        if short:
            attention_forward(*inputs, rows, rope_base, out=out[part])
        else:
            out[part] = _long_row(*inputs, rope_base)
    return out


def _attention_backward(grad_out, q, k, v, cu_seqlens, rope_base):
    grad = q.new_empty(len(q), 3, *q.shape[1:])
    for rows, part, short in _stretches(cu_seqlens, len(q)):
        g, *inputs = (_readable(x[part]) for x in (grad_out, q, k, v))
        if short:
            grad_q, grad_k, grad_v = grad[part].unbind(1)
            attention_backward(g, *inputs, rows, rope_base, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
        else:
            with torch.enable_grad():
                inputs = [x.requires_grad_() for x in inputs]
                grad[part] = torch.stack(torch.autograd.grad(_long_row(*inputs, rope_base), inputs, g), 1)
    return grad


def _stretches(cu_seqlens: Tensor, tokens: int):
    """(cu_seqlens from 0, tokens, whether short) of each stretch of short rows and of each long row."""
    limit = core.attention_row_limit
    long = (cu_seqlens.diff() > limit).nonzero().flatten().tolist()
    if not long:  # as nearly always; a faulty cu_seqlens goes to the native core, which says what is wrong
        yield cu_seqlens, slice(None), True
        return
    _say_long(limit)
    if (cu_seqlens.diff() < 0).any() or cu_seqlens[0] != 0 or cu_seqlens[-1] != tokens:
        raise ValueError(
            f"cu_seqlens: expected token offsets that ascend from 0 to {tokens}, the tokens of q"
        )
    next_row = 0
    for row in [*long, len(cu_seqlens) - 1]:
        begin, end = int(cu_seqlens[next_row]), int(cu_seqlens[row])
        yield cu_seqlens[next_row : row + 1] - begin, slice(begin, end), True
        if row < len(cu_seqlens) - 1:
            yield None, slice(end, int(cu_seqlens[row + 1])), False
        next_row = row + 1


def _long_row(q, k, v, rope_base):
    """Attention of one row [T, H, D] by PyTorch."""
    if rope_base:
        half = q.shape[2] // 2
        rate = torch.arange(half, dtype=torch.float64).div(-half).mul(math.log(rope_base)).exp()
        angle = torch.arange(len(q), dtype=torch.float64)[:, None, None] * rate  # [T, 1, D/2]
        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        pairs = (x.split(half, -1) for x in (q, k))
        q, k = (torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in pairs)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, T, D]
    return scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)


@functools.cache
def _say_long(limit: int) -> None:
    warnings.warn(f"attention: rows of more than {limit} tokens go to PyTorch's own attention", stacklevel=2)


def _readable(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.stride(-1) == 1 else x.contiguous()


_library = torch.library.Library("worldfast", "DEF")
_inputs = "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, float? rope_base"
_library.define(f"attention({_inputs}) -> Tensor")
_library.define(f"attention_backward(Tensor grad_out, {_inputs}) -> Tensor")
_library.impl("attention", _attention, "CPU")
_library.impl("attention_backward", _attention_backward, "CPU")


@torch.library.register_fake("worldfast::attention", lib=_library)
def _(q, k, v, cu_seqlens, rope_base):
    return q.new_empty(q.shape)


@torch.library.register_fake("worldfast::attention_backward", lib=_library)
def _(grad_out, q, k, v, cu_seqlens, rope_base):
    return q.new_empty(q.shape[0], 3, *q.shape[1:])


# ---- checks; the native core makes the others ----


def _base(rope_base: float | None) -> float:
    if rope_base is None:
        return 0.0
    if not (math.isfinite(rope_base) and rope_base > 0):
        raise ValueError(f"rope_base: expected a positive number, or None for no RoPE, got {rope_base}")
    return float(rope_base)


def _cpu(x: Tensor) -> None:
    if x.device.type != "cpu":
        raise NotImplementedError(
            f"{x.device.type}: this kernel is built for the CPU only; move its tensors there"
        )

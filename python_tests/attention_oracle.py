"""Attention in the dtype of its inputs by PyTorch's math path, exactly, and how far ours may be from it."""

import importlib

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from vectors import WIDTHS, vectors_of

ops = importlib.import_module("worldfast.models.attention")  # the room's own `attention` is the function


def packed(lengths, heads=2, head_dim=32, seed=0, dtype=torch.float32):
    """qkv [L, 3, H, D], grad_out [L, H, D], cu_seqlens"""
    random = torch.Generator().manual_seed(seed)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    qkv = torch.randn(int(cu_seqlens[-1]), 3, heads, head_dim, generator=random)
    grad_out = torch.randn(len(qkv), heads, head_dim, generator=random)
    return qkv.to(dtype), grad_out.to(dtype), cu_seqlens


def rotate(x, base):
    """RoPE of rows of one length [R, T, H, D], Hugging Face's rotate_half."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1]).double()[:, None] / base ** (torch.arange(half).double() / half)  # [T, D/2]
    angle = torch.cat([angle, angle], -1)[:, None]  # [T, 1, D]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def attention_reference(q, k, v, cu_seqlens, rope_base=10_000.0):
    """Rows of one length after those of another through PyTorch's math path, in the dtype of q."""
    lengths, places, out = cu_seqlens.diff(), [], []
    for length in lengths.unique().tolist():
        at = cu_seqlens[:-1][lengths == length][:, None] + torch.arange(length)  # [R, T]
        rows = [x[at] for x in (q, k, v)]  # [R, T, H, D]
        if rope_base:
            rows[:2] = (rotate(x, rope_base) for x in rows[:2])
        with sdpa_kernel(SDPBackend.MATH):
            mixed = scaled_dot_product_attention(*(x.transpose(1, 2) for x in rows), is_causal=True)
        places.append(at.flatten())
        out.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)[torch.cat(places).argsort()]


def both_ways(attention, qkv, grad_out, *args):
    """Output [L, H, D] and gradient [L, 3, H, D]."""
    qkv = qkv.clone().requires_grad_()
    out = attention(*qkv.unbind(1), *args)
    out.backward(grad_out.to(out.dtype))
    return out.detach(), qkv.grad


def longer_double(qkv, grad_out, cu_seqlens, rope_base=10_000.0):
    """Output [L, H, D] and gradient [L, 3, H, D] by the formulas, in numpy's longdouble."""
    size = qkv.shape[-1]
    qkv, grad_out = (x.double().numpy().astype(np.longdouble) for x in (qkv, grad_out))
    out, grad = np.empty_like(grad_out), np.empty_like(qkv)
    rate = np.longdouble(rope_base or 1) ** -(np.arange(size // 2, dtype=np.longdouble) / (size // 2))
    for begin, end in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist()):
        angle = np.arange(end - begin)[:, None] * rate * bool(rope_base)  # [T, D/2]
        turn = (np.cos(angle) + 1j * np.sin(angle))[:, None]  # [T, 1, D/2]: dimensions d and d + D/2 are complex

        def turned(x, turn):
            z = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turn
            return np.concatenate([z.real, z.imag], -1).transpose(1, 0, 2)  # [H, T, D]

        q, k, v = (qkv[begin:end, i] for i in range(3))
        q, k, v, g = (turned(q, turn), turned(k, turn), v.transpose(1, 0, 2), grad_out[begin:end].transpose(1, 0, 2))
        score = np.where(np.tri(end - begin, dtype=bool), q @ k.transpose(0, 2, 1), -np.inf)  # [H, T, T]
        scale = 1 / np.sqrt(np.longdouble(size))
        p = np.exp((score - score.max(-1, keepdims=True, initial=-np.inf)) * scale)
        p /= p.sum(-1, keepdims=True)
        d = g @ v.transpose(0, 2, 1)
        d = p * (d - (p * d).sum(-1, keepdims=True)) * scale
        out[begin:end] = (p @ v).transpose(1, 0, 2)
        for i, x in enumerate((d @ k, d.transpose(0, 2, 1) @ q)):
            grad[begin:end, i] = turned(x.transpose(1, 0, 2), turn.conj()).transpose(1, 0, 2)
        grad[begin:end, 2] = (p.transpose(0, 2, 1) @ g).transpose(1, 0, 2)
    return out, grad


def exactly(qkv, grad_out, *args):
    """Output and gradient in a type so wide that neither contestant's rounding shows in it."""
    if qkv.dtype == torch.float64:
        return longer_double(qkv, grad_out, *args)
    return [x.numpy() for x in both_ways(attention_reference, qkv.double(), grad_out.double(), *args)]


def assert_as_good(qkv, grad_out, *args):
    """Output and gradients err at most three times what PyTorch errs in that dtype, which depends on the processor, or
    by the result's rounding.
    """
    exact = exactly(qkv, grad_out, *args)
    plain = both_ways(attention_reference, qkv, grad_out, *args)
    rounding = torch.finfo(qkv.dtype).eps / 2
    for width in WIDTHS:
        with vectors_of(width):
            ours = both_ways(ops.attention, qkv, grad_out, *args)
        assert ours[0].dtype == ours[1].dtype == qkv.dtype
        for i, name in enumerate(("out", "grad_q", "grad_k", "grad_v")):
            e, p, o = (x[0] if i == 0 else x[1][:, i - 1] for x in (exact, plain, ours))
            p, o = (np.abs(x.double().numpy() - e).max() for x in (p, o))
            allowed = 3 * p + rounding * np.abs(e).max()
            assert o <= allowed, f"{name}, width {width}: errs by {o:.2e}, allowed {allowed:.2e}"

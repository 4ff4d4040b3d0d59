"""What a transformer does between its matrix products, besides attention, by the native core, and its optimizer.

The core's own pass over a tile (csrc/transformer/transformer.h) calls the same kernels; here they are for torch, one by one.

    rms_norm  swiglu  cross_entropy                differentiable
    *_forward  *_backward  cross_entropy_          their halves, for a gradient that is written out by hand:
                                                   they write where they are told to and record nothing
    adamw_  gradient_norm                          the optimizer's passes over an ensemble's parameters

All are float32 on the CPU; a tensor on another device is a NotImplementedError (worldfast.kernels has a GPU's).
Results depend on neither the number of threads nor the other members. threads=None is torch's number of
threads.

L tokens, M members, D the model's width, F the MLP's, K positions, V classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldfast._native import core, expect, thread_count

__all__ = [
    "adamw_",
    "cross_entropy",
    "cross_entropy_",
    "gradient_norm",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
    "swiglu",
    "swiglu_backward",
    "swiglu_forward",
]


# ---- RMSNorm ----


def rms_norm(x: Tensor, weight: Tensor, offsets: Sequence[int], eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, each token with its member's. Differentiable in x and weight.

    x         float32 [L, D]
    weight    float32 [M, D]
    offsets   M + 1 integers from 0 to L: member m owns tokens offsets[m]:offsets[m + 1]
    returns   float32 [L, D]
    """
    _matrix("x", x)
    _matrix("weight", weight)
    return _RmsNorm.apply(x, weight, offsets, eps)


def rms_norm_forward(
    x: Tensor,
    weight: Tensor,
    offsets: Sequence[int],
    eps: float = 1e-6,
    *,
    out: Tensor | None = None,
    scale: Tensor | None = None,
    threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`rms_norm` into `out` [L, D]; into `scale` [L], for the gradient, 1 / sqrt(mean(x^2) + eps)."""
    _cpu(x)
    out = x.new_empty(x.shape) if out is None else out
    scale = x.new_empty(len(x)) if scale is None else scale
    core.rms_norm_forward(x, weight, offsets, eps, out, scale, thread_count(threads))
    return out, scale


def rms_norm_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    offsets: Sequence[int],
    *,
    grad_x: Tensor,
    grad_weight: Tensor,
    threads: int | None = None,
) -> None:
    """Adds to grad_x [L, D] and grad_weight [M, D]; a member's tokens are summed in a fixed order."""
    _cpu(x)
    core.rms_norm_backward(grad_out, x, weight, scale, offsets, grad_x, grad_weight, thread_count(threads))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, offsets, eps):
        x, weight = x.detach().contiguous(), weight.detach().contiguous()
        out, scale = rms_norm_forward(x, weight, offsets, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.offsets = offsets
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        x, weight, scale = ctx.saved_tensors
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        rms_norm_backward(grad_out.contiguous(), x, weight, scale, ctx.offsets, grad_x=grad_x, grad_weight=grad_weight)
        return grad_x, grad_weight, None, None


# ---- SwiGLU ----


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where gate_up float32 [L, 2F] is gate beside up. Returns [L, F]. Differentiable."""
    _matrix("gate_up", gate_up)
    return _SwiGLU.apply(gate_up)


def swiglu_forward(gate_up: Tensor, *, out: Tensor | None = None, threads: int | None = None) -> Tensor:
    """`swiglu` into `out` [L, F]."""
    _cpu(gate_up)
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2) if out is None else out
    core.swiglu_forward(gate_up, out, thread_count(threads))
    return out


def swiglu_backward(
    grad_out: Tensor,
    gate_up: Tensor,
    *,
    grad_gate_up: Tensor | None = None,
    out: Tensor | None = None,
    threads: int | None = None,
) -> Tensor:
    """The gradient at gate_up [L, 2F]. `out`, if given, is set to swiglu(gate_up): it need not be kept."""
    _cpu(gate_up)
    grad_gate_up = gate_up.new_empty(gate_up.shape) if grad_gate_up is None else grad_gate_up
    core.swiglu_backward(grad_out, gate_up, grad_gate_up, out, thread_count(threads))
    return grad_gate_up


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        gate_up = gate_up.detach().contiguous()
        ctx.save_for_backward(gate_up)
        return swiglu_forward(gate_up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        return swiglu_backward(grad_out.contiguous(), *ctx.saved_tensors)


# ---- loss ----


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits[k])[targets[k]] at each position. Differentiable in logits.

    logits    float32 [K, V]
    targets   int64 or int32 [K], 0 to V - 1; else IndexError
    returns   float32 [K]
    """
    _matrix("logits", logits)
    return _CrossEntropy.apply(logits, targets)


def cross_entropy_(logits: Tensor, targets: Tensor, *, threads: int | None = None) -> Tensor:
    """`cross_entropy`, which leaves in `logits` its gradient, softmax(logits) - one_hot(targets)."""
    _cpu(logits)
    loss = logits.new_empty(len(logits))
    core.cross_entropy(logits, _targets(targets), loss, logits, thread_count(threads))
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        logits = logits.detach().contiguous()
        loss, grad = logits.new_empty(len(logits)), torch.empty_like(logits)
        core.cross_entropy(logits, _targets(targets), loss, grad, thread_count(None))
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        return ctx.saved_tensors[0] * grad_loss[:, None], None


def _targets(targets: Tensor) -> Tensor:
    """Token ids come as int32, torch's own as int64."""
    return targets.long() if isinstance(targets, Tensor) and targets.dtype == torch.int32 else targets


# ---- optimizer ----


def adamw_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    decay_mask: Tensor,
    learning_rate: Sequence[float],
    step: Sequence[int],
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    grad_scale: Sequence[float],
    *,
    threads: int | None = None,
) -> None:
    """One AdamW step of every member in place, as torch.optim.AdamW does it (decoupled weight decay).

    param, grad, exp_avg, exp_avg_sq   float32 [M, P], contiguous; all but grad are written
    decay_mask                         float32 [P], 1 where weight_decay applies, else 0
    learning_rate, step, grad_scale    one for each member; step counts from 1; the gradient is multiplied by
                                       grad_scale
    """
    _cpu(param)
    core.adamw(
        param,
        grad,
        exp_avg,
        exp_avg_sq,
        decay_mask,
        list(map(float, learning_rate)),
        list(map(int, step)),
        weight_decay,
        beta1,
        beta2,
        eps,
        list(map(float, grad_scale)),
        thread_count(threads),
    )


def gradient_norm(grad: Tensor, *, threads: int | None = None) -> Tensor:
    """The Euclidean norm of each member's gradient, float32 [M, P] -> float64 [M]."""
    _cpu(grad)
    return torch.tensor(core.gradient_norm(grad, thread_count(threads)), dtype=torch.float64)


# ---- checks; the native core makes the others ----


def _cpu(x: Tensor) -> None:
    if x.device.type != "cpu":
        raise NotImplementedError(f"{x.device.type}: this kernel is built for the CPU only; move its tensors there")


def _matrix(name: str, x: Tensor) -> None:
    expect(name, x, [torch.float32], 2)
    _cpu(x)

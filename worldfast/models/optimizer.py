"""Optimizer passes over an ensemble's parameters, by the native core: float32 on the CPU.

Results depend on neither the number of threads nor the other members. threads=None means torch's number of threads. M
members, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldfast._native import core, thread_count


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
    members: Sequence[int] | None = None,
    threads: int | None = None,
) -> None:
    """Take one AdamW step of members in place, as torch.optim.AdamW does (decoupled weight decay).

    Parameters
    ----------
    param, grad, exp_avg, exp_avg_sq : Tensor
        float32 [M, P], contiguous; all but `grad` are written.
    decay_mask : Tensor
        float32 [P], 1 where `weight_decay` applies, otherwise 0.
    learning_rate, step, grad_scale : sequence of numbers
        One for each member; `step` counts from 1; the gradient is multiplied by `grad_scale`.
    weight_decay, beta1, beta2, eps : float
        As in torch.optim.AdamW.
    members : sequence of int, optional
        Those that take it, ascending; None means all of them.
    threads : int, optional

    Raises
    ------
    NotImplementedError
        The parameters are not on the CPU.
    TypeError, ValueError, IndexError
        An array has the wrong dtype or shape, there is not one number for each of these members, or one is not there.
    """
    _cpu(param)
    core.adamw(
        *map(_array, (param, grad, exp_avg, exp_avg_sq, decay_mask)),
        _members(param, members),
        list(map(float, learning_rate)),
        list(map(int, step)),
        weight_decay,
        beta1,
        beta2,
        eps,
        list(map(float, grad_scale)),
        thread_count(threads),
    )


def gradient_norm(grad: Tensor, *, members: Sequence[int] | None = None, threads: int | None = None) -> Tensor:
    """Return the Euclidean norm of members' gradients, all by default: float32 [M, P] -> float64 [M], or as many."""
    _cpu(grad)
    norms = core.gradient_norm(_array(grad), _members(grad, members), thread_count(threads))
    return torch.from_numpy(np.array(norms, np.float64))


def _members(x: Tensor, members: Sequence[int] | None) -> list[int]:
    return list(range(len(x)) if members is None else members)


def _array(x: Tensor) -> Tensor | np.ndarray:
    """Return a tensor as an array, which is handed over in a tenth of the time; else itself, for the core to refuse."""
    return x.numpy() if x.dtype == torch.float32 and not x.requires_grad else x


def _cpu(x: Tensor) -> None:
    if x.device.type != "cpu":
        raise NotImplementedError(f"{x.device.type}: this kernel is built for the CPU only; move its tensors there")

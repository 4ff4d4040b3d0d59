"""Losses at scored positions, for families whose gradients come from autograd."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from worldfast.rows import require_loss


def position_losses(loss: str, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the loss at each position.

    Parameters
    ----------
    loss : {"cross_entropy", "binary_cross_entropy", "mean_square", "tanh_square"}
        -log softmax(outputs)[target]; the binary cross entropies of sigmoid(outputs) and targets from 0 to 1, summed
        over outputs; or half the squared differences, summed over outputs.
    outputs : Tensor
        [K, outputs].
    targets : Tensor
        Classes, int64 [K], for cross entropy, otherwise numbers [K, outputs].
    weights : Tensor, optional
        [K, outputs], factors of what is summed over outputs; None means ones.

    Returns
    -------
    Tensor
        [K], of the dtype of `outputs`.
    """
    if require_loss(loss) == "cross_entropy":
        return functional.cross_entropy(outputs, targets.long(), reduction="none")
    targets = targets.to(outputs.dtype)
    if loss == "binary_cross_entropy":
        each = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    else:
        each = ((outputs.tanh() if loss == "tanh_square" else outputs) - targets).square()
    summed = (each if weights is None else each * weights.to(each.dtype)).sum(1)
    return summed if loss == "binary_cross_entropy" else summed / 2


def summed_loss(loss: str, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the sum of weighted losses over positions.

    Each loss is computed in the dtype of `outputs` and added in float64.

    Parameters
    ----------
    loss, outputs, targets
        As for `position_losses`.
    weights : Tensor, optional
        Factors of the losses, [K], or of those of each output, [K, outputs]; None means ones.

    Returns
    -------
    Tensor
        float64 scalar.
    """
    if weights is not None and weights.ndim == 2:
        return position_losses(loss, outputs, targets, weights).double().sum()
    each = position_losses(loss, outputs, targets).double()
    return (each if weights is None else each * weights.double()).sum()

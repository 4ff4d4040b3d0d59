"""Parameters of a member in one flat buffer: every tensor begins at a multiple of 64 bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

ALIGN = 16  # numbers, so 64 bytes of float32, in every member of an ensemble


def buffer_size(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return P, the size of a buffer that holds tensors of these shapes and the gaps of alignment."""
    return sum(-(-math.prod(shape) // ALIGN) * ALIGN for shape in shapes)


def tensors_in(buffer: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return views of a buffer [..., P], one [..., *shape] for each of `shapes`.

    The buffer is split once, so that autograd assembles the gradients of all views in one pass over P.
    """
    parts = buffer.split([buffer_size([shape]) for shape in shapes], -1)
    return [part[..., : math.prod(shape)].unflatten(-1, shape) for part, shape in zip(parts, shapes)]

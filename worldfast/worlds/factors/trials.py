"""Trials as arrays and as rows that models learn: a stream."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from worldfast._native import core, thread_count
from worldfast.arrays import numbers
from worldfast.errors import number, whole
from worldfast.rows import Rows, key_of, require_batch
from worldfast.worlds.factors.questions import encoder

__all__ = ["NOISES", "Drawn", "Trials", "deviation"]

NOISES = {"isotropic": 0, "anisotropic": 0, "gumbel": 1, "ar1": 2, "encoded": 3}  # and their numbers in the core
MOST_EVIDENCE = core.trial_limits["evidence"]
LEAST_NOISE, MOST_NOISE = core.trial_limits["sigma"]


def deviation(sigma: Any) -> float:
    """Return a standard deviation of noise as a float.

    Raises
    ------
    TypeError, ValueError
        It is no number, or so small or so large that trials would not say what it is.
    """
    found = number("sigma", sigma)
    if not LEAST_NOISE <= found <= MOST_NOISE:
        raise ValueError(
            f"sigma: expected a number from {LEAST_NOISE:g} to {MOST_NOISE:,g}, got {sigma}: what a model reads is "
            "float32, in which smaller noise is lost in rounding, and larger noise hides the points, which lie within "
            "1/2 of 0"
        )
    return found


class Drawn(NamedTuple):
    """Trials as arrays.

    Attributes
    ----------
    inputs : ndarray
        float32 [n, T, width].
    targets : ndarray
        float32 [n, T, N], or [n, 1, N] of the decision alone.
    latents : ndarray
        float32 [n, D].
    """

    inputs: np.ndarray
    targets: np.ndarray
    latents: np.ndarray


class Trials:
    """Trials of a dataset, seed and split: a worldfast.rows.Stream.

    Parameters
    ----------
    data : Dataset
    seed : int
    split : str
    sigma : float, optional
        Standard deviation of the noise, as of a dataset, or 0: none; by default, that of the dataset.

    Raises
    ------
    TypeError, ValueError
        sigma is no such number.
    """

    def __init__(self, data: Any, seed: int, split: str = "train", sigma: float | None = None):
        self.data, self.shape, self.rows, self.longest = data, data.shape, data.rows, data.longest
        self.sigma = data.sigma if sigma is None else number("sigma", sigma) and deviation(sigma)
        asked = data.asked
        scale = np.full(data.dims, self.sigma)
        if data.noise == "anisotropic":
            scale[1] *= 2
        rule = {
            "key": key_of("trials", whole("seed", seed), split),
            "steps": data.steps,
            "block": data.block if data.questions == "context" else 0,
            "noise": NOISES[data.noise],
            "correlation": data.correlation,
            "square": data.encoder == "square",
            "free": data.reaction == "free",
            "truncated": data.truncated,
            "every": data.target == "every",
        }
        layers = encoder(data.dims, data.draw) if data.encoder else ()
        self._given = rule, list(layers), asked.boundary, asked.threshold, scale

    def drawn(self, start: int, n: int, points: np.ndarray | None = None) -> Drawn:
        """Return trials `start` to `start + n`.

        Parameters
        ----------
        start, n : int
        points : ndarray, optional
            [n, D], latent points in place of those that are drawn; noise, and the question asked by context, are those
            of the trials all the same.

        Raises
        ------
        TypeError, ValueError
            As from `worldfast.rows.require_batch`, or the points are not so many finite numbers.
        """
        start, n = require_batch(start, n, self.longest)
        targets = self.longest if self.data.target == "every" or self.data.reaction == "free" else 1
        made = Drawn(
            np.empty((n, self.longest, self.shape.inputs), np.float32),
            np.empty((n, targets, self.data.n), np.float32),
            np.empty((n, self.data.dims), np.float32),
        )
        rule, *given = self._given
        if points is not None:
            made.latents[:] = numbers(points, "points", (n, self.data.dims)).array()
        core.trials(rule | {"given": points is not None}, *given, start, n, *made, thread_count(None))
        return made

    def batch(self, start: int, n: int) -> Rows:
        """Return rows `start` to `start + n` as a model learns them; the loss is a mean over questions."""
        drawn, N = self.drawn(start, n), self.data.n
        every = drawn.targets.shape[1] > 1
        rows = self.packed(drawn.inputs, _scored(n, self.longest, every))
        targets, factor = torch.from_numpy(drawn.targets.reshape(-1, N)), 1
        if self.data.squashed != "logistic":
            factor = 2  # a mean square is twice the loss of that name
        if self.data.squashed == "tanh" and self.data.reaction == "fixed":
            targets = 2 * targets - 1
        elif self.data.squashed == "tanh":
            targets, factor = targets / MOST_EVIDENCE, factor * MOST_EVIDENCE**2
        if self.data.questions == "context":
            weights = factor * rows.inputs[rows.scored, -2:]
        else:
            weights = _equal(len(targets), factor / N)
        return rows._replace(targets=targets, weights=weights)

    def packed(self, inputs: np.ndarray, scored: np.ndarray | torch.Tensor) -> Rows:
        """Return trials [n, T, width] as rows, scored at positions of them all."""
        n, T, width = inputs.shape
        flat = torch.from_numpy(inputs.reshape(n * T, width))
        return Rows(flat, _row_start(n, T), torch.as_tensor(scored, device="cpu"))


# What batches of one size share.


@lru_cache(maxsize=16)
def _row_start(n: int, T: int) -> torch.Tensor:
    return torch.arange(n + 1, dtype=torch.int32, device="cpu") * T


@lru_cache(maxsize=16)
def _scored(n: int, T: int, every: bool) -> torch.Tensor:
    return torch.from_numpy(np.arange(n * T) if every else np.arange(1, n + 1) * T - 1)


@lru_cache(maxsize=16)
def _equal(n: int, weight: float) -> torch.Tensor:
    return torch.full((n,), weight, dtype=torch.float32, device="cpu")

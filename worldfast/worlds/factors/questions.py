"""Yes-no questions about a latent point, and the frozen encoder through which it is seen: both drawn from a seed."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from worldfast._native import core
from worldfast.arrays import numbers
from worldfast.rows import key_of

__all__ = ["CHANNELS", "KINDS", "THRESHOLDS", "Questions", "encoder", "normals", "questions", "share_beyond"]

KINDS = ("even", "random", "products", "context")
THRESHOLDS = {  # of |x1 x2|, by the number of questions: as many for each quadrant
    24: (0.005, 0.02, 0.04, 0.07, 0.11, 0.15),
    48: (0.005, 0.01, 0.018, 0.027, 0.04, 0.052, 0.07, 0.085, 0.105, 0.125, 0.15, 0.18),
}
HIDDEN, CHANNELS = 100, 40  # units of the encoder's hidden layers, and its outputs


class Questions(NamedTuple):
    """Questions to which a latent point x is answered with yes or no.

    Attributes
    ----------
    boundary : ndarray
        float64 [N, D]. The answer is yes if boundary . x > 0, where there is no threshold.
    threshold : ndarray
        float64 [N]; below 0: none. Otherwise the answer is yes if x1 and x2 have the signs of the boundary's, and
        |x1 x2| is above it.
    """

    boundary: np.ndarray
    threshold: np.ndarray

    def answers(self, x: np.ndarray) -> np.ndarray:
        """Return the answers to latent points [n, D], bool [n, N]."""
        x = numbers(x, "x", ("n", self.boundary.shape[1])).array()
        sides = x[:, None, :2] * self.boundary[:, :2] > 0
        product = sides.all(2) & (np.abs(x[:, 0] * x[:, 1])[:, None] > self.threshold)
        return np.where(self.threshold >= 0, product, (x[:, None] * self.boundary).sum(2) > 0)


def share_beyond(theta: float) -> float:
    """Return the share of the square that is in a given quadrant and has |x1 x2| above theta, 0 to 1/4."""
    a = 4 * theta  # twice each number is uniform from 0 to 1, and their product is above a with chance 1 - a + a ln a
    return (1 - a + a * np.log(a or 1)) / 4


def normals(n: int, dims: int, draw: int) -> np.ndarray:
    """Return the normals of n random hyperplanes before they have unit length, float64 [n, dims]."""
    return np.random.Generator(np.random.Philox(key_of("hyperplanes", draw))).standard_normal((n, dims))


def questions(kind: str, n: int, dims: int, draw: int, thresholds: tuple[float, ...] = ()) -> Questions:
    """Return n questions of a kind.

    Parameters
    ----------
    kind : {"even", "random", "products", "context"}
        x2 > tan((i + 1/2) pi / n) x1; hyperplanes of random unit normals; thresholds of |x1 x2| in each quadrant; or
        x2 > x1 and x1 + x2 > 0.
    n, dims : int
        Questions and latent numbers.
    draw : int
        Seed of random hyperplanes.
    thresholds : tuple of float
        Those of products, of each quadrant.
    """
    if kind == "even":
        slope = np.tan((np.arange(n) + 0.5) * np.pi / n)
        boundary = np.stack([-slope, np.ones(n)], axis=1)
    elif kind == "random":
        boundary = normals(n, dims, draw)
        boundary /= np.sqrt((boundary**2).sum(1, keepdims=True))
    elif kind == "products":
        boundary = np.repeat(np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]), n // 4, axis=0)
        return Questions(boundary, np.tile(np.array(thresholds), 4))
    else:
        boundary = np.array([[-1.0, 1.0], [1.0, 1.0]])
    return Questions(boundary, np.full(len(boundary), -1.0))


@lru_cache(maxsize=64)
def encoder(dims: int, draw: int) -> tuple[np.ndarray, ...]:
    """Return weight [in, out] and bias [out] of the encoder's three layers, float32, each output beside the next.

    They are uniform up to 1 / sqrt(in), as in torch.nn.Linear. The native core wants units in multiples of 16; those
    that fill up have weights of 0.
    """
    random, found = np.random.Generator(np.random.Philox(key_of("encoder", draw))), []
    for reads, writes in ((dims, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CHANNELS)):
        for shape in ((reads, writes), (writes,)):
            filled = np.zeros((*shape[:-1], -(-writes // core.unit_block) * core.unit_block), np.float32)
            drawn = 2 * random.random(shape, dtype=np.float32) - 1
            filled[..., :writes] = drawn * np.float32(1 / np.sqrt(reads))
            filled.flags.writeable = False
            found.append(filled)
    return tuple(found)

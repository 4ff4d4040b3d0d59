"""Sampling of the next token from a model's logits, by a generator keyed by seed, row, draw and place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from worldfast.arrays import mixed
from worldfast.errors import number, whole

__all__ = ["Choice", "uniform"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Choice(NamedTuple):
    """Rule by which the next token is chosen from logits.

    Attributes
    ----------
    temperature : float
        Divisor of the logits; 0 takes the most likely token.
    top_k : int, optional
        Number of most likely tokens to draw from; of equal ones those of the lowest index. None draws from all.
    seed : int
        Seed of the draws.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def checked(self) -> Choice:
        """Return the choice; raises a TypeError or ValueError that names a field that does not fit."""
        temperature = number("temperature", self.temperature)
        if not 0 <= temperature < np.inf:
            raise ValueError(f"temperature: expected a number of at least 0, got {self.temperature}")
        top_k = None if self.top_k is None else whole("top_k", self.top_k, 1)
        return Choice(temperature, top_k, whole("seed", self.seed, 0, 2**64 - 1))

    def tokens(self, logits: np.ndarray, rows: np.ndarray, draws: np.ndarray, place: int) -> np.ndarray:
        """Return a token for each line of logits [n, H], int32 [n], at a place of an answer: 0 for its first token."""
        if self.temperature == 0:
            return logits.argmax(axis=1).astype(np.int32)
        logits = logits.astype(np.float64)
        shares = np.exp((logits - logits.max(axis=1, keepdims=True)) / self.temperature)
        if self.top_k is not None and self.top_k < shares.shape[1]:
            rest = np.argsort(-logits, axis=1, kind="stable")[:, self.top_k :]
            np.put_along_axis(shares, rest, 0, axis=1)
        until = np.cumsum(shares, axis=1)
        drawn = uniform(self.seed, rows, draws, place) * until[:, -1]
        over = (until <= drawn[:, None]).sum(axis=1)
        last = shares.shape[1] - 1 - (shares[:, ::-1] > 0).argmax(axis=1)  # rounding never leads beyond it
        return np.minimum(over, last).astype(np.int32)


def uniform(seed: int, rows: np.ndarray, draws: np.ndarray, place: int) -> np.ndarray:
    """Return numbers from 0 to below 1, float64 [n], a function of seed, row, draw and place."""
    with np.errstate(over="ignore"):
        state = mixed(np.array([seed], np.uint64) + GOLDEN)
        for part in (rows, draws, np.array([place])):
            state = mixed((state ^ mixed(np.asarray(part).astype(np.uint64))) + GOLDEN)
    return (state >> np.uint64(11)) * 2.0**-53


def answered(
    outputs: Callable[[list[np.ndarray]], np.ndarray],
    prompts: list[np.ndarray],
    rows: np.ndarray,
    draws: int,
    longest: int,
    choice: Choice,
    end: int,
) -> np.ndarray:
    """Draw answers token by token, each row computed anew: for models that keep nothing of a row.

    Parameters
    ----------
    outputs : callable
        Rows of tokens -> logits after the last of each, [n, H].
    prompts : list of ndarray
        Tokens of each of N prompts.
    rows : ndarray
        Integers [N], the row of each in the eyes of its random numbers.
    draws, longest : int
    choice : Choice
    end : int
        Token that ends an answer; -1 for none.

    Returns
    -------
    ndarray
        int32 [N, draws, longest], filled with `end` from the end of an answer on.
    """
    N = len(prompts)
    found = np.full((N * draws, longest), end, np.int32)
    row, draw, going = np.repeat(np.asarray(rows), draws), np.tile(np.arange(draws), N), np.arange(N * draws)
    for place in range(longest):
        if place == 0:  # the draws of a prompt begin alike
            logits = np.repeat(outputs(prompts), draws, axis=0)
        else:
            logits = outputs([np.append(prompts[i // draws], found[i, :place]) for i in going.tolist()])
        tokens = choice.tokens(logits, row[going], draw[going], place)
        found[going, place] = tokens
        going = going[tokens != end]
        if not len(going):
            break
    return found.reshape(N, draws, longest)

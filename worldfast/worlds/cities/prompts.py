"""Prompts about cities, as packed rows, and the tokens whose hidden states represent a city."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from worldfast.display import count
from worldfast.errors import one_of, several, typed, whole
from worldfast.rows import Rows
from worldfast.worlds.cities.tasks import Task, find
from worldfast.worlds.cities.tokens import BOS, Vocabulary

__all__ = ["PUBLISHED", "Prompt", "prompt_of"]

# readout of a model of six layers in arXiv 2602.00533: arguments of `represent`
PUBLISHED = {"layers": (3, 4, 5, 6), "positions": ("city", "delimiter"), "among": "city_id >= 1000"}

CITY = "{city}"


class Prompt:
    """Prompts about some cities, as packed rows, and the tokens whose hidden states represent each city.

    Rows with a common beginning stand together, so that a model computes that beginning once.

    Parameters
    ----------
    vocabulary : Vocabulary
    text : str
        Text after <bos>, with "{city}" once for the city's name: "dist({city},".
    cities : ndarray
        int [n], indices into the world.
    positions : sequence of int or str
        Tokens, by name ("city": the last of the city's; "delimiter": the one after it; "last": the last of the prompt)
        or number, from the front with <bos> as 0, or negative from the back.

    Attributes
    ----------
    text : str
        The prompt with c_dddd for the city.
    positions : tuple of int
        Numbers of the tokens.
    rows : Rows
        Row i is that of ``cities[order[i]]``; scored are the tokens at `positions`, each once, ascending.
    order : ndarray
        int [n].
    of_city : ndarray
        int [n * P], scored position of each city at each of `positions`.

    Raises
    ------
    ValueError
        The text does not have "{city}" exactly once, or a position is not in the prompt.
    """

    def __init__(self, vocabulary: Vocabulary, text: str, cities: np.ndarray, positions=("city", "delimiter")):
        typed("prompt", text, str, f"a text with {CITY} once, as in 'dist({CITY},'")
        positions = several("positions", positions, "names or numbers of tokens")
        if text.count(CITY) != 1:
            raise ValueError(f"prompt: expected a text with {CITY} once, as in 'dist({CITY},', got {text!r}")
        before, after = text.split(CITY)
        front, back = [BOS, *vocabulary.encode(before)], vocabulary.encode(after)
        names = vocabulary.tokens_of(cities)  # [n, 6] or [n, 1]
        parts = (np.tile(np.array(part, dtype=np.int32), (len(names), 1)) for part in (front, back))
        tokens = np.concatenate([next(parts), names, next(parts)], axis=1)  # [n, T]
        n, length = tokens.shape
        self.order = np.lexsort(tokens.T[::-1])  # [n]
        self.text = text.replace(CITY, "c_dddd")
        named = {"city": length - len(back) - 1, "delimiter": length - len(back), "last": length - 1}
        self.positions = tuple(_position(at, named, length, self.text) for at in positions)
        starts = np.arange(0, n * length + 1, length, dtype=np.int32)
        read = np.unique(self.positions)
        row = np.empty(n, dtype=np.int64)
        row[self.order] = np.arange(n)  # row of each city
        self.of_city = (row[:, None] * len(read) + np.searchsorted(read, self.positions)).ravel()
        scored = (starts[:-1, None] + read).ravel()
        self.rows = Rows(
            torch.from_numpy(tokens[self.order].ravel()),
            torch.from_numpy(starts),
            torch.from_numpy(scored.astype(np.int64)),
        )

    @staticmethod
    def of_task(vocabulary: Vocabulary, task: str, cities: np.ndarray) -> Prompt:
        """Return the published prompt: "dist({city},", read at the city's last token and the delimiter after it."""
        return Prompt(vocabulary, prompt_of(task), cities)


def prompt_of(task: str | Task) -> str:
    """Return the published prompt of a task as a text: "dist({city},"."""
    task = find(task)
    return f"{task.prompt}({CITY}{task.delimiter}"


def _position(at: int | str, named: Mapping[str, int], length: int, text: str) -> int:
    if isinstance(at, str):
        one_of("position", at, named)
        number = named[at]
    else:
        at = whole("positions", at)
        number = at + length if at < 0 else at
    if not 0 <= number < length:
        raise ValueError(
            f"positions: {at!r} is not in the prompt {text!r}, which has {count(length, 'token')} with <bos>"
        )
    return number

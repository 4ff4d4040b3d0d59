"""Prompts about cities, as packed rows, and the tokens whose hidden states represent a city."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from worldfast.errors import unknown_name
from worldfast.models import Ensemble
from worldfast.rows import Rows
from worldfast.worlds.cities.tasks import find
from worldfast.worlds.cities.tokens import BOS, Vocabulary

__all__ = ["Prompt"]

CITY = "{city}"


class Prompt:
    """A prompt about each of some cities, as packed rows, and the tokens whose hidden states represent the city.

    vocabulary   Vocabulary
    text         what follows <bos>, with "{city}" once where the city's name stands: "dist({city},"
    cities       int [n], indices into the world
    positions    of tokens, by name ("city": the last of the city's; "delimiter": the one behind it; "last": the last
                 of the prompt) or number, from the front with <bos> as 0, or from the back, below 0

    .text is the prompt with c_dddd for the city; .positions the numbers of the tokens; .rows the packed rows, row i for
    cities[order[i]]. Those that begin alike stand together, and the model computes what they share once. ValueError
    for a text without "{city}" or with two, or a position that there is not.
    """

    def __init__(self, vocabulary: Vocabulary, text: str, cities: np.ndarray, positions=("city", "delimiter")):
        if text.count(CITY) != 1:
            raise ValueError(f"prompt: expected a text with {CITY} once, as in 'dist({CITY},', got {text!r}")
        before, behind = text.split(CITY)
        front, back = [BOS, *vocabulary.encode(before)], vocabulary.encode(behind)
        rows = [front + vocabulary.city_tokens(city) + back for city in cities]
        tokens = np.array(rows, dtype=np.int32)  # [n, T]
        n, length = tokens.shape
        self.order = np.lexsort(tokens.T[::-1])  # [n]
        self.text = text.replace(CITY, "c_dddd")
        named = {"city": length - len(back) - 1, "delimiter": length - len(back), "last": length - 1}
        self.positions = tuple(_position(at, named, length, self.text) for at in positions)
        starts = np.arange(0, n * length + 1, length, dtype=np.int32)
        read = np.unique(self.positions)
        self.places = np.searchsorted(read, self.positions)  # of each position among those that are read
        scored = (starts[:-1, None] + read).ravel()
        self.rows = Rows(
            torch.from_numpy(tokens[self.order].ravel()),
            torch.from_numpy(starts),
            torch.from_numpy(scored.astype(np.int64)),
        )

    @staticmethod
    def of_task(vocabulary: Vocabulary, task: str, cities: np.ndarray) -> Prompt:
        """The published one: "dist({city},", read at the city's last token and the delimiter behind it."""
        return Prompt(vocabulary, prompt_of(task), cities)

    def read(self, ensemble: Ensemble, member: int, layers: Sequence[int]) -> dict[int, np.ndarray]:
        """The cities' representations in a member, float32 [n, positions x D] for each layer."""
        states = ensemble.states(self.rows, member, layers)  # [n x places, D] each
        n = len(self.order)
        found = {}
        for layer, state in zip(layers, states, strict=True):
            array = state.cpu().numpy().reshape(n, -1, state.shape[-1])[:, self.places].reshape(n, -1)
            found[layer] = np.empty_like(array)
            found[layer][self.order] = array
        return found


def prompt_of(task: str) -> str:
    """The published prompt of a task as a text: "dist({city},"."""
    task = find(task)
    return f"{task.prompt}({CITY}{task.delimiter}"


def _position(at: int | str, named: Mapping[str, int], length: int, text: str) -> int:
    if isinstance(at, str):
        if at not in named:
            raise unknown_name("position", at, named)
        number = named[at]
    else:
        number = at + length if at < 0 else at
    if not 0 <= number < length:
        raise ValueError(f"positions: {at!r} is not in the prompt {text!r}, which has {length} tokens with <bos>")
    return number

"""Rows of a stream as a model learns them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from worldfast.errors import one_of
from worldfast.rows import Packed, Rows, Shape
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream

if TYPE_CHECKING:
    from worldfast.worlds.cities.dataset import Dataset
    from worldfast.worlds.cities.tasks import Task

LOSSES = ("all", "answer")


class LearnedStream(Stream):
    """Stream of rows with the targets that a model learns: a worldfast.rows.Stream.

    Parameters
    ----------
    world, components, **options
        Those of `Stream`.
    loss : {"all", "answer"}
        Learn every token after the first, or those after '='.
    """

    def __init__(self, world, components, *, loss: str, **options):
        one_of("loss", loss, LOSSES)
        super().__init__(world, components, **options)
        self._asked["loss"] = loss
        self.answers_only = loss == "answer"
        self.shape = Shape(self.vocabulary.size, self.vocabulary.size)
        self.longest = self._native.width - 1  # the last token is an answer only

    def batch(self, start: int, n: int) -> Rows:
        """Return rows `start` to `start + n` as a model learns them."""
        return learned(self.pack(start, n), self.answers_only)


def task_stream(
    data: Dataset, task: str | Task, rows: int, seed: int, split: str = "train", *, among=None, must_include=None
) -> LearnedStream:
    """Return rows of one task in their own order, as models of a dataset learn them.

    Parameters
    ----------
    data : Dataset
        Its world, vocabulary, crossing and loss are those of the rows; it need not hold the task.
    task : str or Task
    rows, seed, split, among, must_include
        As for `sample`.
    """
    return LearnedStream(
        data.world.build(),
        [Component(data.task(task), rows, among, must_include)],
        seed=seed,
        split=split,
        vocabulary=data.vocabulary,
        shuffle=False,
        crossing=data.crossing,
        loss=data.loss,
    )


def learned(packed: Packed, answers_only: bool) -> Rows:
    """Return packed rows without their last tokens, which predict nothing, and with targets.

    Parameters
    ----------
    packed : Packed
    answers_only : bool
        Learn the tokens after '=' rather than every token after the first.
    """
    tokens, end = packed.tokens, packed.row_start[1:] - 1
    n = len(end)
    inputs = np.ones(len(tokens), dtype=bool)
    inputs[end] = False
    row_start = packed.row_start - np.arange(n + 1, dtype=np.int32)
    asked = inputs.copy()
    if answers_only:
        begin = packed.row_start[:-1] + packed.answer_start - 1
        asked = inputs & (np.arange(len(tokens)) >= np.repeat(begin, np.diff(packed.row_start)))
    at = np.flatnonzero(asked)  # among all tokens
    scored = at - np.searchsorted(end, at)  # among the inputs
    arrays = tokens[inputs], row_start, scored, tokens[at + 1].astype(np.int64)
    return Rows(*map(torch.from_numpy, arrays))

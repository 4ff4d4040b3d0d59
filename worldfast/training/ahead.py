"""Rows of small batches, drawn for several steps at a time: a call for each of them would take as long as its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from worldfast.rows import CheckedRows, Rows, Shape, Stream, rows_from

__all__ = ["Ahead"]

INPUTS = 4096  # that are drawn at once; larger batches are drawn one by one


class Ahead:
    """Batches of a stream, one after another, up to its row `end`: the rows that the stream gives itself, checked.

    Parameters
    ----------
    stream : Stream
    end : int
        Row after the last one that is wanted.
    shape : Shape
        Shape of the model that they are for.
    """

    def __init__(self, stream: Stream, end: int, shape: Shape):
        self.stream, self.end, self.shape = stream, end, shape
        self._first = self._count = 0
        self._arrays: list[np.ndarray | None] = []

    def has(self, start: int, n: int) -> bool:
        """Return whether rows `start` to `start + n` are drawn."""
        return self._first <= start and start + n <= self._first + self._count

    def draw(self, start: int, n: int) -> None:
        """Draw rows `start` to `start + n` and some after them.

        Raises
        ------
        TypeError, ValueError
            As from `rows_from`: rows are not those of the shape, or fewer or more than asked for.
        """
        batches = max(1, INPUTS // (n * self.stream.longest))
        rows = self._drawn(start, n, min(batches * n, self.end - start))
        self._first, self._count = start, len(rows.row_start) - 1
        self._arrays = [None if x is None else x.numpy() for x in rows]

    def batch(self, start: int, n: int) -> CheckedRows:
        """Return rows `start` to `start + n`, in memory that later batches may share."""
        if not self.has(start, n):
            self.draw(start, n)
        return cut(self._arrays, start - self._first, n)

    def _drawn(self, start: int, n: int, more: int) -> Rows:
        if more > n:
            try:
                return rows_from(self.stream, start, more, self.shape)
            except Exception:  # it comes again when its row is due, and no step before that is lost
                pass
        return rows_from(self.stream, start, n, self.shape)


def cut(arrays: Sequence[np.ndarray | None], first: int, n: int) -> CheckedRows:
    """Return rows `first` to `first + n` of checked ones, given as arrays, as views where they can be."""
    inputs, row_start, scored, targets, weights = arrays  # NumPy cuts in less time than torch
    row_start = row_start[first : first + n + 1]
    begin, end = row_start[0], row_start[-1]
    low, high = scored.searchsorted((begin, end))
    scored = scored[low:high]
    cuts = inputs[begin:end], row_start - begin, scored - scored.dtype.type(begin)
    of_scored = (None if x is None else torch.from_numpy(x[low:high]) for x in (targets, weights))
    return CheckedRows(*map(torch.from_numpy, cuts), *of_scored)

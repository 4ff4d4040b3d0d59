"""Rows of small batches, drawn for several steps at a time: a call for each of them would take as long as its rows."""

from __future__ import annotations

import numpy as np
import torch

from worldfast.rows import Rows, Stream

__all__ = ["Ahead"]

INPUTS = 4096  # that are drawn at once; larger batches are drawn one by one


class Ahead:
    """Batches of a stream, one after another, up to its row `end`: the rows that the stream gives itself.

    Parameters
    ----------
    stream : Stream
    end : int
        Row behind the last one that is wanted.
    """

    def __init__(self, stream: Stream, end: int):
        self.stream, self.end = stream, end
        self._first = 0
        self._rows: Rows | None = None

    def has(self, start: int, n: int) -> bool:
        """Return whether rows `start` to `start + n` are drawn."""
        return self._first <= start and start + n <= self._first + _count(self._rows)

    def draw(self, start: int, n: int) -> Rows:
        """Draw rows `start` to `start + n` and some after them, and return them all."""
        batches = max(1, INPUTS // (n * self.stream.longest))
        self._first, self._rows = start, self._drawn(start, n, min(batches * n, self.end - start))
        return self._rows

    def batch(self, start: int, n: int) -> Rows:
        """Return rows `start` to `start + n`, in memory that later batches may share."""
        rows = self._rows if self._rows and self.has(start, n) else self.draw(start, n)
        return rows if n == _count(rows) else cut(rows, start - self._first, n)

    def _drawn(self, start: int, n: int, more: int) -> Rows:
        if more > n:
            try:
                return self.stream.batch(start, more)
            except Exception:  # it comes again when its row is due, and no step before that is lost
                pass
        return self.stream.batch(start, n)


def _count(rows: Rows | None) -> int:
    return 0 if rows is None else rows.row_start.shape[0] - 1


def cut(rows: Rows, first: int, n: int) -> Rows:
    """Return rows `first` to `first + n` of these, as views of them where they can be."""
    row_start, scored = rows.row_start.numpy()[first : first + n + 1], rows.scored.numpy()  # NumPy cuts them sooner
    begin, end = int(row_start[0]), int(row_start[-1])
    low, high = np.searchsorted(scored, (begin, end)).tolist()
    targets, weights = (None if x is None else x[low:high] for x in (rows.targets, rows.weights))
    starts, positions = (torch.from_numpy(x - x.dtype.type(begin)) for x in (row_start, scored[low:high]))
    return Rows(rows.inputs[begin:end], starts, positions, targets, weights)

"""Rows of a run's own data continued by its model, whatever the world: a beginning is given, the rest is drawn."""

from __future__ import annotations

import os
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from worldfast.errors import whole
from worldfast.folder import opened
from worldfast.models import Ensemble
from worldfast.rows import require_split, rows_from
from worldfast.run import Run

__all__ = ["Continued", "continuations"]


class Continued(NamedTuple):
    """A row that a model has continued.

    Attributes
    ----------
    given : ndarray
        int32 [t], tokens that the model was given.
    drawn : list of ndarray
        int32 [up to `longest`], what it said after them in each draw, without the token that ends an answer.
    """

    given: np.ndarray
    drawn: list[np.ndarray]


def continuations(
    model: str | os.PathLike | tuple[Run, Ensemble],
    n: int = 8,
    start: int = 0,
    *,
    given: int | None = None,
    longest: int | None = None,
    draws: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    split: str = "test",
    step: int | None = None,
) -> list[Continued]:
    """Draw how a model goes on with rows of its own data.

    A token is a function of the seed, the row, the draw and its place, as `Ensemble.sample` draws it.

    Parameters
    ----------
    model : path or (Run, Ensemble)
        A run's folder, or a run and an ensemble whose member 0 is its model.
    n, start : int
        Number of rows, and the index of the first.
    given : int, optional
        Tokens of each row that the model is given; by default, those up to the first that it learned to go on from.
    longest : int, optional
        Most tokens that are drawn; by default, as many as the longest row has after those given, and one more.
    draws : int
        Continuations of each row.
    temperature : float
        Logits are divided by it; 0 takes the likeliest token each time.
    top_k : int, optional
        Only so many of the likeliest tokens are drawn; None: all.
    seed : int
        Seed of the rows and of the draws.
    split : {"train", "validation", "test"}
        Split of the rows.
    step : int, optional
        Step of an earlier model, of a run that kept it (`Run.keep`); a run's folder only.

    Returns
    -------
    list of Continued

    Raises
    ------
    TypeError, ValueError
        An option does not fit, a row has fewer tokens than are to be given, or the run's data has no tokens in and out.
    FileNotFoundError
        The folder is not a run's, or there is no model of this step.
    """
    run, ensemble = opened(model, step=step)
    shape = run.data.shape
    if shape.vectors or shape.loss != "cross_entropy" or shape.outputs != shape.inputs:
        what = "vectors, not tokens" if shape.vectors else "no tokens as answers"
        raise ValueError(f"run: only rows of tokens can be continued; those of {run.data.label} have {what}")
    stream = run.data.stream(seed, require_split(split))
    rows = rows_from(stream, whole("start", start, 0), whole("n", n, 1), shape)
    ends, scored = rows.row_start.numpy(force=True).astype(np.int64), np.sort(rows.scored.numpy(force=True))
    lengths = np.diff(ends)
    if given is None:
        first = np.searchsorted(scored, ends[:-1])
        at = np.append(scored, ends[-1])[first]  # the first scored position of each row, or one of a later row
        length = np.where(at < ends[1:], at - ends[:-1] + 1, lengths)
    else:
        length = np.full(n, whole("given", given, 1))
        if (length > lengths).any():
            short = int(np.argmax(length > lengths))
            raise ValueError(
                f"given: row {start + short} has {lengths[short]} tokens, expected at most so many, got {given}"
            )
    tokenizer = run.data.tokenizer()
    end = tokenizer.special.get("eos_token_id") if tokenizer else None
    options = {"draws": draws, "temperature": temperature, "top_k": top_k, "seed": seed, "end": end}
    found: list[Continued] = []
    for size, group in groupby(length.tolist()):  # rows beside each other of which as many tokens are given
        i, count = len(found), len(list(group))
        tokens = torch.stack([rows.inputs[at : at + size] for at in ends[i : i + count]]).numpy(force=True)
        most = max(1, run.data.longest + 1 - size) if longest is None else longest
        drawn = ensemble.sample((tokens, np.full(count, size)), most, first=start + i, **options)
        found += [Continued(row, [_before(end, said) for said in of_row]) for row, of_row in zip(tokens, drawn)]
    return found


def _before(end: int | None, said: np.ndarray) -> np.ndarray:
    """Return the tokens before the first `end`; all where there is none."""
    return said if end is None else said[: np.append(said == end, True).argmax()]

"""Checks that the dataset of every world must pass."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch

from worldfast.dataset import Dataset, Score, missing_of, require_readout
from worldfast.display import count
from worldfast.models import RecurrentSpec, TransformerSpec
from worldfast.rows import SPLITS, Rows, Stream, require_rows
from worldfast.run import Run

ROWS = 60  # looked at in each split
TENSORS = ("inputs", "targets", "weights")


def check_world(data: Any, model: Any = None, *, rows: int = 8) -> None:
    """Check a world: its protocol, rows, that models learn them, its readout, scores and identity.

    Parameters
    ----------
    data : Dataset
    model : spec of models, optional
        Spec of the untrained model that is scored; None: a small recurrent network, which reads tokens and vectors.
    rows : int
        Rows of each kind that it is scored on.

    Raises
    ------
    ValueError
        One sentence a line says what does not hold.
    """
    missing = missing_of(data)
    if missing:
        raise ValueError(f"{type(data).__name__} is no dataset: it lacks {', '.join(missing)}")
    model = model or RecurrentSpec(hidden=8)
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "stream": lambda: _stream(data),
        "learn": lambda: _learn(data, model),
        "readout": lambda: _readout(data),
        "score": lambda: _score(data, model, rows),
        "content": lambda: _content(data),
        "to_json": lambda: _identity(data),
    }
    found = []
    for name, check in checks.items():
        try:
            found += [f"{name}: {sentence}" for sentence in check()]
        except Exception as error:  # a world may raise anything; the other checks still say what they find
            found.append(f"{name}: it raises {type(error).__name__}: {error}")
    if found:
        raise ValueError(f"{type(data).__name__} does not pass:\n" + "\n".join(found))


def _stream(data: Dataset) -> Iterator[str]:
    stream = data.stream(0)
    if not isinstance(stream, Stream):
        yield f"expected shape, rows, longest and batch(start, n), got a {type(stream).__name__}"
        return
    for name, own in (("shape", data.shape), ("rows", data.epoch_rows), ("longest", data.longest)):
        if getattr(stream, name) != own:
            yield f"its {name} is {getattr(stream, name)}, that of the dataset {own}"
    n = min(ROWS, stream.rows)
    whole = stream.batch(0, n)
    if len(whole.row_start) != n + 1:
        yield f"batch(0, {n}) gives {count(len(whole.row_start) - 1, 'row')}"
        return
    require_rows(whole, stream.shape)
    if whole.targets is None:
        yield "its rows have no targets to learn from"
    if not len(whole.scored):
        yield "no position of its rows is scored"
    longest = int(whole.row_start.diff().max())
    if longest > stream.longest:
        yield f"a row has {longest} inputs, more than longest, {stream.longest}"
    for name, other in (("again from a new stream", data.stream(0)), ("after other rows", stream)):
        if not _same(other.batch(0, n), whole):
            yield f"its rows are others when they are made {name}"
    parts = [_rows(stream.batch(start, 1)) for start in reversed(range(n))][::-1]
    if not _same(_joined(parts), whole):
        yield "its rows are others when they are made one at a time and backward"
    for split in SPLITS[1:]:
        if _same(data.stream(0, split).batch(0, n), whole):
            yield f"its {split} rows are its train rows"
    with suppress(Exception):  # in whatever way it is refused
        data.stream(0, "vaildation").batch(0, n)
        yield "it takes the split 'vaildation': refuse what is in no split, as worldfast.rows.require_split does"
    if _same(data.stream(1).batch(0, n), whole):
        yield "its rows are the same for the seeds 0 and 1"


def _rows(rows: Rows) -> Rows:
    if not isinstance(rows, Rows):
        raise TypeError(f"batch: expected worldfast.rows.Rows, got {type(rows).__name__}")
    return rows


def _same(a: Rows, b: Rows) -> bool:
    """True if two batches hold the same bits, whatever integers count them."""
    for x, y in zip(_rows(a), _rows(b)):
        if (x is None) != (y is None) or (x is not None and not torch.equal(x, y)):
            return False
    return True


def _joined(parts: list[Rows]) -> Rows:
    """Rows of many batches in one."""
    starts, scored, at = [torch.zeros_like(parts[0].row_start[:1])], [], 0
    for part in parts:
        starts.append(part.row_start[1:] + at)
        scored.append(part.scored + at)
        at += len(part.inputs)
    tensors = {
        name: None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])
        for name in TENSORS
    }
    return Rows(row_start=torch.cat(starts), scored=torch.cat(scored), **tensors)


def _learn(data: Dataset, model: Any) -> Iterator[str]:
    """A step's gradient of the spec that is scored, and of a tiny transformer where rows are what it reads."""
    specs = [model]
    if not data.shape.vectors and data.shape.loss == "cross_entropy":
        specs.append(TransformerSpec(hidden=8, layers=1, heads=1, intermediate=8))
    for spec in specs:
        ensemble = spec.build(data.shape)
        ensemble.initialise(0, 0)
        stream = data.stream(0)
        losses = ensemble.learn([stream.batch(0, min(ROWS, stream.rows))], [0])
        if not (losses.isfinite().all() and ensemble.gradients.isfinite().all()):
            yield f"a {type(spec).__name__} has a loss or gradient that is not finite"


def _readout(data: Dataset) -> Iterator[str]:
    readout = data.readout()
    require_readout(readout, data)
    longest = int(readout.rows.row_start.diff().max())
    if longest > data.longest:
        yield f"a row has {longest} inputs, more than longest, {data.longest}"
    try:
        json.dumps(dict(readout.about))
    except TypeError as error:
        yield f"about: expected values that JSON keeps: {error}"


def _score(data: Dataset, model: Any, rows: int) -> Iterator[str]:
    ensemble = model.build(data.shape)
    ensemble.initialise(0, 0)
    before = ensemble.parameters.clone()
    found = data.score(ensemble, 0, rows, seed=0)
    if not isinstance(found, dict) or not found:
        yield f"expected a Score by name, got {found!r:.100}"
        return
    for name, score in found.items():
        if not isinstance(score, Score):
            yield f"{name!r}: expected a worldfast.dataset.Score, got {score!r:.100}"
        elif score.n != rows:
            yield f"{name!r}: it is of {count(score.n, 'row')}, {rows:,} were asked for"
    if data.score(ensemble, 0, rows, seed=0) != found:
        yield "it is another when it is asked for again"
    if not torch.equal(ensemble.parameters, before):
        yield "it changes the model"


def _content(data: Dataset) -> Iterator[str]:
    """Content that rows are made of besides the fields; it identifies the world of a run."""
    if not data.content():
        yield "it states nothing: return the columns, numbers or texts that rows and readouts are made of"
    if data.digests != data.digests or data.digests != type(data).from_json(data.to_json()).digests:
        yield "it is another when it is asked for again"


def _identity(data: Dataset) -> Iterator[str]:
    if not dataclasses.is_dataclass(data) or not type(data).__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield "the dataset is no frozen dataclass, whose fields are its identity"
        return
    content = json.loads(json.dumps(data.to_json()))
    if type(data).from_json(content) != data:
        yield "from_json gives another dataset than the one that to_json wrote"
    run = Run(data)
    if Run.from_json(json.loads(json.dumps(run.to_json()))).id != run.id:
        yield "a run's id is another after it was written and read"

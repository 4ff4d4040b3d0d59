"""Rows drawn for several steps at a time beside those that a stream gives itself."""

import pytest
import torch

import worldfast as wf
from worldfast.rows import CheckedRows, Rows
from worldfast.training import ahead
from worldfast.training.ahead import Ahead, cut
from worldfast.worlds import chains, cities, factors

STREAMS = {
    "cities": cities.Dataset(("distance", "compass"), rows=70),
    "factors": factors.Dataset(n=3, steps=4, rows=70),
    "decision": factors.Dataset(n=3, steps=4, rows=70, target="decision"),
    "context": factors.Dataset("context", n=2, steps=4, rows=70, block=8),
    "chains": chains.Dataset(chains=3, states=4, length=20, rows=70),
}


class Counted:
    """A stream that counts its calls, and fails where a row is reached."""

    def __init__(self, stream, fails=10**9):
        self.stream, self.fails, self.calls = stream, fails, 0
        self.longest, self.shape = stream.longest, stream.shape

    def batch(self, start, n):
        self.calls += 1
        if start + n > self.fails:
            raise ValueError(f"row {self.fails}")
        return self.stream.batch(start, n)


def same(rows, others):
    assert isinstance(rows, CheckedRows) and type(others) is Rows
    for x, y in zip(rows, others):
        assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))


@pytest.mark.parametrize("name", STREAMS)
def test_batches_are_those_of_the_stream(name):
    """Over three epochs, whose last batches are smaller, and where a run goes on in the middle."""
    run = wf.Run(STREAMS[name], model=wf.RecurrentSpec(hidden=4), batch=8, epochs=3)
    stream = Counted(run.stream())
    rows = Ahead(stream, run.epochs * run.epoch_rows, run.shape)
    for step in [*range(run.steps), 11, 12, 3]:
        same(rows.batch(*run.rows_at(step)), stream.stream.batch(*run.rows_at(step)))
    assert stream.calls < run.steps / 2


def test_rows_behind_the_last_one_are_not_drawn():
    stream = Counted(STREAMS["factors"].stream(0), fails=20)
    rows = Ahead(stream, 20, stream.shape)
    for start in (0, 8, 16):
        same(rows.batch(start, min(8, 20 - start)), stream.stream.batch(start, min(8, 20 - start)))
    assert stream.calls == 1


def test_an_error_comes_with_its_row():
    stream = Counted(STREAMS["factors"].stream(0), fails=30)
    rows = Ahead(stream, 70, stream.shape)
    for start in (0, 8, 16):
        same(rows.batch(start, 8), stream.stream.batch(start, 8))
    with pytest.raises(ValueError, match="row 30"):
        rows.batch(24, 8)


def test_large_batches_are_drawn_one_by_one(monkeypatch):
    monkeypatch.setattr(ahead, "INPUTS", 40)
    stream = Counted(STREAMS["chains"].stream(0))
    rows = Ahead(stream, 70, stream.shape)
    for start in range(0, 64, 8):
        same(rows.batch(start, 8), stream.stream.batch(start, 8))
    assert stream.calls == 8


def test_rows_without_targets_and_with_weights_are_cut():
    rows = STREAMS["context"].stream(0).batch(0, 20)
    arrays = [x.numpy() for x in rows]
    part = STREAMS["context"].stream(0).batch(5, 9)
    same(cut(arrays, 5, 9), part)
    same(cut([*arrays[:3], None, None], 5, 9), part._replace(targets=None, weights=None))


@pytest.mark.parametrize("n", [3, 40])
def test_rows_of_another_shape_are_refused_as_they_are_drawn(n):
    """Of few at a time or many: a model of fewer outputs, and a stream whose positions do not ascend."""
    stream = STREAMS["cities"].stream(0)
    with pytest.raises(ValueError, match=f"targets: expected 0 to {stream.shape.outputs - 60}"):
        Ahead(stream, 70, stream.shape._replace(outputs=stream.shape.outputs - 59)).batch(0, n)
    backwards = Counted(stream)
    backwards.batch = lambda start, n: stream.batch(start, n)._replace(scored=stream.batch(start, n).scored.flip(0))
    with pytest.raises(ValueError, match="scored: expected ascending"):
        Ahead(backwards, 70, stream.shape).batch(0, n)

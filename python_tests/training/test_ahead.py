"""Rows drawn for several steps at a time beside those that a stream gives itself."""

import pytest
import torch

import worldfast as wf
from worldfast.rows import Rows
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
        self.stream, self.fails, self.calls, self.longest = stream, fails, 0, stream.longest

    def batch(self, start, n):
        self.calls += 1
        if start + n > self.fails:
            raise ValueError(f"row {self.fails}")
        return self.stream.batch(start, n)


def same(rows, others):
    assert type(rows) is type(others) is Rows
    for x, y in zip(rows, others):
        assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))


@pytest.mark.parametrize("name", STREAMS)
def test_batches_are_those_of_the_stream(name):
    """Over three epochs, whose last batches are smaller, and where a run goes on in the middle."""
    run = wf.Run(STREAMS[name], model=wf.RecurrentSpec(hidden=4), batch=8, epochs=3)
    stream = Counted(run.stream())
    rows = Ahead(stream, run.epochs * run.epoch_rows)
    for step in [*range(run.steps), 11, 12, 3]:
        same(rows.batch(*run.rows_at(step)), stream.stream.batch(*run.rows_at(step)))
    assert stream.calls < run.steps / 2


def test_rows_behind_the_last_one_are_not_drawn():
    stream = Counted(STREAMS["factors"].stream(0), fails=20)
    rows = Ahead(stream, 20)
    for start in (0, 8, 16):
        same(rows.batch(start, min(8, 20 - start)), stream.stream.batch(start, min(8, 20 - start)))
    assert stream.calls == 1


def test_an_error_comes_with_its_row():
    stream = Counted(STREAMS["factors"].stream(0), fails=30)
    rows = Ahead(stream, 70)
    for start in (0, 8, 16):
        same(rows.batch(start, 8), stream.stream.batch(start, 8))
    with pytest.raises(ValueError, match="row 30"):
        rows.batch(24, 8)


def test_large_batches_are_drawn_one_by_one(monkeypatch):
    monkeypatch.setattr(ahead, "INPUTS", 40)
    stream = Counted(STREAMS["chains"].stream(0))
    rows = Ahead(stream, 70)
    for start in range(0, 64, 8):
        same(rows.batch(start, 8), stream.stream.batch(start, 8))
    assert stream.calls == 8


def test_rows_without_targets_and_with_weights_are_cut():
    rows = STREAMS["context"].stream(0).batch(0, 20)
    part = cut(rows, 5, 9)
    same(part, STREAMS["context"].stream(0).batch(5, 9))
    same(cut(rows._replace(targets=None, weights=None), 5, 9), part._replace(targets=None, weights=None))

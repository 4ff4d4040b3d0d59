"""A step of an ensemble: who takes it, what it gives, and members that do not belong together."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import TINY
from tiny import UNREAD as RUN

from worldfast import checkpoint
from worldfast.rows import Shape
from worldfast.training import train
from worldfast.training.step import Lockstep, Tally


def lockstep(*runs):
    made = Lockstep(TINY.build(Shape(98, 98), len(runs), threads=1), runs)
    for member, run in enumerate(runs):
        made.ensemble.initialise(member, run.seed)
    return made


def copied(lockstep, member):
    return {name: tensor.clone() for name, tensor in lockstep.tensors(member).items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_who_is_not_named_takes_no_step():
    both = lockstep(RUN, replace(RUN, seed=8))
    before = copied(both, 1)
    both.step([0])
    assert same(copied(both, 1), before) and both.read(1) == Tally(0, 0.0, 0, False)
    both.step([1, 0])
    assert (both.read(0).step, both.read(1).step) == (2, 1)


def test_losses_are_summed_until_they_are_cleared():
    one = lockstep(RUN)
    losses = []
    for _ in range(3):
        one.step([0])
        losses.append(one.read(0).loss - sum(losses))
    assert one.read(0) == Tally(3, pytest.approx(sum(losses)), 3, False) and losses[2] < losses[0]
    one.clear(0)
    assert one.read(0) == Tally(3, 0.0, 0, False)


def test_going_on_from_a_tally():
    """Tensors and tally are all there is to go on from."""
    whole, first, second = lockstep(RUN), lockstep(RUN), lockstep(RUN)
    for _ in range(4):
        whole.step([0])
    for _ in range(2):
        first.step([0])
    for name, tensor in second.tensors(0).items():
        tensor.copy_(first.tensors(0)[name])
    second.resume(0, first.read(0))
    for _ in range(2):
        second.step([0])
    assert second.read(0) == whole.read(0) and same(copied(second, 0), copied(whole, 0))


def test_a_member_that_diverges_stays_as_it_was():
    """Its weights become so large that its next loss is not finite; asked for more steps, it takes none."""
    wild = lockstep(replace(RUN, learning_rate=1e30), RUN)
    alone = lockstep(RUN)
    while not wild.read(0).diverged:
        before = copied(wild, 0)
        wild.step([0, 1])
        alone.step([0])
    found = wild.read(0)
    assert found.step < 4 and found.steps == found.step and math.isfinite(found.loss)
    assert same(copied(wild, 0), before) and all(t.isfinite().all() for t in before.values())
    wild.step([0, 1])
    alone.step([0])
    assert wild.read(0) == found and same(copied(wild, 0), before)
    assert wild.read(1) == alone.read(0) and same(copied(wild, 1), copied(alone, 0))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"model": replace(TINY, layers=2)}, "runs: 'pt-distance-s7' has model TransformerSpec.*layers=2"),
        (
            {"data": replace(RUN.data, vocabulary="entity", loss="answer")},
            "runs: 'pt-distance-s7' has vocabulary 5173, the ensemble 98",
        ),
    ],
)
def test_mixed_shapes(changes, message):
    with pytest.raises(ValueError, match=message):
        lockstep(RUN, replace(RUN, **changes))


def test_a_run_for_each_member():
    for runs in ([], [RUN] * 3):
        with pytest.raises(ValueError, match=f"runs: expected 2, one for each member, got {len(runs)}"):
            Lockstep(TINY.build(Shape(98, 98), 2), runs)


def test_a_member_without_rows():
    with pytest.raises(ValueError, match="rows: expected at least 1, got 0"):
        replace(RUN, data=replace(RUN.data, rows=0))


def test_a_checkpoint_of_another_shape(tmp_path):
    """Whole, and of this run by its own word, but with the parameters of a larger model."""
    (folder,) = train(RUN, tmp_path, progress=False)
    (folder / "done").unlink()
    found = checkpoint.newest(folder / "checkpoint", RUN.id)
    larger = {name: torch.zeros(len(tensor) + 16) for name, tensor in found.tensors.items()}
    path = checkpoint.save(folder / "checkpoint", replace(found, tensors=larger), RUN.id, {})
    before = path.read_bytes()
    n = len(found.tensors["parameters"])
    message = rf"{folder.name}: checkpoint exp_avg has shape \[{n + 16}\], expected \[{n}\]"
    with pytest.raises(ValueError, match=message):
        train(RUN, tmp_path, progress=False)
    assert path.read_bytes() == before and not (folder / "done").exists()

"""Native recurrent networks beside PyTorch in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vectors import WIDTHS, vectors_of

from worldfast._native import core
from worldfast.models import cpu_recurrent
from worldfast.models.check import everything, family_of
from worldfast.models.cpu_recurrent import CpuRecurrent
from worldfast.models.recurrent import Recurrent, RecurrentSpec
from worldfast.rows import Rows, Shape

TOKENS = Shape(inputs=17, outputs=11)
VECTORS = Shape(inputs=5, outputs=7, vectors=True, loss="mean_square")
QUESTIONS = Shape(inputs=41, outputs=70, vectors=True, loss="binary_cross_entropy")
LENGTHS = (11, 1, 3, 40, 3, 1)
CASES = {
    "tokens": (RecurrentSpec(hidden=19, layers=2), TOKENS),
    "relu": (RecurrentSpec(hidden=64, nonlinearity="relu", init="fan_in"), QUESTIONS),
    "leak": (RecurrentSpec(hidden=33, nonlinearity="relu", leak=0.4, bias=False), VECTORS),
    "kept": (RecurrentSpec(hidden=7, layers=3, leak=0.2, decays=False), VECTORS),
    "tanh": (RecurrentSpec(hidden=12), VECTORS._replace(outputs=13, loss="tanh_square")),
    "noise": (RecurrentSpec(hidden=20, layers=2, noise=0.3), TOKENS),
    "lstm": (RecurrentSpec("lstm", hidden=21, layers=2), QUESTIONS),
    "lstm-tokens": (RecurrentSpec("lstm", hidden=16, bias=False, outputs=5), TOKENS),
}


def apart(rows):
    """The same rows in tensors that are not contiguous."""
    return Rows(*(x if x is None else x.repeat_interleave(2, 0)[::2] for x in rows))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scored", [0.6, 2])
def test_it_errs_no_more_than_pytorch(scored, name, width):
    """Of everything that a network gives, where some or all positions are scored; and of rows with gaps in memory it
    gives the same bits."""
    spec, shape = CASES[name]
    family = family_of(spec, shape)
    plain, exact = replace(spec, engine="plain").build(shape), family.exact()
    rows = family.rows(LENGTHS, scored=scored)
    rows = rows._replace(weights=torch.linspace(0.1, 2, len(rows.scored)))
    with vectors_of(width):
        ensemble = family.build()
        assert type(ensemble) is CpuRecurrent and type(plain) is Recurrent
        found = everything(ensemble, rows, 0)
        assert all(map(torch.equal, everything(ensemble, apart(rows), 0), found))
    plain.parameters.copy_(ensemble.parameters)
    exact.parameters.copy_(ensemble.parameters.double())
    for ours, theirs, right in zip(found, everything(plain, rows, 0), everything(exact, rows, 0), strict=True):
        assert ours.shape == right.shape
        errors = [float((x.double() - right).abs().max() / right.abs().max()) for x in (ours, theirs)]
        assert errors[0] <= max(2 * errors[1], 5e-7), errors


def test_weights_of_each_output():
    spec, shape = CASES["relu"]
    family = family_of(spec, shape)
    rows = family.rows(LENGTHS, scored=0.6)
    rows = rows._replace(weights=torch.rand(rows.targets.shape, generator=torch.Generator().manual_seed(0)))
    ensemble, exact = family.build(), family.exact()
    exact.parameters.copy_(ensemble.parameters.double())
    assert float(ensemble.learn([rows], [0])[0]) == pytest.approx(float(exact.learn([rows], [0])[0]), rel=1e-6)
    torch.testing.assert_close(ensemble.gradients.double(), exact.gradients, rtol=1e-4, atol=1e-5)


def test_certain_answers():
    """Far from 0 the loss is that of float64, also where it is small, and the gradient never more than 1."""
    spec, shape = RecurrentSpec(hidden=1, nonlinearity="relu"), Shape(1, 3, vectors=True, loss="binary_cross_entropy")
    ensemble = spec.build(shape)
    named = ensemble.tensors(0)
    named["head.bias"].copy_(torch.tensor([-18.0, 12.0, 200.0]))
    rows = Rows(torch.zeros(1, 1), torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([[0.0, 1.0, 1.0]]))
    assert float(ensemble.learn([rows], [0])[0]) == pytest.approx(
        np.log1p(np.exp(-18)) + np.log1p(np.exp(-12)), rel=1e-6
    )
    wrong = rows._replace(targets=torch.tensor([[1.0, 0.0, 0.0]]))
    assert float(ensemble.learn([wrong], [0])[0]) == pytest.approx(230, rel=1e-6)
    ensemble.parameters[0] = ensemble.gradients[0]
    torch.testing.assert_close(ensemble.tensors(0)["head.bias"], torch.tensor([-1.0, 1.0, 1.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tokens", "lstm"])
def test_a_row_has_its_bits_in_every_batch(name, monkeypatch):
    """Alone, among others, and where what is read is cut into pieces."""
    family = family_of(*CASES[name])
    ensemble, rows = family.build(), family.rows(LENGTHS, scored=0.6)
    together = everything(ensemble, rows, 0)[2:]
    monkeypatch.setattr(cpu_recurrent, "PIECE", 5)
    assert all(map(torch.equal, everything(ensemble, rows, 0)[2:], together))
    begin, end = rows.row_start[3], rows.row_start[4]
    here = (rows.scored >= begin) & (rows.scored < end)
    row = Rows(rows.inputs[begin:end], torch.tensor([0, end - begin]), rows.scored[here] - begin)
    assert torch.equal(ensemble.outputs(row, 0), together[0][here]) and here.any()


@pytest.mark.parametrize("name", CASES)
def test_memory_is_bounded_from_above(name):
    spec, shape = CASES[name]
    ensemble, rows, arena = (
        spec.build(shape, threads=1),
        family_of(spec, shape).rows((20,) * 60, scored=2),
        core.Arena(),
    )
    ensemble._threads.memory = lambda: arena
    ensemble.learn([rows], [0])
    bound = spec.cpu_bytes(shape, 1200, 1, "float32", 20)
    assert bound.shared / 8 < arena.bytes < bound.shared
    assert bound.member >= 2 * 4 * spec.parameters(shape)

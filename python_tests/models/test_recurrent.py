"""Recurrent networks beside PyTorch's modules in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldfast.models.check import family_of
from worldfast.models.recurrent import Recurrent, RecurrentSpec
from worldfast.rows import Rows, Shape

TOKENS = Shape(inputs=17, outputs=11)
VECTORS = Shape(inputs=5, outputs=7, vectors=True, loss="mean_square")
SPECS = {
    "rnn": RecurrentSpec(hidden=20, layers=2),
    "rnn-relu": RecurrentSpec(hidden=12, nonlinearity="relu", bias=False),
    "lstm": RecurrentSpec("lstm", hidden=14, layers=3),
    "lstm-no-bias": RecurrentSpec("lstm", hidden=9, bias=False),
}


class Reference(torch.nn.Module):
    """The same network of PyTorch's modules, by the names of Recurrent.tensors."""

    def __init__(self, spec, shape):
        super().__init__()
        if not shape.vectors:
            self.embed = torch.nn.Embedding(shape.inputs, spec.hidden)
        options = {} if spec.kind == "lstm" else {"nonlinearity": spec.nonlinearity}
        kind = torch.nn.LSTM if spec.kind == "lstm" else torch.nn.RNN
        width = shape.inputs if shape.vectors else spec.hidden
        self.rnn = kind(width, spec.hidden, spec.layers, bias=spec.bias, batch_first=True, **options)
        self.head = torch.nn.Linear(spec.hidden, shape.outputs)

    def forward(self, row):
        """Outputs and states of the last layer, for one row of inputs."""
        x = self.embed(row.long()) if hasattr(self, "embed") else row.double()
        states = self.rnn(x[None])[0][0]
        return self.head(states), states


@pytest.mark.parametrize("shape", [TOKENS, VECTORS], ids=["tokens", "vectors"])
@pytest.mark.parametrize("name", SPECS)
def test_equals_modules_of_pytorch(name, shape):
    family = family_of(SPECS[name], shape)
    ensemble, rows = family.build(2), family.rows(scored=2)
    states, outputs = ensemble.states(rows, 1, [family.spec.layers])[0], ensemble.outputs(rows, 1)
    reference = Reference(family.spec, shape).double()
    reference.load_state_dict(ensemble.tensors(1))
    loss = 0.0
    for begin, end in zip(rows.row_start.tolist(), rows.row_start.tolist()[1:]):
        expected, hidden = reference(rows.inputs[begin:end])
        targets = rows.targets[begin:end]
        if shape.vectors:
            loss = loss + torch.nn.functional.mse_loss(expected, targets.double(), reduction="sum") / 2
        else:
            loss = loss + torch.nn.functional.cross_entropy(expected, targets, reduction="sum")
        torch.testing.assert_close(outputs[begin:end].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(states[begin:end].double(), hidden, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert float(ensemble.learn([rows], [1])[0]) == pytest.approx(loss.item(), rel=1e-6)
    ensemble.parameters[1] = ensemble.gradients[1]
    for parameter, (key, gradient) in zip(reference.parameters(), ensemble.tensors(1).items(), strict=True):
        torch.testing.assert_close(gradient.double(), parameter.grad, rtol=1e-4, atol=1e-4, msg=key)


def test_a_leaky_unit_by_hand():
    """r <- (1 - a) r + a relu(W x + b + U r + c)"""
    spec = RecurrentSpec(hidden=6, nonlinearity="relu", leak=0.3)
    ensemble = Recurrent(spec, VECTORS, dtype=torch.float64)
    family_of(spec, VECTORS).draw(ensemble, 0, 3)
    inputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    rows = Rows(inputs, torch.tensor([0, 9]), torch.arange(9))
    named = {name: x.numpy() for name, x in ensemble.tensors(0).items()}
    r, found = np.zeros(6), ensemble.states(rows, 0, [0, 1])
    assert torch.equal(found[0].float(), inputs)
    for x, state in zip(inputs.double().numpy(), found[1].numpy()):
        driven = named["rnn.weight_ih_l0"] @ x + named["rnn.bias_ih_l0"]
        driven += named["rnn.weight_hh_l0"] @ r + named["rnn.bias_hh_l0"]
        r = 0.7 * r + 0.3 * np.maximum(driven, 0)
        np.testing.assert_allclose(state, r, rtol=1e-12)


def test_a_unit_that_keeps_its_state_by_hand():
    """r <- r + a tanh(W x + b + U r + c)"""
    spec = RecurrentSpec(hidden=6, leak=0.3, decays=False)
    ensemble = Recurrent(spec, VECTORS, dtype=torch.float64)
    family_of(spec, VECTORS).draw(ensemble, 0, 3)
    inputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    rows = Rows(inputs, torch.tensor([0, 9]), torch.arange(9))
    named = {name: x.numpy() for name, x in ensemble.tensors(0).items()}
    r = np.zeros(6)
    for x, state in zip(inputs.double().numpy(), ensemble.states(rows, 0, [1])[0].numpy()):
        driven = named["rnn.weight_ih_l0"] @ x + named["rnn.bias_ih_l0"]
        r = r + 0.3 * np.tanh(driven + named["rnn.weight_hh_l0"] @ r + named["rnn.bias_hh_l0"])
        np.testing.assert_allclose(state, r, rtol=1e-12)


@pytest.mark.parametrize("fields", [{}, {"leak": 0.4, "nonlinearity": "relu"}, {"decays": False, "bias": False}])
def test_a_step_by_itself(fields):
    """The map of states is what a network does at each step of a constant input."""
    spec = RecurrentSpec(hidden=6, **fields)
    ensemble = family_of(spec, VECTORS).build(2)
    inputs = torch.randn(5, generator=torch.Generator().manual_seed(0))
    rows = Rows(inputs.expand(9, 5).contiguous(), torch.tensor([0, 9]), torch.arange(9))
    h, step = torch.zeros(1, 6, dtype=torch.float64), ensemble.step_of(1, inputs)
    for state in ensemble.states(rows, 1, [1])[0]:
        h = step(h)
        torch.testing.assert_close(h[0].float(), state, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="expected an 'rnn' of one layer that reads vectors"):
        SPECS["lstm"].build(VECTORS).step_of(0, inputs)


def test_recurrent_weights_that_are_not_uniform():
    def drawn(**fields):
        ensemble = RecurrentSpec(hidden=64, init="fan_in", **fields).build(VECTORS)
        ensemble.initialise(0, 1)
        return ensemble.tensors(0)["rnn.weight_hh_l0"].double(), ensemble.tensors(0)["rnn.bias_hh_l0"]

    sparse, bias = drawn(recurrence="sparse")
    there = sparse != 0
    assert float(there.double().mean()) == pytest.approx(0.15, abs=0.02)
    assert float(sparse[there].std()) == pytest.approx(math.sqrt(2 / 9.6), rel=0.1)
    assert 0.1 < float(bias.abs().max()) <= 0.125
    turned, _ = drawn(recurrence="orthogonal")
    torch.testing.assert_close(turned @ turned.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)


def test_noise_is_added_while_learning_alone():
    """Of the stated deviation, to what f is applied to; another at every step of a row."""
    spec = RecurrentSpec(hidden=400, noise=0.5)
    ensemble = spec.build(Shape(5, 400, vectors=True, loss="mean_square"))
    ensemble.tensors(0)["head.weight"].copy_(torch.eye(400))
    rows = Rows(torch.randn(30, 5), torch.tensor([0, 30]), torch.arange(30), torch.zeros(30, 400))
    noise = torch.atanh(ensemble.learning(ensemble.parameters[0], rows))
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03) and abs(float(noise.mean())) < 0.02
    assert len(noise.unique()) > 11_900 and not ensemble.outputs(rows, 0).any()


@pytest.mark.parametrize("init", ["hidden", "fan_in"])
@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_first_weights_are_distributed_as_in_pytorch(kind, init):
    spec, shape = RecurrentSpec(kind, hidden=64, layers=2, init=init), Shape(400, 300, vectors=True)
    ensemble = spec.build(shape)
    ensemble.initialise(0, 1)
    fan_in = {"rnn.weight_ih_l0": 400, "rnn.bias_ih_l0": 400} if init == "fan_in" else {}
    for name, drawn in ensemble.tensors(0).items():
        bound = 1 / math.sqrt(fan_in.get(name, 64))
        assert 0.9 * bound < float(drawn.abs().max()) <= bound, name
        assert float(drawn.std()) == pytest.approx(bound / math.sqrt(3), rel=0.2), name
    embedded = replace(spec, layers=1).build(Shape(400, 3))
    embedded.initialise(0, 1)
    assert float(embedded.tensors(0)["embed.weight"].std()) == pytest.approx(1, rel=0.02)


def test_weight_decay_is_of_matrices():
    ensemble = SPECS["lstm"].build(TOKENS)
    ensemble.parameters[0] = ensemble.decayed
    assert all((x == (x.ndim == 2)).all() for x in ensemble.tensors(0).values())
    assert sum(x.numel() for x in ensemble.tensors(0).values()) == SPECS["lstm"].parameters(TOKENS)


def test_size_of_the_published_network():
    """64 leaky units that read 41 numbers and answer 24 questions have 8,408 parameters."""
    assert RecurrentSpec(hidden=64).parameters(Shape(41, 24, vectors=True)) == 8_408


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"kind": "lstn"}, ValueError, "unknown model.kind 'lstn': did you mean 'lstm'"),
        ({"hidden": 0}, ValueError, "model.hidden: expected at least 1, got 0"),
        ({"layers": 1.5}, TypeError, "model.layers: expected an integer, got 1.5"),
        ({"nonlinearity": "rely"}, ValueError, "unknown model.nonlinearity 'rely': did you mean 'relu'"),
        ({"leak": 0}, ValueError, "model.leak: expected a number above 0 and at most 1, got 0"),
        ({"leak": "slow"}, TypeError, "model.leak: expected a number"),
        ({"noise": -1}, ValueError, "model.noise: expected a number of at least 0, got -1"),
        ({"decays": 0}, TypeError, "model.decays: expected True or False, got 0"),
        ({"recurrence": "sparce"}, ValueError, "unknown model.recurrence 'sparce': did you mean 'sparse'"),
        ({"kind": "lstm", "recurrence": "sparse"}, ValueError, "model.recurrence: expected 'uniform', .* 'rnn'; leave"),
        ({"kind": "lstm", "nonlinearity": "relu"}, ValueError, "model.nonlinearity: expected 'tanh', .* got 'relu'"),
        ({"bias": 1}, TypeError, "model.bias: expected True or False, got 1"),
        ({"init": "xavier"}, ValueError, "unknown model.init 'xavier'"),
        ({"kind": "lstm", "leak": 0.5}, ValueError, "model.leak: expected 1, .* got 0.5: .*leave it out for an 'lstm'"),
    ],
)
def test_bad_specs(options, error, message):
    with pytest.raises(error, match=message):
        RecurrentSpec(**options)


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="matmul_dtype: Recurrent multiplies in 'float32' only, got 'bfloat16'"):
        RecurrentSpec(engine="plain").build(TOKENS, matmul_dtype="bfloat16")
    with pytest.raises(ValueError, match="matmul_dtype: CpuRecurrent multiplies in 'float32' only, got 'bfloat16'"):
        RecurrentSpec().build(TOKENS, matmul_dtype="bfloat16")
    with pytest.raises(ValueError, match="model.engine: 'native' is for a CPU, not meta; use 'plain', .* or 'auto'"):
        RecurrentSpec(engine="native").build(TOKENS, device="meta")
    with pytest.raises(ValueError, match="unknown loss 'mean_squared': did you mean 'mean_square'"):
        RecurrentSpec().build(TOKENS._replace(loss="mean_squared"))

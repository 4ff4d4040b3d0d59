"""Heads of GPT-2: what they look at, and outputs and states with gains, beside plain NumPy in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldfast.models import GPTSpec, attention_weights
from worldfast.models.gpt import GPT
from worldfast.rows import Rows, Shape

SPEC = GPTSpec(hidden=15, layers=2, heads=3, intermediate=22, dropout=0.5, init_std=0.4, positions=11)
SHAPE, LENGTHS = Shape(inputs=7, outputs=5), (5, 1, 11, 2)
GAINS = {"none": None, "ablated": [[1, 0, 1], [1, 1, 0]], "factors": [[0.5, -2, 1], [0, 0, 0]]}


def model(spec, dtype=torch.float64):
    ensemble = GPT(spec, SHAPE, 2, dtype=dtype)
    ensemble.parameters.normal_(std=0.5, generator=torch.Generator().manual_seed(2))
    return ensemble


def rows(lengths=LENGTHS):
    L = sum(lengths)
    inputs = np.random.default_rng(0).integers(0, 7, L).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return Rows(*map(torch.from_numpy, (inputs, starts, np.arange(0, L, 2))))


def by_hand(spec, tensors, row, gain):
    """Return the weights of each layer [layers, H, T, T], states of each layer [T, D] and outputs [T, 5] of a row."""
    w = {name: x.double().numpy() for name, x in tensors.items()}
    T, width = len(row), spec.hidden // spec.heads

    def norm(x, name):
        x = x - x.mean(1, keepdims=True)
        return x / np.sqrt((x**2).mean(1, keepdims=True) + spec.norm_eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def mapped(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embed.weight"][row] + (w["position.weight"][:T] if spec.positions else 0)
    every, states = np.zeros((spec.layers, spec.heads, T, T)), [x]
    for k in range(spec.layers):
        query, key, value = np.split(mapped(norm(x, f"block.{k}.norm_1"), f"block.{k}.attention"), 3, axis=1)
        added = w[f"block.{k}.mixed.bias"]
        for h in range(spec.heads):
            own = slice(h * width, (h + 1) * width)
            for t in range(T):
                shares = np.exp(query[t, own] @ key[: t + 1, own].T / np.sqrt(width))
                every[k, h, t, : t + 1] = shares / shares.sum()
            of_head = every[k, h] @ value[:, own] @ w[f"block.{k}.mixed.weight"][:, own].T
            added = added + (1 if gain is None else gain[k][h]) * of_head
        x = x + added
        up = mapped(norm(x, f"block.{k}.norm_2"), f"block.{k}.up")
        x = x + mapped(up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))) / 2, f"block.{k}.down")
        states.append(x)
    states[-1] = norm(x, "norm")
    return every, states, mapped(states[-1], "head")


@pytest.mark.parametrize("positions", [11, 0])
@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
def test_heads_equal_those_by_hand(gain, positions):
    spec = replace(SPEC, positions=positions)
    ensemble, of = model(spec), rows()
    starts = of.row_start.tolist()
    each = [by_hand(spec, ensemble.tensors(1), of.inputs[a:b].numpy(), gain) for a, b in zip(starts, starts[1:])]
    found = [*ensemble.states(of, 1, [0, 1, 2], gain=gain), ensemble.outputs(of, 1, gain=gain)]
    expected = [*(np.concatenate([states[k] for _, states, _ in each]) for k in range(3))]
    expected += [np.concatenate([outputs for *_, outputs in each])]
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x.numpy(), y[of.scored.numpy()], rtol=1e-10, atol=1e-10)
    if gain is None:
        weights = attention_weights(ensemble, of, 1)
        for k, of_rows in enumerate(weights):
            for x, (every, *_) in zip(of_rows, each, strict=True):
                assert x.dtype == torch.float64
                np.testing.assert_allclose(x.numpy(), every[k], rtol=1e-10, atol=1e-12)
        assert len(weights) == 2


def test_reading_heads_drops_and_changes_nothing():
    """Of float32 models: what is dropped while learning is there, parameters stay, and the next reading has no gain."""
    ensemble, other, of = model(SPEC, torch.float32), model(replace(SPEC, dropout=0.0), torch.float32), rows()
    before, plain, gain = ensemble.parameters.clone(), ensemble.outputs(of, 0), GAINS["ablated"]
    for x, y in zip(attention_weights(ensemble, of), attention_weights(other, of)):
        assert all(map(torch.equal, x, y))
    ablated = ensemble.outputs(of, 0, gain=torch.tensor(gain))
    assert torch.equal(ablated, other.outputs(of, 0, gain=gain)) and not torch.equal(ablated, plain)
    assert torch.equal(ensemble.outputs(of, 0), plain) and torch.equal(ensemble.parameters, before)


@pytest.mark.parametrize(
    "gain,said",
    [
        (np.ones((2, 4)), r"gain: expected \[2, 3\], got \[2, 4\]"),
        (np.ones(6), r"gain: expected \[2, 3\]"),
        (np.full((2, 3), np.nan), "gain: "),
        ([["a", "b", "c"]] * 2, "gain: "),
    ],
    ids=["shape", "flat", "nan", "text"],
)
def test_gains_that_do_not_fit(gain, said):
    ensemble = model(SPEC)
    for read in (lambda: ensemble.outputs(rows(), 0, gain=gain), lambda: ensemble.states(rows(), 0, [1], gain=gain)):
        with pytest.raises((TypeError, ValueError), match=said):
            read()


def test_rows_and_members_that_do_not_fit():
    ensemble = model(SPEC)
    with pytest.raises(ValueError, match="model.positions: expected at least 12, the inputs of a row, got 11"):
        attention_weights(ensemble, rows((3, 12)))
    with pytest.raises(IndexError, match="members: expected 0 to 1, got 2"):
        attention_weights(ensemble, rows(), 2)
    with pytest.raises(TypeError, match="inputs"):
        attention_weights(ensemble, rows()._replace(inputs=[1, 2]))

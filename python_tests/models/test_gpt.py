"""GPT-2 without positions, and with learned ones, beside PyTorch's own layers in float64, and its dropout."""

import math
from dataclasses import replace

import pytest
import torch

from worldfast.models.chance import generators
from worldfast.models.check import family_of
from worldfast.models.gpt import GPTSpec
from worldfast.rows import Rows, Shape
from worldfast.worlds import chains

VECTORS = Shape(inputs=5, outputs=7, vectors=True, loss="mean_square")
SPEC = GPTSpec(hidden=24, layers=2, heads=3, intermediate=40, dropout=0.0)


class Reference(torch.nn.Module):
    """The same model of PyTorch's layers."""

    def __init__(self, spec, shape, tensors):
        super().__init__()
        D = spec.hidden
        self.embed, self.head = torch.nn.Linear(shape.inputs, D), torch.nn.Linear(D, shape.outputs)
        self.norm = torch.nn.LayerNorm(D, spec.norm_eps)
        gelu = torch.nn.GELU(approximate="tanh")
        options = dict(layer_norm_eps=spec.norm_eps, batch_first=True, norm_first=True)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(D, spec.heads, spec.intermediate, 0.0, gelu, **options)
            for _ in range(spec.layers)
        )
        names = {
            "norm_1": "norm1",
            "norm_2": "norm2",
            "mixed": "self_attn.out_proj",
            "up": "linear1",
            "down": "linear2",
        }
        theirs = {}
        for name, x in tensors.items():
            parts = name.split(".")
            if parts[0] == "block":
                part = names.get(parts[2], "self_attn.in_proj_")
                name = f"blocks.{parts[1]}.{part}" + (parts[3] if part.endswith("_") else f".{parts[3]}")
            theirs[name] = x
        self.load_state_dict(theirs)

    def forward(self, row):
        x, states = self.embed(row.double())[None], []
        mask = torch.triu(torch.full((len(row), len(row)), -math.inf, dtype=torch.float64), 1)
        for block in self.blocks:
            x = block(x, src_mask=mask)
            states.append(x[0])
        return self.head(self.norm(x))[0], [*states[:-1], self.norm(x)[0]]


def test_equals_layers_of_pytorch():
    family = family_of(SPEC, VECTORS)
    ensemble, rows = family.build(2), family.rows(scored=2)
    states, outputs = ensemble.states(rows, 1, [1, 2]), ensemble.outputs(rows, 1)
    reference = Reference(SPEC, VECTORS, ensemble.tensors(1)).double()
    loss = 0.0
    for begin, end in zip(rows.row_start.tolist(), rows.row_start.tolist()[1:]):
        expected, hidden = reference(rows.inputs[begin:end])
        loss = loss + torch.nn.functional.mse_loss(expected, rows.targets[begin:end].double(), reduction="sum") / 2
        torch.testing.assert_close(outputs[begin:end].double(), expected, rtol=1e-4, atol=1e-4)
        for found, layer in zip(states, hidden):
            torch.testing.assert_close(found[begin:end].double(), layer, rtol=1e-4, atol=1e-4)
    assert float(ensemble.learn([rows], [1])[0]) == pytest.approx(loss.item(), rel=1e-5)


def test_learned_positions_are_added_to_what_is_embedded():
    """Beside the same model without them, whose weights are the others."""
    spec = replace(SPEC, positions=9)
    with_them, without = (one.build(VECTORS, longest=9) for one in (spec, SPEC))
    for ensemble in (with_them, without):
        ensemble.initialise(0, 3)
    known = with_them.tensors(0)
    assert known.keys() - without.tensors(0).keys() == {"position.weight"}
    assert all(torch.equal(known[name], x) for name, x in without.tensors(0).items())
    rows = family_of(spec, VECTORS).rows((4, 9, 1), scored=2)
    place = torch.cat([torch.arange(n) for n in (4, 9, 1)])
    known["position.weight"].normal_(generator=torch.Generator().manual_seed(0))
    (state,) = with_them.states(rows, 0, [0])
    (plain,) = without.states(rows, 0, [0])
    torch.testing.assert_close(state, plain + known["position.weight"][place[rows.scored]])
    before = with_them.outputs(rows, 0)
    known["position.weight"].zero_()
    after, plain = with_them.outputs(rows, 0), without.outputs(rows, 0)
    assert torch.equal(after, plain) and not torch.allclose(before, plain, atol=1e-3)


def test_512_learned_positions_equal_layers_of_pytorch():
    """Walks of 512 states and a shorter row, beside PyTorch's layers in float64: outputs, loss and gradients."""
    data = chains.Dataset(chains=4, states=5, length=512)
    spec = replace(SPEC, hidden=16, heads=2, positions=512)
    ensemble = spec.build(data.shape, 2, longest=512)
    ensemble.initialise(1, 3)
    tensors = ensemble.tensors(1)
    for name in ("position.weight", "embed.weight"):
        tensors[name].normal_(generator=torch.Generator().manual_seed(0))
    walk = data.stream(seed=0).batch(0, 1)
    rows = Rows(
        torch.cat([walk.inputs, walk.inputs[:77]]),
        torch.tensor([0, 512, 589], dtype=torch.int32),
        torch.arange(1, 588, 3, dtype=torch.int64),
        torch.arange(196, dtype=torch.int64) % 5,
    )
    layers = {name: x for name, x in tensors.items() if name not in ("position.weight", "embed.weight")}
    D = Shape(inputs=16, outputs=5, vectors=True)  # what is embedded enters by a map that changes nothing
    nothing = {"embed.weight": torch.eye(16, dtype=torch.float32), "embed.bias": torch.zeros(16, dtype=torch.float32)}
    reference = Reference(spec, D, layers | nothing).double()
    table, place = (tensors[name].double().requires_grad_() for name in ("embed.weight", "position.weight"))
    said = torch.cat([reference(table[rows.inputs[a:b]] + place[: b - a])[0] for a, b in ((0, 512), (512, 589))])
    torch.testing.assert_close(ensemble.outputs(rows, 1).double(), said[rows.scored], rtol=1e-4, atol=1e-4)
    loss = torch.nn.functional.cross_entropy(said[rows.scored], rows.targets, reduction="sum")
    loss.backward()
    assert float(ensemble.learn([rows], [1])[0]) == pytest.approx(loss.item(), rel=1e-5)
    found = ensemble._named(ensemble.gradients[1])
    of_head = reference.head.weight.grad
    for name, exact in (("position.weight", place.grad), ("embed.weight", table.grad), ("head.weight", of_head)):
        torch.testing.assert_close(found[name].double(), exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())
    assert (place.grad[[0, 511]] != 0).any(dim=1).all()


def test_rows_longer_than_the_learned_positions():
    spec = replace(SPEC, positions=9)
    with pytest.raises(ValueError, match="model.positions: expected at least 10, the inputs of a row, got 9"):
        spec.build(VECTORS, longest=10)
    with pytest.raises(ValueError, match="model.positions: expected at least 12, the inputs of a row, got 9"):
        spec.build(VECTORS).outputs(family_of(SPEC, VECTORS).rows((12,)), 0)
    with pytest.raises(ValueError, match="model.positions: expected at least 0, got -1"):
        replace(SPEC, positions=-1)


def test_value_vectors():
    """Of the first layer a function of a position alone; of the second what PyTorch's own layers project."""
    family = family_of(SPEC, VECTORS)
    ensemble, rows = family.build(2), family.rows(scored=0.5)
    w = {name: x.double() for name, x in ensemble.tensors(1).items()}
    every = rows._replace(scored=torch.arange(len(rows.inputs)), targets=None)
    before = [ensemble.states(every, 1, [layer])[0].double() for layer in (0, 1)]
    before[0] = before[0] @ w["embed.weight"].T + w["embed.bias"] if before[0].shape[1] == 5 else before[0]
    for layer, x in enumerate(before):
        norm = torch.nn.functional.layer_norm(
            x, (24,), w[f"block.{layer}.norm_1.weight"], w[f"block.{layer}.norm_1.bias"]
        )
        expected = norm @ w[f"block.{layer}.attention.weight"][48:].T + w[f"block.{layer}.attention.bias"][48:]
        found = ensemble.values(rows, 1, layer + 1)
        torch.testing.assert_close(found.double(), expected[rows.scored], rtol=1e-4, atol=1e-4)
    with pytest.raises(IndexError, match="layer: expected 1 to 2, got 0"):
        ensemble.values(rows, 1, 0)


def test_first_weights_are_those_of_gpt_2_and_of_a_linear_readout():
    ensemble = GPTSpec(layers=2).build(Shape(41, 24, vectors=True))
    ensemble.initialise(0, 1)
    for name, x in ensemble.tensors(0).items():
        if name.startswith("head."):
            assert 0.8 / 8 < float(x.abs().max()) <= 1 / 8 and float(x.std()) == pytest.approx(0.125 / 3**0.5, rel=0.3)
        elif x.ndim == 1:
            assert (x == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
        else:
            residual = "mixed" in name or "down" in name
            assert float(x.std()) == pytest.approx(0.01 if residual else 0.02, rel=0.08), name


def test_dropout_is_of_rows():
    """A row drops the same wherever it stands; in the mean over many rows dropout changes a linear output nothing."""
    rows = family_of(SPEC, VECTORS).rows((3, 4))
    one, other = (random.random(5) for random in generators(rows, "dropout"))
    assert (one != other).all()
    alone = Rows(rows.inputs[3:], torch.tensor([0, 4]), torch.arange(4))
    assert (generators(alone, "dropout")[0].random(5) == other).all()
    assert (generators(alone, "noise")[0].random(5) != other).all()
    double = rows._replace(inputs=rows.inputs.double())
    assert (generators(double, "dropout")[1].random(5) == other).all()


def test_dropout_drops_its_share():
    """Of the embedded inputs, which a residual stream of blocks with weights of 0 carries to the outputs."""
    spec = GPTSpec(hidden=64, heads=4, intermediate=8, dropout=0.25)
    shape = Shape(inputs=3, outputs=64, vectors=True, loss="mean_square")
    ensemble = spec.build(shape)
    named = ensemble.tensors(0)
    named["embed.bias"].copy_(torch.linspace(1, 2, 64))
    named["norm.weight"].fill_(1)
    named["head.weight"].copy_(torch.eye(64))
    inputs = torch.arange(300.0)[:, None].expand(300, 3).contiguous()
    rows = Rows(inputs, torch.arange(301, dtype=torch.int32), torch.arange(300), torch.zeros(300, 64))
    kept = ensemble.learning(ensemble.parameters[0], rows)
    low = kept.min(1, keepdim=True).values  # the norm moves all that is dropped to one number
    assert float((kept == low).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert len(kept.unique(dim=0)) == 300 and len(ensemble.outputs(rows, 0).unique(dim=0)) == 1


@pytest.mark.parametrize(
    "options,error,message",
    [
        ({"heads": 7}, ValueError, "model.heads: expected a divisor of hidden, 64, got 7"),
        ({"dropout": 1}, ValueError, "model.dropout: expected at least 0 and below 1, got 1"),
        ({"dropout": "some"}, TypeError, "model.dropout: expected a number, got 'some'"),
        ({"init_std": 0}, ValueError, "model.init_std: expected a number above 0, got 0"),
        ({"intermediate": 0}, ValueError, "model.intermediate: expected at least 1, got 0"),
    ],
)
def test_bad_specs(options, error, message):
    with pytest.raises(error, match=message):
        GPTSpec(**options)

"""Every family of models passes the same checks."""

from dataclasses import replace

import pytest
import torch

from worldfast import checkpoint
from worldfast.models import family_of, huggingface_config
from worldfast.models.gpt import GPTSpec
from worldfast.models.plain import PlainTransformer
from worldfast.models.recurrent import Recurrent, RecurrentSpec
from worldfast.models.transformer import Transformer, TransformerSpec
from worldfast.rows import Shape
from worldfast.training.check import CHECKS, check_family

TOKENS = Shape(inputs=17, outputs=11)
VECTORS = Shape(inputs=5, outputs=7, vectors=True, loss="binary_cross_entropy")
NUMBERS = Shape(inputs=5, outputs=3, vectors=True, loss="mean_square")
RNN = RecurrentSpec("rnn", hidden=24, layers=2)
LSTM = RecurrentSpec("lstm", hidden=19)


SMALL = TransformerSpec(hidden=32, layers=2, heads=2, intermediate=40, engine="plain")
FAMILIES = {
    "native-tokens": (replace(SMALL, engine="native"), TOKENS),
    "native-outputs": (replace(SMALL, engine="native", outputs=5, rope_base=None), TOKENS),
    "plain-tokens": (SMALL, TOKENS),
    "plain-vectors": (replace(SMALL, heads=4, intermediate=24, rope_base=None), VECTORS),
    "plain-numbers": (SMALL, NUMBERS),
    "rnn-tokens": (RNN, TOKENS),
    "rnn-plain": (replace(RNN, engine="plain"), TOKENS),
    "rnn-vectors": (RecurrentSpec("rnn", hidden=33, nonlinearity="relu", leak=0.4, init="fan_in"), VECTORS),
    "rnn-disturbed": (RecurrentSpec("rnn", hidden=20, layers=2, noise=0.3, decays=False, leak=0.2), NUMBERS),
    "rnn-sparse": (RecurrentSpec("rnn", hidden=32, recurrence="sparse"), TOKENS),
    "rnn-orthogonal": (RecurrentSpec("rnn", hidden=15, recurrence="orthogonal", bias=False), VECTORS),
    "gpt-vectors": (GPTSpec(hidden=24, heads=3, intermediate=40), VECTORS),
    "gpt-positions": (GPTSpec(hidden=16, layers=2, heads=2, intermediate=24, init_std=0.3, positions=64), TOKENS),
    "gpt-tokens": (
        GPTSpec(hidden=16, layers=2, heads=2, intermediate=24, dropout=0.0, init_std=0.3, outputs=9),
        TOKENS,
    ),
    "lstm-tokens": (LSTM, TOKENS._replace(loss="mean_square")),
    "lstm-plain": (replace(LSTM, engine="plain"), VECTORS),
    "lstm-vectors": (RecurrentSpec("lstm", hidden=16, layers=2, bias=False), VECTORS),
    "lstm-numbers": (LSTM, NUMBERS),
}


def family(name):
    spec, shape = FAMILIES[name]
    if isinstance(spec, TransformerSpec):  # the reference of the native transformer is the plain one
        return family_of(spec, shape, lambda: PlainTransformer(spec, shape, dtype=torch.float64))
    return family_of(spec, shape)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, check):
    check(family(name))


def doubled_gradients(learn):
    def learned(ensemble, rows, members):
        losses = learn(ensemble, rows, members)
        ensemble.gradients *= 2
        return losses

    return learned


def test_what_a_family_does_not_pass_is_said(monkeypatch):
    """A sentence for each check, also where the family raises; nothing is said of one that is sound."""
    checks = [one for one in CHECKS if one.__name__.startswith(("first", "gradients", "states"))]
    monkeypatch.setattr("worldfast.training.check.CHECKS", checks)
    spec = RecurrentSpec(hidden=4, engine="plain")
    check_family(spec, TOKENS)
    monkeypatch.setattr(Recurrent, "learn", doubled_gradients(Recurrent.learn))
    monkeypatch.setattr(Recurrent, "states", lambda *_: {}["layer"])
    with pytest.raises(ValueError) as said:
        check_family(spec, TOKENS)
    first, gradients, states = str(said.value).splitlines()
    assert first == "RecurrentSpec does not pass:"
    assert gradients.startswith("gradients are those of the loss: expected a gradient in float64 that is the loss's, ")
    assert states == "states are of layers: it raises KeyError: 'layer'"


def check_of(beginning):
    return next(one for one in CHECKS if one.__name__.startswith(beginning))


@pytest.mark.parametrize("lost", checkpoint.NAMES)
def test_a_checkpoint_without_some_of_the_state_is_noticed(lost, monkeypatch):
    def read(path, run, names=checkpoint.NAMES, whole=checkpoint.read):
        found = whole(path, run, names)
        if found.step == 5:  # of 10
            found.tensors[lost].mul_(1 + 2**-20)
        return found

    monkeypatch.setattr(checkpoint, "read", read)
    with pytest.raises(ValueError, match="expected the same bits of .* where training stopped at step 5"):
        check_of("training_goes_on")(family("rnn-tokens"))


def test_a_family_that_keeps_more_than_its_parameters_does_not_go_on(monkeypatch):
    def learn(self, rows, members, plain=Recurrent.learn):
        losses = plain(self, rows, members)
        self.calls = getattr(self, "calls", 0) + 1
        self.gradients *= 1 + 1 / self.calls
        return losses

    monkeypatch.setattr(Recurrent, "learn", learn)
    with pytest.raises(ValueError, match="expected the same bits of"):
        check_of("training_goes_on")(family("rnn-plain"))


def exchanged(self, member, plain=Transformer.to_huggingface):
    tensors = plain(self, member)
    q, k = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    return tensors | {q: tensors[k], k: tensors[q]}


def other_positions(*of, plain=huggingface_config):
    return plain(*of) | {"rope_theta": 100.0}


@pytest.mark.parametrize(
    "at,changed,said",
    [
        ("worldfast.models.CpuTransformer.to_huggingface", exchanged, "the same bits of model.layers.0.self_attn"),
        ("worldfast.training.export.huggingface_config", other_positions, "the outputs of the model that was exported"),
        ("worldfast.training.check.TransformerSpec", RecurrentSpec, "an error that says that there is no export"),
    ],
    ids=["weights", "config", "none"],
)
def test_an_export_of_another_model_is_noticed(at, changed, said, monkeypatch):
    monkeypatch.setattr(at, changed)
    with pytest.raises(ValueError, match=f"expected {said}"):
        check_of("an_export")(family("native-tokens"))

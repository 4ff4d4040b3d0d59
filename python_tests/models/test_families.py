"""Every family of models passes the same checks."""

from typing import NamedTuple

import pytest
from models.check import CHECKS, family_of

from worldfast.models.plain import PlainTransformer
from worldfast.models.recurrent import RecurrentSpec
from worldfast.models.transformer import TransformerSpec
from worldfast.rows import Shape

TOKENS = Shape(inputs=17, outputs=11)
VECTORS = Shape(inputs=5, outputs=7, vectors=True, loss="binary_cross_entropy")
NUMBERS = Shape(inputs=5, outputs=3, vectors=True, loss="mean_square")
RNN = RecurrentSpec("rnn", hidden=24, layers=2)
LSTM = RecurrentSpec("lstm", hidden=19)


class Plain(NamedTuple):
    spec: TransformerSpec
    layers: int = 2

    def build(self, shape, members=1, **options):
        return PlainTransformer(self.spec, shape, members, **options)

    def parameters(self, shape):
        return self.spec.parameters(shape.inputs) + (shape.outputs - shape.inputs) * self.spec.hidden


SMALL = Plain(TransformerSpec(hidden=32, layers=2, heads=2, intermediate=40))
FAMILIES = {
    "plain-tokens": (SMALL, TOKENS),
    "plain-vectors": (Plain(TransformerSpec(hidden=32, layers=2, heads=4, intermediate=24, rope_base=None)), VECTORS),
    "plain-numbers": (SMALL, NUMBERS),
    "rnn-tokens": (RNN, TOKENS),
    "rnn-vectors": (RecurrentSpec("rnn", hidden=33, nonlinearity="relu", leak=0.4, init="fan_in"), VECTORS),
    "lstm-tokens": (LSTM, TOKENS._replace(loss="mean_square")),
    "lstm-vectors": (RecurrentSpec("lstm", hidden=16, layers=2, bias=False), VECTORS),
    "lstm-numbers": (LSTM, NUMBERS),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, check):
    check(family_of(*FAMILIES[name]))

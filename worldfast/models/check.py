"""Checks that every family of models must pass; worldfast.training.check runs them on one, with others of training.

None of them depends on the family: an ensemble is built from its spec and used through the five operations of
worldfast.models.ensemble.Ensemble and its parameter buffer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from worldfast._native import core
from worldfast.models.ensemble import Ensemble
from worldfast.models.heads import AttentionEnsemble, attention_weights
from worldfast.models.losses import summed_loss
from worldfast.rows import Rows, Shape


class Family(NamedTuple):
    """A spec, a shape, and a function that builds the reference: an ensemble in float64 with the same buffer."""

    spec: Any
    shape: Shape
    exact: Callable[[], Ensemble]

    def build(self, members=1, seed=1, **options) -> Ensemble:
        """Return an ensemble with random parameters throughout, biases and norms included."""
        ensemble = self.spec.build(self.shape, members, **options)
        for member in range(members):
            self.draw(ensemble, member, seed + member)
        return ensemble

    def draw(self, ensemble, member, seed):
        ensemble.initialise(member, seed)
        noise = torch.randn(
            ensemble.parameters[member].shape,
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float32,
            device="cpu",
        )
        ensemble.parameters[member] += 0.1 * noise

    @property
    def outputs(self) -> int:
        """Number of outputs of the model, which may be fewer than the data's classes."""
        return self.spec.build(self.shape).shape.outputs

    def rows(self, lengths=(5, 1, 9, 3, 1, 12, 9, 7), seed=0, scored=0.5, targets=True) -> Rows:
        """Return random rows of these lengths, with a share `scored` of their positions scored."""
        random, shape, L = np.random.default_rng(seed), self.shape, sum(lengths)
        if shape.vectors:
            inputs = random.normal(size=(L, shape.inputs)).astype(np.float32)
        else:
            inputs = random.integers(0, shape.inputs, L).astype(np.int32)
        at = np.flatnonzero(random.random(L) < scored)
        wanted = {
            "cross_entropy": random.integers(0, self.outputs, len(at)),
            "binary_cross_entropy": random.integers(0, 2, (len(at), shape.outputs)).astype(np.float32),
            "mean_square": random.normal(size=(len(at), shape.outputs)).astype(np.float32),
            "tanh_square": random.uniform(-1, 1, (len(at), shape.outputs)).astype(np.float32),
        }[shape.loss]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        tensors = (torch.from_numpy(x) for x in (inputs, starts, at, wanted))
        rows = Rows(*tensors)
        return rows if targets else rows._replace(targets=None)


def family_of(spec, shape, exact=None) -> Family:
    """Return the family of a spec; without `exact`, its reference is its own plain engine in float64."""

    def same_class():
        plain = replace(spec, engine="plain") if hasattr(spec, "engine") else spec
        return type(plain.build(shape))(plain, shape, dtype=torch.float64)

    return Family(spec, shape, exact or same_class)


def require(holds: object, expected: str) -> None:
    """Raise a ValueError that states the expectation if it does not hold. Unlike assert, python -O keeps it."""
    if not holds:
        raise ValueError(f"expected {expected}")


def require_same(found: list, expected: list, what: str) -> None:
    require(all(map(torch.equal, found, expected)), f"the same bits of {what}")


def require_error(call: Callable[[], Any], kinds: type | tuple, said: str) -> None:
    """Raise a ValueError unless the call raises one of these errors with a message that matches."""
    try:
        call()
    except kinds as error:
        require(re.search(said, str(error)), f"an error that says {said!r}, got: {error}")
    else:
        raise ValueError(f"expected an error that says {said!r}, got none")


def everything(ensemble: Ensemble, rows: Rows, member: int) -> list:
    """Return every result for a member: loss, gradients, outputs, and states of each layer."""
    loss = ensemble.learn([rows], [member])
    layers = range(ensemble.spec.layers + 1)
    return [
        loss,
        ensemble.gradients[member].clone(),
        ensemble.outputs(rows, member),
        *ensemble.states(rows, member, layers),
    ]


def near(found, expected, tolerance=1e-5):
    """Return True if tensors of one shape differ by at most `tolerance` times the largest expected value."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return found.shape == expected.shape and float((found - expected).abs().max() if scale else 0) <= tolerance * scale


# ---- a member is alone ----


def a_member_has_the_bits_that_it_has_alone(family):
    """Losses, gradients, outputs and states do not depend on the order of members or the number of threads."""
    rows = [family.rows(seed=0), family.rows((1,), 1, scored=2), family.rows((40, 2, 17, 1) * 3, 2)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2)):
        together = family.build(3, threads=2)
        together.gradients.fill_(7)
        losses = together.learn([rows[m] for m in order], order)
        require(losses.dtype == torch.float64 and losses.shape == (len(order),), "learn to return float64 [members]")
        for member in range(3):
            if member not in order:
                require((together.gradients[member] == 7).all(), "gradients of other members left as they were")
                continue
            alone = family.build(1, threads=1)
            alone.parameters[0] = together.parameters[member]
            loss, gradient, *read = everything(alone, rows[member], 0)
            require_same([loss[0]], [losses[order.index(member)]], "a member's loss, alone and among others")
            require_same([gradient], [together.gradients[member]], "a member's gradients, alone and among others")
            others = everything(together, rows[member], member)[2:]
            require_same(read, others, "a member's outputs and states, alone and among others")


def first_weights_are_a_function_of_the_seed(family):
    """Members of one seed begin alike, of another seed differently, and parameters are 0 before that."""
    ensemble, alone = family.spec.build(family.shape, 3), family.spec.build(family.shape)
    for member, seed in enumerate((5, 6, 5)):
        require(not ensemble.parameters[member].any(), "parameters of 0 before initialise")
        ensemble.initialise(member, seed)
    alone.initialise(0, 6)
    require_same([ensemble.parameters[0]], [ensemble.parameters[2]], "members of one seed")
    require_same([ensemble.parameters[1]], [alone.parameters[0]], "a member's first weights, alone and among others")
    require(not torch.equal(ensemble.parameters[0], ensemble.parameters[1]), "other first weights of another seed")


def parameters_are_all_that_is_kept(family):
    """Parameters copied into another member of another ensemble continue with the same steps."""
    rows = family.rows()
    ensemble, other = family.build(1), family.build(2, seed=9)
    for _ in range(3):
        ensemble.learn([rows], [0])
        ensemble.parameters -= 0.01 * ensemble.gradients
        other.parameters[1] = ensemble.parameters[0]
        require_same(everything(ensemble, rows, 0), everything(other, rows, 1), "a member whose parameters were copied")


def the_buffer_holds_the_parameters(family):
    """Each parameter begins at a multiple of 64 bytes, and weight decay applies to some of them but not to all."""
    ensemble = family.spec.build(family.shape, 2)
    P, count = ensemble.parameters.shape[1], family.spec.parameters(family.shape)
    float32 = ensemble.parameters.dtype == torch.float32
    require(
        float32 and ensemble.gradients.shape == ensemble.parameters.shape, "parameters and gradients float32 [M, P]"
    )
    require(P % 16 == 0 and count <= P < count + 16 * 100, f"P of {count} parameters, each from 64 bytes on, got {P}")
    decayed = ensemble.decayed
    require(decayed.shape == (P,) and decayed.dtype == torch.float32, "decayed float32 [P]")
    some = set(decayed.unique().tolist()) == {0, 1} and decayed.sum() <= count
    require(some, "decayed to be 1 for some parameters and 0 for others")


# ---- losses and gradients ----


def exact_of(family, ensemble, member=0):
    """Return the reference in float64 with a member's parameters."""
    exact = family.exact()
    require(exact.parameters.dtype == torch.float64, "a reference in float64")
    exact.parameters[0] = ensemble.parameters[member].double()
    return exact


def gradients_are_those_of_the_loss(family):
    """Compare float64 gradients with finite differences of the loss, and float32 ones with float64."""
    rows, ensemble = family.rows(), family.build()
    rows = rows._replace(weights=torch.linspace(-0.5, 2, len(rows.scored), dtype=torch.float32, device="cpu"))
    exact = exact_of(family, ensemble)
    loss = exact.learn([rows], [0])
    gradient, at = exact.gradients[0].clone(), exact.parameters[0].clone()
    random = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = torch.randn(at.shape, generator=random, dtype=torch.float64, device="cpu")
        ends = []
        for h in (1e-5, -1e-5):
            exact.parameters[0] = at + h * direction
            ends.append(exact.learn([rows], [0])[0])
        slope, expected = float((ends[0] - ends[1]) / 2e-5), float(gradient @ direction)
        right = math.isclose(slope, expected, rel_tol=1e-6, abs_tol=1e-7)
        require(right, f"a gradient in float64 that is the loss's, {slope} along a direction, got {expected}")
    require(near(ensemble.learn([rows], [0]), loss, 1e-5), "the loss in float32 near that in float64")
    require(near(ensemble.gradients[0], gradient, 1e-4), "the gradients in float32 near those in float64")


def losses_are_those_of_the_outputs(family):
    """The loss is that of the outputs, summed in float64, so that long lists of losses keep their digits.

    A family with dropout or noise in training has the same outputs as one without, and another loss.
    """
    ensemble, rows = family.build(), family.rows((11,) * 300, scored=2)
    if disturbed := [name for name in ("dropout", "noise") if getattr(family.spec, name, 0)]:
        calm = family._replace(spec=replace(family.spec, **dict.fromkeys(disturbed, 0.0))).build()
        require_same([ensemble.outputs(rows, 0)], [calm.outputs(rows, 0)], "outputs with and without disturbance")
        losses = [float(one.learn([rows], [0])[0]) for one in (ensemble, calm)]
        require(losses[0] != losses[1], f"another loss where learning is disturbed than {losses[1]}")
        ensemble = calm
    outputs = ensemble.outputs(rows, 0)
    right = outputs.dtype == torch.float32 and outputs.shape == (len(rows.scored), family.outputs)
    require(right, f"outputs float32 [K, {family.outputs}]")
    expected = float(summed_loss(family.shape.loss, outputs.double(), rows.targets))
    loss = float(ensemble.learn([rows], [0])[0])
    require(math.isclose(loss, expected, rel_tol=1e-6), f"the loss of the outputs, {expected}, got {loss}")


def weights_are_factors_of_losses(family):
    """Weights of 1 change nothing, weights of 2 double losses and gradients, weights of 0 leave positions out."""
    rows, ensemble = family.rows(), family.build()
    K = len(rows.scored)
    plain = everything(ensemble, rows, 0)[:2]
    ones = everything(ensemble, rows._replace(weights=torch.ones(K, dtype=torch.float32, device="cpu")), 0)[:2]
    require_same(ones, plain, "loss and gradients with weights of 1 and without weights")
    double = everything(ensemble, rows._replace(weights=torch.full((K,), 2.0, dtype=torch.float32, device="cpu")), 0)[
        :2
    ]
    twice = all(near(found, 2 * x) for found, x in zip(double, plain))
    require(twice, "loss and gradients doubled by weights of 2")
    if family.shape.loss != "cross_entropy":
        each = torch.full((K, family.outputs), 2.0, dtype=torch.float32, device="cpu")
        of_outputs = all(map(near, everything(ensemble, rows._replace(weights=each), 0)[:2], double))
        require(of_outputs, "weights of each output to be factors of what is summed over them")
    kept = torch.arange(K, dtype=torch.int64, device="cpu") % 3 > 0
    fewer = rows._replace(scored=rows.scored[kept], targets=rows.targets[kept])
    zeros = everything(ensemble, rows._replace(weights=kept.float()), 0)[:2]
    left_out = all(map(near, zeros, everything(ensemble, fewer, 0)[:2])) and not near(zeros[0], plain[0])
    require(left_out, "positions with weights of 0 to count as if they were not scored")


def nothing_scored_is_nothing_learned(family):
    """Rows without a scored position give a loss and gradients of 0, and empty outputs and states."""
    ensemble, rows = family.build(), family.rows(scored=-1)
    ensemble.gradients.fill_(7)
    nothing = ensemble.learn([rows], [0]).tolist() == [0] and not ensemble.gradients.any()
    require(nothing, "loss and gradients of 0 where no position is scored")
    none = ensemble.outputs(rows, 0).shape == (0, family.outputs)
    none = none and not any(map(len, ensemble.states(rows, 0, range(family.spec.layers + 1))))
    require(none, "no outputs or states where no position is scored")


def it_learns(family):
    """A hundred steps of AdamW on the same rows reduce their loss."""
    ensemble, rows = family.spec.build(family.shape), family.rows()
    ensemble.initialise(0, 0)
    average, square = torch.zeros_like(ensemble.parameters), torch.zeros_like(ensemble.parameters)
    losses = []
    for step in range(1, 101):
        losses.append(float(ensemble.learn([rows], [0])[0]))
        state = ensemble.parameters, ensemble.gradients, average, square, ensemble.decayed
        core.adamw(*state, [0], [1e-2], [step], 0.01, 0.9, 0.999, 1e-8, [1 / len(rows.scored)], 1)
    require(losses[-1] < 0.7 * losses[0], f"a loss that falls in 100 steps, got {losses[0]} to {losses[-1]}")


# ---- rows and states ----


def states_are_of_layers(family):
    """States are float32 [K, D] of each layer, in the order asked for; other layers raise an IndexError."""
    ensemble, rows = family.build(), family.rows(targets=False)
    depth = family.spec.layers
    states = ensemble.states(rows, 0, range(depth + 1))
    for state in states:
        right = state.dtype == torch.float32 and state.ndim == 2 and len(state) == len(rows.scored)
        require(right, "states float32 [K, D]")
    require_same(ensemble.states(rows, 0, [depth, 0]), [states[depth], states[0]], "states in any order of layers")
    require(ensemble.states(rows, 0, []) == [], "no states of no layers")
    for layer in (-1, depth + 1):
        said = f"layers: expected 0 to {depth}, got {layer}"
        require_error(lambda layer=layer: ensemble.states(rows, 0, [0, layer]), IndexError, said)


def a_position_knows_what_stood_before_it_in_its_row(family):
    """Layer 0 depends on its own input alone; the last layer and the outputs on every input up to it and no other."""
    ensemble = family.build()
    rows = family.rows((6, 9, 4), scored=2, targets=False)
    layers = [0, family.spec.layers]
    before = [*ensemble.states(rows, 0, layers), ensemble.outputs(rows, 0)]
    changed = rows.inputs.clone()
    changed[8] = 1 - changed[8] if family.shape.vectors else (changed[8] + 1) % family.shape.inputs
    after = [
        *ensemble.states(rows._replace(inputs=changed), 0, layers),
        ensemble.outputs(rows._replace(inputs=changed), 0),
    ]
    reached = torch.arange(19, dtype=torch.int64, device="cpu")[:, None]
    for x, y, is_reached in zip(before, after, (reached == 8, *[(8 <= reached) & (reached < 15)] * 2)):
        moved = ((x - y).abs() > 1e-5 * x.abs().max()).any(1, keepdim=True)
        require(torch.equal(moved, is_reached), "layer 0 to read its own input, later ones those before it in its row")


def heads_look_back_and_can_be_ablated(family):
    """Heads, where a family has some: weights are shares of a position and those before it in its row; without heads a
    position knows its own input alone; a gain of ones is none, and one of another shape is refused.
    """
    ensemble, lengths = family.build(), (6, 9, 4)
    if not isinstance(ensemble, AttentionEnsemble):
        return
    rows = family.rows(lengths, scored=2, targets=False)
    size = family.spec.layers, family.spec.heads
    for of_block in attention_weights(ensemble, rows):
        for weights, n in zip(of_block, lengths, strict=True):
            right = weights.dtype == torch.float64 and weights.shape == (size[1], n, n)
            require(right and not weights.triu(1).any(), "weights float64 [H, T, T] of no later position")
            require(near(weights.sum(2), torch.ones_like(weights[..., 0])), "weights that sum to 1")
    plain, changed = ensemble.outputs(rows, 0), rows.inputs.clone()
    require(near(ensemble.outputs(rows, 0, gain=np.ones(size)), plain), "a gain of ones to change nothing")
    changed[8] = 1 - changed[8] if family.shape.vectors else (changed[8] + 1) % family.shape.inputs
    none, layers = {"gain": np.zeros(size)}, range(size[0] + 1)
    before, after = (
        [*ensemble.states(of, 0, layers, **none), ensemble.outputs(of, 0, **none)]
        for of in (rows, rows._replace(inputs=changed))
    )
    for x, y in zip(before, after):
        moved = (x != y).any(1).nonzero()
        require(moved.tolist() == [[8]], "states and outputs without heads that read their own input alone")
    require_error(lambda: ensemble.outputs(rows, 0, gain=np.ones((size[0] + 1, size[1]))), ValueError, "gain")


def rows_are_alone(family):
    """A row's results do not depend on its place among other rows or on their lengths."""
    ensemble, lengths = family.build(), (5, 1, 9, 3, 1, 12, 9, 7)
    rows = family.rows(lengths, scored=2)
    together = ensemble.outputs(rows, 0)
    loss = 0.0
    for begin, end in zip(rows.row_start.tolist(), rows.row_start.tolist()[1:]):
        row = Rows(
            rows.inputs[begin:end],
            torch.tensor([0, end - begin], dtype=torch.int32, device="cpu"),
            torch.arange(end - begin, dtype=torch.int64, device="cpu"),
            rows.targets[begin:end],
        )
        require(near(ensemble.outputs(row, 0), together[begin:end]), "a row's outputs alone as among others")
        loss += float(ensemble.learn([row], [0])[0])
    right = math.isclose(float(ensemble.learn([rows], [0])[0]), loss, rel_tol=1e-5)
    require(right, "the sum of the rows' losses")


def bad_rows_are_refused(family):
    """Malformed rows raise an error that names the field and leave the gradients unchanged."""
    ensemble, rows, shape = family.build(), family.rows(), family.shape
    ensemble.gradients.fill_(7)
    K = len(rows.scored)
    wrong = [
        ("row_start", dict(row_start=rows.row_start[:-1])),
        ("row_start", dict(row_start=rows.row_start.flip(0))),
        ("scored", dict(scored=rows.scored + 1000)),
        ("scored", dict(scored=rows.scored.flip(0))),
        ("targets", dict(targets=None)),
        ("targets", dict(targets=rows.targets[1:])),
        ("weights", dict(weights=torch.ones(K + 1, dtype=torch.float32, device="cpu"))),
        ("weights", dict(weights=[1.0] * K)),
        ("inputs", dict(inputs=rows.inputs.tolist())),
    ]
    if shape.vectors:
        wrong += [("inputs", dict(inputs=rows.inputs[:, 1:])), ("inputs", dict(inputs=rows.inputs.long()))]
    else:
        wrong += [("inputs", dict(inputs=rows.inputs + shape.inputs)), ("inputs", dict(inputs=rows.inputs.float()))]
    if shape.loss == "cross_entropy":
        wrong += [
            ("targets", dict(targets=rows.targets + shape.outputs)),
            ("targets", dict(targets=rows.targets - 100)),
        ]
    else:
        wrong += [("targets", dict(targets=rows.targets[:, 1:])), ("targets", dict(targets=rows.targets.long()))]
    for field, change in wrong:
        bad = rows._replace(**change)
        require_error(lambda bad=bad: ensemble.learn([bad], [0]), (TypeError, ValueError), field)
    for members, of in ([[0], []], [[], [0]], [[0, 0], [0, 0]]):
        both = [rows] * len(of), members
        require_error(lambda both=both: ensemble.learn(*both), ValueError, "members")
    require((ensemble.gradients == 7).all(), "gradients left as they were by rows that are refused")
    require_error(lambda: family.spec.build(shape, 0), ValueError, "members: expected at least 1, got 0")


FAMILY_CHECKS = (
    a_member_has_the_bits_that_it_has_alone,
    first_weights_are_a_function_of_the_seed,
    parameters_are_all_that_is_kept,
    the_buffer_holds_the_parameters,
    gradients_are_those_of_the_loss,
    losses_are_those_of_the_outputs,
    weights_are_factors_of_losses,
    nothing_scored_is_nothing_learned,
    it_learns,
    states_are_of_layers,
    a_position_knows_what_stood_before_it_in_its_row,
    heads_look_back_and_can_be_ablated,
    rows_are_alone,
    bad_rows_are_refused,
)

"""Analyses of models of walks: do they look chains up, or infer the next state from their context?

Source: arXiv 2412.01003. All divergences are of shares of the next state, in nats, and means over rows, whose last
states are distributed as a walk visits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worldfast.reading import lines_of_heads, scores_of_heads, shares
from worldfast.rows import Rows
from worldfast.run import Run
from worldfast.studies import ANALYSES as OF_ANY_WORLD
from worldfast.studies import Analysis, Trained, each, models_of, with_heads
from worldfast.training import load
from worldfast.worlds.chains.dataset import SETS, Dataset, Walks
from worldfast.worlds.chains.interpolation import interpolate
from worldfast.worlds.chains.laws import BLOCK, Chains, drawn
from worldfast.worlds.chains.predictors import NAMES, divergence, predict
from worldfast.worlds.walk_rows import contexts_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["ALIKE", "ANALYSES", "CONTROLS", "KINDS", "basis_of", "shuffled_rows"]

CONTROLS = ("uniform", "Uni-Ret of others", "Bi-Ret of others")
KINDS = ("in order", "all", "all but the last", "only the last")  # of the context, what is shuffled
LAST = 10  # states that are the last ones
ALIKE = 0.01  # nats, nearer than which two predictors are not told apart
WALKS, HEADED = 256, 32  # rows of a set that are tried, and at which attention is read


def basis_of(data: Dataset) -> tuple[str, ...]:
    """Return the predictors of a dataset: where states are named anew in each row, none can look chains up."""
    return NAMES[2:] if data.permuted else NAMES


def sets_of(data: Dataset) -> tuple[str, ...]:
    return SETS if data.states % BLOCK == 0 and data.law != "blocks" else SETS[:2]


class Tried(NamedTuple):
    """Rows on which models of a dataset are tried."""

    rows: Rows
    tokens: np.ndarray  # [n, l]
    truth: np.ndarray  # [n, c, k]
    predicted: Mapping[str, np.ndarray]  # [n, c, k] each


@lru_cache(maxsize=16)
def tried(data: Dataset, of: str, seed: int, n: int) -> Tried:
    stream, at = Walks(data, seed, "tried", of), contexts_of(data.length) - 1
    walked = stream.drawn(0, n)
    scored = (np.arange(n)[:, None] * data.length + at).ravel()
    predicted = predict(data.set_of("trained"), walked.tokens, at, basis_of(data))
    return Tried(stream.packed(walked.tokens, scored), walked.tokens, stream.truth(walked, at), predicted)


@lru_cache(maxsize=2)
def others(data: Dataset) -> Chains:
    """Return as many chains as were trained on, drawn anew: no training row follows them."""
    return drawn(data.chains, data.states, data.law, data.concentration, "equal", ("others", data.draw))


# ---- over training and context ----


def divergences(trained: Sequence[Trained], walks: int) -> DataFrame:
    """Divergence of models from truth and from each predictor, and back, over training and context.

    Columns run, step, rows, set, context, n, truth (KL of the model from the truth), then for each predictor P its own
    KL from the truth ("truth to P"), KL(model || P) ("to P") and KL(P || model) ("from P").
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    for step, ensemble in models_of(one):
        for of in sets_of(data):
            found = tried(data, of, one.run.seed, walks)
            said = shares(ensemble, found.rows, walks)
            columns = {"truth": divergence(found.truth, said)}
            for name, p in found.predicted.items():
                columns |= {f"truth to {name}": divergence(found.truth, p), f"to {name}": divergence(said, p)}
                columns |= {f"from {name}": divergence(p, said)}
            means = {name: value.mean(axis=0) for name, value in columns.items()}
            at = one.where(step) | {"set": of, "context": contexts_of(data.length), "n": walks}
            table.append(pd.DataFrame(at | means))
    return pd.concat(table, ignore_index=True)


def apart(trained: Sequence[Trained], walks: int) -> DataFrame:
    """Divergence of predictors from each other: what is not apart cannot be told from what a model says.

    Columns run, set, context, of, to, divergence (KL(of || to)), alike (both ways below 0.01 nats).
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    for of in sets_of(data):
        far = far_of(tried(data, of, one.run.seed, walks).predicted)
        for (a, b), values in far.items():
            at = {"run": one.name, "set": of, "context": contexts_of(data.length), "of": a, "to": b}
            alike = np.maximum(values, far[b, a]) < ALIKE
            table.append(pd.DataFrame(at | {"divergence": values, "alike": alike}))
    return pd.concat(table, ignore_index=True)


def far_of(parts: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Return the mean divergence of each of some predictors [n, c, k] from each other one, by two names: [c]."""
    return {(a, b): divergence(p, q).mean(axis=0) for a, p in parts.items() for b, q in parts.items() if a != b}


def untold(parts: Mapping[str, np.ndarray]) -> list[str]:
    """Return for each context, in words, which predictors [n, c, k] are alike, so that their weights say nothing."""
    far, said = far_of(parts), [[] for _ in range(next(iter(parts.values())).shape[1])]
    for (a, b), values in far.items():
        for context in np.flatnonzero(np.maximum(values, far[b, a]) < ALIKE) if a < b else ():
            said[context].append(f"{a} and {b}")
    return [f"not told apart: {', '.join(pairs)}" if pairs else "all are told apart" for pairs in said]


def weights(trained: Sequence[Trained], walks: int) -> DataFrame:
    """Models as mixtures of predictors over training and context, fitted on each set of chains for itself.

    Columns run, step, rows, set, context, basis ("predictors"; at the end also "with controls", "controls"), a weight
    for each predictor and control (NaN: not in the basis), divergence (KL(model || mixture)), gap (by which it is above
    the least one, at most), transferred (that of the mixture by the weights of trained chains) and untold (which of
    the basis are alike both ways, in words: how weights are shared between them says nothing). Controls know nothing of
    the chains that were trained on: equal shares, and looking up as many other chains. The more of these there are, the
    nearer they come to what can be inferred from the row itself.
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    for step, ensemble in models_of(one):
        of_trained = {}
        for of in SETS[:2]:
            found = tried(data, of, one.run.seed, walks)
            said = shares(ensemble, found.rows, walks)
            for basis, parts in bases(data, of, one.run.seed, walks).items():
                if basis != "predictors" and step < one.run.steps:
                    continue
                stack = np.stack([*parts.values()])
                fit = interpolate(said, stack)
                of_trained.setdefault(basis, fit.weights)
                moved = divergence(said, np.einsum("ca,anck->nck", of_trained[basis], stack)).mean(axis=0)
                at = one.where(step) | {"set": of, "context": contexts_of(data.length), "basis": basis}
                own = {name: fit.weights[:, i] for i, name in enumerate(parts)}
                rest = {"divergence": fit.divergence, "gap": fit.gap, "transferred": moved}
                rest |= {"untold": alike_of(data, of, one.run.seed, walks)[basis]}
                table.append(pd.DataFrame(at | dict.fromkeys((*NAMES, *CONTROLS), np.nan) | own | rest))
    return pd.concat(table, ignore_index=True)


@lru_cache(maxsize=16)
def bases(data: Dataset, of: str, seed: int, n: int) -> dict[str, dict[str, np.ndarray]]:
    found = tried(data, of, seed, n)
    looked = predict(others(data), found.tokens, contexts_of(data.length) - 1, NAMES[:2])
    equal = np.full_like(found.truth, 1 / data.states)
    controls = dict(zip(CONTROLS, (equal, *looked.values())))
    predicted = dict(found.predicted)
    return {"predictors": predicted, "with controls": predicted | controls, "controls": controls}


@lru_cache(maxsize=16)
def alike_of(data: Dataset, of: str, seed: int, n: int) -> dict[str, list[str]]:
    return {basis: untold(parts) for basis, parts in bases(data, of, seed, n).items()}


# ---- order, and what is near ----


def shuffled_rows(tokens: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Return rows [n, l] whose states are shuffled: "all" of them, "all but the last" 10, or "only the last" 10."""
    tokens, random = tokens.copy(), np.random.default_rng(seed)
    cut = max(1, tokens.shape[1] - LAST)
    part = {
        "in order": slice(0, 0),
        "all": slice(None),
        "all but the last": slice(cut),
        "only the last": slice(cut, None),
    }
    tokens[:, part[kind]] = random.permuted(tokens[:, part[kind]], axis=1)
    return tokens


def shuffled(trained: Sequence[Trained], walks: int) -> DataFrame:
    """Divergence from truth after the whole row, its states shuffled: predictors that do not use their order keep it.

    Columns run, set, kind (of "in order", "all", "all but the last" 10, "only the last" 10), model, and each predictor.
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    data, last, table = run.data, np.array([run.data.length - 1]), []
    for of in SETS[:2]:
        stream = Walks(data, run.seed, "shuffled", of)
        walked = stream.drawn(0, walks)
        for kind in KINDS:
            changed = walked._replace(tokens=shuffled_rows(walked.tokens, kind, run.seed))
            rows = stream.packed(changed.tokens, np.arange(1, walks + 1) * data.length - 1)
            truth, said = stream.truth(changed, last), shares(ensemble, rows, walks)
            found = {"model": said} | predict(data.set_of("trained"), changed.tokens, last, basis_of(data))
            off = {name: float(divergence(truth, p).mean()) for name, p in found.items()}
            table.append({"run": one.name, "set": of, "kind": kind} | off)
    return pd.DataFrame(table)


def nearness(trained: Sequence[Trained], walks: int) -> DataFrame:
    """Distance of a model's transition matrix from the nearest chain that was trained on, and from the nearest other.

    The matrix of a row has for each state what the model says where that state was last; KL(matrix || T_n) is weighted
    by the stationary shares of T_n. Rows without some state are left out. As many other chains are compared as were
    trained on. Columns run, step, rows, set, n, trained, others (means of the least), share (of rows that are nearer to
    trained ones).
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    for of in SETS[:2]:
        stream = Walks(data, one.run.seed, "nearness", of)
        tokens = stream.drawn(0, walks).tokens
        back = tokens[:, ::-1, None] == np.arange(data.states)
        last = data.length - 1 - back.argmax(axis=1)  # [n, k]
        last, tokens = (x[back.any(axis=1).all(axis=1)] for x in (last, tokens))
        order = np.argsort(last, axis=1)
        scored = np.arange(len(tokens))[:, None] * data.length + np.take_along_axis(last, order, 1)
        rows = stream.packed(tokens, scored.ravel())
        for step, ensemble in models_of(one) if len(tokens) else ():
            matrix = np.empty((len(tokens), data.states, data.states))
            np.put_along_axis(matrix, order[:, :, None], shares(ensemble, rows, len(tokens)), axis=1)
            near = [least(matrix, chains) for chains in (data.set_of("trained"), others(data))]
            found = {"n": len(tokens), "trained": near[0].mean(), "others": near[1].mean()}
            table.append(one.where(step) | {"set": of} | found | {"share": (near[0] < near[1]).mean()})
    return pd.DataFrame(table, columns=["run", "step", "rows", "set", "n", "trained", "others", "share"])


def least(matrix: np.ndarray, chains: Chains) -> np.ndarray:
    """Return the least divergence of any chain from matrices [n, k, k], float64 [n]."""
    with np.errstate(divide="ignore"):
        own = (matrix * np.log(matrix)).sum(axis=-1) @ chains.stationary.T  # [n, N]
        weighed = chains.stationary[:, :, None] * np.log(np.maximum(chains.transitions, 1e-300))
    k = matrix.shape[1] ** 2
    return (own - matrix.reshape(-1, k) @ weighed.reshape(-1, k).T).min(axis=1)


# ---- attention ----


def attention(trained: Sequence[Trained], walks: int) -> DataFrame:
    """Scores of heads over training, on rows of fresh chains, as of `induction`.

    Columns run, step, rows, block, head, previous, induction, chance.
    """
    import pandas as pd

    (one,) = trained
    data, table = one.run.data, []
    stream = Walks(data, one.run.seed, "attention", "fresh")
    tokens = stream.drawn(0, walks).tokens
    rows = stream.packed(tokens, np.arange(1, walks + 1) * data.length - 1)
    for step, ensemble in models_of(one):
        table += lines_of_heads(one.where(step), scores_of_heads(ensemble, rows, tokens))
    return pd.DataFrame(table)


# ---- of a study ----


def looking_up(study, finished: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs whose chains could be looked up."""
    return [(run,) for run in finished if not run.data.permuted]


def tried_on(study) -> dict:
    return {"walks": WALKS}


ANALYSES = (
    *(one for one in OF_ANY_WORLD if one.kind in ("evaluation", "probes", "films", "pca", "dimension", "cka")),
    Analysis("divergences", divergences, each, tried_on),
    Analysis("apart", apart, each, tried_on),
    Analysis("weights", weights, each, tried_on),
    Analysis("shuffled", shuffled, each, tried_on),
    Analysis("nearness", nearness, looking_up, tried_on),
    Analysis("attention", attention, with_heads, lambda study: {"walks": HEADED}),
)

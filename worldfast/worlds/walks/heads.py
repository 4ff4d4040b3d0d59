"""Heads of attention: who looks at the name before, who at what came after the same name, what is left without them.

Source: arXiv 2501.00070, and the critique of it whose scores and ablations these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from worldfast.reading import lines_of_heads, scores_of_heads
from worldfast.studies import Trained, models_of
from worldfast.training import load
from worldfast.worlds.walks.dataset import Dataset, Walks, contexts
from worldfast.worlds.walks.geometry import MEASURES, following
from worldfast.worlds.walks.reading import in_context, said_by, states_of, to_nodes

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["KINDS", "ablation", "heads", "heads_of", "repeated"]

HALF, REPEATS = 32, 16  # names of a half at most, and rows of them, at which heads are scored
KINDS = ("induction", "previous", "others")  # heads that are ablated
DRAWS = 4  # sets of other heads


def repeated(data: Dataset, seed: int) -> np.ndarray:
    """Return rows of random names, each once, that come twice: integers [n, 2 h]; h is at most 32."""
    half = min(HALF, data.names, data.length // 2)
    random = np.random.default_rng([seed, half])
    first = np.argsort(random.random((REPEATS, data.names)), axis=1)[:, :half]
    return np.concatenate([first, first], axis=1)


def heads_of(ensemble, data: Dataset, seed: int) -> dict[str, np.ndarray]:
    """Return what heads of a model score on names that come twice, as of `induction`: [layers, heads] each.

    "chance" is what even attention has on what came after the same name.
    """
    tokens = repeated(data, seed).astype(np.int32)
    n, T = tokens.shape
    rows = Walks(data, 0, "heads").packed(tokens, np.arange(1, n + 1) * T - 1)
    return scores_of_heads(ensemble, rows, tokens)


def heads(trained: Sequence[Trained]) -> DataFrame:
    """Scores of heads over training. Columns run, step, rows, block, head, previous, induction, chance."""
    import pandas as pd

    (one,) = trained
    table = []
    for step, ensemble in models_of(one):
        table += lines_of_heads(one.where(step), heads_of(ensemble, one.run.data, one.run.seed))
    return pd.DataFrame(table)


def ablation(trained: Sequence[Trained], layer: int, namings: int, walks: int, window: int) -> DataFrame:
    """Models without some heads, at the end: without those of the highest scores, or without as many others at random.

    Columns run, names, heads ("none", "induction", "previous", "others"), k (how many give nothing), following, ratio,
    r2, cka after the whole row; of others means over 4 draws.
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    data, random, table = run.data, np.random.default_rng(run.seed), []
    last = np.array([data.length - 1])
    scores = heads_of(ensemble, data, run.seed)
    rank = {kind: np.argsort(-scores[kind], axis=None, kind="stable") for kind in KINDS[:2]}
    shape, total = scores["previous"].shape, scores["previous"].size
    sets: list[tuple[str, int, np.ndarray]] = [("none", 0, np.zeros(0, int))]
    for k in [2**i for i in range(total.bit_length()) if 2 ** (i + 2) <= total]:  # so that others are left
        sets += [(kind, k, rank[kind][:k]) for kind in rank]
        rest = np.setdiff1d(np.arange(total), np.concatenate([rank[kind][:k] for kind in rank]))
        sets += [("others", k, random.choice(rest, k, replace=False)) for _ in range(DRAWS) if len(rest) >= k]
    for of in data.tried:
        read, graph = contexts(data, of, run.seed, "reading", namings, walks), data.graph_of(of)
        for kind, k, gone in sets:
            gain = np.ones(total)
            gain[gone] = 0
            how = {"gain": gain.reshape(shape)}
            said = to_nodes(said_by(ensemble, data, read, last, **how), read)
            mass = following(said, read.nodes[:, :, last], graph).mean()
            (states,) = states_of(ensemble, data, read, [layer], **how)
            (found,) = in_context(states, data, of, read, [data.length], window)
            kept = {name: found[name] for name in MEASURES[1:]}
            table.append({"run": one.name, "names": of, "heads": kind, "k": k, "following": float(mass)} | kept)
    return pd.DataFrame(table).groupby(["run", "names", "heads", "k"], sort=False).mean().reset_index()

"""Walks through Markov chains as a dataset: a model reads states, and learns which comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from worldfast import dataset
from worldfast.arrays import refuse
from worldfast.dataset import Readout, Score, nested
from worldfast.errors import one_of, several, typed, whole
from worldfast.rows import LAST_ROW, MOST_INPUTS, Shape, key_of, require_split
from worldfast.worlds.chains.laws import BLOCK, LAWS, PRIORS, WITHIN, Chains, drawn, given
from worldfast.worlds.walk_rows import LIMITS, WHOLE, Drawn, Sampler

__all__ = ["SETS", "Dataset", "Walks"]

SETS = ("trained", "fresh", "blocks")  # of chains, on which a model is tried
FRESH = 256  # chains of a set that no model was trained on
MOST_SHARES = 2**27  # of all chains together: they take up to 8.5 GiB while they are made


@dataclass(frozen=True)
class Dataset(dataset.Dataset):
    """Walks of `length` states, each through one of N Markov chains that a model never sees. Source: arXiv 2412.01003.

    A row draws its chain, its first state by the chain's stationary shares, and every further state by the row of its
    transition matrix. There are no tokens for begin and end, and the loss is that of all next states.
    A model can look chains up (a posterior over those it was trained on) or infer the next state from counts of its
    context, from single states or from pairs: see worldfast.worlds.chains.predictors.

    Parameters
    ----------
    chains : int
        N.
    states : int
        k, which are also the tokens.
    length : int
        States of a row.
    rows : int
        Rows of an epoch; those of later epochs are the same again.
    law : {"dirichlet", "blocks"}
        From each state, shares from a Dirichlet distribution of one parameter; or of the parameter 5 within blocks of 5
        states and 1 outside.
    concentration : int
        The parameter of the former. It is a whole number: such draws are exact, and the same on every machine.
    prior : {"random", "equal"}
        Shares of the chains: in proportion to uniform numbers, as in the source, or the same for all.
    draw : int
        Seed of chains and prior. The chains of a smaller N are the first of a larger one, and chains that models are
        tried on, and were not trained on, are the same for all N.
    permuted : bool
        States are named anew in each row, so that there is nothing to look up but how steps are distributed.
    transitions : sequence, optional
        Transition matrices [N, k, k] of one's own, in place of those that are drawn; N and k follow from them.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> from worldfast.worlds import chains
    >>> data = chains.Dataset(chains=16, states=5, length=100, rows=2000)
    >>> rows = data.stream(seed=0).batch(0, 32)
    >>> rows.inputs.shape, rows.targets.shape
    (torch.Size([3200]), torch.Size([3168]))
    """

    chains: int = 64
    states: int = 10
    length: int = 128
    rows: int = 1_000_000
    law: str = "dirichlet"
    concentration: int = 1
    prior: str = "random"
    draw: int = 0
    permuted: bool = False
    transitions: tuple = ()

    def __post_init__(self):
        one_of("law", self.law, LAWS)
        one_of("prior", self.prior, PRIORS)
        typed("permuted", self.permuted, bool, "True or False")
        refuse(self.transitions, "transitions")
        self._set("transitions", nested(several("transitions", self.transitions, "matrices")))
        if self.transitions:
            self._set("transitions", nested(self.set_of("trained").transitions))  # equal ones have one identity
            for name, size in zip(("chains", "states"), self.set_of("trained").transitions.shape):
                if getattr(self, name) not in (getattr(Dataset, name), size):
                    raise ValueError(f"{name}: transitions have {size:,}, got {getattr(self, name)}")
                self._set(name, size)
        limits = {name: (2, LIMITS[name]) for name in ("states", "length")}
        limits |= {"chains": (1, 2**31 - 1), "rows": (1, LAST_ROW)}
        for name, (least, most) in (limits | {"concentration": (1, 2**10), "draw": (0, 2**63 - 1)}).items():
            self._set(name, whole(name, getattr(self, name), least, most))
        if self.law == "blocks" and self.states % BLOCK:
            raise ValueError(f"states: expected a multiple of {BLOCK}, the states of a block, got {self.states}")
        shares = max(self.chains, FRESH) * self.states**2 * (WITHIN if self.law == "blocks" else self.concentration)
        if shares > MOST_SHARES:
            fresh = self.chains < FRESH
            raise ValueError(
                f"{'states' if fresh else 'chains'}: {max(self.chains, FRESH):,} chains of {self.states:,} states take "
                f"{shares:,} numbers, more than {MOST_SHARES:,}: take fewer {'' if fresh else 'chains or '}states"
                + f" ({FRESH} chains that no model was trained on are drawn besides)"
                * fresh
            )

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    # ---- what it is ----

    @property
    def label(self) -> str:
        kind = "blocks" if self.law == "blocks" else "chains"
        return f"{kind}{self.chains}{'-permuted' if self.permuted else ''}"

    @property
    def vocabulary(self) -> str:  # type: ignore[override]  # that of its states
        return f"{self.states} states"

    @property
    def shape(self) -> Shape:
        return Shape(self.states, self.states)

    @property
    def epoch_rows(self) -> int:
        return self.rows

    @cached_property
    def longest(self) -> int:
        return self.length

    @property
    def stream_bytes(self) -> int:
        return 8 * self.chains * (self.states * (self.states + 1) + 1)  # thresholds

    def set_of(self, name: str) -> Chains:
        """Return a set of chains: "trained", those of its rows; "fresh", others of one law; or "blocks", of the other.

        Fresh chains are 256, of equal shares, the same for all N. Where transitions are given they are of the law that
        the fields state.
        """
        one_of("set", name, SETS)
        if name != "trained":
            law = "blocks" if name == "blocks" else self.law
            if law == "blocks" and self.states % BLOCK:
                raise ValueError(f"set: 'blocks' is for multiples of {BLOCK} states, got {self.states}")
            return drawn(FRESH, self.states, law, self.concentration, "equal", ("tried", self.draw))
        if self.transitions:
            return given(self.transitions, self.prior, (self.draw,))
        return drawn(self.chains, self.states, self.law, self.concentration, self.prior, (self.draw,))

    def content(self) -> Mapping[str, Any]:
        trained, fresh = self.set_of("trained"), self.set_of("fresh")
        return {
            "walks": "through chains from their stationary shares, a word of SplitMix64 a state",
            "transitions": trained.transitions,
            "prior": trained.prior,
            "fresh": fresh.transitions,
        }

    def check(self, model: Any) -> None:
        """Raise ValueError if a model of this spec cannot say every state."""
        if getattr(model, "outputs", None) not in (None, self.states):
            raise ValueError(f"model.outputs: expected {self.states}, the states, or None, got {model.outputs}")

    # ---- what it gives ----

    def stream(self, seed: int, split: str = "train") -> Walks:
        return Walks(self, seed, require_split(split))

    def readout(  # type: ignore[override]  # the options of this world by name
        self, walks: int = 1000, of: str = "fresh", position: int | None = None
    ) -> Readout:
        """Return rows at whose last state a model is read.

        Rows of fresh chains are the same for every number of chains, so that models of all of them are read alike.

        Parameters
        ----------
        walks : int
        of : {"trained", "fresh", "blocks"}
            Chains of the rows.
        position : int, optional
            State that is read, counted from 0; by default, the last one.

        Returns
        -------
        Readout
            Attributes are the shares of the next state, p0, p1 ..., that follow from the chain and the state; groups
            are the states, "at 0", "at 1" ...
        """
        n, t = whole("walks", walks, 1, MOST_INPUTS // self.length), self.length - 1
        t = t if position is None else whole("position", position, 0, t)
        stream = Walks(self, 0, "readout", of)
        walked = stream.drawn(0, n)
        tokens = walked.tokens[:, : t + 1]
        text = [" ".join(map(str, row)) for row in tokens.tolist()]
        return Readout(
            rows=stream.packed(tokens, np.arange(1, n + 1) * (t + 1) - 1),
            things=np.arange(n, dtype=np.int32),
            attributes=stream.truth(walked, np.array([t]))[:, 0],
            columns=tuple(f"p{j}" for j in range(self.states)),
            groups={f"at {j}": tokens[:, -1] == j for j in range(self.states)},
            about={"walks": n, "of": of, "position": t},
            entities=np.array(text) if len(set(text)) == n else None,
        )

    def score(self, ensemble, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        """Score a member's most likely next states in n rows of its chains and of others, "fresh": shares right."""
        found = {}
        for name in ("trained", "fresh"):
            rows = Walks(self, seed, require_split(split), name).batch(0, n)
            targets = rows.targets.numpy()
            right = ensemble.outputs(rows, member).numpy(force=True).argmax(1) == targets
            constant = np.bincount(targets).max() / len(targets)
            found[name] = Score(float(right.mean()), float(constant), n, unparsable=0)
        return found


class Walks(Sampler):
    """Walks of a dataset, seed and split: a worldfast.rows.Stream.

    Parameters
    ----------
    data : Dataset
    seed : int
    split : str
    of : {"trained", "fresh", "blocks"}
        Chains of the rows.
    """

    def __init__(self, data: Dataset, seed: int, split: str = "train", of: str = "trained"):
        self.chains, seed = data.set_of(of), whole("seed", seed)
        key = key_of("walks", seed, split) if of == "trained" else key_of("walks", seed, split, of)
        renamed = np.full(len(self.chains.prior), WHOLE if data.permuted else 0)
        super().__init__(key, *self.chains.thresholds(), data.states, renamed, data.length, data.rows)

    def truth(self, walked: Drawn, positions: np.ndarray) -> np.ndarray:
        """Return the shares of the next token after each of these positions: float64 [n, p, k]."""
        shares = self.chains.transitions[walked.chain[:, None], walked.states[:, positions]]  # of states
        return np.take_along_axis(shares, np.argsort(walked.names, axis=1)[:, None], axis=2)

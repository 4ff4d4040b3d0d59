"""Trials as a dataset: latent points that are seen through noise and an encoder, and questions about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from worldfast import dataset
from worldfast._native import core
from worldfast.dataset import Readout, Score
from worldfast.errors import number, one_of, several, typed, unknown_name, whole
from worldfast.rows import LAST_ROW, MOST_INPUTS, Shape, require_split
from worldfast.worlds.factors.questions import (
    CHANNELS,
    KINDS,
    THRESHOLDS,
    Questions,
    encoder,
    normals,
    questions,
    share_beyond,
)
from worldfast.worlds.factors.trials import NOISES, Trials, deviation

__all__ = ["Dataset", "quadrants"]

ENCODERS = ("relu", "square")
TARGETS = ("every", "decision")
REACTIONS = ("fixed", "free")
SIGMA, SIGMA_ENCODED = 0.2, 0.1  # the source's, of noise before and after the encoder
BLOCK = 16  # the source's batches
OUTPUTS = {"fixed": ("logistic", "tanh"), "free": ("tanh", "linear")}  # by the reaction; the first is the source's
LIMITS = core.trial_limits  # of sizes and numbers, as the native core has them
LEAST_YES = 1e-4  # share of the square at which a product is answered with yes; 0.2429 has more, 0.243 less
MOST_READ = 2**28  # numbers of a readout's inputs: 1 GiB


@dataclass(frozen=True)
class Dataset(dataset.Dataset):
    """Trials in which a latent point is seen through noise, and N yes-no questions about it. Source: arXiv 2407.11249.

    A point x is uniform on [-1/2, 1/2]^D. A trial has a step of fixation, `steps` of stimulus and one of decision; in
    those of stimulus X = x + noise, drawn afresh at each, in the other two X = 0. A model reads the fixation channel, 1
    until the decision, and f(X), the 40 outputs of a frozen random encoder. All questions are answered at once.

    Parameters
    ----------
    questions : {"even", "random", "products", "context"}
        Lines through the origin at even angles (D = 2); hyperplanes through the origin of random unit normals;
        thresholds of |x1 x2| in each quadrant (D = 2); or x2 > x1 and x1 + x2 > 0, of which rows are asked only one, as
        two more inputs say, the same in `block` rows. At odd N the middle one of the even lines is upright: its answer
        is x1 < 0, and its slope, which scales evidence at free reaction times, 1.6e16.
    n : int
        N, number of questions.
    dims : int
        D, latent numbers.
    rows : int
        Trials of an epoch; those of later epochs are new.
    sigma : float
        Standard deviation of the noise, from 1e-5, below which it is lost in the rounding of float32, to 1000. It is
        not 0: without noise answers are certain, and so do not say how far a point is from a boundary. By default as in
        the source: 0.2, or 0.1 for noise "encoded".
    steps : int
        Steps of stimulus.
    noise : {"isotropic", "anisotropic", "gumbel", "ar1", "encoded"}
        Normal; normal, of twice the deviation in the second latent number; Gumbel of scale sigma, whose mean of 0.577
        sigma stays, as in the source; normal with a correlation of 0.7 from step to step; or normal, added to the
        encoder's outputs instead of its inputs.
    correlation : float
        Correlation of the normal numbers of which x1 and x2 are shares (a Gaussian copula); D = 2.
    encoder : {"relu", "square"}, optional
        Function of the encoder's hidden units; None: the model reads X itself.
    draw : int
        Seed of encoder and random hyperplanes. In the source each network has its own.
    target : {"every", "decision"}
        Learn every step, those before the decision with a target of 1/2 as in the source, where they are most of the
        loss; or the decision alone. At free reaction times every step is learned.
    reaction : {"fixed", "free"}
        Answer at the decision; or say at each step of stimulus how much the observations up to it speak for yes: the
        sum of c . X, held at -5 or 5 once it is beyond. Rows then have no fixation, no step before and none after the
        stimulus.
    output : {"logistic", "tanh", "linear"}, optional
        At fixed reaction times "logistic", by default: chances of yes, learned by their cross entropy; or "tanh": -1
        for no to 1 for yes, 0 before the decision, learned by their mean square, as the source had it before September
        2024. At free ones "tanh", by default: 5 tanh of the outputs, as in the source; or "linear": the outputs
        themselves, both learned by their mean square.
    truncated : bool
        Targets at free reaction times are truncated to integers, as in the source, where this was surely unintended.
        At fixed ones there is nothing to truncate, and only the default is accepted.
    thresholds : sequence of float, optional
        Those of products, of each quadrant, from 0 to 0.2429, beyond which less than one point in 10,000 is answered
        with yes; by default the published ones of 24 and 48 questions.
    block : int
        Consecutive rows that are asked the same one of the two questions of "context": in the source, those of a batch.
        Other questions accept only the default.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> from worldfast.worlds import factors
    >>> data = factors.Dataset("even", n=6, rows=1600)
    >>> rows = data.stream(seed=0).batch(0, 16)
    >>> rows.inputs.shape, rows.targets.shape
    (torch.Size([352, 41]), torch.Size([352, 6]))
    """

    questions: str = "even"
    n: int = 24
    dims: int = 2
    rows: int = 1_600_000
    sigma: float = None  # type: ignore[assignment]  # that of __post_init__
    steps: int = 20
    noise: str = "isotropic"
    correlation: float = 0.0
    encoder: str | None = "relu"
    draw: int = 0
    target: str = "every"
    reaction: str = "fixed"
    output: str | None = None
    truncated: bool = True
    thresholds: tuple[float, ...] = ()
    block: int = BLOCK

    def __post_init__(self):
        known = {"questions": KINDS, "noise": NOISES, "target": TARGETS, "reaction": REACTIONS}
        for name, values in (known | ({} if self.encoder is None else {"encoder": ENCODERS})).items():
            one_of(name, getattr(self, name), values)
        if self.output is not None and self.output not in tuple(OUTPUTS[self.reaction]):
            if self.output in [name for names in OUTPUTS.values() for name in names]:
                expected = " or ".join(map(repr, OUTPUTS[self.reaction]))
                raise ValueError(f"output: expected {expected} at {self.reaction} reaction times, got {self.output!r}")
            raise unknown_name("output", self.output, OUTPUTS[self.reaction])
        sizes = {"n": LIMITS["questions"], "dims": LIMITS["latents"], "steps": LIMITS["steps"], "rows": LAST_ROW}
        limits = {name: (1, most) for name, most in sizes.items()}
        for name, (least, most) in (limits | {"draw": (0, 2**63 - 1), "block": (1, LAST_ROW)}).items():
            self._set(name, whole(name, getattr(self, name), least, most))
        typed("truncated", self.truncated, bool, "True or False")
        if self.sigma is None:
            self._set("sigma", SIGMA_ENCODED if self.noise == "encoded" else SIGMA)
        if number("sigma", self.sigma) == 0:
            raise ValueError(
                "sigma: expected a number above 0, got 0: without noise every answer is certain, so that no answer "
                "says how far a point is from a boundary, and no map follows from them"
            )
        self._set("sigma", deviation(self.sigma))
        self._set("correlation", number("correlation", self.correlation))
        nearest = LIMITS["correlation"]
        if not abs(self.correlation) <= nearest:
            raise ValueError(
                f"correlation: expected a number from {-nearest} to {nearest}, got {self.correlation}: of latent "
                "numbers that are one there is no map of two"
            )
        self._check_questions()
        self._check_used()

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _check_questions(self):
        of_two = {
            "questions": self.questions != "random",
            "correlation": self.correlation != 0,
            "noise": self.noise == "anisotropic",
        }
        for name in [name for name, needs in of_two.items() if needs and self.dims != 2]:
            raise ValueError(
                f"dims: expected 2 with {name}={getattr(self, name)!r}, got {self.dims}: other numbers of latents need "
                "questions='random', correlation=0 and any noise but 'anisotropic'"
            )
        if self.n < self.dims:
            raise ValueError(
                f"n: expected at least dims, {self.dims}, got {self.n}: fewer questions do not place a point"
            )
        if self.questions == "context" and self.n != 2:
            raise ValueError(f"n: expected 2 questions of 'context', got {self.n}")
        if self.reaction == "free" and self.questions in ("products", "context"):
            raise ValueError(f"reaction: 'free' is for questions that are half-spaces, got {self.questions!r}")
        self._set(
            "thresholds", tuple(number("thresholds", x) for x in several("thresholds", self.thresholds, "numbers"))
        )
        if self.questions != "products":
            if self.thresholds:
                raise ValueError(f"thresholds: those are of 'products', not of {self.questions!r}")
            return
        if not self.thresholds and self.n not in THRESHOLDS:
            raise ValueError(f"n: expected 24 or 48, got {self.n}; other numbers of products need thresholds")
        self._set("thresholds", self.thresholds or THRESHOLDS[self.n])
        if len(self.thresholds) * 4 != self.n:
            raise ValueError(f"thresholds: expected n / 4 for each quadrant, got {len(self.thresholds)} for n {self.n}")
        for theta in self.thresholds:
            if not 0 <= theta < 0.25:
                raise ValueError(
                    f"thresholds: expected 0 to below 1/4, the largest |x1 x2|, got {theta}: no point is beyond it, "
                    "and every answer is no"
                )
            if (share := share_beyond(theta)) < LEAST_YES:
                raise ValueError(
                    f"thresholds: expected at most 0.2429, got {theta}: in a quadrant |x1 x2| is beyond it on a share "
                    f"of {share:.1e} of the square, so that next to no trial is answered with yes"
                )

    def _check_used(self):
        """Raise a ValueError for a field that has no effect with the values of the others."""
        free, context = self.reaction == "free", self.questions == "context"
        if self.noise == "encoded" and self.encoder is None:
            raise ValueError(
                "noise: 'encoded' is added to the encoder's outputs, and encoder is None: choose an encoder, or noise "
                "'isotropic', which a model without one sees as it is"
            )
        if free and self.target != "every":
            raise ValueError(
                f"target: expected 'every' with reaction='free', got {self.target!r}: evidence is learned at every "
                "step of the stimulus, and there is no decision"
            )
        if not free and not self.truncated:
            raise ValueError(
                "truncated: False is for reaction='free', whose targets are evidence; at fixed reaction times targets "
                "are 0, 1/2 and 1: leave it out"
            )
        if not context and self.block != BLOCK:
            raise ValueError(
                f"block: {self.block} rows share a question of questions='context' only; {self.questions!r} rows are "
                "asked all: leave it out"
            )

    # ---- what it is ----

    @property
    def label(self) -> str:
        of = "" if self.dims == 2 else f"-d{self.dims}"
        return f"{self.questions}{self.n}{of}{'-free' if self.reaction == 'free' else ''}"

    @property
    def squashed(self) -> str:
        """Function that its outputs pass through: "logistic", "tanh" or "linear"."""
        return self.output or OUTPUTS[self.reaction][0]

    @property
    def asked(self) -> Questions:
        """Its questions."""
        return questions(self.questions, self.n, self.dims, self.draw, self.thresholds)

    @property
    def decorrelated(self) -> Dataset:
        """The same dataset with independent latent numbers, on which decoders are tested."""
        return replace(self, correlation=0.0)

    @property
    def channels(self) -> int:
        """Numbers of an observation."""
        return CHANNELS if self.encoder else self.dims

    @property
    def decision(self) -> int:
        """Position in a trial of the step at which questions are answered: the last one."""
        return self.longest - 1

    @property
    def shape(self) -> Shape:
        free, context = self.reaction == "free", self.questions == "context"
        losses = {"logistic": "binary_cross_entropy", "tanh": "tanh_square", "linear": "mean_square"}
        loss = losses[self.squashed]
        return Shape(self.channels + (not free) + 2 * context, self.n, vectors=True, loss=loss)

    @property
    def epoch_rows(self) -> int:
        return self.rows

    @cached_property
    def longest(self) -> int:
        return self.steps + (0 if self.reaction == "free" else 2)

    def content(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {"trials": "points, noise and questions of arXiv 2407.11249"}
        if self.encoder:
            found["encoder"] = np.concatenate([x.ravel() for x in encoder(self.dims, self.draw)])
        if self.questions == "random":
            found["hyperplanes"] = normals(self.n, self.dims, self.draw)
        return found

    # ---- what it gives ----

    def stream(self, seed: int, split: str = "train") -> Trials:
        return Trials(self, seed, require_split(split))

    def readout(  # type: ignore[override]  # the options of this world by name
        self, trials: int = 1600, positions: str | Sequence[int] = "decision", sigma: float | None = None
    ) -> Readout:
        """Return trials and the steps at which a model is read.

        The points, uncorrelated, are those of every dataset with as many latent numbers, and their noise that of every
        one of its kind, so that models of other questions and encoders are read at the same.

        Parameters
        ----------
        trials : int
        positions : {"decision", "every"} or sequence of int
            Steps that are read: the last one, all, or some counted from 0.
        sigma : float, optional
            Standard deviation of the noise; 0: none. By default, that of the dataset.

        Returns
        -------
        Readout
            Attributes are the latent numbers; groups are the quadrants of the last two.

        Raises
        ------
        ValueError
            A quadrant has no trial, or there is no such step.
        """
        n = whole("trials", trials, 1, MOST_INPUTS // self.longest)
        if (numbers := n * self.longest * self.shape.inputs) > MOST_READ:
            raise ValueError(
                f"trials: {n:,} of {self.longest:,} steps are {numbers:,} numbers, more than {MOST_READ:,}: take fewer"
            )
        stream = Trials(self.decorrelated, 0, "readout", sigma)
        drawn, steps = stream.drawn(0, n), _steps(positions, self.longest)
        scored = (np.arange(n)[:, None] * self.longest + steps).ravel()
        where = quadrants(drawn.latents)
        known = range(1, 1 + (1 << min(2, self.dims)))
        for q in known:
            if not (where == q).any():
                raise ValueError(f"trials: quadrant {q} has none of {n}: take more")
        return Readout(
            rows=stream.packed(drawn.inputs, scored),
            things=np.arange(n, dtype=np.int32),
            attributes=drawn.latents.astype(np.float64),
            columns=tuple(f"x{j + 1}" for j in range(self.dims)),
            groups={f"quadrant {q}": where == q for q in known},
            about={"trials": n, "steps": steps.tolist(), "sigma": stream.sigma},
            entities=np.array([" ".join(f"{x:+.7f}" for x in point) for point in drawn.latents]),
        )

    def score(self, ensemble, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        """Score a member's answers at the decision of n trials: the share that is right.

        At free reaction times the answer is the sign of the evidence before it is truncated. Of two questions by
        context the one that is asked counts.
        """
        whole_evidence = replace(self, truncated=False) if self.reaction == "free" else self
        stream = whole_evidence.stream(seed, split)
        drawn = stream.drawn(0, n)
        rows = stream.packed(drawn.inputs, np.arange(1, n + 1) * self.longest - 1)
        middle = 0.0 if self.reaction == "free" else 0.5
        yes = drawn.targets[:, -1] > middle
        right = (ensemble.outputs(rows, member).numpy(force=True) > 0) == yes
        counted = drawn.inputs[:, -1, -2:] > 0 if self.questions == "context" else np.ones_like(yes)
        often = (yes & counted).sum(0)  # yes, of each question
        constant = np.maximum(often, counted.sum(0) - often).sum() / counted.sum()
        return {"answers": Score(float(right[counted].mean()), float(constant), n, unparsable=0)}


def _steps(positions: str | Sequence[int], length: int) -> np.ndarray:
    if isinstance(positions, str):
        if positions not in TARGETS:
            raise unknown_name("positions", positions, TARGETS)
        return np.arange(length) if positions == "every" else np.array([length - 1])
    steps = [whole("positions", step, 0, length - 1) for step in several("positions", positions, "steps")]
    if not steps or sorted(set(steps)) != steps:
        raise ValueError(f"positions: expected ascending steps, each once, got {steps}")
    return np.array(steps)


def quadrants(x: np.ndarray) -> np.ndarray:
    """Return the quadrant of each of latent points [n, D], by the signs of the last two numbers: int64 [n], 1 to 4.

    In quadrants 1 and 2 the former number is below 0, in 1 and 3 the latter. Of D numbers a quadrant is every fourth
    orthant in lexicographic order; of one number there are two, 1 and 2.
    """
    above = x[:, -2:] > 0
    return 1 + above @ (2 ** np.arange(above.shape[1])[::-1])

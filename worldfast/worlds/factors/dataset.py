"""Trials as a dataset: latent points that are seen through noise and an encoder, and questions about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from worldfast import dataset
from worldfast.dataset import Readout, Score
from worldfast.errors import number, one_of, positive, several, typed, unknown_name, whole
from worldfast.rows import Shape
from worldfast.worlds.factors.questions import (
    CHANNELS,
    KINDS,
    THRESHOLDS,
    Questions,
    encoded,
    encoder,
    normals,
    questions,
)
from worldfast.worlds.factors.trials import NOISES, Trials

__all__ = ["Dataset", "quadrants"]

ENCODERS = ("relu", "square")
TARGETS = ("every", "decision")
REACTIONS = ("fixed", "free")
OUTPUTS = {"fixed": ("logistic", "tanh"), "free": ("tanh", "linear")}  # by the reaction; the first is the source's
MOST_STEPS, MOST_LATENTS, MOST_QUESTIONS = 2**16, 64, 2**16  # as in csrc/rows/trials.h
MOST_READ = 2**28  # numbers of a readout's inputs: 1 GiB
NEAREST = 0.999999  # correlation


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
        Standard deviation of the noise, above 0: without it answers are certain, and so do not say how far a point is
        from a boundary.
    steps : int
        Steps of stimulus.
    noise : {"isotropic", "anisotropic", "gumbel", "ar1", "encoded"}
        Normal; normal, of twice the deviation in the second latent number; Gumbel of scale sigma, whose mean of 0.577
        sigma stays, as in the source; normal with a correlation of 0.7 from step to step; or normal after the encoder.
    correlation : float
        Correlation of the normal numbers of which x1 and x2 are shares (a Gaussian copula); D = 2.
    encoder : {"relu", "square"}, optional
        Function of the encoder's hidden units; None: the model reads X itself.
    draw : int
        Seed of encoder and random hyperplanes. In the source each network has its own.
    target : {"every", "decision"}
        Learn every step, those before the decision with a target of 1/2 as in the source, where they are most of the
        loss; or the decision alone.
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
        Targets at free reaction times are truncated to integers, as in the source, surely unintended.
    thresholds : sequence of float, optional
        Those of products, of each quadrant; by default the published ones of 24 and 48 questions.
    block : int
        Rows that are asked the same of two questions ("context"): in the source, those of a batch.

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
    sigma: float = 0.2
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
    block: int = 16

    def __post_init__(self):
        known = {"questions": KINDS, "noise": NOISES, "target": TARGETS, "reaction": REACTIONS}
        for name, values in (known | ({} if self.encoder is None else {"encoder": ENCODERS})).items():
            one_of(name, getattr(self, name), values)
        if self.output is not None and self.output not in tuple(OUTPUTS[self.reaction]):
            if self.output in [name for names in OUTPUTS.values() for name in names]:
                expected = " or ".join(map(repr, OUTPUTS[self.reaction]))
                raise ValueError(f"output: expected {expected} at {self.reaction} reaction times, got {self.output!r}")
            raise unknown_name("output", self.output, OUTPUTS[self.reaction])
        limits = {"n": (1, MOST_QUESTIONS), "dims": (1, MOST_LATENTS), "rows": (1, 2**62), "steps": (1, MOST_STEPS)}
        for name, (least, most) in (limits | {"draw": (0, 2**63 - 1), "block": (1, 2**62)}).items():
            self._set(name, whole(name, getattr(self, name), least, most))
        typed("truncated", self.truncated, bool, "True or False")
        if number("sigma", self.sigma) == 0:
            raise ValueError(
                "sigma: expected a number above 0, got 0: without noise every answer is certain, so that no answer "
                "says how far a point is from a boundary, and no map follows from them"
            )
        self._set("sigma", positive("sigma", self.sigma))
        self._set("correlation", number("correlation", self.correlation))
        if not abs(self.correlation) <= NEAREST:
            raise ValueError(
                f"correlation: expected a number from {-NEAREST} to {NEAREST}, got {self.correlation}: of latent "
                "numbers that are one there is no map of two"
            )
        self._check_questions()

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _check_questions(self):
        if self.dims != 2 and (self.questions != "random" or self.correlation or self.noise == "anisotropic"):
            raise ValueError(
                f"dims: expected 2, got {self.dims}: other numbers are for random hyperplanes, without correlation, "
                "under noise that is alike in each"
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

    # ---- what it is ----

    @property
    def label(self) -> str:
        of = "" if self.dims == 2 else f"-d{self.dims}"
        return f"{self.questions}{self.n}{of}{'-free' if self.reaction == 'free' else ''}"

    @property
    def squashed(self) -> str:
        """What its outputs pass through: "logistic", "tanh" or "linear"."""
        return self.output or OUTPUTS[self.reaction][0]

    @property
    def asked(self) -> Questions:
        """Its questions."""
        return questions(self.questions, self.n, self.dims, self.draw, self.thresholds)

    @property
    def decorrelated(self) -> Dataset:
        """The same with latent numbers that are independent, as decoders are tried on."""
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
        return Trials(self, seed, split)

    def seen_without_noise(self, x: np.ndarray) -> np.ndarray:
        """Return the inputs of trials of given points [n, D], float32 [n, T, width], asked the first of two rules."""
        fixed, T = self.reaction == "fixed", self.longest
        square = self.encoder == "square"
        seen, rest = (
            encoded(points, self.dims, self.draw, square) if self.encoder else points
            for points in (np.asarray(x, np.float32), np.zeros((1, self.dims), np.float32))
        )
        inputs = np.zeros((len(seen), T, self.shape.inputs), np.float32)
        inputs[:, :, fixed : fixed + self.channels] = seen[:, None]
        if fixed:
            inputs[:, :-1, 0] = 1
            inputs[:, [0, -1], 1 : 1 + self.channels] = rest
        if self.questions == "context":
            inputs[:, :, -2] = 1
        return inputs

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
        n = whole("trials", trials, 1, 2**31 // self.longest)
        if (numbers := n * self.longest * self.shape.inputs) > MOST_READ:
            raise ValueError(
                f"trials: {n:,} of {self.longest:,} steps are {numbers:,} numbers, more than {MOST_READ:,}: take fewer"
            )
        stream = Trials(self.decorrelated, 0, "readout", sigma)
        drawn, steps = stream.drawn(0, n), _steps(positions, self.longest)
        scored = (np.arange(n)[:, None] * self.longest + steps).ravel()
        where = quadrants(drawn.latents)
        for q in range(1 << min(2, self.dims)):
            if not (where == q).any():
                raise ValueError(f"trials: quadrant {q + 1} has none of {n}: take more")
        return Readout(
            rows=stream.packed(drawn.inputs, scored),
            things=np.arange(n, dtype=np.int32),
            attributes=drawn.latents.astype(np.float64),
            columns=tuple(f"x{j + 1}" for j in range(self.dims)),
            groups={f"quadrant {q + 1}": where == q for q in range(1 << min(2, self.dims))},
            about={"trials": n, "steps": steps.tolist(), "sigma": stream.sigma},
            entities=np.array([" ".join(f"{x:+.7f}" for x in point) for point in drawn.latents]),
        )

    def score(self, ensemble, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        """Score a member's answers at the decision of n trials: the share that is right.

        At free reaction times the answer is the sign of the evidence before it is truncated. Of two questions by
        context the one that is asked counts.
        """
        stream = replace(self, truncated=False).stream(seed, split)
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
    """Return the quadrant of each of latent points [n, D], by the signs of the last two numbers: int64 [n], 0 to 3.

    Quadrants 0 and 1 have the former number below 0, 0 and 2 the latter: of orthants in lexicographic order, every
    fourth.
    """
    above = x[:, -2:] > 0
    return above @ (2 ** np.arange(above.shape[1])[::-1])

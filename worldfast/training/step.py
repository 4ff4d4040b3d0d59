"""A step of an ensemble that learns: rows are made, gradients computed, members updated, each as if it were
alone.

The training loop asks for steps and, when a line of metrics is due, for what they gave. It asks for no more,
so that where members live on another device, nothing waits for it between two lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from worldfast.models import Ensemble, optimizer
from worldfast.rows import Rows
from worldfast.run import Run

__all__ = ["MOMENTS", "Lockstep", "Tally"]

MOMENTS = ("exp_avg", "exp_avg_sq")


class Tally(NamedTuple):
    """What a member's steps gave.

    step       optimizer steps taken
    loss       sum of the mean losses of the last `steps` of them, those since `clear`
    diverged   its next loss or gradient was not finite: it stays as it was before that step
    """

    step: int
    loss: float
    steps: int
    diverged: bool


class Lockstep:
    """An ensemble's members as they learn: a run for each, and a step at a time.

    ensemble   Ensemble
    runs       a Run for each member, in order

    ValueError naming the run where its model, its products or its number of tokens are not the ensemble's, or where there
    are more or fewer than members.
    """

    def __init__(self, ensemble: Ensemble, runs: Sequence[Run]):
        self.ensemble, self.runs = ensemble, list(runs)
        if len(self.runs) != ensemble.members:
            raise ValueError(f"runs: expected {ensemble.members}, one for each member, got {len(self.runs)}")
        self.streams = [run.stream() for run in self.runs]
        for run, stream in zip(self.runs, self.streams):
            for what, came, expected in (
                ("model", run.model, ensemble.spec),
                ("vocabulary", stream.shape.inputs, ensemble.shape.inputs),
                ("matmul_dtype", run.matmul_dtype, ensemble.matmul_dtype),
            ):
                if came != expected:
                    raise ValueError(f"runs: {run.name!r} has {what} {came}, the ensemble {expected}")
        self.moments = ensemble.parameters.new_zeros(len(MOMENTS), *ensemble.parameters.shape)  # [2, M, P]
        self.tallies = [Tally(0, 0.0, 0, False)] * ensemble.members

    def tensors(self, member: int) -> dict[str, Tensor]:
        """A member's parameters and moments, float32 [P] each, as views."""
        return dict(zip(MOMENTS, self.moments[:, member])) | {"parameters": self.ensemble.parameters[member]}

    def resume(self, member: int, tally: Tally) -> None:
        """Goes on from a tally; the caller has set the member's tensors."""
        self.tallies[member] = tally

    def step(self, members: Sequence[int]) -> None:
        """Takes a step with each of these members, but for those that have diverged."""
        members = [m for m in members if not self.tallies[m].diverged]
        if members:
            rows = self.ensemble.each(self._next_rows, members)
            counts = [len(of_member.scored) for of_member in rows]
            losses = self.ensemble.learn(rows, members).tolist()
            threads = max(1, self.ensemble.threads // len(members))
            self.ensemble.each(lambda job: self._update(*job, threads), zip(members, losses, counts))

    def read(self, member: int) -> Tally:
        """What the member's steps gave; returns when they are taken."""
        return self.tallies[member]

    def clear(self, member: int) -> None:
        """Begins the sum of losses again."""
        self.tallies[member] = self.tallies[member]._replace(loss=0.0, steps=0)

    def _next_rows(self, member: int) -> Rows:
        return self.streams[member].batch(*self.runs[member].rows_at(self.tallies[member].step))

    def _update(self, member: int, summed: float, count: int, threads: int) -> None:
        """Updates with the ensemble's gradient, which is that of a loss summed over `count` positions."""
        run, tally, here = self.runs[member], self.tallies[member], slice(member, member + 1)
        gradient = self.ensemble.gradients[here]  # [1, P]
        norm = float(optimizer.gradient_norm(gradient, threads=threads)[0]) / count
        if not (math.isfinite(summed) and math.isfinite(norm)):
            self.tallies[member] = tally._replace(diverged=True)
            return
        average, square = self.moments[:, here]  # [1, P] each
        optimizer.adamw_(
            self.ensemble.parameters[here],
            gradient,
            average,
            square,
            self.ensemble.decayed,
            [run.learning_rate_at(tally.step)],
            [tally.step + 1],
            run.weight_decay,
            *run.betas,
            run.eps,
            [_factor(run.clip, norm) / count],
            threads=threads,
        )
        self.tallies[member] = Tally(tally.step + 1, tally.loss + summed / count, tally.steps + 1, False)


def _factor(clip: float | None, norm: float) -> float:
    """The factor that brings a gradient of this norm to the largest one that is wanted, as torch has it."""
    return 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))

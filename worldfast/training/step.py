"""Step of an ensemble that learns: rows are made, gradients computed and members updated, each as if it were alone.

The training loop requests steps, and reads their results only when a line of metrics is due, so that it never waits for
another device between two lines.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from worldfast.models import Ensemble, adamw_, gradient_norm
from worldfast.rows import Rows
from worldfast.run import Run
from worldfast.training.ahead import Ahead

MOMENTS = ("exp_avg", "exp_avg_sq")


class Tally(NamedTuple):
    """Results of a member's steps.

    Attributes
    ----------
    step : int
        Optimizer steps taken.
    loss : float
        Sum of the mean losses of the last `steps` steps.
    steps : int
        Steps since `clear`.
    diverged : bool
        The next loss or gradient is not finite; the member stays as it was before that step.
    """

    step: int
    loss: float
    steps: int
    diverged: bool


class Lockstep:
    """Members of an ensemble as they learn: one run for each member, one step at a time.

    Parameters
    ----------
    ensemble : Ensemble
    runs : sequence of Run
        One for each member, in order.

    Raises
    ------
    ValueError
        A run's model, matmul dtype or vocabulary is not the ensemble's, or the number of runs is not that of members.
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
        self._ahead = [
            Ahead(stream, run.epochs * run.epoch_rows, ensemble.shape) for stream, run in zip(self.streams, self.runs)
        ]

    def tensors(self, member: int) -> dict[str, Tensor]:
        """Return a member's parameters and moments, float32 [P] each, as views."""
        return dict(zip(MOMENTS, self.moments[:, member])) | {"parameters": self.ensemble.parameters[member]}

    def resume(self, member: int, tally: Tally) -> None:
        """Resume from a tally; the caller has set the member's tensors."""
        self.tallies[member] = tally

    def step(self, members: Sequence[int]) -> None:
        """Take a step with each of these members, except those that have diverged."""
        members = [m for m in sorted(members) if not self.tallies[m].diverged]
        if not members:
            return
        rows = self._next_rows(members)
        counts = [len(of_member.scored) for of_member in rows]
        losses = self.ensemble.learn(rows, members).tolist()
        norms = gradient_norm(self.ensemble.gradients, members=members, threads=self.ensemble.threads).tolist()
        updates = defaultdict(list)
        for member, summed, norm, count in zip(members, losses, norms, counts):
            if math.isfinite(summed) and math.isfinite(norm):
                run, taken = self.runs[member], self.tallies[member].step
                clip = _factor(run.clip, norm / count)
                update = _Update(member, run.learning_rate_at(taken), taken + 1, clip / count, summed / count)
                updates[(run.weight_decay, *run.betas, run.eps)].append(update)
            else:
                self.tallies[member] = self.tallies[member]._replace(diverged=True)
        for settings, alike in updates.items():
            self._update(settings, alike)

    def read(self, member: int) -> Tally:
        """Return the results of a member's steps, once they are taken."""
        return self.tallies[member]

    def clear(self, member: int) -> None:
        """Reset the sum of losses."""
        self.tallies[member] = self.tallies[member]._replace(loss=0.0, steps=0)

    def _next_rows(self, members: Sequence[int]) -> list[Rows]:
        asked = [(self._ahead[m], *self.runs[m].rows_at(self.tallies[m].step)) for m in members]
        due = [one for one in asked if not one[0].has(*one[1:])]
        self.ensemble.each(lambda one: one[0].draw(*one[1:]), due)
        return [ahead.batch(start, n) for ahead, start, n in asked]

    def _update(self, settings: tuple[float, ...], updates: Sequence[_Update]) -> None:
        """Update members of one weight decay, betas and eps with the ensemble's gradients."""
        members, rates, steps, scales, losses = zip(*updates)
        adamw_(
            self.ensemble.parameters,
            self.ensemble.gradients,
            *self.moments,
            self.ensemble.decayed,
            rates,
            steps,
            *settings,
            scales,
            members=members,
            threads=self.ensemble.threads,
        )
        for member, step, loss in zip(members, steps, losses):
            tally = self.tallies[member]
            self.tallies[member] = Tally(step, tally.loss + loss, tally.steps + 1, False)


class _Update(NamedTuple):
    """Update of a member: its step from 1 on, the factor of its gradient, and the mean loss there."""

    member: int
    learning_rate: float
    step: int
    scale: float
    loss: float


def _factor(clip: float | None, norm: float) -> float:
    """Return the factor that scales a gradient of this norm down to `clip`, as torch.nn.utils.clip_grad_norm_ does."""
    return 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))

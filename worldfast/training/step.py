"""Step of an ensemble that learns: rows are made, gradients computed and members updated, each as if it were alone.

The training loop requests steps, and reads their results only when a line of metrics is due, so that it never waits for
another device between two lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from worldfast.models import Ensemble, adamw_, gradient_norm
from worldfast.rows import Rows
from worldfast.run import Run

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

    def tensors(self, member: int) -> dict[str, Tensor]:
        """Return a member's parameters and moments, float32 [P] each, as views."""
        return dict(zip(MOMENTS, self.moments[:, member])) | {"parameters": self.ensemble.parameters[member]}

    def resume(self, member: int, tally: Tally) -> None:
        """Resume from a tally; the caller has set the member's tensors."""
        self.tallies[member] = tally

    def step(self, members: Sequence[int]) -> None:
        """Take a step with each of these members, except those that have diverged."""
        members = [m for m in members if not self.tallies[m].diverged]
        if members:
            rows = self.ensemble.each(self._next_rows, members)
            counts = [len(of_member.scored) for of_member in rows]
            losses = self.ensemble.learn(rows, members).tolist()
            threads = max(1, self.ensemble.threads // len(members))
            self.ensemble.each(lambda job: self._update(*job, threads), zip(members, losses, counts))

    def read(self, member: int) -> Tally:
        """Return the results of a member's steps, once they are taken."""
        return self.tallies[member]

    def clear(self, member: int) -> None:
        """Reset the sum of losses."""
        self.tallies[member] = self.tallies[member]._replace(loss=0.0, steps=0)

    def _next_rows(self, member: int) -> Rows:
        return self.streams[member].batch(*self.runs[member].rows_at(self.tallies[member].step))

    def _update(self, member: int, summed: float, count: int, threads: int) -> None:
        """Update a member with the ensemble's gradient, that of a loss summed over `count` positions."""
        run, tally, here = self.runs[member], self.tallies[member], slice(member, member + 1)
        gradient = self.ensemble.gradients[here]  # [1, P]
        norm = float(gradient_norm(gradient, threads=threads)[0]) / count
        if not (math.isfinite(summed) and math.isfinite(norm)):
            self.tallies[member] = tally._replace(diverged=True)
            return
        average, square = self.moments[:, here]  # [1, P] each
        adamw_(
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
    """Return the factor that scales a gradient of this norm down to `clip`, as torch.nn.utils.clip_grad_norm_ does."""
    return 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))

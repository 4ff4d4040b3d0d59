"""Ensemble that learns on a GPU, in lockstep and without waiting for the device.

A step is a CUDA graph: it takes prepared rows, then does forward, backward, norms, clipping and AdamW of all members at
once. Its inputs and results stay on the device; the host reads them when a line of metrics is due.

Rows of many steps are made ahead, each member's by one call of its stream. Only then is it known how many tokens each
step has. A member's places are a multiple of 128 and hold the longest of the members in that step, which is 5% more
than the tokens of 32 members of 128 rows; padding each row to the longest possible would take 57% more. There is one
graph for each number of places, recorded when it is first needed. The number depends on a step's rows alone, so that a
resumed run is bit-identical to an uninterrupted one.

M members, P parameters, S steps whose rows are made ahead, R rows of a member's batch at most.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldfast.models import GpuLearner, GpuTransformer, longest_row, own_stream, places
from worldfast.rows import DeviceStream
from worldfast.run import Run
from worldfast.training.step import Lockstep, Tally

MOST_STEPS = 256  # S, at most
CHUNK_BYTES = 1 << 28  # for rows of all members that are made ahead


class GpuLockstep(Lockstep):
    """Lockstep of a GpuTransformer; a step is queued, not waited for.

    Parameters
    ----------
    ensemble : GpuTransformer
    runs : sequence of Run
        One for each member, in order.

    Raises
    ------
    ValueError
        As from Lockstep; or rows of a run are too long for a GPU.
    TypeError
        A run's stream cannot make rows on a GPU.
    """

    def __init__(self, ensemble: GpuTransformer, runs: Sequence[Run]):
        from worldfast.kernels import optimizer

        super().__init__(ensemble, runs)
        M, P = ensemble.parameters.shape
        for run, stream in zip(self.runs, self.streams):
            if not isinstance(stream, DeviceStream):
                raise TypeError(
                    f"runs: a GPU cannot make rows of {run.name!r}: its stream has no pack; use device='cpu'"
                )
        widths = np.array([stream.longest + 1 for stream in self.streams])
        self._longest = longest_row(widths)
        self._most_rows = max(run.batch for run in self.runs)  # R
        self._learner = GpuLearner(ensemble, max(run.batch * (width - 1) for run, width in zip(self.runs, widths)))
        row_bytes = 8 * self._longest  # as ids, and while they are made
        self._steps = min(MOST_STEPS, max(1, CHUNK_BYTES // (M * self._most_rows * row_bytes)))  # S
        self._make_room()
        self._squares = self._zeros(M, optimizer.blocks(P))
        constants = [_constants(run) for run in self.runs]
        self._constants = torch.tensor(constants, dtype=torch.float32, device=self._device)  # [M, 4]
        answers = [int(stream.answers_only) for stream in self.streams]
        self._answer_only = torch.tensor(answers, dtype=torch.int32, device=self._device)
        self._alive = torch.ones(M, dtype=torch.int32, device=self._device)
        self._tally = self._zeros(M, 3, dtype=torch.float64)  # loss, steps since `clear`, steps taken
        self._update = self._zeros(M, 5)
        self._asked = [0] * M  # steps, of each member
        self._planned: tuple[int, ...] = ()
        self._ahead: list[int] = []  # places of the steps whose rows are made
        self._found: np.ndarray | None = None  # tally and liveness, [M, 4], if known
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by places
        self._stream: torch.cuda.Stream | None = None  # records all of them

    @property
    def _device(self) -> torch.device:
        return self.ensemble.device

    def _zeros(self, *shape, dtype=torch.float32) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=self._device)

    def _make_room(self) -> None:
        """Allocate memory for the rows of S steps and for the plan of each."""
        M, S, R = len(self.runs), self._steps, self._most_rows
        rooms = [stream.empty_pack(S * run.batch) for stream, run in zip(self.streams, self.runs)]
        most = max(len(room.tokens) for room in rooms)
        self._made = self._zeros(M, most + -most % 128, dtype=torch.int32)
        most = max(len(room.scratch) for room in rooms)
        self._scratch = self._zeros(most, dtype=torch.uint8)
        self._row_start = self._zeros(M, S * R + 1, dtype=torch.int32)
        self._answer_start = self._zeros(M, S * R, dtype=torch.int32)
        self._failed = self._zeros(M, dtype=torch.int64)
        self._rows = self._zeros(S, M, 2, dtype=torch.int32)
        self._schedule = self._zeros(S, M, 3)
        self._at = self._zeros(1, dtype=torch.int32)  # index of the next of the S steps
        self._bounds = self._zeros(2, M, R, dtype=torch.int32)
        self._tokens, self._targets = self._zeros(2, M * self._learner.places, dtype=torch.int32)

    # ---- the public face ----

    def resume(self, member: int, tally: Tally) -> None:
        self._asked[member], self._found, self._ahead = tally.step, None, []
        found = [tally.loss, tally.steps, tally.step]
        self._tally[member] = torch.tensor(found, dtype=torch.float64, device=self._device)
        self._alive[member] = int(not tally.diverged)

    def step(self, members: Sequence[int]) -> None:
        if self._planned != tuple(members) or not self._ahead:
            self._plan(tuple(members))
        if self._ahead:
            with torch.cuda.device_of(self._at):
                self._take(self._ahead.pop(0))
            self._found = None
            for member in members:
                self._asked[member] += 1

    def read(self, member: int) -> Tally:
        if self._found is None:
            self._found = torch.cat([self._tally, self._alive[:, None].double()], 1).cpu().numpy()
        loss, steps, taken, alive = self._found[member].tolist()
        return Tally(int(taken), loss, int(steps), not alive)

    def clear(self, member: int) -> None:
        self._tally[member, :2] = 0
        if self._found is not None:
            self._found[member, :2] = 0

    # ---- rows made ahead ----

    def _plan(self, members: tuple[int, ...]) -> None:
        """Make the rows of the next steps of these members, and plan each step."""
        self._planned, self._ahead = members, []
        left = [self.runs[m].steps - self._asked[m] for m in members]
        S = min([self._steps, *left]) if members else 0
        if not S:
            return
        if self._learner.rounded is not None:
            self._learner.rounded.copy_(self.ensemble.parameters)  # the parameters may have been set from outside
        rows = np.zeros((self._steps, len(self.runs), 2), dtype=np.int32)
        schedule = np.zeros((self._steps, len(self.runs), 3), dtype=np.float32)
        self._failed.fill_(-1)
        for m in members:
            run, first = self.runs[m], self._asked[m]
            spans = [run.rows_at(first + s) for s in range(S)]
            start, count = spans[0][0], sum(n for _, n in spans)
            rows[:S, m] = [(at - start, n) for at, n in spans]
            schedule[:S, m] = [_schedule(run, first + s) for s in range(S)]
            self._make(m, start, count)
        at = torch.from_numpy(np.concatenate([rows[:S, :, 0], rows[S - 1 : S].sum(2)]).T.astype(np.int64))  # [M, S + 1]
        begin = self._row_start.gather(1, at.contiguous().to(self._device))
        found = torch.cat([begin.long(), self._failed[:, None]], 1).cpu().numpy()  # [M, S + 2]
        for m in members:
            if found[m, -1] >= 0:
                start, count = self.runs[m].rows_at(self._asked[m])[0], int(rows[S - 1, m].sum())
                self.streams[m].pack(start, count, self._device)  # raises the error
        tokens = np.diff(found[:, :-1]) - rows[:S, :, 1].T  # [M, S]; the last token of a row predicts nothing
        chosen = list(members)
        self._rows.copy_(torch.from_numpy(rows))
        self._schedule.copy_(torch.from_numpy(schedule))
        self._at.zero_()
        self._ahead = [places(int(most)) for most in tokens[chosen].max(0)]

    def _make(self, m: int, start: int, count: int) -> None:
        """Make `count` rows of a member's stream from `start` on."""
        out = replace(
            self.streams[m].empty_pack(0),
            tokens=self._made[m],
            row_start=self._row_start[m, : count + 1],
            answer_start=self._answer_start[m, :count],
            failed=self._failed[m : m + 1],
            scratch=self._scratch,
        )
        self.streams[m].pack(start, count, out=out, check=False)

    # ---- a step ----

    def _take(self, C: int) -> None:
        """Queue a step of at most C tokens of each member."""
        if self._device.type != "cuda":
            return self._work(C)
        if C not in self._graphs:
            self._graphs[C] = self._record(C)
        self._graphs[C].replay()

    def _record(self, C: int) -> torch.cuda.CUDAGraph:
        """Record the graph of a step. The step first runs once as if no member were alive, which compiles kernels and
        changes nothing.

        All graphs are recorded on one stream, on which this first run happens too, and share one pool: so cuBLAS has
        one workspace there, not one for each graph.
        """
        self._stream = self._stream or own_stream(self._device, self)
        at, alive = self._at.clone(), self._alive.clone()
        self._alive.zero_()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._work(C)
        current.wait_stream(self._stream)
        self._at.copy_(at)
        self._alive.copy_(alive)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with no_collection(), torch.cuda.graph(graph, pool=pool, stream=self._stream):
            self._work(C)
        return graph

    def _work(self, C: int) -> None:
        """Queue the operations of a step on the device."""
        from worldfast.kernels import optimizer
        from worldfast.kernels.rows import take_rows

        M, ensemble = len(self.runs), self.ensemble
        tokens, targets = (x[: M * C].view(M, C) for x in (self._tokens, self._targets))
        take_rows(
            self._made,
            self._row_start,
            self._answer_start,
            self._rows,
            self._at,
            self._alive,
            self._answer_only,
            self._longest,
            tokens,
            targets,
            *self._bounds,
        )
        losses = self._learner.learn(tokens, *self._bounds, self._longest, targets)
        optimizer.square_sums(ensemble.gradients, self._squares)
        optimizer.decide(
            losses,
            self._squares,
            self._rows,
            self._schedule,
            self._constants,
            self._at,
            self._alive,
            self._tally,
            self._update,
        )
        optimizer.adamw(
            ensemble.parameters,
            ensemble.gradients,
            *self.moments,
            ensemble.decayed,
            self._update,
            self._constants,
            self._learner.rounded,
        )
        self._at.add_(1)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage first, and none inside: memory returned to the device or a destroyed graph would spoil the
    capture.
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _constants(run: Run) -> list[float]:
    """Return the largest gradient norm of a run, then its betas and eps."""
    return [math.inf if run.clip is None else run.clip, *run.betas, run.eps]


def _schedule(run: Run, step: int) -> tuple[float, float, float]:
    """Return the schedule of a step, counted from 0; see worldfast.kernels.optimizer.decide."""
    rate, (beta1, beta2) = run.learning_rate_at(step), run.betas
    return (rate * run.weight_decay, rate / (1 - beta1 ** (step + 1)), 1 / math.sqrt(1 - beta2 ** (step + 1)))

"""Training: runs of one shape as an ensemble in lockstep, each as if it were trained alone.

A step generates each member's rows, computes every member's gradient (worldfast.model) and updates each with
its own learning rate and clipping. At a checkpoint the activations go to a writer's thread, then the
checkpoint to disk, so that whoever resumes from it finds the activations before it, and its own are made
again where they are missing.

    <out>/<name>-<id>/spec.json        what it is: the run, its origin, its checkpoint steps, what is captured
                      metrics.jsonl    step, rows, loss (mean since the line before), seconds, learning_rate
                      lock             held while a process trains it: which one
                      checkpoint/  activations/
                      done             written last: how it ended
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from worldfast import checkpoint, files, layers, metrics
from worldfast.activations import Prompt, Writer, segment_path
from worldfast.errors import unknown_name
from worldfast.model import Ensemble, Rows
from worldfast.run import Run
from worldfast.sampling import Packed
from worldfast.tokens import Vocabulary

__all__ = ["Run", "train"]

METRIC_LINES = 200  # a run
MOMENTS = ("exp_avg", "exp_avg_sq")


def train(
    runs: Run | Iterable[Run],
    out: str | os.PathLike = "runs",
    *,
    device="auto",
    threads: int | None = None,
    progress=True,
    log: Callable[[Run, dict], None] | str | None = None,
) -> list[Path]:
    """Trains runs, those of one shape together, and returns their folders below `out`, in order.

    A run whose folder says that it is done is left as it is; one that was stopped goes on from its newest
    checkpoint and ends with the bits of an uninterrupted one. Members differ in tasks, seed, rows, batch,
    learning rate, length. One whose loss or gradient is not finite is frozen before that step and marked in
    its `done`; the others go on.

    device    "auto" or "cpu"
    threads   CPU threads; None: as many as torch uses. Results do not depend on it
    progress  True: rate, loss and time left, on standard error
    log       where lines of metrics go besides metrics.jsonl: "tensorboard" (below the run's folder), "wandb"
              or "trackio" (project "worldfast"), or a callable that gets the run and each line, a dict. Who goes
              on from a checkpoint sends the lines behind it again

    Ctrl-C finishes the step, saves every member and raises KeyboardInterrupt. Raises FileExistsError where
    `out` is a file, OSError where a file cannot be written, ValueError where a folder holds something else
    than this run, BlockingIOError where another process trains it, ModuleNotFoundError where `log` is not
    installed.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    for run in runs:
        if not isinstance(run, Run):
            raise TypeError(f"runs: expected worldfast.Run, got {run!r}")
    if str(device).startswith("cuda"):
        raise NotImplementedError(f"device {device!r}: training has no GPU kernels yet; use device='cpu'")
    if device not in ("auto", "cpu"):
        raise unknown_name("device", device, ("auto", "cpu"))
    open_log = metrics.opener(log)
    out = files.folder(out, "out")
    folders = [out / run.folder_name for run in runs]
    groups: dict[tuple, dict[Path, Run]] = {}
    for run, folder in zip(runs, folders):
        if not (folder / "done").exists():
            size = Vocabulary(run.vocabulary, run.world.build()).size
            groups.setdefault((run.model, size), {})[folder] = run
    with ExitStack() as locks:
        for group in groups.values():
            for folder in group:
                locks.enter_context(files.lock(files.folder(folder, "out")))
        for (spec, size), group in groups.items():
            ensemble = Ensemble(spec, size, len(group), threads=threads)
            _train_ensemble(ensemble, group, _Progress(progress), open_log)
    return folders


def _train_ensemble(
    ensemble: Ensemble, group: dict[Path, Run], progress: _Progress, open_log: metrics.Opener
) -> None:
    """Trains the runs of a group, by folder, as the ensemble's members."""
    moments = torch.zeros(len(MOMENTS), *ensemble.parameters.shape)  # [2, M, P]
    writer = Writer()
    members = [
        _Member(ensemble, i, moments[:, i], folder, run, writer)
        for i, (folder, run) in enumerate(group.items())
    ]
    try:
        with _Interrupt() as interrupt, ExitStack() as logs:
            _at_checkpoint([member for member in members if member.begin()], writer)
            opened = [logs.enter_context(open_log(m.run, m.folder, m.step)) for m in members]
            progress.start(members, ensemble.threads)
            while active := [member for member in members if not member.ended]:
                packs = ensemble.each(_Member.next_rows, active)
                rows, counts = _flatten(packs, [member.run.loss for member in active])
                losses = ensemble.learn(rows, [member.index for member in active]).tolist()
                ensemble.each(lambda job: job[0].update(*job[1:]), zip(active, losses, counts))
                for member in active:
                    member.report(opened[member.index])
                _at_checkpoint([member for member in active if member.due], writer)
                if interrupt.requested and not all(member.ended for member in members):
                    _stop(members, writer)
                progress.step(members)
            writer.flush()
            for member in members:
                member.write_done()
    finally:
        writer.close()
        progress.end()


def _at_checkpoint(members: list[_Member], writer: Writer) -> None:
    """Activations first and all those before them on disk, so that a checkpoint never stands without them."""
    if members:
        writer.flush()
        for member in members:
            member.capture()
        for member in members:
            member.save()


def _stop(members: list[_Member], writer: Writer) -> None:
    writer.flush()
    for member in members:
        if not member.ended:
            member.save()
    steps = ", ".join(f"{m.run.name} at step {m.step:,} of {m.run.steps:,}" for m in members)
    raise KeyboardInterrupt(f"stopped and saved: {steps}. The same call or command goes on from here.")


class _Member:
    """One run in an ensemble: where it stands, and its files."""

    def __init__(self, ensemble: Ensemble, index: int, moments, folder: Path, run: Run, writer: Writer):
        self.ensemble, self.index, self.run, self.folder, self.writer = ensemble, index, run, folder, writer
        self.parameters = ensemble.parameters[index]
        self.moments = moments  # [2, P]
        self.stream = run.stream()
        self.origin = files.origin(str(ensemble.device))
        self.layers = run.capture.of(run.model.layers)
        world = run.world.build()
        chosen = np.ones(len(world), bool) if run.capture.cities is None else world.select(run.capture.cities)
        self.cities = np.flatnonzero(chosen).astype(np.int32)  # [n]
        self.prompt = Prompt(self.stream.vocabulary, run.capture.task or run.tasks[0], self.cities)
        self.step, self.seconds, self.diverged = 0, 0.0, False
        self.pending = {"loss": 0.0, "steps": 0}  # since the last line of metrics
        self.line: dict | None = None  # of metrics, to be reported
        self.lines = metrics.Lines(folder / "metrics.jsonl")
        self.rows = 0
        self.loss = math.nan
        self.clock = time.perf_counter()

    # ---- beginning and going on ----

    def begin(self) -> bool:
        """Restores the newest checkpoint, or begins. True where this step's checkpoint is still to be
        made."""
        files.remove_partial(self.folder)
        for part in ("checkpoint", "activations"):
            files.folder(self.folder / part, "out")
        self._write_spec()
        found = checkpoint.newest(self.folder / "checkpoint", self.run.id)
        if found is None:
            self.ensemble.initialise(self.index, self.run.seed)
            self.lines.cut(0)
            return True
        for name, target in zip(("parameters", *MOMENTS), (self.parameters, *self.moments)):
            if found.tensors[name].shape != target.shape:
                came = list(found.tensors[name].shape)
                raise ValueError(
                    f"{self.folder}: checkpoint {name} has shape {came}, expected {list(target.shape)}"
                )
            target.copy_(found.tensors[name])
        self.step = found.step
        checkpoint.remove_others(self.folder / "checkpoint", self.step)  # a kill may have left them
        self.seconds, self.rows, self.pending = (found.state[name] for name in ("seconds", "rows", "pending"))
        self.lines.cut(found.state["metrics"])
        captured = self.step not in self.run.checkpoint_steps or segment_path(self.folder, self.step).exists()
        return not captured and bool(self.layers)

    def _write_spec(self):
        captured = {
            "layers": list(self.layers),
            "dtype": self.run.capture.dtype,
            "prompt": self.prompt.text,
            "token_positions": list(self.prompt.positions),
            "cities": len(self.cities),
        }
        world = self.run.world.build()
        content = {
            "id": self.run.id,
            "run": self.run.to_json(),
            "world_sha256": files.digest(world.xy, world.city_id),
            "steps": self.run.steps,
            "checkpoint_steps": list(self.run.checkpoint_steps),
            "captured": captured,
            "origin": self.origin,
        }
        path = self.folder / "spec.json"
        if path.exists():
            before = json.loads(path.read_text())
            for name in ("id", "world_sha256"):
                if before.get(name) != content[name]:
                    raise ValueError(
                        f"{path}: {name} is {before.get(name)}, but that of this run is {content[name]}"
                    )
        else:
            files.write_whole(path, json.dumps(content, indent=1).encode())

    # ---- a step ----

    @property
    def ended(self) -> bool:
        return self.diverged or self.step == self.run.steps

    @property
    def due(self) -> bool:
        return not self.diverged and self.step in self.run.checkpoint_steps

    def next_rows(self) -> Packed:
        return self.stream.pack(*self.run.rows_at(self.step))

    def update(self, summed: float, count: int) -> None:
        """Takes a step with the ensemble's gradients, which are those of a loss summed over `count`
        positions; where it or they are not finite the member has diverged and stays as it was."""
        run, i = self.run, slice(self.index, self.index + 1)
        gradient = self.ensemble.gradients[i]  # [1, P]
        norm = float(layers.gradient_norm(gradient, threads=1)[0]) / count
        self.loss = summed / count
        if not (math.isfinite(self.loss) and math.isfinite(norm)):
            self.diverged = True
            self.line = self._line(self.step + 1, loss=None, diverged=True)
            return
        average, square = self.moments[:, None]
        layers.adamw_(
            self.parameters[None], gradient, average, square, self.ensemble.decayed,
            [run.learning_rate_at(self.step)], [self.step + 1], run.weight_decay, *run.betas, run.eps,
            [min(1.0, run.clip / (norm + 1e-6)) / count], threads=1,
        )  # fmt: skip
        self.rows += run.rows_at(self.step)[1]
        self.step += 1
        self.pending = {"loss": self.pending["loss"] + self.loss, "steps": self.pending["steps"] + 1}
        if self.step % max(1, run.steps // METRIC_LINES) == 0 or self.step == run.steps:
            self.line = self._line(self.step, loss=self.pending["loss"] / self.pending["steps"])
            self.pending = {"loss": 0.0, "steps": 0}

    def _line(self, step, **what) -> dict:
        line = {"step": step, "rows": self.rows, **what, "seconds": round(self._tick(), 3)}
        return line | {"learning_rate": self.run.learning_rate_at(step - 1)}

    def report(self, log: metrics.Log) -> None:
        """Writes the line of metrics that an update left, if any, and sends it to the log."""
        if self.line is not None:
            self.lines.append(self.line)
            log(self.line)
            self.line = None

    def _tick(self) -> float:
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        return self.seconds

    # ---- checkpoints ----

    def capture(self) -> None:
        """Hands the activations of this step to the writer."""
        if not self.layers:
            return
        states = self.prompt.read(self.ensemble, self.index, self.layers)
        about = {
            "run": self.run.id,
            "spec": json.dumps(self.run.to_json()),
            "origin": json.dumps(self.origin),
            "prompt": self.prompt.text,
            "token_positions": self.prompt.positions,
            "dtype": self.run.capture.dtype,
        }
        self.writer.put(self.folder, self.step, states, self.cities, about)

    def save(self) -> None:
        """Writes a checkpoint of this step; lines of metrics up to it are on disk before it is."""
        tensors = dict(zip(MOMENTS, self.moments)) | {"parameters": self.parameters}
        state = {
            "seconds": self._tick(),
            "rows": self.rows,
            "pending": self.pending,
            "metrics": self.lines.sync(),  # bytes
        }
        here = checkpoint.Checkpoint(self.step, tensors, state)
        checkpoint.save(self.folder / "checkpoint", here, self.run.id, self.origin)

    def write_done(self) -> None:
        """Marks the run as ended, finished or diverged: the last thing that is written."""
        content = {
            "status": "diverged" if self.diverged else "finished",
            "step": self.step,
            "seconds": self.seconds,
        }
        files.write_whole(self.folder / "done", json.dumps(content).encode())


def _flatten(packs: list[Packed], losses: list[str]) -> tuple[Rows, list[int]]:
    """Members' rows end to end with the positions that their losses are read from, and how many each has.

    The last token of a row predicts nothing and is left out. Rows that begin alike stand together, for the
    model to compute their beginning once.
    """
    parts, offsets, counts = [], [0], []
    for packed, loss in zip(packs, losses):
        n = len(packed.answer_start)
        begin = packed.row_start[:-1, None] + np.arange(1, 4)  # [n, 3]: no row has fewer than 4 tokens
        order = np.lexsort(packed.tokens[begin].T)
        length = np.diff(packed.row_start)[order] - 1
        starts = np.concatenate([[0], np.cumsum(length)])  # [n + 1]
        row = np.repeat(np.arange(n), length)  # [L], whose each token is
        place = np.arange(starts[-1]) - starts[row]  # within its row
        at = packed.row_start[order][row] + place
        asked = packed.answer_start[order] - 1 if loss == "answer" else np.zeros(n, dtype=np.int32)
        scored = np.flatnonzero(place >= asked[row])
        targets = packed.tokens[at[scored] + 1]
        parts.append((packed.tokens[at], starts[:-1] + offsets[-1], scored + offsets[-1], targets))
        offsets.append(offsets[-1] + int(starts[-1]))
        counts.append(len(scored))
    tokens, starts, scored, targets = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts))
    cu_seqlens = torch.cat([starts, torch.tensor(offsets[-1:])]).int()
    return Rows(tokens, cu_seqlens, offsets, scored, targets.long()), counts


class _Interrupt:
    """Ctrl-C as a request: `requested` from the first, the usual exception at the second."""

    def __init__(self):
        self.requested = False

    def __enter__(self):
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_):
        self.requested = True
        signal.signal(signal.SIGINT, self._before)

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class _Progress:
    """Rate, loss and time left on standard error: a line that changes on a terminal, else one each 10 s."""

    def __init__(self, shown: bool):
        self._shown, self._terminal = shown, sys.stderr.isatty()
        self._open = False

    def start(self, members, threads):
        if self._shown:
            names = ", ".join(f"{m.run.name} (step {m.step:,})" if m.step else m.run.name for m in members)
            print(f"training {names} on the CPU, threads: {threads}", file=sys.stderr, flush=True)
        self._began, self._next = time.perf_counter(), 0.0
        self._before = sum(m.rows for m in members)

    def step(self, members):
        now = time.perf_counter()
        last = all(member.ended for member in members)
        if not self._shown or (now < self._next and not last):
            return
        self._next = now + (0.2 if self._terminal else 10.0)
        done = sum(m.rows for m in members)
        total = sum(m.rows if m.diverged else m.run.epoch_rows * m.run.epochs for m in members)
        rate = (done - self._before) / (now - self._began)
        left = round((total - done) / rate) if rate else 0
        losses = " ".join("diverged" if m.diverged else f"{m.loss:.3f}" for m in members)
        text = f"{done:,} of {total:,} rows  {rate:,.0f} rows/s  loss {losses}  "
        text += f"{left // 60}:{left % 60:02d} left"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self):
        if self._open:
            print(file=sys.stderr)
            self._open = False

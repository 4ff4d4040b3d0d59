"""Run as a member of an ensemble: its progress and its files.

::

    <out>/<name>-<id>/spec.json        the run, its origin, its checkpoint steps, what is captured
                      metrics.jsonl    step, rows, loss (mean since the line before), seconds, learning_rate;
                                       at checkpoints of a run with validation, a line with validation/<task>
                                       (mean absolute error or accuracy) and unparsable/<task> instead of loss
                      lock             held while a process trains the run, with the name of that process
                      checkpoint/  activations/  weights/ (of a run that keeps them)
                      done             written last: how training ended
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from worldfast import checkpoint, files
from worldfast.dataset import entity_ids, scores_of
from worldfast.errors import DamagedError, MismatchError
from worldfast.folder import require_same
from worldfast.locks import Holder
from worldfast.outcome import done
from worldfast.reading import Writer, segment_path, states
from worldfast.run import Run
from worldfast.training import metrics, start
from worldfast.training.step import Lockstep, Tally

METRIC_LINES = 200  # for each run


class Member:
    """Run of one member of a lockstep, in its folder.

    Parameters
    ----------
    lockstep : Lockstep
    index : int
        Number of the member.
    folder : Path
        Folder of the run.
    run : Run
    writer : Writer
        Writes activations.
    holder : Holder
        Holds the folder, which is checked before each write.
    """

    def __init__(self, lockstep: Lockstep, index: int, folder: Path, run: Run, writer: Writer, holder: Holder):
        self.lockstep, self.index, self.run, self.folder, self.writer = lockstep, index, run, folder, writer
        self.holder = holder
        self.origin = files.origin(str(lockstep.ensemble.device))
        self.layers = run.capture.of(run.model.layers)
        self.readout = run.readout()
        self.scored = -1  # step of the latest validation line
        self.step = 0  # steps taken as far as known; after divergence, up to it
        self.diverged = False
        self.seconds, self.clock = 0.0, time.perf_counter()
        self.lines = metrics.Lines(folder / "metrics.jsonl")
        self.log: metrics.Log = lambda line: None  # further destination of lines

    @property
    def ended(self) -> bool:
        return self.diverged or self.step == self.run.steps

    @property
    def due(self) -> bool:
        """True if a checkpoint is made at this step."""
        return not self.diverged and self.step in self.run.checkpoint_steps

    @property
    def rows(self) -> int:
        """Rows seen."""
        return self.run.rows_at(self.step)[0]

    def latest_loss(self) -> float:
        """Return the mean loss since the last line of metrics, or the loss of that line."""
        tally = self.lockstep.read(self.index)
        return tally.loss / tally.steps if tally.steps else self.loss

    # ---- beginning and going on ----

    def begin(self) -> bool:
        """Restore the newest checkpoint, or start from initial weights.

        Returns
        -------
        bool
            True if the checkpoint of this step is still to be made.

        Raises
        ------
        DamagedError
            There are checkpoints, none of which is whole; or spec.json or metrics.jsonl is not what was written.
        MismatchError
            The folder holds another run, or a checkpoint of another run, step or shape.
        UnsafeError
            A file or folder of the run is a link, a FIFO ...
        OSError
            A file cannot be opened, which says nothing of what is in it; or activations of earlier steps are missing.
        """
        for part in ("checkpoint", "activations", *(("weights",) if self.run.kept_steps else ())):
            files.inner_folder(self.folder / part)
        files.remove_partial(self.folder)
        require_same(self.folder, self.run)
        write_spec(self.folder, self.run, self.origin)
        found = checkpoint.newest(self.folder / "checkpoint", self.run.id)
        self.loss = float("nan")
        if found is None:
            ensemble = self.lockstep.ensemble
            if self.run.start is None:
                ensemble.initialise(self.index, self.run.seed)
            else:
                ensemble.parameters[self.index].copy_(start.weights(self.run, self.folder.parent))
            self.lines.begin()
            return True
        found.require_size(self.lockstep.ensemble.parameters.shape[1], self.folder)
        for name, target in self.lockstep.tensors(self.index).items():
            target.copy_(found.tensors[name])
        if not 0 <= found.step <= self.run.steps:
            raise MismatchError(
                f"{self.folder}: a checkpoint of step {found.step} is none of a run of {self.run.steps}"
            )
        self._require_captured(found.step)
        self.step, pending = found.step, _pending(found, self.folder)
        checkpoint.remove_others(self.folder / "checkpoint", self.step)  # a kill may have left them
        self.lockstep.resume(self.index, Tally(found.step, pending["loss"], pending["steps"], False))
        self.seconds = found.state["seconds"]
        self.lines.cut(found.state.get("metrics", {}))
        self.scored = self.step
        captured = self.step not in self.run.checkpoint_steps or files.there(segment_path(self.folder, self.step))
        return not captured and bool(self.layers)

    def _require_captured(self, until: int) -> None:
        """Raise a FileNotFoundError if activations of earlier steps are gone, which no checkpoint makes again."""
        for step in self.run.checkpoint_steps if self.layers else ():
            path = segment_path(self.folder, step)
            if step < until and not files.there(path):
                raise FileNotFoundError(
                    f"segment {path} is missing, and the run has gone on to step {until}: put it back, or remove "
                    f"{self.folder / 'checkpoint'} to begin again"
                )

    # ---- steps ----

    def advance(self) -> None:
        """Count a step that was requested; its results are read when a line of metrics or a checkpoint is due."""
        self.step += 1
        line_due = self.step % max(1, self.run.steps // METRIC_LINES) == 0 or self.step == self.run.steps
        if not (line_due or self.due):
            return
        tally = self.look()
        if line_due and not self.diverged:
            self.loss = tally.loss / tally.steps
            self._report(self.step, loss=self.loss)
            self.lockstep.clear(self.index)

    def look(self) -> Tally:
        """Return the results of the steps; a member that diverged returns to its last good step, and reports it."""
        tally = self.lockstep.read(self.index)
        if tally.diverged and not self.diverged:
            self.step, self.diverged = tally.step, True
            self._report(self.step + 1, loss=None, diverged=True)
        return tally

    def _report(self, step: int, **what) -> None:
        """Write a line of metrics and send it to the log."""
        self.holder.check(self.folder)
        line = {"step": step, "rows": self.rows, **what, "seconds": round(self._tick(), 3)}
        line["learning_rate"] = self.run.learning_rate_at(max(step - 1, 0))
        self.lines.append(line)
        self.log(line)

    def _tick(self) -> float:
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        return self.seconds

    # ---- checkpoints ----

    def capture(self) -> None:
        """Pass the activations of this step to the writer."""
        if not self.layers:
            return
        self.holder.check(self.folder)
        found = states(self.readout, self.lockstep.ensemble, self.index, self.layers)
        about = {
            "run": self.run.id,
            "world": self.run.data.digest,
            "spec": json.dumps(self.run.to_json()),
            "origin": json.dumps(self.origin),
            **self.readout.about,
            "dtype": self.run.capture.dtype,
        }
        ids = entity_ids(self.readout, about["world"])
        self.writer.put(self.folder, self.step, found, self.readout.things, about, ids)

    def validate(self) -> None:
        """Score answers to the run's validation rows, and report the scores in a line of metrics."""
        if not self.run.validation or self.scored == self.step:
            return
        run, found = self.run, {}
        how = {"seed": run.seed, "split": "validation"}
        scores = scores_of(run.data, self.lockstep.ensemble, self.index, run.validation, **how)
        for name, score in scores.items():
            found |= {f"validation/{name}": score.value, f"unparsable/{name}": score.unparsable}
        self._report(self.step, **found)
        self.scored = self.step

    def save(self) -> None:
        """Write a checkpoint of this step, after all lines of metrics up to it are on disk."""
        self.holder.check(self.folder)
        tally = self.lockstep.read(self.index)
        state = {
            "seconds": self._tick(),
            "rows": self.rows,
            "pending": {"loss": tally.loss, "steps": tally.steps},  # since the last line of metrics
            "metrics": self.lines.sync(),
        }
        here = checkpoint.Checkpoint(self.step, self.lockstep.tensors(self.index), state)
        if self.step in self.run.kept_steps:  # first, so that no checkpoint is without what was to be kept before it
            checkpoint.save_weights(self.folder / "weights", here, self.run.id, self.origin)
        checkpoint.save(self.folder / "checkpoint", here, self.run.id, self.origin)

    def write_done(self) -> None:
        """Mark the run as finished or diverged; this is written last."""
        self.holder.check(self.folder)
        write_spec(self.folder, self.run, self.origin)
        content = {
            "run": self.run.id,
            "status": "diverged" if self.diverged else "finished",
            "step": self.step,
            "seconds": self.seconds,
            "metrics": self.lines.sync(),
        }
        files.write_json(self.folder / "done", content)


def _pending(found: checkpoint.Checkpoint, folder: Path) -> dict:
    """Return what a checkpoint says of the steps since the last line of metrics, or raise a DamagedError."""
    pending = found.state.get("pending")
    numbers = [pending.get(name) for name in ("loss", "steps")] if isinstance(pending, dict) else [None]
    if not all(isinstance(one, int | float) for one in [*numbers, found.state.get("seconds")]):
        raise DamagedError(
            f"the checkpoint of step {found.step} in {folder / 'checkpoint'} was not written by this version of "
            "worldfast: no seconds and pending loss of a run are in it"
        )
    return pending


def write_spec(folder: Path, run: Run, origin: dict[str, str]) -> None:
    """Write a run's spec.json if there is none, or one that says of fewer steps that their weights are kept."""
    path = folder / "spec.json"
    if files.there(path):
        if done(folder, run.id) or files.read_json(path)["run"].get("keep") == run.to_json()["keep"]:
            return
    readout = run.readout()
    captured = {
        "layers": list(run.capture.of(run.model.layers)),
        "dtype": run.capture.dtype,
        **readout.about,
        "things": len(readout.things),
    }
    content = {
        "id": run.id,
        "run": run.to_json(),
        "world_sha256": run.data.digest,
        "steps": run.steps,
        "checkpoint_steps": list(run.checkpoint_steps),
        "captured": captured,
        "origin": origin,
    }
    files.write_json(path, content)

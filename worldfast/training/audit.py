"""Check of a run's folder, file by file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worldfast import checkpoint, files
from worldfast.display import count
from worldfast.errors import CodeError, MismatchError, UnsafeError, VersionError
from worldfast.folder import named_id, prefix, read_spec, require_kept
from worldfast.locks import locked
from worldfast.outcome import done, ending_of
from worldfast.reading import check_segment, expected_by, segment_path
from worldfast.run import Run

OF_A_RUN = ("spec.json", "done", "metrics.jsonl", "checkpoint", "activations", "weights")
BESIDE = ("lock", "tensorboard")  # of a run too, and not checked
STATES = {  # of a file by the error of what reads it, the first that fits
    UnsafeError: "unsafe",
    MismatchError: "mistaken",
    VersionError: "foreign",
    CodeError: "unchecked",
    FileNotFoundError: "missing",
    OSError: "unreadable",
    ValueError: "damaged",
}
SEGMENT = re.compile(r"step-(\d{8,})\.h5")


class Checked(NamedTuple):
    """State of one file of a run.

    Attributes
    ----------
    path : Path
    state : str
        "whole"; "absent" and need not be there; "beyond": whole, but later than the newest checkpoint of a run that has
        not ended; "other": no file of a run or a study; "missing", "damaged", "mistaken" (of another run, step or
        model), "foreign" (of another version of worldfast, which this one cannot read), "unsafe" (a link, a FIFO ...),
        "unreadable" (no permission, no descriptor ...); "unchecked", as the file that says what it should be is not
        whole, or names code that is not in this process; of the folder itself: "held".
    why : str
        The error or the reason, "" if there is none.
    """

    path: Path
    state: str
    why: str = ""

    @property
    def fine(self) -> bool:
        return self.state in ("whole", "absent", "beyond", "other")


def audit(folder: str | os.PathLike) -> Iterator[Checked]:
    """Check every file that a run's folder has or should have, without changing one.

    A file that is not whole ends nothing: the others are checked by what is left, such as the name of the folder.

    Parameters
    ----------
    folder : path
        Folder of the run.

    Yields
    ------
    Checked
        spec.json, done, metrics.jsonl, each checkpoint, weights that were kept, each segment of activations; then what
        else lies there. While a process trains the run its files change, and the folder itself comes first, as "held".
    """
    folder = Path(folder)
    lock, held = tried(folder / "lock", locked, folder)
    if not lock.fine:
        yield lock
    if held:
        yield Checked(folder, "held", "a process trains the run")
    state, spec = tried(folder / "spec.json", read_spec, folder)
    yield state
    if state.state == "foreign":
        there = [folder / name for name in OF_A_RUN if os.path.lexists(folder / name) and folder / name != state.path]
        yield from (Checked(path, "unchecked", "spec.json is of another version of worldfast") for path in there)
        yield from others(folder, {*OF_A_RUN, *BESIDE})
        return
    run, content = spec or (None, {})
    known = run.id if run else named_id(folder)
    mark, end = tried(folder / "done", *((ending_of, folder, run) if run else (done, folder, known)))
    yield mark if end or not mark.fine else mark._replace(state="absent")
    saved, newest = _checkpoints(folder, known, run, end)
    cut_off = newest if not (end or held) else None
    yield _metrics(folder, end, newest, cut_off)
    yield from saved
    yield from _kept(folder, known, run, ended_as_written=mark.fine)
    yield from _segments(folder, run, content, end, newest, cut_off)
    yield from others(folder, {*OF_A_RUN, *BESIDE})


def _checkpoints(
    folder: Path, known: str | None, run: Run | None, end: Mapping | None
) -> tuple[list[Checked], checkpoint.Checkpoint | None]:
    """Return the states of a run's checkpoints, and the newest whole one without its tensors."""
    there = folder / "checkpoint"
    whole, paths = tried(there, checkpoint.paths, there)
    if not whole.fine:
        return [whole], None
    size = run.model.build(run.shape).parameters.shape[1] if run and paths else None

    def read(path: Path) -> checkpoint.Checkpoint:
        one = checkpoint.read(path, known)
        if size is not None:
            one.require_size(size, folder)
        if run and not 0 <= one.step <= run.steps:
            raise MismatchError(f"checkpoint {path} is of step {one.step}, but its run has {count(run.steps, 'step')}")
        return checkpoint.Checkpoint(one.step, {}, one.state)

    found = [tried(path, read, path) for path in paths]
    rows = [state for state, _ in found]
    last = checkpoint.path_of(there, end["step"]) if end else None
    if last and last not in paths:
        rows.append(
            Checked(last, "missing", f"{folder} has ended at step {end['step']}, whose checkpoint is not there")
        )
    elif not paths:
        rows.append(Checked(there, "missing", f"{folder} has no checkpoint"))
    else:
        rows.append(whole)
    newest = next((one for _, one in reversed(found) if one), None)
    return rows + list(others(there, {path.name for path in paths})), newest


def _metrics(
    folder: Path, end: Mapping | None, newest: checkpoint.Checkpoint | None, cut_off: checkpoint.Checkpoint | None
) -> Checked:
    path = folder / "metrics.jsonl"
    if end:
        return checked(path, prefix, path, end["metrics"], "when the run ended")
    if newest:
        record = newest.state.get("metrics", {})
        state = checked(path, prefix, path, record, f"at the checkpoint of step {newest.step}")
        if state.fine and cut_off and path.stat().st_size > record["bytes"]:
            return Checked(path, "beyond", f"it goes on to step {_last_step(path)}; {_newest(cut_off)}")
        return state
    state = checked(path, files.read_whole, path)
    if state.state == "missing":
        return Checked(path, "absent")
    return state._replace(state="unchecked", why="no whole checkpoint says what was written") if state.fine else state


def _newest(cut_off: checkpoint.Checkpoint) -> str:
    return (
        f"the newest checkpoint is of step {cut_off.step}: training was killed there, or later checkpoints and `done` "
        "were removed. The same call makes them anew"
    )


def _last_step(path: Path) -> str:
    """Return the step of the last line of a file of metrics that can be read, for a message."""
    for line in reversed(files.read_whole(path).splitlines()):
        try:
            return str(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # half a line
    return "?"


def _kept(folder: Path, known: str | None, run: Run | None, ended_as_written: bool) -> Iterator[Checked]:
    """Yield the state of weights that a run kept, and of those that it should have."""
    there = folder / "weights"
    if not os.path.lexists(there) and not (run and run.kept_steps):
        return
    whole, paths = tried(there, checkpoint.paths, there)
    if not whole.fine:
        yield whole
        return
    for path in paths:
        state = checked(path, checkpoint.read, path, known, checkpoint.WEIGHTS)
        if state.fine and run and int(path.stem[5:]) not in run.checkpoint_steps:
            state = Checked(path, "mistaken", f"step {int(path.stem[5:])} is no checkpoint of its run")
        yield state
    if run and ended_as_written and not (lacking := checked(there, require_kept, folder, run)).fine:
        yield lacking._replace(state="missing")
    yield from others(there, {path.name for path in paths})


def _segments(
    folder: Path,
    run: Run | None,
    spec: Mapping[str, Any],
    end: Mapping | None,
    newest: checkpoint.Checkpoint | None,
    cut_off: checkpoint.Checkpoint | None,
) -> Iterator[Checked]:
    """Yield the state of each segment of activations that is there or should be."""
    there = folder / "activations"
    whole, paths = tried(there, listed, there)
    if not whole.fine:
        yield whole
        return
    matches = [SEGMENT.fullmatch(path.name) for path in paths]
    present = {int(match[1]): there / match[0] for match in matches if match}
    if run is None:
        for path in sorted(present.values()):
            yield Checked(path, "unchecked", "spec.json does not say what it should hold")
    else:
        steps = spec["checkpoint_steps"] if spec["captured"]["layers"] else []
        last = end["step"] if end else run.steps
        reached = end["step"] + 1 if end else newest.step if newest else 0  # before it, all are there
        due = {step: segment_path(folder, step) for step in steps if step < reached}
        for step, path in sorted((due | present).items()):
            if step not in steps or step > last:
                yield Checked(path, "mistaken", f"step {step} is none of the steps of run {run.id}")
                continue
            state = checked(path, check_segment, path, expected_by(spec, step))
            if state.fine and cut_off and step > cut_off.step:
                state = Checked(path, "beyond", _newest(cut_off))
            yield state
    yield from others(there, {path.name for path in present.values()})


def listed(folder: Path) -> list[Path]:
    """Return what lies in a folder of a run or a study, nothing of one that is not there.

    Raises
    ------
    UnsafeError, OSError
        It is a link, a file ..., or cannot be listed.
    """
    files.require_folder(folder)
    return files.entries(folder)


def others(folder: Path, known: set[str]) -> Iterator[Checked]:
    """Yield what lies in a folder besides names that are known, unread, or that the folder cannot be listed."""
    state, paths = tried(folder, files.entries, folder)
    if not state.fine:
        yield state
    for path in paths or ():
        if path.name.startswith(".") and path.name.endswith(files.PARTIAL):
            yield Checked(path, "other", "half written: by a process that writes it now, or by one that was killed")
        elif path.name not in known:
            yield Checked(path, "other", "not written by training or a study, and not checked")


def tried(path: Path, read: Callable[..., Any], *arguments: Any) -> tuple[Checked, Any]:
    """Return the state of a file by the error that `read(*arguments)` raises, and what it returns: None with one."""
    try:
        return Checked(path, "whole"), read(*arguments)
    except (OSError, ValueError) as error:
        state = next(state for kind, state in STATES.items() if isinstance(error, kind))
        return Checked(path, state, str(error)), None


def checked(path: Path, read: Callable[..., Any], *arguments: Any) -> Checked:
    """Return the state of a file by the error that `read(*arguments)` raises."""
    return tried(path, read, *arguments)[0]

"""Cost of writing activations and checkpoints while training: 41 times, with the states of all cities.

    python benchmarks/capture.py [--steps 10] [--repeats 7] [--threads 2]

Two ways take turns: some steps, and the same steps behind a checkpoint, for which worldfast reads the hidden
states of every city, hands them to the thread that writes them, and saves weights and optimizer. The cost of
a checkpoint is the difference between neighbours in time, and so holds what that thread takes from the steps
beside it. Divided by the time from one checkpoint to the next it is the overhead of a training of any length.
The parts are timed alone, too. The losses must be the same, to the bit, and the file must hold the states.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from harness import (
    CORES,
    MILLISECONDS,
    Contestant,
    Row,
    arguments,
    compare,
    keeping,
    record,
    rows,
    show,
    threads,
    verify,
)
from training import Together

import worldfast as wf
from worldfast.capture import Capture
from worldfast.locks import Holder
from worldfast.reading import Writer, segment_path, states
from worldfast.training.member import Member
from worldfast.training.train import _at_checkpoint
from worldfast.worlds import cities
from worldfast.worlds.cities import Dataset

ASKED = 3  # percent


class Checkpoints:
    """The members of an ensemble, each with a folder to write to."""

    def __init__(self, together: Together, folder: Path, writer: Writer):
        self.together, self.writer = together, writer
        lockstep, holder = together.lockstep, Holder(folder)
        self.members = [
            Member(lockstep, i, folder / str(i), run, writer, holder) for i, run in enumerate(lockstep.runs)
        ]
        for member in self.members:
            for part in ("checkpoint", "activations"):
                (member.folder / part).mkdir(parents=True)
            holder.hold(member.folder)
            member.lines.begin()

    def steps(self) -> np.ndarray:
        """The losses [M, steps]."""
        return self.together()

    def checkpoint_and_steps(self) -> np.ndarray:
        _at_checkpoint(self.members, self.writer)
        return self.together()

    def read(self) -> list[dict[int, np.ndarray]]:
        return [states(m.readout, self.together.ensemble, m.index, m.layers) for m in self.members]

    def write(self, found: list[dict[int, np.ndarray]]) -> None:
        about = {"run": "", "spec": "", "origin": "", "prompt": "", "token_positions": (), "dtype": "float32"}
        for member, layers in zip(self.members, found):
            self.writer.put(member.folder, 0, layers, member.readout.things, about, member.readout.entities)
        self.writer.flush()

    def save(self) -> None:
        for member in self.members:
            member.save()

    def missed(self) -> float:
        """The largest difference of the files of the last checkpoint from the states that are read again."""
        self.writer.flush()
        worst = 0.0
        for member, layers in zip(self.members, self.read()):
            with h5py.File(segment_path(member.folder, member.step)) as file:
                for layer, state in layers.items():
                    worst = max(worst, np.abs(file[f"layer_{layer:02d}"][()] - state).max())
        return worst


def overheads(without: np.ndarray, behind: np.ndarray, steps: int, run: wf.Run) -> tuple[list[Row], str]:
    """In percent of a training of the run's length, and in words for any length.

    without, behind   seconds [repeats] of `steps` steps, and of a checkpoint and as many
    """
    step = np.median(without) / steps
    cost = behind - without
    between = step * run.steps / run.checkpoints  # seconds from one checkpoint to the next
    quantiles = np.quantile(100 * cost / between, [0.5, 0.2, 0.8])
    row = Row(f"overhead of {run.checkpoints + 1} checkpoints in {run.steps:,} steps", *quantiles, len(cost))
    cost = float(np.median(cost))
    least = run.checkpoints * cost / (ASKED / 100 * step)
    return [row], (
        f"a checkpoint takes {1e3 * cost:.0f} ms, {cost / step:.1f} steps of {1e3 * step:.0f} ms: "
        f"{run.checkpoints + 1} of them are below {ASKED}% from {least:,.0f} steps on"
    )


def main():
    parser = arguments(__doc__, repeats=7, threads=[CORES])
    parser.add_argument("--steps", type=int, default=10, help="steps between checkpoints of a measurement")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "build" / "capture")
    options = parser.parse_args()
    paper = wf.Run(Dataset(tuple(wf.TASKS), world=wf.WorldSpec(atlantis=100)), epochs=6)
    cases = {
        "paper shape, 5,175 cities, 4 layers": [paper],
        "the demo's models": [run for run in cities.demo().runs if run.start is None],
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, runs in cases.items():
        if options.quick:
            options.steps = 2
            few = Capture(layers=(1,), readout={"among": "index < 50"})
            shape = dict(layers=1, hidden=64, heads=2, intermediate=128)
            runs = [replace(run, batch=8, model=replace(run.model, **shape), capture=few) for run in runs]
        measure(name, runs, options)


def measure(name: str, runs: list[wf.Run], options) -> None:
    """Times, shows and records a case."""
    count = options.threads[0]
    case = f"{name}, {len(runs)} models, {count} threads"
    with threads(count), tempfile.TemporaryDirectory(dir=options.folder) as folder:
        writer = Writer()
        ways = Checkpoints(Together(runs, options.steps, count), Path(folder), writer)
        expected, found = ways.steps(), ways.read()

        def apart(losses):
            return np.abs(losses - expected).max()

        contestants = [
            Contestant(f"{options.steps} steps", ways.steps, apart),
            Contestant(
                "a checkpoint and as many steps",
                ways.checkpoint_and_steps,
                lambda losses: max(apart(losses), ways.missed()),
            ),
            Contestant("of that: reading hidden states", ways.read),
            Contestant("writing them, on a thread of its own", lambda: ways.write(found)),
            Contestant("saving weights and optimizer", ways.save),
        ]
        errors = verify(contestants)
        keep = keeping(options.results, "capture", case, errors, MILLISECONDS)
        taken = compare(contestants, options.repeats, keep=keep)
        writer.close()
    without, behind = list(taken.values())[:2]
    timed = rows(taken, errors, MILLISECONDS)
    show(case, timed, MILLISECONDS.name)
    record(options.results, "capture", case, timed, MILLISECONDS.name)
    timed, words = overheads(without, behind, options.steps, min(runs, key=lambda run: run.steps))
    show(case, timed, "%")
    print(words)
    record(options.results, "capture", case, timed, "%")


if __name__ == "__main__":
    main()

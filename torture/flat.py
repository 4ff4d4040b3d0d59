"""Long runs stay flat: two hours of generation, training and writing in one process, without growth and without drift.

Many short calls that generate rows, train, write and read; in their midst one call that trains for long. The short calls
at the end are compared with those at the beginning, so that what the long one leaves is seen, and the long one is compared
with itself. A rate is per second of processor time, and beside that of a young process, which does the same work while the
old one waits: what else the machine does slows both. Nothing counts as held unless the row ran for the whole time that is
promised; what fails counts at any time.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

import worldfast as wf
from torture.tally import Tally
from worldfast.capture import Capture
from worldfast.worlds import cities

PROMISE = "long runs stay flat"
TARGET = 9  # verdicts: on memory, descriptors and threads, and rate, of three kinds of work
ASKED = 7200.0  # seconds without which nothing is held
GROWTH, DRIFT = 0.01, 0.05  # of memory, and of a rate, from the beginning to the end
NOISE = 2 * DRIFT  # half the width of the interval of a drift, beyond which a rate is not judged
BEFORE, LONG = 0.25, 0.45  # of the time for short calls before the long one, and for that
LATE = 1.2  # times its share at which the long call is stopped
WARM = 0.1  # of a stretch, and the seconds at most
WARMED = 120.0
SETTLED, ENOUGH = 60.0, 600.0  # seconds over which memory is judged, and a rate, on machines that others share
FEWEST = 20  # beats
EACH = 1.0  # processor seconds of generation in a round
EVERY = 4  # beats of the old process to one of a young one
YOUTH = 20  # beats after which a young process makes way for another, and those that it warms up by
WARMING = 2

GENERATION, SHORT, LONG_CALL = "generation", "short calls", "one long call"

Tell = Callable[[str, float], None]  # told a kind of work, and its rate over the last piece of it

RUN = wf.Run(
    cities.Dataset(("distance", "angle"), rows=6400, loss="answer"),
    batch=64,
    learning_rate=1e-3,
    model=wf.TransformerSpec(hidden=32, layers=2, heads=2, intermediate=64),
    checkpoints=5,
    validation=8,
    capture=Capture(layers=(1, 2), readout={"among": "index < 200"}),
    name="flat",
)


class Over(Exception):
    """A stretch has had its time."""


def many_calls(run: wf.Run, each: float, place: Path, tell: Tell) -> None:
    """Generate rows for `each` processor seconds, train a short run, write and read; and again, without end."""
    world = wf.World.cities()
    for seed in count(run.seed):
        began, rows = time.process_time(), 0
        while (spent := time.process_time() - began) < each:
            rows += len(wf.sample(world, "distance", n=20_000, seed=rows))
        tell(GENERATION, rows / spent)
        began = time.process_time()
        (folder,) = wf.train(replace(run, seed=seed, name="short"), place, device="cpu", progress=False)
        found = wf.Activations(folder)
        for step in found.steps:
            wf.cka(found[step, 1], found[step, 2])
        shutil.rmtree(folder)
        tell(SHORT, run.epoch_rows / (time.process_time() - began))


def one_call(run: wf.Run, place: Path, tell: Tell) -> None:
    """Train one run, and tell of it at each line of metrics."""
    rows, began = 0, time.process_time()

    def log(_, line):
        nonlocal rows, began
        if "loss" in line and line["rows"] > rows:
            tell(LONG_CALL, (line["rows"] - rows) / max(time.process_time() - began, 1e-9))
            rows, began = line["rows"], time.process_time()

    wf.train(run, place, device="cpu", progress=False, log=log)


class Young:
    """A process that does the same work, a piece whenever it is asked, and makes way for another before it is old."""

    def __init__(self, work: Callable[[Path, Tell], None], place: Path):
        self.work, self.place = work, place
        self.did: Counter[str] = Counter()
        self.process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Young:
        self.begin()
        return self

    def __exit__(self, *_) -> None:
        if self.process:
            self.process.kill()
            self.process.join()
            self.process.close()
            self.pipe.close()
            shutil.rmtree(self.place)
        self.process = None

    def begin(self) -> None:
        """Start a new one, in an empty folder."""
        self.__exit__()
        self.did.clear()
        self.place.mkdir()
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_young, args=(self.work, self.place, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def piece(self, what: str) -> float:
        """Have it do its next piece of this kind, and return the rate."""
        while True:
            self.pipe.send(None)
            kind, rate = self.pipe.recv()
            self.did[kind] += 1
            if kind == what:
                return rate

    def rate(self, what: str) -> float:
        """Return the rate of its next piece of this kind, once it has warmed up."""
        if self.did[what] >= YOUTH:
            self.begin()
        while self.did[what] < WARMING:
            self.piece(what)
        return self.piece(what)


def _young(work: Callable[[Path, Tell], None], place: Path, pipe) -> None:
    """Work piece by piece, each when the pipe asks for it."""

    def tell(what: str, rate: float) -> None:
        pipe.send((what, rate))
        pipe.recv()

    pipe.recv()
    work(place, tell)


class Pulse:
    """Memory, descriptors, threads and rates at moments of a stretch."""

    def __init__(self):
        self.began = time.monotonic()
        # Seconds, RSS in bytes, descriptors, threads, rate beside a young one's.
        self.lines: list[tuple[float, ...]] = []

    def beat(self, rate: float) -> None:
        """Note how things stand; the rate is NaN where no young process did the same."""
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        handles, threads = (len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task"))
        self.lines.append((time.monotonic() - self.began, resident, handles, threads, rate))

    def judge(self, tally: Tally, what: str, whole: bool) -> None:
        """Compare the beats after warming up: memory at the end with that at the start, and the slope of the rate.

        What holds is counted only if the row is `whole`, that is, ran for the time that is promised.
        """
        from scipy.stats import theilslopes

        def unjudged(name: str, why: str) -> None:
            if whole:
                tally.fail(f"{what}: {name}", why)
            else:
                tally.notes.append(f"{what}: {name}: {why}")

        def expect(name: str, holds: bool, said: object) -> None:
            if whole or not holds:
                tally.expect(f"{what}: {name}", holds, said)

        all_lines = np.array(self.lines).reshape(-1, 5)
        lines = all_lines[all_lines[:, 0] >= min(WARMED, WARM * all_lines[:, 0].max(initial=0.0))]
        rated = lines[~np.isnan(lines[:, 4])]
        if len(rated) < FEWEST:
            unjudged("too few", f"{len(rated)} beats beside a young process after warming up are too few to judge")
            return
        tenth = max(3, len(lines) // 10)
        before, after = (np.median(part[:, :4], axis=0) for part in (lines[:tenth], lines[-tenth:]))
        growth = after[1] / before[1] - 1
        slope, _, least, most = theilslopes(rated[:, 4] / np.median(rated[:, 4]), rated[:, 0], 0.99)
        span = lines[-1, 0] - lines[0, 0]
        drift, least, most = slope * span, least * span, most * span
        interval = f"{drift:+.1%} ({least:+.1%} to {most:+.1%})"
        tally.notes.append(
            f"{what}: {len(lines)} beats in {span / 60:.0f} minutes after warming up, memory {before[1] / 2**20:.1f} to "
            f"{after[1] / 2**20:.1f} MiB ({growth:+.2%}), rate over a young process's {np.median(rated[:, 4]):.3f}, "
            f"drift {interval}, descriptors {before[2]:.0f} to {after[2]:.0f}, threads {before[3]:.0f} to {after[3]:.0f}"
        )
        if span < SETTLED:
            unjudged("memory", f"it is judged over {SETTLED:.0f} seconds and more")
            return
        expect("memory", growth < GROWTH, f"{growth:+.2%}")
        expect("descriptors and threads", all(after[2:4] <= before[2:4]), (before, after))
        if span < ENOUGH:
            unjudged("rate", f"it is judged over {ENOUGH / 60:.0f} minutes and more")
        elif most - least > 2 * NOISE:
            unjudged("rate", f"the machine is too unsteady to judge it: {interval}")
        else:
            expect("rate", abs(drift) <= DRIFT or least <= 0 <= most, interval)


def stretch(work: Callable[[Path, Tell], None], pulses: dict[str, Pulse], place: Path, until: float) -> None:
    """Work until the monotonic clock says so, with a beat for each piece, one in EVERY beside a young process's."""
    *_, last = pulses
    with Young(work, place / "young") as young:

        def tell(what: str, rate: float) -> None:
            pulse = pulses[what]
            pulse.beat(rate / young.rate(what) if len(pulse.lines) % EVERY == 0 else np.nan)
            if what == last and time.monotonic() > until:
                raise Over

        (place / "old").mkdir()
        with suppress(Over):
            work(place / "old", tell)
        shutil.rmtree(place / "old")


def long_run(tally: Tally, seconds: float) -> wf.Run:
    """Return a run that trains for about so long here."""
    began = time.monotonic()
    (folder,) = wf.train(replace(RUN, name="rate"), tally.place, device="cpu", progress=False)
    epochs = max(1, int(seconds / (time.monotonic() - began)))  # a fast machine needs more rows than there are pairs
    shutil.rmtree(folder)
    return replace(RUN, epochs=epochs, checkpoints=400, name="long")


def run(tally: Tally) -> None:
    """Go on for the time that is promised, or as long as there is time, and judge all of it."""
    began = time.monotonic()
    seconds = min(ASKED, tally.seconds)
    pulses = {what: Pulse() for what in (GENERATION, SHORT)}
    stretch(partial(many_calls, RUN, EACH), pulses, tally.place, began + BEFORE * seconds)
    run = long_run(tally, LONG * seconds * EVERY / (EVERY + 1))
    long = {LONG_CALL: Pulse()}
    stretch(partial(one_call, run), long, tally.place, time.monotonic() + LATE * LONG * seconds)
    stretch(partial(many_calls, replace(RUN, seed=RUN.seed + 10**6), EACH), pulses, tally.place, began + seconds)
    whole = tally.elapsed >= ASKED
    tally.notes.append(f"ran for {tally.elapsed / 60:.0f} of {ASKED / 60:.0f} minutes")
    if not whole:
        tally.notes.append("nothing counts as held: that takes the whole time")
    for what, pulse in {**pulses, **long}.items():
        pulse.judge(tally, what, whole)

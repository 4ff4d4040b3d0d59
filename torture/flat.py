"""Long runs stay flat: two hours of generation, training and writing in one process, without growth and without drift.

Many short calls that generate rows, train, write and read; in their midst one call that trains for long. The short calls
at the end are compared with those at the beginning, so that what the long one leaves is seen, and the long one is compared
with itself. Rates are per second of this process's processor time, and beside those of a fixed piece of work, as machines
are shared. Nothing counts as held unless the row ran for the whole time that is promised; what fails counts at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import replace
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


def yardstick() -> float:
    """Return the processor seconds of a fixed piece of work: how slow the machine, which others share, is now."""
    began = time.process_time()
    hashlib.sha256(bytes(8 << 20)).hexdigest()
    return time.process_time() - began


class Pulse:
    """Memory, descriptors, threads and rates at moments of a stretch."""

    def __init__(self):
        self.began = time.monotonic()
        self.lines: list[tuple[float, ...]] = []  # seconds, RSS in bytes, descriptors, threads, rate

    def beat(self, rate: float) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        handles, threads = (len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task"))
        self.lines.append((time.monotonic() - self.began, resident, handles, threads, rate * yardstick()))

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
        if len(lines) < FEWEST:
            unjudged("too few", f"{len(lines)} beats after warming up are too few to judge")
            return
        tenth = max(3, len(lines) // 10)
        before, after = (np.median(part, axis=0) for part in (lines[:tenth], lines[-tenth:]))
        growth = after[1] / before[1] - 1
        seconds, rate = lines[:, 0], lines[:, 4] / np.median(lines[:, 4])
        slope, _, least, most = theilslopes(rate, seconds, 0.99)
        span = seconds[-1] - seconds[0]
        drift, least, most = slope * span, least * span, most * span
        interval = f"{drift:+.1%} ({least:+.1%} to {most:+.1%})"
        tally.notes.append(
            f"{what}: {len(lines)} beats in {span / 60:.0f} minutes after warming up, memory {before[1] / 2**20:.1f} to "
            f"{after[1] / 2**20:.1f} MiB ({growth:+.2%}), rate {interval}, "
            f"descriptors {before[2]:.0f} to {after[2]:.0f}, threads {before[3]:.0f} to {after[3]:.0f}"
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


def rows_in(seconds: float, place: Path) -> int:
    """Return the rows of one run that trains for about so long here."""
    began = time.monotonic()
    wf.train(replace(RUN, name="rate"), place, device="cpu", progress=False)
    return max(RUN.epoch_rows, int(RUN.epoch_rows * seconds / (time.monotonic() - began)))


def one_call(tally: Tally, pulse: Pulse, seconds: float) -> None:
    """Train one run for long, with a beat at each line of metrics."""
    rows = rows_in(seconds, tally.place)
    run = replace(RUN, data=replace(RUN.data, rows=rows // 2), checkpoints=200, name="long")
    until = time.monotonic() + LATE * seconds
    last = [0, time.process_time()]

    def log(_, line):
        if "loss" in line and line["rows"] > last[0]:
            now = time.process_time()
            pulse.beat((line["rows"] - last[0]) / max(now - last[1], 1e-9))
            last[:] = line["rows"], now
        if time.monotonic() > until:
            raise TimeoutError

    try:
        wf.train(run, tally.place, device="cpu", progress=False, log=log)
    except TimeoutError:
        tally.notes.append(f"one long call: stopped at {LATE} times its time")


def many_calls(tally: Tally, generating: Pulse, training: Pulse, until: float) -> None:
    """Generate rows, train short runs, write and read: once, and again until so many seconds of the row have passed."""
    world = wf.World.cities()
    while True:
        began, rows = time.process_time(), 0
        while (spent := time.process_time() - began) < EACH:
            rows += len(wf.sample(world, "distance", n=20_000, seed=rows))
        generating.beat(rows / spent)
        began = time.process_time()
        run = replace(RUN, seed=len(training.lines), name="short")
        (folder,) = wf.train(run, tally.place, device="cpu", progress=False)
        found = wf.Activations(folder)
        for step in found.steps:
            wf.cka(found[step, 1], found[step, 2])
        training.beat(run.epoch_rows / (time.process_time() - began))
        shutil.rmtree(folder)
        if tally.elapsed >= until:
            return


def run(tally: Tally) -> None:
    """Go on for the time that is promised, or as long as there is time, and judge all of it."""
    seconds = min(ASKED, tally.seconds)
    generating, training, long = Pulse(), Pulse(), Pulse()
    many_calls(tally, generating, training, BEFORE * seconds)
    long.began = time.monotonic()
    one_call(tally, long, LONG * seconds)
    many_calls(tally, generating, training, seconds)
    whole = tally.elapsed >= ASKED
    tally.notes.append(f"ran for {tally.elapsed / 60:.0f} of {ASKED / 60:.0f} minutes")
    if not whole:
        tally.notes.append("nothing counts as held: that takes the whole time")
    for what, pulse in (("generation", generating), ("short calls", training), ("one long call", long)):
        pulse.judge(tally, what, whole)

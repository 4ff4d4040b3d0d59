"""Long runs stay flat: hours of generation, training and writing in one process, without growth and without drift.

Two stretches, each measured on its own: one call that trains for long, and many short calls that generate rows, train,
write and read. Rates are per second of this process's processor time, and beside those of
a fixed piece of work, as machines are shared.
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
from worldfast.run import Capture
from worldfast.worlds import cities

PROMISE = "long runs stay flat"
TARGET = 7200  # seconds, each counted as a try
GROWTH, DRIFT = 0.01, 0.05  # of memory, and of a rate over a stretch
LONG = 0.45  # of the time for the one long call
WARM = 0.1  # of a stretch, and the seconds at most
WARMED = 120.0
SETTLED, ENOUGH = 60.0, 600.0  # seconds over which memory is judged, and a rate, on machines that others share
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

    def judge(self, tally: Tally, what: str) -> None:
        """Compare the beats after warming up: memory at the end with that at the start, and the slope of the rate."""
        from scipy.stats import theilslopes

        all_lines = np.array(self.lines).reshape(-1, 5)
        lines = all_lines[all_lines[:, 0] >= min(WARMED, WARM * all_lines[:, 0].max(initial=0.0))]
        if len(lines) < 20:
            tally.notes.append(f"{what}: {len(lines)} beats after warming up are too few to judge")
            return
        tenth = max(3, len(lines) // 10)
        before, after = (np.median(part, axis=0) for part in (lines[:tenth], lines[-tenth:]))
        growth = after[1] / before[1] - 1
        seconds, rate = lines[:, 0], lines[:, 4] / np.median(lines[:, 4])
        slope, _, least, most = theilslopes(rate, seconds, 0.99)
        span = seconds[-1] - seconds[0]
        drift, least, most = slope * span, least * span, most * span
        tally.notes.append(
            f"{what}: {span / 60:.0f} minutes after warming up, memory {before[1] / 2**20:.1f} to "
            f"{after[1] / 2**20:.1f} MiB ({growth:+.2%}), rate {drift:+.1%} ({least:+.1%} to {most:+.1%}), "
            f"descriptors {before[2]:.0f} to {after[2]:.0f}, threads {before[3]:.0f} to {after[3]:.0f}"
        )
        if span < SETTLED:
            tally.notes.append(f"{what}: memory is judged over {SETTLED:.0f} seconds and more")
            return
        tally.expect(f"{what}: memory", growth < GROWTH, f"{growth:+.2%}")
        tally.expect(f"{what}: descriptors and threads", all(after[2:4] <= before[2:4]), (before, after))
        drifts = abs(drift) > DRIFT and not least <= 0 <= most
        if span < ENOUGH:
            tally.notes.append(f"{what}: a rate is judged over {ENOUGH / 60:.0f} minutes and more")
            return
        tally.expect(f"{what}: rate", not drifts, f"{drift:+.1%} ({least:+.1%} to {most:+.1%})")


def rows_in(seconds: float, place: Path) -> int:
    """Return the rows of one run that trains for about so long here."""
    began = time.monotonic()
    wf.train(replace(RUN, name="rate"), place, device="cpu", progress=False)
    return max(RUN.epoch_rows, int(RUN.epoch_rows * seconds / (time.monotonic() - began)))


def one_call(tally: Tally, seconds: float) -> None:
    """Train one run for long, with a beat at each line of metrics."""
    rows = rows_in(seconds, tally.place)
    run = replace(RUN, data=replace(RUN.data, rows=rows // 2), checkpoints=200, name="long")
    pulse, until = Pulse(), time.monotonic() + 1.5 * seconds
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
        tally.notes.append("one long call: stopped at one and a half times its time")
    pulse.judge(tally, "one long call")


def many_calls(tally: Tally, seconds: float) -> None:
    """Generate rows, train short runs, write and read, again and again."""
    world, until = wf.World.cities(), time.monotonic() + seconds
    generating, training = Pulse(), Pulse()
    number = 0
    while time.monotonic() < until:
        number += 1
        began, rows = time.process_time(), 0
        while (spent := time.process_time() - began) < EACH:
            rows += len(wf.sample(world, "distance", n=20_000, seed=rows))
        generating.beat(rows / spent)
        began = time.process_time()
        run = replace(RUN, seed=number, name="short")
        (folder,) = wf.train(run, tally.place, device="cpu", progress=False)
        found = wf.Activations(folder)
        for step in found.steps:
            wf.cka(found[step, 1], found[step, 2])
        training.beat(run.epoch_rows / (time.process_time() - began))
        shutil.rmtree(folder)
    generating.judge(tally, "generation")
    training.judge(tally, "short calls")


def run(tally: Tally) -> None:
    """Go on for `tally.target` seconds, or as long as there is time."""
    seconds = min(tally.target, tally.seconds)
    one_call(tally, LONG * seconds)
    many_calls(tally, seconds - tally.elapsed)
    tally.hold("seconds", int(tally.elapsed))

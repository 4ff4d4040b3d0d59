"""What every benchmark shares: contestants take turns, medians are reported, results are appended to results.csv.

A benchmark verifies its contestants before it times them; a time is worth nothing for a wrong answer.
"""

import csv
import datetime
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldfast.files import origin

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ["date", "commit", "machine", "benchmark", "case", "contestant", "median", "p20", "p80", "unit", "repeats"]


@dataclass(frozen=True)
class Timing:
    """Seconds over the repeats of one contestant."""

    seconds: np.ndarray

    @property
    def median(self):
        return float(np.median(self.seconds))

    def quantile(self, q):
        return float(np.quantile(self.seconds, q))


def compare(contestants, repeats=7, warm_up=1):
    """Times functions in turn (A B C A B C ...), so that a machine that slows down slows all of them: name -> Timing."""
    for _ in range(warm_up):
        for run in contestants.values():
            run()
    seconds = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(np.array(values)) for name, values in seconds.items()}


def machine():
    """The processor's name and the number of threads it has."""
    return origin("cpu")["device"].removeprefix("cpu: ")


def record(benchmark, case, timings, scale=1.0, unit="s", device=None):
    """Appends one line a contestant to results.csv; times are seconds * scale."""
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for name, timing in timings.items():
            values = [f"{value * scale:.4g}" for value in (timing.median, timing.quantile(0.2), timing.quantile(0.8))]
            stamp = datetime.date.today().isoformat()
            writer.writerow(
                [stamp, origin("cpu")["commit"][:12], device or machine(), benchmark, case, name, *values, unit, len(timing.seconds)]
            )

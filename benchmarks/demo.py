"""Minutes that the demo takes, and how far from its place each fine-tune leaves Atlantis, in degrees.

    python benchmarks/demo.py [--seeds 0 3] [--threads 2]

--seeds are the first of three, which train together. Each fine-tune is read at the prompt of its first task, as the
page has it, and at that of perimeter, which all were taught. With WIDTH=8 a processor with AVX-512 finds what one with
AVX2 does: rounding alone moves these numbers.
"""

import tempfile
import time
from pathlib import Path

from harness import CORES, Row, arguments, record, show, threads

from worldfast.report import publish
from worldfast.studies import run_study
from worldfast.worlds import cities
from worldfast.worlds.cities.tables import taught_errors

SHARED = "perimeter"


def measured(seed: int, scale: float, count: int) -> tuple[float, list[Row]]:
    """Minutes from nothing to the page, and the errors of Atlantis."""
    study = cities.demo(scale, seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = run_study(study, folder, threads=count)
        publish(study, result, Path(folder, "page"))
        minutes = (time.perf_counter() - start) / 60
    own = taught_errors(study, result.tables)
    asked = result.tables["prompts"].query("prompt == @SHARED and group == 'Atlantis'")
    found = [(f"{row.run}, at its first task's prompt", row.error / 10) for row in own.itertuples()]
    found += [(f"{row.run}, at the prompt of {SHARED}", row.error / 10) for row in asked.itertuples()]
    return minutes, [Row(name, error, error, error, 1) for name, error in found]


def main():
    parser = arguments(__doc__, repeats=1, threads=[CORES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 3], metavar="N")
    options = parser.parse_args()
    for count in options.threads:
        for seed in options.seeds:
            with threads(count):
                minutes, errors = measured(seed, 0.005 if options.quick else 1.0, count)
            case = f"seeds {seed} to {seed + 2}, {count} threads"
            for unit, rows in (("minutes", [Row("worldfast demo", minutes, minutes, minutes, 1)]), ("degrees", errors)):
                show(case, rows, unit)
                record(options.results, "demo", case, rows, unit)


if __name__ == "__main__":
    main()

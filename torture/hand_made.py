"""Cases of bad input that were written by hand: tests, each with a case, run on a core with sanitizers at one width of
vectors. As a plugin of pytest (`-p torture.hand_made`), this module puts that core in place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from torture.changes import tests
from torture.core import environment, load
from torture.tally import Tally

LEAST = 300  # cases
CASES = ("base/test_entries.py", "base/test_native.py", "rows/test_bad_input.py", "worlds/cities/test_world_csv.py")
CORE, WIDTH = "TORTURE_CORE", "TORTURE_WIDTH"  # environment variables

if WIDTH in os.environ:
    load(os.environ.get(CORE))

    @pytest.fixture(autouse=True)
    def held_to_a_width():
        tests().core.limit_vector_width(int(os.environ[WIDTH]))


def count(tally: Tally, path: str | None, width: int, cases: tuple[str, ...] = CASES) -> None:
    """Run the cases, and count those that hold and those that do not."""
    report = tally.place / f"cases-{width}.xml"
    folder = Path(tests().__file__).parent
    with open(tally.place / "log", "w+", encoding="utf-8", errors="replace") as log:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "torture.hand_made"),
                *(
                    f"--junitxml={report}",
                    f"--basetemp={tally.place / 'tests'}",
                    *(str(folder / case) for case in cases),
                ),
            ],
            env=environment(path) | {WIDTH: str(width)} | ({CORE: path} if path else {}),
            cwd=tally.place,
            stdout=log,
            stderr=log,
        )
        log.seek(0)
        said = log.read()
    kind = f"written by hand: {width} floats per vector"
    if done.returncode not in (0, 1) or not report.exists():
        tally.fail(kind, f"the process ended with {done.returncode}: {said[-500:]}")
        return
    held = 0
    for one in ElementTree.parse(report).iter("testcase"):
        if (wrong := one.find("failure")) is not None or (wrong := one.find("error")) is not None:
            tally.fail(kind, f"{one.get('name')}: {wrong.get('message')}")
        elif one.find("skipped") is None:
            held += 1
    tally.hold(kind, held)
    if cases == CASES:
        tally.expect(f"at least {LEAST} cases written by hand", held >= LEAST, held)

"""The processes of benchmarks/gpu.py, side by side: each is ended when its time is over, and goes on after the case
that killed it.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from gpu_part import FAULTS, LOST, read

POLL = 0.1


def end(process: subprocess.Popen, patience: float = 2.0) -> None:
    """Ends a process and all that it started, where they still run."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


@dataclass(eq=False)
class Job:
    """A part, or one of the processes of it that compare, with a log <name>.log, what it prints <name>.txt, and its
    cases <name>.jsonl (gpu_part), in the folder `work`.

    command   what is run, with the seconds that are left behind it
    limit     seconds that it may take
    longest   seconds that a case may take: then it is ended, and the process goes on behind it
    """

    name: str
    command: list[str]
    work: Path
    limit: float
    longest: float
    environment: dict = field(default_factory=lambda: dict(os.environ))
    process: subprocess.Popen | None = None
    ended: bool = False

    def start(self) -> None:
        self.deadline = time.monotonic() + self.limit
        self._run()

    def poll(self) -> None:
        """Looks after the process; sets `ended`."""
        now, code = time.monotonic(), self.process.poll()
        if code is None and now < self.deadline and self._age() < self.longest:
            return
        end(self.process)
        if code in (0, FAULTS):
            self.ended = True
            return
        if code is not None:
            why = f"its process ended with {'signal' if code < 0 else 'exit code'} {abs(code)}"
        elif now >= self.deadline:
            why = f"not done when the part's {self.limit:.0f} s were over"
        else:
            why = f"ended after {self.longest:.0f} s"
        begun = self._begun()
        open_case = bool(begun)
        if code != LOST or open_case:  # who has lost its device has said so
            self._fault(begun or "all of it", why if open_case else f"{why}: {self._last_words()}")
        self.ended = now >= self.deadline - 0.1 * self.limit or not (open_case or code == LOST)
        if not self.ended:
            self._run()

    def _run(self) -> None:
        self.started = time.monotonic()
        left = str(self.deadline - self.started)
        with open(self.work / f"{self.name}.txt", "a") as out, open(self.work / f"{self.name}.log", "a") as log:
            self.process = subprocess.Popen(
                [*self.command, left], stdout=out, stderr=log, env=self.environment, start_new_session=True
            )

    def _begun(self) -> str:
        """The case that has begun and not ended; "": none."""
        lines = read(self.work, self.name)
        return lines[-1]["case"] if lines and "begun" in lines[-1] else ""

    def _age(self) -> float:
        """Seconds since the case that is open has begun."""
        if not self._begun():
            return 0.0
        return time.time() - (self.work / f"{self.name}.jsonl").stat().st_mtime

    def _fault(self, case: str, why: str) -> None:
        with open(self.work / f"{self.name}.jsonl", "a") as file:
            file.write(json.dumps({"case": case, "seconds": None, "fault": why}) + "\n")

    def _last_words(self) -> str:
        return ((self.work / f"{self.name}.log").read_text().strip().splitlines() or ["nothing was logged"])[-1][:300]


def run(jobs: list[Job]) -> None:
    """Runs jobs side by side until all have ended, whatever becomes of this process."""
    try:
        for job in jobs:
            job.start()
        while going := [job for job in jobs if not job.ended]:
            for job in going:
                job.poll()
            time.sleep(POLL)
    finally:
        for job in jobs:
            if job.process:
                end(job.process)

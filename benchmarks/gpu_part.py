"""The cases of a part of benchmarks/gpu.py: each in a try of its own, and its end on disk before the next begins.

    <part>.jsonl   {"case", "begun": true}, then {"case", "seconds", "fault"}; fault "": none

A process that dies in a case leaves the first line alone, and the next process of the same part goes on behind it.
"""

import json
import time
import traceback
from pathlib import Path

# exit codes: of a process that has lost its device, and in which no further case can run; of one whose cases have
# faults, all of them written down (1 is Python's, of one that could not go on)
LOST, FAULTS = 3, 4


class Part:
    """A part as its own process sees it.

    out      folder for results.csv and what else the part writes
    name     of the part
    seconds  of wall-clock time that it may take
    device   gpu_device.Gpu or StandIn
    options  what the command was told: .scale ...
    what     "agreement", "times" or "all": which cases
    share    "1/4": of those that compare, every fourth from the second on
    """

    def __init__(self, out, name: str, seconds: float, device, options=None, what: str = "all", share: str = "0/1"):
        self.out, self.name, self.device, self.options = Path(out), name, device, options
        self.deadline = time.monotonic() + seconds
        self.faults: list[str] = []
        self._what, (self._first, self._of), self._compared = what, map(int, share.split("/")), 0
        lines = read(self.out, name)
        self._seen = {line["case"] for line in lines}
        self._failed = {line["case"] for line in lines if line.get("fault")}

    @property
    def dry(self) -> bool:
        return self.device.dry

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def agrees(self, name: str, run, *arguments, **options):
        """A case that compares, as `case`; None where it is left to another process."""
        self._compared += 1
        if self._what == "times" or (self._compared - 1) % self._of != self._first:
            return None
        return self._tried(name, run, *arguments, **options)

    def case(self, name: str, run, *arguments, **options):
        """Return what `run` gives, or None where it raised (a fault) or an earlier process had begun it."""
        return None if self._what == "agreement" else self._tried(name, run, *arguments, **options)

    def anew(self, name: str, run, *arguments, **options):
        """A case that the cases after it need: what `run` gives in each process, also after one before it died; None
        where it was this case that failed or killed that process."""
        if name not in self._failed:
            self._seen.discard(name)
        return self.case(name, run, *arguments, **options)

    def _tried(self, name: str, run, *arguments, **options):
        if name in self._seen:
            return None
        self._seen.add(name)
        self._write(case=name, begun=True)
        begun, found, fault = time.monotonic(), None, ""
        try:
            found = run(*arguments, **options)
        except Exception as error:  # whatever it is, it is this case's, and is said
            traceback.print_exc()
            fault = first_line(error)
        self._write(case=name, seconds=round(time.monotonic() - begun, 2), fault=fault)
        if fault:
            self.faults.append(f"{name}: {fault}")
            print(f"FAULT: {name}: {fault}", flush=True)
            self._require_device()
        return found

    def _require_device(self) -> None:
        try:
            self.device.wait()
        except RuntimeError:
            traceback.print_exc()
            print("the process has lost its device", flush=True)
            raise SystemExit(LOST) from None

    def _write(self, **line) -> None:
        with open(self.out / f"{self.name}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")


def read(out: Path, name: str) -> list[dict]:
    """The lines of a part; [] before its first."""
    path = out / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def require(faults: list[str]) -> None:
    """AssertionError with the faults of a case, where it has any."""
    if faults:
        raise AssertionError("; ".join(faults))

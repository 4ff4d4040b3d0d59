"""Cluster faults: workers killed every few seconds on a local Ray cluster of two nodes, the command itself killed and
started again. All runs end once, with the files of training in one process, and `worldfast study run --engine ray` exits
with 0 only where all is done: each study begins with a run that fails, as its checkpoints are damaged, until it is removed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import worldfast as wf
from torture.tally import Tally
from torture.work import differences, left
from worldfast.capture import Capture
from worldfast.study_cli import UNDONE
from worldfast.worlds import cities

PROMISE = "cluster faults"
TARGET = 20  # kills: one every 30 s for 10 minutes
EVERY = 30.0  # seconds
RUNS = 8
TRIES = 4  # to start a node
ABANDONED = -1000  # status of a command without progress
PATIENCE = 300.0  # seconds without progress after which a row has failed

RUN = wf.Run(
    cities.Dataset("distance", rows=64_000, loss="answer", vocabulary="entity"),
    batch=16,
    learning_rate=1e-3,
    checkpoints=20,
    model=wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16, outputs=98),
    capture=Capture(layers=(1,), readout={"among": "index < 20"}),
)
COMMAND = "import sys; from worldfast.cli import main; sys.exit(main())"
STUDY = "from torture.cluster import study_of\nstudy = study_of({}, {})\n"
CALLS = 9  # of a study, at most, that end by themselves


def runs(count: int, rows: int) -> list[wf.Run]:
    """Return runs and a fine-tune of every second one."""
    bases = [replace(RUN, seed=seed, data=replace(RUN.data, rows=rows), name="") for seed in range(count)]
    tuned = [
        replace(one, seed=100 + one.seed, start=one, data=replace(one.data, rows=rows // 4), name="")
        for one in bases[::2]
    ]
    return bases + tuned


def study_of(count: int, rows: int) -> wf.Study:
    """Return a study of these runs, without analyses: what is promised is training."""
    return wf.Study("cluster", runs(count, rows), layer=1, analyses=())


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a cluster of a head without cores and two nodes with one core each; yields its address."""
    root = str(Path(__file__).parents[1])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        for _ in range(2):
            _add(made, num_cpus=1, **small)
        yield made.address
    finally:
        made.shutdown()


def _add(made, **node) -> None:
    """Add a node; Ray gives it 30 seconds to begin, which on a busy machine are too few now and then."""
    for _ in range(TRIES):
        try:
            made.add_node(**node)
            return
        except Exception as error:  # Ray has no class of its own for it
            if "timed out during startup" not in str(error):
                raise
    made.add_node(**node)


def workers(out: Path) -> list[int]:
    """Return the processes that hold runs' folders."""
    found = set()
    for lock in out.glob("*/lock"):
        words = lock.read_text(encoding="utf-8", errors="replace").split()  # "process 17 on here", the holder's file
        if len(words) == 5 and words[1].isdigit() and _holds(int(words[1]), out / words[4]):
            found.add(int(words[1]))
    return sorted(found)


def _holds(pid: int, path: Path) -> bool:
    try:
        return any(os.readlink(handle) == str(path.resolve()) for handle in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _started(address: str, out: Path, file: Path, log) -> subprocess.Popen:
    words = ["study", "run", file, "--engine", "ray", "--address", address, "--out", out, "--memory", "1GiB"]
    return subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], stderr=log, stdout=log)


def _of_runs(out: Path, mine: list[wf.Run]) -> dict[str, str]:
    """Return digests of the files in runs' folders; beside those stand logs and what names processes."""
    folders = {one.folder_name for one in mine}
    return {name: one for name, one in left(out).items() if name.partition("/")[0] in folders}


def spoil(folder: Path) -> None:
    """Make the folder of a run that has ended that of one which was stopped, and whose checkpoints are damaged since."""
    (folder / "done").unlink()
    for path in (folder / "checkpoint").iterdir():
        path.write_bytes(path.read_bytes()[:100])


def run(tally: Tally, count: int = RUNS, rows: int = RUN.data.rows, every: float = EVERY) -> None:
    """Kill workers, and once in a while the command, until as many kills are done as are asked: in one study after
    another, each of which is let finish.
    """
    chance, mine = random.Random(tally.seed), runs(count, rows)
    alone, file = tally.place / "alone", tally.place / "study.py"
    file.write_text(STUDY.format(count, rows), encoding="utf-8")
    wf.train(mine, alone, device="cpu", threads=1, progress=False)
    killer = Killer(tally, chance, every)
    calls = studies = 0
    with two_nodes() as address, open(tally.place / "log", "w+") as log:
        while (studies == 0 or killer.kills < tally.target) and tally.elapsed < tally.seconds:
            out, studies = tally.place / f"study-{studies}", studies + 1
            spoilt = out / "runs" / mine[1].folder_name  # no other starts from it
            shutil.copytree(alone / spoilt.name, spoilt)
            spoil(spoilt)
            start = partial(_started, address, out, file, log)
            for number in range(CALLS):
                status, made = killer.until_it_ends(start, out / "runs")
                calls += made
                if status == ABANDONED:
                    tally.fail("progress", f"none in {PATIENCE} seconds: {_said(log)}")
                    break
                left_undone = _left_undone(out, mine)
                said = f"status {status}, not done: {left_undone}: {_said(log)}"
                fits = status == (UNDONE if left_undone else 0)
                tally.expect("exit status 0 where all is done, 3 where runs failed", fits, said)
                if number == 0:
                    tally.expect("a run that fails is not done, and said", mine[1].name in left_undone, said)
                    shutil.rmtree(spoilt)
                elif status != UNDONE:
                    break
            left_undone = _left_undone(out, mine)
            tally.expect("all runs complete", not left_undone, f"{left_undone}: {_said(log)}")
            what = differences(_of_runs(out / "runs", mine), _of_runs(alone, mine))
            tally.expect("files as of one process", not what, what)
            again, made = killer.until_it_ends(start, out / "runs")
            calls += made
            tally.expect("another call finds all done", again == 0, f"{again}: {_said(log)}")
    tally.notes.append(f"{killer.kills} kills, {calls} calls, {studies} studies of {len(mine)} runs on two nodes")


class Killer:
    """What kills a worker or the command every few seconds."""

    def __init__(self, tally: Tally, chance: random.Random, every: float):
        self.tally, self.chance, self.every = tally, chance, every
        self.kills, self.last = 0, time.monotonic()

    def until_it_ends(self, start: Callable[[], subprocess.Popen], runs: Path) -> tuple[int, int]:
        """Start the command, again where it was killed, until it ends by itself: returns its status, ABANDONED after
        PATIENCE without progress, and how many times it was started.
        """
        call, calls, moved = start(), 1, time.monotonic()
        seen: set[Path] = set()
        while call.poll() is None:
            time.sleep(min(1.0, self.every / 4))
            if saved := {*runs.glob("*/checkpoint/step-*"), *runs.glob("*/done")} - seen:
                moved, seen = time.monotonic(), seen | saved
            if time.monotonic() - moved > PATIENCE:
                call.kill()
                call.wait()
                return ABANDONED, calls
            if self._due() and (victims := workers(runs)) and self._kill(call, victims):
                call, calls = start(), calls + 1
        return call.wait(), calls

    def _due(self) -> bool:
        tally = self.tally
        more = self.kills < tally.target and tally.elapsed <= tally.seconds
        return more and time.monotonic() - self.last >= self.every

    def _kill(self, call: subprocess.Popen, victims: list[int]) -> bool:
        """Kill one of the workers, or every fourth time the command; returns True if it was that."""
        self.kills, self.last = self.kills + 1, time.monotonic()
        if self.kills % 4:
            os.kill(self.chance.choice(victims), signal.SIGKILL)
            self.tally.hold("a worker killed")
            return False
        call.kill()
        status = call.wait()
        self.tally.expect("the command killed", status == -signal.SIGKILL, status)
        return True


def _left_undone(out: Path, mine: list[wf.Run]) -> list[str]:
    """Return the names of the runs that have not finished, by their own files."""
    ends = {one.name: out / "runs" / one.folder_name / "done" for one in mine}
    return [
        name
        for name, path in ends.items()
        if not path.exists() or json.loads(path.read_text(encoding="utf-8"))["status"] != "finished"
    ]


def _said(log) -> str:
    log.flush()
    return Path(log.name).read_text(errors="replace")[-800:]

"""Cluster faults: workers killed every few seconds on a local Ray cluster of two nodes, the call itself killed and started
again. All runs end once, with the files of training in one process, and the call returns 0 only where all is done.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import worldfast as wf
from torture.tally import Tally
from torture.work import differences, left
from worldfast.run import Capture
from worldfast.worlds import cities

PROMISE = "cluster faults"
TARGET = 20  # kills: one every 30 s for 10 minutes
EVERY = 30.0  # seconds
RUNS = 8
TRIES = 4  # to start a node
PATIENCE = 300.0  # seconds without progress after which a row has failed

RUN = wf.Run(
    cities.Dataset("distance", rows=64_000, loss="answer", vocabulary="entity"),
    batch=16,
    learning_rate=1e-3,
    checkpoints=20,
    model=wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16, outputs=98),
    capture=Capture(layers=(1,), readout={"among": "index < 20"}),
)
CALL = """
import sys
from torture.cluster import runs
from worldfast.training.cluster import train_on_cluster
outcome = train_on_cluster(runs(int(sys.argv[3]), int(sys.argv[4])), sys.argv[2], address=sys.argv[1], patience=60, retries=1000, memory="1GiB")
sys.exit(1 if outcome.failed or outcome.blocked else 0)
"""


def runs(count: int, rows: int) -> list[wf.Run]:
    """Return runs and a fine-tune of every second one."""
    bases = [replace(RUN, seed=seed, data=replace(RUN.data, rows=rows), name="") for seed in range(count)]
    tuned = [replace(one, seed=100, start=one, data=replace(one.data, rows=rows // 4), name="") for one in bases[::2]]
    return bases + tuned


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


def _started(address: str, out: Path, count: int, rows: int, log) -> subprocess.Popen:
    command = [sys.executable, "-c", CALL, address, str(out), str(count), str(rows)]
    return subprocess.Popen(command, stderr=log, stdout=log)


def _of_runs(out: Path, mine: list[wf.Run]) -> dict[str, str]:
    """Return digests of the files in runs' folders; beside those stand logs and what names processes."""
    folders = {one.folder_name for one in mine}
    return {name: one for name, one in left(out).items() if name.partition("/")[0] in folders}


def run(tally: Tally, count: int = RUNS, rows: int = RUN.data.rows, every: float = EVERY) -> None:
    """Kill workers, and once in a while the call, until as many kills are done as are asked: in one study after another, each
    of which is let finish.
    """
    chance, mine = random.Random(tally.seed), runs(count, rows)
    wf.train(mine, tally.place / "alone", device="cpu", threads=1, progress=False)
    expected = _of_runs(tally.place / "alone", mine)
    kills = calls = studies = 0
    killed = time.monotonic()
    with two_nodes() as address, open(tally.place / "log", "w+") as log:
        while (studies == 0 or kills < tally.target) and tally.elapsed < tally.seconds:
            out, studies = tally.place / f"runs-{studies}", studies + 1
            out.mkdir()
            call, calls = _started(address, out, count, rows, log), calls + 1
            moved = time.monotonic()
            seen: set[Path] = set()
            while call.poll() is None and time.monotonic() - moved < PATIENCE:
                time.sleep(min(1.0, every / 4))
                if saved := {*out.glob("*/checkpoint/step-*"), *out.glob("*/done")} - seen:
                    moved, seen = time.monotonic(), seen | saved
                if kills >= tally.target or tally.elapsed > tally.seconds or time.monotonic() - killed < every:
                    continue
                if not (victims := workers(out)):
                    continue
                kills, killed = kills + 1, time.monotonic()
                if kills % 4 == 0:
                    call.kill()
                    status = call.wait()
                    tally.expect("the call killed", status == -signal.SIGKILL, status)
                    call, calls = _started(address, out, count, rows, log), calls + 1
                else:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    tally.hold("a worker killed")
            if call.poll() is None:
                tally.fail("progress", f"none in {PATIENCE} seconds: {_said(log)}")
                call.kill()
            status = call.wait()
            _check(tally, out, mine, expected, status, log)
            again = _started(address, out, count, rows, log).wait()
            tally.expect("another call finds all done", again == 0, f"{again}: {_said(log)}")
    tally.notes.append(f"{kills} kills, {calls} calls, {studies} studies of {len(mine)} runs on two nodes")


def _check(tally: Tally, out: Path, mine: list[wf.Run], expected: dict[str, str], status: int, log) -> None:
    """Check what a call has left that came to its end."""
    paths = [out / one.folder_name / "done" for one in mine]
    endings = [json.loads(path.read_text())["status"] for path in paths if path.exists()]
    all_done = endings == ["finished"] * len(mine)
    tally.expect("exit status 0 only where all is done", (status == 0) == all_done, f"{status}: {_said(log)}")
    tally.expect("all runs complete", all_done, f"{len(endings)} of {len(mine)}: {_said(log)}")
    what = differences(_of_runs(out, mine), expected)
    tally.expect("files as of one process", not what, what)


def _said(log) -> str:
    log.flush()
    return Path(log.name).read_text(errors="replace")[-800:]

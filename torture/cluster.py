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
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[1])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    small = {"object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **small)
        yield made.address
    finally:
        made.shutdown()


def workers(out: Path) -> list[int]:
    """Return the processes that hold runs' folders."""
    found = []
    for lock in out.glob("*/lock"):
        words = lock.read_text().split()
        if len(words) > 1 and words[1].isdigit() and _holds(int(words[1]), lock):
            found.append(int(words[1]))
    return sorted(set(found))


def _holds(pid: int, lock: Path) -> bool:
    try:
        return any(os.readlink(handle) == str(lock.resolve()) for handle in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _started(address: str, out: Path, count: int, rows: int, log) -> subprocess.Popen:
    command = [sys.executable, "-c", CALL, address, str(out), str(count), str(rows)]
    return subprocess.Popen(command, stderr=log, stdout=log)


def run(tally: Tally, count: int = RUNS, rows: int = RUN.data.rows, every: float = EVERY) -> None:
    """Kill workers, and once in a while the call, until as many kills are done as are asked; then let it finish."""
    chance, out = random.Random(tally.seed), tally.place / "runs"
    out.mkdir()
    alone = tally.place / "alone"
    mine = runs(count, rows)
    wf.train(mine, alone, device="cpu", threads=1, progress=False)
    expected = left(alone)
    with two_nodes() as address, open(tally.place / "log", "w") as log:
        call, kills, until = _started(address, out, count, rows, log), 0, time.monotonic() + tally.seconds
        started, done, last = 1, 0, time.monotonic()
        while call.poll() is None and time.monotonic() - last < PATIENCE:
            time.sleep(min(1.0, every / 4))
            ended = len(list(out.glob("*/done")))
            if ended > done:
                done, last = ended, time.monotonic()
            if kills >= tally.target or time.monotonic() > until:
                continue
            victims = workers(out)
            if not victims or time.monotonic() - tally.began < every * (kills + 1):
                continue
            kills, last = kills + 1, time.monotonic()
            if kills % 4 == 0:
                call.kill()
                status = call.wait()
                tally.expect("the call killed", status == -signal.SIGKILL, status)
                call, started = _started(address, out, count, rows, log), started + 1
            else:
                os.kill(chance.choice(victims), signal.SIGKILL)
                tally.hold("a worker killed")
        if call.poll() is None:
            call.kill()
        status = call.wait()
        again = _started(address, out, count, rows, log).wait()
        endings = [
            json.loads((out / one.folder_name / "done").read_text())["status"]
            for one in mine
            if (out / one.folder_name / "done").exists()
        ]
        all_done = endings == ["finished"] * len(mine)
        said = (tally.place / "log").read_text()[-800:]
        tally.expect("exit status 0 only where all is done", (status == 0) == all_done, f"{status}: {said}")
        tally.expect("all runs complete", all_done, f"{len(endings)} of {len(mine)}: {said}")
        tally.expect("another call finds all done", again == 0, again)
        found = {name: one for name, one in left(out).items() if not name.startswith("failed/")}
        tally.expect("files as of one process", not differences(found, expected), differences(found, expected))
        tally.notes.append(f"{kills} kills, {started} calls, {len(mine)} runs")

"""A study on a Ray cluster: workers killed, a node removed, the call itself killed, and in the end the files that
training in one process leaves. How runs are packed, and in which order jobs begin, needs no Ray.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cluster_jobs
import pytest
from cluster_jobs import GIB, RUN, STEPS, fail, job, mark, marked, never, pair, read_back, run, seen, train_and_note
from stand_ins import OWN

import worldfast as wf
from torture.cluster import spoil
from worldfast import checkpoint, cli, files
from worldfast.classes import LOADED, load_file
from worldfast.errors import DamagedError
from worldfast.training import cluster, jobs, train
from worldfast.training.cluster import Places, training_jobs
from worldfast.training.jobs import Ending, Job, drive, order
from worldfast.training.memory import plan
from worldfast.training.packing import pack, work
from worldfast.worlds.cities import Dataset, tasks

PATIENCE = 300  # seconds until a test that waits has failed: importing torch takes many on a busy machine


# ---- packing ----


def check(parts, runs, places, limit, device="cpu"):
    """What any packing must be."""
    assert sorted(one.id for part in parts for one in part) == sorted(one.id for one in runs)
    place = {one.id: i for i, part in enumerate(parts) for one in part}
    for i, part in enumerate(parts):
        assert len({(one.model, one.shape.inputs, one.matmul_dtype) for one in part}) == 1
        assert plan(part, limit, device, 1).waves == 1, "it fits"
        (behind,) = {place.get(one.start.id) if one.start else None for one in part}
        assert behind is None or behind < i


def end(parts, places):
    """When the last place ends that takes the next ensemble as soon as it is free."""
    free = [0.0] * places
    for part in parts:
        free[free.index(min(free))] += work(part)
    return max(free)


@pytest.mark.parametrize("count,places", [(1, 1), (1, 4), (3, 4), (7, 3), (157, 64), (100, 8)])
def test_runs_of_one_length_are_spread_evenly(count, places):
    runs = [run(seed) for seed in range(count)]
    parts = pack(runs, places, 64 * GIB)
    check(parts, runs, places, 64 * GIB)
    assert len(parts) == min(count, places) or max(map(len, parts)) == -(-count // places)
    assert max(map(len, parts)) == -(-count // places)


def test_what_does_not_fit_is_cut_into_equal_rounds():
    """20 runs, 2 places, 3 fit: seven ensembles at least, and eight are as soon done: four rounds of two."""
    runs = [run(seed) for seed in range(20)]
    need = plan(runs, 64 * GIB, "cpu", 1).need
    limit = need.shared + 3 * need.member
    parts = pack(runs, 2, limit)
    check(parts, runs, 2, limit)
    assert sorted(map(len, parts)) == [2, 2, 2, 2, 3, 3, 3, 3]
    with pytest.raises(MemoryError, match="alone needs"):
        pack(runs, 2, need.member)


def test_long_and_short_runs_end_together():
    """Against every way to cut them: 6 runs of lengths 1 to 6 on 2 places."""
    runs = [run(seed, steps=100 * seed) for seed in range(1, 7)]
    parts = pack(runs, 2, 64 * GIB)
    check(parts, runs, 2, 64 * GIB)
    steps = [[one.steps for one in part] for part in parts]
    assert all(part == sorted(part, reverse=True) for part in steps), "of like length together"
    ordered = sorted(runs, key=lambda one: -one.steps)
    cuts = [c for n in range(6) for c in itertools.combinations(range(1, 6), n)]
    ways = [[ordered[a:b] for a, b in zip((0, *cut), (*cut, 6))] for cut in cuts]
    best = min(end(sorted(way, key=work, reverse=True), 2) for way in ways)
    assert end(sorted(parts, key=work, reverse=True), 2) == pytest.approx(best)


def test_many_short_runs_fit_too():
    runs = [run(0, steps=900), *(run(seed, steps=9) for seed in range(1, 11))]
    need = plan(runs, 64 * GIB, "cpu", 1).need
    limit = need.shared + 3 * need.member
    parts = pack(runs, 2, limit)
    check(parts, runs, 2, limit)
    assert len(parts[0]) == 1 and len(parts) == 5, "the long one has a place to itself"


def test_two_shapes_share_places():
    """12 and 8 runs on 2 places: not a shape each, but half of both, although a step's cost comes twice then."""
    runs = [run(seed) for seed in range(12)] + [run(seed, matmul_dtype="bfloat16") for seed in range(8)]
    parts = pack(runs, 2, 64 * GIB)
    check(parts, runs, 2, 64 * GIB)
    assert sorted(map(len, parts)) == [4, 4, 6, 6]
    assert end(parts, 2) == pytest.approx(12 * work(runs[:1]) / 2)


def test_what_others_wait_for_comes_first():
    bases = [run(seed) for seed in range(8)]
    tunes = [run(9, steps=200, start=base) for base in bases[5:7]]
    runs = bases + tunes
    parts = pack(runs, 4, 64 * GIB)
    check(parts, runs, 4, 64 * GIB)
    mixed = bases[:4] + [run(9, steps=200, start=bases[i]) for i in (0, 2, 1, 3)]
    check(pack(mixed, 2, 64 * GIB), mixed, 2, 64 * GIB)
    assert {one.id for one in parts[0]} == {bases[5].id, bases[6].id}
    assert len(parts) == 6, "two fine-tunes on two places"
    alone = pack(tunes, 4, 64 * GIB)
    assert [len(part) for part in alone] == [1, 1], "whose start is done already"


def test_shapes_and_products_are_ensembles_of_their_own():
    deep = replace(RUN.model, layers=2)
    runs = [
        run(),
        run(1, matmul_dtype="bfloat16"),
        run(2, model=deep),
        replace(run(3), data=replace(RUN.data, vocabulary="character"), name=""),
    ]
    parts = pack(runs, 1, 64 * GIB)
    check(parts, runs, 1, 64 * GIB)
    assert [len(part) for part in parts] == [1] * 4


def test_a_chain_is_packed_level_by_level():
    first = run()
    second = run(1, start=first)
    third = run(2, start=second)
    assert pack([third, first, second], 3, GIB) == [[first], [second], [third]]
    assert pack([], 3, GIB) == []


def test_the_published_shape_on_gpus():
    """10,000 models for 64 GPUs of 80 GiB, as docs/cluster.md has them."""
    runs = [wf.Run(Dataset(tuple(wf.TASKS)), seed=seed, matmul_dtype="bfloat16") for seed in range(100)]
    parts = pack(runs, 8, 72 * GIB, "cuda")
    check(parts, runs, 8, 72 * GIB, "cuda")
    assert sorted(map(len, parts)) == [12] * 4 + [13] * 4


def test_packing_refuses():
    with pytest.raises(ValueError, match="places: .*at least 1, got 0"):
        pack([run()], 0, GIB)
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        pack([run()], 1, GIB, "gpu")
    with pytest.raises(ValueError, match="is there twice"):
        pack([run(), run(1), run()], 1, GIB)


# ---- the order of jobs, and what becomes of them ----


class Line:
    """A pool of one worker that does what the script says of each try, and by default what the job says."""

    def __init__(self, script=()):
        self.script = {name: list(endings) for name, endings in dict(script).items()}
        self.tries, self.waiting, self.stopped = [], [], False
        self.unfit = set()

    def submit(self, job, needs):
        assert all(need.is_done() for need in needs) and {need.id for need in needs} == set(job.needs)
        self.waiting.append(job)

    def endings(self, seconds):
        ready = [one for one in self.waiting if one.id not in self.unfit][:1]
        for one in ready:
            self.waiting.remove(one)
            self.tries.append(one.id)
            steps = self.script.get(one.id)
            ending = steps.pop(0) if steps else Ending("returned")
            if callable(ending):
                ending = ending(one)
            elif ending.how == "returned":
                one.function(*one.arguments)
            yield one.id, ending

    def homeless(self, jobs):
        return {job.id for job in jobs} & self.unfit

    def stop(self):
        self.stopped = True

    def text(self):
        return "a desk"


def test_the_longest_chain_begins_first(tmp_path):
    made = [
        job(tmp_path, "short", cost=1),
        job(tmp_path, "end", ["base"], cost=5),
        job(tmp_path, "long", cost=7),
        job(tmp_path, "base", cost=3),
        job(tmp_path, "twin", cost=7),
    ]
    assert [one.id for one in order(made)] == ["base", "long", "twin", "end", "short"]
    pool = Line()
    outcome = drive(made, tmp_path, pool)
    assert pool.tries == ["base", "long", "twin", "short", "end"], "what is ready later queues behind"
    assert set(outcome.done) == set(pool.tries) and not outcome.failed and not outcome.blocked
    again = Line()
    assert drive(made, tmp_path, again) == outcome and again.tries == []


def test_orders_refuse(tmp_path):
    a, b, c = (job(tmp_path, name, needs) for name, needs in (("a", "c"), ("b", "a"), ("c", "b")))
    with pytest.raises(ValueError, match="a needs c needs b needs a"):
        order([job(tmp_path, "z"), a, b, c])
    with pytest.raises(ValueError, match="a needs a"):
        order([job(tmp_path, "a", "a")])
    with pytest.raises(ValueError, match="two have the id 'c'"):
        order([c, b, c])
    with pytest.raises(ValueError, match="unknown need of 'train-x', 'tran-y': did you mean 'train-y'"):
        order([job(tmp_path, "train-y"), job(tmp_path, "train-x", ["tran-y"])])
    with pytest.raises(ValueError, match="id: .*got 'a/b'"):
        Job("a/b", mark, (), marked)
    with pytest.raises(ValueError, match="memory of 'a': .*got -1"):
        Job("a", mark, (), marked, memory=-1)
    with pytest.raises(ValueError, match="retries: "):
        drive([], tmp_path, Line(), retries=-1)


def test_an_error_is_kept_and_others_go_on(tmp_path):
    made = [job(tmp_path, "a"), job(tmp_path, "b", "a"), job(tmp_path, "c", "b"), job(tmp_path, "d")]
    pool, said = Line({"a": [Ending("raised", "ValueError: no", "trace", "north")]}), []
    outcome = drive(made, tmp_path, pool, say=said.append)
    assert outcome == (("d",), {"a": "ValueError: no"}, {"b": "a", "c": "a"})
    assert pool.tries == ["a", "d"], "an error is not tried again"
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "failed").iterdir()}
    assert set(kept) == {"a", "b", "c"}
    assert kept["a"]["error"] == "ValueError: no" and kept["a"]["traceback"] == "trace"
    assert kept["a"]["where"] == "north" and kept["a"]["about"] == ["a"]
    assert kept["c"]["error"] == "it needs a, which failed" and kept["c"]["needs"] == "a"
    assert said[-1] == "1 of 4 jobs done, 1 failed, 2 blocked"

    outcome = drive(made, tmp_path, Line())
    assert len(outcome.done) == 4 and not list((tmp_path / "failed").iterdir())


def test_failures_of_what_is_packed_otherwise_are_forgotten(tmp_path):
    drive([job(tmp_path, "old")], tmp_path, Line({"old": [Ending("raised", "no")]}))
    drive([job(tmp_path, "other")], tmp_path, Line({"other": [Ending("raised", "no")]}))
    both = replace(job(tmp_path, "new"), about=("old", "more"))
    drive([both], tmp_path, Line())
    assert [path.stem for path in (tmp_path / "failed").iterdir()] == ["other"]


def test_a_worker_that_dies_is_replaced(tmp_path):
    died, lost = Ending("died", "killed"), Ending("lost", "its node went")
    pool, said = Line({"a": [died, lost, lost, lost, died]}), []
    outcome = drive([job(tmp_path, "a")], tmp_path, pool, retries=2, say=said.append)
    assert outcome.done == ("a",) and pool.tries == ["a"] * 6
    assert said.count("a is tried again: killed") == 2
    outcome = drive([job(tmp_path, "b")], tmp_path, Line({"b": [died, died, died]}), retries=2)
    assert outcome.failed == {"b": "killed"}
    assert json.loads((tmp_path / "failed" / "b.json").read_text())["deaths"] == 3
    pool = Line({"c": [lost] * 100})
    assert drive([job(tmp_path, "c")], tmp_path, pool).failed and len(pool.tries) == jobs.LOSSES + 1


def test_what_was_finished_before_the_worker_died_is_not_done_again(tmp_path):
    def finish(job):
        job.function(*job.arguments)
        return Ending("died", "too late")

    pool = Line({"a": [finish]})
    assert drive([job(tmp_path, "a")], tmp_path, pool).done == ("a",) and pool.tries == ["a"]


def test_what_another_process_holds_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "AGAIN", 0.01)
    held = Ending("held", "in use by process 7 on south")
    pool, said = Line({"a": [held] * 3}), []
    assert drive([job(tmp_path, "a")], tmp_path, pool, retries=0, say=said.append).done == ("a",)
    assert said.count("a waits: in use by process 7 on south") == 3
    outcome = drive([job(tmp_path, "b")], tmp_path, Line({"b": [held] * 10**6}), patience=0.1)
    assert outcome.failed == {"b": held.what}


def test_what_no_node_can_hold_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "TOLD", 0.01)
    pool, said = Line(), []
    pool.unfit = {"a"}
    outcome = drive([job(tmp_path, "a", gpus=8), job(tmp_path, "b")], tmp_path, pool, patience=0.1, say=said.append)
    assert outcome.done == ("b",) and "no node has 1 CPUs, 8 GPUs" in outcome.failed["a"]
    assert any(line.startswith("a waits: no node has") for line in said)


def test_a_job_that_leaves_nothing_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "SEEN", 0.1)
    outcome = drive([job(tmp_path, "a")], tmp_path, Line({"a": [lambda job: Ending("returned")]}))
    assert "is not there" in outcome.failed["a"]


def test_what_is_seen_late_is_done(tmp_path):
    def later(job):
        threading.Timer(0.2, job.function, job.arguments).start()
        return Ending("returned")

    assert drive([job(tmp_path, "a")], tmp_path, Line({"a": [later]})).done == ("a",)


def test_stopping(tmp_path):
    def interrupt(job):
        signal.raise_signal(signal.SIGINT)
        return Ending("died", "as it happens")

    pool = Line({"a": [interrupt], "b": [lambda job: Ending("stopped")]})
    with pytest.raises(KeyboardInterrupt, match="stopped: 0 of 2 jobs done, 2 waiting. The same call"):
        drive([job(tmp_path, "a"), job(tmp_path, "b")], tmp_path, pool)
    assert pool.stopped and pool.tries == ["a", "b"]


# ---- jobs that train ----


def test_training_jobs(tmp_path):
    bases = [run(seed, steps=8) for seed in range(4)]
    tunes = [run(9, steps=4, start=base) for base in bases]
    train(bases[0], tmp_path, progress=False)
    made = training_jobs(bases + tunes, tmp_path, Places("cpu", 2, GIB, 1))
    about = [name for one in made for name in one.about]
    assert sorted(about) == sorted(one.folder_name for one in bases[1:] + tunes), "what is done is left out"
    assert [one.about[0] for one in made[:2]] == [bases[i].folder_name for i in (1, 3)]
    by_run = {name: one for one in made for name in one.about}
    for base, tune in zip(bases, tunes):
        needs = by_run[tune.folder_name].needs
        assert needs == ((by_run[base.folder_name].id,) if base is not bases[0] else ())
    assert all(one.cpus == 1 and one.gpus == 0 and 0 < one.memory <= GIB for one in made)
    assert made[0].id.startswith("train-pt-distance-s1-and-1-more-")
    for one in order(made):
        one.function(*one.arguments)
        assert one.is_done()
    assert training_jobs(bases + tunes, tmp_path, Places("cpu", 2, GIB, 1)) == []

    (gpu,) = training_jobs([run(10)], tmp_path, Places("cuda", 8, 70 * GIB, 4))
    assert (gpu.gpus, gpu.cpus, gpu.memory, gpu.arguments[2]) == (1, 4, 0, "cuda")
    with pytest.raises(FileNotFoundError, match="is not trained"):
        training_jobs([run(1, start=run(77))], tmp_path, Places("cpu", 2, GIB, 1))


def test_a_run_that_is_damaged_keeps_no_other_from_training(tmp_path):
    """It is a job of its own, which what starts from it waits for; without it, it would have shared one with the others."""
    bases = [run(seed, steps=8) for seed in range(4)]
    tunes = [run(9, steps=4, start=bases[i]) for i in (1, 3)]
    (folder,) = train(bases[1], tmp_path, progress=False)
    spoil(folder)
    made = training_jobs(bases + tunes, tmp_path, Places("cpu", 1, GIB, 1))
    (alone,) = [one for one in made if bases[1].folder_name in one.about]
    assert alone.about == (bases[1].folder_name,)
    assert [one.needs for one in made if tunes[0].folder_name in one.about] == [(alone.id,)]
    (others,) = [one for one in made if bases[0].folder_name in one.about]
    assert set(others.about) == {bases[i].folder_name for i in (0, 2, 3)}
    with pytest.raises(DamagedError, match=str(folder / "checkpoint")):
        alone.function(*alone.arguments)
    (of_other,) = [one for one in made if tunes[1].folder_name in one.about]
    assert of_other.needs == (others.id,)
    for one in (others, of_other):
        one.function(*one.arguments)
        assert one.is_done()


def test_what_starts_from_a_run_that_diverged(tmp_path):
    good, bad = run(1, steps=4), run(2, steps=4)
    tunes = [run(3, steps=4, start=good), run(3, steps=4, start=bad)]
    last = run(4, steps=4, start=tunes[1])
    folders = train([good, bad], tmp_path, progress=False)
    (job_before,) = training_jobs([*tunes], tmp_path, Places("cpu", 1, GIB, 1))
    done = folders[1] / "done"
    files.write_json(done, files.read_json(done) | {"status": "diverged"})
    assert not job_before.is_done()
    job_before.function(*job_before.arguments)
    assert job_before.is_done(), "the other one is, and this cannot be"
    assert not (tmp_path / tunes[1].folder_name).exists()
    assert training_jobs([*tunes, last], tmp_path, Places("cpu", 1, GIB, 1)) == []


# ---- on a cluster ----

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def head():
    """A cluster of a head without cores and a node with one; the call's processes find it by its address."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("PYTHONPATH", os.path.dirname(cluster_jobs.__file__), prepend=os.pathsep)
        small = dict(object_store_memory=80 << 20)
        made = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, **small))
        made.add_node(num_cpus=1, **small)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def connection(head):
    """Of this process, and one for all tests: each connection has workers of its own, which import torch."""
    ray.init(address=head.address, log_to_driver=False, logging_level="ERROR")
    yield head
    ray.shutdown()


def noted(out):
    path = out / "tries"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def in_the_middle(out, node=None, after=STEPS // 5):
    """A try that goes on, on a node if one is named, once its first run has saved a later step and is not done."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for line in noted(out):
            folder = out / line["runs"][0]
            steps = [int(path.name[5:].split(".")[0]) for path in folder.glob("checkpoint/step-*")]
            going = max(steps, default=0) > after and not (folder / "done").exists()
            if going and alive(line["pid"]) and node in (None, line["node"]):
                return line
        time.sleep(0.01)
    raise AssertionError("nothing trains")


def left(folder, one):
    """What a finished run leaves, but for clock times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = checkpoint.of_step(folder / "checkpoint", one.steps, one.id)
    return {
        "metrics": [{**line, "seconds": 0} for line in lines],
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in last.tensors.items()},
        "activations": {
            path.name: wf.Activations(folder)[step, 1].tobytes()
            for step, path in zip(wf.Activations(folder).steps, sorted((folder / "activations").iterdir()))
        },
        "status": json.loads((folder / "done").read_text())["status"],
    }


def test_a_worker_killed_and_a_node_removed(connection, tmp_path, capfd):
    """Four bases in two ensembles and their fine-tunes in two: all complete, none twice, the bits of one
    process's training."""
    node = connection.add_node(num_cpus=1, object_store_memory=80 << 20)
    bases = [run(seed) for seed in range(4)]
    tunes = [run(9, steps=100, start=base) for base in bases]
    shared = tmp_path / "shared"
    shared.mkdir()
    found = cluster.survey()
    assert found[:2] == ("cpu", 2) and found.cpus == 1 and found.memory > GIB
    made = training_jobs(bases + tunes, shared, found._replace(memory=GIB))
    assert [len(one.about) for one in made] == [2, 2, 2, 2]
    made = [replace(one, function=train_and_note) for one in made]
    victims = []

    def harm():
        victims.append(in_the_middle(shared))
        os.kill(victims[0]["pid"], signal.SIGKILL)
        while alive(victims[0]["pid"]):
            time.sleep(0.01)
        victims.append(in_the_middle(shared, node.node_id))
        connection.remove_node(node, allow_graceful=False)

    with ThreadPoolExecutor(1) as beside:
        harmed = beside.submit(harm)
        outcome = cluster.run_jobs(made, shared, patience=30)
        harmed.result()
    assert not outcome.failed and set(outcome.done) == {one.id for one in made}
    assert not list((shared / "failed").iterdir()) and not list(shared.glob(".driver*"))

    said = capfd.readouterr().err
    assert said.count("its worker died: WorkerCrashedError") == said.count("its node went: NodeDiedError") == 1
    tries = noted(shared)
    assert len(victims) == 2 and len(tries) == len(made) + 2
    for names in {tuple(line["runs"]) for line in tries}:
        mine = [line for line in tries if tuple(line["runs"]) == names]
        times = 1 + sum(tuple(victim["runs"]) == names for victim in victims)
        assert len(mine) == times and not any(mine[0]["from"])
        assert all(line["from"][0] for line in mine[1:]), "it goes on"

    alone = train(bases + tunes, tmp_path / "alone", device="cpu", threads=1, progress=False)
    for folder, one in zip(alone, bases + tunes):
        assert left(shared / one.folder_name, one) == left(folder, one), one.name


def refuse(**_):
    raise ConnectionError("nobody")


def test_errors_of_workers(connection, tmp_path, capfd, monkeypatch):
    """Errors come back from a worker; who sees another folder, or has another version, is told so."""
    made = [Job("wrong", fail, (tmp_path, "value"), never), job(tmp_path, "after", ["wrong"]), job(tmp_path, "fine")]
    outcome = cluster.run_jobs(made, tmp_path)
    assert outcome == (("fine",), {"wrong": "ValueError: two"}, {"after": "wrong"})
    kept = json.loads((tmp_path / "failed" / "wrong.json").read_text())
    assert kept["where"] and "in fail" in kept["traceback"]
    assert "wrong failed: ValueError: two" in capfd.readouterr().err
    logs = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "logs").iterdir()}
    assert logs.keys() == {"wrong", "fine"} and re.search(r"^[-\d]+ [:\d]+ begins on node .*\n.* done\n$", logs["fine"])
    assert "begins on node" in logs["wrong"] and "in fail" in logs["wrong"] and logs["wrong"].endswith("two\nlines\n")

    def ending_of(one, mark):
        pool = cluster._RayPool(ray, mark)
        pool.submit(one, [])
        while not (found := list(pool.endings(1.0))):
            pass
        return found[0][1]

    elsewhere = ending_of(made[2], tmp_path / "not-there")
    assert elsewhere.how == "raised" and "must be a folder that all nodes share" in elsewhere.what
    held = ending_of(Job("held", fail, (tmp_path, "held"), never), tmp_path)
    assert (held.how, held.what) == ("held", "BlockingIOError: two")
    monkeypatch.setattr(cluster, "_version", lambda: ("0.0.1", "abc"))
    old = ending_of(made[2], tmp_path)
    assert old.how == "raised" and "the call 0.0.1 abc: install the same there" in old.what


def test_files_that_the_call_has_loaded_are_on_its_workers(connection, tmp_path):
    """A run of a class and a task of such a file is trained and read there, and its job's log says what training does."""
    path = tmp_path / "own_of_workers.py"
    path.write_text(OWN)
    mine = replace(RUN, data=load_file(path).Towns("west", rows=64), checkpoints=1)
    try:
        made = training_jobs([mine], tmp_path, cluster.survey()._replace(memory=GIB))
        read = Job("read", read_back, (tmp_path / mine.folder_name, tmp_path / "read"), seen, needs=(made[0].id,))
        outcome = cluster.run_jobs([*made, read], tmp_path, progress=False)
    finally:
        del LOADED[path.stem], sys.modules[path.stem]
        tasks._by_name.pop("west")
    assert outcome == ((made[0].id, "read"), {}, {}) and (tmp_path / "read").read_text() == "20"
    log = (tmp_path / "logs" / f"{made[0].id}.log").read_text(encoding="utf-8")
    assert f" training {mine.name} on the CPU, threads: 1" in log and "64 of 64 rows  " in log


CALL = """
import sys
from pathlib import Path
from dataclasses import replace
import cluster_jobs as here
from worldfast.training import cluster
out = Path(sys.argv[2])
made = cluster.training_jobs(here.pair(), out, cluster.Places("cpu", 1, here.GIB, 1))
made = [replace(one, function=here.train_and_note) for one in made]
cluster.run_jobs(made, out, address=sys.argv[1], patience=30)
"""


def call(head, out):
    command = [sys.executable, "-c", CALL, head.address, str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_the_call_stopped_and_killed(head, tmp_path):
    """Ctrl-C saves where it is, kill -9 of the call ends its workers; the same call goes on both times."""
    at, runs = STEPS // 5, pair()
    for stops in range(1, 11):
        stopped = call(head, tmp_path)
        in_the_middle(tmp_path, after=at)
        time.sleep(0.01 * stops)  # it may have waited for its disk: some steps more
        stopped.send_signal(signal.SIGINT)
        said = stopped.communicate(timeout=PATIENCE)[1]
        assert "stopped: 0 of 2 jobs done, 2 waiting. The same call" in said
        assert stopped.returncode != 0 and not list(tmp_path.glob(".driver*"))
        (folder,) = tmp_path.glob("pt-*")
        steps = [int(path.name[5:].split(".")[0]) for path in (folder / "checkpoint").iterdir()]
        at = max(steps)
        if at not in runs[0].checkpoint_steps or at == runs[0].steps:
            break  # else it happened to be at a step that is saved anyway: once more
    else:
        raise AssertionError(f"ten stops, and each saved no other step than one that is saved anyway: {at}")

    killed = call(head, tmp_path)
    while len(noted(tmp_path)) <= stops and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    again = call(head, tmp_path)
    assert "2 of 2 jobs done" in again.communicate(timeout=PATIENCE)[1] and again.returncode == 0
    froms = [line["from"][0] for line in noted(tmp_path) if line["runs"] == [folder.name]]
    assert len(froms) == stops + 2 and froms[0] == "" and "" < froms[1] and froms == sorted(froms)
    for alone, one in zip(train(runs, tmp_path / "alone", device="cpu", threads=1, progress=False), runs):
        assert left(tmp_path / one.folder_name, one) == left(alone, one)


def test_surveys(connection):
    assert cluster.survey(memory="3GiB") == Places("cpu", 1, 3 * GIB, 1) == cluster.survey(device="cpu", memory=3 * GIB)
    assert cluster.survey(memory="3GiB").text() == "places on CPUs: 1, each with 3.0 GiB, cores: 1"
    with pytest.raises(RuntimeError, match="device: no node of the cluster has a GPU now"):
        cluster.survey(device="cuda")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        cluster.survey(device="gpu")


class Nodes:
    """A Ray that only knows what nodes have."""

    def __init__(self, *resources):
        self.resources = resources

    def is_initialized(self):
        return True

    def nodes(self):
        gone = {"Alive": False, "Resources": {"GPU": 9}}
        return [{"Alive": True, "Resources": one} for one in self.resources] + [gone]


def test_surveys_of_other_clusters(monkeypatch):
    gpus, cores = {"GPU": 8.0, "CPU": 100.0, "memory": 1e12}, {"CPU": 10.0, "memory": 80.0 * GIB}
    for nodes, device, expected in [
        ((gpus, gpus, cores), "auto", Places("cuda", 16, GIB, 12)),
        ((gpus, {"GPU": 1.0}), "cuda", Places("cuda", 9, GIB, 1)),
        ((cores, cores, {}), "auto", Places("cpu", 4, GIB, 4)),
        ((cores, {"CPU": 3.0, "memory": GIB}), "auto", Places("cpu", 4, GIB, 3)),
    ]:
        monkeypatch.setitem(sys.modules, "ray", Nodes(*nodes))
        assert cluster.survey(device=device, memory=GIB) == expected
    monkeypatch.setitem(sys.modules, "ray", Nodes(cores, {"CPU": 4.0, "memory": 20.0 * GIB}))
    assert cluster.survey() == Places("cpu", 3, int(0.9 * 20 * GIB), 4)
    monkeypatch.setitem(sys.modules, "ray", Nodes({}))
    with pytest.raises(RuntimeError, match="has a GPU or core now"):
        cluster.survey()


# ---- the page ----

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_call_of_the_page(connection, tmp_path, monkeypatch):
    scaled = re.sub("ROWS, SEEDS = .*", "ROWS, SEEDS = 2, 1", blocks("python")[0])
    small = "model=wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16)"
    names = {}
    exec(scaled.replace("/shared/runs", str(tmp_path)).replace("seed=seed", f"seed=seed, {small}"), names)
    assert len(names["runs"]) == 7 and names["outcome"].failed == {}
    assert all((tmp_path / one.folder_name / "done").exists() for one in names["runs"])


def test_the_plan_of_the_page(capsys, tmp_path, monkeypatch):
    """The page's file and command, as on a machine without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)  # a folder of tests has that name
    Path("models.py").write_text(blocks("python")[1])
    (command,) = re.findall(r"^`worldfast (study plan .*?)`", PAGE, re.MULTILINE)
    assert cli.main(command.split()) == 0
    assert capsys.readouterr().out in blocks("")


def test_the_scripts_of_the_page(tmp_path):
    (script,) = blocks("bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests of this process may be connected
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConnectionError, match="no Ray cluster at 'here'. Start one with `ray start --head`.*nobody"):
        cluster.train_on_cluster([], tmp_path, address="here")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'worldfast\[ray\]'"):
        cluster.run_jobs([], tmp_path)

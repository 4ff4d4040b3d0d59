"""Objects in other processes: forked while threads are there or at work, pickled, and copied."""

import copy
import gc
import importlib
import os
import pickle
import resource
import signal
import threading
import time
import traceback
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import native_calls
import numpy as np
import pytest
import torch
import warm
from tiny import RUN

import worldfast as wf
from worldfast._native import core
from worldfast.dataset import Dataset
from worldfast.errors import TaskError
from worldfast.models import Ensemble, GPTSpec, Spec
from worldfast.processes import Threads
from worldfast.rows import Rows
from worldfast.training.progress import Interrupt, Stopped
from worldfast.worlds import chains, cities, factors, walks

SPECS = {
    "native": wf.TransformerSpec(hidden=32, layers=1, heads=2, intermediate=32),
    "plain": wf.TransformerSpec(hidden=32, layers=1, heads=2, intermediate=32, engine="plain"),
    "recurrent": wf.RecurrentSpec(hidden=8),
    "recurrent, plain": wf.RecurrentSpec(hidden=8, kind="lstm", layers=2, engine="plain"),
    "gpt": GPTSpec(hidden=16, heads=2, layers=1, intermediate=32, positions=64),
}
DATA = cities.Dataset("distance", rows=50)


def built(family):
    ensemble = SPECS[family].build(DATA.shape, 2, threads=2)
    for member in range(2):
        ensemble.initialise(member, member)
    return ensemble, DATA.stream(seed=0).batch(0, 5)


def in_a_child(job, seconds=60):
    """Return True if a forked child does the job, which returns True, within this time; else say how the child ended."""
    child = os.fork()
    if child == 0:
        done = False
        try:
            done = bool(job())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0 if done else 1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0 or print(f"the child ended with {os.waitstatus_to_exitcode(status)}")
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return print(f"the child was still at work after {seconds} s")


@pytest.mark.parametrize("family", SPECS)
def test_an_ensemble_after_a_fork(family):
    ensemble, rows = built(family)
    both = [rows, rows], [0, 1]
    losses, outputs = ensemble.learn(*both), ensemble.outputs(rows, 1)
    same = lambda: torch.equal(ensemble.learn(*both), losses) and torch.equal(ensemble.outputs(rows, 1), outputs)  # noqa: E731
    assert in_a_child(same)
    assert in_a_child(lambda: same() and in_a_child(same))
    assert same()


def test_two_threads_of_a_child_want_gradients_at_once():
    ensemble, rows = built("recurrent")
    ensemble.learn([rows], [0])  # this process has used torch's engine

    def right():
        both, found = threading.Barrier(2), []

        def gradient():
            x = torch.ones(3, requires_grad=True)
            both.wait()
            found.append(torch.autograd.grad(x @ x, x)[0].tolist())

        threads = [threading.Thread(target=gradient) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found == [[2, 2, 2]] * 2

    with torch.inference_mode():
        assert in_a_child(right)
    for _ in range(40):  # one in four crashed where the first two calls both made the engine
        assert in_a_child(right)


def test_a_fork_while_a_thread_computes():
    ensemble, rows = built("native")
    world, ended = wf.World.cities(), threading.Event()
    sampled = wf.sample(world, "angle", 100, threads=2).tokens

    def compute():
        while not ended.is_set():
            ensemble.outputs(rows, 0)
            wf.sample(world, "angle", 1000, threads=2)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        for _ in range(3):
            assert in_a_child(
                lambda: len(ensemble.outputs(rows, 1)) and (wf.sample(world, "angle", 100).tokens == sampled).all()
            )
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("family", SPECS)
def test_an_ensemble_again(family, again):
    ensemble, rows = built(family)
    ensemble.learn([rows, rows], [0, 1])
    other = again(ensemble)
    assert torch.equal(other.parameters, ensemble.parameters) and torch.equal(other.gradients, ensemble.gradients)
    assert torch.equal(other.outputs(rows, 1), ensemble.outputs(rows, 1))
    before = ensemble.parameters.clone()
    other.initialise(0, 9)
    assert torch.equal(ensemble.parameters, before)  # of its own
    assert torch.equal(other.learn([rows], [1]), ensemble.learn([rows], [1]))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_streams_datasets_runs_and_worlds_again(again):
    run = wf.Run(DATA)
    for thing in (DATA, run, wf.World.cities(), wf.TASKS["angle"]):
        assert again(thing) is not None
    assert again(run).id == run.id and again(DATA) == DATA
    parts = (wf.Component("angle", 9, among="x > 0"), wf.Component("distance", 5, among=np.arange(5075) < 99))
    for stream in (run.stream(), cities.Stream(wf.World.cities(), iter(parts), seed=3, shuffle=False)):
        other = again(stream)
        assert type(other) is type(stream)
        assert (other.pack(0, 9).tokens == stream.pack(0, 9).tokens).all()


class Work(torch.utils.data.Dataset):
    """What things say of themselves, one an item: what a DataLoader's workers are given."""

    def __init__(self, things, rows):
        self.things, self.rows = things, rows

    def __len__(self):
        return len(self.things)

    def __getitem__(self, i):
        return said_by(self.things[i], self.rows)


def said_by(thing, rows):
    """Return what tells a thing from others, as tensors: rows of a stream, outputs of a model, states of a run."""
    if isinstance(thing, wf.Activations):
        return [torch.tensor(thing[2, 1]), torch.tensor(thing.attributes), torch.tensor(thing.dataset(4, 1)[2:5])]
    if isinstance(thing, Ensemble):
        return [thing.parameters, thing.outputs(rows, 1), thing.learn([rows, rows], [0, 1]), thing.gradients]
    if type(thing) is cities.Stream:
        return [torch.tensor(thing.rectangle(3, 9).tokens), torch.tensor(thing.rectangle(3, 9).label)]
    batch = thing.batch(3, 5)
    return [batch.inputs, batch.row_start, batch.scored, batch.targets]


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_streams_ensembles_and_activations_in_workers_of_a_dataloader(start, tmp_path, monkeypatch):
    """A process that has begun anew knows nothing but what it is given, and modules that it can import."""
    (tmp_path / f"task_of_{start}.py").write_text(
        "import worldfast as wf\n\n@wf.task('north', cities=2)\ndef north(xy):\n    return abs(xy[:, 0, 1] - xy[:, 1, 1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module(f"task_of_{start}").north
    parts = [wf.Component("angle", 9, among=np.arange(5075) < 99), wf.Component(task, 9)]
    worlds = [
        DATA,
        cities.Dataset(("distance", task), rows=50, vocabulary="entity", loss="answer"),
        chains.Dataset(chains=4, states=4, length=8, permuted=True),
        walks.Dataset(length=20, fixed=0.5),
        factors.Dataset(n=6, noise="encoded"),
        factors.Dataset(n=2, questions="context", block=5),
    ]
    streams = [data.stream(3, split) for data in worlds for split in ("train", "validation")]
    [folder] = wf.train(RUN, tmp_path, device="cpu", progress=False)
    ensembles = [built(family)[0] for family in SPECS]
    rectangles = cities.Stream(wf.World.cities(), parts, seed=3)
    things, (_, rows) = [*streams, rectangles, *ensembles, wf.Activations(folder)], built("native")
    loader = torch.utils.data.DataLoader(
        Work(things, rows), batch_size=None, num_workers=1, multiprocessing_context=start, timeout=60
    )
    for thing, found in zip(things, loader, strict=True):
        for there, here in zip(found, said_by(thing, rows), strict=True):
            assert torch.equal(there, here), thing


def test_a_task_in_python_is_pickled_as_its_name():
    @wf.task("west", cities=2)
    def west(xy):
        return xy[:, 0, 0] - xy[:, 1, 0]

    assert copy.deepcopy(west) is west and pickle.loads(pickle.dumps(west)) is west
    code = f"import worldfast, pickle; pickle.loads({pickle.dumps(west)!r})"
    run = warm.python("-c", code)
    assert run.returncode and "put it in a module that both import" in run.stderr or "No module" in run.stderr
    content = west.to_json() | {"rule": "another"}
    from worldfast.worlds.cities.python_task import _found

    with pytest.raises(TaskError, match="'west'.*put it in a module that both import, not in __main__"):
        _found("__main__", content)


# ---- Ctrl-C ----


# Calls of the core that last for seconds or minutes on a thread, and what is still 0 at its end while one has not come
# to it.


def hard_rows():
    """A stream in whose world hardly a city is inside of others."""
    turns = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = 1500 * np.stack([np.cos(turns), np.sin(turns)], 1)
    world = wf.World.from_array(np.append(ring, [[0, 0]], 0).astype(np.int32))
    return cities.Stream(world, [wf.Component("inside", 10**7)], seed=0)


def rows(n=10**7):
    stream = hard_rows()
    out = stream.empty_batch(n)
    out.cities[-1] = 0
    return lambda: stream.rectangle(0, n, threads=1, out=out), out.cities


def packed_rows(n=10**7):
    stream = hard_rows()
    out = stream.empty_pack(n)
    out.row_start[-1] = 0
    return lambda: stream.pack(0, n, out=out), out.row_start


def labels(n=10**8):
    xy = np.lib.stride_tricks.as_strided(np.arange(10, dtype=np.int32), (n, 5, 2), (0, 8, 4))
    out = np.zeros(n, np.int64)
    return lambda: wf.label("perimeter", xy=xy, out=out, threads=1), out


def long_walks(n=10**6):
    call, given = native_calls.calls()["walks"]
    tokens, chain, names = (np.zeros((n, *more), np.int32) for more in ((2000,), (), given[9].shape[1:]))
    return lambda: call(*given[:6], n, tokens, chain, names, 1), tokens


def long_trials(n=10**7):
    call, given = native_calls.calls()["trials"]
    outs = [np.zeros((n, *out.shape[1:]), np.float32) for out in given[7:10]]
    return lambda: call(*given[:6], n, *outs, 1), outs[2]


def columns(n=2**36):
    x = np.lib.stride_tricks.as_strided(np.ones(8, np.float32), (n, 8), (0, 4))
    return lambda: core.add_columns([x], [np.zeros(8)], [np.zeros(8)], 1), None


def columns_in_another_thread(n=2**23):
    """The caller has one column, and then waits for the thread that has all others."""
    few, many = (np.lib.stride_tricks.as_strided(np.ones(d, np.float32), (n, d), (0, 4)) for d in (1, 4096))
    origins, sums = ([np.zeros(1), np.zeros(4096)] for _ in range(2))
    return lambda: core.add_columns([few, many], origins, sums, 2), None


def gram(n=2 * 10**5):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    panel = core.Panel32([x] * 4, [np.zeros(4)] * 4, [1.0] * 4, 1)
    made = core.GramOfGrams32(4, n, True, [0.5] * 4, [1.0] * 4)
    return lambda: made.add(panel, 0, panel, 0, 1), None


def features(n=5 * 10**6, d=512):
    numbers = np.random.default_rng(0).normal(size=n + d).astype(np.float32)
    x, made = np.lib.stride_tricks.as_strided(numbers, (n, d), (4, 4)), core.FeatureProducts32([d])
    return lambda: made.add([x], [np.zeros(d)], [1.0], 1), None


def attention(length=128, n=2**22):
    x, out = np.ones((n, 1, 8), np.float32), np.zeros((n, 1, 8), np.float32)
    start = np.arange(0, n + 1, length, dtype=np.int32)
    return lambda: core.attention_forward(x, x, x, start, 1e4, out, 1), out


def attention_back(length=128, n=2**22):
    x, outs = np.ones((n, 1, 8), np.float32), [np.zeros((n, 1, 8), np.float32) for _ in range(3)]
    start = np.arange(0, n + 1, length, dtype=np.int32)
    return lambda: core.attention_backward(x, x, x, x, start, 1e4, *outs, 1), outs[2]


def attention_of_long_rows():
    return attention(2048)


def attention_back_of_long_rows():
    return attention_back(2048)


def attention_over_a_cache(rows=4096, old=2047, heads=8):
    path = np.tile(np.arange(old + 1, dtype=np.int32), (rows, 1))
    path[:, -1] = old + np.arange(rows)
    cache, out = np.ones((old + rows, 3, heads, 64), np.float32), np.zeros((rows, heads, 64), np.float32)
    lengths = np.full(rows, old + 1, np.int32), np.ones(rows, np.int32)
    return lambda: core.attention_cached(cache, np.ones((old + 1, 64), np.float32), path, *lengths, old, out, 1), out


def linear(n=2**18, depth=4096, lines=64):
    x = np.lib.stride_tricks.as_strided(np.ones(n + depth, np.float32), (n, depth), (4, 4))
    weight, out = np.ones((lines, depth), np.float32), np.zeros((n, lines), np.float32)
    return lambda: core.linear(x, weight, out), out


def linear_gradient(n=2**40):
    x = np.lib.stride_tricks.as_strided(np.ones(64, np.float32), (n, 64), (0, 4))
    return lambda: core.linear_gradient(x, x, np.zeros((64, 64), np.float32)), None


def wide_transformer(n):
    """A transformer's native part with its weights, and a tile of n tokens."""
    ensemble = wf.TransformerSpec(hidden=768, layers=1, heads=8, intermediate=2048).build(DATA.shape, threads=1)
    ensemble.initialise(0, 0)
    transformer, packed = ensemble._pack([0], "float32")
    start, last = np.arange(0, n + 1, 64, dtype=np.int32), np.arange(63, n, 64)
    tokens, place = np.zeros(n, np.int32), np.arange(n, dtype=np.int32)
    tile = tokens, start, place, np.zeros(len(last), np.int32), last, np.zeros(len(last), np.int64), None
    return transformer, (ensemble.parameters[0].numpy(), packed[0], tile)


def learning(n=2**13):
    transformer, (parameters, packed, tile) = wide_transformer(n)
    gradients, embedded = np.zeros_like(parameters), np.zeros((n, 768), np.float32)
    bias = DATA.shape.inputs * 768 + 768 + 3 * 768 * 768  # where gradients of queries' biases are added up at last
    call = partial(transformer.learn, parameters, packed, tile, gradients, embedded, core.Arena(), 1)
    return call, gradients[None, bias : bias + 768]


def reading(n=2**14):
    transformer, model = wide_transformer(n)
    out = np.zeros((n // 64, DATA.shape.outputs), np.float32)
    return lambda: transformer.read(*model, [], [], out, core.Arena(), 1), out


def wide_recurrent(n, kind):
    """A recurrent network's native part with its weights, and rows of 128 tokens."""
    ensemble = wf.RecurrentSpec(hidden=512, kind=kind).build(DATA.shape, threads=1)
    ensemble.initialise(0, 0)
    last = np.arange(127, n, 128)
    given = np.zeros(n, np.int32), np.arange(0, n + 1, 128, dtype=np.int32), last, np.zeros(len(last), np.int64)
    return ensemble._native, ensemble.parameters.numpy(), (*given, None, None)


def recurrent_learning(kind="lstm", n=2**13):
    network, parameters, given = wide_recurrent(n, kind)
    gradients = np.zeros_like(parameters)  # that of the embedding is written last
    return lambda: network.learn(parameters, [0], [given], gradients, [core.Arena()]), gradients[:, :512]


def recurrent_learning_of_an_rnn():
    return recurrent_learning("rnn", 2**14)


def recurrent_reading(n=2**14):
    network, parameters, given = wide_recurrent(n, "lstm")
    out = np.zeros((n // 128, DATA.shape.outputs), np.float32)
    return lambda: network.read(parameters[0], given, [], [], out, core.Arena()), out


LONG = [rows, packed_rows, labels, long_walks, long_trials, columns, columns_in_another_thread, gram, features]
LONG += [attention, attention_back, attention_of_long_rows, attention_back_of_long_rows, attention_over_a_cache]
LONG += [linear, linear_gradient, learning, reading]
LONG += [recurrent_learning, recurrent_learning_of_an_rnn, recurrent_reading]


@pytest.mark.parametrize("long", LONG)
def test_ctrl_c_ends_a_native_call(long):
    """Within the seconds that a child has for it, not once all is done."""
    call, last = long()

    def interrupted():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            call()
        except KeyboardInterrupt:
            return last is None or not last[-1].any()

    assert in_a_child(interrupted, seconds=20)


def many_rows(n, length=30):
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(DATA.shape.outputs, (n * length,), generator=random, dtype=torch.int32)
    start, scored = (torch.arange(first, n * length + 1, length) for first in (0, length - 1))
    return Rows(tokens, start.int(), scored, tokens[scored].long())


def interrupt_once(begun):
    """Press Ctrl-C once something has begun, from a thread of its own."""

    def press():
        time.sleep(0.05)
        while not begun():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press).start()


@pytest.mark.parametrize("family", ["native", "recurrent"])
def test_ctrl_c_ends_learning_in_all_threads(family):
    """What was asked for next is computed as if nothing had been before, and nothing is left at work."""
    spec = wf.RecurrentSpec(hidden=64, kind="lstm") if family == "recurrent" else SPECS[family]
    ensemble, (_, few) = spec.build(DATA.shape, 2, threads=2), built("native")
    for member in range(2):
        ensemble.initialise(member, member)
    many = many_rows(20_000)
    weights, losses = ensemble.parameters.clone(), ensemble.learn([few, few], [0, 1])
    gradients = ensemble.gradients.clone()
    lanes = ensemble._lane_sums if family == "native" else None
    last = lanes[1][-1][ensemble._inner :] if lanes else ensemble.gradients[1, : spec.hidden].numpy()

    def interrupted():
        last.fill(0)
        ensemble.gradients.fill_(0)
        interrupt_once(lambda: family == "recurrent" or ensemble.gradients.any())
        try:
            ensemble.learn([many, many], [0, 1])
        except KeyboardInterrupt:
            assert not last.any()
        left, used = ensemble.gradients.clone(), time.process_time()
        time.sleep(0.2)
        assert torch.equal(ensemble.gradients, left) and time.process_time() - used < 0.1
        assert torch.equal(ensemble.parameters, weights)
        assert torch.equal(ensemble.learn([few, few], [0, 1]), losses)
        return torch.equal(ensemble.gradients, gradients)

    assert in_a_child(interrupted)


def test_ctrl_c_while_the_caller_waits_for_a_thread_of_the_core():
    """The caller takes the first member's few rows, and has nothing to do while another thread takes the second's."""
    spec = wf.RecurrentSpec(hidden=64, kind="lstm")
    ensemble, few, many = spec.build(DATA.shape, 2, threads=2), many_rows(1), many_rows(12_000)
    for member in range(2):
        ensemble.initialise(member, member)

    def interrupted():
        interrupt_once(lambda: True)
        try:
            ensemble.learn([few, many], [0, 1])
        except KeyboardInterrupt:
            return not ensemble.gradients[1, : spec.hidden].any()

    assert in_a_child(interrupted)


def test_ctrl_c_while_the_caller_waits_for_another_thread():
    def interrupted():
        begun, ended = threading.Event(), []

        def job(item, memory):
            if threading.current_thread() is threading.main_thread():
                begun.wait()
                return
            begun.set()
            time.sleep(0.5)
            ended.append(item)

        interrupt_once(begun.is_set)
        try:
            Threads(2).run(job, range(2))
        except KeyboardInterrupt:
            return len(ended) == 1

    assert in_a_child(interrupted)


def test_ctrl_c_goes_before_errors_of_jobs_and_no_job_begins_after_it():
    threads, done = Threads(1), []

    def job(item, memory):
        done.append(item)
        if item == 0:
            raise ValueError("0")
        if item == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.run(job, range(9))
    assert done == [0, 1, 2]

    def leave(item, memory):
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit(3)
        time.sleep(0.05)

    with pytest.raises(SystemExit):
        Threads(2).run(leave, range(4))


@pytest.mark.parametrize(
    "first, pressed, raised",
    [
        (KeyboardInterrupt(), [signal.SIGINT] * 9, KeyboardInterrupt),
        (KeyboardInterrupt(), [signal.SIGTERM], Stopped),
        (Stopped("", signal.SIGTERM), [signal.SIGINT] * 3, Stopped),
        (SystemExit(3), [signal.SIGINT], KeyboardInterrupt),
        (SystemExit(3), [], SystemExit),
    ],
)
def test_what_is_pressed_while_other_threads_end_is_raised_once_they_have(first, pressed, raised):
    begun, ended = threading.Event(), []

    def job(item, memory):
        if threading.current_thread() is threading.main_thread():
            begun.wait()
            raise first
        begun.set()
        for signum in pressed:
            time.sleep(0.03)
            os.kill(os.getpid(), signum)
        time.sleep(0.1)
        ended.append(item)

    def stop(signum, _):
        raise Stopped("", signum)

    def done():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, stop)
        try:
            Threads(2).run(job, range(9))
        except BaseException as error:
            return type(error) is raised and len(ended) == 1

    assert in_a_child(done)


def test_a_signal_that_is_only_noted_ends_no_native_call():
    """As wf.train does with the first one: the step is finished, and then saved."""
    transformer, (parameters, packed, tile) = wide_transformer(2**10)

    def learned():
        gradients, embedded = np.zeros_like(parameters), np.zeros((2**10, 768), np.float32)
        loss = transformer.learn(parameters, packed, tile, gradients, embedded, core.Arena(), 1)
        return loss, gradients.tobytes(), embedded.tobytes()

    def noted():
        with Interrupt() as interrupt:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            found = {learned()}
            while not interrupt.requested:  # a busy machine has let the call end before
                found.add(learned())
        return interrupt.requested == signal.SIGINT and found == {learned()}

    assert in_a_child(noted)


# ---- integers ----


@pytest.mark.parametrize(
    "name, value",
    [
        *(("checkpoints", n) for n in (10**9, 2**31, 2**63)),
        *(("seed", n) for n in (2**63, 2**64, -1)),
        *((name, n) for name in ("epochs", "batch", "validation") for n in (2**31, 2**53, 2**63, 2**64)),
        *(("warmup", n) for n in (2**63, 2**64)),
    ],
)
def test_integers_of_a_run_near_their_end(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected at (most|least)"):
        wf.Run(DATA, **{name: value})


NEAR = (2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64, 10**30)
NEAR = (*NEAR, -1, *(-n for n in NEAR))
VALUES = (
    *SPECS.values(),
    GPTSpec(hidden=16, heads=2, intermediate=16, positions=64),
    wf.Capture(layers=(1,)),
    wf.WorldSpec(),
    wf.Component("angle", 5),
    wf.Component("crossing", 9, among="index < 99", first=3),
    DATA,
    chains.Dataset(chains=4, states=5, length=8, rows=10),
    chains.Dataset(chains=4, states=5, length=8, law="blocks", permuted=True),
    factors.Dataset(rows=10),
    factors.Dataset("context", n=2),
    factors.Dataset("random", dims=3, encoder=None, reaction="free"),
    walks.Dataset(rows=10, length=8),
    walks.Dataset("random16", fixed=0.5, home="ring5", length=8),
)


def use(value):
    """Do with a value what comes next: build it, or make its first rows and its last ones."""
    if isinstance(value, wf.Capture):
        wf.Run(DATA, model=SPECS["recurrent"], capture=value)
    elif isinstance(value, wf.Component):
        cities.Stream(wf.World.cities(), [value], seed=0).pack(0, 2)
    elif hasattr(value, "stream"):
        stream = wf.Run(value, model=SPECS["recurrent"], capture=wf.Capture(layers=())).stream()
        for start in (0, value.rows - 2):
            stream.batch(start, 2)
    elif isinstance(value, wf.WorldSpec):
        value.build()
    else:
        value.build(DATA.shape, longest=60).initialise(0, 0)


def at_once(attempts):
    """Return True if each attempt, by the name of what it is about, works or ends in an error that says this name.

    All in a minute at most, and in a GiB of memory.
    """
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
    for name, attempt in attempts:
        try:
            attempt()
        except (TypeError, ValueError, IndexError) as error:
            assert name in str(error), error
    return True


def test_every_spec_and_dataset_is_tried():
    def below(kind):
        return {kind, *(one for child in kind.__subclasses__() for one in below(child))}

    kinds, own = below(Spec) | below(Dataset), ("worldfast.models.", "worldfast.worlds.")
    made = {kind for kind in kinds if kind.__module__.startswith(own) and "__dataclass_fields__" in vars(kind)}
    assert {type(value) for value in VALUES} >= made > {wf.TransformerSpec}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__module__[10:] + "." + type(value).__name__)
def test_integers_near_their_end_in_every_field(value):
    def changed(name, number):
        use(replace(value, **{name: (number,) if isinstance(value, wf.Capture) and name == "layers" else number}))

    attempts = [(one.name, partial(changed, one.name, number)) for one in fields(value) for number in NEAR]
    assert in_a_child(lambda: at_once(attempts))


@pytest.mark.parametrize("data", [value for value in VALUES if isinstance(value, Dataset)], ids=lambda data: data.label)
def test_integers_near_their_end_as_rows_of_a_stream(data):
    stream = data.stream(seed=0)
    attempts = [("start:", partial(stream.batch, number, 2)) for number in NEAR]
    attempts += [("n:", partial(stream.batch, start, number)) for start in (0, 2**62 - 1) for number in NEAR]
    attempts += [("seed", lambda number=number: data.stream(seed=number).batch(0, 2)) for number in NEAR]
    assert in_a_child(lambda: at_once(attempts))
    last = stream.batch(2**62 - 2, 2)
    assert (stream.batch(2**62 - 1, 1).inputs == last.inputs[last.row_start[1] :]).all()


def test_integers_of_rows_near_their_end():
    world = wf.World.cities()
    for arguments in (dict(start=2**62), dict(start=2**62 - 1), dict(start=2**63), dict(n=2**63), dict(threads=2**31)):
        with pytest.raises((ValueError, MemoryError), match="start|n|threads"):
            wf.sample(world, "angle", **{"n": 2} | arguments)
    last = wf.sample(world, "angle", n=2, start=2**62 - 2).tokens
    assert (wf.sample(world, "angle", n=1, start=2**62 - 1).tokens == last[1:]).all()
    for rows in (2**62 + 1, 2**63, 2**64):
        with pytest.raises(ValueError, match="rows"):
            cities.Dataset("angle", rows=rows)
    with pytest.raises(ValueError, match="rows of all components: expected 1 to"):
        cities.Dataset(("angle", "inside", "crossing", "perimeter"), rows=2**62).stream(seed=0)
    with pytest.raises(ValueError, match="epochs times rows"):
        wf.Run(cities.Dataset("angle", rows=2**40), epochs=2**30)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, ">i4", ">i8"])
def test_integers_of_any_width_to_label(kind):
    world = wf.World.cities()
    xy = np.array([[[0, 0], [30, 40]]], kind)
    assert wf.label("distance", xy=xy).tolist() == [50]
    assert wf.label("distance", world, np.array([[0, 1]], kind)).tolist() == [101]
    assert wf.label("perimeter", xy=xy, count=np.array([2], kind)).tolist() == [50]


def test_an_int64_out_of_range_names_its_row():
    world = wf.World.cities()
    for arguments, error in (
        (dict(world=world, cities=np.array([[0, 1], [0, 2**40]])), IndexError),
        (dict(world=world, cities=torch.tensor([[0, 1], [0, 2**40]])), IndexError),
        (dict(xy=np.array([[[0, 0], [1, 1]], [[0, 0], [0, 2**40]]])), ValueError),
        (dict(xy=np.zeros((2, 2, 2), int), count=np.array([2, 2**40])), ValueError),
    ):
        with pytest.raises(error, match=f"{2**40} in row 1"):
            wf.label("distance", **arguments)
    assert wf.label("distance", world, np.array([[0, 1], [0, 2**40]]), check=False).tolist() == [101, -1]


def test_scalars_of_numpy_are_numbers():
    model = wf.RecurrentSpec(hidden=np.int64(8), leak=np.float32(0.5))
    run = wf.Run(DATA, model=model, seed=np.int32(3), learning_rate=np.float32(0.25), clip=np.float64(1))
    assert run.id == wf.Run(DATA, model=wf.RecurrentSpec(hidden=8, leak=0.5), seed=3, learning_rate=0.25, clip=1.0).id
    part = wf.Component("angle", np.int64(5), first=np.int16(2), noise=np.float32(0.5))
    assert cities.Dataset("angle", mixture=[part]).epoch_rows == 5


@pytest.mark.parametrize("family", SPECS)
def test_threads_end_with_their_ensemble(family):
    """And their working memory with them: a study reads hundreds of models, one after another."""
    others = set(threading.enumerate())
    ensemble, rows = built(family)
    ensemble.learn([rows, rows], [0, 1])
    ensemble.each(lambda _: time.sleep(0.01), range(4))
    own = [thread for thread in set(threading.enumerate()) - others if thread.name.startswith("worldfast")]
    assert own
    del ensemble
    gc.collect()
    for thread in own:
        thread.join(5)
    assert not any(thread.is_alive() for thread in own)


def test_threads_share_jobs_with_their_caller():
    threads, memories = Threads(3, list), []

    def job(item, memory):
        memory.append(item)
        memories.append((threading.get_ident(), memory))
        time.sleep(0.002)
        return item**2

    assert threads.run(job, range(40)) == [item**2 for item in range(40)]
    assert threading.get_ident() in dict(memories) and 1 < len(dict(memories)) <= 3
    assert len({id(memory) for _, memory in memories}) == len(dict(memories))
    assert threads.run(job, []) == [] and len(threads.memories()) == 3


def test_jobs_end_before_the_first_error_is_raised():
    done = []

    def job(item, memory):
        if item in (3, 5):
            time.sleep(0.02)
            raise KeyError(item)
        done.append(item)

    for count in (1, 2, 4):
        done.clear()
        with pytest.raises(KeyError, match="3"):
            Threads(count).run(job, range(9))
        assert sorted(done) == [0, 1, 2, 4, 6, 7, 8]

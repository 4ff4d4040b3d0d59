"""The ensemble on a GPU, interpreted on the CPU where there is none: against float64, the CPU's ensemble, and
itself."""

import contextlib
import gc
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import worldfast as wf
from worldfast import _native
from worldfast._native import core
from worldfast.errors import DeviceError
from worldfast.models import CpuTransformer, GpuTransformer, TransformerSpec, gpu, require_cuda
from worldfast.models import footprint as footprints
from worldfast.models.footprint import footprint, places
from worldfast.models.transformer import views
from worldfast.rows import Rows, Shape
from worldfast.training import memory
from worldfast.training.gpu_step import CHUNK_BYTES, GpuLockstep
from worldfast.training.step import Tally
from worldfast.worlds.cities import Dataset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPEC = TransformerSpec(hidden=16, layers=2, heads=2, intermediate=40)
BASE = wf.Run(Dataset(("distance",), rows=6), seed=1, batch=2, epochs=1, model=SPEC, warmup=2, learning_rate=0.01)
RUNS = [
    BASE,  # 3 steps
    replace(
        BASE, data=replace(BASE.data, tasks=("inside", "compass"), rows=3, loss="answer"), seed=2, name="", clip=0.1
    ),  # 2 steps, 1 row last
    replace(
        BASE,
        data=replace(BASE.data, tasks=("crossing",), rows=2),
        seed=3,
        batch=1,
        betas=(0.8, 0.99),
        name="",
        weight_decay=0.1,
    ),  # 2 steps
]
VOCABULARY, SHAPE = 98, Shape(98, 98)
# A GPU's float32 exp2, quotient and square root (ex2.approx, div.full, sqrt.approx.ftz) err up to 2^-22 of their result,
# those of IEEE, which the interpreter has, 2^-24: where errors are theirs, four times as much is allowed. A product in tf32
# errs 2^-12 and stays far beyond.
APPROXIMATE = 4 if DEVICE == "cuda" else 1
F32 = torch.float32


def ensemble_of(runs, kind=GpuTransformer, **options):
    options = {"device": DEVICE} | options if kind is GpuTransformer else options
    ensemble = kind(runs[0].model, SHAPE, len(runs), **options)
    for member, run in enumerate(runs):
        ensemble.initialise(member, run.seed)
        random = torch.Generator().manual_seed(run.seed)
        for view in ensemble._huggingface(member).values():
            if view.ndim == 1:
                view += (0.2 * torch.randn(view.shape, generator=random)).to(view.device)
    return ensemble


def train(lockstep, stop=99):
    """Takes the steps of all members, up to `stop`; their tallies."""
    for step in range(min(stop, max(run.steps for run in lockstep.runs))):
        lockstep.step([m for m, run in enumerate(lockstep.runs) if step < run.steps])
    return [lockstep.read(m) for m in range(len(lockstep.runs))]


# ---- the reference: one row at a time, autograd, torch's AdamW, float64 ----


def exact_loss(spec, w, row):
    """Cross entropy at each token after the first of a row."""
    T, size = len(row) - 1, spec.hidden // spec.heads
    rate = (spec.rope_base or 1) ** -(torch.arange(size // 2).double() * 2 / size)
    angle = torch.arange(T).double()[:, None] * rate * (spec.rope_base is not None)
    cos, sin = (torch.cat([f(angle)] * 2, 1) for f in (torch.cos, torch.sin))

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + spec.norm_eps).sqrt() * weight

    def turn(x):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    x = w.embed[row[:-1]]
    for block in w.blocks:
        qkv = norm(x, block.input_norm) @ block.qkv.T + block.qkv_bias
        q, k, v = qkv.view(T, 3, spec.heads, size).permute(1, 2, 0, 3)
        score = turn(q) @ turn(k).mT / size**0.5
        mixed = score.masked_fill(torch.ones(T, T).bool().triu(1), -torch.inf).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ block.output.T
        gate, up = (norm(x, block.mlp_norm) @ block.gate_up.T).chunk(2, -1)
        x = x + (torch.nn.functional.silu(gate) * up) @ block.down.T
    return torch.nn.functional.cross_entropy(norm(x, w.norm) @ w.head.T, row[1:], reduction="none")


def exact_training(run, start):
    """The parameters [P] after a run, and the mean loss of each step."""
    leaves = [view.clone().requires_grad_() for view in views(run.model.shapes(SHAPE), start.double().cpu()).each()]
    each = iter(leaves)
    embed = next(each)
    shapes = run.model.shapes(SHAPE)
    blocks = tuple(type(block)(*itertools.islice(each, len(block))) for block in shapes.blocks)
    w = type(shapes)(embed, blocks, *each)
    groups = [
        {"params": [p for p in leaves if p.ndim == 2], "weight_decay": run.weight_decay},
        {"params": [p for p in leaves if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw, losses, stream = torch.optim.AdamW(groups, betas=run.betas, eps=run.eps), [], run.stream()
    for step in range(run.steps):
        packed = stream.pack(*run.rows_at(step))
        parts = []
        for r, answer in enumerate(packed.answer_start):
            row = torch.from_numpy(packed.tokens[packed.row_start[r] : packed.row_start[r + 1]].astype(np.int64))
            parts.append(exact_loss(run.model, w, row)[answer - 1 if run.data.loss == "answer" else 0 :])
        adamw.zero_grad()
        loss = torch.cat(parts).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, run.clip)
        for group in adamw.param_groups:
            group["lr"] = run.learning_rate_at(step)
        adamw.step()
        losses.append(loss.item())
    end = torch.zeros(start.shape, dtype=torch.float64)
    for view, leaf in zip(views(shapes, end).each(), leaves):
        view.copy_(leaf.detach())
    return end, losses


@pytest.fixture(scope="module")
def trained():
    """(first weights, lockstep, tallies) of RUNS trained together."""
    ensemble = ensemble_of(RUNS)
    start = ensemble.parameters.clone()
    lockstep = GpuLockstep(ensemble, RUNS)
    return start, lockstep, train(lockstep)


def test_training_against_float64(trained):
    """Losses and weights after all steps: tasks, batches, losses, clipping, betas and lengths of their
    own."""
    start, lockstep, tallies = trained
    for m, run in enumerate(RUNS):
        end, losses = exact_training(run, start[m])
        assert tallies[m].loss == pytest.approx(sum(losses), rel=APPROXIMATE * 2e-6)
        assert tallies[m][::2] == (run.steps, run.steps) and not tallies[m].diverged
        moved = (end - start[m].cpu()).norm()
        assert (lockstep.ensemble.parameters[m].cpu() - end).norm() < APPROXIMATE * 2e-5 * moved


def test_training_and_answering_without_positions():
    run = replace(BASE, model=replace(SPEC, rope_base=None), name="")
    device, cpu = ensemble_of([run]), ensemble_of([run], CpuTransformer)
    start, prompts = device.parameters.clone(), [(np.array([[2, 9, 9, 30, 9]]), np.array([5]))]
    told = ensemble_of([BASE], CpuTransformer).answer(prompts, 6, end=3)
    answers = [ensemble.answer(prompts, 6, end=3) for ensemble in (device, cpu)]
    assert np.array_equal(*(found[0][0] for found in answers)) and not np.array_equal(told[0][0], answers[0][0][0])
    [tally] = train(GpuLockstep(device, [run]))
    end, losses = exact_training(run, start[0])
    assert tally.loss == pytest.approx(sum(losses), rel=APPROXIMATE * 2e-6)
    there = torch.ones(len(end), dtype=torch.bool)
    for name, place in device.offsets().items():  # their gradient is 0 but for rounding, and AdamW scales that up
        there[place] = not name.endswith("k_proj.bias")
    moved = (end - start[0].cpu())[there].norm()
    assert (device.parameters[0].cpu() - end)[there].norm() < APPROXIMATE * 2e-5 * moved


def test_a_member_alone_has_the_same_weights_and_so_has_a_second_run(trained):
    """On the CPU, interpreted, bit for bit; on a GPU the products of an ensemble may be added up in another
    order."""
    _, together, tallies = trained
    again = GpuLockstep(ensemble_of(RUNS), RUNS)
    assert train(again) == tallies
    assert torch.equal(again.ensemble.parameters, together.ensemble.parameters)
    alone = GpuLockstep(ensemble_of(RUNS[2:]), RUNS[2:])
    [tally] = train(alone)
    if DEVICE == "cpu":
        assert tally == tallies[2]
        assert torch.equal(alone.ensemble.parameters[0], together.ensemble.parameters[2])
        assert torch.equal(alone.moments[:, 0], together.moments[:, 2])
    else:
        assert tally.loss == pytest.approx(tallies[2].loss, rel=1e-6)


def test_going_on_from_a_checkpoint_gives_the_same_bits(trained):
    _, whole, tallies = trained
    before = GpuLockstep(ensemble_of(RUNS), RUNS)
    middle = train(before, stop=2)
    tensors = [{name: x.clone() for name, x in before.tensors(m).items()} for m in range(3)]
    after = GpuLockstep(GpuTransformer(SPEC, SHAPE, 3, device=DEVICE), RUNS)
    for m in range(3):
        for name, x in after.tensors(m).items():
            x.copy_(tensors[m][name])
        after.resume(m, middle[m])
    for step in range(2, BASE.steps):
        after.step([m for m, run in enumerate(RUNS) if step < run.steps])
    assert [after.read(m) for m in range(3)] == tallies
    assert torch.equal(after.ensemble.parameters, whole.ensemble.parameters)
    assert torch.equal(after.moments, whole.moments)


def test_a_member_that_diverges_is_frozen_and_the_others_go_on(trained):
    _, healthy, tallies = trained
    ensemble = ensemble_of(RUNS)
    lockstep = GpuLockstep(ensemble, RUNS)
    lockstep.step([0, 1, 2])
    ensemble.parameters[0, 2 * SPEC.hidden] = float("nan")  # in the embedding of <bos>
    frozen = ensemble.parameters[0].clone(), lockstep.moments[:, 0].clone()
    lockstep.step([0, 1, 2])
    lockstep.step([0])
    assert lockstep.read(0) == lockstep.read(0)._replace(step=1, steps=1, diverged=True)
    assert torch.equal(ensemble.parameters[0].nan_to_num(), frozen[0].nan_to_num())
    assert torch.equal(lockstep.moments[:, 0], frozen[1])
    assert lockstep.read(2).loss == tallies[2].loss
    assert torch.equal(ensemble.parameters[2], healthy.ensemble.parameters[2])


def test_sums_begin_again():
    lockstep = GpuLockstep(ensemble_of(RUNS[2:]), RUNS[2:])
    lockstep.step([0])
    first = lockstep.read(0)
    lockstep.clear(0)
    assert lockstep.read(0) == Tally(1, 0.0, 0, False)
    lockstep.step([0])
    second = lockstep.read(0)
    assert (second.step, second.steps) == (2, 1) and second.loss != first.loss


@pytest.mark.parametrize("hidden", [16, 24])
def test_half_precision_products(hidden):
    """Rounded matrices, float32 masters: near the float64 steps, and not those of float32 products. A token
    of 16
    numbers is a tile of its own, one of 24 is not."""
    run = replace(BASE, model=replace(SPEC, hidden=hidden, heads=hidden // 8), matmul_dtype="bfloat16", name="")
    ensemble = ensemble_of([run], matmul_dtype="bfloat16")
    start = ensemble.parameters.clone()
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":  # the interpreter has float16 alone
            patch.setitem(gpu.DTYPES, "bfloat16", torch.float16)
        lockstep = GpuLockstep(ensemble, [run])
        assert (type(lockstep._learner.passes).__name__ == "FusedPasses") == (hidden == 16)
        [tally] = train(lockstep)
    end, losses = exact_training(run, start[0])
    error = (ensemble.parameters[0].cpu() - end).norm() / (end - start[0].cpu()).norm()
    assert 1e-4 < error < 0.1
    assert tally.loss == pytest.approx(sum(losses), rel=1e-2)
    rounded = lockstep._learner.rounded
    assert torch.equal(rounded[0], ensemble.parameters[0].to(rounded.dtype))


def test_products_beside_the_way_back_find_what_they_read(monkeypatch):
    """A stream beside that does all as late as it may: nothing is overwritten that it still has to read."""
    from worldfast.models import fused
    from worldfast.models.gpu_transformer import Batch

    spec = replace(SPEC, layers=5)
    shapes = spec.shapes(SHAPE)
    ensemble = ensemble_of([replace(BASE, model=spec)])
    rounded = ensemble.parameters.to(torch.float16 if DEVICE == "cpu" else torch.bfloat16)
    batch = Batch.of(rows_of([3]), torch.device(DEVICE), 32)
    batch = batch._replace(targets=batch.tokens.roll(1, 1))
    queue, late = [], []

    class Late(fused.FusedPasses):
        @contextlib.contextmanager
        def _aside(self):
            late.append(True)
            yield
            late.pop()

        def _event(self):
            return len(queue)

        def _wait(self, event):
            for i in range(event or 0):
                if queue[i]:
                    product(*queue[i])
                    queue[i] = None

    product = fused.product
    found = []
    for kind in (fused.FusedPasses, Late):
        gradients = torch.zeros_like(ensemble.parameters)
        transformers = kind(spec, ensemble.stacked(ensemble.parameters), views(shapes, rounded), 128)
        if kind is Late:
            monkeypatch.setattr(fused, "product", lambda *job: queue.append(job) if late else product(*job))
        transformers.learn(batch, views(shapes, gradients), gradients)
        found.append(gradients)
        if kind is Late:
            assert sum(job is not None for job in queue) >= 4
            transformers._wait(len(queue))
    assert len(queue) == 1 + 4 * spec.layers
    assert torch.equal(*found)


# ---- graphs and their streams, where torch's are stand-ins that say what was asked of them ----


class StandInStream:
    """One of a few streams; the same number is the same stream."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    def __hash__(self):
        return self.number

    def wait_stream(self, other):
        pass


class StandInGraph:
    def pool(self):
        return self


class Recorder:
    """In torch.cuda's place: streams handed out over and over, what is worked through on them, captures."""

    def __init__(self, monkeypatch):
        self.given, self.current, self.worked, self.captured = itertools.count(), [StandInStream(-1)], [], []
        for name in ("stream", "graph", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: StandInStream(next(self.given) % gpu.STREAMS))
        monkeypatch.setattr(gc, "collect", lambda: self.worked.append("garbage"))

    def current_stream(self, device=None):
        return self.current[-1]

    @contextlib.contextmanager
    def stream(self, stream):
        self.current.append(stream)
        yield
        self.worked.append(self.current.pop())

    @contextlib.contextmanager
    def graph(self, graph, pool=None, stream=None):
        self.captured.append((stream, pool, gc.isenabled()))
        yield
        self.worked.append(("captured", stream))


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
@pytest.mark.parametrize("collects", [True, False])
def test_graphs_share_one_stream_and_one_pool(monkeypatch, collects):
    lockstep, seen = GpuLockstep(ensemble_of(RUNS[2:]), RUNS[2:]), Recorder(monkeypatch)
    alive = []
    monkeypatch.setattr(lockstep, "_work", lambda C: alive.append(lockstep._alive.item()))
    (gc.enable if collects else gc.disable)()
    try:
        for C in (128, 256):
            lockstep._graphs[C] = lockstep._record(C)
        assert gc.isenabled() == collects
        monkeypatch.setattr(lockstep, "_work", lambda C: refuse("no such kernel"))
        with pytest.raises(RuntimeError, match="no such kernel"):
            lockstep._record(384)
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    one = lockstep._stream
    assert seen.worked == 2 * [one, "garbage", ("captured", one)]
    assert seen.captured == [(one, None, False), (one, lockstep._graphs[128], False)]
    assert next(seen.given) == 1 and alive == 2 * [0, 1]


def test_a_stream_has_one_owner_as_long_as_that_lives(monkeypatch):
    """torch hands out 32 streams in turn; a graph that is destroyed takes away its stream's workspace."""
    given = itertools.count()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: StandInStream(next(given) % gpu.STREAMS))
    monkeypatch.setattr(gpu, "_owned", type(gpu._owned)())
    owners = [type("Owner", (), {})() for _ in range(gpu.STREAMS + 1)]
    device = torch.device("cuda", 0)
    first = gpu.own_stream(device, owners[0])
    for _ in range(gpu.STREAMS - 1):
        torch.cuda.Stream(device)  # by others
    streams = [first] + [gpu.own_stream(device, owner) for owner in owners[1:-1]]
    assert len(set(streams)) == gpu.STREAMS
    with pytest.raises(RuntimeError, match="all 32 streams are taken"):
        gpu.own_stream(device, owners[-1])
    del owners[5]
    assert gpu.own_stream(device, owners[-1]) == streams[5]


# ---- reading and answering ----


def rows_of(counts, seed=0):
    """For each member so many rows of 1 to 30 tokens."""
    random, found = np.random.default_rng(seed), []
    for count in counts:
        starts = np.concatenate([[0], np.cumsum(random.integers(1, 31, count))]).astype(np.int32)
        scored = np.flatnonzero(random.random(starts[-1]) < 0.4)
        tokens, targets = (random.integers(0, VOCABULARY, n) for n in (starts[-1], len(scored)))
        found.append(Rows(*map(torch.from_numpy, (tokens.astype(np.int32), starts, scored, targets))))
    return found


@pytest.fixture(scope="module")
def pair():
    return ensemble_of(RUNS, CpuTransformer), ensemble_of(RUNS)


@pytest.mark.parametrize("member", range(3))
def test_reading(pair, member, monkeypatch):
    """What the CPU's ensemble reads, in several pieces, of which one has more than READ tokens."""
    cpu, device = pair
    monkeypatch.setattr(gpu, "READ", 128)
    rows = rows_of([4, 2, 15], seed=27)[member]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(device.outputs(rows, member).cpu(), cpu.outputs(rows, member), **close)
    for found, expected in zip(device.states(rows, member, [2, 0, 1]), cpu.states(rows, member, [2, 0, 1])):
        torch.testing.assert_close(found.cpu(), expected, **close)
    gain = np.array([[1.0, 0.0], [2.0, 1.0]])
    ablated = device.outputs(rows, member, gain=gain).cpu()
    torch.testing.assert_close(ablated, cpu.outputs(rows, member, gain=gain), **close)
    states = [one.states(rows, member, [1], gain=gain)[0].cpu() for one in (device, cpu)]
    torch.testing.assert_close(*states, **close)
    assert not torch.allclose(ablated, cpu.outputs(rows, member), **close)
    with pytest.raises(IndexError, match="expected 0 to 2, got 3"):
        device.states(rows, member, [3])
    with pytest.raises(IndexError, match="members: expected 0 to 2, got 3"):
        device.outputs(rows, 3)


def test_gradients(pair):
    cpu, device = pair
    rows = rows_of([5, 2], seed=1)
    device.gradients.fill_(7)
    # a token's loss of about 5 is a sum of 98 exponentials and their logarithm, at 2^-22 each; sums of IEEE's float32
    # agree by chance to 1e-7
    losses = device.learn(rows, [2, 0]), cpu.learn(rows, [2, 0])
    torch.testing.assert_close(*losses, rtol=1e-6 if DEVICE == "cuda" else 1e-7, atol=0)
    for m in (0, 2):
        torch.testing.assert_close(device.gradients[m].cpu(), cpu.gradients[m], rtol=1e-4, atol=1e-5)
    assert (device.gradients[1] == 7).all()
    with pytest.raises(ValueError, match="rows: member 1 has none"):
        device.learn(rows_of([2, 0]), [0, 1])
    with pytest.raises(ValueError, match="members: 1 named, but the rows are those of 2"):
        device.learn(rows, [0])


def test_answers(pair, monkeypatch):
    """Those of the CPU's ensemble, for members with different numbers of prompts, in several tiles; also one
    token."""
    cpu, device = pair
    monkeypatch.setattr(footprints, "ANSWER_BYTES", 400_000)
    assert footprints.answered_at_once(SPEC, SHAPE, 3, 30, "float32") == 3
    world = wf.World.cities()
    for ensemble in pair:
        for m in range(3):  # <eos> is answered now and then
            ensemble.weights[m].head[3] *= 4
    batches = [wf.sample(world, task, n) for task, n in (("distance", 4), ("inside", 2), ("perimeter", 3))]
    prompts = [(batch.tokens, batch.answer_start) for batch in batches]
    for longest in (6, 1):
        found, expected = (ensemble.answer(prompts, longest, end=3) for ensemble in (device, cpu))
        lengths = [len(answer) for answers in expected for answer in answers]
        assert longest == 1 or 0 < min(lengths) + 1 < max(lengths) + 1
        for a, b in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
            assert np.array_equal(a, b) and a.dtype == np.int32
    [alone] = device.answer(prompts[1:2], 6, [1], end=3)
    assert all(map(np.array_equal, alone, cpu.answer(prompts[1:2], 6, [1], end=3)[0]))
    assert device.answer([(np.zeros((0, 4), int), np.zeros(0, int))], 6, [0], end=3) == [[]]


# ---- products, whatever the user set ----

INTERFACES = {
    "nothing": lambda: None,
    "old": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "new": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "new, ieee": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    "both": lambda: [INTERFACES[name]() for name in ("old", "new, ieee")],
    "inherited": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "split-k": lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", (False, False)),
}


def product_flags():
    """All that torch's interfaces say of products, also that they refuse to say it."""
    found = []
    matmul = torch.backends.cuda.matmul
    names = ["fp32_precision", "allow_tf32", "allow_bf16_reduced_precision_reduction"]
    for holder, name in [*((matmul, name) for name in names), (torch.backends, "fp32_precision")]:
        try:
            found.append(getattr(holder, name))
        except RuntimeError as error:
            found.append(str(error))
    try:
        found.append(torch.get_float32_matmul_precision())
    except RuntimeError as error:
        found.append(str(error))
    return [*found, torch._C._get_cublas_allow_bf16_reduced_precision_reduction()]


@pytest.fixture
def as_torch_begins():
    """Flags of products as they are in a new process, also behind the test."""
    matmul = torch.backends.cuda.matmul

    def begin():
        torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision, matmul.allow_bf16_reduced_precision_reduction = "none", True
        torch.backends.mkldnn.matmul.fp32_precision = "none"

    begin()
    yield
    begin()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("interface", INTERFACES)
def test_exact_products_leave_flags_as_they_were(as_torch_begins, interface, fails):
    """By torch's older names, by its newer one, and where a user mixed both, which torch's own getters
    refuse."""
    INTERFACES[interface]()
    before, matmul = product_flags(), torch.backends.cuda.matmul
    with contextlib.suppress(KeyError), gpu.exact_products():
        assert matmul.fp32_precision != "tf32" and not matmul.allow_bf16_reduced_precision_reduction
        if fails:
            raise KeyError
    assert product_flags() == before
    if interface == "inherited":
        torch.backends.fp32_precision = "ieee"
        assert matmul.fp32_precision == "ieee"


def test_reading_that_is_given_up_leaves_flags_as_they_were(as_torch_begins, pair):
    INTERFACES["new"]()
    before = product_flags()
    with pytest.raises(RuntimeError, match="not enough"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worldfast.models.gpu_transformer.Passes.logits", lambda *_: refuse("not enough"))
            pair[1].outputs(*rows_of([3]), 0)
    assert product_flags() == before


def refuse(why):
    raise RuntimeError(why)


# ---- what does not fit ----


def test_bad_input():
    ensemble = GpuTransformer(SPEC, SHAPE, 2, device=DEVICE)
    with pytest.raises(ValueError, match="runs: expected 2, one for each member, got 3"):
        GpuLockstep(ensemble, RUNS)
    other = replace(BASE, model=replace(SPEC, layers=1), name="other")
    with pytest.raises(ValueError, match="runs: 'other' has model"):
        GpuLockstep(ensemble, [BASE, other])
    with pytest.raises(ValueError, match="a row, with its answer, has at most 128 tokens, got 134"):
        ensemble.answer([(np.ones((1, 130), int), np.array([130]))], 5, [0], end=3)
    with pytest.raises(ValueError, match="longest: expected at least 1"):
        ensemble.answer([], 0, [], end=3)
    with pytest.raises(ValueError, match="did you mean 'bfloat16'"):
        ensemble.answer([], 1, [], "bfloat61", end=3)
    with pytest.raises(ValueError, match="at most 128 numbers, got 256"):
        GpuTransformer(TransformerSpec(hidden=256, heads=1), SHAPE, device=DEVICE)


needs_no_gpu = pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
OLDER = "cudaGetDevice: CUDA driver version is insufficient for CUDA runtime version"  # than the core's CUDA
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040).\nPlease update it"


@pytest.fixture
def machine(monkeypatch):
    """machine(...): what a build, torch and the driver say of devices."""

    def says(
        built=True, torch_cuda="13.0", count=0, capability=(9, 0), visible=None, init=lambda: None, native=lambda: None
    ):
        monkeypatch.setattr(_native, "core", type("core", (), {"cuda": built}))
        monkeypatch.setattr(_native, "_try", lambda device: native())
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        answers = dict(
            is_available=count > 0,
            device_count=count,
            current_device=0,
            get_device_capability=capability,
            get_device_name="Quadro T1000",
        )
        for name, value in answers.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return says


@needs_no_gpu
@pytest.mark.parametrize(
    "facts,reason",
    [
        ({"built": False}, "worldfast was built without CUDA"),
        ({"torch_cuda": None}, f"torch {torch.__version__} was built without CUDA"),
        ({}, "torch finds no CUDA device"),
        (
            {"init": lambda: refuse(TOO_OLD)},
            "no CUDA device: The NVIDIA driver on your system is too old (found version 11040). Please update it",
        ),
        (
            {"visible": "", "init": lambda: refuse("No CUDA GPUs are available")},
            "no CUDA device: No CUDA GPUs are available (CUDA_VISIBLE_DEVICES is '')",
        ),
        ({"count": 2}, "there are 2, counted from 0"),
        ({"count": 4, "capability": (7, 5)}, "Quadro T1000 has compute capability 7.5, but 8.0 or later is needed"),
        ({"count": 4, "native": lambda: refuse(OLDER)}, f"the native core's kernels do not run on it: {OLDER}"),
        ({"count": 4, "native": lambda: refuse("")}, "the native core's kernels do not run on it: RuntimeError"),
    ],
    ids=lambda x: str(x)[:30] if isinstance(x, str) else "",
)
def test_a_device_that_is_not_there(machine, facts, reason):
    """For training, and for rows."""
    machine(**facts)
    for ask in (require_cuda, lambda device: wf.sample(wf.World.cities(), "distance", 1, device=device)):
        with pytest.raises(DeviceError) as raised:
            ask("cuda:3")
        assert reason in raised.value.reason
        assert str(raised.value) == f"device 'cuda:3': {raised.value.reason}; use device='cpu'"


@needs_no_gpu
def test_kernels_that_do_not_run_on_a_device(machine, monkeypatch):
    """They are tried before anything starts, here on the CPU."""
    gpu._try.__wrapped__(torch.device("cpu"))
    machine(count=1)
    monkeypatch.setattr(gpu, "_try", lambda device: refuse("\nptxas fatal : sm_75 is not defined\nmore"))
    with pytest.raises(DeviceError, match="kernels do not run on it: RuntimeError: ptxas fatal : sm_75 is not"):
        require_cuda("cuda")
    monkeypatch.undo()
    monkeypatch.setattr("worldfast.kernels.norm.norm", lambda x, weight, eps, out, scale: out.zero_())
    with pytest.raises(RuntimeError, match="what it gives is wrong"):
        gpu._try.__wrapped__(torch.device("cpu"))


def test_native_kernels_are_tried_too(monkeypatch):
    """By a label, here on the CPU."""
    _native._try.__wrapped__(torch.device(DEVICE))
    monkeypatch.setattr(_native, "core", type("core", (), {"task_table": core.task_table, "label": lambda *_: None}))
    with pytest.raises(RuntimeError, match="what they give is wrong"):
        _native._try.__wrapped__(torch.device(DEVICE))


# ---- memory ----


@pytest.mark.parametrize("matmul_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hidden", [16, 24])
def test_footprint_is_what_is_taken(matmul_dtype, hidden):
    """From above, and by no more than the room for rows that are made ahead."""
    spec = replace(SPEC, hidden=hidden, heads=hidden // 8)
    ensemble = GpuTransformer(spec, SHAPE, 2, device=DEVICE, matmul_dtype=matmul_dtype)
    runs = [replace(BASE, model=spec, matmul_dtype=matmul_dtype, seed=seed) for seed in (1, 5)]
    lockstep = GpuLockstep(ensemble, runs)
    own = [
        ensemble.parameters,
        ensemble.gradients,
        ensemble.decayed,
        lockstep.moments,
        lockstep._tokens,
        lockstep._targets,
    ]
    own += [lockstep._learner.rounded] if matmul_dtype == "bfloat16" else []
    taken = sum(x.nbytes for x in own) + lockstep._learner.passes.nbytes
    ahead = [lockstep._made, lockstep._scratch, lockstep._row_start, lockstep._answer_start, lockstep._rows]
    ahead = sum(x.nbytes for x in [*ahead, lockstep._schedule])
    estimate = footprint(spec, SHAPE, 2, BASE.batch * (lockstep._longest - 1), matmul_dtype)
    assert taken + ahead <= estimate + CHUNK_BYTES
    assert taken >= 0.97 * estimate


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within it have at a time."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((arguments, options)) if torch.is_tensor(x)}
        for x in tree_leaves(found):
            if torch.is_tensor(x) and x.untyped_storage()._cdata not in given:
                storage = x.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return found


@pytest.mark.skipif(DEVICE == "cuda", reason="the CPU's memory is counted")
@pytest.mark.parametrize("matmul_dtype", ["float32", "bfloat16"])
def test_answering_and_reading_take_what_is_planned(matmul_dtype, monkeypatch):
    """From above, and by no more than a fifth: a full tile of prompts, and a full piece of rows."""
    if matmul_dtype == "bfloat16":
        monkeypatch.setitem(gpu.DTYPES, "bfloat16", torch.float16)  # the interpreter has float16 alone
    spec = SPEC
    ensemble = GpuTransformer(spec, SHAPE, 2, device=DEVICE, matmul_dtype=matmul_dtype)
    ensemble.parameters.normal_(std=0.1)
    ensemble.answer([(np.full((1, 3), 4), np.array([3]))], 1, [0], end=3)  # makes the attention's table of angles
    monkeypatch.setattr(footprints, "ANSWER_BYTES", 250_000)
    rows = footprints.answered_at_once(spec, SHAPE, 1, 28, matmul_dtype)
    tokens = np.random.default_rng(0).integers(4, VOCABULARY, (rows, 26))
    with Peak() as taken:
        ensemble.answer([(tokens, np.full(len(tokens), 26))], 3, [1], end=3)
    planned = footprints.answering(spec, SHAPE, 1, rows, 28, matmul_dtype)
    assert 0.8 * planned < taken.most <= planned < 1.5 * 250_000
    for module in (gpu, footprints):
        monkeypatch.setattr(module, "READ", 128)
    [packed] = rows_of([20])
    states = len(packed.scored) * spec.hidden * 4
    with Peak() as taken:
        ensemble.states(packed, 0, [1])
    planned = footprints.reading(spec, SHAPE)
    assert 0.8 * planned < taken.most <= planned + states


def test_a_plan_counts_answers_and_workspaces(monkeypatch):
    """As many validation rows as are answered at once, and no more; five workspaces of cuBLAS."""

    def shared(validation, **model):
        run = replace(BASE, validation=validation, model=replace(SPEC, **model), matmul_dtype="bfloat16", name="")
        return memory.need(run, "cuda:0", 1).shared

    wide = dict(hidden=128, layers=6, heads=4, intermediate=512)
    none, some, all_at_once, more = (shared(n, **wide) for n in (0, 2_000, 20_000, 50_000))
    assert none < some < all_at_once == more <= none + footprints.ANSWER_BYTES + (64 << 20)
    assert all_at_once > footprints.ANSWER_BYTES
    assert none > memory.GPU_EXTRA + memory.WORKSPACES + footprints.reading(replace(SPEC, **wide), SHAPE)
    monkeypatch.setattr(memory, "WORKSPACES", 0)
    assert shared(0, **wide) == none - 5 * (32 << 20)


def test_places():
    assert [places(n) for n in (0, 1, 128, 129)] == [128, 128, 128, 256]

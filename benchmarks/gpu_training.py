"""Training on a GPU: the CPU's steps, the same bits twice and behind an interruption, then how fast, and why
not faster.

Agreement is with worldfast's CPU ensemble in float32, whose tests hold it to float64: weights after 20 steps,
by how far they moved. Then one model and 32 of the paper's shape in bfloat16; the limits are the products of
real tokens at the rate of a large product, and the bytes that the kernels must move at the rate of a large
copy.
"""

import time

import numpy as np
import torch
from evaluation import LONGEST
from harness import Contestant, Unit, copying, multiplying, run_on_device
from training import operations, rows_of

import worldfast as wf
from worldfast.gpu import GpuEnsemble
from worldfast.gpu_lockstep import GpuLockstep
from worldfast.lockstep import Lockstep
from worldfast.model import Ensemble, ModelSpec
from worldfast.transformer import buffer_size

DEVICE = "cuda"
PUBLISHED_STEPS = 328_128  # of a model of seven tasks: 42 million rows
STEPS = 20  # of an agreement
# how far weights may be from those of the CPU in float32, and a member's from its own alone: of how far they
# moved
ALLOWED = {"float32": (1e-3, 1e-3), "bfloat16": (0.15, 0.1)}


# ---- agreement ----


def lockstep_of(runs, device):
    """The runs' first weights, and what trains them."""
    size = runs[0].vocabulary_size
    if device == "cpu":
        lockstep = Lockstep(Ensemble(runs[0].model, size, len(runs), products=runs[0].products), runs)
    else:
        place = "cpu" if DEVICE == "cpu" else device
        ensemble = GpuEnsemble(runs[0].model, size, len(runs), device=place, products=runs[0].products)
        lockstep = GpuLockstep(ensemble, runs)
    for member, run in enumerate(runs):
        lockstep.ensemble.initialise(member, run.seed)
    return lockstep


def take(lockstep, steps):
    """The weights [M, P] after so many more steps, on the CPU, and the members' tallies."""
    members = range(len(lockstep.runs))
    for _ in range(steps):
        lockstep.step(list(members))
    tallies = [lockstep.read(m) for m in members]
    return lockstep.ensemble.parameters.cpu().clone(), tallies


def verify_training(runs, steps=STEPS):
    """Faults found; the errors of weights by how far they moved: beside the CPU, and of the first run
    alone."""
    products = runs[0].products
    start = lockstep_of(runs, "cpu").ensemble.parameters.clone()
    plain = [wf.Run.from_json(run.to_json() | {"products": "float32"}) for run in runs]
    expected, tallies = take(lockstep_of(plain, "cpu"), steps)
    found, ours = take(lockstep_of(runs, DEVICE + ":0"), steps)
    again, _ = take(lockstep_of(runs, DEVICE + ":0"), steps)
    alone, _ = take(lockstep_of(runs[:1], DEVICE + ":0"), steps)
    before = lockstep_of(runs, DEVICE + ":0")
    take(before, steps // 2)
    after = lockstep_of(runs, DEVICE + ":0")
    for m in range(len(runs)):
        for name, tensor in after.tensors(m).items():
            tensor.copy_(before.tensors(m)[name])
        after.resume(m, before.read(m))
    resumed, _ = take(after, steps - steps // 2)
    moved = (expected - start).norm(dim=1)
    beside = float(((found - expected).norm(dim=1) / moved).max())
    apart = float((alone[0] - found[0]).norm() / moved[0])
    faults = []
    for what, value, allowed in zip(("the CPU", "itself alone"), (beside, apart), ALLOWED[products]):
        if not value <= allowed:
            faults.append(f"weights differ from those of {what} by {value:.1e} of how far they moved")
    for mine, right in zip(ours, tallies):
        if not abs(mine.loss - right.loss) <= (1e-4 if products == "float32" else 2e-2) * right.loss:
            faults.append(f"a loss of {mine.loss / steps:.4f}, on the CPU {right.loss / steps:.4f}")
        if mine.step != steps:
            faults.append(f"{mine.step} steps were taken, {steps} asked for")
    if not torch.equal(found, again):
        faults.append("two runs differ")
    if not torch.equal(found, resumed):
        faults.append("going on from a checkpoint differs")
    return faults, beside, apart


def cases():
    """Runs that are verified, by name: the narrow kernels and the general ones."""
    all_tasks = tuple(wf.TASKS)
    other = dict(tasks=("inside",), loss="answer", seed=7, batch=96)
    for products in ALLOWED:
        run = wf.Run(all_tasks, seed=1, products=products, warmup=5)
        yield f"paper shape, {products}", [run, wf.Run(**other, products=products, warmup=5)]
    wide = ModelSpec(hidden=256, layers=2, heads=8, intermediate=1024)
    yield (
        "256 wide, bfloat16",
        [wf.Run(all_tasks, seed=s, model=wide, products="bfloat16", warmup=5) for s in (1, 2)],
    )
    demo = dict(
        model=ModelSpec(hidden=64, layers=2, heads=8, intermediate=256, head_size=98), vocabulary="entity"
    )
    demo |= dict(loss="answer", products="bfloat16", warmup=5)
    yield "demo shape, bfloat16", [wf.Run(all_tasks, seed=s, **demo) for s in (1, 2)]


# ---- speed ----


def bytes_moved(spec, tokens, outputs, parameters, members):
    """What a step of the narrow kernels moves at least: see worldfast.kernels.narrow, attention, loss,
    optimizer."""
    D, F = spec.hidden, spec.intermediate
    of_token = spec.layers * (102 * D + 12 * F) + 20 * D + 14 * outputs
    return tokens * of_token + members * parameters * 42


def time_training(out, members, steps, spec=None):
    """Steps a second of so many models, its limits, a profile; the lockstep that was trained."""
    spec = spec or ModelSpec()
    runs = [wf.Run(tuple(wf.TASKS), seed=seed, products="bfloat16", model=spec) for seed in range(members)]
    begun = time.perf_counter()
    lockstep = lockstep_of(runs, DEVICE + ":0")
    take(lockstep, steps)
    print(f"\n{members} models: {steps} steps, what is compiled and recorded among them: "
          f"{time.perf_counter() - begun:.0f} s", flush=True)  # fmt: skip
    batches = [rows_of(run, 8) for run in runs[:4]]
    total = sum(operations(spec, of_run, lockstep.ensemble.outputs) for of_run in batches) / 8 / len(batches)
    tokens = np.mean([len(rows.tokens) for of_run in batches for rows in of_run])
    P = buffer_size(spec.shapes(runs[0].vocabulary_size).each())
    moved = bytes_moved(spec, tokens * members, lockstep.ensemble.outputs, P, members)
    limits = (multiplying(total * members * steps, torch.bfloat16, DEVICE), copying(moved * steps, DEVICE))

    def run():
        for _ in range(steps):
            lockstep.step(list(range(members)))

    unit = Unit("steps/s", lambda seconds: steps / seconds)
    case = f"{members} models of the paper's shape, batches of 128, {steps} steps"
    contestant = Contestant("worldfast, bfloat16", run, limits=limits)
    first, *_ = run_on_device("training", case, [contestant], out, unit, repeats=5)
    assert not any(lockstep.read(m).diverged for m in range(members))
    each = PUBLISHED_STEPS / first.median / members
    print(
        f"{each:.1f} s a model for 42 million rows; at most "
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    )
    profile(run, out / f"training-profile-{members}.txt", steps)
    return lockstep


def profile(run, path, steps):
    """Where the device's time goes, by kernel: all to a file, the first to the screen."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    kernels = {}
    for event in seen.events():
        name, spent = event.name, event.device_time_total
        count, so_far = kernels.get(name, (0, 0.0))
        kernels[name] = count + 1, so_far + spent
    lines = [f"{'us/step':>10}{'calls/step':>12}  kernel"]
    for name, (count, spent) in sorted(kernels.items(), key=lambda item: -item[1][1]):
        lines.append(f"{spent / steps:10.1f}{count / steps:12.1f}  {name}")
    path.write_text("\n".join(lines))
    print("\n".join(line[:110] for line in lines[:16]), flush=True)


def time_answers(out, lockstep, rows=10_000):
    """Fourteen test sets for every member, of which the shortest and the longest are answered here, seven
    times each."""
    ensemble = lockstep.ensemble
    world = wf.World.cities().with_atlantis(n=100, seed=42)
    sets = [wf.sample(world, task, rows, split="test") for task in ("distance", "inside")]
    prompts = [[(batch.tokens, batch.answer_start)] * ensemble.members for batch in sets]
    found = [ensemble.answer([one[0]], LONGEST, [0]) for one in prompts]
    plain = Ensemble(ensemble.spec, ensemble.vocabulary, 1)
    plain.parameters.copy_(ensemble.parameters[:1].cpu())
    part = slice(0, 200)
    for (tokens, length), [ours] in zip((one[0] for one in prompts), found):
        [theirs] = plain.answer([(tokens[part], length[part])], LONGEST)
        agree = np.mean([np.array_equal(a, b) for a, b in zip(ours, theirs)])
        print(f"answers that are those of float32 on the CPU: {agree:.1%}")
        assert agree >= 0.7, (
            "answers differ from those of the CPU"
        )  # digits that are not learned yet are close

    def run():
        for one in prompts:
            ensemble.answer(one, LONGEST)

    seconds = Unit("s", lambda seconds: seconds)
    case = f"answers to 14 sets of {rows:,} prompts, {ensemble.members} models"
    run_on_device(
        "evaluation", case, [Contestant("worldfast, bfloat16", run, times=7)], out, seconds, repeats=1
    )


def training(out):
    """Faults, then times, into the folder `out`."""
    faults = []
    for name, runs in cases():
        begun = time.perf_counter()
        found, beside, apart = verify_training(runs)
        faults += [f"{name}: {fault}" for fault in found]
        print(f"{name}: weights {beside:.1e} from the CPU's, {apart:.1e} from those alone, of how "
              f"far they moved; {time.perf_counter() - begun:.0f} s", flush=True)  # fmt: skip
    print("\n".join(faults), flush=True)
    for members, steps in ((1, 256), (32, 64)):
        lockstep = time_training(out, members, steps)
    time_answers(out, lockstep)
    assert not faults, f"{len(faults)} faults, the first: {faults[0]}"

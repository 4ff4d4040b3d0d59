"""Everything a GPU must show, in one call: every GPU path agrees with the CPU, then it is timed.

    python benchmarks/gpu.py [PART ...] [--out FOLDER]

Runs offline, in under eight minutes. Installs the package first where it is not built with CUDA or older than
its sources. Each part is a process of its own, since a kernel that faults takes its process's device with it:
what PART prints is in PART.txt, its warnings and its traceback in PART.log, all figures in results.csv. Ends
with 1 where a part failed.
"""

import argparse
import itertools
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(__file__).resolve().parent.parent


def built():
    """Whether this tree's package can be imported with CUDA and is newer than its sources."""
    probe = (
        "from worldfast import _native, kernels; print(_native.core.__file__ if _native.core.cuda else '')"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], cwd="/", capture_output=True, text=True, check=False
    )
    module = Path(found.stdout.strip())
    if found.returncode or not module.is_relative_to(ROOT):
        return False
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "csrc").iterdir()]
    return module.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def install():
    tools = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    environment = os.environ | {"WORLDFAST_CUDA": "ON", "PATH": os.pathsep.join(tools)}
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "-e",
        ".",
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")
    if "--here" not in sys.argv and not built():
        install()  # before what needs it is imported
    sys.path.insert(0, str(ROOT))  # an installation is not seen by the process that made it

import numpy as np
from attention import relative_error, rotate, rotation
from harness import MILLISECONDS, Contestant, Unit, copying, run, verify
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import worldfast as wf

DEVICE = "cuda"

OPTIONS = ({}, {"must_include": "region == 'Atlantis'"}, {"among": "region != 'Atlantis'"})  # of rows
BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def timed(benchmark, case, contestants, out, unit=MILLISECONDS, repeats=20, calls=1):
    """`harness.run` by the device's own clock: each measurement is of `calls` calls in a row."""

    def clock(call):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    options = SimpleNamespace(repeats=repeats, results=out / "results.csv")
    return run(benchmark, case, contestants, options, unit, clock, torch.cuda.get_device_name())


# ---- labels ----


def agreeing_rows(world, rows):
    """Every array of every task's rows, and labels of given cities, have the CPU's bits. Returns rows."""
    seen = 0
    for task in wf.TASKS:
        for vocabulary in ("character", "entity"):
            for options in OPTIONS:
                split = "test" if options else "train"
                n = min(rows, 40_000) if options else rows
                cpu = wf.sample(world, task, n=n, split=split, vocabulary=vocabulary, **options)
                gpu = wf.sample(
                    world, task, n=n, split=split, vocabulary=vocabulary, device="cuda", **options
                )
                for name in ("tokens", "length", "answer_start", "cities", "label", "task"):
                    same = np.array_equal(getattr(cpu, name), getattr(gpu, name).cpu().numpy())
                    assert same, f"{task}, {vocabulary}, {options}: {name} differs"
                seen += n
        assert torch.equal(wf.label(task, world, gpu.cities), gpu.label), task
    return seen


def labels(world, out):
    print(f"{agreeing_rows(world, 2_000_000):,} rows agree with the CPU")
    n = 10_000_000
    unit = Unit("ns/row", lambda seconds: seconds * 1e9 / n)
    for task in wf.TASKS:
        batch = wf.sample(world, task, n=n, device=DEVICE)
        arrays = (batch.tokens, batch.length, batch.answer_start, batch.cities, batch.label, batch.task)
        limits = (copying(sum(array.nbytes for array in arrays), DEVICE),)
        sample = Contestant(
            "worldfast", lambda task=task: wf.sample(world, task, n=n, device=DEVICE), limits=limits
        )
        timed("labels", f"{task}, {n:,} rows", [sample], out, unit)


# ---- attention ----

LENGTHS = {str(n): [n] * max(4, 256 // n) for n in (1, 2, 31, 33, 57, 64, 127)}
RESULTS = ("out", "grad_q", "grad_k", "grad_v")
LENGTHS["mixed"] = [25, 1, 57, 0, 33, 128, 2, 40, 31, 17]


def plain_attention(q, k, v, cu_seqlens):
    """Row by row through PyTorch's math path, in the dtype of q, on its device."""
    ends = cu_seqlens.tolist()
    cos, sin = rotation(torch.arange(128, device=q.device), q.shape[-1], q.dtype)  # [T, D]
    cos, sin = cos[:, None], sin[:, None]
    out = []
    for begin, end in itertools.pairwise(ends):
        turned = [rotate(x[begin:end], cos[: end - begin], sin[: end - begin]) for x in (q, k)]
        row = [x.transpose(0, 1) for x in (*turned, v[begin:end])]  # [H, T, D]
        with sdpa_kernel(SDPBackend.MATH):
            out.append(scaled_dot_product_attention(*row, is_causal=True).transpose(0, 1))
    return torch.cat(out)


def step(attention, inputs, grad_out):
    """Output, and gradients of q, k, v."""
    out = attention(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out)


def verify_attention(dtype, head_size, lengths):
    """Faults found, and the largest of the errors over those of PyTorch's math path in the same dtype.

    Faults are errors above twice those of the math path, by float64 on the CPU; bits that differ between two
    runs; NaN that leaves its row.
    """
    torch.manual_seed(0)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    qkv = torch.randn(3, int(cu_seqlens[-1]), 2, head_size).to(dtype)
    grad_out = torch.randn(qkv.shape[1:]).to(dtype)
    there = cu_seqlens.to(DEVICE)

    def ours(q, k, v):
        return wf.attention(q, k, v, there, max_seqlen=max(lengths))

    def leaves(qkv):
        return [x.detach().clone().requires_grad_() for x in qkv]

    def plainly(qkv, grad_out):
        return step(lambda *inputs: plain_attention(*inputs, cu_seqlens), leaves(qkv), grad_out)

    on_device, grad_there = qkv.to(DEVICE), grad_out.to(DEVICE)
    exact = plainly(qkv.double(), grad_out.double())
    plain = plainly(on_device, grad_there)
    found, again = (step(ours, leaves(on_device), grad_there) for _ in range(2))
    poisoned = on_device.clone()
    poisoned[:, : lengths[0]] = float("nan")
    others = step(ours, leaves(poisoned), grad_there)
    faults, worst = [], 0.0
    for name, e, p, f, a, o in zip(RESULTS, exact, plain, found, again, others, strict=True):
        error, usual = ((x.cpu().double() - e).abs().max() for x in (f, p))
        rounding = torch.finfo(dtype).eps / 2 * e.abs().max()
        worst = max(worst, float(error / usual.clamp_min(rounding)))
        if not error <= 2 * usual + rounding:
            faults.append(f"{name} errs by {error:.2e}, PyTorch by {usual:.2e}")
        if not torch.equal(f, a):
            faults.append(f"{name} differs between two runs")
        if not torch.equal(f[lengths[0] :], o[lengths[0] :]):
            faults.append(f"{name} of other rows changes with NaN in the first")
    return faults, worst


def attention(out):
    faults = []
    for dtype in (F32, BF16, F16):
        name = str(dtype).removeprefix("torch.")
        ratios = []
        for head_size in (16, 32, 64):
            for case in LENGTHS if head_size == 32 else ["mixed"]:
                found, worst = verify_attention(dtype, head_size, LENGTHS[case])
                ratios.append(worst)
                faults += [f"{name}, head size {head_size}, lengths {case}: {fault}" for fault in found]
        print(f"{name}: errors at most {max(ratios):.2f} times those of PyTorch's math path", flush=True)
    print("\n".join(faults[:20]), flush=True)
    for rope in (True, False):
        time_attention(out, rope)
    assert not faults, f"{len(faults)} faults, the first: {faults[0]}"


def replayed(call):
    """A call recorded as a CUDA graph: the device's time without the launches'."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay():
        graph.replay()
        return result

    return replay


def peers(cos, sin, rope, tokens):
    """(name, attention of [R, H, T, D]) of what PyTorch has."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def turn(q, k):
        return rotate(q, cos, sin), rotate(k, cos, sin)

    turned = torch.compile(turn) if rope else lambda q, k: (q, k)
    for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):

        def attend(q, k, v, name=name):
            with sdpa_kernel(SDPBackend.__members__[name]):
                return scaled_dot_product_attention(*turned(q, k), v, is_causal=True)

        yield f"SDPA, {name}", attend

    def causal(row, head, query, key):
        return query >= key

    mask = create_block_mask(causal, None, None, tokens, tokens, device=DEVICE)
    flex = torch.compile(flex_attention)
    yield "FlexAttention, compiled", lambda q, k, v: flex(*turned(q, k), v, block_mask=mask)


def tried(peer, prepare):
    """What `prepare` gives; None where the peer cannot do it, which is said."""
    try:
        return prepare()
    except Exception as problem:  # noqa: BLE001 whatever it is, it is the peer's, and is said
        traceback.print_exc()
        first = str(problem).strip().partition("\n")[0][:150]
        print(f"left out: {peer.name}: {type(problem).__name__}: {first}")
        return None


def time_attention(out, rope, rows=2_048, tokens=40, heads=4, size=32, dtype=BF16):
    torch.manual_seed(1)
    *qkv, grad = (torch.randn(rows, heads, tokens, size, device=DEVICE).to(dtype) for _ in range(4))
    cos, sin = rotation(torch.arange(tokens, device=DEVICE), size, F64)

    def exactly(q, k, v):
        turned = (rotate(q, cos, sin), rotate(k, cos, sin)) if rope else (q, k)
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(*turned, v, is_causal=True)

    expected = step(exactly, [x.double().requires_grad_() for x in qkv], grad.double())
    cu_seqlens = torch.arange(0, rows * tokens + 1, tokens, dtype=torch.int32, device=DEVICE)

    def ours(q, k, v):
        return wf.attention(q, k, v, cu_seqlens, 10_000.0 if rope else None, max_seqlen=tokens)

    def packed(x):
        """[R, H, T, D] -> [L, H, D]"""
        return x.transpose(1, 2).reshape(rows * tokens, heads, size).contiguous()

    # q, k, v and the gradient of out read, out and three gradients written, q, k, v and out read once more
    limits = (copying(12 * rows * tokens * heads * size * torch.finfo(dtype).bits / 8, DEVICE),)

    def contestant(name, attend, layout):
        """One with arrays in its own layout."""
        inputs, given = [layout(x).clone().requires_grad_() for x in qkv], layout(grad)
        right = [layout(x) for x in expected]
        return Contestant(
            name,
            lambda: step(attend, inputs, given),
            lambda found: relative_error(found, right),
            3e-2,
            limits=limits,
        )

    worldfast = contestant("worldfast", ours, packed)
    others = [contestant(*peer, torch.clone) for peer in peers(cos.to(dtype), sin.to(dtype), rope, tokens)]
    others = [peer for peer in others if tried(peer, lambda peer=peer: verify([peer]))]
    work = "forward and backward, " + ("RoPE by compiled PyTorch for the peers" if rope else "no RoPE")
    case = f"{rows:,} rows of {tokens}, {heads} heads of {size}, bfloat16, {work}"
    timed("attention", f"{case}, as called", [worldfast, *others], out, calls=20)
    graphs = [replace(worldfast, run=replayed(worldfast.run))]
    for peer in others:
        if graph := tried(peer, lambda peer=peer: replayed(peer.run)):
            graphs.append(replace(peer, run=graph))
    timed("attention", f"{case}, replayed from CUDA graphs", graphs, out, calls=20)


# ---- CKA ----


def stacked(X, models):
    """Linear CKA of all pairs from one product of centred X [n, M d], [M d, M d]."""
    products = (X.T @ X).reshape(models, -1, models, X.shape[1] // models)
    found = products.square().sum((1, 3))
    scale = found.diagonal().sqrt()
    return (found / scale / scale[:, None]).cpu()


def cka(out, n=4_413, d=256):
    from cka import all_matrices, representations

    arrays = representations(63, n, d)
    for models in (28, 63):
        contestants = list(all_matrices(arrays[:models], DEVICE))
        linear = contestants[0]
        X = torch.from_numpy(np.concatenate(arrays[:models], 1)).to(DEVICE).double()
        X = (X - X.mean(0)).float()
        name = "PyTorch, linear, one stacked product of centred data, float32"
        product = replace(linear, name=name, run=lambda X=X, models=models: stacked(X, models), allowed=1e-3)
        contestants.append(product)
        timed("cka", f"{models} models, n {n:,}, d {d}", contestants, out, repeats=10)


# ---- all of it ----

PARTS = {  # and the seconds that each may take
    "labels": (lambda out: labels(wf.World.cities().with_atlantis(), out), 130),
    "attention": (attention, 170),
    "cka": (cka, 80),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--here", action="store_true", help="in this process, with the package as it is")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        for part in options.parts:
            PARTS[part][0](options.out)
        return
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
    failed = [part for part in options.parts if not succeeds(part, options.out)]
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


def succeeds(part, out):
    """Runs a part in a process of its own and shows what it printed."""
    printed, log = out / f"{part}.txt", out / f"{part}.log"
    command = [sys.executable, __file__, part, "--here", "--out", out]
    limit = PARTS[part][1]
    with open(printed, "w") as stdout, open(log, "w") as stderr:
        try:
            code = subprocess.run(
                command, stdout=stdout, stderr=stderr, timeout=limit, check=False
            ).returncode
            why = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, why = 1, f"more than {limit} s"
    print(f"\n==== {part}\n{printed.read_text().strip()}")
    if code:
        last = (log.read_text().strip().splitlines() or [""])[-1]
        print(f"{part} FAILED: {why}; {log}: {last}")
    sys.stdout.flush()
    return code == 0


if __name__ == "__main__":
    main()

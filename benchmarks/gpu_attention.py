"""Attention on a GPU: its errors, the same bits twice, rows that do not depend on their neighbours; then beside all
that PyTorch has."""

import itertools
import traceback
from dataclasses import replace

import gpu_device
import torch
from attention import relative_error, rotate, rotation
from gpu_part import require
from harness import Contestant, copying, run_on_device, verify
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import worldfast as wf

GPU = gpu_device.DEVICE
DEVICE = GPU.place
BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
LENGTHS = {str(n): [n] * max(4, 256 // n) for n in (1, 2, 31, 33, 57, 64, 127)}
RESULTS = ("out", "grad_q", "grad_k", "grad_v")
LENGTHS["mixed"] = [25, 1, 57, 0, 33, 128, 2, 40, 31, 17]
TIMED = ((2_048, 40), (1_280, 64), (640, 128))  # rows and their tokens, of which there are as many in all


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


def verify_dtype(dtype, head_size, lengths):
    """AssertionError where there are faults."""
    faults, worst = verify_attention(dtype, head_size, lengths)
    print(f"{dtype}, head size {head_size}: errors at most {worst:.2f} times those of PyTorch's math path", flush=True)
    require(faults)


def attention(part):
    """Errors of every dtype and head size, then times of ours alone."""
    for dtype in (F32,) if part.dry else (F32, BF16, F16):
        for head_size in (16,) if part.dry else (16, 32, 64):
            lengths = {"mixed": [3, 0, 5]} if part.dry else LENGTHS
            for case in lengths if head_size == 32 or part.dry else ["mixed"]:
                name = f"{dtype}, head size {head_size}, lengths {case}"
                part.agrees(name, verify_dtype, dtype, head_size, lengths[case])
    for size, rope in itertools.product(sizes(part), (True, False)):
        name = f"times of {size['tokens']} tokens, {'with' if rope else 'without'} RoPE"
        part.case(name, time_attention, part, rope, False, **size)


def attention_peers(part):
    """Times beside what PyTorch has, which is compiled first."""
    for size, rope in itertools.product(sizes(part), (True, False)):
        name = f"peers of {size['tokens']} tokens, {'with' if rope else 'without'} RoPE"
        part.case(name, time_attention, part, rope, True, **size)


def sizes(part):
    """Cases that are timed, the shortest rows first."""
    if part.dry:
        return [dict(rows=1, tokens=tokens, heads=1, size=16, dtype=F16) for tokens in (3, 34)]
    return [dict(rows=rows, tokens=tokens) for rows, tokens in TIMED]


def peers(cos, sin, rope, tokens):
    """(name, attention of [R, H, T, D]) of what PyTorch has."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def turn(q, k):
        return rotate(q, cos, sin), rotate(k, cos, sin)

    turned = (turn if GPU.dry else torch.compile(turn)) if rope else lambda q, k: (q, k)
    for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):

        def attend(q, k, v, name=name):
            with sdpa_kernel(SDPBackend.__members__[name]):
                return scaled_dot_product_attention(*turned(q, k), v, is_causal=True)

        yield f"SDPA, {name}", attend

    def causal(row, head, query, key):
        return query >= key

    mask = create_block_mask(causal, None, None, tokens, tokens, device=DEVICE)
    flex = flex_attention if GPU.dry else torch.compile(flex_attention)
    yield "FlexAttention, compiled", lambda q, k, v: flex(*turned(q, k), v, block_mask=mask)


def tried(peer, prepare):
    """Return what `prepare` gives, or None, with a message, where the peer cannot do it."""
    try:
        return prepare()
    except Exception as problem:  # whatever it is, it is the peer's, and is said
        traceback.print_exc()
        first = str(problem).strip().partition("\n")[0][:150]
        print(f"left out: {peer.name}: {type(problem).__name__}: {first}")
        return None


def time_attention(part, rope, beside, rows, tokens, heads=4, size=32, dtype=BF16):
    """As called and replayed from graphs; ours alone, or `beside` what PyTorch has."""
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
            name, lambda: step(attend, inputs, given), lambda found: relative_error(found, right), 3e-2, limits=limits
        )

    worldfast = contestant("worldfast", ours, packed)
    others = peers(cos.to(dtype), sin.to(dtype), rope, tokens) if beside else ()
    others = [contestant(*peer, torch.clone) for peer in others]
    others = [peer for peer in others if tried(peer, lambda peer=peer: verify([peer]))]
    work = "forward and backward, " + ("RoPE by compiled PyTorch for the peers" if rope else "no RoPE")
    case = f"{rows:,} rows of {tokens}, {heads} heads of {size}, {str(dtype).removeprefix('torch.')}, {work}"
    run_on_device("attention", f"{case}, as called", [worldfast, *others], part.out, calls=20)
    graphs = [replace(worldfast, run=GPU.recorded(worldfast.run))]
    for peer in others:
        if graph := tried(peer, lambda peer=peer: GPU.recorded(peer.run)):
            graphs.append(replace(peer, run=graph))
    run_on_device("attention", f"{case}, replayed from CUDA graphs", graphs, part.out, calls=20)

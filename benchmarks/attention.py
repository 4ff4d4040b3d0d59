"""Attention on packed rows, forward and with its gradient, beside PyTorch's on the padded batch.

    python benchmarks/attention.py [--rows 512] [--repeats 11] [--threads 1]

Rows have the lengths of the uniform mix of tasks; then, in float32, they have 512 tokens each, and 1,400. The peer applies
RoPE and calls scaled_dot_product_attention, as a model in plain PyTorch does. An error is the largest of output and
gradient against float64, over the largest value there. The limit is the least that can be done: scores of real tokens
alone, each array read and written once. (Nested tensors are no peer here: on CPUs their attention cannot be causal.)
"""

import torch
import torch.nn.functional as F
from harness import Contestant, arguments, copying, multiplying, run, threads

import worldfast as wf

ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def rotation(positions, head_size, dtype, base=1e4):
    """cos and sin [T, D] of RoPE's angles, as Hugging Face's Qwen2 has them."""
    half = torch.arange(head_size // 2, dtype=torch.float64, device=positions.device)
    angle = positions.double()[:, None] * base ** (-2 * half / head_size)  # [T, D/2]
    angle = torch.cat([angle, angle], -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    """RoPE of x [..., T, D]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def padded_attention(qkv, cos, sin):
    """[R, T, 3, H, D] -> [R, T, H, D]; what stands behind a row's end reaches none of its tokens."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [R, H, T, D]
    return F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True).transpose(1, 2)


def with_gradient(forward, x, grad_out):
    """Output and gradient of x."""
    out = forward(x)
    return out.detach(), *torch.autograd.grad(out, x, grad_out)


def relative_error(arrays, exact):
    """The largest error of any array over the largest value of that array."""
    pairs = zip(arrays, exact, strict=True)
    return max(float((array.double() - e).abs().max() / e.abs().max()) for array, e in pairs)


def contestants(lengths, heads, size, dtype, backward):
    """Ours and the peer on rows of these lengths, [R]."""
    rows, longest = len(lengths), int(lengths.max())
    real = torch.arange(longest) < lengths[:, None]  # [R, T]
    cu_seqlens = torch.cat([torch.zeros(1), lengths]).cumsum(0).int()
    random = torch.Generator().manual_seed(0)
    padded = torch.randn(rows, longest, 3, heads, size, dtype=torch.float64, generator=random).to(dtype)
    grad_padded = torch.randn(rows, longest, heads, size, dtype=torch.float64, generator=random).to(dtype)
    grad_padded *= real[..., None, None]
    packed, grad_packed = padded[real].requires_grad_(), grad_padded[real]  # [L, 3, H, D], [L, H, D]
    padded.requires_grad_()
    cos, sin = rotation(torch.arange(longest), size, dtype)

    def ours(x):
        return wf.attention(*x.unbind(1), cu_seqlens)

    def theirs(x):
        return padded_attention(x, cos, sin)

    def whole(forward, x, grad_out):
        if backward:
            return with_gradient(forward, x, grad_out)
        with torch.no_grad():
            return (forward(x),)

    exact = padded.detach().double().requires_grad_()
    cos64, sin64 = rotation(torch.arange(longest), size, torch.float64)
    exact = whole(lambda x: padded_attention(x, cos64, sin64), exact, grad_padded.double())
    exact = [x[real] for x in exact]
    elements = int(real.sum()) * heads * size
    scores = heads * int((lengths * (lengths + 1) // 2).sum())
    limits = (
        # q, k, v in, out; with the gradient of out in, three out, and the three inputs once more
        copying((4 + 7 * backward) * elements * padded.element_size()),
        # scores and their product with v; their repetition, and two products for each of the two
        multiplying((2 + 5 * backward) * 2 * size * scores, dtype),
    )

    def unpadded(arrays):
        return relative_error([x[real] for x in arrays], exact)

    peer = "RoPE and scaled_dot_product_attention" + ", padded" * bool((lengths < longest).any())
    given, padded_given = (packed, grad_packed), (padded, grad_padded)
    return [
        Contestant(
            "worldfast",
            lambda: whole(ours, *given),
            lambda arrays: relative_error(arrays, exact),
            ALLOWED[dtype],
            limits=limits,
        ),
        Contestant(peer, lambda: whole(theirs, *padded_given), unpadded, ALLOWED[dtype], limits=limits),
    ]


def main():
    parser = arguments(__doc__, repeats=11, threads=[1])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-size", type=int, default=32)
    options = parser.parse_args()
    heads, size = options.heads, options.head_size
    rows = 8 if options.quick else options.rows
    mix = torch.from_numpy(wf.sample(wf.World.cities(), list(wf.TASKS), n=rows).length)
    cases = [(f"{rows} rows", mix, dtype, backward) for dtype in ALLOWED for backward in (False, True)]
    for tokens, rows in ((512, 8), (1_400, 2)):
        rows, tokens = (1, tokens // 3) if options.quick else (rows, tokens)
        lengths = torch.full((rows,), tokens)
        cases += [(f"{rows} rows of {tokens:,} tokens", lengths, torch.float32, backward) for backward in (False, True)]
    for count in options.threads:
        for what, lengths, dtype, backward in cases:
            work = "forward and backward" if backward else "forward"
            kind = str(dtype).removeprefix("torch.")
            case = f"{what}, {heads} heads of {size}, {work}, {kind}, {count} threads"
            with threads(count):
                run("attention", case, contestants(lengths, heads, size, dtype, backward), options)


if __name__ == "__main__":
    main()

"""Attention on packed short rows, forward and backward, beside PyTorch's on the padded batch.

    python benchmarks/attention.py [--rows 512] [--repeats 11] [--threads 1]

Rows have the lengths of the uniform mix of tasks. The peer applies RoPE and calls scaled_dot_product_attention, as a model
in plain PyTorch does; float32.
"""

import argparse

import torch
import torch.nn.functional as F
from harness import compare, machine, record

import worldfast as wf


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-size", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    rows, heads, size = options.rows, options.heads, options.head_size
    batch = wf.sample(wf.World.cities(), list(wf.TASKS), n=rows)
    lengths = torch.from_numpy(batch.length)
    longest = int(lengths.max())
    cu_seqlens = torch.cat([torch.zeros(1), lengths]).cumsum(0).int()
    real = torch.arange(longest) < lengths[:, None]  # [R, T]
    padded = torch.randn(rows, longest, 3, heads, size)
    packed = padded[real].requires_grad_()  # [L, 3, H, D]
    padded.requires_grad_()
    grad_padded = torch.randn(rows, longest, heads, size) * real[..., None, None]
    grad_packed = grad_padded[real]

    angle = torch.arange(longest)[:, None] / 1e4 ** (torch.arange(0, size, 2) / size)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))

    def turn(x):
        return x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin

    def ours():
        return wf.attention(*packed.unbind(1), cu_seqlens)

    def theirs():
        q, k, v = padded.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True).transpose(1, 2)

    def both(forward, x, grad):
        x.grad = None
        forward().backward(grad)

    torch.testing.assert_close(ours(), theirs()[real], atol=1e-5, rtol=1e-4)
    both(ours, packed, grad_packed)
    both(theirs, padded, grad_padded)
    torch.testing.assert_close(packed.grad, padded.grad[real], atol=1e-4, rtol=1e-3)

    contestants = {
        "worldfast": lambda: both(ours, packed, grad_packed),
        "RoPE and scaled_dot_product_attention, padded": lambda: both(theirs, padded, grad_padded),
    }
    timings = compare(contestants, options.repeats)
    case = f"{rows} rows, {heads} heads of {size}, forward and backward, {options.threads} threads"
    record("attention", case, timings, scale=1e3, unit="ms")
    print(f"{machine()}\n{case}; mean length {lengths.float().mean():.1f}")
    for name, timing in timings.items():
        quantiles = f"(p20 {timing.quantile(0.2) * 1e3:.1f}, p80 {timing.quantile(0.8) * 1e3:.1f})"
        print(f"{timing.median * 1e3:8.1f} ms {quantiles}   {name}")
    first, second = timings.values()
    print(f"ratio {second.median / first.median:.1f}")


if __name__ == "__main__":
    main()

"""Matrix products of a training step, forward and for the gradient at the weights, beside torch.mm.

    python benchmarks/products.py [--repeats 15] [--hidden 64 128 256 512]

4,646 tokens, those of 128 rows of the mix, in blocks of 256 as in training; one thread. Ours packs its matrices in
the time that is measured. An error is the largest difference from float64 over the largest number.
"""

import torch
from harness import Contestant, arguments, multiplying, run, threads

from worldfast._native import core

TOKENS = 4646
VOCABULARIES = (98, 5273)  # characters; characters and cities
ALLOWED = 1e-5


def shapes(hidden):
    """(depth, lines) of queries, keys and values; output; gate and up; down."""
    return [(hidden, 3 * hidden), (hidden, hidden), (hidden, 8 * hidden), (4 * hidden, hidden)]


def error_from(exact):
    return lambda found: float((found.double() - exact).abs().max() / exact.abs().max())


def products(x, weight):
    """x [n, depth] times weight [lines, depth] turned."""
    out = torch.empty(len(x), len(weight))
    error = error_from(x.double() @ weight.double().T)
    limits = (multiplying(2 * x.numel() * len(weight), torch.float32),)

    def ours():
        core.linear(x, weight, out)
        return out

    return [
        Contestant("worldfast", ours, error, ALLOWED, limits=limits),
        Contestant("torch.mm", lambda: torch.mm(x, weight.T, out=out), error, ALLOWED, limits=limits),
    ]


def gradients(grad_out, x):
    """grad_out [n, lines] turned times x [n, depth]."""
    error = error_from(grad_out.double().T @ x.double())
    limits = (multiplying(2 * x.numel() * grad_out.shape[1], torch.float32),)
    out = torch.zeros(grad_out.shape[1], x.shape[1])

    def ours():
        core.linear_gradient(grad_out, x, out.zero_())
        return out

    return [
        Contestant("worldfast", ours, error, ALLOWED, limits=limits),
        Contestant("torch.mm", lambda: torch.mm(grad_out.T, x, out=out), error, ALLOWED, limits=limits),
    ]


def main():
    parser = arguments(__doc__, repeats=15, threads=[1])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256, 512])
    options = parser.parse_args()
    torch.manual_seed(0)
    tokens = 64 if options.quick else TOKENS
    cases = [shape for hidden in options.hidden for shape in shapes(hidden)]
    cases += [(hidden, outputs) for hidden in options.hidden[:2] for outputs in VOCABULARIES]
    for depth, lines in cases[:2] if options.quick else cases:
        x, weight = torch.randn(tokens, depth), torch.randn(lines, depth)
        case = f"{tokens} tokens, {depth} by {lines}, float32, 1 thread"
        with threads(1):
            run("products", case, products(x, weight), options)
            run("products", f"gradient, {case}", gradients(torch.randn(tokens, lines), x), options)


if __name__ == "__main__":
    main()

"""CKA on a GPU: right for every shape, then 28 and 63 models beside one stacked product."""

from dataclasses import replace

import gpu_device
import numpy as np
import torch
from cka import all_matrices, reference, representations
from harness import run_on_device

from worldfast.analysis.gram import gram_statistics

GPU = gpu_device.DEVICE
DEVICE = GPU.place
SHAPES = [(1_000, [256] * 5), (513, [3, 300, 64, 1, 129]), (300, [32] * 70), (700, [4_096, 100]), (4_413, [256] * 3)]


def verify_cka(n, widths):
    """The largest relative error of CKA, linear and RBF, plain and debiased, against n x n matrices in float64."""
    worst = 0.0
    arrays = [representations(1, n, d)[0] + np.float32(model) for model, d in enumerate(widths)]
    random = np.random.default_rng(1)
    arrays = [X + X.std(0) * random.normal(size=X.shape).astype(np.float32) for X in arrays]
    on_device = [torch.from_numpy(X).to(DEVICE) for X in arrays]
    found, again = (gram_statistics(on_device, ("linear", "rbf")) for _ in range(2))
    for kernel in ("linear", "rbf"):
        exact = reference(arrays, kernel)
        assert np.array_equal(found.cka(kernel), again.cka(kernel)), f"{kernel}: two runs differ"
        for debiased in (False, True):
            plain = np.abs(found.cka(kernel, debiased) - exact[debiased])
            worst = max(worst, float((plain / np.maximum(np.abs(exact[debiased]), 0.1)).max()))
    print(f"CKA, n {n}: errs by at most {worst:.1e} of 0.1 or of its value, whichever is larger", flush=True)
    assert worst < 1e-5, f"errs by {worst:.1e}"


def stacked(X, models):
    """Linear CKA of all pairs from one product of centred X [n, M d], [M d, M d]."""
    products = (X.T @ X).reshape(models, -1, models, X.shape[1] // models)
    found = products.square().sum((1, 3))
    scale = found.diagonal().sqrt()
    return (found / scale / scale[:, None]).cpu()


def ours(arrays):
    return list(all_matrices(arrays, DEVICE))


def beside(arrays, first):
    """Contestants that take one product of all models' centred columns; errors as of the contestant `first`."""
    X = torch.from_numpy(np.concatenate(arrays, 1)).to(DEVICE).double()
    X = (X - X.mean(0)).float()
    for name, stack, allowed in (("float32", X, 1e-3), ("float64", X.double(), 1e-5)):
        name = f"PyTorch, linear, one stacked product of centred data, {name}"
        product = lambda stack=stack: stacked(stack, len(arrays))  # noqa: E731
        yield replace(first, name=name, run=product, allowed=allowed)


def time_cka(part, models, n, d, peers):
    """Ours alone, or with peers."""
    arrays = representations(models, n, d)
    contestants = ours(arrays)
    if peers:
        contestants += beside(arrays, contestants[0])
    run_on_device("cka", f"{models} models, n {n:,}, d {d}", contestants, part.out, repeats=10)


def sizes(part):
    """(models, n, d) that are timed."""
    return [(3, 40, 16)] if part.dry else [(28, 4_413, 256), (63, 4_413, 256)]


def cka(part):
    """Errors, then times of ours alone."""
    for n, widths in [(40, [16, 3, 40])] if part.dry else SHAPES:
        part.agrees(f"n {n}, {len(widths)} models, the widest of {max(widths)}", verify_cka, n, widths)
    for size in sizes(part):
        part.case(f"times of {size[0]} models", time_cka, part, *size, False)


def cka_peers(part):
    """Times beside PyTorch's products."""
    for size in sizes(part):
        part.case(f"peers of {size[0]} models", time_cka, part, *size, True)

"""CKA on a GPU: right for every shape, then 28 and 63 models beside one stacked product."""

from dataclasses import replace

import numpy as np
import torch
from cka import all_matrices, reference, representations
from harness import run_on_device

from worldfast.gram import gram_statistics

DEVICE = "cuda"
SHAPES = [
    (1_000, [256] * 5),
    (513, [3, 300, 64, 1, 129]),
    (300, [32] * 70),
    (700, [4_096, 100]),
    (4_413, [256] * 3),
]


def verify_cka():
    """The largest relative error of CKA, linear and RBF, plain and debiased, against n x n matrices in float64."""
    worst = 0.0
    for n, widths in SHAPES:
        arrays = [representations(1, n, d)[0] + np.float32(model) for model, d in enumerate(widths)]
        random = np.random.default_rng(1)
        arrays = [X + X.std(0) * random.normal(size=X.shape).astype(np.float32) for X in arrays]
        on_device = [torch.from_numpy(X).to(DEVICE) for X in arrays]
        found, again = (gram_statistics(on_device, ("linear", "rbf")) for _ in range(2))
        for kernel in ("linear", "rbf"):
            exact = reference(arrays, kernel)
            assert np.array_equal(found.cka(kernel), again.cka(kernel)), f"{kernel}, n {n}: two runs differ"
            for debiased in (False, True):
                plain = np.abs(found.cka(kernel, debiased) - exact[debiased])
                worst = max(worst, float((plain / np.maximum(np.abs(exact[debiased]), 0.1)).max()))
        assert worst < 1e-5, f"n {n}, widths {widths}: errs by {worst:.1e}"
    return worst


def stacked(X, models):
    """Linear CKA of all pairs from one product of centred X [n, M d], [M d, M d]."""
    products = (X.T @ X).reshape(models, -1, models, X.shape[1] // models)
    found = products.square().sum((1, 3))
    scale = found.diagonal().sqrt()
    return (found / scale / scale[:, None]).cpu()


def cka(out, n=4_413, d=256):
    """Errors, then times, into the folder `out`."""
    print(f"CKA errs by at most {verify_cka():.1e} of 0.1 or of its value, whichever is larger", flush=True)
    arrays = representations(63, n, d)
    for models in (28, 63):
        contestants = list(all_matrices(arrays[:models], DEVICE))
        X = torch.from_numpy(np.concatenate(arrays[:models], 1)).to(DEVICE).double()
        X = (X - X.mean(0)).float()
        for name, stack, allowed in (("float32", X, 1e-3), ("float64", X.double(), 1e-5)):
            name = f"PyTorch, linear, one stacked product of centred data, {name}"
            product = lambda stack=stack, models=models: stacked(stack, models)  # noqa: E731
            contestants.append(replace(contestants[0], name=name, run=product, allowed=allowed))
        run_on_device("cka", f"{models} models, n {n:,}, d {d}", contestants, out, repeats=10)

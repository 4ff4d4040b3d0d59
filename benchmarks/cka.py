"""CKA of a pair of representations and of whole ensembles, beside what researchers use today.

    python benchmarks/cka.py [--repeats 5] [--threads 2]

Representations look like activations: projections of 4,413 cities' coordinates and noise, of different scales, 1,000 away
from zero, float32. An error is the largest relative error of CKA against NumPy in float64 with n x n matrices, on the first
models. RBF's bandwidth is the median distance; worldfast's is that of a sample of rows, and its error is that of CKA with the
same bandwidth. A limit is the least number of operations known, in products of the dtype that is named. Peak memory is that
of a process of its own, beyond what it held with its inputs made.
"""

import importlib
import itertools
import math
import multiprocessing
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from harness import CORES, Contestant, Row, arguments, multiplying, record, run, show, threads

import worldfast as wf
from worldfast.analysis.cka import gram_statistics

CHECKED = 4  # models whose CKA is compared with the reference
SAMPLED = 8  # pairs that stand for all, where all would take minutes
KINDS = list(itertools.product(("linear", "rbf"), (False, True)))  # (kernel, debiased)


def representations(models, n, d):
    """`models` arrays [n, d], float32."""
    xy = wf.World.cities().xy[:n]
    places = (xy - xy.mean(0)) / xy.std(0)  # [n, 2]
    found = []
    for model in range(models):
        random = np.random.default_rng([7, model])
        hidden = np.tanh(places @ random.normal(size=(2, d)) + random.normal(size=d))
        noisy = hidden + random.uniform(0.2, 2) * random.normal(size=(n, d))
        found.append((1000 + 10 ** random.uniform(-1, 2) * noisy).astype(np.float32))
    return found


# ---- the reference ----


def gram(X, kernel, bandwidth=None):
    """The kernel's matrix [n, n] of X [n, d], float64; bandwidth: None: the median of all n^2 distances."""
    X = X.astype(np.float64)
    X -= X.mean(0)
    K = X @ X.T
    if kernel == "linear":
        return K
    squares = K.diagonal()
    distances = squares[:, None] + squares - 2 * K
    return np.exp(distances / (-2 * (bandwidth**2 if bandwidth else np.median(distances))))


def hsic(K, L, debiased):
    """Of two [n, n] matrices, up to a factor of n: Kornblith et al. 2019; debiased: Song et al. 2012, equation 5."""
    n = len(K)
    if not debiased:
        K, L = (A - A.mean(0) - A.mean(1)[:, None] + A.mean() for A in (K, L))
        return (K * L).sum()
    K, L = K - np.diag(K.diagonal()), L - np.diag(L.diagonal())
    rows, columns = K.sum(0), L.sum(0)
    return (K * L).sum() + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ columns


def by_samples(X, Y, kernel="linear", debiased=False):
    """CKA from n x n matrices."""
    K, L = gram(X, kernel), gram(Y, kernel)
    return hsic(K, L, debiased) / math.sqrt(hsic(K, K, debiased) * hsic(L, L, debiased))


def reference(Xs, kernel="linear", debiased=False):
    """CKA of all pairs, float64 [M, M], with worldfast's bandwidths."""
    widths = gram_statistics(Xs, kernels=("rbf",)).bandwidth if kernel == "rbf" else [None] * len(Xs)
    grams = [gram(X, kernel, width) for X, width in zip(Xs, widths, strict=True)]
    found = np.array([[hsic(K, L, debiased) for L in grams] for K in grams])
    scale = np.sqrt(found.diagonal())
    return found / scale / scale[:, None]


def relative_error(matrix, exact):
    """Of the first models' CKA."""
    return float(np.abs(np.asarray(matrix)[: len(exact), : len(exact)] / exact - 1).max())


# ---- the peers ----


def by_features(X, Y):
    """Linear CKA from d x d matrices, in the dtype of X and Y."""
    X, Y = X - X.mean(0), Y - Y.mean(0)
    return np.sum((X.T @ Y) ** 2) / (np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y))


def stacked(Xs):
    """Linear CKA of all pairs from one product, [M d, M d]."""
    X = np.concatenate([X - X.mean(0) for X in Xs], 1)
    products = (X.T @ X).reshape(len(Xs), -1, len(Xs), X.shape[1] // len(Xs))
    found = np.einsum("aibj,aibj->ab", products, products)
    scale = np.sqrt(found.diagonal())
    return found / scale / scale[:, None]


def pytorch_cka_matrix(peer, stack):
    """Debiased linear CKA of all pairs of a stack [M, n, d], as pytorch-cka compares the layers of one model."""
    grams = torch.bmm(stack, stack.transpose(1, 2))
    found = peer.hsic_cross(grams, grams)
    scale = found.diagonal().sqrt()
    return found / scale / scale[:, None]


def installed(name):
    """A peer's module; None, said once, where it is missing. Not from this folder: pytorch-cka's is called as this file."""
    here = str(Path(__file__).parent)
    before, sys.path = sys.path, [path for path in sys.path if path != here]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        print(f"{name} is not installed and left out: pip install '.[peers]'")
        return None
    finally:
        sys.path = before


# ---- the cases ----


def least(models, n, d, dtype=torch.float32, kernel="linear", device="cpu"):
    """The least work known: products of features for all pairs, or n x n tiles and the products of those."""
    by_features = n * (models * d) ** 2
    by_tiles = models * n**2 * d + (models * n) ** 2 / 2
    return (multiplying(by_tiles if kernel == "rbf" else min(by_features, by_tiles), dtype, device),)


def linear_pair(X, Y, ckatorch, pytorch_cka):
    size = (2, *X.shape)
    single, double = least(*size), least(*size, torch.float64)
    centred = [torch.from_numpy((A - A.mean(0, dtype=np.float64)).astype(np.float32)) for A in (X, Y)]
    raw = [torch.from_numpy(A) for A in (X, Y)]
    X64, Y64 = X.astype(np.float64), Y.astype(np.float64)
    exact, debiased = (by_samples(X, Y, debiased=debiased) for debiased in (False, True))

    def error(value):
        return abs(float(value) / exact - 1)

    def error_debiased(value):
        return abs(float(value) / debiased - 1)

    yield Contestant("worldfast, float32", lambda: wf.cka(X, Y), error, 1e-5, limits=single)
    yield Contestant("worldfast, float64", lambda: wf.cka(X64, Y64), error, 1e-5, limits=double)
    yield Contestant("NumPy, d x d, float64", lambda: by_features(X64, Y64), error, 1e-5, limits=double)
    yield Contestant("NumPy, d x d, float32", lambda: by_features(X, Y), error, 1e-2, limits=single)
    yield Contestant("NumPy, n x n, float64", lambda: by_samples(X, Y), limits=double)
    if ckatorch:
        yield Contestant("ckatorch, float64", lambda: ckatorch.cka_base(*raw), error, 1e-5, limits=double)
    if pytorch_cka:
        peer = pytorch_cka.cka_from_features
        name = "pytorch-cka, float32, debiased"
        yield Contestant(
            f"{name}, of centred data", lambda: peer(*centred), error_debiased, 1e-3, limits=single
        )
        yield Contestant(
            f"{name}, of the data as they are", lambda: peer(*raw), error_debiased, math.inf, limits=single
        )


def rbf_pair(X, Y, ckatorch):
    exact, ours = by_samples(X, Y, "rbf"), reference([X, Y], "rbf")[0, 1]
    double = least(2, *X.shape, torch.float64, "rbf")
    raw = [torch.from_numpy(A) for A in (X, Y)]

    yield Contestant(
        "worldfast, float32", lambda: wf.cka(X, Y, kernel="rbf"), lambda value: abs(value / ours - 1), 1e-5,
        limits=least(2, *X.shape, kernel="rbf"),
    )  # fmt: skip
    yield Contestant("NumPy, n x n, float64", lambda: by_samples(X, Y, "rbf"), limits=double)
    if ckatorch:
        yield Contestant(
            "ckatorch, float64", lambda: ckatorch.cka_base(*raw, kernel="rbf"),
            lambda value: abs(float(value) / exact - 1), 1e-5, limits=double,
        )  # fmt: skip


def linear_matrix(Xs, pytorch_cka):
    size = len(Xs), *Xs[0].shape
    limits, pairs = least(*size), math.comb(len(Xs), 2)
    exact, debiased = (reference(Xs[:CHECKED], debiased=debiased) for debiased in (False, True))
    sample = list(itertools.combinations(range(len(Xs)), 2))[:: max(1, pairs // SAMPLED)][:SAMPLED]
    doubles = {i: Xs[i].astype(np.float64) for i in {i for pair in sample for i in pair}}
    stack = torch.from_numpy(np.stack([X - X.mean(0, dtype=np.float64) for X in Xs]).astype(np.float32))

    def error(matrix):
        return relative_error(matrix, exact)

    yield Contestant("worldfast, float32", lambda: wf.cka_matrix(Xs), error, 1e-5, limits=limits)
    yield Contestant("NumPy, one stacked product, float32", lambda: stacked(Xs), error, 1e-2, limits=limits)
    yield Contestant(
        f"NumPy, d x d, float64, {len(sample)} pairs timed as {pairs:,}",
        lambda: [by_features(doubles[i], doubles[j]) for i, j in sample],
        lambda found: abs(found[0] / exact[sample[0]] - 1), 1e-5,
        times=pairs / len(sample), limits=least(*size, torch.float64),
    )  # fmt: skip
    if pytorch_cka:
        yield Contestant(
            "pytorch-cka, float32, debiased, of centred data", lambda: pytorch_cka_matrix(pytorch_cka, stack),
            lambda matrix: relative_error(matrix, debiased), 1e-3, limits=limits,
        )  # fmt: skip


def all_matrices(arrays, device=None):
    """What RBF and the debiased estimates cost beside the linear matrix; device: None: of NumPy arrays."""
    size = len(arrays), *arrays[0].shape
    exact = {kind: reference(arrays[:CHECKED], *kind) for kind in KINDS}
    Xs = [torch.from_numpy(X).to(device) for X in arrays] if device else arrays
    linear, rbf = (least(*size, kernel=kernel, device=device or "cpu") for kernel in ("linear", "rbf"))

    def together():
        statistics = gram_statistics(Xs, kernels=("linear", "rbf"))
        return {kind: statistics.cka(*kind) for kind in KINDS}

    yield Contestant(
        "worldfast, linear", lambda: wf.cka_matrix(Xs),
        lambda matrix: relative_error(matrix, exact["linear", False]), 1e-5, limits=linear,
    )  # fmt: skip
    yield Contestant(
        "worldfast, RBF", lambda: wf.cka_matrix(Xs, kernel="rbf"),
        lambda matrix: relative_error(matrix, exact["rbf", False]), 1e-5, limits=rbf,
    )  # fmt: skip
    yield Contestant(
        "worldfast, linear and RBF, each plain and debiased, together", together,
        lambda found: max(relative_error(found[kind], exact[kind]) for kind in KINDS), 1e-5, limits=rbf,
    )  # fmt: skip


# ---- memory ----


def peak():
    """The most memory this process has held, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def peak_beyond_inputs(models, n, d, kernel, debiased):
    """MB that a matrix takes; to be run in a process of its own. Making the inputs takes little beyond them."""
    Xs = representations(models, n, d)
    before = peak()
    wf.cka_matrix(Xs, kernel=kernel, debiased=debiased)
    return peak() - before


def memory(models, n, d, options):
    found = []
    for kernel, debiased in KINDS:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            most = process.apply(peak_beyond_inputs, (models, n, d, kernel, debiased))
        name = f"worldfast, {kernel}{', debiased' if debiased else ''}"
        found.append(
            Row(
                name, median=most, p20=most, p80=most, repeats=1, ratio=most / found[0].median if found else 1
            )
        )
    case = f"{models} models, n {n:,}, d {d}, peak memory beyond inputs of {models * n * d * 4 / 1e6:.0f} MB"
    show(case, found, "MB")
    record(options.results, "cka", case, found, "MB")


def main():
    parser = arguments(__doc__, repeats=5, threads=[CORES])
    parser.add_argument("--models", type=int, nargs="+", default=[28, 63], metavar="M")
    options = parser.parse_args()
    n, d, ensembles = (150, 8, [5]) if options.quick else (4_413, 256, options.models)
    Xs = representations(max(ensembles), n, d)
    ckatorch, pytorch_cka = installed("ckatorch"), installed("cka")

    for count in options.threads:
        with threads(count):
            where = f"n {n:,}, d {d}, {count} threads"
            run("cka", f"a pair, linear, {where}", list(linear_pair(*Xs[:2], ckatorch, pytorch_cka)), options)
            run("cka", f"a pair, RBF, {where}", list(rbf_pair(*Xs[:2], ckatorch)), options)
            for models in ensembles:
                few = Xs[:models]
                run(
                    "cka", f"{models} models, linear, {where}", list(linear_matrix(few, pytorch_cka)), options
                )
                run("cka", f"{models} models, all kinds, {where}", list(all_matrices(few)), options)
    for models in ensembles:
        memory(models, n, d, options)


if __name__ == "__main__":
    main()

"""CKA of a pair of representations and of whole ensembles, beside what researchers use today.

    python benchmarks/cka.py [--repeats 3] [--threads 2] [--models 28 63]

Representations look like activations: projections of 4,413 cities' coordinates and noise, of different
scales, 1,000 away from zero, float32. An error is the largest relative error of CKA against NumPy in float64
with n x n matrices, on the first models. RBF's bandwidth is the median distance; worldfast's is that of a
sample of rows, and its error is that of CKA with the same bandwidth. A limit is the least number of
operations known, in products of the dtype that is named. Peak memory is that of a process of its own, beyond
what it held with its inputs made.
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
from worldfast.analysis.gram import gram_statistics

CHECKED = 3  # models whose CKA is compared with the reference
SAMPLED = 8  # pairs that stand for all, where all would take minutes
KERNELS = ("linear", "rbf")


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


def centred(K, debiased):
    """K [n, n] such that HSIC is a sum of products, up to a factor of n: Kornblith et al. 2019.

    Debiased: the U-centring of Szekely and Rizzo 2014, whose sums are Song et al. 2012, equation 5.
    """
    n = len(K)
    if not debiased:
        means = K.mean(0)
        return K - means - means[:, None] + means.mean()
    K = K - np.diag(K.diagonal())
    sums = K.sum(0)
    K += sums.sum() / ((n - 1) * (n - 2)) - (sums + sums[:, None]) / (n - 2)
    np.fill_diagonal(K, 0)
    return K


def by_samples(X, Y, kernel="linear", debiased=False):
    """CKA from n x n matrices."""
    K, L = (centred(gram(A, kernel), debiased) for A in (X, Y))
    return np.vdot(K, L) / math.sqrt(np.vdot(K, K) * np.vdot(L, L))


def reference(Xs, kernel="linear"):
    """CKA of all pairs with worldfast's bandwidths: {debiased: float64 [M, M]}."""
    widths = gram_statistics(Xs, kernels=("rbf",)).bandwidth if kernel == "rbf" else [None] * len(Xs)
    grams = [gram(X, kernel, width) for X, width in zip(Xs, widths, strict=True)]
    found = {}
    for debiased in (False, True):
        Ks = [centred(K, debiased) for K in grams]
        sums = np.array([[np.vdot(K, L) for L in Ks] for K in Ks])
        scale = np.sqrt(sums.diagonal())
        found[debiased] = sums / scale / scale[:, None]
    return found


def relative_error(matrix, exact):
    """Error of the first models' CKA."""
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
    """Debiased linear CKA of all pairs of a [M, n, d], as pytorch-cka compares the layers of one model."""
    grams = torch.bmm(stack, stack.transpose(1, 2))
    found = peer.hsic_cross(grams, grams)
    scale = found.diagonal().sqrt()
    return found / scale / scale[:, None]


def installed(name):
    """A peer's module; None, which is said, where it is missing. pytorch-cka's has the name of this file."""
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
    moved = [torch.from_numpy((A - A.mean(0, dtype=np.float64)).astype(np.float32)) for A in (X, Y)]
    raw = [torch.from_numpy(A) for A in (X, Y)]
    X64, Y64 = X.astype(np.float64), Y.astype(np.float64)
    exact, debiased = (matrix[0, 1] for matrix in reference([X, Y]).values())

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
        yield Contestant(f"{name}, of centred data", lambda: peer(*moved), error_debiased, 1e-3, limits=single)
        yield Contestant(
            f"{name}, of the data as they are", lambda: peer(*raw), error_debiased, math.inf, limits=single
        )


def rbf_pair(X, Y, ckatorch):
    exact, ours = by_samples(X, Y, "rbf"), reference([X, Y], "rbf")[False][0, 1]
    double = least(2, *X.shape, torch.float64, "rbf")
    raw = [torch.from_numpy(A) for A in (X, Y)]

    yield Contestant(
        "worldfast, float32",
        lambda: wf.cka(X, Y, kernel="rbf"),
        lambda value: abs(value / ours - 1),
        1e-5,
        limits=least(2, *X.shape, kernel="rbf"),
    )
    yield Contestant("NumPy, n x n, float64", lambda: by_samples(X, Y, "rbf"), limits=double)
    if ckatorch:
        yield Contestant(
            "ckatorch, float64",
            lambda: ckatorch.cka_base(*raw, kernel="rbf"),
            lambda value: abs(float(value) / exact - 1),
            1e-5,
            limits=double,
        )


def linear_matrix(Xs, pytorch_cka):
    size = len(Xs), *Xs[0].shape
    limits, pairs = least(*size), math.comb(len(Xs), 2)
    exact, debiased = reference(Xs[:CHECKED]).values()
    sample = list(itertools.combinations(range(len(Xs)), 2))[:: max(1, pairs // SAMPLED)][:SAMPLED]
    sampled = {i: Xs[i] for pair in sample for i in pair}
    stack = torch.from_numpy(np.stack([X - X.mean(0, dtype=np.float64) for X in Xs]).astype(np.float32))

    def error(matrix):
        return relative_error(matrix, exact)

    yield Contestant("worldfast, float32", lambda: wf.cka_matrix(Xs), error, 1e-5, limits=limits)
    yield Contestant("NumPy, one stacked product, float32", lambda: stacked(Xs), error, 1e-2, limits=limits)
    for dtype, allowed in (("float32", 1e-2), ("float64", 1e-5)):
        typed = {i: X.astype(dtype) for i, X in sampled.items()}
        yield Contestant(
            f"NumPy, d x d, {dtype}, {len(sample)} pairs timed as {pairs:,}",
            lambda typed=typed: [by_features(typed[i], typed[j]) for i, j in sample],
            lambda found: abs(found[0] / exact[sample[0]] - 1),
            allowed,
            times=pairs / len(sample),
            limits=least(*size, getattr(torch, dtype)),
        )
    if pytorch_cka:
        ways = {
            "its cka_from_features": lambda: pytorch_cka.cka_from_features(stack, stack),
            "its Gram matrices made once": lambda: pytorch_cka_matrix(pytorch_cka, stack),
        }
        for way, compute in ways.items():
            yield Contestant(
                f"pytorch-cka, float32, debiased, of centred data, {way}",
                compute,
                lambda matrix: relative_error(matrix, debiased),
                1e-3,
                limits=limits,
            )


def all_matrices(arrays, device=None):
    """Time RBF and the debiased estimates beside the linear matrix; a device of None means NumPy arrays."""
    size = len(arrays), *arrays[0].shape
    exact = {kernel: reference(arrays[:CHECKED], kernel) for kernel in KERNELS}
    Xs = [torch.from_numpy(X).to(device) for X in arrays] if device else arrays
    linear, rbf = (least(*size, kernel=kernel, device=device or "cpu") for kernel in ("linear", "rbf"))

    def together():
        statistics = gram_statistics(Xs, kernels=("linear", "rbf"))
        return {
            (kernel, debiased): statistics.cka(kernel, debiased) for kernel in KERNELS for debiased in (False, True)
        }

    yield Contestant(
        "worldfast, linear",
        lambda: wf.cka_matrix(Xs),
        lambda matrix: relative_error(matrix, exact["linear"][False]),
        1e-5,
        limits=linear,
    )
    yield Contestant(
        "worldfast, RBF",
        lambda: wf.cka_matrix(Xs, kernel="rbf"),
        lambda matrix: relative_error(matrix, exact["rbf"][False]),
        1e-5,
        limits=rbf,
    )
    yield Contestant(
        "worldfast, linear and RBF, each plain and debiased, together",
        together,
        lambda found: max(relative_error(matrix, exact[k][d]) for (k, d), matrix in found.items()),
        1e-5,
        limits=rbf,
    )


# ---- memory ----


def peak():
    """The most memory this process has held, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def peak_beyond_inputs(models, n, d, kernel):
    """MB that a matrix takes, in a process of its own. Making the inputs takes little beyond them."""
    Xs = representations(models, n, d)
    before = peak()
    wf.cka_matrix(Xs, kernel=kernel)
    return peak() - before


def memory(models, n, d, options):
    case = f"{models} models, n {n:,}, d {d}, peak memory beyond inputs of {models * n * d * 4 / 1e6:.0f} MB"
    found, context = [], multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worldfast.analysis.gram"])  # with torch, once
    for kernel in KERNELS:
        with context.Pool(1) as process:
            most = process.apply(peak_beyond_inputs, (models, n, d, kernel))
        found.append(Row(f"worldfast, {kernel}", median=most, p20=most, p80=most, repeats=1))
        record(options.results, "cka", case, found[-1:], "MB")
    show(case, found, "MB")


def main():
    parser = arguments(__doc__, repeats=3, threads=[CORES])
    parser.add_argument("--models", type=int, nargs="+", default=[28, 63], metavar="M")
    options = parser.parse_args()
    n, d, ensembles = (150, 8, [5]) if options.quick else (4_413, 256, options.models)
    for models in ensembles:  # first of all: a process's peak begins with the size of the one that starts it
        memory(models, n, d, options)
    Xs = representations(max(ensembles), n, d)
    ckatorch, pytorch_cka = installed("ckatorch"), installed("cka")
    for count in options.threads:
        with threads(count):
            where = f"n {n:,}, d {d}, {count} threads"
            run("cka", f"a pair, linear, {where}", list(linear_pair(*Xs[:2], ckatorch, pytorch_cka)), options)
            run("cka", f"a pair, RBF, {where}", list(rbf_pair(*Xs[:2], ckatorch)), options)
            for models in ensembles:
                case = f"{models} models, linear, {where}"
                run("cka", case, list(linear_matrix(Xs[:models], pytorch_cka)), options)
            case = f"{ensembles[0]} models, all kinds, {where}"
            run("cka", case, list(all_matrices(Xs[: ensembles[0]])), options)


if __name__ == "__main__":
    main()

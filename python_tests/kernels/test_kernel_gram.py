"""Gram statistics: against float64, interpreted where there is no GPU; and what the kernels compile to."""

import math

import pytest
import torch

pytest.importorskip("triton")
from ahead_of_time import Build, compiled, needs_compiler

from worldfast.kernels import gram

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOTH = ("linear", "rbf")


@pytest.fixture
def small(monkeypatch):
    """Tiles that small inputs fill and the interpreter gets through; a GPU has them as they are."""
    if DEVICE == "cpu":
        monkeypatch.setattr(gram, "TILE", 32)
        monkeypatch.setattr(gram, "PART", 512)
        monkeypatch.setattr(gram, "DOT_K", 128)


def prepared(X):
    """Centred, and the power of two that takes the largest magnitude to [1, 2)."""
    X = X.double() - X.double().mean(0)
    return torch.ldexp(X, 1 - torch.frexp(X.abs().max()).exponent).float().contiguous().to(DEVICE)


def drawn(n, widths, seed=0):
    """Representations that share a part, columns of unlike size, two things alike."""
    random = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 3, generator=random)
    Xs = []
    for d in widths:
        X = shared @ torch.randn(3, d, generator=random) + torch.randn(n, d, generator=random)
        X *= torch.randn(d, generator=random).exp()
        X[-1] = X[0]
        Xs.append(prepared(X))
    return Xs


def median_gamma(Xs):
    """float64 [M]: one over twice the median squared distance."""
    distances = [torch.pdist(X.double().cpu()).square() for X in Xs]
    return torch.stack([0.5 / d[d > 0].median() for d in distances]).to(DEVICE)


def level_of(gamma):
    """float64 [M], that of a median bandwidth."""
    return None if gamma is None else torch.full_like(gamma, 0.5)


def statistics(Xs, kernels, gamma=None):
    """Ours, with NaN in all memory that is not written."""
    torch.use_deterministic_algorithms(True)
    try:
        return gram.gram_statistics(Xs, kernels, gamma, level_of(gamma))
    finally:
        torch.use_deterministic_algorithms(False)


def alignments(products, row_sums, n):
    """[M, M]: CKA from the statistics."""
    if row_sums is None:
        row_sums = products.new_zeros(len(products), n)
    cross, total = row_sums @ row_sums.T, row_sums.sum(1)
    hsic = products - 2 / n * cross + torch.outer(total, total) / n**2
    return hsic / torch.outer(hsic.diagonal(), hsic.diagonal()).sqrt()


def assert_right(Xs, kernels, gamma=None, tolerance=1e-6):
    n, found = len(Xs[0]), statistics(Xs, kernels, gamma)
    assert list(found) == list(kernels)
    for kernel, (products, row_sums) in gram.reference_statistics(Xs, kernels, gamma, level_of(gamma)).items():
        ours, our_sums = found[kernel]
        assert ours.dtype == torch.float64 and torch.equal(ours, ours.T)
        size = torch.outer(products.diagonal(), products.diagonal()).sqrt()
        error = ((ours - products).abs() / size).max()
        assert error < tolerance, f"{kernel}: products err by {error:.1e} of their size"
        if kernel == "linear":
            assert our_sums is None
        else:
            error = (our_sums - row_sums).abs().max() / n
            assert error < tolerance, f"row sums err by {error:.1e} an entry"
        torch.testing.assert_close(alignments(ours, our_sums, n), alignments(products, row_sums, n), rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [3, 5, 31, 32, 33, 100])
@pytest.mark.parametrize("widths", [[3], [7, 40], [1, 3, 33, 64, 100]], ids=str)
def test_against_float64(small, n, widths):
    Xs = drawn(n, widths, seed=n)
    assert_right(Xs, BOTH, median_gamma(Xs))


@pytest.mark.parametrize("M", [16, 17, 33, 65])
def test_many_representations(small, M):
    """More than one block of them, and blocks that are not full."""
    Xs = drawn(21, [3] * M)
    assert_right(Xs, BOTH, median_gamma(Xs))


def test_tiles_as_they_are():
    Xs = drawn(150, [20, 65])
    assert_right(Xs, BOTH, median_gamma(Xs))


@pytest.mark.parametrize("tiles", [1, 3, 4])
def test_workspace_of_a_few_tiles(small, monkeypatch, tiles):
    Xs = drawn(3 * gram.TILE + 5, [6, 9])
    gamma = median_gamma(Xs)
    whole = statistics(Xs, BOTH, gamma)
    monkeypatch.setattr(gram, "WORKSPACE_BYTES", tiles * len(BOTH) * len(Xs) * gram.TILE**2 * 4)
    chunked = statistics(Xs, BOTH, gamma)
    for kernel in BOTH:
        torch.testing.assert_close(chunked[kernel][0], whole[kernel][0], rtol=1e-14, atol=0)
    assert torch.equal(chunked["rbf"][1], whole["rbf"][1])


def test_same_bits_again_and_alone(small):
    Xs = drawn(70, [5, 40])
    gamma = median_gamma(Xs)
    first, again = statistics(Xs, BOTH, gamma), statistics(Xs, BOTH, gamma)
    for kernel in BOTH:
        alone = statistics(Xs, (kernel,), gamma)
        for other in (again, alone):
            assert torch.equal(first[kernel][0], other[kernel][0])
    assert torch.equal(first["rbf"][1], again["rbf"][1]) and torch.equal(first["rbf"][1], alone["rbf"][1])


@pytest.mark.parametrize("multiple", [0.1, 30.0, 3e3, 1e5])
def test_any_bandwidth(small, multiple):
    """Entries near one, or near zero, less a constant like them: the difference keeps its digits."""
    Xs = drawn(70, [5, 40])
    gamma = median_gamma(Xs) / multiple**2
    level = 0.5 * torch.full_like(gamma, multiple**-2)
    level[level > 4] = torch.inf
    [(products, row_sums)] = gram.gram_statistics(Xs, ("rbf",), gamma, level).values()
    Ks = []
    for X, g, base in zip(Xs, gamma, level):
        exponent = -g * (X.double()[:, None] - X.double()[None, :]).square().sum(2)
        Ks.append(torch.exp(-base) * torch.expm1(exponent + base) if base.isfinite() else exponent.exp())
    K = torch.stack(Ks)
    torch.testing.assert_close(row_sums, K.sum(2), rtol=1e-5, atol=1e-6 * float(K.abs().max()) * 70)
    expected = alignments(torch.einsum("aij,bij->ab", K, K), K.sum(2), 70)
    torch.testing.assert_close(alignments(products, row_sums, 70), expected, rtol=1e-5, atol=0)


def independent(n, d):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(1))


def outlier(n, d, place):
    X, Y = independent(n, d)
    X[place] *= 1000
    return X, Y


@pytest.mark.parametrize(
    "pair",
    [
        independent(90, 2),  # CKA near 0
        independent(40, 300),
        (independent(90, 20)[0], independent(90, 20)[0] + 1e-3 * independent(90, 20)[1]),  # and near 1
        outlier(90, 20, (slice(None), 0)),
        outlier(90, 20, 0),
        (independent(90, 20)[0] + 1000, independent(90, 20)[1] * 1e-30),
    ],
    ids=["independent", "wide", "alike", "outlying column", "outlying thing", "offset and tiny"],
)
def test_alignment_is_good_to_five_digits(small, pair):
    Xs = [prepared(X) for X in pair]
    assert_right(Xs, BOTH, median_gamma(Xs), tolerance=5e-6)


def test_a_small_column_beside_a_large_one(small):
    """What distances within two far clusters are made of needs the second float16."""
    X = independent(60, 4)[0] * 2**-10
    X[:, 0] = torch.arange(60) % 2
    X, n = prepared(X), 60
    gamma = torch.full((1,), 2.0**16, dtype=torch.float64, device=DEVICE)
    [(_, row_sums)] = statistics([X], ("rbf",), gamma).values()
    [(_, expected)] = gram.reference_statistics([X], ("rbf",), gamma, level_of(gamma)).values()
    bound = 2 * gamma * X.double().square().sum(1).max() * 2.0**-22
    assert (row_sums - expected).abs().max() / n < bound


def test_no_distance_to_itself_is_exact(small):
    """Everything else is so far away that its exp(-gamma |x - y|^2) is 0."""
    Xs = [prepared(independent(40, 20)[0])]
    gamma = torch.full((1,), 2.0**20, dtype=torch.float64, device=DEVICE)
    [(_, row_sums)] = statistics(Xs, ("rbf",), gamma).values()
    torch.testing.assert_close(row_sums, torch.full_like(row_sums, 1 - 40 * math.exp(-0.5)), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_too_large_is_nan_not_wrong(small):
    Xs = drawn(40, [5, 6])
    [(products, _)] = statistics([Xs[0], Xs[1] * 4], ("linear",)).values()
    assert products[0, 0].isfinite() and products[1].isnan().all()


# ---- bad input ----

X, GAMMA = torch.ones(6, 3, device=DEVICE), torch.ones(1, dtype=torch.float64, device=DEVICE)


@pytest.mark.parametrize(
    "Xs,kernels,gamma,error,message",
    [
        ([], BOTH, GAMMA, ValueError, "Xs: expected at least one"),
        ([X], (), GAMMA, ValueError, "kernels: .* linear, rbf"),
        ([X], ("liner",), GAMMA, ValueError, "did you mean 'linear'"),
        ([X, X.tolist()], BOTH, GAMMA, TypeError, r"Xs\[1\]: .* list"),
        ([X, X.double()], BOTH, GAMMA, TypeError, r"Xs\[1\]: .* torch.float64"),
        ([X, X[0]], BOTH, GAMMA, ValueError, r"Xs\[1\]: .* \[3\]"),
        ([X, X[:5]], BOTH, GAMMA, ValueError, r"Xs\[1\]: .* \[6, d\].* \[5, 3\]"),
        ([X[:, :0]], BOTH, GAMMA, ValueError, r"Xs\[0\]: .* not empty"),
        ([X[:0]], BOTH, GAMMA, ValueError, r"Xs\[0\]: .* not empty"),
        ([X[:, :2]], BOTH, GAMMA, ValueError, r"Xs\[0\]: .* contiguous"),
        ([X, X.to("meta")], BOTH, GAMMA, ValueError, r"Xs\[1\]: .* meta"),
        ([X], BOTH, None, TypeError, "gamma: .* NoneType"),
        ([X], BOTH, 1.0, TypeError, "gamma: .* float"),
        ([X], BOTH, GAMMA.float(), TypeError, "gamma: .* torch.float32"),
        ([X, X], BOTH, GAMMA, ValueError, r"gamma: .* \[2\].* \[1\]"),
        ([X], BOTH, GAMMA[0], ValueError, r"gamma: .* 1 dimension"),
        ([X], BOTH, GAMMA.to("meta"), ValueError, "gamma: .* meta"),
    ],
)
def test_refuses(Xs, kernels, gamma, error, message):
    with pytest.raises(error, match=message):
        gram.gram_statistics(Xs, kernels, gamma)


def test_refuses_the_cpu(monkeypatch):
    monkeypatch.setattr(gram.triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match=r"Xs\[0\]: expected a CUDA tensor, got one on cpu"):
        gram.gram_statistics([X.cpu()], ("linear",))


# ---- what it compiles to ----

PLACES = {"tile_rows": "*i32", "tile_columns": "*i32"}


def tiles(arch, kernels):
    pointers = {"linear": "*fp32:16", "rbf": "*fp32:16", "gamma": "*fp32:16", "level": "*fp32:16"}
    absent = {
        name for name in pointers if name not in kernels and not (name in ("gamma", "level") and "rbf" in kernels)
    }
    signature = {"halves": "*fp16:16", "widths": "*i64", "first_columns": "*i64", "norms": "*fp64:16"}
    signature |= PLACES | {"sums": "*fp32:16", "n": "i32", "columns": "i32:16", "plane": "i32:16"}
    signature |= {name: kind for name, kind in pointers.items() if name not in absent}
    constexprs = {"LINEAR": "linear" in kernels, "RBF": "rbf" in kernels} | dict.fromkeys(absent)
    constexprs |= {"TILE": gram.TILE, "BLOCK_K": gram.BLOCK_K}
    return Build(gram._gram_tiles, signature, constexprs, arch, **gram.TILE_OPTIONS)


def products(arch, models):
    signature = {"workspace": "*fp32:16", "block_rows": "*i32:16", "block_columns": "*i32"}
    signature |= PLACES | {"partials": "*fp64:16", "models": "i32"}
    constexprs = {"MODELS": models, "ENTRIES": gram.TILE**2, "PART": gram.PART, "DOT_K": gram.DOT_K}
    return Build(gram._tile_products, signature, constexprs, arch, **gram.PRODUCT_OPTIONS)


@needs_compiler
def test_matrix_instructions_and_registers():
    cases = [(arch, kernels) for arch in (80, 90) for kernels in (("linear",), ("rbf",), BOTH)]
    for case, binary in zip(cases, compiled([tiles(*case) for case in cases]), strict=True):
        arch, _ = case
        assert binary.count("HGMMA" if arch == 90 else "HMMA"), case
        assert not binary.count("FFMA") or "rbf" in case[1], case
        assert not binary.spills, (case, binary.registers)
        assert binary.shared <= 100_000, case
    cases = [(arch, models) for arch in (80, 90) for models in (16, 32, 64)]
    for case, binary in zip(cases, compiled([products(*case) for case in cases]), strict=True):
        assert binary.count("HMMA") + binary.count("HGMMA") and binary.count("DADD"), case
        assert not binary.spills, (case, binary.registers)

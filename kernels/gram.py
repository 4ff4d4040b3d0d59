"""Gram statistics for centred kernel alignment: sums over all pairs of things, without an n x n matrix in memory.

M representations X_a [n, d_a] of the same n things have Gram matrices K_a [n, n]: K_a = X_a X_a' ("linear") or K_a[i,
j] = exp(-gamma_a |x_i - x_j|^2) - exp(-level_a) ("rbf"), made without cancelling. The statistics are

    products[a, b] = sum over i, j of K_a[i, j] K_b[i, j]        row_sums[a, i] = sum over j of K_a[i, j]

Tiles of the Gram matrices on and below the diagonal are computed a few at a time for all representations, M n^2 d
operations in total. The products of such tiles are a Gram matrix of Gram matrices, M^2 n^2 / 2 operations. There are
four kernels::

    _split           X as a sum of two float16, whose products need no rounding, and its squared norms
    _gram_tiles      a tile of one representation, under all its kernels, to the workspace
    _add_row_sums    sums of the tiles' rows and columns to the things they belong to
    _tile_products   products of the representations' tiles

Sums over tiles are float64 and have one order: the same input gives the same bits.

M representations, n things, C columns of all representations side by side, T tiles in the workspace.
"""

import math
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from worldfast._native import expect
from worldfast.analysis.gram import KERNELS
from worldfast.errors import unknown_name

WORKSPACE_BYTES = 2**28
TILE = 128
# Entries that a program of _tile_products sums, of a tile's TILE * TILE.
PART = 2048
# Matrix units truncate their sums instead of rounding them, so no sum there is longer than these.
BLOCK_K = 32
DOT_K = 32
SPLIT_ROWS = 16
# Twice this is half of float16's range, so that the remainder after the first float16 is a normal number too:
# the two represent X to 2^-23 of an entry or 2^-39 of the largest, whichever is larger.
SCALE = tl.constexpr(2.0**14)


def reference_statistics(Xs, kernels, gamma=None, level=None):
    """Compute `gram_statistics` by its definition, in float64, with n x n matrices."""
    statistics = {}
    for kernel in kernels:
        Ks = []
        for a, X in enumerate(Xs):
            if kernel == "linear":
                Ks.append(X.double() @ X.double().T)
            else:
                difference = X.double()[:, None] - X.double()[None, :]  # [n, n, d]
                Ks.append(torch.exp(-gamma[a] * difference.square().sum(2)) - torch.exp(-level[a]))
        K = torch.stack(Ks)  # [M, n, n]
        products = torch.einsum("aij,bij->ab", K, K)
        statistics[kernel] = products, K.sum(2) if kernel == "rbf" else None
    return statistics


@triton.jit
def _split(
    pointers, widths, first_columns, halves, norms, n, columns, plane, ROWS: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Split SCALE * X into halves[0] + halves[1], padded with zeros to a multiple of BLOCK_K columns, and compute its
    norms.
    """
    model = tl.program_id(1)
    X = tl.load(pointers + model).to(tl.pointer_type(tl.float32))
    width = tl.load(widths + model)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BLOCK_K)
    inside = (rows < n)[:, None]
    source = X + rows.to(tl.int64)[:, None] * width + k[None, :]
    target = halves + rows.to(tl.int64)[:, None] * columns + tl.load(first_columns + model) + k[None, :]
    norm = tl.zeros([ROWS, BLOCK_K], tl.float64)
    for start in range(0, width, BLOCK_K):
        x = SCALE * tl.load(source + start, mask=inside & (start + k < width)[None, :], other=0.0)
        high = x.to(tl.float16)  # [ROWS, BLOCK_K]
        low = (x - high.to(tl.float32)).to(tl.float16)
        tl.store(target + start, high, mask=inside)
        tl.store(target + start + plane, low, mask=inside)
        both = high.to(tl.float64) + low.to(tl.float64)
        norm += both * both
    tl.store(norms + model.to(tl.int64) * n + rows, tl.sum(norm, 1), mask=rows < n)


@triton.jit
def _exp2_less(x, taken):
    """Return 2^x - taken, which is 0 or 1, with a relative error of 1e-7, near 0 too; x is from -126 to 126.

    The terms are those of the native core: of 2^f - 1 for f in [-0.5, 0.5], the highest power first.
    """
    whole = tl.floor(x + 0.5)
    f = x - whole
    p = 1.53533620e-4 * f + 1.33988739e-3
    p = p * f + 9.61843692e-3
    p = p * f + 5.55033237e-2
    p = p * f + 2.40226477e-1
    p = (p * f + 6.93147182e-1) * f
    power = tl.exp2(whole)
    return p * power + (power - taken)


@triton.jit(do_not_specialize_on_alignment=["tile_rows", "tile_columns"])
def _gram_tiles(
    halves,
    widths,
    first_columns,
    norms,
    gamma,
    level,
    tile_rows,
    tile_columns,
    linear,
    rbf,
    sums,
    n,
    columns,
    plane,
    LINEAR: tl.constexpr,
    RBF: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Set linear[t, a] and rbf[t, a] [TILE, TILE] to tile t of representation a, and sums[t, a] to its sums by row
    and by column.
    """
    tile, model = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, TILE)
    k = tl.arange(0, BLOCK_K)
    i = tl.load(tile_rows + tile) * TILE + lane
    j = tl.load(tile_columns + tile) * TILE + lane
    # Beyond the last thing the last is read again; its results are set to zero below.
    row, column = tl.minimum(i, n - 1), tl.minimum(j, n - 1)
    first = tl.multiple_of(tl.load(first_columns + model), BLOCK_K)
    left = halves + row.to(tl.int64)[:, None] * columns + first + k[None, :]
    right = halves + column.to(tl.int64)[None, :] * columns + first + k[:, None]
    gram = tl.zeros([TILE, TILE], tl.float32)
    for _ in range(0, tl.load(widths + model), BLOCK_K):
        left_high, left_low = tl.load(left), tl.load(left + plane)  # [TILE, BLOCK_K]
        right_high, right_low = tl.load(right), tl.load(right + plane)  # [BLOCK_K, TILE]
        # The small ones first. The product of the two low ones is 2^-24 of the whole and left out.
        product = tl.dot(left_low, right_high)
        product = tl.dot(left_high, right_low, product)
        gram += tl.dot(left_high, right_high, product)
        left += BLOCK_K
        right += BLOCK_K
    inside = (i < n)[:, None] & (j < n)[None, :]
    slot = tile.to(tl.int64) * tl.num_programs(1) + model
    entry = slot * (TILE * TILE) + lane[:, None] * TILE + lane[None, :]
    if LINEAR:
        tl.store(linear + entry, tl.where(inside, gram * (1 / (SCALE * SCALE)), 0.0))
    if RBF:
        # exp(-gamma |x - y|^2) = exp2(2 g xy - g xx - g yy): g is gamma with log2(e) and the scale inside.
        g = tl.load(gamma + model)
        norms += model.to(tl.int64) * n
        row_norm = (g.to(tl.float64) * tl.load(norms + row)).to(tl.float32)
        column_norm = (g.to(tl.float64) * tl.load(norms + column)).to(tl.float32)
        exponent = tl.minimum(2 * g * gram - row_norm[:, None] - column_norm[None, :], 0.0)
        exponent = tl.where(i[:, None] == j[None, :], 0.0, exponent)
        base = tl.load(level + model)
        taken = tl.where(base < float("inf"), 1.0, 0.0)
        base = tl.where(base < float("inf"), base, 0.0)
        exponent = tl.maximum(exponent + base, -126.0)
        K = tl.where(inside, _exp2_less(exponent, taken) * tl.exp2(-base), 0.0)
        tl.store(rbf + entry, K)
        tl.store(sums + slot * (2 * TILE) + lane, tl.sum(K, 1))
        tl.store(sums + slot * (2 * TILE) + TILE + lane, tl.sum(K, 0))


@triton.jit(do_not_specialize=["tiles"], do_not_specialize_on_alignment=["tile_rows", "tile_columns"])
def _add_row_sums(sums, tile_rows, tile_columns, row_sums, tiles, TILE: tl.constexpr):
    """Add to row_sums[a, block] the sums [T, M, 2, TILE] that belong there, tile after tile."""
    block, model = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, TILE)
    target = row_sums + (model.to(tl.int64) * tl.num_programs(0) + block) * TILE + lane
    total = tl.load(target)
    for tile in range(tiles):
        row, column = tl.load(tile_rows + tile), tl.load(tile_columns + tile)
        if (row == block) | (column == block):
            # A tile on the diagonal has the same sums by row and by column, and counts once.
            axis = tl.where(row == block, 0, 1)
            slot = (tile * tl.num_programs(1) + model).to(tl.int64)
            total += tl.load(sums + (slot * 2 + axis) * TILE + lane).to(tl.float64)
    tl.store(target, total)


@triton.jit(do_not_specialize_on_alignment=["block_columns", "tile_rows", "tile_columns"])
def _tile_products(
    workspace,
    block_rows,
    block_columns,
    tile_rows,
    tile_columns,
    partials,
    models,
    MODELS: tl.constexpr,
    ENTRIES: tl.constexpr,
    PART: tl.constexpr,
    DOT_K: tl.constexpr,
):
    """Set partials[p] [M, M] to products of PART entries of a tile, for the pairs of one MODELS x MODELS block."""
    block, part = tl.program_id(0), tl.program_id(1)
    tile = part // (ENTRIES // PART)
    k = part % (ENTRIES // PART) * PART + tl.arange(0, DOT_K)
    lane = tl.arange(0, MODELS)
    a = tl.load(block_rows + block) * MODELS + lane
    b = tl.load(block_columns + block) * MODELS + lane
    workspace += tile.to(tl.int64) * models * ENTRIES
    left = workspace + tl.minimum(a, models - 1)[:, None] * ENTRIES + k[None, :]
    right = workspace + tl.minimum(b, models - 1)[None, :] * ENTRIES + k[:, None]
    total = tl.zeros([MODELS, MODELS], tl.float64)
    for _ in range(0, PART, DOT_K):
        product = tl.dot(tl.load(left), tl.load(right), input_precision="tf32x3")
        total += product.to(tl.float64)
        left += DOT_K
        right += DOT_K
    # A tile below the diagonal stands for its mirror image as well.
    total *= tl.where(tl.load(tile_rows + tile) == tl.load(tile_columns + tile), 1.0, 2.0)
    target = partials + (part.to(tl.int64) * models + a[:, None]) * models + b[None, :]
    tl.store(target, total, mask=(a < models)[:, None] & (b < models)[None, :])


# These fit into the registers and the shared memory of an A100.
TILE_OPTIONS = {"num_warps": 8, "num_stages": 3}
PRODUCT_OPTIONS = {"num_warps": 4, "num_stages": 3}


def gram_statistics(
    Xs: list[Tensor], kernels: tuple[str, ...], gamma: Tensor | None = None, level: Tensor | None = None
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Compute products and row sums of the Gram matrices of M representations of the same n things.

    Entries of a Gram matrix are accurate to 2^-22 of |x_i| |x_j|, and those of "rbf" to 2 gamma times that: if gamma
    max|x|^2 is large, as for tight clusters far apart, distances within a cluster need float64. Memory: a copy of Xs,
    and WORKSPACE_BYTES or one tile of each representation. Runs on the current stream and never waits for the device.

    Parameters
    ----------
    Xs : list of Tensor
        M tensors float32 [n, d_a] on one CUDA device, contiguous, columns centred, largest magnitude from 1 to 2 (scale
        by a power of two). From 4 on results are NaN; far below 1 digits are lost. Scale and centring are not checked.
    kernels : tuple of str
        Some of "linear" and "rbf"; both use the same tiles.
    gamma, level : Tensor, optional
        float64 [M] on that device, required for "rbf"; level is at most 80, or
        infinite to take nothing off.

    Returns
    -------
    dict of str to (Tensor, Tensor or None)
        For each kernel products, float64 [M, M], and row sums, float64 [M, n]; the row sums of "linear" are zero by
        centring, and None.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape, layout or device, or a kernel is unknown.
    """
    _check(Xs, kernels, gamma, level)
    M, n, device = len(Xs), len(Xs[0]), Xs[0].device
    with torch.cuda.device_of(Xs[0]):
        halves, widths, first_columns, norms = _split_all(Xs)
        C = halves.shape[2]
        if "rbf" in kernels:
            gamma = (gamma * (math.log2(math.e) / SCALE.value**2)).float()
            level = (level * math.log2(math.e)).float()
        blocks = triton.cdiv(n, TILE)
        models = 16 if M <= 16 else 32 if M <= 32 else 64
        model_blocks = triton.cdiv(M, models)
        # (0, 0), (1, 0), (1, 1), (2, 0) ...: pairs of blocks of things; the first ones, of blocks of models.
        side = max(blocks, model_blocks)
        rows, columns = torch.tril_indices(side, side, dtype=torch.int32, device=device)
        tiles, model_pairs = blocks * (blocks + 1) // 2, model_blocks * (model_blocks + 1) // 2
        T = min(tiles, max(1, WORKSPACE_BYTES // (4 * len(kernels) * M * TILE * TILE)))
        workspaces = {kernel: torch.empty(T, M, TILE, TILE, dtype=torch.float32, device=device) for kernel in kernels}
        sums = torch.empty(T, M, 2, TILE, dtype=torch.float32, device=device)
        partials = torch.empty(T * TILE * TILE // PART, M, M, dtype=torch.float64, device=device)
        products = {kernel: torch.zeros(M, M, dtype=torch.float64, device=device) for kernel in kernels}
        row_sums = torch.zeros(M, blocks * TILE, dtype=torch.float64, device=device)
        for start in range(0, tiles, T):
            here = slice(start, min(start + T, tiles))
            count = here.stop - here.start
            places = rows[here], columns[here]
            linear, rbf = workspaces.get("linear"), workspaces.get("rbf")
            _gram_tiles[count, M](
                halves,
                widths,
                first_columns,
                norms,
                gamma,
                level,
                *places,
                linear,
                rbf,
                sums,
                n,
                C,
                n * C,
                "linear" in kernels,
                "rbf" in kernels,
                TILE,
                BLOCK_K,
                **TILE_OPTIONS,
            )
            if "rbf" in kernels:
                _add_row_sums[blocks, M](sums, *places, row_sums, count, TILE)
            parts = count * TILE * TILE // PART
            for kernel, workspace in workspaces.items():
                _tile_products[model_pairs, parts](
                    workspace, rows, columns, *places, partials, M, models, TILE * TILE, PART, DOT_K, **PRODUCT_OPTIONS
                )
                products[kernel] += partials[:parts].sum(0)
    # Entries above the diagonal's blocks were never written.
    symmetric = {kernel: lower.tril() + lower.tril(-1).T for kernel, lower in products.items()}
    return {kernel: (symmetric[kernel], row_sums[:, :n] if kernel == "rbf" else None) for kernel in kernels}


def _split_all(Xs):
    """Return halves float16 [2, n, C], widths and first columns int64 [M], and norms float64 [M, n]."""
    M, n, device = len(Xs), len(Xs[0]), Xs[0].device
    widths = [X.shape[1] for X in Xs]
    *first_columns, C = accumulate((triton.cdiv(width, BLOCK_K) * BLOCK_K for width in widths), initial=0)
    rows = [[X.data_ptr() for X in Xs], widths, first_columns]
    table = torch.tensor(rows, dtype=torch.int64, device="cpu").to(device, non_blocking=True)
    pointers, widths, first_columns = table
    halves = torch.empty(2, n, C, dtype=torch.float16, device=device)
    norms = torch.empty(M, n, dtype=torch.float64, device=device)
    _split[triton.cdiv(n, SPLIT_ROWS), M](
        pointers, widths, first_columns, halves, norms, n, C, n * C, SPLIT_ROWS, BLOCK_K
    )
    return halves, widths, first_columns, norms


def _check(Xs, kernels, gamma, level):
    if not kernels:
        raise ValueError(f"kernels: expected some of {', '.join(KERNELS)}, got none")
    for kernel in kernels:
        if kernel not in KERNELS:
            raise unknown_name("kernel", kernel, KERNELS)
    if not Xs:
        raise ValueError("Xs: expected at least one representation, got none")
    for a, X in enumerate(Xs):
        _expect(f"Xs[{a}]", X, torch.float32, 2, Xs[0])
        if len(X) != len(Xs[0]) or not X.numel():
            raise ValueError(f"Xs[{a}]: expected shape [{len(Xs[0])}, d], not empty, got {list(X.shape)}")
        if not X.is_contiguous():
            raise ValueError(f"Xs[{a}]: expected a contiguous tensor, got strides {X.stride()}")
    if "rbf" in kernels:
        for name, given in (("gamma", gamma), ("level", level)):
            _expect(name, given, torch.float64, 1, Xs[0])
            if len(given) != len(Xs):
                raise ValueError(f"{name}: expected shape [{len(Xs)}], got {list(given.shape)}")


def _expect(name, x, dtype, ndim, beside):
    expect(name, x, [dtype], ndim)
    if x.device != beside.device:
        raise ValueError(f"{name}: expected a tensor on {beside.device} as Xs[0], got one on {x.device}")
    if not (x.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"{name}: expected a CUDA tensor, got one on {x.device}")

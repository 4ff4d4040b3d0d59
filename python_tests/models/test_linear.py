"""Products of a linear layer against float64: every vector width, odd sizes, rows with gaps, both kinds of numbers."""

import numpy as np
import pytest
import torch

from worldfast._native import core

SIZES = [(1, 1, 2), (3, 7, 2), (8, 32, 16), (13, 33, 40), (97, 98, 128), (64, 31, 300), (5, 130, 514)]


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_gaps(x):
    """The same numbers in rows that NaN separates."""
    wide = torch.full((len(x), x.shape[1] + 6), torch.nan, dtype=x.dtype)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


def plain_error(x, w, exact):
    """What torch errs by in float32, with the numbers that are multiplied."""
    return ((x.float() @ w.float().T).double() - exact).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows,lines,depth", SIZES)
def test_linear(vector_width, dtype, rows, lines, depth):
    x, w = with_gaps(drawn(rows, depth, dtype=dtype)), drawn(lines, depth, seed=1)
    out = torch.full((rows, lines), torch.nan)
    core.linear(x, w, out)
    multiplied = w.to(dtype)  # rounded as they are packed
    exact = x.double() @ multiplied.double().T
    assert (out - exact).abs().max() <= 2 * plain_error(x, multiplied, exact) + 1e-6 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows,lines,depth", [*SIZES, (256, 40, 33), (777, 9, 5), (352, 64, 64), (300, 24, 96)])
def test_gradient_is_added(vector_width, dtype, rows, lines, depth):
    g, x = with_gaps(drawn(rows, lines, dtype=dtype)), with_gaps(drawn(rows, depth, dtype=dtype, seed=1))
    before = drawn(lines, depth, seed=2)
    gradient = before.clone()
    core.linear_gradient(g, x, gradient)
    exact = before.double() + g.double().T @ x.double()
    plain = (before + g.float().T @ x.float() - exact).abs().max()
    assert (gradient - exact).abs().max() <= 2 * plain + 1e-6 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows,columns", [(2, 64), (33, 64), (300, 128), (300, 66)])
def test_rows_that_are_one_row_or_overlap(vector_width, dtype, rows, columns):
    """Views of which rows are 0 floats, or a few, apart."""
    apart = {"one row": drawn(1, columns, dtype=dtype).expand(rows, columns)}
    apart["overlapping"] = drawn(1, columns + 2 * rows, dtype=dtype).as_strided((rows, columns), (2, 1))
    w = drawn(40, columns, seed=1)
    for what, x in apart.items():
        out, copied = torch.empty(2, rows, 40).unbind()
        core.linear(x, w, out)
        core.linear(x.contiguous(), w, copied)
        assert torch.equal(out, copied), what
        for g in (drawn(rows, columns, dtype=dtype, seed=2), x):
            for one, other in ((g, x), (x, g)):
                gradient, copied = torch.zeros(2, columns, columns).unbind()
                core.linear_gradient(one, other, gradient)
                core.linear_gradient(one.contiguous(), other.contiguous(), copied)
                assert torch.equal(gradient, copied), what


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_wherever_it_stands(dtype):
    x, w = drawn(41, 96, dtype=dtype), drawn(70, 96, seed=1)
    whole, alone = torch.empty(41, 70), torch.empty(1, 70)
    core.linear(x, w, whole)
    for row in (0, 7, 36, 40):
        core.linear(x[row : row + 1], w, alone)
        assert torch.equal(alone[0], whole[row])


def test_not_finite_numbers_stay_in_their_rows(vector_width):
    for dtype in (torch.float32, torch.bfloat16):
        x, w = drawn(20, 10, dtype=dtype), drawn(35, 10, seed=1)
        clean, out = torch.empty(20, 35), torch.empty(20, 35)
        core.linear(x, w, clean)
        x[3, 9], x[11, 0] = torch.nan, torch.inf
        core.linear(x, w, out)
        assert out[3].isnan().all() and not out[11].isfinite().any()
        others = [i for i in range(20) if i not in (3, 11)]
        assert torch.equal(out[others], clean[others])


def test_refuses():
    x, w, out = drawn(3, 4), drawn(5, 4), torch.empty(3, 5)
    with pytest.raises(TypeError, match="x: expected dtype float32 or bfloat16, got dtype float64"):
        core.linear(x.double(), w, out)
    with pytest.raises(ValueError, match=r"x: expected shape \[any, 4\], got shape \[3, 6\]"):
        core.linear(drawn(3, 6), w, out)
    with pytest.raises(ValueError, match="x: expected unit stride on the last axis, got stride 3"):
        core.linear(drawn(4, 3).T, w, out)
    with pytest.raises(ValueError, match="x: expected an even number of columns, got 3"):
        core.linear(drawn(3, 3, dtype=torch.bfloat16), drawn(5, 3), out)
    with pytest.raises(ValueError, match=r"grad_out: expected shape \[3, any\], got shape \[2, 5\]"):
        core.linear_gradient(drawn(2, 5), x, torch.empty(5, 4))
    with pytest.raises(ValueError, match="gradient: expected a writable array"):
        core.linear_gradient(drawn(3, 5), x, np.broadcast_to(np.float32(0), (5, 4)).view())


def test_no_columns_are_a_product_of_zeros(vector_width):
    """Of nothing, no memory is taken: neither of an arena that has none yet."""
    out = torch.full((5, 3), torch.nan)
    core.linear(drawn(5, 0), drawn(3, 0), out)
    assert (out == 0).all()
    core.linear(drawn(0, 4), drawn(3, 4), torch.empty(0, 3))
    gradient = torch.ones(3, 4)
    core.linear_gradient(drawn(0, 3), drawn(0, 4), gradient)
    assert (gradient == 1).all()

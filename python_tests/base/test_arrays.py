"""The door for arrays: every kind that is taken means the same numbers, and every other is refused by name."""

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from stand_ins import OneCheckpoint

import worldfast as wf
from worldfast import arrays
from worldfast.analysis import dimension, generalisation, knn, pca, probe, procrustes, stats
from worldfast.arrays import numbers

random = np.random.default_rng(3)
X = (random.integers(-100, 100, (40, 6)) / 8).astype(np.float32)  # every float type but the 8-bit ones holds these
Y = X @ random.normal(size=(6, 4)) + random.normal(size=(40, 4))
XY = random.normal(size=(40, 2))
TEST = np.arange(40) % 4 == 0


class Shared:
    """An array of another library: DLPack and nothing else, or with a conversion to NumPy."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


class Converted:
    """An array of another library that NumPy knows how to read."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._array, dtype=dtype)


class Stored:
    """A dataset whose slices of rows `given` makes."""

    def __init__(self, array, given):
        self.shape, self.dtype, self._array, self._given = array.shape, array.dtype, array, given

    def __getitem__(self, rows):
        return self._given(self._array, rows)


def packed(array):
    """The same numbers in records of odd size: no element at a multiple of its own."""
    records = np.zeros(array.shape, dtype=[("odd", "u1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


KINDS = {
    "numpy": lambda x: x,
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "long double": lambda x: x.astype(np.longdouble),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "Fortran order": np.asfortranarray,
    "backwards twice": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "records": packed,
    "matrix": np.asmatrix,
    "list": lambda x: x.tolist(),
    "pandas": pd.DataFrame,
    "torch": torch.tensor,
    "torch bfloat16": lambda x: torch.tensor(x).bfloat16(),
    "torch float16": lambda x: torch.tensor(x).half(),
    "torch, gradient": lambda x: torch.tensor(x, requires_grad=True),
    "torch, parameter": lambda x: torch.nn.Parameter(torch.tensor(x).double()),
    "torch, negated view": lambda x: torch.complex(torch.zeros(x.shape), -torch.tensor(x)).conj().imag,
    "torch, transposed": lambda x: torch.tensor(x.T.copy()).T,
    "DLPack": lambda x: Shared(torch.tensor(x)),
    "DLPack bfloat16": lambda x: Shared(torch.tensor(x).bfloat16()),
    "__array__": Converted,
    "dataset": lambda x: Stored(x, lambda array, rows: array[rows]),
    "big-endian dataset": lambda x: Stored(x.astype(">f4"), lambda array, rows: array[rows]),
    "numbers": lambda x: numbers(x, "X"),
}

# Each public entry: what it makes of representations, to be the same number for every kind of array.
ENTRIES = {
    "cka": lambda x: wf.cka(x, Y),
    "cka rbf": lambda x: wf.cka(Y, x, "rbf"),
    "cka components": lambda x: wf.cka(x, Y, components=2),
    "cka_matrix": lambda x: wf.cka_matrix([x, Y])[0, 1],
    "cka_minibatch": lambda x: wf.cka_minibatch([x, Y], 8)[0, 1],
    "cka_standard_error": lambda x: wf.cka_standard_error([x, Y])[0, 1],
    "gram_statistics": lambda x: wf.gram_statistics([x, Y]).hsic()[0, 1],
    "procrustes": lambda x: procrustes(x, Y),
    "mutual_knn": lambda x: knn.mutual_knn(x, Y, 5),
    "participation_ratio": dimension.participation_ratio,
    "two_nn": dimension.two_nn,
    "linear_probe": lambda x: probe.linear_probe(x, XY, TEST).r2,
    "probe_over_training": lambda x: probe.probe_over_training(OneCheckpoint(x), 1, XY, TEST)[0].r2,
    "fit_map": lambda x: probe.fit_map(x, XY).predict(x),
    "probe_generalisation": lambda x: generalisation.probe_generalisation(x, XY, TEST, {"rest": ~TEST})["error"],
    "pca_over_training": lambda x: pca.pca_over_training(OneCheckpoint(x), 1, 2).explained,
    "mixed_over_training": lambda x: pca.mixed_over_training(OneCheckpoint(x), 1, XY).explained,
    "bootstrap": lambda x: stats.bootstrap(x, resamples=10).value,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_kind_of_array_is_taken_by_every_entry(entry):
    expected = ENTRIES[entry](X)
    for kind, made in KINDS.items():
        np.testing.assert_allclose(ENTRIES[entry](made(X)), expected, rtol=1e-5, atol=1e-8, err_msg=kind)
    whole = (X * 8).astype(int) + 100
    for dtype in ("uint8", "int16", "int64", "uint64"):
        found = [ENTRIES[entry](whole.astype(kind)) for kind in (dtype, float)]
        np.testing.assert_allclose(*found, rtol=1e-9, err_msg=dtype)


@pytest.mark.parametrize("order", ["<f4", ">f4", ">f8", "<f2", ">i4"])
def test_hdf5_of_every_byte_order(tmp_path, order):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("x", data=(X * 8).astype(order), chunks=(7, 6), compression="gzip")
        for entry, made in ENTRIES.items():
            np.testing.assert_allclose(made(stored), made(X * 8), rtol=1e-5, atol=1e-8, err_msg=entry)


def hidden(array):
    return np.ma.MaskedArray(array, mask=array > 5)


REFUSED = {
    "bool": (lambda x: x > 0, "got dtype bool: a mask selects rows"),
    "torch bool": (lambda x: torch.tensor(x > 0), "got dtype torch.bool: a mask selects rows"),
    "complex": (lambda x: x + 0j, "got dtype complex64: pass .*real and .*imag"),
    "torch complex": (lambda x: torch.tensor(x) + 0j, "got dtype torch.complex64"),
    "object": (lambda x: x.astype(object), r"got dtype object: pass .*astype\('float64'\)"),
    "text": (lambda x: x.astype(str), "got dtype <U"),
    "dates": (lambda x: x.astype("datetime64[s]"), "got dtype datetime64"),
    "records": (lambda x: x.view([("value", "f4")]), "expected real numbers"),
    "masked": (hidden, "got a MaskedArray: what its mask hides would count"),
    "masked, nothing hidden": (np.ma.asarray, "got a MaskedArray"),
    "rows that are masked": (lambda x: list(hidden(x)), "got a MaskedArray"),
    "a dataset of masked rows": (lambda x: Stored(x, lambda array, rows: hidden(array)[rows]), "got a MaskedArray"),
    "scipy": (scipy.sparse.csr_matrix, r"got a sparse csr_matrix: pass .*\.toarray\(\)"),
    "scipy array": (scipy.sparse.coo_array, "got a sparse coo_array"),
    "torch sparse": (lambda x: torch.tensor(x).to_sparse(), r"got a sparse Tensor: pass .*\.to_dense\(\)"),
    "torch csr": (lambda x: torch.tensor(x).to_sparse_csr(), "got a sparse Tensor"),
    "quantised": (lambda x: torch.quantize_per_tensor(torch.tensor(x), 0.1, 0, torch.qint8), r"\.dequantize\(\)"),
    "meta": (lambda x: torch.tensor(x).to("meta"), "got a meta one"),
    "a ragged list": (lambda x: [[1.0, 2.0], [3.0]], "expected an array, got a list"),
    "a text": (lambda x: "X", "expected real numbers"),
    "nothing": (lambda x: None, "expected real numbers, got dtype object"),
}


@pytest.mark.filterwarnings(
    "ignore:.*CSR:UserWarning", "ignore:.*quantization:UserWarning", "ignore:.*:DeprecationWarning"
)
@pytest.mark.parametrize("kind", REFUSED)
def test_every_entry_refuses_by_name(kind):
    made, message = REFUSED[kind]
    for entry in ENTRIES.values():
        with pytest.raises(TypeError, match=message):
            entry(made(X))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "made,message",
    [
        (lambda: None, "None is no array"),
        (lambda: {1.0, 2.0}, "a set is no array"),
        (lambda: {"a": X}, "a dict is no array"),
        (lambda: (x for x in X), "a generator is no array"),
        (lambda: [[1.0, None], [2.0, 3.0]], "None is no number"),
        (lambda: pd.DataFrame(X).assign(city="x"), "drop or fill city, .* such as 'x'"),
        (lambda: pd.DataFrame(X).astype("Float64").mask(X > 10), "drop or fill 0, .* such as <NA>"),
        (lambda: [[2**70, 1], [2, 3]], r"pass numpy\.asarray\(X, 'float64'\)"),
    ],
)
def test_advice_fits_what_came(made, message):
    with pytest.raises(TypeError, match=f"X: expected real numbers, got dtype object: {message}"):
        wf.cka(made(), Y)


def test_a_number_is_no_array():
    with pytest.raises(ValueError, match=r"X: expected \[n, d\], got a single number"):
        wf.cka(3, Y)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("entry", [wf.cka_matrix, wf.cka_minibatch, wf.cka_standard_error, wf.gram_statistics])
def test_sequences_of_arrays_have_one_door(entry):
    for single in (X, memoryview(X), pd.DataFrame(X), torch.tensor(X)):
        with pytest.raises(TypeError, match=r"Xs: .*got a single array \[40, 6\]: pass a list of arrays"):
            entry(single)
    for wrong, kind in (({"a": X}, "a dict"), ({1}, "a set"), (None, "None"), ("ab", "'ab'"), (3, "3")):
        with pytest.raises(TypeError, match=f"Xs: expected a sequence of arrays .*got {kind}"):
            entry(wrong)
    with pytest.raises(ValueError, match=r"Xs\[0\]: expected \[n, d\], got \[6\]: Xs is a list of arrays"):
        entry(X.tolist())
    both = np.stack([Y, Y[:, ::-1] ** 2])
    of = (lambda found: found.hsic()) if entry is wf.gram_statistics else np.asarray
    np.testing.assert_array_equal(of(entry(memoryview(both))), of(entry(list(both))))


@pytest.mark.parametrize("entry", ENTRIES)
def test_integers_that_float64_would_round_are_refused(entry):
    whole = (X * 8).astype(np.int64)
    far = 2**60 + whole
    for given in (far, -far, far.astype(np.uint64), torch.tensor(far), whole.astype(np.uint64) + np.uint64(2**63)):
        with pytest.raises(ValueError, match=r"holds integers of 2\*\*53 or more"):
            ENTRIES[entry](given)
    np.testing.assert_allclose(ENTRIES[entry](2**20 + whole), ENTRIES[entry](2.0**20 + whole), rtol=1e-9)


def test_long_doubles_beyond_float64_are_refused():
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        with pytest.raises(ValueError, match="X: holds float128 beyond float64's range"):
            wf.cka(X * np.longdouble("1e4000"), Y)


def test_masked_tensors_are_refused():
    from torch.masked import masked_tensor

    with pytest.warns(UserWarning):
        given = masked_tensor(torch.tensor(X), torch.tensor(X) < 5)
    with pytest.raises(TypeError, match="X: expected an array without a mask, got a MaskedTensor"):
        wf.cka(given, Y)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize(
    "given",
    [
        lambda array, rows: array[rows][:1],
        lambda array, rows: array[rows][:-1],
        lambda array, rows: array,
        lambda array, rows: array[rows][:, :1],
        lambda array, rows: array[rows].astype(np.float64),
        lambda array, rows: array[rows][0],
    ],
    ids=["one row", "a row less", "all rows", "one column", "another dtype", "a vector"],
)
def test_a_dataset_that_is_not_what_it_says(monkeypatch, kernel, given):
    monkeypatch.setattr("worldfast.analysis.gram.PANEL_BYTES", 1)  # blocks of 64 rows
    big = random.normal(size=(200, 3)).astype(np.float32)
    stored = Stored(big, given)
    with pytest.raises(ValueError, match=r"Xs\[0\]: expected float32 \[\d+, 3\] for rows \d+ to \d+"):
        wf.cka_matrix([stored, big], kernel)
    if stored[:].shape != big.shape:  # the others read all rows at once
        for call in (lambda: wf.cka_minibatch([stored, big], 20, kernel), lambda: knn.mutual_knn(stored, big)):
            with pytest.raises(ValueError, match=r"(X|Xs\[0\]): expected float32 \[200, 3\] for rows 0 to 200"):
                call()


def test_a_dataset_that_grows_shorter():
    """Rows that are gone by the second time they are read."""
    reads = iter([slice(None)] + [slice(0, -5)] * 10)
    stored = Stored(X, lambda array, rows: array[next(reads)][rows])
    with pytest.raises(ValueError, match=r"Xs\[0\]: expected float32"):
        for _ in range(3):
            wf.cka_matrix([stored, X])


def test_torch_defaults_do_not_matter():
    expected = {name: entry(X) for name, entry in ENTRIES.items()}
    try:
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("meta")
        found = {name: entry(X) for name, entry in ENTRIES.items()}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_masks_and_selections():
    for made in (np.asarray, torch.tensor, np.ndarray.tolist, pd.Series):
        assert np.array_equal(arrays.mask(made(TEST), "test", 40), TEST)
        assert np.array_equal(arrays.selection(made(TEST), "use", 40), np.flatnonzero(TEST))
        assert np.array_equal(arrays.selection(made(np.flatnonzero(TEST)), "use", 40), np.flatnonzero(TEST))
    for wrong in (TEST.astype(int), TEST[:-1], TEST[:, None]):
        with pytest.raises(ValueError, match="test: expected"):
            arrays.mask(wrong, "test", 40)
    with pytest.raises(TypeError, match="test: .* without a mask"):
        probe.linear_probe(X, XY, np.ma.MaskedArray(TEST, mask=TEST))
    with pytest.raises(IndexError, match="use: expected indices from 0 to 39, got 3 to 40"):
        arrays.selection([3, 40], "use", 40)
    with pytest.raises(TypeError, match="use: expected a bool mask"):
        arrays.selection([0.5], "use", 40)


def test_vectors_and_matrices_of_statistics_go_through_the_door():
    x = np.arange(6.0)
    for call in (
        lambda x: stats.mean_and_error(x, "seed").mean,
        stats.jackknife_error,
        lambda x: stats.correlation(x, np.arange(6.0) ** 2, permutations=10).r,
    ):
        for same in (torch.tensor(x, requires_grad=True), x.astype(">f4"), x.astype(int), x.tolist()):
            assert call(same) == pytest.approx(call(x))
        for wrong in (np.ma.MaskedArray(x, mask=x > 4), x > 2, x + 0j, scipy.sparse.csr_array(x[None])):
            with pytest.raises(TypeError, match="expected"):
                call(wrong)
    A = np.add.outer(x, x) ** 2
    with pytest.raises(TypeError, match="A: .* without a mask"):
        stats.mantel(np.ma.asarray(A), A)
    with pytest.raises(TypeError, match="groups: .* without a mask"):
        stats.bootstrap(x, groups=np.ma.asarray(x), resamples=10)


def test_a_permutation_is_one():
    for n in (0, 1, 2, 1000):
        for key in (0, 1, 2**63):
            assert np.array_equal(np.sort(arrays.permuted(n, key)), np.arange(n))
    assert arrays.permuted(10).tolist() == arrays.permuted(10).tolist() != arrays.permuted(10, 1).tolist()
    order = arrays.permuted(100_000)
    for period in (1, 2, 5, 7, 64, 1000):  # neighbours, and what is a period apart, are strangers
        assert abs(np.corrcoef(order[:-period], order[period:])[0, 1]) < 0.015
        assert abs(np.corrcoef(order[:-period] % period, order[period:] % period)[0, 1] if period > 1 else 0) < 0.015
    few = arrays.sampled(100_000, 2000)
    assert (np.diff(few) > 0).all() and abs(few.mean() / 50_000 - 1) < 0.05
    assert arrays.sampled(2000, 2000) == slice(None)


def test_masks_of_labels_worlds_and_readouts_are_refused():
    points = np.zeros((4, 2, 2), dtype=np.int32)
    points[:, 1] = 5
    with pytest.raises(TypeError, match="xy: expected an array without a mask"):
        wf.label("distance", xy=np.ma.MaskedArray(points, mask=points > 3))
    with pytest.raises(TypeError, match="count: expected an array without a mask"):
        wf.label("inside", xy=points, count=np.ma.asarray(np.full(4, 2, dtype=np.int32)))
    with pytest.raises(TypeError, match="xy: expected an array without a mask"):
        wf.World.from_array(np.ma.MaskedArray(points[:, 1], mask=points[:, 1] > 3))
    with pytest.raises(TypeError, match="xy: expected a dense array"):
        wf.World.from_array(scipy.sparse.csr_array(points[:, 1]))

"""The door that arrays come in by: what a caller holds becomes real numbers of a known shape, or a typed error.

Taken are numpy and torch (any device), cupy and jax, anything with `__dlpack__` or `__array__`, nested sequences, and
datasets that are read in slices of rows (HDF5, zarr). Elements are floats of any width and byte order, bfloat16
included, or integers, which become float64. Gradients are left behind. Refused by name are

    bool        it selects and does not count: an error where numbers are wanted, the only thing taken where a mask is
    integers    of 2**53 or more, which float64 would round, and long doubles beyond its range
    complex, object, quantised and sparse arrays, and masked ones, since what their mask hides would count
    a dataset   whose rows come in another shape or dtype than it says it has

Nothing here depends on torch's default dtype or device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from worldfast._native import on_gpu
from worldfast.display import count

NATIVE = ("float16", "bfloat16", "float32", "float64")  # read by the native core as they are
SINGLE = re.compile(r"float32|b?float16|float[468]_\w+")  # at most float32's digits
REAL = re.compile(r"b?float\d+\w*|u?int\d+")
BLOCK_BYTES = 64 << 20  # of a dataset in memory at once, where rows are picked out of it
DEVICES = ("cpu", "cuda")  # of torch, that sums are computed on; arrays on others are copied to the first
ArrayLike: TypeAlias = npt.ArrayLike | torch.Tensor  # and what else has `__array__` or `__dlpack__`


class ByStep(Protocol):
    """Representations [n, d] of the same things at steps of a run: `worldfast.Activations`, or anything like it."""

    @property
    def steps(self) -> Sequence[int]: ...

    def __getitem__(self, key: tuple[int, int]) -> ArrayLike:
        """Return the array of a (step, layer)."""


class Numbers:
    """An array of real numbers, as it came; a dataset stays on disk until its rows are asked for.

    Attributes
    ----------
    name : str
        Name of the argument, for messages.
    shape : tuple of int
        Its shape.
    dtype : str
        Name of its elements' type, such as "bfloat16".
    single : bool
        True for floats of at most float32's precision.
    device : str
        Name of the device that it is on, as torch writes it.
    """

    def __init__(self, X, name: str):
        self._data = _held(X, name)
        self.name, self.shape = name, tuple(int(size) for size in self._data.shape)
        self.dtype = _dtype_name(self._data.dtype)
        if not REAL.fullmatch(self.dtype):
            raise _no_number(name, X, self._data, self.dtype)
        self.single = SINGLE.fullmatch(self.dtype) is not None
        self.device = str(self._data.device) if isinstance(self._data, torch.Tensor) else "cpu"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        size = int(re.findall(r"\d+", self.dtype)[0]) // 8
        return max(1, size) * int(np.prod(self.shape[1:], dtype=np.int64))

    def read(self, rows: slice | np.ndarray = slice(None)):
        """Return some rows in their own dtype, in native byte order.

        Parameters
        ----------
        rows : slice or ndarray
            A slice of step 1, or int64 indices in any order, for which a dataset is read from front to back, once.

        Returns
        -------
        ndarray or Tensor

        Raises
        ------
        ValueError
            The rows of a dataset do not have the shape and dtype that it says.
        """
        if isinstance(rows, slice):
            return self._block(rows)
        if isinstance(self._data, torch.Tensor):
            return self._data[torch.from_numpy(rows).to(self._data.device)]
        if isinstance(self._data, np.ndarray):
            return _native_order(self._data[rows])
        order = np.argsort(rows, kind="stable")
        ascending, found = rows[order], None
        for start, stop in self._blocks():
            first, last = np.searchsorted(ascending, (start, stop))
            if first == last:
                continue
            begin = int(ascending[first])
            block = self._block(slice(begin, int(ascending[last - 1]) + 1))
            found = np.empty((len(rows), *self.shape[1:]), block.dtype) if found is None else found
            found[order[first:last]] = block[ascending[first:last] - begin]
        return found

    def rows(self, rows: slice | np.ndarray = slice(None)):
        """Return some rows as the native core reads them: as `read`, in one of NATIVE.

        Raises
        ------
        ValueError
            As in `read`, or float64 cannot hold a value.
        """
        block = self.read(rows)
        if self.dtype in NATIVE and (isinstance(block, torch.Tensor) or self.dtype != "bfloat16"):
            return block
        if isinstance(block, torch.Tensor):
            return block.float() if self.single else self._kept(block, block.double())
        with np.errstate(over="ignore"):
            return block.astype(np.float32) if self.single else self._kept(block, block.astype(np.float64))

    def tensor(self, finite: bool = True) -> torch.Tensor:
        """Return all of it as a float64 tensor on its device, which may share its memory.

        Raises
        ------
        ValueError
            It holds NaN or infinity, unless they are allowed.
        """
        whole = self.rows()
        if not isinstance(whole, torch.Tensor):
            whole = torch.from_numpy(np.require(whole, np.float64, ("C", "A", "W")))
        whole = whole.double()
        if finite and not torch.isfinite(whole).all():
            raise ValueError(f"{self.name}: holds NaN or infinity")
        return whole

    def array(self, finite: bool = True) -> np.ndarray:
        """Return all of it as a float64 array in main memory; otherwise as `tensor`."""
        return self.tensor(finite).cpu().numpy()

    def _kept(self, block, wide):
        """Return what became of rows in float64, if it is the same numbers."""
        if self.dtype in ("int64", "uint64") and (abs(wide) >= 2.0**53).any():
            raise ValueError(
                f"{self.name}: holds integers of 2**53 or more in size, which float64 does not hold exactly: subtract "
                f"what they have in common, or pass {self.name}.astype('float64') to round them"
            )
        if not self.dtype.startswith(("int", "uint")) and (np.isinf(wide) & np.isfinite(block)).any():
            raise ValueError(f"{self.name}: holds {self.dtype} beyond float64's range, use another unit")
        return wide

    def _block(self, rows: slice):
        block = self._data[rows] if self.shape else self._data
        if isinstance(block, torch.Tensor):
            return block
        refuse(block, self.name)
        block = np.asarray(block)
        if not self.shape:
            return _native_order(block)
        begin, end, _ = rows.indices(len(self))
        if block.shape != (end - begin, *self.shape[1:]) or _dtype_name(block.dtype) != self.dtype:
            raise ValueError(
                f"{self.name}: expected {self.dtype} {[end - begin, *self.shape[1:]]} for rows {begin} to {end}, as "
                f"its shape and dtype say, got {_dtype_name(block.dtype)} {list(block.shape)}"
            )
        return _native_order(block)

    def _blocks(self):
        """Yield (first row, last row + 1) of blocks of a dataset, none of which ends inside one of its chunks."""
        chunks = getattr(self._data, "chunks", None)
        together = chunks[0] if isinstance(chunks, tuple) and isinstance(chunks[0], int) else 1
        size = max(1, BLOCK_BYTES // (together * max(1, self.row_bytes))) * together
        for start in range(0, len(self), size):
            yield start, min(start + size, len(self))


def numbers(X, name: str, shape: tuple[str | int, ...] | None = ("n", "d")) -> Numbers:
    """Take an array of real numbers.

    Parameters
    ----------
    X : array
        Any that this module takes, or a Numbers.
    name : str
        Name of the argument, for messages.
    shape : tuple of str or int, optional
        Its dimensions: a name stands for any size, a number for itself. None takes any shape.

    Returns
    -------
    Numbers

    Raises
    ------
    TypeError
        It is no array, or not one of plain real numbers; the message says what to do.
    ValueError
        Another shape.
    """
    if not isinstance(X, Numbers):
        X = Numbers(X, name)
    _require_shape(X.shape, name, shape)
    return X


def integers(x, name: str, shape: tuple[str | int, ...] | None = ("n",)) -> np.ndarray:
    """Take an array of integers, such as tokens, steps or indices, as int64.

    Parameters
    ----------
    x : array
        Any that this module takes; of no elements, of any dtype.
    name : str
        Name of the argument, for messages.
    shape : tuple of str or int, optional
        As in `numbers`.

    Returns
    -------
    ndarray
        int64.

    Raises
    ------
    TypeError
        It is no array, a masked or sparse one, or not of integers.
    ValueError
        Another shape, or an integer beyond int64.
    """
    found = plain(x, name)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"{name}: expected integers, got {_dtype_name(found.dtype)}")
    _require_shape(found.shape, name, shape, "integers ")
    if found.dtype == np.uint64 and found.size and found.max() >= 2**63:
        raise ValueError(f"{name}: expected integers below 2**63, got {found.max()}")
    return found.astype(np.int64, copy=False)


def plain(x, name: str) -> np.ndarray:
    """Take an array of any kind, shape and elements into main memory, in native byte order; bfloat16 becomes float32.

    Raises
    ------
    TypeError
        It is no array, or a masked or sparse one.
    """
    held = _held(x, name)
    if isinstance(held, torch.Tensor):
        return (held.float() if held.dtype == torch.bfloat16 else held).cpu().numpy()
    return _native_order(np.asarray(held))


def _require_shape(found: tuple[int, ...], name: str, shape: tuple[str | int, ...] | None, of: str = "") -> None:
    if shape is None:
        return
    fits = (isinstance(wanted, str) or wanted == size for wanted, size in zip(shape, found))
    if len(found) != len(shape) or not all(fits):
        got = list(found) if found else "a single number"
        raise ValueError(f"{name}: expected {of}[{', '.join(map(str, shape))}], got {got}")


def sequence_of(Xs, name: str, expected: str = "a sequence of arrays [n, d]") -> Iterable:
    """Check that a sequence or stream of arrays is none of what is iterable but holds other things.

    Parameters
    ----------
    Xs : iterable
        Sequence or stream, or an array of three dimensions.
    name, expected : str
        Name of the argument and what it has to be, for messages.

    Raises
    ------
    TypeError
        It is a single array, a table, a mapping, a set, a text, or no iterable.
    """
    if isinstance(Xs, memoryview):
        Xs = np.asarray(Xs)
    shape = getattr(Xs, "shape", None)
    if isinstance(shape, tuple) and len(shape) < 3:
        raise TypeError(f"{name}: expected {expected}, got a single array {list(shape)}: pass a list of arrays")
    if isinstance(Xs, str | bytes | Mapping | Set) or not isinstance(Xs, Iterable):
        raise TypeError(f"{name}: expected {expected}, got {_described(Xs)}")
    return Xs


def sequence(Xs, name: str, names: Sequence[str] | None = None) -> list[Numbers]:
    """Take a sequence of arrays of real numbers [n, d].

    Parameters
    ----------
    Xs : sequence of array
        Any that this module takes.
    name : str
        Name of the argument, for messages.
    names : sequence of str, optional
        Names of the arrays, for messages; by default, `name` with an index.

    Raises
    ------
    TypeError
        It is no sequence of arrays, or as in `numbers`.
    ValueError
        An array of other than two dimensions.
    """
    Xs = tuple(sequence_of(Xs, name))
    names = [f"{name}[{a}]" for a in range(len(Xs))] if names is None else names
    taken = [numbers(X, one, None) for X, one in zip(Xs, names, strict=True)]
    for X in taken:
        if len(X.shape) < 2 and X.name.startswith(f"{name}["):
            got = list(X.shape) if X.shape else "a single number"
            raise ValueError(f"{X.name}: expected [n, d], got {got}: {name} is a list of arrays, not a single one")
        numbers(X, X.name)
    return taken


def same_length(*taken: Numbers) -> int:
    """Return the number of rows that arrays have in common; ValueError names the first that has another."""
    first = taken[0]
    for other in taken[1:]:
        if len(other) != len(first):
            raise ValueError(f"{other.name}: expected {count(len(first), 'row')} as in {first.name}, got {len(other)}")
    return len(first)


def mask(x, name: str, n: int | None = None) -> np.ndarray:
    """Take a mask over n things (None: any number): bool [n].

    Raises
    ------
    TypeError
        It is no array, or a masked or sparse one.
    ValueError
        It is not bool, or not [n].
    """
    found = labels(x, name)
    if found.dtype != bool or (n is not None and len(found) != n):
        raise ValueError(
            f"{name}: expected a bool mask [{'n' if n is None else n}], got {found.dtype} {list(found.shape)}"
        )
    return found


def selection(x, name: str, n: int) -> np.ndarray:
    """Take a mask bool [n], or indices from 0 to n - 1, as int64 indices.

    Raises
    ------
    TypeError
        It is neither bool nor of integers.
    ValueError
        A mask of another length.
    IndexError
        An index that is not below n.
    """
    found = labels(x, name)
    if found.dtype == bool:
        return np.flatnonzero(mask(found, name, n))
    if found.dtype.kind not in "iu" and len(found):
        raise TypeError(f"{name}: expected a bool mask [{n}] or integers, got {found.dtype}")
    if len(found) and not (0 <= found.min() and found.max() < n):
        raise IndexError(f"{name}: expected indices from 0 to {n - 1}, got {found.min()} to {found.max()}")
    return found.astype(np.int64)


def labels(x, name: str, n: int | None = None) -> np.ndarray:
    """Take a vector of anything that has an order of its own, such as names or indices, for n things (None: any).

    Raises
    ------
    TypeError
        It is no array, or a masked or sparse one.
    ValueError
        It is not a vector, or has another length.
    """
    found = plain(x, name)
    if found.ndim != 1 or (n is not None and len(found) != n):
        raise ValueError(f"{name}: expected [{'n' if n is None else n}], got {list(found.shape)}")
    return found


def refuse(X, name: str) -> None:
    """Raise a TypeError for an array that would be read wrongly without a word: a masked or a sparse one."""
    kind, module = type(X).__name__, type(X).__module__
    if isinstance(X, np.ma.MaskedArray) or module.startswith("torch.masked"):
        raise TypeError(
            f"{name}: expected an array without a mask, got a {kind}: what its mask hides would count; drop those "
            "rows, or say what they are with .filled(value) or .to_tensor(value)"
        )
    dense = "to_dense" if isinstance(X, torch.Tensor) else "toarray" if hasattr(X, "toarray") else "todense"
    sparse = X.layout not in (torch.strided, torch.jagged) if isinstance(X, torch.Tensor) else hasattr(X, dense)
    if sparse:
        raise TypeError(f"{name}: expected a dense array, got a sparse {kind}: pass {name}.{dense}()")


def permuted(n: int, key: int = 0) -> np.ndarray:
    """Return the integers below n in the order of their hashes under a key: int64 [n], by n and the key alone."""
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(key * 0xD1B54A32D192ED03 & 2**64 - 1)
    return np.argsort(mixed(z), kind="stable")


def mixed(z: np.ndarray) -> np.ndarray:
    """Return hashes of uint64 numbers: the finalizer of SplitMix64, as in csrc/base/random.h."""
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def sampled(n: int, most: int) -> slice | np.ndarray:
    """Return rows that stand for n in any order: all of them, or the first `most` of a permutation, ascending."""
    return slice(None) if n <= most else np.sort(permuted(n)[:most])


def _held(X, name: str):
    """Return a tensor, an ndarray, or a dataset with shape, dtype and slices of rows."""
    refuse(X, name)
    if isinstance(X, torch.Tensor):
        if X.is_quantized:
            raise TypeError(f"{name}: expected real numbers, got dtype {X.dtype}: pass {name}.dequantize()")
        if X.is_meta or X.is_nested:
            raise TypeError(
                f"{name}: expected a tensor with numbers in rows, got a {'meta' if X.is_meta else 'nested'} one"
            )
        return (X if X.device.type in DEVICES else X.cpu()).detach().resolve_neg()
    if isinstance(X, np.ndarray):
        return np.asarray(X)
    try:
        if hasattr(X, "__cuda_array_interface__") or (hasattr(X, "__dlpack_device__") and on_gpu(X)):
            return torch.from_dlpack(X)
        if hasattr(X, "__dlpack__"):  # in memory: jax is sliced only at the price of a compilation
            return np.asarray(X) if hasattr(X, "__array__") else torch.from_dlpack(X)
        if hasattr(X, "to_numpy"):  # pandas, whose brackets take names
            return X.to_numpy()
        if all(hasattr(X, attribute) for attribute in ("shape", "dtype", "__getitem__")) and X.shape is not None:
            return X
        if isinstance(X, (list, tuple)):
            for part in X:
                refuse(part, name)
        return np.asarray(X)
    except (ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name}: expected an array, got a {type(X).__name__} that is none: {error}") from None


def _no_number(name: str, X, held, known: str) -> TypeError:
    advice = ""
    if known == "bool":
        advice = f": a mask selects rows; for numbers 0 and 1 pass {name}.astype('float32')"
    elif known.startswith("complex"):
        advice = f": pass {name}.real and {name}.imag side by side, as real columns"
    elif known == "object":
        advice = _not_all_numbers(name, X, held)
    return TypeError(f"{name}: expected real numbers, got dtype {held.dtype}{advice}")


def _not_all_numbers(name: str, X, held) -> str:
    """Say what of an array of objects is no number, or how to make it one of numbers if all of it is."""
    if not held.shape:
        return f": {_described(X)} is no array"
    values = np.asarray(held[:])
    odd = [value for value in values.flat if not isinstance(value, Real)][:1]
    if odd and hasattr(X, "columns"):
        columns = [
            str(column) for i, column in enumerate(X.columns) if any(not isinstance(v, Real) for v in values[:, i])
        ]
        return f": drop or fill {', '.join(columns[:5])}, of which not all values are numbers, such as {odd[0]!r:.50}"
    if odd:
        return f": {odd[0]!r:.50} is no number"
    return f": pass {name}.astype('float64')" if hasattr(X, "astype") else f": pass numpy.asarray({name}, 'float64')"


def _described(X) -> str:
    return f"{X!r:.100}" if X is None or isinstance(X, str | bytes | Real) else f"a {type(X).__name__}"


def _dtype_name(dtype) -> str:
    return getattr(dtype, "name", None) or str(dtype).removeprefix("torch.")


def _native_order(block: np.ndarray) -> np.ndarray:
    """Return an array in native byte order, with every element at a multiple of its size, as DLPack asks for."""
    if block.dtype.kind != "V":  # bfloat16 and its like have none
        block = block.astype(block.dtype.newbyteorder("="), copy=False)
    odd = not block.flags.aligned or any(stride % block.itemsize for stride in block.strides)
    return block.copy() if odd and block.dtype.kind in "fiub" else block

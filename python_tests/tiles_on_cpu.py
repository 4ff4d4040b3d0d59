"""Rows by the blocks of the CUDA driver, run thread by thread on the CPU (csrc/rows/tile.h)."""

import numpy as np

FIELDS = ("tokens", "length", "answer_start", "cities", "label", "task")


def poisoned(like, ahead=0):
    """A contiguous array like `like`, `ahead` elements into memory full of 0x55 (the memory is the second value)."""
    memory = np.full(like.nbytes + 128, 0x55, dtype=np.uint8)
    begin = ahead * like.itemsize
    return memory[begin : begin + like.nbytes].view(like.dtype).reshape(like.shape), memory


def untouched(array, memory, ahead=0):
    """Whether nothing around an array of `poisoned` was written."""
    begin = ahead * array.itemsize
    return (memory[:begin] == 0x55).all() and (memory[begin + array.nbytes :] == 0x55).all()


def rectangle_in_tiles(stream, start, n, ahead=0):
    like = stream.empty_batch(n)
    made = {field: poisoned(getattr(like, field), ahead) for field in FIELDS}
    failed = np.zeros(1, dtype=np.int64)
    arrays = [array for array, _ in made.values()]
    stream._native.rectangle(start, n, *arrays, failed, reset=True, threads=1, cuda_stream=0, in_tiles=True)
    for field, (array, memory) in made.items():
        assert untouched(array, memory, ahead), field
    assert failed.tolist() == [-1]
    return {field: array for field, (array, _) in made.items()}


def assert_same(stream, start, n, ahead=0):
    expected = stream.rectangle(start, n)
    tiled = rectangle_in_tiles(stream, start, n, ahead)
    for field in FIELDS:
        assert np.array_equal(tiled[field], getattr(expected, field)), field


def packed_in_tiles(stream, start, n):
    like = stream.empty_pack(n)
    arrays = [np.full_like(array, 0x55) for array in (like.tokens, like.row_start, like.answer_start)]
    scratch = np.full(len(like.scratch) + 32, 0x55, dtype=np.uint8)
    scratch = scratch[-scratch.ctypes.data % 16 :]
    failed = np.zeros(1, dtype=np.int64)
    stream._native.packed(start, n, *arrays, failed, scratch[: len(like.scratch)], True, cuda_stream=0, in_tiles=True)
    tokens, row_start, answer_start = arrays
    assert (tokens[row_start[-1] :] == 0x55).all() and (scratch[len(like.scratch) :] == 0x55).all()
    assert failed.tolist() == [-1]
    return tokens[: row_start[-1]], row_start, answer_start

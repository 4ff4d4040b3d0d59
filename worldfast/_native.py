"""Sole importer of the compiled module, with helpers for passing arrays to it."""

import contextlib
import functools
import os

import numpy as np
import torch

from worldfast.errors import DeviceError, whole

try:
    from worldfast import _core as core
except ImportError as error:
    raise ImportError(
        "worldfast's native core is not built for this Python: install the package (pip install .) or, in a checkout, "
        "run `pip install -e .`"
    ) from error

INSTRUCTIONS = {4: "SSE or NEON", 8: "AVX2", 16: "AVX-512"}  # by the floats of a vector
LEAST_CAPABILITY = 8  # CUDA compute capability: bfloat16 in matrix units, and the oldest that the build compiles for

CUDA = (2, 13)  # device types of __dlpack_device__: CUDA memory and managed memory


def cuda_device(device):
    """Return torch's device, including its number, for a name such as "cuda" or "cuda:1".

    Raises
    ------
    DeviceError
        The native core cannot work on it; the message says what is missing.
    """
    if not core.cuda:
        raise DeviceError(device, "worldfast was built without CUDA (reinstall it where nvcc is found)")
    if not torch.cuda.is_available():
        raise DeviceError(device, why_no_gpu())
    found, count = torch.device(device), torch.cuda.device_count()
    number = torch.cuda.current_device() if found.index is None else found.index
    if number >= count:
        raise DeviceError(device, f"there are {count}, counted from 0")
    major, minor = torch.cuda.get_device_capability(number)
    if major < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(number)
        has = f"{name} has compute capability {major}.{minor}"
        raise DeviceError(device, f"{has}, but {LEAST_CAPABILITY}.0 or later is needed")
    found = torch.device("cuda", number)
    try:
        _try(found)
    except Exception as error:  # from CUDA's runtime or the driver, or for want of memory
        why = " ".join(str(error).split()) or type(error).__name__
        raise DeviceError(device, f"the native core's kernels do not run on it: {why}") from error
    return found


@functools.cache
def _try(device):
    """Label a row on the device: the driver may be older than the CUDA that the core was built with, which need not be
    torch's, and the core may have been built for other GPUs.
    """
    xy = torch.tensor([[[0, 0], [30, 40]]], dtype=torch.int32, device=device)
    label = torch.zeros(1, dtype=torch.int64, device=device)
    distance = [row["name"] for row in core.task_table()].index("distance")
    with current_device_of(xy):
        core.label(distance, xy, None, None, label, None, 1, cuda_stream(xy))
    if label.item() != 50:
        raise RuntimeError("what they give is wrong")


def instructions():
    """Return the name of the vector instructions that the core uses on this processor."""
    return INSTRUCTIONS[core.vector_width()]


def why_no_gpu():
    """Return the reason why torch finds no CUDA device, as far as it is known."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    reason, visible = "torch finds no CUDA device", os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        torch.cuda.init()
    except Exception as error:  # a driver older than torch's CUDA, or none
        reason += ": " + " ".join(str(error).split())
    return reason if visible is None else f"{reason} (CUDA_VISIBLE_DEVICES is {visible!r})"


def current_device_of(like):
    """Return a context in which the GPU of an array (torch, cupy) is current, as its __dlpack__ requires."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "torch" and like.is_cuda:
        return torch.cuda.device(like.device)
    return like.device if kind == "cupy" else contextlib.nullcontext()


def on_gpu(array):
    """Return True for an array in GPU memory."""
    return array.__dlpack_device__()[0] in CUDA


def empty(shape, dtype, like):
    """Return an uninitialised array of the kind (numpy, torch, cupy) and on the device of `like`; dtype is a numpy
    name.
    """
    kind = type(like).__module__.partition(".")[0]
    if kind == "torch":
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    if kind == "cupy":
        import cupy

        with like.device:
            return cupy.empty(shape, dtype=dtype)
    return np.empty(shape, dtype=dtype)


def cuda_stream(like):
    """Return the address of the current CUDA stream of the library that owns `like`; 0 for arrays on the CPU."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "torch" and like.is_cuda:
        return torch.cuda.current_stream(like.device).cuda_stream
    if kind == "cupy":
        import cupy

        return cupy.cuda.get_current_stream().ptr
    return 0


def expect(name, x, dtypes, ndim):
    """Check that x is a torch.Tensor of one of these dtypes and with ndim dimensions.

    Raises
    ------
    TypeError
        Another type or dtype.
    ValueError
        Another number of dimensions.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(map(str, dtypes))}, got {x.dtype}")
    if x.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {list(x.shape)}")


def thread_count(threads):
    """Return `threads` after its check, or torch's number of threads if it is None. The core starts at most 256, or one
    per processor; results do not depend on it.
    """
    return torch.get_num_threads() if threads is None else whole("threads", threads, 0, 2**31 - 1)

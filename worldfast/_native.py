"""The only importer of the compiled module, and what its callers need to hand arrays over."""

import numpy as np

try:
    from worldfast import _core as core
except ImportError as error:
    raise ImportError(
        "worldfast's native core is not built for this Python: install the package (pip install .) or, in a checkout, "
        "run `pip install -e .`"
    ) from error

__all__ = ["core", "cuda_stream", "empty", "expect", "thread_count"]


def empty(shape, dtype, like):
    """An uninitialised array of the kind (numpy, torch, cupy) and on the device of `like`; dtype is a numpy name."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "torch":
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    if kind == "cupy":
        import cupy

        with like.device:
            return cupy.empty(shape, dtype=dtype)
    return np.empty(shape, dtype=dtype)


def cuda_stream(like):
    """The address of the current CUDA stream of the library that owns `like`; 0 for arrays on the CPU."""
    kind = type(like).__module__.partition(".")[0]
    if kind == "torch" and like.is_cuda:
        import torch

        return torch.cuda.current_stream(like.device).cuda_stream
    if kind == "cupy":
        import cupy

        return cupy.cuda.get_current_stream().ptr
    return 0


def expect(name, x, dtypes, ndim):
    """Raises where x is not a torch.Tensor of one of these dtypes and of ndim dimensions."""
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(map(str, dtypes))}, got {x.dtype}")
    if x.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {list(x.shape)}")


def thread_count(threads):
    """`threads`, or torch's number of threads where it is None."""
    if threads is None:
        import torch

        return torch.get_num_threads()
    return threads

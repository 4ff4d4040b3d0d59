"""The only importer of the compiled module, and what its callers need to hand arrays over."""

import numpy as np

try:
    from worldfast import _core as core
except ImportError as error:
    raise ImportError(
        "worldfast's native core is not built for this Python: install the package (pip install .) or, in a checkout, "
        "run `pip install -e .`"
    ) from error

__all__ = ["core", "cuda_stream", "empty"]


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

"""GPU kernels in Triton, compiled when they are called. Imported by `worldfast.ops` and `worldfast.gram` where a tensor
is on a GPU."""

try:
    import triton  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("worldfast on a GPU needs Triton 3.4 or later: pip install triton") from error

"""GPU kernels in Triton, compiled when they are called. Imported by `worldfast.ops`, `worldfast.gram` and
what trains an ensemble on a GPU, when it is used."""

try:
    import triton  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("worldfast on a GPU needs Triton 3.4 or later: pip install triton") from error

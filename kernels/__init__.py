"""GPU kernels in Triton, compiled when they are called. Imported by `worldfast.ops` where a tensor is on a GPU."""

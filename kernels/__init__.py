"""GPU kernels in Triton, compiled when they are called. Imported by `worldfast.models.attention`, `worldfast.analysis.gram` and
what trains an ensemble on a GPU, when it is used."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

try:
    import triton
except ModuleNotFoundError as error:
    raise ImportError("worldfast on a GPU needs Triton 3.4 or later: pip install triton") from error


@contextlib.contextmanager
def compiling(threads: int | None = None) -> Iterator[None]:
    """Inside, kernels that are launched are not run but compiled, many at once; all are ready at the end.

    threads   compilations at once; None: one for each processor
    """
    kind = triton.runtime.JITFunction
    run = kind.run

    def compile_only(self, *args, grid, warmup, **options):
        return run(self, *args, grid=grid, warmup=True, **options)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, triton.AsyncCompileMode(pool):
        kind.run = compile_only
        try:
            yield
        finally:
            kind.run = run

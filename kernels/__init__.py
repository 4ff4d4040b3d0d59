"""GPU kernels in Triton, compiled on their first call. Imported on first use by `worldfast.models.attention`,
`worldfast.analysis.gram` and training on a GPU.
"""

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
    """Compile kernels instead of running them: inside the context launches compile, many at once, and all are ready
    at its end.

    Parameters
    ----------
    threads : int, optional
        Number of parallel compilations; None means one for each processor.
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

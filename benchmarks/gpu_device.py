"""The device that parts of benchmarks/gpu.py work on: a GPU, or in a dry run what stands in for one.

The stand-in is the CPU: launches of Triton's kernels are counted, and interpreted where results are compared; a
recorded graph is the call itself; times are wall-clock times of the CPU and say nothing, and all that is
written says so.
"""

import argparse
import collections
import contextlib
import importlib

import harness
import torch

DRY = "DRY RUN, no GPU"


class Gpu:
    """CUDA device as parts use it."""

    place = "cuda"
    dry = False

    def name(self) -> str:
        return torch.cuda.get_device_name()

    def wait(self) -> None:
        """Returns when all work is done. RuntimeError where the process has lost the device."""
        torch.cuda.synchronize()

    def results_unread(self):
        """A context whose kernels' results nobody looks at: a dry run records their launches and runs none."""
        return contextlib.nullcontext()

    def tensors(self, made):
        """A Batch or Packed on the device, of tensors."""
        return made

    def pinned(self, tensor):
        """A copy in memory of the CPU that the device reads without a copy in between."""
        return tensor.pin_memory()

    def recorded(self, call, warm=3):
        """A call recorded as a CUDA graph: the device's time without the launches'. Its stream is its own, as long as
        it lives: torch drops what a stream's graphs work in once any of them is destroyed."""
        from worldfast.models import own_stream
        from worldfast.training.gpu_step import no_collection

        def replay():
            graph.replay()
            return result

        side, current = own_stream(torch.device(self.place), replay), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(warm):
                call()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with no_collection(), torch.cuda.graph(graph, stream=side):
            result = call()
        return replay

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated()

    def kernels(self, run) -> dict[str, tuple[int, float]]:
        """Name -> calls and microseconds of the kernels that a call launches."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            run()
            self.wait()
        found = {}
        for event in seen.events():
            count, spent = found.get(event.name, (0, 0.0))
            found[event.name] = count + 1, spent + event.device_time_total
        return found


class StandIn(Gpu):
    """The CPU in a GPU's place. `launches`: kernel -> how often it was launched."""

    place = "cpu"
    dry = True

    def __init__(self):
        self.launches = collections.Counter()
        self._unread = False
        self._count_launches()
        self._time_nothing()
        self._take_the_gpu_path()

    def name(self) -> str:
        return DRY

    def wait(self) -> None:
        pass

    @contextlib.contextmanager
    def results_unread(self):
        before, self._unread = self._unread, True
        try:
            yield
        finally:
            self._unread = before

    def tensors(self, made):
        fields = {k: torch.from_numpy(v) for k, v in vars(made).items() if hasattr(v, "__array_interface__")}
        return type(made)(**(vars(made) | fields))

    def pinned(self, tensor):
        return tensor.clone()

    def recorded(self, call, warm=3):
        return call

    def peak_memory(self) -> int:
        return 0

    def kernels(self, run) -> dict[str, tuple[int, float]]:
        before = self.launches.copy()
        run()
        return {name: (count, 0.0) for name, count in (self.launches - before).items()}

    def _count_launches(self) -> None:
        from triton.runtime.interpreter import GridExecutor

        launch = GridExecutor.__call__

        def counted(executor, *arguments, **options):
            self.launches[executor.fn.__name__] += 1
            return None if self._unread else launch(executor, *arguments, **options)

        GridExecutor.__call__ = counted

    def _time_nothing(self) -> None:
        """Limits of no size, one repeat, and rows of the table that say what they are."""

        def run_on_device(benchmark, case, contestants, out, unit=harness.MILLISECONDS, repeats=20, calls=1):
            options = argparse.Namespace(repeats=1, results=out / "results.csv")
            return harness.run(f"dry run: {benchmark}", case, contestants, options, unit, device=DRY)

        x = torch.ones(64, 64)
        harness.PAUSE = 0.0
        harness.run_on_device = run_on_device
        harness.copying = lambda size, *_: harness.Contestant("limit: of a dry run, memory", x.clone)
        harness.multiplying = lambda *_, **__: harness.Contestant("limit: of a dry run, products", lambda: x @ x)

    def _take_the_gpu_path(self) -> None:
        """worldfast's code for a GPU takes tensors of the CPU, on which its kernels are interpreted."""
        from worldfast import models
        from worldfast.analysis import gram
        from worldfast.kernels import gram as tiles
        from worldfast.models import gpu

        importlib.import_module("worldfast.models.attention")._on_gpu = lambda x: True
        on_cpu = gram._on_cpu

        def statistics(Xs, kernels, bandwidth, threads, single=None):
            if isinstance(Xs[0]._data, torch.Tensor):
                return gram._on_gpu(Xs, kernels, bandwidth)
            return on_cpu(Xs, kernels, bandwidth, threads, single)

        gram._on_cpu = statistics
        tiles.TILE, tiles.PART, tiles.DOT_K = 32, 512, 128  # which small inputs fill
        gpu.DTYPES["bfloat16"] = torch.float16  # the interpreter's bfloat16 is nowhere close
        training = importlib.import_module("worldfast.training.train")
        training.require_cuda = lambda device: "cuda:0"
        models.GpuTransformer = lambda *shape, device, matmul_dtype: gpu.GpuTransformer(
            *shape, device="cpu", matmul_dtype=matmul_dtype
        )
        torch.cuda.get_device_name = lambda device=None: DRY
        torch.cuda.mem_get_info = lambda device=None: (8 << 30, 8 << 30)


DEVICE = Gpu()


def stand_in() -> StandIn:
    """Puts the stand-in in the GPU's place, for this process; before a part is imported."""
    global DEVICE
    DEVICE = StandIn()
    return DEVICE

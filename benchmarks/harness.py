"""The frame of every benchmark: verify, warm up, let the contestants take turns, print a table, append to
results.csv.

A time is worth nothing for a wrong answer, so each contestant's result is compared with a reference before it
is timed; that call is also its warm-up. Contestants run in turn (A B C A B C ...), so that a machine
that slows down slows all of them, and among them runs what limits them: a copy of as many bytes, or a matrix
product of as many operations, with as many threads. A line says who is at work. Each turn is on disk before the
next begins: a benchmark that is stopped or killed keeps the rows of all that was timed (`kept_rows`).

WIDTH=8 in the environment measures what a processor with AVX2 does on one with AVX-512, WIDTH=4 one with
SSE2: worldfast and the libraries of its peers alike.
"""

import argparse
import contextlib
import csv
import datetime
import functools
import io
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import kept_rows
import numpy as np
import torch

from worldfast._native import core
from worldfast.files import origin

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = [
    "date",
    "commit",
    "machine",
    "benchmark",
    "case",
    "contestant",
    "median",
    "p20",
    "p80",
    "unit",
    "repeats",
    "error",
    "limit",
    "limit_share",
    "processor",
    "instructions",
    "vector_width",
]  # fmt: skip; rows from before 2026-11-28 end at limit_share or sooner
PAUSE = 0.1  # seconds, in which threads that the last contestant left spinning go to sleep
SAID = 1.0  # seconds; a turn that takes longer is said when it ends
QUICK = 10.0  # seconds that a contestant may take with --quick
SIDE, COPIED = 2048, 2**25  # rows of the matrix and numbers of the array by which a CPU's limits are measured
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclass(frozen=True, eq=False)
class Contestant:
    """A way to do the work of a case.

    run       does it once; what it returns goes to `error`
    error     how far a result is from the reference, in a measure that the benchmark states
    allowed   the largest error with which it is timed at all; math.inf: the error is only reported
    times     the work is `times` what `run` does, where a sample stands for the whole
    limits    what the machine needs for the least work that the case could be: the slowest of them binds
    part      a small part of what `run` does, from which its time is estimated; None: it is always measured
    parts     how many such parts `run` is
    """

    name: str
    run: Callable[[], object]
    error: Callable[[object], float] | None = None
    allowed: float = 0.0
    times: float = 1.0
    limits: tuple["Contestant", ...] = ()
    part: Callable[[], object] | None = None
    parts: float = 1.0


@dataclass(frozen=True)
class Unit:
    """Format of seconds in the table; a rate such as "MB/s" goes down where seconds go up."""

    name: str
    of: Callable[[np.ndarray], np.ndarray]


MILLISECONDS = Unit("ms", lambda seconds: seconds * 1e3)


def arguments(doc: str, repeats: int, threads: list[int]) -> argparse.ArgumentParser:
    """The options that every benchmark has. A script that calls it obeys WIDTH and ends in order on SIGTERM."""
    limit_peers()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, nargs="+", default=threads, metavar="N")
    parser.add_argument("--quick", action=Quick, help="tiny sizes: does it run, not how fast")
    parser.add_argument(
        "--patience", type=float, default=5.0, metavar="MINUTES", help="contestants that take longer are left out"
    )
    parser.add_argument("--no-record", dest="results", action="store_const", const=None, default=RESULTS)
    return parser


class Quick(argparse.Action):
    """--quick: the machine's limits are measured by little too."""

    def __init__(self, **options):
        super().__init__(nargs=0, default=False, **options)

    def __call__(self, parser, namespace, *_):
        global SIDE, COPIED
        SIDE, COPIED = 256, 2**20
        setattr(namespace, self.dest, True)


@contextlib.contextmanager
def threads(count: int):
    """torch and the libraries below NumPy compute with `count` threads."""
    import threadpoolctl

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpoolctl.threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


# ---- the processor ----

# What holds the peers' libraries back to a vector width, if it is set before they are loaded: PyTorch's own
# loops, oneDNN, MKL, and NumPy's OpenBLAS. What torch.compile has compiled for another width gives NaN, or crashes.
PEERS = {
    8: {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell", "TORCHINDUCTOR_CACHE_DIR": f"{gettempdir()}/torchinductor-8"},
    4: {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem", "TORCHINDUCTOR_CACHE_DIR": f"{gettempdir()}/torchinductor-4"},
}  # fmt: skip
SETS = {
    "avx2": "AVX2", "fma": "FMA", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16",
    "asimd": "NEON", "bf16": "BF16",
}  # fmt: skip


WIDEST = core.limit_vector_width(16)


def vector_width() -> int:
    """Floats in a vector of the core, limited to WIDTH. ValueError where that is not to be had."""
    width = os.environ.get("WIDTH") or str(WIDEST)
    if width not in ("4", "8", "16") or int(width) > WIDEST:
        raise ValueError(f"WIDTH: expected 4, 8 or 16, at most {WIDEST} on this processor, got {width}")
    return core.limit_vector_width(int(width))


def limit_peers() -> None:
    """Limits the core to WIDTH, and begins the script anew where the peers' libraries are not held back too. A width
    that is not to be had ends the script in one line."""
    try:
        width = vector_width()
    except ValueError as error:
        sys.exit(str(error))
    if width < WIDEST and any(os.environ.get(name) != value for name, value in PEERS[width].items()):
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, os.environ | PEERS[width])


@functools.cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, str]:
    """The processor's maker, family, model and name, and its instruction sets: "" where the system does not say."""
    first = cpuinfo.read_text().partition("\n\n")[0] if cpuinfo.exists() else ""
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    flags = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    if platform.machine() == "arm64":  # macOS has no /proc/cpuinfo, and every such processor has NEON
        flags.append("asimd")
    numbers = {
        "vendor_id": "{}", "cpu family": "family {}", "model": "model {}",
        "CPU implementer": "implementer {}", "CPU part": "part {}", "model name": "{}",
    }  # fmt: skip
    model = ", ".join(form.format(fields[name]) for name, form in numbers.items() if name in fields)
    return model, " ".join(name for flag, name in SETS.items() if flag in flags)


def emulated(dtype: torch.dtype) -> bool:
    """Products of bfloat16 on a processor, or at a vector width, without instructions for them."""
    return dtype == torch.bfloat16 and ("BF16" not in processor()[1] or vector_width() < WIDEST)


# ---- limits ----


def copying(size: float, device: str = "cpu", threads: int | None = None) -> Contestant:
    """Return the contestant that moves `size` bytes, reads and writes alike, by a copy larger than any cache."""
    source, target = _large(device)

    def run():
        if threads:
            torch.set_num_threads(threads)
        target.copy_(source)

    name = f"limit: {size / 1e6:.3g} MB through memory" + (f", {threads} threads" if threads else "")
    return Contestant(name, run, times=size / (2 * source.nbytes))


def multiplying(operations: float, dtype: torch.dtype, device: str = "cpu") -> Contestant:
    """Return the contestant that spends `operations` additions and multiplications on a product of square matrices.

    On a CPU in float32 by the core or by torch, whichever is faster here; also for bfloat16 where its products are
    emulated, which is a hundred times as slow and limits nobody.
    """
    if device == "cpu" and emulated(dtype):
        dtype = torch.float32
    side = SIDE if device == "cpu" else 8192
    x = torch.randn(side, side, device=device).to(dtype)
    name = f"limit: {operations / 1e9:.3g} GFLOP of {str(dtype).removeprefix('torch.')} products"
    by_core = device == "cpu" and dtype == torch.float32 and _core_is_faster(torch.get_num_threads())
    run = _core_product(x) if by_core else lambda: torch.mm(x, x)
    return Contestant(name, run, times=operations / (2 * side**3))


@functools.cache
def _core_is_faster(threads: int) -> bool:
    x = torch.randn(1024, 1024)
    core, torchs = (min(seconds(run) for _ in range(3)) for run in (_core_product(x), lambda: torch.mm(x, x)))
    return core < torchs


def _core_product(x):
    """x x' by the core, its rows shared out to torch's number of threads."""

    def run():
        shares = x.chunk(torch.get_num_threads())
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(lambda rows: core.linear(rows, x, rows.new_empty(len(rows), len(x))), shares))

    return run


@functools.cache
def _large(device):
    size = COPIED if device == "cpu" else 2**29  # 128 MiB, 2 GiB
    return torch.ones(size, device=device), torch.empty(size, device=device)


# ---- measuring ----


@contextlib.contextmanager
def said(work: str):
    """A line that is there when work begins, and ends with the seconds that it took."""
    print(f"  {work} ...", end=" ", flush=True)
    start = time.perf_counter()
    yield
    print(f"{time.perf_counter() - start:.1f} s", flush=True)


def verify(contestants: list[Contestant]) -> dict[Contestant, float]:
    """Runs each once and gives its error. AssertionError where that is more than allowed, or no number."""
    errors = {}
    for contestant in contestants:
        with said(f"verifying {contestant.name}"):
            result = contestant.run()
        if contestant.error:
            errors[contestant] = error = float(contestant.error(result))
            if not error <= contestant.allowed:
                raise AssertionError(f"{contestant.name} errs by {error:.2e}, allowed {contestant.allowed:.2e}")
    return errors


def affordable(contestants: list[Contestant], options, clock) -> list[Contestant]:
    """Those that take no longer than .patience minutes, by a part of their work. The others are left out, and named."""
    measured, found = {}, []
    for contestant in contestants:
        if contestant.part:
            if contestant.part not in measured:
                measured[contestant.part] = clock(contestant.part)
            needed = measured[contestant.part] * contestant.parts * (1 + options.repeats)
            if needed > (QUICK if options.quick else 60 * options.patience):
                why = ": no bfloat16 instructions here" if emulated(torch.bfloat16) else ""
                print(f"  left out: {contestant.name} would take about {needed / 60:.1f} minutes{why}", flush=True)
                continue
        found.append(contestant)
    return found


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def device_seconds(run: Callable[[], object], calls: int = 1) -> float:
    """Time of one call, by the CUDA device's own clock, over `calls` calls in a row."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def turn(contestant: Contestant, number: int, repeats: int, clock) -> float:
    """Seconds that a contestant takes for the whole work, by one call."""
    taken = clock(contestant.run)
    if taken >= SAID:
        print(f"  {number + 1} of {repeats}: {taken:.1f} s, {contestant.name}", flush=True)
    return taken * contestant.times


def compare(contestants: list[Contestant], repeats: int, clock=seconds, keep=None) -> dict[Contestant, np.ndarray]:
    """Seconds [repeats] that each takes for the whole work, measured in turns. `keep` gets all of them after each."""
    taken = {}
    for number in range(repeats):
        for contestant in contestants:
            taken.setdefault(contestant, []).append(turn(contestant, number, repeats, clock))
            if keep:
                keep(taken)
    return {contestant: np.array(values) for contestant, values in taken.items()}


@dataclass(frozen=True)
class Row:
    """A line of the table: quantiles in the case's unit, and the contestant's time over that of the first."""

    contestant: str
    median: float
    p20: float
    p80: float
    repeats: int
    ratio: float | None = None
    error: float | None = None
    limit: str = ""
    share: float | None = None


def rows(taken: dict[Contestant, Sequence[float]], errors: dict[Contestant, float], unit: Unit) -> list[Row]:
    """In the order of `taken`; each with its share of the slowest of its limits that are among them."""
    medians = {contestant: np.median(values) for contestant, values in taken.items()}
    first = next(iter(medians.values()))
    found = []
    for contestant, values in taken.items():
        median, p20, p80 = np.quantile(unit.of(np.asarray(values)), [0.5, 0.2, 0.8])
        binding = max((one for one in contestant.limits if one in medians), key=medians.get, default=None)
        limit = {"limit": binding.name, "share": medians[binding] / medians[contestant]} if binding else {}
        error, ratio = errors.get(contestant), medians[contestant] / first
        found.append(Row(contestant.name, median, p20, p80, len(values), ratio, error, **limit))
    return found


def run(benchmark, case, contestants, options, unit=MILLISECONDS, clock=seconds, device=None) -> list[Row]:
    """Verifies, times, prints and records the contestants of a case.

    Each has its first turn once it is verified, and a row on disk from then on, wherever the benchmark is stopped or
    killed. The first is ours: it must be right. A peer that is wrong here is left out, and named.

    options   .repeats, and .results: the file to append to, or None; .patience and .quick where contestants have
              parts
    clock     seconds that a call takes
    device    the name that is recorded; None: the processor
    """
    print(f"\n{case}", flush=True)
    contestants = affordable(contestants, options, clock)
    limits = dict.fromkeys(limit for contestant in contestants for limit in contestant.limits)
    taken, errors, found = {}, {}, []
    keep = keeping(options.results, benchmark, case, errors, unit, device)

    def timed(contestant, number):
        taken.setdefault(contestant, []).append(turn(contestant, number, options.repeats, clock))
        found[:] = keep(taken)

    try:
        for contestant in [*contestants, *limits]:
            try:
                errors |= verify([contestant])
            except AssertionError as wrong:
                if contestant is contestants[0]:
                    raise
                print(f"  left out: {wrong}", flush=True)
                continue
            timed(contestant, 0)
        for number in range(1, options.repeats):
            for contestant in list(taken):
                timed(contestant, number)
    finally:
        if found:
            show(case, found, unit.name)
            record(options.results, benchmark, case, found, unit.name, device)
    return found


def run_on_device(benchmark, case, contestants, out, unit=MILLISECONDS, repeats=20, calls=1):
    """`run` by the CUDA device's clock, each measurement of `calls` calls in a row, recorded in the folder `out`."""
    options = argparse.Namespace(repeats=repeats, results=out / "results.csv")
    clock = functools.partial(device_seconds, calls=calls)
    return run(benchmark, case, contestants, options, unit, clock, torch.cuda.get_device_name())


# ---- reporting ----


def machine() -> str:
    """The processor's name and the number of threads it has."""
    return origin("cpu")["device"].removeprefix("cpu: ")


def show(case: str, found: list[Row], unit: str) -> None:
    print(f"\n{case}\n{unit:>10}{'p20':>10}{'p80':>10}{'x first':>9}{'of limit':>10}{'error':>9}")
    for row in found:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        share = "" if row.share is None else f"{row.share:.0%}"
        error = "" if row.error is None else f"{row.error:.0e}"
        name = row.contestant + (f"  (of {row.limit.removeprefix('limit: ')})" if row.limit else "")
        numbers = f"{row.median:10.4g}{row.p20:10.4g}{row.p80:10.4g}{ratio:>9}{share:>10}{error:>9}"
        print(f"{numbers}   {name}", flush=True)


def record(path: Path | None, benchmark: str, case: str, found: list[Row], unit: str, device=None) -> None:
    """Appends a line for each row; path None: nothing. ValueError where the file has other columns."""
    if path is None:
        return
    require_columns(path)
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(table(benchmark, case, found, unit, device, header=not file.tell()))
    kept_rows.discard(path)


def keeping(path: Path | None, benchmark: str, case: str, errors: dict[Contestant, float], unit: Unit, device=None):
    """A function of the seconds that contestants have taken so far: it returns their rows, which are on disk by then,
    and stay there if this process is killed. First come the rows that a killed process has left. ValueError as
    `record`."""
    if path:
        require_columns(path)
        if killed := kept_rows.gather(path):
            print(f"  {killed} rows of a benchmark that was killed are now in {path}", flush=True)

    def keep(taken: dict[Contestant, Sequence[float]]) -> list[Row]:
        found = rows(taken, errors, unit)
        if path:
            kept_rows.keep(path, table(benchmark, case, found, unit.name, device, header=True))
        return found

    return keep


def require_columns(path: Path) -> None:
    """ValueError where the file is there and has other columns."""
    if path.exists() and (header := path.read_text(encoding="utf-8").splitlines()[0].split(",")) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {COLUMNS}, got {header}")


def table(benchmark: str, case: str, found: list[Row], unit: str, device=None, header: bool = False) -> str:
    """The lines of these rows as they stand in results.csv."""
    today, commit = datetime.date.today().isoformat(), origin("cpu")["commit"][:12]
    stamp = [today, commit, device or machine(), benchmark, case]
    by = ["", "", ""] if device else [*processor(), vector_width()]
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    if header:
        writer.writerow(COLUMNS)
    for row in found:
        quantiles = [f"{value:.4g}" for value in (row.median, row.p20, row.p80)]
        error = "" if row.error is None else f"{row.error:.2g}"
        share = "" if row.share is None else f"{row.share:.3f}"
        writer.writerow([*stamp, row.contestant, *quantiles, unit, row.repeats, error, row.limit, share, *by])
    return lines.getvalue()

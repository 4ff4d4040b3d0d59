"""Bad input never crashes: every entry of the native core called with arguments that were changed at random, a call that
works being the first, at each width of vectors. An answer or an error in words, in time, and no memory is lost.

Calls are made in processes that may die. Each comes from seeds, one for each change: `python -m torture.fuzz ENTRY
SEED,SEED...` makes it again. Where a compiler is, the core is built once more such that it counts the places of its code
that were reached: changes that reach new ones are kept and changed further.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from torture.tally import Tally

PROMISE = "bad input never crashes"
TARGET = 1_000_000  # calls
ROOT = Path(__file__).parents[1]
WIDTHS = (4, 8, 16)
SPELL = 60.0  # seconds that a process goes on for at most
HANG = 20  # seconds of processor that a call may take
STILL = 300  # seconds by the clock, in which a call that waits for ever is told from a busy machine
ROOM = 6 << 30  # bytes of addresses: more are refused, and that is a MemoryError
LEAK = 24 << 20  # bytes that a process may grow by once it has made a third of its calls
LONGEST = 8  # changes of one call
SOME = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 8, 127, 255, 2**31 - 1, 2**53, 2**62, 2**63 - 1)

# ---- changes ----


def tests():
    """Return the module of calls that work, which stands with the tests."""
    if (place := str(ROOT / "python_tests")) not in sys.path:
        sys.path.append(place)
    import native_calls

    return native_calls


def all_of(others: Iterator) -> list:
    """Return what comes before an error, if there is one: what is changed twice need not have the axes of the first."""
    found = []
    try:
        for _, one in others:
            found.append(one)
    except (IndexError, TypeError, ValueError, OverflowError):
        pass
    return found


def changed(chance: random.Random, value: object, others: list) -> object:
    """Return something like a value, or something else."""
    if others and chance.random() < 0.05:
        return chance.choice(others)
    if isinstance(value, np.ndarray):
        way = chance.random()
        if way < 0.5 and value.size and value.dtype.kind in "iuf":
            return with_elements(chance, value)
        if way < 0.65:
            return np.resize(value, [chance.choice((n, n, n, n + 1, max(n - 1, 0), 0, 1)) for n in value.shape])
        return chance.choice(all_of(tests().in_place_of(value)))
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        if chance.random() < 0.05:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: changed(chance, value[key], others)}
    if isinstance(value, list | tuple) and len(value) > 0:
        at, kind = chance.randrange(len(value)), type(value)
        if chance.random() < 0.75:
            return kind([*value[:at], changed(chance, value[at], others), *value[at + 1 :]])
        return chance.choice(
            [kind(), kind([*value[:at], *value[at + 1 :]]), kind([*value, value[at]]), value * 9, None]
        )
    if callable(value) and not isinstance(value, type):
        return chance.choice(all_of(tests().in_place_of(value)))
    if isinstance(value, int | float) and chance.random() < 0.6:
        return chance.choice((value + 1, value - 1, -value, value * 2, value // 2, chance.randrange(-3, 20), not value))
    return chance.choice((*tests().NUMBERS, chance.choice(SOME)))


def with_elements(chance: random.Random, x: np.ndarray) -> np.ndarray:
    """Return an array of which a few elements are others."""
    x = x.copy()
    for _ in range(chance.choice((1, 1, 2, 3, x.size))):
        at = chance.randrange(x.size)
        far = chance.choice((*SOME, float("nan"), float("inf"), 1e-40))
        beside = x.flat[chance.randrange(x.size)].item()
        value = chance.choice((far, beside, x.flat[at].item() + chance.choice((-1, 1))))
        x.flat[at] = np.array(value).astype(x.dtype)
    return x


def call_of(call: tuple[Callable, list], chain: list[int]) -> tuple[Callable, list]:
    """Return the function of a call that works, and its arguments after the changes of these seeds."""
    function, arguments = call
    for seed in chain:
        chance = random.Random(seed)
        for at in chance.sample(range(len(arguments)), min(len(arguments), chance.choice((1, 1, 1, 2)))):
            others = [one for one in arguments if isinstance(one, np.ndarray)]
            try:
                arguments[at] = changed(chance, arguments[at], others)
            except (IndexError, TypeError, ValueError, OverflowError):  # no such change of what was changed before
                arguments[at] = None
    return function, arguments


# ---- the process that calls ----


def outcome(call: tuple[Callable, list], chain: list[int], hang: float = HANG) -> str:
    """Make a changed call, and return "answered", "refused", or what else came in words."""
    function, arguments = call_of(call, chain)
    signal.setitimer(signal.ITIMER_PROF, hang)  # whose end is that of the process
    signal.alarm(STILL)
    try:
        function(*arguments)
        return "answered"
    except tests().REFUSALS as error:
        return "refused" if str(error) else f"{type(error).__name__} without a word"
    except (RuntimeError, ZeroDivisionError) as error:
        known = ("division", "without CUDA", "another thread", "NULL object")  # a rule's own, or of this build
        return "refused" if any(word in str(error) for word in known) else repr(error)
    except BaseException as error:
        return repr(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def memory() -> int:
    """Return the bytes of memory that this process holds, once what is free is given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def load(path: str | None) -> Callable[[], int]:
    """Import the native core from a file, where one is given, and return its count of places reached."""
    if path is None:
        return lambda: 0
    spec = importlib.util.spec_from_file_location("worldfast._core", path)
    sys.modules["worldfast._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["worldfast._core"])
    coverage = ctypes.CDLL(path).coverage
    coverage.restype = ctypes.c_int64
    return coverage


def go_on(
    width: int, seed: int, seconds: float, calls: int, place: str, path: str | None, known: str, hang: float
) -> None:
    """Make calls, and write before each what it is and what those before it came to."""
    reached = load(path)
    core = tests().core
    module, _, name = known.partition(":")
    known_calls = getattr(importlib.import_module(module), name)
    entries = list(known_calls())
    chance, kept = random.Random(seed), {entry: [[]] for entry in entries}
    corpus, now = open(f"{place}/corpus", "a+", encoding="utf-8"), os.open(f"{place}/now", os.O_RDWR | os.O_CREAT)
    corpus.seek(0)
    for line in corpus:
        entry, chain = json.loads(line)
        kept[entry].append(chain)
    if path:  # what is known to be reached is not new
        core.limit_vector_width(width)
        for entry in entries:
            for chain in kept[entry]:
                outcome(known_calls()[entry], chain)
    before = places = reached()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    first, began = 0, time.monotonic()

    def write(entry: str, chain: list[int], **more) -> None:
        report = dict(entry=entry, chain=chain, counts=counts, wrong=wrong, places=places, **more)
        text = json.dumps(report).encode()
        os.pwrite(now, text.ljust(8192), 0)

    for number in range(calls):
        if time.monotonic() - began > seconds:
            break
        if not first and (number > calls // 3 or time.monotonic() - began > seconds / 3):
            first = memory()
        entry = chance.choice(entries)
        base = chance.choice(kept[entry]) if chance.random() < 0.8 else []
        chain = [*base[: LONGEST - 1], *(chance.randrange(2**32) for _ in range(chance.choice((1, 1, 2))))]
        core.limit_vector_width(width)
        write(entry, chain)
        found = outcome(known_calls()[entry], chain, hang)
        counts[found if found in ("answered", "refused") else "wrong"] += 1
        if found not in ("answered", "refused") and len(wrong) < 5:
            wrong.append(f"{found[:200]}: {replay(entry, chain)}")
        if (places := reached()) > before:
            before = places
            kept[entry].append(chain)
            corpus.write(json.dumps([entry, chain]) + "\n")
            corpus.flush()
    write("", [], grown=memory() - first if first else 0)


def replay(entry: str, chain: list[int]) -> str:
    return f"python -m torture.fuzz {entry!r} {','.join(map(str, chain))}"


# ---- the row ----


def build(tally: Tally) -> str | None:
    """Build the core that counts what it reaches, and return its path."""
    if not (ROOT / "CMakeLists.txt").exists() or not all(map(shutil.which, ("cmake", "g++"))):
        tally.notes.append("no compiler or no sources: changes are blind to what they reach")
        return None
    import pybind11

    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    generator = ["-GNinja"] if shutil.which("ninja") else []
    options = [
        *("-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}", "-DWORLDFAST_CUDA=OFF"),
        *(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "-DWORLDFAST_COVERAGE=ON", f"-DWORLDFAST_OUTPUT={tally.place}"),
    ]
    environment = {**os.environ, "CCACHE_BASEDIR": str(ROOT)}
    for command in (
        ["cmake", "-S", ROOT, "-B", tally.place / "cmake", *generator, *launcher, *options],
        ["cmake", "--build", tally.place / "cmake"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            tally.notes.append(f"no build that counts what is reached: {(done.stdout + done.stderr)[-300:]}")
            return None
    return str(next(tally.place.glob("_core*.so")))


def spell(tally: Tally, place: Path, width: int, seed: int, **how) -> int:
    """Let a process make calls, count what they came to, and return the places of the code that were reached."""
    place.mkdir(exist_ok=True)
    (place / "now").unlink(missing_ok=True)
    how = dict(place=str(place), width=width, seed=seed, **how)
    with open(place / "log", "w+", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "torture.fuzz", "--go-on", json.dumps(how)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdout=log,
            stderr=log,
        )
        log.seek(0)
        said = log.read()[-400:]
    now = place / "now"
    if not now.exists():
        raise RuntimeError(f"no call was made (exit code {done.returncode}): {said}")
    report = json.loads(now.read_text())
    kind = f"at {width} floats to a vector"
    for name in ("answered", "refused"):
        if times := report["counts"].get(name, 0):
            tally.hold(f"{name} {kind}", times)
    for what in report["wrong"]:
        tally.fail(f"another error {kind}", what)
    if lost := report["counts"].get("wrong", 0) - len(report["wrong"]):
        tally.fail(f"another error {kind}", "more of them", lost)
    if done.returncode != 0:
        what = (
            "a hang"
            if done.returncode in (-signal.SIGALRM, -signal.SIGPROF)
            else f"a crash (exit code {done.returncode})"
        )
        tally.fail(f"{what} {kind}", f"{replay(report['entry'], report['chain'])}: {said}")
    elif report["grown"] > LEAK:
        tally.fail(f"memory {kind}", f"{report['grown'] >> 20} MiB more after {sum(report['counts'].values())} calls")
    if "grown" in report:
        tally.notes.append(f"{kind}, seed {seed}: {report['grown'] / 2**20:.1f} MiB more at the end of a process")
    return report["places"]


def run(tally: Tally, guided: bool = True, known: str = "native_calls:calls", hang: float = HANG) -> None:
    """Change the calls that a function ("module:name") returns: a crash or a hang ends a process, not the row."""
    path = build(tally) if guided else None
    core = tests().core
    widths = [width for width in WIDTHS if core.limit_vector_width(width) == width]
    core.limit_vector_width(max(widths))
    chance, reached = random.Random(tally.seed), dict.fromkeys(widths, 0)
    while tally.going:
        for width in widths:
            left, calls = tally.seconds - tally.elapsed, tally.target - tally.tried
            if left > 0 and calls > 0:
                calls, seconds = min(calls, -(-tally.target // len(widths))), min(SPELL, max(1.0, left))
                how = dict(seconds=seconds, calls=calls, path=path, known=known, hang=hang)
                reached[width] = spell(tally, tally.place / f"width-{width}", width, chance.randrange(2**32), **how)
    grown = [note for note in tally.notes if "MiB more" in note]
    tally.notes = [note for note in tally.notes if note not in grown] + grown[-len(widths) :]
    if path:
        tally.notes.append(f"places of the code reached, by width: {reached}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torture.fuzz", description=__doc__)
    parser.add_argument("--go-on", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("entry", nargs="?", help="entry of the native core")
    parser.add_argument("chain", nargs="?", default="", help="seeds of its changes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    if options.go_on:
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        go_on(**options.go_on)
        return
    chain = [int(seed) for seed in filter(None, options.chain.split(","))]
    print(call_of(tests().calls()[options.entry], chain)[1], flush=True)
    print(outcome(tests().calls()[options.entry], chain))


if __name__ == "__main__":
    main()

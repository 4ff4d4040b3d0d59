"""Bad input never crashes: every entry, native and public, called with arguments that were changed at random, a call that
works being the first, and cases written by hand, at each width of vectors. An answer or an error in words, in time, and
no memory is lost.

Calls are made in processes that may die, each of which makes many. A call comes from seeds, one for each change:
`python -m torture.fuzz ENTRY SEED,SEED...` makes it again. Where a compiler is, the core is built once more, below
build/fuzz, with sanitizers, and changes that reach new places of its code are kept and changed further.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from torture.changes import call_of, tests
from torture.core import build, environment, load
from torture.hand_made import count
from torture.tally import Tally

PROMISE = "bad input never crashes"
TARGET = 1_000_000  # calls
WIDTHS = (4, 8, 16)
SPELL = 300.0  # seconds that a process goes on for at most: each begins with all that reached new places
HANG = 20  # seconds of processor that a call may take
STILL = 300  # wall-clock seconds, in which a call that waits for ever is told from a busy machine
ROOM = 6 << 30  # bytes of addresses: more are refused, and that is a MemoryError
KNOWN = ("native_calls:calls", "public_calls:calls")
SPANS = 12  # of a process, of which the first WARM are for what is made once
WARM = 4
LEAK = 8 << 20  # bytes that a process may grow by in the others
LONGEST = 8  # changes of one call
OWN = ("division", "without CUDA", "another thread", "NULL object")  # errors of a rule's own, or of this build


# ---- the process that calls ----


def outcome(call: tuple[Callable, list], chain: list[int], hang: float = HANG) -> str:
    """Make a changed call, and return "answered", "refused", or what else came in words."""
    signal.setitimer(signal.ITIMER_PROF, hang)  # whose end is that of the process
    signal.alarm(STILL)
    try:
        function, arguments = call_of(call, chain)
        function(*arguments)
        return "answered"
    except (*tests().REFUSALS, OSError) as error:
        return "refused" if str(error) else f"{type(error).__name__} without a word"
    except (RuntimeError, ZeroDivisionError) as error:
        return "refused" if any(word in str(error) for word in OWN) else repr(error)
    except BaseException as error:
        return repr(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def memory() -> int:
    """Return the bytes of memory that this process holds, once what is free, or kept for another call, is given back."""
    for one in gc.get_objects():
        if type(one) is functools._lru_cache_wrapper and one.__module__.startswith("worldfast"):
            one.cache_clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def calls_of(known: str) -> dict[str, tuple[Callable, list]]:
    """Return {entry: (function, arguments)} of calls that work, from a function of this name ("module:name")."""
    tests()  # whose folder is then on the path
    module, _, name = known.partition(":")
    return getattr(importlib.import_module(module), name)()


def go_on(
    width: int, seed: int, seconds: float, calls: int, place: str, path: str | None, known: str, hang: float
) -> None:
    """Make calls, and write before each what it is and what those before it came to."""
    reached = load(path)
    core, known_calls = tests().core, calls_of(known)
    entries = list(known_calls)
    chance, kept = random.Random(seed), {entry: [[]] for entry in entries}
    corpus, now = open(f"{place}/corpus", "a+", encoding="utf-8"), os.open(f"{place}/now", os.O_RDWR | os.O_CREAT)
    corpus.seek(0)
    for line in corpus:
        entry, chain = json.loads(line)
        kept[entry].append(chain)
    core.limit_vector_width(width)
    if path:  # what is known to be reached is not new
        for entry in entries:
            for chain in kept[entry]:
                outcome(known_calls[entry], chain)
    before = places = reached()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    held: list[int] = []  # memory at the beginning of each span
    began = time.monotonic()

    def write(entry: str, chain: list[int], **more) -> None:
        report = dict(entry=entry, chain=chain, counts=counts, wrong=wrong, places=places, **more)
        os.pwrite(now, json.dumps(report).encode().ljust(8192), 0)

    for number in range(calls):
        if (spent := time.monotonic() - began) > seconds:
            break
        if SPANS * max(number / calls, spent / seconds) >= WARM + len(held):
            held.append(memory())
        entry = chance.choice(entries)
        base = chance.choice(kept[entry]) if chance.random() < 0.8 else []
        chain = [*base[: LONGEST - 1], *(chance.randrange(2**32) for _ in range(chance.choice((1, 1, 2))))]
        core.limit_vector_width(width)
        write(entry, chain)
        found = outcome(known_calls[entry], chain, hang)
        counts[found if found in ("answered", "refused") else "wrong"] += 1
        if found not in ("answered", "refused") and len(wrong) < 5:
            wrong.append(f"{found[:200]}: {replay(known, entry, chain)}")
        if (places := reached()) > before:
            before = places
            kept[entry].append(chain)
            corpus.write(json.dumps([entry, chain]) + "\n")
            corpus.flush()
    write("", [], held=[*held, memory()])


def grown(held: list[int]) -> float:
    """Return by how much a process grew at least that held so much memory at the beginning of each span and at the end:
    the lower end of the interval (95%) of the Theil-Sen slope, over all spans. What a rare call leaves once, in a cache or
    in gaps of the heap, is no leak, nor is what comes and goes.
    """
    from scipy.stats import theilslopes

    return float(theilslopes(held, alpha=0.95)[2] * (len(held) - 1)) if len(held) > 2 else 0.0


def replay(known: str, entry: str, chain: list[int]) -> str:
    return f"python -m torture.fuzz --known {known} {entry!r} {','.join(map(str, chain))}"


# ---- the row ----


def spell(tally: Tally, place: Path, width: int, seed: int, **how) -> int:
    """Let a process make calls, count what they came to, and return the places of the code that were reached."""
    place.mkdir(exist_ok=True)
    (place / "now").unlink(missing_ok=True)
    how = dict(place=str(place), width=width, seed=seed, **how)
    with open(place / "log", "w+", encoding="utf-8", errors="replace") as log:
        command = [sys.executable, "-m", "torture.fuzz", "--go-on", json.dumps(how)]
        done = subprocess.run(command, env=environment(how["path"]), stdout=log, stderr=log, cwd=place)
        log.seek(0)
        said = log.read()
    now = place / "now"
    if not now.exists():
        raise RuntimeError(f"no call was made (exit code {done.returncode}): {said[-400:]}")
    report = json.loads(now.read_text())
    kind = f"{how['known'].partition('_')[0]}, {width} floats per vector"
    for name in ("answered", "refused"):
        if times := report["counts"].get(name, 0):
            tally.hold(f"{name}: {kind}", times)
    for what in report["wrong"]:
        tally.fail(f"another error: {kind}", what)
    if lost := report["counts"].get("wrong", 0) - len(report["wrong"]):
        tally.fail(f"another error: {kind}", "more of them", lost)
    if done.returncode != 0:
        hung = done.returncode in (-signal.SIGALRM, -signal.SIGPROF)
        what = "a hang" if hung else f"a crash (exit code {done.returncode})"
        said = said[max(said.find("ERROR: AddressSanitizer"), said.find("runtime error") - 60, len(said) - 3000, 0) :]
        tally.fail(f"{what}: {kind}", f"{replay(how['known'], report['entry'], report['chain'])}: {said}")
    elif (more := grown(report["held"])) > LEAK:
        calls = sum(report["counts"].values())
        tally.fail(f"memory: {kind}", f"{more / 2**20:.0f} MiB more after {calls} calls: {report['held']}")
    if "held" in report:
        before, after = report["held"][0], report["held"][-1]
        goes_on = f"{grown(report['held']) / 2**20:+.1f} MiB at least of growth that goes on"
        tally.notes.append(f"{kind}, seed {seed}: {(after - before) / 2**20:.1f} MiB more at the end, {goes_on}")
    return report["places"]


def run(
    tally: Tally, guided: bool = True, known: tuple[str, ...] = KNOWN, hang: float = HANG, by_hand: bool = True
) -> None:
    """Change the calls that functions return (a crash or a hang ends a process, not the row), then count cases written by
    hand.
    """
    path = build(tally) if guided else None
    core = tests().core
    own = core.vector_width()
    widths = [width for width in WIDTHS if core.limit_vector_width(width) == width]
    core.limit_vector_width(own)
    ways = [(one, width) for one in known for width in widths]
    chance, reached = random.Random(tally.seed), {}
    while tally.going:
        for one, width in ways:
            left, calls = tally.seconds - tally.elapsed, tally.target - tally.tried
            if left > 0 and calls > 0:
                calls, seconds = min(calls, -(-tally.target // len(ways))), min(SPELL, max(1.0, left))
                how = dict(seconds=seconds, calls=calls, path=path, known=one, hang=hang)
                place = tally.place / f"{one.partition(':')[0]}-{width}"
                reached[f"{one.partition('_')[0]} {width}"] = spell(tally, place, width, chance.randrange(2**32), **how)
    if by_hand:
        for width in widths:
            count(tally, path, width)
    of_memory = [note for note in tally.notes if "MiB more" in note]
    tally.notes = [note for note in tally.notes if note not in of_memory] + of_memory[-len(ways) :]
    if path:
        tally.notes.append(f"address and undefined sanitizers; places of the code reached, by width: {reached}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torture.fuzz", description=__doc__)
    parser.add_argument("--go-on", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--known", default="native_calls:calls", help="module and function of calls that work")
    parser.add_argument("entry", nargs="?", help="one of them")
    parser.add_argument("chain", nargs="?", default="", help="seeds of its changes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    if options.go_on:
        if not options.go_on["path"]:  # a sanitizer reserves more, and has limits of its own
            resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        go_on(**options.go_on)
        return
    chain = [int(seed) for seed in filter(None, options.chain.split(","))]
    call = calls_of(options.known)[options.entry]
    print(call_of(call, chain)[1], flush=True)
    print(outcome(call, chain))


if __name__ == "__main__":
    main()

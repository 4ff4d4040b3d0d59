"""Entries that do what no entry may, for the test of the row that must notice: functions that return calls, by name."""

import ctypes
import functools

kept = []


def broken(does):
    """Return {name: (function, arguments)} of an entry that takes 1, and breaks at anything else."""

    def entry(x):
        if x != 1:
            does(x)

    return {does.__name__: (entry, [1])}


def crash(x):
    ctypes.string_at(0)


def hang(x):
    while True:
        pass


def error(x):
    raise AssertionError(x)


def leak(x):
    kept.append(b"x" * (4 << 20))


for does in (crash, hang, error, leak):
    globals()[does.__name__] = functools.partial(broken, does)

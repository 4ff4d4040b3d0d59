"""Changes of calls that work, drawn from seeds: one call of many that nobody would write by hand."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

__all__ = ["call_of", "tests"]

SOME = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 8, 127, 255, 2**31 - 1, 2**53, 2**62, 2**63 - 1)
TEXTS = ("", " ", "x", "../x", "/", "ä\x00b", "\ud800", "{", "city", "nan", "1e400", "a" * 300)
NO_CHANGE = (IndexError, TypeError, ValueError, OverflowError)  # of what a change before has made of an argument


def tests():
    """Return the module of calls of the native core, which stands with the tests."""
    if (place := str(Path(__file__).parents[1] / "python_tests")) not in sys.path:
        sys.path.append(place)
    import native_calls

    return native_calls


def one_of(chance: random.Random, others: Iterator) -> object:
    """Return one of what is yielded before an error, if there is one: what is changed twice need not have its axes."""
    found = [None]
    try:
        for _, found[0] in islice(others, 1 + chance.randrange(80)):
            pass
    except NO_CHANGE:
        pass
    return found[0]


def copied(value: object) -> object:
    """Return a value that shares no memory which a call may write."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)([copied(one) for one in value])
    if type(value) is dict:
        return {name: copied(one) for name, one in value.items()}
    return tests().core.Arena() if isinstance(value, tests().core.Arena) else value


def changed(chance: random.Random, value: object, others: list) -> object:
    """Return something like a value, or something else."""
    if others and chance.random() < 0.05:
        return chance.choice(others)
    if isinstance(value, torch.Tensor):
        return torch.from_numpy(with_elements(chance, value.numpy())) if chance.random() < 0.5 else value[:-1]
    if isinstance(value, np.ndarray):
        way = chance.random()
        if way < 0.5 and value.size and value.dtype.kind in "iuf":
            return with_elements(chance, value)
        if way < 0.65:
            return np.resize(value, [chance.choice((n, n, n, n + 1, max(n - 1, 0), 0, 1)) for n in value.shape])
        return one_of(chance, tests().in_place_of(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and chance.random() < 0.9:
        field = chance.choice([field for field in dataclasses.fields(value) if field.init])
        return dataclasses.replace(value, **{field.name: changed(chance, getattr(value, field.name), others)})
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        if chance.random() < 0.05:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: changed(chance, value[key], others)}
    if type(value) in (list, tuple) and len(value) > 0:
        at, kind = chance.randrange(len(value)), type(value)
        if chance.random() < 0.75:
            return kind([*value[:at], changed(chance, value[at], others), *value[at + 1 :]])
        return chance.choice(
            [
                kind(),
                kind([*value[:at], *value[at + 1 :]]),
                kind([*value, value[at]]),
                value * (9 if len(value) < 20 else 1),
                None,
            ]
        )
    if callable(value) and not isinstance(value, type):
        return one_of(chance, tests().in_place_of(value))
    if isinstance(value, str) and chance.random() < 0.7:
        at = chance.randrange(len(value) + 1)
        return chance.choice((value[:at] + chance.choice(TEXTS) + value[at:], value[:at] + value[at + 1 :], value[:at]))
    if isinstance(value, int | float) and chance.random() < 0.6:
        return chance.choice((value + 1, value - 1, -value, value * 2, value // 2, chance.randrange(-3, 20), not value))
    return chance.choice((*tests().NUMBERS, chance.choice(SOME), chance.choice(TEXTS)))


def with_elements(chance: random.Random, x: np.ndarray) -> np.ndarray:
    """Return an array of which a few elements are others."""
    x = x.copy()
    for _ in range(chance.choice((1, 1, 2, 3, min(x.size, 64)))):
        at = chance.randrange(x.size)
        far = chance.choice((*SOME, float("nan"), float("inf"), 1e-40))
        beside = x.flat[chance.randrange(x.size)].item()
        value = chance.choice((far, beside, x.flat[at].item() + chance.choice((-1, 1))))
        x.flat[at] = np.array(value).astype(x.dtype)
    return x


def call_of(call: tuple[Callable, list], chain: list[int]) -> tuple[Callable, list]:
    """Return the function of a call that works, and its arguments after the changes of these seeds.

    Raises what the making of an argument raises, where it is a spec that checks its fields.
    """
    function, arguments = call[0], copied(call[1])
    for seed in chain:
        chance = random.Random(seed)
        for at in chance.sample(range(len(arguments)), min(len(arguments), chance.choice((1, 1, 1, 2)))):
            others = [one for one in arguments if isinstance(one, np.ndarray)]
            try:
                arguments[at] = changed(chance, arguments[at], others)
            except NO_CHANGE:  # no such change of what was changed before
                arguments[at] = None
    return function, arguments

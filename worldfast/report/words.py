"""Numbers and lists in words, as captions and the page say them."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()


def number(n: int) -> str:
    """A number as a word up to twelve, then as digits: "seven", "21"."""
    return NUMBERS[n] if n < len(NUMBERS) else f"{n:,}"


def count(n: int, one: str, many: str = "") -> str:
    """A number of things: "1 model", "1,200 models"; `many` where an s does not make it."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a line, the first few of many: "a, b, c, d and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

"""Numbers and lists in words, as in captions and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()


def number(n: int) -> str:
    """Return a number as a word up to twelve, then in digits: "seven", "21"."""
    return NUMBERS[n] if n < len(NUMBERS) else f"{n:,}"


def plain(value: float, form: str) -> str:
    """Format a number with a true minus sign, but for a 0; "–" if it is not finite."""
    if not isfinite(value):
        return "–"
    text = format(value, form)
    return text.replace("-", "\u2212" if text.strip("-0.,%") else "")


def joined(names: Sequence[str]) -> str:
    """Return names in words: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in one line, abbreviated after the first `most`: "a, b, c, d and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

"""Facts for people: HTML that notebooks show for an object, and counts and sizes in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def html_facts(title: str, facts: Mapping[str, object]) -> str:
    """Return HTML, without styles: a title and a row for each fact. Text is escaped."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return names in words, the first few where there are many: "a, b, c and 27 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most + 1 else ""
    return ", ".join(names[:most] if more else names) + more


def count(n: int, one: str, many: str = "") -> str:
    """Return a number of items: "1 model", "1,200 models"; `many` is the plural if it is not `one` + "s"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def size_text(size: int) -> str:
    """Return a number of bytes in words: "10.2 GiB"."""
    for letter, power in (("G", 30), ("M", 20), ("K", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {letter}iB"
    return count(size, "byte")


def duration(seconds: float, digits: int = 1) -> str:
    """Return a time in words: 171.4 -> "2 min 51 s"; below a minute with this many digits after the point."""
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    return f"{hours} h {left} min" if hours < 48 else f"{hours // 24:,} days {hours % 24} h"

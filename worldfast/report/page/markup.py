"""Small pieces of HTML and of text shared by the parts of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from worldfast.report.colours import INK


def span(values: Sequence[int]) -> str:
    """Return the range of integers: [5, 5] -> "5"; [5, 9] -> "5 to 9"."""
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def named(style: tuple[str, str, str]) -> str:
    """Return a model's name after a dot of its colour; `style` as from `run_styles`."""
    label, colour, _ = style
    return f"<i style='--c:{'var(--ink)' if colour == INK else colour}'></i>{escape(label)}"


def pairs(rows: Mapping[str, str]) -> str:
    """Return a table of two columns, text and text."""
    body = "".join(
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>" for key, value in rows.items()
    )
    return f"<table class=pairs><tbody>{body}</tbody></table>"


def table(kind: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table whose first column names its rows. Heads and names are HTML, cells are text."""
    head = "".join(f"<th scope=col{' class=number' if i else ''}>{text}</th>" for i, text in enumerate(heads))
    body = "".join(
        f"<tr><th scope=row>{name}</th>" + "".join(f"<td class=number>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    return f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

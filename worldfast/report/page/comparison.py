"""Table of our numbers beside the published ones, with the difference and its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, isfinite, log10

from worldfast.display import count
from worldfast.studies import Comparison

HEADS = ("", "ours", "n", "published", "difference", "unit", "source")


def table(rows: Sequence[Comparison]) -> str:
    """Return the table as HTML, one row per number; empty if there is none."""
    if not rows:
        return ""
    head = "".join(f"<th scope=col{' class=number' if 0 < i < 5 else ''}>{text}</th>" for i, text in enumerate(HEADS))
    return f"<table class='runs beside'><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, rows))}</tbody></table>"


def measured(value: float, error: float) -> str:
    """Return a number and its standard error, to the error's second digit: (0.8382, 0.0136) -> "0.838 ± 0.014".

    Without an error, or with an error of 0: at most four digits, without trailing zeros. "–" if it is not a number.
    """
    if not isfinite(value):
        return "–"
    if isfinite(error) and error > 0:
        places = min(6, max(0, 1 - floor(log10(error))))
        text = f"{value:,.{places}f} ± {error:,.{places}f}"
    else:
        places = min(6, max(0, 3 - floor(log10(abs(value))))) if value else 0
        text = f"{value:,.{places}f}"
        text = (text.rstrip("0").rstrip(".") if "." in text else text) + (" ± 0" if error == 0 else "")
    return text.replace("-", "\u2212")


def lacking(row: Comparison) -> str:
    """Return the reason why the difference has no error, in words."""
    without = [
        who for who, error in (("ours", row.ours_error), ("published", row.published_error)) if not isfinite(error)
    ]
    return "no standard error of " + " or ".join(without)


def _row(row: Comparison) -> str:
    n = count(row.ours_n, row.counted, _plural(row.counted)) if row.counted else f"{row.ours_n:,}"
    cells = [
        measured(row.ours, row.ours_error) if isfinite(row.ours) else "not measured",
        n if isfinite(row.ours) else "–",
        measured(row.published, row.published_error) if isfinite(row.published) else "never published",
    ]
    note = f"<small>{escape(row.note)}</small>" if row.note else ""
    return (
        f"<tr><th scope=row>{escape(row.what)}{note}</th>"
        + "".join(f"<td class=number data-head={head}>{escape(cell)}</td>" for head, cell in zip(HEADS[1:], cells))
        + f"<td class=number data-head=difference>{_difference(row)}</td>"
        + f"<td{'' if row.unit else ' class=none'} data-head=unit>{escape(row.unit or '–')}</td>"
        + f"<td class='source{'' if row.source else ' none'}' data-head=source>{escape(row.source or '–')}</td></tr>"
    )


def _difference(row: Comparison) -> str:
    if not isfinite(row.difference):
        return "–"
    text = ("+" if row.difference > 0 else "") + measured(row.difference, row.difference_error)
    if not isfinite(row.difference_error):
        why = lacking(row)
    elif row.difference_error == 0:
        return escape(text)
    else:
        why = f"{abs(row.difference) / row.difference_error:.1f} standard errors"
    return f"{escape(text)}<small>{escape(why)}</small>"


def _plural(noun: str) -> str:
    """Return a noun with its first word in the plural: "pair of models" -> "pairs of models"."""
    first, _, rest = noun.partition(" ")
    return f"{first}s {rest}".strip()

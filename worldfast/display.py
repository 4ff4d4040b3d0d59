"""HTML that notebooks show for an object: a small table of its facts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

__all__ = ["html_facts"]


def html_facts(title: str, facts: Mapping[str, object]) -> str:
    """Return HTML, without styles: a title and a row for each fact. Text is escaped."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"

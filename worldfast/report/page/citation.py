"""Citation of a study: the software that made it, and the publications its world asks to cite."""

from __future__ import annotations

import re

from worldfast.studies import StudyResult


def bibtex(result: StudyResult) -> str:
    """Return BibTeX of a study of this version of worldfast, and what its scene asks to cite."""
    key = re.sub(r"[^A-Za-z0-9]+", "-", result.name).strip("-") or "study"
    commit = f", commit {result.commit}" if result.commit else ""
    ours = (
        f"@software{{worldfast-{key},\n"
        '  author  = "{The worldfast authors}",\n'
        f'  title   = "{{worldfast: the study {_plain(result.name)}}}",\n'
        f"  version = {{{_plain(result.version + commit)}}},\n"
        f"  date    = {{{_plain(result.date)}}},\n"
        f"  note    = {{{_plain(result.command)}}}\n"
        "}"
    )
    return "\n\n".join(filter(None, [ours, result.world.cite]))


def _plain(text: str) -> str:
    """Return text without the braces that would end a field."""
    return text.replace("{", "(").replace("}", ")")

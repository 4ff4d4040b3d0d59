"""Specifications of the models by family: shared values stated once, then the differences."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from worldfast.display import count
from worldfast.report.page.markup import pairs, table
from worldfast.report.words import number


def flatten(spec: Mapping, prefix: str = "") -> dict[str, str]:
    """Return a nested specification as rows of a table: {"model": {"layers": 2}} -> {"model.layers": "2"}.

    A run that another starts from is given by its name, since it has a specification of its own.
    """
    rows: dict[str, str] = {}
    for key, value in spec.items():
        if not prefix and key == "start" and isinstance(value, Mapping):
            rows[key] = str(value.get("name") or value.get("folder") or "another run")
        elif isinstance(value, Mapping) and value:
            rows |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            rows[f"{prefix}{key}"] = _several(value) or "none"
        else:
            rows[f"{prefix}{key}"] = "none" if value is None else str(value)
    return rows


def family(spec: Mapping) -> str:
    """Return the family under which a run is listed: "fine-tuned on two tasks, width 64"."""
    tasks = spec["data"].get("tasks") if isinstance(spec.get("data"), Mapping) else None
    n = len(tasks) if isinstance(tasks, (list, tuple)) else 0
    tasks = f"{number(n)} {'task' if n == 1 else 'tasks'}"
    width = spec["model"].get("hidden") if isinstance(spec.get("model"), Mapping) else None
    kind = "fine-tuned" if spec.get("start") else "pretrained"
    return kind + (f" on {tasks}" if n else "") + (f", width {width}" if width else "")


def specifications(specs: Mapping[str, Mapping]) -> str:
    """Return one collapsible part per family, in order of first appearance; `specs` are keyed by run name."""
    families: dict[str, dict[str, dict[str, str]]] = {}
    for name, spec in specs.items():
        rows = flatten(spec)
        rows.pop("name", None)  # shown as the row's heading
        families.setdefault(family(spec), {})[name] = rows
    return "".join(_family(title, members) for title, members in families.items())


def _family(title: str, members: dict[str, dict[str, str]]) -> str:
    members_are = count(len(members), "run") if len(members) > 1 else next(iter(members))
    summary = escape(f"{title[:1].upper()}{title[1:]}: {members_are}")
    keys = list(dict.fromkeys(key for rows in members.values() for key in rows))
    values = {key: {rows.get(key, "–") for rows in members.values()} for key in keys}
    shared = {key: next(iter(said)) for key, said in values.items() if len(said) == 1}
    differing = [key for key in keys if key not in shared]
    body = pairs(shared)
    if len(members) > 1:
        rows = [(escape(name), [rows.get(key, "–") for key in differing]) for name, rows in members.items()]
        each = table("'runs spec'", ["run", *map(escape, differing)], rows)
        body += f"<p class=caption>What differs between them:</p><div class=scroll>{each}</div>"
    return f"<details><summary>{summary}</summary>{body}</details>"


def _several(values: list | tuple) -> str:
    """Return a list in one line; parts of a mixture as key=value."""
    return ", ".join(
        " ".join(f"{key}={part}" for key, part in value.items() if part not in (None, "", 0))
        if isinstance(value, Mapping)
        else str(value)
        for value in values
    )

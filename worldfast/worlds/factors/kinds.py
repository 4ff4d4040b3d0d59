"""Kinds of runs: what tells the runs of a study apart, but for their seeds, in columns and in words.

Sentences and figures take medians over the nets of a kind, never over different ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from worldfast.models import GPTSpec, RecurrentSpec
from worldfast.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["FAMILIES", "OF_RUN", "in_words", "kinds_of", "of_training", "telling"]

FAMILIES: dict[str, Any] = {  # models of the source; GPT learns a fifth as long
    "rnn": RecurrentSpec(hidden=64, nonlinearity="relu", init="fan_in"),
    "kept": RecurrentSpec(hidden=64, nonlinearity="relu", init="fan_in", decays=False),
    "lstm": RecurrentSpec("lstm", hidden=64),
    "gpt": GPTSpec(),
}


def family_of(run: Run) -> str:
    """Return the name of a run's family: that of FAMILIES, or its spec's class and the fields that are not defaults."""
    if known := [name for name, spec in FAMILIES.items() if spec == run.model]:
        return known[0]
    given = [(one.name, getattr(run.model, one.name)) for one in fields(run.model)]
    defaults = {one.name: one.default for one in fields(run.model)}
    said = ", ".join(f"{name}={value!r}" for name, value in given if value != defaults[name])
    return f"{type(run.model).__name__}({said})"


OF_RUN: dict[str, Callable[[Run], Any]] = {  # columns of the table of runs
    "family": family_of,
    "questions": lambda run: run.data.questions,
    "n": lambda run: run.data.n,
    "dims": lambda run: run.data.dims,
    "sigma": lambda run: run.data.sigma,
    "correlation": lambda run: run.data.correlation,
    "stimulus": lambda run: run.data.steps,
    "noise": lambda run: run.data.noise,
    "encoder": lambda run: run.data.encoder or "none",
    "reaction": lambda run: run.data.reaction,
    "target": lambda run: run.data.target,
    "truncated": lambda run: run.data.truncated,
    "output": lambda run: run.data.squashed,
    "batches": lambda run: run.steps,
}


def telling(runs: DataFrame, names: Sequence[str], told: Sequence[str] = ()) -> list[str]:
    """Return `told`, and those of the other columns that tell apart runs which are alike in all columns before."""
    found = [*told]
    for name in names:
        parts = [part for _, part in runs.groupby(found)] if found else [runs]
        if any(part[name].nunique() > 1 for part in parts):
            found.append(name)
    return found


def in_words(name: str, value: Any) -> str:
    """Return a field of a run in words: "even24", "sigma 0.3", "encoder square"."""
    if name in ("family", "tasks", "questions"):
        return str(value)
    return f"{name} {value}" if isinstance(value, str | bool) else f"{name} {value:g}"


def kinds_of(runs: DataFrame) -> Series:
    """Return the kind of each run in words, by its name: "rnn, even24", or "rnn, even24, sigma 0.3"."""
    names = telling(runs, [*OF_RUN], ("family", "tasks"))
    said = [", ".join(in_words(name, of_run[name]) for name in names) for _, of_run in runs.iterrows()]
    return runs.set_index("run").assign(kind=said)["kind"]


def of_training(given: Mapping[str, DataFrame], _) -> dict[str, dict]:
    """Return the sets of runs that differ in their questions and seeds alone, each a variant of a figure."""
    runs = given["runs"]
    names = telling(runs, [name for name in OF_RUN if name not in ("questions", "n", "dims", "reaction")])
    if not names:
        return {"": {"members": [*runs["run"]], "kind": ""}}
    found = {}
    for _, part in runs.groupby(names, sort=False):
        kind = ", ".join(in_words(name, part[name].iloc[0]) for name in names)
        found[re.sub(r"[^\w.]+", "-", kind).strip("-")] = {"members": [*part["run"]], "kind": kind}
    return found

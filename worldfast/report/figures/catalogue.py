"""Registry of a world's figures: a function registers with `@figure`, and returns a drawing and its caption.

CATALOGUE = Catalogue()

@CATALOGUE.figure("dimension", "know", "dimension runs")
def dimension(table, runs):
    return drawing, "What it shows, with its numbers."
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from worldfast.errors import one_of
from worldfast.report.figures.style import styled
from worldfast.report.figures.tables import LacksRuns, groups

SECTIONS = {  # key -> heading, in the order of the page
    "know": "What the models know",
    "alike": "How alike they are inside",
    "tuning": "What fine-tuning does",
    "tasks": "World and tasks",
}
UNTUNED = "the study has no fine-tunes"
ABSENT = {  # table that a study makes only of certain runs -> what is missing where there is none
    "validation": "no run was scored while it trained (their `validation` is 0)",
    "evaluation": "no run was tested (the study's `test_rows` is 0)",
    "trends": "too few pretrained runs learned their tasks to compare them by the number of tasks",
}
PROPER = {"cka": "CKA", "pca": "PCA", "rbf": "RBF", "knn": "kNN", "procrustes": "Procrustes"}


class Drawn(NamedTuple):
    """A figure of a study, or the reason why there is none.

    Attributes
    ----------
    name : str
        Name of its files.
    section : str
        A key of SECTIONS.
    title : str
    figure : object
        A matplotlib Figure, or bytes of its files (PNG, SVG); None if the study lacks the data.
    caption : str
        A sentence or two on what it shows, with numbers; if there is no figure, what the study lacks.
    numbers : str
        CSV of what it draws (`numbers.as_csv`), or "".
    chart : list of dict
        Its curves, for the page to draw (`numbers.chart`); [] for any other figure.
    """

    name: str
    section: str
    title: str
    figure: object
    caption: str
    numbers: str = ""
    chart: list[dict] = []  # of a tuple, and never changed


class Entry(NamedTuple):
    """A registered figure; fields as in `Catalogue.figure`."""

    name: str
    section: str
    needs: tuple[str, ...]
    draw: Callable
    variants: Mapping[str, Mapping] | Callable[..., Mapping[str, Mapping]]


class Catalogue:
    """Figures, section by section, in order of registration."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def figure(self, name: str, section: str, needs: str, variants=None) -> Callable[[Callable], Callable]:
        """Return a decorator that registers a function (tables, then options by name) -> (figure, caption), `styled`.

        Parameters
        ----------
        name : str
            Name of its files; "{group}" stands for the group that runs were taught.
        section : str
            A key of SECTIONS.
        needs : str
            Names of the tables that are its arguments, separated by spaces; "world" is the world.
        variants : mapping or callable, optional
            Suffix of the name -> further options: a figure is drawn for each. A callable computes it from the tables
            and the layer, and raises LacksRuns if there is none.

        Raises
        ------
        ValueError
            The section is unknown.
        """
        one_of("section", section, SECTIONS)

        def register(draw: Callable) -> Callable:
            draw = styled(draw)
            self.entries.append(Entry(name, section, tuple(needs.split()), draw, variants or {"": {}}))
            return draw

        return register

    def draw(self, tables: Mapping, world, layer: int | None = None) -> list[Drawn]:
        """Draw every figure of a study.

        Parameters
        ----------
        tables : mapping of str to DataFrame
            The study's tables by name; missing tables are absent or have no rows.
        world
            Its world.
        layer : int, optional
            Layer of the figures that show one layer; by default, each table's last but one.

        Returns
        -------
        list of Drawn
            In the catalogue's order. If the study lacks the tables, the runs or the layer, there is no figure and the
            caption says what is lacking.

        Raises
        ------
        ValueError
            A table lacks columns.
        """
        given = _Given(tables, world=world)
        runs = tables.get("runs")
        group = "what was taught" if runs is None else groups(runs)
        untuned = runs is not None and not (runs["kind"] == "ft").any()
        ordered = sorted(self.entries, key=lambda entry: list(SECTIONS).index(entry.section))
        every = [drawn for entry in ordered for drawn in _drawn(entry, given, group, layer)]
        return [
            one._replace(caption=UNTUNED) if untuned and one.section == "tuning" and one.figure is None else one
            for one in every
        ]


class _Given(dict):
    def __missing__(self, name: str):
        raise LacksRuns(ABSENT.get(name, f"the study has no table {name!r}"))


def _drawn(entry: Entry, given: Mapping, group: str, layer: int | None):
    """Yield the figures of an entry; `layer` is passed to those that accept it."""

    def result(variant: str, figure, caption: str) -> Drawn:
        name = "-".join(part for part in (entry.name, variant) if part)
        slug = re.sub(r"\W+", "-", group.lower())[:60].strip("-")
        words = title(name).format(group=group)
        return Drawn(name.format(group=slug), entry.section, words[:1].upper() + words[1:], figure, caption)

    options = {"layer": layer} if "layer" in inspect.signature(entry.draw).parameters else {}
    try:
        arguments = [given[name] for name in entry.needs]
        variants = entry.variants(given, layer) if callable(entry.variants) else entry.variants
    except LacksRuns as lack:
        yield result("", None, str(lack))
        return
    for variant, more in variants.items():
        try:
            yield result(variant, *entry.draw(*arguments, **options, **more))
        except LacksRuns as lack:
            yield result(variant, None, str(lack))


def title(name: str) -> str:
    """Return the name of a figure in words: "cka-over-training" -> "CKA over training"."""
    words = " ".join(PROPER.get(word, word) for word in name.replace("-", " ").split())
    return words[:1].upper() + words[1:]


def lacks(drawn) -> dict[str, list[str]]:
    """Return the titles of the figures that were not drawn, grouped by what the study lacks for them."""
    found: dict[str, list[str]] = {}
    for one in drawn:
        if one.figure is None:
            found.setdefault(one.caption, []).append(one.title)
    return found

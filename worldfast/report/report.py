"""A study's page: one self-contained HTML file, for a browser, for mail, or for a stage.

The page loads nothing: its style, script, figures and data are inside it, and its content security policy forbids
anything else. The same page serves three models and five hundred: films are of the selected runs of the result, the
table of runs and the figures are of all runs.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np

from worldfast import files
from worldfast.display import count, duration, first_of
from worldfast.errors import shown
from worldfast.report.colours import CKA_STOPS, INK
from worldfast.report.figures import learned_map, numbers, save, standard, views_over_training
from worldfast.report.figures.catalogue import SECTIONS
from worldfast.report.figures.curves import r2_of
from worldfast.report.page import citation, comparison, films, gallery, models, provenance, taught
from worldfast.report.page.drawings import drawings
from worldfast.report.page.markup import pairs, span
from worldfast.report.page.terms import glossary
from worldfast.studies import Scene, Study, StudyResult

LOG = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page")
SCRIPTS = (
    "state",
    "pen",
    "taught",
    "map",
    "pair",
    "space",
    "curves",
    "chart",
    "table",
    "files",
    "address",
    "start",
)  # concatenated in this order, in one scope
PAGE_BYTES = 14_500_000  # upper bound on a page's size
FILM_BYTES = 1_230_000  # budget per model's film, as text; short films leave their share to the others
ALL_FILMS_BYTES = 6_000_000
FINDINGS = 3  # that are not folded


def write(result: StudyResult, path: str | os.PathLike, film_bytes: int | None = None) -> Path:
    """Write the page of a result, atomically; its folder is created if needed.

    If the films exceed their budget, every second checkpoint is dropped from them, repeatedly, until they fit; the page
    then says how many it shows, and its curves keep all. Figures are never dropped or shrunk.

    Parameters
    ----------
    result : StudyResult
    path : path
        File to write.
    film_bytes : int, optional
        Budget of all films together, as text. By default, 1.23 MB per model, at most 6 MB, and at most the part of 14.5
        MB that the figures leave.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        The study has no films, or a figure is neither PNG nor SVG.
    OSError
        The file cannot be written: IsADirectoryError if `path` is a folder, FileExistsError if its folder is a file.
    """
    path = Path(path)
    text = page(result, film_bytes)
    files.folder(path.parent, "path")
    return files.write_whole(path, files.text_bytes(text))


def publish(study: Study, result: StudyResult, folder: str | os.PathLike) -> Path:
    """Draw every figure of a study as PNG, SVG and CSV into `folder`/figures, and write `folder`/report.html with them.

    Figures that lack the runs they need are listed on the page, with reasons, and the first of them in the log.

    Parameters
    ----------
    study : Study
    result : StudyResult
        From `run_study`.
    folder : path
        Created if needed.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError, OSError
        As in `write`.
    """
    _require_films(result)
    folder = files.folder(folder, "folder")
    files.require_folder(folder / "figures")
    origin = shown(
        f"{result.command}; worldfast {result.version} {result.commit}; {result.machine.get('processor', '')}"
    )
    drawn = []
    tables = _canon(result.tables)
    figures = study.figures(tables, result.world, result.cka_layer) if study.figures else standard.draw(result, tables)
    for one in figures:
        if one.figure is not None:
            read = {"numbers": numbers.as_csv(one.figure), "chart": numbers.chart(one.figure)}
            files_of = save(one.figure, folder / "figures", one.name, origin)
            files.write_whole(folder / "figures" / f"{one.name}.csv", files.text_bytes(read["numbers"]))
            one = one._replace(figure=tuple(path.read_bytes() for path in files_of), **read)
        drawn.append(one)
    if titles := [one.title for one in drawn if one.figure is None]:
        LOG.warning("%s not drawn, the page says why: %s", count(len(titles), "figure"), first_of(titles))
    tasks = models.tasks_of(result)
    for run in result.runs:
        save(learned_map(result.world, run, moments=6, tasks=tasks), folder / "figures", f"map-{run.name}", origin)
        save(views_over_training(result.world, run, tasks=tasks), folder / "figures", f"views-{run.name}", origin)
    return write(replace(result, figures=drawn), folder / "report.html")


def _canon(tables):
    """Return the tables without the study's extensions, which averages exclude."""
    if "runs" not in tables:
        return tables
    names = tables["runs"][tables["runs"].canon].run
    kept = {}
    for name, table in tables.items():
        for column in ("run", "other") if name in ("cka", "procrustes", "mutual_knn") else ("run",):
            table = table[table[column].isin(names)] if column in table else table
        kept[name] = table
    return kept


def _require_films(result: StudyResult) -> None:
    if not result.runs:
        raise ValueError(
            f"study {result.name!r}: runs is empty: a page shows films of runs, and no analysis of the study is of the "
            "kind 'films'; its tables are CSV files in its folder"
        )


def page(result: StudyResult, film_bytes: int | None = None) -> str:
    """Return the page as text: page/page.html with its placeholders filled."""
    _require_films(result)
    styles = models.styles(result.runs, models.tasks_of(result))
    markup = _markup(result, styles)
    more = {
        "study": result.name,
        "ink": INK,
        "files": gallery.files(result.figures),
        "charts": gallery.charts(result.figures),
    }
    if film_bytes is None:
        left = PAGE_BYTES - sum(map(len, markup.values())) - len(films.as_json(more))
        film_bytes = max(0, min(FILM_BYTES * len(result.runs), ALL_FILMS_BYTES, left))
    data = films.data(result.world, result.runs, styles, film_bytes, taught.known_groups(result)) | more
    places = {name: escape(text) for name, text in _texts(result, data).items()} | markup
    places["data"] = films.as_json(data)
    template = (PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: places[place[1]], template)  # once: filled text is not read again


def _texts(result: StudyResult, data: dict) -> dict[str, str]:
    """Return the plain-text placeholders."""
    world, runs = result.world, result.runs
    mapped = world.xy is not None
    fitted, held = _sizes(result)
    checkpoints = span([len(run.steps) for run in runs])
    shown = span([len(run["rows"]) for run in data["runs"]])
    everything = len(result.tables["runs"]) if "runs" in result.tables else len(runs)
    byline = [
        count(everything, "model"),
        count(len(world), world.one, world.many),
        f"{checkpoints} checkpoint{'' if checkpoints == '1' else 's'} each",
        duration(result.seconds),
        result.date,
    ]
    between = result.cka[~np.eye(len(runs), dtype=bool) & np.isfinite(result.cka)]
    return {
        "title": f"{result.name}: {world.title[:1].lower()}{world.title[1:]} (worldfast)",
        "heading": world.title,
        "question": world.question,
        "notes": world.notes,
        "loss": world.loss,
        "map_title": "The world as the model has it" if mapped else f"{world.many.capitalize()} as the model has them",
        "map_label": f"Map of {world.many} where the model places them",
        "where": f"where a linear probe of the model’s activations puts it{_ways(world)}; the faint dots beneath are "
        f"where the {world.many} are."
        if mapped
        else "along the first two principal components of the model’s activations.",
        "r2": r2_of(runs[0].columns),
        "one": world.one,
        "an_entity": f"{'an' if world.one[:1] in 'aeiou' else 'a'} {world.one}",
        "many": world.many,
        "grouping": world.grouping[0],
        "name": result.name,
        "version": result.version,
        "commit": result.commit or "commit unknown",
        "date": result.date,
        "byline": " · ".join(part.replace(" ", "\u00a0") for part in byline),
        "example": world.name[data["landmarks"][0] if data["landmarks"] else 0],
        "number": f"{len(world):,}",
        "fitted": fitted,
        "held": held,
        "thinned": f"The slider shows {shown} of the {checkpoints} checkpoints." if shown != checkpoints else "",
        "selected": f"Shown are {len(runs)} of the study’s {everything} models; the table of all runs is below."
        if everything > len(runs)
        else "",
        "layer": str(result.cka_layer),
        "alike": f"from {between.min():.2f} to {between.max():.2f}" if len(between) else "–",
        "nulls": " Dashed: what the same probe reads of the shown model’s nulls, which have no model."
        if any(run.nulls for run in runs)
        else "",
        "test_rows": f"{result.test_rows:,}",
        "command": result.command,
        "citation": citation.bibtex(result),
        "taught": " and ".join(world.new),
    }


def _ways(world: Scene) -> str:
    """Return which attribute is which way on the map, unless its grid says so."""
    x, y = world.axes
    return "" if x.grid else f" ({x.name} to the right, {y.name} upward)"


def _sizes(result: StudyResult) -> tuple[str, str]:
    """Return how many entities probes are fitted on, and tried on."""
    runs = result.runs
    held = [int(run.held_out.sum()) for run in runs]
    return span([len(result.world) - n for n in held]), span(held)


def _markup(result: StudyResult, styles) -> dict[str, str]:
    """Return the HTML placeholders, except the data."""
    runs = result.runs
    scores = models.scores(result, styles)
    drawn = gallery.figures(result.figures)
    compared = comparison.table(result.published)
    listed = "runs" in result.tables
    present = {
        "know": bool(scores) or "know" in drawn,
        "alike": len(runs) > 1 or "alike" in drawn,
        "tuning": "tuning" in drawn,
        "tasks": "tasks" in drawn,
        "published": bool(compared),
    }
    specs = result.specs or {run.name: run.spec for run in runs}
    said = [f"<li>{escape(finding)}</li>" for finding in result.findings]
    return {
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        "drawings": drawings(result, *_sizes(result)),
        "findings": f"<ol>{''.join(said[:FINDINGS])}</ol>{_folded(said[FINDINGS:])}",
        "findings_terms": glossary("".join(said), result.world),
        "contents": _contents(present) if result.figures or compared else "",
        "no_pairs": "" if len(runs) > 1 else "hidden",
        "cka": models.cka(result.cka, styles),
        "cka_stops": ",".join(CKA_STOPS),
        "no_scores": "" if scores else "hidden",
        "scores": scores,
        **{f"{key}_figures": drawn.get(key, "") for key in SECTIONS},
        **{f"{key}_terms": glossary(drawn.get(key, ""), result.world) for key in SECTIONS},
        **{f"{key}_holds": _holds(result, key) for key in SECTIONS},
        "published_terms": glossary(compared, result.world),
        **{f"{key}_title": heading if present[key] else "" for key, heading in SECTIONS.items()},
        **{f"no_{key}": "" if there else "hidden" for key, there in present.items()},
        "compared": compared,
        "no_new": "" if result.world.new else "hidden",
        "no_probe": "" if runs[0].columns else "hidden",
        "no_question": "" if result.world.question else "hidden",
        "sources": "".join(
            f"<a href='{escape(link)}'>{escape(text)}</a>" if link else escape(text)
            for text, link in result.world.sources
        ),
        "missing": gallery.missing(result.figures),
        "runs": models.every(result) if listed else models.few(result.world, runs, styles),
        "specs": provenance.specifications(specs),
        "machine": pairs({**result.machine, "whole study": duration(result.seconds), **_origin(result)}),
        "script": "\n".join((PAGE / f"{part}.js").read_text(encoding="utf-8") for part in SCRIPTS),
    }


def _origin(result: StudyResult) -> dict[str, str]:
    return {"worldfast": f"{result.version}, commit {result.commit or 'unknown'}", "date": result.date}


def _folded(more: list[str]) -> str:
    """Return the findings after the first few, behind a line that says how many there are."""
    return (
        f"<details><summary>{count(len(more), 'more finding')}</summary><ol>{''.join(more)}</ol></details>"
        if more
        else ""
    )


def _holds(result: StudyResult, section: str) -> str:
    """Return what a section holds, for the line that it is folded behind."""
    n = sum(one.figure is not None and one.section == section for one in result.figures)
    return count(n, "figure") if n else ""


def _contents(present: dict[str, bool]) -> str:
    """Return links to the sections that the page has."""
    sections = {"explore": "Maps", **SECTIONS, "published": "Beside the published numbers", "run": "What was run"}
    links = [f"<a href='#{key}'>{escape(heading)}</a>" for key, heading in sections.items() if present.get(key, True)]
    return f"<nav class='wide contents' aria-label='Sections'>{''.join(links)}</nav>"

"""Tables of models: their similarity, their scores, and all runs of the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from worldfast.analysis import FITTED, HELD_OUT
from worldfast.display import duration
from worldfast.report import figures
from worldfast.report.colours import Tasks, legible, ramp, run_styles
from worldfast.report.figures.tables import groups
from worldfast.report.page.markup import named, table
from worldfast.report.words import number as in_words
from worldfast.report.words import plain
from worldfast.studies import RunResult, StudyResult

ACCURACY = "accuracy"  # the metric that is a share
KINDS = {"pt": "pretrained", "ft": "fine-tuned"}


def tasks_of(result: StudyResult) -> Tasks:
    """Return the tasks of all runs of a study."""
    runs = result.tables.get("runs")
    return Tasks.of(result.runs) if runs is None or "tasks" not in runs else Tasks(runs["tasks"])


def styles(runs: Sequence[RunResult], tasks: Tasks | None = None) -> list[tuple[str, str, str]]:
    """Return the `run_styles` of pretrained and fine-tuned runs; labels of fine-tuned ones say so."""
    by_run = {}
    for kind in KINDS:
        members = [i for i, run in enumerate(runs) if run.kind == kind]
        for i, (label, colour, dashes) in zip(
            members, run_styles([runs[i] for i in members], tasks or Tasks.of(runs)), strict=True
        ):
            tuned = kind == "ft" and label != runs[i].name
            by_run[i] = (f"{label}, fine-tuned" if tuned else label, colour, dashes)
    return [by_run[i] for i in range(len(runs))]


def cka(matrix: np.ndarray, styles) -> str:
    """Return the matrix as a table of coloured cells, in a compact form for many models."""
    labels = [escape(label) for label, _, _ in styles]
    lines = []
    for label, values in zip(labels, matrix, strict=True):
        cells = [
            f'<td style="background:{ramp(value)};color:{legible(value)}" '
            f'title="{label} and {other}: {value:.3f}">{value:.2f}</td>'
            if np.isfinite(value)
            else "<td>–</td>"
            for other, value in zip(labels, values, strict=True)
        ]
        lines.append(f"<tr><th scope=row>{label}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th scope=col>{label}</th>" for label in labels)
    kind = "cka many" if len(labels) > 10 else "cka"
    return (
        f'<table class="{kind}" style="--n:{len(labels)}"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def scores(result: StudyResult, styles) -> str:
    """Return each model's scores on its tasks as a table; empty if no run was scored.

    The study's table "evaluation" gives the metric and unit of a score; without it, scores are plain numbers.
    """
    scored = dict.fromkeys(name for run in result.runs for name in run.scores)
    if not scored:
        return ""
    known = result.tables.get("evaluation")
    about = (
        {} if known is None else known.drop_duplicates("task").set_index("task")[["metric", "unit"]].to_dict("index")
    )
    names = [name for name in about if name in scored] + [name for name in scored if name not in about]

    factors = {name: result.world.units.get(one["unit"], (1, one["unit"])) for name, one in about.items()}

    def head(name: str) -> str:
        metric, unit = about.get(name, {"metric": ""})["metric"], factors.get(name, (1, ""))[1]
        said = [metric] if metric in ("", ACCURACY) else [f"mean {metric}", unit]
        return "<br>".join(escape(part) for part in [name, *said] if part)

    def written(value: float, name: str) -> str:
        return plain(
            value * factors.get(name, (1, ""))[0],
            {ACCURACY: ".1%", "": ",.3f"}.get(about.get(name, {}).get("metric"), ",.1f"),
        )

    rows = [
        (named(style), [written(run.scores.get(name, np.nan), name) for name in names])
        for run, style in zip(result.runs, styles, strict=True)
    ]
    if known is not None and "constant" in known:
        constant = known[known.group == "standard"].groupby("task").constant.mean()
        rows.append(("best constant answer", [written(constant.get(name, np.nan), name) for name in names]))
    return table("runs", ["model", *map(head, names)], rows)


def few(world, runs: Sequence[RunResult], styles) -> str:
    """Return the runs and their results as a table, one line per model."""
    columns = {
        "rows seen": lambda run: f"{run.rows[-1]:,}",
        "steps": lambda run: f"{run.steps[-1]:,}",
        "training": lambda run: duration(run.seconds),
        "rows a second": lambda run: f"{run.rows[-1] / run.seconds:,.0f}" if run.seconds > 0 else "–",
        "loss at the end": lambda run: plain(figures.running_mean(run.loss)[-1], ".3f") if len(run.loss) else "–",
        **{f"probe R² {name}": lambda run, k=k: plain(run.r2[-1, k], ".3f") for k, name in enumerate(runs[0].columns)},
        **({"median error": lambda run: world.distance(run.error[-1])} if world.metric else {}),
        f"held-out {world.many}": lambda run: f"{run.held_out.sum():,}",
        "folder": lambda run: run.folder,
    }
    rows = [(named(style), [text(run) for text in columns.values()]) for run, style in zip(runs, styles, strict=True)]
    return table("runs", ["model", *columns], rows)


def every(result: StudyResult) -> str:
    """Return all runs of the study, one line per run, for table.js to sort and filter; empty columns are left out."""
    frame = result.tables["runs"]
    lines = frame.to_dict("records")
    films = {run.name: i for i, run in enumerate(result.runs)}
    found = _found(result)

    def measure(name: str, write: Callable[[float], str]) -> Callable[[dict], tuple[float, str]]:
        def cell(line: dict) -> tuple[float, str]:
            value = float(line.get(name, found.get(name, {}).get(line["run"], np.nan)))
            return value, write(value) if np.isfinite(value) else "–"

        return cell

    def number(name: str, form: str) -> Callable[[dict], tuple[float, str]]:
        return measure(name, lambda value: plain(value, form))

    columns = {
        "seed": number("seed", ".0f"),
        "width": number("width", ",.0f"),
        "rows seen": number("rows", ",.0f"),
        "steps": number("steps", ",.0f"),
        "training": measure("seconds", duration),
        "loss": number("loss", ".3f"),
        "probe R²": number("r2", ".3f"),
        "median error": measure("median_error", lambda value: result.world.distance(value)),
        f"{groups(frame)}, mean error": measure("taught", lambda value: result.world.distance(value)),
        "improvement, trained": number("trained", ".2f"),
        "improvement, transfer": number("transfer", ".2f"),
    }
    tasks = tasks_of(result)
    cells = {name: [cell(line) for line in lines] for name, cell in columns.items()}
    cells = {name: column for name, column in cells.items() if any(np.isfinite(value) for value, _ in column)}
    heads = ["run", "kind", "tasks", "outcome", *cells]
    body = []
    for at, line in enumerate(lines):
        name, of_run = str(line["run"]), str(line["tasks"])
        style = (name, tasks.colour(of_run), "")
        film = f" data-film={films[name]}" if name in films else ""
        whole = set(of_run.split("+")) == set(tasks.names) and len(tasks.names) > 3
        said = f"all {in_words(len(tasks.names))}" if whole else of_run.replace("+", " + ")
        texts = [KINDS.get(line["kind"], str(line["kind"])), said, _outcome(line)]
        body.append(
            f'<tr data-kind="{escape(str(line["kind"]))}" data-tasks="{escape(of_run)}"{film}>'
            f"<th scope=row>{named(style)}</th>"
            + "".join(f"<td>{escape(text)}</td>" for text in texts)
            + "".join(
                f"<td class=number data-v={value:.8g}>{escape(text)}</td>"
                if np.isfinite(value)
                else "<td class=number>–</td>"
                for value, text in (column[at] for column in cells.values())
            )
            + "</tr>"
        )
    head = "".join(
        f"<th scope=col{' class=number' if i > 3 else ''}>{escape(text)}</th>" for i, text in enumerate(heads)
    )
    return f"<table class=runs id=every><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _outcome(line: dict) -> str:
    if line.get("status", "finished") != "finished":
        return str(line["status"])
    return "learned" if line.get("learned", True) else "did not learn"


def _found(result: StudyResult) -> dict[str, dict[str, float]]:
    """Return results from the other tables by column and run: those of the last checkpoint at the compared layer."""
    found: dict[str, dict[str, float]] = {}
    tables, layer = result.tables, result.cka_layer
    if (probes := tables.get("probes")) is not None:
        last = probes[probes.layer == layer].sort_values("step").groupby("run").last()
        found |= {name: last[name].to_dict() for name in ("r2", "median_error") if name in last}
    if (places := tables.get("generalisation")) is not None:
        runs = tables["runs"]
        knows = runs["run"][runs["group"] != ""]  # of others the table may say where a probe puts what they never saw
        taught = places[(places.layer == layer) & ~places.group.isin((FITTED, HELD_OUT)) & places.run.isin(knows)]
        found["taught"] = taught.groupby("run").error.mean().to_dict()
    if (gains := tables.get("improvement")) is not None:
        for name, chosen in (("trained", gains.trained), ("transfer", ~gains.trained.astype(bool))):
            found[name] = gains[chosen.astype(bool)].groupby("run").improvement.mean().to_dict()
    return found

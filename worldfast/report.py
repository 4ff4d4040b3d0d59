"""One self-contained HTML page a study, to be read in any browser, sent by mail, or put on a stage.

The page loads nothing: its style, its script and its data stand inside it, and its content security policy
forbids the rest. Most of its size are the films of the models: where the probe puts every city, and the
first three principal components, at each checkpoint. `pack` makes them small; `unpack` in
page/state.js reads them back.
"""

from __future__ import annotations

import base64
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from worldfast import figures, files
from worldfast.colours import CKA_STOPS, INK, legible, ramp, region_colours, run_styles
from worldfast.study import RunResult, StudyResult
from worldfast.tasks import TASKS
from worldfast.world import ATLANTIS, World

PAGE = Path(__file__).with_name("page")
SCRIPTS = ("state", "map", "space", "curves", "start")  # in this order, in one scope
RADIUS = 255  # levels from the middle of the 3D view to its edge
CURVE_POINTS = 400  # of the loss, a model
FILM_BYTES = 3_700_000  # for all films together, as text


def write(result: StudyResult, path: str | os.PathLike, film_bytes: int = FILM_BYTES) -> Path:
    """Write the page of `result` to `path`, whole or not at all; its folder is made. Returns the path.

    Where the films would take more than `film_bytes`, every second checkpoint is left out of them, and
    again, until they fit; the page then says how many it shows, and its curves keep all. Errors: those of
    the file system (IsADirectoryError: `path` is a folder; FileExistsError: its folder is a file).
    """
    path = Path(path)
    text = page(result, film_bytes)
    files.folder(path.parent, "path")
    return files.write_whole(path, text.encode())


def page(result: StudyResult, film_bytes: int = FILM_BYTES) -> str:
    """The page as text: page/page.html with its places filled."""
    world, runs = result.world, result.runs
    styles = run_styles(runs)
    data = _data(world, runs, styles, film_bytes)
    held = [int(run.held_out.sum()) for run in runs]
    checkpoints = _range([len(run.steps) for run in runs])
    shown = _range([len(run["rows"]) for run in data["runs"]])
    byline = [
        _count(len(runs), "model"),
        _count(len(world), "city", "cities"),
        f"{checkpoints} checkpoints each",
        duration(result.seconds),
        result.date,
    ]
    between = result.cka[~np.eye(len(runs), dtype=bool) & np.isfinite(result.cka)]
    texts = {
        "title": f"{result.name}: the map inside the model (worldfast)",
        "name": result.name,
        "version": result.version,
        "commit": result.commit or "commit unknown",
        "date": result.date,
        "byline": " · ".join(part.replace(" ", "\u00a0") for part in byline),
        "example": world.name[data["landmarks"][0] if data["landmarks"] else 0],
        "cities": f"{len(world):,}",
        "fitted": _range([len(world) - n for n in held]),
        "held": _range(held),
        "thinned": f"The slider shows {shown} of the {checkpoints} checkpoints."
        if shown != checkpoints
        else "",
        "layer": str(result.cka_layer),
        "alike": f"from {between.min():.2f} to {between.max():.2f}" if len(between) else "–",
        "test_rows": f"{result.test_rows:,}",
        "command": result.command,
    }
    scores = _scores(runs, styles)
    markup = {
        "style": (PAGE / "style.css").read_text(),
        "findings": "".join(f"<li>{escape(finding)}</li>" for finding in result.findings),
        "no_pairs": "" if len(runs) > 1 else "hidden",
        "cka": _cka(result.cka, styles),
        "cka_stops": ",".join(CKA_STOPS),
        "no_scores": "" if scores else "hidden",
        "scores": scores,
        "runs": _runs(world, runs, styles),
        "specs": "".join(_spec(run) for run in runs),
        "machine": _pairs({**result.machine, "whole study": duration(result.seconds)}),
        "data": _json(data),
        "script": "\n".join((PAGE / f"{part}.js").read_text() for part in SCRIPTS),
    }
    places = {name: escape(text) for name, text in texts.items()} | markup
    template = (PAGE / "page.html").read_text()
    return re.sub(
        r"\{\{(\w+)\}\}", lambda place: places[place[1]], template
    )  # once: filled text is not read again


# ---- the data that the script draws ----


def pack(values: np.ndarray) -> str:
    """Integers [S, ...] of 16 bits as text: base64 of zlib of the differences along the first axis, zigzag.

    All low bytes come first, then all high ones: neighbouring checkpoints differ little, so most high bytes
    are 0. OverflowError: a value beyond 16 bits.
    """
    values = np.asarray(values)
    if values.size and (values.min() < -(2**15) or values.max() >= 2**15):
        raise OverflowError(f"values from {values.min()} to {values.max()} do not fit 16 bits")
    values = values.astype(np.int16)
    steps = np.concatenate([values[:1], values[1:] - values[:-1]])  # wraps around, and back when it is summed
    zigzag = ((steps << 1) ^ (steps >> 15)).astype(np.uint16).ravel()
    halves = (zigzag & 0xFF).astype(np.uint8).tobytes() + (zigzag >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(halves, 9)).decode("ascii")


def _data(world: World, runs: Sequence[RunResult], styles, film_bytes: int) -> dict:
    low, high = world.xy.min(0), world.xy.max(0)
    extent = int(max(1, (high - low).max()))
    quantum = max(
        1, -(-extent // 4000), -(-int(np.abs(world.xy).max()) // 16_000)
    )  # the globe: 1, that is 0.1 degree
    margin = max(1, 0.035 * extent)
    box = np.concatenate([low - margin, high + margin]) / quantum
    colours = region_colours(world)
    index = {region: i for i, region in enumerate(colours)}
    members = np.array([index[region] for region in world.region.tolist()])
    largest = [int(np.argmax(np.where(members == i, world.population, -1))) for i in range(len(colours))]
    size = 100 * np.sqrt(world.population / max(1, world.population.max()))
    size[world.region == ATLANTIS] = 60  # has no population, and is what one looks for
    films = _films(runs, quantum, film_bytes)
    final = [run.r2[-1].mean() for run in runs]
    return {
        "names": world.name.tolist(),
        "xy": pack(_steps(world.xy, quantum).T[None]),
        "region": pack(members[None]),
        "size": pack(np.rint(size)[None]),
        "regions": [
            {
                "name": region or "no region",
                "colour": None if colour == INK else colour,
                "cities": int((members == index[region]).sum()),
            }
            for region, colour in colours.items()
        ],
        "landmarks": sorted(
            (i for i in largest if world.population[i] > 0 and world.name[i]),
            key=lambda i: -int(world.population[i]),
        ),
        "quantum": quantum,
        "extent": extent / quantum,
        "radius": RADIUS,
        "box": _numbers(box),
        "geographic": figures.geographic(world),
        "best": int(np.argmax(np.nan_to_num(final, nan=-np.inf))),
        "runs": [_run_data(run, style, *film) for run, style, film in zip(runs, styles, films, strict=True)],
    }


def _run_data(run: RunResult, style, moments: np.ndarray, film: dict[str, str]) -> dict:
    label, colour, dashes = style
    some = np.unique(np.linspace(0, max(0, len(run.loss) - 1), CURVE_POINTS).astype(int))[: len(run.loss)]
    return {
        "label": label,
        "colour": None if colour == INK else colour,  # ink is the page's own, dark or light
        "dashes": dashes,
        "rows": run.rows[moments].tolist(),
        "r2": _numbers(run.r2[moments].mean(1)),
        "r2_x": _numbers(run.r2[moments, 0]),
        "r2_y": _numbers(run.r2[moments, 1]),
        "error": _numbers(run.error[moments]),
        "held_out": int(run.held_out.sum()),
        "held": pack(run.held_out[None].astype(int)),
        "explained": _numbers(run.explained),
        "loss_rows": run.loss_rows[some].tolist(),
        "loss": _numbers(figures.running_mean(run.loss)[some]),
        "curve_rows": run.rows.tolist(),
        "curve_r2": _numbers(run.r2.mean(1)),
        **film,
    }


def _films(
    runs: Sequence[RunResult], quantum: int, film_bytes: int
) -> list[tuple[np.ndarray, dict[str, str]]]:
    """For each run the checkpoints kept, int64 [K], and its two films as text."""
    kept = [np.arange(len(run.steps)) for run in runs]
    while True:
        films = []
        for run, moments in zip(runs, kept, strict=True):
            places = _steps(run.predicted[moments], quantum)  # [K, N, 2]
            inner = run.components[moments]  # [K, N, 3]
            reach = np.quantile(np.linalg.norm(inner, axis=2), 0.98, axis=1)[:, None, None]  # [K, 1, 1]
            inner = np.clip(inner / np.where(reach > 0, reach, 1), -8, 8) * RADIUS
            films.append(
                {"map": pack(np.moveaxis(places, 2, 1)), "space": pack(np.moveaxis(np.rint(inner), 2, 1))}
            )
        size = sum(len(text) for film in films for text in film.values())
        if size <= film_bytes or all(len(moments) <= 2 for moments in kept):
            return list(zip(kept, films, strict=True))
        kept = [np.append(moments[:-1:2], moments[-1]) if len(moments) > 2 else moments for moments in kept]


def _steps(places: np.ndarray, quantum: int) -> np.ndarray:
    """0.1 degree to steps of `quantum`, far-off predictions brought to the edge of 16 bits."""
    return np.clip(np.rint(np.asarray(places, dtype=np.float64) / quantum), -(2**15), 2**15 - 1)


def _numbers(values) -> list[float | None]:
    """Five significant digits; None where a value is not finite."""
    return [
        float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)
    ]


def _json(data: dict) -> str:
    """JSON that no text inside it can close or open a tag with."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# ---- the parts that are plain HTML ----


def duration(seconds: float) -> str:
    """171.4 -> "2 min 51 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def flatten(spec: Mapping, prefix: str = "") -> dict[str, str]:
    """{"world": {"atlantis": 0}} -> {"world.atlantis": "0"}: a nested specification as rows of a table."""
    rows: dict[str, str] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping) and value:
            rows |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            rows[f"{prefix}{key}"] = ", ".join(map(str, value)) or "none"
        else:
            rows[f"{prefix}{key}"] = "none" if value is None else str(value)
    return rows


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _plain(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "–"


def _pairs(rows: Mapping[str, str]) -> str:
    body = "".join(
        f"<tr><th scope=row>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
        for key, value in rows.items()
    )
    return f"<table class=pairs><tbody>{body}</tbody></table>"


def _named(style) -> str:
    label, colour, _ = style
    return f"<i style='--c:{'var(--ink)' if colour == INK else colour}'></i>{escape(label)}"


def _table(kind: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table whose first column names its rows. Heads and names are HTML, cells are text."""
    head = "".join(f"<th scope=col{' class=number' if i else ''}>{text}</th>" for i, text in enumerate(heads))
    body = "".join(
        f"<tr><th scope=row>{name}</th>"
        + "".join(f"<td class=number>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    return f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _spec(run: RunResult) -> str:
    title = f"Specification of {escape(run.name)}"
    return f"<details><summary>{title}</summary>{_pairs(flatten(run.spec))}</details>"


def _cka(matrix: np.ndarray, styles) -> str:
    """The matrix as a table of coloured cells; without numbers in them where there are many models."""
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


def _scores(runs: Sequence[RunResult], styles) -> str:
    """How well each model does its tasks, as a table; nothing where no run was scored."""
    scored = dict.fromkeys(name for run in runs for name in run.scores)
    tasks = [name for name in TASKS if name in scored] + [name for name in scored if name not in TASKS]
    if not tasks:
        return ""

    def head(name: str) -> str:
        if name not in TASKS:
            return escape(name)
        task = TASKS[name]
        return f"{name}<br>" + (task.metric if task.answers else f"mean {task.metric}<br>{task.unit}")

    def cell(run: RunResult, name: str) -> str:
        choice = name in TASKS and TASKS[name].answers
        return _plain(run.scores.get(name, np.nan), ".1%" if choice else ",.1f")

    rows = [
        (_named(style), [cell(run, name) for name in tasks]) for run, style in zip(runs, styles, strict=True)
    ]
    return _table("runs", ["model", *map(head, tasks)], rows)


def _runs(world: World, runs: Sequence[RunResult], styles) -> str:
    """What was run and what came of it, a line a model."""
    columns = {
        "rows seen": lambda run: f"{run.rows[-1]:,}",
        "steps": lambda run: f"{run.steps[-1]:,}",
        "training": lambda run: duration(run.seconds),
        "rows a second": lambda run: f"{run.rows[-1] / run.seconds:,.0f}" if run.seconds > 0 else "–",
        "loss at the end": lambda run: (
            _plain(figures.running_mean(run.loss)[-1], ".3f") if len(run.loss) else "–"
        ),
        "probe R² x": lambda run: _plain(run.r2[-1, 0], ".3f"),
        "probe R² y": lambda run: _plain(run.r2[-1, 1], ".3f"),
        "median error": lambda run: figures.distance(world, run.error[-1]),
        "held-out cities": lambda run: f"{run.held_out.sum():,}",
        "folder": lambda run: run.folder,
    }
    rows = [
        (_named(style), [text(run) for text in columns.values()])
        for run, style in zip(runs, styles, strict=True)
    ]
    return _table("runs", ["model", *columns], rows)

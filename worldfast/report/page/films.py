"""Data that the page's script draws: the world, and the films of the models.

A film holds, for each checkpoint, the probe's place for every entity and three directions of the activations. Films are
most of a page's size: `pack` compresses them, and `unpack` in state.js reads them back.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence

import numpy as np

from worldfast.report import figures
from worldfast.report.colours import INK, group_colours
from worldfast.report.page import taught
from worldfast.studies import RunResult, Scene

RADIUS = 255  # levels from the centre of the 3D view to its edge
CURVE_POINTS = 400  # points of the loss curve per model


def pack(values: np.ndarray) -> str:
    """Encode 16-bit integers [S, ...] as text: base64 of zlib of the zigzag differences along the first axis.

    All low bytes come first, then all high ones: neighbouring checkpoints differ little, so most high bytes are 0.

    Raises
    ------
    OverflowError
        A value does not fit 16 bits.
    """
    values = np.asarray(values)
    if values.size and (values.min() < -(2**15) or values.max() >= 2**15):
        raise OverflowError(f"values from {values.min()} to {values.max()} do not fit 16 bits")
    values = values.astype(np.int16)
    steps = np.concatenate([values[:1], values[1:] - values[:-1]])  # wraps around, and back when summed
    zigzag = ((steps << 1) ^ (steps >> 15)).astype(np.uint16).ravel()
    halves = (zigzag & 0xFF).astype(np.uint8).tobytes() + (zigzag >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(halves, 9)).decode("ascii")


def data(world: Scene, runs: Sequence[RunResult], styles, film_bytes: int, known: Sequence[Sequence[str]]) -> dict:
    """Return everything the script draws of the world and the models, for `as_json`.

    Parameters
    ----------
    world : Scene
    runs : sequence of RunResult
    styles : sequence of (str, str, str)
        As from `run_styles`.
    film_bytes : int
        Upper bound on the size of all films; they never have fewer than two moments.
    known : sequence of sequence of str
        New groups that each run was taught.
    """
    mapped = world.xy is not None
    origin, quantum = _grid(world)
    xy = _steps(world.xy, origin, quantum) if mapped else RADIUS * np.array([[-1.2, -1.2], [1.2, 1.2]])
    low, high = xy.min(0), xy.max(0)
    spans = np.full(2, (high - low).max()) if world.metric else high - low
    margin = np.maximum(1, 0.035 * spans)
    colours = group_colours(world)
    index = {group: i for i, group in enumerate(colours)}
    members = np.array([index[group] for group in world.group.tolist()])
    weight = np.zeros(len(world)) if world.weight is None else world.weight
    largest = [int(np.argmax(np.where(members == i, weight, -1))) for i in range(len(colours))]
    size = 100 * np.sqrt(weight / max(1, weight.max())) if world.weight is not None else np.full(len(world), 25.0)
    size[np.isin(world.group, list(world.new))] = 60  # readers look for these, which may weigh nothing
    films = _films(runs, (origin, quantum) if mapped else None, film_bytes)
    final = [run.fit[-1] if run.kind == "pt" else -np.inf for run in runs]
    return {
        "names": world.name.tolist(),
        "one": world.one,
        "many": world.many,
        "xy": pack(xy.T[None]) if mapped else None,
        "group": pack(members[None]),
        "size": pack(np.rint(size)[None]),
        "groups": [
            {
                "name": group or f"no {world.grouping[0]}",
                "colour": None if colour == INK else colour,
                "members": int((members == index[group]).sum()),
            }
            for group, colour in colours.items()
        ],
        "new": [index[group] for group in world.new if group in index],
        "landmarks": sorted((i for i in largest if weight[i] > 0 and world.name[i]), key=lambda i: -weight[i]),
        "columns": list(runs[0].columns),
        "axes": [axis._asdict() for axis in world.axes],
        "metric": world.metric,
        "origin": origin.tolist(),
        "quantum": quantum.tolist(),
        "extent": float(max(1, (high - low).max())),
        "radius": RADIUS,
        "box": _numbers(np.concatenate([low - margin, high + margin])),
        "best": int(np.argmax(np.nan_to_num(final, nan=-np.inf))),
        "pair": taught.pair(world, runs, known),
        "runs": [
            _run_data(run, style, *film) | {"taught": [index[group] for group in groups if group in index]}
            for run, style, film, groups in zip(runs, styles, films, known, strict=True)
        ],
    }


def _grid(world: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the origin and the step of each axis, [2], in which films hold places: 4,000 steps span the map.

    Places that are integers, as tenths of a degree, keep their origin and whole steps.
    """
    if world.xy is None:
        return np.zeros(2), np.ones(2)
    low, spans, far = world.xy.min(0), np.ptp(world.xy, axis=0), np.abs(world.xy).max()
    spans = np.full(2, spans.max()) if world.metric else spans
    if np.issubdtype(world.xy.dtype, np.integer):
        return np.zeros(2, int), np.maximum(1, np.maximum(-(-spans.astype(int) // 4000), -(-int(far) // 16_000)))
    return low + spans / 2, np.where(spans > 0, spans / 4000, 1.0)


def as_json(content: dict) -> str:
    """Return JSON in which no text can close or open an HTML tag."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _run_data(run: RunResult, style, moments: np.ndarray, film: dict[str, str]) -> dict:
    label, colour, dashes = style
    some = np.unique(np.linspace(0, max(0, len(run.loss) - 1), CURVE_POINTS).astype(int))[: len(run.loss)]
    return {
        "name": run.name,
        "kind": run.kind,
        "label": label,
        "colour": None if colour == INK else colour,  # ink is the page's own, dark or light
        "dashes": dashes,
        "steps": run.steps[moments].tolist(),
        "rows": run.rows[moments].tolist(),
        "r2": _numbers(run.fit[moments]),
        "r2_of": [_numbers(of_one) for of_one in run.r2[moments].T],
        "error": _numbers(run.error[moments]),
        "held_out": int(run.held_out.sum()),
        "held": pack(run.held_out[None].astype(int)),
        "explained": _numbers(run.explained),
        "loss_rows": run.loss_rows[some].tolist(),
        "loss": _numbers(figures.running_mean(run.loss)[some]),
        "curve_rows": run.rows.tolist(),
        "curve_r2": _numbers(run.fit),
        "nulls": [[name, *_numbers([level])] for name, level in run.nulls.items()],
        **film,
    }


def _films(runs: Sequence[RunResult], grid: tuple | None, film_bytes: int) -> list[tuple[np.ndarray, dict[str, str]]]:
    """Return for each run the checkpoints kept, int64 [K], and its films as text."""
    kept = [np.arange(len(run.steps)) for run in runs]
    while True:
        films = []
        for run, moments in zip(runs, kept, strict=True):
            film = {"map": _map(run, moments, grid), "space": _space(run.components[moments])}
            if run.mixed is not None:
                film["mixed"] = _space(run.mixed[moments])
            films.append(film)
        size = sum(len(text) for film in films for text in film.values())
        if size <= film_bytes or all(len(moments) <= 2 for moments in kept):
            return list(zip(kept, films, strict=True))
        kept = [np.append(moments[:-1:2], moments[-1]) if len(moments) > 2 else moments for moments in kept]


def _map(run: RunResult, moments: np.ndarray, grid: tuple | None) -> str:
    """Pack the places that a probe gives, [K, N, 2], in steps; without a map, the first two components."""
    if grid is None:
        return _space(run.components[moments, :, :2])
    return pack(np.moveaxis(_steps(run.predicted[moments], *grid), 2, 1))


def _space(inner: np.ndarray) -> str:
    """Pack points [K, N, 2 or 3], scaled so that 98% of each moment's points lie within RADIUS."""
    reach = np.quantile(np.linalg.norm(inner, axis=2), 0.98, axis=1)[:, None, None]  # [K, 1, 1]
    levels = np.clip(inner / np.where(reach > 0, reach, 1), -8, 8) * RADIUS
    return pack(np.moveaxis(np.rint(levels), 2, 1))


def _steps(places: np.ndarray, origin: np.ndarray, quantum: np.ndarray) -> np.ndarray:
    """Convert places [..., 2] to steps of `quantum` from `origin`, clipping far-off predictions to 16 bits."""
    return np.clip(np.rint((np.asarray(places, dtype=np.float64) - origin) / quantum), -(2**15), 2**15 - 1)


def _numbers(values) -> list[float | None]:
    """Round to five significant digits; None if a value is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]

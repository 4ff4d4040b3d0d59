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
from worldfast.report.colours import INK, region_colours
from worldfast.studies import RunResult

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


def data(world, runs: Sequence[RunResult], styles, film_bytes: int, new: Sequence[str] = ()) -> dict:
    """Return everything the script draws, for `as_json`.

    Parameters
    ----------
    world
        The true world.
    runs : sequence of RunResult
    styles : sequence of (str, str, str)
        As from `run_styles`.
    film_bytes : int
        Upper bound on the size of all films; they never have fewer than two moments.
    new : sequence of str
        Regions that models are taught after pretraining, if the world has them.
    """
    low, high = world.xy.min(0), world.xy.max(0)
    extent = int(max(1, (high - low).max()))
    quantum = max(1, -(-extent // 4000), -(-int(np.abs(world.xy).max()) // 16_000))  # the globe: 1, that is 0.1 degree
    margin = max(1, 0.035 * extent)
    box = np.concatenate([low - margin, high + margin]) / quantum
    colours = region_colours(world, new)
    index = {region: i for i, region in enumerate(colours)}
    members = np.array([index[region] for region in world.region.tolist()])
    largest = [int(np.argmax(np.where(members == i, world.population, -1))) for i in range(len(colours))]
    size = 100 * np.sqrt(world.population / max(1, world.population.max()))
    size[np.isin(world.region, list(new))] = 60  # readers look for these cities, which may have no population
    films = _films(runs, quantum, film_bytes)
    final = [run.r2[-1].mean() if run.kind == "pt" else -np.inf for run in runs]
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
        "new": [index[region] for region in new if region in index],
        "landmarks": sorted(
            (i for i in largest if world.population[i] > 0 and world.name[i]), key=lambda i: -int(world.population[i])
        ),
        "quantum": quantum,
        "extent": extent / quantum,
        "radius": RADIUS,
        "box": _numbers(box),
        "geographic": figures.geographic(world),
        "best": int(np.argmax(np.nan_to_num(final, nan=-np.inf))),
        "runs": [_run_data(run, style, *film) for run, style, film in zip(runs, styles, films, strict=True)],
    }


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


def _films(runs: Sequence[RunResult], quantum: int, film_bytes: int) -> list[tuple[np.ndarray, dict[str, str]]]:
    """Return for each run the checkpoints kept, int64 [K], and its films as text."""
    kept = [np.arange(len(run.steps)) for run in runs]
    while True:
        films = []
        for run, moments in zip(runs, kept, strict=True):
            places = _steps(run.predicted[moments], quantum)  # [K, N, 2]
            film = {"map": pack(np.moveaxis(places, 2, 1)), "space": _space(run.components[moments])}
            if run.mixed is not None:
                film["mixed"] = _space(run.mixed[moments])
            films.append(film)
        size = sum(len(text) for film in films for text in film.values())
        if size <= film_bytes or all(len(moments) <= 2 for moments in kept):
            return list(zip(kept, films, strict=True))
        kept = [np.append(moments[:-1:2], moments[-1]) if len(moments) > 2 else moments for moments in kept]


def _space(inner: np.ndarray) -> str:
    """Pack points [K, N, 3], scaled so that 98% of each moment's points lie within RADIUS."""
    reach = np.quantile(np.linalg.norm(inner, axis=2), 0.98, axis=1)[:, None, None]  # [K, 1, 1]
    levels = np.clip(inner / np.where(reach > 0, reach, 1), -8, 8) * RADIUS
    return pack(np.moveaxis(np.rint(levels), 2, 1))


def _steps(places: np.ndarray, quantum: int) -> np.ndarray:
    """Convert 0.1 degree to steps of `quantum`, clipping far-off predictions to 16 bits."""
    return np.clip(np.rint(np.asarray(places, dtype=np.float64) / quantum), -(2**15), 2**15 - 1)


def _numbers(values) -> list[float | None]:
    """Round to five significant digits; None if a value is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]

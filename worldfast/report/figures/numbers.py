"""Numbers of a figure, read off what it draws: for its CSV file, and for curves that a reader points at.

What stands in a caption or a title is not read; a line without a name is one of many, such as a run behind a mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEADS = ("panel", "series", "x", "y", "error")
MANY = 80  # lines, beyond which a page draws only those that have a name
FAINT = 0.5  # opacity below which a line without a name is one of many


class Line(NamedTuple):
    """One line of a panel, K points.

    Attributes
    ----------
    name : str
        "" for one of many.
    colour : str
        "#rrggbb".
    x, y : ndarray
        float64 [K], as drawn; NaN where there is a gap.
    error : ndarray, optional
        float64 [K], half of the bar or band at each point; None where there is none.
    joined : bool
        False: points alone.
    """

    name: str
    colour: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None
    joined: bool


def lines(axes) -> list[Line]:
    """Return the lines of an Axes that are drawn in its data's coordinates, without bars, caps and lines across it."""
    from matplotlib.colors import to_hex
    from matplotlib.container import ErrorbarContainer

    bars = {box[0]: box for box in axes.containers if isinstance(box, ErrorbarContainer)}
    caps = {cap for _, more, _ in bars.values() for cap in more}
    named: dict[str, list[str]] = {}
    for text in axes.texts:  # names at the ends of lines have the lines' colours
        named.setdefault(to_hex(text.get_color()), []).append(text.get_text())
    found = []
    for line in axes.lines:
        if line in caps or line.get_transform() != axes.transData:
            continue
        box, colour = bars.get(line), to_hex(line.get_color())
        name = str((box or line).get_label())
        if name.startswith("_"):
            of_colour = named.get(colour, [])
            name = of_colour[0] if len(of_colour) == 1 and (line.get_alpha() or 1) > FAINT else ""
        x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data())
        error = _of_bars(box, x) if box else _of_band(axes, colour, x)
        found.append(Line(name, colour, x, y, error, line.get_linestyle() not in ("None", "none", " ", "")))
    return found


def _of_bars(box, x: np.ndarray) -> np.ndarray | None:
    """Return half the length of each error bar; None if all are 0, as where nothing was repeated."""
    for collection in box[2]:
        parts = collection.get_segments()
        if len(parts) == len(x):
            half = np.array([abs(part[1][1] - part[0][1]) / 2 if len(part) else np.nan for part in parts])
            return half if (half > 0).any() else None
    return None


def _of_band(axes, colour: str, x: np.ndarray) -> np.ndarray | None:
    """Return half the height of the band of a colour that has these x."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_hex

    for band in axes.collections:
        if isinstance(band, PolyCollection) and len(band.get_paths()) == 1 and len(band.get_facecolor()):
            points = band.get_paths()[0].vertices
            same = to_hex(band.get_facecolor()[0]) == colour and len(points) in (2 * len(x) + 2, 2 * len(x) + 3)
            if same and np.allclose(points[1 : len(x) + 1, 0], x):
                upper = points[len(x) + 2 : 2 * len(x) + 2, 1][::-1]
                return np.abs(upper - points[1 : len(x) + 1, 1]) / 2
    return None


def title(axes) -> str:
    """Return the title of a panel, wherever it stands."""
    return next((text for place in ("left", "center", "right") if (text := axes.get_title(loc=place))), "")


def as_csv(figure) -> str:
    """Return what a figure draws as CSV: a row for each point, bar and cell.

    Columns panel, series, x, y, error. Of a matrix, series and x name the row and the column, and y is the cell; of a
    histogram, x is the middle of a bar.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADS)
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            writer.writerows((title(axes), *row) for row in _rows(axes))
    return out.getvalue()


def _rows(axes) -> Iterator[tuple]:
    from matplotlib.collections import PathCollection
    from matplotlib.patches import Rectangle

    for image in axes.images:
        across, down = ([label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis))
        for (i, j), value in np.ndenumerate(np.ma.filled(image.get_array(), np.nan)):
            yield down[i], across[j], _short(value), ""
    if not axes.images:  # the rectangles of a matrix are frames
        for bar in axes.patches:
            if isinstance(bar, Rectangle):
                yield "", _short(bar.get_x() + bar.get_width() / 2), _short(bar.get_height()), ""
    for line in lines(axes):
        errors = line.error if line.error is not None else np.full(len(line.x), np.nan)
        for x, y, error in zip(line.x, line.y, errors):
            yield line.name or line.colour, _short(x), _short(y), _short(error)
    for dots in axes.collections:
        if isinstance(dots, PathCollection):
            for x, y in np.ma.filled(dots.get_offsets(), np.nan):
                yield "dots", _short(x), _short(y), ""


def _short(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


def chart(figure) -> list[dict]:
    """Return the curves of a figure for the page to draw, a panel each; [] if it draws anything else beside them.

    Each panel holds its title, the labels of its axes, if they are logarithmic or percentages, and its lines.
    """
    panels = []
    for axes in figure.axes:
        found = lines(axes)
        curves = [line for line in found if line.name and line.joined and np.isfinite(line.y).sum() > 1]
        from_others = axes.images or axes.patches or any(len(dots.get_offsets()) > 1 for dots in axes.collections)
        if not curves or from_others:
            return []
        panels.append(
            {
                "title": title(axes),
                "x": axes.get_xlabel(),
                "y": axes.get_ylabel(),
                "log": [axes.get_xscale() == "log", axes.get_yscale() == "log"],
                "percent": _percent(axes.xaxis),
                "low": 0 if axes.get_ylim()[0] <= 0 else None,
                "lines": [_line(line) for line in found if line.name or len(found) <= MANY],
            }
        )
    for panel in panels:  # panels that share an axis say its name once
        panel["y"] = panel["y"] or panels[0]["y"]
    return panels


def _percent(axis) -> bool:
    from matplotlib.ticker import FuncFormatter

    form = axis.get_major_formatter()
    return isinstance(form, FuncFormatter) and form(0.5, 0) == "50%"


def _line(line: Line) -> dict:
    error = None if line.error is None else _numbers(line.error)
    return line._asdict() | {"x": _numbers(line.x), "y": _numbers(line.y), "error": error}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]

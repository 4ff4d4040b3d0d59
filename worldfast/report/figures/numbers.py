"""Numbers of a figure, read off what it draws: for its CSV file, and for curves that a reader points at.

What stands in a caption or a title is not read; a line without a name is one of many, such as a run behind a mean.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

HEADS = ("panel", "series", "x", "y", "error")
DASHES = {"--": "6 4", ":": "1.5 4", "-.": "6 3 1.5 3"}  # of lines in SVG, by matplotlib's names
MANY = 80  # lines, beyond which a page draws only those that have a name
BESIDE = 0.25  # of the step from name to name, in which lines are drawn side by side
SHORT = 7  # letters, beyond which names of places have no room below a chart
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
    dash : str
        The pattern of dashes as in SVG ("6 4"); "" for a solid line, and for points.
    level : bool
        True: a line across the panel, at one y.
    """

    name: str
    colour: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None
    joined: bool
    dash: str = ""
    level: bool = False


def lines(axes) -> list[Line]:
    """Return the lines of an Axes without bars, caps and verticals; levels last, as wide as what else is drawn."""
    from matplotlib.colors import to_hex
    from matplotlib.container import ErrorbarContainer

    bars = {box[0]: box for box in axes.containers if isinstance(box, ErrorbarContainer)}
    caps = {cap for _, more, _ in bars.values() for cap in more}
    named: dict[str, list[str]] = {}
    for text in axes.texts:  # names at the ends of lines have the lines' colours
        named.setdefault(to_hex(text.get_color()), []).append(text.get_text())
    found, levels = [], []
    for line in _shown(axes.lines):
        across = line.get_transform() == axes.get_yaxis_transform(which="grid")  # as axhline draws
        if line in caps or not (across or line.get_transform() == axes.transData):
            continue
        box, colour = bars.get(line), to_hex(line.get_color())
        name = str((box or line).get_label())
        if name.startswith("_"):
            of_colour = named.get(colour, [])
            name = of_colour[0] if len(of_colour) == 1 and (line.get_alpha() or 1) > FAINT else ""
        x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data())
        error = _of_bars(box, x) if box else _of_band(axes, colour, x, y)
        style = line.get_linestyle()
        dash = DASHES.get(style, "")
        one = Line(name, colour, x, y, error, style not in ("None", "none", " ", ""), dash, across)
        (levels if across else found).append(one)
    least = 0 if axes.get_xscale() == "log" else -np.inf
    at = np.concatenate([line.x[(line.x > least) & (line.x < np.inf)] for line in found] or [np.zeros(0)])
    wide = np.array([at.min(), at.max()]) if len(at) else np.array(axes.get_xlim())
    return found + [line._replace(x=wide, error=None) for line in levels]


def _of_bars(box, x: np.ndarray) -> np.ndarray | None:
    """Return half the length of each error bar; None if all are 0, as where nothing was repeated."""
    for collection in box[2]:
        parts = collection.get_segments()
        if len(parts) == len(x):
            half = np.array([abs(part[1][1] - part[0][1]) / 2 if len(part) else np.nan for part in parts])
            return half if (half > 0).any() else None
    return None


def _of_band(axes, colour: str, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return half the height of the band of a colour that lies about a line: several lines may have one colour."""
    from matplotlib.colors import to_hex

    near, found = np.inf, None
    for band, at, one, other in _filled(axes):
        if to_hex(band.get_facecolor()[0]) == colour and len(at) == len(x) and np.allclose(at, x):
            half = np.abs(one - other) / 2
            off = np.nan_to_num(np.abs((one + other) / 2 - y))
            if (off <= half + 1e-9 * np.abs(np.nan_to_num(y))).all() and off.sum() < near:
                near, found = off.sum(), half
    return found


def _filled(axes) -> Iterator[tuple[Any, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield what fill_between and stackplot drew: the artist, its x, and both its edges, float64 [K] each."""
    from matplotlib.collections import PolyCollection

    for band in _shown(axes.collections):
        if isinstance(band, PolyCollection) and len(band.get_paths()) == 1 and len(band.get_facecolor()):
            points = band.get_paths()[0].vertices  # a corner, K of one edge, a corner, K of the other backwards
            K = (len(points) - 2) // 2
            one, other = points[1 : K + 1], points[K + 2 : 2 * K + 2][::-1]
            if len(one) == len(other) and np.allclose(one[:, 0], other[:, 0]):
                yield band, one[:, 0], one[:, 1], other[:, 1]


def title(axes) -> str:
    """Return the title of a panel, wherever it stands, or that of the panel above it that has one."""
    return next((text for one in _beside(axes, "colspan") for text in _titles(one) if text), "")


def unit(axes) -> str:
    """Return the label of a panel's y axis, or that of the panel to its left that has one."""
    return next((text for one in _beside(axes, "rowspan") if (text := one.get_ylabel())), "")


def _titles(axes) -> list[str]:
    return [axes.get_title(loc=place) for place in ("left", "center", "right")]


def _beside(axes, span: str) -> list:
    """Return a panel, then those of its "colspan" or "rowspan" from it to the first of them."""
    spec = axes.get_subplotspec()
    if spec is None:
        return [axes]
    grid = [(one.get_subplotspec(), one) for one in axes.figure.axes if one.get_subplotspec() is not None]
    before = [
        (other.num1, one)
        for other, one in grid
        if other.get_gridspec() is spec.get_gridspec()
        and getattr(other, span) == getattr(spec, span)
        and other.num1 < spec.num1
    ]
    return [axes, *(one for _, one in sorted(before, key=lambda pair: -pair[0]))]


def panels(figure) -> dict[Any, str]:
    """Return the panels of a figure with their names: titles, and the labels of y axes where titles are the same."""
    found = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    titles = [title(axes) for axes in found]
    return {
        axes: name if titles.count(name) == 1 else ", ".join(filter(None, (name, " ".join(unit(axes).split()))))
        for axes, name in zip(found, titles)
    }


def tell(artist, series: str, x: float, y: float) -> None:
    """Say which numbers an artist stands for, where its shape does not: a cell whose colour is its value.

    Parameters
    ----------
    artist : Artist
        What a method of an Axes has drawn.
    series : str
        Its name in the CSV file.
    x, y : float
    """
    artist.worldfast_numbers = (series, x, y)


def as_csv(figure) -> str:
    """Return what a figure draws as CSV: a row for each point, bar, cell and line across.

    Columns panel, series, x, y, error. Of a matrix, series and x name the row and the column, and y is the cell; of a
    histogram, x is the middle of a bar; of an area, y is its height; of a line across the panel, x or y is empty. Where
    an axis has names in place of numbers, they stand here too.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADS)
    for axes, name in panels(figure).items():
        writer.writerows((name, *row) for row in _rows(axes))
    return out.getvalue()


def _rows(axes) -> Iterator[tuple]:
    if axes.images:  # rectangles and lines across a matrix are frames
        yield from _of_matrices(axes)
    else:
        yield from _of_shapes(axes)
    across, down = _names(axes.xaxis), _names(axes.yaxis)
    found = lines(axes)
    for line in found:
        errors = line.error if line.error is not None else np.full(len(line.x), np.nan)
        for x, y, error in zip(line.x, line.y, errors) if not line.level else ():
            yield line.name or line.colour, _at(across, x), _at(down, y), _short(error)
    for line in found:
        if line.level and not axes.images:
            yield line.name or line.colour, "", _short(line.y[0]), ""
    for dots in _dots(axes):
        for x, y in np.ma.filled(dots.get_offsets(), np.nan).tolist():
            yield _label(dots) or "dots", _at(across, x), _at(down, y), ""


def _of_matrices(axes) -> Iterator[tuple]:
    for image in _shown(axes.images):
        across, down = (  # of hidden labels too
            axis.get_major_formatter().format_ticks(axis.get_majorticklocs()) for axis in (axes.xaxis, axes.yaxis)
        )
        for (i, j), value in np.ndenumerate(np.ma.filled(image.get_array(), np.nan)):
            yield down[i], across[j], _short(value), ""


def _of_shapes(axes) -> Iterator[tuple]:
    """Yield bars, what artists were told to say, areas that are not the band of a line, and verticals."""
    from matplotlib.colors import to_hex
    from matplotlib.patches import Rectangle

    for bar in _shown(axes.patches):
        if isinstance(bar, Rectangle):
            yield "", _short(bar.get_x() + bar.get_width() / 2), _short(bar.get_height()), ""
    told = [artist for artist in _shown(axes.get_children()) if hasattr(artist, "worldfast_numbers")]
    for series, x, y in (artist.worldfast_numbers for artist in told):
        yield series, _short(x), _short(y), ""
    drawn = {line.colour: line for line in lines(axes) if line.error is not None}
    for area, at, low, high in _filled(axes):
        colour = to_hex(area.get_facecolor()[0])
        if area not in told and not (colour in drawn and len(drawn[colour].x) == len(at)):
            for x, y in zip(at, np.abs(high - low)):
                yield _label(area) or colour, _short(x), _short(y), ""
    for line in _shown(axes.lines):
        if line.get_transform() == axes.get_xaxis_transform(which="grid"):  # as axvline draws
            yield _label(line) or to_hex(line.get_color()), _short(line.get_xdata()[0]), "", ""


def _dots(axes) -> list:
    from matplotlib.collections import PathCollection

    return [dots for dots in _shown(axes.collections) if isinstance(dots, PathCollection)]


def _shown(artists) -> list:
    return [artist for artist in artists if artist.get_visible()]


def _label(artist) -> str:
    """Return the name that an artist was given, or ""."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _names(axis) -> dict[float, str]:
    """Return the names that stand at places of an axis; none if it has numbers, or percentages."""
    from matplotlib.ticker import FixedLocator

    if not isinstance(axis.get_major_locator(), FixedLocator):
        return {}
    places = axis.get_majorticklocs()
    texts = axis.get_major_formatter().format_ticks(places)
    names = {float(at): " ".join(str(text).split()) for at, text in zip(places, texts)}
    return {} if all(not text or _said(text) == at for at, text in names.items()) else names


def _at(names: dict[float, str], value: float) -> str:
    """Return the name of the place that a point is drawn at or right beside; a number if there is none."""
    near = [name for place, name in names.items() if abs(place - value) < BESIDE and name]
    return near[0] if near else _short(value)


def _said(text: str) -> float:
    """Return the number that the text of a tick says; NaN if it says none."""
    plain = text.replace(",", "").replace("\N{MINUS SIGN}", "-")
    try:
        return float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        return np.nan


def _short(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def chart(figure) -> list[dict]:
    """Return the curves of a figure for the page to draw, a panel each; [] if it draws anything else beside them.

    Each panel holds its title, the labels of its axes, if they are logarithmic or percentages, names that stand in
    place of numbers below it, and its lines. Long names are something else.
    """
    drawn = []
    for axes in figure.axes:
        found = lines(axes)
        curves = [
            line for line in found if line.name and line.joined and not line.level and np.isfinite(line.y).sum() > 1
        ]
        names = _names(axes.xaxis)
        from_others = axes.images or axes.patches or any(len(dots.get_offsets()) > 1 for dots in axes.collections)
        if not curves or from_others or max(map(len, names.values()), default=0) > SHORT or _names(axes.yaxis):
            return []
        drawn.append(
            {
                "title": title(axes),
                "x": axes.get_xlabel(),
                "y": unit(axes),
                "log": [axes.get_xscale() == "log", axes.get_yscale() == "log"],
                "percent": _percent(axes.xaxis),
                "names": list(names.items()),
                "low": 0 if axes.get_ylim()[0] <= 0 else None,
                "lines": [_line(line) for line in found if line.name or len(found) <= MANY],
            }
        )
    return drawn


def _percent(axis) -> bool:
    from matplotlib.ticker import FuncFormatter

    form = axis.get_major_formatter()
    return isinstance(form, FuncFormatter) and form(0.5, 0) == "50%"


def _line(line: Line) -> dict:
    error = None if line.error is None else _numbers(line.error)
    return line._asdict() | {"x": _numbers(line.x), "y": _numbers(line.y), "error": error}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]

"""Shared style of all figures: paper and type, quiet axes, labels at line ends, short numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from worldfast.report.colours import INK, MUTED

HAIRLINE = "#d9d5cb"
STYLE = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib, so figures are the same on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def styled(draw):
    """Decorate a drawing function so that it runs with STYLE, whatever the caller's own settings are."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            return draw(*args, **kwargs)

    return in_style


def paper(width: float, height: float):
    """Return an empty white Figure of this size in inches, with constrained layout."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def panels(count: int, columns: int, width: float, line: float, rest: float):
    """Return a Figure `width` inches wide, `rest` and `line` for each line of panels high, and the Axes of its panels,
    [count], at most `columns` beside each other.
    """
    lines = -(-count // columns)
    figure = paper(width, line * lines + rest)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def heading(figure, text: str, size: float = 12) -> None:
    """Set a title over the whole figure, at its left edge, in as many lines as it takes."""
    figure.suptitle(fitted(text, figure.get_figwidth() - 0.3, size), x=0.01, ha="left", fontsize=size)


def note(figure, text: str) -> None:
    """Set a small line below the whole figure, at its right edge, in as many lines as it takes."""
    figure.supxlabel(fitted(text, figure.get_figwidth() - 0.3, 8), x=0.99, ha="right", fontsize=8, color=MUTED)


def titled(axes, text: str, inches: float, size: float = STYLE["axes.titlesize"], **how) -> None:
    """Set the title of a panel of about this width, in as many lines as it takes."""
    axes.set_title(fitted(text, inches, size), fontsize=size, **how)


def fitted(text: str, inches: float, size: float) -> str:
    """Return a text in lines that are no wider than `inches` in a font of `size` points.

    It breaks between words, and within a word that is wider by itself.
    """
    if 0.8 * len(text) * size / 72 <= inches:  # whatever its letters are, but for many capitals
        return text
    lines, used, space = [""], 0.0, _inches("n n", size) - _inches("nn", size)
    for word in text.split(" "):
        wide = _inches(word, size)
        if lines[-1] and used + space + wide > inches:
            lines.append(word)
            used = wide
        else:
            used += wide + space * bool(lines[-1])
            lines[-1] = f"{lines[-1]} {word}".lstrip(" ")
        while used > inches and len(lines[-1]) > 1:  # a word alone
            most = max(1, min(len(lines[-1]) - 1, int(len(lines[-1]) * inches / used)))
            lines[-1:] = [lines[-1][:most], lines[-1][most:]]
            used = _inches(lines[-1], size)
    return "\n".join(lines)


def _inches(text: str, size: float) -> float:
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(STYLE["font.family"][0]))
    font.set_size(size, 100)  # as figures are laid out: hints widen letters
    font.set_text(text, 0.0)
    return font.get_width_height()[0] / 64 / 100


def quiet(axes, grid: str = "both") -> None:
    """Remove the top and right spines, and draw a pale grid below the data ("both", "x", "y")."""
    axes.grid(True, axis=grid, color=HAIRLINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def need_some(argument: str, items: Sequence) -> None:
    """Raise ValueError if an argument is empty."""
    if not len(items):
        raise ValueError(f"{argument} is empty, expected at least one")


def short_count(value: float) -> str:
    """Return a number with three digits, for axes and captions: 1234567 -> "1.23M"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def over_rows(axes) -> None:
    """Label the x axis as rows seen, with short numbers."""
    axes.set_xlabel("rows seen")
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))


def plain_log(axes, which: str) -> None:
    """Make the "x" or "y" axis logarithmic, with ticks as plain numbers: 1, 3, 10, 30 ..., or more within a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    class Plain(LogLocator):
        def tick_values(self, vmin, vmax):
            times = max(vmin, vmax) / min(vmin, vmax)
            if 1 < times < 2:
                return MaxNLocator(5).tick_values(vmin, vmax)
            self.set_params(subs=(1, 3) if times >= 10 else (1, 1.5, 2, 3, 5, 7))
            return super().tick_values(vmin, vmax)

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(Plain())
    axis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axis.set_minor_formatter(NullFormatter())


def running_mean(values: np.ndarray, share: float = 1 / 40) -> np.ndarray:
    """Return means over a centred window of `share` of the length, shorter towards the ends: float64 [K] -> [K]."""
    if not len(values):
        return np.zeros(0)
    window = np.ones(2 * int(len(values) * share / 2) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def spread(places: Sequence[float], gap: float, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    """Return the nearest places (least squares) that keep the order and are at least `gap` apart: [K] -> [K].

    Ties keep the given order. Neighbours that would touch are moved as one pool (isotonic regression of the places
    minus their share of the gaps). Places are from `low` to `high` where there is room for all, else from `low` up.
    """
    places = np.asarray(places, dtype=np.float64)
    order = np.argsort(places, kind="stable")
    pools: list[list[float]] = []  # [sum, count] of neighbours that move together
    for rank, place in enumerate(places[order]):
        pools.append([place - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] >= pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    level = np.concatenate([np.full(count, total / count) for total, count in pools] or [np.zeros(0)])
    moved = np.empty(len(places))
    level = np.clip(level, low, max(low, high - gap * (len(places) - 1)))
    moved[order] = level + gap * np.arange(len(places))
    return moved


def end_labels(axes, ends: Sequence[tuple[float, str, str]], height: float, size: float = 8.5) -> None:
    """Write the names of lines at the right of `axes`, at the heights where the lines end, without overlap.

    Call this after setting the axes' limits.

    Parameters
    ----------
    axes : Axes
    ends : sequence of (float, str, str)
        y in the axes' data, text and colour of each line; lines with y NaN are skipped.
    height : float
        Approximate height of the axes in inches.
    size : float
        Font size in points.
    """
    ends = [end for end in ends if np.isfinite(end[0])]
    to_axes = axes.transAxes.inverted()
    at = [to_axes.transform(axes.transData.transform((axes.get_xlim()[1], y)))[1] for y, _, _ in ends]
    places = spread(np.clip(at, 0, 1), 1.25 * size / 72 / height, 0.03, 1)
    for place, (_, text, colour) in zip(places, ends, strict=True):
        axes.text(1.02, place, text, transform=axes.transAxes, color=colour, va="center", fontsize=size)

"""What all figures share: paper and type, quiet axes, labels at the ends of lines, numbers in words."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from worldfast.report.colours import INK

MUTED = "#6b6f76"
HAIRLINE = "#d9d5cb"
STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
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
    """`draw` under the style above, whatever the caller's own settings are."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            return draw(*args, **kwargs)

    return in_style


def paper(width: float, height: float):
    """An empty white Figure of so many inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def heading(figure, text: str) -> None:
    """A title over all of a figure's parts, at its left edge."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12)


def quiet(axes, grid: str = "both") -> None:
    """No frame but the two axes, and a pale grid behind what is drawn ("both", "x", "y")."""
    axes.grid(True, axis=grid, color=HAIRLINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def need_some(argument: str, items: Sequence) -> None:
    """ValueError where an argument is empty."""
    if not len(items):
        raise ValueError(f"{argument} is empty, expected at least one")


def short_count(value: float) -> str:
    """1234567 -> "1.23M": three digits, for axes and captions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def over_rows(axes) -> None:
    """Rows seen along x, in short numbers."""
    axes.set_xlabel("rows seen")
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))


def plain_log(axes, which: str) -> None:
    """A logarithmic "x" or "y" axis with ticks at 1, 3, 10, 30 ... as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axis.set_minor_formatter(NullFormatter())


def running_mean(values: np.ndarray, share: float = 1 / 40) -> np.ndarray:
    """float64 [K] -> [K]: means over a centred window of `share` of the length, shorter towards the ends."""
    if not len(values):
        return np.zeros(0)
    window = np.ones(2 * int(len(values) * share / 2) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def spread(places: Sequence[float], gap: float) -> np.ndarray:
    """The places nearest to `places` (least squares) that keep their order and are `gap` apart: [K] -> [K].

    Ties keep the order given. Pools of neighbours that would touch are moved as one (isotonic regression of
    the places less their share of the gaps).
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
    moved[order] = level + gap * np.arange(len(places))
    return moved


def end_labels(axes, ends: Sequence[tuple[float, str, str]], height: float, size: float = 8.5) -> None:
    """Names of lines at the right of `axes`, at the heights where the lines end, none over another.

    ends     (y in the axes' data, text, colour) of each line; those that end nowhere (NaN) are left out
    height   of the axes in inches, about; call this when the axes' limits are set
    """
    ends = [end for end in ends if np.isfinite(end[0])]
    to_axes = axes.transAxes.inverted()
    at = [to_axes.transform(axes.transData.transform((axes.get_xlim()[1], y)))[1] for y, _, _ in ends]
    places = spread(np.clip(at, 0, 1), 1.25 * size / 72 / height)
    if len(places):  # as far inside the axes as there is room
        places -= max(0, places.max() - 1)
        places += max(0, 0.03 - places.min())
    for place, (_, text, colour) in zip(places, ends, strict=True):
        axes.text(1.02, place, text, transform=axes.transAxes, color=colour, va="center", fontsize=size)

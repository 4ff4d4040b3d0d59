"""Matrices of similarity between models, set of tasks by set of tasks. Cells show their numbers if they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from worldfast.display import count
from worldfast.report.colours import CKA_STOPS, INK, legible_on
from worldfast.report.figures.style import heading, need_some, note, paper, styled
from worldfast.report.figures.tables import Cells, LacksRuns, layer_of, need, pairs
from worldfast.report.words import listed


@styled
def cka_matrix(matrix: np.ndarray, names: Sequence[str], layer: int | None = None):
    """Draw linear CKA between M models as an annotated heat map, on a scale from 0 to 1.

    Parameters
    ----------
    matrix : array [M, M]
        CKA of all pairs.
    names : sequence of str
        [M].
    layer : int, optional
        Layer named in the title.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        There is no model, or the matrix is not [M, M].
    """
    need_some("names", names)
    matrix = np.asarray(matrix, dtype=np.float64)
    count = len(names)
    if matrix.shape != (count, count):
        raise ValueError(f"matrix has shape {matrix.shape}, expected ({count}, {count}) for {count} names")
    side = max(2.2, 0.72 * count) if count <= 12 else 0.3 * count
    figure = paper(side + 2.6, side + 1.2)
    axes = figure.subplots()
    image = _draw(axes, matrix, names, names, numbers=count <= 12, turned=True)
    axes.set_title("Linear CKA" + (f", layer {layer}" if layer is not None else ""))
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=24, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    return figure


class Likeness(NamedTuple):
    """A measure of similarity between two models, as shown in a figure.

    Attributes
    ----------
    value : str
        Column of the measure.
    kept : mapping of str to object
        Columns of which a single value is shown, with that value; None for the first in the table.
    title, said : str
        Its wording in the title and in the caption; kept columns stand in braces.
    stops : sequence of str
        Colours from 0 to 1.
    """

    value: str
    kept: Mapping[str, object]
    title: str
    said: str
    stops: Sequence[str] = CKA_STOPS


LIKENESS = {  # name of the table -> measure
    "cka": Likeness(
        "value",
        {"step_share": 1.0, "kernel": "linear", "debiased": False, "components": 0},
        "{cka} of models of {tasks}, layer {layer}{of}",
        "CKA",
    ),
    "procrustes": Likeness(
        "disparity",
        {"components": None},
        "Procrustes disparity of the first {components} principal components, layer {layer} (low: alike)",
        "disparity (0: equal up to rotation and scale)",
        CKA_STOPS[::-1],
    ),
    "mutual_knn": Likeness(
        "value",
        {"k": None},
        "Shared among the {k} nearest neighbours, models of {tasks}, layer {layer}",
        "share of {k} nearest neighbours",
    ),
}


@styled
def similarity(kind: str, table, runs, layer: int | None = None, n_tasks: int = 1, **kept):
    """Draw the similarity of models by sets of tasks: means over seeds with jackknife standard errors.

    The diagonal is of pairs of different seeds. Runs that did not learn are left out, unless none of their set did;
    those sets are marked with a star.

    Parameters
    ----------
    kind : str
        A key of LIKENESS, and the name of its table: "cka", "procrustes", "mutual_knn".
    table, runs : DataFrame
        The study's table of that name, and "runs".
    layer : int, optional
        By default, the last but one of the layers.
    n_tasks : int
        Number of tasks per set.
    **kept
        Values of the columns that the measure keeps, such as kernel="rbf", debiased=True, components=3.

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        No such pair of pretrained runs.
    ValueError
        A missing column.
    """
    measure = LIKENESS[kind]
    need(table, kind, " ".join(["layer run other", measure.value, *measure.kept]))
    layer = layer_of(table, kind, layer)
    kept = {name: kept.get(name, table[name].iloc[0] if v is None else v) for name, v in measure.kept.items()}
    cells = pairs(table, runs, measure.value, n_tasks, layer, **kept)
    words = kept | {"tasks": cells.tasks.count(n_tasks), "layer": layer}
    if kind == "cka":
        name = {"rbf": "RBF"}.get(kept["kernel"], kept["kernel"])
        words["cka"] = f"Debiased {name} CKA" if kept["debiased"] else f"{name[:1].upper()}{name[1:]} CKA"
        components = kept["components"]
        words["of"] = f", first {components} principal components" if components else ""
    figure = sheet(cells, measure.title.format(**words), measure.stops)
    if cells.failed:
        note(figure, "* none of its runs learned")
    chance = f" Unrelated models would share {table['chance'].mean():.3f}." if "chance" in table else ""
    return figure, _alike(cells, measure.said.format(**words)) + chance


def _alike(cells: Cells, what: str) -> str:
    """Return the caption's means of the diagonal and of the rest, and the runs left out."""
    same, other = cells.diagonal(True), cells.diagonal(False)
    parts = []
    if len(same):
        parts.append(f"{same.mean():.2f} between seeds of the same set of tasks (n = {len(same)})")
    if len(other):
        parts.append(f"{other.mean():.2f} between different sets (n = {count(len(other), 'pair')})")
    if not parts:
        raise LacksRuns("no set of tasks was learned")
    text = f"Mean {what}: {', '.join(parts)}. "
    text += (
        "Cells are means over seeds ± the jackknife's standard error over runs." if len(same) else "One seed of each."
    )
    if cells.failed:
        text += f" No run learned {listed([cells.tasks.label(one) for one in cells.failed])}: shown, in no means."
    if cells.left_out:
        text += f" Left out, because it did not learn: {listed(cells.left_out)}."
    return text


def layered(mean, tasks, sizes, title: str):
    """Draw a DataFrame with one row per set of tasks and one column per layer, grouped by number of tasks.

    Parameters
    ----------
    mean : DataFrame
        Sets of tasks by layers.
    tasks : Tasks
        Tasks of the study.
    sizes : sequence of int
        Number of tasks of each row.
    title : str

    Returns
    -------
    Figure
    """
    columns = [f"layer {layer}" for layer in mean.columns]
    figure = sheet(Cells(tasks, list(mean.index), columns, mean.to_numpy(), mean.to_numpy() * np.nan), title)
    axes = figure.axes[0]
    for row in np.flatnonzero(np.diff(sizes)):
        axes.axhline(row + 0.5, color=INK, linewidth=1.6, zorder=3)
    return figure


def sheet(cells: Cells, title: str, stops: Sequence[str] = CKA_STOPS, low=0.0, high=1.0, signed=False):
    """Draw one matrix, at most 10 inches wide, with cells as large as its rows and columns allow."""
    rows, columns = cells.mean.shape
    numbers = columns <= 24
    names = cells.labels(cells.rows)
    square = cells.rows == cells.columns
    heads = cells.labels(cells.columns, short=square and any("+" in tasks for tasks in cells.rows))
    margin = 0.35 + 0.075 * max(map(len, names))
    width = min(0.92, (9.9 - margin) / columns)
    errors = np.isfinite(cells.error).any() and rows <= 12 and width > 0.6
    height = 0.52 if errors else 0.45 if square and rows <= 7 else 0.3 if numbers else 0.2
    figure = paper(max(margin + width * columns, 0.3 + 0.092 * len(title)), height * rows + 1.15)
    heading(figure, title)
    axes = figure.subplots()
    image = _draw(
        axes,
        cells.mean,
        names,
        heads,
        error=cells.error if errors else None,
        stops=stops,
        low=low,
        high=high,
        marked=cells.marked,
        numbers=numbers,
        signed=signed,
        size=9.5 if width > 0.6 else 6.5,
    )
    axes.set_aspect("auto")
    axes.xaxis.tick_top()
    if not numbers or max(map(len, heads)) * 0.075 > width:
        axes.tick_params(axis="x", rotation=90)
    if not numbers:
        bar = figure.colorbar(
            image, ax=axes, location="bottom", shrink=0.4, aspect=30, ticks=[low, (low + high) / 2, high]
        )
        bar.outline.set_visible(False)
    return figure


def _draw(
    axes,
    mean,
    rows,
    columns,
    error=None,
    stops=CKA_STOPS,
    low=0.0,
    high=1.0,
    marked=None,
    numbers=True,
    signed=False,
    size=10.0,
    turned=False,
):
    """Draw `mean` [R, C] as coloured cells with numbers, and return the image. Cells without a mean stay white."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex
    from matplotlib.patches import Rectangle

    colours = LinearSegmentedColormap.from_list("stops", list(stops))
    mean = np.asarray(mean, dtype=np.float64)
    image = axes.imshow(mean, cmap=colours, vmin=low, vmax=high)
    for (i, j), value in np.ndenumerate(mean):
        if not numbers or not np.isfinite(value):
            continue
        ink = legible_on(to_hex(image.cmap(image.norm(value))))
        place = {"ha": "center", "va": "center", "color": ink}
        text = f"{round(value, 2) + 0.0:+.2f}".replace("-", "−") if signed else f"{value:.2f}"
        beside = error is not None and np.isfinite(error[i, j])
        axes.text(j, i - 0.14 * beside, text, fontsize=size, **place)
        if beside:
            axes.text(j, i + 0.24, f"± {error[i, j]:.2f}", fontsize=size - 2.5, **place)
    for i, j in np.argwhere(marked) if marked is not None else ():
        # A white frame inside an ink one is visible on both pale and dark cells.
        for edge, colour, line in ((0.035, INK, 1.8), (0.06, "white", 1.0)):
            corner, sides = (j - 0.5 + edge, i - 0.5 + 2 * edge), (1 - 2 * edge, 1 - 4 * edge)
            axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=line, joinstyle="miter"))
    many = turned and len(columns) > 1
    axes.set_xticks(range(len(columns)), columns, rotation=35 if many else 0, ha="right" if many else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image

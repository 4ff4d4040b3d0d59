"""Matrices: how alike models are, what fine-tuning gives, how tasks pull. Numbers stand in the cells where they fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.report.colours import CKA_STOPS, DIVERGING_STOPS, INK, legible_on, tasks_label
from worldfast.report.figures.style import heading, need_some, paper, styled
from worldfast.report.figures.tables import Cells, chosen, layer_of, named, need, over_seeds, pairs

KERNELS = {"linear": "Linear CKA", "rbf": "RBF CKA"}


@styled
def cka_matrix(matrix: np.ndarray, names: Sequence[str], layer: int | None = None):
    """Linear CKA [M, M] between M models as an annotated heat map, on a scale from 0 to 1.

    ValueError: no model, or a matrix that is not [M, M].
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


@styled
def cka(
    table,
    runs,
    layer: int | None = None,
    n_tasks: int = 1,
    kernel: str = "linear",
    debiased: bool = False,
    components: int = 0,
):
    """CKA between sets of tasks at the last checkpoint, averaged over seeds, with jackknife standard errors.

    table, runs   the study's tables "cka" and "runs"
    layer         None: the last but one of the layers, 5 as published
    n_tasks       sets of how many tasks
    kernel, debiased, components   which of the table's kinds of CKA

    The diagonal is of pairs of different seeds. Runs that did not learn are left out, unless none of their
    set did; those sets have a star. LacksRuns (a ValueError): no such pair of runs. ValueError: a missing
    column.
    """
    need(table, "cka", "layer step_share kernel debiased components run other value")
    layer = layer_of(table, "cka", layer)
    kept = {"step_share": 1.0, "kernel": kernel, "debiased": debiased, "components": components}
    cells = pairs(table, runs, "value", n_tasks, layer, **kept)
    what = ("debiased " if debiased else "") + KERNELS.get(kernel, f"{kernel} CKA")
    what = what[0].upper() + what[1:].replace("Linear", "linear" if debiased else "Linear")
    of = f", first {components} principal components" if components else ""
    return _similarity(cells, f"{what} of models of {named(n_tasks)}, layer {layer}{of}")


@styled
def procrustes(table, runs, layer: int | None = None, n_tasks: int = 1):
    """Procrustes disparity between sets of tasks, 0 where one is the other turned and scaled; cells as in `cka`.

    table, runs   the study's tables "procrustes" and "runs". LacksRuns: no pair of such pretrained runs.
    """
    need(table, "procrustes", "layer components run other disparity")
    layer = layer_of(table, "procrustes", layer)
    components = int(table["components"].iloc[0])
    cells = pairs(table, runs, "disparity", n_tasks, layer, components=components)
    title = f"Procrustes disparity of the first {components} principal components, layer {layer} (low: alike)"
    return _similarity(cells, title, stops=CKA_STOPS[::-1])


@styled
def mutual_knn(table, runs, layer: int | None = None, n_tasks: int = 1):
    """The share of its k nearest cities that two models agree on, set of tasks by set; cells as in `cka`.

    table, runs   the study's tables "mutual_knn" and "runs". LacksRuns: no pair of such pretrained runs.
    """
    need(table, "mutual_knn", "layer k run other value")
    layer = layer_of(table, "mutual_knn", layer)
    k = int(table["k"].iloc[0])
    cells = pairs(table, runs, "value", n_tasks, layer, k=k)
    return _similarity(cells, f"Shared among the {k} nearest cities, models of {named(n_tasks)}, layer {layer}")


@styled
def improvement(table, runs=None, n_tasks: int = 1):
    """Normalised improvement of fine-tunes (rows) on every task (columns), averaged over seeds; trained cells framed.

    table    the study's table "improvement"
    runs     names of the fine-tunes to draw, or a "runs" table of them; None: all
    n_tasks  rows: fine-tunes on so many tasks

    0 is no better on Atlantis than before, 1 as good as on the rest of the world. LacksRuns: no such
    fine-tune. ValueError: a missing column.
    """
    need(table, "improvement", "run tasks seed task improvement trained")
    if runs is not None:
        table = table[table["run"].isin(runs["run"] if hasattr(runs, "columns") else list(runs))]
    cells = over_seeds(table, "improvement", n_tasks)
    return _effect(cells, f"Normalised improvement on Atlantis: fine-tunes on {named(n_tasks)}")


@styled
def deviation(table):
    """Two-task fine-tunes less the better of their one-task teachers, task by task, averaged over seeds.

    table   the study's table "deviation". Fine-tunes with distance stand first; trained cells are framed.
    LacksRuns: no row. ValueError: a missing column.
    """
    need(table, "deviation", "run tasks seed task deviation trained distance")
    cells = over_seeds(table, "deviation")
    title = "Normalised improvement less the better one-task teacher's"
    return _effect(cells, title, DIVERGING_STOPS, low=-0.6, high=0.6, signed=True, gap=True)


@styled
def agreement(table, base: str | None = None):
    """The cosine of two tasks' gradients at a pretrained model, before any fine-tuning; the diagonal is of other rows.

    table   the study's table "agreement"
    base    one pretrained run; None: the mean over all, with standard errors

    LacksRuns: no such base. ValueError: a missing column.
    """
    need(table, "agreement", "base task other cosine")
    table = chosen(table, "gradient agreement", base=base)
    tasks = list(dict.fromkeys([*table["task"], *table["other"]]))
    # A pair may stand once or in both orders; either way it is one value of each base.
    there = table.groupby(["base", "task", "other"])["cosine"].mean()
    back = table.groupby(["base", "other", "task"])["cosine"].mean().rename_axis(there.index.names)
    over = there.combine_first(back).groupby(["task", "other"])
    mean, error = (over.agg(of).unstack().reindex(tasks, columns=tasks).to_numpy() for of in ("mean", "sem"))
    cells = Cells(tasks, tasks, mean, error)
    bases = table["base"].nunique()
    where = base or (f"the mean of {bases} pretrained models" if bases > 1 else table["base"].iloc[0])
    return _sheet(cells, f"Cosine of the tasks' gradients, {where}", DIVERGING_STOPS, -1, 1, signed=True)


def layered(mean, sizes, title: str):
    """A figure of a DataFrame with a row a set of tasks and a column a layer; rows of as many tasks stand together.

    sizes   how many tasks each row has, in the order of the rows
    """
    cells = Cells(
        list(mean.index), [f"layer {layer}" for layer in mean.columns], mean.to_numpy(), mean.to_numpy() * np.nan
    )
    figure = _sheet(cells, title)
    axes = figure.axes[0]
    for row in np.flatnonzero(np.diff(sizes)):
        axes.axhline(row + 0.5, color=INK, linewidth=1.6, zorder=3)
    return figure


def _similarity(cells: Cells, title: str, stops: Sequence[str] = CKA_STOPS):
    figure = _sheet(cells, title, stops)
    if cells.failed:
        figure.supxlabel("* none of its runs learned", x=0.99, ha="right", fontsize=8)
    return figure


def _effect(cells: Cells, title: str, stops=CKA_STOPS, low=0.0, high=1.0, signed=False, gap=False):
    figure = _sheet(cells, title, stops, low, high, signed)
    axes = figure.axes[0]
    axes.set_ylabel("fine-tuned on")
    axes.set_xlabel("evaluated on", labelpad=8)
    axes.xaxis.set_label_position("bottom")
    far = sum("distance" in tasks.split("+") for tasks in cells.rows)
    if gap and 0 < far < len(cells.rows):
        axes.axhline(far - 0.5, color=INK, linewidth=1.6, zorder=3)
    figure.supxlabel("framed: trained on", x=0.99, ha="right", fontsize=8)
    return figure


def _sheet(cells: Cells, title: str, stops: Sequence[str] = CKA_STOPS, low=0.0, high=1.0, signed=False):
    """A figure of one matrix: at most 10 inches wide, cells as large as its rows and columns allow."""
    rows, columns = cells.mean.shape
    numbers = columns <= 24
    names = cells.labels()
    square = cells.rows == cells.columns
    short = square and any("+" in tasks for tasks in cells.rows)
    heads = [tasks_label(tasks, short=short) for tasks in cells.columns]
    heads = [head + ("*" if tasks in cells.failed else "") for head, tasks in zip(heads, cells.columns)]
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
    """`mean` [R, C] as coloured cells with their numbers; returns the image. Cells without a mean stay white."""
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
        # Ink with white inside it: to be seen on pale cells and on dark ones.
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

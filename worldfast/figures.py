"""One function a figure: it takes results, draws with matplotlib and returns a Figure; `save` writes it."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldfast import files
from worldfast.colours import CKA_STOPS, INK, legible, region_colours, run_styles
from worldfast.results import RunResult, StudyResult
from worldfast.world import ATLANTIS, BOX, World

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


def _styled(draw):
    """`draw` under the style above, whatever the caller's own settings are."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            return draw(*args, **kwargs)

    return styled


def geographic(world: World) -> bool:
    """Whether every city is on the globe, coordinates in 0.1 degree; other planes have their own units."""
    return bool((world.xy >= BOX[0]).all() and (world.xy <= BOX[1]).all())


def distance(world: World, value: float) -> str:
    """A distance in words: 41.3 -> "4.1°" on the globe, "41" on another plane, "–" where there is none."""
    if not np.isfinite(value):
        return "–"
    return f"{value / 10:.1f}°" if geographic(world) else f"{value:,.0f}"


def short_count(value: float) -> str:
    """1234567 -> "1.23M": three digits, for axes and captions."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


@_styled
def world_map(world: World):
    """Every city where it is, coloured by region. Returns a Figure."""
    figure = _figure(10, 10 * _ratio(world) + 0.95)
    axes = figure.subplots()
    _cities(axes, world, world.xy, size=4)
    _frame(axes, world)
    regions = region_colours(world)
    axes.set_title(
        f"The world: {len(world):,} cities" + (f" in {len(regions)} regions" if len(regions) > 1 else "")
    )
    _region_key(figure, world, columns=5)
    return figure


@_styled
def training(runs: Sequence[RunResult]):
    """Loss, and R2 of the linear probe (held-out cities, mean of x and y), against rows seen: a line a model.

    Loss is drawn as recorded (pale) and as a running mean over a fortieth of training. ValueError: no runs.
    """
    _need("runs", runs)
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    for run, (label, colour, dashes) in zip(runs, run_styles(runs), strict=True):
        style = {"color": colour, "linestyle": (0, [float(d) / 2 for d in dashes.split()]) if dashes else "-"}
        left.plot(run.loss_rows, run.loss, color=colour, alpha=0.25, linewidth=0.7)
        left.plot(run.loss_rows, running_mean(run.loss), linewidth=1.7, label=label, **style)
        right.plot(run.rows, run.r2.mean(1), linewidth=1.9, label=label, **style)
    left.set(title="Loss", ylabel="cross entropy, nats a token")
    losses = np.concatenate([run.loss[np.isfinite(run.loss) & (run.loss > 0)] for run in runs])
    if len(losses) and losses.max() > 20 * losses.min():
        left.set_yscale("log")
    held = [int(run.held_out.sum()) for run in runs]
    count = f"{min(held):,}" + (f" to {max(held):,}" if max(held) > min(held) else "")
    right.set(title="What a linear probe reads", ylabel="R², mean of x and y", ylim=(-0.05, 1.02))
    right.text(
        0.98,
        0.09,
        f"on {count} cities the probe was not fitted on",
        transform=right.transAxes,
        ha="right",
        fontsize=8,
        color=MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )
    for axes in (left, right):
        axes.set_xlabel("rows seen")
        axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
        axes.grid(True, color=HAIRLINE, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.legend(frameon=False, loc="upper right")
    return figure


@_styled
def learned_map(world: World, run: RunResult, moments: int = 1):
    """The world as `run` has it: truth beside the last checkpoint, or a filmstrip of `moments` checkpoints.

    A filmstrip's checkpoints are spaced geometrically from first to last, because a map forms early. Cities
    are where the probe puts them, those it was fitted on included. ValueError: moments < 1, or a run of
    another world.
    """
    _same_world(world, run)
    if moments < 1:
        raise ValueError(f"moments must be at least 1, not {moments}")
    label = run_styles([run])[0][0]
    if moments == 1:
        figure = _figure(12.4, 6.2 * _ratio(world) + 1.05)
        truth, learned = figure.subplots(1, 2)
        _cities(truth, world, world.xy, size=2.6)
        truth.set_title(f"The world: {len(world):,} cities")
        panels = [(learned, len(run.steps) - 1)]
        columns = 8
    else:
        steps = np.unique(np.rint(np.geomspace(1, len(run.steps), moments)).astype(int) - 1)
        columns = min(3, len(steps))
        lines = -(-len(steps) // columns)
        figure = _figure(4.2 * columns, (4.2 * _ratio(world) + 0.28) * lines + 0.95)
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(steps) :]:
            axes.remove()
        panels = list(zip(grid, steps))
        columns = 2 * columns + 1
    for axes, step in panels:
        _cities(axes, world, run.predicted[step], size=2.6 if moments == 1 else 1.2)
        read = f"R² {run.r2[step].mean():.2f}"
        axes.set_title(
            f"{short_count(run.rows[step])} rows · {read}"
            if moments > 1
            else f"As the model knows it: {label}"
        )
        if moments == 1:
            axes.set_xlabel(
                f"{read}, median error {distance(world, run.error[step])} on {int(run.held_out.sum()):,} "
                f"held-out cities, after {short_count(run.rows[step])} rows",
                loc="left",
            )
    for axes in figure.axes:
        _frame(axes, world)
    if moments > 1:
        figure.suptitle(f"A map forms: {label}", x=0.01, ha="left", fontsize=13)
    _region_key(figure, world, columns)
    return figure


@_styled
def cka_matrix(matrix: np.ndarray, names: Sequence[str], layer: int | None = None):
    """Linear CKA [M, M] between M models as an annotated heat map, on a scale from 0 to 1.

    ValueError: no model, or a matrix that is not [M, M].
    """
    _need("names", names)
    matrix = np.asarray(matrix, dtype=np.float64)
    count = len(names)
    if matrix.shape != (count, count):
        raise ValueError(f"matrix has shape {matrix.shape}, expected ({count}, {count}) for {count} names")
    from matplotlib.colors import LinearSegmentedColormap

    side = max(2.2, 0.72 * count) if count <= 12 else 0.3 * count
    figure = _figure(side + 2.6, side + 1.2)
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("cka", CKA_STOPS)
    image = axes.imshow(matrix, cmap=colours, vmin=0, vmax=1)
    if count <= 12:
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(
                j,
                i,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=10,
                color=legible(value),
            )
    axes.set_xticks(
        range(count), names, rotation=35 if count > 1 else 0, ha="right" if count > 1 else "center"
    )
    axes.set_yticks(range(count), names)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Linear CKA" + (f", layer {layer}" if layer is not None else ""))
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=24, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    return figure


@_styled
def pca(world: World, run: RunResult, checkpoint: int = -1):
    """Three views of the first three principal components at one checkpoint (default: the last), by region.

    ValueError: a run of another world. IndexError: no such checkpoint.
    """
    _same_world(world, run)
    if not -len(run.steps) <= checkpoint < len(run.steps):
        raise IndexError(f"checkpoint {checkpoint} of a run with {len(run.steps)} checkpoints")
    points = run.components[checkpoint]  # [N, 3]
    figure = _figure(11.4, 4.4)
    reach = 1.06 * np.abs(points).max() or 1.0
    last = checkpoint in (-1, len(run.steps) - 1)
    for axes, (i, j) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2))):
        _cities(axes, world, points[:, [i, j]], size=2.6)
        for k, name in ((i, axes.set_xlabel), (j, axes.set_ylabel)):
            name(f"component {k + 1}" + (f" ({run.explained[k]:.0%})" if last else ""))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color(HAIRLINE)
    rows = short_count(run.rows[checkpoint])
    figure.suptitle(
        f"Inside the model ({run_styles([run])[0][0]}) after {rows} rows: {len(world):,} cities, "
        "first three principal components",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    _region_key(figure, world, columns=8)
    return figure


def running_mean(values: np.ndarray, share: float = 1 / 40) -> np.ndarray:
    """float64 [K] -> [K]: means over a centred window of `share` of the length, shorter towards the ends."""
    if not len(values):
        return np.zeros(0)
    window = np.ones(2 * int(len(values) * share / 2) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def save(figure, folder: str | os.PathLike, name: str, origin: str = "") -> tuple[Path, Path]:
    """Write `folder`/`name`.png (160 dpi) and .svg, each whole or not at all; returns both paths.

    `origin` says where the figure comes from and stands in both files' description. The folder is made. The
    same figure gives the same bytes. Errors: those of the file system (FileExistsError: `folder` is a
    file).
    """
    import matplotlib

    target = files.folder(folder, "folder")
    written = []
    for suffix, extra in (("png", {}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(
                buffer,
                format=suffix,
                dpi=160,
                metadata={"Description": origin, "Title": name, **extra},
            )
        written.append(files.write_whole(target / f"{name}.{suffix}", buffer.getvalue()))
    return written[0], written[1]


def save_study(result: StudyResult, folder: str | os.PathLike) -> list[Path]:
    """Draw and save every figure of a study; returns the paths. Errors as for `save`."""
    origin = f"{result.command}; worldfast {result.version} {result.commit}; {result.machine.get('processor', '')}"
    drawn = {
        "world": world_map(result.world),
        "training": training(result.runs),
        "cka": cka_matrix(result.cka, [run.name for run in result.runs], result.cka_layer),
    }
    for run in result.runs:
        drawn[f"map-{run.name}"] = learned_map(result.world, run, moments=6)
        drawn[f"pca-{run.name}"] = pca(result.world, run)
    return [path for name, figure in drawn.items() for path in save(figure, folder, name, origin)]


# ---- what the figures are made of ----


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def _cities(axes, world: World, places: np.ndarray, size: float) -> None:
    """A dot a city at `places` [N, 2], shuffled so that no region hides another; Atlantis larger and on top.

    Dots are pixels inside the SVG: thousands of circles are slow to open.
    """
    colours = region_colours(world)
    shuffled = np.random.default_rng(0).permutation(len(world))
    new = world.region[shuffled] == ATLANTIS
    for cities, scale, marker in ((shuffled[~new], 1, "o"), (shuffled[new], 3, "D")):
        axes.scatter(
            *places[cities].T,
            s=scale * size,
            c=[colours[region] for region in world.region[cities]],
            marker=marker,
            linewidths=0,
            zorder=2,
            rasterized=True,
        )


def _ratio(world: World) -> float:
    """Height of the world's window over its width, within what a page bears."""
    width, height = np.maximum(np.ptp(world.xy, axis=0), 1)
    return float(np.clip(height / width, 0.3, 1.2)) * 1.06


def _frame(axes, world: World) -> None:
    """One window for truth and prediction: the world's box and a margin; a 30 degree grid on the globe."""
    low, high = world.xy.min(0), world.xy.max(0)
    margin = max(1, 0.035 * (high - low).max())
    axes.spines[:].set_color(HAIRLINE)
    if geographic(world):
        axes.set_xticks(range(-1800, 1801, 300), [])
        axes.set_yticks(range(-900, 901, 300), [])
        axes.grid(True, color=HAIRLINE, linewidth=0.5)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set(
        xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin), aspect="equal"
    )
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def _region_key(figure, world: World, columns: int) -> None:
    from matplotlib.lines import Line2D

    colours = region_colours(world)
    if list(colours) == [""]:
        return
    dots = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="D" if region == ATLANTIS else "o",
            markersize=5,
            markeredgewidth=0,
            color=colour,
            label=region or "no region",
        )
        for region, colour in colours.items()
    ]
    figure.legend(
        handles=dots,
        loc="outside lower center",
        ncols=min(columns, len(dots)),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1.2,
    )


def _need(argument: str, items: Sequence) -> None:
    if not len(items):
        raise ValueError(f"{argument} is empty, expected at least one")


def _same_world(world: World, run: RunResult) -> None:
    if run.predicted.shape[1] != len(world):
        raise ValueError(f"run {run.name!r} has {run.predicted.shape[1]} cities, the world has {len(world)}")

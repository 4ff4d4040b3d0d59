"""What makes models alike: more tasks, the same tasks, more training; and what likeness says of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast.analysis.trends import CROSS_TASK, DISJOINT_TASKS, SAME_TASK, trends
from worldfast.report.colours import INK, TASK_COLOURS, TASK_LETTERS
from worldfast.report.figures.style import MUTED, end_labels, paper, quiet, styled
from worldfast.report.figures.tables import LacksRuns, layer_of, named, need, over_seeds, pairs, pretrained
from worldfast.worlds.cities.transfer import transfer_points

KINDS = {  # what is compared: colour, marker, dashes
    SAME_TASK: ("#14456b", "o", "-"),
    CROSS_TASK: ("#b0571b", "s", (0, (5, 2))),
    DISJOINT_TASKS: (MUTED, "^", (0, (1.5, 1.5))),
}
PUBLISHED_LAYER = 5


@styled
def cka_trends(table, published: Mapping[tuple[str, int], float] | None = None, layer: int | None = None):
    """Mean CKA of models of the same, of other, and of disjoint sets of tasks by number of tasks; a panel a layer.

    table      the study's table "trends", with its standard errors as bars
    published  (what, n_tasks) -> published value, drawn hollow in the panel of `layer` (None: the last but
               one of the layers, 5 as published)

    LacksRuns: no row. ValueError: a missing column.
    """
    need(table, "trends", "what layer n_tasks mean standard_error n unit")
    beside = layer_of(table, "trends", layer)
    layers = sorted(table["layer"].unique())
    figure = paper(min(10, 2.6 + 2.1 * len(layers)), 3.7)
    panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    sizes = sorted(table["n_tasks"].unique())
    places = {size: i for i, size in enumerate(sizes)}
    for axes, here in zip(panels, layers):
        ends = []
        for k, (what, (colour, marker, dashes)) in enumerate(KINDS.items()):
            line = table[(table["layer"] == here) & (table["what"] == what)].sort_values("n_tasks")
            if not len(line):
                continue
            x = line["n_tasks"].map(places) + 0.07 * (k - 1)
            errors = line["standard_error"].fillna(0)
            style = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 5}
            axes.errorbar(x, line["mean"], errors, linewidth=1.6, capsize=2, **style)
            ends.append((float(line["mean"].iloc[-1]), what, colour))
            theirs = {n: v for (name, n), v in (published or {}).items() if name == what and n in places}
            if here == beside and theirs:
                x = [places[n] + 0.07 * (k - 1) for n in theirs]
                axes.plot(x, list(theirs.values()), marker, color=colour, markersize=9, fillstyle="none")
        axes.set(title=f"Layer {here}", xticks=range(len(sizes)), xlim=(-0.35, len(sizes) - 0.65))
        axes.set_xticklabels(sizes)
        axes.set_xlabel("tasks per model")
        quiet(axes, "y")
    panels[0].set_ylabel("linear CKA")
    panels[0].set_ylim(top=1.0)
    end_labels(panels[-1], ends, height=2.6)
    if published:
        figure.supxlabel(f"large hollow: as published, layer {PUBLISHED_LAYER}", x=0.99, ha="right", fontsize=8)
    return figure


@styled
def cka_over_training(table, runs, layer: int | None = None):
    """Mean CKA between models at the same share of training, same and other sets of tasks; a panel a number of tasks.

    table, runs   the study's tables "cka" and "runs"
    layer         None: the last but one of the layers

    Bands are jackknife standard errors over sets of tasks. LacksRuns: pretrained runs are compared at fewer
    than two moments. ValueError: a missing column.
    """
    found = training_trends(table, runs, layer)
    layer = layer_of(table, "cka", layer)
    sizes = sorted(found["n_tasks"].unique())
    figure = paper(min(10, 2.2 + 2.7 * len(sizes)), 3.6)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    ends = {size: [] for size in sizes}
    for axes, size in zip(panels, sizes):
        for what in (SAME_TASK, CROSS_TASK):
            line = found[(found["n_tasks"] == size) & (found["what"] == what)].sort_values("step_share")
            if not len(line):
                continue
            colour, marker, dashes = KINDS[what]
            x, mean, error = line["step_share"], line["mean"], line["standard_error"].fillna(0)
            axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, mean, color=colour, linestyle=dashes, marker=marker, markersize=4, linewidth=1.6)
            ends[size].append((float(mean.iloc[-1]), what, colour))
        axes.set(title=named(size).capitalize(), xlabel="share of training", xlim=(0, 1.03))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xticks([0, 0.5, 1])
        axes.axvline(0.15, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        quiet(axes, "y")
    panels[0].set_ylim(0, 1.02)
    panels[0].set_ylabel(f"linear CKA, layer {layer}")
    most = max(len(lines) for lines in ends.values())
    full = [i for i, size in enumerate(sizes) if len(ends[size]) == most][-1]
    for i in {full, len(sizes) - 1}:  # one model's panel has no other sets to compare with
        end_labels(panels[i], ends[sizes[i]], height=2.6)
    figure.supxlabel("dotted: 15% of training, by which the paper's have settled", x=0.99, ha="right", fontsize=8)
    return figure


def training_trends(table, runs, layer: int | None = None):
    """`analysis.trends.trends` of pretrained runs at every share of training: its columns and step_share."""
    import pandas as pd

    need(table, "cka", "layer step_share kernel debiased components run other value")
    group = pretrained(runs)
    group = group[group["learned"]]
    table = table[table["layer"] == layer_of(table, "cka", layer)]
    table = table[(table["kernel"] == "linear") & ~table["debiased"].astype(bool) & (table["components"] == 0)]
    table = table[table["run"].isin(group["run"]) & table["other"].isin(group["run"])]
    shares = sorted(table["step_share"].unique())
    if len(shares) < 2:
        raise LacksRuns(f"the study compares pretrained runs at {len(shares)} moments of training, expected 2 or more")
    if group[group["run"].isin([*table["run"], *table["other"]])]["n_tasks"].value_counts().max() < 2:
        raise LacksRuns("of the pretrained runs that learned, no two have as many tasks")
    parts = [
        trends(table[table["step_share"] == share], group, step_share=share).assign(step_share=share)
        for share in shares
    ]
    return pd.concat(parts, ignore_index=True)


@styled
def cka_against_improvement(cka, improvement, runs, layer: int | None = None, without=("crossing",)):
    """CKA of two one-task models against how fine-tuning on one task carries over to the other: a point a pair.

    cka, improvement, runs   the study's tables of these names
    layer     None: the last but one of the layers
    without   tasks to leave out: crossing, which is not learned alone, as published

    Each unordered pair stands once, with the mean of its two directions. LacksRuns: no one-task models, no
    one-task fine-tunes, or fewer than two tasks that have both. ValueError: a missing column.
    """
    points = likeness_points(cka, improvement, runs, layer, without)
    figure = paper(6.4, 4.6)
    axes = figure.subplots()
    for far, colour, marker in ((False, INK, "o"), (True, TASK_COLOURS["distance"], "D")):
        some = points[points["distance"] == far]
        axes.plot(some["likeness"], some["improvement"], marker, color=colour, markersize=5.5)
    _beside(axes, points)
    layer = layer_of(cka, "cka", layer)
    axes.set_xlabel(f"linear CKA of the one-task models, layer {layer}")
    axes.set_ylabel("normalised improvement on the other task")
    axes.set_title("Does likeness say what fine-tuning carries over?")
    quiet(axes)
    figure.supxlabel("blue diamonds: pairs with distance", x=0.99, ha="right", fontsize=8)
    return figure


def likeness_matrices(cka, improvement, runs, layer: int | None = None):
    """Seed-averaged CKA of one-task models, and improvement of one-task fine-tunes: two DataFrames named by tasks."""
    need(cka, "cka", "layer step_share kernel debiased components run other value")
    need(improvement, "improvement", "run tasks seed task improvement trained")
    kept = {"step_share": 1.0, "kernel": "linear", "debiased": False, "components": 0}
    return pairs(cka, runs, "value", 1, layer, **kept).frame(), over_seeds(improvement, "improvement", 1).frame()


def likeness_points(cka, improvement, runs, layer: int | None = None, without=("crossing",)):
    """`analysis.transfer.transfer_points` of a study's tables; LacksRuns where it has fewer than two tasks."""
    likeness, carried = likeness_matrices(cka, improvement, runs, layer)
    if len(set(likeness.index) & set(carried.index) - set(without)) < 2:
        raise LacksRuns("fewer than two tasks have both a one-task model and a one-task fine-tune")
    points = transfer_points(likeness, carried, without).dropna()
    if not len(points):
        raise LacksRuns("no pair of tasks has both a CKA and an improvement")
    return points


def _beside(axes, points) -> None:
    """Each point's two tasks in letters beside it, on the side where points and names are furthest."""
    x, y = points["likeness"].to_numpy(), points["improvement"].to_numpy()
    wide, high = max(np.ptp(x), 1e-3), max(np.ptp(y), 1e-3)
    axes.set_xlim(x.min() - 0.12 * wide, x.max() + 0.12 * wide)
    axes.set_ylim(y.min() - 0.12 * high, y.max() + 0.12 * high)
    taken = list(zip(x / wide, y / high))
    for row in points.itertuples():
        at = np.array([row.likeness / wide, row.improvement / high])
        spots = {  # offsets as shares of the axes, for names of about 0.05 by 0.03
            (dx, dy): min(np.hypot((at[0] + dx - u) / 1.5, at[1] + dy - v) for u, v in taken if (u, v) != tuple(at))
            for dx in (0.045, -0.045, 0)
            for dy in (0, 0.045, -0.045)
            if dx or dy
        }
        dx, dy = max(spots, key=spots.get)
        name = f"{TASK_LETTERS.get(row.task, row.task)} {TASK_LETTERS.get(row.other, row.other)}"
        axes.text(
            row.likeness + dx * wide,
            row.improvement + dy * high,
            name,
            fontsize=8,
            ha="center",
            va="center",
            color=MUTED,
        )
        taken.append((at[0] + dx, at[1] + dy))

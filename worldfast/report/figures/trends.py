"""Factors that make models alike: more tasks, the same tasks, more training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import CROSS_TASK, DISJOINT_TASKS, SAME_TASK, trends
from worldfast.display import count
from worldfast.report.colours import Tasks
from worldfast.report.figures.style import MUTED, end_labels, note, paper, quiet, styled
from worldfast.report.figures.tables import LacksRuns, layer_of, need, pretrained

KINDS = {  # pairs compared: colour, marker, dashes
    SAME_TASK: ("#14456b", "o", "-"),
    CROSS_TASK: ("#b0571b", "s", (0, (5, 2))),
    DISJOINT_TASKS: (MUTED, "^", (0, (1.5, 1.5))),
}
SAID = {SAME_TASK: "seeds of the same set", CROSS_TASK: "other sets", DISJOINT_TASKS: "disjoint sets"}


@styled
def cka_trends(
    table,
    runs,
    layer: int | None = None,
    published: Mapping[tuple[str, int], float] | None = None,
    published_layer: int | None = None,
):
    """Plot mean CKA of models of the same, other and disjoint sets of tasks by number of tasks; one panel per layer.

    Parameters
    ----------
    table, runs : DataFrame
        The study's tables "trends", with standard errors as bars, and "runs".
    layer : int, optional
        Layer of the caption; by default, the last but one of the layers.
    published : mapping of (str, int) to float, optional
        (what, n_tasks) -> published value, drawn hollow in the panel of `layer`.
    published_layer : int, optional
        Layer of the published values.

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        The table has no rows.
    ValueError
        A missing column.
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
            style = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 5, "label": what}
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
        note(figure, f"large hollow: as published, layer {published_layer}")
    of = table[table["layer"] == beside].sort_values("n_tasks")
    parts = []
    for what in (SAME_TASK, DISJOINT_TASKS):
        line = of.loc[of["what"] == what, "mean"]
        if len(line):
            parts.append(f"from {line.iloc[0]:.2f} to {line.iloc[-1]:.2f} for {SAID[what]}")
    first, last = (Tasks(runs["tasks"]).count(size) for size in (of["n_tasks"].min(), of["n_tasks"].max()))
    counts = " to ".join(map(str, dict.fromkeys([of["n"].min(), of["n"].max()])))
    return figure, (
        f"From {first} to {last}, mean CKA at layer {beside} goes {' and '.join(parts)}. Bars are standard errors, "
        f"n = {counts} (unit: {', '.join(of.sort_index()['unit'].unique())})."
    )


@styled
def cka_over_training(table, runs, layer: int | None = None, mark: tuple[float, str] | None = None):
    """Plot mean CKA between models at equal shares of training, for same and other sets of tasks; a panel per number of
    tasks.

    Bands are jackknife standard errors over sets of tasks.

    Parameters
    ----------
    table, runs : DataFrame
        The study's tables "cka" and "runs".
    layer : int, optional
        By default, the last but one of the layers.
    mark : (float, str), optional
        Share of training at which to draw a dotted line, and its explanation.

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        Pretrained runs are compared at fewer than two moments.
    ValueError
        A missing column.
    """
    found = training_trends(table, runs, layer)
    layer = layer_of(table, "cka", layer)
    known = Tasks(runs["tasks"])
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
            axes.plot(x, mean, color=colour, linestyle=dashes, marker=marker, markersize=4, linewidth=1.6, label=what)
            ends[size].append((float(mean.iloc[-1]), what, colour))
        axes.set(title=known.count(size).capitalize(), xlabel="share of training", xlim=(0, 1.03))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xticks([0, 0.5, 1])
        if mark:
            axes.axvline(mark[0], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        quiet(axes, "y")
    panels[0].set_ylim(0, 1.02)
    panels[0].set_ylabel(f"linear CKA, layer {layer}")
    most = max(len(lines) for lines in ends.values())
    full = [i for i, size in enumerate(sizes) if len(ends[size]) == most][-1]
    for i in {full, len(sizes) - 1}:  # a panel with a single set has no others to compare with
        end_labels(panels[i], ends[sizes[i]], height=2.6)
    if mark:
        note(figure, f"dotted: {mark[0]:.0%} of training, {mark[1]}")
    parts = []
    for what in (SAME_TASK, CROSS_TASK):
        line = (
            found[(found["n_tasks"] == sizes[0]) & (found["what"] == what)].set_index("step_share")["mean"].sort_index()
        )
        if len(line) > 1:
            shares = dict.fromkeys([0, np.abs(line.index - mark[0]).argmin() if mark else 0, len(line) - 1])
            path = ", ".join(f"{line.iloc[at]:.2f} at {line.index[at]:.0%}" for at in shares)
            parts.append(f"{SAID[what]} {path}")
    return figure, (
        f"Mean linear CKA of models of {known.count(sizes[0])} over training: {'; '.join(parts)}. Bands are standard "
        "errors over sets of tasks."
    )


def training_trends(table, runs, layer: int | None = None):
    """Return `analysis.trends.trends` of pretrained runs at every share of training: its columns and step_share."""
    need(table, "cka", "layer step_share kernel debiased components run other value")
    group = pretrained(runs)
    group = group[group["learned"]]
    table = table[table["layer"] == layer_of(table, "cka", layer)]
    table = table[(table["kernel"] == "linear") & ~table["debiased"].astype(bool) & (table["components"] == 0)]
    table = table[table["run"].isin(group["run"]) & table["other"].isin(group["run"])]
    shares = sorted(table["step_share"].unique())
    if len(shares) < 2:
        moments = count(len(shares), "moment")
        raise LacksRuns(f"the study compares pretrained runs at {moments} of training, expected 2 or more")
    if group[group["run"].isin([*table["run"], *table["other"]])]["n_tasks"].value_counts().max() < 2:
        raise LacksRuns("of the pretrained runs that learned, no two have the same number of tasks")
    parts = [
        trends(table[table["step_share"] == share], group, step_share=share).assign(step_share=share)
        for share in shares
    ]
    return pd.concat(parts, ignore_index=True)

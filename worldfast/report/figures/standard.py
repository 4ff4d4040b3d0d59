"""Figures of the analyses that suit any world, which a study draws when it names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from worldfast.display import count
from worldfast.report.colours import INK, MUTED, PALETTE, Tasks, spread_hues
from worldfast.report.figures.catalogue import Catalogue, Drawn
from worldfast.report.figures.maps import aligned_maps, world_map
from worldfast.report.figures.style import end_labels, over_rows, paper, quiet
from worldfast.report.figures.tables import LacksRuns, layer_of, need
from worldfast.report.words import listed
from worldfast.studies import NULL, StudyResult, null_columns

CATALOGUE = Catalogue()
ROWS = 24  # of a figure, for its labels to be read


def beside_standard(*catalogues: Catalogue) -> Callable[..., list[Drawn]]:
    """Return a function (tables, scene, layer) that draws a world's catalogues, then the figures of any world."""

    def draw(tables: Mapping, scene, layer: int) -> list[Drawn]:
        return [one for some in (*catalogues, CATALOGUE) for one in some.draw(tables, scene, layer)]

    return draw


def draw(result: StudyResult, tables: Mapping) -> list[Drawn]:
    """Draw the figures that the tables of a result have the data for, and the maps of the runs that its page shows."""
    maps = Drawn("aligned-maps", "alike", "Aligned maps", *aligned_maps(result.world, result.runs))
    return [*CATALOGUE.draw(tables, result.world, result.cka_layer), maps]


@CATALOGUE.figure("attributes-over-training", "know", "probes world")
def attributes(probes, world, layer: int | None = None):
    """Plot R2 of the probe of each attribute over rows seen: pale lines for runs, strong for their mean; nulls."""
    need(probes, "probes", "run layer rows r2")
    layer = layer_of(probes, "probes", layer)
    table = probes[probes["layer"] == layer]
    figure = paper(7.5, 3.4)
    axes, hues, ends = figure.subplots(), spread_hues(PALETTE, world.columns), []
    values = table[[f"r2_{name}" for name in world.columns]].to_numpy()
    axes.set_ylim(max(-0.5, min(-0.03, np.nanmin(values))), 1.03)
    for name, colour in hues.items():
        for _, run in table.groupby("run"):
            axes.plot(run["rows"], run[f"r2_{name}"], color=colour, alpha=0.3, linewidth=0.7)
        mean = table.groupby("rows")[f"r2_{name}"].mean()
        axes.plot(mean.index, mean, color=colour, linewidth=1.8, marker="o", markersize=3)
        ends.append((float(mean.iloc[-1]), name, colour))
    nulls = {name.removeprefix(NULL): float(table[name].mean()) for name in null_columns(table)}
    for name, level in nulls.items():
        axes.axhline(level, color=MUTED, linewidth=0.9, linestyle="--", label=name)
        ends.append((level, name, MUTED))
    axes.set_title(f"What a linear probe of layer {layer} reads")
    axes.set_ylabel(f"R² on held-out {world.many}")
    over_rows(axes)
    quiet(axes)
    end_labels(axes, ends, height=2.6)
    last = ", ".join(f"{name} {value:.2f}" for value, name, _ in ends[: len(hues)])
    beside = ", ".join(f"{name} {level:.2f}" for name, level in nulls.items())
    beside = f" Dashed, the same of nulls that are no model, mean over attributes: {beside}." if nulls else ""
    runs = count(table["run"].nunique(), "run")
    penalty = " Ridge regression, since there are too few for least squares." if table["ridge"].any() else ""
    return figure, (
        f"R² of a linear probe of each attribute of the {world.many}, mean over {runs}. At the end: {last}. "
        f"Fitted on {int(table['n_fitted'].iloc[0]):,}, tried on {int(table['n_held_out'].iloc[0]):,}.{penalty}{beside}"
    )


@CATALOGUE.figure("groups", "know", "groups world")
def groups(table, world):
    """Plot the probe's error on each group over that on the rest, by attribute: a pale dot per run, and the mean."""
    ratio = (table["error"] / table["rest"]).replace([np.inf, -np.inf], np.nan)
    table = table.assign(ratio=ratio).dropna(subset="ratio")
    if not len(table):
        raise LacksRuns("no group has held-out members, and others beside them")
    lines = list(table.groupby(["group", "attribute"], sort=False)["ratio"])[:ROWS]
    figure = paper(7.5, 1.2 + 0.26 * len(lines))
    axes = figure.subplots()
    for y, (_, values) in enumerate(lines):
        axes.plot(values, np.full(len(values), y), "o", color=INK, alpha=0.3, markersize=4, markeredgewidth=0)
        axes.plot(values.mean(), y, "D", color=INK, markersize=6)
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(lines)), [f"{group}: {attribute}" for (group, attribute), _ in lines])
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="median error of the group, that of the rest = 1")
    axes.set_xlim(left=0)
    quiet(axes, "x")
    means = table.groupby("group", sort=False)["ratio"].mean()
    said = listed([f"{group} {value:.2f}" for group, value in means.items()], 6)
    return figure, (
        f"Errors of a linear probe on held-out {world.many} of a group, divided by those on the rest, mean over "
        f"attributes and {count(table['run'].nunique(), 'run')}: {said}. Pale dots are runs."
    )


@CATALOGUE.figure("cka-over-training", "alike", "cka")
def alike(cka, layer: int | None = None):
    """Plot linear CKA of the pairs of runs at shares of their training: pale lines for pairs, a strong one for all."""
    need(cka, "cka", "run other layer step_share value")
    layer = layer_of(cka, "cka", layer)
    figure = paper(7.5, 3.2)
    axes = figure.subplots()
    for _, pair in cka.groupby(["run", "other"]):
        axes.plot(pair["step_share"], pair["value"], color=INK, alpha=0.25, linewidth=0.7)
    mean = cka.groupby("step_share")["value"].mean()
    axes.plot(mean.index, mean, color=INK, linewidth=1.8, marker="o", markersize=4)
    axes.set(title=f"Linear CKA, layer {layer}", xlabel="share of training", ylim=(-0.03, 1.03))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    quiet(axes)
    pairs = cka.groupby(["run", "other"]).ngroups
    return figure, (
        f"Linear CKA at layer {layer}, mean over {count(pairs, 'pair')} of runs: {mean.iloc[0]:.2f} before "
        f"training, {mean.iloc[-1]:.2f} at its end."
    )


@CATALOGUE.figure("dimension-over-training", "alike", "dimension runs")
def dimension(table, runs):
    """Plot the participation ratio of the states over rows seen, a line for each run, coloured by its task."""
    need(table, "dimension", "run layer rows participation_ratio")
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    figure = paper(7.5, 3.2)
    axes, last = figure.subplots(), []
    for run, line in table.groupby("run", sort=False):
        axes.plot(line["rows"], line["participation_ratio"], color=tasks.colour(of_run[run]), alpha=0.8, linewidth=1.4)
        last.append(line["participation_ratio"].iloc[-1])
    axes.set(title=f"Participation ratio, layer {table['layer'].iloc[0]}", ylim=(0, None))
    over_rows(axes)
    quiet(axes)
    return figure, (
        f"Dimension of the states, as the participation ratio of their variances: {min(last):.1f} to {max(last):.1f} "
        f"at the end of training. A line is one of {count(len(last), 'run')}."
    )


@CATALOGUE.figure("world", "tasks", "world")
def true_map(world):
    """Draw every entity at its true place."""
    if world.xy is None:
        raise LacksRuns("fewer than two attributes are drawn as a map")
    return world_map(world)

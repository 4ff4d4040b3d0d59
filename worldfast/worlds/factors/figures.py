"""Figures of a study of trials, beside those of any world."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast.report import INK, PALETTE, Tasks
from worldfast.report.figures import (
    MUTED,
    STANDARD,
    Catalogue,
    Drawn,
    LacksRuns,
    end_labels,
    need,
    over_rows,
    paper,
    quiet,
    styled,
)
from worldfast.worlds.factors import theory

__all__ = ["CATALOGUE", "draw"]

CATALOGUE = Catalogue()
figure = CATALOGUE.figure
FIELDS = {  # of a dataset, along which a study may go, and what they are called
    "n": "questions N",
    "dims": "latent numbers D",
    "sigma": "noise in training",
    "stimulus": "steps of stimulus",
    "correlation": "correlation of x1 and x2",
}


def draw(tables: Mapping, scene, layer: int) -> list[Drawn]:
    """Draw the figures of a study, and return them with captions."""
    return [*CATALOGUE.draw(tables, scene, layer), *STANDARD.draw(tables, scene, layer)]


def varied(given, _) -> dict[str, dict]:
    """The fields in which runs differ, each a variant of a figure."""
    runs = given["runs"]
    found = {f"by-{name}": {"field": name} for name in FIELDS if len(lines_of(runs, name))}
    if not found:
        raise LacksRuns("all runs of the study have as many questions, latent numbers, steps and as much noise")
    return found


def lines_of(runs, field: str) -> list[tuple[str, list]]:
    """Return lines along a field: a name, and the runs of two values of it at least that are alike in all else."""
    rest = ["family", "questions", *(name for name in FIELDS if name != field)]
    lines = [(dict(zip(rest, key)), part) for key, part in runs.groupby(rest, sort=False)]
    lines = [(key, part) for key, part in lines if part[field].nunique() > 1]
    differ = [name for name in rest if len({key[name] for key, _ in lines}) > 1] or ["family"]
    said = lambda name, value: str(value) if name in ("family", "questions") else f"{name} {value:g}"  # noqa: E731
    return [(", ".join(said(name, key[name]) for name in differ), list(part["run"])) for key, part in lines]


def along(axes, table, runs, field: str, value: str) -> list[tuple[str, Mapping]]:
    """Draw medians with quartiles of all values, and a dot a net; return names and medians of the lines."""
    found, at = [], runs.set_index("run")[field]
    for i, (name, members) in enumerate(lines_of(runs, field)):
        part = table[table["run"].isin(members)].assign(x=lambda t: t["run"].map(at))
        if not len(part):
            continue
        colour = PALETTE[i % len(PALETTE)]
        quartiles = part.groupby("x")[value].quantile([0.25, 0.5, 0.75]).unstack()
        low, middle, high = (quartiles[share] for share in (0.25, 0.5, 0.75))
        bars = [middle - low, high - middle]
        axes.errorbar(middle.index, middle, bars, color=colour, marker="o", markersize=4, linewidth=1.6, capsize=2)
        nets = part.groupby(["x", "run"])[value].median()
        axes.plot(nets.index.get_level_values("x"), nets, "o", color=colour, alpha=0.3, markersize=3, zorder=1)
        found.append((name, dict(middle), colour))
    if not found:
        raise LacksRuns(f"no two runs that differ in {FIELDS[field]} alone have this table")
    if field in ("n", "stimulus"):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(runs[field].unique()), [f"{x:g}" for x in sorted(runs[field].unique())])
    axes.set_xlabel(FIELDS[field])
    quiet(axes)
    return found


def said(found, field: str, digits: int) -> str:
    lines = []
    for name, medians, _ in found:
        values = ", ".join(f"{value:.{digits}f} at {x:g}" for x, value in medians.items())
        lines.append(f"{name}: {values}" if len(found) > 1 else values)
    return f"Medians by {FIELDS[field]}: {'; '.join(lines)}."


def bound(axes, runs, field: str) -> None:
    """Draw the bound 1 - 12 sigma^2 / t of each value of a field."""
    limit = theory.bound(runs["sigma"], runs["stimulus"]).groupby(runs[field]).max()
    axes.plot(limit.index, limit, color=MUTED, linewidth=0.9, linestyle="--")


@figure("left-out", "know", "decoders runs", varied)
@styled
def by_field(decoders, runs, field: str):
    """Plot R2 in the quadrant that was left out, and in those that were not, of decoders as published."""
    need(decoders, "decoders", "run quadrant fit ood inside angle batches")
    figure = paper(8, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, value, title in zip(panels, ("ood", "inside"), ("in the quadrant left out", "fitted on all quadrants")):
        found = along(axes, decoders, runs, field, value)
        bound(axes, runs, field)
        axes.set_title(title)
        if value == "ood":
            first = found
            ends = [(list(medians.values())[-1], name, colour) for name, medians, colour in found]
            axes.set_ylabel("R², 1 − 12 MSE")
    if len(ends) > 1:
        end_labels(panels[1], [(y, name, colour) for y, name, colour in ends], height=2.6)
    nets, values = decoders["run"].nunique(), len(decoders)
    return figure, (
        f"{said(first, field, 3)} R² of a linear decoder in the quadrant that it was not fitted on: medians and "
        f"quartiles of {values} values from {nets} nets, four quadrants and {decoders['fit'].nunique()} fits; pale "
        "dots are nets. Dashed: the bound 1 − 12σ²/t of any estimate."
    )


@figure("angles", "know", "decoders runs", varied)
@styled
def by_angle(decoders, runs, field: str):
    """Plot the angle between the directions along which decoders read the latent numbers."""
    figure = paper(6, 3.2)
    axes = figure.subplots()
    found = along(axes, decoders, runs, field, "angle")
    axes.axhline(90, color=MUTED, linewidth=0.9, linestyle="--")
    values = decoders["angle"].dropna()
    limits = min(60, values.min() - 2), max(120, values.max() + 2)
    axes.set(ylim=limits, ylabel="angle, degrees", title="Between what a decoder reads x1 and x2 along")
    return figure, f"{said(found, field, 0)} Angles in degrees, of the decoders with a quadrant left out."


@figure("left-out-over-training", "know", "left_out runs")
@styled
def over_training(left_out, runs):
    """Plot R2 in the quadrant left out over training: pale lines for nets, strong ones for medians of a dataset."""
    need(left_out, "left_out", "run step rows quadrant ood inside")
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    figure = paper(8, 3.6)
    panels, ends, lowest = figure.subplots(1, 2, sharey=True), [], 1.0
    for axes, value, title in zip(panels, ("ood", "inside"), ("in the quadrant left out", "fitted on all quadrants")):
        nets = left_out.groupby(["run", "rows"])[value].median().reset_index()
        nets["tasks"] = nets["run"].map(of_run)
        for _, net in nets.groupby("run"):
            axes.plot(net["rows"], net[value], color=tasks.colour(net["tasks"].iloc[0]), alpha=0.3, linewidth=0.7)
        for name, of_one in nets.groupby("tasks"):
            middle = of_one.groupby("rows")[value].median()
            axes.plot(middle.index, middle, color=tasks.colour(name), linewidth=1.8)
            if value == "ood":
                ends.append((float(middle.iloc[-1]), name, tasks.colour(name)))
        axes.set_title(title)
        lowest = min(lowest, float(nets[value].min()) - 0.05)
        over_rows(axes)
        quiet(axes)
    panels[0].set(ylabel="R², 1 − 12 MSE", ylim=(max(-0.2, lowest), 1.02))
    end_labels(panels[0], ends, height=2.6)
    last = ", ".join(f"{name} {value:.2f}" for value, name, _ in sorted(ends, reverse=True))
    return figure, (
        f"R² of a least-squares decoder in the quadrant that it was not fitted on, at each checkpoint; at the end, "
        f"median over nets and quadrants: {last}. Pale lines are nets."
    )


@figure("observers", "know", "observers runs")
@styled
def answers(observers, runs):
    """Plot the share of right answers beside the best that there is, and the R2 of points that follow from answers."""
    need(observers, "observers", "run accuracy best_accuracy bound trilaterated optimal")
    figure = paper(8, 3.4)
    left, right = figure.subplots(1, 2)
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    colours = [tasks.colour(of_run[run]) for run in observers["run"]]
    for axes, x, y, title in (
        (left, "best_accuracy", "accuracy", "right answers"),
        (right, "bound", "trilaterated", "R² of the point that follows from answers"),
    ):
        axes.scatter(observers[x], observers[y], s=14, color=colours)
        ends = [min(observers[y].min(), observers[x].min()), max(observers[x].max(), observers[y].max())]
        axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle="--")
        axes.set(title=title, xlabel="of the best observer" if axes is left else "bound", ylabel="of the net")
        quiet(axes)
    short = (observers["best_accuracy"] - observers["accuracy"]).median()
    return figure, (
        f"Nets answer right {observers['accuracy'].min():.3f} to {observers['accuracy'].max():.3f} of the time, "
        f"{short:.3f} less often than the best observer (median over {len(observers)} nets). The point that follows "
        f"from a net's answers has an R² of {observers['trilaterated'].median():.3f}, that from the best answers "
        f"{observers['optimal'].median():.3f}, where the bound is {observers['bound'].median():.3f} (medians)."
    )


@figure("sparsity", "know", "units runs")
@styled
def sparsity(units, runs):
    """Plot mean sparsity of the units, a dot for each net."""
    need(units, "units", "run unit sparsity")
    nets = units.groupby("run", sort=False)["sparsity"].mean()
    names = runs.set_index("run")["tasks"]
    groups = list(dict.fromkeys(names[run] for run in nets.index))
    figure = paper(6, 1.2 + 0.3 * len(groups))
    axes = figure.subplots()
    for y, name in enumerate(groups):
        of_one = [value for run, value in nets.items() if names[run] == name]
        axes.plot(of_one, np.full(len(of_one), y), "o", color=INK, alpha=0.4, markersize=4)
        axes.plot(np.median(of_one), y, "D", color=INK, markersize=6)
    axes.set_yticks(range(len(groups)), groups)
    axes.set(xlim=(0, 1), ylim=(len(groups) - 0.5, -0.5), xlabel="sparsity, mean over units")
    quiet(axes, "x")
    return figure, (
        f"Sparsity of the units at the last step of the stimulus, without noise (Vinje and Gallant): {nets.min():.2f} "
        f"to {nets.max():.2f}, mean over units. A dot is a net."
    )


@figure("attractor", "know", "attractor runs")
@styled
def attractor(table, runs):
    """Plot the leading eigenvalues at each net's fixed points: 0 is a direction along which nothing moves."""
    need(table, "attractor", "run point starts directions eigenvalue_1 eigenvalue_2 eigenvalue_3 eigenvalue_4")
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    figure = paper(6, 3.2)
    axes = figure.subplots()
    for run, points in table.groupby("run"):
        values = points[[f"eigenvalue_{k}" for k in range(1, 5)]].to_numpy()
        axes.plot(range(1, 5), values.T, color=tasks.colour(of_run[run]), alpha=0.25, linewidth=0.7)
    axes.axhline(0, color=MUTED, linewidth=0.9, linestyle="--")
    axes.set(xticks=range(1, 5), xlabel="eigenvalue, by real part", ylabel="real part", title="At fixed points, x = 0")
    quiet(axes)
    directions = table.groupby("run")["directions"].median().groupby(of_run).median()
    each = ", ".join(f"{name} {value:g}" for name, value in directions.items())
    return figure, (
        f"Eigenvalues of the derivative of F(h) − h at {len(table)} fixed points of {table['run'].nunique()} RNNs at "
        f"fixation, a line for each. Directions along which a state hardly returns (above −0.1), median: {each}."
    )


@figure("alike-by-left-out", "alike", "cka decoders runs")
@styled
def alike(cka, decoders, runs):
    """Plot linear CKA of two nets at the end against their R2 in the quadrant left out, a dot a pair."""
    need(cka, "cka", "step_share run other value")
    r2, about = decoders.groupby("run")["ood"].median(), runs.set_index("run")
    pairs = cka[
        (cka["step_share"] == cka["step_share"].max()) & cka["run"].isin(r2.index) & cka["other"].isin(r2.index)
    ]
    if not len(pairs):
        raise LacksRuns("no two nets that are compared have decoders")
    same = [
        (pairs["run"].map(about[name]) == pairs["other"].map(about[name])).to_numpy() for name in ("family", "tasks")
    ]
    kinds = np.select([same[0] & same[1], same[0]], ["other seeds", "other questions"], "other architectures")
    pairs = pairs.assign(r2=(pairs["run"].map(r2) + pairs["other"].map(r2)) / 2, kind=kinds)
    figure = paper(6, 3.6)
    axes, said = figure.subplots(), []
    for i, (kind, part) in enumerate(pairs.groupby("kind")):
        axes.plot(part["r2"], part["value"], "o", color=PALETTE[2 * i], alpha=0.6, markersize=4, label=kind)
        said.append(f"{kind} {part['value'].median():.2f}")
    axes.set(xlabel="R² in the quadrant left out, mean of both", ylabel="linear CKA", ylim=(-0.02, 1.02))
    axes.set_title("How alike two nets are, and how far their maps reach")
    axes.legend(frameon=False)
    quiet(axes)
    return figure, (
        f"Linear CKA of {len(pairs)} pairs of nets at the end of training; median by what differs: {', '.join(said)}. "
        "R² is the median over quadrants and fits, in the mean of both nets."
    )

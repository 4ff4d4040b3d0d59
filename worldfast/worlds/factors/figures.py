"""Figures of a study of trials, beside those of any world: decoders, answers, and how alike nets are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from worldfast import frames as pd
from worldfast.display import count
from worldfast.report import PALETTE, Tasks
from worldfast.report.figures import (
    MUTED,
    Catalogue,
    LacksRuns,
    beside_standard,
    end_labels,
    need,
    over_rows,
    paper,
    quiet,
    styled,
)
from worldfast.worlds.factors import inside
from worldfast.worlds.factors.kinds import OF_RUN, in_words, kinds_of, of_training, telling

__all__ = ["CATALOGUE", "draw"]

CATALOGUE = Catalogue()
figure = CATALOGUE.figure
draw = beside_standard(CATALOGUE, inside.CATALOGUE)
FIELDS = {  # of a dataset, along which a study may go, and what they are called
    "n": "questions N",
    "dims": "latent numbers D",
    "sigma": "noise in training",
    "stimulus": "steps of stimulus",
    "correlation": "correlation of x1 and x2",
}


def varied(given, _) -> dict[str, dict]:
    """The fields in which runs differ, each a variant of a figure."""
    runs = given["runs"]
    found = {f"by-{name}": {"field": name} for name in FIELDS if len(lines_of(runs, name))}
    if not found:
        raise LacksRuns(
            "no two runs differ in the number of questions, latents or steps, in noise or correlation alone"
        )
    return found


def lines_of(runs, field: str) -> list[tuple[str, list]]:
    """Return lines along a field: a name, and the runs of two values of it at least that are alike in all else."""
    rest = [name for name in OF_RUN if name != field]
    lines = [(key, part) for key, part in runs.groupby(rest, sort=False) if part[field].nunique() > 1]
    names = telling(pd.DataFrame([key for key, _ in lines], columns=rest), rest) or ["family"]
    of = [dict(zip(rest, key)) for key, _ in lines]
    return [
        (", ".join(in_words(name, key[name]) for name in names), [*part["run"]]) for key, (_, part) in zip(of, lines)
    ]


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


def bounds(axes, decoders, runs, field: str) -> bool:
    """Draw the bound 1 - 12 sigma^2 / t along each line that has one; return True if any has."""
    at, drawn = runs.set_index("run")[field], set()
    for _, members in lines_of(runs, field):
        part = decoders[decoders["run"].isin(members)].dropna(subset="bound")
        limit = part.groupby(part["run"].map(at))["bound"].max()
        line = tuple(limit.items())
        if len(line) and line not in drawn:
            axes.plot(limit.index, limit, color=MUTED, linewidth=0.9, linestyle="--")
            drawn.add(line)
    return bool(drawn)


def ceiling(axes, bound, way: str = "y") -> str:
    """Draw each bound of a column as a dashed line across the axes, "y" or "x", with its value beside it; return what a
    caption says of it.
    """
    found = sorted(set(bound.dropna()))
    for value in found:
        line, places = (axes.axhline, (0.01, value)) if way == "y" else (axes.axvline, (value, 0.01))
        line(value, color=MUTED, linewidth=0.9, linestyle="--")
        across = axes.get_yaxis_transform() if way == "y" else axes.get_xaxis_transform()
        turned = {"va": "top"} if way == "y" else {"ha": "right", "va": "bottom", "rotation": 90}
        axes.text(*places, f"bound {value:.3f}", transform=across, color=MUTED, fontsize=7.5, **turned)
    values = ", ".join(f"{value:.3f}" for value in found)
    return f" Dashed: 1 − 12σ²/t, which no unbiased estimate exceeds: {values}." if found else ""


@figure("left-out", "know", "decoders runs", varied)
@styled
def by_field(decoders, runs, field: str):
    """Plot R2 in the quadrant that was left out, and in those that were not, of decoders as published."""
    need(decoders, "decoders", "run quadrant fit ood inside angle batches bound")
    figure = paper(8, 3.6)
    both = figure.subplots(1, 2, sharey=True)
    for axes, value, title in zip(both, ("ood", "inside"), ("in the quadrant left out", "fitted on all quadrants")):
        found = along(axes, decoders, runs, field, value)
        limited = bounds(axes, decoders, runs, field)
        axes.set_title(title)
        if value == "ood":
            first = found
            ends = [(list(medians.values())[-1], name, colour) for name, medians, colour in found]
            axes.set_ylabel("R², 1 − 12 MSE")
    if len(ends) > 1:
        end_labels(both[1], [(y, name, colour) for y, name, colour in ends], height=2.6)
    nets, values = decoders["run"].nunique(), len(decoders)
    dashed = " Dashed: 1 − 12σ²/t, which no unbiased estimate exceeds." if limited else ""
    quadrants = count(decoders["quadrant"].nunique(), "quadrant")
    return figure, (
        f"{said(first, field, 3)} R² of a linear decoder in the quadrant that it was not fitted on: medians and "
        f"quartiles of {count(values, 'value')} from {count(nets, 'net')}, {quadrants} and "
        f"{count(decoders['fit'].nunique(), 'fit')}; pale dots are medians of a net.{dashed}"
    )


@figure("left-out-at-default-noise", "know", "decoders decoders_at_default runs")
@styled
def at_default(decoders, elsewhere, runs):
    """Plot R2 in the quadrant left out by the noise of training, where all decoders see the same noise."""
    need(elsewhere, "decoders_at_default", "run quadrant fit sigma ood bound")
    sigma = elsewhere["sigma"].iloc[0]
    same = pd.concat([decoders[decoders["sigma"] == sigma], elsewhere])
    figure = paper(5, 3.4)
    axes = figure.subplots()
    found = along(axes, same, runs, "sigma", "ood")
    bound = ceiling(axes, elsewhere["bound"])
    axes.set(ylabel="R², 1 − 12 MSE", title=f"In the quadrant left out, decoders at noise {sigma:g}")
    if len(found) > 1:
        end_labels(axes, [([*medians.values()][-1], name, colour) for name, medians, colour in found], height=2.6)
    return figure, (
        f"{said(found, 'sigma', 3)} All decoders were fitted and tried at noise {sigma:g}, whatever the noise in "
        "training; medians, quartiles and dots as in the figure by noise, where decoders see that of training."
        f"{bound}"
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


@figure("left-out-over-training", "know", "left_out runs", of_training)
@styled
def over_training(left_out, runs, members, kind):
    """Plot R2 in the quadrant left out over training: pale lines for nets, strong ones for medians of a dataset."""
    need(left_out, "left_out", "run step rows quadrant ood inside bound")
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    left_out = left_out[left_out["run"].isin(members)]
    if not len(left_out):
        raise LacksRuns(f"no run of {kind or 'the study'} has states to decode")
    figure = paper(8, 3.6)
    both, ends, lowest = figure.subplots(1, 2, sharey=True), [], 1.0
    for axes, value, title in zip(both, ("ood", "inside"), ("in the quadrant left out", "fitted on all quadrants")):
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
        bound = ceiling(axes, left_out["bound"])
        over_rows(axes)
        quiet(axes)
    both[0].set(ylabel="R², 1 − 12 MSE", ylim=(max(-0.2, lowest), 1.02))
    end_labels(both[0], ends, height=2.6)
    last = ", ".join(f"{name} {value:.2f}" for value, name, _ in sorted(ends, reverse=True))
    return figure, (
        f"{f'{kind}: ' if kind else ''}R² of a least-squares decoder in the quadrant that it was not fitted on, at "
        f"each checkpoint; at the end, median over nets of their medians over quadrants: {last}. Pale lines are "
        f"nets.{bound}"
    )


@figure("left-out-over-labels", "know", "left_out runs", of_training)
@styled
def over_labels(left_out, runs, members, kind):
    """Plot R2 in the quadrant left out against the labels seen: those of all questions of a trial count."""
    need(left_out, "left_out", "run step rows quadrant ood inside bound")
    about = runs.set_index("run")
    seen = left_out[left_out["run"].isin(members) & (left_out["rows"] > 0)]
    seen = seen.assign(labels=seen["rows"] * seen["run"].map(about["n"]), tasks=seen["run"].map(about["tasks"]))
    if seen["run"].map(about["n"]).nunique() < 2:
        raise LacksRuns(f"all nets of {kind or 'the study'} answer as many questions")
    nets = seen.groupby(["tasks", "run", "labels"], sort=False)["ood"].median().reset_index()
    fewest = nets.groupby("run")["labels"].max().min()
    tasks, said = Tasks(runs["tasks"]), []
    figure = paper(6, 3.4)
    axes, ends = figure.subplots(), []
    for name, of_one in nets.groupby("tasks", sort=False):
        for _, net in of_one.groupby("run"):
            axes.plot(net["labels"], net["ood"], color=tasks.colour(name), alpha=0.3, linewidth=0.7)
        middle = of_one.groupby("labels")["ood"].median()
        axes.plot(middle.index, middle, color=tasks.colour(name), linewidth=1.8)
        ends.append((float(middle.iloc[-1]), name, tasks.colour(name)))
        near = middle.index[np.abs(np.log(middle.index / fewest)).argmin()]
        said.append(f"{name} {middle[near]:.2f} ({near:,})")
    axes.axvline(fewest, color=MUTED, linewidth=0.9, linestyle=":")
    bound = ceiling(axes, seen["bound"])
    axes.set(xscale="log", xlabel="labels seen: trials × questions", ylabel="R², 1 − 12 MSE")
    axes.set_ylim(max(-0.2, float(nets["ood"].min()) - 0.05), 1.02)
    axes.set_title("In the quadrant left out, at equal labels")
    quiet(axes)
    end_labels(axes, ends, height=2.6)
    return figure, (
        f"{f'{kind}: ' if kind else ''}R² of a least-squares decoder in the quadrant that it was not fitted on, "
        f"against labels rather than trials. Medians over nets at the checkpoint nearest to {count(fewest, 'label')}, "
        f"which every net reaches (dotted), with the labels of that checkpoint: {', '.join(said)}. Pale lines are "
        f"nets.{bound}"
    )


@figure("observers", "know", "observers runs")
@styled
def answers(observers, runs):
    """Plot the share of right answers beside the best that there is, and the R2 of points that follow from answers."""
    need(observers, "observers", "run accuracy best_accuracy bound trilaterated optimal")
    figure = paper(8, 3.4)
    left, right = figure.subplots(1, 2)
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    family = observers["run"].map(runs.set_index("run")["family"])
    markers = dict(zip(family.unique(), "osD^vP*X"))
    for axes, x, y, title in (
        (left, "best_accuracy", "accuracy", "right answers"),
        (right, "bound", "trilaterated", "R² of the point that follows from answers"),
    ):
        for name, marker in markers.items():
            part = observers[family == name]
            colours = [tasks.colour(of_run[run]) for run in part["run"]]
            axes.scatter(part[x], part[y], s=14, color=colours, marker=marker, label=name)
        ends = [min(observers[y].min(), observers[x].min()), max(observers[x].max(), observers[y].max())]
        axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle="--")
        axes.set(title=title, xlabel="of the best observer" if axes is left else "bound", ylabel="of the net")
        quiet(axes)
    if len(markers) > 1:
        right.legend(frameon=False)
    short = observers["best_accuracy"] - observers["accuracy"]
    each = "; ".join(
        f"{name} {short[family == name].median():.3f} less often, with an R² of "
        f"{observers.loc[family == name, 'trilaterated'].median():.3f}"
        for name in markers
    )
    return figure, (
        f"Share of right answers, beside the best observer's, and R² of the point that follows from the answers, "
        f"beside the bound. Medians over nets, {len(observers)} in all: {each}; from the best answers it has "
        f"{observers['optimal'].median():.3f}. A dot is a net, in the colour of its questions."
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
    of = kinds_of(runs), about["family"]
    same = [(pairs["run"].map(names) == pairs["other"].map(names)).to_numpy() for names in of]
    kinds = np.select(same, ["other seeds", "other data"], "other architectures")
    pairs = pairs.assign(r2=(pairs["run"].map(r2) + pairs["other"].map(r2)) / 2, kind=kinds)
    figure = paper(6, 3.6)
    axes, said = figure.subplots(), []
    for i, (kind, part) in enumerate(pairs.groupby("kind")):
        axes.plot(part["r2"], part["value"], "o", color=PALETTE[2 * i], alpha=0.6, markersize=4, label=kind)
        said.append(f"{kind} {part['value'].median():.2f}")
    compared = decoders["run"].isin([*pairs["run"], *pairs["other"]])
    bound = ceiling(axes, decoders["bound"][compared], "x")
    axes.set(xlabel="R² in the quadrant left out, mean of both", ylabel="linear CKA", ylim=(-0.02, 1.02))
    axes.set_title("How alike two nets are, and how far their maps reach")
    axes.legend(frameon=False)
    quiet(axes)
    return figure, (
        f"Linear CKA of {count(len(pairs), 'pair')} of nets at the end of training; median by what differs: "
        f"{', '.join(said)}. R² is the median over quadrants and fits, in the mean of both nets.{bound}"
    )

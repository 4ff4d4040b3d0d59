"""Curves: what models learn over training, and at which depth it is represented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.display import count
from worldfast.report.colours import INK, Tasks, run_styles
from worldfast.report.figures.matrices import layered
from worldfast.report.figures.style import (
    MUTED,
    end_labels,
    heading,
    need_some,
    over_rows,
    panels,
    paper,
    plain_log,
    quiet,
    running_mean,
    styled,
)
from worldfast.report.figures.tables import LacksRuns, layer_of, need, pretrained
from worldfast.report.words import joined
from worldfast.studies import RunResult, Scene


@styled
def training(world: Scene, runs: Sequence[RunResult]):
    """Plot loss, and mean R2 of the linear probe on held-out entities, against rows seen: one line per model.

    Loss is drawn as recorded (pale) and as a running mean over a fortieth of training.

    Parameters
    ----------
    world : Scene
    runs : sequence of RunResult

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        There are no runs.
    """
    need_some("runs", runs)
    figure = paper(10, 4.2)
    left, right = figure.subplots(1, 2)
    for run, (label, colour, dashes) in zip(runs, run_styles(runs), strict=True):
        style = {"color": colour, "linestyle": (0, [float(d) / 2 for d in dashes.split()]) if dashes else "-"}
        left.plot(run.loss_rows, run.loss, color=colour, alpha=0.25, linewidth=0.7)
        left.plot(run.loss_rows, running_mean(run.loss), linewidth=1.7, label=label, **style)
        right.plot(run.rows, run.fit, linewidth=1.9, label=label, **style)
    left.set(title="Loss", ylabel=world.loss)
    losses = np.concatenate([run.loss[np.isfinite(run.loss) & (run.loss > 0)] for run in runs])
    if len(losses) and losses.max() > 20 * losses.min():
        left.set_yscale("log")
    held = [int(run.held_out.sum()) for run in runs]
    count = f"{min(held):,}" + (f" to {max(held):,}" if max(held) > min(held) else "")
    right.set(title="What a linear probe reads", ylabel=r2_of(runs[0].columns), ylim=(-0.05, 1.02))
    right.text(
        0.98,
        0.09,
        f"on {count} {world.many} the probe was not fitted on",
        transform=right.transAxes,
        ha="right",
        fontsize=8,
        color=MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )
    for axes in (left, right):
        over_rows(axes)
        quiet(axes)
    left.legend(frameon=False, loc="upper right")
    return figure


def r2_of(columns: Sequence[str]) -> str:
    """Return the name of the mean R2 of some attributes: "R² of depth", "R², mean of x and y"."""
    return f"R², mean of {joined(columns)}" if len(columns) > 1 else " of ".join(["R²", *columns])


@styled
def over_training(curves, validation, probes, runs, n_tasks: int = 1, layer: int | None = None):
    """Plot loss, accuracy, error and probe R2 of pretrained models over training: pale lines for runs, strong for
    means.

    Loss and R2 are coloured by the tasks a model was trained on, accuracy and error by the task asked. Errors are
    divided by the model's error on the same task at its first checkpoint, since tasks differ in unit.

    Parameters
    ----------
    curves, validation, probes, runs : DataFrame
        The study's tables of these names.
    n_tasks : int
        Number of tasks of the models.
    layer : int, optional
        Probed layer; by default, the last but one of the layers.

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        No pretrained model of this many tasks in one of the tables.
    ValueError
        A missing column.
    """
    need(curves, "curves", "run step rows loss")
    need(validation, "validation", "run step rows task metric value")
    need(probes, "probes", "run layer step rows r2")
    layer = layer_of(probes, "probes", layer)
    known = Tasks(runs["tasks"])
    models = known.count(n_tasks)
    group = pretrained(runs, n_tasks).set_index("run")["tasks"]
    parts = {"curves": curves, "validation": validation, "probes": probes[probes["layer"] == layer]}
    for name, table in parts.items():
        parts[name] = table[table["run"].isin(group.index)]
        if not len(parts[name]):
            raise LacksRuns(f"table {name!r} holds no pretrained runs on {models}")
        parts[name] = parts[name].assign(tasks=parts[name]["run"].map(group))
    asked = parts["validation"]
    choice = asked["metric"] == "accuracy"
    first = asked.sort_values("rows").groupby(["run", "task"])["value"].transform("first")
    relative = asked.assign(value=asked["value"] / first)
    drawn = [
        ("Loss", "nats a token", parts["curves"], "loss", "tasks"),
        (f"Probe R², layer {layer}", "mean over attributes, held out", parts["probes"], "r2", "tasks"),
        ("Accuracy", "share of answers that are right", asked[choice], "value", "task"),
        ("Mean absolute error", "first checkpoint = 1", relative[~choice], "value", "task"),
    ]
    drawn = [panel for panel in drawn if len(panel[2])]
    figure, grid = panels(len(drawn), 2, 10, 2.9, 0.5)
    for axes, (title, unit, table, value, by) in zip(grid, drawn):
        ends = _lines(axes, table, value, by, known)
        axes.set_title(title)
        axes.set_ylabel(unit)
        if title in ("Loss", "Mean absolute error") and not (table[value] <= 0).any():
            plain_log(axes, "y")
        elif title != "Loss":
            axes.set_ylim(min(-0.03, table[value].min()), 1.03)
        over_rows(axes)
        quiet(axes)
        end_labels(axes, ends, height=2.3)
    heading(figure, f"Training on {models}")
    read = parts["probes"]
    last = read.loc[read.groupby("run")["rows"].idxmax()].groupby("tasks")["r2"].mean().dropna().sort_values()
    if not len(last):
        raise LacksRuns(f"no run on {models} was probed")
    first, most = (f"{last.iloc[at]:.2f} ({known.label(last.index[at])})" for at in (0, -1))
    between = f"between {first} and {most}" if len(last) > 1 else f"at {last.iloc[0]:.2f}"
    n = read["run"].nunique()
    lines = f"Pale lines are {count(n, 'run')}, strong ones means over seeds" if n > len(last) else "One seed"
    return figure, f"Models of {models}: R² of a linear probe at layer {layer} ends {between}. {lines}."


def _lines(axes, table, value: str, by: str, known: Tasks) -> list[tuple[float, str, str]]:
    """Draw a pale line per run and task, and their mean at equal numbers of rows; return the ends of the means."""
    ends = []
    for tasks, group in table.groupby(by, sort=False):
        colour = known.colour(tasks)
        mean = group.groupby("rows")[value].mean()
        for _, run in group.groupby("run"):
            axes.plot(run["rows"], run[value], color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(mean.index, mean, color=colour, linewidth=1.8)
        ends.append((float(mean.iloc[-1]), known.label(tasks), colour))
    axes.margins(x=0)
    return ends


@styled
def probes_by_layer(probes, runs):
    """Show probe R2 on held-out entities at the last checkpoint: sets of tasks by layers, means over seeds.

    Parameters
    ----------
    probes, runs : DataFrame
        The study's tables of these names.

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        No pretrained run was probed.
    ValueError
        A missing column.
    """
    need(probes, "probes", "run layer step r2")
    group = pretrained(runs).set_index("run")
    table = probes[probes["run"].isin(group.index)]
    if not len(table):
        raise LacksRuns("table 'probes' holds no pretrained runs")
    table = table[table["step"] == table.groupby("run")["step"].transform("max")]
    table = table.assign(tasks=table["run"].map(group["tasks"]))
    sizes = group.drop_duplicates("tasks").set_index("tasks")["n_tasks"]
    mean = table.pivot_table(index="tasks", columns="layer", values="r2", aggfunc="mean")
    rows = [tasks for tasks in sizes.index if tasks in mean.index]
    layers = mean.mean()
    figure = layered(mean.loc[rows], Tasks(runs["tasks"]), sizes.loc[rows], "Probe R², held out")
    return figure, (
        "R² of linear probes at the last checkpoint, mean over attributes and seeds, on entities it was not fitted on. "
        f"Over {count(len(rows), 'set')} of tasks, layer {layers.idxmax()} has the highest mean, {layers.max():.2f}."
    )


@styled
def dimension(table, runs):
    """Plot the dimension of representations by layer and number of tasks: mean and standard error over sets of tasks.

    The left panel has the participation ratio, the right one the TwoNN estimate. Runs that did not learn are left out.

    Parameters
    ----------
    table, runs : DataFrame
        The study's tables "dimension" and "runs".

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    LacksRuns
        There is no pretrained run that learned.
    ValueError
        A missing column.
    """
    need(table, "dimension", "run layer participation_ratio two_nn")
    group = pretrained(runs)
    group = group[group["learned"]].set_index("run")
    table = table[table["run"].isin(group.index)]
    if not len(table):
        raise LacksRuns("no pretrained run that learned its tasks is in the table 'dimension'")
    table = table.assign(tasks=table["run"].map(group["tasks"]), n_tasks=table["run"].map(group["n_tasks"]))
    known = Tasks(runs["tasks"])
    figure = paper(10, 3.6)
    columns = (("participation_ratio", "Participation ratio"), ("two_nn", "TwoNN dimension"))
    for axes, (column, title) in zip(figure.subplots(1, 2), columns):
        sets = table.groupby(["n_tasks", "layer", "tasks"])[column].mean()
        found = sets.groupby(["n_tasks", "layer"]).agg(["mean", "sem"])
        ends = []
        for i, (size, line) in enumerate(found.groupby("n_tasks")):
            line = line.droplevel("n_tasks")
            style = {"color": INK, "alpha": 0.4 + 0.2 * min(i, 3), "marker": "os^D"[i % 4], "markersize": 5}
            style["label"] = known.count(size)
            axes.errorbar(line.index, line["mean"], line["sem"].fillna(0), linewidth=1.5, capsize=2, **style)
            ends.append((float(line["mean"].iloc[-1]), known.count(size), INK))
        axes.set(title=title, xlabel="layer", xticks=sorted(table["layer"].unique()))
        axes.set_ylim(bottom=0)
        quiet(axes, "y")
        end_labels(axes, ends, height=2.7)
    layer = layer_of(table, "dimension", None)
    sets = table[table["layer"] == layer].groupby(["n_tasks", "tasks"])[[column for column, _ in columns]].mean()
    parts = [
        f"{part['participation_ratio'].mean():.1f} and {part['two_nn'].mean():.1f} for {known.count(size)} "
        f"({count(len(part), 'set')})"
        for size, part in sets.groupby("n_tasks")
    ]
    return figure, (
        f"Participation ratio and TwoNN dimension at layer {layer}: {'; '.join(parts)}. Bars are standard errors over "
        "sets of tasks; runs that did not learn are left out."
    )

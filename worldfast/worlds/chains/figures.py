"""Figures of a study of walks, beside those of any world."""

from __future__ import annotations

import numpy as np

from worldfast.report import PALETTE
from worldfast.report.figures import (
    MUTED,
    Catalogue,
    LacksRuns,
    beside_standard,
    end_labels,
    need,
    numbers,
    over_rows,
    paper,
    plain_log,
    quiet,
)
from worldfast.studies import at_end, whole_rows
from worldfast.worlds.chains.analyses import CONTROLS, KINDS
from worldfast.worlds.chains.predictors import NAMES

__all__ = ["CATALOGUE", "draw"]

CATALOGUE = Catalogue()
figure = CATALOGUE.figure
draw = beside_standard(CATALOGUE)
COLUMNS = 6  # of panels, for their labels to be read
HUES = tuple(PALETTE[i * len(PALETTE) // COLUMNS] for i in range(COLUMNS))
COLOURS = dict(zip(NAMES, (HUES[0], HUES[1], HUES[3], HUES[4])))
SETS = {"trained": "chains that were trained on", "fresh": "chains never seen"}
LEAST = 1e-3  # nats, below which a line is drawn as if it were there


def by_chains(table, runs):
    """Return the lines of a table with the number of chains, and those numbers, at most COLUMNS of them."""
    table = table.merge(runs[["run", "chains"]], on="run")
    counts = np.array(sorted(table["chains"].unique()))
    if len(counts) > COLUMNS:
        counts = counts[np.unique(np.linspace(0, len(counts) - 1, COLUMNS).round().astype(int))]
    return table, counts.tolist()


def named(table) -> list[str]:
    """Return the predictors that a table has."""
    return [name for name in NAMES if name in table and table[name].notna().any()]


def grid(counts, height: float = 4.6, **options):
    """Return a figure of two lines of panels, chains that were trained on above fresh ones, a column for each N."""
    width = max(6.0, 1.6 + 2.2 * len(counts))
    made = paper(width, height)
    panels = made.subplots(2, len(counts), sharex="col", sharey=True, squeeze=False, **options)
    for column, n in enumerate(counts):
        panels[0, column].set_title(f"N = {n:,}")
    return made, panels


@figure("weights", "know", "weights runs")
def mixtures(weights, runs):
    """Plot the weights of the nearest mixture of predictors over training, whole rows, mean over seeds."""
    need(weights, "weights", "run rows set context basis divergence")
    table, counts = by_chains(whole_rows(weights[weights["basis"] == "predictors"]), runs)
    names = named(table)
    made, panels = grid(counts)
    said = []
    for column, n in enumerate(counts):
        for line, (of, title) in enumerate(SETS.items()):
            axes = panels[line, column]
            mean = table[(table["chains"] == n) & (table["set"] == of)].groupby("rows")[names].mean().fillna(0)
            x = np.maximum(mean.index.to_numpy(dtype=float), 1)
            axes.stackplot(x, mean.to_numpy().T, labels=names, colors=[COLOURS[name] for name in names], linewidth=0)
            axes.set(xscale="log", ylim=(0, 1), xlim=(x[1] if len(x) > 2 else None, x[-1]))
            quiet(axes)
            if column == 0:
                axes.set_ylabel(f"weight,\n{title}")
            if line:
                over_rows(axes)
            last = mean.iloc[-1]
            said.append(f"N = {n:,}, {title}: {last.max():.2f} {last.idxmax()}")
    handles = [_patch(COLOURS[name]) for name in names]
    made.legend(handles, names, loc="outside right upper", frameon=False)
    return made, (
        f"Weights of the mixture of predictors that is nearest to what a model says after a whole row, over training. "
        f"At the end: {'; '.join(said)}. Where two predictors are alike, their weights are not told apart."
    )


def _patch(colour):
    from matplotlib.patches import Patch

    return Patch(color=colour)


@figure("phases", "know", "weights runs", lambda given, _: _both_sets(given))
def phases(weights, runs, of: str):
    """Plot which predictor weighs most, over the number of chains and training."""
    need(weights, "weights", "run rows set context basis")
    table = whole_rows(weights[(weights["basis"] == "predictors") & (weights["set"] == of)])
    table = table.merge(runs[["run", "chains"]], on="run")
    counts, names = sorted(table["chains"].unique()), named(table)
    made = paper(6.5, 1.4 + 0.42 * len(counts))
    axes = made.subplots()
    for y, n in enumerate(counts):
        mean = table[table["chains"] == n].groupby("rows")[names].mean().fillna(0)
        mean = mean[mean.index > 0]
        x = np.log10(mean.index.to_numpy(dtype=float))
        ends = np.concatenate([[x[0] - 0.1], (x[1:] + x[:-1]) / 2, [x[-1] + 0.1]])
        for i, (rows, line) in enumerate(zip(mean.index, mean.to_numpy())):
            at, name = 10 ** ends[i : i + 2], names[line.argmax()]
            cell = axes.fill_between(at, y - 0.42, y + 0.42, color=COLOURS[name], alpha=line.max(), linewidth=0)
            numbers.tell(cell, f"N = {n:,}: {name}", rows, line.max())
    axes.set_yticks(range(len(counts)), [f"{n:,}" for n in counts])
    axes.set(xscale="log", ylabel="chains N", title=f"Nearest predictor on {SETS[of]}")
    over_rows(axes)
    quiet(axes, "x")
    made.legend([_patch(COLOURS[name]) for name in names], names, loc="outside right upper", frameon=False)
    return made, (
        f"The predictor with the largest weight in the nearest mixture, on {SETS[of]}, whole rows; the paler, the "
        f"smaller its weight. Mean over seeds."
    )


def _both_sets(given) -> dict[str, dict]:
    if given["runs"]["chains"].nunique() < 3:
        raise LacksRuns("phases need three numbers of chains at least")
    return {f"on-{of}": {"of": of} for of in SETS}


@figure("divergences", "know", "divergences runs")
def divergences(table, runs):
    """Plot the divergence of predictors from what a model says, and of the model from the truth, over training."""
    need(table, "divergences", "run rows set context truth")
    table, counts = by_chains(whole_rows(table), runs)
    names = [name for name in NAMES if f"to {name}" in table and table[f"to {name}"].notna().any()]
    made, panels = grid(counts)
    for column, n in enumerate(counts):
        for line, (of, title) in enumerate(SETS.items()):
            axes, ends = panels[line, column], []
            mean = table[(table["chains"] == n) & (table["set"] == of)].groupby("rows").mean(numeric_only=True)
            mean = mean[mean.index > 0]
            for name in names:
                values = mean[f"to {name}"].clip(LEAST)
                axes.plot(mean.index, values, color=COLOURS[name], linewidth=1.5, label=name)
                ends.append((float(values.iloc[-1]), name, COLOURS[name]))
            truth = mean["truth"].clip(LEAST)
            axes.plot(mean.index, truth, color=MUTED, linewidth=1.2, linestyle="--", label="truth")
            ends.append((float(truth.iloc[-1]), "truth", MUTED))
            axes.set(xscale="log")
            plain_log(axes, "y")
            quiet(axes)
            if column == 0:
                axes.set_ylabel(f"nats,\n{title}")
            if line:
                over_rows(axes)
            if column == len(counts) - 1:
                end_labels(axes, ends, height=1.6)
    last = at_end(table)
    said = "; ".join(
        f"N = {n:,}: {last[(last['chains'] == n) & (last['set'] == 'trained')]['truth'].mean():.3f} and "
        f"{last[(last['chains'] == n) & (last['set'] == 'fresh')]['truth'].mean():.3f}"
        for n in counts
    )
    return made, (
        "KL(model || predictor) after a whole row, over training, and KL(truth || model), dashed; what is below 0.001 "
        f"is drawn there. The latter at the end, in nats, on chains that were trained on and never seen: {said}."
    )


@figure("context", "know", "divergences runs")
def context(table, runs):
    """Plot how far from the truth models and predictors are, over the number of states that were read."""
    need(table, "divergences", "run set context truth")
    table, counts = by_chains(at_end(table), runs)
    names = [name for name in NAMES if f"truth to {name}" in table and table[f"truth to {name}"].notna().any()]
    made, panels = grid(counts)
    for column, n in enumerate(counts):
        for line, (of, title) in enumerate(SETS.items()):
            axes, ends = panels[line, column], []
            mean = table[(table["chains"] == n) & (table["set"] == of)].groupby("context").mean(numeric_only=True)
            for name in names:
                values = mean[f"truth to {name}"].clip(LEAST)
                axes.plot(mean.index, values, color=COLOURS[name], linewidth=1, alpha=0.8, label=name)
                ends.append((float(values.iloc[-1]), name, COLOURS[name]))
            truth = mean["truth"].clip(LEAST)
            axes.plot(mean.index, truth, color="black", linewidth=2, label="model")
            ends.append((float(truth.iloc[-1]), "model", "black"))
            plain_log(axes, "x")
            plain_log(axes, "y")
            quiet(axes)
            if column == 0:
                axes.set_ylabel(f"nats to truth,\n{title}")
            if line:
                axes.set_xlabel("states read")
            if column == len(counts) - 1:
                end_labels(axes, ends, height=1.6)
    return made, (
        "KL from the truth of models at the end of training (black) and of the exact predictors, over the states that "
        "were read; what is below 0.001 is drawn there. A model below the line of Bi-Inf knows its chains; one that "
        "stands on it infers."
    )


@figure("shuffled", "know", "shuffled runs")
def shuffled(table, runs):
    """Plot how far models are from the truth once their contexts are shuffled."""
    need(table, "shuffled", "run set kind model")
    table, counts = by_chains(table, runs)
    made, panels = grid(counts)
    names, labels = ["model", *named(table)], {}
    for column, n in enumerate(counts):
        for line, (of, title) in enumerate(SETS.items()):
            axes = panels[line, column]
            part = table[(table["chains"] == n) & (table["set"] == of)]
            mean = part.groupby("kind")[names].mean().loc[list(KINDS)]
            for name in names:
                colour = COLOURS.get(name, "black")
                width = 2 if name == "model" else 0.8
                axes.plot(range(4), mean[name], "o-", color=colour, markersize=4, linewidth=width, label=name)
            axes.set_xlim(-0.3, 3.3)
            axes.set_xticks(range(4), [kind.replace("all but", "all but\n") for kind in KINDS], rotation=60)
            quiet(axes, "y")
            if column == 0:
                axes.set_ylabel(f"nats to truth,\n{title}")
            if column == len(counts) - 1:
                labels[axes] = [(float(mean[name].iloc[-1]), name, COLOURS.get(name, "black")) for name in names]
    panels[0, 0].set_ylim(bottom=0)  # once all lines are there, whose axis it is
    for axes, ends in labels.items():
        end_labels(axes, ends, height=1.4)
    off = table[table["set"] == "fresh"].groupby(["chains", "kind"])["model"].mean()
    said = "; ".join(f"N = {n:,}: {off[n]['in order']:.3f} in order, {off[n]['all']:.3f} shuffled" for n in counts)
    return made, (
        "KL from the truth after a whole row whose states are shuffled: all, all but the last ten, only the last ten. "
        f"What does not rise does not use their order. Models on chains never seen, {said}."
    )


@figure("nearness", "know", "nearness runs")
def nearness(table, runs):
    """Plot the distance of a model's matrix from the nearest chain that was trained on, over that from others."""
    need(table, "nearness", "run rows set trained others")
    table, counts = by_chains(table, runs)
    made = paper(8, 3.4)
    panels = made.subplots(1, 2, sharey=True)
    for axes, (of, title) in zip(panels, SETS.items()):
        ends = []
        for i, n in enumerate(counts):
            part = table[(table["chains"] == n) & (table["set"] == of)]
            ratio = (part["trained"] / part["others"]).groupby(part["rows"]).mean()
            ratio = ratio[ratio.index > 0]
            colour = HUES[i]
            axes.plot(ratio.index, ratio, color=colour, linewidth=1.6, label=f"N = {n:,}")
            ends.append((float(ratio.iloc[-1]), f"N = {n:,}", colour))
        axes.axhline(1, color=MUTED, linewidth=0.9, linestyle="--")
        axes.set(xscale="log", title=f"on {title}", ylim=(0, None))
        over_rows(axes)
        quiet(axes)
        if axes is panels[1]:
            end_labels(axes, ends, height=2.4)
    panels[0].set_ylabel("nearest trained chain / nearest other")
    last = at_end(table)
    said = "; ".join(
        f"N = {n:,} {(part['trained'] / part['others']).mean():.2f}"
        for n, part in last[last["set"] == "fresh"].groupby("chains")
    )
    return made, (
        "Divergence of the nearest chain that was trained on from a model's transition matrix, over that of the "
        "nearest of as many others: below 1 the model draws to what it was trained on. At the end, on chains never "
        f"seen: {said}."
    )


@figure("attention", "know", "attention runs")
def attention(table, runs):
    """Plot scores of the heads over training: attention to the state before, and to what came after the present one."""
    need(table, "attention", "run rows block head previous induction chance")
    table, counts = by_chains(table, runs)
    made = paper(max(6.0, 1.6 + 2.2 * len(counts)), 4.6)
    panels = made.subplots(2, len(counts), sharex="col", sharey=True, squeeze=False)
    for column, n in enumerate(counts):
        first = table[table["chains"] == n]
        first = first[first["run"] == first["run"].iloc[0]]
        panels[0, column].set_title(f"N = {n:,}")
        for line, score in enumerate(("previous", "induction")):
            axes, ends = panels[line, column], []
            for (block, head), part in first[first["rows"] > 0].groupby(["block", "head"]):
                colour, name = HUES[3 * (block - 1) % COLUMNS], f"block {block}, head {head}"
                axes.plot(part["rows"], part[score], color=colour, linewidth=1.2, alpha=0.8, label=name)
                ends.append((block, colour))
            if score == "induction":
                even = first["chance"].iloc[0]
                axes.axhline(even, color=MUTED, linewidth=0.9, linestyle="--", label="even attention")
            axes.set(xscale="log", ylim=(0, 1))
            quiet(axes)
            if column == 0:
                axes.set_ylabel("weight on the\nstate before" if line == 0 else "weight after\nthe same state")
            if line:
                over_rows(axes)
    blocks = dict(ends)
    made.legend(
        [_patch(colour) for colour in blocks.values()],
        [f"block {block}" for block in blocks],
        loc="outside right upper",
        frameon=False,
    )
    last = at_end(table)
    most = last.groupby("chains")[["previous", "induction"]].max()
    said = "; ".join(f"N = {n:,}: {most.previous[n]:.2f} and {most.induction[n]:.2f}" for n in counts)
    return made, (
        "Attention of each head to the state before, and to states that came after the present one earlier; dashed, "
        f"what even attention would have there. Largest at the end: {said}."
    )


@figure("controls", "know", "weights runs")
def controls(weights, runs):
    """Plot how far the nearest mixtures are from models at the end: of predictors, with controls, of controls alone."""
    need(weights, "weights", "run step set context basis divergence transferred")
    table, counts = by_chains(at_end(whole_rows(weights)), runs)
    made = paper(8, 3.2)
    panels, bases = made.subplots(1, 2, sharey=True), ("predictors", "with controls", "controls")
    for axes, (of, title) in zip(panels, SETS.items()):
        for i, basis in enumerate(bases):
            part = table[(table["set"] == of) & (table["basis"] == basis)].groupby("chains")
            mean = part["divergence"].mean().reindex(counts)
            axes.plot(range(len(counts)), mean, "o-", color=HUES[2 * i], label=basis, linewidth=1.4)
            if of == "fresh" and basis == "predictors":
                moved = part["transferred"].mean().reindex(counts)
                axes.plot(range(len(counts)), moved, "x--", color=HUES[2 * i], label="weights of trained chains")
        axes.set_xticks(range(len(counts)), [f"{n:,}" for n in counts])
        axes.set(xlabel="chains N", title=f"on {title}", ylim=(0, None))
        quiet(axes, "y")
    panels[0].set_ylabel("KL(model || mixture), nats")
    panels[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    added = table[(table["basis"] == "with controls") & (table["set"] == "fresh")]
    weight = added.groupby("chains")[list(CONTROLS)].mean().sum(axis=1)
    said = "; ".join(f"N = {n:,} {weight[n]:.2f}" for n in counts)
    return made, (
        "What is left between models and the nearest mixture after whole rows: of the predictors, with controls that "
        "know nothing of the chains that were trained on (equal shares, and looking up as many others, which of many "
        "chains infers as well), and of controls alone; crosses, of the predictors by the weights that were "
        f"fitted on trained chains. Weight of controls beside predictors on chains never seen: {said}."
    )

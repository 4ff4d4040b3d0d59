"""Figures of a study of walks on graphs, beside those of any world. Nulls stand in each of them beside the models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.report import PALETTE
from worldfast.report.figures import (
    HAIRLINE,
    MUTED,
    Catalogue,
    LacksRuns,
    beside_standard,
    end_labels,
    need,
    over_rows,
    paper,
    plain_log,
    quiet,
)
from worldfast.studies import at_end, whole_rows
from worldfast.worlds.walks.heads import KINDS

__all__ = ["CATALOGUE", "draw"]

CATALOGUE = Catalogue()
figure = CATALOGUE.figure
draw = beside_standard(CATALOGUE)
HUES = tuple(PALETTE[i * len(PALETTE) // 6] for i in range(6))
NULLS = {  # colour and line of each
    "names": (HAIRLINE, "-"),
    "recall": (MUTED, ":"),
    "mixed": ("black", "--"),
    "whole graph": ("black", ":"),
}
LABELS = {
    "ratio": "distance of neighbours /\nof all pairs",
    "r2": "R² of places from\ntwo components",
    "cka": "CKA with the\nspectral embedding",
    "sides": "R² of the two sides\nof the graph",
    "following": "share given to neighbours",
    "r2_home": "R² of the places that\nnames have when fixed",
}
NAMED = {"own": "names of the row", "fixed": "fixed names"}
BESIDE = (
    "Nulls without a model: random vectors of names alone (pale), recall of bigrams (dotted grey), each name mixed "
    "with the one before it (dashed), and with all its neighbours in the graph (dotted black)."
)


# ---- parts ----


def lines_of(table, runs):
    """Return [(label, colour, dashes, its lines of the table)], for each share of fixed names and depth, all seeds."""
    table = table.merge(runs[["run", "fixed", "depth"]], on="run")
    shares, depths, found = sorted(table["fixed"].unique()), sorted(table["depth"].unique()), []
    for (share, depth), part in table.groupby(["fixed", "depth"]):
        many = [f"{share:g} fixed"] * (len(shares) > 1) + [f"{depth} layers"] * (len(depths) > 1)
        colour = HUES[shares.index(share) % len(HUES)]
        found.append((", ".join(many) or "model", colour, ("-", "--", ":")[depths.index(depth) % 3], part))
    return found


def drawn_nulls(axes, nulls, value: str, over_context: bool) -> list[tuple[float, str, str]]:
    """Draw the nulls of a measure, over context or as levels of whole rows, and return the labels of their ends."""
    ends = []
    for kind, (colour, dashes) in NULLS.items():
        part = nulls[nulls["of"] == kind]
        if value not in part or part[value].isna().all():
            continue
        mean = part.groupby("context")[value].mean()
        if over_context:
            axes.plot(mean.index, mean, color=colour, linestyle=dashes, linewidth=1.3, label=kind)
        else:
            axes.axhline(mean.iloc[-1], color=colour, linestyle=dashes, linewidth=1.3, label=kind)
        ends.append((float(mean.iloc[-1]), kind, MUTED if colour == HAIRLINE else colour))
    return ends


def curves(panels, values: Sequence[str], lines, nulls, x: str) -> None:
    """Draw a measure in each panel over "context", "rows" or "k", models above nulls."""
    for axes, value in zip(panels, values):
        ends = drawn_nulls(axes, nulls, value, x == "context")
        for label, colour, dashes, part in lines:
            mean = part.groupby(x)[value].mean()
            mean = mean[mean.index > 0] if x == "rows" else mean
            axes.plot(mean.index, mean, color=colour, linestyle=dashes, linewidth=2, label=label)
            ends.append((float(mean.dropna().iloc[-1]) if mean.notna().any() else np.nan, label, colour))
        axes.set_title(LABELS[value])
        axes.set_ylim(bottom=0, top=None if value == "ratio" else 1)
        if x == "context":
            plain_log(axes, "x")
            axes.set_xlabel("names read")
        elif x == "rows":
            axes.set(xscale="log")
            over_rows(axes)
        quiet(axes)
        end_labels(axes, ends, height=2.3, size=7.5)


def panels_of(count: int):
    made = paper(1 + 3.3 * count, 3.4)
    return made, made.subplots(1, count, squeeze=False)[0]


def graphs(given, _=None) -> dict[str, dict]:
    """A variant for each graph and kind of names."""
    table = given["geometry"].merge(given["runs"][["run", "graph"]], on="run")
    pairs = table[["graph", "names"]].drop_duplicates().itertuples(index=False)
    return {f"{graph}-{names}": {"graph": graph, "names": names} for graph, names in pairs}


def of_graph(table, runs, graph: str, names: str):
    """Return the lines of a table that are of a graph and kind of names."""
    return table[table["run"].isin(runs[runs["graph"] == graph]["run"]) & (table["names"] == names)]


def measured(table) -> tuple[str, ...]:
    """Return the measures of a graph's map: a graph that is not bipartite has no sides."""
    return ("ratio", "r2", "cka") + ("sides",) * bool(table["sides"].notna().any())


def said(lines, nulls, value: str) -> str:
    """Return the numbers at the end of models and nulls, in words."""
    last = {label: part[part["context"] == part["context"].max()][value].mean() for label, _, _, part in lines}
    last |= {kind: part[part["context"] == part["context"].max()][value].mean() for kind, part in nulls.groupby("of")}
    return ", ".join(f"{label} {found:.2f}" for label, found in last.items() if np.isfinite(found))


# ---- figures ----


@figure("maps", "know", "maps", lambda given, _: _each_run(given))
def maps(table, run: str, names: str):
    """Draw the map of a context as it grows: of the model, and of nulls in the same walks."""
    need(table, "maps", "run names of context node x y neighbours")
    table = table[(table["run"] == run) & (table["names"] == names)]
    kinds = {"model": "model", "recall": "recall of bigrams", "mixed": "mixed with the\nname before"}
    contexts = sorted(table["context"].unique())
    made = paper(1.2 + 2 * len(contexts), 6.2)
    panels = made.subplots(len(kinds), len(contexts), squeeze=False, sharex=True, sharey=True)
    for line, (kind, label) in zip(panels, kinds.items()):
        for axes, context in zip(line, contexts):
            part = table[(table["of"] == kind) & (table["context"] == context)].set_index("node")
            for node, neighbours in part["neighbours"].items():
                for other in (int(one) for one in str(neighbours).split() if int(one) > node):
                    axes.plot(part.loc[[node, other], "x"], part.loc[[node, other], "y"], color=MUTED, linewidth=0.7)
            axes.scatter(part["x"], part["y"], c=part.index, cmap="viridis", s=16, zorder=3)
            axes.set_aspect("equal")
            axes.set_xticks([])
            axes.set_yticks([])
            if kind == "model":
                axes.set_title(f"{context} names read")
        line[0].set_ylabel(label)
    return made, (
        f"First two principal components of the mean states of nodes in walks with {NAMED[names]}, as more of "
        f"the walks is read ({run}), turned and scaled to lie on the graph; lines join neighbours. Below, the same "
        "of two nulls that have no model: what recall of bigrams says, and each name's random vector with that of the "
        "name before."
    )


def _each_run(given) -> dict[str, dict]:
    pairs = given["maps"][["run", "names"]].drop_duplicates().itertuples(index=False)
    return {f"{run}-{names}": {"run": run, "names": names} for run, names in pairs}


@figure("context", "know", "geometry nulls runs", graphs)
def context(table, nulls, runs, layer: int, graph: str, names: str):
    """Plot the measures of a context's map over its length, at the end of training."""
    need(table, "geometry", "run layer names context ratio r2 cka sides")
    table = at_end(of_graph(table[table["layer"] == layer], runs, graph, names))
    lines, nulls = lines_of(table, runs), of_graph(nulls, runs, graph, names)
    values = measured(table)
    made, panels = panels_of(len(values))
    curves(panels, values, lines, nulls, "context")
    return made, (
        f"Class means of layer {layer} over the last names of a context on {graph}, {NAMED[names]}, at the end of "
        f"training. {BESIDE} R² after whole rows: {said(lines, nulls, 'r2')}."
    )


@figure("learned", "know", "geometry nulls runs", graphs)
def learned(table, nulls, runs, layer: int, graph: str, names: str):
    """Plot the measures of the map of whole rows over training."""
    need(table, "geometry", "run layer rows names context ratio r2 cka sides")
    table = whole_rows(of_graph(table[table["layer"] == layer], runs, graph, names))
    lines, nulls = lines_of(table, runs), of_graph(nulls, runs, graph, names)
    values = measured(table)
    made, panels = panels_of(len(values))
    curves(panels, values, lines, nulls, "rows")
    last = [(*line[:3], at_end(line[3])) for line in lines]
    return made, (
        f"The same after whole rows, over training: layer {layer}, {graph}, {NAMED[names]}. {BESIDE} Distance of "
        f"neighbours over that of all pairs at the end: {said(last, nulls, 'ratio')}."
    )


@figure("layers", "know", "geometry nulls runs", graphs)
def layers(table, nulls, runs, graph: str, names: str):
    """Plot R2 of places over context in every layer, at the end of training."""
    need(table, "geometry", "run layer names context r2")
    table, nulls = at_end(of_graph(table, runs, graph, names)), of_graph(nulls, runs, graph, names)
    depth = sorted(table["layer"].unique())
    made, panels = panels_of(len(depth))
    for axes, layer in zip(panels, depth):
        curves([axes], ("r2",), lines_of(table[table["layer"] == layer], runs), nulls, "context")
        axes.set_title(f"layer {layer}")
    panels[0].set_ylabel("R² of places")
    return made, f"R² of places from two principal components in each layer, {graph}, {NAMED[names]}. {BESIDE}"


@figure("homes", "know", "geometry nulls runs", lambda given, _: _with_homes(given))
def homes(table, nulls, runs, layer: int, graph: str):
    """Plot how much of the context's map and of the fixed names' own is in the states, over context."""
    need(table, "geometry", "run layer names context r2 r2_home")
    table = at_end(of_graph(table[table["layer"] == layer], runs, graph, "own")).dropna(subset=["r2_home"])
    lines, nulls = lines_of(table, runs), of_graph(nulls, runs, graph, "own")
    made, panels = panels_of(2)
    curves(panels, ("r2", "r2_home"), lines, nulls, "context")
    return made, (
        f"Which map two principal components hold in rows with names of their own on {graph}, layer {layer}: that of "
        "the context, or that which names have in rows where they are fixed. Nulls know nothing of the latter: theirs "
        f"is what chance gives. After whole rows, R² of it: {said(lines, nulls, 'r2_home')}."
    )


def _with_homes(given) -> dict[str, dict]:
    table = given["geometry"].dropna(subset=["r2_home"]).merge(given["runs"][["run", "graph"]], on="run")
    if table.empty:
        raise LacksRuns("no run has rows with fixed names")
    return {graph: {"graph": graph} for graph in table["graph"].unique()}


@figure("rule", "know", "rule nulls runs", lambda given, _: {g: {"graph": g} for g in given["runs"]["graph"].unique()})
def rule(table, nulls, runs, graph: str):
    """Plot the share that models give to neighbours over context, at the end of training."""
    need(table, "rule", "run names context following")
    table = at_end(table)
    kinds = [names for names in NAMED if len(of_graph(table, runs, graph, names))]
    made, panels = panels_of(len(kinds))
    ends = []
    for axes, names in zip(panels, kinds):
        lines, beside = lines_of(of_graph(table, runs, graph, names), runs), of_graph(nulls, runs, graph, names)
        curves([axes], ("following",), lines, beside, "context")
        axes.set_title(NAMED[names])
        ends.append(f"{NAMED[names]}: {said(lines, beside, 'following')}")
    panels[0].set_ylabel(LABELS["following"])
    return made, (
        f"Share of the next name that falls to neighbours of the present node, on {graph}, beside what recall of "
        "bigrams gives them. Of mixed vectors it is the share of states whose nearest other name is a neighbour's: "
        "that of the name before always is one, so that following the rule needs no map. "
        f"After whole rows, {'; '.join(ends)}."
    )


@figure("ablation", "know", "ablation nulls runs", graphs)
def ablation(table, nulls, runs, graph: str, names: str):
    """Plot what is left of the map and of the rule without some heads."""
    need(table, "ablation", "run names heads k following ratio r2")
    table, nulls = of_graph(table, runs, graph, names), of_graph(nulls, runs, graph, names)
    if table.empty:
        raise LacksRuns("no transformer of this graph has heads to ablate")
    lines = []
    for kind, colour in zip(KINDS, (HUES[0], HUES[2], HUES[4])):
        part = table[table["heads"].isin(("none", kind))]
        lines.append((f"{kind} heads" if kind != "others" else "other heads", colour, "-", part))
    values = ("following", "ratio", "r2")
    made, panels = panels_of(3)
    curves(panels, values, lines, nulls, "k")
    for axes in panels:
        axes.set_xlabel("heads that give nothing")
    ends = [f"{label} {part[part['k'] == part['k'].max()]['r2'].mean():.2f}" for label, *_, part in lines]
    return made, (
        f"Without the heads of the highest scores, and without as many others at random: {graph}, {NAMED[names]}, "
        f"after whole rows, mean over runs. {BESIDE} R² without the most heads: {', '.join(ends)}."
    )


@figure("heads", "know", "heads runs")
def heads(table, runs):
    """Plot scores of heads over training, the largest of each run."""
    need(table, "heads", "run rows block head previous induction chance")
    made, panels = panels_of(2)
    most = table.groupby(["run", "rows"])[["previous", "induction"]].max().reset_index()
    for axes, kind in zip(panels, ("previous", "induction")):
        ends = []
        for label, colour, dashes, part in lines_of(most, runs):
            mean = part[part["rows"] > 0].groupby("rows")[kind].mean()
            axes.plot(mean.index, mean, color=colour, linestyle=dashes, linewidth=2, label=label)
            ends.append((float(mean.iloc[-1]), label, colour))
        if kind == "induction":
            even = float(table["chance"].mean())
            axes.axhline(even, color=MUTED, linewidth=0.9, linestyle="--", label="even attention")
            ends.append((even, "even attention", MUTED))
        axes.set(xscale="log", ylim=(0, 1))
        axes.set_title(
            "weight on the\nname before" if kind == "previous" else "weight on what came\nafter the same name"
        )
        over_rows(axes)
        quiet(axes)
        end_labels(axes, ends, height=2.3, size=7.5)
    last = at_end(table)[["previous", "induction"]].max()
    return made, (
        "The largest score of a head over training, on random names that come twice: on the name before, and in the "
        "second half on what came after the same name; dashed, what even attention has there. At the end at most "
        f"{last.previous:.2f} and {last.induction:.2f}."
    )


@figure("shares", "know", "geometry nulls runs", lambda given, _: _with_shares(given))
def shares(table, nulls, runs, layer: int, graph: str):
    """Plot the map of whole rows with names of their own, over the share of rows with fixed names."""
    need(table, "geometry", "run layer names context ratio r2 r2_home")
    table = whole_rows(at_end(of_graph(table[table["layer"] == layer], runs, graph, "own")))
    table, nulls = table.merge(runs[["run", "fixed", "depth"]], on="run"), of_graph(nulls, runs, graph, "own")
    values = ("ratio", "r2", "r2_home")
    made, panels = panels_of(len(values))
    known = sorted(table["fixed"].unique())
    for axes, value in zip(panels, values):
        ends = drawn_nulls(axes, nulls, value, False)
        for i, (depth, part) in enumerate(table.groupby("depth")):
            mean = part.groupby("fixed")[value].mean().reindex(known)
            colour, name = HUES[i % len(HUES)], f"{depth} layers"
            axes.plot(range(len(known)), mean, "o-", color=colour, linewidth=1.6, label=name)
            ends.append((float(mean.iloc[-1]), name, colour))
        axes.set_xticks(range(len(known)), [f"{share:g}" for share in known])
        axes.set_title(LABELS[value])
        axes.set(xlabel="share of rows with fixed names")
        axes.set_ylim(bottom=0, top=None if value == "ratio" else 1)
        quiet(axes, "y")
        end_labels(axes, ends, height=2.3, size=7.5)
    return made, (
        f"Rows with names of their own on {graph}, read to their ends, over what share of the rows that were trained "
        f"on had fixed names; layer {layer}, mean over seeds. {BESIDE}"
    )


def _with_shares(given) -> dict[str, dict]:
    counts = given["runs"].groupby("graph")["fixed"].nunique()
    if not (counts > 2).any():
        raise LacksRuns("three shares of fixed names at least are needed")
    return {graph: {"graph": graph} for graph in counts[counts > 2].index}

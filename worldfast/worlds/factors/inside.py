"""Figures of what is inside nets of a study of trials: units, states over a trial, and fixed points."""

from __future__ import annotations

import numpy as np

from worldfast.display import count
from worldfast.report import DIVERGING_STOPS, INK, Tasks, group_colours
from worldfast.report.figures import MUTED, Catalogue, LacksRuns, need, panels, paper, quiet, styled
from worldfast.worlds.factors.kinds import kinds_of, of_training

__all__ = ["CATALOGUE"]

CATALOGUE = Catalogue()
figure = CATALOGUE.figure
MIXED = 0.5  # size of both correlations of a unit, from which it counts as selective to a mixture
STILL = 0.01  # of its length, by which a step moves a point at most that counts as fixed


@figure("sparsity", "know", "units runs")
@styled
def sparsity(units, runs):
    """Plot mean sparsity of the units, a dot for each net."""
    need(units, "units", "run unit sparsity")
    nets = units.groupby("run", sort=False)["sparsity"].mean()
    names = kinds_of(runs)
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
        f"to {nets.max():.2f}, mean over units. A dot is a net, a diamond the median of a kind."
    )


@figure("mixed-selectivity", "know", "units runs", of_training)
@styled
def mixed(units, runs, members, kind):
    """Plot each unit's correlation with x1 against that with x2, a panel for each dataset."""
    need(units, "units", "run unit sparsity x1 x2")
    units = units[units["run"].isin(members)].dropna(subset=["x1", "x2"])
    if not len(units):
        raise LacksRuns(f"no net of {kind or 'the study'} sees points of two latent numbers")
    units = units.assign(both=units[["x1", "x2"]].abs().min(axis=1) >= MIXED)
    units["tasks"] = units["run"].map(runs.set_index("run")["tasks"])
    tasks, parts, said = Tasks(runs["tasks"]), [*units.groupby("tasks", sort=False)], []
    figure, grid = panels(len(parts), min(4, len(parts)), 8, 2.2, 0.3)
    for axes, (name, part) in zip(grid, parts):
        axes.plot(part["x1"], part["x2"], ".", color=tasks.colour(name), alpha=0.4, markersize=5, markeredgewidth=0)
        axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", title=name, xlabel="with x1", ylabel="with x2")
        quiet(axes)
        said.append(f"{name} {part.groupby('run')['both'].mean().median():.0%}")
    return figure, (
        f"{f'{kind}: ' if kind else ''}Correlations of each unit's rate with x1, averaged over x2, and with x2, "
        "averaged over x1, on a grid without noise (of GPT: of value vectors). Units of mixed selectivity have "
        f"{MIXED} at least in size of both: median share over nets, {count(units['run'].nunique(), 'net')} in all, "
        f"{', '.join(said)}."
    )


@figure("rates", "know", "rates")
@styled
def raster(rates):
    """Draw each unit's rate over the square, a panel for each net, 64 units in 8 lines of 8."""
    from matplotlib.colors import LinearSegmentedColormap

    need(rates, "rates", "run unit x1 x2 rate")
    parts, said = [*rates.groupby("run", sort=False)], []
    figure, grid = panels(len(parts), min(3, len(parts)), 8, 2.9, 0.3)
    colours = LinearSegmentedColormap.from_list("rates", DIVERGING_STOPS)
    for axes, (run, part) in zip(grid, parts):
        of_unit = part.pivot(index="unit", columns=["x1", "x2"], values="rate").sort_index(axis=1)
        x1, x2 = (of_unit.columns.unique(level).to_numpy() for level in (0, 1))
        size = of_unit.abs().max(axis=1).to_numpy()
        X = of_unit.to_numpy() / np.where(size > 0, size, 1)[:, None]
        across = int(np.ceil(np.sqrt(len(X))))
        down = -(-len(X) // across)
        filled = np.full((down * across, len(x1), len(x2)), np.nan)
        filled[: len(X)] = X.reshape(len(X), len(x1), len(x2))
        tiles = filled.reshape(down, across, len(x1), len(x2))[..., ::-1].transpose(0, 3, 1, 2)  # x2 upwards
        axes.imshow(tiles.reshape(down * len(x2), -1), cmap=colours, vmin=-1, vmax=1)
        for edge in range(1, across):
            axes.axvline(edge * len(x1) - 0.5, color="white", linewidth=1.2)
        for edge in range(1, down):
            axes.axhline(edge * len(x2) - 0.5, color="white", linewidth=1.2)
        right = [f"+ {c}, x1 {x:+.3f}" for c in range(across) for x in x1]  # of the CSV; too many to be read here
        below = [f"unit {r * across}, x2 {x:+.3f}" for r in range(down) for x in x2[::-1]]
        axes.set_xticks(range(len(right)), right)
        axes.set_yticks(range(len(below)), below)
        axes.tick_params(length=0, labelbottom=False, labelleft=False)
        axes.set(title=run, xlabel="x1, of each unit", ylabel="x2")
        active = size > 0
        wide = (np.abs(X[active]) >= 0.5).mean(1)
        of_those = f", the median one to half its most on {np.median(wide):.0%} of the square" if len(wide) else ""
        said.append(f"{run} {active.sum()} of {len(X)}{of_those}")
    return figure, (
        "Rate of each unit over the square at the last step of the stimulus, without noise (of GPT: of value vectors). "
        "A tile is a unit, from the upper left: x1 to the right, x2 upwards, blue above 0, brown below, as a share of "
        f"its own largest size. Units that are ever active: {'; '.join(said)}."
    )


@figure("trajectories", "know", "trajectories spectrum attractor world")
@styled
def trajectories(table, spectrum, attractor, world):
    """Plot states over trials along their first three components, the points at which they rest, and the spectrum."""
    need(table, "trajectories", "run trial step quadrant component_1 component_2 component_3")
    need(spectrum, "spectrum", "run component share")
    need(attractor, "attractor", "run length speed component_1 component_2 component_3")
    colours, runs, said = group_colours(world), [*table["run"].unique()], []
    figure = paper(9, 0.4 + 2.7 * len(runs))
    for line, run in zip(figure.subplots(len(runs), 3, squeeze=False), runs):
        share = spectrum[spectrum["run"] == run].set_index("component")["share"]
        points = attractor[attractor["run"] == run]
        still = points["speed"] <= STILL * points["length"]
        for axes, second in zip(line, (2, 3)):
            for _, trial in table[table["run"] == run].groupby("trial"):
                colour = colours.get(f"quadrant {trial['quadrant'].iloc[0]}", INK)
                places = trial["component_1"], trial[f"component_{second}"]
                axes.plot(*places, color=colour, alpha=0.45, linewidth=0.8)
            for rest, colour, name in ((still, INK, "fixed"), (~still, MUTED, "slow")):
                places = points.loc[rest, "component_1"], points.loc[rest, f"component_{second}"]
                axes.scatter(*places, s=16, marker="x", color=colour, linewidths=1, zorder=3, label=name)
            axes.set(xlabel=f"component 1 ({share.get(1, 0):.0%})", title=f"{run}, 1 and {second}")
            axes.set_ylabel(f"component {second} ({share.get(second, 0):.0%})")
            quiet(axes)
        last = line[2]
        last.plot(share.index, share, color=INK, marker="o", markersize=3.5, linewidth=1.4)
        last.set(ylim=(0, 1.02), xticks=share.index, xlabel="component", ylabel="share of variance")
        last.set_title(f"{run}, spectrum")
        quiet(last)
        said.append(
            f"{run} has {share[share.index <= 2].sum():.0%} of the variance along two components and "
            f"{share.get(3, 0):.0%} along a third, and {still.sum()} of {count(len(points), 'point')} fixed"
        )
    figure.axes[0].legend(frameon=False)
    return figure, (
        "States of an RNN over trials without noise, from fixation to the decision, along the principal components of "
        "them all, in the colour of the point's quadrant. Crosses: where the search for fixed points under fixation "
        f"ends, dark (fixed) where a step moves a state by at most {STILL:.0%} of its length; of a map that lasts they "
        f"would cover a sheet. {'; '.join(said)}."
    )


@figure("attractor", "know", "attractor runs")
@styled
def attractor(table, runs):
    """Plot the leading eigenvalues at the points where the search for fixed points ends: 0 is a neutral direction."""
    from matplotlib.lines import Line2D

    need(
        table,
        "attractor",
        "run point length speed directions unstable eigenvalue_1 eigenvalue_2 eigenvalue_3 eigenvalue_4 "
        "amplification_1 amplification_2",
    )
    tasks, of_run = Tasks(runs["tasks"]), runs.set_index("run")["tasks"]
    figure = paper(6, 3.2)
    axes = figure.subplots()
    for run, points in table.groupby("run"):
        values = points[[f"eigenvalue_{k}" for k in range(1, 5)]].to_numpy()
        axes.plot(range(1, 5), values.T, color=tasks.colour(of_run[run]), alpha=0.25, linewidth=0.7)
    axes.axhline(0, color=MUTED, linewidth=0.9, linestyle="--")
    axes.set(
        xticks=range(1, 5),
        xlabel="eigenvalue, by real part",
        ylabel="real part",
        title="At fixed or slow points, x = 0",
    )
    named = [*dict.fromkeys(of_run[run] for run in table["run"])]
    if len(named) > 1:
        axes.legend(handles=[Line2D([], [], color=tasks.colour(name), label=name) for name in named], frameon=False)
    quiet(axes)
    nets = table.groupby("run", sort=False)[["directions", "unstable"]].median().groupby(kinds_of(runs), sort=False)
    each = "; ".join(f"{name} {one.directions:g} and {one.unstable:g}" for name, one in nets.median().iterrows())
    moved = (table["speed"] / table["length"]).median()
    times = table[["amplification_1", "amplification_2"]].median()
    points = f"{count(len(table), 'point')} of {count(table['run'].nunique(), 'RNN')} at fixation"
    return figure, (
        f"Eigenvalues of the derivative of F(h) − h at {points}, a line for each; a step moves the median one "
        f"by {moved:.1%} of its length. Directions that neither shrink nor grow by more than a tenth "
        f"a step, and those that grow faster, median over nets: {each}. Along the first two "
        f"directions a state shrinks or grows by a factor of e in {times.iloc[0]:.3g} and {times.iloc[1]:.3g} times "
        "the time that a unit alone takes, medians over points."
    )

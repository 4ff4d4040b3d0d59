"""What each figure shows, in a sentence or two with its numbers, n and unit: one function a figure, with its arguments.

Where the published analysis was wrong, the caption of that figure says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldfast.analysis.trends import CROSS_TASK, DISJOINT_TASKS, SAME_TASK
from worldfast.report.colours import region_colours, tasks_label
from worldfast.report.figures.tables import Cells, LacksRuns, chosen, layer_of, named, over_seeds, pairs, pretrained
from worldfast.report.figures.trends import likeness_matrices, training_trends
from worldfast.worlds.cities import published as theirs
from worldfast.worlds.cities.figures.histograms import BEFORE, FAR, HELD_OUT, NEAR, error_groups
from worldfast.worlds.cities.integration import deviation_summary, summary
from worldfast.worlds.cities.transfer import likeness_against_transfer
from worldfast.worlds.cities.world import ATLANTIS, World


def world_map(world: World) -> str:
    regions = region_colours(world)
    return f"The world: {len(world):,} cities in {len(regions)} regions, each where it is, coloured by region."


def task_drawings(world: World) -> str:
    return (
        "A row of each task, drawn. A model reads the names and learns to give the answer; it never sees a coordinate."
    )


def over_training(curves, validation, probes, runs, n_tasks: int = 1, layer: int | None = None) -> str:
    layer = layer_of(probes, "probes", layer)
    group = pretrained(runs, n_tasks).set_index("run")["tasks"]
    table = probes[(probes["layer"] == layer) & probes["run"].isin(group.index)]
    last = table.loc[table.groupby("run")["rows"].idxmax()]
    last = last["r2"].groupby(last["run"].map(group)).mean().dropna().sort_values()
    if not len(last):
        raise LacksRuns(f"no run on {named(n_tasks)} was probed")
    first, most = last.index[0], last.index[-1]
    between = f"at {last.iloc[0]:.2f}"
    if len(last) > 1:
        between = f"between {last.iloc[0]:.2f} ({tasks_label(first)}) and {last.iloc[-1]:.2f} ({tasks_label(most)})"
    count = table["run"].nunique()
    lines = f"Pale lines are {_count(count, 'run')}, strong ones means over seeds" if count > len(last) else "One seed"
    return f"Models of {named(n_tasks)}: R² of a linear probe at layer {layer} ends {between}. {lines}."


def probes_by_layer(probes, runs) -> str:
    group = pretrained(runs).set_index("run")
    table = probes[probes["run"].isin(group.index)]
    table = table[table["step"] == table.groupby("run")["step"].transform("max")]
    mean = table["r2"].groupby([table["run"].map(group["tasks"]), table["layer"]]).mean()
    means = mean.groupby("layer").mean()
    return (
        f"R² of linear probes at the last checkpoint, mean of x and y on held-out cities and over seeds. Over all "
        f"{mean.index.get_level_values(0).nunique()} sets of tasks, layer {means.idxmax()} has the highest mean, "
        f"{means.max():.2f}."
    )


def dimension(table, runs) -> str:
    group = pretrained(runs)
    group = group[group["learned"]].set_index("run")
    table = table[table["run"].isin(group.index)]
    layer = layer_of(table, "dimension", None)
    here = table[table["layer"] == layer]
    sets = here.groupby(here["run"].map(group["tasks"]))[["participation_ratio", "two_nn"]].mean()
    sizes = group.drop_duplicates("tasks").set_index("tasks")["n_tasks"].reindex(sets.index)
    parts = [
        f"{part['participation_ratio'].mean():.1f} and {part['two_nn'].mean():.1f} for {named(size)} "
        f"({_count(len(part), 'set')})"
        for size, part in sets.groupby(sizes)
    ]
    return (
        f"Participation ratio and TwoNN dimension at layer {layer}: {'; '.join(parts)}. Bars are standard errors over "
        "sets of tasks; runs that did not learn are left out."
    )


def cka(table, runs, layer=None, n_tasks: int = 1, kernel: str = "linear", debiased=False, components: int = 0) -> str:
    kept = {"step_share": 1.0, "kernel": kernel, "debiased": debiased, "components": components}
    cells = pairs(table, runs, "value", n_tasks, layer, **kept)
    text = _likeness(cells, "CKA") + _left_out(cells)
    if n_tasks == 1 and kernel == "linear" and not debiased and not components:
        same, cross = (theirs.value(f"{what}_task_cka_1_corrected").value for what in ("same", "cross"))
        text += (
            " The published comparison of the two was read from wrong cells of its matrix; read from the right ones "
            f"it is {same} against {cross}."
        )
    return text


def procrustes(table, runs, layer=None, n_tasks: int = 1) -> str:
    cells = pairs(table, runs, "disparity", n_tasks, layer, components=int(table["components"].iloc[0]))
    return _likeness(cells, "disparity (0: the same but for turning and scale)") + _left_out(cells)


def mutual_knn(table, runs, layer=None, n_tasks: int = 1) -> str:
    k = int(table["k"].iloc[0])
    cells = pairs(table, runs, "value", n_tasks, layer, k=k)
    chance = f" Unrelated models would share {table['chance'].mean():.3f}." if "chance" in table.columns else ""
    return _likeness(cells, f"share of {k} nearest neighbours") + _left_out(cells) + chance


def cka_trends(table, published=None, layer=None) -> str:
    layer = layer_of(table, "trends", layer)
    here = table[table["layer"] == layer]
    parts = []
    for what in (SAME_TASK, DISJOINT_TASKS):
        line = here[here["what"] == what].sort_values("n_tasks")
        if len(line):
            ends = line.iloc[[0, -1]]
            values = " to ".join(f"{row.mean:.2f}" for row in _rows(ends, "mean"))
            parts.append(f"from {values} for {'seeds of the same set' if what == SAME_TASK else 'disjoint sets'}")
    units = here["unit"].unique()
    first, last = here["n_tasks"].min(), here["n_tasks"].max()
    counts = " to ".join(map(str, dict.fromkeys([here["n"].min(), here["n"].max()])))
    text = (
        f"From {named(first)} to {named(last)}, mean CKA at layer {layer} goes {' and '.join(parts)}. "
        f"Bars are standard errors, n = {counts} (unit: {', '.join(units)})."
    )
    if published:
        text += " The published means for one task hold a run that failed to learn; ours leave such runs out."
    return text


def cka_over_training(table, runs, layer=None) -> str:
    found = training_trends(table, runs, layer)
    size = found["n_tasks"].min()
    parts = []
    for what, words in ((SAME_TASK, "seeds of the same set"), (CROSS_TASK, "other sets")):
        line = found[(found["n_tasks"] == size) & (found["what"] == what)].set_index("step_share")["mean"].sort_index()
        if len(line) > 1:
            early = line.index[np.abs(line.index - 0.15).argmin()]
            path = f"{line.iloc[0]:.2f} at {line.index[0]:.0%}, {line[early]:.2f} at {early:.0%}, "
            parts.append(f"{words} {path}{line.iloc[-1]:.2f} at {line.index[-1]:.0%}")
    return (
        f"Mean linear CKA of models of {named(size)} over training: {'; '.join(parts)}. Bands are standard errors over "
        "sets of tasks. Some published matrices were of a fixed step rather than the last; here both models of a "
        "pair are at the same share of their own training."
    )


def cka_against_improvement(cka, improvement, runs, layer=None, without=("crossing",)) -> str:
    likeness, carried = likeness_matrices(cka, improvement, runs, layer)
    found = likeness_against_transfer(likeness, carried, without)
    parts = [
        f"R² {row.r2:.2f}, p {row.p:.2g} over {row.n} pairs ({row.what})"
        for row in _rows(found, "r2", "p", "n", "what")
        if np.isfinite(row.r2)
    ]
    r2, p = (theirs.value(f"cka_generalisation_{what}").value for what in ("r2", "p"))
    said = f"CKA against improvement: {'; '.join(parts)}; " if parts else "Too few tasks for a test; "
    said += f"without {_listed(without)}, not learned alone; " if without else ""
    return (
        f"{said}unit: an unordered pair of tasks, means over seeds; p from permuting the tasks (Mantel). The published "
        f"R² of {r2} (p {p}) counts 15 symmetric values twice, and most of it is the distance task."
    )


def improvement(table, runs=None, n_tasks: int = 1) -> str:
    if runs is not None:
        table = table[table["run"].isin(runs["run"] if hasattr(runs, "columns") else list(runs))]
    found = summary(over_seeds(table, "improvement", n_tasks).frame()).set_index("what")
    parts = [
        f"{row.mean:.2f} ± {row.standard_deviation:.2f} where {words} (n = {row.n} cells)"
        for what, words in (("trained", "trained"), ("transfer", "not"))
        for row in _rows(found.loc[[what]], "mean", "standard_deviation", "n")
    ]
    return (
        f"Fine-tunes on {named(n_tasks)}: normalised improvement on Atlantis is {' and '.join(parts)}; ± is the "
        f"standard deviation over cells, {_seeds(table)}."
    )


def deviation(table) -> str:
    found = deviation_summary(over_seeds(table, "deviation").frame()).set_index("what")
    parts = [
        f"{row.mean:+.3f} {what} (n = {row.n} cells)".replace("-", "−")
        for what in found.index
        for row in _rows(found.loc[[what]], "mean", "n")
        if row.n
    ]
    return (
        "Fine-tunes on two tasks against the better of their two one-task teachers: mean deviation of normalised "
        f"improvement {', '.join(parts)}, {_seeds(table)}."
    )


def deviation_histogram(table) -> str:
    cells = over_seeds(table, "deviation")
    far = np.array(["distance" in tasks.split("+") for tasks in cells.rows])
    below = [
        f"{np.mean(values[np.isfinite(values)] < 0):.0%} of cells {word} distance"
        for values, word in ((cells.mean[far], "with"), (cells.mean[~far], "without"))
        if np.isfinite(values).any()
    ]
    return f"Worse than the better teacher: {', '.join(below)}. Cells of the matrix of deviations, {_seeds(table)}."


def atlantis_map(world: World, generalisation, run: str, layer=None) -> str:
    layer = layer_of(generalisation, "generalisation", layer)
    mine = generalisation[(generalisation["run"] == run) & (generalisation["layer"] == layer)]
    new, held = mine[mine["group"] == ATLANTIS], mine[mine["group"] == "held out"]
    beside = f"; {len(held)} held-out cities of the world {held['error'].mean():.1f}" if len(held) else ""
    return (
        f"The world as a linear probe of {run} has it: the {len(new)} cities of Atlantis, none of which the probe was "
        f"fitted on, are {new['error'].mean():.0f} units of 0.1 degree off on average{beside}."
    )


def atlantis_maps(world: World, generalisation, runs: Sequence[str] | None = None, layer=None, table=None) -> str:
    if table is None:
        return "Atlantis as each run has it, with the mean error in units of 0.1 degree."
    errors = dict(error_groups(generalisation, table, layer))
    parts = []
    for group, words in ((FAR, "Fine-tunes with distance place Atlantis"), (NEAR, "fine-tunes without it")):
        if group in errors:
            each = errors[group].groupby("run")["error"].mean()
            parts.append(f"{words} {each.mean():.0f} units of 0.1 degree off ({_count(len(each), 'run')})")
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}, means over cities, then runs; one seed of each is drawn."


def error_histograms(table, runs, layer=None) -> str:
    words = {
        HELD_OUT: "held-out cities of the world",
        NEAR: "Atlantis after fine-tunes without distance",
        FAR: "Atlantis after fine-tunes with distance",
        BEFORE: "Atlantis that was there in pretraining",
    }
    parts = []
    for group, part in error_groups(table, runs, layer):
        each = part.groupby("run")["error"].mean()
        spread = f" ± {each.sem():.1f}" if len(each) > 1 else ""
        parts.append(f"{words[group]} {each.mean():.1f}{spread} ({_count(len(each), 'run')})")
    return (
        f"Mean distance, in 0.1 degree, from where a probe puts cities to where they are: {'; '.join(parts)}. The "
        "probe was fitted on other cities; ± is the standard error over runs."
    )


def agreement(table, base: str | None = None) -> str:
    table = chosen(table, "gradient agreement", base=base)
    other = table[table["task"] != table["other"]]
    far = (other["task"] == "distance") | (other["other"] == "distance")
    parts = [
        f"{cosines.mean():+.2f} {words}".replace("-", "−")
        for cosines, words in (
            (other["cosine"][far], "of distance with the others"),
            (other["cosine"][~far], "among the others"),
            (table["cosine"][table["task"] == table["other"]], "of a task with itself on other rows, the ceiling"),
        )
        if len(cosines)
    ]
    return (
        "Before any fine-tuning, the mean cosine of tasks' gradients on rows with Atlantis is "
        f"{', '.join(parts)} ({_count(table['base'].nunique(), 'pretrained model')})."
    )


def _likeness(cells: Cells, what: str) -> str:
    same, other = cells.diagonal(True), cells.diagonal(False)
    parts = []
    if len(same):
        parts.append(f"{same.mean():.2f} between seeds of the same set of tasks (n = {len(same)})")
    if len(other):
        parts.append(f"{other.mean():.2f} between different sets (n = {_count(len(other), 'pair')})")
    if not parts:
        raise LacksRuns("no set of tasks was learned")
    cell = (
        "Cells are means over seeds ± the jackknife's standard error over runs." if len(same) else "One seed of each."
    )
    return f"Mean {what}: {', '.join(parts)}. {cell}"


def _left_out(cells: Cells) -> str:
    text = ""
    if cells.failed:
        text += f" No run learned {_listed([tasks_label(tasks) for tasks in cells.failed])}: shown, in no mean."
    if cells.left_out:
        text += f" Left out, because it did not learn: {_listed(cells.left_out)}."
    return text


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _seeds(table) -> str:
    count = table["seed"].nunique()
    return f"which are means over {count} seeds" if count > 1 else "of one seed"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _rows(table, *columns: str):
    """Rows of a table as tuples with these fields (`mean` too, which a row of pandas has as a method)."""
    return table[list(columns)].itertuples(index=False)

"""Every figure of a study by name, what each needs, and all that a study has the tables for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from worldfast.analysis.trends import DISJOINT_TASKS, SAME_TASK
from worldfast.report.figures import curves, maps, matrices, trends
from worldfast.report.figures.patching import caption as patching_caption
from worldfast.report.figures.patching import patching
from worldfast.report.figures.tables import LacksRuns, layer_of
from worldfast.worlds.cities import published
from worldfast.worlds.cities.figures import atlantis, captions, drawings, histograms
from worldfast.worlds.cities.world import ATLANTIS, World

GROUPS = ("tasks", "what models know", "how alike they are", "what fine-tuning does")
PUBLISHED_TRENDS = {
    (what, n): published.value(f"{name}_task_cka_{n}").value
    for what, name in ((SAME_TASK, "same"), (DISJOINT_TASKS, "disjoint"))
    for n in (1, 2, 3)
}


@dataclass(frozen=True)
class Entry:
    """One figure of the catalogue.

    group     one of GROUPS
    function  draws it: tables in the order of `needs`, then `options`
    caption   says what it shows, from the same arguments
    needs     names of the study's tables, "world" among them where the world is drawn
    options   further arguments by name
    layered   whether it takes `layer`
    choose    tables -> further arguments, where they depend on the study; LacksRuns where there are none
    """

    group: str
    function: Callable
    caption: Callable[..., str]
    needs: tuple[str, ...]
    options: Mapping = field(default_factory=dict)
    layered: bool = False
    choose: Callable[[Mapping], dict] | None = None


def example(far: bool):
    """Of the fine-tunes with distance (or without) on most tasks, the one whose Atlantis error is in the middle."""

    def choose(tables) -> dict:
        runs, places = tables["runs"], tables["generalisation"]
        new = places[(places["group"] == ATLANTIS) & (places["layer"] == layer_of(places, "generalisation", None))]
        errors = new.groupby("run")["error"].mean()
        tuned = runs[(runs["kind"] == "ft") & runs["run"].isin(errors.index)]
        tuned = tuned[tuned["tasks"].str.split("+").map(lambda tasks: ("distance" in tasks) == far).astype(bool)]
        if not len(tuned):
            raise LacksRuns(f"the study has no fine-tunes {'with' if far else 'without'} distance that know Atlantis")
        tuned = tuned[tuned["n_tasks"] == tuned["n_tasks"].max()]
        ordered = errors[tuned["run"]].sort_values(kind="stable")
        return {"run": ordered.index[(len(ordered) - 1) // 2]}

    return choose


def _entries() -> dict[str, Entry]:
    tasks, know, alike, tuning = GROUPS
    similar = {"one-task": 1, "two-tasks": 2, "three-tasks": 3}
    of_runs = ("curves", "validation", "probes", "runs")
    found = {
        "world": Entry(tasks, maps.world_map, captions.world_map, ("world",)),
        "tasks": Entry(tasks, drawings.task_drawings, captions.task_drawings, ("world",)),
    }
    for name, n in {"one-task": 1, "all-tasks": 7}.items():
        found[f"training-{name}"] = Entry(
            know, curves.over_training, captions.over_training, of_runs, {"n_tasks": n}, layered=True
        )
    found["probes-by-layer"] = Entry(know, curves.probes_by_layer, captions.probes_by_layer, ("probes", "runs"))
    found["dimension"] = Entry(know, curves.dimension, captions.dimension, ("dimension", "runs"))
    for name, n in similar.items():
        found[f"cka-{name}"] = Entry(alike, matrices.cka, captions.cka, ("cka", "runs"), {"n_tasks": n}, layered=True)
    kinds = {"debiased": {"debiased": True}, "rbf": {"kernel": "rbf"}, "components": {"components": 3}}
    trend = {"published": PUBLISHED_TRENDS}
    found["cka-trends"] = Entry(alike, trends.cka_trends, captions.cka_trends, ("trends",), trend, layered=True)
    found["cka-over-training"] = Entry(
        alike, trends.cka_over_training, captions.cka_over_training, ("cka", "runs"), layered=True
    )
    for name, options in kinds.items():
        found[f"cka-{name}"] = Entry(alike, matrices.cka, captions.cka, ("cka", "runs"), options, layered=True)
    found["procrustes"] = Entry(alike, matrices.procrustes, captions.procrustes, ("procrustes", "runs"), layered=True)
    found["mutual_knn"] = Entry(alike, matrices.mutual_knn, captions.mutual_knn, ("mutual_knn", "runs"), layered=True)
    for name, n in similar.items():
        found[f"improvement-{name}"] = Entry(
            tuning, matrices.improvement, captions.improvement, ("improvement",), {"n_tasks": n}
        )
    found["deviation"] = Entry(tuning, matrices.deviation, captions.deviation, ("deviation",))
    found["deviation-histogram"] = Entry(
        tuning, histograms.deviation_histogram, captions.deviation_histogram, ("deviation",)
    )
    for name, far in {"without-distance": False, "with-distance": True}.items():
        found[f"atlantis-{name}"] = Entry(
            tuning, atlantis.atlantis_map, captions.atlantis_map, ("world", "generalisation"), choose=example(far)
        )
    found["atlantis-maps"] = Entry(
        tuning,
        atlantis.atlantis_maps,
        captions.atlantis_maps,
        ("world", "generalisation"),
        layered=True,
        choose=lambda tables: {"table": tables["runs"]},
    )
    found["errors"] = Entry(
        tuning, histograms.error_histograms, captions.error_histograms, ("generalisation", "runs"), layered=True
    )
    found["cka-against-improvement"] = Entry(
        tuning,
        trends.cka_against_improvement,
        captions.cka_against_improvement,
        ("cka", "improvement", "runs"),
        layered=True,
    )
    found["gradient-agreement"] = Entry(tuning, matrices.agreement, captions.agreement, ("agreement",))
    found["patching"] = Entry(tuning, patching, patching_caption, ("patching",))
    return found


CATALOGUE = _entries()


def draw_study(tables: Mapping, world: World, layer: int | None = None) -> list[tuple[str, object, str]]:
    """Every figure that a study's tables hold the runs for: (name, Figure, caption), in the catalogue's order.

    tables   the study's tables by name, as DataFrames; those it lacks are not there, or have no rows
    layer    of the figures of one layer; None: each table's last but one, 5 as published

    A figure that lacks its tables, runs or layer is left out. ValueError: a table that lacks columns.
    """
    given = {**tables, "world": world}
    drawn = []
    for name, entry in CATALOGUE.items():
        if any(need not in given for need in entry.needs) or (entry.choose and "runs" not in given):
            continue
        try:
            options = {**entry.options, **({"layer": layer} if entry.layered else {})}
            options |= entry.choose(given) if entry.choose else {}
            arguments = [given[need] for need in entry.needs]
            drawn.append((name, entry.function(*arguments, **options), entry.caption(*arguments, **options)))
        except LacksRuns:
            continue
    return drawn

"""Likeness of models, beside the published numbers where runs are comparable; captions say where those were wrong."""

from __future__ import annotations

from functools import partial

from worldfast.analysis import DISJOINT_TASKS, SAME_TASK
from worldfast.report import figures
from worldfast.report.figures import similarity
from worldfast.worlds.cities import published
from worldfast.worlds.cities.figures.catalogue import compared, figure, is_comparable

PUBLISHED_TRENDS = {
    (what, n): published.value(f"{name}_task_cka_{n}").value
    for what, name in ((SAME_TASK, "same"), (DISJOINT_TASKS, "disjoint"))
    for n in (1, 2, 3)
}
PUBLISHED_LAYER = 5
SETTLED = 0.15, "by which the paper's have settled"


@figure("cka", "alike", "cka runs", compared)
def cka(table, runs, layer: int | None = None, **options):
    """`similarity` of the kind "cka"; of one task each, with the published means."""
    drawing, caption = similarity("cka", table, runs, layer, **options)
    if options == {"n_tasks": 1} and is_comparable(runs):
        same, cross = (published.value(f"{what}_task_cka_1_corrected").value for what in ("same", "cross"))
        caption += (
            " The published comparison of the two was read from wrong cells of its matrix; read from the right ones "
            f"it is {same} against {cross}."
        )
    return drawing, caption


@figure("cka-trends", "alike", "trends runs")
def cka_trends(table, runs, layer: int | None = None):
    """`report.figures.cka_trends`, with the published values."""
    if not is_comparable(runs):
        return figures.cka_trends(table, runs, layer)
    drawing, caption = figures.cka_trends(table, runs, layer, PUBLISHED_TRENDS, PUBLISHED_LAYER)
    return drawing, (
        f"{caption} The published means for one task hold a run that failed to learn; ours leave such runs out."
    )


@figure("cka-over-training", "alike", "cka runs")
def cka_over_training(table, runs, layer: int | None = None):
    """`report.figures.cka_over_training`, with the share of training by which the published curves have settled."""
    if not is_comparable(runs):
        return figures.cka_over_training(table, runs, layer)
    drawing, caption = figures.cka_over_training(table, runs, layer, SETTLED)
    return drawing, (
        f"{caption} Some published matrices were of a fixed step rather than the last; here both models of a pair are "
        "at the same share of their own training."
    )


KINDS = {"debiased": {"debiased": True}, "rbf": {"kernel": "rbf"}, "components": {"components": 3}}
figure("cka", "alike", "cka runs", KINDS)(cka)
figure("procrustes", "alike", "procrustes runs")(partial(similarity, "procrustes"))
figure("mutual-knn", "alike", "mutual_knn runs")(partial(similarity, "mutual_knn"))

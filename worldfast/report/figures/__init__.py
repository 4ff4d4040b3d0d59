"""One function a figure: it takes results, draws with matplotlib and returns a Figure; `save` writes it.

Figures are drawn from a study's tables, a World, or a RunResult. One that is asked of a study without the runs
for it raises LacksRuns, a ValueError that names what is missing.
"""

from worldfast.report.figures.canvas import distance, geographic
from worldfast.report.figures.curves import dimension, over_training, probes_by_layer, training
from worldfast.report.figures.maps import learned_map, world_map
from worldfast.report.figures.matrices import agreement, cka, cka_matrix, deviation, improvement, mutual_knn, procrustes
from worldfast.report.figures.patching import patching
from worldfast.report.figures.saving import save
from worldfast.report.figures.style import running_mean, short_count
from worldfast.report.figures.tables import LacksRuns
from worldfast.report.figures.trends import cka_against_improvement, cka_over_training, cka_trends
from worldfast.report.figures.views import pca, views_over_training

__all__ = [
    "LacksRuns",
    "agreement",
    "cka",
    "cka_against_improvement",
    "cka_matrix",
    "cka_over_training",
    "cka_trends",
    "deviation",
    "dimension",
    "distance",
    "geographic",
    "improvement",
    "learned_map",
    "mutual_knn",
    "over_training",
    "patching",
    "pca",
    "probes_by_layer",
    "procrustes",
    "running_mean",
    "save",
    "short_count",
    "training",
    "views_over_training",
    "world_map",
]

"""One function a figure: it takes results, draws with matplotlib and returns a Figure; `save` writes it.

Figures are drawn from a study's tables, a World, or a RunResult. One that is asked of a study without the runs
for it raises LacksRuns, a ValueError that names what is missing. `draw_study` draws all that a study has.
"""

from worldfast.figures.atlantis import atlantis_map, atlantis_maps
from worldfast.figures.canvas import distance, geographic
from worldfast.figures.catalogue import CATALOGUE, GROUPS, Entry, draw_study
from worldfast.figures.curves import dimension, over_training, probes_by_layer, training
from worldfast.figures.drawings import task_drawings
from worldfast.figures.histograms import deviation_histogram, error_histograms
from worldfast.figures.maps import learned_map, world_map
from worldfast.figures.matrices import agreement, alignment, cka, cka_matrix, deviation, improvement, procrustes
from worldfast.figures.patching import patching
from worldfast.figures.saving import save
from worldfast.figures.style import running_mean, short_count
from worldfast.figures.tables import LacksRuns
from worldfast.figures.trends import cka_against_improvement, cka_over_training, cka_trends
from worldfast.figures.views import pca, views_over_training

__all__ = [
    "CATALOGUE",
    "GROUPS",
    "Entry",
    "LacksRuns",
    "agreement",
    "alignment",
    "atlantis_map",
    "atlantis_maps",
    "cka",
    "cka_against_improvement",
    "cka_matrix",
    "cka_over_training",
    "cka_trends",
    "deviation",
    "deviation_histogram",
    "dimension",
    "distance",
    "draw_study",
    "error_histograms",
    "geographic",
    "improvement",
    "learned_map",
    "over_training",
    "patching",
    "pca",
    "probes_by_layer",
    "procrustes",
    "running_mean",
    "save",
    "short_count",
    "task_drawings",
    "training",
    "views_over_training",
    "world_map",
]  # fmt: skip

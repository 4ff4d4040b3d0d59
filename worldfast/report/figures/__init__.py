"""Figures, one function each: it takes results, draws with matplotlib and returns a Figure; `save` writes it.

Figures of a study's tables return (Figure, caption), where the caption gives the main numbers. Figures of a world or of
a RunResult return a Figure only, since their titles say everything. A figure whose runs the study lacks raises
LacksRuns, a ValueError that names what is missing. A world registers its figures in a `Catalogue`.
"""

from worldfast.report.figures.canvas import distance, geographic
from worldfast.report.figures.catalogue import Catalogue, Drawn
from worldfast.report.figures.curves import dimension, over_training, probes_by_layer, training
from worldfast.report.figures.maps import learned_map, world_map
from worldfast.report.figures.matrices import cka_matrix, similarity
from worldfast.report.figures.patching import patching
from worldfast.report.figures.saving import save
from worldfast.report.figures.style import running_mean, short_count
from worldfast.report.figures.tables import LacksRuns
from worldfast.report.figures.trends import cka_over_training, cka_trends
from worldfast.report.figures.views import pca, views_over_training

__all__ = [
    "Catalogue",
    "Drawn",
    "LacksRuns",
    "cka_matrix",
    "cka_over_training",
    "cka_trends",
    "dimension",
    "distance",
    "geographic",
    "learned_map",
    "over_training",
    "patching",
    "pca",
    "probes_by_layer",
    "running_mean",
    "save",
    "short_count",
    "similarity",
    "training",
    "views_over_training",
    "world_map",
]

"""Figures, one function each: it takes results, draws with matplotlib and returns a Figure; `save` writes it.

Figures of a study's tables return (Figure, caption), where the caption gives the main numbers. Figures of a world or of
a RunResult return a Figure only, since their titles say everything. A figure whose runs the study lacks raises
LacksRuns, a ValueError that names what is missing. A world registers its figures in a `Catalogue`.
"""

from worldfast.report.figures import numbers
from worldfast.report.figures.canvas import frame, ratio
from worldfast.report.figures.catalogue import Catalogue, Drawn
from worldfast.report.figures.curves import dimension, over_training, probes_by_layer, training
from worldfast.report.figures.maps import aligned_maps, learned_map, world_map
from worldfast.report.figures.matrices import cka_matrix, sheet, similarity
from worldfast.report.figures.patching import patching
from worldfast.report.figures.saving import save
from worldfast.report.figures.standard import beside_standard
from worldfast.report.figures.style import (
    HAIRLINE,
    MUTED,
    end_labels,
    fitted,
    heading,
    note,
    over_rows,
    panels,
    paper,
    plain_log,
    quiet,
    running_mean,
    short_count,
    styled,
    titled,
)
from worldfast.report.figures.tables import (
    Cells,
    LacksRuns,
    chosen,
    group_names,
    groups,
    layer_of,
    need,
    pairs,
    pretrained,
)
from worldfast.report.figures.trends import cka_over_training, cka_trends
from worldfast.report.figures.views import pca, views_over_training

__all__ = [
    "fitted",
    "Catalogue",
    "Cells",
    "Drawn",
    "HAIRLINE",
    "LacksRuns",
    "MUTED",
    "aligned_maps",
    "beside_standard",
    "chosen",
    "cka_matrix",
    "cka_over_training",
    "cka_trends",
    "dimension",
    "end_labels",
    "frame",
    "group_names",
    "groups",
    "heading",
    "layer_of",
    "learned_map",
    "need",
    "note",
    "numbers",
    "over_rows",
    "over_training",
    "pairs",
    "panels",
    "paper",
    "patching",
    "pca",
    "plain_log",
    "pretrained",
    "probes_by_layer",
    "quiet",
    "ratio",
    "running_mean",
    "save",
    "sheet",
    "short_count",
    "similarity",
    "styled",
    "titled",
    "training",
    "views_over_training",
    "world_map",
]

"""Studies: lists of runs that are trained, analysed and compared together."""

from worldfast.studies.analyses import (
    Analysis,
    Some,
    Table,
    Trained,
    each,
    layer_of,
    models_of,
    scored,
    shown,
    with_heads,
)
from worldfast.studies.audit import audit_study, audit_tables
from worldfast.studies.engine import run_study
from worldfast.studies.planning import print_plan
from worldfast.studies.results import NULL, Comparison, Findings, RunResult, StudyResult, null_columns
from worldfast.studies.scene import Axis, Scene, Subject, scene_of
from worldfast.studies.standard import ANALYSES, pca, pooled
from worldfast.studies.standing import print_status
from worldfast.studies.study import Study, load_study
from worldfast.studies.tables import at_end, common_tables, metrics, whole_rows

__all__ = [
    "ANALYSES",
    "Analysis",
    "Axis",
    "Comparison",
    "Findings",
    "NULL",
    "RunResult",
    "Scene",
    "Some",
    "Study",
    "StudyResult",
    "Subject",
    "Table",
    "Trained",
    "at_end",
    "audit_study",
    "audit_tables",
    "common_tables",
    "each",
    "layer_of",
    "load_study",
    "metrics",
    "models_of",
    "null_columns",
    "pca",
    "pooled",
    "print_plan",
    "print_status",
    "run_study",
    "scene_of",
    "scored",
    "shown",
    "whole_rows",
    "with_heads",
]

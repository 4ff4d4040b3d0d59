"""Studies: lists of runs that are trained, analysed and compared together."""

from worldfast.studies.analyses import Analysis, Table, Trained, each
from worldfast.studies.audit import audit_study, audit_tables
from worldfast.studies.engine import run_study
from worldfast.studies.planning import print_plan, print_status
from worldfast.studies.results import Comparison, Findings, RunResult, StudyResult
from worldfast.studies.scene import Axis, Scene, Subject, scene_of
from worldfast.studies.standard import ANALYSES
from worldfast.studies.study import Study, load_study
from worldfast.studies.tables import common_tables, metrics

__all__ = [
    "ANALYSES",
    "Analysis",
    "Axis",
    "Comparison",
    "Findings",
    "RunResult",
    "Scene",
    "Study",
    "StudyResult",
    "Subject",
    "Table",
    "Trained",
    "audit_study",
    "audit_tables",
    "common_tables",
    "each",
    "load_study",
    "metrics",
    "print_plan",
    "print_status",
    "run_study",
    "scene_of",
]

"""Studies: lists of runs that are trained, read and compared together."""

from worldfast.studies.results import Comparison, RunResult, StudyResult
from worldfast.studies.study import Study

__all__ = ["Comparison", "RunResult", "Study", "StudyResult"]

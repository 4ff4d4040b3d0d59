"""Latent points behind noise and a random encoder, and yes-no questions about them: arXiv 2407.11249."""

import importlib

from worldfast.worlds.factors.dataset import Dataset
from worldfast.worlds.factors.questions import Questions
from worldfast.worlds.factors.trials import Trials

_DOOR = {  # the other names and their modules, which import all of the instrument, on first use
    "ANALYSES": "analyses",
    "FAMILIES": "studies",
    "PRESETS": "studies",
    "Study": "studies",
    "best_accuracy": "theory",
    "best_answers": "theory",
    "bound": "theory",
    "demo": "studies",
    "log_chances": "theory",
    "mini": "studies",
    "net": "studies",
    "paper": "studies",
    "trilaterated": "theory",
}
__all__ = [
    "ANALYSES",
    "FAMILIES",
    "PRESETS",
    "Dataset",
    "Questions",
    "Study",
    "Trials",
    "best_accuracy",
    "best_answers",
    "bound",
    "demo",
    "log_chances",
    "mini",
    "net",
    "paper",
    "trilaterated",
]


def __getattr__(name):
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)

"""Latent points behind noise and a random encoder, and yes-no questions about them: arXiv 2407.11249."""

from worldfast.doors import on_first_use
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
__getattr__ = on_first_use(__name__, _DOOR)

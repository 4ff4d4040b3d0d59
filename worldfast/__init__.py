"""worldfast: how the tasks a model is trained on shape what it knows of the world behind them."""

__version__ = "0.2.0"

from worldfast.analysis import cka, cka_matrix, cka_minibatch, cka_standard_error, gram_statistics
from worldfast.capture import Capture
from worldfast.models import RecurrentSpec, TransformerSpec, attention, import_huggingface
from worldfast.reading import Activations, represent
from worldfast.run import OpenCheckpoint, Run
from worldfast.studies import Study, run_study
from worldfast.training import export_huggingface, train
from worldfast.worlds.cities import TASKS, Batch, Component, World, WorldSpec, label, sample, task

__all__ = [
    "TASKS",
    "Activations",
    "Batch",
    "Capture",
    "Component",
    "OpenCheckpoint",
    "RecurrentSpec",
    "Run",
    "Study",
    "TransformerSpec",
    "World",
    "WorldSpec",
    "attention",
    "cka",
    "cka_matrix",
    "cka_minibatch",
    "cka_standard_error",
    "export_huggingface",
    "gram_statistics",
    "import_huggingface",
    "label",
    "represent",
    "run_study",
    "sample",
    "task",
    "train",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

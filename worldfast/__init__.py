"""worldfast: how the tasks a model is trained on shape what it knows of the world behind them."""

__version__ = "0.2.0"

from worldfast.analysis.cka import cka, cka_matrix, cka_minibatch, cka_standard_error
from worldfast.analysis.gram import gram_statistics
from worldfast.models import RecurrentSpec, TransformerSpec, import_huggingface
from worldfast.models.attention import attention
from worldfast.reading import Activations, represent
from worldfast.run import Capture, OpenCheckpoint, Run
from worldfast.studies import Study, run_study
from worldfast.training import export_huggingface, train
from worldfast.worlds.cities import task
from worldfast.worlds.cities.sampling import Batch, Component, Stream, sample
from worldfast.worlds.cities.tasks import TASKS, label
from worldfast.worlds.cities.world import World, WorldSpec

__all__ = [
    "TASKS",
    "Activations",
    "Batch",
    "Capture",
    "Component",
    "OpenCheckpoint",
    "RecurrentSpec",
    "Run",
    "Stream",
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


def __dir__():
    return [*__all__, "__version__"]

"""worldfast: how the tasks a model is trained on shape what it knows of the world behind them."""

from worldfast import study
from worldfast.activations import Activations, Capture
from worldfast.analysis.cka import cka, cka_matrix, cka_minibatch, cka_standard_error
from worldfast.gram import gram_statistics
from worldfast.huggingface import export_huggingface, import_huggingface
from worldfast.model import ModelSpec
from worldfast.ops import attention
from worldfast.representations import represent
from worldfast.run import OpenCheckpoint, Run
from worldfast.sampling import Batch, Component, Stream, sample
from worldfast.tasks import TASKS, label
from worldfast.train import train
from worldfast.world import World, WorldSpec

__version__ = "0.1.0"
__all__ = [
    "TASKS",
    "Activations",
    "Batch",
    "Capture",
    "Component",
    "ModelSpec",
    "OpenCheckpoint",
    "Run",
    "Stream",
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
    "sample",
    "study",
    "train",
]

"""worldfast: how the tasks a model is trained on shape what it knows of the world behind them."""

from worldfast.sampling import Batch, Component, Stream, sample
from worldfast.tasks import TASKS, label
from worldfast.world import World, WorldSpec

__version__ = "0.1.0"
__all__ = ["TASKS", "Batch", "Component", "Stream", "World", "WorldSpec", "label", "sample"]

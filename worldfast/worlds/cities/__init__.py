"""Cities on a plane, which a model knows only through answers to questions: arXiv 2602.00533."""

from worldfast.doors import on_first_use
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.dataset import Dataset
from worldfast.worlds.cities.prompts import Prompt
from worldfast.worlds.cities.python_task import PythonTask, task
from worldfast.worlds.cities.sampling import Batch, Stream, sample
from worldfast.worlds.cities.tasks import BUILT_IN, TASKS, Task, label
from worldfast.worlds.cities.tokens import Vocabulary
from worldfast.worlds.cities.world import ATLANTIS, World
from worldfast.worlds.cities.world_spec import WorldSpec

_DOOR = {  # the other names and their modules, which import all of the instrument, on first use
    "CHECKS": "checks",
    "Data": "options",
    "PRESETS": "studies",
    "Recipe": "recipe",
    "Study": "studies",
    "asked": "options",
    "demo": "studies",
    "dose_runs": "doses",
    "integration": "studies",
    "mini": "studies",
    "paper": "studies",
    "questions_of": "patching",
    "width": "studies",
    "world_update": "recipe",
}
__all__ = [
    "ATLANTIS",
    "BUILT_IN",
    "CHECKS",
    "PRESETS",
    "TASKS",
    "Batch",
    "Component",
    "Data",
    "Dataset",
    "Prompt",
    "PythonTask",
    "Recipe",
    "Stream",
    "Study",
    "Task",
    "Vocabulary",
    "World",
    "WorldSpec",
    "asked",
    "demo",
    "dose_runs",
    "integration",
    "label",
    "mini",
    "paper",
    "questions_of",
    "sample",
    "task",
    "width",
    "world_update",
]
__getattr__ = on_first_use(__name__, _DOOR)

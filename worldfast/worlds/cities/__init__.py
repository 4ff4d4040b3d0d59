"""Cities on a plane, which a model knows only through answers to questions: arXiv 2602.00533."""

import importlib

_DOOR = {  # a name and its module, which is imported when it is asked for
    "Dataset": "dataset",
    "Prompt": "prompts",
    "Batch": "sampling",
    "Component": "sampling",
    "Stream": "sampling",
    "sample": "sampling",
    "PRESETS": "studies",
    "Recipe": "studies",
    "Study": "studies",
    "demo": "studies",
    "mini": "studies",
    "paper": "studies",
    "width": "studies",
    "world_update": "studies",
    "TASKS": "tasks",
    "Task": "tasks",
    "label": "tasks",
    "PythonTask": "python_task",
    "task": "python_task",
    "Vocabulary": "tokens",
    "ATLANTIS": "world",
    "World": "world",
    "WorldSpec": "world",
}
__all__ = sorted(_DOOR)


def __getattr__(name):
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)

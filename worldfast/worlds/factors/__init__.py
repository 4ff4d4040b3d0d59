"""Latent points behind noise and a random encoder, and yes-no questions about them: arXiv 2407.11249."""

import importlib

from worldfast.worlds.factors.dataset import Dataset, Trials

_DOOR = {  # the other names and their modules, on first use
    "best_accuracy": "theory",
    "bound": "theory",
    "trilaterated": "theory",
}
__all__ = ["Dataset", "Trials", "best_accuracy", "bound", "trilaterated"]


def __getattr__(name):
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)

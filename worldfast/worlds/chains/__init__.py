"""Walks through Markov chains, to be looked up or inferred from context: arXiv 2412.01003."""

import importlib

from worldfast.worlds.chains.dataset import Dataset, Walks

_DOOR = {  # the other names and their modules, which import all of the instrument, on first use
    "ANALYSES": "analyses",
    "PRESETS": "studies",
    "Study": "studies",
    "demo": "studies",
    "divergence": "predictors",
    "interpolate": "interpolation",
    "mini": "studies",
    "model": "studies",
    "paper": "studies",
    "predict": "predictors",
}
__all__ = [
    "ANALYSES",
    "PRESETS",
    "Dataset",
    "Study",
    "Walks",
    "demo",
    "divergence",
    "interpolate",
    "mini",
    "model",
    "paper",
    "predict",
]


def __getattr__(name):
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)

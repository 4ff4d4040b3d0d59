"""Walks through Markov chains, to be looked up or inferred from context: arXiv 2412.01003."""

from worldfast.doors import on_first_use
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
__getattr__ = on_first_use(__name__, _DOOR)

"""Walks on graphs, whose nodes carry fixed names or names of the row: arXiv 2501.00070."""

from worldfast.doors import on_first_use
from worldfast.worlds.walks.dataset import Dataset, Walks
from worldfast.worlds.walks.graphs import Graph, graph_of

_DOOR = {  # the other names and their modules, which import all of the instrument, on first use
    "ANALYSES": "analyses",
    "PRESETS": "studies",
    "Study": "studies",
    "class_means": "geometry",
    "demo": "studies",
    "following": "geometry",
    "measures": "geometry",
    "mini": "studies",
    "mixed": "geometry",
    "model": "studies",
    "null_states": "geometry",
    "paper": "studies",
    "recall": "geometry",
    "wide_limit": "geometry",
}
__all__ = [
    "ANALYSES",
    "PRESETS",
    "Dataset",
    "Graph",
    "Study",
    "Walks",
    "class_means",
    "demo",
    "following",
    "graph_of",
    "measures",
    "mini",
    "mixed",
    "model",
    "null_states",
    "paper",
    "recall",
    "wide_limit",
]
__getattr__ = on_first_use(__name__, _DOOR)

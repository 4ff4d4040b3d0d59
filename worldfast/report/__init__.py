"""The page of a study, and its figures."""

import importlib

_DOOR = {  # name -> its module, imported on first use
    "Catalogue": "figures.catalogue",
    "Tasks": "colours",
    "count": "words",
    "listed": "words",
    "number": "words",
    "publish": "report",
    "write": "report",
}
__all__ = sorted(_DOOR)


def __getattr__(name):
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)

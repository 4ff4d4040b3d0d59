"""The page of a study, and its figures."""

import importlib

_DOOR = {  # name -> its module, imported on first use
    "CKA_STOPS": "colours",
    "DIVERGING_STOPS": "colours",
    "INK": "colours",
    "NEW": "colours",
    "TASK_HUES": "colours",
    "Tasks": "colours",
    "PALETTE": "colours",
    "group_colours": "colours",
    "spread_hues": "colours",
    "publish": "report",
    "write": "report",
    "listed": "words",
    "number": "words",
    "plain": "words",
}
__all__ = sorted(_DOOR)


def __getattr__(name):
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)

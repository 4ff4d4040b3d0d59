"""The page of a study, and its figures."""

from worldfast.doors import on_first_use

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
__getattr__ = on_first_use(__name__, _DOOR)

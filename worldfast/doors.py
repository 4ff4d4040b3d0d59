"""Doors of rooms: names whose modules are imported when they are first used, so that a door is light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(door: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Parameters
    ----------
    door : str
        Name of the package.
    modules : mapping of str to str
        Names that it offers, and the modules of the package that have them. worldfast.studies.sources reads it from the
        package's `_DOOR`.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {door!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{door}.{modules[name]}"), name)

    return get

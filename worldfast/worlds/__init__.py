"""Worlds: a folder each. The command line and the package's door import them, no other room does."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from worldfast.errors import unknown_name

__all__ = ["handed", "preset", "presets"]


def handed(name: str) -> dict[str, Any]:
    """Return what worlds hand over under a name, by world: "PRESETS", or "CHECKS", the checks of `worldfast doctor`."""
    folders = [world.name for world in pkgutil.iter_modules(__path__) if world.ispkg]
    given = {world: getattr(importlib.import_module(f"{__name__}.{world}"), name, None) for world in folders}
    return {world: own for world, own in given.items() if own is not None}


def presets() -> dict[str, Callable]:
    """Return the preset studies of all worlds by name, "cities.demo"; a world lists its own in `PRESETS`."""
    of_worlds = handed("PRESETS").items()
    return {f"{world}.{name}": make for world, own in of_worlds for name, make in own.items()}


def preset(name: str, **options):
    """Build the preset study of a name.

    Parameters
    ----------
    name : str
        "cities.demo"; the world may be left out where only one has such a preset.
    **options
        Arguments of the preset, such as `scale`.

    Raises
    ------
    ValueError
        No preset or more than one has that name, or the preset lacks an option.
    """
    known = presets()
    fits = [full for full in known if name in (full, full.partition(".")[2])]
    if not fits:
        short = [full.partition(".")[2] for full in known]
        names = [one if short.count(one) == 1 else full for one, full in zip(short, known)]
        error = unknown_name("study", name, names)
        raise ValueError(f"{error}; or the path of a Python file that defines `study`")
    if len(fits) > 1:
        raise ValueError(f"study: {name!r} is a preset of several worlds: say {' or '.join(fits)}")
    make = known[fits[0]]
    for option in options:
        if option not in inspect.signature(make).parameters:
            raise ValueError(f"{option}: the preset {name!r} has no such option")
    study = make(**options)
    if options.keys() <= {"scale"}:  # which the command line has
        given = "".join(f" --{option} {value:g}" for option, value in options.items())
        object.__setattr__(study, "made_by", f"worldfast study run {name}{given}")
    return study

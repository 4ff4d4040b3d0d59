"""Worlds: a folder each. The command line and the package's door import them, no other room does."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable

from worldfast.errors import unknown_name

__all__ = ["preset", "presets"]


def presets() -> dict[str, Callable]:
    """Return the preset studies of all worlds by name, "cities.demo"; a world lists its own in `PRESETS`."""
    found = {}
    for world in pkgutil.iter_modules(__path__):
        if world.ispkg:
            own = getattr(importlib.import_module(f"{__name__}.{world.name}"), "PRESETS", {})
            found |= {f"{world.name}.{name}": make for name, make in own.items()}
    return found


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

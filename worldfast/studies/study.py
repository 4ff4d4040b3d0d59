"""A study: the runs it is made of, and what is read from them."""

from __future__ import annotations

from dataclasses import dataclass

from worldfast.errors import unknown_name
from worldfast.run import Run
from worldfast.worlds.cities.world import ATLANTIS

__all__ = ["Study"]

NEW = f"region == '{ATLANTIS}'"
OLD = f"region != '{ATLANTIS}'"
SHOWN = 12  # runs at most that the page shows moving, where the study does not say which


@dataclass(frozen=True)
class Study:
    """Runs that are trained, read and compared together.

    name        of the study, and of its folder
    canon       the runs that its findings are about
    extensions  more runs, read and listed like the others, and left out of averages
    layer       whose activations are compared where one layer is asked for; every captured one is probed
    cities      those that representations are compared on: an expression for World.select
    test_rows   rows of each task, and of each with Atlantis, that a model is scored on; 0: none
    shown       names of the runs that the page shows moving; (): the first ones
    patched     names of two runs: states of the first are put into the second (worldfast.reading.patching); (): none

    ValueError where there is no run, two have one name or one id, a run starts from one that is not in the study, or
    a run does not capture the layer.
    """

    name: str
    canon: tuple[Run, ...]
    extensions: tuple[Run, ...] = ()
    layer: int = 5
    cities: str = OLD
    test_rows: int = 1000
    shown: tuple[str, ...] = ()
    patched: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("canon", "extensions", "shown", "patched"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.canon:
            raise ValueError(f"study {self.name!r}: canon is empty, expected at least one run")
        names: dict[str, Run] = {}
        ids: dict[str, Run] = {}
        for run in self.runs:
            if run.name in names:
                raise ValueError(f"study {self.name!r}: two runs are named {run.name!r}")
            if run.id in ids:
                raise ValueError(
                    f"study {self.name!r}: {run.name!r} is {ids[run.id].name!r} again: give it a seed, or whatever "
                    "makes it another run; its name does not"
                )
            captured = run.capture.of(run.model.layers)
            if self.layer not in captured:
                raise ValueError(f"layer: {run.name!r} captures layers {list(captured)}, not {self.layer}")
            names[run.name] = ids[run.id] = run
        for run in self.runs:
            if isinstance(run.start, Run) and run.start.id not in ids:
                raise ValueError(
                    f"study {self.name!r}: {run.name!r} starts from {run.start.name!r} ({run.start.id}), which is not "
                    "in the study: add it"
                )
        for name in self.shown + self.patched:
            if name not in names:
                raise unknown_name("run", name, names)
        if len(self.patched) not in (0, 2):
            raise ValueError(f"patched: expected the names of two runs or none, got {list(self.patched)}")

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.canon + self.extensions

    @property
    def shown_runs(self) -> tuple[Run, ...]:
        by_name = {run.name: run for run in self.runs}
        return tuple(by_name[name] for name in self.shown) or self.runs[:SHOWN]

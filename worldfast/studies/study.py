"""A study: the runs it is made of, and what is made of them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldfast.display import html_facts
from worldfast.errors import unknown_name
from worldfast.run import Run
from worldfast.studies.analyses import Analysis

__all__ = ["Study", "load_study"]

SHOWN = 12  # runs at most that the page shows moving, where the study does not say which


@dataclass(frozen=True)
class Study:
    """Runs that are trained, read and compared together.

    A world has a subclass of its own that fills in the last four fields: worldfast.worlds.cities.Study.

    Attributes
    ----------
    name : str
        Name of the study, and of its folder.
    canon : sequence of Run
        Runs that its findings are about.
    extensions : sequence of Run
        More runs, read and listed like the others, and left out of averages.
    layer : int, optional
        Layer whose activations are compared where one is asked for; every captured one is probed. By default the last
        but one of the first run's model.
    shown : sequence of str
        Names of the runs that the page shows moving; by default the first 12.
    test_rows : int
        Rows of each task that a model is scored on; 0: none.
    analyses : sequence of Analysis
        Tables that are made of its runs.
    tables : callable, optional
        (study, out, {kind: tables that were made}) -> {name: DataFrame}: those, and what follows from them. By default
        worldfast.studies.common_tables.
    figures : callable, optional
        ({name: DataFrame of the canon}, world, layer) -> [(name, matplotlib Figure, caption)].
    findings : callable, optional
        (study, {name: DataFrame}, runs that the page shows, their CKA [M, M]) -> Findings.

    Raises
    ------
    ValueError
        No run, two runs of one name or one id, a run that starts from one that is not in the study, or a run that does
        not capture the layer.
    """

    name: str
    canon: tuple[Run, ...]
    extensions: tuple[Run, ...] = ()
    layer: int | None = None
    shown: tuple[str, ...] = ()
    test_rows: int = 1000
    analyses: tuple[Analysis, ...] = ()
    tables: Callable | None = None
    figures: Callable | None = None
    findings: Callable | None = None

    def __post_init__(self):
        for name in ("canon", "extensions", "shown", "analyses"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.canon:
            raise ValueError(f"study {self.name!r}: canon is empty, expected at least one run")
        if self.layer is None:
            object.__setattr__(self, "layer", max(1, self.canon[0].model.layers - 1))
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
        for name in self.shown:
            if name not in names:
                raise unknown_name("run", name, names)

    @property
    def runs(self) -> tuple[Run, ...]:
        return self.canon + self.extensions

    @property
    def shown_runs(self) -> tuple[Run, ...]:
        by_name = {run.name: run for run in self.runs}
        return tuple(by_name[name] for name in self.shown) or self.runs[:SHOWN]

    def shown_of(self, finished: Sequence[Run]) -> list[Run]:
        """Runs that the page shows, of those that finished: the first of all where none of the chosen ones did."""
        ids = {run.id for run in finished}
        return [run for run in self.shown_runs if run.id in ids] or list(finished[:1])

    def _repr_html_(self) -> str:
        facts = {"runs": f"{len(self.canon):,} of the canon, {len(self.extensions):,} more", "layer": self.layer}
        facts["analyses"] = ", ".join(one.kind for one in self.analyses)
        return html_facts(f"Study {self.name}", facts | {"shown": ", ".join(run.name for run in self.shown_runs)})

    def world_of(self, run: Run) -> object | None:
        """The world of a run as figures and the page draw it; a world's own study has one."""
        return None


# ---- from a file ----


def load_study(path: str | os.PathLike) -> Study:
    """The study that a Python file defines under the name `study`.

    Parameters
    ----------
    path : str or path
        A file that is run as it stands.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no Python file, or defines no `study`.
    TypeError
        Its `study` is something else than a Study.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise ValueError(f"study: expected a Python file, got '{path}'")
    if not path.is_file():
        raise FileNotFoundError(f"study: there is no file '{path}'")
    name = f"study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # while it is run, for dataclasses that look up their module
    sys.path.insert(0, str(path.resolve().parent))  # as when it is run by itself
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
        del sys.modules[name]  # a cluster's workers cannot import it: they are sent its functions themselves
    if not hasattr(module, "study"):
        near = [key for key, value in vars(module).items() if isinstance(value, Study)]
        there = f"; {near[0]!r} is one: call it `study`" if near else ""
        raise ValueError(f"study: '{path}' defines no `study`, such as study = Study('mine', runs){there}")
    if not isinstance(module.study, Study):
        raise TypeError(f"study: that of '{path}' should be a Study, it is of type {type(module.study).__name__}")
    return module.study

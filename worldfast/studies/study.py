"""A study: its runs, and the analyses, tables, figures and findings made from them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from worldfast.classes import Named, load_defined
from worldfast.dataset import entity_ids
from worldfast.display import html_facts
from worldfast.errors import file_name, one_of, several, typed, whole
from worldfast.run import Run
from worldfast.studies.analyses import Analysis
from worldfast.studies.scene import Scene, Subject, scene_of
from worldfast.studies.standard import ANALYSES, findings

__all__ = ["Study", "load_study"]

OF_MANY = (
    ("canon", Run, "a worldfast.Run", "a sequence of worldfast.Run"),
    ("extensions", Run, "a worldfast.Run", "a sequence of worldfast.Run"),
    ("shown", str, "the name of a run", "names of runs"),
    ("analyses", Analysis, "a worldfast.studies.Analysis", "a sequence of worldfast.studies.Analysis"),
)
SHOWN = 12  # runs that the page animates unless the study names them


@dataclass(frozen=True)
class Study(Named):
    """Runs that are trained, analysed and compared together.

    A world may have its own subclass with analyses, tables, figures and findings of its own.

    Attributes
    ----------
    name : str
        Name of the study, and of its folder.
    canon : sequence of Run
        Runs that the findings are about.
    extensions : sequence of Run
        Further runs, analysed and listed like the others but excluded from averages.
    layer : int, optional
        Layer whose activations are compared if a single one is needed; every captured one is probed. By default, the
        last but one of the first run's model.
    shown : sequence of str
        Names of the runs that the page animates; by default, the first 12.
    test_rows : int
        Test rows per task; 0 for no test.
    analyses : sequence of Analysis, optional
        Analyses of its runs; by default, worldfast.studies.ANALYSES, which suit any world.
    tables : callable, optional
        (study, out, {kind: tables of the analyses}) -> {name: DataFrame}: those tables, and others derived from them.
        By default, worldfast.studies.common_tables.
    figures : callable, optional
        ({name: DataFrame of the canon}, scene, layer) -> [worldfast.report.figures.Drawn]. By default, those of
        worldfast.report that suit any world.
    findings : callable, optional
        (study, {name: DataFrame}, runs shown on the page, their CKA [M, M]) -> Findings. By default, what the default
        analyses found.
    subject : Subject
        What its page calls the entities of its world, units, and which attributes are drawn as a map.

    Raises
    ------
    TypeError
        A field does not fit; the message names it.
    ValueError
        The name cannot be that of a folder, there is no run, two runs have the same name or id, a run starts from one
        that is not in the study, a run does not capture the layer, or its dataset has no such rows.

    Examples
    --------
    >>> import worldfast as wf
    >>> from worldfast.worlds import cities
    >>> data = cities.Dataset(("distance", "angle"), rows=10_000)
    >>> study = wf.Study("seeds", [wf.Run(data, seed=seed, name=f"pair-s{seed}") for seed in range(3)])
    >>> [run.name for run in study.runs]
    ['pair-s0', 'pair-s1', 'pair-s2']
    >>> study.layer
    5
    """

    name: str
    canon: tuple[Run, ...]
    extensions: tuple[Run, ...] = ()
    layer: int | None = None
    shown: tuple[str, ...] = ()
    test_rows: int = 1000
    analyses: tuple[Analysis, ...] = None  # type: ignore[assignment]  # those of __post_init__
    tables: Callable | None = None
    figures: Callable | None = None
    findings: Callable | None = None
    subject: Subject = field(default_factory=Subject)

    made_by = ""  # no field: the command that runs it, set by who made it; a study with other fields has another

    def __post_init__(self) -> None:
        file_name("name", self.name)
        if self.analyses is None:
            object.__setattr__(self, "analyses", ANALYSES)
            object.__setattr__(self, "findings", self.findings or findings)
        for name, kind, each, expected in OF_MANY:
            values = several(name, getattr(self, name), expected)
            object.__setattr__(self, name, tuple(typed(f"{name}[{i}]", v, kind, each) for i, v in enumerate(values)))
        for name in ("tables", "figures", "findings"):
            typed(name, getattr(self, name), Callable | None, "a function or None")
        typed("subject", self.subject, Subject, "a worldfast.studies.Subject")
        object.__setattr__(self, "test_rows", whole("test_rows", self.test_rows, 0))
        kinds = [one.kind for one in self.analyses]
        if "films" in kinds and "pca" not in kinds:
            raise ValueError(
                "analyses: 'films' needs 'pca' beside it, the share of variance along the components that it shows; "
                f"got {', '.join(kinds)}: add that of worldfast.studies.ANALYSES"
            )
        if not self.canon:
            raise ValueError(f"study {self.name!r}: canon is empty, expected at least one run")
        if self.layer is None:
            object.__setattr__(self, "layer", max(1, self.canon[0].model.layers - 1))
        object.__setattr__(self, "layer", whole("layer", self.layer, 0))
        names: dict[str, Run] = {}
        ids: dict[str, Run] = {}
        for run in self.runs:
            if run.name in names:
                raise ValueError(f"study {self.name!r}: two runs are named {run.name!r}")
            if run.id in ids:
                raise ValueError(
                    f"study {self.name!r}: {run.name!r} is the same run as {ids[run.id].name!r}: change its seed or "
                    "another field; a name does not make it another run"
                )
            captured = run.capture.of(run.model.layers)
            if self.layer not in captured:
                raise ValueError(f"layer: {run.name!r} captures layers {list(captured)}, not {self.layer}")
            names[run.name] = ids[run.id] = run
        for run in {(type(run.data), str(run.data.to_json())): run for run in self.runs}.values():
            run.stream()  # what is wrong with its rows is said now, not when the study has begun
        for run in self.runs:
            if isinstance(run.start, Run) and run.start.id not in ids:
                raise ValueError(
                    f"study {self.name!r}: {run.name!r} starts from {run.start.name!r} ({run.start.id}), which is not "
                    "in the study: add it"
                )
        for name in self.shown:
            one_of("run", name, names)

    @property
    def command(self) -> str:
        """Command that runs it again; in words, if it was made neither by name nor by a file."""
        return self.made_by or f"worldfast.run_study(study), in the Python code that makes the study {self.name!r}"

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs: the canon, then the extensions."""
        return self.canon + self.extensions

    @property
    def shown_runs(self) -> tuple[Run, ...]:
        """Runs that the page animates."""
        by_name = {run.name: run for run in self.runs}
        return tuple(by_name[name] for name in self.shown) or self.runs[:SHOWN]

    def shown_of(self, finished: Sequence[Run]) -> list[Run]:
        """Return the finished runs that the page animates, all of one world, or the first finished run if none of the
        chosen ones finished.
        """
        ids = {run.id for run in finished}
        return self.of_one_world([run for run in self.shown_runs if run.id in ids] or list(finished[:1]))

    def of_one_world(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs that are read at the same entities as the first."""
        known: dict[str, list[str]] = {}

        def entities(run: Run) -> list[str]:
            key = f"{run.data.digest} {run.capture.readout!r}"
            if key not in known:
                known[key] = entity_ids(run.readout(), run.data.digest).tolist()
            return known[key]

        return [run for run in runs if entities(run) == entities(runs[0])]

    def _repr_html_(self) -> str:
        facts = {"runs": f"{len(self.canon):,} of the canon, {len(self.extensions):,} more", "layer": self.layer}
        facts["analyses"] = ", ".join(one.kind for one in self.analyses)
        return html_facts(f"Study {self.name}", facts | {"shown": ", ".join(run.name for run in self.shown_runs)})

    def scene_of(self, run: Run) -> Scene:
        """Return the scene of a run's world, which figures and the page draw."""
        return scene_of(self.subject, run.data, run.readout())


# ---- from a file ----


def load_study(path: str | os.PathLike) -> Study:
    """Return the study that a Python file defines under the name `study`.

    Parameters
    ----------
    path : path
        A Python file, which is executed and stays imported under its own name.

    Returns
    -------
    Study

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        It is not a Python file, has the name of a module that is imported, or does not define `study`.
    TypeError
        Its `study` is not a Study.
    """
    study = load_defined(path, "study", Study, "Study('mine', runs)")
    object.__setattr__(study, "made_by", f"worldfast study run {shlex.quote(str(path))}")
    return study

"""What is read from trained runs: analyses as specs, each a table that is made once.

    <out>/readings/<kind>-<id>.csv     the table
                   <kind>-<id>.json    what it is of, and its origin; written before the table

A reading's id is the hash of its kind, its options, the ids of its runs, and the code that makes it, so that
whatever is edited makes what depends on it again and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldfast import files
from worldfast.analysis import alignment, cka, dimension, generalisation, procrustes
from worldfast.analysis.probe import held_out, probe_table
from worldfast.reading import Activations, gradients, patching
from worldfast.run import Run
from worldfast.studies import Study
from worldfast.studies.study import NEW, OLD
from worldfast.training import load
from worldfast.worlds.cities.evaluate import evaluate
from worldfast.worlds.cities.tasks import TASKS
from worldfast.worlds.cities.world import ATLANTIS

if TYPE_CHECKING:
    import pandas

__all__ = ["Reading", "Trained", "compute", "last_states", "made", "make", "of_study"]

SHARES = (0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0)  # of training, for CKA over it
NEIGHBOURS = 10
AGREEMENT_ROWS, AGREEMENT_GROUPS = 1024, 4  # of each task in a group
PATCHED_ROWS = 200  # at most


@dataclass(frozen=True)
class Reading:
    """An analysis of some runs: `kind` is a key of KINDS, `options` its keyword arguments, values that JSON keeps."""

    kind: str
    runs: tuple[Run, ...]
    options: Mapping = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        content = [self.kind, [run.id for run in self.runs], dict(self.options), _code()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.id}"

    def path(self, out: Path) -> Path:
        return out / "readings" / f"{self.name}.csv"


@cache
def _code() -> str:
    """The hash of all that turns activations and answers into numbers."""
    cities, package = Path(__file__).parent, Path(__file__).parents[2]
    names = ("evaluate", "integration", "prediction", "tasks", "transfer")
    sources = [
        Path(__file__),
        *sorted((package / "analysis").glob("*.py")),
        *(package / "reading" / name for name in ("gradients.py", "patching.py")),
        *(cities / f"{name}.py" for name in names),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


class Trained:
    """A run that has ended, in its folder."""

    def __init__(self, run: Run, out: Path):
        self.run, self.name, self.folder = run, run.name, out / "runs" / run.folder_name
        self.world = run.world.build()

    @cached_property
    def activations(self) -> Activations:
        return Activations(self.folder)

    @cached_property
    def cities(self) -> np.ndarray:
        return self.activations.cities

    @property
    def xy(self) -> np.ndarray:
        return self.world.xy[self.cities]

    @property
    def new(self) -> np.ndarray:
        """bool [n], cities of Atlantis among those captured."""
        return self.world.region[self.cities] == ATLANTIS

    def chosen(self, cities: str) -> np.ndarray:
        """bool [n], those of the captured cities that an expression selects. ValueError where it selects none."""
        chosen = self.world.select(cities)[self.cities]
        if not chosen.any():
            raise ValueError(f"cities: {cities!r} selects none of the {len(chosen):,} cities captured of {self.name!r}")
        return chosen


# ---- of one run ----


def evaluation(trained: list[Trained], rows: int) -> pandas.DataFrame:
    """Every task on rows without Atlantis, and, where the world has it, on rows that must include it.

    Columns run, task, group, metric, unit, value, constant (what the best constant answer scores), n, unparsable.
    """
    import pandas as pd

    (one,) = trained
    run, ensemble = load(one.folder)
    groups = {"standard": {"among": OLD}}
    if (one.world.region == ATLANTIS).any():
        groups[ATLANTIS] = {"must_include": NEW}
    table = []
    for task in TASKS.values():
        for group, where in groups.items():
            score = evaluate(ensemble, 0, one.world, task.name, rows, run.seed, vocabulary=run.vocabulary, **where)
            found = {"run": one.name, "task": task.name, "group": group, "metric": task.metric, "unit": task.unit}
            table.append(found | asdict(score))
    return pd.DataFrame(table)


def probes(trained: list[Trained]) -> pandas.DataFrame:
    """A linear probe of every captured layer at every checkpoint, fitted and tried on cities outside Atlantis."""
    (one,) = trained
    old = ~one.new
    read = _Chosen(one.activations, old)
    rows = [one.run.rows_at(step)[0] for step in read.steps]  # seen before the next
    return probe_table(read, read.layers, one.xy[old], held_out(int(old.sum())), rows=rows, run=one.name)


class _Chosen:
    """Activations of some of the cities."""

    def __init__(self, activations, chosen):
        self.activations, self.chosen = activations, chosen
        self.steps, self.layers = activations.steps, activations.layers

    def __getitem__(self, key):
        return self.activations[key][self.chosen]


def generalised(trained: list[Trained]) -> pandas.DataFrame:
    """Where a probe fitted on world cities places those, others, and Atlantis: each layer at the last checkpoint."""
    import pandas as pd

    (one,) = trained
    fit_on, groups = generalisation.choose_cities(one.new)
    groups = {name: chosen for name, chosen in groups.items() if chosen.any()}
    last = one.activations.steps[-1]
    return pd.concat(
        [
            generalisation.probe_generalisation(
                one.activations[last, layer], one.xy, fit_on, groups, cities=one.cities, run=one.name, layer=layer
            )
            for layer in one.activations.layers
        ],
        ignore_index=True,
    )


# ---- of several together ----


def last_states(trained: list[Trained], layer: int, cities: str) -> dict[str, np.ndarray]:
    """Name -> [n, d], at the last checkpoint, of the cities that an expression selects."""
    return {one.name: one.activations[one.activations.steps[-1], layer][one.chosen(cities)] for one in trained}


def likeness(trained: list[Trained], layers: list[int], cities: str) -> pandas.DataFrame:
    """CKA of all pairs at the last checkpoint: linear and RBF, plain and debiased, and of three components."""
    import pandas as pd

    parts = []
    for layer in layers:
        states = last_states(trained, layer, cities)
        parts.append(cka.cka_table(states, ("linear", "rbf"), (False, True), layer=layer, step_share=1.0))
        parts.append(cka.cka_table(states, "linear", False, 3, layer=layer, step_share=1.0))
    return pd.concat(parts, ignore_index=True)


def likeness_over_training(trained: list[Trained], layer: int, cities: str) -> pandas.DataFrame:
    """Linear CKA of all pairs at shares of their training."""
    read = {one.name: one.activations for one in trained}
    return cka.cka_over_training(read, layer, SHARES[:-1], use=trained[0].chosen(cities))


def disparities(trained: list[Trained], layer: int, cities: str) -> pandas.DataFrame:
    return procrustes.procrustes_table(last_states(trained, layer, cities), layer=layer)


def neighbours(trained: list[Trained], layer: int, cities: str) -> pandas.DataFrame:
    return alignment.mutual_knn_table(last_states(trained, layer, cities), NEIGHBOURS, layer=layer)


def dimensions(trained: list[Trained], layer: int, cities: str) -> pandas.DataFrame:
    return dimension.dimension_table(last_states(trained, layer, cities), layer=layer)


# ---- what pulls and what carries ----


def agreements(trained: list[Trained], rows: int) -> pandas.DataFrame:
    """The cosine of tasks' gradients on rows with Atlantis, at a model that has not been taught it."""
    (one,) = trained
    new, every = int((one.world.region == ATLANTIS).sum()), len(one.world)
    pairs = new * (2 * every - new - 1) // 2  # that distance and compass have to give, once each; 80% of them to train
    few = pairs * 8 // 10 // AGREEMENT_GROUPS
    return gradients.gradient_agreement(one.folder, rows=min(rows, few), repeats=AGREEMENT_GROUPS, must_include=NEW)


def patches(trained: list[Trained], rows: int, positions: list[str]) -> pandas.DataFrame:
    """The first run's hidden states put into the second, both of which were taught Atlantis."""
    source, target = trained
    tasks = sorted(set(source.run.tasks) | set(target.run.tasks), key=list(TASKS).index)
    return patching.activation_patching(
        source.folder, target.folder, tasks, positions=positions, rows=rows, must_include=NEW
    )


KINDS: dict[str, Callable] = {
    "evaluation": evaluation,
    "probes": probes,
    "generalisation": generalised,
    "cka": likeness,
    "cka_over_training": likeness_over_training,
    "procrustes": disparities,
    "mutual_knn": neighbours,
    "dimension": dimensions,
    "agreement": agreements,
    "patching": patches,
}


# ---- of a study ----


def of_study(study: Study, ended: Mapping[str, bool]) -> list[Reading]:
    """What is read of a study. `ended`: run id -> whether it finished; runs that did not are left out."""
    runs = [run for run in study.runs if ended.get(run.id)]
    found = [Reading("probes", (run,)) for run in runs]
    found += [Reading("generalisation", (run,)) for run in runs]
    if study.test_rows:
        found += [Reading("evaluation", (run,), {"rows": study.test_rows}) for run in runs]
    bases = {run.start.id for run in study.canon if isinstance(run.start, Run)}
    found += [Reading("agreement", (run,), {"rows": AGREEMENT_ROWS}) for run in runs if run.id in bases]
    by_name = {run.name: run for run in runs}
    if study.patched and study.test_rows and all(name in by_name for name in study.patched):
        options = {"rows": min(PATCHED_ROWS, study.test_rows), "positions": ["included", "question", "all"]}
        found.append(Reading("patching", tuple(by_name[name] for name in study.patched), options))
    canon = {run.id for run in study.canon}
    pretrained = [run for run in runs if run.start is None and run.id in canon]
    alike = [run for run in pretrained if run.model == pretrained[0].model and run.world == pretrained[0].world]
    if len(alike) > 1:
        layers = list(alike[0].capture.of(alike[0].model.layers))
        one = {"layer": study.layer, "cities": study.cities}
        found.append(Reading("cka", tuple(alike), {"layers": layers, "cities": study.cities}))
        found += [
            Reading(kind, tuple(alike), one) for kind in ("cka_over_training", "procrustes", "mutual_knn", "dimension")
        ]
    return found


def compute(reading: Reading, out: Path) -> pandas.DataFrame:
    """The table of a reading: as it stands below `out`, or made and written there. Its runs have ended there.

    Errors: those of the analyses, naming what does not fit; then nothing is written.
    """
    import pandas as pd

    if not made(reading, out):
        make(reading, out)
    return pd.read_csv(reading.path(out), keep_default_na=False, na_values=["nan"])


def made(reading: Reading, out: Path) -> bool:
    return reading.path(out).exists()


def make(reading: Reading, out: Path) -> None:
    """Makes a reading's table and writes it below `out`. Errors as for `compute`."""
    path = reading.path(out)
    table = KINDS[reading.kind]([Trained(run, out) for run in reading.runs], **reading.options)
    about = {
        "kind": reading.kind,
        "runs": [run.id for run in reading.runs],
        "options": dict(reading.options),
        "code": _code(),
        "origin": files.origin("cpu"),
    }
    files.folder(path.parent, "out")
    files.write_whole(path.with_suffix(".json"), json.dumps(about, indent=1).encode())
    files.write_table(path, table)

"""Results of a study: the arrays and tables behind its figures and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldfast import frames as pd
from worldfast.display import count, html_facts
from worldfast.run import Run
from worldfast.studies.scene import Scene

NULL = "null "  # before the name of a null, in columns of the table "probes"


def _shapes(owner: str, arrays: dict[str, tuple[np.ndarray, tuple[int, ...]]]) -> None:
    """Raise ValueError for the first array that does not have its shape; -1 stands for any length."""
    for name, (array, shape) in arrays.items():
        came = np.shape(array)
        if len(came) != len(shape) or any(want not in (-1, have) for have, want in zip(came, shape)):
            wanted = ", ".join("any" if want == -1 else str(want) for want in shape)
            raise ValueError(f"{owner}: {name} has shape {came}, expected ({wanted})")


@dataclass(frozen=True)
class RunResult:
    """One trained model and its analyses at S checkpoints, for N entities.

    `loss`, `r2` and `error` may hold NaN: a failed run is a finding.

    Parameters
    ----------
    name : str
        Name of the run.
    tasks : tuple of str
        Names of its tasks, or the label of its dataset.
    spec : dict
        The run as `Run.to_json` writes it.
    folder : str
        Folder of the run.
    seconds : float
        Training time.
    loss_rows : ndarray
        int64 [K], rows seen when each loss was measured.
    loss : ndarray
        float64 [K], mean training loss per scored place.
    steps : ndarray
        int64 [S], optimizer steps at each checkpoint.
    rows : ndarray
        int64 [S], rows seen at each checkpoint.
    r2 : ndarray
        float64 [S, k], held-out R2 of the linear probe for each of `columns`.
    error : ndarray
        float64 [S], median distance of held-out entities from their places on the map; NaN without a map or a unit.
    predicted : ndarray
        float32 [S, N, 2], the probe's place for every entity; without a map, its first two components.
    held_out : ndarray
        bool [N], entities that the probe was not fitted on.
    components : ndarray
        float32 [S, N, 3], first three principal components, aligned over steps.
    explained : ndarray
        float64 [3], share of variance along them at the last checkpoint.
    scores : dict
        Test metric by task, a mean absolute error or an accuracy; may be empty.
    mixed : ndarray, optional
        float32 [S, N, 3], coordinates along the probe's directions of the map's axes, and the rest.
    columns : tuple of str
        Attributes that the probe reads.
    nulls : mapping of str to float
        R2 of the same probe, mean over the attributes, of what stands beside the model without being one.

    Raises
    ------
    ValueError
        Shapes disagree, there is no checkpoint, or a predicted place or a component is not finite.
    """

    name: str
    tasks: tuple[str, ...]
    spec: dict
    folder: str
    seconds: float
    loss_rows: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    rows: np.ndarray
    r2: np.ndarray
    error: np.ndarray
    predicted: np.ndarray
    held_out: np.ndarray
    components: np.ndarray
    explained: np.ndarray
    scores: dict[str, float]
    mixed: np.ndarray | None = None
    columns: tuple[str, ...] = ("x", "y")
    nulls: Mapping[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "ft" (fine-tuned) if the run started from another run's weights, else "pt" (pretrained)."""
        return "ft" if self.spec.get("start") else "pt"

    @property
    def fit(self) -> np.ndarray:
        """Mean of R2 over the attributes at each checkpoint, float64 [S]; NaN if there are none."""
        return self.r2.mean(1) if self.columns else np.full(len(self.steps), nan)

    def __post_init__(self) -> None:
        count, n = len(self.steps), len(self.held_out)
        if count == 0:
            raise ValueError(f"run {self.name!r}: steps is empty, expected at least one checkpoint")
        _shapes(
            f"run {self.name!r}",
            {
                "loss": (self.loss, np.shape(self.loss_rows)),
                "loss_rows": (self.loss_rows, (-1,)),
                "steps": (self.steps, (-1,)),
                "rows": (self.rows, (count,)),
                "r2": (self.r2, (count, len(self.columns))),
                "error": (self.error, (count,)),
                "predicted": (self.predicted, (count, n, 2)),
                "held_out": (self.held_out, (-1,)),
                "components": (self.components, (count, n, 3)),
                "explained": (self.explained, (3,)),
                **({} if self.mixed is None else {"mixed": (self.mixed, (count, n, 3))}),
            },
        )
        for name in ("predicted", "components", "mixed"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"run {self.name!r}: {name} holds values that are not finite")


@dataclass(frozen=True)
class Comparison:
    """One of our numbers beside the published one.

    Attributes
    ----------
    what : str
        Quantity compared, in words.
    ours : float
        NaN if not measured.
    ours_error : float
        Standard error; NaN if unknown, as for a single run.
    ours_n : int
        Number of values that ours is the mean of.
    unit : str
        Unit of both numbers; "" for a pure number.
    published : float
        NaN if never published.
    published_error : float
        Standard error; NaN if not given. A standard deviation is not one: it belongs in `note`.
    source : str
        Source of the published number: paper, figure.
    note : str
        Facts needed to compare the two, such as a correction of the published number.
    counted : str
        What `ours_n` counts: "model", "pair of models".
    """

    what: str
    ours: float
    ours_error: float
    ours_n: int
    unit: str
    published: float
    published_error: float
    source: str
    note: str = ""
    counted: str = ""

    @property
    def difference(self) -> float:
        """Ours minus published."""
        return self.ours - self.published

    @property
    def difference_error(self) -> float:
        """Standard error of the difference of two independent numbers; NaN if either is unknown."""
        known = np.isfinite([self.difference, self.ours_error, self.published_error]).all()
        return float(np.hypot(self.ours_error, self.published_error)) if known else nan


class Findings(NamedTuple):
    """Conclusions of a study: plain sentences, the main one first, and our numbers beside published ones."""

    sentences: list[str]
    published: Sequence[Comparison] = ()


@dataclass(frozen=True)
class StudyResult:
    """M runs over one world of N entities, compared with each other.

    Parameters
    ----------
    name : str
        Name of the study.
    world : Scene
        The entities, as the page draws them.
    runs : list of RunResult
        Runs that the page shows: all, a selection or, without films, none.
    cka : ndarray
        float64 [M, M], linear CKA of their activations at the last checkpoint.
    cka_layer : int
        Layer of those activations.
    test_rows : int
        Test rows per task of a model.
    findings : list of str
        Conclusions in plain sentences, the main one first.
    machine : dict
        Processor, threads, system and versions, in words.
    seconds : float
        Time that training and reading took.
    command : str
        Command that runs the study again.
    version, commit, date : str
        Version and commit of worldfast, and the day, in ISO 8601.
    tables : dict
        DataFrames of every run by name: "runs", "probes" ...
    figures : sequence of tuple
        Each a name, its file (PNG or SVG, or several of one figure, of which the page takes the smallest), and a
        sentence on what it shows.
    published : sequence of Comparison
        Our numbers beside published ones.
    specs : dict
        Specs of every run by name; {} for those of `runs`.

    Raises
    ------
    ValueError
        A run has other entities than the world, or `cka` is not [M, M].
    """

    name: str
    world: Scene
    runs: list[RunResult]
    cka: np.ndarray
    cka_layer: int
    test_rows: int
    findings: list[str]
    machine: dict[str, str]
    seconds: float
    command: str
    version: str
    commit: str
    date: str
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: Sequence[tuple[str, bytes | tuple[bytes, ...], str]] = ()
    published: Sequence[Comparison] = ()
    specs: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for run in self.runs:
            _shapes(f"run {run.name!r}", {"held_out": (run.held_out, (len(self.world),))})
        _shapes(f"study {self.name!r}", {"cka": (self.cka, (len(self.runs), len(self.runs)))})

    def _repr_html_(self) -> str:
        facts = {"runs": ", ".join(run.name for run in self.runs), "findings": " ".join(self.findings)}
        facts["tables"] = ", ".join(f"{name} ({count(len(table), 'row')})" for name, table in self.tables.items())
        return html_facts(f"Results of the study {self.name}", facts | {"made again by": self.command})


# ---- from tables ----


def run_result(
    run: Run,
    folder: Path,
    film: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    layer: int,
    seconds: float,
    scene: Scene,
) -> RunResult:
    """Return the page's results of a run.

    Parameters
    ----------
    run : Run
    folder : Path
        Its folder.
    film : DataFrame
        Its table "films": S checkpoints of N entities each.
    tables : mapping of str to DataFrame
        Tables of the study.
    layer : int
        Layer of the film and of its curves.
    seconds : float
        Training time.
    scene : Scene
        Its world.

    Returns
    -------
    RunResult
    """
    of_run = {name: table[table.run == run.name] for name, table in tables.items() if "run" in table}
    if scene.columns and "probes" not in of_run:
        raise ValueError(
            f"analyses: 'films' of {run.name!r} need 'probes' beside them, the scores of the probe that they show"
        )
    steps, scores = film.step.unique(), {}
    probes = of_run["probes"] if scene.columns else film.drop_duplicates("step").assign(layer=layer)
    probes = probes[probes.layer == layer].set_index("step").reindex(steps)
    if "evaluation" in of_run:
        standard = of_run["evaluation"][of_run["evaluation"].group == "standard"]
        scores = dict(zip(standard.task, standard.value))
    n = len(film) // len(steps)

    def moving(name: str, ends: str) -> np.ndarray:
        values = film[[f"{name}_{end}" for end in ends]].to_numpy(np.float32)
        return values.reshape(-1, n, len(ends))

    return RunResult(
        name=run.name,
        tasks=tasks_of(run),
        spec=run.to_json(),
        folder=str(folder),
        seconds=seconds,
        loss_rows=of_run["curves"].rows.to_numpy(np.int64),
        loss=of_run["curves"].loss.to_numpy(np.float64),
        steps=steps.astype(np.int64),
        rows=np.array([run.rows_at(int(step))[0] for step in steps]),
        r2=probes[[f"r2_{name}" for name in scene.columns]].to_numpy(np.float64),
        error=probes.median_error.to_numpy() if "median_error" in probes else _off(film, scene, len(steps)),
        predicted=moving("predicted", "xy") if "predicted_x" in film else moving("component", "12"),
        held_out=film.held_out.to_numpy(bool)[:n],
        components=moving("component", "123"),
        explained=of_run["pca"].explained.to_numpy(np.float64),
        scores={task: scores[task] for task in getattr(run.data, "tasks", scores) if task in scores},
        mixed=moving("mixed", "123") if "mixed_1" in film else None,
        columns=scene.columns,
        nulls={name.removeprefix(NULL): float(probes[name].iloc[-1]) for name in null_columns(probes)},
    )


def null_columns(probes: pd.DataFrame) -> list[str]:
    """Return the columns of the table "probes" that hold R2 of nulls: those of NULL and a name, with any number."""
    return [name for name in probes if str(name).startswith(NULL) and probes[name].notna().any()]


def _off(film: pd.DataFrame, scene: Scene, steps: int) -> np.ndarray:
    """Return the median distance of held-out entities from their places at each step; NaN where it has no unit."""
    if scene.xy is None or not scene.metric:
        return np.full(steps, nan)
    held = film.held_out.to_numpy(bool)
    off = film[["predicted_x", "predicted_y"]].to_numpy(np.float64) - np.tile(scene.xy, (steps, 1))
    return np.median(np.linalg.norm(off[held], axis=1).reshape(steps, -1), axis=1)


def tasks_of(run: Run) -> tuple[str, ...]:
    """Return the names of a run's tasks, or the label of its dataset if it has none."""
    return tuple(getattr(run.data, "tasks", (run.data.label,)))


def square(names: Sequence[str], *tables: pd.DataFrame, value: str = "value") -> np.ndarray:
    """Return tables of pairs as one symmetric matrix.

    Parameters
    ----------
    names : sequence of str
        [M], runs.
    *tables : DataFrame
        Columns run, other and `value`.
    value : str
        Column to show.

    Returns
    -------
    ndarray
        float64 [M, M], with ones on the diagonal; NaN if no table has the pair.
    """
    matrix = np.full((len(names), len(names)), nan)
    np.fill_diagonal(matrix, 1.0)
    at = {name: i for i, name in enumerate(names)}
    for table in tables:
        for pair in table[table.run.isin(at) & table.other.isin(at)].itertuples():
            i, j = at[pair.run], at[pair.other]
            matrix[i, j] = matrix[j, i] = getattr(pair, value)
    return matrix

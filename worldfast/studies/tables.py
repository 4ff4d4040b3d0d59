"""Tables that every study has, in any world: those of its analyses, its runs, and their losses.

runs     one row per run: its specification, and how it ended; a world's own tables say which group it was taught, and
         whether it learned
curves   loss over training
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldfast import frames as pd
from worldfast.errors import OF_CONTENT
from worldfast.files import there
from worldfast.folder import metrics as read_metrics
from worldfast.outcome import outcome
from worldfast.run import Run
from worldfast.studies.results import tasks_of

if TYPE_CHECKING:
    from worldfast.studies.study import Study


def common_tables(study: Study, out: Path, made: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Return the tables of a study.

    Parameters
    ----------
    study : Study
    out : Path
        Folder that holds runs/.
    made : mapping of str to sequence of DataFrame
        Kind of an analysis -> its tables.

    Returns
    -------
    dict of str to DataFrame
        "runs", "curves", and a table of each kind.
    """
    losses = [
        {"run": run.name} | {name: line[name] for name in ("step", "rows", "loss")}
        for run in study.runs
        for line in metrics(run, out)
        if line.get("loss") is not None
    ]
    curves = pd.DataFrame(losses, columns=["run", "step", "rows", "loss"])
    found = {kind: pd.concat(parts, ignore_index=True) for kind, parts in made.items()}
    return {"runs": _runs(study, out, curves)} | found | {"curves": curves}


def metrics(run: Run, out: Path) -> Iterator[dict]:
    """Yield the lines of a run's metrics.jsonl, checked as in `worldfast.folder.metrics`; none before it starts.

    Nor of a run that has not ended and is damaged: it keeps no other from being read, and its error comes in training.
    """
    folder = out / "runs" / run.folder_name
    try:
        yield from read_metrics(folder) if there(folder) else ()
    except OF_CONTENT:
        if outcome(run, out / "runs").ended:
            raise


def _runs(study: Study, out: Path, curves: pd.DataFrame) -> pd.DataFrame:
    losses = curves.groupby("run").loss.last()
    canon = {run.id for run in study.canon}
    table = []
    for run in study.runs:
        ending = outcome(run, out / "runs")
        table.append(
            {
                "run": run.name,
                "id": run.id,
                "kind": "ft" if run.start else "pt",
                "canon": run.id in canon,
                "tasks": "+".join(tasks_of(run)),
                "n_tasks": len(tasks_of(run)),
                "seed": run.seed,
                "base": run.start.name if isinstance(run.start, Run) else "",
                "width": run.model.hidden,
                "group": "",
                "steps": ending.step,
                "rows": run.rows_at(ending.step)[0],
                "seconds": ending.seconds,
                "status": ending.status,
                "learned": ending.finished,
                "loss": losses.get(run.name, np.nan),
            }
        )
    return pd.DataFrame(table)


# ---- lines of tables ----


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of each run's last checkpoint, by the column "step"."""
    return table[table["step"] == table.groupby("run")["step"].transform("max")]


def whole_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of each run's whole rows: of the most tokens read, by the column "context"."""
    return table[table["context"] == table.groupby("run")["context"].transform("max")]

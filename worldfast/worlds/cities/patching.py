"""Questions for activation patching (`worldfast.reading.activation_patching`): rows, and where their cities stand."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from worldfast.arrays import ArrayLike
from worldfast.display import count
from worldfast.errors import one_of, whole
from worldfast.reading import Questions
from worldfast.run import Run
from worldfast.worlds.cities.sampling import Batch, sample
from worldfast.worlds.cities.tasks import Task, find
from worldfast.worlds.cities.tokens import EOS
from worldfast.worlds.cities.world import World

__all__ = ["POSITIONS", "questions_of", "token_positions"]

POSITIONS = {  # name -> in words
    "entity": "the tokens of cities",
    "included": "the tokens of new cities",
    "last": "the last tokens of cities",
    "equals": "the equals sign",
    "question": "all of the question",
    "all": "the question and the answer so far",
}


def questions_of(
    run: Run,
    tasks: str | Task | Iterable[str | Task] | None = None,
    *,
    positions: str | Iterable[str] = ("entity", "equals", "all"),
    rows: int = 200,
    must_include: str | ArrayLike | None = None,
    among: str | ArrayLike | None = None,
    world: World | None = None,
    seed: int | None = None,
    split: str = "test",
) -> dict[str, Questions]:
    """Return questions in the vocabulary of a run, by task.

    Parameters
    ----------
    run : Run
        Run whose model answers them.
    tasks : str, Task or iterable of them, optional
        Tasks, or their names; None means the run's.
    positions : str or iterable of str
        Positions at which states are replaced: "entity", all tokens of the row's cities; "included", those of its
        cities from must_include; "last", each city's last token and the delimiter after it, whose states represent a
        city; "equals", the '=' before the answer; "question", every token up to and including it; "all", those of the
        answer too, which both models then read as it is given.
    rows : int
        Rows of each task.
    must_include, among, split, seed
        Those of the rows, as for `sample`: "region == 'Atlantis'". None as seed means the run's.
    world : World, optional
        World of the rows; None means the run's.

    Returns
    -------
    dict of str to Questions

    Raises
    ------
    ValueError
        Positions are unknown, "included" is given without must_include, or the world has not as many entities as the
        run's. Also the errors of `sample`.
    """
    rows = whole("rows", rows, 1)
    groups = [positions] if isinstance(positions, str) else list(positions)
    for group in groups:
        _require_positions(group, must_include)
    world = run.data.world.build() if world is None else world
    included = None if must_include is None else world.select(must_include)
    chosen = run.data.tasks if tasks is None else [tasks] if isinstance(tasks, str | Task) else tasks
    found = {}
    for task in map(find, chosen):
        batch = sample(
            world,
            task,
            rows,
            run.seed if seed is None else seed,
            split=split,
            among=among,
            must_include=must_include,
            vocabulary=run.data.vocabulary,
            crossing=run.data.crossing,
        )
        if batch.vocabulary.size != run.shape.inputs:
            raise ValueError(
                f"world: its vocabulary has {count(batch.vocabulary.size, 'token')}, that of {run.name!r} "
                f"{run.shape.inputs:,}: with entities, both need as many cities"
            )
        at = {group: token_positions(batch, task, group, included) for group in groups}
        score = partial(_scores, task, batch)
        found[task.name] = Questions(batch.tokens, batch.answer_start, at, score, EOS, task.metric, ("all",))
    return found


def token_positions(batch: Batch, task: str | Task, group: str, included: np.ndarray | None = None) -> np.ndarray:
    """Return the positions of a group's tokens in a batch of one task's rows, up to the '='.

    Parameters
    ----------
    batch : Batch
    task : str or Task
    group : str
        One of POSITIONS; see `questions_of`. "all" here equals "question".
    included : ndarray, optional
        bool [N], the cities of "included".

    Returns
    -------
    ndarray
        bool [n, T].
    """
    task = find(task)
    _require_positions(group, included)
    column = np.arange(batch.tokens.shape[1])
    equals = batch.answer_start[:, None] - 1  # [n, 1]
    if group in ("question", "all"):
        return column <= equals
    if group == "equals":
        return column == equals
    size = len(batch.vocabulary.city_tokens(0))
    city, within = np.divmod(column - len(task.prompt) - 2, size + 1)  # <bos>, prompt, '(' come before the first
    there = (0 <= city) & (city < batch.cities.shape[1])
    index = np.where(there, batch.cities[:, np.where(there, city, 0)], -1)  # [n, T], -1: no city's
    if group == "last":
        return (index >= 0) & (within >= size - 1)
    inside = (index >= 0) & (within < size)
    return inside & included[index] if group == "included" else inside


def _scores(task: Task, batch: Batch, answers: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return each row's score, float64 [n], and the number of answers that cannot be read."""
    return task.score(batch.label, [batch.vocabulary.decode(answer) for answer in answers])


def _require_positions(group: str, included) -> None:
    one_of("positions", group, POSITIONS)
    if group == "included" and included is None:
        raise ValueError("positions: 'included' are tokens of cities from must_include, which is None")

"""Runs of a study of cities: a `Recipe` defines how those of one size are trained; `Recipe.pretrain` and `world_update`
make them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from worldfast.classes import Named
from worldfast.errors import one_of, typed, whole
from worldfast.models import TransformerSpec
from worldfast.run import Run
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.dataset import Dataset
from worldfast.worlds.cities.groups import any_of, outside
from worldfast.worlds.cities.tasks import Task, one_or_more
from worldfast.worlds.cities.world import NEW
from worldfast.worlds.cities.world_spec import WorldSpec

__all__ = ["Recipe", "world_update"]

RECIPE = (
    ("world", WorldSpec, "a WorldSpec"),
    ("group", str, "an expression for World.select"),
    ("amount", Mapping, "(rows, epochs) by the number of tasks"),
    ("updates", Mapping, "epochs by the number of tasks"),
    ("settings", Mapping, "fields of Run and Dataset by name"),
)


@dataclass(frozen=True)
class Recipe(Named):
    """Training of a study's runs; the defaults are those of arXiv 2602.00533.

    Parameters
    ----------
    world : WorldSpec
        World of all runs.
    model : TransformerSpec
        Model of all runs.
    group : str
        Cities that pretraining leaves out and fine-tunes teach, an expression for World.select.
    amount : mapping of int to (int, int)
        Number of tasks -> (rows of each task in an epoch, epochs); a number in between uses the next smaller entry.
    standard, included, alive : int
        Rows of a fine-tune in an epoch: of each of its tasks without the group, of each with it, and of each task of
        its base.
    updates : mapping of int to int
        Number of tasks -> epochs of a fine-tune.
    update_rate : float
        Learning rate of a fine-tune.
    settings : mapping
        Other fields of Run and Dataset.

    Examples
    --------
    >>> recipe = cities.Recipe()
    >>> base = recipe.pretrain(("distance", "angle"), seed=42)
    >>> tuned = recipe.finetune(base, ("angle",))
    >>> base.epochs, tuned.name, tuned.start == base
    (21, 'ft-angle-s42', True)
    """

    world: WorldSpec = field(default_factory=lambda: WorldSpec(atlantis=100))
    model: TransformerSpec = field(default_factory=TransformerSpec)
    group: str = NEW
    amount: Mapping[int, tuple[int, int]] = field(
        default_factory=lambda: {1: (1_000_000, 42), 2: (1_000_000, 21), 3: (1_000_000, 14), 7: (1_000_000, 6)}
    )
    standard: int = 20_000
    included: int = 100_000
    alive: int = 256
    updates: Mapping[int, int] = field(default_factory=lambda: {1: 30, 2: 30, 3: 20})
    update_rate: float = 1e-5
    settings: Mapping = field(default_factory=dict)

    def __post_init__(self):
        for name, kind, expected in RECIPE:
            typed(name, getattr(self, name), kind, expected)
        for name in ("standard", "included", "alive"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0))

    def pretrain(self, tasks: Sequence[str | Task] | str | Task, seed: int = Run.seed, **changes) -> Run:
        """Return a run on tasks from initial weights, without the group.

        Parameters
        ----------
        tasks : str, Task or sequence of them
        seed : int
        **changes
            Fields of Run and of its Dataset.

        Raises
        ------
        ValueError, TypeError
            A task is unknown, or a field does not fit.
        """
        tasks = one_or_more(tasks)
        rows, epochs = self.amount[max((n for n in self.amount if n <= len(tasks)), default=min(self.amount))]
        ours = {"world": self.world, "model": self.model, "among": outside(self.group), "rows": rows, "epochs": epochs}
        about_data, about_run = _parted(ours | dict(self.settings) | {"seed": seed} | changes)
        return Run(Dataset(tasks, **about_data), **about_run)

    def finetune(self, base: Run, tasks: Sequence[str | Task] | str | Task, **changes) -> Run:
        """Return a run that teaches `base` the group by some tasks.

        Parameters
        ----------
        base : Run
        tasks : str, Task or sequence of them
        **changes
            Arguments of `world_update`.
        """
        tasks = one_or_more(tasks)
        ours = {
            "group": self.group,
            "standard": self.standard,
            "included": self.included,
            "alive": self.alive,
            "epochs": self.updates[max((n for n in self.updates if n <= len(tasks)), default=min(self.updates))],
            "learning_rate": self.update_rate,
        }
        return world_update(base, tasks, **(ours | changes))


def _parted(changes: Mapping) -> tuple[dict, dict]:
    """Split changes into those that are fields of a Dataset, and those of a Run."""
    names = {one.name for one in fields(Dataset)}
    known = [*sorted(names), *(one.name for one in fields(Run))]
    for name in changes:
        one_of("field of a Run or its Dataset", name, known)
    return {k: v for k, v in changes.items() if k in names}, {k: v for k, v in changes.items() if k not in names}


def world_update(
    base: Run,
    tasks: Sequence[str | Task] | str | Task,
    group: str = NEW,
    *,
    standard: int = 20_000,
    included: int = 100_000,
    alive: int = 256,
    alive_among: str = "group",
    epochs: int = 30,
    learning_rate: float = 1e-5,
    **changes: Any,
) -> Run:
    """Return a fine-tune that teaches a pretrained model a group of cities by some tasks.

    Optimizer and schedule start afresh. Source: the fine-tuning mixtures of arXiv 2602.00533.

    Parameters
    ----------
    base : Run
        Run whose last weights it starts from.
    tasks : str, Task or sequence of them
        Tasks by which the group is taught.
    group : str
        Cities to teach, an expression for World.select; Atlantis by default.
    standard : int
        Rows of each of `tasks` without the group; what the rows of the base leave out, they leave out too.
    included : int
        Rows of each of `tasks` that include a city of the group.
    alive : int
        Rows of each task of the base, which keep that task alive.
    alive_among : {"group", "rest"}
        Those rows include a city of the group, as in the published data, or none.
    epochs : int
    learning_rate : float
    **changes
        Other fields of Run and of its Dataset; by default those of the base.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        A task is unknown, there is no row, or `alive_among` is unknown. If the world has too few pairs for rows that
        never repeat, training raises the error.

    Examples
    --------
    >>> data = cities.Dataset("distance", world=wf.WorldSpec(atlantis=100), among="region != 'Atlantis'")
    >>> tuned = cities.world_update(wf.Run(data), "angle", included=1000)
    >>> tuned.name, [(part.task, part.rows) for part in tuned.data.mixture]
    ('ft-angle-s42', [('angle', 20000), ('angle', 1000), ('distance', 256)])
    """
    typed("base", base, Run, "a worldfast.Run")
    typed("group", group, str, "an expression for World.select")
    tasks = tuple(map(base.data.task, one_or_more(tasks)))
    amounts = {"standard": standard, "included": included, "alive": alive}
    standard, included, alive = (whole(name, rows, 0) for name, rows in amounts.items())
    names = [task.name for task in tasks]
    one_of("alive_among", alive_among, ("group", "rest"))
    rest, every, seen = outside(group), None, base.data.among
    if seen is not None and not base.data.world.build().select(any_of((seen, group))).all():
        rest, every = f"({seen}) and ({rest})", any_of((seen, group))  # what the base has never seen beside the group
    parts = [Component(task, standard, among=rest) for task in tasks]
    parts += [Component(task, included, among=every, must_include=group) for task in tasks]
    taught = {"group": included, "rest": standard}[alive_among]
    for task in base.data.tasks:
        where = {"among": every, "must_include": group} if alive_among == "group" else {"among": rest}
        parts.append(Component(task, alive, first=taught if task in names else 0, **where))  # rows that are new
    mixture = tuple(part for part in parts if part.rows)
    about_data, about_run = _parted(changes)
    data = {"tasks": tasks, "mixture": mixture, "rows": Dataset.rows, "among": None} | about_data
    options = {name: value for name, value in base.capture.readout if name != "task"}
    about_run = {
        "name": "",
        "start": base,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "capture": replace(base.capture, readout=options),
        "keep": base.keep if base.keep == "all" else (),  # steps are those of one run
    } | about_run
    return replace(base, data=replace(base.data, **data), **about_run)

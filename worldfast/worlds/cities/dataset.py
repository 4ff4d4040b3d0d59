"""Rows about cities as a dataset: its tasks, number of rows, cities and vocabulary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from worldfast import dataset
from worldfast.classes import known_fields
from worldfast.dataset import Readout, Score, Tokenizer
from worldfast.display import count
from worldfast.errors import one_of, several, typed, whole
from worldfast.models import Ensemble
from worldfast.rows import LAST_ROW, Shape
from worldfast.worlds.cities.components import CROSSINGS, Component
from worldfast.worlds.cities.evaluate import evaluate
from worldfast.worlds.cities.groups import name_of
from worldfast.worlds.cities.prompts import Prompt, prompt_of
from worldfast.worlds.cities.selection import named, unknown_texts
from worldfast.worlds.cities.stream import LOSSES, LearnedStream
from worldfast.worlds.cities.tasks import BUILT_IN, Task, find, in_python, one_or_more, task_from_json
from worldfast.worlds.cities.tokenizer import tokenizer_of
from worldfast.worlds.cities.tokens import VOCABULARIES, Vocabulary
from worldfast.worlds.cities.world import World
from worldfast.worlds.cities.world_spec import WorldSpec


@dataclass(frozen=True)
class Dataset(dataset.Dataset):
    """Rows of tasks about a world's cities. Defaults are those of arXiv 2602.00533.

    Parameters
    ----------
    tasks : str, Task or sequence of them
        Names, or tasks made with `worldfast.task`, mixed in equal parts. They are stored as names.
    rows : int
        Rows of each task in an epoch.
    mixture : sequence of Component
        Composition of an epoch, for more than `rows` of each task; `rows` and `among` are then left out. `tasks`, some
        of those in the mixture, name the subject of the dataset.
    among : str, optional
        Cities that rows may use, an expression for World.select; None means all.
    crossing : {"balanced", "reshuffled"}
        As for `sample`.
    vocabulary : {"character", "entity"}
    loss : {"all", "answer"}
        Learn every token after the first, or those after '='.
    world : WorldSpec
    own : sequence of Task
        Its tasks that were made in Python. They need not be given: they are found in `tasks` and `mixture`, or by name.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> data = cities.Dataset(("distance", "angle"), rows=1000, among="region != 'Oceania'")
    >>> data.label, data.epoch_rows
    ('distance+angle', 2000)
    >>> data.stream(seed=42).batch(0, 2).inputs.dtype
    torch.int32
    """

    tasks: tuple[str, ...]
    rows: int = 1_000_000
    mixture: tuple[Component, ...] = ()
    among: str | None = None
    crossing: str = "balanced"
    vocabulary: str = "character"
    loss: str = "all"
    world: WorldSpec = field(default_factory=WorldSpec)
    own: tuple[Task, ...] = ()

    def __post_init__(self) -> None:
        tasks, own = one_or_more(self.tasks), several("own", self.own, "Tasks")
        for task in own:
            typed("own", task, Task, "Tasks made in Python")
        object.__setattr__(self, "own", own)
        object.__setattr__(self, "mixture", several("mixture", self.mixture, "Components"))
        parts = [part.task for part in self.mixture if isinstance(part, Component)]
        object.__setattr__(self, "own", in_python(self.task(task) for task in (*tasks, *parts)))
        object.__setattr__(self, "tasks", tuple(self.task(task).name for task in tasks))
        if not tasks or len(set(self.tasks)) < len(tasks):
            raise ValueError(f"tasks: expected at least one, each once, got {list(self.tasks)}")
        object.__setattr__(self, "rows", whole("rows", self.rows, 1, LAST_ROW))
        for name, known in dict(loss=LOSSES, vocabulary=VOCABULARIES, crossing=CROSSINGS).items():
            one_of(name, getattr(self, name), known)
        typed("world", self.world, WorldSpec, "a WorldSpec")
        typed("among", self.among, str | None, "an expression or None")
        self._check_mixture()

    def _check_mixture(self) -> None:
        for part in self.mixture:
            typed("mixture", part, Component, "Components")
            whole(f"mixture: rows of {part.task}", part.rows, 1)
            for name in ("among", "must_include"):
                typed(f"mixture: {name} of {part.task}", getattr(part, name), str | None, "an expression or None")
        named = tuple(replace(part, task=self.task(part.task).name) for part in self.mixture)
        object.__setattr__(self, "mixture", named)
        if not self.mixture:
            return
        if self.rows != Dataset.rows or self.among is not None:
            raise ValueError("rows and among: a mixture says how many rows it has of what; leave them out beside it")
        for task in set(self.tasks) - {part.task for part in self.mixture}:
            raise ValueError(f"mixture: it has no rows of {task}, which tasks says the run is about")

    # ---- what it is ----

    @property
    def label(self) -> str:
        return "all" if set(self.tasks) == set(BUILT_IN) else "+".join(self.tasks)

    def task(self, name: str | Task) -> Task:
        """Return the task of a name in this dataset."""
        return next((task for task in self.own if task.name == name), None) or find(name)

    @property
    def components(self) -> tuple[Component, ...]:
        """Components of an epoch."""
        return self.mixture or tuple(Component(task, self.rows, self.among) for task in self.tasks)

    @property
    def taught(self) -> dict[str, str]:
        """Groups of cities that rows must include, as those of a fine-tune do: name to expression, most rows first."""
        rows: Counter = Counter()
        for part in self.mixture:
            if part.must_include is not None:
                rows[part.must_include] += part.rows
        return {name_of(group): group for group, _ in rows.most_common()}

    @property
    def shape(self) -> Shape:
        tokens = Vocabulary.characters + (len(self.world.build()) if self.vocabulary == "entity" else 0)
        return Shape(tokens, tokens)

    @property
    def epoch_rows(self) -> int:
        return sum(part.rows for part in self.components)

    @property
    def entity_count(self) -> int:
        return len(self.world.build())

    def content(self) -> dict[str, np.ndarray]:
        return self.world.build().columns

    @property
    def digests(self) -> dict[str, str]:
        return self.world.build().digests

    def identity(self) -> dict:
        content = self.to_json()
        if content["world"]["source"] != "cities":
            content["world"]["source"] = ""
        return content

    def check(self, model: Any) -> None:
        head, characters = getattr(model, "outputs", None), Vocabulary.characters
        if head is not None and head < characters:
            raise ValueError(f"model.outputs: answers need the {characters} characters, got {head}")
        if head is not None and self.loss == "all" and (self.vocabulary == "entity" or head > characters):
            raise ValueError(
                f"model.outputs: loss 'all' needs a head for the whole vocabulary (None), got {head}; use loss='answer'"
            )

    # ---- what it gives ----

    def decode(self, tokens: np.ndarray) -> str:
        return Vocabulary(self.vocabulary, self.world.build()).decode(tokens)

    def stream(self, seed: int, split: str = "train") -> LearnedStream:
        return LearnedStream(
            self.world.build(),
            [replace(part, task=self.task(part.task)) for part in self.components],
            seed=seed,
            split=split,
            vocabulary=self.vocabulary,
            crossing=self.crossing,
            loss=self.loss,
        )

    def readout(  # type: ignore[override]  # the options of this world by name
        self,
        among: str | None = None,
        task: str | None = None,
        prompt: str | None = None,
        positions: Sequence[int | str] = ("city", "delimiter"),
    ) -> Readout:
        """Return a prompt about each city and the tokens at which it is read.

        Parameters
        ----------
        among : str, optional
            Cities, an expression for World.select; None means all.
        task : str, optional
            Task whose published prompt is used, "dist({city}," for distance; None means the first.
        prompt : str, optional
            Text after <bos> with "{city}" for the city's name, instead of a task's prompt.
        positions : sequence of int or str
            Tokens by name ("city": the last of the city's; "delimiter": the one after it; "last": the last of the
            prompt) or number, from the front with <bos> as 0, or negative from the back.

        Returns
        -------
        Readout
            Attributes are x and y in 0.1 degree; groups are the regions, and those that are `taught`.

        Raises
        ------
        ValueError
            No city is selected, a column or task is unknown, or prompt or positions do not fit.
        """
        world = self.world.build()
        chosen = np.ones(len(world), bool) if among is None else world.select(among)
        if not chosen.any():
            unknown = unknown_texts(among, world.columns)
            raise ValueError(f"among: {named(among)} selects none of {count(len(world), 'city', 'cities')}{unknown}")
        things = np.flatnonzero(chosen).astype(np.int32)
        text = prompt_of(self.task(task or self.tasks[0])) if prompt is None else prompt
        asked = Prompt(Vocabulary(self.vocabulary, world), text, things, positions)
        return Readout(
            rows=asked.rows,
            things=things,
            attributes=world.xy[things].astype(np.float64),
            columns=("x", "y"),
            groups={name: mask[things] for name, mask in self._groups(world).items()},
            about={"prompt": asked.text, "token_positions": asked.positions},
            order=asked.of_city,
            entities=world.entities[things],
        )

    def _groups(self, world: World) -> dict[str, np.ndarray]:
        """Return masks bool [N] of the world's regions, and of the groups that rows must include."""
        groups = {str(region): world.region == region for region in np.unique(world.region) if region}
        return groups | {name: world.select(group) for name, group in self.taught.items()}

    def score(
        self, ensemble: Ensemble, member: int, n: int, *, seed: int, split: str = "validation"
    ) -> dict[str, Score]:
        """Score a member on n rows of each task, drawn as the task's largest component draws them."""
        found = {}
        for task in self.tasks:
            part = max((part for part in self.components if part.task == task), key=lambda part: part.rows)
            found[task] = evaluate(
                ensemble,
                member,
                self.world.build(),
                self.task(task),
                n,
                seed,
                vocabulary=self.vocabulary,
                among=part.among,
                must_include=part.must_include,
                split=split,
            )
        return found

    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(Vocabulary(self.vocabulary, self.world.build()))

    # ---- JSON ----

    def to_json(self) -> dict:
        content = asdict(self)
        for part in content["mixture"]:
            if part["noise"] == 0:
                del part["noise"]  # keeps the identity that components had before noise existed
        content["own"] = [task.to_json() for task in self.own]  # identifies the functions
        if not self.own:
            del content["own"]
        return json.loads(json.dumps(content))

    @classmethod
    def from_json(cls, content: Mapping) -> Dataset:
        values = known_fields(cls, content)
        if "world" in values:
            values["world"] = WorldSpec(**known_fields(WorldSpec, values["world"]))
        values["own"] = tuple(map(task_from_json, values.get("own", ())))
        values["mixture"] = tuple(Component(**known_fields(Component, part)) for part in values.get("mixture", ()))
        return cls(**values)

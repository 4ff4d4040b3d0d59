"""The spec of a training run: a frozen value whose content hash is the run's identity and folder."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property

from worldfast.activations import Capture
from worldfast.errors import unknown_name
from worldfast.model import ModelSpec
from worldfast.sampling import CROSSINGS, Component, Stream
from worldfast.tasks import TASKS, find
from worldfast.tokens import VOCABULARIES, Vocabulary
from worldfast.transformer import PRODUCTS
from worldfast.world import WorldSpec

__all__ = ["Run"]

LOSSES = ("all", "answer")


@dataclass(frozen=True)
class Run:
    """One model's training, from first weights to last. Defaults are those of arXiv 2602.00533.

    tasks                    names, mixed in equal parts
    seed                     of the data and of the first weights
    name                     "": what the run is, as in "pt-distance+angle-s42"; no part of the identity
    world                    WorldSpec
    rows, epochs             rows of each task in an epoch; epochs, each in an order of its own
    batch                    rows a step; the last step of an epoch takes what is left
    learning_rate, warmup    rises linearly from 0 over `warmup` steps, then falls linearly to 0
    weight_decay             decoupled, on all but biases and norms
    clip                     largest gradient norm
    betas, eps               of AdamW
    loss                     "all": every token after the first; "answer": those after '='
    products                 what matrices are multiplied in: "float32", or "bfloat16" with float32 sums and weights
    vocabulary               "character" or "entity"
    among                    cities that rows may use: an expression for World.select; None: all
    crossing                 "balanced" or "reshuffled", as for wf.sample
    model                    ModelSpec; head_size=98 answers characters only, with loss="answer"
    checkpoints              parts that training is cut into: a checkpoint at step 0 and behind each
    capture                  Capture: which activations are written at checkpoints

    .id is 12 hexadecimal digits of the SHA-256 of the canonical JSON of all fields but the name. Raises
    ValueError, TypeError or IndexError naming the field that does not fit.
    """

    tasks: tuple[str, ...]
    seed: int = 42
    name: str = ""
    world: WorldSpec = field(default_factory=WorldSpec)
    rows: int = 1_000_000
    epochs: int = 1
    batch: int = 128
    learning_rate: float = 3e-4
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    loss: str = "all"
    products: str = "float32"
    vocabulary: str = "character"
    among: str | None = None
    crossing: str = "balanced"
    model: ModelSpec = field(default_factory=ModelSpec)
    checkpoints: int = 40
    capture: Capture = field(default_factory=Capture)

    def __post_init__(self):
        tasks = (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)
        self._set("tasks", tuple(find(task).name for task in tasks))
        if not tasks or len(set(self.tasks)) < len(tasks):
            raise ValueError(f"tasks: expected at least one, each once, got {list(self.tasks)}")
        for name, least in dict(seed=0, rows=1, epochs=1, batch=1, warmup=0, checkpoints=1).items():
            self._whole(name, least)
        for name, open_at_zero in dict(learning_rate=True, weight_decay=False, clip=True, eps=True).items():
            self._set(name, _number(name, getattr(self, name)))
            value = getattr(self, name)
            if value < 0 or (open_at_zero and value == 0):
                raise ValueError(
                    f"{name}: expected a number {'above' if open_at_zero else 'of at least'} 0, got {value}"
                )
        if len(self.betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {self.betas!r}")
        self._set("betas", tuple(_number("betas", beta) for beta in self.betas))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected numbers from 0 to below 1, got {self.betas}")
        for name, known in dict(
            loss=LOSSES, products=PRODUCTS, vocabulary=VOCABULARIES, crossing=CROSSINGS
        ).items():
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        for name, kind in dict(world=WorldSpec, model=ModelSpec, capture=Capture).items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}: expected a {kind.__name__}, got {getattr(self, name)!r}")
        if self.among is not None and not isinstance(self.among, str):
            raise TypeError(f"among: expected an expression or None, got {self.among!r}")
        self._check_head()
        self.capture.of(self.model.layers)
        self._set(
            "name",
            self.name
            or f"pt-{'all' if set(self.tasks) == set(TASKS) else '+'.join(self.tasks)}-s{self.seed}",
        )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.name):
            raise ValueError(f"name: expected letters, digits, '.', '_', '+' and '-', got {self.name!r}")

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _whole(self, name, least):
        value = getattr(self, name)
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}: expected an integer, got {value!r}")
        self._set(name, value.__index__())
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")

    def _check_head(self):
        head, characters = self.model.head_size, Vocabulary.characters
        if head is not None and head < characters:
            raise ValueError(f"model.head_size: answers need the {characters} characters, got {head}")
        if head is not None and self.loss == "all" and (self.vocabulary == "entity" or head > characters):
            raise ValueError(
                f"model.head_size: loss 'all' needs a head for the whole vocabulary (None), got {head}; "
                "use loss='answer'"
            )

    # ---- identity ----

    @cached_property
    def id(self) -> str:
        content = self.to_json()
        del content["name"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.id}"

    def to_json(self) -> dict:
        """Values that JSON keeps; `Run.from_json` gives an equal run."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def from_json(content: Mapping) -> Run:
        """The run of `to_json`. ValueError for a field that a run does not have."""
        parts = dict(world=WorldSpec, model=ModelSpec, capture=Capture)
        values = _known(Run, content)
        return Run(
            **{
                name: parts[name](**_known(parts[name], value)) if name in parts else value
                for name, value in values.items()
            }
        )

    # ---- what follows from it ----

    @property
    def components(self) -> tuple[Component, ...]:
        return tuple(Component(task, self.rows, self.among) for task in self.tasks)

    def stream(self) -> Stream:
        """The rows that the run trains on."""
        return Stream(
            self.world.build(),
            self.components,
            seed=self.seed,
            vocabulary=self.vocabulary,
            crossing=self.crossing,
        )

    @property
    def epoch_rows(self) -> int:
        return self.rows * len(self.tasks)

    @property
    def epoch_steps(self) -> int:
        return -(-self.epoch_rows // self.batch)

    @property
    def steps(self) -> int:
        return self.epoch_steps * self.epochs

    @cached_property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps taken at each checkpoint: 0 first, `steps` last."""
        return tuple(sorted({round(self.steps * i / self.checkpoints) for i in range(self.checkpoints + 1)}))

    def rows_at(self, step: int) -> tuple[int, int]:
        """The first row of the stream that a step (from 0) takes, and how many."""
        epoch, within = divmod(step, self.epoch_steps)
        first = within * self.batch
        return epoch * self.epoch_rows + first, min(self.batch, self.epoch_rows - first)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step (from 0), as the linear schedule of Hugging Face has it."""
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        return self.learning_rate * (self.steps - step) / max(1, self.steps - self.warmup)


def _number(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


def _known(kind, content):
    known = [f.name for f in fields(kind)]
    for name in content:
        if name not in known:
            raise unknown_name(f"field of {kind.__name__}", name, known)
    return content

"""The spec of a training run: a frozen value whose content hash is the run's identity and folder."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from worldfast.errors import unknown_name
from worldfast.models import TransformerSpec
from worldfast.models.transformer import MATMUL_DTYPES
from worldfast.rows import Shape
from worldfast.worlds.cities.sampling import CROSSINGS, Component, require_noise
from worldfast.worlds.cities.stream import LearnedStream
from worldfast.worlds.cities.tasks import TASKS, find
from worldfast.worlds.cities.tokens import VOCABULARIES, Vocabulary
from worldfast.worlds.cities.world import WorldSpec

__all__ = ["Capture", "OpenCheckpoint", "Run"]

LOSSES = ("all", "answer")

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Capture:
    """What of a model's activations is written at each checkpoint.

    layers   counted as in Hugging Face (0 the embeddings, the last after the final norm); None: the upper
             half, which is 3, 4, 5, 6 of six layers; (): nothing is written
    cities   an expression for World.select; None: all
    task     the task whose prompt is used, "dist(c_1234," for distance; None: the run's first
    dtype    "float32", or "float16" for half the space
    """

    layers: tuple[int, ...] | None = None
    cities: str | None = None
    task: str | None = None
    dtype: str = "float32"

    def __post_init__(self):
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            for layer in self.layers:
                if isinstance(layer, bool) or not isinstance(layer, int):
                    raise TypeError(f"capture.layers: expected integers, got {layer!r}")
        if self.cities is not None and not isinstance(self.cities, str):
            raise TypeError(f"capture.cities: expected an expression or None, got {self.cities!r}")
        if self.task is not None:
            find(self.task)
        if self.dtype not in DTYPES:
            raise unknown_name("capture.dtype", self.dtype, DTYPES)

    def of(self, depth: int) -> tuple[int, ...]:
        """The layers written of a model with `depth` layers. IndexError for one that it does not have."""
        if self.layers is None:
            return tuple(range(max(1, depth // 2), depth + 1))
        for layer in self.layers:
            if not 0 <= layer <= depth:
                raise IndexError(f"capture.layers: a model of {depth} layers has 0 to {depth}, got {layer}")
        return self.layers


@dataclass(frozen=True)
class OpenCheckpoint:
    """A folder that `export_huggingface` or transformers wrote, for a run to start from
    (docs/checkpoints.md).

    folder   where it is; no part of the identity
    sha256   of its model.safetensors; "": read from there now. Training refuses a file that has another

    FileNotFoundError where it is to be read and is not there.
    """

    folder: str
    sha256: str = ""

    def __post_init__(self):
        object.__setattr__(self, "folder", str(self.folder))
        object.__setattr__(self, "sha256", self.sha256 or self.sha256_now())

    def sha256_now(self) -> str:
        return hashlib.sha256((Path(self.folder) / "model.safetensors").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One model's training, from first weights to last. Defaults are those of arXiv 2602.00533.

    tasks                    names, mixed in equal parts
    seed                     of the data and of the first weights
    name                     "": what the run is, as in "pt-distance+angle-s42", "ft-" where it has a start;
                             no part of the identity
    world                    WorldSpec
    start                    whose weights it starts from: another Run, of which the last weights are taken,
                             or an OpenCheckpoint; optimizer and schedule begin afresh. None: first weights
                             drawn by `seed`
    rows, epochs             rows of each task in an epoch; epochs, each in an order of its own
    mixture                  Components, where `rows` of each task say too little: they are what an epoch is
                             made of, and `rows` and `among` are left out. `tasks`, some of theirs, say what
                             the run is about
    batch                    rows a step; the last step of an epoch takes what is left
    learning_rate, warmup    rises linearly from 0 over `warmup` steps, then falls linearly to 0
    weight_decay             decoupled, on all but biases and norms
    clip                     largest gradient norm
    betas, eps               of AdamW
    loss                     "all": every token after the first; "answer": those after '='
    matmul_dtype    what matrices are multiplied in: "float32", or "bfloat16" with float32 sums and weights
    vocabulary               "character" or "entity"
    among                    cities that rows may use: an expression for World.select; None: all
    crossing                 "balanced" or "reshuffled", as for wf.sample
    model                    TransformerSpec; outputs=98 answers characters only, with loss="answer"
    checkpoints              parts that training is cut into: a checkpoint at step 0 and behind each
    validation               rows of each of its tasks that are answered and scored at each checkpoint, drawn as its largest
                             component draws them; 0: none
    capture                  Capture: which activations are written at checkpoints

    .id is 12 hexadecimal digits of the SHA-256 of the canonical JSON of all fields but the name, a start by
    its id. Raises ValueError, TypeError or IndexError naming the field that does not fit.
    """

    tasks: tuple[str, ...]
    seed: int = 42
    name: str = ""
    world: WorldSpec = field(default_factory=WorldSpec)
    start: Run | OpenCheckpoint | None = None
    rows: int = 1_000_000
    mixture: tuple[Component, ...] = ()
    epochs: int = 1
    batch: int = 128
    learning_rate: float = 3e-4
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    loss: str = "all"
    matmul_dtype: str = "float32"
    vocabulary: str = "character"
    among: str | None = None
    crossing: str = "balanced"
    model: TransformerSpec = field(default_factory=TransformerSpec)
    checkpoints: int = 40
    validation: int = 0
    capture: Capture = field(default_factory=Capture)

    def __post_init__(self):
        tasks = (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)
        self._set("tasks", tuple(find(task).name for task in tasks))
        if not tasks or len(set(self.tasks)) < len(tasks):
            raise ValueError(f"tasks: expected at least one, each once, got {list(self.tasks)}")
        for name, least in dict(seed=0, rows=1, epochs=1, batch=1, warmup=0, checkpoints=1, validation=0).items():
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
            loss=LOSSES, matmul_dtype=MATMUL_DTYPES, vocabulary=VOCABULARIES, crossing=CROSSINGS
        ).items():
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        for name, kind in dict(world=WorldSpec, capture=Capture).items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}: expected a {kind.__name__}, got {getattr(self, name)!r}")
        if not hasattr(self.model, "build"):
            raise TypeError(f"model: expected a spec such as TransformerSpec or RecurrentSpec, got {self.model!r}")
        if self.among is not None and not isinstance(self.among, str):
            raise TypeError(f"among: expected an expression or None, got {self.among!r}")
        self._check_mixture()
        self._check_head()
        self._check_start()
        self.capture.of(self.model.layers)
        what = "all" if set(self.tasks) == set(TASKS) else "+".join(self.tasks)
        self._set("name", self.name or f"{'ft' if self.start else 'pt'}-{what}-s{self.seed}")
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

    def _check_mixture(self):
        for part in self.mixture:
            if not isinstance(part, Component):
                raise TypeError(f"mixture: expected Components, got {part!r}")
            for name in ("among", "must_include"):
                if not isinstance(getattr(part, name), (str, type(None))):
                    raise TypeError(f"mixture: {name} of {part.task}: expected an expression or None")
            for name, least in dict(rows=1, first=0).items():
                value = getattr(part, name)
                if isinstance(value, bool) or not isinstance(value, int):
                    raise TypeError(f"mixture: {name} of {part.task}: expected an integer, got {value!r}")
                if value < least:
                    raise ValueError(f"mixture: {name} of {part.task}: expected at least {least}, got {value}")
            require_noise(f"mixture: noise of {part.task}", part.noise)
        mixture = (replace(part, task=find(part.task).name, noise=float(part.noise)) for part in self.mixture)
        self._set("mixture", tuple(mixture))
        if not self.mixture:
            return
        if self.rows != Run.rows or self.among is not None:
            raise ValueError("rows and among: a mixture says how many rows it has of what; leave them out beside it")
        for task in set(self.tasks) - {part.task for part in self.mixture}:
            raise ValueError(f"mixture: it has no rows of {task}, which tasks says the run is about")

    def _check_start(self):
        start = self.start
        if start is None or isinstance(start, OpenCheckpoint):
            return  # what stands in the folder is looked at when training starts
        if not isinstance(start, Run):
            raise TypeError(f"start: expected a Run, an OpenCheckpoint or None, got {start!r}")
        require_same_shape(f"{start.name!r}", start.model, self.model)
        if start.vocabulary != self.vocabulary:
            raise ValueError(
                f"start: {start.name!r} has the vocabulary {start.vocabulary!r}, this run {self.vocabulary!r}"
            )

    def _check_head(self):
        head, characters = self.model.outputs, Vocabulary.characters
        if head is not None and head < characters:
            raise ValueError(f"model.outputs: answers need the {characters} characters, got {head}")
        if head is not None and self.loss == "all" and (self.vocabulary == "entity" or head > characters):
            raise ValueError(
                f"model.outputs: loss 'all' needs a head for the whole vocabulary (None), got {head}; use loss='answer'"
            )

    # ---- identity ----

    @cached_property
    def id(self) -> str:
        content = self.to_json()
        del content["name"]
        if self.start is not None:
            content["start"] = self.start.id if isinstance(self.start, Run) else self.start.sha256
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.id}"

    def to_json(self) -> dict:
        """Values that JSON keeps; `Run.from_json` gives an equal run."""
        content = asdict(self)
        for part in content["mixture"]:
            if part["noise"] == 0:
                del part["noise"]  # the identity of a run without it is that of before there was noise
        if isinstance(self.start, Run):
            content["start"] = self.start.to_json()
        return json.loads(json.dumps(content))

    @staticmethod
    def from_json(content: Mapping) -> Run:
        """The run of `to_json`. ValueError for a field that a run does not have."""
        values = dict(_known(Run, content))
        for name, kind in dict(world=WorldSpec, model=TransformerSpec, capture=Capture).items():
            if name in values:
                values[name] = kind(**_known(kind, values[name]))
        values["mixture"] = tuple(Component(**_known(Component, part)) for part in values.get("mixture", ()))
        if start := values.get("start"):
            is_run = "tasks" in start
            values["start"] = Run.from_json(start) if is_run else OpenCheckpoint(**_known(OpenCheckpoint, start))
        return Run(**values)

    # ---- what follows from it ----

    @property
    def components(self) -> tuple[Component, ...]:
        return self.mixture or tuple(Component(task, self.rows, self.among) for task in self.tasks)

    def stream(self) -> LearnedStream:
        """The rows that the run trains on."""
        return LearnedStream(
            self.world.build(),
            self.components,
            seed=self.seed,
            vocabulary=self.vocabulary,
            crossing=self.crossing,
            loss=self.loss,
        )

    @property
    def shape(self) -> Shape:
        """Shape of the rows: tokens in, tokens out."""
        return Shape(self.vocabulary_size, self.vocabulary_size)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
        return Vocabulary(self.vocabulary, self.world.build()).size

    def captured_cities(self) -> np.ndarray:
        """The cities whose activations are written, bool [N]. ValueError where there is none."""
        world = self.world.build()
        chosen = np.ones(len(world), bool) if self.capture.cities is None else world.select(self.capture.cities)
        if not chosen.any():
            raise ValueError(f"capture.cities: {self.capture.cities!r} selects no city")
        return chosen

    @property
    def epoch_rows(self) -> int:
        return sum(part.rows for part in self.components)

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


def require_same_shape(start: str, theirs: Any, ours: Any) -> None:
    """ValueError naming both where a start's weights are those of another model; how they are drawn and what computes
    with them may differ."""
    if type(theirs) is not type(ours):
        raise ValueError(f"start: {start} is a {type(theirs).__name__}, this run a {type(ours).__name__}")
    for name in (f.name for f in fields(ours) if f.name not in ("init_std", "init", "engine")):
        came, expected = getattr(theirs, name), getattr(ours, name)
        if came != expected:
            raise ValueError(f"start: {start} has model.{name} {came}, this run {expected}")


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

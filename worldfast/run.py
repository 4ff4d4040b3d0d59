"""Spec of a training run (data, model, training): a frozen value whose content hash is its identity and names its
folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from worldfast import files
from worldfast.capture import Capture, readout_of
from worldfast.classes import Named, class_at, fields_to_json, known_fields, path_of
from worldfast.dataset import Dataset, Readout, missing_of, require_options
from worldfast.display import count, html_facts
from worldfast.errors import (
    MismatchError,
    as_path,
    file_name,
    nearest_steps,
    number,
    one_of,
    positive,
    several,
    typed,
    whole,
)
from worldfast.models import MATMUL_DTYPES, TransformerSpec
from worldfast.rows import Shape, Stream, require_stream

__all__ = ["Family", "OpenCheckpoint", "Run"]

SCHEDULES = ("linear", "constant", "cosine")
SPACINGS = ("even", "log", "sqrt")
MOST_ROWS = 2**62  # that a run trains on: streams count no further
# The least and the most of each; a checkpoint is a file.
INTEGERS = {
    "seed": (0, 2**63 - 1),
    "epochs": (1, 2**31 - 1),
    "batch": (1, 2**31 - 1),
    "warmup": (0, MOST_ROWS),
    "checkpoints": (1, 10**6),
    "validation": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class OpenCheckpoint(Named):
    """Folder written by `export_huggingface` or transformers, for a run to start from (docs/checkpoints.md).

    Parameters
    ----------
    folder : path
        Location; not part of the identity.
    sha256 : str
        SHA-256 of its model.safetensors; "" computes it from the file now. Training refuses a file with another hash.

    Raises
    ------
    FileNotFoundError
        The file is to be read and does not exist.

    Examples
    --------
    >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32)
    >>> data = cities.Dataset("distance", rows=64)
    >>> run = wf.Run(data, model=spec, batch=32, checkpoints=1, capture=wf.Capture(layers=()))
    >>> [folder] = wf.train(run, "runs", device="cpu", progress=False)
    >>> opened = wf.OpenCheckpoint(wf.export_huggingface(folder, "open/distance"))
    >>> wf.Run(cities.Dataset("angle", rows=64), start=opened, model=spec, capture=run.capture).name
    'ft-angle-s42'
    """

    folder: str
    sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", str(as_path("folder", self.folder)))
        typed("sha256", self.sha256, str, "a text")
        object.__setattr__(self, "sha256", self.sha256 or self.sha256_now())

    def sha256_now(self) -> str:
        """Return the SHA-256 of the weights file as it is now."""
        content = files.read_whole(Path(self.folder) / "model.safetensors", opener=files.followed)
        return hashlib.sha256(content).hexdigest()


class Family(NamedTuple):
    """Properties that runs share if they train as one ensemble."""

    model: Any
    shape: Shape
    matmul_dtype: str


@dataclass(frozen=True)
class Run(Named):
    """Training of one model, from initial to final weights. Defaults are those of arXiv 2602.00533.

    Parameters
    ----------
    data : Dataset
        Dataset of a world, such as `worldfast.worlds.cities.Dataset`.
    seed : int
        Seed for data and initial weights.
    name : str
        Name; "" derives it, as in "pt-distance+angle-s42", with "ft-" for a run with a start. Not part of the identity.
    start : Run or OpenCheckpoint, optional
        Model whose weights it starts from, the last ones of a run; optimizer and schedule begin afresh. None means
        initial weights drawn by `seed`.
    epochs : int
        Passes over the rows, each in an order of its own.
    batch : int
        Rows of a step; the last step of an epoch takes the remaining rows.
    learning_rate : float
        Peak learning rate.
    warmup : int
        Steps in which the learning rate rises linearly from 0.
    schedule : {"linear", "constant", "cosine"}
        After warmup the learning rate falls linearly to 0, stays, or falls to 0 along half a cosine.
    weight_decay : float
        Decoupled weight decay of all parameters except biases and norms.
    clip : float, optional
        Largest gradient norm; None does not clip.
    betas, eps : (float, float), float
        Parameters of AdamW.
    matmul_dtype : {"float32", "bfloat16"}
        Type in which matrices are multiplied; sums and weights are float32.
    model : TransformerSpec, RecurrentSpec ...
        Frozen spec of a family of models.
    checkpoints : int
        Number of parts of training: there is a checkpoint at step 0 and one after each part.
    checkpoint_spacing : {"even", "log", "sqrt"}
        Spacing of checkpoints: even in steps, in logarithms of steps (from step 1 on), or in square roots of steps.
    validation : int
        Rows of each kind that are answered and scored at each checkpoint; 0 for none.
    capture : Capture
        Activations that are written at checkpoints.
    keep : "all" or sequence of int
        Steps of checkpoints whose weights stay on disk, float32 [P] each, for `worldfast.training.load(folder, step=)`.
        Of the others the last two are kept. Not part of the identity: it changes no number.

    Attributes
    ----------
    id : str
        First 12 hexadecimal digits of the SHA-256 of the canonical JSON of all fields except the name and `keep`; a
        start counts by its id, and a world by its content, wherever its file lies.

    Raises
    ------
    TypeError, ValueError, IndexError
        A field does not fit; the message names it.

    Examples
    --------
    >>> run = wf.Run(cities.Dataset(("distance", "angle"), rows=1000), seed=7, epochs=2)
    >>> run.name, run.steps
    ('pt-distance+angle-s7', 32)
    >>> run == wf.Run.from_json(run.to_json())
    True
    """

    data: Dataset
    seed: int = 42
    name: str = ""
    start: Run | OpenCheckpoint | None = None
    epochs: int = 1
    batch: int = 128
    learning_rate: float = 3e-4
    warmup: int = 50
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    matmul_dtype: str = "float32"
    model: Any = field(default_factory=TransformerSpec)
    checkpoints: int = 40
    checkpoint_spacing: str = "even"
    validation: int = 0
    capture: Capture = field(default_factory=Capture)
    keep: Any = ()

    def __post_init__(self) -> None:
        if not isinstance(self.data, Dataset):
            # Of what has the methods of one, say what is missing.
            lacks = f", which lacks {', '.join(missing_of(self.data))}" if hasattr(self.data, "stream") else ""
            raise TypeError(
                f"data: expected a dataset of a world, such as worldfast.worlds.cities.Dataset(('distance',)), "
                f"got {self.data!r:.100}{lacks}"
            )
        if not is_dataclass(self.data) or not type(self.data).__dataclass_params__.frozen:
            raise TypeError(f"data: expected a frozen dataclass, got a {type(self.data).__name__}, which is none")
        _require_identity(self.data)
        for name, (least, most) in INTEGERS.items():
            self._set(name, whole(name, getattr(self, name), least, most))
        for name in ("learning_rate", "eps", *(() if self.clip is None else ("clip",))):
            self._set(name, positive(name, getattr(self, name)))
        self._set("weight_decay", number("weight_decay", self.weight_decay))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected a number of at least 0, got {self.weight_decay}")
        self._set("betas", tuple(number("betas", beta) for beta in several("betas", self.betas, "two numbers")))
        if len(self.betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {self.betas!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected numbers from 0 to below 1, got {self.betas}")
        for name, known in dict(matmul_dtype=MATMUL_DTYPES, schedule=SCHEDULES, checkpoint_spacing=SPACINGS).items():
            one_of(name, getattr(self, name), known)
        if not _is_spec(type(self.model)):
            raise TypeError(f"model: expected a spec of models, such as TransformerSpec(), got {self.model!r:.100}")
        typed("capture", self.capture, Capture, "a Capture")
        self.data.check(self.model)
        whole("epochs times rows of an epoch", self.epochs * self.data.epoch_rows, 1, MOST_ROWS)
        self._check_start()
        self.capture.of(self.model.layers)
        require_options(self.data, dict(self.capture.readout), "option of capture.readout")
        self._check_keep()
        typed("name", self.name, str, "a text")
        self._set("name", self.name or f"{'ft' if self.start else 'pt'}-{self.data.label}-s{self.seed}")
        _require_letters("name", self.name)
        file_name("name", self.name)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_start(self) -> None:
        start = self.start
        if start is None or isinstance(start, OpenCheckpoint):
            return  # what stands in the folder is looked at when training starts
        typed("start", start, Run, "a Run, an OpenCheckpoint or None")
        require_same_shape(f"{start.name!r}", start.model, self.model)
        theirs, ours = start.data.vocabulary, self.data.vocabulary
        if theirs != ours:
            raise ValueError(f"start: {start.name!r} has the vocabulary {theirs!r}, this run {ours!r}")

    def _check_keep(self) -> None:
        if isinstance(self.keep, str) and self.keep == "all":
            return
        steps = several("keep", self.keep, "'all' or steps of checkpoints")
        self._set("keep", tuple(sorted({whole("keep", step, 0) for step in steps})))
        for step in self.keep:
            if step not in self.checkpoint_steps:
                raise ValueError(
                    f"keep: step {step:,} is not a checkpoint of this run of {count(self.steps, 'step')}; "
                    + nearest_steps(step, self.checkpoint_steps)
                )

    # ---- identity ----

    @cached_property
    def id(self) -> str:
        content = self._content(self.start and (self.start.id if isinstance(self.start, Run) else self.start.sha256))
        del content["name"], content["keep"]
        content["data"] |= self.data.identity()
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of its world's content (see `Dataset.digests`) when they were first asked for, as in its id."""
        return self.data.digests

    def require_same_world(self) -> None:
        """Raise a MismatchError if the world has changed since the run's id was computed."""
        _require_same(self.data, self.digests, "its id was computed")

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.id}"

    def to_json(self) -> dict:
        """Return the fields as values that JSON keeps; `Run.from_json` gives an equal run."""
        return self._content(
            self.start and (self.start.to_json() if isinstance(self.start, Run) else asdict(self.start))
        )

    def _content(self, start: Any) -> dict:
        """Return the fields as values that JSON keeps, with this in the place of the run that it starts from."""
        content = {f.name: getattr(self, f.name) for f in fields(self)} | {"start": start}
        content["data"] = {"class": path_of(type(self.data)), "content": self.digests} | self.data.to_json()
        content["model"] = {"class": path_of(type(self.model))} | fields_to_json("model", asdict(self.model))
        readout = fields_to_json("capture.readout", dict(self.capture.readout))
        content["capture"] = asdict(self.capture) | {"readout": readout}
        return json.loads(json.dumps(content))

    @staticmethod
    def from_json(content: Mapping) -> Run:
        """Return the run of `to_json`.

        Parameters
        ----------
        content : mapping

        Raises
        ------
        ValueError
            A field is unknown, a class does not exist, or worldfast 0.1 wrote it.
        MismatchError
            The world is another than that of the run: its content has changed.
        """
        if "tasks" in typed("content", content, Mapping, "the fields of a run by name"):
            raise ValueError(
                "a run of worldfast 0.1, whose tasks stand beside its seed; here they belong to its data, as in "
                "Run(worldfast.worlds.cities.Dataset(tasks, ...), ...): train it again, or read it with version 0.1"
            )
        values = known_fields(Run, content)
        for name in {"data"} - values.keys():
            raise ValueError(f"{name}: expected a dataset, got none")
        values["data"] = _dataset(values["data"])
        if "model" in values:
            values["model"] = _of_class(values["model"], "a spec of models", _is_spec)
        if "capture" in values:
            values["capture"] = Capture(**known_fields(Capture, values["capture"]))
        if start := values.get("start"):
            is_run = "sha256" not in start
            values["start"] = Run.from_json(start) if is_run else OpenCheckpoint(**known_fields(OpenCheckpoint, start))
        return Run(**values)

    def _repr_html_(self) -> str:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "start")}
        begins = {} if self.start is None else {"start": getattr(self.start, "folder_name", self.start)}
        facts = {"id": self.id, **begins, "steps": f"{self.steps:,}", "rows": f"{self.epoch_rows * self.epochs:,}"}
        return html_facts(f"Run {self.name}", facts | own)

    # ---- what follows from it ----

    def stream(self, split: str = "train") -> Stream:
        """Return the rows that the run trains on, or those of another split."""
        return require_stream(self.data.stream(self.seed, split), self.data)

    def readout(self) -> Readout:
        """Return the rows at which the run's checkpoints are read.

        Raises
        ------
        TypeError, ValueError
            An option does not fit the dataset, or a field of its readout does not fit the others or the shape.
        """
        return readout_of(self.data, self.capture)

    @property
    def shape(self) -> Shape:
        return self.data.shape

    @property
    def family(self) -> Family:
        """Properties that it shares with runs that train in one ensemble with it."""
        return Family(self.model, self.shape, self.matmul_dtype)

    @property
    def epoch_rows(self) -> int:
        return self.data.epoch_rows

    @property
    def epoch_steps(self) -> int:
        return -(-self.epoch_rows // self.batch)

    @property
    def steps(self) -> int:
        return self.epoch_steps * self.epochs

    @cached_property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps taken at each checkpoint: 0 first, `steps` last; fewer than `checkpoints` + 1 if two would coincide."""
        n, steps = self.checkpoints, self.steps
        if self.checkpoint_spacing == "log":
            after = [steps ** (i / (n - 1)) if n > 1 else steps for i in range(n)]
        elif self.checkpoint_spacing == "sqrt":
            after = [steps * (i / n) ** 2 for i in range(1, n + 1)]
        else:
            after = [steps * i / n for i in range(1, n + 1)]
        return tuple(sorted({0, *map(round, after)}))

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Steps of checkpoints whose weights stay on disk."""
        return self.checkpoint_steps if self.keep == "all" else self.keep

    def rows_at(self, step: int) -> tuple[int, int]:
        """Return the first row of the stream that a step (from 0) takes, and the number of rows."""
        epoch, within = divmod(whole("step", step), self.epoch_steps)
        first = within * self.batch
        return epoch * self.epoch_rows + first, min(self.batch, self.epoch_rows - first)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step (from 0), following the schedules of Hugging Face."""
        step = whole("step", step)
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        falls = max(1, self.steps - self.warmup)  # steps
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / falls))
        return self.learning_rate * (self.steps - step) / falls


def _require_identity(data: Dataset) -> None:
    """Raise a TypeError or ValueError if the label or a field of a dataset cannot be part of a run's identity."""
    typed("label", data.label, str, "a text, as an attribute or a property of the dataset")
    _require_letters("label", data.label)
    data.to_json()  # which names a field that JSON does not keep
    try:
        hash(data)
    except TypeError as error:
        raise TypeError(
            f"data: expected fields that cannot change, such as a tuple, got {data!r:.100}: {error}"
        ) from None


def _require_letters(what: str, text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise ValueError(
            f"{what}: expected letters, digits, '.', '_', '+' and '-', a letter or digit first, got {text!r:.100}"
        )


SPEC = ("build", "parameters", "layers", "hidden", "cpu_bytes", "on_gpu")  # that a family's spec has


def _is_spec(kind: type) -> bool:
    """Return True for a spec of models: a dataclass that builds ensembles."""
    return is_dataclass(kind) and all(hasattr(kind, name) for name in SPEC)


def require_same_shape(start: str, theirs: Any, ours: Any) -> None:
    """Raise a ValueError naming both if a start's weights are those of another model; initial scale and engine may
    differ.
    """
    if type(theirs) is not type(ours):
        raise ValueError(f"start: {start} is of {type(theirs).__name__}, this run of {type(ours).__name__}")
    for name in (f.name for f in fields(ours) if f.name not in ("init_std", "init", "recurrence", "engine")):
        came, expected = getattr(theirs, name), getattr(ours, name)
        if came != expected:
            raise ValueError(f"start: {start} has model.{name} {came}, this run {expected}")


def _dataset(content: Any) -> Dataset:
    """Return the dataset of `Run.to_json`, after checking that its world still has the content that it had."""
    stated = content.get("content") if isinstance(content, Mapping) else None
    if stated is not None:
        content = {name: value for name, value in content.items() if name != "content"}
    data = _of_class(content, "a Dataset", lambda kind: issubclass(kind, Dataset))
    if stated is not None:
        _require_same(data, dict(stated), "it was trained")
    return data


def _require_same(data: Dataset, then: Mapping[str, str], when: str) -> None:
    now = data.digests
    if now != then:
        changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        raise MismatchError(
            f"the world of its run has changed since {when}: {', '.join(changed)} of {data!r:.300} differ. Put the "
            "world back as it was, in its order; or make the run anew, which is then another one"
        )


def _of_class(content: Mapping, what: str, fits: Callable[[type], bool]) -> Any:
    """Return an instance of the class whose path stands beside its fields."""
    if not isinstance(content, Mapping) or "class" not in content:
        raise ValueError(f"expected the fields of {what} and its class, got {content!r:.100}")
    kind = class_at(content["class"], what, fits)
    fields_of = {name: value for name, value in content.items() if name != "class"}
    return kind.from_json(fields_of) if hasattr(kind, "from_json") else kind(**known_fields(kind, fields_of))

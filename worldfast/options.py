"""Options of `worldfast train`: the fields of a run by name, in groups, each a line of its help."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagConversionOff, FlagCreatePairsOff, UseAppendAction, arg

from worldfast.errors import unknown_name
from worldfast.folder import done, metrics, spec_of
from worldfast.models import RecurrentSpec, TransformerSpec
from worldfast.run import Capture, Run
from worldfast.worlds.cities import BUILT_IN, Dataset, WorldSpec

__all__ = ["Data", "Files", "Kept", "Learning", "Machine", "Model", "ending", "runs"]

KINDS = ("transformer", "rnn", "lstm")

Whole, Number, Text, Place = (arg(metavar=name) for name in ("N", "X", "TEXT", "PATH"))


def _or_none(kind, metavar: str):
    """An option that may be None, whose default its help says in words."""
    return Annotated[kind | None, arg(metavar=metavar, help_behavior_hint="")]


AnyWhole, AnyNumber = _or_none(int, "N"), _or_none(float, "X")
Files = UseAppendAction[
    Annotated[
        tuple[Path, ...],
        arg(metavar="FILE", help_behavior_hint="", help="A Python file with tasks or worlds of your own; repeatable."),
    ]
]
AnyText, AnyPath = _or_none(str, "TEXT"), _or_none(Path, "PATH")
AnyTexts, AnyWholes = _or_none(tuple[str, ...], "TEXT ..."), _or_none(tuple[int, ...], "N ...")


@dataclass(frozen=True)
class Data:
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK ...")]
    """Tasks of each model, such as distance angle; or all."""
    seeds: Annotated[tuple[int, ...], arg(metavar="N ...")] = (Run.seed,)
    """Seeds for data and initial weights; one model per seed."""
    rows: Annotated[int, Whole] = Dataset.rows
    """Rows of each task in an epoch."""
    epochs: Annotated[int, Whole] = Run.epochs
    """Passes over the rows, each in another order."""
    vocabulary: Annotated[str, Text] = Dataset.vocabulary
    """character; or entity: one token a city, easier to learn."""
    among: AnyText = Dataset.among
    """Cities that rows may use, such as "region != 'Atlantis'"; all by default."""
    crossing: Annotated[str, Text] = Dataset.crossing
    """Rows of crossing: balanced, or reshuffled, 26 % TRUE."""
    world: Annotated[str, Text] = WorldSpec.source
    """cities, or the path of a CSV file."""
    atlantis: Annotated[int, Whole] = WorldSpec.atlantis
    """Number of cities of Atlantis to add to the world."""
    layout: Annotated[str, Text] = WorldSpec.layout
    """Layout of Atlantis: clustered or scattered."""
    atlantis_seed: Annotated[int, Whole] = WorldSpec.atlantis_seed
    """Seed for the places of Atlantis's cities."""
    largest: Annotated[int, Whole] = WorldSpec.largest
    """Keep only the N most populous cities of the world; 0 keeps all."""


@dataclass(frozen=True)
class Learning:
    start: AnyPath = None
    """Folder of a run in --out whose last weights to start from."""
    loss: Annotated[str, Text] = Dataset.loss
    """Tokens to learn: all after the first, or answer, those after '='."""
    matmul_dtype: Annotated[str, Text] = Run.matmul_dtype
    """float32; or bfloat16, faster: weights stay float32."""
    batch: Annotated[int, Whole] = Run.batch
    """Rows in a step."""
    learning_rate: Annotated[float, Number] = Run.learning_rate
    """Highest learning rate; see --warmup and --schedule."""
    warmup: Annotated[int, Whole] = Run.warmup
    """Steps in which the learning rate rises from 0."""
    schedule: Annotated[str, Text] = Run.schedule
    """Learning rate after the warmup: linear, constant or cosine."""
    weight_decay: Annotated[float, Number] = Run.weight_decay
    """Decoupled weight decay of all but biases and norms."""
    clip: AnyNumber = Run.clip
    """Largest gradient norm, 1 by default; None: any."""
    betas: Annotated[tuple[float, float], arg(metavar="X X")] = Run.betas
    """Decay rates of AdamW's two moments."""
    eps: Annotated[float, Number] = Run.eps
    """Epsilon of AdamW."""


def _of_kind(name: str, ours: int, theirs: int):
    """An option whose default depends on the kind of model, and is said so in its help."""
    hint = f"(default: {ours}; rnn, lstm: {theirs})"
    return Annotated[int | None, arg(metavar=name, help_behavior_hint=hint)]


@dataclass(frozen=True)
class Model:
    kind: Annotated[str, Text] = "transformer"
    """Kind of model: transformer, rnn or lstm."""
    hidden: _of_kind("N", TransformerSpec.hidden, RecurrentSpec.hidden) = None
    """Width of the residual stream; units of a layer."""
    layers: _of_kind("N", TransformerSpec.layers, RecurrentSpec.layers) = None
    """Number of blocks, or of recurrent layers."""
    heads: Annotated[int, Whole] = TransformerSpec.heads
    """Attention heads; hidden / heads is a multiple of 8."""
    intermediate: Annotated[int, Whole] = TransformerSpec.intermediate
    """Width inside the MLP."""
    outputs: AnyWhole = TransformerSpec.outputs
    """Number of tokens that can be answers; 98 are the characters; all by default."""
    rope_base: AnyNumber = TransformerSpec.rope_base
    """Base of rotary positions, 10,000 by default; None: no positions."""
    norm_eps: Annotated[float, Number] = TransformerSpec.norm_eps
    """Epsilon of RMSNorm."""
    init_std: Annotated[float, Number] = TransformerSpec.init_std
    """Standard deviation of initial weights."""
    engine: Annotated[str, Text] = TransformerSpec.engine
    """native; or plain, which is PyTorch; auto: native if it can."""
    nonlinearity: Annotated[str, Text] = RecurrentSpec.nonlinearity
    """Function of an rnn: tanh or relu."""
    leak: Annotated[float, Number] = RecurrentSpec.leak
    """Share of an rnn unit's state that a step replaces."""
    bias: Annotated[bool, FlagConversionOff, arg(metavar="True|False")] = RecurrentSpec.bias
    """Biases in the layers of an rnn or lstm."""
    init: Annotated[str, Text] = RecurrentSpec.init
    """Initial scale of an rnn or lstm: hidden or fan_in."""

    def spec(self) -> TransformerSpec | RecurrentSpec | None:
        """The model that these options ask for; None if they are all left at their defaults.

        Raises what the spec does; ValueError for an option that this kind of model does not have.
        """
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS)
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        family = RecurrentSpec if "kind" in given else TransformerSpec
        known = [f.name for f in fields(family)]
        for name in given:
            if name not in known:
                raise ValueError(f"{name}: the kind {self.kind!r} has no such option; it has {', '.join(known)}")
        return family(**given) if given else None


@dataclass(frozen=True)
class Kept:
    checkpoints: Annotated[int, Whole] = Run.checkpoints
    """Number of checkpoints after the one at step 0."""
    checkpoint_spacing: Annotated[str, arg(metavar="HOW")] = Run.checkpoint_spacing
    """Spacing of checkpoints: even, log or sqrt."""
    validation: Annotated[int, Whole] = Run.validation
    """Rows of each task to score at each checkpoint."""
    capture_layers: AnyWholes = None
    """Layers whose activations are written; the upper half by default."""
    capture_cities: AnyText = None
    """Cities to write activations of, such as "city_id >= 1000"; all by default."""
    capture_task: AnyText = None
    """Task whose prompt is read for activations; the first by default."""
    capture_dtype: Annotated[str, Text] = Capture.dtype
    """Type of activations on disk: float32 or float16."""
    keep: AnyTexts = None
    """Checkpoints whose weights stay on disk: all, or steps; the last two by default."""


@dataclass(frozen=True)
class Machine:
    out: Annotated[Path, Place] = Path("runs")
    """Folder in which each run has its own."""
    device: Annotated[str, Text] = "auto"
    """cpu, cuda or cuda:1; auto takes a GPU if there is one."""
    threads: AnyWhole = None
    """CPU threads; torch's number by default."""
    memory: AnyText = None
    """Memory that training may use, such as 8GiB; 0.9 of what is free by default."""
    log: AnyText = None
    """Another place for metrics: tensorboard, wandb or trackio."""
    quiet: FlagCreatePairsOff[bool] = False
    """Print no progress on standard error."""
    load: Files = ()


def runs(data: Data, learning: Learning, model: Model, kept: Kept) -> list[Run]:
    """A run for each seed. With a start, model and vocabulary that are not asked for are the start's.

    Raises what Run does; ValueError without a seed, FileNotFoundError where `start` is no run's folder.
    """
    if not data.seeds:
        raise ValueError("seeds: expected at least one")
    about = asdict(data)
    seeds, epochs = about.pop("seeds"), about.pop("epochs")
    about["tasks"] = BUILT_IN if data.tasks == ("all",) else data.tasks
    about["world"] = WorldSpec(
        *(about.pop(name) for name in ("world", "atlantis", "layout", "atlantis_seed", "largest"))
    )
    how = asdict(learning) | {"epochs": epochs}
    how |= {name: getattr(kept, name) for name in ("checkpoints", "checkpoint_spacing", "validation")}
    about["loss"], spec = how.pop("loss"), model.spec()
    how["keep"] = _kept(kept.keep or ())
    options = {"among": kept.capture_cities, "task": kept.capture_task}
    options = {name: value for name, value in options.items() if value is not None}
    how["capture"] = Capture(kept.capture_layers, kept.capture_dtype, options)
    if learning.start is not None:
        base = spec_of(learning.start)
        how["start"], spec = base, spec or base.model
        if about["vocabulary"] == Dataset.vocabulary:
            about["vocabulary"] = base.data.vocabulary
    rows = Dataset(**about)
    return [Run(rows, seed=seed, model=spec or TransformerSpec(), **how) for seed in seeds]


def _kept(words: tuple[str, ...]) -> str | tuple[int, ...]:
    """The argument `keep` of a run: "all", or steps. ValueError for a word that is neither."""
    if words == ("all",):
        return "all"
    for word in words:
        if not word.isdecimal():
            raise ValueError(f"keep: expected all, or steps of checkpoints, got {' '.join(words)!r}")
    return tuple(map(int, words))


def ending(folder: Path) -> str:
    """A line that says how a run ended."""
    ended = done(folder)
    loss = [f"loss {line['loss']:.4f}" for line in metrics(folder) if line.get("loss") is not None][-1:] or ["no loss"]
    return f"{folder}  {ended['status']} at step {ended['step']:,}, {loss[0]}, {ended['seconds']:,.0f} s"

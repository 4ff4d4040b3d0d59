"""Options of `worldfast train` for any world: fields of a run by name, in groups, each with a line of help.

Names, types and defaults are read off the dataclasses; what stands here is the help, and what has no such field.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagConversionOff, FlagCreatePairsOff, UseAppendAction, arg

from worldfast.capture import Capture
from worldfast.dataset import Dataset
from worldfast.errors import one_of
from worldfast.folder import metrics, spec_of
from worldfast.models import RecurrentSpec, TransformerSpec
from worldfast.outcome import done
from worldfast.run import Run

KINDS = ("transformer", "rnn", "lstm")


def _or_none(kind, metavar: str):
    """An option that may be None, whose default its help says in words."""
    return Annotated[kind | None, arg(metavar=metavar, help_behavior_hint="")]


Whole, Number = Annotated[int, arg(metavar="N")], Annotated[float, arg(metavar="X")]
Text = Annotated[str, arg(metavar="TEXT")]
Flag = FlagCreatePairsOff[bool]
AnyWhole, AnyNumber = _or_none(int, "N"), _or_none(float, "X")
AnyText, AnyPath = _or_none(str, "TEXT"), _or_none(Path, "PATH")
AnyTexts, AnyWholes = _or_none(tuple[str, ...], "TEXT ..."), _or_none(tuple[int, ...], "N ...")
Named = Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...", help_behavior_hint="")]
OWN = "A Python file with tasks or worlds of your own; repeatable."
Files = UseAppendAction[Annotated[tuple[Path, ...], arg(metavar="FILE", help_behavior_hint="", help=OWN)]]
TYPES = {  # of options, by the annotations of the fields
    "int": Whole,
    "float": Number,
    "str": Text,
    "bool": Annotated[bool, FlagConversionOff, arg(metavar="True|False")],
    "int | None": AnyWhole,
    "float | None": AnyNumber,
    "str | None": AnyText,
    "tuple[float, float]": Annotated[tuple[float, float], arg(metavar="X X")],
}


def group(name: str, *kinds: type, **options: str | tuple) -> Any:
    """A dataclass of options: each has its help if it is a field of one of the kinds, else (type, default, help)."""
    known = {f.name: f for kind in kinds for f in fields(kind)}
    made = []
    for option, about in options.items():
        if isinstance(about, str):
            about = TYPES[known[option].type], known[option].default, about
        kind, default, text = about
        made.append((option, Annotated[kind, arg(help=text)], field(default=default)))
    return make_dataclass(name, made, frozen=True, namespace={"__doc__": "", "__module__": __name__})


Learning = group(
    "Learning",
    Run,
    seeds=(
        Annotated[tuple[int, ...], arg(metavar="N ...")],
        (Run.seed,),
        "Seeds for data and initial weights; one model per seed.",
    ),
    start=(AnyPath, None, "Folder of a run in --out whose last weights to start from."),
    epochs="Passes over the rows, each in another order.",
    batch="Rows in a step.",
    learning_rate="Highest learning rate; see --warmup and --schedule.",
    warmup="Steps in which the learning rate rises from 0.",
    schedule="Learning rate after the warmup: linear, constant or cosine.",
    weight_decay="Decoupled weight decay of all but biases and norms.",
    clip="Largest gradient norm, 1 by default; None: any.",
    betas="Decay rates of AdamW's two moments.",
    eps="Epsilon of AdamW.",
    matmul_dtype="float32; or bfloat16, faster where the hardware has it.",
)


def _of_kind(name: str):
    """The type of an option whose default depends on the kind of model, which its help says."""
    ours, theirs = getattr(TransformerSpec, name), getattr(RecurrentSpec, name)
    return Annotated[int | None, arg(metavar="N", help_behavior_hint=f"(default: {ours}; rnn, lstm: {theirs})")]


Model = group(
    "Model",
    RecurrentSpec,
    TransformerSpec,
    kind=(Text, KINDS[0], "Kind of model: transformer, rnn or lstm."),
    hidden=(_of_kind("hidden"), None, "Width of the residual stream; units of a layer."),
    layers=(_of_kind("layers"), None, "Number of blocks, or of recurrent layers."),
    heads="Attention heads; hidden / heads is a multiple of 8.",
    intermediate="Width inside the MLP.",
    outputs="Number of tokens that can be answers; 98 are the characters; all by default.",
    rope_base="Base of rotary positions, 10,000 by default; None: no positions.",
    norm_eps="Epsilon of RMSNorm.",
    init_std="Standard deviation of initial weights.",
    engine="native; or plain, which is PyTorch; auto: native if it can.",
    nonlinearity="Function of an rnn: tanh or relu.",
    leak="Share of an rnn unit's state that a step replaces.",
    decays="False: steps add to an rnn unit's state, which loses nothing.",
    noise="Standard deviation of noise in an rnn's steps of training.",
    bias="Biases in the layers of an rnn or lstm.",
    init="Initial scale of an rnn or lstm: hidden or fan_in.",
    recurrence="First recurrent weights of an rnn: uniform, sparse, orthogonal.",
)
Kept = group(
    "Kept",
    Run,
    checkpoints="Number of checkpoints after the one at step 0.",
    checkpoint_spacing=(
        Annotated[str, arg(metavar="HOW")],  # with TEXT, names would be too wide for help beside them
        Run.checkpoint_spacing,
        "Spacing of checkpoints: even, log or sqrt.",
    ),
    validation="Rows of each task to score at each checkpoint.",
    capture_layers=(AnyWholes, None, "Layers whose activations are written; the upper half by default."),
    readout=(Named, (), "Options of the readout that is written; its own defaults if left out."),
    capture_dtype=(Text, Capture.dtype, "Type of activations on disk: float32 or float16."),
    keep=(
        Annotated[tuple[str, ...], arg(metavar="all|N ...", help_behavior_hint="")],
        Run.keep,
        "Checkpoints whose weights stay on disk: all, or steps; else the last two.",
    ),
)
Machine = group(
    "Machine",
    out=(Annotated[Path, arg(metavar="PATH")], Path("runs"), "Folder in which each run has its own."),
    device=(Text, "auto", "cpu, cuda or cuda:1; auto takes a GPU if there is one."),
    threads=(AnyWhole, None, "CPU threads; torch's number by default."),
    memory=(AnyText, None, "Memory that training may use, such as 8GiB; 0.9 of what is free by default."),
    log=(AnyText, None, "Another place for metrics: tensorboard, wandb or trackio."),
    quiet=(Flag, False, "Print no progress on standard error."),
    load=(Files, (), OWN),
)


def _spec(model) -> TransformerSpec | RecurrentSpec | None:
    """The model that the options ask for; None if they are all left at their defaults.

    Raises what the spec does; ValueError for an option that this kind of model does not have.
    """
    one_of("kind", model.kind, KINDS)
    given = {f.name: getattr(model, f.name) for f in fields(model) if getattr(model, f.name) != f.default}
    family = RecurrentSpec if "kind" in given else TransformerSpec
    known = [f.name for f in fields(family)]
    for name in given:
        if name not in known:
            raise ValueError(f"{name}: the kind {model.kind!r} has no such option; it has {', '.join(known)}")
    return family(**given) if given else None


def named(name: str, texts: Iterable[str]) -> dict[str, Any]:
    """Values by name, of texts NAME=VALUE: a value is what it is in Python, or else the text itself.

    Raises ValueError for a text without '='.
    """
    found = {}
    for text in texts:
        option, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{name}: expected NAME=VALUE, got {text!r}")
        try:
            found[option] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[option] = value
    return found


def runs(data: Dataset, learning: Learning, model: Model, kept: Kept, readout: Mapping[str, Any] = {}) -> list[Run]:
    """A run for each seed, with these options of the readout by default. With a start, a model that is not asked for
    is the start's.

    Raises what Run does; ValueError without a seed, FileNotFoundError where `start` is no run's folder.
    """
    how, spec = asdict(learning), _spec(model)
    if not (seeds := how.pop("seeds")):
        raise ValueError("seeds: expected at least one")
    how |= {name: getattr(kept, name) for name in ("checkpoints", "checkpoint_spacing", "validation")}
    how["keep"] = _kept(kept.keep)
    if learning.start is not None:
        how["start"] = spec_of(learning.start)
        spec = spec or how["start"].model
    how["capture"] = Capture(kept.capture_layers, kept.capture_dtype, {**readout, **named("readout", kept.readout)})
    return [Run(data, seed=seed, model=spec or TransformerSpec(), **how) for seed in seeds]


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

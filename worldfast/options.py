"""What `worldfast train` can be told: the fields of a run by name, in groups, each a line of its help."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from worldfast.folder import done, spec_of
from worldfast.models import TransformerSpec
from worldfast.run import Capture, Run
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.tasks import BUILT_IN
from worldfast.worlds.cities.world import WorldSpec

__all__ = ["Data", "Kept", "Learning", "Machine", "Model", "ending", "runs"]

Whole, Number, Text, Place = (arg(metavar=name) for name in ("N", "X", "TEXT", "PATH"))


def _or_none(kind, metavar: str):
    """An option that may be None, whose default its help says in words."""
    return Annotated[kind | None, arg(metavar=metavar, help_behavior_hint="")]


AnyWhole, AnyNumber = _or_none(int, "N"), _or_none(float, "X")
AnyText, AnyPath, AnyWholes = _or_none(str, "TEXT"), _or_none(Path, "PATH"), _or_none(tuple[int, ...], "N ...")


@dataclass(frozen=True)
class Data:
    tasks: Annotated[tuple[str, ...], arg(metavar="TASK ...")]
    """Names, such as distance angle, mixed in each model; or all."""
    seeds: Annotated[tuple[int, ...], arg(metavar="N ...")] = (Run.seed,)
    """Of data and first weights: a model for each."""
    rows: Annotated[int, Whole] = Dataset.rows
    """Rows of each task in an epoch."""
    epochs: Annotated[int, Whole] = Run.epochs
    """Times that rows are seen, in another order each."""
    vocabulary: Annotated[str, Text] = Dataset.vocabulary
    """character, or entity: a token a city, easier to learn."""
    among: AnyText = Dataset.among
    """Cities in rows, as in "region != 'Atlantis'"; any by default."""
    crossing: Annotated[str, Text] = Dataset.crossing
    """balanced, or reshuffled: 26 % TRUE."""
    world: Annotated[str, Text] = WorldSpec.source
    """cities, or the path of a CSV file."""
    atlantis: Annotated[int, Whole] = WorldSpec.atlantis
    """Cities of Atlantis in the world."""
    layout: Annotated[str, Text] = WorldSpec.layout
    """Of Atlantis: clustered or scattered."""
    atlantis_seed: Annotated[int, Whole] = WorldSpec.atlantis_seed
    """Of Atlantis's places."""
    largest: Annotated[int, Whole] = WorldSpec.largest
    """Only so many of the world's cities, the most populous; 0: all."""


@dataclass(frozen=True)
class Learning:
    start: AnyPath = None
    """Folder, in --out, of the run whose last weights to begin with."""
    loss: Annotated[str, Text] = Dataset.loss
    """all: every token after the first; answer: after '='."""
    matmul_dtype: Annotated[str, Text] = Run.matmul_dtype
    """float32, or bfloat16: faster, weights and sums stay float32."""
    batch: Annotated[int, Whole] = Run.batch
    """Rows a step."""
    learning_rate: Annotated[float, Number] = Run.learning_rate
    """Its highest; see --warmup and --schedule."""
    warmup: Annotated[int, Whole] = Run.warmup
    """Steps in which it rises."""
    schedule: Annotated[str, Text] = Run.schedule
    """linear, constant or cosine."""
    weight_decay: Annotated[float, Number] = Run.weight_decay
    """Of all but biases and norms."""
    clip: AnyNumber = Run.clip
    """The largest gradient norm; None: any."""
    betas: Annotated[tuple[float, float], arg(metavar="X X")] = Run.betas
    """Of AdamW."""
    eps: Annotated[float, Number] = Run.eps
    """Of AdamW."""


@dataclass(frozen=True)
class Model:
    hidden: Annotated[int, Whole] = TransformerSpec.hidden
    """Width of the residual stream."""
    layers: Annotated[int, Whole] = TransformerSpec.layers
    """Blocks."""
    heads: Annotated[int, Whole] = TransformerSpec.heads
    """Attention heads; hidden / heads is a multiple of 8."""
    intermediate: Annotated[int, Whole] = TransformerSpec.intermediate
    """Width inside the MLP."""
    outputs: AnyWhole = TransformerSpec.outputs
    """Tokens that can be answers, 98 the characters; all by default."""
    rope_base: AnyNumber = TransformerSpec.rope_base
    """Of rotary positions."""
    norm_eps: Annotated[float, Number] = TransformerSpec.norm_eps
    """Of RMSNorm."""
    init_std: Annotated[float, Number] = TransformerSpec.init_std
    """Standard deviation of the first weights."""
    engine: Annotated[str, Text] = TransformerSpec.engine
    """native, or plain: PyTorch; auto takes native where it can."""


@dataclass(frozen=True)
class Kept:
    checkpoints: Annotated[int, Whole] = Run.checkpoints
    """Parts of training: a checkpoint at step 0 and after each."""
    checkpoint_spacing: Annotated[str, arg(metavar="HOW")] = Run.checkpoint_spacing
    """even, log or sqrt: how far apart they are."""
    validation: Annotated[int, Whole] = Run.validation
    """Rows of each task to answer and score at each checkpoint."""
    capture_layers: AnyWholes = None
    """Layers to write activations of; the upper half by default."""
    capture_cities: AnyText = None
    """Cities they are of, as in "city_id >= 1000"; all by default."""
    capture_task: AnyText = None
    """Task whose prompt is read; the first by default."""
    capture_dtype: Annotated[str, Text] = Capture.dtype
    """float32, or float16 for half the space."""


@dataclass(frozen=True)
class Machine:
    out: Annotated[Path, Place] = Path("runs")
    """Where each run has its folder."""
    device: Annotated[str, Text] = "auto"
    """cpu, cuda or cuda:1; auto takes a GPU where there is one."""
    threads: AnyWhole = None
    """Of the CPU; as many as torch uses by default."""
    memory: AnyText = None
    """To take at most, as in 8GiB; 0.9 of what is free by default."""
    log: AnyText = None
    """Where metrics go too: tensorboard, wandb or trackio."""
    quiet: FlagCreatePairsOff[bool] = False
    """No rate, loss and time left on standard error."""


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
    about["loss"], how["model"] = how.pop("loss"), TransformerSpec(**asdict(model))
    options = {"among": kept.capture_cities, "task": kept.capture_task}
    options = {name: value for name, value in options.items() if value is not None}
    how["capture"] = Capture(kept.capture_layers, kept.capture_dtype, options)
    if learning.start is not None:
        base = spec_of(learning.start)
        how["start"] = base
        if how["model"] == TransformerSpec():
            how["model"] = base.model
        if about["vocabulary"] == Dataset.vocabulary:
            about["vocabulary"] = base.data.vocabulary
    rows = Dataset(**about)
    return [Run(rows, seed=seed, **how) for seed in seeds]


def ending(folder: Path) -> str:
    """A line that says how a run ended."""
    ended = done(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loss = [f"loss {line['loss']:.4f}" for line in lines if line.get("loss") is not None][-1:] or ["no loss"]
    return f"{folder}  {ended['status']} at step {ended['step']:,}, {loss[0]}, {ended['seconds']:,.0f} s"

"""Answers and their scores: greedy decoding from the prompt through '=' to <eos>, on rows the model has not seen."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldfast import checkpoint
from worldfast.gpu import GpuEnsemble, require_cuda
from worldfast.model import Ensemble
from worldfast.run import Run
from worldfast.sampling import Batch, sample
from worldfast.tasks import find
from worldfast.world import World

__all__ = ["Score", "decode", "evaluate", "load", "opened", "saved", "spec_of"]


@dataclass(frozen=True)
class Score:
    """How well a model answers a task.

    value        mean absolute error in the task's unit, or accuracy
    constant     what the best answer that is always the same would score
    n            rows
    unparsable   rows whose answer could not be read; each scored the task's failure value
    """

    value: float
    constant: float
    n: int
    unparsable: int


def load(folder: str | os.PathLike, device="cpu") -> tuple[Run, Ensemble]:
    """A run and its newest model, as an ensemble of one, from the run's folder.

    FileNotFoundError where the folder is no run's or has no checkpoint.
    """
    run, found = saved(folder)
    shape, products = (run.model, run.stream().vocabulary.size), {"products": run.products}
    on_cpu = torch.device(device).type == "cpu"
    ensemble = Ensemble(*shape, **products) if on_cpu else GpuEnsemble(*shape, device=require_cuda(device), **products)
    ensemble.parameters[0].copy_(found.tensors["parameters"])
    return run, ensemble


def opened(model: str | os.PathLike | tuple[Run, Ensemble], name: str = "model") -> tuple[Run, Ensemble]:
    """A run and an ensemble whose member 0 is its model, given as such or as the run's folder (see `load`).

    TypeError naming the argument where it is neither.
    """
    if isinstance(model, (str, os.PathLike)):
        return load(model)
    match model:
        case (Run(), Ensemble()):
            return model
    raise TypeError(f"{name}: expected a run's folder or (run, ensemble), got {model!r:.100}")


def saved(folder: str | os.PathLike, step: int | None = None) -> tuple[Run, checkpoint.Checkpoint]:
    """A run and its checkpoint at a step (None: the newest), from the run's folder.

    FileNotFoundError where the folder is no run's or has no such checkpoint.
    """
    folder, run = Path(folder), spec_of(folder)
    if step is not None:
        return run, checkpoint.of_step(folder / "checkpoint", step, run.id)
    found = checkpoint.newest(folder / "checkpoint", run.id)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    return run, found


def spec_of(folder: str | os.PathLike) -> Run:
    """The run whose folder this is.

    FileNotFoundError where it is no run's; ValueError where a version of worldfast wrote it whose specs say something
    else.
    """
    spec = Path(folder) / "spec.json"
    if not spec.exists():
        raise FileNotFoundError(f"{folder} is not a run's folder: it has no spec.json")
    content = json.loads(spec.read_text())
    written = f"{spec} was written by worldfast {content.get('origin', {}).get('worldfast', 'of unknown version')}"
    try:
        run = Run.from_json(content["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{written}, this one cannot read it: {error}") from None
    if run.id != content["id"]:
        raise ValueError(f"{written} as run {content['id']}; here the same spec is {run.id}: train it again")
    return run


def decode(
    ensemble: Ensemble, member: int, batch: Batch, longest: int = 16, products: str | None = None
) -> list[np.ndarray]:
    """Greedy answers of a member to the rows of a batch: the tokens before <eos>, int32 [up to `longest`] each.

    The prompt is every token of a row up to and with '='. For `products` and for the answers of several
    members at a time, see `Ensemble.answer`.
    """
    [answers] = ensemble.answer([(batch.tokens, batch.answer_start)], longest, [member], products)
    return answers


def evaluate(
    ensemble: Ensemble,
    member: int,
    world: World,
    task: str,
    n: int = 10_000,
    seed: int = 42,
    *,
    vocabulary: str = "character",
    among=None,
    must_include=None,
    products: str | None = None,
    split: str = "test",
) -> Score:
    """A member's score on n test rows of a task.

    seed, among, must_include   of the rows, as for `sample`; take the run's own seed, so that no pair was trained on
    split                       "test", or "validation" for rows to watch training with
    vocabulary                  the run's
    products                    what matrices are multiplied in, "float32" or "bfloat16"; None: as in training

    Source: the evaluation of arXiv 2602.00533: greedy decoding; absolute error for numbers, accuracy for choices.
    """
    task = find(task)
    batch = sample(
        world, task, n, seed, split=split, vocabulary=vocabulary, among=among, must_include=must_include
    )
    texts = [batch.vocabulary.decode(answer) for answer in decode(ensemble, member, batch, products=products)]
    scores, unparsable = task.score(batch.label, texts)
    return Score(float(scores.mean()), task.constant(batch.label), n, unparsable)

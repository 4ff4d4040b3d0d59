"""Answers and their scores: greedy decoding from the prompt through '=' to <eos>, on rows the model has not seen."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldfast import checkpoint
from worldfast.model import Ensemble, Rows
from worldfast.run import Run
from worldfast.sampling import Batch, sample
from worldfast.tasks import find
from worldfast.tokens import EOS
from worldfast.world import World

__all__ = ["Score", "decode", "evaluate", "load", "saved"]


@dataclass(frozen=True)
class Score:
    """How well a model answers a task.

    value        mean absolute error in the task's unit, or accuracy
    n            rows
    unparsable   rows whose answer could not be read; each scored the task's failure value
    """

    value: float
    n: int
    unparsable: int


def load(folder: str | os.PathLike, device="cpu") -> tuple[Run, Ensemble]:
    """A run and its newest model, as an ensemble of one, from the run's folder.

    FileNotFoundError where the folder is no run's or has no checkpoint.
    """
    run, found = saved(folder)
    ensemble = Ensemble(run.model, run.stream().vocabulary.size, device=device)
    ensemble.parameters[0].copy_(found.tensors["parameters"])
    return run, ensemble


def saved(folder: str | os.PathLike, step: int | None = None) -> tuple[Run, checkpoint.Checkpoint]:
    """A run and its checkpoint at a step (None: the newest), from the run's folder.

    FileNotFoundError where the folder is no run's or has no such checkpoint.
    """
    folder = Path(folder)
    spec = folder / "spec.json"
    if not spec.exists():
        raise FileNotFoundError(f"{folder} is not a run's folder: it has no spec.json")
    run = Run.from_json(json.loads(spec.read_text())["run"])
    if step is not None:
        return run, checkpoint.of_step(folder / "checkpoint", step, run.id)
    found = checkpoint.newest(folder / "checkpoint", run.id)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    return run, found


def decode(ensemble: Ensemble, member: int, batch: Batch, longest: int = 16) -> list[np.ndarray]:
    """Greedy answers of a member to the rows of a batch: the tokens before <eos>, int32 [up to `longest`] each.

    A row that has ended leaves the batch. The prompt is every token of a row up to and with '='.
    """
    prompts = [row[:start] for row, start in zip(batch.tokens.astype(np.int32), batch.answer_start, strict=True)]
    rows, answers = dict(enumerate(prompts)), [np.empty(0, np.int32)] * len(prompts)
    for _ in range(longest):
        if not rows:
            break
        lengths = np.array([len(row) for row in rows.values()])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        logits = ensemble.logits(
            Rows(
                torch.from_numpy(np.concatenate(list(rows.values()))).to(ensemble.device),
                torch.from_numpy(starts.astype(np.int32)).to(ensemble.device),
                (0, int(starts[-1])),
                torch.from_numpy(starts[1:] - 1).to(ensemble.device),
            ),
            [member],
        )  # [rows, outputs]
        following = logits.argmax(1).to(torch.int32).cpu().numpy()
        rows = {i: np.append(row, token) for (i, row), token in zip(rows.items(), following) if token != EOS}
        for i, row in rows.items():
            answers[i] = row[len(prompts[i]) :]
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
) -> Score:
    """A member's score on n test rows of a task.

    seed, among, must_include   of the rows, as for `sample`; take the run's own seed, so that no pair was trained on
    vocabulary                  the run's

    Source: the evaluation of arXiv 2602.00533: greedy decoding; absolute error for numbers, accuracy for choices.
    """
    task = find(task)
    batch = sample(
        world, task, n, seed, split="test", vocabulary=vocabulary, among=among, must_include=must_include
    )
    texts = [batch.vocabulary.decode(answer) for answer in decode(ensemble, member, batch)]
    scores, unparsable = task.score(batch.label, texts)
    return Score(float(scores.mean()), n, unparsable)

"""Answers and their scores: greedy decoding from the prompt through '=' to <eos>, on rows the model has not seen."""

from __future__ import annotations

import numpy as np

from worldfast.dataset import Score
from worldfast.models import Ensemble
from worldfast.worlds.cities.sampling import Batch, sample
from worldfast.worlds.cities.tasks import Task, find
from worldfast.worlds.cities.tokens import EOS
from worldfast.worlds.cities.world import World

__all__ = ["decode", "evaluate"]


def decode(
    ensemble: Ensemble, member: int, batch: Batch, longest: int = 16, matmul_dtype: str | None = None
) -> list[np.ndarray]:
    """Greedy answers of a member to the rows of a batch: the tokens before <eos>, int32 [up to `longest`] each.

    The prompt is every token of a row up to and with '='. For `matmul_dtype` and for the answers of several
    members at a time, see `Transformer.answer`.
    """
    [answers] = ensemble.answer([(batch.tokens, batch.answer_start)], longest, [member], matmul_dtype, end=EOS)
    return answers


def evaluate(
    ensemble: Ensemble,
    member: int,
    world: World,
    task: str | Task,
    n: int = 10_000,
    seed: int = 42,
    *,
    vocabulary: str = "character",
    among=None,
    must_include=None,
    matmul_dtype: str | None = None,
    split: str = "test",
) -> Score:
    """A member's score on n test rows of a task.

    seed, among, must_include   of the rows, as for `sample`; take the run's own seed, so that no pair was trained on
    split                       "test", or "validation" for rows to watch training with
    vocabulary                  the run's
    matmul_dtype    what matrices are multiplied in, "float32" or "bfloat16"; None: as in training

    Source: the evaluation of arXiv 2602.00533: greedy decoding; absolute error for numbers, accuracy for choices.
    """
    task = find(task)
    batch = sample(world, task, n, seed, split=split, vocabulary=vocabulary, among=among, must_include=must_include)
    texts = [batch.vocabulary.decode(answer) for answer in decode(ensemble, member, batch, matmul_dtype=matmul_dtype)]
    scores, unparsable = task.score(batch.label, texts)
    return Score(float(scores.mean()), task.constant(batch.label), n, unparsable)

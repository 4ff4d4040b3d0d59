"""Answers and their scores: greedy decoding from the prompt through '=' to <eos>, on unseen rows."""

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
    """Answer the rows of a batch greedily.

    The prompt is every token of a row up to and including '='. `Ensemble.answer` answers for several members at a time.

    Parameters
    ----------
    ensemble : Ensemble
    member : int
    batch : Batch
    longest : int
        Most tokens of an answer.
    matmul_dtype : {"float32", "bfloat16"}, optional
        Type in which matrices are multiplied; None means the one of training.

    Returns
    -------
    list of ndarray
        Tokens before <eos>, int32 [up to `longest`] for each row.
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
    """Score a member on n test rows of a task.

    Source: the evaluation of arXiv 2602.00533: greedy decoding; absolute error for numbers, accuracy for choices.

    Parameters
    ----------
    ensemble : Ensemble
    member : int
    world : World
    task : str or Task
    n : int
        Number of rows.
    seed, among, must_include
        Those of the rows, as for `sample`; with the run's own seed no pair was trained on.
    vocabulary : {"character", "entity"}
        Vocabulary of the run.
    matmul_dtype : {"float32", "bfloat16"}, optional
        Type in which matrices are multiplied; None means the one of training.
    split : {"test", "validation"}
        "validation" has rows to monitor training with.

    Returns
    -------
    Score

    Examples
    --------
    >>> data = cities.Dataset("distance")
    >>> model = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32).build(data.shape)
    >>> model.initialise(0, seed=1)
    >>> score = cities.evaluate.evaluate(model, 0, data.world.build(), "distance", n=50)
    >>> score.n
    50
    """
    task = find(task)
    batch = sample(world, task, n, seed, split=split, vocabulary=vocabulary, among=among, must_include=must_include)
    texts = [batch.vocabulary.decode(answer) for answer in decode(ensemble, member, batch, matmul_dtype=matmul_dtype)]
    scores, unparsable = task.score(batch.label, texts)
    return Score(float(scores.mean()), task.constant(batch.label), n, unparsable)

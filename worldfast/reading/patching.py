"""Activation patching: hidden states of one model put into another while it answers.

Two fine-tunes of one pretrained model answer the same questions: one knows something new, the other, taught a task that
diverges, does not. Where the states of the first at some tokens, put into the second, bring the answers back, what was
not integrated lies in how these tokens are represented up to that layer; where they do not, in what is read from it.

A model that is patched is computed in PyTorch, which takes states as well as it gives them (`PlainTransformer`). Rows
are packed, float32, on the CPU. Nothing is cached from token to token, so that the answer's tokens can be replaced too.

Source: Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis", NeurIPS 2020; Meng
et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022; from a fine-tune to another of its kin as in
Prakash et al., "Fine-Tuning Enhances Existing Mechanisms", ICLR 2024.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch

from worldfast import frames as pd
from worldfast.dataset import entity_ids, require_same_entities
from worldfast.errors import one_of, whole
from worldfast.folder import opened
from worldfast.models import Ensemble, PlainTransformer, TransformerSpec
from worldfast.rows import Rows
from worldfast.run import Run

__all__ = ["Questions", "activation_patching", "patched_answers"]


class Questions(NamedTuple):
    """Questions of one task, the tokens at which states are replaced, and the score of answers. A world makes them.

    Attributes
    ----------
    tokens : ndarray
        int32 [n, T], each row a question from its first token on; what follows it is not read.
    answer_start : ndarray
        int32 [n], number of tokens of each question.
    positions : mapping of str to ndarray
        bool [n, T], tokens of the questions by the name of a group: "entity", "question".
    score : callable
        score(answers) of tokens, int32 [up to longest] for each question, returns float64 [n] and the number of answers
        that cannot be parsed.
    end : int
        Token that ends an answer.
    metric : str
        Name of what `score` returns.
    with_answers : tuple of str
        Groups that go on through the answers: their tokens are replaced too.
    """

    tokens: np.ndarray
    answer_start: np.ndarray
    positions: Mapping[str, np.ndarray]
    score: Callable[[list[np.ndarray]], tuple[np.ndarray, int]]
    end: int
    metric: str = ""
    with_answers: tuple[str, ...] = ()


def activation_patching(
    source: str | os.PathLike | tuple[Run, Ensemble],
    target: str | os.PathLike | tuple[Run, Ensemble],
    questions: Mapping[str, Questions],
    *,
    layers: Sequence[int] | None = None,
    positions: str | Iterable[str] | None = None,
    longest: int = 16,
) -> pd.DataFrame:
    """Measure how far answers of `target` move towards those of `source` when it is given the states of `source`.

    After the replaced states the target continues with its own weights, so that all tokens at the last layer are the
    target's head on the source's states: the source's answers if heads are equal, otherwise as close as heads are
    similar.

    Parameters
    ----------
    source, target : path or (Run, Ensemble)
        Folders of runs, or a run and an ensemble whose member 0 is its model, such as that of an earlier step:
        `worldfast.training.load(folder, step=step)`. Transformers of one shape and vocabulary.
    questions : mapping of str to Questions
        Questions by task; a world makes them, as `worldfast.worlds.cities.questions_of` does.
    layers : sequence of int, optional
        Layers as in Hugging Face: 0 the embeddings, k after block k, the last after the final norm; None means all.
    positions : str or iterable of str, optional
        Groups of positions at which states are replaced; None means all that the questions have.
    longest : int
        Most tokens of an answer.

    Returns
    -------
    DataFrame
        One row for each layer, positions and task. Columns: layer, positions, task; source, target (names of the runs;
        of one run at two steps, "NAME (source)" and "NAME (target)");
        metric; value (score of the patched target); recovered ((value - target_value) / (source_value - target_value):
        0 like the target by itself, 1 like the source; beyond if answers are worse than one's or better than the
        other's; NaN if the two are equal, and noisy if they nearly are); standard_error (of `recovered`, a ratio of
        means over the same rows, by linearisation over rows: Cochran, "Sampling Techniques", 1977, equation 6.13); n
        (rows); source_value, target_value (scores of the models by themselves); unparsable (answers of the patched
        target that cannot be parsed).

    Raises
    ------
    TypeError
        A model is not a transformer that reads tokens, or questions are not Questions.
    ValueError
        The models differ in shape or vocabulary, there are no questions, or they lack a group of positions.
        Also the errors of `worldfast.folder.load`.
    MismatchError
        The models' worlds differ beyond entities that one has after the other's.
    IndexError
        The models do not have a layer.
    """
    source_run, giving = opened(source, "source")
    target_run, taking = opened(target, "target")
    _require_transformer("source", source_run, giving)
    _require_transformer("target", target_run, taking)
    _require_alike(source_run, giving, target_run, taking)
    layers = _layers(taking, layers)
    longest = whole("longest", longest, 1)
    _require_questions(questions, taking)
    chosen = [positions] if isinstance(positions, str) else None if positions is None else list(positions)
    for asked in questions.values():
        for group in chosen or ():
            one_of("positions", group, asked.positions)
    names = [source_run.name, target_run.name]
    if names[0] == names[1]:
        names = [f"{name} ({role})" for name, role in zip(names, ("source", "target"))]
    lines = []
    for task, asked in questions.items():
        alone = [asked.score(patched_answers(one, one, asked, longest=longest))[0] for one in (giving, taking)]
        for group in asked.positions if chosen is None else chosen:
            at, answer = asked.positions[group], group in asked.with_answers
            for layer in layers:
                answers = patched_answers(giving, taking, asked, layer, at, longest=longest, answer=answer)
                scores, unparsable = asked.score(answers)
                lines.append(
                    (
                        layer,
                        group,
                        task,
                        *names,
                        asked.metric,
                        scores.mean(),
                        *_ratio(scores - alone[1], alone[0] - alone[1]),
                        len(asked.tokens),
                        alone[0].mean(),
                        alone[1].mean(),
                        unparsable,
                    )
                )
    columns = ["layer", "positions", "task", "source", "target", "metric", "value", "recovered", "standard_error", "n"]
    return pd.DataFrame(lines, columns=[*columns, "source_value", "target_value", "unparsable"])


@torch.inference_mode()
def patched_answers(
    source: Ensemble,
    target: Ensemble,
    questions: Questions,
    layer: int | None = None,
    at: np.ndarray | None = None,
    *,
    longest: int = 16,
    answer: bool = False,
) -> list[np.ndarray]:
    """Answer questions greedily by the target, with states replaced by those of the source. Members 0.

    Parameters
    ----------
    source, target : Ensemble
    questions : Questions
    layer : int, optional
        Layer whose states are replaced; None for none, the target by itself.
    at : ndarray, optional
        bool [n, T], tokens of the questions at which they are replaced.
    longest : int
        Most tokens of an answer.
    answer : bool
        Replace the states of the answer's tokens too.

    Returns
    -------
    list of ndarray
        Tokens before the end of each answer, int32 [up to `longest`] each.
    """
    source, target = PlainTransformer.of(source), PlainTransformer.of(target)
    n, width = questions.tokens.shape
    longer = ((0, 0), (0, longest))
    tokens = torch.from_numpy(np.pad(questions.tokens.astype(np.int64), longer))  # [n, T], T with the answers' tokens
    column = torch.arange(width + longest, dtype=torch.int64, device="cpu")
    start = torch.from_numpy(questions.answer_start.astype(np.int64))
    replaced = torch.from_numpy(np.pad(np.zeros((n, width), bool) if at is None else at, longer))
    if answer:
        replaced |= column >= start[:, None]
    rows = torch.arange(n, dtype=torch.int64, device="cpu")
    answers = np.full((n, longest), questions.end, dtype=np.int32)
    given = torch.empty(0, dtype=torch.float32, device="cpu")  # the source's states of the rows that go on, [R, T, D]
    for step in range(longest if n else 0):
        length = start + step
        there = column < length[:, None]
        ends = length.cumsum(0)
        packed = Rows(tokens[there], torch.cat([ends.new_zeros(1), ends]), ends - 1)
        patch = {}
        if layer is not None:
            name = target.name_of_layer(layer)
            if answer or step == 0:
                given = torch.zeros(*there.shape, source.spec.hidden, dtype=torch.float32, device="cpu")
                given[there] = source.run(packed, read=[name])[name]
            patch = {name: (replaced[there], given[replaced & there])}
        following = target.run(packed, replace=patch)["outputs"].argmax(1)
        goes_on = following != questions.end
        rows, following = rows[goes_on], following[goes_on]
        if not len(rows):
            break
        answers[rows.numpy(), step] = following.numpy()
        tokens, start, replaced = tokens[goes_on], start[goes_on], replaced[goes_on]
        given = given[goes_on] if len(given) else given
        tokens[torch.arange(len(rows), dtype=torch.int64, device="cpu"), start + step] = following
    return [row[:k] for row, k in zip(answers, (answers != questions.end).sum(1))]


def _ratio(part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """sum(part) / sum(whole) over rows and its standard error; NaN where the whole is 0."""
    n, total = len(part), whole.sum()
    if total == 0:
        return float("nan"), float("nan")
    share = part.sum() / total
    error = np.sqrt(np.square(part - share * whole).sum() * n / (n - 1)) / abs(total) if n > 1 else float("nan")
    return float(share), float(error)


def _require_transformer(name: str, run: Run, ensemble: Ensemble) -> None:
    if not isinstance(ensemble.spec, TransformerSpec) or ensemble.shape.vectors:
        reads = "vectors" if ensemble.shape.vectors else "tokens"
        raise TypeError(
            f"{name}: {run.name!r} is a {type(ensemble.spec).__name__} that reads {reads}; states can be replaced in a "
            "TransformerSpec that reads tokens. Of every family `worldfast.represent` reads states without "
            "replacing any"
        )


def _require_questions(questions: Mapping[str, Questions], model: Ensemble) -> None:
    if not isinstance(questions, Mapping) or not all(isinstance(asked, Questions) for asked in questions.values()):
        raise TypeError(f"questions: expected a mapping of tasks' names to Questions, got {questions!r:.100}")
    if not questions:
        raise ValueError("questions: expected those of at least one task, got none")
    for task, (tokens, answer_start, positions, *_) in questions.items():
        if tokens.ndim != 2 or not len(tokens) or answer_start.shape != tokens.shape[:1]:
            came = f"{list(tokens.shape)} and {list(answer_start.shape)}"
            raise ValueError(f"questions: of {task!r}: expected tokens [n, T] and answer_start [n], got {came}")
        if answer_start.min() < 1 or answer_start.max() > tokens.shape[1]:
            raise ValueError(f"questions: of {task!r}: expected answer_start from 1 to {tokens.shape[1]}")
        asked = tokens[np.arange(tokens.shape[1]) < answer_start[:, None]]
        if asked.min() < 0 or asked.max() >= model.shape.inputs:
            raise ValueError(
                f"questions: of {task!r}: expected tokens below {model.shape.inputs:,}, got {asked.max():,}"
            )
        for group, at in positions.items():
            if at.dtype != bool or at.shape != tokens.shape:
                expected, came = list(tokens.shape), f"{at.dtype} {list(at.shape)}"
                raise ValueError(f"questions: of {task!r}: positions {group!r}: expected bool {expected}, got {came}")


def _require_same_world(source: Run, target: Run) -> None:
    """Raise a MismatchError if a token may name one entity to the source and another to the target.

    One world may be the beginning of the other, as that without its new entities is.
    """
    if source.data.digest == target.data.digest:
        return
    ids = {run.name: entity_ids(run.data.readout(), run.data.digest) for run in (source, target)}
    n = min(map(len, ids.values()))
    require_same_entities({name: found[:n] for name, found in ids.items()})


def _require_alike(source_run: Run, source: Ensemble, target_run: Run, target: Ensemble) -> None:
    _require_same_world(source_run, target_run)
    if source_run.data.vocabulary != target_run.data.vocabulary or source.shape.inputs != target.shape.inputs:
        raise ValueError(
            f"source: {source_run.name!r} has the vocabulary {source_run.data.vocabulary!r} of {source.shape.inputs:,} "
            f"tokens, the target {target_run.name!r} {target_run.data.vocabulary!r} of {target.shape.inputs:,}"
        )
    for name in (f.name for f in fields(TransformerSpec) if f.name not in ("init_std", "engine")):
        came, expected = getattr(source.spec, name), getattr(target.spec, name)
        if came != expected:
            raise ValueError(
                f"source: {source_run.name!r} has model.{name} {came}, the target {target_run.name!r} {expected}"
            )


def _layers(ensemble: Ensemble, layers: Sequence[int] | None) -> list[int]:
    depth = ensemble.spec.layers
    found = [whole("layers", layer) for layer in (range(depth + 1) if layers is None else layers)]
    for layer in found:
        if not 0 <= layer <= depth:
            raise IndexError(f"layers: expected 0 to {depth}, got {layer}")
    return found

"""Activation patching: hidden states of one model put into another while it answers.

Two fine-tunes of one pretrained model answer the same rows: one knows new cities, the other, taught a task that
diverges, does not. Where the states of the first at the cities' tokens, put into the second, bring the answers back,
what was not integrated lies in how cities are represented up to that layer; where they do not, in what is read from it.

A model that is patched is computed in PyTorch, which takes states as well as it gives them (`PlainTransformer`). Rows are
packed, float32, on the CPU. Nothing is cached from token to token, so that "all" can hold the answer's tokens too.

Source: Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis", NeurIPS 2020; Meng
et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022; from a fine-tune to another of its kin as in
Prakash et al., "Fine-Tuning Enhances Existing Mechanisms", ICLR 2024.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldfast.errors import unknown_name
from worldfast.folder import opened
from worldfast.models import Ensemble, PlainTransformer, TransformerSpec
from worldfast.rows import Rows
from worldfast.run import Run
from worldfast.worlds.cities.sampling import Batch, sample
from worldfast.worlds.cities.tasks import Task, find
from worldfast.worlds.cities.tokens import EOS
from worldfast.worlds.cities.world import World

if TYPE_CHECKING:
    import pandas

__all__ = ["POSITIONS", "activation_patching", "patched_answers", "token_positions"]

POSITIONS = ("entity", "included", "last", "equals", "question", "all")


def activation_patching(
    source: str | os.PathLike | tuple[Run, Ensemble],
    target: str | os.PathLike | tuple[Run, Ensemble],
    tasks: str | Iterable[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    positions: str | Iterable[str] = ("entity", "equals", "all"),
    rows: int = 200,
    must_include=None,
    among=None,
    world: World | None = None,
    seed: int | None = None,
    split: str = "test",
    longest: int = 16,
) -> pandas.DataFrame:
    """Measure how far answers of `target` move towards those of `source` when it is given the states of `source`.

    After the replaced states the target continues with its own weights, so that "all" at the last layer is the target's
    head on the source's states: the source's answers if heads are equal, otherwise as close as heads are similar.

    Parameters
    ----------
    source, target : path or (Run, Ensemble)
        Folders of runs, or a run and an ensemble whose member 0 is its model; of one shape and vocabulary.
    tasks : str or iterable of str, optional
        Names; None means those of both runs.
    layers : sequence of int, optional
        Layers as in Hugging Face: 0 the embeddings, k after block k, the last after the final norm; None means all.
    positions : str or iterable of str
        Positions at which states are replaced: "entity", all tokens of the row's cities; "included", those of its
        cities from must_include; "last", each city's last token and the delimiter after it, whose states represent a
        city; "equals", the '=' before the answer; "question", every token up to and including it; "all", those of the
        answer too, which both models then read as it is given.
    rows : int
        Rows of each task.
    must_include, among, split, seed
        Those of the rows, as for `sample`: "region == 'Atlantis'". None as seed means the target's.
    world : World, optional
        World of the rows; None means the target's.
    longest : int
        Most tokens of an answer.

    Returns
    -------
    DataFrame
        One row for each layer, positions and task. Columns: layer, positions, task; source, target (names of the runs);
        metric (TASKS[task].metric); value (score of the patched target); recovered ((value - target_value) /
        (source_value - target_value): 0 like the target by itself, 1 like the source; beyond if answers are worse than
        one's or better than the other's; NaN if the two are equal, and noisy if they nearly are); standard_error (of
        `recovered`, a ratio of means over the same rows, by linearisation over rows: Cochran, "Sampling Techniques",
        1977, equation 6.13); n (rows); source_value, target_value (scores of the models by themselves); unparsable
        (answers of the patched target that cannot be parsed).

    Raises
    ------
    ValueError
        The models differ in shape or vocabulary, positions are unknown, or "included" is given without must_include.
        Also the errors of `load` and `sample`.
    IndexError
        The models do not have a layer.
    """
    import pandas as pd

    source_run, giving = opened(source, "source")
    target_run, taking = opened(target, "target")
    _require_alike(source_run, giving, target_run, taking)
    world = target_run.data.world.build() if world is None else world
    if tasks is None:
        tasks = dict.fromkeys((*source_run.data.tasks, *target_run.data.tasks))
    chosen = [find(task) for task in ([tasks] if isinstance(tasks, str | Task) else tasks)]
    groups = [positions] if isinstance(positions, str) else list(positions)
    layers = _layers(taking, layers)
    for name, value in (("rows", rows), ("longest", longest)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    for group in groups:
        _require_positions(group, must_include)
    lines = []
    for task in chosen:
        batch = sample(
            world,
            task,
            rows,
            target_run.seed if seed is None else seed,
            split=split,
            among=among,
            must_include=must_include,
            vocabulary=target_run.data.vocabulary,
            crossing=target_run.data.crossing,
        )
        if batch.vocabulary.size != taking.shape.inputs:
            raise ValueError(
                f"world: its vocabulary has {batch.vocabulary.size:,} tokens, that of {target_run.name!r} "
                f"{taking.shape.inputs:,}: with entities, both need as many cities"
            )
        alone = [_scores(task, batch, patched_answers(one, one, batch, longest=longest))[0] for one in (giving, taking)]
        for group in groups:
            at = token_positions(batch, task, group, None if must_include is None else world.select(must_include))
            for layer in layers:
                answers = patched_answers(giving, taking, batch, layer, at, longest=longest, answer=group == "all")
                scores, unparsable = _scores(task, batch, answers)
                lines.append(
                    (
                        layer,
                        group,
                        task.name,
                        source_run.name,
                        target_run.name,
                        task.metric,
                        scores.mean(),
                        *_ratio(scores - alone[1], alone[0] - alone[1]),
                        rows,
                        alone[0].mean(),
                        alone[1].mean(),
                        unparsable,
                    )
                )
    columns = ["layer", "positions", "task", "source", "target", "metric", "value", "recovered", "standard_error", "n"]
    return pd.DataFrame(lines, columns=[*columns, "source_value", "target_value", "unparsable"])


def token_positions(batch: Batch, task: str | Task, group: str, included: np.ndarray | None = None) -> np.ndarray:
    """Return the positions of a group's tokens in a batch of one task's rows, up to the '='.

    Parameters
    ----------
    batch : Batch
    task : str or Task
    group : str
        One of POSITIONS; see `activation_patching`. "all" here equals "question".
    included : ndarray, optional
        bool [N], the cities of "included".

    Returns
    -------
    ndarray
        bool [n, T].
    """
    task = find(task)
    _require_positions(group, included)
    column = np.arange(batch.tokens.shape[1])
    equals = batch.answer_start[:, None] - 1  # [n, 1]
    if group in ("question", "all"):
        return column <= equals
    if group == "equals":
        return column == equals
    size = len(batch.vocabulary.city_tokens(0))
    city, within = np.divmod(column - len(task.prompt) - 2, size + 1)  # <bos>, prompt, '(' come before the first
    there = (0 <= city) & (city < batch.cities.shape[1])
    index = np.where(there, batch.cities[:, np.where(there, city, 0)], -1)  # [n, T], -1: no city's
    if group == "last":
        return (index >= 0) & (within >= size - 1)
    inside = (index >= 0) & (within < size)
    return inside & included[index] if group == "included" else inside


@torch.inference_mode()
def patched_answers(
    source: Ensemble,
    target: Ensemble,
    batch: Batch,
    layer: int | None = None,
    at: np.ndarray | None = None,
    *,
    longest: int = 16,
    answer: bool = False,
) -> list[np.ndarray]:
    """Answer a batch's questions greedily by the target, with states replaced by those of the source. Members 0.

    Parameters
    ----------
    source, target : Ensemble
    batch : Batch
    layer : int, optional
        Layer whose states are replaced; None for none, the target by itself.
    at : ndarray, optional
        bool [n, T], tokens of the questions at which they are replaced (`token_positions`).
    longest : int
        Most tokens of an answer.
    answer : bool
        Replace the states of the answer's tokens too.

    Returns
    -------
    list of ndarray
        Tokens before <eos>, int32 [up to `longest`] each.
    """
    source, target = PlainTransformer.of(source), PlainTransformer.of(target)
    n, width = batch.tokens.shape
    longer = ((0, 0), (0, longest))
    tokens = torch.from_numpy(np.pad(batch.tokens.astype(np.int64), longer))  # [n, T], T with the answers' tokens
    column = torch.arange(width + longest, dtype=torch.int64, device="cpu")
    start = torch.from_numpy(batch.answer_start.astype(np.int64))
    replaced = torch.from_numpy(np.pad(np.zeros((n, width), bool) if at is None else at, longer))
    if answer:
        replaced |= column >= start[:, None]
    rows = torch.arange(n, dtype=torch.int64, device="cpu")
    answers = np.full((n, longest), EOS, dtype=np.int32)
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
        goes_on = following != EOS
        rows, following = rows[goes_on], following[goes_on]
        if not len(rows):
            break
        answers[rows.numpy(), step] = following.numpy()
        tokens, start, replaced = tokens[goes_on], start[goes_on], replaced[goes_on]
        given = given[goes_on] if len(given) else given
        tokens[torch.arange(len(rows), dtype=torch.int64, device="cpu"), start + step] = following
    return [row[:k] for row, k in zip(answers, (answers != EOS).sum(1))]


def _scores(task: Task, batch: Batch, answers: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return each row's score, float64 [n], and the number of answers that cannot be read."""
    return task.score(batch.label, [batch.vocabulary.decode(answer) for answer in answers])


def _ratio(part: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """sum(part) / sum(whole) over rows and its standard error; NaN where the whole is 0."""
    n, total = len(part), whole.sum()
    if total == 0:
        return float("nan"), float("nan")
    share = part.sum() / total
    error = np.sqrt(np.square(part - share * whole).sum() * n / (n - 1)) / abs(total) if n > 1 else float("nan")
    return float(share), float(error)


def _require_alike(source_run: Run, source: Ensemble, target_run: Run, target: Ensemble) -> None:
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


def _require_positions(group: str, included) -> None:
    if group not in POSITIONS:
        raise unknown_name("positions", group, POSITIONS)
    if group == "included" and included is None:
        raise ValueError("positions: 'included' are tokens of cities from must_include, which is None")


def _layers(ensemble: Ensemble, layers: Sequence[int] | None) -> list[int]:
    depth = ensemble.spec.layers
    layers = list(range(depth + 1) if layers is None else layers)
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= depth:
            raise IndexError(f"layers: expected 0 to {depth}, got {layer!r}")
    return layers

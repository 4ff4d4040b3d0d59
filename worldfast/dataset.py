"""Interface that a world implements: a dataset, a readout of a model's states, and a score of its answers."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from worldfast import files
from worldfast.arrays import integers, refuse
from worldfast.classes import Named, fields_to_json, known_fields
from worldfast.display import count
from worldfast.errors import MismatchError, number, one_of, typed, whole
from worldfast.rows import Rows, Shape, Stream, require_rows, require_stream


class Readout(NamedTuple):
    """Rows about n things, at whose scored positions a model's hidden states represent the things.

    Attributes
    ----------
    rows : Rows
        P scored positions for each thing.
    things : ndarray
        int32 [n], indices of the world's entities, below `Dataset.entity_count`.
    attributes : ndarray
        float64 [n, k], properties of each thing: coordinates, factors ...
    columns : tuple of str
        Names of the k attributes.
    groups : mapping of str to ndarray
        bool [n], things that belong together: those that a fine-tune is taught.
    about : mapping
        Facts that are stored beside the states: the prompt, the token positions.
    entities : ndarray, optional
        str [n], what identifies each thing in any world that has it, so that models of two worlds can be compared on
        what both have; None: they are known by their index, in this world alone.
    order : ndarray, optional
        int [n * P], scored position of each returned state; None means the order of scored positions. It allows rows
        with a common beginning to stand together, so that a model computes that beginning once.
    """

    rows: Rows
    things: np.ndarray
    attributes: np.ndarray
    columns: tuple[str, ...]
    groups: Mapping[str, np.ndarray]
    about: Mapping[str, Any]
    order: np.ndarray | None = None
    entities: np.ndarray | None = None


@dataclass(frozen=True)
class Score:
    """Score of a model's answers to rows of one kind.

    Attributes
    ----------
    value : float
        Mean absolute error, or accuracy.
    constant : float
        Score of the best constant answer.
    n : int
        Number of rows.
    unparsable : int
        Rows whose answer cannot be parsed; each counts as a failure.
    """

    value: float
    constant: float
    n: int
    unparsable: int


class Tokenizer(NamedTuple):
    """Hugging Face tokenizer for a dataset's models.

    Attributes
    ----------
    special : mapping of str to int
        Ids of special tokens, named as in config.json: "bos_token_id" ...
    files : mapping of str to dict
        Contents of the tokenizer's files by name: "tokenizer.json" ...
    """

    special: dict[str, int]
    files: dict[str, dict]


def nested(value: Any) -> Any:
    """Return arrays and lists as nested tuples, which a dataset can have as a field."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(nested, value)) if isinstance(value, (list, tuple)) else value


class Dataset(Named, ABC):
    """Rows that models learn, as a function of a seed and a split. A world subclasses it as a frozen dataclass.

    Its fields are values that JSON keeps: with the path of the class and the digest of its `content` they are its
    identity, which is part of `Run.id`.
    A class is found again by its path, so it stands at the top of a module. `shape`, `epoch_rows` and `longest` are
    read often, for many runs; a dataset whose streams take long to build overrides them.

    Attributes
    ----------
    vocabulary : str
        Name of its set of tokens; a model that learned another vocabulary cannot continue on this dataset. "" means
        that inputs are vectors.
    """

    vocabulary = ""

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name of the dataset, part of the names of runs: "distance+angle"."""

    @abstractmethod
    def stream(self, seed: int, split: str = "train") -> Stream:
        """Return the rows of a seed and a split, which is one of `worldfast.rows.SPLITS`: another is refused."""

    @abstractmethod
    def readout(self, **options: Any) -> Readout:
        """Return the rows at which models of the dataset are read; the options have defaults."""

    @abstractmethod
    def score(self, ensemble: Any, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        """Score a member on n rows of each kind in the dataset.

        Parameters
        ----------
        ensemble : Ensemble
        member : int
        n : int
            Rows of each kind.
        seed, split
            Seed and split of the rows.

        Returns
        -------
        dict of str to Score
        """

    @property
    def shape(self) -> Shape:
        """Shape of a model's inputs and outputs."""
        return require_stream(self.stream(0), self).shape

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch."""
        return require_stream(self.stream(0), self).rows

    @cached_property
    def longest(self) -> int:
        """Inputs of the longest row."""
        return require_stream(self.stream(0), self).longest

    @property
    def stream_bytes(self) -> int:
        """Bytes that a stream holds beside its rows, such as a table that it draws from; memory is planned for them."""
        return 0

    @property
    def entity_count(self) -> int | None:
        """Number of the world's entities, of which a readout may name a part; None: the n things of a readout are all
        of them, 0 to n - 1.
        """
        return None

    def content(self) -> Mapping[str, Any]:
        """Return by name what rows and readouts are made of besides the fields: arrays, numbers, texts.

        It is part of `Run.id`, so that a run is not taken for one of another world: for a world in a file, the columns
        that are read from it; for one that is computed, the numbers that it is computed from. Numbers count bit by
        bit, so state what was read or drawn rather than what a processor computed from it.
        """
        return {}

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each entry of `content`, 16 hexadecimal digits by name."""
        return digests_of(self.content())

    @property
    def digest(self) -> str:
        """SHA-256 of all of `content`."""
        return files.digest(json.dumps(self.digests, sort_keys=True))

    def identity(self) -> dict:
        """Return the part of `to_json` that decides what is learned: not the place of a file, whose content counts."""
        return self.to_json()

    def check(self, model: Any) -> None:
        """Raise ValueError if a model of this spec cannot learn these rows; by default every model can."""
        return

    def decode(self, tokens: np.ndarray) -> str:
        """Return tokens of a row as text, which `worldfast sample` prints; by default as their numbers."""
        return " ".join(map(str, integers(tokens, "tokens").tolist()))

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that `export_huggingface` writes beside a model, or None."""
        return None

    def to_json(self) -> dict:
        """Return the fields as values that JSON keeps; raises a TypeError naming one that it does not keep."""
        return fields_to_json(type(self).__name__, asdict(self))  # type: ignore[call-overload]  # it is a dataclass

    @classmethod
    def from_json(cls, content: Mapping) -> Dataset:
        """Return the dataset of `to_json`; raises ValueError for an unknown field."""
        return cls(**known_fields(cls, content))


def digests_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each entry of a world's content; raises TypeError, naming it, for what has none."""
    found = {}
    for name, value in content.items():
        try:
            found[str(name)] = files.digest(value)[:16]
        except TypeError as error:
            raise TypeError(f"content: {name}: {error}") from None
    return found


def missing_of(data: Any) -> list[str]:
    """Return in words what an object lacks to be a dataset; nothing is missing of a Dataset."""
    if isinstance(data, Dataset):
        return []
    names = ("label", "stream", "readout", "score")
    return [*(name for name in names if not hasattr(data, name)), "the base class worldfast.dataset.Dataset"]


def scores_of(data: Dataset, ensemble: Any, member: int, n: int, *, seed: int, split: str) -> dict[str, Score]:
    """Return a member's scores by a dataset, checked.

    Raises
    ------
    TypeError, ValueError
        What the dataset gives are no scores by name, or not of n rows; and what it raises itself.
    """
    what = f"score of {type(data).__name__}"
    found: dict[str, Score] = {}
    given = data.score(ensemble, member, n, seed=seed, split=split)
    for name, score in typed(what, given, Mapping, "a Score by name").items():
        one = f"{what}: {name!r}"
        typed(one, score, Score, "a worldfast.dataset.Score")
        value, constant = (number(f"{one}: {of}", getattr(score, of)) for of in ("value", "constant"))
        rows, unparsable = (whole(f"{one}: {of}", getattr(score, of), 0) for of in ("n", "unparsable"))
        if rows != n:
            raise ValueError(f"{one}: expected {count(n, 'row')} of {split}, got {rows:,}")
        found[str(name)] = Score(value, constant, rows, unparsable)
    return found


def require_options(data: Dataset, names: Iterable[str], what: str) -> None:
    """Raise ValueError naming the first of these names that is no option of a dataset's readout, and those that are."""
    if not (names := list(names)):
        return
    known = inspect.signature(data.readout).parameters
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return
    for name in names:
        if name not in known and not known:
            raise ValueError(f"unknown {what} {name!r}: the readout of {type(data).__name__} has no options")
        one_of(what, name, known)


def require_readout(readout: Any, data: Dataset) -> None:
    """Raise a TypeError or ValueError naming the field of a readout that does not fit the others or its dataset."""
    typed("readout", readout, Readout, "a worldfast.dataset.Readout")
    given = {name: getattr(readout, name) for name in ("things", "attributes", "entities", "order")}
    for name, array in (given | {f"groups: {name!r}": mask for name, mask in readout.groups.items()}).items():
        refuse(array, name)
    things, attributes = np.asarray(readout.things), np.asarray(readout.attributes)
    if things.ndim != 1 or not np.issubdtype(things.dtype, np.integer):
        raise TypeError(f"things: expected integers [n], got {things.dtype} {list(things.shape)}")
    n = len(things)
    if n == 0 or things.min() < 0 or len(np.unique(things)) < n:
        raise ValueError(f"things: expected indices of entities, from 0 on and each once, got {things[:8].tolist()}")
    _require_entities(things, data.entity_count)
    if attributes.shape != (n, len(readout.columns)) or not np.isfinite(attributes).all():
        expected = f"finite numbers [{n}, {len(readout.columns)}], of each thing what columns names"
        raise ValueError(f"attributes: expected {expected}, got {attributes.dtype} {list(attributes.shape)}")
    for name, mask in readout.groups.items():
        if np.shape(mask) != (n,) or np.asarray(mask).dtype != bool:
            raise ValueError(f"groups: {name!r}: expected bool [{n}], of each thing, got shape {list(np.shape(mask))}")
    require_rows(readout.rows, data.shape)
    K = len(readout.rows.scored)
    if K == 0 or K % n:
        raise ValueError(f"rows: expected as many scored positions for each of {count(n, 'thing')}, got {K}")
    if readout.entities is not None:
        ids = np.asarray(readout.entities)
        if ids.shape != (n,) or ids.dtype.kind != "U" or len(np.unique(ids)) < n:
            raise ValueError(f"entities: expected texts [{n}], each once, got {ids.dtype} {list(ids.shape)}")
    if readout.order is not None and not np.array_equal(np.sort(readout.order), np.arange(K)):
        raise ValueError(f"order: expected each of 0 to {K - 1} once")


def _require_entities(things: np.ndarray, count: int | None) -> None:
    if count is not None and things.max() >= whole("entity_count", count, 1):
        raise ValueError(f"things: entity {things.max()} is not there: the world has {count:,}, 0 to {count - 1}")
    if count is None and things.max() >= len(things):
        raise ValueError(
            f"things: entity {things.max()} of {len(things):,} is not there, they are 0 to {len(things) - 1}; a world "
            "that reads only some of its entities states as `entity_count` how many it has"
        )


def entity_ids(readout: Readout, digest: str) -> np.ndarray:
    """Return what identifies the things of a readout, str [n]: in a world of this digest, or, if the world says so, in
    any world.
    """
    if readout.entities is not None:
        return np.asarray(readout.entities)
    return np.array([f"{index} of {digest[:16]}" for index in np.asarray(readout.things).tolist()])


def require_same_entities(ids: Mapping[str, np.ndarray]) -> None:
    """Raise a MismatchError if arrays that are to be compared are not of the same entities in the same order.

    Parameters
    ----------
    ids : mapping of str to ndarray
        Ids of the rows' entities, str [n], by the name of the array: `Activations.entities`, `entity_ids`.
    """
    if not ids:
        return
    (first, expected), *others = ids.items()
    for name, found in others:
        if np.array_equal(found, expected):
            continue
        only = [
            f"only {one!r} has {sorted(set(a.tolist()) - set(b.tolist()))[:3]}"
            for one, a, b in ((first, expected, found), (name, found, expected))
            if set(a.tolist()) - set(b.tolist())
        ]
        why = "; ".join(only) or "those of both are the same in another order: put the rows of one in the other's order"
        raise MismatchError(
            f"{first!r} and {name!r} are of different entities, {len(expected):,} and {len(found):,}: {why}"
        )

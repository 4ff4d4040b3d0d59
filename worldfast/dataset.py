"""All that a world hands the instrument: a dataset, what is read from a model about it, and how well a model answers."""

from __future__ import annotations

import importlib
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from worldfast.errors import unknown_name
from worldfast.rows import Rows, Shape, Stream

__all__ = ["Dataset", "Readout", "Score", "Tokenizer", "class_at", "known_fields", "path_of"]


class Readout(NamedTuple):
    """Rows about n things, at whose scored positions a model's hidden states represent the things.

    Attributes
    ----------
    rows : Rows
        P scored positions for each thing.
    things : ndarray
        int32 [n], indices of the world's entities.
    attributes : ndarray
        float64 [n, k], what the world says of each: coordinates, factors ...
    columns : tuple of str
        Names of the k attributes.
    groups : mapping of str to ndarray
        bool [n], things that belong together: a region, what a fine-tune teaches.
    about : mapping
        Facts that are kept beside the states: the prompt, the token positions.
    order : ndarray, optional
        int [n * P], the scored position of each state in the order in which states are returned; None: as they are
        scored. Rows that begin alike can so stand together, for a model to compute their beginning once.
    """

    rows: Rows
    things: np.ndarray
    attributes: np.ndarray
    columns: tuple[str, ...]
    groups: Mapping[str, np.ndarray]
    about: Mapping[str, Any]
    order: np.ndarray | None = None


@dataclass(frozen=True)
class Score:
    """How well a model answers rows of one kind.

    Attributes
    ----------
    value : float
        Mean absolute error, or accuracy.
    constant : float
        Value of the best answer that is always the same.
    n : int
        Rows.
    unparsable : int
        Rows whose answer cannot be read; each counts as a failure.
    """

    value: float
    constant: float
    n: int
    unparsable: int


class Tokenizer(NamedTuple):
    """Tokenizer of Hugging Face that goes with a dataset's models.

    Attributes
    ----------
    special : mapping of str to int
        Ids of special tokens as config.json calls them: "bos_token_id" ...
    files : mapping of str to dict
        Contents of the tokenizer's files by name: "tokenizer.json" ...
    """

    special: dict[str, int]
    files: dict[str, dict]


class Dataset(ABC):
    """Rows that models learn, as a function of a seed and a split. A world's own frozen dataclass.

    Its fields are values that JSON keeps: they and the path of the class are its identity, which is part of `Run.id`.
    A class is found again by its path, so it stands at the top of a module. `shape`, `epoch_rows` and `longest` are asked
    for often, of many runs; a dataset whose streams take long to build says them by itself.

    Attributes
    ----------
    vocabulary : str
        Name of its set of tokens: a model that learned another cannot go on with this dataset. "": inputs are vectors.
    """

    vocabulary = ""

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the dataset, of which runs make theirs: "distance+angle"."""

    @abstractmethod
    def stream(self, seed: int, split: str = "train") -> Stream:
        """Return the rows of a seed and a split."""

    @abstractmethod
    def readout(self, **options) -> Readout:
        """Return the rows at which models of the dataset are read; the options have defaults."""

    @abstractmethod
    def score(self, ensemble, member: int, n: int, *, seed: int, split: str = "validation") -> dict[str, Score]:
        """Score a member on n rows of each kind of which the dataset is made, those of a seed and a split."""

    @property
    def shape(self) -> Shape:
        """Shape of what goes into a model and comes out of it."""
        return self.stream(0).shape

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch."""
        return self.stream(0).rows

    @property
    def longest(self) -> int:
        """Inputs of the longest row."""
        return self.stream(0).longest

    @property
    def digest(self) -> str:
        """Hash of what rows are made of beside the fields, such as the coordinates in a file; "": nothing."""
        return ""

    def check(self, model) -> None:
        """Raise ValueError where a model of this spec cannot learn these rows; by default every model can."""
        return

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that `export_huggingface` writes beside a model; None: none."""
        return None

    def to_json(self) -> dict:
        """Return the fields as values that JSON keeps."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]  # what derives from it is a dataclass

    @classmethod
    def from_json(cls, content: Mapping) -> Dataset:
        """Return the dataset of `to_json`. Raises ValueError for a field that it does not have."""
        return cls(**known_fields(cls, content))


def known_fields(kind: type, content: Mapping) -> dict:
    """Return values by the names of a dataclass's fields. Raises ValueError for a name that is no field."""
    if not isinstance(content, Mapping):
        raise TypeError(f"{kind.__name__}: expected its fields by name, got {content!r:.100}")
    names = [f.name for f in fields(kind)]
    for name in content:
        if name not in names:
            raise unknown_name(f"field of {kind.__name__}", name, names)
    return dict(content)


# ---- classes by their paths ----


def path_of(kind: type) -> str:
    """Return the path of a class, "worldfast.worlds.cities.Dataset": a world's is that of its door."""
    module = kind.__module__
    if module.startswith(("worldfast.worlds.", "worldfast.models.")):
        module = ".".join(module.split(".")[: 3 if "worlds" in module else 2])
    return f"{module}.{kind.__qualname__}"


def class_at(path: str, what: str, fits: Callable[[type], bool]) -> type:
    """Return the dataclass at a path.

    A path comes from a file, which anyone may have written. So nothing is imported but a door of this package; a class of
    another module is found where that is imported already.

    Parameters
    ----------
    path : str
        As from `path_of`.
    what : str
        Kind of class that is expected, in words.
    fits : callable
        Tells a class of that kind.

    Raises
    ------
    ValueError
        No such dataclass is there.
    """
    module, _, name = str(path).rpartition(".")
    ours = re.fullmatch(r"worldfast\.(worlds\.[A-Za-z]\w*|models)", module)
    if ours:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            raise ValueError(f"class {path!r}: this version of worldfast has no {module}") from None
    elif module not in sys.modules:
        raise ValueError(
            f"class {path!r}: {module or 'its module'} is not imported: import it first, then read its runs"
        )
    found = getattr(sys.modules[module], name, None) if ours else vars(sys.modules[module]).get(name)
    if not (isinstance(found, type) and is_dataclass(found) and fits(found)):
        raise ValueError(f"class {path!r}: {module} has no dataclass {name!r} that is {what}")
    return found

"""Scene of a world: its entities as figures and the page of a study draw them, and the words for them.

A study hands a scene to the report, which knows no world: a world's own study makes one, and any other study one of
what its runs' readout has (`scene_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log10
from typing import Any, NamedTuple

import numpy as np

from worldfast.classes import Named
from worldfast.dataset import Dataset, Readout
from worldfast.display import count
from worldfast.errors import one_of, several, typed
from worldfast.rows import Shape

__all__ = ["Axis", "Scene", "Subject", "scene_of"]

LOSSES = {
    "cross_entropy": "cross entropy, nats",
    "binary_cross_entropy": "binary cross entropy, nats",
    "mean_square": "mean square error",
    "tanh_square": "mean square error of tanh",
}


class Axis(NamedTuple):
    """A coordinate of a map: an attribute, and how its values are written.

    Attributes
    ----------
    name : str
    unit : str
        Written after a value: "°", " m".
    scale : float
        Factor of the values that are written.
    digits : int
        Decimals.
    signs : tuple of (str, str)
        Written after a value above and below zero in place of its sign, as compass points; none by default.
    grid : float
        Distance of the grid's lines; 0 for none.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 0
    signs: tuple[str, ...] = ()
    grid: float = 0.0

    def write(self, value: float) -> str:
        """Return a length along the axis in words; "–" if it is not finite."""
        return f"{value * self.scale:,.{self.digits}f}{self.unit}" if np.isfinite(value) else "–"


@dataclass(frozen=True, eq=False)
class Scene:
    """The N entities of a world that a study shows, where they are, and what they are called.

    Attributes
    ----------
    name : ndarray
        str [N].
    group : ndarray
        str [N], the group that colours each entity; "" for none.
    xy : ndarray, optional
        [N, 2], the two attributes that a map has as axes; None: principal components are drawn in place of a map.
    axes : tuple of Axis
        Those two.
    columns : tuple of str
        Names of all attributes, which probes read.
    weight : ndarray, optional
        float [N] from 0 on, with whose root dots grow; by default all are alike.
    colours : mapping of str to str
        Group to "#rrggbb", in order; by default, the report's own.
    new : tuple of str
        Groups that models are taught after pretraining.
    one, many : str
        Noun of an entity, and its plural.
    units : mapping of str to (float, str)
        Unit of a table -> factor, and the unit in which the page says it.
    grouping : (str, str)
        Noun of a group of colour, and its plural.
    loss : str
        Name of the loss, with its unit.
    title, question : str
        Heading of the page; what the study asks, or "".
    taught_by : str
        Rows from which fine-tunes learn `new`, in words; "" if nothing is said of them.
    example : (str, str)
        A row of the world: what a model reads, and the answer that it learns.
    notes : str
        Sentences below the map, such as what the dots' size says.
    terms : mapping of str to str
        Terms of the world's own figures and findings, and what each means; the page says it where one stands.
    sources : sequence of (str, str)
        Parts of the footer, each a text and a link or "".
    cite : str
        BibTeX of what the world's studies are after, or "".
    world : object, optional
        The world itself, for figures that are its own.
    """

    name: np.ndarray
    group: np.ndarray
    xy: np.ndarray | None = None
    axes: tuple[Axis, ...] = ()
    columns: tuple[str, ...] = ()
    weight: np.ndarray | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    one: str = "entity"
    many: str = "entities"
    units: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    grouping: tuple[str, str] = ("group", "groups")
    loss: str = "loss"
    title: str = "Inside the model"
    question: str = ""
    taught_by: str = ""
    example: tuple[str, str] = ("a row", "its answer")
    notes: str = ""
    terms: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[tuple[str, str], ...] = ()
    cite: str = ""
    world: Any = None

    def __len__(self) -> int:
        return len(self.name)

    @property
    def metric(self) -> bool:
        """True if distances on the map have a unit: both axes are written alike."""
        return len({(axis.unit, axis.scale) for axis in self.axes}) == 1

    def distance(self, value: float) -> str:
        """Return a distance on the map in words; "–" if it is not finite or has no unit."""
        return self.axes[0].write(value) if self.metric else "–"


@dataclass(frozen=True)
class Subject(Named):
    """Words and places of a study's world, for its page.

    Attributes
    ----------
    one, many : str
        Noun of an entity, and its plural.
    units : mapping of str to str
        Unit of an attribute by its name.
    axes : sequence of str, optional
        The two attributes that are drawn as a map; none: principal components are. By default, the first two.
    question : str
        What the study asks, for the head of its page; by default, what models know of the attributes.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.
    """

    one: str = "entity"
    many: str = "entities"
    units: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, ...] | None = None
    question: str = ""

    def __post_init__(self):
        for name in ("one", "many", "question"):
            typed(f"subject.{name}", getattr(self, name), str, "a text")
        typed("subject.units", self.units, Mapping, "units by the names of attributes")
        if self.axes is not None:
            object.__setattr__(self, "axes", several("subject.axes", self.axes, "names of two attributes"))
            if len(self.axes) not in (0, 2):
                raise ValueError(f"subject.axes: expected the names of two attributes or none, got {list(self.axes)}")

    def columns_of(self, readout: Readout) -> tuple[int, ...]:
        """Return the indices of the two attributes that are drawn as a map; () if principal components are.

        Raises
        ------
        ValueError
            The readout has no attribute of a name.
        """
        for name in (*self.units, *(self.axes or ())):
            one_of("attribute of subject", name, readout.columns)
        drawn = readout.columns[:2] if self.axes is None else self.axes
        return tuple(readout.columns.index(name) for name in drawn) if len(drawn) == 2 else ()


def scene_of(subject: Subject, data: Dataset, readout: Readout) -> Scene:
    """Return the scene of a world of which only a readout is known.

    An entity has the colour of the first group of the readout that has it.

    Parameters
    ----------
    subject : Subject
    data : Dataset
    readout : Readout

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        As from `Subject.columns_of`.
    """
    drawn = subject.columns_of(readout)
    group = np.full(len(readout.things), "", dtype=object)
    for name, members in reversed(readout.groups.items()):
        group[np.asarray(members)] = name
    xy = np.asarray(readout.attributes, dtype=np.float64)[:, drawn] if drawn else None
    units = [subject.units.get(readout.columns[i], "") for i in drawn]
    spans = np.ptp(xy, axis=0) if drawn else np.ones(0)
    alike = len(set(units)) == 1  # of one unit: one number of decimals
    axes = tuple(
        Axis(readout.columns[i], unit and f" {unit}", digits=_digits(spans.max() if alike else span))
        for i, unit, span in zip(drawn, units, spans)
    )
    columns = ", ".join(readout.columns)
    known = f"the {subject.many}’ hidden attributes ({columns})" if columns else f"the {subject.many} behind its rows"
    ids = readout.entities if readout.entities is not None else [f"{subject.one} {i}" for i in readout.things]
    return Scene(
        name=np.asarray(ids, dtype=str),
        group=group.astype(str),
        xy=xy,
        axes=axes,
        columns=tuple(readout.columns),
        one=subject.one,
        many=subject.many,
        loss=LOSSES.get(data.shape.loss, data.shape.loss),
        title=f"What models know of the {subject.many}",
        question=subject.question or f"What does a model that is trained on {data.label} know of {known}?",
        example=_example(data.shape),
    )


def _example(shape: Shape) -> tuple[str, str]:
    """Return what a model reads of a row and what it learns to give, where only the shape of both is known."""
    read = count(shape.inputs, "number") if shape.vectors else f"tokens of {shape.inputs:,} kinds"
    one_of_many = shape.loss == "cross_entropy"
    return read, f"one of {shape.outputs:,} answers" if one_of_many else count(shape.outputs, "number")


def _digits(span: float) -> int:
    """Return the decimals that tell a thousandth of a span apart."""
    return max(0, 2 - floor(log10(span))) if span > 0 else 2

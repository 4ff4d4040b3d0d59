"""What the tables of the analyses share: pairs of things, columns that say what a table is of, checks of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from worldfast.errors import unknown_name

if TYPE_CHECKING:
    import pandas

__all__ = ["labelled", "members", "need_columns", "pair_table"]


def need_columns(table: pandas.DataFrame, name: str, columns: Iterable[str]) -> None:
    """ValueError with the nearest column where a table, called `name` in the error, lacks one of `columns`."""
    for column in columns:
        if column not in table.columns:
            raise ValueError(f"{name}: " + str(unknown_name("column", column, table.columns)))


def labelled(table: pandas.DataFrame, **labels) -> pandas.DataFrame:
    """The table with a constant column before its own for every label that is not None, in their order."""
    for place, (name, label) in enumerate((k, v) for k, v in labels.items() if v is not None):
        table.insert(place, name, label)
    return table


def members(Xs: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the representations; TypeError for what is no mapping, ValueError for fewer than two."""
    if not isinstance(Xs, Mapping):
        raise TypeError(f"Xs: expected a mapping of name to array [n, d], got a {type(Xs).__name__}")
    if len(Xs) < 2:
        raise ValueError(f"Xs: expected at least 2 representations to compare, got {len(Xs)}")
    return tuple(Xs)


def pair_table(names: Iterable[str], matrix: np.ndarray, value: str = "value") -> pandas.DataFrame:
    """Each unordered pair once, the diagonal left out: columns run, other and `value`.

    names   [M], of the rows and columns
    matrix  [M, M], symmetric
    """
    import pandas as pd

    names = list(names)
    pairs = list(combinations(range(len(names)), 2))
    return pd.DataFrame(
        {
            "run": [names[i] for i, _ in pairs],
            "other": [names[j] for _, j in pairs],
            value: [float(matrix[i, j]) for i, j in pairs],
        }
    )

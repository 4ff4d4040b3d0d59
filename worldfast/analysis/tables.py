"""Parts shared by the tables of the analyses: pairs of items, label columns, and checks of columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

from worldfast import frames as pd
from worldfast.errors import typed, unknown_name, whole

__all__ = ["labelled", "members", "need_columns", "pair_table"]


def need_columns(table: pd.DataFrame, name: str, columns: Iterable[str]) -> None:
    """Check that a table has the columns.

    Parameters
    ----------
    table : DataFrame
    name : str
        Name of the table in messages.
    columns : iterable of str
        Required columns.

    Raises
    ------
    ValueError
        A column is missing; the message suggests the nearest one.
    """
    for column in columns:
        if column not in table.columns:
            raise ValueError(f"{name}: " + str(unknown_name("column", column, table.columns)))


def labelled(table: pd.DataFrame, **labels: object) -> pd.DataFrame:
    """Insert constant columns before a table's own, one for each label that is not None, and return the table."""
    if labels.get("layer") is not None:
        labels["layer"] = whole("layer", labels["layer"], 0)
    for place, (name, label) in enumerate((k, v) for k, v in labels.items() if v is not None):
        table.insert(place, name, label)
    return table


def members(Xs: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the representations.

    Raises
    ------
    TypeError
        Xs is not a mapping.
    ValueError
        Xs has fewer than two representations.
    """
    if len(typed("Xs", Xs, Mapping, "a mapping of name to array [n, d]")) < 2:
        raise ValueError(f"Xs: expected at least 2 representations to compare, got {len(Xs)}")
    return tuple(Xs)


def pair_table(names: Sequence[str], compare: Callable[[int, int], float], value: str = "value") -> pd.DataFrame:
    """Return a table of the unordered pairs of M things.

    Parameters
    ----------
    names : sequence of str
        [M].
    compare : function (int, int) -> float
        Gives the value of the pair (i, j), i < j, once.
    value : str
        Name of the column of values.

    Returns
    -------
    DataFrame
        Columns run, other and `value`.
    """
    pairs = combinations(range(len(names)), 2)
    rows = [(names[i], names[j], float(compare(i, j))) for i, j in pairs]
    return pd.DataFrame(rows, columns=["run", "other", value])

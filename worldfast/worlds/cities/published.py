"""Published numbers for comparison, each with its source: arXiv 2602.00533.

The data are in data/published.json. Matrices were read off figures, so that they have two decimals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from worldfast import frames as pd
from worldfast.errors import one_of


@dataclass(frozen=True)
class Published:
    """Published number.

    Attributes
    ----------
    name : str
    value : float
    uncertainty : float, optional
        Number after "+-"; None if there is none.
    uncertainty_is : str
        Meaning of the uncertainty in words; "" if there is none.
    unit : str
        Unit, such as "0.1 degree" or "linear CKA".
    source : str
        Location in the paper; a number recomputed from a published matrix says so.
    note : str
        Caveat for comparisons, or "".
    """

    name: str
    value: float
    uncertainty: float | None
    uncertainty_is: str
    unit: str
    source: str
    note: str


@cache
def _data() -> dict:
    return json.loads((Path(__file__).parent / "data" / "published.json").read_text(encoding="utf-8"))


def matrices() -> tuple[str, ...]:
    """Return the names of the published matrices."""
    return tuple(_data()["matrices"])


def matrix(name: str) -> pd.DataFrame:
    """Return a published matrix, rows and columns named by tasks ("distance+angle" for a row of several).

    Parameters
    ----------
    name : str
        One of `matrices()`.

    Returns
    -------
    DataFrame
        With a description in .attrs["what"] and .attrs["source"].

    Raises
    ------
    ValueError
        The name is unknown.

    Examples
    --------
    Fine-tuned on angle, evaluated on perimeter:

    >>> float(worldfast.worlds.cities.published.matrix("ftwb1_NI").loc["angle", "perimeter"])
    0.74
    """
    known = _data()["matrices"]
    found = known[one_of("published matrix", name, known)]
    table = pd.DataFrame(found["values"], index=found["rows"], columns=found["columns"], dtype=float)
    table.attrs = {"what": found["what"], "source": found["source"]}
    return table


def value(name: str) -> Published:
    """Return a published number by name.

    Raises
    ------
    ValueError
        The name is unknown.

    Examples
    --------
    >>> worldfast.worlds.cities.published.value("deviation_with_distance").value
    -0.185
    """
    known = {row["name"]: row for row in _data()["values"]}
    return Published(**known[one_of("published value", name, known)])


def values() -> pd.DataFrame:
    """Return all published numbers, one in each row, with the fields of `Published` as columns."""
    return pd.DataFrame(_data()["values"]).astype({"uncertainty": float})

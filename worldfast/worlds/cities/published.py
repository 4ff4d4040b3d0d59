"""The published numbers that ours stand beside, each with where it is from: arXiv 2602.00533.

The data are in data/published.json. Matrices were read off figures, so that they hold two decimals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from worldfast.errors import unknown_name

if TYPE_CHECKING:
    import pandas

__all__ = ["Published", "matrices", "matrix", "value", "values"]


@dataclass(frozen=True)
class Published:
    """One published number.

    name, value
    uncertainty      what stands behind its "+-"; None where nothing does
    uncertainty_is   what that is, in words; "" where there is none
    unit             such as "0.1 degree" or "linear CKA"
    source           where it is from; a number recomputed from a published matrix says so
    note             what to know before comparing; ""
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
    return json.loads((Path(__file__).parent / "data" / "published.json").read_text())


def matrices() -> tuple[str, ...]:
    """The names of the published matrices."""
    return tuple(_data()["matrices"])


def matrix(name: str) -> pandas.DataFrame:
    """A published matrix, rows and columns named by tasks ("distance+angle" where a row is of several).

        matrix("ftwb1_NI").loc["angle", "perimeter"]   # fine-tuned on angle, evaluated on perimeter: 0.74

    What it is stands in .attrs["what"] and .attrs["source"]. ValueError for a name that is not in `matrices()`.
    """
    import pandas as pd

    known = _data()["matrices"]
    if name not in known:
        raise unknown_name("published matrix", name, known)
    found = known[name]
    table = pd.DataFrame(found["values"], index=found["rows"], columns=found["columns"], dtype=float)
    table.attrs = {"what": found["what"], "source": found["source"]}
    return table


def value(name: str) -> Published:
    """A published number by name: value("deviation_with_distance").value is -0.185. ValueError for an unknown name."""
    known = {row["name"]: row for row in _data()["values"]}
    if name not in known:
        raise unknown_name("published value", name, known)
    return Published(**known[name])


def values() -> pandas.DataFrame:
    """All published numbers, a row each, the fields of `Published` as columns."""
    import pandas as pd

    return pd.DataFrame(_data()["values"]).astype({"uncertainty": float})

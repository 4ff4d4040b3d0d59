"""Random numbers of training, such as those of dropout: functions of a row, so that it has them in every batch, alone
or among others, after a run was stopped, and on every device.
"""

from __future__ import annotations

import hashlib

import numpy as np

from worldfast.rows import Rows

__all__ = ["generators"]


def generators(rows: Rows, what: str) -> list[np.random.Generator]:
    """Return a counter-based generator of each row.

    Its key is a hash of the row's inputs: rows with equal inputs have the same numbers, also in a later epoch.

    Parameters
    ----------
    rows : Rows
    what : str
        Purpose of the numbers; others have others.
    """
    inputs = rows.inputs.float() if rows.inputs.is_floating_point() else rows.inputs.long()
    inputs, starts = inputs.cpu().contiguous().numpy(), rows.row_start.tolist()
    keys = (
        hashlib.blake2b(inputs[a:b].tobytes(), digest_size=16, person=what.encode()) for a, b in zip(starts, starts[1:])
    )
    return [np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest(), "little"))) for key in keys]

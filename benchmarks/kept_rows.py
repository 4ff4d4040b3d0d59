"""Rows of the case that is being measured, in a file of this process beside the results: `kill -9` loses none of them.

    results.csv         cases that have ended
    results.csv.<pid>   rows of a case so far, written anew after each turn; removed when the case has ended

What a process that has died left behind goes into the results when the next one begins.
"""

import os
from pathlib import Path


def keep(path: Path, table: str) -> None:
    """Replaces what this process keeps beside `path` by a table with its header; readers see whole tables."""
    own = _own(path)
    partial = own.with_name(own.name + ".partial")
    partial.write_text(table, encoding="utf-8", newline="")
    partial.replace(own)


def discard(path: Path) -> None:
    """Removes what this process keeps: it is in the results."""
    _own(path).unlink(missing_ok=True)


def gather(path: Path) -> int:
    """Appends what processes that have ended left beside `path`, and returns the number of its rows. Rows that were
    appended before their process died are not appended again."""
    gathered = 0
    for left in sorted(path.parent.glob(f"{path.name}.*")):
        pid, _, partial = left.name.removeprefix(f"{path.name}.").partition(".")
        if not pid.isdecimal() or _lives(int(pid)):
            continue
        if partial:
            left.unlink()
            continue
        header, *rows = _lines(left)
        known = _lines(path) if path.exists() else []
        new = [row for row in rows if row not in known]
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.writelines(new if known else [header, *new])
        left.unlink()
        gathered += len(new)
    return gathered


def _own(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}")


def _lines(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(file)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True

"""Rows of the table of promises: `python -m torture [ROW ...] [--minutes N]`.

Runs the rows that are named, or all, shares the time among them by weight, and writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import re
import sys
import sysconfig
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path

from torture.tally import Tally
from worldfast import files

HERE = Path(__file__).parent
ROWS = {  # in the order of the table, and their weights in sharing the time
    "kills": 15,
    "damage": 10,
    "trouble": 10,
    "everywhere": 3,
    "invariance": 2,
    "hostile": 1,
    "fuzz": 8,
    "simulations": 10,
    "cluster": 12,
    "flat": 30,
}


def carry_out(name: str, seconds: float, seed: int, target: int | None = None) -> dict:
    """Run a row for so long at most, and return its line of the table."""
    row = importlib.import_module(f"torture.{name}")
    with tempfile.TemporaryDirectory(prefix=f"torture-{name}-") as place:
        tally = Tally(target or row.TARGET, seconds, Path(place), seed)
        try:
            row.run(tally)
        except Exception:
            tally.fail("the row itself", traceback.format_exc()[-600:])
    return {
        "promise": row.PROMISE,
        "target": row.TARGET,
        "tried": tally.tried,
        "held": dict(sorted(tally.held.items())),
        "failed": dict(sorted(tally.failed.items())),
        "examples": {kind: [_own(text) for text in texts] for kind, texts in tally.examples.items()},
        "notes": tally.notes,
        "seconds": round(tally.elapsed, 1),
        "seed": seed,
        **_about(),
    }


def _about() -> dict[str, str]:
    origin = files.origin("cpu")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": origin["device"].removeprefix("cpu: "),
        "worldfast": origin["worldfast"],
        "commit": origin["commit"],
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "h5py", "safetensors")},
    }


def table(results: dict[str, dict]) -> str:
    """Return the lines of all rows as a table in Markdown, what failed below it."""
    lines = ["| promise | shown by | tried | of | held | minutes |", "|---|---|---:|---:|---:|---:|"]
    for name in [name for name in ROWS if name in results]:
        row = results[name]
        held = sum(row["held"].values())
        lines.append(
            f"| {row['promise']} | `python -m torture {name}` | {row['tried']:,} | {row['target']:,} | {held:,} "
            f"| {row['seconds'] / 60:.1f} |"
        )
    for row in results.values():
        about = f"{row['processor']}; worldfast {row['worldfast']} {row['commit']}; Python {row['python']}"
        lines += ["", f"**{row['promise']}** ({row['date']}, {about}, torch {row['torch']})", ""]
        lines += ["- held: " + "; ".join(f"{kind} ({count:,})" for kind, count in row["held"].items())]
        for kind, count in row["failed"].items():
            lines += [f"- {kind}: {count:,} did **not** hold", *("  - " + _line(one) for one in row["examples"][kind])]
        lines += [f"- {_line(note)}" for note in row["notes"]]
    return "\n".join(lines) + "\n"


def _own(text: str) -> str:
    """Return a text without the folders of this machine that stand before what is Python's, the project's or the row's."""
    for folder in (HERE.parent, sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        text = text.replace(f"{folder}{os.sep}", "")
    return re.sub(r"(?:/[^/\s'\"]+)+/torture-\w+-\w+/", "", text)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to run, by default all: {', '.join(ROWS)}")
    parser.add_argument("--minutes", type=float, default=60, help="time for all of them together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json and results.md")
    options = parser.parse_args()
    rows = options.rows or list(ROWS)
    for name in rows:
        if name not in ROWS:
            parser.error(f"unknown row {name!r}: known: {', '.join(ROWS)}")
    files.folder(options.out, "--out")
    path = options.out / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    left = 60 * options.minutes
    for i, name in enumerate(rows):
        share = left * ROWS[name] / sum(ROWS[other] for other in rows[i:])
        print(f"{name}: {share / 60:.1f} minutes at most", file=sys.stderr, flush=True)
        results[name] = carry_out(name, share, options.seed)
        left -= results[name]["seconds"]
        files.write_whole(path, json.dumps(results, indent=1).encode())
        files.write_whole(path.with_suffix(".md"), table(results).encode())
    print(table({name: results[name] for name in rows}))
    return 1 if any(results[name]["failed"] for name in rows) else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

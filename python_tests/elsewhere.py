"""What a stranger puts in the place of a file or a folder, so that something elsewhere is read, written or waited for."""

import os
from pathlib import Path

KINDS = ("link", "dangling", "fifo", "other")  # the last: a folder in the place of a file, a file in that of a folder


def exchange(path: Path, kind: str, outside: Path) -> None:
    """Move a file or a folder to a folder `outside`, and put this in its place."""
    is_folder = path.is_dir()
    path.rename(outside / path.name)
    if kind in ("link", "dangling"):
        path.symlink_to(outside / (path.name if kind == "link" else "nowhere"))
    elif kind == "fifo":
        os.mkfifo(path)
    elif is_folder:
        path.write_text("a file")
    else:
        path.mkdir()


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Return the bytes of each file below a folder, by its path, and None for each folder."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}

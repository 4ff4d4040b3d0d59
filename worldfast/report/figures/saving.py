"""Figures as files: PNG and SVG, written atomically, with the same bytes for the same figure."""

from __future__ import annotations

import io
import os
from pathlib import Path

from worldfast import files
from worldfast.errors import file_name


def save(figure, folder: str | os.PathLike, name: str, origin: str = "") -> tuple[Path, Path]:
    """Write a figure as PNG (160 dpi) and SVG, each atomically.

    Parameters
    ----------
    figure : Figure
    folder : path
        Created if needed.
    name : str
        Name of the files, without suffix.
    origin : str
        Origin of the figure, written to both files' description.

    Returns
    -------
    (Path, Path)
        `folder`/`name`.png and .svg. The same figure gives the same bytes.

    Raises
    ------
    OSError
        A file cannot be written; FileExistsError if `folder` is a file.
    """
    import matplotlib

    file_name("name of a figure", name)
    target = files.folder(folder, "folder")
    written = []
    for suffix, extra in (("png", {}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(buffer, format=suffix, dpi=160, metadata={"Description": origin, "Title": name, **extra})
        written.append(files.write_whole(target / f"{name}.{suffix}", buffer.getvalue()))
    return written[0], written[1]

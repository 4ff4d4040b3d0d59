"""Figures as files: PNG and SVG, whole or not at all, the same bytes for the same figure."""

from __future__ import annotations

import io
import os
from pathlib import Path

from worldfast import files


def save(figure, folder: str | os.PathLike, name: str, origin: str = "") -> tuple[Path, Path]:
    """Write `folder`/`name`.png (160 dpi) and .svg, each whole or not at all; returns both paths.

    `origin` says where the figure comes from and stands in both files' description. The folder is made. The
    same figure gives the same bytes. Errors: those of the file system (FileExistsError: `folder` is a
    file).
    """
    import matplotlib

    target = files.folder(folder, "folder")
    written = []
    for suffix, extra in (("png", {}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(buffer, format=suffix, dpi=160, metadata={"Description": origin, "Title": name, **extra})
        written.append(files.write_whole(target / f"{name}.{suffix}", buffer.getvalue()))
    return written[0], written[1]

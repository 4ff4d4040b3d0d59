"""Figures as files: PNG and SVG, whole or not at all, the same bytes for the same figure."""

from __future__ import annotations

import io
import os
from pathlib import Path

from worldfast import files
from worldfast.figures.curves import training
from worldfast.figures.maps import learned_map, world_map
from worldfast.figures.matrices import cka_matrix
from worldfast.figures.views import pca
from worldfast.results import StudyResult


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
            figure.savefig(
                buffer,
                format=suffix,
                dpi=160,
                metadata={"Description": origin, "Title": name, **extra},
            )
        written.append(files.write_whole(target / f"{name}.{suffix}", buffer.getvalue()))
    return written[0], written[1]


def save_study(result: StudyResult, folder: str | os.PathLike) -> list[Path]:
    """Draw and save every figure of a study; returns the paths. Errors as for `save`."""
    origin = (
        f"{result.command}; worldfast {result.version} {result.commit}; {result.machine.get('processor', '')}"
    )
    drawn = {
        "world": world_map(result.world),
        "training": training(result.runs),
        "cka": cka_matrix(result.cka, [run.name for run in result.runs], result.cka_layer),
    }
    for run in result.runs:
        drawn[f"map-{run.name}"] = learned_map(result.world, run, moments=6)
        drawn[f"pca-{run.name}"] = pca(result.world, run)
    return [path for name, figure in drawn.items() for path in save(figure, folder, name, origin)]

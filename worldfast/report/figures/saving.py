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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file_name("name of a figure", name)
    target = files.folder(folder, "folder")
    about = {"Description": origin, "Title": name}
    png, svg = io.BytesIO(), io.BytesIO()
    engine, dpi, canvas = figure.get_layout_engine(), figure.dpi, figure.canvas
    try:
        figure.dpi = 160
        with matplotlib.rc_context({"svg.hashsalt": name}):
            # Not by savefig, which computes the layout and goes through all artists once more for each format.
            FigureCanvasAgg(figure).print_png(png, metadata=about)
            figure.set_layout_engine("none")  # it is there now
            FigureCanvasSVG(figure).print_svg(svg, metadata={**about, "Date": None})
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
        figure.dpi = dpi
        figure.set_canvas(canvas)
    return (
        files.write_whole(target / f"{name}.png", png.getvalue()),
        files.write_whole(target / f"{name}.svg", svg.getvalue()),
    )

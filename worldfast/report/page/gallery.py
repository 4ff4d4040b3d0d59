"""Figures inside the page: each as a data URI in its section with its caption, and a list of those not drawn."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from worldfast.report.figures.catalogue import Drawn, lacks

PNG = b"\x89PNG\r\n\x1a\n"
DPI = 160  # resolution of a PNG that does not state it
ENLARGED = 1.15  # size in the page relative to the size on paper


def figures(drawn: Iterable[Drawn]) -> dict[str, str]:
    """Return the HTML of each section that has a figure, by its key.

    Parameters
    ----------
    drawn : iterable of Drawn
        With figures as bytes of their files.

    Raises
    ------
    ValueError
        A figure is neither PNG nor SVG.
    """
    markup: dict[str, str] = {}
    for one in drawn:
        if one.figure is not None:
            markup[one.section] = markup.get(one.section, "") + _figure(one)
    return {key: f"<div class=gallery>{text}</div>" for key, text in markup.items()}


def missing(drawn: Iterable[Drawn]) -> str:
    """Return what the study lacks, and for which figures; empty if all were drawn."""
    said = "".join(f"<li>{escape(', '.join(titles))}: {escape(reason)}</li>" for reason, titles in lacks(drawn).items())
    return f"<div class=part id=missing><h3>Figures that were not drawn</h3><ul>{said}</ul></div>" if said else ""


def uri(name: str, image: bytes) -> tuple[str, float, float]:
    """Return an image as the shortest data URI, and its width and height in inches."""
    encoded = base64.b64encode(image).decode("ascii")
    if image.startswith(PNG):
        return f"data:image/png;base64,{encoded}", *_png_inches(image)
    if (tag := re.search(rb"<svg\b[^>]*>", image[:4000])) is None:
        raise ValueError(f"figure {name!r}: expected a PNG or an SVG, got bytes that begin with {image[:12]!r}")
    # Kept as text, so an SVG hardly grows; characters that would end a URI or an attribute are escaped.
    plain = "data:image/svg+xml," + quote(" ".join(image.decode().split()), safe=" /:;=,.()@!$*+?[]{}|'~^`\\")
    return min(plain, f"data:image/svg+xml;base64,{encoded}", key=len), *_svg_inches(tag[0].decode())


def _figure(drawn: Drawn) -> str:
    name, images = drawn.name, drawn.figure
    files = (images,) if isinstance(images, (bytes, bytearray)) else tuple(images)
    if not files:
        raise ValueError(f"figure {name!r}: no image, expected a PNG or an SVG")
    source, width, height = min((uri(name, bytes(file)) for file in files), key=lambda found: len(found[0]))
    across, down = round(96 * ENLARGED * width), round(96 * ENLARGED * height)
    label, anchor = escape(drawn.title), re.sub(r"[^a-zA-Z0-9]+", "-", name)
    return (
        f'<figure style="--w:{across}px" id="figure-{anchor}">'
        f'<button class=enlarge type=button title="Enlarge" aria-label="Enlarge: {label}">'
        f'<img src="{escape(source)}" alt="{label}" width={across} height={down}></button>'
        f"<figcaption><b>{label}.</b> {escape(drawn.caption)}</figcaption></figure>"
    )


def _png_inches(image: bytes) -> tuple[float, float]:
    width, height = struct.unpack(">II", image[16:24])
    at = image.find(b"pHYs", 0, 4096)
    dots = DPI
    if at >= 0:
        across, _, unit = struct.unpack(">IIB", image[at + 4 : at + 13])
        dots = across * 0.0254 if unit == 1 and across else DPI  # pixels a metre
    return width / dots, height / dots


def _svg_inches(tag: str) -> tuple[float, float]:
    """Return the size from width and height in points or pixels, else from the viewBox in points, else 6.4 by 4.8."""
    sizes = [re.search(rf'\b{side}="([\d.]+)(pt|px|)"', tag) for side in ("width", "height")]
    if all(sizes):
        return tuple(float(size[1]) / (72 if size[2] == "pt" else 96) for size in sizes)
    if box := re.search(r'\bviewBox="[-\d.]+[ ,]+[-\d.]+[ ,]+([\d.]+)[ ,]+([\d.]+)"', tag):
        return float(box[1]) / 72, float(box[2]) / 72
    return 6.4, 4.8

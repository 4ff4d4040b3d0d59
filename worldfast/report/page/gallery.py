"""Figures inside the page: each as a data URI in its section with its caption, and a list of those not drawn.

The other files of a figure, its SVG or PNG and its numbers, are in the page too, compressed, for a reader to save.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from worldfast.files import text_bytes
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


def files(drawn: Iterable[Drawn]) -> dict[str, dict[str, str]]:
    """Return for each figure, by its anchor, the files that the page does not show, by kind: "svg", "png", "csv".

    Each is base64 of zlib. A PNG is left out beside an SVG that is shown: the page draws it from that.
    """
    found: dict[str, dict[str, str]] = {}
    for one in drawn:
        if one.figure is not None:
            shown = _shown(one)[0]
            others = {_kind(file): file for file in _images(one) if file != shown}
            if _kind(shown) == "svg":
                others.pop("png", None)
            if one.numbers:
                others["csv"] = text_bytes(one.numbers)
            found[anchor(one.name)] = {kind: packed(content) for kind, content in others.items()}
    return found


def charts(drawn: Iterable[Drawn]) -> dict[str, list[dict]]:
    """Return the curves of the figures that have some, by anchor."""
    return {anchor(one.name): one.chart for one in drawn if one.figure is not None and one.chart}


def packed(content: bytes) -> str:
    """Return bytes as text: base64 of zlib."""
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def anchor(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", name)


def _kind(image: bytes) -> str:
    return "png" if image.startswith(PNG) else "svg"


def _images(drawn: Drawn) -> list[bytes]:
    figure = drawn.figure
    found = [bytes(file) for file in ((figure,) if isinstance(figure, (bytes, bytearray)) else tuple(figure))]
    if not found:
        raise ValueError(f"figure {drawn.name!r}: no image, expected a PNG or an SVG")
    return found


def _shown(drawn: Drawn) -> tuple[bytes, tuple[str, float, float]]:
    """Return the file of a figure that is shortest as a data URI, and that URI with its width and height."""
    found = [(file, uri(drawn.name, file)) for file in _images(drawn)]
    return min(found, key=lambda one: len(one[1][0]))


def _figure(drawn: Drawn) -> str:
    shown, (source, width, height) = _shown(drawn)
    across, down = round(96 * ENLARGED * width), round(96 * ENLARGED * height)
    label, key = escape(drawn.title), anchor(drawn.name)
    kinds = dict.fromkeys(
        [*sorted(map(_kind, _images(drawn)), reverse=True), "png", *(["csv"] if drawn.numbers else [])]
    )
    buttons = "".join(
        f"<button class=ghost type=button data-kind={kind} aria-label='{name} of {label}'>{name}</button>"
        for kind, name in ((kind, kind.upper()) for kind in kinds)
    )
    chart = f"<div class=chart data-chart={key} hidden></div>" if drawn.chart else ""
    return (
        f'<figure style="--w:{across}px" id="figure-{key}">{chart}'
        f'<button class=enlarge type=button title="Enlarge" aria-label="Enlarge: {label}">'
        f'<img src="{escape(source)}" alt="{label}" width={across} height={down}></button>'
        f"<figcaption><b>{label}.</b> {escape(drawn.caption)}</figcaption>"
        f"<div class=files data-files={key} hidden>{buttons}</div></figure>"
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

"""A study's figures inside the page: each as a data URI, in the group that its name puts it in, with its sentence."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

GROUPS = {  # key -> heading, in the order of the page
    "know": "What the models know",
    "alike": "How alike they are inside",
    "tuning": "What fine-tuning does",
    "tasks": "World and tasks",
}
WORDS = {  # a figure belongs to the first group that has a word of its name; to "know" where none has
    "tuning": "improvement deviation atlantis error generalisation agreement patching tuning tuned teacher",
    "alike": "cka procrustes knn dimension similarity trends alike",
    "know": "training probes",
    "tasks": "task tasks world noise",
}
PNG = b"\x89PNG\r\n\x1a\n"
DPI = 160  # of a PNG that does not say
ENLARGED = 1.15  # of a figure's own size on paper, in the page


def group(name: str) -> str:
    """The key in GROUPS of a figure: group("cka_trends") -> "alike"."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    plural = words | {word.removesuffix("s") for word in words}
    return next((key for key, known in WORDS.items() if plural & set(known.split())), "know")


def title(name: str) -> str:
    """The name of a figure in words: "cka_over_training" -> "CKA over training"."""
    words = re.sub(r"[_\W]+", " ", name).strip()
    proper = {"cka": "CKA", "knn": "kNN", "pca": "PCA", "atlantis": "Atlantis", "procrustes": "Procrustes", "r2": "R²"}
    words = " ".join(proper.get(word, word) for word in words.split(" "))
    return words[:1].upper() + words[1:]


def figures(entries: Sequence[tuple[str, bytes | tuple[bytes, ...], str]]) -> dict[str, str]:
    """The HTML of each group that has a figure, by its key.

    ValueError: a figure that is neither a PNG nor an SVG.
    """
    markup: dict[str, str] = {}
    for name, images, caption in entries:
        key = group(name)
        markup[key] = markup.get(key, "") + _figure(name, images, caption)
    return {key: f"<div class=gallery>{text}</div>" for key, text in markup.items()}


def uri(name: str, image: bytes) -> tuple[str, float, float]:
    """An image as a data URI, the shortest there is, and its width and height in inches."""
    encoded = base64.b64encode(image).decode("ascii")
    if image.startswith(PNG):
        return f"data:image/png;base64,{encoded}", *_png_inches(image)
    if (tag := re.search(rb"<svg\b[^>]*>", image[:4000])) is None:
        raise ValueError(f"figure {name!r}: expected a PNG or an SVG, got bytes that begin with {image[:12]!r}")
    # Kept as text, so that an SVG is hardly longer than it was; what a URI or an attribute would end at is escaped.
    plain = "data:image/svg+xml," + quote(" ".join(image.decode().split()), safe=" /:;=,.()@!$*+?[]{}|'~^`\\")
    return min(plain, f"data:image/svg+xml;base64,{encoded}", key=len), *_svg_inches(tag[0].decode())


def _figure(name: str, images: bytes | tuple[bytes, ...], caption: str) -> str:
    files = (images,) if isinstance(images, (bytes, bytearray)) else tuple(images)
    if not files:
        raise ValueError(f"figure {name!r}: no image, expected a PNG or an SVG")
    source, width, height = min((uri(name, bytes(file)) for file in files), key=lambda found: len(found[0]))
    across, down = round(96 * ENLARGED * width), round(96 * ENLARGED * height)
    label, anchor = escape(title(name)), re.sub(r"[^a-zA-Z0-9]+", "-", name)
    return (
        f'<figure style="--w:{across}px" id="figure-{anchor}">'
        f'<button class=enlarge type=button title="Enlarge" aria-label="Enlarge: {label}">'
        f'<img src="{escape(source)}" alt="{label}" width={across} height={down}></button>'
        f"<figcaption><b>{label}.</b> {escape(caption)}</figcaption></figure>"
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
    """From its width and height in points or pixels, else from its viewBox in points; 6.4 by 4.8 where it says neither."""
    sizes = [re.search(rf'\b{side}="([\d.]+)(pt|px|)"', tag) for side in ("width", "height")]
    if all(sizes):
        return tuple(float(size[1]) / (72 if size[2] == "pt" else 96) for size in sizes)
    if box := re.search(r'\bviewBox="[-\d.]+[ ,]+[-\d.]+[ ,]+([\d.]+)[ ,]+([\d.]+)"', tag):
        return float(box[1]) / 72, float(box[2]) / 72
    return 6.4, 4.8

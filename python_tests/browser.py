"""A page as a browser sees it, and text that would harm one."""

import base64
import functools
import html.parser
import json
import shutil
import zlib

import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
LINKS = {
    "https://www.geonames.org/",
    "https://creativecommons.org/licenses/by/4.0/",
    "https://arxiv.org/abs/2602.00533",
}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"'><b>{{data}}",
    "&amp; \u2028 ]]> <!--",
]


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with attributes, text, and the study's data."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.open = [], [], []
        self.data, self.script = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, text):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if attributes.get("id") == "study":
            self.data += text
        elif tag == "script":
            self.script += text
        elif tag != "style":
            self.words.append(text)

    @functools.cached_property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @functools.cached_property
    def study(self) -> dict:
        return json.loads(self.data)


def unpack(text: str, *shape: int) -> np.ndarray:
    """What page/state.js does."""
    halves = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    low, high = halves.reshape(2, -1).astype(np.int32)
    zigzag = low | (high << 8)
    steps = ((zigzag >> 1) ^ -(zigzag & 1)).reshape(shape)
    return np.cumsum(steps, axis=0).astype(np.int16)

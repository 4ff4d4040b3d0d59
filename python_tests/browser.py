"""A page as a browser sees it, and text that would harm one."""

import base64
import functools
import html.parser
import json
import os
import shutil
import signal
import subprocess
import tempfile
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


def browsed(uri: str, folder, size=(1280, 800), seconds: int = 60) -> subprocess.CompletedProcess:
    """Show a page for so many of its own seconds; the document as it then is, and what was said on the console.

    Chromium now and then hangs in its start and never comes back, so it is asked again.
    """
    flags = f"""--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --dump-dom
        --disable-background-networking --disable-component-update --enable-logging=stderr --window-size={size[0]},{size[1]}
        --force-prefers-reduced-motion --virtual-time-budget={seconds * 1000}""".split()
    for patience in (30, 60, 180):
        profile = tempfile.mkdtemp(prefix="profile", dir=folder)
        command = [CHROMIUM, *flags, f"--user-data-dir={profile}", uri]
        made = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command, **made) as process:
            try:
                out, said = process.communicate(timeout=patience)
                return subprocess.CompletedProcess(command, process.returncode, out, said)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    raise subprocess.TimeoutExpired(command, patience)


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

"""What is read off a figure, and how far apart two colours are to an eye."""

import numpy as np

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def texts(figure) -> str:
    import matplotlib.text

    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def unread(figure) -> list[tuple[str, str]]:
    """(panel, kind of artist) of what a figure draws of its data and its CSV does not hold, or not by a name of its own.

    What a CSV holds, it lacks once the artist is hidden. Nothing is asked of bars and caps of errors, of frames of
    a matrix, and of wedges and arrows, which are drawings.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.container import ErrorbarContainer
    from matplotlib.patches import Rectangle

    from worldfast.report.figures import numbers

    found = []
    names = numbers.panels(figure)
    for axes, name in names.items():
        alike = list(names.values()).count(name) > 1 and not any(numbers._titles(axes))
        if alike and next(numbers._rows(axes), None):
            found.append((name, "panel with the name of another"))
        boxes = [box for box in axes.containers if isinstance(box, ErrorbarContainer)]
        errors = {part for _, caps, bars in boxes for part in (*caps, *bars)}
        bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        lines = [line for line in axes.lines if len(line.get_xdata())]
        areas = [one for one in axes.collections if not isinstance(one, PathCollection) or len(one.get_offsets())]
        before = list(numbers._rows(axes))
        for one in axes.images or (*areas, *bars, *lines[:: len(lines) // 5 + 1]):  # many are alike
            one.set_visible(one in errors)
            if one not in errors and list(numbers._rows(axes)) == before:
                found.append((name, type(one).__name__))
            one.set_visible(True)
    return found


def seen_as(colour: str, vision: str) -> np.ndarray:
    """Linear RGB of a colour as an eye sees it."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return np.clip(np.asarray(VISION[vision]) @ linear, 0, 1)


def oklab(colour: str, vision: str) -> np.ndarray:
    to_cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    to_lab = [
        [0.21045426, 0.79361778, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.0259040, 0.78277177, -0.80867577],
    ]
    return np.asarray(to_lab) @ np.cbrt(np.asarray(to_cones) @ seen_as(colour, vision))


def apart(one: str, other: str, vision: str) -> float:
    return float(np.linalg.norm(oklab(one, vision) - oklab(other, vision)))


def boxes_of(figure) -> list[tuple]:
    """Texts of a figure that are drawn, each with its box, once it is laid out."""
    import matplotlib.text
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    away = {  # labels of ticks outside their axis, which are not drawn
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_text().strip() and text.get_visible() and text not in away
    ]


def beyond(figure) -> list[str]:
    """Texts of a figure that are cut at its edge."""
    page = figure.bbox
    return [
        text
        for text, box in boxes_of(figure)
        if not (page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1)
    ]


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB of a colour (D65) as an eye sees it."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ seen_as(colour, vision)
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 1e-9))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """CIEDE2000 of two colours in CIELAB (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 1.5 - 0.5 * np.sqrt(c7 / (c7 + 25.0**7))
    c1, c2 = np.hypot(a1 * g, b1), np.hypot(a2 * g, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * g)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    dl, dc, dh = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    t = 1 + sum(size * np.cos(np.radians(n * hue + shift)) for size, n, shift in waves)
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    bend = 60 * np.exp(-(((hue - 275) / 25) ** 2))
    rt = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(bend))
    return float(np.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rt * dc / sc * dh / sh))

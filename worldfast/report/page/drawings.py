"""Set-up of a study in three drawings: what is hidden, what a model learns, how it is read."""

from __future__ import annotations

from html import escape

import numpy as np

from worldfast.display import count
from worldfast.report.colours import INK, group_colours
from worldfast.report.page.markup import span
from worldfast.report.words import joined
from worldfast.studies import Scene, StudyResult

WIDE, HIGH = 360, 200  # of each drawing; its text is as large on a phone as on a desktop
DOTS = 700  # at most, of the world's entities


def drawings(result: StudyResult, fitted: str, held: str) -> str:
    """Return three figures as HTML; `fitted` and `held` are how many entities a probe is fitted and tried on."""
    world = result.world
    n, new = count(len(world), world.one, world.many), joined(world.new)
    hidden = f"each with {joined(world.columns)}" if world.columns else "none with a stated attribute"
    world_says = f"A world: {n}, {hidden}. No model ever sees {'these' if len(world.columns) > 1 else 'this'}."
    rows = span([int(run.rows[-1]) for run in result.runs])
    learns = f"What a model learns from: {rows} rows such as this one, and nothing else."
    if new:
        world_says += f" {new} (the diamonds) is left out at first."
        learns += f" Fine-tunes then learn {new}{', ' if world.taught_by else ''}{world.taught_by}."
    reads = (
        f"Its activations at layer {result.cka_layer} are read at every checkpoint: a linear probe, fitted on {fitted} "
        f"{world.many}, says where the other {held} are. The dashed line is its error."
        if world.columns
        else f"Its activations at layer {result.cka_layer} are read at every checkpoint, and compared among models."
    )
    parts = ((_world(world), world_says), (_model(world), learns), (_probe(world), reads))
    return "".join(_figure(k, *part) for k, part in enumerate(parts, 1))


def _figure(number: int, body: str, says: str) -> str:
    return (
        f"<figure><svg viewBox='0 0 {WIDE} {HIGH}' role=img aria-label='{escape(says, quote=True)}'>{body}</svg>"
        f"<figcaption><b>{number}</b> {escape(says)}</figcaption></figure>"
    )


def _world(world: Scene) -> str:
    """Draw some of the entities where they are; without a map, a few of them with what is not told of each."""
    if world.xy is None:
        return _table(world)
    new = np.isin(world.group, list(world.new))
    rest = np.flatnonzero(~new)
    some = rest[:: -(-len(rest) // DOTS)]
    low, spans = world.xy.min(0), np.maximum(np.ptp(world.xy, axis=0), 1e-9)
    scale = np.array([WIDE - 24, HIGH - 24]) / spans
    scale = np.full(2, scale.min()) if world.metric else scale
    shift = (np.array([WIDE, HIGH]) - scale * spans) / 2
    at = shift + scale * (world.xy - low)
    at[:, 1] = HIGH - at[:, 1]
    radius = 1.5 if len(some) > 250 else 3
    colours = group_colours(world)
    paths = []
    for group in colours:
        dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in at[some[world.group[some] == group]])
        if dots:
            paths.append(f"<path d='{dots}' stroke-width={2 * radius} {_stroke(colours[group])}/>")
    if new.any():
        diamonds = "".join(f"M{x:.0f} {y - 3:.0f}l3 3-3 3-3-3z" for x, y in at[new])
        paths.append(f"<path d='{diamonds}' fill='{colours[world.new[0]]}'/>")
    return "".join(paths)


def _stroke(colour: str) -> str:
    return "class='dots ink'" if colour == INK else f"class=dots stroke='{escape(colour, quote=True)}'"


def _table(world: Scene) -> str:
    """Draw the first entities by name, with a box for each attribute that holds a question mark."""
    columns = list(world.columns[:4])
    wide = 200 / max(1, len(columns))
    parts = [_text(150 + wide * (k + 0.5), 26, _cut(name, int(wide / 7)), "muted") for k, name in enumerate(columns)]
    for line, name in enumerate(world.name[:4]):
        y = 44 + 38 * line
        parts.append(_text(12, y + 17, _cut(name, 19), anchor="start"))
        for k in range(len(columns)):
            parts.append(_box(150 + wide * k + 4, y, wide - 8, 26) + _text(150 + wide * (k + 0.5), y + 18, "?"))
    return "".join(parts)


def _model(world: Scene) -> str:
    read, answer = world.example
    lines = [read[i : i + 38] for i in range(0, len(read), 38)][:2]
    parts = [_text(WIDE / 2, 24 + 17 * i, line, "mono") for i, line in enumerate(lines)]
    parts.append(_arrow(WIDE / 2, 52, WIDE / 2, 72))
    parts.append(_box(80, 76, 200, 56, "model") + _text(WIDE / 2, 109, "model"))
    parts.append(_arrow(WIDE / 2, 136, WIDE / 2, 156) + _text(WIDE / 2, 178, _cut(answer, 38), "mono"))
    return "".join(parts)


def _probe(world: Scene) -> str:
    shades = (0.8, 0.2, 0.55, 0.35, 0.9, 0.15, 0.6)
    cells = "".join(
        f"<rect x=24 y={24 + 22 * i} width=26 height=19 rx=3 class=cell style='opacity:{shade}'/>"
        for i, shade in enumerate(shades)
    )
    parts = [cells, _text(37, 194, "activations", anchor="middle")]
    if not world.columns:
        parts.append(_arrow(70, 98, 120, 98) + _text(230, 102, "compared among models"))
        return "".join(parts)
    parts.append(_arrow(62, 98, 116, 98) + _text(90, 86, "probe"))
    if world.xy is None:
        for k, name in enumerate(world.columns[:5]):
            parts.append(_text(130, 40 + 32 * k, _cut(name, 20), anchor="start"))
            parts.append(_box(250, 27 + 32 * k, 90, 18) + _box(250, 27 + 32 * k, 90 * (0.9 - 0.15 * k), 18, "fill"))
        return "".join(parts)
    parts.append(_box(126, 24, 212, 152))
    parts.append("<path class=line d='M190 124L268 74' stroke-dasharray='3 3'/>")
    parts.append("<path class=line d='M186 124h8m-4-4v8'/><circle cx=268 cy=74 r=5 class=accent />")
    parts.append(_text(190, 146, "where it is") + _text(264, 58, "where the probe says"))
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return f"<text x={x:.0f} y={y:.0f} class='{kind}' text-anchor={anchor}>{escape(text)}</text>"


def _box(x: float, y: float, wide: float, high: float, kind: str = "box") -> str:
    return f"<rect x={x:.0f} y={y:.0f} width={wide:.0f} height={high:.0f} rx=5 class={kind} />"


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """Draw an arrow to the right or downward."""
    head = f"M{to_x - 5} {to_y - 4}l5 4-5 4" if to_x > x else f"M{to_x - 4} {to_y - 5}l4 5 4-5"
    return f"<path class=line d='M{x} {y}L{to_x} {to_y}{head}'/>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(1, most - 1)]}…"

"""The seven tasks a second time: an independent statement of every label, in NumPy and in exact arithmetic.

Nothing here is shared with the native core, and the methods differ wherever the mathematics offers a choice
(arc tangents for angles and directions, a separating direction for hulls, the shoelace determinant for
orientation). It doubles as the readable specification of the tasks.

Two versions stand side by side:

- `label(task, xy, count)`   vectorised, for millions of rows; `value` is the number before rounding;
- `exact_label(task, points)` one row in integers and fractions, slow and meant to be obviously right.

Coordinates are integers with |coordinate| <= 2**20, so every product of two coordinate differences is below
2**43 and every sum of a few of them is exact in int64 and in float64. What float64 then leaves open:

- distance: the root of an integer m is never a half-integer h, and |m - h**2| >= 1/4 keeps it
  0.25 / (2 * 3e6) = 4e-8 away, a hundred times the spacing of float64 there. Decided.
- compass: the boundary tan(22.5 deg) = sqrt(2) - 1 has continued fraction [0; 2, 2, 2, ...], so a direction
  with components up to 2**21 stays 1 / (2 sqrt(2) 2**42) = 8e-14 rad away from it. Decided.
- angle, perimeter: never exactly a half-integer (a sum of roots of integers is an algebraic integer; the
  tangent of a rational number of degrees is rational only at multiples of 45), but it may come as close as it
  likes. `near_tie` marks such rows, a few in 10**8 of them.
"""

import math
import re
from fractions import Fraction

import numpy as np

PROMPT = {
    "distance": "dist",
    "trianglearea": "triarea",
    "angle": "angle",
    "compass": "compass",
    "inside": "inside",
    "perimeter": "perimeter",
    "crossing": "cross",
}
TASKS = tuple(PROMPT)
ARITY = {  # fewest and most cities of a row
    "distance": (2, 2),
    "trianglearea": (3, 3),
    "angle": (3, 3),
    "compass": (2, 2),
    "inside": (4, 6),
    "perimeter": (2, 5),
    "crossing": (4, 4),
}
ANSWERS = {
    "compass": ("E", "NE", "N", "NW", "W", "SW", "S", "SE"),
    "inside": ("FALSE", "TRUE"),
    "crossing": ("FALSE", "TRUE"),
}
NUMBERS = tuple(task for task in TASKS if task not in ANSWERS)

PAD, UNK, BOS, EOS = range(4)
# Printable ASCII without the space, digits moved to the end.
CHARACTERS = "".join(sorted(map(chr, range(33, 127)), key=lambda c: (c.isdigit(), c)))
TOKEN = {character: 4 + i for i, character in enumerate(CHARACTERS)}
VOCABULARY = 4 + len(CHARACTERS)


# ------------------------------------------------------------------------------------------ text and tokens


def text(task, ids, label):
    """One row as text: `text("distance", [865, 4879], 769)` is "dist(c_0865,c_4879)=769"."""
    names = [f"c_{i:04d}" for i in ids]
    if task == "inside":
        inner = names[0] + ";" + ",".join(names[1:])
    elif task == "crossing":
        inner = ",".join(names[:2]) + ";" + ",".join(names[2:])
    else:
        inner = ",".join(names)
    return f"{PROMPT[task]}({inner})={answer(task, label)}"


def answer(task, label):
    """The text after '='."""
    return ANSWERS[task][label] if task in ANSWERS else str(int(label))


def parse(task, answer_text):
    """The label an answer stands for, or None where it stands for none."""
    if task in ANSWERS:
        return ANSWERS[task].index(answer_text) if answer_text in ANSWERS[task] else None
    return int(answer_text) if re.fullmatch("[0-9]+", answer_text) else None


def token_ids(row_text, index_of_id=None):
    """Token ids of a row, <bos> and <eos> included.

    Character vocabulary, or entity vocabulary where `index_of_id` (city id -> index in the world) is given.
    """
    ids = [BOS]
    for piece in re.findall(r"c_\d{4}|.", row_text):
        if len(piece) > 1 and index_of_id is not None:
            ids.append(VOCABULARY + index_of_id[int(piece[2:])])
        else:
            ids.extend(TOKEN[c] for c in piece)
    return ids + [EOS]


# -------------------------------------------------------------------------------------- vectorised, float64


def label(task, xy, count=None):
    """Labels of rows of cities.

    task: name; xy: integers [n, k, 2]; count: integers [n], how many of the k cities are the row's (all).
    Returns int64 [n]; a choice is its index in `ANSWERS[task]`.
    """
    return np.rint(value(task, xy, count)).astype(np.int64)  # rint rounds half to even


def value(task, xy, count=None):
    """What `label` rounds, float64 [n]: units of 0.1 degree, their square (trianglearea) or degrees."""
    xy = np.asarray(xy).astype(np.int64)
    count = np.full(len(xy), xy.shape[1]) if count is None else np.asarray(count).astype(np.int64)
    return _VALUE[task](xy, count)


def near_tie(task, values):
    """bool [n]: float64 cannot tell which side of a half-integer the value is on."""
    if task not in ("angle", "perimeter"):
        return np.zeros(len(values), bool)
    tolerance = 1e-9 + 8 * np.spacing(values)
    return np.abs(values - np.floor(values) - 0.5) < tolerance


def cross(u, v):
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def dot(u, v):
    return u[..., 0] * v[..., 0] + u[..., 1] * v[..., 1]


def length(u):
    return np.hypot(u[..., 0], u[..., 1])


def shoelace(p, q, r):
    """Twice the signed area of the triangle pqr, positive where it turns left."""
    return cross(p, q) + cross(q, r) + cross(r, p)


def _distance(xy, count):
    return length(xy[:, 1] - xy[:, 0])


def _trianglearea(xy, count):
    return np.abs(shoelace(xy[:, 0], xy[:, 1], xy[:, 2])) / 2


def _angle(xy, count):
    u, v = xy[:, 0] - xy[:, 1], xy[:, 2] - xy[:, 1]
    return np.degrees(np.arctan2(np.abs(cross(u, v)), dot(u, v)))  # arctan2(0, 0) is 0: an arm without length


def _compass(xy, count):
    d = xy[:, 1] - xy[:, 0]
    degrees = np.degrees(np.arctan2(d[:, 1], d[:, 0]))
    sector = np.floor((degrees + 22.5) / 45) % 8
    return np.where((d == 0).all(-1), ANSWERS["compass"].index("N"), sector)


def _inside(xy, count):
    """The target is outside where all arms to the hull's points lie in an open half-plane.

    That is so where one arm is the first of them counterclockwise: every other one is strictly to its left or
    along it. An arm of length 0 (the target is a point of the hull) is neither, and such a target is inside.
    """
    target, hull = xy[:, 0], xy[:, 1:]
    used = np.arange(hull.shape[1]) < (count - 1)[:, None]  # [n, k]
    hull = np.where(used[..., None], hull, hull[:, :1])  # a repeated point changes no hull
    arms = hull - target[:, None]
    k = hull.shape[1]
    outside = np.zeros(len(xy), bool)
    flat = np.ones(len(xy), bool)
    for i in range(k):
        first = np.ones(len(xy), bool)
        for j in range(k):
            turn = cross(arms[:, i], arms[:, j])
            first &= (turn > 0) | ((turn == 0) & (dot(arms[:, i], arms[:, j]) > 0))
            if 0 < i < j:
                flat &= cross(hull[:, i] - hull[:, 0], hull[:, j] - hull[:, 0]) == 0
        outside |= first
    return (~outside & ~flat).astype(np.float64)


def _perimeter(xy, count):
    n, k, _ = xy.shape
    total = np.zeros(n)
    for i in range(k):
        following = np.where(i + 1 < count, i + 1, 0)  # the last city leads back to the first
        side = length(xy[np.arange(n), following % k] - xy[:, i])
        total += np.where(i < count, side, 0)
    return np.where(count == 2, total / 2, total)  # there and back is one distance


def _crossing(xy, count):
    a, b, c, d = (xy[:, i] for i in range(4))
    return ((_left(a, c, d) != _left(b, c, d)) & (_left(a, b, c) != _left(a, b, d))).astype(np.float64)


def _left(p, q, r):
    return shoelace(p, q, r) > 0


_VALUE = {
    "distance": _distance,
    "trianglearea": _trianglearea,
    "angle": _angle,
    "compass": _compass,
    "inside": _inside,
    "perimeter": _perimeter,
    "crossing": _crossing,
}


# ------------------------------------------------------------------------------------------- exact, one row

DIGITS = 40  # decimals carried where a number is irrational; no row comes that close to a tie
_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459")


def exact_label(task, points):
    """The label of one row of points (pairs of integers), in integers and fractions. Returns an int."""
    return _EXACT[task](*[(int(x), int(y)) for x, y in points])


def _root(m):
    """The root of an integer, to DIGITS decimals (exact where it is an integer)."""
    return Fraction(math.isqrt(m * 10 ** (2 * DIGITS)), 10**DIGITS)


def _exact_side(p, q):
    return _root((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2)


def _exact_turn(p, q, r):
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


def _exact_distance(a, b):
    return round(_exact_side(a, b))  # round() of a Fraction is half to even


def _exact_trianglearea(a, b, c):
    return round(Fraction(abs(_exact_turn(a, b, c)), 2))


def _sine_and_cosine(degrees):
    x = Fraction(degrees) * _PI / 180
    term, sine, cosine = Fraction(1), Fraction(0), Fraction(0)
    for power in range(60):  # pi**60 / 60! < 1e-51
        if power % 2:
            sine += term if power % 4 == 1 else -term
        else:
            cosine += term if power % 4 == 0 else -term
        term = round(term * x / (power + 1) * 10**60) / Fraction(10**60)
    return sine, cosine


_HALF_DEGREES = [_sine_and_cosine(Fraction(2 * h + 1, 2)) for h in range(180)]


def _exact_angle(a, b, c):
    """How many of 0.5, 1.5, ... 179.5 degrees the angle exceeds: theta where sin(angle - theta) > 0."""
    u, v = (a[0] - b[0], a[1] - b[1]), (c[0] - b[0], c[1] - b[1])
    if u == (0, 0) or v == (0, 0):
        return 0
    sine, cosine = abs(u[0] * v[1] - u[1] * v[0]), u[0] * v[0] + u[1] * v[1]
    return sum(sine * cos - cosine * sin > 0 for sin, cos in _HALF_DEGREES)


def _exact_compass(a, b):
    """The compass point whose unit vector has the largest projection."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    if (dx, dy) == (0, 0):
        return 2
    diagonal = _root(2) / 2
    points = [
        (1, 0),
        (diagonal, diagonal),
        (0, 1),
        (-diagonal, diagonal),
        (-1, 0),
        (-diagonal, -diagonal),
        (0, -1),
        (diagonal, -diagonal),
    ]
    along = [dx * x + dy * y for x, y in points]
    return along.index(max(along))


def exact_hull(points):
    """Corners of the convex hull, counterclockwise, fewer than 3 where it is flat (monotone chains)."""
    points = sorted(set(points))
    chains = []
    for ordered in (points, points[::-1]):
        chain = []
        for p in ordered:
            while len(chain) > 1 and _exact_turn(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        chains += chain[:-1]
    return chains


def _exact_inside(target, *hull):
    corners = exact_hull(hull)
    edges = zip(corners, corners[1:] + corners[:1])
    return int(len(corners) > 2 and all(_exact_turn(p, q, target) >= 0 for p, q in edges))


def _exact_perimeter(*points):
    sides = zip(points, points[1:] + points[:1]) if len(points) > 2 else [points]
    return round(sum(_exact_side(p, q) for p, q in sides))


def _exact_crossing(a, b, c, d):
    def ccw(p, q, r):
        return (r[1] - p[1]) * (q[0] - p[0]) > (q[1] - p[1]) * (r[0] - p[0])

    return int(ccw(a, c, d) != ccw(b, c, d) and ccw(a, b, c) != ccw(a, b, d))


_EXACT = {
    "distance": _exact_distance,
    "trianglearea": _exact_trianglearea,
    "angle": _exact_angle,
    "compass": _exact_compass,
    "inside": _exact_inside,
    "perimeter": _exact_perimeter,
    "crossing": _exact_crossing,
}


def tenths(text: str) -> int:
    """Half to even in exact fractions, an independent reading of a decimal text."""
    below, rest = divmod(10 * Fraction(text), 1)
    return int(below + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2)))
